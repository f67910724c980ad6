"""Promotion of real, tiny sweeps: the only reading of the test split, a verdict either way, a champion that works."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from ganatomy.contracts import InputError
from ganatomy.evidence.results import (
    conclude,
    outstanding,
    read_plan,
    read_results,
    write_result,
)
from ganatomy.generators.generator import load_generator
from ganatomy.generators.registry import Registry
from ganatomy.measures.families import reading_level
from ganatomy.promotion import examination as room
from ganatomy.promotion.gate import Verdict
from ganatomy.promotion.ledger import LEDGER
from ganatomy.promotion.promotion import outlook, promote
from ganatomy.stages import stages as stages_room
from ganatomy.stores.store import open_store
from ganatomy.tracking.runs import Tracking
from promotion.squares import SPLITS, mlflow_run, readings, scored_splits, sweeps_of_squares

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, empty_database) -> Path:
    """A workspace with the sweeps ``helps``, ``fails`` and ``real-only``."""
    workspace = tmp_path_factory.mktemp("laboratory")
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    sweeps_of_squares(workspace)
    return workspace


@pytest.fixture(scope="module")
def champion(laboratory):
    """What promoting the sweep that helps left."""
    said = []
    return promote(laboratory, "helps", "squares", say=said.append), said


@pytest.fixture
def one_volume(monkeypatch):
    """Integrity starts a process for each volume; one shows as much where it is not the point."""
    monkeypatch.setattr(room, "INTEGRITY_VOLUMES", 1)


# --- before anything is promoted ---------------------------------------------------------------------------------


@pytest.fixture
def unfinished(laboratory) -> Iterator[Path]:
    """The sweep that fails, of whose six trials four have ended; it is as it was afterwards."""
    directory = laboratory / "sweeps" / "fails"
    before = (directory / "sweep.json").read_text()
    replace(read_plan(directory), trials=6).save(directory)
    yield directory
    (directory / "sweep.json").write_text(before)


def test_a_sweep_with_trials_outstanding_is_refused_before_anything_is_read(laboratory, unfinished):
    before = {path: path.stat().st_mtime_ns for path in laboratory.rglob("*") if path.suffix != ".db"}
    with pytest.raises(InputError, match=r"'fails' has 2 of 6 trials outstanding") as refused:
        promote(laboratory, "fails", "squares", force="a reason to force is none to begin")
    assert "--resume fails" in str(refused.value)
    assert "--as-it-stands REASON" in str(refused.value)
    assert {path: path.stat().st_mtime_ns for path in laboratory.rglob("*") if path.suffix != ".db"} == before


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_sweep_is_not_judged_as_it_stands_without_a_reason(laboratory, unfinished, reason):
    with pytest.raises(InputError, match="without a reason"):
        promote(laboratory, "fails", "squares", as_it_stands=reason)
    assert not readings(laboratory, "fails")


def test_running_and_failed_trials_are_outstanding_until_the_sweep_has_noted_their_end(laboratory, tmp_path):
    plan, (result, *_) = read_plan(laboratory / "sweeps" / "fails"), read_results(laboratory / "sweeps" / "fails")
    for number, status in enumerate(("finished", "pruned", "running", "failed", "failed")):
        write_result(tmp_path / "trials" / str(number), replace(result, trial=str(number), status=status))
    conclude(tmp_path, "4")
    assert outstanding(tmp_path, replace(plan, trials=6)) == 3  # running, failed for now, not begun


def test_no_trial_has_read_the_test_split(laboratory):
    assert scored_splits(laboratory).keys() == {"val"}
    assert not readings(laboratory, "helps")


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_forced_promotion_without_a_reason_is_refused_before_the_test_split_is_read(laboratory, reason):
    with pytest.raises(InputError, match="without a reason"):
        promote(laboratory, "fails", "squares", force=reason)
    assert not readings(laboratory, "fails")


@pytest.mark.parametrize("name", ["", "a/b", "models:/x", "x@champion", "a\nb", "<i>x</i>", "%2e%2e", "../../x"])
def test_a_name_that_no_model_can_have_is_refused_before_the_test_split_is_read(laboratory, name):
    with pytest.raises(InputError, match="model name"):
        promote(laboratory, "fails", name)
    assert not readings(laboratory, "fails")


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [("high: 1\n", "high: 2\n", "ct, mr"), ("spacing: null", "spacing: [1, 1, 2]", "spacing"),
     ("1: square", "1: disc", "labels")],
)  # fmt: skip
def test_a_cohort_whose_rules_were_changed_since_is_refused_before_the_test_split_is_read(
    laboratory, line, instead, said
):
    file = laboratory / "cohort" / "cohort.yaml"
    before = file.read_text()
    assert line in before
    file.write_text(before.replace(line, instead))
    try:
        with pytest.raises(InputError, match=f"cohort.yaml was changed after the sweep: {said};"):
            promote(laboratory, "helps", "squares")
    finally:
        file.write_text(before)
    assert not readings(laboratory, "helps")


def test_nothing_to_compare_is_refused_before_the_test_split_is_read(laboratory):
    with pytest.raises(InputError, match="no finished trial of arm offline or joint"):
        promote(laboratory, "real-only", "squares")
    assert not readings(laboratory, "real-only")


def test_an_unknown_sweep_is_answered_with_the_nearest(laboratory):
    with pytest.raises(InputError, match="did you mean 'helps'"):
        promote(laboratory, "help", "squares")


def test_what_would_be_read_is_said_and_nothing_is_read_or_written(laboratory):
    before = {path: path.stat().st_mtime_ns for path in laboratory.rglob("*") if path.suffix != ".db"}
    said = outlook(laboratory, "helps")
    assert (said.number, said.judges, said.domain, said.earlier) == (1, SPLITS["test"], "mr", ())
    assert said.level == reading_level(1)
    assert said.candidate.startswith("offline")
    assert said.confirmed
    assert "judged by what helps-confirmation trained again: 3 trainings against 3, which chose nothing" in said.text()
    assert "reading 1 of these 12 test patients of domain mr, judged at a one-sided level of 2.74%" in said.text()
    assert {path: path.stat().st_mtime_ns for path in laboratory.rglob("*") if path.suffix != ".db"} == before
    assert scored_splits(laboratory).keys() == {"val"}


def test_a_ledger_that_cannot_be_written_or_read_stops_it_before_the_test_split_is_read(laboratory):
    ledger = laboratory / "cohort" / LEDGER
    ledger.mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        promote(laboratory, "helps", "squares")
    ledger.rmdir()
    ledger.write_text("nonsense\n")
    with pytest.raises(InputError, match="is damaged: line 1 is no JSON"):
        promote(laboratory, "helps", "squares")
    ledger.unlink()
    assert scored_splits(laboratory).keys() == {"val"}


# --- promoted ----------------------------------------------------------------------------------------------------


def test_what_helps_is_promoted_with_every_gate_in_figures(laboratory, champion):
    promotion, said = champion
    verdict = promotion.verdict
    assert [gate.name for gate in verdict.gates] == ["utility", "memorisation", "lineage", "integrity"]
    assert verdict.promoted, verdict.text()
    assert verdict.forced == ""
    assert promotion.version == 1
    figures = {gate.name: gate.figures for gate in verdict.gates}
    assert figures["utility"]["patients"] == SPLITS["test"]
    assert figures["utility"]["low"] > 0
    assert (figures["utility"]["trainings"], figures["utility"]["baseline_trainings"]) == (3, 3)
    assert figures["lineage"] | {"parents": 8} == figures["lineage"]
    assert figures["lineage"]["held_out"] == 2 * SPLITS["test"]
    assert figures["integrity"]["volumes"] == 3
    assert figures["integrity"]["largest_difference"] <= 1e-6
    assert said[0].startswith("candidate: offline")


def test_the_verdict_is_on_disk_in_mlflow_and_in_the_bundle(laboratory, champion):
    promotion, _ = champion
    stored = json.loads((laboratory / "sweeps" / "helps" / "verdict.json").read_text())
    assert Verdict.from_dict(stored) == Verdict.from_dict(promotion.verdict.to_dict())
    client, run = mlflow_run(laboratory, "helps")
    assert run.data.tags["verdict"] == promotion.verdict.sentence
    assert promotion.verdict.sentence in run.data.tags["mlflow.note.content"]
    assert run.data.tags["registered_model"] == "squares version 1"
    version = client.get_model_version("squares", "1")
    assert version.tags["verdict"] == "promoted"
    assert version.description.startswith("Promoted: all gates passed.")
    assert run.data.metrics["gate/promoted"] == 1
    assert run.data.metrics["gate/utility/low"] == promotion.verdict.gates[0].figures["low"]
    text = Path(client.download_artifacts(run.info.run_id, "verdict.json", str(promotion.bundle.parent))).read_text()
    assert json.loads(text) == stored
    report = json.loads((promotion.bundle / "report.json").read_text())
    assert report["verdict"]["promoted"] is True
    assert "shown to help" in (promotion.bundle / "MODEL_CARD.md").read_text()


def test_the_test_split_is_read_for_the_two_compared_alone_and_that_is_recorded(laboratory, champion):
    (reading,) = readings(laboratory, "helps")
    assert len(reading["configurations"]) == 2
    _, run = mlflow_run(laboratory, "helps")
    assert run.data.tags["test_read"] >= reading["time"]
    fresh = read_results(laboratory / "sweeps" / "helps-confirmation")
    compared = {result.stages["downstream"] for result in fresh}
    assert len(compared) == 6  # both arms, three seeds that the search did not have
    assert scored_splits(laboratory)["test"] == compared


def test_what_is_registered_is_the_training_in_the_middle_and_its_card_says_what_the_others_gave(laboratory, champion):
    promotion, _ = champion
    fresh = read_results(laboratory / "sweeps" / "helps-confirmation")
    offline = sorted((r for r in fresh if r.experiment.arm == "offline"), key=lambda r: r.summary["val/dice"])
    assert promotion.bundle.name == offline[1].trial
    (version,) = Registry(Tracking(None, laboratory)).versions("squares")[:1]
    assert version.run_id == offline[1].run_id
    assert version.tags["digest"] == load_generator(promotion.bundle).digest
    trained = json.loads((promotion.bundle / "report.json").read_text())["trainings"]
    assert trained["registered_seed"] == offline[1].experiment.seed
    assert trained["by_seed"] == {str(r.experiment.seed): r.summary["val/dice"] for r in offline}
    card = (promotion.bundle / "MODEL_CARD.md").read_text()
    assert all(f"{r.summary['val/dice']:.3f} (seed {r.experiment.seed}" in card for r in offline)


def test_the_page_of_the_sweep_tells_of_confirmation_and_promotion_in_mlflow_too(laboratory, champion, tmp_path):
    promotion, _ = champion
    client, run = mlflow_run(laboratory, "helps")
    page = Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))).read_text()
    assert html.escape(promotion.verdict.sentence) in page
    assert "when it was chosen" in page
    assert "cohort: cohort" in page
    assert str(laboratory) not in page  # where it lies is nobody's business there
    assert all(html.escape(gate.sentence) in page for gate in promotion.verdict.gates)


ELSEWHERE = """
import sys
import mlflow.pyfunc
import numpy as np
model = mlflow.pyfunc.load_model("models:/squares@champion")
np.save(sys.argv[2], model.predict(np.load(sys.argv[1]), params={"source": "ct", "target": "mr"}))
"""


def test_the_champion_loads_in_a_process_that_has_only_the_package(laboratory, champion, tmp_path):
    promotion, _ = champion
    generator = load_generator(promotion.bundle)
    store = open_store(read_plan(laboratory / "sweeps" / "helps").store)
    image = store.image(store.records("ct", "test")[0])
    np.save(tmp_path / "in.npy", image[:, None])  # [slices, 1, H, W]
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": Tracking(None, laboratory).uri}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "out.npy")[:, 0]
    assert np.abs(made - generator.synthesize(image, "A")["B"]).max() <= 1e-6


def test_promoting_again_registers_nothing_new_but_is_recorded(laboratory, champion):
    promotion, _ = champion
    again = promote(laboratory, "helps", "squares")
    assert again.version == promotion.version
    assert len(Registry(Tracking(None, laboratory)).versions("squares")) == 1
    assert len(readings(laboratory, "helps")) == 2
    assert "reading 1 of these 12 test patients, judged at a one-sided level of 2.74%" in promotion.verdict.sentence
    assert "more than synthetic data: downstream.learning_rate 0.01 against 1e-08" in promotion.verdict.text()
    assert "reading 2 of these 12 test patients, judged at a one-sided level of 0.68%" in again.verdict.sentence
    before = [reading.verdict for reading in outlook(laboratory, "fails").earlier]
    assert before == [json.loads(done.verdict.to_json()) for done in (promotion, again)]  # of whatever sweep, all kept
    client, run = mlflow_run(laboratory, "helps")
    assert run.data.tags["test_reading"] == "reading 2 of these 12 test patients"
    kept = {file.path for file in client.list_artifacts(run.info.run_id, "verdicts")}
    assert kept == {"verdicts/reading-1.json", "verdicts/reading-2.json"}
    copy = client.download_artifacts(run.info.run_id, LEDGER, str(promotion.bundle.parent))
    assert Path(copy).read_text() == (laboratory / "cohort" / LEDGER).read_text()


# --- not promoted, forced, rolled back ---------------------------------------------------------------------------


def test_what_harms_is_said_plainly_and_nothing_moves(laboratory, champion, one_volume):
    promotion = promote(laboratory, "fails", "squares")
    assert not promotion.verdict.promoted
    assert promotion.version is None
    assert "utility" in promotion.verdict.failed
    assert promotion.verdict.sentence.startswith("Not promoted: the synthetic data is shown to harm.")
    assert load_generator(promotion.bundle)  # kept all the same
    stored = json.loads((laboratory / "sweeps" / "fails" / "verdict.json").read_text())
    assert stored["promoted"] is False
    _, run = mlflow_run(laboratory, "fails")
    assert run.data.tags["verdict"] == promotion.verdict.sentence
    assert run.data.tags["registered_model"] == "none"
    assert run.data.metrics["gate/promoted"] == 0
    assert Registry(Tracking(None, laboratory)).find("models:/squares@champion").number == 1


def test_a_sweep_judged_as_it_stands_says_so_and_why(laboratory, unfinished, one_volume):
    verdict = promote(laboratory, "fails", "squares", as_it_stands=" the cluster is gone ").verdict
    assert not verdict.promoted
    assert (verdict.outstanding, verdict.as_it_stands) == (2, "the cluster is gone")
    assert "while 2 trials were outstanding. Reason given: the cluster is gone" in verdict.sentence
    stored = json.loads((unfinished / "verdict.json").read_text())
    assert (stored["outstanding"], stored["as_it_stands"]) == (2, "the cluster is gone")
    assert Verdict.from_dict(stored) == verdict


def test_force_promotes_with_its_reason_recorded_and_rollback_takes_it_back(laboratory, champion, one_volume):
    registry = Registry(Tracking(None, laboratory))
    promotion = promote(laboratory, "fails", "squares", force="a colleague wants to look at it")
    assert promotion.verdict.promoted
    assert promotion.version == 2
    version = registry.find("models:/squares@champion")
    assert version.tags["verdict"] == "forced"
    assert "a colleague wants to look at it" in version.tags["judged"]
    shown = Tracking(None, laboratory).client.get_model_version("squares", "2").description
    assert shown.startswith("Forced: a colleague wants to look at it\n\n# Generator: ct to mr")
    assert "a colleague wants to look at it" in (promotion.bundle / "MODEL_CARD.md").read_text()
    assert registry.find("models:/squares@champion").number == 2
    assert registry.find("models:/squares@previous").number == 1
    assert registry.rollback("squares") == 1
    assert registry.find("models:/squares@champion").number == 1


def test_a_generator_that_saw_a_test_patient_is_not_promoted(laboratory, champion, one_volume, monkeypatch):
    """Lineage is read from what the generator and its synthetic set say of themselves."""
    really = stages_room.Stages.synthesised

    def leak(self):
        stage = really(self)
        records = open_store(stage.directory / "synthetic").records()
        object.__setattr__(records[0], "patient", self.store.records("mr", "test")[0].patient)
        monkeypatch.setattr(
            "ganatomy.promotion.examination.open_store", lambda path: _Leaking(open_store(path), records)
        )
        return stage

    monkeypatch.setattr(stages_room.Stages, "synthesised", leak)
    promotion = promote(laboratory, "helps", "leaky")
    assert promotion.verdict.failed == ("lineage",)
    assert promotion.version is None


class _Leaking:
    """A store whose records are other ones."""

    def __init__(self, store, records):
        self.store, self._records = store, records

    def __getattr__(self, name):
        return getattr(self.store, name)

    def records(self, *choice):
        return self._records if not choice else self.store.records(*choice)


def test_few_test_patients_show_nothing(laboratory, champion, one_volume, monkeypatch):
    really = room.Bench._scores

    def of_four(*asked):
        several = really(*asked)
        four = list(dict.fromkeys(row.patient for row in several[0]))[:4]
        return [[row for row in rows if row.patient in four] for rows in several]

    monkeypatch.setattr(room.Bench, "_scores", of_four)
    verdict = promote(laboratory, "helps", "few").verdict
    assert verdict.failed == ("utility",)
    assert "no verdict, 4 patients of 6 that it takes" in verdict.gates[0].sentence


def test_the_sweeps_plan_is_not_touched(laboratory):
    plan = json.loads((laboratory / "sweeps" / "helps" / "sweep.json").read_text())
    assert plan["seeds"] == [0, 1]
    assert replace(tiny.EXPERIMENT).to_dict() == plan["base"]
