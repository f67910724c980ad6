"""Figures of a report as PNG: effects with intervals, trainings as dots, patients in pairs, cost against score."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ganatomy.measures.verdicts import HARMS, HELPS, Finding

INK, FAINT, BLUE, ORANGE, GREY = "#1b2430", "#8b95a5", "#0072b2", "#d55e00", "#7a8594"


def colour_of(reading: str) -> str:
    """What a reading is drawn in: blue where it helps, orange where it harms, else grey."""
    return {HELPS: BLUE, HARMS: ORANGE}.get(reading, GREY)


def forest(findings: Sequence[tuple[str, Finding]], measure: str = "Dice") -> bytes:
    """Differences (name, Finding) with their intervals, one under the other: blue where it helps, orange where it
    harms, else grey. Where there is no interval, every patient's own difference in its place. One that is far longer
    than most runs out of the picture, with an arrow."""
    names = [short(name) for name, _ in findings]
    figure, (axes,) = canvas(8.6, 0.9 + sum(0.22 + 0.17 * (1 + name.count("\n")) for name in names))
    reach = _reach([finding for _, finding in findings])
    for place, (_, finding) in enumerate(findings):
        colour = colour_of(finding.answer)
        if math.isfinite(finding.low) and math.isfinite(finding.high):
            ends = [min(max(100 * end, -reach), reach) for end in (finding.low, finding.high)]
            axes.plot(ends, [place, place], color=colour, lw=2.2, solid_capstyle="round")
            for end, arrow in zip(ends, "<>"):
                if abs(end) == reach:
                    axes.plot(end, place, arrow, color=colour, ms=7)
        else:
            own = [100 * (more - less) for _, more, less in finding.pairs]
            axes.plot(own, [place] * len(own), "|", color=FAINT, ms=9, mew=1.1)
        axes.plot(100 * finding.estimate, place, "o", color=colour, ms=7, mec="white")
    axes.axvline(0, color=INK, lw=0.9)
    axes.set_yticks(range(len(findings)), names)
    axes.set_ylim(len(findings) - 0.4, -0.6)
    axes.set_xlabel(f"{measure} points against the baseline")
    return png_of(figure)


def _reach(findings: Sequence[Finding]) -> float:
    """How far from 0, in points, intervals are drawn: of few trainings some are longer than any score could differ."""
    ends = sorted(100 * max(abs(one.low), abs(one.high)) for one in findings if math.isfinite(one.low + one.high))
    usual = 2 * ends[len(ends) // 2] if ends else math.inf
    return max(usual, *(200 * abs(one.estimate) for one in findings), 1.0)


def dots(rows: Sequence[tuple[str, Sequence[float], str]], measure: str = "Dice", reference: float = math.nan) -> bytes:
    """Every training as a dot, those of a configuration (name, scores, reading) in a row, their mean a stroke: blue
    where it helps, orange where it harms, else grey. reference: a score that a line goes through, the baseline's."""
    names = [short(name) for name, _, _ in rows]
    figure, (axes,) = canvas(8.6, 0.9 + sum(0.22 + 0.17 * (1 + name.count("\n")) for name in names))
    for place, (_, scores, reading) in enumerate(rows):
        colour = colour_of(reading)
        axes.plot(scores, [place] * len(scores), "o", color=colour, ms=6.5, mec="white", alpha=0.85)
        axes.plot(sum(scores) / len(scores), place, "|", color=INK, ms=15, mew=1.6)
    if math.isfinite(reference):
        axes.axvline(reference, color=INK, lw=0.9, ls=(0, (4, 3)))
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"{measure} of a training, mean over patients")
    return png_of(figure)


def before_after(
    sides: Sequence[tuple[str, Sequence[float], Sequence[float]]], measure: str = "Dice", reading: str = ""
) -> bytes:
    """(name, scores when it was chosen, scores trained again) of candidate and baseline: every training a dot, the
    mean of each group a stroke. reading: of the first, which colours it."""
    figure, (axes,) = canvas(8.6, 3.0)
    labels = []
    for place, (name, *groups) in enumerate(sides):
        colour = colour_of(reading) if place == 0 else INK
        for again, scores in enumerate(groups):
            row = 2 * place + again + 0.35 * place
            labels.append((row, f"{short(name, 40)}\n{('when it was chosen', 'trained again')[again]}"))
            face = colour if again else "white"
            axes.plot(scores, [row] * len(scores), "o", color=colour, mfc=face, ms=7.5, mew=1.4, alpha=0.85)
            if scores:
                axes.plot(sum(scores) / len(scores), row, "|", color=INK, ms=17, mew=1.6)
    axes.set_yticks([row for row, _ in labels], [label for _, label in labels])
    axes.set_ylim(labels[-1][0] + 0.6, -0.6)
    axes.set_xlabel(f"{measure} of a training, mean over validation patients")
    return png_of(figure)


def paired(
    first: tuple[str, Mapping[str, float]], second: tuple[str, Mapping[str, float]], measure: str = "Dice"
) -> bytes:
    """Score of every patient under two configurations (name, patient -> score), joined by a line: blue where it
    rose."""
    figure, (axes,) = canvas(6.4, 4.6)
    for patient in sorted(first[1].keys() & second[1].keys()):
        values = [first[1][patient], second[1][patient]]
        axes.plot(
            [0, 1], values, "-o", color=BLUE if values[1] > values[0] else ORANGE, alpha=0.75, lw=1.3, ms=5, mec="white"
        )
    axes.set_xticks([0, 1], [short(first[0], 30), short(second[0], 30)])
    axes.set_xlim(-0.35, 1.35)
    axes.set_ylabel(f"{measure} of a patient")
    return png_of(figure)


def cost(points: Sequence[tuple[str, float, float, bool]], measure: str = "Dice") -> bytes:
    """(name, device seconds, Dice or another measure, whether synthetic data was used) as a scatter; the best of each
    kind is named."""
    figure, (axes,) = canvas(8.6, 4.2)
    for synthetic, colour, label in ((False, GREY, "real images only"), (True, BLUE, "with synthetic images")):
        kind = [point for point in points if point[3] == synthetic]
        if not kind:
            continue
        axes.plot(
            [point[1] for point in kind],
            [point[2] for point in kind],
            "o",
            color=colour,
            ms=8,
            mec="white",
            label=label,
        )
        name, seconds, score, _ = max(kind, key=lambda point: point[2])
        side = "right" if seconds > sum(axes.get_xlim()) / 2 else "left"
        axes.annotate(
            short(name), (seconds, score), (0, 8), textcoords="offset points", ha=side, fontsize=8, color=colour
        )
    axes.set_xlabel("device seconds of a trial")
    axes.set_ylabel(measure)
    axes.margins(0.1, 0.18)
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    return png_of(figure)


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Any]]:
    """A blank figure of so many inches and its axes in the house's style, line by line.

    Shown at 860 pixels it is read best where it is 8.6 inches wide.
    """
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    several = [figure.add_subplot(rows, columns, place) for place in range(1, rows * columns + 1)]
    for axes in several:
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        axes.tick_params(colors=INK, length=0, labelsize=8.5)
        axes.grid(color="#e3e7ec", lw=0.8)
        axes.set_axisbelow(True)
    return figure, several


def short(name: str, width: int = 44) -> str:
    """The name on at most three lines."""
    return "\n".join(textwrap.wrap(name, width, max_lines=3, placeholder=" …"))


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG, the same for the same figure."""
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
