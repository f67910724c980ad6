"""The cut is the best of all, and replicates are what all classifiers said."""

from __future__ import annotations

import numpy as np
import pytest

from ganatomy.measures.roc import (
    Predictions,
    at_threshold,
    chosen_apart,
    operating_point,
    replicates,
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


def test_a_threshold_of_each_training_is_chosen_on_validation_and_read_on_test_as_scikit_learn_has_it():
    sklearn = pytest.importorskip("sklearn.metrics")
    seen, held = predictions(1, runs=3, decimals=4), predictions(2, 50, 500, runs=3, decimals=4)
    found, by_hand = chosen_apart(seen, held), []
    for here, there in zip(seen.probabilities, held.probabilities):
        false, true, thresholds = sklearn.roc_curve(seen.truth, here, drop_intermediate=False)
        chosen = thresholds[np.argmin((1 - true) ** 2 + false**2)]
        by_hand.append((chosen, sklearn.recall_score(held.truth, there >= chosen),
                        sklearn.recall_score(~held.truth, there < chosen)))  # fmt: skip
    expected = np.mean(by_hand, axis=0)
    assert (found.threshold, found.sensitivity, found.specificity) == pytest.approx(tuple(expected))
    assert len({chosen for chosen, _, _ in by_hand}) == 3
    other = chosen_apart(predictions(3, runs=3, decimals=4), held)
    assert other.threshold != found.threshold  # test patients choose nothing
    with pytest.raises(ValueError, match="argument"):
        chosen_apart(predictions(1, runs=2), held)


def test_replicates_keep_what_all_have():
    one = {"a": ("p", True, 0.9), "b": ("q", False, 0.2), "c": ("r", False, 0.1)}
    two = {"c": ("r", False, 0.4), "a": ("p", True, 0.8)}
    both = replicates([one, two])
    assert both.subjects == ("a", "c")
    assert both.patients == ("p", "r")
    assert both.truth.tolist() == [True, False]
    assert both.probabilities.tolist() == [[0.9, 0.1], [0.8, 0.4]]
