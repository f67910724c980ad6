"""How much does one training differ from the next, and by what would it differ less at equal work?

The real arm of the demo's space, on its phantom: two labelled MR patients of 24. First trainings with the same two
patients, then each with two of its own, as sweeps draw them; then the same with what is said to make trainings alike.
Prints for each the mean over trainings of the mean Dice over validation and test patients, the standard deviation
between trainings, and its 95 % interval (chi-squared).

    python benchmarks/bench_luck.py [--trainings 8] [--workspace DIR] [--processes 2] [--only NAME ...]

Goes on where it was interrupted: what was trained is kept in the workspace.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ganatomy.measures.segmentation import patient_scores

SAME = {"labels.drawn": "once"}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "the demo's, of the same patients": SAME,
    "the demo's, each of its own patients": {"labels.drawn": "each"},
    "average of weights, decay 0.99": {**SAME, "downstream.average": 0.99},
    "Dice beside cross-entropy": {**SAME, "downstream.loss": "dice_cross_entropy"},
    "three times the learning rate": {**SAME, "downstream.learning_rate": 3e-3},
    "Dice, three times the rate": {
        **SAME, "downstream.loss": "dice_cross_entropy", "downstream.learning_rate": 3e-3,
    },
    "batches of 4, half the updates": {**SAME, "budget.batch": 4, "budget.segmentor_steps": 350},
    "gradients clipped at 1": {**SAME, "training.clip_norm": 1.0},
}  # fmt: skip
"""Name -> settings. All have the same work: samples seen by the model."""


def cohort_store(workspace: Path) -> Path:
    """The demo's phantom, prepared; made once."""
    from ganatomy.cohorts.reading import read_cohort
    from ganatomy.commands.demo import PATIENTS, SHAPE
    from ganatomy.phantoms.hearts import make_cohort
    from ganatomy.stores.preparation import prepare

    folder = workspace / "phantom"
    if not (folder / "cohort.yaml").exists():
        make_cohort(folder, patients=PATIENTS, shape=SHAPE, name="phantom")
    return prepare(read_cohort(folder), workspace / "stores").path


def trained(workspace: Path, store: Path, values: Mapping[str, Any], seed: int) -> float:
    """Mean Dice over validation and test patients of one training of the real arm."""
    import torch

    from ganatomy.stages.stages import Stages
    from ganatomy_search_spaces.phantom_demo import BASE

    torch.set_num_threads(1)
    base = replace(BASE, cohort="phantom", domains={"A": "ct", "B": "mr"}, target="B", arm="real", seed=seed)
    stages = Stages(workspace, store, base.with_values({"budget.validations": 1, **values}))
    rows = [row for split in ("val", "test") for row in stages.scores(split)]
    return fmean(patient_scores(rows, "dice").values())


def spread(values: Sequence[float]) -> str:
    """``3.2 [2.1, 6.5]`` points."""
    from scipy.stats import chi2

    sd, free = 100 * stdev(values), len(values) - 1
    low, high = (sd * math.sqrt(free / chi2.ppf(p, free)) for p in (0.975, 0.025))
    return f"{sd:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=8)
    parser.add_argument("--workspace", type=Path, default=Path("workspace/luck"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", action="extend", choices=[*VARIANTS], metavar="NAME")
    options = parser.parse_args()
    workspace, began = options.workspace.absolute(), time.perf_counter()
    store, names = cohort_store(workspace), options.only or [*VARIANTS]
    runs = list(product(names, range(options.trainings)))
    found: dict[str, list[float]] = {name: [] for name in names}
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = [(name, pool.submit(trained, workspace, store, VARIANTS[name], seed)) for name, seed in runs]
        for done, (name, job) in enumerate(jobs, start=1):
            found[name].append(job.result())
            elapsed = time.perf_counter() - began
            left = elapsed / done * (len(runs) - done)
            print(f"[{elapsed:.0f} s] {done}/{len(runs)} trainings, about {left:.0f} s to go", flush=True)
    print(f"\n{options.trainings} trainings each, {platform.machine()}, {os.cpu_count()} cores\n")
    print("| trainings | Dice | SD of one, in points | all |\n|---|---|---|---|")
    for name, several in found.items():
        print(f"| {name} | {fmean(several):.3f} | {spread(several)} | {' '.join(f'{one:.2f}' for one in several)} |")


if __name__ == "__main__":
    main()
