"""How the score responds to what a sweep varied: a dot a training, the mean of a value, lines of what differs in
nothing else."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganatomy.evidence.figures import FAINT, INK, canvas, colour_of, png_of
from ganatomy.exhibits.cost import MARKERS
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.trainings import VERY_FAINT, in_decades, reached, spans_decades, trainings_of
from ganatomy.measures.statistics import counted

MOST_VALUES = 8
"""Of a parameter that means are told of one by one; of more, of groups."""

GROUPS = 5
MOST_SMALL = 12

AMOUNT, KEPT, MADE = "work/synthetic_samples", "work/kept_images", "work/synthetic_images"

USED = "work/used_images"

ALL = ("mixing.distinct", "mixing.source_patients")
"""Numbers of which 0 is all there are, and no place on an axis."""

OFFLINE_ONLY = ("filter.", "drawing.", "mixing.order", "mixing.pretrain", "mixing.distinct", "mixing.share")
"""What matters to images that are made beforehand, and to no others."""


@dataclass(frozen=True)
class Point:
    """One training. value: of what is varied.  score: what it reached, or what else is shown.  others: arm and all
    other parameters: trainings that share it differ in nothing but this one."""

    value: float
    score: float
    configuration: str
    others: str
    arm: str
    reading: str
    synthetic: bool


@dataclass(frozen=True)
class Response:
    """What is varied, by name, with its points. shown: what their ``score`` is.  level: the baseline's, if any."""

    name: str
    points: tuple[Point, ...]
    shown: str
    level: float = math.nan

    @property
    def values(self) -> list[float]:
        """All that were tried, ascending."""
        return sorted({point.value for point in self.points})

    @property
    def alone(self) -> list[list[tuple[float, float]]]:
        """A line each, (value, mean of the trainings): configurations that differ in nothing else."""
        lines: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for point in self.points:
            lines[point.others][point.value].append(point.score)
        return [means for line in lines.values() if len(means := _means(line)) > 1]


def responses(material: Material) -> Exhibit | None:
    """Dose–response of the synthetic amount, threshold and label-fraction curves, and all other numeric settings."""
    scores = reached(material)
    found = {name: response for name in _varied(material) if (response := _response(material, name, scores))}
    amounts = [one for name, one in found.items() if name.startswith(("mixing.ratio", "drawing.", *ALL))]
    amounts += _measured(material, AMOUNT, "synthetic samples seen", scores)
    amounts += _measured(material, USED, "distinct synthetic images", scores)
    thresholds = [one for name, one in found.items() if name.startswith("filter.")]
    for one in list(thresholds):
        thresholds += _kept(material, one)
    fractions = [one for name, one in found.items() if name == "labels.fraction"]
    taken = {one.name for one in (*amounts, *thresholds, *fractions)}
    rest = [one for name, one in found.items() if name not in taken]
    kinds = (("Dose–response", amounts), ("Threshold of the filter", thresholds),
             ("Fraction of the labels", fractions), ("Loss weights and other settings", rest[:MOST_SMALL]))  # fmt: skip
    pictures = tuple(Picture(f"{what}: {_caption(some)}", _draw(some)) for what, some in kinds if some)
    if not pictures:
        return None
    shown = [one for _, some in kinds for one in some]
    sentences = [
        "In the pictures a dot is a training: blue where its configuration helps, orange where it harms, else grey, "
        f"and black without synthetic data. Thick lines: means of a value, or of {GROUPS} groups where there are more "
        f"than {MOST_VALUES} values. Dashed: the baseline.",
        "Everything else that the sweep varied differs along such a curve, except where a thin line joins two "
        "configurations: those differ in nothing else. A slope is no effect by itself: what was compared as declared "
        "stands in the table.",
    ]
    if confounded := dict.fromkeys(one.name for one in shown if not one.alone and one.name in found):
        sentences.append(f"No two configurations differ in one of these alone: {', '.join(confounded)}.")
    if failed := sum(result.status == "failed" for result in material.results):
        told = f"{counted(failed, 'training')} that failed {'is' if failed == 1 else 'are'} in no curve: "
        sentences.append(told + "where a filter kept nothing, or a loss diverged, those that are left are the luckier.")
    if len(rest) > MOST_SMALL:
        sentences.append(f"{len(rest) - MOST_SMALL} more settings that varied are not drawn.")
    return Exhibit("Response to what was varied", tuple(sentences), _grids(shown, material.table.measure), pictures)


