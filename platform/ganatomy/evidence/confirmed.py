"""What a sweep picked, and what that came to when it was trained again.

A pick owes a part of its score to luck: it is the best of several. Its confirmation, a sweep of its own, trains it and
the best without synthetic data anew, under seeds that chose nothing. Only those trainings are evidence; what stands
here is read from the folders of both sweeps, and is of validation patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.names import on_one_line
from ganatomy.core.plain_files import read_json
from ganatomy.evidence.ablation import LEVEL, Ablation, ablation_table
from ganatomy.evidence.configurations import besides_synthetic, relevant
from ganatomy.evidence.results import SweepPlan, outstanding, read_plan, read_results, sweeps
from ganatomy.evidence.work import unequal_work
from ganatomy.experiment import Experiment, TrialResult, replicates
from ganatomy.measures.statistics import counted
from ganatomy.measures.verdicts import HARMS, Finding, Judged, compare, measured

CANDIDATE, BASELINE = "candidate", "baseline"

SUFFIX = "-confirmation"
"""Behind the name of a sweep: what the confirmations of its picks are called, then numbered."""

VERDICT = "verdict.json"
"""File of a sweep: what its promotion came to, the latest one."""


@dataclass(frozen=True)
class Pick:
    """What a sweep picked on validation patients: its best configuration with synthetic data and its best without.

    candidate, baseline: their trials.  names: what the table calls them.  unequal: what of the downstream work that was
    planned differs, in words; empty where it is equal.
    """

    candidate: tuple[TrialResult, ...]
    baseline: tuple[TrialResult, ...]
    names: tuple[str, str]
    unequal: str = ""

    @property
    def sides(self) -> tuple[tuple[TrialResult, ...], tuple[TrialResult, ...]]:
        """Candidate and baseline."""
        return self.candidate, self.baseline

    @property
    def experiments(self) -> dict[str, Experiment]:
        """What is to be trained again, of no seed yet."""
        return {side: replace(trials[0].experiment, seed=0) for side, trials in zip((CANDIDATE, BASELINE), self.sides)}

    @property
    def besides(self) -> str:
        """``besides_synthetic`` of its two."""
        return besides_synthetic(self.candidate[0].experiment, self.baseline[0].experiment)

    @property
    def family(self) -> dict[str, str]:
        """The one comparison that its confirmation is run for, as a plan declares it."""
        return {relevant(self.candidate[0].experiment).configuration(): self.names[0]}


@dataclass(frozen=True)
class Confirmed:
    """What a pick came to when it was trained again.

    plan: of the confirmation.  names, before, after: of (candidate, baseline); scores on validation patients, of every
    training of the search, and of every fresh one.  failed: fresh trainings that came to no end, of either.
    finding: what the fresh trainings show on validation patients; None before one of each side has finished.
    """

    plan: SweepPlan
    names: tuple[str, str]
    before: tuple[tuple[float, ...], tuple[float, ...]]
    after: tuple[tuple[float, ...], tuple[float, ...]]
    failed: tuple[int, int]
    finding: Finding | None

    def text(self) -> str:
        """In lines: each side before and after, and ``remarks``."""
        lines = [f"{name}: {self.plan.measure} {_mean(before)} when it was chosen, {_mean(after)} trained again"
                 for name, before, after in zip(self.names, self.before, self.after)]  # fmt: skip
        return "\n".join([*lines, *self.remarks])

    @property
    def remarks(self) -> tuple[str, ...]:
        """The difference before and after, and what a reader of it must know, in sentences."""
        lines = []
        if self.finding is not None:
            chosen = 100 * (_average(self.before[0]) - _average(self.before[1]))
            lines += [
                f"On validation patients the difference was {chosen:+.1f} {self.plan.measure} points when it was "
                f"chosen. Trained again, on the patients that it was chosen by: {self.finding.sentence}"
            ]
        if besides := besides_synthetic(*(self.plan.pick[side] for side in (CANDIDATE, BASELINE))):
            lines.append(f"They differ in more than synthetic data: {besides}")
        if failed := sum(self.failed):
            lines.append(f"{counted(failed, 'training')} of {self.plan.trials} came to no end")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        sides = (CANDIDATE, BASELINE)
        return {"sweep": self.plan.confirms, "confirmation": self.plan.name, "measure": self.plan.measure,
                "seeds": list(self.plan.seeds), "names": dict(zip(sides, self.names)),
                "before": dict(zip(sides, map(list, self.before))), "after": dict(zip(sides, map(list, self.after))),
                "failed": dict(zip(sides, self.failed)),
                "finding": self.finding and {**self.finding.to_dict(), "sentence": self.finding.sentence}}  # fmt: skip


def pick(table: Ablation, results: Sequence[TrialResult], sweep: str) -> Pick:
    """The configuration with synthetic data, and the one without, that validate best over their seeds. InputError where
    the sweep finished no trial of one of the two kinds."""
    for configuration, kind in ((table.candidate, "offline or joint"), (table.baseline, "real or source")):
        if not configuration:
            raise InputError(
                f"sweep {sweep!r} has no finished trial of arm {kind}",
                expected="at least one with and one without synthetic data",
                remedy="run more trials, or a space that has both",
            )
    rows = table.row(table.candidate), table.row(table.baseline)
    by_trial = {result.trial: result for result in results}
    sides = [tuple(by_trial[trial] for trial in row.trials) for row in rows]
    unequal = unequal_work(rows[0].planned, rows[1].planned)
    return Pick(sides[0], sides[1], (rows[0].name, rows[1].name), unequal)


def check_equal_work(picked: Pick, sweep: str) -> None:
    """InputError where candidate and baseline were to be trained for unequal work downstream."""
    if picked.unequal:
        raise InputError(
            f"sweep {sweep!r} picked {' and '.join(picked.names)}, of unequal work downstream: {picked.unequal}",
            expected="the same updates, batch and patience: more work alone scores higher",
            remedy="fix what differs for all of a sweep, such as --set budget.segmentor_steps=500",
        )


def picked_in(directory: Path, plan: SweepPlan) -> Pick:
    """``pick`` of the sweep in ``directory``, as it stands. Raises as that."""
    results = finished(directory)
    return pick(ablation_table(results, declared=plan.family), results, plan.name)


def finished(directory: Path) -> list[TrialResult]:
    """The trials of the sweep in ``directory`` that have."""
    return [result for result in read_results(directory) if result.status == "finished"]


def confirmation_of(workspace: Path, sweep: str, picked: Pick) -> SweepPlan | None:
    """The confirmation of what the sweep ``sweep`` picked, if there is one: an earlier one may be of another pick.

    It is told by what matters to each arm: of a training on real images alone, sampled with settings of a generator,
    whichever trial stands first is the same configuration.
    """
    wanted = _configurations(picked.experiments)
    return next((plan for plan in confirmations(workspace, sweep) if _configurations(plan.pick) == wanted), None)


def _configurations(pick: Mapping[str, Experiment]) -> dict[str, str]:
    return {side: relevant(experiment).configuration() for side, experiment in pick.items()}


def confirmations(workspace: Path, sweep: str) -> list[SweepPlan]:
    """Of all picks that the sweep ``sweep`` ever had, the newest first. InputError where one of them is damaged."""
    names = [name for name in reversed(sweeps(workspace)) if name.startswith(f"{sweep}{SUFFIX}")]
    plans = (read_plan(workspace / "sweeps" / name) for name in names)
    return [plan for plan in plans if plan.confirms == sweep]


def place_of(workspace: Path, plan: SweepPlan) -> int:
    """Which confirmation over its cohort ``plan`` is in this workspace, from 1, whatever sweeps they are of; where it
    is none of them, which the next would be. InputError where one of them is damaged.

    What fresh trainings reach on validation patients is seen before the test patients are read, and their luck is the
    same on both: who may look at several confirmations, and promote the one that pleases, has drawn several times.
    """
    plans = (read_plan(workspace / "sweeps" / name) for name in sweeps(workspace) if SUFFIX in name)
    names = [one.name for one in plans if one.confirms and one.cohort_digest == plan.cohort_digest]
    return names.index(plan.name) + 1 if plan.name in names else len(names) + 1


def trainings_of(workspace: Path, plan: SweepPlan) -> tuple[list[TrialResult], list[TrialResult]]:
    """The finished trainings of a confirmation, by seed: of the candidate, of the baseline."""
    fresh = [one for one in finished(workspace / "sweeps" / plan.name) if one.experiment.seed in plan.seeds]
    sides = [
        replicates([one for one in fresh if replace(one.experiment, seed=0) == plan.pick[side]])
        for side in (CANDIDATE, BASELINE)
    ]
    return [*sides[0].values()], [*sides[1].values()]


def came_to(workspace: Path, plan: SweepPlan, picked: Pick) -> Confirmed:
    """What a confirmation has shown so far, beside what the search had."""
    sides = trainings_of(workspace, plan)
    before, after = (
        tuple(tuple(float(one.summary[plan.score]) for one in replicates(side).values()) for side in both)
        for both in (picked.sides, sides)
    )
    lost = lost_of(workspace, plan)
    return Confirmed(plan, picked.names, (before[0], before[1]), (after[0], after[1]), lost,
                     judged_again(plan, sides, lost) if all(sides) else None)  # fmt: skip


def lost_of(workspace: Path, plan: SweepPlan) -> tuple[int, int]:
    """How many trainings of a confirmation failed: of the candidate, of the baseline."""
    failed = [r.experiment for r in read_results(workspace / "sweeps" / plan.name) if r.status in ("failed", "pruned")]
    sides = [sum(replace(one, seed=0) == plan.pick[side] for one in failed) for side in (CANDIDATE, BASELINE)]
    return sides[0], sides[1]


def judged_again(plan: SweepPlan, sides: tuple[list[TrialResult], list[TrialResult]], lost: tuple[int, int]) -> Finding:
    """What fresh trainings show on validation patients. Raises InputError where they share no patient."""
    judged = plan.task.judged(*([one.scores for one in side] for side in sides))
    return judged_without(lost, *judged, seeds=(seeds_of(sides[0]), seeds_of(sides[1])))


def seeds_of(trainings: Sequence[TrialResult]) -> tuple[int, ...]:
    """In the order given."""
    return tuple(one.experiment.seed for one in trainings)


def judged_without(
    lost: tuple[int, int],
    more: Judged,
    less: Judged,
    *,
    alpha: float = LEVEL,
    least: float = 0.0,
    seeds: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Finding:
    """What trainings show that may be the good ones: of candidate and baseline ``lost`` came to no end. There is no
    verdict that this may be the cause of: none where the candidate lost one, no harm where the baseline did.
    seeds: as for ``verdicts.compare``."""
    found = compare(more, less, alpha=alpha, least=least, seeds=seeds)
    side = CANDIDATE if lost[0] else BASELINE if lost[1] and found.answer == HARMS else ""
    if not side:
        return found
    several = counted(lost[0] or lost[1], "training")
    why = f"{several} of the {side} came to no end, and may have been the worst"
    return measured(more, less, why, alpha=alpha)


def aftermath(workspace: Path, plan: SweepPlan, table: Ablation, results: Sequence[TrialResult]) -> tuple[str, ...]:
    """What has come of a sweep since it ended, in sentences: its confirmation, and the latest verdict with its gates.

    table, results: of the sweep, as it stands. Nothing of a confirmation where there is none of what is picked now; a
    verdict on another pick names it.
    """
    directory = workspace / "sweeps" / plan.name
    if not (table.candidate and table.baseline):
        return ()
    picked = pick(table, results, plan.name)
    try:
        said = _confirmed(workspace, plan, picked)
    except InputError as error:
        said = [f"What was confirmed of it cannot be told: {on_one_line(str(error))}"]
    if (directory / VERDICT).exists():
        said += _verdict(directory / VERDICT, picked.names)
    return tuple(said)


def _verdict(path: Path, names: tuple[str, str]) -> list[str]:
    """The latest verdict and its gates; of which two it was, where these are not called ``names``."""
    try:
        verdict = read_json(path)
        judged = verdict["candidate"], verdict["baseline"]
        said = [str(verdict["sentence"]), *(_gate(gate) for gate in verdict["gates"])]
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return [f"What its promotion came to cannot be told: {path} is damaged"]
    return said if judged == names else [f"Before that {judged[0]} was judged against {judged[1]}:", *said]


def _confirmed(workspace: Path, plan: SweepPlan, picked: Pick) -> list[str]:
    found = confirmation_of(workspace, plan.name, picked)
    if found is None:
        return []
    left = outstanding(workspace / "sweeps" / found.name, found)
    so_far = f", {left} of {found.trials} trainings outstanding" if left else ""
    return [f"Confirmation {found.name}{so_far}:", *came_to(workspace, found, picked).text().split("\n")]


def _gate(gate: Mapping[str, Any]) -> str:
    return f"{'passed' if gate['passed'] else 'FAILED'}, {gate['name']}: {gate['sentence']}"


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "unknown"
    return f"{_average(values):.3f} ({counted(len(values), 'training')}, {min(values):.3f} to {max(values):.3f})"
