"""Amounts as an axis: nested draws, counts that cannot be had, and shares in proportion to counts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.experiment import Mixing
from ganatomy.stores.amounts import distinct_images, in_proportion, some_patients
from ganatomy.stores.sampling import Mixture, Pool, Sampler
from stores.addressed_volumes import FLAT, five


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return five(tmp_path_factory.mktemp("amounts") / "s")


@given(st.integers(1, 60), st.integers(0, 10**6), st.sets(st.integers(0, 59), min_size=1), st.data())
def test_the_images_of_a_smaller_count_are_among_those_of_a_larger_one(made, seed, kept, data):
    kept = sorted(index % made for index in kept)
    kept = sorted(set(kept))
    few, many = sorted(data.draw(st.integers(1, len(kept))) for _ in range(2))
    smaller, larger = (distinct_images(kept, made, count, seed) for count in (few, many))
    assert (len(smaller), len(larger)) == (few, many)
    assert set(smaller) <= set(larger) <= set(kept)
    assert distinct_images(kept, made, 0, seed) == distinct_images(kept, made, len(kept), seed) == tuple(kept)
    # The order is of all that were made: what a stricter filter leaves out lets those behind it move up, no others.
    stricter = kept[::2]
    chosen = distinct_images(stricter, made, min(few, len(stricter)), seed)
    assert set(smaller) & set(stricter) <= set(chosen)


def test_another_seed_draws_others_and_none_is_drawn_twice_as_often():
    drawn = Counter(index for seed in range(400) for index in distinct_images(range(10), 10, 5, seed))
    assert all(150 < drawn[index] < 250 for index in range(10))


def test_more_than_is_kept_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"mixing\.distinct = 8, and 3 of 20 synthetic images are kept; expected at m"):
        distinct_images([1, 5, 7], 20, 8, 0)


def test_source_patients_are_nested_exact_and_refused_where_there_are_fewer(store):
    images = store.records()
    everyone = {image.patient for image in images}
    chosen = [some_patients(images, count, 3, "patients") for count in range(1, len(everyone) + 1)]
    assert [len(some) for some in chosen] == [*range(1, len(everyone) + 1)]
    assert all(less < more for less, more in pairwise(chosen))
    assert some_patients(images, 0, 3, "patients") == everyone
    with pytest.raises(InputError, match=r"mixing\.source_patients = 99 of \d training patients of domain ct"):
        some_patients(images, 99, 3, "training patients of domain ct")


@given(st.integers(1, 50), st.integers(1, 50))
def test_by_counts_a_synthetic_image_is_shown_as_often_as_a_real_one(real, synthetic):
    mixing = in_proportion(Mixing(ratio=7.0, pretrain=0.0, share="counts"), real, synthetic)
    assert mixing.ratio == pytest.approx(synthetic / real)
    assert in_proportion(Mixing(ratio=7.0), real, synthetic).ratio == 7.0


def test_one_kept_image_among_many_real_ones_is_one_of_them(store):
    """As a fixed share it would be half of all that is seen."""
    real, one = Pool.of(store, store.records()[1:]), Pool.of(store, store.records()[:1])
    shown = {}
    for share in ("counts", "ratio"):
        mixing = in_proportion(Mixing(pretrain=0.0, share=share), len(real), len(one))
        sampler = Sampler({"x": Mixture(real, one, mixing, 200)}, FLAT, 5, seed=0)
        seen = Counter(subject for step in range(200) for subject in sampler.batch(step)["x"].subjects)
        own = seen.pop(store.records()[0].subject)
        shown[share] = own / np.mean([*seen.values()])
    assert shown["counts"] == pytest.approx(1, rel=0.01)
    assert shown["ratio"] == pytest.approx(len(real))
