"""The ablation table of a sweep: what each configuration scored, how surely it differs from no synthetic data.

Works on ``TrialResult`` alone, so on the validation split alone: the test split is not read here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.downstream.task import task_named, task_of
from ganatomy.evidence.published import Comparison, compare
from ganatomy.experiment import SYNTHETIC_ARMS, Downstream, Experiment, TrialResult, replicates
from ganatomy.measures.statistics import SIGNIFICANT, Effect, averaged, counted, holm, of_common_seeds, shown
from ganatomy.search_space import PaperTable

FEW_PATIENTS = 10
WEAK_REFERENCE = 0.8
HELPS, HARMS, OPEN = "shown to help", "shown to harm", "not shown to help"


@dataclass(frozen=True)
class Row:
    """One configuration: its replicates over seeds taken together.

    configuration: ``Experiment.configuration()`` of its first trial.  name: the parameters that vary over the sweep.
    dice: the score of the downstream task, Dice or the area under the ROC curve, as device_seconds a mean over seeds.
    patients, labels, hd95, missed, worst, worst_subject, further: as in ``downstream.task.Standing``; of what is a
    matter of all patients together, such as an area, what would be a patient's own is empty or NaN.
    s_scores: domain -> mean S-score; s_references: what the same segmentors reach on real images.
    synthesis: what else is measured on synthetic images (``healthiness``, ``identity``) -> mean over seeds.
    difference: score minus that of the baseline, on the seeds and patients of both; None for the baseline itself and
    where there is none.  p, p_holm: of it, alone and corrected over all rows.
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
    difference: Effect | None = None
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def synthetic(self) -> bool:
        """Whether its arm uses synthetic images."""
        return self.arm in SYNTHETIC_ARMS

    @property
    def reading(self) -> str:
        """What may be said of it: the interval and the corrected p must agree before anything is 'shown'."""
        if self.difference is None:
            return ""
        return {1: HELPS, 0: OPEN, -1: HARMS}[shown(self.difference, self.p_holm)]


@dataclass(frozen=True)
class Unfinished:
    """A trial that is not in the table, and why."""

    trial: str
    name: str
    status: str
    error: str


@dataclass(frozen=True)
class Ablation:
    """Rows, best first by what sets them apart from the baseline.

    baseline, candidate: configurations of the best row without and with synthetic images (empty where there is none);
    both chosen on the validation split. caveats: what a reader must know, in sentences.
    names: configuration of the ``relevant`` part of every trial's experiment -> its name.
    published: tables of papers beside what this sweep found.
    task: downstream task of all rows, whose score their ``dice`` is."""

    rows: tuple[Row, ...]
    baseline: str
    candidate: str
    unfinished: tuple[Unfinished, ...] = ()
    caveats: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    published: tuple[Comparison, ...] = ()
    task: str = Downstream.task

    @property
    def measure(self) -> str:
        """What the rows' ``dice`` is, to a reader: ``Dice``, ``AUC``."""
        return task_named(self.task).measure

    def row(self, configuration: str) -> Row:
        """The row of a configuration. Raises KeyError."""
        for row in self.rows:
            if row.configuration == configuration:
                return row
        raise KeyError(configuration)

    def name_of(self, experiment: Experiment) -> str:
        """What an experiment of the sweep is called in the table. Raises KeyError for one of another sweep."""
        return self.names[relevant(experiment).configuration()]

    @property
    def conclusion(self) -> str:
        """The answer of the sweep in one sentence."""
        if not self.candidate or not self.baseline:
            missing = "with" if not self.candidate else "without"
            return f"No comparison: no trial {missing} synthetic data has finished."
        row = self.row(self.candidate)
        effect = row.difference
        assert effect is not None
        who = counted(effect.n, "patient")
        return (
            f"On the validation patients, synthetic data is {row.reading}: the best configuration with it ({row.name}) "
            f"scores {100 * effect.mean:+.1f} {self.measure} points against the baseline "
            f"({self.row(self.baseline).name}), 95 % interval {interval(effect)}, {who}."
        )


# --- computing ---------------------------------------------------------------------------------------------------