# --- gathering ---------------------------------------------------------------------------------------------------


def _varied(material: Material) -> list[str]:
    """Parameters with several numeric values among the rows they matter to, those of the method last."""
    values: dict[str, set[float]] = defaultdict(set)
    for row in material.table.rows:
        for name, value in row.parameters.items():
            if _matters(name, row.arm, value):
                values[name].add(float(value))
    names = [name for name, some in values.items() if len(some) > 1]
    return sorted(names, key=lambda name: (name.startswith("method."), name))


def _matters(name: str, arm: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and not (name in ALL and value == 0) and (arm == "offline" or not name.startswith(OFFLINE_ONLY))


def _response(material: Material, name: str, scores: Mapping[str, Sequence[float]]) -> Response | None:
    table, points = material.table, list[Point]()
    for row in table.rows:
        if not _matters(name, row.arm, row.parameters.get(name)):
            continue
        value, others = float(row.parameters[name]), _others(row.arm, row.parameters, name)
        points += [
            Point(value, score, row.configuration, others, row.arm, row.reading, row.synthetic)
            for score in scores[row.configuration]
        ]
    shown = table.measure
    one_kind = table.baseline and all(point.synthetic for point in points)
    level = float(np.mean(scores[table.baseline])) if one_kind else math.nan
    return Response(name, tuple(points), shown, level) if len({point.value for point in points}) > 1 else None


def _measured(material: Material, key: str, name: str, scores: Mapping[str, Sequence[float]]) -> list[Response]:
    """The response to an amount that was not set, but came of what was; at most one."""
    points, table = [], material.table
    for row in table.rows:
        for training, score in zip(trainings_of(material, row), scores[row.configuration]):
            if row.synthetic and math.isfinite(amount := training.summary.get(key, math.nan)):
                points.append(Point(amount, score, row.configuration, "", row.arm, row.reading, True))
    level = float(np.mean(scores[table.baseline])) if table.baseline else math.nan
    response = Response(name, tuple(points), table.measure, level)
    return [response] if len(response.values) > 1 else []


def _kept(material: Material, threshold: Response) -> list[Response]:
    """The share of the synthetic images that was kept, against a threshold; at most one."""
    points = []
    for row in material.table.rows:
        if not _matters(threshold.name, row.arm, row.parameters.get(threshold.name)):
            continue
        value, others = float(row.parameters[threshold.name]), _others(row.arm, row.parameters, threshold.name)
        for training in trainings_of(material, row):
            made, kept = (training.summary.get(key, math.nan) for key in (MADE, KEPT))
            if made > 0 and math.isfinite(kept):
                share = 100 * kept / made
                points.append(Point(value, share, row.configuration, others, row.arm, "", row.synthetic))
    response = Response(threshold.name, tuple(points), "images kept, %")
    return [response] if len(response.values) > 1 else []


def _others(arm: str, parameters: Mapping[str, Any], name: str) -> str:
    return json.dumps([arm, {key: value for key, value in parameters.items() if key != name}], sort_keys=True)


# --- telling -----------------------------------------------------------------------------------------------------


def _means(by_value: Mapping[float, Sequence[float]]) -> list[tuple[float, float]]:
    return [(value, math.fsum(some) / len(some)) for value, some in sorted(by_value.items())]


def means_of(points: Sequence[Point]) -> list[tuple[float, float]]:
    """(value, mean score of the trainings that have it); of more than ``MOST_VALUES`` values, the means of ``GROUPS``
    groups of as many neighbouring values."""
    by_value: dict[float, list[float]] = defaultdict(list)
    for point in points:
        by_value[point.value].append(point.score)
    if len(by_value) <= MOST_VALUES:
        return _means(by_value)
    groups = [[point for point in points if point.value in set(some)]
              for some in np.array_split(np.array(sorted(by_value)), GROUPS)]  # fmt: skip
    return [(float(np.mean([p.value for p in some])), math.fsum(p.score for p in some) / len(some)) for some in groups]


def _grids(shown: Sequence[Response], measure: str) -> tuple[Grid, ...]:
    """Mean and range a value, for those with few."""
    rows = []
    for response in shown:
        if response.shown != measure or len(response.values) > MOST_VALUES:
            continue
        for synthetic in (True, False):
            for value in response.values:
                own = [p.score for p in response.points if p.value == value and p.synthetic == synthetic]
                if own:
                    with_or_without = "with" if synthetic else "without"
                    spread = f"{min(own):.3f} to {max(own):.3f}"
                    rows.append((response.name, _said(value), with_or_without, str(len(own)),
                                 f"{math.fsum(own) / len(own):.3f}", spread))  # fmt: skip
    headers = ("varied", "value", "synthetic data", "trainings", f"mean {measure}", "range")
    return (Grid(headers, tuple(rows)),) if rows else ()


def _caption(some: Sequence[Response]) -> str:
    """``Dice against mixing.ratio; images kept, % against filter.min_dice``."""
    names: dict[str, list[str]] = defaultdict(list)
    for one in some:
        names[one.shown].append(one.name)
    return "; ".join(f"{shown} against {', '.join(own)}" for shown, own in names.items())


def _said(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- drawing -----------------------------------------------------------------------------------------------------


def _draw(some: Sequence[Response]) -> bytes:
    columns = min(3, len(some)) if len(some) != 4 else 2
    lines = math.ceil(len(some) / columns)
    figure, several = canvas(8.6, (3.4 if columns == 1 else 2.9 if columns == 2 else 2.5) * lines, lines, columns)
    for axes, response in zip(several, some):
        _one(axes, response)
    for axes in several[len(some) :]:
        axes.set_visible(False)
    return png_of(figure)


def _one(axes: Any, response: Response) -> None:
    for line in response.alone:
        axes.plot(*zip(*line), color=VERY_FAINT, lw=1, zorder=1)
    if math.isfinite(response.level):
        axes.axhline(response.level, color=FAINT, lw=1.1, ls="--", zorder=1)
    for point in response.points:
        colour = colour_of(point.reading) if point.synthetic else INK
        axes.plot(point.value, point.score, MARKERS.get(point.arm, "o"), color=colour, ms=4.5, mec="white", mew=0.5,
                  alpha=0.8, zorder=2)  # fmt: skip
    kinds = [[point for point in response.points if point.synthetic == synthetic] for synthetic in (True, False)]
    for points, style, what in zip(kinds, ("-", ":"), ("with synthetic data", "without")):
        if points and len({point.value for point in points}) > 1:
            label = what if all(kinds) else None
            axes.plot(*zip(*means_of(points)), color=INK, lw=1.8, ls=style, zorder=3, label=label)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False, fontsize=8, loc="best")
    _scale(axes, response.values)
    axes.set_xlabel(response.name, fontsize=9)
    axes.set_ylabel(response.shown, fontsize=9)


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Decades where the values span them, from 0 too; ticks at the values where they are few."""
    positive = [value for value in values if value > 0]
    in_decades(axes, "x", values)
    if min(values) == 0 and spans_decades(positive):
        axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    if len(values) <= MOST_VALUES:
        axes.set_xticks(values, [_said(value) for value in values])
        axes.minorticks_off()
