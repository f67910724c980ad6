"""Tuning: the trials of a planned sweep on Ray Tune, pruned by ASHA, resumable."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from ray import tune
from ray.tune.search import ConcurrencyLimiter, Searcher

from ganatomy.cluster import roll
from ganatomy.cluster.joining import leave_ray
from ganatomy.contracts import InputError
from ganatomy.core.terminal import DONE, INTERRUPTED, UNDONE, told_to_end
from ganatomy.evidence.results import SweepPlan, keep_software, read_results, read_status
from ganatomy.sweeps.progress import SweepProgress
from ganatomy.sweeps.proposals import TRIAL, Proposals
from ganatomy.sweeps.trial import VALIDATION, run_trial
from ganatomy.tracking.runs import Tracking

# Anything at all on the head node, so that a driver needs no CPU that its own workers could be waiting for.
EMPTY_HANDED = {roll.HEAD: 0.001}

TUNE = "tune"
"""Folder of a sweep that Tune has for itself: nothing in it is ever read."""

PATIENCE_S = 10.0
"""How long Tune and Ray may take to end in order after SIGTERM. Slurm kills what is left after 30 s."""

DRIVER_DEATHS = 3
"""How often a trial whose driver died is taken up again: one that dies every time must not keep the sweep for ever."""


def run_sweep(plan: SweepPlan, workspace: Path, tell: Callable[[str], object] = print) -> int:
    """Run a planned sweep to its end, from where it was left; prints progress, then ``tell``s the ablation table.
    Returns exit code.

    Ray must have been started.
    """
    from ganatomy.reports.text import render_text

    directory = workspace / "sweeps" / plan.name
    tracking = Tracking(plan.tracking_uri or None, workspace, plan.experiment)
    progress = SweepProgress(plan, directory, tracking)
    began = time.time()
    keep_software(directory)
    proposals = Proposals(plan, directory)
    with _ended_in_time(progress, directory, began):
        if proposals.left > 0:
            shutil.rmtree(directory / TUNE, ignore_errors=True)  # of a driver that was killed
            with contextlib.suppress(KeyboardInterrupt):  # where Tune has yet to heed it, or does no more
                _tuner(plan, workspace, proposals, progress).fit()
        leave_ray()
    unfinished = progress.conclude(began)
    if (table := progress.table) is not None:
        tell(render_text(table))
    return INTERRUPTED if unfinished else DONE if progress.finished else UNDONE


@contextlib.contextmanager
def _ended_in_time(progress: SweepProgress, directory: Path, began: float) -> Iterator[None]:
    """Told to end, end within ``PATIENCE_S`` what runs inside: a batch system ends Ray's processes with this one, which
    may then wait for them until it is killed."""
    over = threading.Event()

    def watch() -> None:
        since = 0.0
        while not over.wait(0.5):
            since += 0.5 * told_to_end()
            if since > PATIENCE_S:
                try:
                    progress.end_runs(read_results(directory), began)
                finally:
                    os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True, name="patience").start()
    try:
        yield
    finally:
        over.set()


def trainable(plan: SweepPlan, workspace: Path) -> Any:
    """What Tune runs in each trial's process: it is pickled, with all that it names."""
    space = plan.search_space()

    def trial(values: dict[str, Any]) -> None:
        values = dict(values)
        name = values.pop(TRIAL)
        try:
            run_trial(values, plan, space, workspace, name, tune.report)
        except Exception:
            # Its failure is written down, and would be the same again: to Tune, which begins anew whose process died,
            # the trial is done.
            if read_status(workspace / "sweeps" / plan.name, name) != "failed":
                raise

    resources = EMPTY_HANDED if plan.apart else {"CPU": plan.cpus, **({"GPU": plan.gpus} if plan.gpus else {})}
    return tune.with_resources(trial, resources)


def _tuner(plan: SweepPlan, workspace: Path, proposals: Proposals, progress: SweepProgress) -> tune.Tuner:
    asha = tune.schedulers.ASHAScheduler(
        time_attr=VALIDATION,
        metric=plan.score,
        mode="max",
        max_t=plan.validations + 2,  # a trial that reaches max_t would count as stopped
        grace_period=max(1, plan.validations // 3),
        reduction_factor=3,
    )
    return tune.Tuner(
        trainable(plan, workspace),
        tune_config=tune.TuneConfig(
            search_alg=AsManyAsFit(proposals, plan),
            scheduler=asha if plan.scheduler == "asha" else None,
            num_samples=proposals.left,
        ),
        run_config=_run_config(plan, workspace, progress),
    )


def _run_config(plan: SweepPlan, workspace: Path, progress: SweepProgress) -> tune.RunConfig:
    return tune.RunConfig(
        name=TUNE,
        storage_path=str(workspace / "sweeps" / plan.name),
        callbacks=[progress],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=DRIVER_DEATHS),
    )


class AsManyAsFit(ConcurrencyLimiter):
    """Starts as many trials as have room, at most ``--concurrent``, counted anew as nodes join and leave.

    More would hold nothing but memory of the head node, and wait there for workers until Train gives them up.
    """

    def __init__(self, searcher: Searcher, plan: SweepPlan) -> None:
        self.plan = plan
        super().__init__(searcher, self._room())

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Values of the next trial, if there is room for one."""
        self.max_concurrent = self._room()
        return cast("dict[str, Any] | None", super().suggest(trial_id))

    def _room(self) -> int:
        workers = roll.slots(roll.working(), self.plan.cpus, self.plan.gpus)
        fits = max(1, workers // self.plan.workers) + _spare(self.plan)
        return min(self.plan.concurrent or fits, fits)


def _spare(plan: SweepPlan) -> int:
    """One trial more where drivers hold nothing and their work is single tasks, so that a trial that waits for
    another's stage leaves no processor idle."""
    return int(plan.apart and plan.workers == 1)


def fitting(plan: SweepPlan) -> int:
    """Trials whose workers fit the cluster at the same time. InputError where not even one does: it would wait in vain.

    A worker lies on one node, so what nodes have left over does not add up. A group of workers too many would wait
    until Train gives it up.
    """
    space, present = plan.search_space(), roll.working()
    pairs = any(space.on_two(point, plan.fixed) for point in space.listed(plan.fixed, plan.seeds))
    largest = max(plan.workers, 2 if pairs else 1)
    for kind, each in (("CPU", plan.cpus), ("GPU", plan.gpus)):
        have = sum(node["Resources"].get(kind, 0.0) for node in present)
        if have < largest * each:
            raise InputError(
                f"the cluster has {have:g} {kind}s; a trial of {largest} workers needs {largest * each:g}",
                expected="room for the workers of one trial",
                remedy=f"bring up more nodes, or fewer --workers-per-trial or --{kind.lower()}s-per-worker",
            )
    workers = roll.slots(present, plan.cpus, plan.gpus)
    if workers < largest:
        raise InputError(
            f"the nodes of the cluster have room for {workers} workers of {plan.cpus:g} CPUs and {plan.gpus:g} GPUs",
            expected=f"room for the {largest} workers of one trial, each on one node",
            remedy="bring up more nodes, or fewer --cpus-per-worker or --gpus-per-worker",
        )
    return max(1, workers // plan.workers) + _spare(plan)
