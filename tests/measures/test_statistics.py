"""Intervals and p-values against scipy, exhaustive enumeration, and the properties that make them honest."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ganatomy.measures.statistics import (
    Effect,
    group_medians,
    of_common_seeds,
    paired_bootstrap,
    permutation_test,
    rank_test,
    smallest_p,
)

unit = st.floats(-1, 1, allow_nan=False, width=32)
pairs = st.lists(st.tuples(unit, unit), min_size=2, max_size=9)


def correlated(n, shift, seed=0):
    rng = np.random.default_rng(seed)
    patients = rng.normal(0, 1, n)
    return patients + shift + rng.normal(0, 0.1, n), patients + rng.normal(0, 0.1, n)


# --- paired bootstrap --------------------------------------------------------------------------------------------


def test_interval_agrees_with_scipy():
    a, b = correlated(25, 0.1)
    theirs = stats.bootstrap((a - b,), np.mean, n_resamples=10_000, method="percentile", rng=3).confidence_interval
    ours = paired_bootstrap(a, b, seed=7)
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)


@settings(deadline=None, max_examples=40)
@given(pairs, st.integers(0, 3))
def test_interval_holds_the_mean_mirrors_and_repeats(values, seed):
    a, b = map(np.array, zip(*values))
    effect, mirrored = paired_bootstrap(a, b, seed=seed), paired_bootstrap(b, a, seed=seed)
    assert effect.mean == pytest.approx(float(np.mean(a - b)), abs=1e-12)
    assert effect.low - 1e-12 <= effect.mean <= effect.high + 1e-12
    assert (mirrored.low, mirrored.high) == pytest.approx((-effect.high, -effect.low), abs=1e-9)
    assert paired_bootstrap(a, b, seed=seed) == effect


def test_a_model_against_itself_differs_by_nothing():
    a, _ = correlated(12, 0)
    assert paired_bootstrap(a, a) == Effect(0.0, 0.0, 0.0, 12)


def test_pairing_makes_the_interval_narrower_where_patients_differ_more_than_models():
    a, b = correlated(20, 0.05)
    paired = paired_bootstrap(a, b)
    rng = np.random.default_rng(0)
    free = [rng.choice(a, 20).mean() - rng.choice(b, 20).mean() for _ in range(2000)]
    assert paired.high - paired.low < 0.3 * float(np.ptp(np.quantile(free, [0.025, 0.975])))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        differences = rng.normal(0.3, 1, 30)
        effect = paired_bootstrap(differences, np.zeros(30), resamples=800)
        hits += effect.low <= 0.3 <= effect.high
    assert 0.90 <= hits / 300 <= 0.98


@pytest.mark.parametrize(("a", "b"), [([], []), ([0.4], [0.1])])
def test_fewer_than_two_patients_show_nothing(a, b):
    effect = paired_bootstrap(a, b)
    assert (effect.low, effect.high, effect.n) == (-math.inf, math.inf, len(a))
    again = Effect.from_dict(json.loads(json.dumps(effect.to_dict(), allow_nan=False)))
    assert (again.low, again.high) == (-math.inf, math.inf)
    assert math.isnan(again.mean) if not a else again == effect


@pytest.mark.parametrize(("a", "b"), [([1.0, 2.0], [1.0]), ([1.0, math.nan], [1.0, 1.0])])
def test_samples_that_are_not_pairs_are_refused(a, b):
    for statistic in (paired_bootstrap, permutation_test):
        with pytest.raises(ValueError, match="paired samples"):
            statistic(a, b)


# --- permutation test --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(pairs)
def test_p_equals_counting_all_sign_patterns(values):
    differences = np.round(np.array([a - b for a, b in values]), 6)  # well apart, or equal: ties must be no accident
    signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    sums = signs @ differences
    observed = differences.sum()
    # two-sided as twice the smaller tail, capped at 1
    tails = np.mean(sums >= observed - 1e-9), np.mean(sums <= observed + 1e-9)
    p = permutation_test(differences, np.zeros(len(differences)))
    assert p == pytest.approx(min(1.0, 2 * min(tails)), abs=1e-9)
    assert p >= smallest_p(len(values)) - 1e-12


def test_a_difference_that_cancels_is_no_evidence():
    """The sum is 0 in real numbers, and not in floating point."""
    differences = np.array([-0.07091, 0.5, 1e-06, -0.5, 0.07091, -1e-06])
    assert permutation_test(differences, np.zeros(6)) == 1.0


@pytest.mark.parametrize("n", [2, 5, 6, 10])
def test_the_smallest_p_is_reached_when_all_agree(n):
    assert permutation_test(np.arange(1, n + 1) / 7, np.zeros(n)) == pytest.approx(smallest_p(n))


def test_p_is_small_for_an_effect_and_uniform_without_one():
    a, b = correlated(30, 0.3)
    assert permutation_test(a, b) < 0.001
    rng = np.random.default_rng(1)
    ps = [permutation_test(rng.normal(size=8), rng.normal(size=8)) for _ in range(150)]
    assert stats.kstest(ps, "uniform").pvalue > 0.01
    assert math.isnan(permutation_test([], []))
    assert permutation_test([0.4], [0.1]) == smallest_p(1) == 1


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


def test_replicates_are_compared_where_both_sides_have_them():
    assert of_common_seeds({0: "a", 2: "c"}, {2: "z", 1: "y", 0: "x"}) == (["a", "c"], ["x", "z"])
    assert of_common_seeds({0: "a"}, {1: "y", 2: "z"}) == (["a"], ["y", "z"])
