"""The ablation table of a sweep: what each configuration scored, how surely it differs from no synthetic data.

Works on ``TrialResult`` alone, so on the validation split alone: the test split is not read here. Rows and differences
are of the same patients, a patient counting once: no row stands above another and has the lesser difference.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.downstream.task import task_named, task_of
from ganatomy.evidence.configurations import AUGMENTATION, names_of, relevant
from ganatomy.evidence.published import Comparison, compare
from ganatomy.evidence.work import Planned, more_work, planned_work, unequal_work, weak_guides, worst_guide
from ganatomy.experiment import NO_RESULT, SYNTHETIC_ARMS, Downstream, Experiment, TrialResult, replicates
from ganatomy.measures.statistics import averaged
from ganatomy.measures.verdicts import NO_VERDICT, Finding, Judged, compare_all, measured
from ganatomy.search_space import PaperTable

WEAK_REFERENCE = 0.8

SEARCHED, REAL, CONTROL, BASELINE = "searched", "no synthetic data", "control", "baseline"
"""Readings of rows that are no comparison: sampled by a search, a training that lost to the baseline, one that had more
downstream work than it, and itself."""

BEST_OF_SEVERAL = (
    "The best of several looks better than it is: trained again (ganatomy confirm) it shows what it is worth."
)
"""Said of a table with several rows with synthetic data, until its best has been trained again."""

REFUSED = (
    "No result: every synthetic set was refused by those who judge it, and nothing was trained on one. That says "
    "something of the generators, and nothing for or against synthetic data."
)

SAME_PATIENTS = "Every training has the labels of the same patients: what others' would give is in no interval."

LEVEL = 0.025
"""One-sided, of all comparisons of a table together: their intervals all hold with 95 %."""


@dataclass(frozen=True)
class Row:
    """One configuration: its replicates over seeds taken together.

    configuration: ``Experiment.configuration()`` of what is ``relevant`` of it.  name: its parameters that vary.
    dice: the score of the downstream task, Dice or the area under the ROC curve, mean over patients, then trainings.
    patients, labels, hd95, missed, worst, worst_subject, further: as in ``downstream.task.Standing``; of what is a
    matter of all patients together, such as an area, what would be a patient's own is empty or NaN.
    s_scores: domain -> mean S-score; s_references: what the same segmentors reach on real images.
    synthesis: what else is measured on synthetic images (``healthiness``, ``beside/unchanged/identity``) -> mean.
    finding: what sets it apart from the baseline; None for the baseline itself and where nothing can be compared.
    planned: updates, batch and patience of the downstream model: rows of others than the baseline's are not compared.
    work: what was spent, as ``stages.outcome.work_of`` names it, mean over trainings; empty in results of before.
    declared: whether it is one of the comparisons that the sweep was run for; else it was sampled, by a search, or is
    shown beside.  control: whether it had more downstream work than the baseline, without synthetic data.
    """

    configuration: str
    name: str
    parameters: Mapping[str, Any]
    arm: str
    trials: tuple[str, ...]
    seeds: tuple[int, ...]
    patients: Mapping[str, float]
    dice: float
    labels: Mapping[str, float]
    hd95: float
    missed: float
    worst: float
    worst_subject: str
    s_scores: Mapping[str, float]
    s_references: Mapping[str, float]
    synthesis: Mapping[str, float]
    device_seconds: float
    further: Mapping[str, float] = field(default_factory=dict)
    finding: Finding | None = None
    declared: bool = True
    control: bool = False
    planned: Planned = (0, 0, 0, 0, 1, 0)
    work: Mapping[str, float] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether its arm uses synthetic images."""
        return self.arm in SYNTHETIC_ARMS

    @property
    def reading(self) -> str:
        """What may be said of it: ``helps``, ``harms``, ``undecided``, ``no verdict``, or why it is no comparison."""
        if self.finding is None:
            return ""
        if self.finding.answer != NO_VERDICT or self.declared:
            return self.finding.answer
        return SEARCHED if self.synthetic else CONTROL if self.control else REAL


@dataclass(frozen=True)
class Unfinished:
    """A trial that is not in the table, and why. traceback: the file that holds it, from the workspace."""

    trial: str
    name: str
    status: str
    error: str
    traceback: str = ""


