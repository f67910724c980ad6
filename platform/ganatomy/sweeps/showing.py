"""How a sweep stands in MLflow: what its runs are called, which few parameters and figures stand in front, what their
descriptions say, and the view that shows them side by side.

What is in front is named plainly (``arm``, ``ratio``, ``score``); all the rest of a trial's settings is its artefact
``experiment.json``, and all the rest of its figures has a prefix.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganatomy.contracts import InputError
from ganatomy.core.installation import UNKNOWN, commit, login
from ganatomy.core.plain_values import plain
from ganatomy.evidence.configurations import relevant
from ganatomy.evidence.results import LATEST, SweepPlan, read_plan, sweep_directory
from ganatomy.experiment import SYNTHETIC_ARMS, Experiment, TrialResult
from ganatomy.measures.statistics import counted
from ganatomy.tracking import views
from ganatomy.tracking.views import SCORE

if TYPE_CHECKING:
    from ganatomy.evidence.ablation import Ablation, Row
    from ganatomy.tracking.runs import Tracking

EXPERIMENT = "experiment.json"
"""Artefact of a trial's run: the whole of its Experiment."""

EFFECT, LOW, HIGH, READING, TRAINING = "effect", "low", "high", "reading", "training"
"""In front, beside ``SCORE``: what sets a training's configuration apart from the baseline, in points, with the limits;
what may be said of that; which training of its configuration it is, which is its seed."""

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as a run's description, in Markdown."""

PREFIXES = ("budget", "generator", "speed", "synthesis", "synthesis/s_score", "synthesis/s_score_reference", "train",
            "val", "val/dice", "val/hd95", "val/missed", "work")  # fmt: skip
"""Of metrics that charts keep folded."""

_PLAIN = ("arm", "method", "seed", "mixing.ratio", "filter.min_dice", "filter.min_probability")
"""Parameters that stand in front under a name of their own, or are told by it."""

NONE = "none"
"""The method of an arm without synthetic data."""


# --- names and parameters ----------------------------------------------------------------------------------------


def varied(plan: SweepPlan) -> list[str]:
    """Parameters that its trials differ in, by dotted name: of listed points what they differ in, of sampled ones what
    is sampled; none where its space cannot be had."""
    if plan.pick:
        return _apart([relevant(experiment).flat() for experiment in plan.pick.values()], {})
    try:
        space = plan.search_space()
        listed = space.listed(plan.fixed, plan.seeds)
        if plan.trials - len(plan.controls) > len(listed):
            return space.varied(plan.fixed)
        return _apart([*listed, *plan.controls], space.base.flat())
    except InputError:
        return []


def _apart(points: Sequence[Mapping[str, Any]], otherwise: Mapping[str, Any]) -> list[str]:
    """What has several values over the points. otherwise: values of what a point says nothing of; what has none even
    there is left to the method."""
    whole = [{**otherwise, **point} for point in points]
    names = {name for point in points for name in point}
    return sorted(name for name in names if len({str(point[name]) for point in whole if name in point}) > 1)


def short(names: Sequence[str]) -> dict[str, str]:
    """Dotted name -> the name in front: its last part, where that is one's alone."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 and end not in _TAKEN else name for name, end in zip(names, last)}


_TAKEN = {"arm", "method", "ratio", "threshold", TRAINING, SCORE, EFFECT}


def front(experiment: Experiment, names: Sequence[str]) -> dict[str, Any]:
    """The parameters of a trial that stand in front; ``names``: those that the sweep varies.

    What a real training has no part in is 0 or none, so that it is not missing from a chart.
    """
    synthetic, given = experiment.arm in SYNTHETIC_ARMS, relevant(experiment)
    shown: dict[str, Any] = {
        "arm": experiment.arm,
        "method": experiment.method.name if synthetic else NONE,
        "ratio": given.mixing.ratio if synthetic else 0.0,
        "threshold": max(given.filter.min_dice, given.filter.min_probability),
    }
    settings = {**_settings(experiment), **given.flat()} if synthetic else given.flat()
    own = [name for name in names if name not in _PLAIN]
    called = short(own)
    shown |= {called[name]: settings[name] for name in own if name in settings}
    weights = {name.rpartition(".")[2]: value for name, value in settings.items() if name.endswith("_weight")}
    return {**shown, **{name: value for name, value in weights.items() if name not in shown},
            TRAINING: experiment.seed}  # fmt: skip


def _settings(experiment: Experiment) -> dict[str, Any]:
    """All settings of its method by dotted name, the paper's where it says nothing; none where it is not installed."""
    try:
        return {f"method.{name}": value for name, value in plain(experiment.method_config()).items()}
    except InputError:
        return {}


