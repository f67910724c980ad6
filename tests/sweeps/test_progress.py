"""What the driver of a sweep does at a trial's end: the same at the thousandth as at the first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import ray

from ganatomy.core import terminal
from ganatomy.evidence.results import (
    TRACEBACK,
    SweepPlan,
    conclude,
    outstanding,
    put_back,
    read_results,
    write_result,
)
from ganatomy.experiment import Experiment, TrialResult
from ganatomy.sweeps import progress
from ganatomy.sweeps.progress import SweepProgress
from ganatomy.sweeps.proposals import TRIAL
from ganatomy.sweeps.trial import VALIDATION
from ganatomy.tracking.runs import Tracking
from ganatomy.training.distributed import write_history

EXPERIMENT = Experiment("phantom", {"A": "ct", "B": "mr"}, arm="real")

_touched: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if _touched is not None and event in ("open", "os.listdir", "os.scandir"):
        _touched.append(str(arguments[0]))


sys.addaudithook(_note)  # Python never forgets a hook; it notes only where a test asks it to


@contextmanager
def files_touched() -> Iterator[list[str]]:
    """Every file opened and every folder listed meanwhile."""
    global _touched
    _touched = found = []
    try:
        yield found
    finally:
        _touched = None


class Sweeping:
    """The driver's side of a sweep of ``count`` trials, whose processes have left their results."""

    def __init__(self, workspace: Path, count: int) -> None:
        self.workspace, self.directory = workspace, workspace / "sweeps" / f"of-{count}"
        self.tracking = Tracking(None, workspace)
        self.plan = SweepPlan(
            name=f"of-{count}", space="", base=EXPERIMENT, store="", cohort="", cohort_digest="", trials=count,
            run_id=self.tracking.sweep_run(f"of-{count}"),
        )  # fmt: skip
        self.trials = [f"trial-{number:03d}" for number in range(count)]

    def drive(self) -> SweepProgress:
        return SweepProgress(self.plan, self.directory, self.tracking)

    def finish(self, trial: str, score: float) -> None:
        run = self.tracking.trial_run(self.plan.run_id, trial, trial)
        summary = {"val/dice": score}
        write_result(
            self.directory / "trials" / trial, TrialResult(trial, EXPERIMENT, "finished", "", (), (), summary, 1.0, run)
        )

    def finish_and_conclude(self, trial: str, score: float) -> None:
        self.finish(trial, score)
        conclude(self.directory, trial)


def end(progress: SweepProgress, trial: str) -> None:
    progress.on_trial_result(1, [], SimpleNamespace(config={TRIAL: trial}), {"val/dice": 0.5, VALIDATION: 1})
    progress.on_trial_complete(1, [], SimpleNamespace(config={TRIAL: trial}))


def test_what_tune_keeps_of_it_names_the_sweep_and_nothing_that_a_later_version_may_change(workspace):
    sweeping = Sweeping(workspace, 2)
    sweeping.plan.save(sweeping.directory)
    sweeping.finish(sweeping.trials[0], 0.5)
    kept = ray.cloudpickle.dumps(sweeping.drive())
    assert {name for name in (b"Tracking", b"SweepPlan", b"Experiment") if name in kept} == set()
    again = ray.cloudpickle.loads(kept)
    assert (again.plan, again.directory, again.best) == (sweeping.plan, sweeping.directory, 0.5)
    assert again.tracking.uri == sweeping.tracking.uri


def test_what_a_trials_end_costs_does_not_grow_with_the_trials_before_it(workspace, capsys):
    touched = {}
    for count in (3, 15):
        sweeping = Sweeping(workspace, count)
        driving = sweeping.drive()
        for number, trial in enumerate(sweeping.trials):
            sweeping.finish(trial, number / 100)
            with files_touched() as files:
                end(driving, trial)
        touched[count] = [file for file in files if file.startswith(str(workspace)) and "mlflow.db" not in file]
        assert not driving.latest, "a trial that has ended is kept in memory"
    assert len(touched[15]) == len(touched[3])
    assert sum("result.json" in file for file in touched[15]) <= 2
    assert "15/15 trials; finished val/dice 0.140 [trial-014]; best 0.140; ETA now" in capsys.readouterr().err


