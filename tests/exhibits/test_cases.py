"""Cases from what a sweep's stages left: real ones, of a store whose every stage takes a fraction of a second."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
from tiny import experiment, make_store

from exhibits.materials import material_of, size_of
from ganatomy.downstream.segmentation import SEGMENTATION
from ganatomy.evidence.panels import sheet
from ganatomy.exhibits import EXHIBITS, cases
from ganatomy.exhibits.cases import _columns, _models, middle, ranked, source_of
from ganatomy.experiment import TrialResult
from ganatomy.stages.outcome import work_of
from ganatomy.stages.stages import Stages
from ganatomy.training import tasks
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.downstream import segment

ARMS = {
    "joint": ({"arm": "joint", "budget__validations": 1}, 1),
    "real": ({"arm": "real"}, 3),
    "offline": ({"arm": "offline"}, 3),
    "filtered": ({"arm": "offline", "filter__min_dice": 0.001}, 1),
}
"""Settings, and how many trainings."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The workspace, the store and the results of each arm; of all but the joint one, training draws dots."""
    workspace = tmp_path_factory.mktemp("swept")
    store = make_store(workspace / "stores" / "tiny")
    results, patch = {}, pytest.MonkeyPatch()
    for (name, (values, trainings)), seed in itertools.product(ARMS.items(), range(3)):
        if seed < trainings:
            made = experiment(**values, seed=seed)
            patch.setattr(tasks, "sheet", sheet if name == "joint" else tiny._dot)
            stages = Stages(workspace, store.path, made)
            scores = tuple(stages.scores("val"))
            summary, spent = SEGMENTATION.summarise(scores) | work_of(stages), sum(stages.artefacts.costs.values())
            keys = dict(stages.keys)
            results[name, seed] = TrialResult(f"{name}{seed}", made, "finished", "", keys, scores, summary, spent)
    patch.undo()
    return workspace, store, results


def material(swept, arm, heard=None, workspace=None):
    """Of the real arm and one with synthetic images."""
    there, store, results = swept
    chosen = [result for (name, _), result in results.items() if name in ("real", arm)]
    return material_of(chosen, workspace or there, store.path, heard)


@pytest.mark.parametrize(("arm", "synthetic"), [
    ("offline", "8 kept of 8): what each was made of"), ("filtered", "by the judgement of the filter): what each"),
    ("joint", "at its last validation"),
])  # fmt: skip
def test_patients_and_synthetic_images_of_each_arm_are_shown(swept, arm, synthetic):
    heard = []
    shown = cases(material(swept, arm, heard))
    assert heard == []
    assert shown.pictures[0].caption.startswith("Best, median and worst validation patient")
    assert synthetic in shown.pictures[1].caption
    assert all(size_of(picture)[0] > 600 for picture in shown.pictures)


def test_what_is_drawn_is_what_the_model_finds_in_the_whole_image(swept):
    """And it is the model that the scores are of: a structure's Dice in the picture's volume is the recorded one."""
    given = material(swept, "offline")
    row = given.table.row(given.table.candidate)
    models = [*_models(given)]
    assert [model.side for model in models] == ["candidate", "baseline"]
    assert models[0].training == middle(given, row)
    store = swept[1]
    records = {record.subject: record for record in store.records("mr", "val")}
    for patient in row.patients:
        image, label, *predictions = _columns(store, records, models, patient, row, "best")
        (record,) = (record for record in records.values() if record.patient == patient)
        assert image.image is store.image(record)
        cut = int(np.argmax(np.count_nonzero(label.label > 0, axis=(1, 2))))
        for model, column in zip(models, predictions, strict=True):
            sampling, device = model.training.experiment.sampling, model.stages.device()
            whole = segment(model.network, store.image(record), sampling, device)
            assert np.array_equal(column.label[cut], whole[cut])
            (dice,) = (s.value for s in model.training.scores if s.metric == "dice" and s.subject == record.subject)
            overlap = 2 * np.count_nonzero((whole == 1) & (label.label == 1))
            total = np.count_nonzero(whole == 1) + np.count_nonzero(label.label == 1)
            assert dice == pytest.approx(overlap / total)
            assert column.caption == f"Dice {dice:.3f}"


