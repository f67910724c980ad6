"""Small statistics that several rooms share: ranks, means over replicates, medians of patients. Knows no images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.float64]


def finite(value: Any) -> Any:
    """``value``, or None for a float that JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rank_test(a: Values, b: Values) -> float:
    """One-sided p of ``a`` being smaller than ``b``: two independent samples, by their ranks alone (Mann-Whitney).

    Exact for small samples without ties. NaN where either is empty.
    """
    if not len(a) or not len(b):
        return math.nan
    from scipy import stats  # a second or two to import, and what trains needs none of it

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


def counted(number: int, noun: str) -> str:
    """``1 patient``, ``2 patients``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
