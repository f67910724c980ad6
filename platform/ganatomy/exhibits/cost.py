"""What the score of each configuration cost, and which of them nothing beats at its price."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ganatomy.evidence.ablation import Row
from ganatomy.evidence.figures import FAINT, INK, canvas, colour_of, png_of
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.trainings import in_decades
from ganatomy.measures.objectives import COST, UTILITY, unbeaten

GENERATOR = "generator/device_seconds"

MARKERS = {"real": "D", "source": "v", "offline": "o", "joint": "s"}
"""Arm -> what its configurations are drawn as."""


def cost(material: Material) -> Exhibit | None:
    """Score against device seconds of a training, with the front of what is not beaten at its price."""
    table = material.table
    rows = [row for row in table.rows if row.device_seconds > 0 and math.isfinite(row.dice)]
    if len(rows) < 2:
        return None
    inside = unbeaten([{UTILITY: row.dice, COST: row.device_seconds} for row in rows])
    best = sorted((row for row, best in zip(rows, inside) if best), key=lambda row: row.device_seconds)
    headers = ("configuration", "number", table.measure, "device s", "of them the generator's", "reading")
    cells = [
        (row.name, str(number), f"{row.dice:.3f}", f"{row.device_seconds:.0f}", _own(row), table.reading(row))
        for number, row in enumerate(best, 1)
    ]
    strong = frozenset(place for place, row in enumerate(best) if row.configuration == table.candidate)
    sentences = (
        "Device seconds are time inside the steps of a training, times its workers: what it would have cost alone, "
        "stages that it shares with others included. A generator that serves several trainings is counted in each.",
        f"{len(best)} of {len(rows)} configurations are on the Pareto front: no other reaches as much for less. Which "
        "of them stand there is decided by means alone; whether they differ is what the table's intervals say.",
    )
    caption = (
        f"{table.measure} against the device seconds of a training, mean over trainings; the line to the left of a dot "
        "is its generator's part. Numbered: the Pareto front. Blue helps, orange harms, grey undecided or without "
        "verdict, black without synthetic data"
    )
    grid = Grid(headers, tuple(cells), tuple(row.reading for row in best), strong)
    return Exhibit("Utility against cost", sentences, (grid,), (Picture(caption, _draw(rows, best, table.measure)),))


def _own(row: Row) -> str:
    value = row.work.get(GENERATOR, math.nan)
    return f"{value:.0f}" if math.isfinite(value) else "–"


def _draw(rows: Sequence[Row], best: Sequence[Row], measure: str) -> bytes:
    figure, (axes,) = canvas(8.6, 4.4)
    axes.step([row.device_seconds for row in best], [row.dice for row in best], where="post", color=FAINT, lw=1.2)
    in_decades(axes, "x", (row.device_seconds for row in rows))
    for row in rows:
        colour = colour_of(row.reading) if row.synthetic else INK
        if (part := row.work.get(GENERATOR, 0.0)) > 0:
            without = max(row.device_seconds - part, 0.02 * row.device_seconds)
            axes.plot([without, row.device_seconds], [row.dice] * 2, color=colour, lw=0.9, alpha=0.22, zorder=1)
        axes.plot(row.device_seconds, row.dice, MARKERS.get(row.arm, "o"), color=colour, ms=7.5, mec="white", zorder=3)
    for number, row in enumerate(best, 1):
        axes.annotate(str(number), (row.device_seconds, row.dice), (0, 7), textcoords="offset points", ha="center",
                      fontsize=9, color=INK, weight="bold")  # fmt: skip
    for arm, marker in MARKERS.items():
        if any(row.arm == arm for row in rows):
            axes.plot([], [], marker, color=FAINT, ms=6, label=arm)
    axes.set_xlabel("device seconds of a training")
    axes.set_ylabel(measure)
    axes.margins(0.06, 0.12)
    figure.legend(frameon=False, fontsize=8.5, loc="outside upper left", ncols=len(MARKERS))
    return png_of(figure)
