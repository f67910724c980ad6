"""A sweep's live progress, and the one owner of every trial's end: a pruned trial is killed and cannot say so."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from ganatomy.cluster.roll import working
from ganatomy.core.standstill import noted
from ganatomy.core.terminal import MORE, QUIET, amount, last_words, raised_at, told_to_end
from ganatomy.evidence.results import (
    RESULT,
    TRACEBACK,
    SweepPlan,
    conclude,
    is_concluded,
    read_plan,
    read_result,
    read_results,
    write_result,
)
from ganatomy.experiment import TrialResult
from ganatomy.sweeps.proposals import TRIAL
from ganatomy.sweeps.recording import Recording
from ganatomy.sweeps.showing import describe, links
from ganatomy.sweeps.trial import NAME, VALIDATION
from ganatomy.tracking.runs import Tracking
from ganatomy.training.distributed import read_history

if TYPE_CHECKING:
    from ganatomy.evidence.ablation import Ablation

QUIET_S = 20.0
"""A line about running trials at least this often, so that nobody wonders whether anything happens."""

FINISH_S, LEAVE_S = 60.0, 5.0
"""How long a sweep's end waits for what is unsent; and that of an interrupted one, which a batch system may have given
half a minute before it is killed."""

FOLLOWED_S = 1.0
"""How often ``-v`` looks for what running trials say that they do."""


def _of_sweep(directory: Path) -> SweepProgress:
    """Of the sweep in ``WORKSPACE/sweeps/NAME``."""
    plan = read_plan(directory)
    return SweepProgress(plan, directory, Tracking(plan.tracking_uri or None, directory.parents[1], plan.experiment))


class SweepProgress(tune.Callback):
    """Prints a line as each trial ends and now and then between; records in its folder and in MLflow how it ended."""

    def __init__(self, plan: SweepPlan, directory: Path, tracking: Tracking) -> None:
        self.plan, self.directory, self.tracking = plan, directory, tracking
        self.began = self.spoke = time.monotonic()
        self.latest: dict[str, dict[str, Any]] = {}
        self.followed, self.told = self.began, dict[str, int]()
        # Once: of thousands of trials, all of them at every event would be all it does.
        results = read_results(directory)
        self.done_before = {result.trial for result in results if is_concluded(directory, result.trial)}
        self.best = max((r.summary[plan.score] for r in results if r.status == "finished"), default=-math.inf)
        self.ended = 0
        self.table: Ablation | None = None
        """Of the sweep at its end; None before that, and where no trial has begun."""
        self.finished = False
        """Whether any trial has, known at the end."""
        self.recording = Recording(plan, directory, tracking, self._say, results)

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune keeps a copy in a file of its own, where a tracking client could not be."""
        return _of_sweep, (self.directory,)

    # --- called by Tune ------------------------------------------------------------------------------------------

    def setup(self, **_: Any) -> None:
        """The sweep begins."""
        waiting = f", {len(self.done_before)} done before" if self.done_before else ""
        self._say(
            f"sweep {self.plan.name}: {self.plan.trials} trials{waiting}; watch them with `ganatomy ui{self._where()}`"
        )
        self.tracking.go_on(self.plan.run_id)
        self._say_where()
        self.tracking.drain_all(timeout=5.0)  # what an earlier driver could not say
        self.recording.start()

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        """A process takes a trial up; what it reports is recorded from here."""
        self.recording.begin(trial.config[TRIAL])

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """A trial validated; one that had finished under an earlier driver only says what it came to."""
        if VALIDATION in result:
            self.latest[trial.config[TRIAL]] = result

    def on_step_end(self, iteration: int, trials: Sequence[Any], **_: Any) -> None:
        """Between events: a line when it has been quiet for long."""
        working()  # nodes come and go when no trial is left to start, too
        if amount() >= MORE and time.monotonic() - self.followed > FOLLOWED_S:
            self.followed = time.monotonic()
            for trial in trials:
                if trial.status == "RUNNING":
                    self._follow(trial.config[TRIAL])
        if time.monotonic() - self.spoke > QUIET_S:
            running = [trial.config[TRIAL] for trial in trials if trial.status == "RUNNING"]
            self._say(f"{self._counts()}; running: {'; '.join(map(self._doing, running)) or 'none'}; {self._outlook()}")

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        """A trial finished, or the scheduler stopped it."""
        self._end(trial.config[TRIAL], "pruned")

    def on_trial_recover(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        """Its process died; what it was doing is taken up by another."""
        self._warn(f"{self._counts()}; the driver of [{self._name(trial.config[TRIAL])}] died; another takes it up")

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **_: Any) -> None:
        """A trial failed; the sweep goes on."""
        told, name = trial.get_error() or "", trial.config[TRIAL]
        if raised_at(told) and not self._traceback(name).exists():  # before the trial itself could keep it
            self._traceback(name).parent.mkdir(parents=True, exist_ok=True)
            self._traceback(name).write_text(told)
        self._end(name, "failed", (last_words(told) or "its process died") + self._stood(name))

    # --- after the sweep -----------------------------------------------------------------------------------------

    def conclude(self, began: float) -> int:
        """Send what is unsent, end the sweep's run, and say how it went. Returns the number of unfinished trials.

        Of an interrupted one the runs are ended first, and what to do is said: whoever ends it may not wait for its
        page.
        """
        results = read_results(self.directory)
        missing = self.end_runs(results, began)
        self._record(results)
        return missing

    def end_runs(self, results: Sequence[TrialResult], began: float) -> int:
        """The first part of that: all but the sweep's page. results: of all trials that have one."""
        open_still = [result for result in results if not is_concluded(self.directory, result.trial)]
        missing = self.plan.trials - len(results) + len(open_still)
        if missing:  # first: whoever is killed meanwhile has said it
            self._warn(
                f"interrupted with {missing} of {self.plan.trials} trials to go; nothing is lost: "
                f"ganatomy sweep --resume {self.plan.name}{self._where()}"
            )
        late = self.recording.finish(LEAVE_S if missing else FINISH_S, open_still if missing else ())
        self.finished = any(result.status == "finished" for result in results)
        self.tracking.terminate(self.plan.run_id, "KILLED" if missing else "FINISHED" if self.finished else "FAILED")
        if late:
            self._warn(f"tracking server away: {late} runs have metrics to send; --resume {self.plan.name} sends them")
        if not missing and not self.finished:
            self._warn(f"no trial of sweep {self.plan.name} has finished; ganatomy report {self.plan.name}"
                       f"{self._where()} says why")  # fmt: skip
        elif not missing:
            self._say(f"sweep {self.plan.name} done in {_duration(time.time() - began)}")
            self._say_where()
        return missing

    def _say_where(self) -> None:
        """The pages of the sweep in MLflow."""
        there = links(self.plan, self.tracking)
        self._say(f"in MLflow: table {there.table}")
        self._say(f"in MLflow: charts {there.charts}")

    def _where(self) -> str:
        """The option that leads back here, where the usual workspace is another."""
        workspace = self.directory.parent.parent
        usual = Path(os.environ.get("GANATOMY_WORKSPACE") or "workspace").absolute() == workspace
        return "" if usual else f" --workspace {shlex.quote(os.path.relpath(workspace))}"

    def _record(self, results: Sequence[Any]) -> None:
        from ganatomy.evidence.account import account
        from ganatomy.exhibits.material import Material
        from ganatomy.reports.record import record

        workspace = self.directory.parents[1]
        table = account(workspace, self.plan, results, driven=False)
        record(Material(workspace, self.plan, tuple(results), table, self._say), self.tracking)
        if results:
            self.table = table
        if self.finished:
            describe(self.plan, table, results, self.tracking)

    # --- saying --------------------------------------------------------------------------------------------------

    def _end(self, trial: str, status: Any, error: str = "") -> None:
        folder = self.directory / "trials" / trial
        self._follow(trial)
        if told_to_end() and self._failed(folder, status):
            return  # perhaps by what ended the sweep: it is run again when that goes on
        if not (folder / RESULT).exists():  # no experiment could be made of its values, or no run for it
            result = TrialResult(trial, self.plan.base, status, error)
            write_result(folder, result)
            self.recording.end(result)
            conclude(self.directory, trial)
            self._count(trial)
            self._warn(f"{self._counts()}; trial {trial} failed before it began: {error}{self._kept(trial)}; "
                       f"{self._outlook()}")  # fmt: skip
            return
        result = read_result(folder / RESULT)
        if result.status == "running":
            partial = {self.plan.score: self.latest[trial][self.plan.score]} if trial in self.latest else {}
            result = replace(result, status=status, error=error, summary=partial)
            write_result(folder, result)
        if result.status == "finished":
            self.best = max(self.best, result.summary[self.plan.score])
        self._count(trial)
        self.recording.end(result)
        conclude(self.directory, trial)
        ranked_by = self.plan.score
        score = f" {ranked_by} {result.summary[ranked_by]:.3f}" if ranked_by in result.summary else ""
        reason = f": {result.error}" if result.error else ""
        reason += self._kept(trial) if result.status == "failed" else ""
        tell = self._warn if result.status == "failed" else self._say
        tell(f"{self._counts()}; {result.came_to}{score} [{self._name(trial)}]{reason}; {self._outlook()}")

    def _failed(self, folder: Path, status: str) -> bool:
        """Whether a trial has, by its own account or, where it gave none, by ``status``."""
        own = read_result(folder / RESULT).status if (folder / RESULT).exists() else "running"
        return (status if own == "running" else own) == "failed"

    def _count(self, trial: str) -> None:
        """A trial that ended before the driver was killed may end once more, where Tune had not written it down."""
        self.ended += trial not in self.done_before
        self.latest.pop(trial, None)
        self.told.pop(trial, None)

    def _counts(self) -> str:
        return f"{len(self.done_before) + self.ended}/{self.plan.trials} trials"

    def _outlook(self) -> str:
        best = f"best {self.best:.3f}" if self.best > -math.inf else "none finished yet"
        return f"{best}; ETA {self._eta()}"

    def _eta(self) -> str:
        """From the pace so far, running trials counted by the validations they have behind them."""
        running = [result[VALIDATION] / (self.plan.validations + 1) for result in self.latest.values()]
        worked = self.ended + sum(running)
        left = self.plan.trials - len(self.done_before) - worked
        if left <= 0:
            return "now"
        return _duration((time.monotonic() - self.began) / worked * left) if worked > 0 else "unknown yet"

    def _doing(self, trial: str) -> str:
        done = self.latest.get(trial, {})
        if self.plan.score in done:
            part = 100 * done[VALIDATION] // (self.plan.validations + 1)
            return f"{self._name(trial)} {part} %, {done[self.plan.score]:.3f}"
        log = self.directory / "trials" / trial / "log.txt"
        doing = log.read_text().splitlines()[-1].partition(" ")[2] if log.exists() else "starting"
        return f"{self._name(trial)} {doing}{self._part_of(doing)}"

    def _part_of(self, doing: str) -> str:
        """How far the stage is that a trial is computing, as its history tells: of generators Tune hears nothing."""
        folder = self._computed(doing)
        history = read_history(folder) if folder else []
        return f" {100 * history[-1]['progress']:.0f} %" if history else ""

    def _computed(self, doing: str) -> Path | None:
        """Folder of the stage that a trial says it is computing."""
        computing, _, stage = doing.partition(" ")
        return self.directory.parents[1].joinpath("stages", *stage.split()) if computing == "computing" else None

    def _stood(self, trial: str) -> str:
        """Where the process of a trial stood still, if it is for that that it was ended."""
        log = self.directory / "trials" / trial / "log.txt"
        said = log.read_text().splitlines() if log.exists() else []
        folders = [folder for line in said if (folder := self._computed(line.partition(" ")[2]))]
        return noted(folders[-1]) if folders else ""

    def _traceback(self, trial: str) -> Path:
        return self.directory / "trials" / trial / TRACEBACK

    def _kept(self, trial: str) -> str:
        """Where the traceback of a failed trial is, to end a sentence; nothing where there is none."""
        return f"; traceback: {self._traceback(trial)}" if self._traceback(trial).exists() else ""

    def _name(self, trial: str) -> str:
        path = self.directory / "trials" / trial / NAME
        return path.read_text() if path.exists() else trial

    def _follow(self, trial: str) -> None:
        """With ``-v``, what the trial has said since: stages that it computes, waits for or finds."""
        log = self.directory / "trials" / trial / "log.txt"
        if amount() < MORE or not log.exists():
            return
        said = log.read_text().splitlines()
        for line in said[self.told.get(trial, 0) :]:
            self._say(f"[{self._name(trial)}] {line.partition(' ')[2]}")
        self.told[trial] = len(said)

    def _say(self, sentence: str) -> None:
        if amount() > QUIET:
            self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        """What is said however little is asked for."""
        self.spoke = time.monotonic()
        print(f"[{_duration(self.spoke - self.began)}] {sentence}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