def run_name(plan: SweepPlan, label: str) -> str:
    """What a trial's run is called: sweeps of one cohort stand in one list."""
    return f"{plan.name} · {label}"


def source_tags(command: str) -> dict[str, str]:
    """What MLflow shows as source, version and user of a run; no host, and no path."""
    made_by = commit()
    return {
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": login(),
        **({"mlflow.source.git.commit": made_by} if made_by != UNKNOWN else {}),
    }


# --- views -------------------------------------------------------------------------------------------------------


def present(plan: SweepPlan, tracking: Tracking, runs: Sequence[str] = ()) -> None:
    """Keep the view of a sweep with its experiment: at its start, and at its end, when more is known.

    runs: of trials, the best first; the first that have panels say at which step the view opens on them.
    """
    steps: dict[str, int] = {}
    for run in runs[:_LOOKED_AT]:
        steps = tracking.pictures(run) | steps
    views.share(tracking, plan.run_id, plan.name, view(plan, steps))


_LOOKED_AT = 10


def view(plan: SweepPlan, steps: Mapping[str, int]) -> dict[str, Any]:
    """All runs of the sweep by score, with the columns in front; and as charts. steps: panel -> where it opens."""
    names = [name for name in varied(plan) if name not in _PLAIN]
    own = list(short(names).values())
    before = ["arm", "method", "ratio", "threshold", *own, TRAINING]
    columns = [*map(views.metric, (SCORE, EFFECT)), views.tag(READING), *map(views.param, before)]
    table = views.table_view(f"tags.sweep = '{plan.name}'", columns, views.metric(SCORE))
    # An axis of parallel coordinates on which all are one number cannot be drawn: MLflow's console is full of it then.
    apart = set(varied(plan))
    axes = ["arm", *["ratio"] * bool(apart & {"arm", "mixing.ratio"}),
            *["threshold"] * any(name.startswith("filter.") for name in apart)]  # fmt: skip
    generators = [name for full, name in zip(names, own) if full.startswith(("method.", "drawing.", "transfer."))]
    charts = [
        views.parallel([*axes, *[TRAINING] * (len(plan.seeds) > 1 and "seed" not in plan.fixed)], [SCORE]),
        *([views.parallel([*axes, *generators], [SCORE])] if generators else []),
        views.scatter("ratio", SCORE, by_param=True),
        *(views.scatter(name, SCORE, by_param=True) for name in own[:3]),
        views.scatter("budget/device_seconds", SCORE),
        views.line(SCORE),
        *(views.pictures(name, steps.get(name, 0)) for name in ("downstream_panel", "fit_panel")),
    ]  # fmt: skip
    return views.chart_view(table, plan.name, charts, PREFIXES)


def links(plan: SweepPlan, tracking: Tracking, port: int = views.PORT) -> views.Links:
    """Whole addresses of a sweep's table, charts, run and report."""
    return views.views_of(tracking.experiment_id, plan.run_id).at(views.base_of(tracking.uri, port))


def newest(workspace: Path, uri: str, port: int) -> tuple[str, views.Links] | None:
    """Name and pages of the newest sweep of a workspace, as far as it is recorded in the store ``uri``."""
    from ganatomy.tracking.runs import Tracking

    with contextlib.suppress(InputError):  # what is wrong with a plan or a store is said by what is about them
        plan = read_plan(sweep_directory(workspace, LATEST))
        if plan.run_id and plan.tracking_uri == uri:
            return plan.name, links(plan, Tracking(uri, workspace, plan.experiment), port)
    return None


# --- descriptions ------------------------------------------------------------------------------------------------


def sweep_tags(plan: SweepPlan) -> dict[str, str]:
    """Of a sweep's run when it is made."""
    what = f"The confirmation of {plan.confirms}" if plan.confirms else f"A sweep of space {plan.space}"
    said = f"{what} on cohort {_cohort(plan)}: {counted(plan.trials, 'trial')}, running. {_again(plan)}"
    return {**source_tags("ganatomy confirm" if plan.confirms else "ganatomy sweep"), NOTE: said}


