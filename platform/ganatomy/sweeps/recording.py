"""A sweep's record in MLflow, kept by its driver: what trials write down in their folders is sent from here.

A process that trains needs no MLflow. To load it takes longer than to load torch, and whether a server is there is
nothing that a training should wait for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ganatomy.core.terminal import one_line
from ganatomy.evidence.results import RESULT, SweepPlan, is_concluded, read_result, write_result
from ganatomy.experiment import Experiment, TrialResult
from ganatomy.sweeps.showing import EXPERIMENT, front, run_name, trial_tags, varied
from ganatomy.sweeps.trial import JOURNAL, NAME
from ganatomy.tracking.outbox import Outbox
from ganatomy.tracking.runs import Status, Tracking

STATUS: Mapping[str, Status] = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "KILLED"}

GATHER_S, LONGEST_S = 1.0, 15.0
"""Journals are looked through so often; while the server is away ever more rarely, at least so often."""

END_S = 5.0
"""How long the end of a trial waits for what it still has to say to be sent; what is left then goes in its time."""


class Recording:
    """Opens the run of every trial that has begun, sends what its journal holds, and ends it.

    A server that is away delays no trial: what could not be sent is tried again from a thread. What even ``finish``
    has left is sent when the sweep is resumed.

    earlier: results that an earlier driver left; some may have ended without a run. say: told, once, why for the moment
    nothing can be sent.
    """

    def __init__(
        self,
        plan: SweepPlan,
        directory: Path,
        tracking: Tracking,
        say: Callable[[str], None],
        earlier: Iterable[TrialResult] = (),
    ) -> None:
        self.plan, self.directory, self.tracking, self.say = plan, directory, tracking.asking_once(), say
        self._begun: dict[str, str] = {}
        """Trial -> its run, "" while it has none."""
        self._ended = {result.trial: result for result in earlier if self._unrecorded(result)}
        self._varied = varied(plan)
        names = sorted((directory / "trials").glob(f"*/{NAME}"), key=lambda path: -path.stat().st_mtime_ns)
        self._named = {path.read_text(): path.parent.name for path in names}
        """Name -> the trial that was first called so: a search may sample the same values twice."""
        self._said = ""
        self._guard, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, trial: str) -> None:
        """The trial's process starts: from now on its journal is looked after."""
        self._begun.setdefault(trial, "")
        self.start()

    def start(self) -> None:
        """Look after journals, from a thread, until ``finish``. It is a daemon: the driver may end at any time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
            self._thread.start()

    def send(self, trial: str) -> bool:
        """Send what a trial's journal holds by now; its run is opened before. False where not all of it could be."""
        with self._guard:
            return self._try(lambda: self._send(trial))

    def end(self, result: TrialResult) -> None:
        """A trial has come to its end, with this result: the last of it is sent, and its run ended, within seconds;
        where that cannot be, as soon as it can."""
        self._ended[result.trial] = result
        self._close_all([result], END_S)

    def finish(self, timeout: float, cut_short: Sequence[TrialResult] = ()) -> int:
        """End the thread, and send what is left. Returns how many runs still have something to say.

        cut_short: trials that the sweep left before their end, whose runs must not stay as if they ran.
        """
        self._stop.set()
        self._close_all(list(self._ended.values()), timeout)
        self._each(self._leave, cut_short, timeout)
        return len(self._ended) + len(self.tracking.drain_all(self.directory / "trials", timeout))

    # How.

    def _run(self) -> None:
        failures = 0
        while not self._stop.wait(min(LONGEST_S, GATHER_S * 2 ** min(failures, 10))):
            with self._guard:
                failures = 0 if self._send_all() else failures + 1

    def _close_all(self, results: Sequence[TrialResult], timeout: float) -> None:
        self._each(lambda result: result.trial not in self._ended or self._close(result), results, timeout)

    def _each(self, work: Callable[[TrialResult], bool], results: Sequence[TrialResult], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        if not self._guard.acquire(timeout=timeout):  # the thread is at it, with a server that keeps it waiting
            return
        try:
            for result in results:
                if time.monotonic() < deadline:
                    self._try(lambda result=result: work(result))  # type: ignore[misc]
        finally:
            self._guard.release()

    def _send_all(self) -> bool:
        """Stops at the first that cannot be sent, since they all go to one server; it will be the last next time."""
        for trial in list(self._begun):
            if trial not in self._ended and not self._try(lambda trial=trial: self._send(trial)):  # type: ignore[misc]
                self._begun[trial] = self._begun.pop(trial, "")
                return False
        for trial, result in list(self._ended.items()):
            if not self._try(lambda result=result: self._close(result)):  # type: ignore[misc]
                self._ended[trial] = self._ended.pop(trial)
                return False
        return True

    def _send(self, trial: str) -> bool:
        folder = self._folder(trial)
        if not ((folder / RESULT).exists() and (folder / JOURNAL).exists()):
            return True  # it has not begun
        run = self._begun.get(trial) or self._open(read_result(folder / RESULT))
        return not Outbox(folder / JOURNAL, run).pending() or not self.tracking.drain(folder, timeout=0.0)

    def _close(self, result: TrialResult) -> bool:
        folder = self._folder(result.trial)
        run = self._begun.get(result.trial) or result.run_id
        if (folder / JOURNAL).exists():
            run = run or self._open(result)
            Outbox(folder / JOURNAL, run)  # addressed: what is left of it now, ``drain_all`` sends
            self.tracking.drain(folder, timeout=END_S)
        if run:  # else it failed before it began
            if result.run_id != run:
                write_result(folder, replace(result, run_id=run))
            tags = {"status": result.status, **({"error": result.error} if result.error else {})}
            self.tracking.terminate(run, STATUS[result.status], tags)
        self._begun.pop(result.trial, None)
        self._ended.pop(result.trial, None)
        return True

    def _leave(self, result: TrialResult) -> bool:
        """What a trial has said so far is sent. Its result stays as it is: it is taken up from there."""
        folder = self._folder(result.trial)
        if (folder / JOURNAL).exists():
            run = self._begun.get(result.trial) or result.run_id or self._open(result)
            Outbox(folder / JOURNAL, run)
            self.tracking.drain(folder, timeout=END_S)
            over = result.status in ("finished", "pruned")
            self.tracking.terminate(run, STATUS[result.status] if over else "KILLED",
                                    {"status": result.status if over else "interrupted"})  # fmt: skip
        self._begun.pop(result.trial, None)
        return True

    def _unrecorded(self, result: TrialResult) -> bool:
        """It ended under an earlier driver, and had no run: the server was away all the while."""
        journal = self._folder(result.trial) / JOURNAL
        return not result.run_id and is_concluded(self.directory, result.trial) and journal.exists()

    def _open(self, result: TrialResult) -> str:
        label = (self._folder(result.trial) / NAME).read_text()
        experiment = result.experiment
        tags = {**tags_of(experiment, self.plan), **trial_tags(experiment, self.plan)}
        label += f" ({result.trial})" if self._named.setdefault(label, result.trial) != result.trial else ""
        params = front(experiment, self._varied)
        run = self.tracking.trial_run(self.plan.run_id, result.trial, run_name(self.plan, label), params, tags)
        self.tracking.log_text(run, EXPERIMENT, json.dumps(experiment.to_dict(), indent=1))
        self._begun[result.trial] = run
        return run

    def _try(self, work: Callable[[], bool]) -> bool:
        """Whether it could be done. Why not is said once: of a server that is away every journal says the same."""
        try:
            done = work()
        except Exception as error:  # whatever it is, the sweep goes on, and nothing is lost by asking again
            why = one_line(error)
            if why != self._said:
                self.say(f"runs are kept in the trials' folders for now: {why}")
            self._said = why
            return False
        self._said = "" if done else self._said
        return done

    def _folder(self, trial: str) -> Path:
        return self.directory / "trials" / trial


def tags_of(experiment: Experiment, plan: SweepPlan) -> dict[str, str]:
    """What a trial's run is found by, beside its parameters."""
    return {
        "arm": experiment.arm,
        "method": experiment.method.name,
        "domain_pair": "-".join(experiment.domains.values()),
        "cohort": f"{Path(plan.cohort).name} {plan.cohort_digest}",
        "seed": str(experiment.seed),
        "experiment": experiment.digest(),
    }
