"""What the driver records of trials that know no MLflow, whether its server is there or not."""

from __future__ import annotations

import time

import pytest
import tiny

from ganatomy.contracts import InputError
from ganatomy.evidence.results import RESULT, SweepPlan, conclude, read_result, write_result
from ganatomy.experiment import TrialResult
from ganatomy.sweeps.recording import Recording
from ganatomy.sweeps.trial import JOURNAL, NAME
from ganatomy.tracking.journal import RunLog
from ganatomy.tracking.runs import Tracking

EXPERIMENT = tiny.EXPERIMENT


class Away(Tracking):
    """The store of a workspace behind a server that does not answer while ``away``."""

    away = True

    def ask(self, call):
        if Away.away:
            raise InputError("tracking server http://there is away", remedy="start it again")
        return super().ask(call)


class Driving:
    def __init__(self, workspace, kind=Tracking):
        self.tracking = Tracking(None, workspace)
        self.plan = SweepPlan(
            "sweep", "tiny", EXPERIMENT, "", "mine", "", trials=2, run_id=self.tracking.sweep_run("s")
        )
        self.directory, self.kind, self.said = workspace / "sweeps" / "sweep", kind, []
        Away.away = False
        self.behind = kind(None, workspace)
        Away.away = True

    def recording(self, earlier=()):
        return Recording(self.plan, self.directory, self.behind, self.said.append, earlier)

    def trial(self, name: str) -> RunLog:
        """What a trial's process leaves when it begins."""
        folder = self.directory / "trials" / name
        folder.mkdir(parents=True)
        (folder / NAME).write_text(f"trial {name}")
        journal = RunLog(folder / JOURNAL)
        write_result(folder, TrialResult(name, EXPERIMENT))
        return journal

    def result(self, name: str) -> TrialResult:
        return read_result(self.directory / "trials" / name / RESULT)

    def finish(self, name: str) -> TrialResult:
        result = TrialResult(name, EXPERIMENT, "finished", summary={"val/dice": 0.5})
        write_result(self.directory / "trials" / name, result)
        return result

    def run(self, name: str):
        tags = f"tags.kind = 'trial' and tags.trial_id = '{name}'"
        found = self.tracking.client.search_runs([self.tracking.experiment_id], tags)
        assert len(found) <= 1
        return found[0] if found else None


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    assert holds()


def test_what_a_running_trial_reports_is_seen_while_it_runs(workspace):
    driving = Driving(workspace)
    recording = driving.recording()
    recording.begin("t1")
    recording.begin("t2")  # whose process has not come so far
    journal = driving.trial("t1")
    journal.metrics({"train/loss": 0.5}, 3)
    until(lambda: driving.run("t1") and driving.run("t1").data.metrics == {"train/loss": 0.5})
    assert driving.run("t1").info.status == "RUNNING"
    assert driving.run("t1").info.run_name == "sweep · trial t1"
    journal.metrics({"val/dice": 0.25}, 4)
    until(lambda: "val/dice" in driving.run("t1").data.metrics)
    journal.tags({"last": "word"})
    recording.end(driving.finish("t1"))
    run = driving.run("t1")
    assert (run.info.status, run.data.tags["last"], run.data.tags["status"]) == ("FINISHED", "word", "finished")
    assert driving.result("t1").run_id == run.info.run_id
    assert recording.finish(10) == 0
    assert driving.run("t2") is None
    assert driving.said == []


def test_a_server_that_is_away_is_waited_for_by_nobody(workspace):
    driving = Driving(workspace, Away)
    recording = driving.recording()
    for name in ("t1", "t2"):
        recording.begin(name)
        driving.trial(name).metrics({"train/loss": 0.5}, 3)
    start = time.monotonic()
    recording.end(driving.finish("t1"))
    assert time.monotonic() - start < 5
    assert (driving.run("t1"), driving.result("t1").run_id) == (None, "")
    until(lambda: driving.said)
    Away.away = False
    until(lambda: driving.result("t1").run_id and driving.run("t2"))
    until(lambda: driving.run("t1").info.status == "FINISHED")
    assert driving.run("t1").data.metrics == {"train/loss": 0.5}
    assert len(driving.said) == 1, "said once"
    assert "is away" in driving.said[0]
    assert recording.finish(10) == 0