def ablation_table(
    results: Sequence[TrialResult], baseline: str = "", published: Sequence[PaperTable] = ()
) -> Ablation:
    """The table of a sweep's trials.

    Trials that differ in nothing but the seed are one row; for arms without synthetic images, settings of the generator
    do not count as a difference.  baseline: configuration to compare with; by default the best non-synthetic one.
    published: tables of papers to show beside it.
    """
    names = _names([result.experiment for result in results])
    groups: dict[str, list[TrialResult]] = defaultdict(list)
    unfinished = []
    for result in results:
        key = relevant(result.experiment).configuration()
        if result.status == "finished" and _scored(result):
            groups[key].append(result)
        else:
            error = result.error or ("no scores" if result.status == "finished" else "")
            unfinished.append(Unfinished(result.trial, names[key][0], result.status, error.split("\n")[0]))
    rows = sorted((_row(group, *names[key]) for key, group in groups.items()), key=lambda row: -row.dice)
    plainest = next((row.configuration for row in rows if not row.synthetic), "")
    against = baseline or plainest
    if against and against not in {row.configuration for row in rows}:
        known = ", ".join(f"{row.configuration} ({row.name})" for row in rows) or "a finished trial"
        raise InputError(f"baseline {against!r} is no finished configuration of this sweep", expected=known)
    tasks = {trial.experiment.downstream.task for group in groups.values() for trial in group}
    task = tasks.pop() if len(tasks) == 1 else Downstream.task
    rows = _compared(rows, against, groups)
    candidate = next((row.configuration for row in rows if row.synthetic and row.configuration != against), "")
    called = {key: name for key, (name, _) in names.items()}
    printed = _comparisons(published, results)
    caveats = _caveats(rows, against, task)
    return Ablation(tuple(rows), against, candidate, tuple(unfinished), tuple(caveats), called, printed, task)


def _comparisons(published: Sequence[PaperTable], results: Sequence[TrialResult]) -> tuple[Comparison, ...]:
    if not (published and results):
        return ()
    groups: dict[str, list[TrialResult]] = defaultdict(list)
    for result in results:
        groups[relevant(result.experiment).configuration()].append(result)
    roles = results[0].experiment
    domains = {role: roles.domain(role) for role in roles.domains}
    return tuple(compare(table, list(groups.values()), domains) for table in published)


def relevant(experiment: Experiment) -> Experiment:
    """The experiment with everything that cannot matter to its arm at its default, so that equals look equal."""
    blank = Experiment(experiment.cohort, experiment.domains)
    if experiment.arm == "joint":
        mixing = dataclasses.replace(blank.mixing, ratio=experiment.mixing.ratio)
        return dataclasses.replace(experiment, mixing=mixing, drawing=blank.drawing, filter=blank.filter)
    if experiment.arm in SYNTHETIC_ARMS:
        return experiment
    return dataclasses.replace(
        experiment, method=blank.method, mixing=blank.mixing, drawing=blank.drawing, filter=blank.filter,
        transfer=blank.transfer,
        labels=dataclasses.replace(experiment.labels, gan_sees=blank.labels.gan_sees),
        budget=dataclasses.replace(experiment.budget, generator_steps=blank.budget.generator_steps),
        training=dataclasses.replace(experiment.training, ema=blank.training.ema),
    )  # fmt: skip


