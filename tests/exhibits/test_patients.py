"""Patients and structures: the order of the worst, what a miss is, and the family of structures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evidence.sweeps import experiment, sweep

from exhibits.materials import material_of, size_of
from ganatomy.evidence.ablation import LEVEL
from ganatomy.exhibits.patients import MOST, patients
from ganatomy.exhibits.structures import compared, structures
from ganatomy.experiment import Score, TrialResult
from ganatomy.measures.verdicts import compare, of_scores

STRUCTURES = ("aorta", "lv", "rv")


def training(arm, seed, lift=(0.0, 0.0, 0.0), missed=(), count=10, absent=()):
    """missed, absent: (patient, structure) of which nothing is found, or which is not there."""
    rng, hard = np.random.default_rng([seed, len(arm)]), np.random.default_rng(5).normal(0.7, 0.08, count)
    luck, rows = rng.normal(0, 0.004), []
    for number in range(count):
        for structure, more in zip(STRUCTURES, lift):
            value = float(hard[number] + more + luck + rng.normal(0, 0.004))
            gone, lost = (number, structure) in absent, (number, structure) in missed
            rows.append(Score(f"p{number}-s", f"p{number}", "dice", structure,
                              math.nan if gone else 0.0 if lost else value, lost))  # fmt: skip
    return TrialResult(f"{arm}{seed}", experiment(arm=arm, seed=seed), "finished", scores=tuple(rows))


def side(arm, **what):
    return [training(arm, seed, **what) for seed in range(3)]


def test_whoever_has_a_structure_missed_stands_before_the_lowest_scores():
    results = [
        *side("real", missed=[(4, "aorta")]),
        training("joint", 0, (0.1, 0.1, 0.1), missed=[(2, "lv")]),
        training("joint", 1, (0.1, 0.1, 0.1), missed=[(2, "lv"), (2, "aorta"), (7, "rv")]),
        training("joint", 2, (0.1, 0.1, 0.1)),
    ]
    shown = patients(material_of(results))
    rows = {row[0]: row for row in shown.grids[0].rows}
    order = list(rows)
    assert order[:2] == ["p2", "p7"]
    assert rows["p2"][4] == "lv (2 of 3), aorta (1 of 3)"
    assert rows["p7"][4:] == ("rv (1 of 3)", "–")
    assert rows["p4"][5] == "aorta (3 of 3)"
    scores = [float(rows[name][2]) for name in order[2:]]
    assert scores == sorted(scores)
    assert "2 patients by the candidate and in 1 by the baseline" in shown.sentences[2]


def test_the_differences_are_those_that_the_table_judges():
    material = material_of(sweep())
    row = material.table.row(material.table.candidate)
    told = {cells[0]: cells[3] for cells in patients(material).grids[0].rows}
    assert told == {name: f"{100 * (more - less):+.1f}" for name, more, less in row.finding.pairs}


def test_of_very_many_patients_the_worst_are_shown_and_the_rest_counted():
    results = side("real", count=MOST + 3) + side("joint", lift=(0.1, 0.1, 0.1), count=MOST + 3)
    shown = patients(material_of(results))
    assert len(shown.grids[0].rows) == MOST
    assert "3 more" in shown.sentences[-1]


def test_each_structure_is_judged_by_the_tables_analysis_at_its_share_of_the_level():
    more, less = side("joint", lift=(0.1, 0.0, -0.1)), side("real")
    found = compared(more, less)
    assert {name: one.answer for name, one in found.items()} == {"aorta": "helps", "lv": "undecided", "rv": "harms"}
    for name, one in found.items():
        own = [[{s.patient: s.value for s in t.scores if s.label == name} for t in some] for some in (more, less)]
        alone = compare(*(of_scores(trainings) for trainings in own), alpha=LEVEL / 3)
        assert (one.low, one.high) == (alone.low, alone.high)
        assert one.level == pytest.approx(1 - 2 * LEVEL / 3)
    shown = structures(material_of(more + less))
    assert [row[0] for row in shown.grids[0].rows] == ["aorta", "lv", "rv"]
    assert shown.grids[0].readings == ("helps", "undecided", "harms")
    size_of(shown.pictures[0])


def test_a_miss_counts_as_nothing_found_and_who_lacks_a_structure_is_left_out_of_it():
    usual, spoilt = compared(side("joint"), side("real")), compared(side("joint", missed=[(3, "lv")]), side("real"))
    hard = np.random.default_rng(5).normal(0.7, 0.08, 10)
    assert usual["lv"].estimate - spoilt["lv"].estimate == pytest.approx(hard[3] / 10, abs=0.01)
    assert spoilt["rv"] == usual["rv"]
    less = compared(side("joint", absent=[(3, "lv")]), side("real", absent=[(3, "lv")]))
    assert (less["lv"].patients, less["rv"].patients) == (9, 10)


def test_one_structure_or_no_comparison_has_no_such_exhibit():
    one = [TrialResult(t.trial, t.experiment, "finished", scores=tuple(s for s in t.scores if s.label == "lv"))
           for t in side("joint") + side("real")]  # fmt: skip
    assert structures(material_of(one)) is None
    assert structures(material_of(side("joint"))) is None
    assert patients(material_of(side("joint"))) is None
    assert patients(material_of([])) is None


def test_a_structure_that_nobody_has_is_told_of():
    heard = []
    gone = [(number, "lv") for number in range(10)]
    results = side("joint", absent=gone) + side("real", absent=gone[:-1])
    structures(material_of(results, heard=heard))
    assert len(heard) == 1
    assert "lv" in heard[0]
