"""Learning curves: whose updates count, what their spread is, and when one still rises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evidence.sweeps import experiment, sweep, trial

from exhibits.materials import material_of, size_of, write_history
from ganatomy.exhibits.trainings import Curve, learning_curves, reached, spans_decades, still_rising, together
from ganatomy.experiment import replicates


def curve(values, updates=(25, 50, 75, 100)):
    return Curve(np.array(updates, float), np.array(values, float))


@pytest.mark.parametrize(("curves", "gain"), [
    ([(0.2, 0.4, 0.5, 0.55)], 0.05),
    ([(0.2, 0.4, 0.5, 0.55), (0.2, 0.4, 0.5, 0.53)], 0.04),
    ([(0.2, 0.4, 0.5, 0.60), (0.2, 0.4, 0.5, 0.49)], None),  # one fell: luck, not a training cut short
    ([(0.2, 0.4, 0.5, 0.505)], None),  # half a point
    ([(0.2, 0.5, 0.5, 0.4)], None),
])  # fmt: skip
def test_what_still_rises_gained_a_point_in_its_last_quarter_in_every_training(curves, gain):
    found = still_rising([curve(values) for values in curves])
    assert math.isnan(found) if gain is None else found == pytest.approx(gain)


def test_the_last_quarter_is_a_quarter_wherever_validations_fall():
    assert still_rising([curve([0.0, 1.0], (0, 100))]) == pytest.approx(0.25)
    assert math.isnan(still_rising([curve([0.5, 0.9], (90, 100))]))
    assert math.isnan(still_rising([]))


def test_the_spread_is_of_the_trainings_that_are_still_going():
    updates, mean, least, most = together([curve([0.1, 0.2, 0.3, 0.4]), curve([0.3, 0.4], (25, 50))])
    assert updates.tolist() == [25, 50, 75, 100]
    assert mean == pytest.approx([0.2, 0.3, 0.3, 0.4])
    assert least == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert most == pytest.approx([0.3, 0.4, 0.3, 0.4])


def test_what_trainings_reached_is_what_the_table_says():
    material = material_of(sweep())
    found = reached(material)
    assert found.keys() == {row.configuration for row in material.table.rows}
    for row in material.table.rows:
        assert np.mean(found[row.configuration]) == pytest.approx(row.dice)
        assert len(found[row.configuration]) == len(row.seeds)
    alone = material_of([one for one in sweep() if one.experiment.downstream.augmentation == "strong"])
    (only,) = reached(alone).values()
    assert np.mean(only) == pytest.approx(alone.table.rows[0].dice)


def record(step, total, score=None, loss=1.0):
    return {"step": step, "progress": step / total, "train/G": loss, **({} if score is None else {"val/dice": score})}


@pytest.fixture
def trained(tmp_path):
    """A joint and a real arm of 100 updates of the downstream model, the former after 60 of its generators alone."""
    values = {"budget__segmentor_steps": 100, "budget__generator_steps": 60}
    results = []
    for seed in range(3):
        results += [
            trial(f"j{seed}", experiment(arm="joint", seed=seed, **values), 0.1, stages={"fit": f"f{seed}"}),
            trial(f"r{seed}", experiment(arm="real", seed=seed, **values), stages={"downstream": f"d{seed}"}),
        ]
        write_history(tmp_path, "fit", f"f{seed}", [
            record(40, 160, 0.01), record(85, 160, 0.4), record(135, 160, 0.6), record(160, 160, 0.6)])  # fmt: skip
        write_history(tmp_path, "downstream", f"d{seed}", [record(s, 100, s / 200) for s in (25, 50, 75, 100)])
    return results, tmp_path


def test_generators_that_begin_alone_are_no_updates_of_the_downstream_model(trained):
    from ganatomy.exhibits.trainings import _validations

    material = material_of(*trained)
    (joint,) = (row for row in material.table.rows if row.arm == "joint")
    assert [curve.updates.tolist() for curve in _validations(material, joint)] == [[25, 75, 100]] * 3
    assert _validations(material, joint)[0].values.tolist() == [0.4, 0.6, 0.6]


def test_who_still_rises_is_named_and_both_pictures_are_drawn(trained):
    shown = learning_curves(material_of(*trained))
    assert shown.sentences[0].startswith("Warning: still rising at the end: the baseline by 12.5 points (")
    assert "candidate" not in shown.sentences[0]
    assert [size_of(picture)[0] for picture in shown.pictures] == [1118, 1118]


def test_a_history_that_cannot_be_read_is_told_of_and_nothing_fails(trained):
    results, workspace = trained
    (workspace / "stages/downstream/d1/history.jsonl").write_text("{\n")
    heard = []
    assert learning_curves(material_of(results, workspace, heard=heard)) is not None
    assert len(heard) == 1
    assert "d1" in heard[0]


def test_without_stages_there_is_no_curve():
    assert learning_curves(material_of(sweep())) is None
    assert learning_curves(material_of([])) is None
    assert {one.experiment.seed for one in replicates(sweep()).values()} == {0, 1, 2}


def test_decades_are_for_what_spans_them():
    assert spans_decades([0.1, 1])
    assert not spans_decades([0.2, 1])
    assert not spans_decades([0, 1])
    assert not spans_decades([])
