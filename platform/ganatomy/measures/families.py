"""Comparisons judged at once: limits that all hold together, and the level of each reading of the test patients.

The comparisons of one family share a baseline and the patients, so that they err together; Bonferroni would not know.
The joint distribution of the t's is drawn: normal deviates with the correlation that patients and the baseline's luck
give the estimates, each over a chi of its own degrees of freedom. What the least of the family's p-values stays above
with probability 1 - alpha is the level that each comparison is judged at (Dunnett's procedure for crossed factors).
Sources: Dunnett, Journal of the American Statistical Association 50, 1955; Hothorn, Bretz & Westfall, Biometrical
Journal 50, 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ganatomy.measures.crossed import Contrast, Floats, Side, contrast

DRAWS = 50_000
"""Of the joint distribution. The level read from them is the more careful end of what they leave open (two errors)."""

WHOLE = 0.045
"""How often, one-sided and over all readings that the test patients will ever have, chance may pass for a help. Half a
point less than the 5 % promised: with three trainings a side, far out in the tails that late readings are judged by,
Satterthwaite's approximation takes about that much (5.0 % of ten null sweeps where 4.7 % were meant, in 25,000)."""


def reading_level(reading: int, whole: float = WHOLE) -> float:
    """The one-sided level of the ``reading``-th time (from 1) that a set of test patients is read.

    6 / (pi² reading²) of ``whole``, which all of them together never exceed: 2.74 % at first, then 0.68 %, 0.30 % …
    A verdict's interval has this on either side: 94.5 % at the first reading. Raises ValueError below 1.
    """
    if reading < 1:
        raise ValueError(f"readings are counted from 1, this is {reading}")
    return 6 * whole / (math.pi * reading) ** 2


@dataclass(frozen=True)
class Family:
    """Comparisons with one baseline, judged together.

    contrasts: one a comparison, in the order given.  alpha: one-sided level of the family.  each: the level at which
    every comparison's limits are taken, so that all lower (or all upper) limits hold together with 1 - alpha.
    """

    contrasts: tuple[Contrast, ...]
    alpha: float
    each: float

    @property
    def comparisons(self) -> float:
        """How many comparisons without anything in common these are worth: what a p is to be multiplied by."""
        return self.alpha / self.each


def family(sides: Sequence[Side], baseline: Side, alpha: float = 0.025, *, draws: int = DRAWS) -> Family:
    """Compare each of ``sides`` with ``baseline`` on the same patients, at a common one-sided level.

    A family of one is judged at ``alpha`` itself. Raises ValueError for an empty family, for other patients or for one
    training a side.
    """
    if not sides:
        raise ValueError("a family needs one comparison at least")
    contrasts = tuple(contrast(side, baseline) for side in sides)
    if len(sides) == 1:
        return Family(contrasts, alpha, alpha)
    freedom = np.array([float(one.freedom) for one in contrasts])
    least_p = _least_p(_correlation(sides, baseline, contrasts), freedom, draws)
    return Family(contrasts, alpha, _careful(least_p, alpha, len(sides)))


def _correlation(sides: Sequence[Side], baseline: Side, contrasts: Sequence[Contrast]) -> Floats:
    """Of the estimates: what patients give them in common, and the luck of the baseline's trainings."""
    pulls = np.stack([(side.pulls.mean(axis=-2) - baseline.pulls.mean(axis=-2)).sum(axis=-2) for side in sides])
    shared = pulls @ pulls.T + float(contrasts[0].training[1]) / baseline.trainings
    error = np.array([max(float(one.error), np.finfo(float).tiny) for one in contrasts])
    correlation = np.clip(shared / np.outer(error, error), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _least_p(correlation: Floats, freedom: Floats, draws: int) -> Floats:
    """The family's least one-sided p under no effect, ``draws`` times (always the same), in ascending order."""
    generator = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    root /= np.sqrt(np.square(root).sum(axis=1, keepdims=True))
    normal = generator.standard_normal((draws, len(freedom))) @ root.T
    chi = np.sqrt(generator.chisquare(freedom, (draws, len(freedom))) / freedom)
    return np.sort(special.stdtr(freedom, -normal / chi).min(axis=1))


def _careful(least_p: Floats, alpha: float, comparisons: int) -> float:
    """Level of each comparison: between alpha / comparisons (Bonferroni, always valid) and alpha."""
    expected = alpha * len(least_p)
    place = int(expected - 2 * math.sqrt(expected)) - 1
    found = float(least_p[place]) if place >= 0 else 0.0
    return min(alpha, max(alpha / comparisons, found))