def _names(experiments: Sequence[Experiment]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Configuration -> its name and the parameters that vary, among the arms for which they matter."""
    flat: dict[str, dict[str, Any]] = {}
    arms = {}
    for experiment in map(relevant, experiments):
        flat[experiment.configuration()] = experiment.flat()
        arms[experiment.configuration()] = experiment.arm
    everywhere = sorted({name for values in flat.values() for name in values} - {"seed", "arm"})
    synthetic = {key: values for key, values in flat.items() if arms[key] in SYNTHETIC_ARMS}

    def varies(name: str, among: Mapping[str, Mapping[str, Any]]) -> bool:
        return len({json.dumps(values.get(name)) for values in among.values()}) > 1

    blind = {key: values for key, values in flat.items() if key not in synthetic}
    varying: dict[str, tuple[str, ...]] = {}
    for group in (synthetic, blind):
        varying |= dict.fromkeys(group, tuple(name for name in everywhere if varies(name, group)))
    shared = [name for name in everywhere if varies(name, flat) and not _generators(name)]
    last = [name.rsplit(".", 1)[-1] for name in {name for names in varying.values() for name in [*names, *shared]}]
    named = {}
    for key, values in flat.items():
        chosen = [name for name in everywhere if name in (*varying[key], *shared) and name in values]
        short = {name: name.rsplit(".", 1)[-1] for name in chosen}
        words = [f"{short[name] if last.count(short[name]) == 1 else name}={_word(values[name])}" for name in chosen]
        lead = [arms[key]] if len(set(arms.values())) > 1 or not words else []
        named[key] = (" · ".join([*lead, *words]), {name: values[name] for name in chosen})
    return named


def _generators(name: str) -> bool:
    return name.startswith(("method", "mixing", "drawing", "filter", "transfer")) or name in (
        "labels.gan_sees", "budget.generator_steps", "training.ema",
    )  # fmt: skip


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)


def _row(trials: Sequence[TrialResult], name: str, parameters: Mapping[str, Any]) -> Row:
    chosen = [*replicates(trials).values()]
    task, several = task_of(chosen[0].experiment), [trial.scores for trial in chosen]
    return Row(
        configuration=chosen[0].experiment.configuration(), name=name, parameters=parameters,
        arm=chosen[0].experiment.arm, trials=tuple(trial.trial for trial in trials),
        seeds=tuple(trial.experiment.seed for trial in chosen),
        dice=averaged([task.summarise(scores) for scores in several])[task.score], **vars(task.standing(several)),
        s_scores=_under("synthesis/s_score/", chosen), s_references=_under("synthesis/s_score_reference/", chosen),
        synthesis={name: value for name, value in _under("synthesis/", chosen).items() if "/" not in name},
        device_seconds=averaged([{"s": trial.device_seconds} for trial in chosen])["s"],
    )  # fmt: skip


def _under(prefix: str, trials: Sequence[TrialResult]) -> dict[str, float]:
    """What follows ``prefix`` in the names of logged numbers -> mean over the trials."""
    means = averaged([trial.summary for trial in trials])
    return {key.removeprefix(prefix): value for key, value in means.items() if key.startswith(prefix)}


def _compared(rows: Sequence[Row], baseline: str, groups: Mapping[str, Sequence[TrialResult]]) -> list[Row]:
    """Rows with what sets them apart from the baseline, on the seeds that both have; best first by that."""
    by_seed = {trials[0].experiment.configuration(): replicates(trials) for trials in groups.values()}
    compared = []
    for row in rows:
        if baseline and row.configuration != baseline:
            pair = of_common_seeds(by_seed[row.configuration], by_seed[baseline])
            task = task_of(pair[0][0].experiment)
            difference, p = task.difference(*([trial.scores for trial in side] for side in pair))
            row = dataclasses.replace(row, difference=difference, p=p)
        compared.append(row)
    adjusted = holm([row.p for row in compared])
    compared = [dataclasses.replace(row, p_holm=p) for row, p in zip(compared, adjusted)]
    return sorted(compared, key=lambda row: -_advantage(row)) if baseline else compared


def _advantage(row: Row) -> float:
    """Over the baseline, whose own is 0. What shares no patient with it comes last."""
    if row.difference is None:
        return 0.0
    return -math.inf if math.isnan(row.difference.mean) else row.difference.mean


def _downstream(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.parameters.items() if name.startswith("downstream.")}


def _scored(trial: TrialResult) -> bool:
    task = task_of(trial.experiment)
    return task.score in task.summarise(trial.scores)


def _caveats(rows: Sequence[Row], baseline: str, named: str) -> list[str]:
    caveats, task = [], task_named(named)
    whole = next((set(row.seeds) for row in rows if row.configuration == baseline), set())
    if any(whole - set(row.seeds) for row in rows):
        caveats.append(
            "Rows that lack seeds of the baseline are compared with it, and ranked, by the seeds that both have: their "
            f"own {task.measure} is of those seeds only."
        )
    effects = [row.difference for row in rows if row.difference is not None]
    if effects:
        n, family = min(effect.n for effect in effects), len(effects)
        if n < FEW_PATIENTS:
            caveats.append(
                f"Only {counted(n, 'validation patient')}: intervals are rather too narrow, and one patient more may "
                "change the order of the rows."
            )
        if (least := min(1.0, family * task.least_p(n))) > SIGNIFICANT:
            caveats.append(
                f"With {counted(n, 'patient')} and {counted(family, 'comparison')} the least corrected p is "
                f"{least:.2g}: this table cannot show anything at 5 %, however large the effect."
            )
        compared = max(len(row.patients) for row in rows)
        if n < compared:
            caveats.append(f"Some comparisons rest on {n} of {compared} patients: the others have no score in one arm.")
    if len({json.dumps(_downstream(row), sort_keys=True) for row in rows}) > 1:
        caveats.append(
            "Rows whose downstream model is not the baseline's differ from it by that as well: what synthetic data did "
            "for such a model is its difference to the row without."
        )
    if any(len(row.seeds) == 1 for row in rows):
        caveats.append("Rows with one seed mix the luck of one training with the effect.")
    weak = {domain: value for row in rows for domain, value in row.s_references.items() if value < WEAK_REFERENCE}
    if weak:
        caveats.append(
            f"S-scores say little where their own segmentor is weak on real images: Dice "
            f"{', '.join(f'{value:.2f} in {domain}' for domain, value in sorted(weak.items()))}."
        )
    if sum(row.synthetic for row in rows) > 1:
        caveats.append("The best of several looks better than it is; the held-out test patients decide at promotion.")
    return caveats


def interval(effect: Effect) -> str:
    """The bounds in points: ``+1.2, +7.0``."""
    return f"{100 * effect.low:+.1f}, {100 * effect.high:+.1f}" if math.isfinite(effect.low) else "unknown"