def test_a_resumed_sweep_knows_the_best_of_before(workspace, capsys):
    sweeping = Sweeping(workspace, 3)
    for trial, score in zip(sweeping.trials, (0.25, 0.75)):
        sweeping.finish_and_conclude(trial, score)
    progress = sweeping.drive()
    sweeping.finish(sweeping.trials[2], 0.5)
    end(progress, sweeping.trials[2])
    assert "3/3 trials; finished val/dice 0.500 [trial-002]; best 0.750" in capsys.readouterr().err
    assert len(read_results(sweeping.directory)) == 3


def test_what_finished_while_the_sweep_was_being_interrupted_has_yet_to_be_concluded(workspace, capsys):
    """Ctrl-C leaves trials a moment: nobody is there any more to end their runs."""
    sweeping = Sweeping(workspace, 2)
    sweeping.finish_and_conclude(sweeping.trials[0], 0.25)
    sweeping.finish(sweeping.trials[1], 0.75)
    assert sweeping.drive().conclude(0.0) == 1
    end(progress := sweeping.drive(), sweeping.trials[1])
    assert progress.conclude(0.0) == 0
    assert "interrupted with 1 of 2 trials to go" in capsys.readouterr().err
    run = read_results(sweeping.directory)[1].run_id
    assert sweeping.tracking.client.get_run(run).info.status == "FINISHED"


def test_before_any_trial_has_finished_no_best_is_claimed(workspace, capsys):
    sweeping = Sweeping(workspace, 2)
    progress = sweeping.drive()
    progress.on_trial_error(1, [], SimpleNamespace(config={TRIAL: sweeping.trials[0]}, get_error=lambda: None))
    said = capsys.readouterr().err
    assert "failed before it began: its process died; none finished yet" in said


def status(sweeping, run_id):
    return sweeping.tracking.client.get_run(run_id).info.status


def test_a_sweep_is_recorded_as_what_it_came_to(workspace, capsys):
    """Interrupted, failed where no trial has finished, else finished; and running again as soon as it goes on."""
    sweeping = Sweeping(workspace, 2)
    sweeping.plan.save(sweeping.directory)
    first, second = sweeping.trials
    driving = sweeping.drive()
    failing(driving, first)
    assert driving.conclude(0.0) == 1
    assert status(sweeping, sweeping.plan.run_id) == "KILLED"
    assert "Sweep of-2 is not running: 1 of 2 trials has ended (1 failed), one is waiting" in driving.table.state
    driving = sweeping.drive()
    driving.setup()
    assert status(sweeping, sweeping.plan.run_id) == "RUNNING"
    failing(driving, second)
    assert driving.conclude(0.0) == 0
    assert (status(sweeping, sweeping.plan.run_id), driving.finished) == ("FAILED", False)
    assert "all 2 trials failed" in driving.table.state
    said = capsys.readouterr().err
    assert "no trial of sweep of-2 has finished; ganatomy report of-2 --workspace" in said
    assert "done in" not in said
    put_back(sweeping.directory, read_results(sweeping.directory)[0])
    sweeping.finish(first, 0.5)
    end(driving := sweeping.drive(), first)
    assert driving.conclude(0.0) == 0
    assert (status(sweeping, sweeping.plan.run_id), driving.finished) == ("FINISHED", True)


def test_what_a_trial_failed_by_before_it_began_is_said_without_rays_wrapper(workspace, capsys):
    sweeping = Sweeping(workspace, 1)
    [trial] = sweeping.trials
    told = """ray::ImplicitFunc.train() (pid=7, ip=10.0.0.7)
  File "/opt/ray/tune/trainable.py", line 330, in train
    raise skipped from exception_cause(skipped)
  File "/lab/plugin.py", line 12, in choose
    return widths["C"]
           ~~~~~~^^^^^
KeyError: 'C'
"""
    failing(sweeping.drive(), trial, told)
    path = sweeping.directory / "trials" / trial / TRACEBACK
    assert path.read_text() == told
    [result] = read_results(sweeping.directory)
    assert (result.status, result.error) == ("failed", "KeyError: 'C'")
    assert f"failed before it began: KeyError: 'C'; traceback: {path};" in capsys.readouterr().err


