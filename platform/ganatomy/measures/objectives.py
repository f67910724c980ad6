"""What a sweep can look for besides utility, and which of several configurations no other beats in all of it.

What is picked and judged is so by utility alone: the others say what it is had at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest

UTILITY, COST, FIDELITY = "utility", "cost", "fidelity"


@dataclass(frozen=True)
class Objective:
    """A number that a configuration has. says: what it is, to a reader.  greater: whether more of it is better."""

    says: str
    greater: bool = True


OBJECTIVES: Mapping[str, Objective] = {
    UTILITY: Objective("the score of the downstream model on validation patients"),
    COST: Objective("device seconds, shared stages included", greater=False),
    FIDELITY: Objective("healthiness times identity of pseudo-healthy images, else the mean S-score of the domains"),
}


def check_objectives(names: Sequence[str], scheduler: str, *, segments: bool) -> None:
    """InputError for objectives that a sweep cannot have: unknown ones, the same twice, none of utility, several beside
    a scheduler that stops trials by one, fidelity where the task does not segment. None at all are utility alone."""
    said = f"--objectives {' '.join(names)}"
    for name in names:
        if name not in OBJECTIVES:
            raise InputError(f"--objectives {name}", expected=nearest(name, tuple(OBJECTIVES)))
    if len(set(names)) < len(names):
        raise InputError(f"{said}: one of them twice", expected="each once")
    if names and UTILITY not in names:
        raise InputError(said, expected="utility among them: it is what a sweep picks by, and what is judged")
    if len(names) > 1 and scheduler == "asha":
        raise InputError(f"{said} with --scheduler asha", expected="one objective: ASHA stops trials by one number, "
                         "and what they cost and made is known at their end", remedy="--scheduler none")  # fmt: skip
    if FIDELITY in names and not segments:
        raise InputError(f"{said} of a task that does not segment", expected="utility, cost: fidelity is measured by "
                         "segmentors", remedy="leave fidelity out")  # fmt: skip


def fidelity(measured: Mapping[str, float]) -> float:
    """How true synthetic images are, in [0, 1], from what was ``measured`` of them, by its name in a trial's summary
    (``synthesis/…``). NaN where nothing was.

    Where healthiness and identity are measured, their product: neither says anything without the other. Else the mean
    of the domains' S-scores.
    """
    healed = [measured.get(f"synthesis/{name}", math.nan) for name in ("healthiness", "identity")]
    if all(map(math.isfinite, healed)):
        return max(0.0, healed[0]) * max(0.0, healed[1])
    scores = [value for name, value in measured.items() if name.startswith("synthesis/s_score/")]
    return math.fsum(scores) / len(scores) if scores else math.nan


def unbeaten(points: Sequence[Mapping[str, float]]) -> list[bool]:
    """Of each point (objective -> value, the same objectives in all), whether it is in the Pareto set: no other is as
    good in all objectives and better in one. A value that is no number counts as the worst."""
    ranks = [tuple(_upwards(name, point[name]) for name in OBJECTIVES if name in point) for point in points]
    if any(point.keys() != other.keys() for point, other in pairwise(points)):
        raise ValueError("points of different objectives")
    front: list[tuple[float, ...]] = []
    for own in sorted(set(ranks), reverse=True):  # whoever beats it comes before, and is in the front or beaten there
        if not any(_beats(other, own) for other in front):
            front.append(own)
    inside = set(front)
    return [own in inside for own in ranks]


def _upwards(name: str, value: float) -> float:
    if math.isnan(value):
        return -math.inf
    return value if OBJECTIVES[name].greater else -value


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other))
