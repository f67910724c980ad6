"""A trial as Tune runs it: one course over all its stages, in MLflow and on disk, whatever interrupts it."""

from __future__ import annotations

import errno
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from mlflow import MlflowClient

from ganatomy.contracts import InputError
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.configurations import CONTROLS, control_points
from ganatomy.evidence.results import TRACEBACK, SweepPlan, conclude, outstanding, read_result, read_results
from ganatomy.experiment import Experiment, Labels
from ganatomy.search_space import SearchSpace
from ganatomy.stages.stages import Stages
from ganatomy.stores.store import open_store
from ganatomy.sweeps import trial
from ganatomy.sweeps.proposals import ASKED
from ganatomy.sweeps.recording import Recording
from ganatomy.sweeps.resuming import run_again
from ganatomy.sweeps.trial import VALIDATION, run_trial, workers_of
from ganatomy.tracking.runs import Tracking
from ganatomy.training import tasks
from ganatomy.training.distributed import Workers
from ganatomy.training.optimisation import Diverged
from ganatomy.training.tasks import generator_updates

SCORE = "val/dice"
SPACE = SearchSpace("tiny", "", tiny.EXPERIMENT, lambda suggest: None, two_workers=lambda values: "two" in values)
OFFLINE = {"arm": "offline", "mixing.ratio": 2.0}


@pytest.fixture(autouse=True)
def _one_thread_and_no_pictures(monkeypatch):
    monkeypatch.setattr(tasks, "sheet", tasks.sheet)
    tiny.draw_dots()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plan(workspace) -> SweepPlan:
    store = tiny.make_store(workspace / "store")
    tracking = Tracking(None, workspace)
    return SweepPlan(
        "sweep", "tiny", tiny.EXPERIMENT, str(store.path), str(workspace / "cohorts" / "mine"), store.digest, trials=3,
        run_id=tracking.sweep_run("sweep"),
    )  # fmt: skip


class Mlflow:
    """What MLflow holds of a trial."""

    def __init__(self, workspace, plan, name="t1"):
        folder = workspace / "sweeps" / plan.name / "trials" / name
        self.run_id = json.loads((folder / "journal" / "cursor.json").read_text())["run"]
        self.client = MlflowClient(Tracking(None, workspace).uri)
        self.run = self.client.get_run(self.run_id)

    def history(self, name):
        return [(m.step, m.value, m.timestamp) for m in self.client.get_metric_history(self.run_id, name)]

    def pictures(self):
        return sorted(item.path for item in self.client.list_artifacts(self.run_id, "images"))


def recording(workspace, plan) -> Recording:
    """The driver's part."""
    said = []
    return Recording(plan, workspace / "sweeps" / plan.name, Tracking(None, workspace), said.append)


def run(workspace, plan, values, name="t1", space=SPACE):
    reports = []
    try:
        run_trial(values, plan, space, workspace, name, reports.append)
    finally:
        recording(workspace, plan).end(read_result(workspace / "sweeps" / plan.name / "trials" / name / "result.json"))
    return reports


def test_one_course_over_all_stages(workspace, plan, tmp_path_factory):
    reports = run(workspace, plan, OFFLINE)
    result = read_result(workspace / "sweeps" / "sweep" / "trials" / "t1" / "result.json")
    found = Mlflow(workspace, plan)

    # fit, then the downstream model: steps and device seconds go on where the stage before ended.
    stages = Stages(workspace, tiny.Path(plan.store), result.experiment)
    fit, model = ([record["step"] for record in tiny.history(stages, kind)] for kind in ("fit", "downstream"))
    steps = [step for step, _, _ in sorted(found.history("budget/device_seconds"))]
    assert steps == [*fit, *(fit[-1] + step for step in model)]
    seconds = [value for _, value, _ in sorted(found.history("budget/device_seconds"))]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert seconds[-1] == pytest.approx(sum(tiny.history(stages, kind)[-1]["budget/device_seconds"]
                                            for kind in ("fit", "downstream")))  # fmt: skip
    assert [step for step, _, _ in found.history("train/adversarial")] == fit
    assert [step for step, _, _ in found.history("train/segmentation")] == steps[len(fit) :]

    # Tune hears of every validation once, counted from 1, and last of the final score.
    assert [report[VALIDATION] for report in reports] == [1, 2, 3]
    assert reports[-1][SCORE] == result.summary[SCORE] == found.run.data.metrics[SCORE]
    assert [step for step, _, _ in sorted(found.history(SCORE))] == [*steps[len(fit) :], steps[-1] + 1]

    # Names in MLflow, design section 8.
    assert {"val/dice/square", "val/hd95", "val/missed", "synthesis/s_score/mr", "speed/samples_per_second"} <= set(
        found.run.data.metrics
    )
    tags = found.run.data.tags
    assert (tags["arm"], tags["method"], tags["domain_pair"], tags["seed"]) == (
        "offline", "shape_consistent", "ct-mr", "0",
    )  # fmt: skip
    assert tags["cohort"] == f"mine {plan.cohort_digest}"
    assert tags["mlflow.parentRunId"] == plan.run_id
    assert {f"stage.{kind}": key for kind, key in result.stages.items()}.items() <= tags.items()
    assert found.run.data.params == {
        "arm": "offline", "method": "shape_consistent", "ratio": "2.0", "threshold": "0.0", "training": "0",
        "shape_weight": "1.0", "cycle_weight": "10.0",
    }  # fmt: skip
    whole = found.client.download_artifacts(found.run_id, "experiment.json", str(tmp_path_factory.mktemp("whole")))
    assert Experiment.from_dict(json.loads(Path(whole).read_text())) == result.experiment
    assert found.run.info.run_name == "sweep · offline ratio=2 · training 0"
    assert found.run.data.metrics["score"] == round(result.summary[SCORE], 4)
    assert "/" not in tags["mlflow.source.name"]
    assert any("fit_panel" in path for path in found.pictures())
    assert any("downstream_panel" in path for path in found.pictures())