@dataclass(frozen=True)
class Ablation:
    """Rows, best first by what sets them apart from the baseline.

    baseline, candidate: configurations of the best row without and with synthetic images (empty where there is none);
    both chosen on the validation split. caveats: what a reader must know, in sentences.
    names: configuration of the ``relevant`` part of every trial's experiment -> its name.
    published: tables of papers beside what this sweep found.
    task: downstream task of all rows, whose score their ``dice`` is.
    aftermath: what has come of the sweep since, in sentences: its confirmation, and its promotion.
    state: how far the sweep is, in a sentence; empty where no sweep is known."""

    rows: tuple[Row, ...]
    baseline: str
    candidate: str
    unfinished: tuple[Unfinished, ...] = ()
    caveats: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    published: tuple[Comparison, ...] = ()
    task: str = Downstream.task
    aftermath: tuple[str, ...] = ()
    state: str = ""

    @property
    def measure(self) -> str:
        """What the rows' ``dice`` is, to a reader: ``Dice``, ``AUC``."""
        return task_named(self.task).measure

    def row(self, configuration: str) -> Row:
        """The row of a configuration. Raises KeyError."""
        return {row.configuration: row for row in self.rows}[configuration]

    def reading(self, row: Row) -> str:
        """What a row comes to, in a word or two: its own reading, or that it is what the others are compared with."""
        return BASELINE if row.configuration == self.baseline else row.reading

    def name_of(self, experiment: Experiment) -> str:
        """What an experiment of the sweep is called in the table. Raises KeyError for one of another sweep."""
        return self.names[relevant(experiment).configuration()]

    @property
    def answer(self) -> str:
        """What the sweep says of its candidate: a ``Row.reading``; empty where there is nothing to compare."""
        return self.row(self.candidate).reading if self.candidate and self.baseline else ""

    @property
    def conclusion(self) -> str:
        """The answer of the sweep in one sentence."""
        if not self.candidate or not self.baseline:
            if not self.candidate and {one.status for one in self.unfinished} == {NO_RESULT}:
                return REFUSED
            return f"No comparison: no trial {'without' if self.candidate else 'with'} synthetic data has finished."
        row = self.row(self.candidate)
        pair = (f"On the validation patients, the best configuration with synthetic data ({row.name}) against the best "
                f"without ({self.row(self.baseline).name})")  # fmt: skip
        return f"{pair}. {row.finding.sentence}" if row.finding else f"{pair}: nothing can be compared."


# --- computing ---------------------------------------------------------------------------------------------------


def ablation_table(
    results: Sequence[TrialResult],
    baseline: str = "",
    published: Sequence[PaperTable] = (),
    declared: Collection[str] | None = None,
) -> Ablation:
    """The table of a sweep's trials.

    Trials that differ in nothing but the seed are one row; for arms without synthetic images, settings of the generator
    do not count as a difference.  baseline: configuration to compare with; by default the best non-synthetic one with
    the downstream work of a synthetic one.
    published: tables of papers to show beside it.  declared: the configurations that the sweep was to compare, as
    ``Row`` names them; None where all with synthetic data were. What was sampled besides has no verdict.
    """
    names = names_of([result.experiment for result in results])
    groups: dict[str, list[TrialResult]] = defaultdict(list)
    unfinished = []
    for result in results:
        key = relevant(result.experiment).configuration()
        if result.status == "finished" and _scored(result):
            groups[key].append(result)
        else:
            error = result.error or ("no scores" if result.status == "finished" else "")
            unfinished.append(Unfinished(result.trial, names[key][0], result.came_to, error.split("\n")[0]))
    judged, why_not = _judged(groups)
    rows = [_row(group, *names[key], judged.get(key), declared) for key, group in groups.items()]
    rows.sort(key=lambda row: -row.dice)
    against = baseline or _plainest(rows)
    if against and against not in {row.configuration for row in rows}:
        known = ", ".join(f"{row.configuration} ({row.name})" for row in rows) or "a finished trial"
        raise InputError(f"baseline {against!r} is no finished configuration of this sweep", expected=known)
    tasks = {trial.experiment.downstream.task for group in groups.values() for trial in group}
    task = tasks.pop() if len(tasks) == 1 else Downstream.task
    rows = _compared(rows, against, judged, _lost(results))
    candidate = next((row.configuration for row in rows if row.synthetic and row.configuration != against), "")
    called = {key: name for key, (name, _) in names.items()}
    printed = _comparisons(published, results)
    once = any(relevant(trial.experiment).labels.drawn == "once" for group in groups.values() for trial in group)
    caveats = [*([why_not] if why_not else []), *([SAME_PATIENTS] if once else []), *_caveats(rows)]
    return Ablation(tuple(rows), against, candidate, tuple(unfinished), tuple(caveats), called, printed, task)


