"""From how much synthetic images resemble training images to which are copies, beside the closeness of ``gate``.

Both measures are judged against real images that cannot be copies: the same measure, to the same training images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganatomy.measures.statistics import Values, group_medians, rank_test

LEAST = 0.02
"""Added to a resemblance before its logarithm is taken: no more than noise."""

SPREAD = 0.25
"""Least standard deviation that logarithms of real images' resemblances are taken to have, however even a few are."""

STRONGER = 1.25
"""A set repeats training images where its usual resemblance is so many times that of real ones, and no chance."""

NEAR_OWN, CLOSER_OWN = 0.2, 0.8
"""Part of a held-out patient's usual distance to the own target: below the first a copy, below the second closer."""


@dataclass(frozen=True)
class Resemblance:
    """By ``measures.copies``: of synthetic images, and of real ones of held-out patients, to the training images.

    spare: of training images to those of other patients, which tell how far chance goes where held-out ones are few.
    """

    synthetic: NDArray[np.float64]
    synthetic_patients: Sequence[str]
    real: NDArray[np.float64]
    real_patients: Sequence[str]
    spare: NDArray[np.float64]

    def copies(self, level: float) -> NDArray[np.bool_]:
        """Which synthetic images stand out: honest sets have any in ``level`` of all cases (Bonferroni).

        By Student's distribution of the next of as many normal logarithms as there are real images.
        """
        chance = _logarithms([*self.real, *self.spare])
        made = _logarithms(self.synthetic)
        if len(chance) < 3 or not len(made):
            return np.zeros(len(made), bool)
        from scipy import stats

        spread = max(float(chance.std(ddof=1)), SPREAD) * math.sqrt(1 + 1 / len(chance))
        limit = float(stats.t.isf(level / len(made), len(chance) - 1))
        return made > float(chance.mean()) + limit * spread

    def repeats(self, level: float) -> bool:
        """Whether the set as a whole does: stronger by far than real images, by a rank test over patients."""
        made, between = self._medians()
        if not len(made) or not len(between):
            return False
        stronger = float(np.median(made)) > STRONGER * float(np.median(between)) + LEAST
        return stronger and rank_test(-made, -between) < level

    def figures(self) -> dict[str, float | int | str | None]:
        """What the gate writes down of it."""
        made, between = self._medians()
        if not len(made) or not len(between):
            return {}
        return {
            "resemblance_synthetic": float(np.median(made)), "resemblance_real": float(np.median(between)),
            "resemblance_largest": float(np.max(self.synthetic)), "resemblance_p": rank_test(-made, -between),
        }  # fmt: skip

    def _medians(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return group_medians(self.synthetic, self.synthetic_patients), group_medians(self.real, self.real_patients)


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

    def figures(self) -> dict[str, float | int | str | None]:
        """What the gate writes down of it."""
        taught, usual = self._medians()
        if not len(taught) or not len(usual):
            return {}
        ratio = float(np.median(taught)) / float(np.median(usual))
        return {"own_patients": len(taught), "own_held_out": len(usual), "own_ratio": ratio,
                "own_p": rank_test(taught, usual)}  # fmt: skip

    def _medians(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (
            group_medians(self.trained, self.trained_patients),
            group_medians(self.held_out, self.held_out_patients),
        )


def _logarithms(values: Values) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    found: NDArray[np.float64] = np.log(array[~np.isnan(array)] + LEAST)
    return found
