"""Does the shape-consistency loss keep anatomy in place where the discriminator rewards distortion?

A phantom whose MR hearts are a quarter larger than its CT hearts, and shifted (`pose_gap` 0.25): enlarging the heart in
translation then fools the discriminator, and cycle consistency does not notice (Cai et al. 2019, section 3.3). The
S-score does: an independent segmentor, trained on real images, must find a synthetic image's structures where the label
it carries says they are. Prints a table of S-scores with shape weight 0 and 1 over several seeds, and what they show of
patients and trainings, crossed.

    python benchmarks/bench_pose_gap.py [--seeds 0 1 2] [--workspace DIR] [--processes 2] [--set NAME=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ganatomy.downstream.task import judged_alike
from ganatomy.experiment import Score
from ganatomy.measures.segmentation import mean_over_patients, patient_scores
from ganatomy.measures.verdicts import Finding, compare

DOMAINS = ("ct", "mr")
POSE_GAP = 0.25
PATIENTS = {"ct": (24, 8, 0), "mr": (24, 8, 0)}
SETTINGS = {
    "labels.fraction": 1.0,
    "budget.segmentor_steps": 1000,
    "budget.generator_steps": 1200,
    "budget.validations": 2,
}


def cohort_store(workspace: Path) -> Path:
    """The prepared phantom, made once."""
    from ganatomy.cohorts.reading import read_cohort
    from ganatomy.phantoms.hearts import make_cohort
    from ganatomy.stores.preparation import prepare

    folder = workspace / "phantom"
    if not (folder / "cohort.yaml").exists():
        make_cohort(folder, patients=PATIENTS, shape=(8, 48, 48), pose_gap=POSE_GAP, name="pose-gap")
    return prepare(read_cohort(folder), workspace / "stores").path


def s_scores(workspace: Path, store: Path, settings: dict[str, str], weight: float, seed: int) -> list[Score]:
    """Rows of the S-score of one generator on validation patients. Everything it needs is kept in the workspace."""
    import torch

    from ganatomy.stages import outcome
    from ganatomy.stages.stages import Stages
    from ganatomy_search_spaces.phantom_demo import BASE

    torch.set_num_threads(1)
    values = {**SETTINGS, **settings, "method.shape_weight": weight, "seed": seed}
    experiment = replace(BASE, cohort="pose-gap", domains={"A": "ct", "B": "mr"}).with_values(values)
    return outcome.s_scores(Stages(workspace, store, experiment), "val")


def main() -> None:
    from ganatomy.search_space import parse_settings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", action="extend")
    parser.add_argument("--workspace", type=Path, default=Path("workspace/pose-gap"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="NAME=VALUE", help="e.g. budget.segmentor_steps=4000"
    )
    options = parser.parse_args()
    options.seeds = options.seeds or [0, 1, 2]
    given = parse_settings(options.set)
    workspace, began = options.workspace.absolute(), time.perf_counter()
    store = cohort_store(workspace)
    runs = list(product(options.seeds, (0.0, 1.0)))
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {(seed, weight): pool.submit(s_scores, workspace, store, given, weight, seed) for seed, weight in runs}
        scores = {}
        for done, (run, job) in enumerate(jobs.items(), start=1):
            scores[run] = job.result()
            elapsed = time.perf_counter() - began
            print(f"[{elapsed:.0f} s] {done}/{len(runs)} runs, about {elapsed / done * (len(runs) - done):.0f} s to go")
    print(f"\nS-score with shape weight 0 -> 1, pose_gap {POSE_GAP}, {platform.machine()}, {os.cpu_count()} cores\n")
    print("| seed | CT (real: reference) | MR (real: reference) |\n|---|---|---|")
    means = {run: mean_over_patients(rows) for run, rows in scores.items()}
    for seed in options.seeds:
        print(f"| {seed} | " + " | ".join(cell(means, seed, domain) for domain in DOMAINS) + " |")
    print()
    for domain, finding in judged(scores, options.seeds).items():
        print(f"{domain.upper()}: {finding.sentence}")
    rows = [{"seed": seed, "shape_weight": weight, **values} for (seed, weight), values in means.items()]
    (workspace / "s_scores.json").write_text(json.dumps(rows, indent=1))


def judged(scores: Mapping[tuple[int, float], Sequence[Score]], seeds: Sequence[int]) -> dict[str, Finding]:
    """Weight 1 against weight 0, by domain, both together: S-scores are of Dice, so that points are those of Dice."""
    found = {}
    for domain in DOMAINS:
        sides = [[patient_scores(scores[seed, weight], f"synthesis/s_score/{domain}") for seed in seeds]
                 for weight in (1.0, 0.0)]  # fmt: skip
        found[domain] = compare(*judged_alike(sides, "S-score"), alpha=0.025 / len(DOMAINS))
    return found


def cell(means: Mapping[tuple[int, float], Mapping[str, float]], seed: int, domain: str) -> str:
    """One domain of one seed: without, with, and what the judge reaches on real images."""
    first, second = (means[seed, weight][f"synthesis/s_score/{domain}"] for weight in (0.0, 1.0))
    return f"{first:.3f} -> {second:.3f} ({means[seed, 1.0][f'synthesis/s_score_reference/{domain}']:.3f})"


if __name__ == "__main__":
    main()
