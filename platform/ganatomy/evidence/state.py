"""How far a sweep is, as its folder says: what has ended, whether anybody drives it now, and what there is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ganatomy.cohorts.claims import in_use
from ganatomy.evidence.results import SweepPlan, has_ended, is_retried, read_results
from ganatomy.experiment import NO_RESULT, TrialResult

WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class SweepState:
    """How far a sweep is.

    trials: how many were planned.  finished, pruned, failed: how many ended so.  diverged: how many of those that
    failed did so because their training diverged.  refused: how many have no result, since their synthetic set was
    refused.  begun: how many a process has taken up that have not ended.
    retried: how many of them all had failed before, and were put back.  driven: whether a driver is at work on it now.
    unit: what one of them is called.
    """

    name: str
    trials: int
    finished: int = 0
    pruned: int = 0
    failed: int = 0
    diverged: int = 0
    refused: int = 0
    begun: int = 0
    retried: int = 0
    driven: bool = False
    unit: str = "trial"

    @property
    def ended(self) -> int:
        """How many have come to their end, whichever."""
        return self.finished + self.pruned + self.failed + self.refused

    @property
    def left(self) -> int:
        """How many have yet to come to their end."""
        return max(0, self.trials - self.ended)

    @property
    def sentence(self) -> str:
        """For whoever reads a report: it stands above everything else."""
        them = _verb(self.retried, "is", "are") if self.left else _verb(self.retried, "was", "were")
        again = f" {self.retried} of them failed before, and {them} run again." if self.retried else ""
        if not self.left:
            doing = "is being concluded" if self.driven else "has ended"
            return f"Sweep {self.name} {doing}: {self._outcome}.{again}"
        begun, waiting = self.begun, max(0, self.left - self.begun)
        if self.driven:
            parts = [f"{_so_many(begun, 'is', 'are')} training", f"{_so_many(waiting, 'is', 'are')} waiting"]
            return f"Sweep {self.name} is running: {self._so_far}, {', '.join(parts)}.{again}"
        parts = [f"{_so_many(begun, 'was', 'were')} cut short"] * (begun > 0)
        parts += [f"{_so_many(waiting, 'is', 'are')} waiting"] * (waiting > 0)
        return (
            f"Sweep {self.name} is not running: {self._so_far}, {', '.join(parts)}; "
            f"ganatomy sweep --resume {self.name} goes on with it.{again}"
        )

    @property
    def _so_far(self) -> str:
        told = [self._failures] * (self.failed > 0) + [self._refusals] * (self.refused > 0)
        failed = f" ({', '.join(told)})" if told else ""
        if not self.ended:
            return f"none of {self.trials} {self.unit}s has ended"
        return f"{self.ended} of {self.trials} {self.unit}s {_verb(self.ended, 'has', 'have')} ended{failed}"

    @property
    def _failures(self) -> str:
        diverged = f", {self.diverged} of them because the training diverged" if self.diverged else ""
        return f"{self.failed} failed{diverged}"

    @property
    def _refusals(self) -> str:
        return f"{self.refused} without a result because the synthetic set was refused"

    @property
    def _outcome(self) -> str:
        if self.trials <= 0:
            return f"it has no {self.unit}s"
        if self.failed >= self.trials:
            kinds = "" if not self.diverged else f", {self.diverged} of them because the training diverged"
            said = f"all {self.trials} {self.unit}s failed{kinds}" if self.trials > 1 else f"its one {self.unit} failed"
        else:
            pruned = f", {self.pruned} {_verb(self.pruned, 'was', 'were')} stopped early" if self.pruned else ""
            failed = f", {self._failures}" if self.failed else ""
            refused = f", {self._refusals}" if self.refused else ""
            said = f"{self.finished} of {self.trials} {self.unit}s finished{pruned}{failed}{refused}"
        if self.failed > self.diverged:
            them = "it" if self.failed - self.diverged == 1 else "them"
            said += f"; ganatomy sweep --resume {self.name} --retry-failed runs {them} again"
        return said


def state_of(
    directory: Path, plan: SweepPlan, results: Sequence[TrialResult] | None = None, *, driven: bool | None = None
) -> SweepState:
    """How far the sweep in ``directory`` is. Nothing is changed there, or waited for.

    results: of all its trials that have one, where they are read already.  driven: whether a driver is at work, where
    that is known; else told by the claim by which a second driver is refused.
    """
    results = read_results(directory) if results is None else results
    ended = [one for one in results if has_ended(directory, one)]
    failed = [one for one in ended if one.came_to == "failed"]
    statuses = [one.status for one in ended]
    return SweepState(
        name=plan.name,
        trials=plan.trials,
        finished=statuses.count("finished"),
        pruned=statuses.count("pruned"),
        failed=len(failed),
        diverged=sum(one.diverged for one in failed),
        refused=sum(one.came_to == NO_RESULT for one in ended),
        # One that failed and has not been concluded waits to be run again.
        begun=sum(one.status == "running" for one in results),
        retried=sum(is_retried(directory, one.trial) for one in results),
        driven=in_use(directory) if driven is None else driven,
        unit="training" if plan.confirms else "trial",
    )


def _so_many(count: int, one: str, more: str) -> str:
    """``one is``, ``four are``, ``25 are``."""
    return f"{WORDS[count] if count < len(WORDS) else count} {_verb(count, one, more)}"


def _verb(count: int, one: str, more: str) -> str:
    return one if count <= 1 else more
