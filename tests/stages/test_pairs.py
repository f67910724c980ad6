"""A registered cohort through the stages: regression and a GAN are judged beside the real image and by utility."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import UNET, case

from ganatomy.evidence.ablation import ablation_table
from ganatomy.experiment import Budget, Choice, Experiment, Mixing, Sampling, TrialResult
from ganatomy.measures.synthesis.paired import PairedCase, measures_of
from ganatomy.reports.tabulated import brief, headers
from ganatomy.stages.measuring.pairs import score_pairs
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import SCORES, SYNTHETIC, Stages
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import Item, write_store
from ganatomy.training.inference import synthesize_volume

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")

SPLITS = ("train", "train", "train", "val", "val", "val")
CT = {"modality": "CT", "intensity": {"rule": "window", "low": -1000.0, "high": 1000.0}}


def items():
    """Squares of which the CT is the inverted MR. The last patient has no MR; the one before has no labels."""
    for number, split in enumerate(SPLITS):
        image, label = case("mr", number)
        kept = None if number == 4 else label
        yield Item(f"s{number}", f"p{number}", "ct", split, -image, kept, lo=-1000.0, hi=1000.0)
        if number != 5:
            yield Item(f"s{number}", f"p{number}", "mr", split, image, kept, lo=0.0, hi=100.0 + number)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("pairs") / "store", name="pairs", labels={1: "square"},
                       domains={"mr": {"modality": "MR"}, "ct": CT}, digest="pairs", items=items())  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


def experiment(**settings):
    small = {"width": 0.25, "discriminator_layers": 1, "learning_rate": 2e-3}
    return Experiment("pairs", {"A": "mr", "B": "ct"}, arm="offline",
                      method=Choice("paired_translation", {**small, **settings}), mixing=Mixing(pretrain=0.0),
                      downstream=UNET, sampling=Sampling(2, (16, 16), 0.0),
                      budget=Budget(segmentor_steps=4, generator_steps=40, batch=2, validations=1))  # fmt: skip


@pytest.fixture(scope="module")
def found(store, workspace):
    """adversarial_weight -> the stages and what they came to."""
    stages = {w: Stages(workspace, store.path, experiment(adversarial_weight=w)) for w in (0.0, 0.01)}
    return {weight: (one, outcome_of(one)) for weight, one in stages.items()}


@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_images_are_measured_beside_their_own_real_ones_and_used(weight, store, found):
    stages, outcome = found[weight]
    rows = {row.metric: [] for row in outcome.scores}
    for row in outcome.scores:
        rows[row.metric].append(row)
    for name in ("mae", "mae_hu", "psnr", "ms_ssim"):
        assert {row.patient for row in rows[f"synthesis/{name}"]} == {"p3", "p4"}  # p4 has no label, p5 no MR
        assert {row.label for row in rows[f"synthesis/{name}"]} == {"ct"}
    assert outcome.summary["synthesis/mae_hu"] == pytest.approx(1000 * outcome.summary["synthesis/mae"])
    assert outcome.summary["synthesis/mae"] < 0.5  # of an untrained one it is about 0.65
    assert 0 <= outcome.summary["val/dice"] <= 1
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    assert sorted(record.patient for record in made.records()) == ["p0", "p1", "p2"]
    for record, source in zip(made.records(), store.records("mr", "train"), strict=True):
        assert record.domain == "ct"
        assert np.array_equal(made.label(record), store.label(source))


def test_the_numbers_are_those_of_the_images_that_the_generator_makes(store, found):
    stages, outcome = found[0.0]
    source, truth = (store.records(domain, "val")[0] for domain in ("mr", "ct"))
    method = stages.method(stages.fit())
    made = synthesize_volume(method, store.image(source), "A", stages.experiment.sampling)["B", "translated"]
    expected = measures_of(PairedCase(made, store.image(truth), store.image(source), 2000.0))
    assert {
        row.metric.partition("/")[2]: row.value
        for row in outcome.scores
        if row.patient == truth.patient and row.metric.partition("/")[2] in expected
    } == pytest.approx(expected)


def test_hounsfield_units_are_only_where_a_window_fixes_them(store, found, monkeypatch):
    stages, _ = found[0.0]
    method = stages.method(stages.fit())
    for description in ({**CT, "modality": "MR"}, {**CT, "intensity": {"rule": "percentile"}}):
        monkeypatch.setitem(store.domains, "ct", description)
        for row in score_pairs(method, stages.experiment, store, "val", stages.device()):
            assert row["measures"].keys() == {"mae", "psnr", "ms_ssim"}


def test_the_table_has_the_measures_in_one_column(found):
    trials = [
        TrialResult(f"t{weight}", stages.experiment, "finished", scores=outcome.scores, summary=outcome.summary)
        for weight, (stages, outcome) in found.items()
    ]
    table = ablation_table(trials)
    assert headers(table).count("to the real") == 1
    assert "healthy" not in headers(table)
    for row in brief(table):
        assert [part.rpartition(" ")[0] for part in row["to the real"].split(", ")] == ["MAE HU", "PSNR", "MS-SSIM"]


def test_the_stage_lies_beside_the_others_and_holds_pseudonyms_only(found):
    stages, _ = found[0.0]
    (stage,) = [stage for stage in stages.artefacts.finished.values() if stage.kind == "paired"]
    rows = json.loads((stage.directory / SCORES).read_text())["rows"]
    assert [(row["subject"], row["patient"], row["domain"]) for row in rows] == [("s3", "p3", "ct"), ("s4", "p4", "ct")]
