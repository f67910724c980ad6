"""What every configuration of a sweep makes of the same lesions, in one picture, with the truth where there are twins.

    python benchmarks/pseudo_healthy_picture.py SWEEP OUT.png [--workspace DIR] [--subjects 3]

A row a validation patient: the slice with most of the lesion, its twin without, what the trivial rules make of it, and
the pseudo-healthy slice of each configuration, of the training with the first seed. Trains nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from ganatomy.contracts import InputError
from ganatomy.core.terminal import guarded
from ganatomy.evidence.configurations import names_of, relevant
from ganatomy.evidence.panels import Column, sheet, write_png
from ganatomy.evidence.results import read_plan, read_results, sweep_directory
from ganatomy.experiment import SYNTHETIC_ARMS, TrialResult
from ganatomy.measures.synthesis.pathology import PseudoHealthyCase
from ganatomy.measures.synthesis.trivial import TRIVIAL
from ganatomy.stages.measuring.healing import healed
from ganatomy.stages.stages import Stages


def made_by(trial: TrialResult, workspace: Path, store: Path) -> dict[str, PseudoHealthyCase]:
    """Subject -> what the trial's method made of it."""
    stages = Stages(workspace, store, trial.experiment, may_train=False)
    made = healed(stages.method(stages.fit()), trial.experiment, stages.store, "val", stages.device())
    return {record.subject: case for (record, _), case in made.items()}


def columns_of(first: PseudoHealthyCase, others: dict[str, PseudoHealthyCase]) -> list[Column]:
    """One patient's row."""
    at = int(np.argmax((first.lesion > 0).sum(axis=(1, 2))))
    cut = slice(at, at + 1)
    columns = [Column("real", first.source[cut], (first.lesion[cut] > 0).astype(np.uint8))]
    if first.twin is not None:
        columns.append(Column("without the lesion", first.twin[cut]))
    columns += [Column(name, rule(first.source[cut])) for name, rule in TRIVIAL.items() if name != "unchanged"]
    return columns + [Column(name, case.made[cut]) for name, case in others.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep")
    parser.add_argument("out", type=Path)
    parser.add_argument("--workspace", type=Path, default=Path("workspace/paper-tables"))
    parser.add_argument("--subjects", type=int, default=3)
    options = parser.parse_args()
    workspace = options.workspace.absolute()

    def run() -> int:
        plan = read_plan(sweep_directory(workspace, options.sweep))
        trials = [one for one in read_results(sweep_directory(workspace, plan.name)) if one.status == "finished"]
        names, found = names_of([trial.experiment for trial in trials]), {}
        for trial in trials:
            experiment = trial.experiment
            lesion = any(experiment.state(role) == "lesion" for role in experiment.method_class().roles)
            if experiment.arm in SYNTHETIC_ARMS and lesion and experiment.seed == min(plan.seeds):
                found[names[relevant(experiment).configuration()][0]] = made_by(trial, workspace, Path(plan.store))
        if not found:
            raise InputError(f"sweep {plan.name} holds nothing that takes lesions out", expected="pseudo_healthy, say")
        some = next(iter(found.values()))
        rows = {
            subject: columns_of(case, {name: made[subject] for name, made in found.items()})
            for subject, case in list(some.items())[: options.subjects]
        }
        print(write_png(options.out, sheet(rows, {1: "lesion"})))
        return 0

    return guarded(run, workspace=workspace, debug=False)


if __name__ == "__main__":
    sys.exit(main())
