"""What every training of a sweep reached, and how it came there: learning curves, with what they vary by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from ganatomy.core.names import on_one_line
from ganatomy.downstream.task import task_of
from ganatomy.evidence.ablation import Row
from ganatomy.evidence.figures import INK, canvas, colour_of, png_of, short
from ganatomy.exhibits.exhibit import Exhibit, Picture
from ganatomy.exhibits.material import Material
from ganatomy.experiment import TrialResult, replicates
from ganatomy.measures.statistics import counted

if TYPE_CHECKING:
    from ganatomy.training.loop import Record

RISE = 0.01
"""A training still rises if its last quarter of updates gained it more than this: a point, in shares."""

LAST = 0.25

MOST_LOSSES = 12

VERY_FAINT = "#d3d9e0"
"""Of lines that are there in dozens."""


@dataclass(frozen=True)
class Curve:
    """One training. updates: of the model that is trained.  values: as many."""

    updates: NDArray[np.float64]
    values: NDArray[np.float64]


# --- what the other exhibits ask of trainings --------------------------------------------------------------------


def trainings_of(material: Material, row: Row) -> list[TrialResult]:
    """The trainings that a row of the table rests on, in the order of ``Row.seeds``."""
    return [*replicates(material.named[trial] for trial in row.trials).values()]


def reached(material: Material) -> dict[str, tuple[float, ...]]:
    """Configuration -> what each of its trainings reached, in the order of ``Row.seeds``: on the patients of the table,
    where its rows are compared, else on its own."""
    found: dict[str, tuple[float, ...]] = {}
    for row in material.table.rows:
        if row.finding is not None:
            found[row.configuration], found[material.table.baseline] = row.finding.means
    for row in material.table.rows:
        if row.configuration not in found:
            several = trainings_of(material, row)
            task = task_of(several[0].experiment)
            found[row.configuration] = tuple(task.summarise(one.scores)[task.score] for one in several)
    return found


def stage_folder(material: Material, training: TrialResult, kind: str) -> Path | None:
    """Folder of the stage of that kind that a training rests on; None where it has none, or it was removed."""
    key = training.stages.get(kind, "")
    folder = material.workspace / "stages" / kind / key
    return folder if key and folder.is_dir() else None


def model_folder(material: Material, training: TrialResult) -> Path | None:
    """Folder of the stage that holds a training's downstream model: in the joint arm, that of the generator."""
    return stage_folder(material, training, "fit" if training.experiment.arm == "joint" else "downstream")


def spans_decades(values: Iterable[float]) -> bool:
    """Whether an axis of these is read better in decades: all above 0, the greatest ten times the least or more."""
    given = list(values)
    return bool(given) and min(given) > 0 and max(given) >= 10 * min(given)


def in_decades(axes: Any, which: str, values: Iterable[float]) -> None:
    """Scale the axis ``x`` or ``y`` of a drawing by decades, where these values span them; numbers stand at it as they
    are said."""
    given = list(values)
    if not spans_decades(given):
        return
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(given) < 200 * min(given) else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


# --- learning curves ---------------------------------------------------------------------------------------------


def learning_curves(material: Material) -> Exhibit | None:
    """Validation score of every configuration while it was trained, and the losses of the candidate's generator."""
    table = material.table
    curves = {row.configuration: curves for row in table.rows if (curves := _validations(material, row))}
    pictures, sentences = [], []
    if curves:
        sentences = [_rising(material, curves)]
        caption = (
            f"{table.measure} on validation patients while the downstream model was trained: mean of a configuration's "
            "trainings, and their range where there are several; candidate and baseline strong, all others faint"
        )
        pictures.append(Picture(caption, _draw(material, curves)))
    losses = _losses(material)
    if losses:
        caption = "Training losses of the candidate's generator over its updates: mean of its trainings and their range"
        pictures.append(Picture(caption, _draw_losses(losses)))
    return Exhibit("Learning curves", tuple(sentences), pictures=tuple(pictures)) if pictures else None


def still_rising(curves: Sequence[Curve]) -> float:
    """What a configuration's trainings gained on average over the last quarter of their updates, if that is more than
    ``RISE`` and every one of them gained; else NaN, as where there was no validation before that quarter. Between two
    validations a curve is a straight line.

    One that falls after all speaks for luck rather than for a training cut short, and so does a gain of less.
    """
    gains = []
    for curve in curves:
        before = np.interp((1 - LAST) * curve.updates[-1], curve.updates, curve.values, left=math.nan)
        gains.append(float(curve.values[-1] - before))
    mean = float(np.mean(gains)) if gains else math.nan
    return mean if mean > RISE and min(gains) > 0 else math.nan


