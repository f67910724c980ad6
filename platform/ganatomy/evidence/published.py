"""What a paper printed, beside what a sweep of the same study found here: figures row by row, and its claims judged.

The numbers are not to be compared, only their order and sign: a paper's are of its own patients, sizes and schedules.
"""

from __future__ import annotations

import math
import statistics as moments
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ganatomy.core.plain_values import plain
from ganatomy.downstream.task import DownstreamTask, task_of
from ganatomy.experiment import Experiment, TrialResult, replicates
from ganatomy.measures.statistics import Effect, holm, of_common_seeds, paired_t, shown
from ganatomy.search_space import PaperClaim, PaperFigure, PaperTable, Values

INCOMPARABLE = (
    "The paper's numbers are of its own patients, image sizes and schedules: their order and their signs can be "
    "compared with ours, their magnitudes cannot."
)

ONE_SEED = "With one seed, what appears here or is reversed does so in one training: another may say otherwise."

Groups = Sequence[Sequence[TrialResult]]
"""The trials of a sweep, those of one configuration together, in the order they were begun."""

Replicates = Mapping[int, TrialResult]
"""Seed -> trial."""


@dataclass(frozen=True)
class Figure:
    """A paper's figure and ours. ours, deviation: mean and standard deviation over ``seeds``; NaN where there is none,
    or one seed only."""

    name: str
    metric: str
    paper: float
    spread: str
    ours: float
    deviation: float
    seeds: int


@dataclass(frozen=True)
class Finding:
    """A paper's claim, judged here. paper: the difference that it prints, NaN where it prints none.  effect: ours, with
    its 95 % interval over ``units``; None where a side has no result.  p_holm: corrected over the table's claims."""

    says: str
    metric: str
    paper: float
    effect: Effect | None
    units: str
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def reading(self) -> str:
        """Whether the effect appears here: the interval and the corrected p must agree."""
        if self.effect is None:
            return "no result"
        return {1: "appears here", 0: "not shown here", -1: "reversed here"}[shown(self.effect, self.p_holm)]


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
    there = [figure for figure in table.figures if _trials(groups, figure.point)]
    figures = tuple(_figure(figure, groups, domains) for figure in there)
    claims = [claim for claim in table.claims if _trials(groups, claim.more) and _trials(groups, claim.less)]
    findings = [_finding(claim, table, groups, domains) for claim in claims]
    adjusted = holm([finding.p for finding in findings])
    return Comparison(
        table.where,
        figures,
        tuple(replace(finding, p_holm=p) for finding, p in zip(findings, adjusted)),
        len(table.figures) - len(there),
        table.caveats + ((ONE_SEED,) if any(figure.seeds == 1 for figure in figures) else ()),
    )


def _figure(figure: PaperFigure, groups: Groups, domains: Mapping[str, str]) -> Figure:
    metric = figure.metric.format(**domains)
    values = [_number(trial, metric) for trial in _replicates(_trials(groups, figure.point), metric).values()]
    mean = moments.fmean(values) if values else math.nan
    deviation = moments.stdev(values) if len(values) > 1 else math.nan
    return Figure(figure.name, metric, figure.value, figure.spread, mean, deviation, len(values))


def _finding(claim: PaperClaim, table: PaperTable, groups: Groups, domains: Mapping[str, str]) -> Finding:
    printed = [
        next((f.value for f in table.figures if (f.point, f.metric) == (point, claim.metric)), math.nan)
        for point in (claim.more, claim.less)
    ]
    metric = claim.metric.format(**domains)
    sides = [_trials(groups, point) for point in (claim.more, claim.less)]
    task = task_of(sides[0][0].experiment)
    units = "patients" if metric == task.score else "seeds"
    finding = Finding(claim.says, metric, printed[0] - printed[1], None, units)
    more, less = (_replicates(trials, metric) for trials in sides)
    if not (more and less):
        return finding
    effect, p = _difference(more, less, metric, task)
    return replace(finding, effect=effect, p=p)


def _difference(more: Replicates, less: Replicates, metric: str, task: DownstreamTask) -> tuple[Effect, float]:
    """Over the seeds of both: of the task's own score over patients, as the task has it; of any other number."""
    if metric == task.score:
        return task.difference(*([trial.scores for trial in side] for side in of_common_seeds(more, less)))
    values = [{seed: _number(trial, metric) for seed, trial in side.items()} for side in (more, less)]
    common = [seed for seed in values[0] if seed in values[1]]
    return paired_t(*([side[seed] for seed in common] for side in values))


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
    if not metric.endswith("/*"):
        return trial.summary.get(metric, math.nan)
    values = [value for name, value in trial.summary.items() if name.startswith(metric.removesuffix("*"))]
    return moments.fmean(values) if values else math.nan
