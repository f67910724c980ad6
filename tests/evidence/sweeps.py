"""Sweeps with known answers, as what their trials left."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import numpy as np

from ganatomy.experiment import Experiment, Score, TrialResult

BASE = Experiment("cohort", {"A": "ct", "B": "mr"})
DIFFICULTY = np.linspace(0.4, 0.8, 12)


def experiment(**values):
    return BASE.with_values({name.replace("__", "."): value for name, value in values.items()})


def trial(name, made, lift=0.0, patients=12, noise=0.005, **more):
    rng = np.random.default_rng(sum(map(ord, name)))
    scores = []
    for index in range(patients):
        value = float(np.clip(DIFFICULTY[index % 12] + lift + noise * rng.normal(), 0, 1))
        scores += [
            Score(f"s{index}", f"p{index}", "dice", "lv", value), Score(f"s{index}", f"p{index}", "dice", "rv", value),
            Score(f"s{index}", f"p{index}", "hd95", "lv", 10 * (1 - value)),
        ]  # fmt: skip
    given = {"status": "finished", "scores": tuple(scores), "device_seconds": 100.0, **more}
    return TrialResult(name, made, **given)


STRONG = {"downstream__augmentation": "strong"}


def sweep(patients=12, seeds=(0, 1, 2)):
    results = []
    for seed in seeds:
        results += [
            trial(f"r{seed}", experiment(arm="real", seed=seed), patients=patients),
            trial(f"c{seed}", experiment(arm="real", **STRONG, seed=seed), 0.03, patients=patients),
            trial(f"o{seed}", experiment(arm="offline", mixing__ratio=0.5, seed=seed), 0.03, patients=patients),
            trial(f"j{seed}", experiment(arm="joint", mixing__ratio=0.5, seed=seed), 0.1, patients=patients,
                  summary={"synthesis/s_score/mr": 0.8 + 0.1 * seed, "synthesis/s_score/ct": 0.7,
                           "synthesis/s_score_reference/ct": 0.95}),
            trial(f"k{seed}", experiment(arm="joint", mixing__ratio=2.0, seed=seed), -0.05, patients=patients),
        ]  # fmt: skip
    return results


LOST = [
    TrialResult("x1", experiment(arm="joint", seed=7), "failed", "out of memory\nat line 3"),
    TrialResult("x2", experiment(arm="offline", seed=7), "pruned"),
]


@contextmanager
def driven(workspace, name):
    """Another process has the sweep, as its driver would."""
    program = (
        "import sys; from pathlib import Path; from ganatomy.cohorts.claims import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('here', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(workspace / "sweeps" / name)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        yield process
        process.stdin.close()
