"""One trial, as Ray Tune runs it: an Experiment's stages, reported to Tune and written into its journal as they go.

Nothing here needs MLflow: the sweep's driver sends what the journal holds (``Recording``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ganatomy.core.plain_values import plain
from ganatomy.core.standstill import watched
from ganatomy.core.terminal import one_line, raised_at, whole_traceback
from ganatomy.evidence.results import RESULT, TRACEBACK, SweepPlan, is_retried, read_result, write_result
from ganatomy.experiment import Experiment, TrialResult
from ganatomy.search_space import SearchSpace
from ganatomy.stages.artefacts import Stage
from ganatomy.stages.outcome import Outcome, outcome_of
from ganatomy.stages.selection import SetRefused
from ganatomy.stages.stages import Stages
from ganatomy.tracking.journal import RunLog
from ganatomy.tracking.views import SCORE
from ganatomy.training.distributed import Workers
from ganatomy.training.loop import Record
from ganatomy.training.optimisation import Diverged
from ganatomy.training.tasks import PANELS

Report = Callable[[Mapping[str, float]], None]
"""Tells Tune the metrics of a validation."""

VALIDATION = "validation"
"""Counts a trial's validations from 1: the resource that ASHA compares trials at."""

JOURNAL, NAME = "journal", "name"
"""In a trial's folder: what it has to say to MLflow, and what it is called there."""


class TrialLog:
    """Turns the histories of a trial's stages into one course: of metrics for MLflow, of validations for Tune.

    Steps and device seconds of later stages continue those of earlier ones, so that the horizontal axis is what the
    trial has spent, whichever stages it was spent in.
    """

    def __init__(self, journal: RunLog, report: Report, score: str) -> None:
        self.journal, self.report, self.score = journal, report, score
        self.stage = ""
        self.last: Record = {}
        self.before: Record = {"step": 0.0, "budget/device_seconds": 0.0}
        self.validation = 0

    def follow(self, stage: Stage, record: Record) -> None:
        """Log one record of a stage's history; report it where it holds a validation."""
        if stage.key != self.stage:
            if self.last:
                self.before = {name: self.before[name] + self.last[name] for name in self.before}
            self.stage = stage.key
        self.last = record
        step = int(self.before["step"] + record["step"])
        metrics = {name: value for name, value in record.items() if "/" in name}
        metrics["budget/device_seconds"] += self.before["budget/device_seconds"]
        metrics |= {SCORE: round(record[self.score], 4)} if self.score in record else {}
        self.journal.metrics(metrics, step, timestamp=int(record["time"] * 1000))
        picture = stage.directory / PANELS / f"{int(record['step']):09d}.png"
        if picture.exists():
            self.journal.image(f"{stage.kind}_panel", picture.read_bytes(), step)
        if self.score in record:
            self.validation += 1
            self.report({self.score: record[self.score], VALIDATION: self.validation})

    def conclude(self, outcome: Outcome) -> None:
        """Log what the finished trial came to."""
        step = int(self.before["step"] + self.last.get("step", 0))
        self.journal.metrics({**outcome.summary, SCORE: round(outcome.summary[self.score], 4)}, step + 1)
        self.journal.tags({f"stage.{kind}": key for kind, key in outcome.keys.items()})


def workers_of(plan: SweepPlan, space: SearchSpace, values: Mapping[str, Any]) -> Workers:
    """How a trial's training is spread."""
    count = 2 if plan.workers == 1 and space.on_two(values, plan.fixed) else plan.workers
    return Workers(count=count, cpus=plan.cpus, gpus=plan.gpus, here=not plan.apart)


def name_of(experiment: Experiment, space: SearchSpace, values: Mapping[str, Any]) -> str:
    """A short name that tells trials apart in a list: the arm, what differs from the space's base, which training."""
    usual = space.base.with_values({"arm": experiment.arm})
    plainly = {f"method.{name}": value for name, value in plain(usual.method_config()).items()} | usual.flat()
    sampled = [f"{name.rpartition('.')[2]}={_short(value)}" for name, value in sorted(values.items())
               if name not in ("arm", "seed") and plainly.get(name) != value]  # fmt: skip
    return " · ".join([" ".join([experiment.arm, *sampled]), f"training {experiment.seed}"])