def test_what_fails_after_the_sweep_was_told_to_end_is_run_again(workspace, capsys, monkeypatch):
    """A batch system ends all processes of a job at once, and workers may be gone before their driver."""
    sweeping = Sweeping(workspace, 2)
    sweeping.plan.save(sweeping.directory)
    first, second = sweeping.trials
    driving = sweeping.drive()
    failing(driving, first)
    monkeypatch.setattr(terminal, "_told_to_end", True)
    write_result(sweeping.directory / "trials" / second, TrialResult(second, EXPERIMENT, "failed", "its process died"))
    end(driving, second)
    assert driving.conclude(0.0) == 1
    said = capsys.readouterr().err
    assert "interrupted with 1 of 2 trials to go; nothing is lost: ganatomy sweep --resume of-2" in said
    assert outstanding(sweeping.directory, sweeping.plan) == 1


def failing(driving, trial, told=None):
    driving.on_trial_error(1, [], SimpleNamespace(config={TRIAL: trial}, get_error=lambda: told))


def test_a_trial_that_failed_because_it_hung_says_where(workspace, capsys):
    sweeping = Sweeping(workspace, 1)
    [trial] = sweeping.trials
    stage, folder = workspace / "stages" / "fit" / "5ed4", sweeping.directory / "trials" / trial
    for path in (stage, folder):
        path.mkdir(parents=True)
    (folder / "log.txt").write_text("10:00:00 computing fit 5ed4\n")
    (stage / "standstill-node-7.txt").write_text("process 7 on node took no step for 9 s\nThread …\n")
    sweeping.drive().on_trial_error(1, [], SimpleNamespace(config={TRIAL: trial}, get_error=lambda: None))
    said = capsys.readouterr().err
    assert f"its process died; process 7 on node took no step for 9 s; it stood where {stage}" in said


def test_a_line_about_a_stage_under_way_says_how_far_it_is(workspace, ray_cluster, capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", -1.0)
    sweeping = Sweeping(workspace, 2)
    for trial, doing in zip(sweeping.trials, ("computing fit 5ed4", "waiting for fit 5ed4"), strict=True):
        folder = sweeping.directory / "trials" / trial
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text(f"10:00:00 starting\n10:00:01 {doing}\n")
    running = [SimpleNamespace(config={TRIAL: trial}, status="RUNNING") for trial in sweeping.trials]
    stage = workspace / "stages" / "fit" / "5ed4"
    for part, says in ((0.0, ""), (0.25, " 25 %")):
        if part:
            stage.mkdir(parents=True)
            write_history(stage, [{"step": 1.0, "progress": 0.1}, {"step": 2.0, "progress": part}])
        sweeping.drive().on_step_end(1, running)
        line = capsys.readouterr().err
        assert f"trial-000 computing fit 5ed4{says}; trial-001 waiting for fit 5ed4;" in line


def test_more_is_said_of_what_trials_do_where_it_is_asked_for_and_less_too(workspace, ray_cluster, capsys, monkeypatch):
    sweeping = Sweeping(workspace, 4)
    first, *failing = sweeping.trials
    folder = sweeping.directory / "trials" / first
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("10:00:00 computing fit 5ed4\n")
    running = [SimpleNamespace(config={TRIAL: first}, status="RUNNING")]
    monkeypatch.setattr(progress, "FOLLOWED_S", -1.0)

    def said(amount: int) -> str:
        monkeypatch.setattr(terminal, "_amount", amount)
        driving = sweeping.drive()
        driving.setup()
        driving.on_step_end(1, running)
        driving.on_step_end(2, running)
        sweeping.finish(first, 0.5)
        end(driving, first)
        driving.on_trial_error(1, [], SimpleNamespace(config={TRIAL: failing[amount]}, get_error=lambda: None))
        return capsys.readouterr().err

    usual, more, least = said(terminal.USUAL), said(terminal.MORE), said(terminal.QUIET)
    assert "4 trials" in usual
    assert "finished val/dice 0.500" in usual
    assert "[trial-000] computing fit 5ed4" not in usual
    assert more.count("[trial-000] computing fit 5ed4") == 1
    assert "finished val/dice 0.500" in more
    [line] = least.splitlines()
    assert "failed" in line