def trial_tags(experiment: Experiment, plan: SweepPlan) -> dict[str, str]:
    """Of a trial's run when it is made, beside what it is found by."""
    said = f"Training {experiment.seed} of arm {experiment.arm}, in sweep {plan.name}: running."
    return {**source_tags("ganatomy confirm" if plan.confirms else "ganatomy sweep"), "sweep": plan.name, NOTE: said}


def describe(plan: SweepPlan, table: Ablation, results: Sequence[TrialResult], tracking: Tracking) -> None:
    """At the end of a sweep: what it came to, on its run; on each trial's, what its configuration did."""
    best = max((result.summary[plan.score] for result in results if result.status == "finished"), default=math.nan)
    row = table.row(table.candidate) if table.candidate else None
    tracking.log_metrics(plan.run_id, {f"best/{plan.score}": best, SCORE: round(best, 4), **_figures(row)})
    tracking.tag(
        plan.run_id,
        {
            NOTE: note(plan, table.conclusion, tracking),
            READING: table.answer or "nothing to compare",
            "verdict": _verdict(table),
        },
    )
    with contextlib.suppress(Exception):  # away: what was kept at the start still shows the sweep
        scored = [result for result in results if result.run_id and plan.score in result.summary]
        best_first = sorted(scored, key=lambda result: -result.summary[plan.score])
        present(plan, tracking.asking_once(), [result.run_id for result in best_first])
    of = {trial: row for row in table.rows for trial in row.trials}
    there = True
    for result in results:
        if result.run_id:
            metrics, tags = _told(plan, table, result, of.get(result.trial))
            there = tracking.note(result.run_id, metrics, tags, send=there)


def note(plan: SweepPlan, headline: str, tracking: Tracking) -> str:
    """The description of a sweep's run: where to look, what it came to, how to run it again. MLflow folds all but the
    first lines."""
    there = views.views_of(tracking.experiment_id, plan.run_id)
    return (f"[The report]({there.report}) · [all trainings, by score]({there.table}) · [as charts]({there.charts})"
            f"\n\n**{headline}**\n\n{_again(plan)}")  # fmt: skip


def _told(
    plan: SweepPlan, table: Ablation, result: TrialResult, row: Row | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of a trial's run that only the whole sweep knows."""
    from ganatomy.evidence.ablation import BASELINE, difference  # late: each trial's process imports this room

    score = result.summary.get(plan.score)
    reached = f"{plan.measure} {score:.3f} on validation patients" if score is not None else result.status
    why = f": {result.error}" if result.error else ""
    name = row.name if row else f"arm {result.experiment.arm}"
    tags = {NOTE: f"Training {result.experiment.seed} of **{name}**, in sweep {plan.name}: {reached}{why}.",
            "sweep": plan.name}  # fmt: skip
    if row is not None:
        tags[READING] = table.reading(row)
        against = f" Its configuration against the baseline: {difference(row.finding)} points, {tags[READING]}."
        tags[NOTE] += against if row.finding else " It is of the baseline." if tags[READING] == BASELINE else ""
    return _figures(row), {name: value for name, value in tags.items() if value}


def _figures(row: Row | None) -> dict[str, float]:
    """Effect and limits of a configuration, in points, as far as there are any."""
    if row is None or row.finding is None:
        return {}
    found = {EFFECT: row.finding.estimate, LOW: row.finding.low, HIGH: row.finding.high}
    return {name: round(100 * value, 3) for name, value in found.items() if math.isfinite(value)}


def _verdict(table: Ablation) -> str:
    """Until a promotion says more."""
    row = table.row(table.candidate) if table.candidate else None
    return row.finding.sentence if row is not None and row.finding else table.conclusion


def _cohort(plan: SweepPlan) -> str:
    return f"{plan.base.cohort} ({plan.cohort_digest})"


def _again(plan: SweepPlan) -> str:
    """How to run it again, where the cohort's name stands for its folder."""
    from ganatomy.reports.origins import confirming, rerun  # late, as above

    command = confirming(plan) if plan.confirms else rerun(plan)
    return f"To run it again, with the cohort's folder in the place of its name:\n\n```\n{command}\n```"
