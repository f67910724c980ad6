"""A sweep of classifiers is promoted by its area on test patients; a copied lesion is looked for among lesions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import radiographs
import tiny
import torch

from ganatomy.downstream.classification import patients_area
from ganatomy.evidence.results import SweepPlan, read_results
from ganatomy.generators.generator import load_generator
from ganatomy.measures import roc
from ganatomy.measures.roc import predictions
from ganatomy.phantoms.bones import make_bone_cohort
from ganatomy.promotion import examination, memorisation
from ganatomy.promotion.promotion import promote
from ganatomy.search_space import SearchSpace
from ganatomy.stages.lesion_patches import part
from ganatomy.stages.stages import Stages
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import open_store
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.runs import Tracking
from ganatomy.training import tasks

OFFLINE = radiographs.EXPERIMENT.with_values({"method.patch_side": 16, "method.normals": 2, "method.crops": 1})
SPACE = SearchSpace("films", "", OFFLINE, lambda suggest: None)
COUNTS = {"lesion": (4, 3, 4), "normal": (8, 4, 6)}


@pytest.fixture(scope="module")
def promoted(tmp_path_factory, empty_database):
    """A sweep of two arms, forced through the gates, which are judged all the same."""
    workspace = tmp_path_factory.mktemp("laboratory")
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    cohort = make_bone_cohort(workspace / "cohort", patients=COUNTS, shape=(48, 32))
    store = prepare(cohort, workspace / "stores")
    plan = SweepPlan("films", "films", OFFLINE, str(store.path), str(cohort.path), store.digest, trials=2,
                     run_id=Tracking(None, workspace).sweep_run("films"))  # fmt: skip
    plan.save(workspace / "sweeps" / "films")
    for arm in ("real", "offline"):
        run_trial({"arm": arm, "seed": 0}, plan, SPACE, workspace, arm, lambda metrics: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination, "INTEGRITY_VOLUMES", 1)
        return workspace, store, promote(workspace, "films", "lesions", force="a test")


def test_its_utility_is_the_area_on_test_patients(promoted):
    workspace, store, promotion = promoted
    gates = {gate.name: gate for gate in promotion.verdict.gates}
    assert "AUC points" in gates["utility"].sentence
    results = {result.experiment.arm: result for result in read_results(workspace / "sweeps" / "films")}
    found = {}
    for arm, result in results.items():
        scores = Stages(workspace, store.path, result.experiment).scores("test")
        assert {row.subject for row in scores} == {i.subject for i in store.records(split="test")}
        found[arm] = patients_area(predictions([scores]))
    assert gates["utility"].figures["difference"] == pytest.approx(found["offline"] - found["real"])
    assert gates["utility"].figures["answer"] == "no verdict"  # forced, and so by what it was chosen by
    assert "whose luck counts in its favour" in gates["utility"].sentence


def test_operating_points_are_chosen_on_validation_and_read_on_test(promoted):
    workspace, store, promotion = promoted
    said = json.loads((promotion.bundle / "report.json").read_text())["operating_points"]
    for result in read_results(workspace / "sweeps" / "films"):
        kind = {"real": "baseline", "offline": "candidate"}[result.experiment.arm]
        seen = predictions([result.scores])
        chosen = roc.operating_point(seen.probabilities[0], seen.truth)
        held = predictions([Stages(workspace, store.path, result.experiment).scores("test")])
        called = held.probabilities[0] >= chosen.threshold
        assert said[kind]["sensitivity"] == pytest.approx(called[held.truth].mean())
        assert said[kind]["specificity"] == pytest.approx((~called[~held.truth]).mean())
        assert said[kind]["auc"] == pytest.approx(patients_area(held))
        assert said[kind]["low"] is None  # one training: nothing tells its luck
    page = (workspace / "sweeps" / "films" / "report.html").read_text()
    assert "candidate: sensitivity" in page
    assert "baseline: auc" in page


def test_all_gates_are_judged_and_the_bundle_knows_who_trained_it(promoted):
    _workspace, store, promotion = promoted
    gates = {gate.name: gate for gate in promotion.verdict.gates}
    assert gates["integrity"].passed
    assert gates["lineage"].passed
    assert gates["memorisation"].figures["synthetic_images"] == 4 * 2
    generator = load_generator(promotion.bundle)
    parting = part(store, generator.experiment)
    taught = {parting.records[name].patient for name in (*parting.boxes, *parting.negatives)}
    assert set(generator.fingerprint["patients"]) == taught


def test_a_generator_that_pastes_a_training_lesion_is_found_out(promoted, tmp_path, monkeypatch):
    """Instead of what it makes, every film receives the same lesion that the generator was trained on."""
    workspace, store, _ = promoted
    result = next(r for r in read_results(workspace / "sweeps" / "films") if r.experiment.arm == "offline")
    stages = Stages(workspace, store.path, result.experiment)
    patches = open_store(stages.patches().directory / "patches")
    stolen = next(patches.image(r) for r in patches.records(split="train") if r.attributes["class"] == "lesion")

    class Thief:
        def cut(self, image, window):
            return torch.from_numpy(np.array(stolen))

    assert memorisation.examine(stages, {}).figures["copies"] == 0
    monkeypatch.setattr(memorisation, "rules_of", lambda experiment: Thief())
    caught = memorisation.examine(stages, {})
    assert not caught.passed
    assert caught.figures["copies"] > 0


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "sheet", tiny._dot)
        yield
