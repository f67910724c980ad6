"""From how synthetic images match training images to which are copies, beside the closeness that ``gate`` judges.

Both measures are judged against images that cannot be copies: real ones of patients whom the generator never saw, by
the same measure, to the same training images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganatomy.images.copies import Match
from ganatomy.measures.statistics import group_medians, rank_test

LEAST = 0.1
"""How far an image must stand out at least."""

BEYOND = {2: 1.5, 3: 1.0}
"""How many times as far as chance takes real slices or volumes a copy stands out. Slices that were blurred go up to 1.2
times as far, and so does a patient of rare build; volumes do not (`docs/memorisation.md`)."""

SPREAD = 0.06
"""Least standard deviation that roots of real images' figures are taken to have, however even a few of them are."""

STRONGER = 2.0
"""A set repeats training images where it usually stands out so many times as far as real images, and no chance."""

NEAR_OWN, CLOSER_OWN = 0.2, 0.8
"""Part of a held-out patient's usual distance to the own target: below the first a copy, below the second closer."""

Figures = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Resemblance:
    """How images match training images, by ``images.copies``: synthetic ones, and real ones of held-out patients.

    *_patients: whose each is.  names: of the training images, by their places.
    spare: how training images match those of other patients, which tells how far chance goes where few were held out.
    axes: 2 for slices, 3 for volumes.
    """

    synthetic: Sequence[Match]
    synthetic_patients: Sequence[str]
    real: Sequence[Match]
    real_patients: Sequence[str]
    names: Sequence[str] = ()
    spare: Sequence[Match] = ()
    axes: int = 2

    def limit(self, level: float) -> float:
        """How far an image must stand out to be a copy: honest sets have any such in ``level`` of all cases.

        By Student's distribution of the next of as many normal roots as there are honest images (Bonferroni).
        """
        chance, made = np.sqrt(_known([*self.real, *self.spare])), _known(self.synthetic)
        if len(chance) < 3 or not len(made):
            return math.inf
        from scipy import stats

        spread = max(float(chance.std(ddof=1)), SPREAD) * math.sqrt(1 + 1 / len(chance))
        root = float(chance.mean()) + float(stats.t.isf(level / len(made), len(chance) - 1)) * spread
        return max(LEAST, BEYOND[self.axes] * root**2)

    def copies(self, level: float) -> NDArray[np.bool_]:
        """Which synthetic images are."""
        limit = self.limit(level)
        return np.array([match.standing_out > limit for match in self.synthetic], bool)  # NaN is no more than anything

    def repeats(self, level: float) -> bool:
        """Whether the set as a whole does: farther by much than real images, by a rank test over patients."""
        made, between = self._medians()
        if not len(made) or not len(between):
            return False
        return float(np.median(made)) > STRONGER * float(np.median(between)) and rank_test(-made, -between) < level

    @property
    def best(self) -> str:
        """The training image that a synthetic one looks most like, and what was done to it."""
        match = self._best()
        return f"{self._name(match) or 'one'} ({match.how})"

    def figures(self, level: float) -> Figures:
        """What the gate writes down of it: the best match, how far it stands out, and from where on it is a copy."""
        made, between = self._medians()
        if not len(made) or not len(between):
            return {}
        best = self._best()
        return {
            "searched": len(_known(self.synthetic)), "best_match": self._name(best), "best_match_how": best.how,
            "best_match_agreement": best.agreement, "stands_out": best.standing_out,
            "stands_out_limit": self.limit(level),
            "stands_out_median": float(np.median(made)), "stands_out_real": float(np.median(between)),
            "stands_out_p": rank_test(-made, -between),
        }  # fmt: skip

    def _best(self) -> Match:
        return max(self.synthetic, key=lambda match: np.nan_to_num(match.standing_out, nan=-1))

    def _name(self, match: Match) -> str:
        return self.names[match.reference] if 0 <= match.reference < len(self.names) else ""

    def _medians(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        made, between = ([match.standing_out for match in some] for some in (self.synthetic, self.real))
        return group_medians(made, self.synthetic_patients), group_medians(between, self.real_patients)


@dataclass(frozen=True)
class Own:
    """Registered cohorts: distances of synthetic images to the same patient's own target, where the generator was
    trained on it and where it was not. NaN where a patient has none."""

    trained: NDArray[np.float64]
    trained_patients: Sequence[str]
    held_out: NDArray[np.float64]
    held_out_patients: Sequence[str]

    def copies(self) -> NDArray[np.bool_]:
        """Which synthetic images are their own patient's target over again."""
        _, usual = self._medians()
        return self.trained <= NEAR_OWN * float(np.median(usual)) if len(usual) else np.zeros(len(self.trained), bool)

    def closer(self, level: float) -> bool:
        """Whether trained patients' are nearer as a whole, by a rank test over patients and by far."""
        taught, usual = self._medians()
        if not len(taught) or not len(usual):
            return False
        return float(np.median(taught)) < CLOSER_OWN * float(np.median(usual)) and rank_test(taught, usual) < level

    def figures(self) -> Figures:
        """What the gate writes down of it."""
        taught, usual = self._medians()
        if not len(taught) or not len(usual):
            return {}
        ratio = float(np.median(taught)) / float(np.median(usual)) if np.median(usual) else None
        return {"own_patients": len(taught), "own_held_out": len(usual), "own_ratio": ratio,
                "own_p": rank_test(taught, usual)}  # fmt: skip

    def _medians(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (
            group_medians(self.trained, self.trained_patients),
            group_medians(self.held_out, self.held_out_patients),
        )


def _known(matches: Sequence[Match]) -> NDArray[np.float64]:
    values = np.array([match.standing_out for match in matches], np.float64)
    return values[~np.isnan(values)]