def test_the_result_on_disk_is_whole(workspace, plan):
    run(workspace, plan, {"arm": "real"})
    (result,) = read_results(workspace / "sweeps" / "sweep")
    assert (result.trial, result.status, result.error) == ("t1", "finished", "")
    assert result.experiment == tiny.experiment(arm="real")
    assert len({row.patient for row in result.scores}) == 2
    assert {row.patient for row in result.scores} == {"mr-val-0", "mr-val-1"}  # as the store calls them
    assert result.stages.keys() == {"downstream", "evaluate"}
    assert result.device_seconds > 0
    log = (workspace / "sweeps" / "sweep" / "trials" / "t1" / "log.txt").read_text()
    assert [line.split()[1:3] for line in log.splitlines()] == [["computing", "downstream"], ["computing", "evaluate"]]


def test_while_it_runs_the_result_says_so(workspace, plan):
    folder = workspace / "sweeps" / "sweep" / "trials" / "t1"
    seen = []

    def report(metrics):
        seen.append(read_result(folder / "result.json").status)

    run_trial({"arm": "real"}, plan, SPACE, workspace, "t1", report)
    assert seen == ["running", "running", "finished"]  # finished on disk before Tune hears the final score


class Killed(BaseException):
    """A process that is killed runs no except clause of the trial; this comes nearest in one process."""


def test_run_again_after_a_kill_logs_nothing_twice(workspace, plan):
    reports = []

    def die(metrics):
        reports.append(metrics)
        if metrics[VALIDATION] == 1:
            raise Killed

    with pytest.raises(Killed):
        run_trial(OFFLINE, plan, SPACE, workspace, "t1", die)
    folder = workspace / "sweeps" / "sweep" / "trials" / "t1"
    assert read_result(folder / "result.json").status == "running"
    assert recording(workspace, plan).send("t1")
    killed = Mlflow(workspace, plan)
    before = killed.history("train/adversarial")
    assert before
    assert killed.run.info.status == "RUNNING"

    again = run(workspace, plan, OFFLINE)
    found = Mlflow(workspace, plan)
    assert read_result(folder / "result.json").status == "finished"
    assert found.history("train/adversarial") == before
    assert [report[VALIDATION] for report in again] == [1, 2, 3]
    for name in found.run.data.metrics:
        steps = [step for step, _, _ in found.history(name)]
        assert len(steps) == len(set(steps)), name
    pictures = found.pictures()
    assert len(pictures) == len(set(pictures))

    # Once more, as --resume would if Tune had not heard of its end: it hears of it, and nothing is done again.
    written = (folder / "result.json").stat().st_mtime_ns
    # Of no validation: ASHA would compare what it came to with what others had reached half way, and stop them all.
    assert run(workspace, plan, OFFLINE) == [{SCORE: again[-1][SCORE]}]
    assert (folder / "result.json").stat().st_mtime_ns == written
    once_more = Mlflow(workspace, plan)
    assert once_more.run_id == found.run_id == read_result(folder / "result.json").run_id == killed.run_id
    assert once_more.run.info.status == "FINISHED"
    assert once_more.pictures() == pictures
    assert all(once_more.history(name) == found.history(name) for name in found.run.data.metrics)


