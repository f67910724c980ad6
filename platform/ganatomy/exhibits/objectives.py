"""What utility is had at: the configurations that no other beats in utility, cost and fidelity together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ganatomy.evidence.ablation import Ablation, Row
from ganatomy.evidence.figures import BLUE, GREY, INK, canvas, png_of
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.exhibits.material import Material
from ganatomy.measures.objectives import COST, FIDELITY, OBJECTIVES, UTILITY, fidelity, unbeaten

FEWEST = 2
"""Configurations: of one alone there is nothing to say."""


def objectives(material: Material) -> Exhibit | None:
    """The Pareto set of a sweep's configurations: in the objectives that it was told, or, told of utility alone, in
    utility, cost and fidelity. None of fewer than two configurations, or where ``cost`` shows as much: of utility and
    cost alone."""
    table = material.table
    reached = [objectives_of(row) for row in table.rows]
    named = _named(material.plan.objectives, reached)
    if len(table.rows) < FEWEST or (not material.plan.objectives and FIDELITY not in named):
        return None
    inside = unbeaten([{name: one[name] for name in named} for one in reached])
    grid = Grid(
        ("configuration", *(_header(name, table) for name in named), "Pareto set"),
        tuple((row.name, *(_cell(name, one[name]) for name in named), "yes" if best else "")
              for row, one, best in zip(table.rows, reached, inside)),
        tuple(row.reading for row in table.rows),
        frozenset(place for place, best in enumerate(inside) if best),
    )  # fmt: skip
    return Exhibit(
        "What it is had at: the Pareto set",
        _sentences(material.plan.objectives, named, table, sum(inside)),
        (grid,),
        (Picture(_caption(named, table), _drawn(table, reached, inside)),) if COST in named else (),
    )


def objectives_of(row: Row) -> dict[str, float]:
    """Objective -> what a configuration has of it, mean over its trainings; a fidelity that was not measured is NaN."""
    made = {f"synthesis/{name}": value for name, value in row.synthesis.items()}
    made |= {f"synthesis/s_score/{domain}": value for domain, value in row.s_scores.items()}
    return {UTILITY: row.dice, COST: row.device_seconds, FIDELITY: fidelity(made)}


def _named(told: Sequence[str], reached: Sequence[dict[str, float]]) -> tuple[str, ...]:
    if len(told) > 1:
        return tuple(name for name in OBJECTIVES if name in told)
    measured = any(math.isfinite(one[FIDELITY]) for one in reached)
    return (UTILITY, COST, FIDELITY) if measured else (UTILITY, COST)


def _sentences(told: Sequence[str], named: Sequence[str], table: Ablation, inside: int) -> tuple[str, ...]:
    looked = f"The sampler looked for {_listed(named)}." if len(told) > 1 else "The sampler looked for utility alone."
    said = [
        f"{inside} of {len(table.rows)} configurations are in the Pareto set of {_listed(named)}: no other is as good "
        "in all of them and better in one.",
        f"{looked} What is picked, and what is judged, is so by utility ({table.measure}): the set has no verdict.",
        "Means over trainings, without intervals: of two that are close together, either may be the better.",
    ]
    if FIDELITY in named:
        said.append(f"Fidelity: {OBJECTIVES[FIDELITY].says}. Without synthetic images there is none, which counts as "
                    "the least.")  # fmt: skip
    return tuple(said)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _header(name: str, table: Ablation) -> str:
    return {UTILITY: table.measure, COST: "device s"}.get(name, name)


def _cell(name: str, value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.0f}" if name == COST else f"{value:.3f}"


def _caption(named: Sequence[str], table: Ablation) -> str:
    if FIDELITY not in named:
        return f"{table.measure} against device seconds of each configuration; ringed: the Pareto set."
    return (
        f"{table.measure} against device seconds of each configuration, the darker the greater its fidelity, grey "
        f"where it has none; ringed: the Pareto set of {_listed(named)}."
    )


def _drawn(table: Ablation, reached: Sequence[dict[str, float]], inside: Sequence[bool]) -> bytes:
    figure, (axes,) = canvas(8.6, 4.2)
    for one, best in zip(reached, inside):
        true = one[FIDELITY]
        look = {"color": GREY} if math.isnan(true) else {"color": BLUE, "alpha": 0.25 + 0.75 * min(1.0, true)}
        axes.plot(one[COST], one[UTILITY], "o", ms=8, mec="none", **look)
        if best:
            axes.plot(one[COST], one[UTILITY], "o", ms=13, mfc="none", mec=INK, mew=1.2)
    axes.set_xlabel("device seconds of a trial")
    axes.set_ylabel(table.measure)
    axes.margins(0.1, 0.18)
    return png_of(figure)
