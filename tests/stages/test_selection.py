"""Which synthetic images are kept: nested in the threshold, its boundary among them, at equal counts on demand."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.experiment import Filter
from ganatomy.stages.selection import SetRefused, kept_images

HUNDRED = {index: index / 100 for index in range(100)}
SCORES = st.dictionaries(st.integers(0, 99), st.floats(0, 1), min_size=1, max_size=30)


def kept(found, *, seed=0, **rule):
    return kept_images(found, Filter(**rule), "probability", seed)


@given(SCORES, st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_kept_sets_are_nested_in_the_threshold_and_hold_its_boundary(found, thresholds):
    """T-C3. Every score is a threshold too: the image that has it stays, and some image reaches each."""
    reached = sorted({0.0, *found.values(), *(t for t in thresholds if t <= max(found.values()))})
    sets = [kept(found, min_probability=threshold) for threshold in reached]
    assert sets[0] == list(found)
    for threshold, chosen in zip(reached, sets, strict=True):
        assert set(chosen) == {index for index, score in found.items() if score >= threshold}
    for lower, higher in pairwise(sets):
        assert set(higher) <= set(lower)


@pytest.mark.parametrize(("rule", "said"), [
    ({"min_probability": 1.0}, r"min_probability = 1 keeps none of 100 synthetic images \(best 0\.99\)"),
    ({"as_many_as": 1.0}, r"as_many_as = 1 keeps none of 100"),
])  # fmt: skip
def test_a_threshold_that_no_image_reaches_is_refused(rule, said):
    with pytest.raises(InputError, match=said):
        kept(HUNDRED, **rule)


def test_a_common_bound_makes_counts_equal_and_sets_different():
    """A sweep over t then compares purity alone, which rises with t."""
    sets = [kept(HUNDRED, min_probability=threshold, as_many_as=0.9) for threshold in (0.5, 0.7, 0.9)]
    assert [len(chosen) for chosen in sets] == [10, 10, 10]
    assert sets[2] == kept(HUNDRED, min_probability=0.9)
    for threshold, chosen in zip((50, 70, 90), sets, strict=True):
        assert chosen == sorted(chosen)
        assert min(chosen) >= threshold
    purity = [sum(chosen) for chosen in sets]
    assert purity == sorted(purity)
    assert purity[0] < purity[-1]


def test_what_a_bound_leaves_is_drawn_by_the_seed_and_favours_nobody():
    """Not the most probable ones: those are the same at every threshold."""
    found = {index: 0.5 + index / 100 for index in range(10)}
    sets = [kept(found, seed=seed, as_many_as=0.565) for seed in range(200)]
    assert {len(chosen) for chosen in sets} == {3}
    assert sets[:5] == [kept(found, seed=seed, as_many_as=0.565) for seed in range(5)]
    counts = Counter(index for chosen in sets for index in chosen)
    assert all(30 <= counts[index] <= 90 for index in found), "60 of each are expected"


@pytest.mark.parametrize("score", [math.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(score):
    with pytest.raises(InputError, match="probability of synthetic image 7 "):
        kept({7: score, 8: 0.9}, min_probability=0.5)


@given(SCORES, st.floats(0, 1), st.floats(0, 1))
def test_a_set_is_kept_whole_or_refused_by_its_mean(found, threshold, mean):
    """Qu et al. 2019, section 2.8: each image, then the set of those that are left."""
    passing = [score for score in found.values() if score >= threshold]
    if not passing or math.fsum(passing) / len(passing) < mean:
        with pytest.raises(SetRefused):
            kept(found, min_probability=threshold, set_mean=mean)
    else:
        assert kept(found, min_probability=threshold, set_mean=mean) == kept(found, min_probability=threshold)


def test_why_a_set_is_refused_is_said():
    with pytest.raises(
        SetRefused, match=r"set_mean = 0\.6: the 100 .* kept of 100 reach a probability of 0\.49 .* no result"
    ):
        kept(HUNDRED, set_mean=0.6)
    assert len(kept(HUNDRED, set_mean=0.6, min_probability=0.4)) == 60
    again = pickle.loads(pickle.dumps(SetRefused("a", expected="b", remedy="c")))  # as from another process
    assert (type(again), str(again)) == (SetRefused, "a; expected b; remedy: c")
