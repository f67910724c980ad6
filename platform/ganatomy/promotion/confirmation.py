"""Confirmation: what a sweep picked, and what that must beat, trained again under seeds that chose nothing.

The trainings are a sweep beside the one that they confirm, each with a generator of its own, with a plan, trials and
runs like any other: it can be resumed, and the stages that it has in common with others are computed once. What came
of it is read by ``evidence.confirmed``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ganatomy.cohorts.claims import alone_in, assert_reserved, numbered, reserved
from ganatomy.contracts import InputError
from ganatomy.evidence.confirmed import (
    CANDIDATE,
    SUFFIX,
    Pick,
    check_equal_work,
    confirmation_of,
    confirmations,
    picked_in,
)
from ganatomy.evidence.results import PLAN, SweepPlan, read_plan, read_results, sweep_directory, sweeps
from ganatomy.evidence.state import state_of
from ganatomy.measures.statistics import counted
from ganatomy.measures.verdicts import MINIMUM_TRAININGS
from ganatomy.sweeps.showing import present, sweep_tags
from ganatomy.tracking.runs import Tracking

ALL_ENDED = "a sweep whose trials have all ended: what it picks is trained again, and the test patients are read, once"

TRAININGS = 5
"""Of each side, unless told otherwise."""


def planned(
    workspace: Path,
    sweep: str,
    *,
    trainings: int | None = None,
    as_it_stands: str | None = None,
    begun: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> SweepPlan:
    """The plan of the confirmation of a sweep's pick, to be resumed as a sweep: the one that there is, or a new one,
    whose cost is said.

    trainings: of each side, under fresh seeds; None for as many as were planned, or ``TRAININGS``.  as_it_stands: why a
    sweep whose trials have not all ended is confirmed all the same.  begun: it must be there. InputError where they
    have not and nobody said why, or are being run; where there is nothing to confirm, where its work is unequal, where
    the confirmation is running, or where it was begun with another number of trainings.
    """
    if trainings is not None and trainings < MINIMUM_TRAININGS:
        raise InputError(f"{counted(trainings, 'training')} a side",
                         expected=f"{MINIMUM_TRAININGS} or more: fewer allow no verdict")  # fmt: skip
    directory = sweep_directory(workspace, sweep)
    plan = read_plan(directory)
    if plan.confirms:
        raise InputError(f"sweep {plan.name!r} is a confirmation itself", expected=f"the sweep: {plan.confirms}")
    left_out(directory, plan, as_it_stands)
    picked = picked_in(directory, plan)
    check_equal_work(picked, plan.name)
    with alone_in(directory):
        found = _begun(workspace, plan, picked, trainings)
        check_still(workspace, found)
        if begun and found is None:
            raise InputError(f"sweep {plan.name!r} has no confirmation, so that nothing of it failed",
                             expected="one of what it picks now", remedy="leave --retry-failed out")  # fmt: skip
        return found or _begin(workspace, plan, picked, trainings or TRAININGS, say)


def left_out(directory: Path, plan: SweepPlan, as_it_stands: str | None) -> int:
    """How many trials a pick does without. InputError where there are any, and nobody said why."""
    if as_it_stands is not None and not as_it_stands.strip():
        raise InputError("a sweep judged as it stands without a reason", expected="why it will never be finished")
    state = state_of(directory, plan)
    if state.left and state.driven:  # whatever the reason: it will be finished, and what it will pick is not known
        raise InputError(
            f"{counted(state.left, 'trial')} outstanding: {state.sentence}", expected=ALL_ENDED, remedy="wait for it"
        )
    if state.left and as_it_stands is None:
        raise InputError(
            f"sweep {plan.name!r} has {state.left} of {plan.trials} trials outstanding",
            expected=ALL_ENDED,
            remedy=f"ganatomy sweep --resume {plan.name}; of one that will never be finished, --as-it-stands REASON "
            "judges what is there",
        )
    return state.left


def check_still(workspace: Path, again: SweepPlan | None) -> None:
    """InputError while a confirmation runs: nobody looks at its trainings before all of them are there, forced or
    not."""
    if again is not None and (state := state_of(workspace / "sweeps" / again.name, again)).driven:
        raise InputError(state.sentence, expected="a confirmation that has ended: the test patients are read once",
                         remedy="wait for it")  # fmt: skip


def _begun(workspace: Path, plan: SweepPlan, picked: Pick, trainings: int | None) -> SweepPlan | None:
    """The confirmation that there is. InputError where it is to have another number of trainings."""
    found = confirmation_of(workspace, plan.name, picked)
    if found is not None and trainings not in (None, len(found.seeds)):
        raise InputError(f"sweep {found.name!r} was begun with {len(found.seeds)} trainings a side",
                         expected="the number that was planned: what may be added to is added to until it pleases",
                         remedy=f"--trainings {len(found.seeds)}, or leave it out")  # fmt: skip
    return found


def _begin(workspace: Path, plan: SweepPlan, picked: Pick, trainings: int, say: Callable[[str], None]) -> SweepPlan:
    """Plan it, and say what it will cost."""
    fresh = plan_of(plan, picked, trainings, used_seeds(workspace, plan))
    seeds = f"seeds {fresh.seeds[0]} to {fresh.seeds[-1]}"
    say(f"to confirm: {trainings} trainings each of {picked.names[0]} and {picked.names[1]}, {seeds}")
    say(f"planned cost: about {cost(picked, trainings):.0f} device seconds, as long as those of the search took")
    return _write(workspace, fresh)


def used_seeds(workspace: Path, plan: SweepPlan) -> set[int]:
    """Seeds that anything of a sweep, of its confirmations, or of another sweep over its cohort was ever to be trained
    under: what another sweep showed of a configuration under some seeds is known as well.

    Not those of other sweeps' confirmations: what two sweeps pick alike is trained again under the same seeds, once.
    """
    own = [plan, *confirmations(workspace, plan.name)]
    trained = (result for one in own for result in read_results(workspace / "sweeps" / one.name))
    return {*(seed for one in (*own, *_searches(workspace, plan)) for seed in one.seeds),
            *(result.experiment.seed for result in trained)}  # fmt: skip


def _searches(workspace: Path, plan: SweepPlan) -> Iterator[SweepPlan]:
    """Sweeps over the cohort of ``plan`` that are no confirmations, as far as their plans can be read."""
    for name in sweeps(workspace):
        with contextlib.suppress(InputError):
            found = read_plan(workspace / "sweeps" / name)
            if found.cohort_digest == plan.cohort_digest and not found.confirms:
                yield found


def plan_of(plan: SweepPlan, picked: Pick, trainings: int, used: set[int]) -> SweepPlan:
    """What confirms a pick of the sweep ``plan``: both configurations, each under so many seeds above all ``used``."""
    first = max(used, default=-1) + 1
    return replace(
        plan, name=f"{plan.name}{SUFFIX}", confirms=plan.name, pick=picked.experiments,
        base=picked.experiments[CANDIDATE], fixed={}, family=picked.family, controls=(), objectives=(),
        scheduler="none", run_id="", seeds=tuple(range(first, first + trainings)), trials=2 * trainings,
    )  # fmt: skip


def cost(picked: Pick, trainings: int) -> float:
    """Device seconds that so many trainings of each side take, if they take as long as those of the search."""
    return sum(trainings * sum(one.device_seconds for one in side) / len(side) for side in picked.sides)


def _write(workspace: Path, plan: SweepPlan) -> SweepPlan:
    """Under a name of its own, recorded in MLflow as what it is."""
    root = workspace / "sweeps"
    with reserved(root, numbered(plan.name), lambda folder: (folder / PLAN).exists()) as name:
        if name is None:
            raise InputError(f"no name is free for a confirmation of {plan.confirms!r}", remedy="delete old ones")
        plan = replace(plan, name=name)
        tracking = Tracking(plan.tracking_uri or None, workspace, plan.experiment)
        tags = {"space": plan.space, "cohort": f"{plan.base.cohort} {plan.cohort_digest}", "confirms": plan.confirms}
        plan = replace(plan, run_id=tracking.sweep_run(name, {**tags, **sweep_tags(plan)}))
        present(plan, tracking)
        assert_reserved(root / name)
        plan.save(root / name)
    return plan