def run_trial(
    values: Mapping[str, Any], plan: SweepPlan, space: SearchSpace, workspace: Path, trial: str, report: Report
) -> None:
    """Run the trial with the sampled ``values``. Its result is in its folder before Tune hears the final score.

    A trial that was run before and killed takes its stages up where they are; what was logged is not logged again.
    Of one that had ended, when the sweep was killed before all knew of it, Tune hears the score; nothing else happens.
    """
    experiment = replace(space, base=plan.base).experiment(values, plan.fixed)
    directory, score = workspace / "sweeps" / plan.name / "trials" / trial, plan.score
    if (earlier := _ended(directory, experiment)) is not None:
        if score in earlier.summary:
            # Of no validation: ASHA would hold the final score against what others had half way.
            report({score: earlier.summary[score]})
        return
    label, say = name_of(experiment, space, values), _sayer(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / NAME).write_text(label)
    journal = RunLog(directory / JOURNAL)
    if is_retried(workspace / "sweeps" / plan.name, trial):
        _begin_again(directory, journal, say)
    result = TrialResult(trial, experiment)
    write_result(directory, result)
    # A control validates after other work than the rest, against which ASHA would hold it, and it against them.
    beside = dict(values) in plan.controls
    log = TrialLog(journal, _unheard if beside else report, score)
    try:
        with watched(directory):  # the store may have to be copied to this node first
            stages = Stages(workspace, Path(plan.store), experiment, workers_of(plan, space, values), log.follow, say)
        outcome = outcome_of(stages)
        result = replace(
            result,
            stages=outcome.keys,
            scores=outcome.scores,
            summary=outcome.summary,
            device_seconds=outcome.device_seconds,
        )
        log.conclude(outcome)
        write_result(directory, replace(result, status="finished"))
        report({score: outcome.summary[score]} | ({} if beside else {VALIDATION: log.validation + 1}))
    except Exception as error:
        line = one_line(error)
        diverged, refused = isinstance(error, Diverged), isinstance(error, SetRefused)
        write_result(directory, replace(result, status="failed", error=line, diverged=diverged, refused=refused))
        journal.tags({"error": line})
        _keep_traceback(error, directory, journal, say)
        raise


def _keep_traceback(error: Exception, directory: Path, journal: RunLog, say: Callable[[str], None]) -> None:
    """In a file of the trial's folder and among its run's artefacts; where it was raised, in its log."""
    told = whole_traceback(error)
    with contextlib.suppress(OSError):  # a full disc is why many a trial fails
        (directory / TRACEBACK).write_text(told)
        say(f"failed: {type(error).__name__} at {raised_at(told)} ({TRACEBACK})")
        journal.text(TRACEBACK, told)


def _begin_again(directory: Path, journal: RunLog, say: Callable[[str], None]) -> None:
    """A trial that was put back is what it was before it failed, but that its run says so."""
    path = directory / RESULT
    earlier = read_result(path) if path.exists() else None
    (directory / TRACEBACK).unlink(missing_ok=True)
    if earlier is not None and earlier.status == "failed":
        say("begun again, as it had failed")
        journal.tags({"error": "", "failed_before": earlier.error})


def _ended(directory: Path, experiment: Experiment) -> TrialResult | None:
    """The result of this very experiment, if the trial in ``directory`` has finished with it or was pruned. What failed
    may have failed because the sweep was killed."""
    path = directory / RESULT
    result = read_result(path) if path.exists() else None
    ended = result is not None and result.status in ("finished", "pruned") and result.experiment == experiment
    return result if ended else None


def _sayer(directory: Path) -> Callable[[str], None]:
    """What a trial is doing, for whoever looks at its folder (and for the sweep's own progress)."""

    def say(sentence: str) -> None:
        with (directory / "log.txt").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {sentence}\n")

    return say


def _unheard(metrics: Mapping[str, float]) -> None:
    return None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
