"""What each arm's downstream model sees, in an update and over a run: the table of docs/arms.md, made from the code.

python benchmarks/arms_seen.py
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ganatomy.experiment import Experiment
from ganatomy.stages.outcome import samples_seen
from ganatomy.training.tasks import phases_of
from ganatomy_search_spaces.cai2019_table4 import FULL_BASE
from ganatomy_search_spaces.phantom_demo import BASE as DEMO

CASES: Mapping[str, tuple[Experiment, Mapping[str, Any]]] = {
    "demo": (DEMO, {"mixing.ratio": 1.0}),
    "demo, ratio 2": (DEMO, {"mixing.ratio": 2.0}),
    "demo, batch 1": (DEMO, {"mixing.ratio": 1.0, "budget.batch": 1}),
    "`cai2019_table4 --full`": (FULL_BASE, {}),
    "the same, `equal`": (FULL_BASE, {"mixing.composition": "equal"}),
    "demo, no labels of the target": (DEMO, {"mixing.ratio": 1.0, "labels.fraction": 0.0}),
}
HEADERS = ("study", "arm", "updates", "real", "synthetic", "in four updates at the end: real + synthetic")


def rows() -> list[tuple[str, ...]]:
    """A row a study and arm."""
    made = []
    for study, (base, values) in CASES.items():
        for arm in ("source" if values.get("labels.fraction") == 0 else "real", "offline", "joint"):
            experiment = replace(base, domains={"A": "ct", "B": "mr"}).with_values({**values, "arm": arm})
            steps = experiment.budget.segmentor_steps
            if arm == "joint":
                steps = sum(phase.steps for phase in phases_of(experiment, 3))
            whole = samples_seen(experiment, 3, steps)
            seen = [samples_seen(experiment, 3, step)[1:] for step in range(steps - 4, steps + 1)]
            last = ", ".join(f"{b[0] - a[0]} + {b[1] - a[1]}" for a, b in itertools.pairwise(seen))
            made.append((study, f"`{arm}`", *(f"{number:,}" for number in whole), last))
    return made


def table() -> str:
    """As Markdown."""
    lines = [HEADERS, tuple("---" for _ in HEADERS), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())