def _plainest(rows: Sequence[Row]) -> str:
    """The best row without synthetic data. One that had other downstream work than all with it is a control: nothing
    could be compared with it."""
    plain, works = [row for row in rows if not row.synthetic], {row.planned[:-1] for row in rows if row.synthetic}
    alike = [row for row in plain if row.planned[:-1] in works]  # what stands beside real samples no plain one has
    return next((row.configuration for row in alike or plain), "")


def _comparisons(published: Sequence[PaperTable], results: Sequence[TrialResult]) -> tuple[Comparison, ...]:
    if not (published and results):
        return ()
    groups: dict[str, list[TrialResult]] = defaultdict(list)
    for result in results:
        groups[relevant(result.experiment).configuration()].append(result)
    roles = results[0].experiment
    domains = {role: roles.domain(role) for role in roles.domains}
    return tuple(compare(table, list(groups.values()), domains) for table in published)


def _row(
    trials: Sequence[TrialResult],
    name: str,
    parameters: Mapping[str, Any],
    judged: Judged | None,
    declared: Collection[str] | None,
) -> Row:
    chosen = [*replicates(trials).values()]
    task, several = task_of(chosen[0].experiment), [trial.scores for trial in chosen]
    if judged is None:
        score = averaged([task.summarise(scores) for scores in several])[task.score]
    else:
        score = float(judged.side.means.mean())
    configuration = relevant(chosen[0].experiment).configuration()
    return Row(
        configuration=configuration, name=name, parameters=parameters,
        arm=chosen[0].experiment.arm, trials=tuple(trial.trial for trial in trials),
        seeds=tuple(trial.experiment.seed for trial in chosen), dice=score, **vars(task.standing(several)),
        s_scores=_under("synthesis/s_score/", chosen), s_references=_under("synthesis/s_score_reference/", chosen),
        synthesis={name: value for name, value in _under("synthesis/", chosen).items()
                   if not name.startswith("s_score")},
        device_seconds=averaged([{"s": trial.device_seconds} for trial in chosen])["s"],
        declared=chosen[0].experiment.arm in SYNTHETIC_ARMS if declared is None else configuration in declared,
        planned=planned_work(chosen[0].experiment),
        work={f"{kind}/{name}": value for kind in ("work", "generator")
              for name, value in _under(f"{kind}/", chosen).items()} | worst_guide(chosen),
    )  # fmt: skip


def _under(prefix: str, trials: Sequence[TrialResult]) -> dict[str, float]:
    """What follows ``prefix`` in the names of logged numbers -> mean over the trials."""
    means = averaged([trial.summary for trial in trials])
    return {key.removeprefix(prefix): value for key, value in means.items() if key.startswith(prefix)}


def _judged(groups: Mapping[str, Sequence[TrialResult]]) -> tuple[dict[str, Judged], str]:
    """Configuration -> its trainings, on the patients whom all trainings of all rows scored. Nothing, and the reason
    as a sentence, where they cannot be compared."""
    trainings = {key: [*replicates(trials).values()] for key, trials in groups.items()}
    tasks = {trial.experiment.downstream.task for several in trainings.values() for trial in several}
    if len(tasks) > 1:
        return {}, f"Rows of several tasks ({', '.join(sorted(tasks))}) are not compared."
    if not tasks:
        return {}, ""
    try:
        found = task_named(tasks.pop()).judged(*([one.scores for one in several] for several in trainings.values()))
    except InputError as error:
        return {}, f"Nothing is compared: {error}."
    return dict(zip(trainings, found)), ""


def _lost(results: Sequence[TrialResult]) -> dict[str, dict[int, bool]]:
    """Configuration -> seeds under which no training came to its end, as it failed or was given up by the scheduler, ->
    whether its synthetic set was refused."""
    ended: dict[str, set[int]] = defaultdict(set)
    lost: dict[str, dict[int, bool]] = defaultdict(dict)
    for result in results:
        key, seed = relevant(result.experiment).configuration(), result.experiment.seed
        if result.status == "finished":
            ended[key].add(seed)
        elif result.status in ("failed", "pruned"):
            lost[key][seed] = result.refused
    return {key: {seed: some[seed] for seed in sorted(some.keys() - ended[key])} for key, some in lost.items()}


