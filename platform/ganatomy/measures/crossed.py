"""How surely one configuration's trained models score more than another's: patients and trainings crossed, both drawn.

A training is drawn as a patient is: every trained model scores all patients, and its luck is in all of them. Radiology
knows this as multi-reader multi-case analysis; read "training" for "reader" and "patient" for "case". The trainings of
the two sides are other trainings, and the luck of both counts. Where each of them has its like on the other side, of
the same seed and with it the same labelled patients, start and order of samples, they are pairs (``pairs``): what both
owe to the seed drops out of their difference, and the differences are one side to be analysed. One variance of few
differences is then all that the luck is known by: where it happens to be small, Satterthwaite's degrees of freedom are
many, and far out in the tails the level is lost (ten null sweeps on one cohort: 6.0 % instead of 4.5). So for pairs
they are taken for a luck as large as ``LARGE`` of such variances would leave open (4.6 %).

With S the covariance that the drawing of patients gives the means of all trainings (``Side.pulls``), per side s of r_s
trainings: V_s the variance of its means, E_s the mean variance less the mean covariance in S (the ANOVA's residual mean
square / patients), A the variance that S gives the difference:

    T_s = max(0, V_s - E_s)      the luck of a training, what patients add to it taken off
    error² = A + sum_s T_s / r_s

For scores that a patient has alone (Dice) these are the mean squares of the two-way random-effects analysis of
variance; for areas under the ROC curve (``reader_studies.areas``) it is that of Obuchowski and Rockette. Degrees of
freedom by Satterthwaite over all terms, of which Hillis's are the case of infinitely many patients.

Where most patients gain a little and a few lose much, a mean looks surer than it is, and t's level is lost (measured:
5 % instead of 3 %, 11 % where nothing but such patients varies). Hall's transformation takes the skewness k of the
estimate out of T = (estimate - truth) / error; it is used where it is the more careful of the two:

    g(T) = T + k T² / 3 + k² T³ / 27 + k / 6,    one-sided p = P(t > min(T, g(T)))

The limits are the same formula solved for the truth, so that interval and p cannot disagree. Where nothing varies at
all (two perfect classifiers, one table twice) there is no measure of certainty: limits infinite, p 1.

No variance is borrowed from other configurations. Simulated, with 3 trainings a side, shrinking the luck towards what
the sweep's trainings varied by found +5 points in 42 % of studies instead of 28 %; but a search prefers whoever has
most luck, and where a fifth of 40 candidates had far more than the rest, 5.7 % of null differences passed, not 2.8 %.

All functions take arrays with any leading axes (many studies at once) and know no files.
Sources: Satterthwaite, Biometrics Bulletin 2, 1946; Obuchowski & Rockette, Communications in Statistics 24, 1995;
Hillis, Statistics in Medicine 26, 2007, and 33, 2014 (readers nested in tests); Hall, Journal of the Royal Statistical
Society B 54, 1992.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

SYMMETRIC = 1e-6
"""A skewness below this is none: the transformation's formulas would divide by it."""

LARGE = 0.75
"""For the degrees of freedom of pairs: a variance of r - 1 of them is below its truth's upper limit so often."""

ROUNDING = 1e-12
"""A standard error below this share of the figures themselves is none: equal scores differ by their rounding alone."""


@dataclass(frozen=True)
class Side:
    """What the trainings of one configuration reached on a set of patients.

    means: [..., trainings], the figure of each over all patients.  pulls: [..., groups, trainings, patients], how far
    each patient, drawn as one of a group (lesions, normals), pulls it: sums of products are the covariances of the
    means over the drawing of patients.  freedom: [groups], degrees of freedom of each group, its patients less one.
    """

    means: Floats
    pulls: Floats
    freedom: Floats

    @property
    def trainings(self) -> int:
        """How many."""
        return int(self.means.shape[-1])

    @property
    def luck(self) -> Floats:
        """V: variance of the trainings' means. NaN for one training alone."""
        if self.trainings < 2:
            return np.full(self.means.shape[:-1], np.nan)
        return np.asarray(np.var(self.means, axis=-1, ddof=1), np.float64)

    @property
    def residual(self) -> Floats:
        """E: what the drawing of patients alone makes the trainings' means differ by (a variance)."""
        if self.trainings < 2:
            return np.full(self.means.shape[:-1], np.nan)
        pulls = self.pulls.sum(axis=-3)
        return np.asarray(np.var(pulls, axis=-2, ddof=1).sum(axis=-1), np.float64)


def scores_of(scores: ArrayLike) -> Side:
    """The side of scores that every patient has alone, such as Dice: [..., patients, trainings], no NaN among them."""
    table = np.asarray(scores, np.float64)
    n = table.shape[-2]
    means = table.mean(axis=-2)
    pulls = np.swapaxes(table - means[..., None, :], -1, -2) / math.sqrt(n * max(n - 1, 1))
    return Side(means, pulls[..., None, :, :], np.array([n - 1.0]))


