"""How far a sweep is, as its folder says; what of it is run again; which one ``latest`` is to go on with."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest

from ganatomy.api.sweeping import Sweep
from ganatomy.cohorts.claims import alone_in
from ganatomy.contracts import InputError
from ganatomy.evidence.account import account
from ganatomy.evidence.results import (
    RESULT,
    TRACEBACK,
    SweepPlan,
    conclude,
    outstanding,
    read_result,
    read_results,
    retriable,
    write_result,
)
from ganatomy.evidence.state import SweepState, state_of
from ganatomy.exhibits.material import Material
from ganatomy.promotion.confirmation import left_out
from ganatomy.reports.record import compose
from ganatomy.reports.tabulated import to_dict
from ganatomy.reports.text import render_text
from ganatomy.sweeps.request import SweepRequest
from ganatomy.sweeps.resuming import driving, run_again, to_resume
from ganatomy.writers.page import to_html

from .sweeps import driven, experiment, trial

SPACE = "phantom_demo"


def make_sweep(workspace, name, *statuses, trials=None, begun=True, **more):
    """A sweep of which a trial has ended with each status; those that run have not."""
    directory = workspace / "sweeps" / name
    for number, status in enumerate(statuses):
        made = experiment(arm="joint" if number % 2 else "real", seed=number // 2)
        kept = {"scores": ()} if status != "finished" else {}
        error = {"error": "OSError: no room"} if status == "failed" else {}
        result = trial(f"t{number}", made, status=status.removesuffix("!"), **kept, **error)
        if status == "failed!":
            result = replace(result, status="failed", error="the training diverged", diverged=True)
        write_result(directory / "trials" / result.trial, result)
        if result.status != "running":
            conclude(directory, result.trial)
    plan = SweepPlan(name, SPACE, experiment(), "", "cohort", "digest", trials=trials or len(statuses), **more)
    plan.save(directory)
    time.sleep(0.01)  # the newest is the one whose plan was written last
    return plan


@pytest.mark.parametrize(("state", "says"), [
    (SweepState("s", 8, finished=2, failed=1, begun=1, driven=True),
     "Sweep s is running: 3 of 8 trials have ended (1 failed), one is training, four are waiting."),
    (SweepState("s", 8, driven=True), "Sweep s is running: none of 8 trials has ended, none is training, eight are "
     "waiting."),
    (SweepState("s", 8, finished=3, begun=1), "Sweep s is not running: 3 of 8 trials have ended, one was cut short, "
     "four are waiting; ganatomy sweep --resume s goes on with it."),
    (SweepState("s", 40, finished=1, begun=2), "Sweep s is not running: 1 of 40 trials has ended, two were cut short, "
     "37 are waiting; ganatomy sweep --resume s goes on with it."),
    (SweepState("s", 3, finished=2, pruned=1), "Sweep s has ended: 2 of 3 trials finished, 1 was stopped early."),
    (SweepState("s", 3, finished=3, driven=True), "Sweep s is being concluded: 3 of 3 trials finished."),
    (SweepState("s", 3, finished=1, failed=2, diverged=1), "Sweep s has ended: 1 of 3 trials finished, 2 failed, 1 of "
     "them because the training diverged; ganatomy sweep --resume s --retry-failed runs it again."),
    (SweepState("s", 3, failed=3, diverged=3), "Sweep s has ended: all 3 trials failed, 3 of them because the training "
     "diverged."),
    (SweepState("s", 6, finished=3, failed=1, refused=2), "Sweep s has ended: 3 of 6 trials finished, 1 failed, 2 "
     "without a result because the synthetic set was refused; ganatomy sweep --resume s --retry-failed runs it again."),
    (SweepState("s", 2, finished=1, refused=1), "Sweep s has ended: 1 of 2 trials finished, 1 without a result "
     "because the synthetic set was refused."),
    (SweepState("s", 4, finished=1, refused=1, begun=1, driven=True), "Sweep s is running: 2 of 4 trials have ended (1 "
     "without a result because the synthetic set was refused), one is training, one is waiting."),
    (SweepState("s", 1, failed=1), "Sweep s has ended: its one trial failed; ganatomy sweep --resume s --retry-failed "
     "runs it again."),
    (SweepState("s", 6, finished=6, retried=2, unit="training"), "Sweep s has ended: 6 of 6 trainings finished. 2 of "
     "them failed before, and were run again."),
    (SweepState("s", 0), "Sweep s has ended: it has no trials."),
])  # fmt: skip
def test_each_state_is_one_sentence(state, says):
    assert state.sentence == says


def test_a_running_sweep_says_so_first_and_advises_no_second_driver(tmp_path):
    plan = make_sweep(tmp_path, "s", "finished", "finished", "failed", "running", trials=8)
    results, says = read_results(tmp_path / "sweeps" / "s"), "3 of 8 trials have ended (1 failed), one"
    with driven(tmp_path, "s") as process:
        table = account(tmp_path, plan, results)
        assert table.state == f"Sweep s is running: {says} is training, four are waiting."
        said = render_text(table)
        assert said.startswith(table.state)
        assert "training: trial t3" in said
        assert "--resume" not in said
        assert next(iter(to_dict(table))) == "state"
        page = to_html(compose(Material(tmp_path, plan, tuple(results), table, lambda why: None)))
        assert page.index(table.state) < page.index('<p class="answer')
        with pytest.raises(InputError, match=r"Sweep s is running: 3 of 8.*one driver of a sweep; remedy: wait"):
            driving(tmp_path / "sweeps" / "s", plan).__enter__()
        process.kill()
        process.wait()
        table = account(tmp_path, plan, results)
        assert table.state == (f"Sweep s is not running: {says} was cut short, four are waiting; "
                               "ganatomy sweep --resume s goes on with it.")  # fmt: skip
        assert "cut short: trial t3" in render_text(table)


def test_the_drivers_own_page_says_what_will_be_true_when_it_has_ended(tmp_path):
    plan = make_sweep(tmp_path, "s", "finished")
    with alone_in(tmp_path / "sweeps" / "s"):
        state = account(tmp_path, plan, read_results(tmp_path / "sweeps" / "s"), driven=False).state
    assert state == "Sweep s has ended: 1 of 1 trials finished."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_sweep_of_somebody_else_is_known_to_run_where_its_folder_may_only_be_read(tmp_path):
    plan = make_sweep(tmp_path, "s", "running")
    directory = tmp_path / "sweeps" / "s"
    with driven(tmp_path, "s"):
        directory.chmod(0o500)
        assert state_of(directory, plan).driven
        directory.chmod(0o700)


def test_all_failed_is_said_with_each_traceback_from_the_workspace(tmp_path):
    plan = make_sweep(tmp_path, "s", "failed", "failed")
    (tmp_path / "sweeps" / "s" / "trials" / "t1" / TRACEBACK).write_text("Traceback")
    said = Sweep(tmp_path, plan.name)
    text = str(said)
    assert text.startswith("Sweep s has ended: all 2 trials failed; ganatomy sweep --resume s --retry-failed runs them")
    flat = " ".join(text.split())
    assert "OSError: no room; traceback: sweeps/s/trials/t1/traceback.txt" in flat
    assert flat.count("traceback:") == 1
    page = said.report(tmp_path / "page.html").read_text()
    assert page.count("sweeps/s/trials/t1/traceback.txt") == 1
    assert str(tmp_path) not in page


def test_an_empty_sweep_is_reported_as_one(tmp_path):
    make_sweep(tmp_path, "s", trials=4)
    text = str(Sweep(tmp_path, "s"))
    assert text.startswith("Sweep s is not running: none of 4 trials has ended, four are waiting; ")
    assert "No answer: no trial has ended yet." in text


# --- which is latest ---------------------------------------------------------------------------------------------


def test_latest_is_the_newest_that_has_something_left_and_that_is_said(tmp_path, capsys):
    make_sweep(tmp_path, "old", "finished", trials=2)
    make_sweep(tmp_path, "cut", "finished", "running", trials=3)
    make_sweep(tmp_path, "done", "finished", "failed")
    assert to_resume(tmp_path, "latest").name == "cut"
    assert capsys.readouterr().err.strip() == f"latest is cut. {Sweep(tmp_path, 'cut').state.sentence}"
    assert to_resume(tmp_path, "latest", 5).name == "done"
    assert to_resume(tmp_path, "latest", 2).name == "cut"
    assert to_resume(tmp_path, "latest", retry=True).name == "done"
    assert to_resume(tmp_path, "old").name == "old"
    with driven(tmp_path, "cut"):
        assert to_resume(tmp_path, "latest").name == "old"


def test_a_confirmation_that_was_cut_short_is_gone_on_with_and_given_no_more(tmp_path):
    make_sweep(tmp_path, "s", "finished", "finished")
    make_sweep(tmp_path, "s-confirmation", "finished", trials=6, confirms="s")
    assert to_resume(tmp_path, "latest").name == "s-confirmation"
    assert to_resume(tmp_path, "latest", 8).name == "s"


def test_where_none_has_anything_left_one_line_says_so(tmp_path, capsys):
    with pytest.raises(InputError, match="no sweep 'latest' in workspace"):
        to_resume(tmp_path, "latest")
    make_sweep(tmp_path, "s", "finished", "failed!")
    with pytest.raises(InputError, match=r"no sweep of workspace .* has anything left to do; expected one that was"):
        to_resume(tmp_path, "latest")
    with pytest.raises(InputError, match=r"has a failed trial to run again; expected one with trials that failed by"):
        to_resume(tmp_path, "latest", retry=True)
    (tmp_path / "sweeps" / "s" / "sweep.json").write_text("{")
    with pytest.raises(InputError, match="anything left to do"):
        to_resume(tmp_path, "latest")
    assert "passed over: " in capsys.readouterr().err


def test_the_only_one_left_is_refused_as_running(tmp_path):
    plan = make_sweep(tmp_path, "s", "running", trials=2)
    with driven(tmp_path, "s"):
        folder = to_resume(tmp_path, "latest")
        with pytest.raises(InputError, match="Sweep s is running: none of 2 trials has ended, one is training, one is"):
            driving(folder, plan).__enter__()


# --- run again ---------------------------------------------------------------------------------------------------


def test_all_that_failed_are_put_back_and_nothing_else(tmp_path, capsys):
    plan = make_sweep(tmp_path, "s", "finished", "failed", "failed!", "pruned", "failed")
    directory = tmp_path / "sweeps" / "s"
    before = {path: path.read_text() for path in directory.rglob(RESULT)}
    assert outstanding(directory, plan) == 0
    run_again(directory, plan)
    assert outstanding(directory, plan) == 2
    assert {path: path.read_text() for path in directory.rglob(RESULT)} == before
    assert [json.loads((directory / "trials" / name / "retried.jsonl").read_text())["error"] for name in ("t1", "t4")
            ] == ["OSError: no room"] * 2  # fmt: skip
    said = capsys.readouterr().err
    assert "2 failed trials put back: the same experiments, under the same seeds" in said
    assert "1 training that diverged is a finding, not run again" in said
    assert "2 of them failed before, and are run again" in state_of(directory, plan).sentence
    with pytest.raises(InputError, match=r"no failed trial to run again; 1 training that diverged is a finding, not"):
        run_again(directory, plan)


def test_divergence_is_known_of_results_that_earlier_versions_wrote(tmp_path):
    make_sweep(tmp_path, "s", "failed!", "failed")
    path = tmp_path / "sweeps" / "s" / "trials" / "t0" / RESULT
    kept = json.loads(path.read_text())
    del kept["diverged"]
    path.write_text(json.dumps(kept))
    assert read_result(path).diverged
    retry, found = retriable(tmp_path / "sweeps" / "s")
    assert ([one.trial for one in retry], [one.trial for one in found]) == (["t1"], ["t0"])


def test_what_cannot_be_run_again_is_refused_before_anything_is_started(tmp_path):
    make_sweep(tmp_path, "s", "finished", trials=2)
    with pytest.raises(InputError, match="sweep 's' has no failed trial to run again"):
        SweepRequest(resume="s", retry_failed=True, workspace=tmp_path).resumed({"retry_failed"})
    with pytest.raises(InputError, match="--retry-failed of a sweep that has yet to begin; expected --resume NAME"):
        SweepRequest(space=SPACE, cohort=tmp_path, retry_failed=True, workspace=tmp_path).planned()


def test_no_reason_lets_anybody_judge_a_sweep_that_is_being_run(tmp_path):
    plan = make_sweep(tmp_path, "s", "finished", "finished", trials=4)
    directory = tmp_path / "sweeps" / "s"
    assert left_out(directory, plan, "it will never be finished") == 2
    with driven(tmp_path, "s"), pytest.raises(InputError, match="2 trials outstanding: Sweep s is running") as refused:
        left_out(directory, plan, "it will never be finished")
    assert "--resume" not in str(refused.value)
    assert left_out(directory, plan, "its driver was killed") == 2
