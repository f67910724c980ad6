"""Going on with a sweep: which one ``latest`` is, that nobody else drives it, what of it is run again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ganatomy.cohorts.claims import alone_in
from ganatomy.contracts import InputError
from ganatomy.core.terminal import one_line, tell, warn
from ganatomy.evidence.results import LATEST, TERMS, SweepPlan, put_back, read_plan, retriable, sweep_directory, sweeps
from ganatomy.evidence.state import SweepState, state_of
from ganatomy.experiment import TrialResult
from ganatomy.measures.statistics import counted


def to_resume(workspace: Path, name: str, trials: int = 0, *, retry: bool = False) -> Path:
    """Folder of the sweep ``name``; ``latest`` is the newest that has something left to do, and which that is is said.

    trials: how many it is to have, where that is asked for.  retry: whether what failed is to be run again. InputError
    where there is no such sweep, or none that has anything left.
    """
    if name != LATEST or not (names := sweeps(workspace)):
        return sweep_directory(workspace, name)
    driven = None
    for one in reversed(names):
        try:
            state = _left(workspace / "sweeps" / one, trials, retry)
        except InputError as error:  # of another version, or damaged: it may not be the one that is meant
            warn(f"passed over: {one_line(error)}")
            continue
        if state is not None and not state.driven:
            tell(f"{LATEST} is {one}. {state.sentence}")
            return workspace / "sweeps" / one
        driven = driven or state
    if driven is not None:  # or was until a minute ago, on another host: whoever is to drive it waits to see
        return workspace / "sweeps" / driven.name
    raise InputError(
        f"no sweep of workspace {workspace} has " + ("a failed trial to run again" if retry else "anything left to do"),
        expected="one that was interrupted" if not retry else "one with trials that failed by a fault of the machine",
        remedy="--resume NAME --trials N for more trials" + ("" if retry else ", --retry-failed for those that failed"),
    )


def _left(directory: Path, trials: int, retry: bool) -> SweepState | None:
    """How far a sweep is that has something left of what is asked for."""
    plan = read_plan(directory)
    check_terms(plan)
    state = state_of(directory, plan)
    if retry:
        return state if retriable(directory)[0] else None
    if trials:  # a confirmation is given no more
        return state if not plan.confirms and (state.left or trials > plan.trials) else None
    return state if state.left else None


def check_terms(plan: SweepPlan) -> None:
    """InputError for a sweep whose trials were other work than the same words ask for now."""
    if plan.terms != TERMS:
        raise InputError(f"sweep {plan.name!r} was planned when arms had other terms: no augmentation but in an arm of "
                         "its own, and another ratio in the joint arm", expected="one that this version planned",
                         remedy="begin a new sweep; report and confirm read this one as it is")  # fmt: skip


@contextlib.contextmanager
def driving(directory: Path, plan: SweepPlan) -> Iterator[None]:
    """Be the one driver of a sweep. InputError where there is another, which says how far that is."""
    with contextlib.ExitStack() as alone:
        try:
            alone.enter_context(alone_in(directory))
        except InputError as error:
            if not (state := state_of(directory, plan)).driven:
                raise
            raise InputError(state.sentence, expected="one driver of a sweep", remedy="wait for it") from error
        yield


def check_retriable(directory: Path, plan: SweepPlan) -> None:
    """InputError where nothing of a sweep is to be run again."""
    retry, findings = retriable(directory)
    if not retry:
        found = f"; {_found(findings)}" if findings else ""
        raise InputError(f"sweep {plan.name!r} has no failed trial to run again{found}",
                         expected="trials that failed by a fault of the machine",
                         remedy="leave --retry-failed out")  # fmt: skip


def run_again(directory: Path, plan: SweepPlan) -> None:
    """Put back all trials of a sweep that failed, as they were planned: who could choose among them would.

    InputError where there are none.
    """
    check_retriable(directory, plan)
    retry, findings = retriable(directory)
    for result in retry:
        put_back(directory, result)
    tell(f"{counted(len(retry), 'failed trial')} put back: the same experiments, under the same seeds")
    if findings:
        tell(_found(findings))


def _found(findings: Sequence[TrialResult]) -> str:
    """What is not run again, for it would come to the same."""
    kinds = (
        ("training", "that diverged", sum(one.diverged for one in findings)),
        ("trial", "whose synthetic set was refused", sum(one.refused for one in findings)),
    )
    return ", ".join(f"{counted(count, what)} {said} {'is' if count == 1 else 'are'} a finding, not run again"
                     for what, said, count in kinds if count)  # fmt: skip
