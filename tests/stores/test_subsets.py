"""Whose labels may be seen: nested over fractions, the same in any order, of every class somebody."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.stores.amounts import label_subset


@given(
    n=st.integers(1, 60), fractions=st.tuples(*[st.floats(0.001, 1)] * 2), seed=st.integers(0, 99), shuffle=st.randoms()
)
def test_label_subsets_are_nested(n, fractions, seed, shuffle):
    patients = [f"p{i}" for i in range(n)]
    small, large = sorted(fractions)
    few, many = label_subset(patients, small, seed), label_subset(patients, large, seed)
    assert few <= many <= set(patients)
    assert len(few) >= 1
    assert abs(len(many) - large * n) <= max(0.5, 1 - large * n) + 1e-9
    shuffle.shuffle(patients)
    assert label_subset(patients + patients, small, seed) == few


def test_label_subsets_differ_by_seed_and_use_everybody():
    patients = [f"p{i}" for i in range(10)]
    counts = Counter(patient for seed in range(300) for patient in label_subset(patients, 0.3, seed))
    assert set(counts) == set(patients)
    assert all(abs(count - 90) < 40 for count in counts.values())
    assert label_subset(patients, 1.0, 0) == set(patients)


def test_a_label_fraction_that_leaves_nobody_is_refused():
    with pytest.raises(InputError, match="no labelled training patient"):
        label_subset([], 0.5, 0)
    for fraction in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"labels\.fraction"):
            label_subset(["p"], fraction, 0)


def test_none_of_the_labels_is_nobody():
    assert label_subset(["p"], 0.0, 0) == label_subset([], 0.0, 0) == frozenset()


CLASSES = st.lists(st.sets(st.sampled_from(["lesion", "normal", "odd"])), min_size=1, max_size=40)


@given(sets=CLASSES, fractions=st.tuples(*[st.floats(0.001, 1)] * 2), seed=st.integers(0, 99))
def test_every_class_keeps_somebody_and_subsets_stay_nested(sets, fractions, seed):
    classes = {f"p{i:02d}": some for i, some in enumerate(sets)}
    small, large = sorted(fractions)
    few, many = (label_subset(classes, fraction, seed, classes) for fraction in (small, large))
    everything = set().union(*sets)
    assert few <= many <= set(classes)
    assert set().union(*(classes[place] for place in few)) == everything
    asked = max(1, int(small * len(classes) + 0.5))  # no more than that, but for those who bring a class
    assert asked <= len(few) <= max(asked, len(everything))


@given(lesions=st.integers(1, 40), normals=st.integers(1, 40), fraction=st.floats(0.05, 1), seed=st.integers(0, 20))
def test_classes_are_kept_in_their_shares(lesions, normals, fraction, seed):
    classes = {**{f"l{i}": ["lesion"] for i in range(lesions)}, **{f"n{i}": ["normal"] for i in range(normals)}}
    kept = label_subset(classes, fraction, seed, classes)
    share = lesions / (lesions + normals)
    # Whoever is the only one of a class that has a smaller claim is one too many.
    assert abs(sum(name[0] == "l" for name in kept) - share * len(kept)) <= 1.5


def test_within_a_class_everybody_is_drawn_as_often():
    classes = {**{f"l{i}": ["lesion"] for i in range(3)}, **{f"n{i}": ["normal"] for i in range(9)}}
    counts = Counter(place for seed in range(600) for place in label_subset(classes, 1 / 3, seed, classes))
    assert all(abs(count - 200) < 50 for count in counts.values())
