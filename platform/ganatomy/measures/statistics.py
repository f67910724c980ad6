"""How sure a difference is: paired bootstrap, permutation test, correction for many comparisons. Knows no images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Bootstrap replicates; also the number of sign patterns up to which a permutation test counts them all."""

Values = Sequence[float] | NDArray[np.float64]

T = TypeVar("T")


def of_common_seeds(more: Mapping[int, T], less: Mapping[int, T]) -> tuple[list[T], list[T]]:
    """Replicates by seed -> those of the seeds that both sides have; all of both where they have none in common.

    A replicate that failed is often one that was hard: left out on one side only, it would speak for that side.
    """
    seeds = sorted(more.keys() & less.keys())
    if not seeds:
        return [*more.values()], [*less.values()]
    return [more[seed] for seed in seeds], [less[seed] for seed in seeds]


@dataclass(frozen=True)
class Effect:
    """A figure with its percentile bootstrap interval.

    mean: the estimate.  low, high: bounds of the interval at ``level``; infinite where there are too few units (fewer
    than two) to say anything.  n: units (patients) it rests on.  resamples, seed: what is needed to draw it again.
    """

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; numbers that JSON does not know (nan, infinities) become None."""
        return {name: finite(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Effect:
        """Inverse of ``to_dict``: a missing bound is one that is infinitely far away."""
        known: dict[str, Any] = {"mean": math.nan, "low": -math.inf, "high": math.inf}
        known.update((name, value) for name, value in values.items() if value is not None)
        return cls(**known)


def finite(value: Any) -> Any:
    """``value``, or None for a float that JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def paired_bootstrap(a: Values, b: Values, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95) -> Effect:
    """Mean of ``a - b`` over units measured under both, with its percentile interval.

    a, b: one value a unit, in the same order.  All comparisons of n units with one seed share the very same resamples.
    The percentile interval is somewhat too narrow for few units (by about sqrt((n - 1) / n), and more in the tails):
    below ten, say so. Source: Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    differences = _differences(a, b)
    n = len(differences)
    if n < 2:
        mean = float(differences.mean()) if n else math.nan
        return Effect(mean, -math.inf, math.inf, n, level, resamples, seed)
    means = differences[_resamples(n, resamples, seed)].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Effect(float(differences.mean()), float(low), float(high), n, level, resamples, seed)


def permutation_test(a: Values, b: Values, *, seed: int = 0) -> float:
    """Two-sided p of the mean of ``a - b`` when either of the two could have come from either condition.

    Exact (all sign patterns) while those are at most ``RESAMPLES``, that is up to 13 units; then that many at random.
    NaN without units.
    """
    differences = _differences(a, b)
    if not len(differences):
        return math.nan

    def statistic(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        means: NDArray[np.float64] = np.mean(x - y, axis=axis)
        return np.round(means, 12)

    # Rounding: sign patterns that tie in real numbers must tie in floating point, or p depends on the order.
    pair = (np.round(differences, 12), np.zeros_like(differences))
    if len(differences) == 1:  # scipy wants two units; both patterns of one are as far from zero
        return 1.0
    from scipy import stats  # a second or two to import, and what trains needs none of it

    result = stats.permutation_test(
        pair, statistic, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=seed
    )
    return float(result.pvalue)


def smallest_p(n: int) -> float:
    """The least p that ``permutation_test`` can give with n units: 2 of the 2^n sign patterns."""
    return min(1.0, max(2.0 ** (1 - n), 2 / (RESAMPLES + 1)))


def rank_test(a: Values, b: Values) -> float:
    """One-sided p of ``a`` being smaller than ``b``: two independent samples, by their ranks alone (Mann-Whitney).

    Exact for small samples without ties. NaN where either is empty.
    """
    if not len(a) or not len(b):
        return math.nan
    from scipy import stats  # see permutation_test

    return float(stats.mannwhitneyu(a, b, alternative="less").pvalue)


def averaged(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Key -> mean over the mappings that have it, keys in the order that they are met in."""
    values: dict[str, list[float]] = defaultdict(list)
    for one in several:
        for key, value in one.items():
            values[key].append(value)
    return {key: math.fsum(found) / len(found) for key, found in values.items()}


def group_medians(values: Values, groups: Sequence[str]) -> NDArray[np.float64]:
    """Median of each group (patient), in the order of their names: what moves together counts once. NaN is left out."""
    array, names = np.asarray(values, np.float64), np.asarray(groups, dtype=str)
    kept = ~np.isnan(array)
    return np.array([np.median(array[kept & (names == name)]) for name in np.unique(names[kept])])


def _differences(a: Values, b: Values) -> NDArray[np.float64]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"paired samples have the same units: shapes {first.shape} and {second.shape}")
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ValueError("paired samples hold numbers only: a unit without a value belongs to neither")
    return first - second


@lru_cache(maxsize=8)
def _resamples(n: int, resamples: int, seed: int) -> NDArray[np.intp]:
    """One index matrix [resamples, n] for all comparisons on the same units (methods compared on equal luck)."""
    indices = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    indices.flags.writeable = False
    return indices


def counted(number: int, noun: str) -> str:
    """``1 patient``, ``2 patients``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