def test_trials_that_share_a_stage_log_the_same_course(workspace, plan):
    """The second finds the generator trained; its course looks as if it had trained it itself."""
    run(workspace, plan, OFFLINE, "t1")
    run(workspace, plan, {**OFFLINE, "mixing.ratio": 0.5}, "t2")
    first, second = (Mlflow(workspace, plan, name) for name in ("t1", "t2"))
    assert first.run_id != second.run_id
    assert first.history("train/adversarial") == second.history("train/adversarial")
    log = (workspace / "sweeps" / "sweep" / "trials" / "t2" / "log.txt").read_text()
    assert "computing fit" not in log
    results = {result.trial: result for result in read_results(workspace / "sweeps" / "sweep")}
    assert results["t1"].stages["fit"] == results["t2"].stages["fit"]
    assert results["t1"].stages["downstream"] != results["t2"].stages["downstream"]


@pytest.mark.parametrize(("values", "error"), [
    ({"arm": "offline", "filter.min_dice": 1.0}, "filter.min_dice = 1 keeps none"),
    ({"arm": "offline", "method": "shape_consistant"}, "did you mean 'shape_consistent'?"),
    ({"arm": "joint", "budget.generator_steps": 1}, "generator_steps = 1 does not fit"),
])  # fmt: skip
def test_a_failed_trial_says_why_in_one_line(workspace, plan, values, error):
    with pytest.raises(Exception, match=r"min_dice|shape_consistant|generator_steps"):
        run(workspace, plan, values)
    (result,) = read_results(workspace / "sweeps" / "sweep")
    assert result.status == "failed"
    assert error in result.error
    assert result.came_to == ("no result" if "filter.min_dice" in values else "failed")
    assert "\n" not in result.error
    assert Mlflow(workspace, plan).run.data.tags["error"] == result.error


@pytest.mark.parametrize(("steps", "by"), [
    (6, r"by step 3 of 6: what a segmentor says of an image is no number"),
    (60, r"by step 21 of 60: 21 updates of S in a row had gradients that are no numbers"),
])  # fmt: skip
def test_a_downstream_model_that_diverged_fails_its_trial_and_is_in_no_table(workspace, plan, steps, by):
    run(workspace, plan, {"arm": "real", "budget.segmentor_steps": steps}, "t1")
    wild = {
        "arm": "real",
        "downstream.augmentation": "light",
        "budget.segmentor_steps": steps,
        "downstream.learning_rate": 1e30,
    }
    with pytest.raises(Diverged):
        run(workspace, plan, wild, "t2")
    good, bad = read_results(workspace / "sweeps" / "sweep")
    assert (good.status, bad.status, bad.scores, bad.summary) == ("finished", "failed", (), {})
    assert re.fullmatch(rf"downstream \w+: the training diverged {by}.*; remedy: lower the learning rate.*", bad.error)
    assert "another seed" in bad.error
    table = ablation_table([good, bad])
    assert [row.trials for row in table.rows] == [("t1",)]
    assert table.baseline == table.rows[0].configuration
    assert [(one.trial, one.error) for one in table.unfinished] == [("t2", bad.error)]


def test_a_control_is_trained_for_as_long_as_generator_and_downstream_model_together(workspace, plan):
    """The updates are those that the rows of the table say were taken, and ASHA hears of none of its validations."""
    space = replace(SPACE, points=({"arm": "real"}, OFFLINE))
    classes = open_store(tiny.Path(plan.store)).classes
    controls = control_points(CONTROLS, space, {}, (0,), lambda one: generator_updates(one, classes))
    plan = replace(plan, controls=tuple(controls))
    run(workspace, plan, OFFLINE, "t0")
    heard = [run(workspace, plan, values, f"t{n}", space) for n, values in enumerate(controls, start=1)]
    candidate, longer, strong = (result.summary for result in read_results(workspace / "sweeps" / "sweep"))
    assert candidate["generator/updates"] > 0
    assert longer["work/updates"] == candidate["generator/updates"] + candidate["work/updates"]
    assert longer["work/real_samples"] == longer["work/updates"] * tiny.EXPERIMENT.budget.batch
    assert strong["work/updates"] == candidate["work/updates"]
    assert {"work/synthetic_samples": 0.0}.items() <= longer.items()
    assert [[set(report) for report in reports] for reports in heard] == [[{SCORE}], [{SCORE}]]
    # Strong augmentation is another training than none.
    usual = run(workspace, plan, {"arm": "real"}, "t3")
    assert usual[-1][SCORE] != strong[SCORE]


def test_an_unexpected_error_is_named(workspace, plan, monkeypatch):
    def burn(*_, **__):
        raise ZeroDivisionError("the machine\nis on fire")

    monkeypatch.setattr(trial, "Stages", burn)
    with pytest.raises(ZeroDivisionError):
        run(workspace, plan, {"arm": "real"})
    (result,) = read_results(workspace / "sweeps" / "sweep")
    assert (result.status, result.error) == ("failed", "ZeroDivisionError: the machine is on fire")