def _compared(
    rows: Sequence[Row], baseline: str, judged: Mapping[str, Judged], lost: Mapping[str, Mapping[int, bool]]
) -> list[Row]:
    """Rows with what sets them apart from the baseline: those that were declared, together; best first."""
    if baseline not in judged:
        return list(rows)
    others = [row for row in rows if row.configuration != baseline]
    seeds = {row.configuration: row.seeds for row in rows}
    planned = next(row.planned for row in rows if row.configuration == baseline)
    apart = {row.configuration: _no_comparison(row, planned, lost.get(row.configuration, {})) for row in others}
    family = {key: judged[key] for key, why in apart.items() if not why}
    found = compare_all(family, judged[baseline], alpha=LEVEL, seeds=(seeds, seeds[baseline]))
    found |= {key: measured(judged[key], judged[baseline], why, alpha=LEVEL) for key, why in apart.items() if why}
    control = {row.configuration for row in others if not row.synthetic and more_work(row.planned, planned)}
    return [
        dataclasses.replace(row, finding=found.get(row.configuration), control=row.configuration in control)
        for row in rows
    ]


def _no_comparison(row: Row, planned: Planned, lost: Mapping[int, bool]) -> str:
    """Why a row is no member of the family, in words; empty for one that is."""
    if not row.declared and row.synthetic:
        return "a point that a search sampled, no comparison that was declared before it"
    if not row.declared and more_work(row.planned, planned):
        return f"a control with more downstream work: {unequal_work(row.planned, planned)}"
    if not row.declared:
        return "a training without synthetic data that the baseline validates better than"
    if row.synthetic and (odd := unequal_work(row.planned, planned)):
        return f"unequal work downstream: {odd}"
    if refused := [str(seed) for seed, one in lost.items() if one]:
        return f"no result under seed {', '.join(refused)}, where the synthetic set was refused"
    if lost:
        failed = f"the training under seed {min(lost)}" if len(lost) == 1 else f"{len(lost)} of its trainings"
        return f"{failed} came to no end, and may have been the worst"
    return ""


def _downstream(row: Row) -> dict[str, Any]:
    return {key: said for key, said in row.parameters.items() if key.startswith("downstream.") and key != AUGMENTATION}


def _scored(trial: TrialResult) -> bool:
    return (task := task_of(trial.experiment)).score in task.summarise(trial.scores)


def _caveats(rows: Sequence[Row]) -> list[str]:
    caveats = []
    found = next((row.finding for row in rows if row.finding), None)
    if found and found.patients < (whole := max(len(row.patients) for row in rows)):
        caveats.append(
            f"All rows are of {found.patients} of {whole} patients: the others have no score in some training."
        )
    family = [row for row in rows if row.finding and row.declared]
    without = [row for row in family if row.finding and row.finding.answer == NO_VERDICT]
    for reason, some in _by_reason(without).items():
        who = (
            "The row" if len(some) == len(family) == 1 else "All rows" if len(some) == len(family) else ", ".join(some)
        )
        caveats.append(f"{who}: no verdict: {reason}. What was measured stands below the table.")
    for row in rows:
        if row.control:
            member = "compared all the same, as the sweep declared" if row.declared else "no member of the family"
            caveats.append(f"{row.name} is a control: more downstream work without synthetic data, {member}.")
    if any(row.reading == SEARCHED for row in rows):
        caveats.append(
            f"Rows read {SEARCHED!r} were sampled, not declared before the sweep: a search shows nothing by itself."
        )
    if len({json.dumps(_downstream(row), sort_keys=True) for row in rows}) > 1:
        caveats.append(
            "Rows whose downstream model is not the baseline's differ from it by that as well: what synthetic data did "
            "for such a model is its difference to the row without."
        )
    judges = {f"{value:.2f} in {domain}": value for row in rows for domain, value in row.s_references.items()}
    f_pre = {f"{row.synthesis['f_pre']:.2f}": row.synthesis["f_pre"] for row in rows if "f_pre" in row.synthesis}
    for what, reached in (("S-scores say", judges), ("Healthiness says", f_pre)):
        if weak := [said for said, value in reached.items() if value < WEAK_REFERENCE]:
            caveats.append(f"{what} little where its segmentor is weak on real images: Dice {', '.join(sorted(weak))}.")
    caveats += weak_guides({row.name: row.work for row in rows})
    return [*caveats, *[BEST_OF_SEVERAL] * (sum(row.synthetic for row in rows) > 1)]


def _by_reason(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Why there is no verdict -> names of the rows."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        assert row.finding is not None
        found[row.finding.reason].append(row.name)
    return found


def difference(finding: Finding | None) -> str:
    """Estimate and limits in points: ``+4.1 [+1.2, +7.0]``; without a verdict the estimate alone."""
    if finding is None:
        return ""
    limits = f" [{100 * finding.low:+.1f}, {100 * finding.high:+.1f}]" if math.isfinite(finding.low) else ""
    return f"{100 * finding.estimate:+.1f}{limits}"