def _rising(material: Material, curves: dict[str, list[Curve]]) -> str:
    """Who still rises at the end, in words."""
    table = material.table
    gains = {key: still_rising(several) for key, several in curves.items()}
    rising = {key: gain for key, gain in gains.items() if math.isfinite(gain)}
    rule = f"more than {100 * RISE:g} point gained over the last quarter of the updates, and by every training"
    if not rising:
        return f"No configuration's validation curve still rises at its end ({rule})."
    named = {table.candidate: "the candidate", table.baseline: "the baseline"}
    who = [f"{name} by {100 * rising[key]:.1f} points" for key, name in named.items() if key in rising]
    if others := len(rising.keys() - named.keys()):
        who.append(f"{others} of {len(curves.keys() - named.keys())} other configurations")
    return (
        f"Warning: still rising at the end: {', '.join(who)} ({rule}). With a larger budget they may reach more, and "
        "the comparison may come out otherwise; a part of such a gain may be owed to the learning rate, which falls "
        "over that quarter."
    )


def _history(folder: Path | None, material: Material) -> list[Record]:
    from ganatomy.training.distributed import read_history  # torch comes with it

    try:
        return read_history(folder) if folder else []
    except (OSError, ValueError) as error:
        material.tell(f"the course of {folder} is not shown: {on_one_line(str(error))}")
        return []


def _validations(material: Material, row: Row) -> list[Curve]:
    """A curve a training: its validations, by updates of the downstream model alone."""
    found = []
    for training in trainings_of(material, row):
        score, experiment = task_of(training.experiment).score, training.experiment
        records = [one for one in _history(model_folder(material, training), material) if score in one]
        alone = 0.0  # updates of generators that begin without the model
        if records and experiment.arm == "joint":
            alone = round(records[-1]["step"] / records[-1]["progress"]) - experiment.budget.segmentor_steps
        points = [(one["step"] - alone, one[score]) for one in records if one["step"] > alone]
        if points:
            found.append(Curve(*np.array(points, float).T))
    return found


def _losses(material: Material) -> dict[str, list[Curve]]:
    """Loss -> a curve a training of the candidate, of the stage that trained its generator."""
    if not material.table.candidate:
        return {}
    found: dict[str, list[Curve]] = {}
    for training in trainings_of(material, material.table.row(material.table.candidate)):
        records = _history(stage_folder(material, training, "fit"), material)
        for name in sorted({name for one in records for name in one if name.startswith("train/")}):
            points = [(one["step"], one[name]) for one in records if math.isfinite(one.get(name, math.nan))]
            if len(points) > 1:
                found.setdefault(name.removeprefix("train/"), []).append(Curve(*np.array(points, float).T))
    return found


# --- drawing -----------------------------------------------------------------------------------------------------


def together(curves: Sequence[Curve]) -> tuple[NDArray[np.float64], ...]:
    """Updates, mean, least and most of the trainings at all updates that any of them was looked at.

    A training that ended earlier (its patience was over) is no longer among them.
    """
    updates = np.unique(np.concatenate([curve.updates for curve in curves]))
    values = np.array([np.interp(updates, one.updates, one.values, np.nan, np.nan) for one in curves])
    return updates, np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)


def _spread(axes: Any, curves: Sequence[Curve], colour: str, **how: Any) -> None:
    updates, mean, least, most = together(curves)
    if len(curves) > 1:
        axes.fill_between(updates, least, most, color=colour, alpha=0.16, lw=0)
    axes.plot(updates, mean, color=colour, marker="o", **how)


def _draw(material: Material, curves: dict[str, list[Curve]]) -> bytes:
    table = material.table
    figure, (axes,) = canvas(8.6, 4.4)
    for row in table.rows:
        if row.configuration in curves and row.configuration not in (table.candidate, table.baseline):
            updates, mean, *_ = together(curves[row.configuration])
            axes.plot(updates, mean, color=VERY_FAINT, lw=1.1, zorder=1)
    strong = ((table.baseline, "baseline", INK, "--"), (table.candidate, "candidate", "", "-"))
    for configuration, what, colour, style in strong:
        if configuration in curves:
            row = table.row(configuration)
            label = short(f"{what}: {row.name} ({counted(len(curves[configuration]), 'training')})", 60)
            _spread(
                axes, curves[configuration], colour or colour_of(row.reading), lw=2.4, ls=style, ms=4.5, label=label
            )
    axes.set_xlabel("updates of the downstream model")
    axes.set_ylabel(f"{table.measure}, validation patients")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    return png_of(figure)


def _draw_losses(losses: dict[str, list[Curve]]) -> bytes:
    shown = list(losses.items())[:MOST_LOSSES]
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure, several = canvas(8.6, 0.5 + 1.7 * lines, lines, columns)
    for axes, (name, curves) in zip(several, shown):
        _spread(axes, curves, INK, lw=1.4, ms=2.5)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        in_decades(axes, "y", (value for curve in curves for value in curve.values))
        axes.set_xlim(0, 1.03 * max(curve.updates[-1] for _, curves in shown for curve in curves))
    for axes in several[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel("updates of the generator", fontsize=9, color=INK)
    return png_of(figure)