def paired(more: Side, less: Side) -> Side:
    """The trainings of two sides taken as pairs, in their order: readers that read under both conditions.

    Raises ValueError for other numbers of trainings.
    """
    if more.means.shape != less.means.shape:
        raise ValueError(f"pairs need as many trainings a side, these are {more.trainings} and {less.trainings}")
    return Side(more.means - less.means, more.pulls - less.pulls, more.freedom)


@dataclass(frozen=True)
class Contrast:
    """A difference of two sides (or one side alone) with all that is uncertain about it; arrays [...] or numbers.

    estimate: mean of the first side less that of the second.  error: its standard error.  freedom: of the t that both
    interval and p come from.  patients: A, the variance that the drawing of patients gives the estimate.
    skewness: k, of the estimate, from its patients.  luck, residual: a side each, V_s and E_s.  trainings: r_s.
    patient_freedom: degrees of freedom of A.  count_freedom: patients less one in all groups together.

    pairs: whether trainings were taken as pairs. There is then one "side", their difference: luck, residual and
    trainings have one entry.
    """

    estimate: Floats
    error: Floats
    freedom: Floats
    skewness: Floats
    patients: Floats
    luck: tuple[Floats, ...]
    residual: tuple[Floats, ...]
    trainings: tuple[int, ...]
    patient_freedom: Floats
    count_freedom: float
    pairs: bool = False

    def low(self, alpha: float = 0.025) -> Floats:
        """Lower limit: above the truth with probability ``alpha``."""
        reach = _reach(quantile(self.freedom, alpha), self.skewness)
        return np.where(self.error > 0, self.estimate - self.error * reach, -np.inf)

    def high(self, alpha: float = 0.025) -> Floats:
        """Upper limit: below the truth with probability ``alpha``."""
        reach = _reach(quantile(self.freedom, alpha), -self.skewness)
        return np.where(self.error > 0, self.estimate + self.error * reach, np.inf)

    def p_more(self, least: float = 0.0) -> Floats:
        """One-sided p of the truth being ``least`` or less: below ``alpha`` where ``low(alpha)`` > ``least``, only."""
        return _tail(self.estimate - least, self.error, self.freedom, self.skewness)

    def p_less(self, most: float = 0.0) -> Floats:
        """One-sided p of the truth being ``most`` or more: below ``alpha`` where ``high(alpha)`` < ``most``, only."""
        return _tail(most - self.estimate, self.error, self.freedom, -self.skewness)

    @property
    def training(self) -> tuple[Floats, ...]:
        """T_s, a side each: the variance of a training's luck, which all patients share."""
        return tuple(np.maximum(v - e, 0.0) for v, e in zip(self.luck, self.residual))

    @property
    def patient(self) -> Floats:
        """The variance that the drawing of patients would give if every side were trained without end."""
        shared = sum(e / r for e, r in zip(self.residual, self.trainings))
        return np.asarray(np.maximum(self.patients - shared, 0.0))

    def planned(self, times: float = 1.0, trainings: Sequence[int] | None = None) -> tuple[Floats, Floats]:
        """Standard error and freedom to be expected with ``times`` as many patients and other numbers of trainings."""
        counts = tuple(trainings or self.trainings)
        residual = tuple(e / times for e in self.residual)
        drawn = self.patient / times + sum(e / r for e, r in zip(residual, counts))
        luck = tuple(t + e for t, e in zip(self.training, residual))
        n = times * (self.count_freedom + 1) - 1
        share = n / self.count_freedom if self.count_freedom else 1.0
        return _combined(drawn, luck, residual, counts, self.patient_freedom * share, n, self.pairs)

    def least_shown(
        self, alpha: float = 0.025, power: float = 0.8, times: float = 1.0, trainings: Sequence[int] | None = None
    ) -> Floats:
        """The smallest true effect that a study like this one shows with probability ``power``.

        times: with so many times the patients (2: twice as many).  trainings: with other numbers of them, a side each.
        """
        error, freedom = self.planned(times, trainings)
        return np.asarray((quantile(freedom, alpha) + quantile(freedom, 1 - power)) * error)