def test_what_an_earlier_driver_could_not_record_a_resumed_sweep_does(workspace):
    driving = Driving(workspace, Away)
    driving.trial("t1").metrics({"train/loss": 0.5}, 3)
    recording = driving.recording()
    recording.end(driving.finish("t1"))
    conclude(driving.directory, "t1")
    assert recording.finish(0.5) == 1
    Away.away = False
    again = driving.recording([driving.result("t1")])
    assert again.finish(10) == 0
    run = driving.run("t1")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"train/loss": 0.5})
    assert driving.result("t1").run_id == run.info.run_id
    assert driving.recording([driving.result("t1")]).finish(10) == 0


def test_one_trial_that_cannot_be_recorded_holds_up_no_other(workspace):
    driving = Driving(workspace)
    recording = driving.recording()
    driving.trial("t1").metrics({"train/loss": 0.5}, 3)
    (driving.directory / "trials" / "t1" / NAME).unlink()
    driving.trial("t2").metrics({"train/loss": 0.25}, 3)
    recording.begin("t1")
    recording.begin("t2")
    until(lambda: driving.run("t2") and driving.run("t2").data.metrics == {"train/loss": 0.25})
    assert driving.run("t1") is None
    assert "FileNotFoundError" in driving.said[0]
    recording.finish(1)


def test_a_trial_that_failed_before_it_began_has_no_run(workspace):
    driving = Driving(workspace)
    recording = driving.recording()
    recording.begin("t1")
    recording.end(TrialResult("t1", EXPERIMENT, "failed", "no such method"))
    assert recording.finish(5) == 0
    assert driving.run("t1") is None


def test_no_run_stays_as_if_it_ran_where_the_sweep_is_cut_short_and_it_goes_on_when_resumed(workspace):
    driving = Driving(workspace)
    recording = driving.recording()
    for name in ("t1", "t2"):
        recording.begin(name)
        driving.trial(name).metrics({"train/loss": 0.5}, 3)
    recording.begin("t3")  # whose process has not come so far
    before = driving.result("t1")
    assert recording.send("t1")
    ended = driving.finish("t2")
    assert recording.finish(10, [before, ended]) == 0
    assert (driving.run("t1").info.status, driving.run("t1").data.tags["status"]) == ("KILLED", "interrupted")
    assert (driving.run("t2").info.status, driving.run("t2").data.metrics) == ("FINISHED", {"train/loss": 0.5})
    assert (driving.result("t1"), driving.run("t3")) == (before, None)
    again = driving.recording()
    again.begin("t1")
    until(lambda: driving.run("t1").info.status == "RUNNING")
    again.end(driving.finish("t1"))
    assert (driving.run("t1").info.status, driving.run("t1").data.tags["status"]) == ("FINISHED", "finished")
    assert again.finish(10) == 0


@pytest.fixture(autouse=True)
def _present():
    yield
    Away.away = True


def test_trials_of_the_same_values_are_told_apart(workspace):
    """A search may sample them twice, and a resumed one again."""
    driving = Driving(workspace)
    Away.away = False
    for name in ("t1", "t2", "t3"):
        driving.trial(name)
        (driving.directory / "trials" / name / NAME).write_text("real · training 0")
        recording = driving.recording()
        recording.begin(name)
        recording.send(name)
        recording.end(driving.finish(name))
    names = {driving.run(name).info.run_name for name in ("t1", "t2", "t3")}
    assert len(names) == 3
    assert "sweep · real · training 0" in names
