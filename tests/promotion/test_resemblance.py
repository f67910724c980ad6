"""One altered copy is enough, a set is judged by its patients, and a patient's own target is one that it may repeat."""

from __future__ import annotations

import numpy as np
import pytest

from ganatomy.images.copies import Match
from ganatomy.promotion import gate
from ganatomy.promotion.resemblance import Own, Resemblance


def matches(rng, count, usual=0.2):
    """As honest images match: the root of how far they stand out is about normal."""
    return [Match(float(max(0.0, rng.normal(usual, 0.06)) ** 2), 0.7, 0, "moved") for _ in range(count)]


def judged(rng, made, held_out=20, own=None):
    names = [[f"{who}{at}" for at in range(count)] for who, count in (("made", len(made)), ("val", held_out))]
    resemblance = Resemblance(made, names[0], matches(rng, held_out), names[1], ["scan-1"])
    distances = rng.normal(1, 0.05, len(made)), rng.normal(1, 0.05, held_out)
    return gate.memorisation(distances[0], names[0], distances[1], names[1], resemblance=resemblance, own=own)


def test_honest_sets_keep_the_level():
    stopped = [not judged(np.random.default_rng(seed), matches(np.random.default_rng(1000 + seed), 40)).passed
               for seed in range(200)]  # fmt: skip
    assert np.mean(stopped) <= 0.05


def test_one_altered_copy_is_enough_and_is_named():
    rng = np.random.default_rng(0)
    made = [*matches(rng, 40), Match(0.5, 0.9, 0, "mirrored, turned by 10°")]
    result = judged(rng, made)
    assert not result.passed
    assert result.figures["copies"] == 1
    assert result.figures["best_match"] == "scan-1"
    assert result.figures["stands_out"] == 0.5 > result.figures["stands_out_limit"]
    assert "scan-1 (mirrored, turned by 10°)" in result.sentence


def test_a_set_that_repeats_a_little_everywhere_is_caught():
    rng = np.random.default_rng(0)
    result = judged(rng, matches(rng, 30, usual=0.34))
    assert not result.passed
    assert "may repeat" in result.sentence


def test_what_was_not_searched_stops_nobody():
    rng = np.random.default_rng(0)
    assert judged(rng, [Match()] * 10).passed


@pytest.mark.parametrize(("distance", "passed"), [(1.0, True), (0.5, False), (0.05, False)])
def test_own_targets_that_were_trained_on_may_not_be_nearer_than_others(distance, passed):
    rng = np.random.default_rng(0)
    trained, held_out = distance * rng.normal(1, 0.1, 12), rng.normal(1, 0.1, 8)
    own = Own(trained, [f"t{at}" for at in range(12)], held_out, [f"v{at}" for at in range(8)])
    result = judged(rng, matches(rng, 12), own=own)
    assert result.passed == passed
    assert result.figures["own_patients"] == 12
    assert passed or "own target" in result.sentence or "same patient" in result.sentence