def test_a_model_that_is_no_longer_there_is_told_of_and_the_rest_is_shown(swept, tmp_path):
    shutil.copytree(swept[0] / "stages", tmp_path / "stages")
    heard = []
    given = material(swept, "offline", heard, tmp_path)
    row = given.table.row(given.table.candidate)
    shutil.rmtree(tmp_path / "stages" / "downstream" / middle(given, row).stages["downstream"])
    shown = cases(given)
    assert len(shown.pictures) == 2
    assert len(heard) == 1
    assert heard[0].startswith("what the candidate makes of patients is not shown")
    shutil.rmtree(tmp_path / "stages")
    assert cases(given) is None


def test_the_training_that_is_shown_is_neither_the_luckiest_nor_the_worst(swept):
    given = material(swept, "offline")
    for row in given.table.rows:
        scores = sorted(result.summary["val/dice"] for result in given.results if result.trial in row.trials)
        assert middle(given, row).summary["val/dice"] == scores[1]


def test_what_an_image_was_made_of_is_found_where_a_subject_has_one_in_every_domain(swept):
    given, (any_one, *_) = experiment(arm="offline"), swept[1].records()
    ct, mr = (replace(any_one, subject="s", domain=domain, parents=(), kind="") for domain in ("ct", "mr"))
    stranger, cohort = replace(ct, subject="t"), [replace(ct, subject="t"), ct, mr]
    made = replace(mr, subject="s-translated", parents=("s",), kind="translated")
    assert source_of(made, given, cohort) is ct
    assert source_of(replace(made, kind="reconstructed"), given, cohort) is mr
    assert source_of(replace(made, kind="drawn"), given, cohort) is None
    assert source_of(made, given, [stranger, mr]) is None


def test_a_damaged_model_costs_its_own_column(swept, tmp_path):
    shutil.copytree(swept[0] / "stages", tmp_path / "stages")
    heard = []
    given = material(swept, "offline", heard, tmp_path)
    row = given.table.row(given.table.baseline)
    (tmp_path / "stages" / "downstream" / middle(given, row).stages["downstream"] / NETWORKS).write_bytes(b"cut")
    assert len(cases(given).pictures) == 2
    assert [sentence.partition(" makes ")[0] for sentence in heard] == ["what the baseline"]


def test_ranks():
    assert ranked({"a": 0.3, "b": 0.9, "c": 0.5}) == {"best": "b", "median": "c", "worst": "a"}
    assert ranked({"a": 0.3, "b": 0.9}) == {"best": "b", "worst": "a"}
    assert ranked({"a": 0.3}) == {"best": "a"}
    assert ranked({}) == {}


@pytest.mark.parametrize("arm", ["offline", "joint"])
def test_every_exhibit_of_a_real_sweep_is_whole(swept, arm):
    given = material(swept, arm)
    shown = {make.__name__: exhibit for make in EXHIBITS if (exhibit := make(given)) is not None}
    assert {"patients", "cases", "learning_curves", "cost"} <= shown.keys()
    for exhibit in shown.values():
        assert exhibit.heading
        for grid in exhibit.grids:
            assert {len(row) for row in grid.rows} == {len(grid.headers)}
            assert len(grid.readings) in (0, len(grid.rows))
        for picture in exhibit.pictures:
            size_of(picture)


@pytest.mark.parametrize("status", ["failed", "running", "pruned"])
def test_of_a_sweep_in_which_nothing_finished_nothing_is_shown(swept, status):
    lost = [TrialResult(f"x{n}", experiment(arm="joint", seed=n), status, "out of memory") for n in range(3)]
    heard = []
    assert [make(material_of(lost, swept[0], swept[1].path, heard)) for make in EXHIBITS] == [None] * len(EXHIBITS)
    assert heard == []
