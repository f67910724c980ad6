"""What a paper printed, beside what a sweep of the same study found here: figures row by row, and its claims judged.

The numbers are not to be compared, only their order and sign: a paper's are of its own patients, sizes and schedules.
"""

from __future__ import annotations

import math
import statistics as moments
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import plain
from ganatomy.downstream.task import judged_alike, task_of
from ganatomy.experiment import Experiment, TrialResult, replicates
from ganatomy.measures import verdicts
from ganatomy.measures.segmentation import patient_scores
from ganatomy.measures.statistics import counted
from ganatomy.measures.verdicts import HARMS, HELPS, NO_VERDICT, UNDECIDED, Judged, compare_all, measured, of_scores
from ganatomy.search_space import PaperClaim, PaperFigure, PaperTable, Values

INCOMPARABLE = (
    "The paper's numbers are of its own patients, image sizes and schedules: their order and their signs can be "
    "compared with ours, their magnitudes cannot."
)

READINGS = {HELPS: "appears here", UNDECIDED: "not shown here", HARMS: "reversed here", NO_VERDICT: "no verdict"}

NO_ROWS = "a figure of all patients together, of which none has one of his own"
"""Why there is no verdict on a claim about it."""

LEVEL = 0.025
"""One-sided, of all claims of a table together."""

ALIKE_FRACTION = 0.01
"""Label fractions that differ by more are different studies."""

ALIKE_SIDE = 0.25
"""So are images of which a side differs by more of the paper's."""

Groups = Sequence[Sequence[TrialResult]]
"""The trials of a sweep, those of one configuration together, in the order they were begun."""

Replicates = Mapping[int, TrialResult]
"""Seed -> trial."""


@dataclass(frozen=True)
class Figure:
    """A paper's figure and ours. paper: NaN where it is of images of another size.  ours, deviation: mean and
    standard deviation over ``seeds``; NaN where there is none, or one seed only."""

    name: str
    metric: str
    paper: float
    spread: str
    ours: float
    deviation: float
    seeds: int


@dataclass(frozen=True)
class Finding:
    """A paper's claim, judged here. paper: the difference that it prints, NaN where it prints none.  found: ours, over
    patients and trainings, together with the table's other claims; None where a side has no result."""

    says: str
    metric: str
    paper: float
    found: verdicts.Finding | None = None

    @property
    def units(self) -> str:
        """What ours rests on: ``12 patients``, or trainings alone where no patient has a figure of his own."""
        if self.found is None:
            return ""
        alone = counted(min(self.found.trainings), "training") if self.found.reason == NO_ROWS else ""
        return alone or counted(self.found.patients, "patient")

    @property
    def reading(self) -> str:
        """Whether the effect appears here, in words."""
        return READINGS[self.found.answer] if self.found else "no result"


@dataclass(frozen=True)
class Comparison:
    """One table of a paper beside a sweep. absent: how many of its figures are of configurations the sweep lacks."""

    where: str
    figures: tuple[Figure, ...]
    findings: tuple[Finding, ...]
    absent: int
    caveats: tuple[str, ...]


def compare(table: PaperTable, groups: Groups, domains: Mapping[str, str]) -> Comparison:
    """``table`` with our figures: of the configurations of ``groups`` that agree with its points. Where several agree,
    of the one begun first: a sweep runs its listed points before it samples others.

    domains: role -> domain of the sweep, for the names of metrics.
    """
    if unlike := _other_fraction(table, groups):
        return Comparison(table.where, (), (), 0, (unlike,))
    groups, caveats = _of_fraction(table, groups), table.caveats
    if unlike := _other_size(table, groups):  # effects may be read at another size; figures are of their own
        caveats = unlike, *caveats
        table = replace(table, figures=tuple(replace(one, value=math.nan, spread="") for one in table.figures))
    there = [figure for figure in table.figures if _trials(groups, figure.point)]
    figures = tuple(_figure(figure, groups, domains) for figure in there)
    claims = [claim for claim in table.claims if _trials(groups, claim.more) and _trials(groups, claim.less)]
    lacking = len(table.figures) - len(there)
    return Comparison(table.where, figures, _findings(claims, table, groups, domains), lacking, caveats)


def _of_fraction(table: PaperTable, groups: Groups) -> Groups:
    """Those with the label fraction that the table is of; all where it is of several."""
    if table.of is None or table.of.fraction is None:
        return groups
    wanted = table.of.fraction
    return [some for some in groups if abs(some[0].experiment.labels.fraction - wanted) <= ALIKE_FRACTION]


def _other_fraction(table: PaperTable, groups: Groups) -> str:
    """Why the table is shown beside none of ``groups``, in a sentence; empty where it is."""
    if table.of is None or table.of.fraction is None or not groups or _of_fraction(table, groups):
        return ""
    ours = sorted({some[0].experiment.labels.fraction for some in groups})
    return (f"Not shown beside this sweep: the paper's are of {100 * table.of.fraction:g} % of the labels, ours of "
            f"{', '.join(f'{100 * fraction:g}' for fraction in ours)} % (labels.fraction).")  # fmt: skip


def _other_size(table: PaperTable, groups: Groups) -> str:
    """How the images of ``groups`` differ from the table's, in a sentence; empty where they are of a size."""
    sizes = [tuple(some[0].experiment.sampling.size) for some in groups]
    if table.of is None or all(_alike(size, table.of.size) for size in sizes):
        return ""
    theirs, ours = (" x ".join(map(str, size)) for size in (table.of.size, sizes[0]))
    return (f"The paper's figures are of {theirs} voxels, ours of {ours}: they are not shown beside each other, and "
            "only the effects that it claims are looked for.")  # fmt: skip