def test_a_failed_trial_keeps_its_traceback(workspace, plan, monkeypatch):
    """In its folder, among the artefacts of its run; its log says where to look."""

    def a_plugins_step(*_, **__):
        return {}["C"]

    monkeypatch.setattr(trial, "outcome_of", a_plugins_step)
    with pytest.raises(KeyError):
        run(workspace, plan, {"arm": "real"})
    folder = workspace / "sweeps" / "sweep" / "trials" / "t1"
    told = (folder / TRACEBACK).read_text()
    assert told.startswith("Traceback (most recent call last)")
    assert told.rstrip().endswith("KeyError: 'C'")
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if 'return {}["C"]' in text)
    said = (folder / "log.txt").read_text()
    assert f"failed: KeyError at {__file__}, line {line}, in a_plugins_step (traceback.txt)" in said
    found = Mlflow(workspace, plan)
    [kept] = [item.path for item in found.client.list_artifacts(found.run_id) if item.path == TRACEBACK]
    assert Path(found.client.download_artifacts(found.run_id, kept, str(workspace))).read_text() == told


def test_a_trial_that_failed_by_a_fault_of_the_machine_is_trained_again_as_it_was_planned(workspace, plan, monkeypatch):
    directory, asked = (
        workspace / "sweeps" / "sweep",
        {"t1": {"arm": "real"}, "t2": {"arm": "real", "downstream.augmentation": "light"}},
    )
    directory.mkdir(parents=True)
    (directory / ASKED).write_text("".join(json.dumps({"trial": t, "values": v}) + "\n" for t, v in asked.items()))
    with monkeypatch.context() as patch:
        patch.setattr(trial, "outcome_of", full_disc)
        with pytest.raises(OSError, match="No space left"):
            run(workspace, plan, asked["t1"])
    wild = {"arm": "real", "downstream.augmentation": "light", "downstream.learning_rate": 1e30}
    with pytest.raises(Diverged):
        run(workspace, plan, wild, "t2")
    for name in asked:
        conclude(directory, name)
    failed, diverged = read_results(directory)
    before, plan = Mlflow(workspace, plan), replace(plan, trials=2)
    assert outstanding(directory, plan) == 0

    run_again(directory, plan)
    assert outstanding(directory, plan) == 1
    run(workspace, plan, asked["t1"])
    conclude(directory, "t1")
    again, still = read_results(directory)
    assert (failed.status, again.status, again.experiment) == ("failed", "finished", failed.experiment)
    assert (still, still.diverged) == (diverged, True)
    assert not (directory / "trials" / "t1" / TRACEBACK).exists()
    after = Mlflow(workspace, plan)
    assert (after.run_id, after.run.info.status) == (before.run_id, "FINISHED")
    assert (after.run.data.tags["error"], after.run.data.tags["failed_before"]) == ("", failed.error)
    # The same training as one that nothing happened to.
    never = run(workspace, plan, asked["t1"], "t3")
    assert never[-1][SCORE] == again.summary[SCORE]
    with pytest.raises(InputError, match="no failed trial to run again; 1 training that diverged is a finding"):
        run_again(directory, plan)


def full_disc(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_validation_patients_without_a_structure_are_no_score(workspace, plan):
    """A model that finds nothing there would score no number at all."""
    store = tiny.make_store(workspace / "empty", digest="empty",
                            relabel=lambda domain, patient, label: 0 * label)  # fmt: skip
    with pytest.raises(Exception, match="no structure"):
        run(workspace, replace(plan, store=str(store.path)), {"arm": "real"})
    (result,) = read_results(workspace / "sweeps" / "sweep")
    assert "no structure" in result.error


def test_no_thread_outlives_the_trial(workspace, plan):
    run_trial({"arm": "real"}, plan, SPACE, workspace, "t1", lambda metrics: None)
    assert not [thread for thread in threading.enumerate() if thread.name in ("journal", "lease")]


def test_workers(plan):
    assert workers_of(plan, SPACE, {}) == Workers(1, 1.0, 0.0, here=True)
    assert workers_of(plan, SPACE, {"two": 1}).count == 2
    assert workers_of(replace(plan, workers=3), SPACE, {"two": 1}).count == 3
    assert workers_of(replace(plan, apart=True, gpus=0.5), SPACE, {}) == Workers(1, 1.0, 0.5, here=False)


def test_what_is_fixed_holds_in_every_trial(workspace, plan):
    run(workspace, replace(plan, fixed={"labels.fraction": "0.5", "seed": "9"}), {"arm": "real"})
    (result,) = read_results(workspace / "sweeps" / "sweep")
    assert (result.experiment.labels, result.experiment.seed) == (Labels(0.5), 9)
