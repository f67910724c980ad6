"""A generator borrowed from another cohort is promoted where it is used, and knows whom it learnt from there."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import radiographs
import tiny
import torch

from ganatomy.cli import main
from ganatomy.cohorts.pseudonyms import KEY, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.evidence.results import SweepPlan, read_plan, read_results
from ganatomy.generation.lesions import generate_lesions
from ganatomy.generators.generator import load_generator
from ganatomy.phantoms.bones import make_bone_cohort
from ganatomy.promotion import memorisation as room
from ganatomy.promotion.examination import Bench
from ganatomy.promotion.promotion import promote
from ganatomy.search_space import SearchSpace
from ganatomy.stages.lesion_patches import part
from ganatomy.stages.stages import Stages
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import open_store
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.runs import Tracking
from ganatomy.training import tasks

BASE = radiographs.EXPERIMENT.with_values({"method.patch_side": 16, "method.normals": 2, "method.crops": 1})
BORROWED = BASE.with_values({"transfer.generator": "humerus-phantom", "transfer.settings.width": 0.0625})
COUNTS = {"lesion": (4, 3, 4), "normal": (8, 4, 6)}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, empty_database):
    """Femurs with a generator that learnt on humeri; one of their test patients is among its teachers."""
    workspace = tmp_path_factory.mktemp("laboratory")
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    humeri = replace(make_bone_cohort(workspace / "humeri", patients=COUNTS, shape=(48, 32)), licence="theirs").save()
    taught = prepare(humeri, workspace / "stores")
    plan = SweepPlan("humeri", "films", BASE, str(taught.path), str(humeri.path), taught.digest, trials=1)
    plan.save(workspace / "sweeps" / "humeri")
    parting, names = part(taught, BASE), pseudonyms_of(humeri.path)
    both = parting.records[next(iter(parting.boxes))].patient
    patient = next(row.patient for row in humeri.rows if names(row.patient) == both)
    femora = make_bone_cohort(workspace / "femora", part="femur", patients=COUNTS, shape=(48, 32))
    known = next(row for row in femora.rows if row.split == "test" and row.klass == "normal")
    rows = tuple(replace(row, patient=patient) if row is known else row for row in femora.rows)
    femora = replace(femora, rows=rows, licence="ours").save()
    store = prepare(femora, workspace / "stores")
    plan = SweepPlan("femora", "films", BORROWED, str(store.path), str(femora.path), store.digest, trials=2,
                     run_id=Tracking(None, workspace).sweep_run("femora"))  # fmt: skip
    plan.save(workspace / "sweeps" / "femora")
    space = SearchSpace("films", "", BORROWED, lambda suggest: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "sheet", tiny._dot)
        for arm in ("real", "offline"):
            run_trial({"arm": arm, "seed": 0}, plan, space, workspace, arm, lambda metrics: None)
        promotion = promote(workspace, "femora", "femur-lesions", force="a test")
    return workspace, taught, store, patient, promotion


def test_patients_of_two_phantoms_are_different_people(laboratory):
    workspace, taught, store, patient, _ = laboratory
    people = [set(read_cohort(workspace / name).patients()) for name in ("humeri", "femora")]
    assert people[0] & people[1] == {patient}
    shown = [{record.patient for record in one.records()} for one in (taught, store)]
    assert not shown[0] & shown[1]  # each under its own key


def test_it_knows_who_taught_it_and_whose_images_it_is_for(laboratory):
    _, taught, store, _, promotion = laboratory
    generator, parting = load_generator(promotion.bundle), part(taught, BASE)
    teachers = {parting.records[name].patient for name in (*parting.boxes, *parting.negatives)}
    assert generator.fingerprint["cohort"] == {"name": taught.name, "digest": taught.digest, "key": taught.key}
    assert set(generator.fingerprint["patients"]) == teachers
    assert generator.rules.name == generator.experiment.cohort == store.name
    assert generator.rules.licence == "ours; theirs"
    card = (promotion.bundle / "MODEL_CARD.md").read_text()
    assert taught.name in card
    assert f"on cohort `{store.name}`" in card


def test_a_judge_who_taught_it_elsewhere_is_found(laboratory):
    workspace, _, _, patient, promotion = laboratory
    gates = {gate.name: gate for gate in promotion.verdict.gates}
    assert gates["lineage"].figures["shared"] == pseudonyms_of(workspace / "humeri")(patient)
    assert not gates["lineage"].passed
    assert gates["integrity"].passed
    fingerprint = load_generator(promotion.bundle).fingerprint
    assert gates["lineage"].figures["parents"] > len(fingerprint["patients"])  # and those who received lesions here


def test_a_lesion_of_the_other_cohort_that_it_repeats_is_found(laboratory, monkeypatch):
    workspace, taught, store, _, _ = laboratory
    result = next(r for r in read_results(workspace / "sweeps" / "femora") if r.experiment.arm == "offline")
    bench = Bench(
        workspace, SweepPlan("femora", "films", BORROWED, str(store.path), str(workspace / "femora"), "", 1), print
    )
    stages = Stages(workspace, store.path, result.experiment)
    patches = open_store(Stages(workspace, taught.path, BASE).patches().directory / "patches")
    stolen = next(patches.image(r) for r in patches.records(split="train") if r.attributes["class"] == "lesion")

    class Thief:
        def cut(self, image, window):
            return torch.from_numpy(np.array(stolen))

    assert bench.memorisation(stages).figures["copies"] == 0
    monkeypatch.setattr(room, "rules_of", lambda experiment: Thief())
    assert bench.memorisation(stages).figures["copies"] > 0


def test_who_taught_it_elsewhere_receives_no_lesion(laboratory, tmp_path):
    workspace, _, _, patient, promotion = laboratory
    femora, generator = read_cohort(workspace / "femora"), load_generator(promotion.bundle)
    given = {}
    for out, taught in (("known", pseudonyms_of(workspace / "humeri")), ("unknown", None)):
        generate_lesions(generator, femora, tmp_path / out, taught=taught, keep_names=True)
        given[out] = {row.patient for row in read_cohort(tmp_path / out).rows}
    assert patient not in given["known"]
    assert patient in given["unknown"]  # without the teacher's key nobody can tell


def test_the_command_knows_who_taught_it_by_the_sweeps_of_its_workspace(laboratory, tmp_path, capsys):
    workspace, _, _, patient, promotion = laboratory
    command = ["generate", str(promotion.bundle), "--cohort", str(workspace / "femora"), "--keep-names"]
    for at, told in ((workspace, False), (tmp_path, True)):
        out = tmp_path / f"made-{told}"
        assert main([*command, "--out", str(out), "--workspace", str(at)]) == 0
        assert ("under another key" in capsys.readouterr().err) is told
        assert (patient in {row.patient for row in read_cohort(out).rows}) is told


def test_lineage_is_not_passed_where_the_teachers_key_is_gone(laboratory):
    workspace, _, store, _, promotion = laboratory
    result = next(r for r in read_results(workspace / "sweeps" / "femora") if r.experiment.arm == "offline")
    bench = Bench(workspace, read_plan(workspace / "sweeps" / "femora"), print)
    key = workspace / "humeri" / KEY
    kept = key.read_text()
    key.unlink()
    gate = bench.lineage(load_generator(promotion.bundle), Stages(workspace, store.path, result.experiment))
    key.write_text(kept)
    assert not gate.passed
    assert "Could not be checked" in gate.sentence