def _alike(size: Sequence[int], other: Sequence[int]) -> bool:
    return len(size) == len(other) and all(abs(a - b) <= ALIKE_SIDE * b for a, b in zip(size, other))


def _figure(figure: PaperFigure, groups: Groups, domains: Mapping[str, str]) -> Figure:
    metric = figure.metric.format(**domains)
    values = [_number(trial, metric) for trial in _replicates(_trials(groups, figure.point), metric).values()]
    mean = moments.fmean(values) if values else math.nan
    deviation = moments.stdev(values) if len(values) > 1 else math.nan
    return Figure(figure.name, metric, figure.value, figure.spread, mean, deviation, len(values))


def _findings(
    claims: Sequence[PaperClaim], table: PaperTable, groups: Groups, domains: Mapping[str, str]
) -> tuple[Finding, ...]:
    """The claims judged as one family: those of one metric that share what is compared with, by their joint
    distribution, and such groups beside each other by Bonferroni."""
    metrics = [claim.metric.format(**domains) for claim in claims]
    sides = [[_side(_trials(groups, point), metric) for point in (claim.more, claim.less)]
             for claim, metric in zip(claims, metrics)]  # fmt: skip
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (metric, (more, less)) in enumerate(zip(metrics, sides)):
        if more and less:
            families[metric, less[0].experiment.configuration()].append(place)
    whole = sum(map(len, families.values()))
    found: dict[int, verdicts.Finding] = {}
    for (metric, _), places in families.items():
        less = sides[places[0]][1]
        found |= _family({place: sides[place][0] for place in places}, less, metric, LEVEL * len(places) / whole)
    return tuple(
        Finding(claim.says, metric, _printed(claim, table), found.get(place))
        for place, (claim, metric) in enumerate(zip(claims, metrics))
    )


def _side(trials: Sequence[TrialResult], metric: str) -> list[TrialResult]:
    """The trainings of one side; none where a set was refused or a loss diverged: those that are left are luckier."""
    return [] if any(trial.refused or trial.diverged for trial in trials) else [*_replicates(trials, metric).values()]


def _family(
    mores: Mapping[int, Sequence[TrialResult]], less: Sequence[TrialResult], metric: str, alpha: float
) -> dict[int, verdicts.Finding]:
    """Each of ``mores`` against ``less`` at a one-sided ``alpha`` together; p as of the whole table."""
    baseline, *others = _judged([less, *mores.values()], metric)
    judged = dict(zip(mores, others))
    if len(baseline.patients) == 1 and baseline.patients[0] == "":
        return {place: measured(one, baseline, NO_ROWS, alpha=LEVEL) for place, one in judged.items()}
    times = LEVEL / alpha
    return {
        place: replace(one, family=LEVEL, p_helps=min(one.p_helps * times, 1.0), p_harms=min(one.p_harms * times, 1.0))
        for place, one in compare_all(judged, baseline, alpha=alpha).items()
    }


def _judged(sides: Sequence[Sequence[TrialResult]], metric: str) -> Sequence[Judged]:
    """By patients, where the trials have rows of the metric; else the figure of each training, of a patient ``""``."""
    task = task_of(sides[0][0].experiment)
    if metric == task.score:
        return task.judged(*([trial.scores for trial in side] for side in sides))
    try:
        return judged_alike([[_by_patient(trial, metric) for trial in side] for side in sides], metric)
    except InputError:
        return [of_scores([{"": _number(trial, metric)} for trial in side], metric) for side in sides]


def _by_patient(trial: TrialResult, metric: str) -> dict[str, float]:
    """Patient -> the patient's own figure, of which the trial's is the mean.

    Of a metric in several domains: what the patient adds to the mean of theirs, in which a domain of few patients
    weighs as much as one of many.
    """
    names = sorted({row.metric for row in trial.scores if _is_of(row.metric, metric)})
    own = [figures for name in names if (figures := patient_scores(trial.scores, name))]
    added: dict[str, float] = defaultdict(float)
    for figures in own:
        for patient, value in figures.items():
            added[patient] += value / (len(own) * len(figures))
    return {patient: value * len(added) for patient, value in added.items()}


def _printed(claim: PaperClaim, table: PaperTable) -> float:
    more, less = (
        next((f.value for f in table.figures if (f.point, f.metric) == (point, claim.metric)), math.nan)
        for point in (claim.more, claim.less)
    )
    return more - less


def _trials(groups: Groups, point: Values) -> Sequence[TrialResult]:
    return next((trials for trials in groups if agrees(trials[0].experiment, point)), ())


def agrees(experiment: Experiment, point: Values) -> bool:
    """Whether an experiment has the values of ``point``, settings of its method that it leaves at their defaults
    among them."""
    stated = experiment.flat()
    if any(name.startswith("method.") for name in point):
        defaults = {f"method.{name}": value for name, value in plain(experiment.method_config()).items()}
        stated = {**defaults, **stated}
    return all(name in stated and stated[name] == plain(value) for name, value in point.items())


def _replicates(trials: Sequence[TrialResult], metric: str) -> Replicates:
    """The finished ones that have the metric."""
    return replicates(trial for trial in trials if trial.status == "finished" and math.isfinite(_number(trial, metric)))


def _number(trial: TrialResult, metric: str) -> float:
    """The trial's number of that name, of ``name/*`` the mean of all that begin so; NaN where it has none."""
    values = [value for name, value in trial.summary.items() if _is_of(name, metric)]
    return moments.fmean(values) if values else math.nan


def _is_of(name: str, metric: str) -> bool:
    return name.startswith(metric.removesuffix("*")) if metric.endswith("/*") else name == metric
