"""Splits: by patient, in the fractions, the same for the same seed."""

from __future__ import annotations

import collections
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy.cohorts.cohort import SPLITS, Row
from ganatomy.cohorts.splits import hold_to_one_domain, split_patients
from ganatomy.contracts import InputError


@st.composite
def populations(draw):
    """Rows of patients seen in one domain or both, once or several times."""
    rows = []
    for number in range(draw(st.integers(1, 40))):
        for domain in draw(st.sampled_from([("a",), ("b",), ("a", "b")])):
            for visit in range(draw(st.integers(1, 2))):
                name = f"p{number}-{visit}"
                rows.append(Row(f"p{number}", name, domain, f"{name}{domain}", f"{name}l"))
    return rows


@given(
    populations(), st.integers(0, 99), st.sampled_from([(0.6, 0.2, 0.2), (0.5, 0.5, 0), (1, 0, 0), (0.34, 0.33, 0.33)])
)
@settings(max_examples=100, deadline=None)
def test_splits_go_by_patient_and_by_domain_in_the_fractions(rows, seed, fractions):
    divided = split_patients(rows, fractions, seed)
    assert [dataclasses.replace(row, split="") for row in divided] == rows
    of = {row.patient: row.split for row in divided}
    assert all(of[row.patient] == row.split for row in divided)
    backwards = split_patients(rows[::-1], fractions, seed)
    assert {row.patient: row.split for row in backwards} == of
    seen = collections.defaultdict(set)
    for row in rows:
        seen[row.patient].add(row.domain)
    for stratum in {frozenset(domains) for domains in seen.values()}:
        patients = [patient for patient in seen if seen[patient] == stratum]
        wanted = [split for split, fraction in zip(SPLITS, fractions) if fraction]
        counts = [sum(of[patient] == split for patient in patients) for split in SPLITS]
        assert all(counts[SPLITS.index(split)] > 0 for split in wanted[: len(patients)])
        if len(patients) >= 5:
            assert all(abs(count - fraction * len(patients)) <= 1 for count, fraction in zip(counts, fractions))


def test_seeds_differ_and_repeat():
    rows = [Row(f"p{number}", f"p{number}", "a", f"{number}") for number in range(30)]
    assert split_patients(rows, seed=1) == split_patients(rows, seed=1)
    assert split_patients(rows, seed=1) != split_patients(rows, seed=2)


def test_given_splits_are_kept_and_unlabelled_patients_train():
    rows = [Row(f"p{number}", f"p{number}", "a", f"{number}", f"{number}l") for number in range(10)]
    rows += [Row(f"u{number}", f"u{number}", "a", f"u{number}") for number in range(10)]
    rows[0] = dataclasses.replace(rows[0], split="test")
    of = {row.patient: row.split for row in split_patients(rows)}
    assert of["p0"] == "test"
    assert all(of[f"u{number}"] == "train" for number in range(10))
    assert {of[f"p{number}"] for number in range(1, 10)} == set(SPLITS)


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (0, 0.5, 0.5), (1.2, -0.2, 0), (1, 0)])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(InputError, match="fractions"):
        split_patients([Row("p", "p", "a", "x")], fractions)


@given(populations(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_each_training_patient_is_held_to_one_domain_evenly(rows, seed):
    divided = split_patients(rows, (0.6, 0.2, 0.2), seed)
    held = hold_to_one_domain(divided, seed)
    assert [row for row in held if row.split != "train"] == [row for row in divided if row.split != "train"]
    train = collections.defaultdict(set)
    for row in held:
        if row.split == "train":
            train[row.patient].add(row.domain)
    assert set(train) == {row.patient for row in divided if row.split == "train"}  # nobody is lost
    assert all(len(domains) == 1 for domains in train.values())
    kept = {(row.subject, row.domain) for row in held}
    assert all((row.subject, row.domain) in kept for row in divided if row.domain in train.get(row.patient, ()))
    only = collections.Counter()
    free = 0
    for patient in train:
        domains = {row.domain for row in divided if row.patient == patient}
        free += len(domains) == 2
        only.update(domains if len(domains) == 1 else ())
    counts = [sum(train[patient] == {domain} for patient in train) for domain in ("a", "b")]
    assert abs(counts[0] - counts[1]) <= max(1, abs(only["a"] - only["b"]) - free)
