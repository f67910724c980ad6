"""Several sweeps over one cohort as one table: methods that were swept apart, on the same patients, as one family.

The rows are the configurations of all of them, against one baseline, the best without synthetic data of any. What a
promotion said of one of them is told as it was said; the test patients are not read again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ganatomy.contracts import InputError
from ganatomy.evidence.ablation import Ablation, Row, ablation_table
from ganatomy.evidence.configurations import besides_synthetic, relevant
from ganatomy.evidence.confirmed import aftermath
from ganatomy.evidence.results import SweepPlan, outstanding, read_plan, read_results, sweep_directory
from ganatomy.exhibits.material import Material
from ganatomy.experiment import SYNTHETIC_ARMS, TrialResult
from ganatomy.measures.statistics import counted

AFTERWARDS = (
    "Each sweep declared its own comparisons before it began; that these are put together was decided afterwards."
)

Trained = tuple[str, int]
"""Configuration, of what is relevant of it, and seed: what is trained once, whichever sweep asks for it."""


@dataclass(frozen=True)
class Swept:
    """One of the sweeps: its plan, and the results of all its trials that have one."""

    plan: SweepPlan
    results: tuple[TrialResult, ...]

    @property
    def name(self) -> str:
        """Of the sweep."""
        return self.plan.name

    @property
    def finished(self) -> list[TrialResult]:
        """The trials that have."""
        return [one for one in self.results if one.status == "finished"]

    @property
    def family(self) -> Mapping[str, str]:
        """What it declared, configuration -> point; all with synthetic data where its version declared nothing."""
        if self.plan.family is not None:
            return self.plan.family
        made = [one.experiment for one in self.results if one.experiment.arm in SYNTHETIC_ARMS]
        return {relevant(one).configuration(): "" for one in made}


def several(workspace: Path, names: Sequence[str], tell: Callable[[str], None] = lambda why: None) -> Material:
    """The sweeps ``names`` of ``workspace`` as one: a plan whose name is all of theirs, the results of all, each
    training once, and their table.

    Trials are called SWEEP/TRIAL. InputError where one is named twice, has no finished trial or is a confirmation,
    whose trainings judge one pick, and for sweeps over different cohorts, tasks or domains.
    """
    swept = comparable(workspace, names)
    results, shared = _trained_once(swept)
    family = {key: point for one in swept for key, point in one.family.items()}
    table = ablation_table(results, declared=family)
    rows = _told_apart(table.rows)
    table = replace(
        table,
        rows=rows,
        names={**table.names, **{row.configuration: row.name for row in rows}},
        caveats=(*table.caveats, *_besides(table, results), *_standing(workspace, swept, shared), AFTERWARDS),
        aftermath=tuple(said for one in swept for said in _came_of(workspace, one)),
    )
    plan = replace(
        swept[0].plan, name=_listed([one.name for one in swept]), trials=len(results), family=family, run_id="",
        objectives=(), controls=(), seeds=tuple(sorted({one.experiment.seed for one in results})),
    )  # fmt: skip
    return Material(workspace, plan, tuple(results), table, tell, tuple(one.name for one in swept))


# --- what can be compared ----------------------------------------------------------------------------------------


def comparable(workspace: Path, names: Sequence[str]) -> list[Swept]:
    """The sweeps ``names`` as their folders hold them. Raises InputError as ``several``."""
    directories = [sweep_directory(workspace, name) for name in names]
    swept = [Swept(read_plan(directory), tuple(read_results(directory))) for directory in directories]
    _check(swept)
    return swept


def _check(swept: Sequence[Swept]) -> None:
    for name, times in Counter(one.name for one in swept).items():
        if times > 1:
            raise InputError(f"sweep {name!r} is named {times} times", expected="each sweep once")
    for one in swept:
        if one.plan.confirms:
            raise InputError(f"sweep {one.name!r} is the confirmation of {one.plan.confirms!r}", expected="sweeps that "
                             "search: its trainings judge one pick, and are told with that sweep",
                             remedy=f"name {one.plan.confirms!r} in its place")  # fmt: skip
        if not one.finished:
            raise InputError(f"sweep {one.name!r} has no finished trial", expected="one at least in each",
                             remedy=f"ganatomy sweep --resume {one.name}, or leave it out")  # fmt: skip
    first, *others = swept
    for other in others:
        if other.plan.cohort_digest != first.plan.cohort_digest:
            raise InputError(f"sweeps over different cohorts: {_cohort(first)}; {_cohort(other)}",
                             expected="one cohort, with the same images, labels, splits and key")  # fmt: skip
        for what, named in (("of different tasks", _tasks), ("that score different domains", _domains)):
            if named(first) != named(other):
                raise InputError(f"sweeps {what}: {first.name!r}, {_listed(sorted(named(first)))}; "
                                 f"{other.name!r}, {_listed(sorted(named(other)))}",
                                 expected="the same in all")  # fmt: skip


def _cohort(one: Swept) -> str:
    return f"{one.name!r} over {Path(one.plan.cohort).name or one.plan.base.cohort} {one.plan.cohort_digest}"


def _tasks(one: Swept) -> set[str]:
    return {trial.experiment.downstream.task for trial in one.finished}


def _domains(one: Swept) -> set[str]:
    return {trial.experiment.target_domain() for trial in one.finished}


# --- each training once ------------------------------------------------------------------------------------------


def _trained(one: TrialResult) -> Trained:
    return relevant(one.experiment).configuration(), one.experiment.seed


def _trained_once(swept: Sequence[Swept]) -> tuple[list[TrialResult], int]:
    """The trials of all sweeps, without those whose training stands in a sweep named before; and how many trainings
    stand in several. A training that came to its end anywhere did so: what failed of it elsewhere is left out."""
    where: dict[Trained, list[str]] = defaultdict(list)
    for finished in (True, False):  # those that finished come first, whichever sweep they are of
        for one in swept:
            ended = [trial for trial in one.results if (trial.status == "finished") == finished]
            for key in dict.fromkeys(map(_trained, ended)):
                where[key].append(one.name)
    kept = [
        replace(trial, trial=f"{one.name}/{trial.trial}")
        for one in swept for trial in one.results
        if where[_trained(trial)][0] == one.name
    ]  # fmt: skip
    return kept, sum(len(set(names)) > 1 for names in where.values())


# --- what a reader must know -------------------------------------------------------------------------------------


def _told_apart(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, those of the same name with the sweep of their first trial behind it."""
    times = Counter(row.name for row in rows)
    return tuple(
        replace(row, name=f"{row.name} [{row.trials[0].partition('/')[0]}]") if times[row.name] > 1 else row
        for row in rows
    )