def contrast(more: Side, less: Side | None = None, *, pairs: bool = False) -> Contrast:
    """Mean of ``more`` minus mean of ``less``, judged on the same patients; of ``more`` alone where there is no other.

    The numbers of trainings may differ, from 2 on.  pairs: the n-th training of either side has its like in the n-th of
    the other. Raises ValueError for other patients on the two sides, and for pairs of other numbers of trainings.
    """
    sides = (more,) if less is None else (more, less)
    if less is not None and more.pulls.shape[-1] != less.pulls.shape[-1]:
        raise ValueError(f"two sides are judged on the same patients: {more.pulls.shape[-1]}, {less.pulls.shape[-1]}")
    if any(side.trainings < 2 for side in sides):
        raise ValueError("the luck of training cannot be told from one training: a side needs two at least")
    signs = (1.0, -1.0)
    estimate = np.asarray(sum(sign * side.means.mean(axis=-1) for sign, side in zip(signs, sides)))
    pull = sum(sign * side.pulls.mean(axis=-2) for sign, side in zip(signs, sides))
    groups = np.square(pull).sum(axis=-1)
    patients = np.square(np.asarray(pull).sum(axis=-2)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.square(groups.sum(axis=-1)) / (np.square(groups) / more.freedom).sum(axis=-1)
    freedom = np.where(np.isfinite(freedom), freedom, more.freedom.sum())
    lucky = (paired(more, less),) if pairs and less is not None else sides
    luck, residual = tuple(side.luck for side in lucky), tuple(side.residual for side in lucky)
    counts, n = tuple(side.trainings for side in lucky), float(more.freedom.sum())
    error, combined = _combined(patients, luck, residual, counts, freedom, n, pairs)
    error = _exact(error, sides)
    skewness = _skewness(np.asarray(pull), more.freedom, error)
    return Contrast(estimate, error, combined, skewness, patients, luck, residual, counts, freedom, n, pairs)


def _combined(
    patients: Any,
    luck: Sequence[Any],
    residual: Sequence[Any],
    trainings: Sequence[int],
    freedom: Any,
    n: float,
    pairs: bool,
) -> tuple[Floats, Floats]:
    """Standard error and Satterthwaite's degrees of freedom of A + sum max(0, V - E) / r; of pairs, the degrees of
    freedom that it would have with a larger V."""
    variance = np.asarray(patients, np.float64) + sum(np.maximum(v - e, 0.0) / r
                                                      for v, e, r in zip(luck, residual, trainings))  # fmt: skip
    weighed, spread = np.asarray(patients, np.float64), np.square(patients) / freedom
    for v, e, r in zip(luck, residual, trainings):
        v = v * (r - 1) / special.chdtri(r - 1, LARGE) if pairs else v
        more = v > e
        weighed = weighed + np.where(more, v - e, 0.0) / r
        spread = spread + np.where(more, np.square(v / r) / (r - 1) + np.square(e / r) / (n * (r - 1)), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        combined = np.where(spread > 0, np.square(weighed) / spread, n)
    return np.sqrt(variance), np.asarray(combined)


def _exact(error: Floats, sides: Sequence[Side]) -> Floats:
    """``error``, 0 where it is but rounding of what the sides' means are computed with."""
    size = sum(np.abs(side.means).max(axis=-1) for side in sides)
    return np.where(error <= ROUNDING * size, 0.0, error)


def _skewness(pull: Floats, freedom: Floats, error: Floats) -> Floats:
    """Skewness of the estimate, the patients' unbiased third moment over error³; luck, taken as symmetric, dilutes it.

    pull: [..., groups, patients].
    """
    unbiased = np.where(freedom >= 2, np.sqrt(freedom * (freedom + 1)) / np.maximum(freedom - 1, 1), 0.0)
    third = (np.cbrt(unbiased)[:, None] * pull).sum(axis=-2) ** 3
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(error > 0, third.sum(axis=-1) / error**3, 0.0)


def quantile(freedom: ArrayLike, alpha: float) -> Floats:
    """What a t of so many degrees of freedom exceeds with probability ``alpha``."""
    return np.asarray(-special.stdtrit(np.asarray(freedom, np.float64), alpha))


def _reach(t: Floats, skewness: Floats) -> Floats:
    """How many errors a limit lies off: ``t``, or what Hall's transformation puts there where that is more."""
    k = np.where(np.abs(skewness) < SYMMETRIC, 1.0, skewness)
    bent = 3 / k * (np.cbrt(1 + k * (t - k / 6)) - 1)
    return np.where(np.abs(skewness) < SYMMETRIC, t, np.maximum(t, bent))


def _tail(above: Floats, error: Floats, freedom: Floats, skewness: Floats) -> Floats:
    """P(t > above / error), or that of the transformed ratio where it is more; 1 without any error."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(error > 0, above / error, -np.inf)
        bent = ratio + skewness * ratio**2 / 3 + skewness**2 * ratio**3 / 27 + skewness / 6
    bent = np.where((error > 0) & (np.abs(skewness) >= SYMMETRIC), bent, ratio)
    return np.asarray(special.stdtr(freedom, -np.minimum(ratio, bent)))
