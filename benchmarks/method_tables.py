"""The table and the pictures of a method's page, on a phantom: every listed point of the method's space, all seeds.

    python benchmarks/method_tables.py paired_translation [--seeds 0 1 2] [--workspace DIR] [--out docs]

Minutes on one core, in this process alone. The same command goes on where an earlier one was interrupted. Sizes are as
small as show something; with `--set budget.generator_steps=20 …` it is another table than the page's, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ganatomy.cohorts.cohort import Cohort
from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.experiment import TrialResult
from ganatomy.phantoms.brains import make_brain_cohort
from ganatomy.reports.tabulated import brief

NARROW = ("downstream.network.width=8", "downstream.augmentation=light", "downstream.learning_rate=1e-3",
          "sampling.size=[48,48]", "budget.segmentor_steps=300", "budget.validations=2", "budget.batch=4",
          "training.precision=fp32", "method.width=0.25", "mixing.pretrain=0")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """phantom: writes its cohort to a new folder.  settings: of the space.  source, target: domains, where the cohort
    does not say them."""

    phantom: Callable[..., Cohort]
    settings: tuple[str, ...]
    source: str = ""
    target: str = ""


CASES = {
    "paired_translation": Case(
        partial(make_brain_cohort, shape=(6, 48, 48), patients=(12, 12, 0), contrasts=("t1", "flair")),
        (*NARROW, "budget.generator_steps=600", "method.learning_rate=1e-3", "method.discriminator_layers=2",
         "labels.fraction=0.25", "labels.gan_sees=all"),
        "t1", "flair",
    ),
    "diffusion": Case(
        partial(make_brain_cohort, shape=(4, 32, 32), patients=(8, 8, 0), contrasts=("flair",)),
        (*NARROW, "sampling.size=[32,32]", "budget.generator_steps=400", "budget.segmentor_steps=150",
         "method.width=0.125", "method.residual_blocks=1", "method.learning_rate=1e-3", "training.ema=0.98",
         "drawing.at_least=1"),
    ),
}  # fmt: skip


def trials(
    name: str, workspace: Path, settings: Sequence[str], seeds: Sequence[int] = ()
) -> tuple[list[TrialResult], set[str]]:
    """What every listed point came to under every seed (the space's own by default), and the configurations that are
    compared."""
    import torch

    from ganatomy.cohorts.reading import read_cohort
    from ganatomy.cohorts.roles import cast_roles
    from ganatomy.evidence.configurations import declared_family
    from ganatomy.search_space import load_space, parse_settings
    from ganatomy.stages.outcome import outcome_of
    from ganatomy.stages.stages import Stages
    from ganatomy.stores.preparation import prepare

    torch.set_num_threads(1)
    case, folder = CASES[name], workspace / f"phantom-{name}"
    if not (folder / "cohort.yaml").exists():
        case.phantom(folder, name=f"phantom-{name}")
    cohort, space, fixed = read_cohort(folder), load_space(name), parse_settings((*case.settings, *settings))
    space = replace(space, base=cast_roles(space.base, cohort, (), case.source, case.target))
    listed, store = space.listed(fixed, seeds or space.seeds), prepare(cohort, workspace / "stores")
    results = []
    for number, point in enumerate(listed):
        experiment = space.experiment(point, fixed).validate()
        came_to = outcome_of(Stages(workspace, store.path, experiment))
        results.append(TrialResult(str(number), experiment, "finished", "", came_to.keys, came_to.scores,
                                   came_to.summary, came_to.device_seconds))  # fmt: skip
        print(f"{number + 1} of {len(listed)}", flush=True)
    return results, set(declared_family(space, fixed, listed))


def page_table(table: Ablation, results: Sequence[TrialResult], workspace: Path) -> str:
    """The rows of the report, and of each what its generator and its images took: device seconds, a training."""
    rows = brief(table)
    for row, shown in zip(table.rows, rows, strict=True):
        own = [trial for trial in results if table.name_of(trial.experiment) == row.name]
        for header, kind in (("fit s", "fit"), ("synthesis s", "synthesise")):
            spent = [seconds(workspace, kind, trial.stages[kind]) for trial in own if kind in trial.stages]
            shown[header] = f"{sum(spent) / len(spent):.1f}" if spent else "–"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def seconds(workspace: Path, kind: str, key: str) -> float:
    """Device seconds of a stage."""
    return float(json.loads((workspace / "stages" / kind / key / "stage.json").read_text())["device_seconds"])


def pictures(name: str, results: Sequence[TrialResult], workspace: Path, out: Path) -> list[Path]:
    """Copies of the last picture of each configuration's first generator, as ``name-1.png``, ``name-2.png`` … in the
    order of the space's points."""
    first = min(trial.experiment.seed for trial in results)
    fits = [trial.stages["fit"] for trial in results if trial.experiment.seed == first and "fit" in trial.stages]
    copies = [out / f"{name}-{number}.png" for number in range(1, len(fits) + 1)]
    for key, copy in zip(fits, copies, strict=True):
        shutil.copyfile(max((workspace / "stages" / "fit" / key / "panels").glob("*.png")), copy)
    return copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(CASES))
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", action="extend", default=[])
    parser.add_argument("--workspace", type=Path, default=Path("workspace/method-tables"))
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    workspace = options.workspace.absolute()
    results, declared = trials(options.method, workspace, options.set, options.seeds)
    table = ablation_table(results, declared=declared)
    if options.set:
        print(f"Not the page's own: with {', '.join(options.set)}.")
    print(f"\n{page_table(table, results, workspace)}\n\n{table.conclusion}")
    for picture in pictures(options.method, results, workspace, options.out) if options.out else ():
        print(picture)


if __name__ == "__main__":
    main()
