"""Importance against an analysis of variance that can be done by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from evidence.sweeps import experiment, trial

from exhibits.materials import material_of, size_of
from ganatomy.exhibits.importance import LUCK, importance, shares_of


def test_shares_are_those_of_the_analysis_of_variance_of_a_full_factorial():
    """y = 3 a + b on a grid of levels -1, 0, 1: Var(3a) : Var(b) = 9 · 2/3 : 2/3; what does not matter has no share."""
    grid = [*itertools.product((-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0), ("x", "y"))] * 3
    points = [{"a": a, "b": b, "c": c} for a, b, c in grid]
    found = shares_of(points, [3 * a + b for a, b, _ in grid])
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == pytest.approx(0.9, abs=0.05)
    assert found["b"] == pytest.approx(0.1, abs=0.05)
    assert found["c"] < 0.01
    assert found == shares_of(points, [3 * a + b for a, b, _ in grid])


def test_what_only_matters_together_is_in_no_share_alone():
    grid = [*itertools.product((-1.0, 1.0), (-1.0, 1.0))] * 10
    found = shares_of([{"a": a, "b": b} for a, b in grid], [a * b for a, b in grid])
    assert sum(found.values()) < 0.2


def searched(weights=(0.1, 1.0, 10.0), ratios=(0.5, 2.0), seeds=(0, 1)):
    """The weight decides, of joint and offline arms alike; ratio and seed do nothing."""
    return [
        trial(f"t{arm}{weight}{ratio}{seed}", experiment(
            arm=arm, method__shape_weight=weight, mixing__ratio=ratio, seed=seed), 0.1 * float(np.log10(weight)))
        for arm, weight, ratio, seed in itertools.product(("joint", "offline"), weights, ratios, seeds)
    ]  # fmt: skip


def test_what_decides_stands_first_and_the_seed_is_a_measure_beside_it():
    shown = importance(material_of(searched()))
    names = [row[0] for row in shown.grids[0].rows]
    assert names[0] == "method.shape_weight"
    assert set(names) == {"method.shape_weight", "mixing.ratio", "arm", LUCK}
    assert shown.grids[0].rows[0][1] == "100 %"
    assert shown.sentences[0].startswith("Of 24 trainings with synthetic data.")
    assert "seed" in shown.sentences[1]
    size_of(shown.pictures[0])


@pytest.mark.parametrize("results", [
    searched(seeds=(0,), ratios=(0.5,)),  # six trainings
    [one for one in searched(ratios=(0.5,), seeds=range(5)) if one.experiment.arm == "joint"],  # the weight alone
    [],
])  # fmt: skip
def test_of_too_little_nothing_is_said(results):
    assert importance(material_of(results)) is None


def test_of_very_many_trainings_so_many_are_looked_at_and_what_decides_still_stands_first():
    shown = importance(material_of(searched(weights=tuple(np.logspace(-2, 2, 30)), seeds=range(4))))
    assert shown.sentences[0].startswith("Of 240 of 480 trainings with synthetic data.")
    assert shown.grids[0].rows[0][0] == "method.shape_weight"
