"""Ranks against exhaustive enumeration, and what of a patient counts once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ganatomy.measures.statistics import (
    group_medians,
    rank_test,
)

# --- ranks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(3, 4), (6, 2), (1, 5)])
def test_rank_test_counts_the_orders_that_are_as_extreme(n, m):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(size=m)
    pooled = np.concatenate([a, b])
    wins = [
        sum(pooled[i] < pooled[j] for i in chosen for j in range(n + m) if j not in chosen)
        for chosen in itertools.combinations(range(n + m), n)
    ]
    assert rank_test(a, b) == pytest.approx(np.mean(np.array(wins) >= wins[0]))


def test_rank_test_is_calibrated_and_has_a_side():
    rng = np.random.default_rng(0)
    assert np.mean([rank_test(rng.normal(size=7), rng.normal(size=5)) < 0.05 for _ in range(400)]) < 0.08
    low, high = np.arange(8.0), np.arange(20.0, 26.0)
    assert rank_test(low, high) < 0.001
    assert rank_test(high, low) > 0.99
    assert math.isnan(rank_test([], [1.0]))


def test_values_of_one_patient_count_once():
    medians = group_medians([3.0, 1.0, 2.0, 9.0, math.nan], ["b", "b", "b", "a", "c"])
    assert medians.tolist() == [9.0, 2.0]
