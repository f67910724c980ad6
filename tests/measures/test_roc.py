"""Areas agree with scikit-learn and brute force; all models share their resamples; the cut is the best of all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ganatomy.measures.roc import (
    Predictions,
    at_threshold,
    auc,
    auc_difference,
    auc_interval,
    operating_point,
    replicates,
    resampled,
)


def predictions(seed=0, lesions=12, normals=30, gain=1.0, decimals=2, runs=1, patients=None) -> Predictions:
    """The same cases at every seed of ``gain``; rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    truth = np.arange(lesions + normals) < lesions
    strength = rng.normal(size=truth.size) + gain * truth
    noise = np.random.default_rng(seed + 1).normal(scale=0.3, size=(runs, truth.size))
    p = np.round(1 / (1 + np.exp(-strength - noise)), decimals)
    names = tuple(f"s{i:02d}" for i in range(truth.size))
    return Predictions(names, patients or names, truth, p)


def test_area_agrees_with_brute_force_and_scikit_learn_also_with_ties():
    sklearn = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        made = predictions(seed, decimals=1)
        p, truth = made.probabilities[0], made.truth
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(p[truth], p[~truth])]
        assert 0.5 in pairs
        assert auc(made) == pytest.approx(np.mean(pairs), abs=1e-12)
        assert auc(made) == pytest.approx(sklearn.roc_auc_score(truth, p), abs=1e-12)


def test_area_knows_the_order_only():
    made = predictions()
    monotone = Predictions(made.subjects, made.patients, made.truth, np.exp(3 * made.probabilities))
    turned = Predictions(made.subjects, made.patients, made.truth, -made.probabilities)
    assert auc(monotone) == auc(made)
    assert auc(turned) == pytest.approx(1 - auc(made), abs=1e-12)


def test_replicates_are_averaged():
    made = predictions(runs=3)
    single = [auc(Predictions(made.subjects, made.patients, made.truth, row[None])) for row in made.probabilities]
    assert auc(made) == pytest.approx(np.mean(single), abs=1e-12)


def test_one_class_has_no_area():
    made = predictions(normals=0)
    assert np.isnan(auc(made))
    assert not np.isfinite(auc_interval(made).low)


def test_interval_holds_the_estimate_and_is_drawn_again():
    made = predictions()
    first, again = auc_interval(made), auc_interval(made)
    assert first == again
    assert first.low < first.mean < first.high
    assert first.mean == auc(made)


def test_interval_agrees_with_a_plain_bootstrap_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    made, rng, areas = predictions(), np.random.default_rng(5), []
    while len(areas) < 400:
        rows = rng.integers(0, 42, 42)
        if 0 < made.truth[rows].sum() < 42:
            areas.append(sklearn.roc_auc_score(made.truth[rows], made.probabilities[0, rows]))
    low, high = np.quantile(areas, [0.025, 0.975])
    effect = auc_interval(made)
    assert (effect.low, effect.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_a_model_does_not_differ_from_itself():
    made = predictions()
    effect, p = auc_difference(made, made)
    assert (effect.mean, effect.low, effect.high, p) == (0.0, 0.0, 0.0, 1.0)


def test_pairing_narrows_the_interval_of_correlated_models():
    first, second = predictions(gain=1.0), predictions(gain=1.2)  # the same cases, nearly the same scores
    paired, _ = auc_difference(first, second)
    alone = [auc_interval(model, seed=i) for i, model in enumerate((first, second))]
    unpaired = np.hypot(*(effect.high - effect.low for effect in alone))
    assert paired.high - paired.low < 0.5 * unpaired


def test_order_of_the_cases_changes_nothing():
    first, second = predictions(gain=1.0), predictions(gain=2.0)
    shuffled = np.random.default_rng(3).permutation(first.subjects).tolist()
    assert auc_difference(first.of(shuffled), second) == auc_difference(first, second.of(shuffled[::-1]))
    assert auc_difference(first, second)[0].mean == pytest.approx(auc(first) - auc(second))


def test_a_clear_difference_is_significant_both_ways():
    weak, strong = predictions(gain=0.0, lesions=40, normals=80), predictions(gain=4.0, lesions=40, normals=80)
    up, p_up = auc_difference(strong, weak)
    down, p_down = auc_difference(weak, strong)
    assert up.low > 0
    assert down.high < 0
    assert p_up == p_down <= 0.05


def test_patients_are_drawn_whole():
    """Four images of one patient tell as much as one: the interval is that of the patients, not of the images."""
    patients = predictions(lesions=6, normals=10)
    names = tuple(f"{name}-{view}" for name in patients.subjects for view in range(4))
    owners = tuple(name for name in patients.subjects for _ in range(4))
    images = Predictions(names, owners, np.repeat(patients.truth, 4), np.repeat(patients.probabilities, 4, axis=1))
    as_if = Predictions(names, names, images.truth, images.probabilities)
    assert auc_interval(images) == auc_interval(patients)
    assert auc_interval(images).n == 16
    wide, narrow = auc_interval(images), auc_interval(as_if)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_draws_without_a_class_are_drawn_again_and_counted():
    counts, refused = resampled(np.array([0]), np.arange(1, 4), 4, 500, 0)
    assert counts.shape == (500, 4)
    assert (counts[:, 0] > 0).all()
    assert (counts.sum(axis=1) == 4).all()
    assert refused > 50  # (3/4)^4 of the draws lack the one lesion


def test_operating_point_is_the_best_of_all_thresholds():
    made = predictions(decimals=1)
    p, truth = made.probabilities[0], made.truth
    found = operating_point(p, truth)

    def distance(threshold):
        called = p >= threshold
        return (1 - called[truth].mean()) ** 2 + called[~truth].mean() ** 2

    tried = [*np.linspace(0, 1, 1001), np.inf]
    assert distance(found.threshold) == pytest.approx(min(map(distance, tried)))
    assert found.sensitivity == (p[truth] >= found.threshold).mean()
    assert found.specificity == pytest.approx((p[~truth] < found.threshold).mean())


def test_operating_point_of_separable_and_of_useless_scores():
    truth = np.array([True, True, False, False])
    best = operating_point(np.array([0.9, 0.8, 0.2, 0.1]), truth)
    assert (best.threshold, best.sensitivity, best.specificity) == (0.8, 1.0, 1.0)
    assert operating_point(np.array([0.5, 0.5, 0.5, 0.5]), truth).threshold == np.inf  # a tie: the largest
    assert at_threshold(np.array([0.9, 0.8, 0.85, 0.1]), truth, best.threshold).specificity == 0.5


def test_replicates_keep_what_all_have():
    one = {"a": ("p", True, 0.9), "b": ("q", False, 0.2), "c": ("r", False, 0.1)}
    two = {"c": ("r", False, 0.4), "a": ("p", True, 0.8)}
    both = replicates([one, two])
    assert both.subjects == ("a", "c")
    assert both.patients == ("p", "r")
    assert both.truth.tolist() == [True, False]
    assert both.probabilities.tolist() == [[0.9, 0.1], [0.8, 0.4]]