def _besides(table: Ablation, results: Sequence[TrialResult]) -> list[str]:
    """What else than synthetic data sets declared rows apart from the baseline, which may be of another sweep."""
    experiments = {one.trial: one.experiment for one in results}
    if not table.baseline:
        return []
    baseline = experiments[table.row(table.baseline).trials[0]]
    apart: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        if row.synthetic and row.declared and (odd := besides_synthetic(experiments[row.trials[0]], baseline)):
            apart[odd].append(row.name)
    return [f"{_listed(names)}: apart from the baseline by more than synthetic data: {odd}."
            for odd, names in apart.items()]  # fmt: skip


def _standing(workspace: Path, swept: Sequence[Swept], shared: int) -> list[str]:
    """What is of which sweep, how far each is, and what several have."""
    said = []
    for one in swept:
        configurations = {relevant(trial.experiment).configuration() for trial in one.finished}
        left = outstanding(workspace / "sweeps" / one.name, one.plan)
        state = f"; it is not at its end, {left} of {one.plan.trials} trials are outstanding" if left else ""
        many = f"{counted(len(configurations), 'configuration')}, {counted(len(one.finished), 'finished trial')}"
        said.append(f"Sweep {one.name} ({one.plan.space}): {many}{state}.")
    if shared:
        said.append(
            f"{counted(shared, 'training')} of the same configuration and seed in several sweeps: each counts once."
        )
    return said


def _came_of(workspace: Path, one: Swept) -> list[str]:
    """What a sweep's confirmation and its promotion came to, with its name before each sentence."""
    own = ablation_table(one.results, declared=one.plan.family)
    return [f"{one.name}: {said}" for said in aftermath(workspace, one.plan, own, one.results)]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
