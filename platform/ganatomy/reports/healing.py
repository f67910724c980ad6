"""Pseudo-healthy images in a report: every configuration beside what needs no training, and what that says of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from ganatomy.evidence.ablation import Ablation, Row
from ganatomy.measures.synthesis.trivial import TRIVIAL
from ganatomy.reports.tabulated import number

COLUMNS = {
    "h": "healthiness", "identity": "identity", "of the brain": "identity_of_brain",
    "error inside": "error_inside", "outside": "error_outside",
}  # fmt: skip
"""Header -> what is measured."""

HEADING = "Pseudo-healthy images beside what needs no training"

WHAT = (
    "unchanged: x; darker: x/2; clipped: min(x, 0.6); untrained: the method before its first step. Errors are mean "
    "absolute differences to the same image without its lesion, in a range of 1, inside the lesion and in the brain "
    "outside of it; a lesion that pushes tissue aside leaves an unchanged image an error outside."
)


def healing_table(table: Ablation) -> tuple[list[str], list[list[str]]] | None:
    """Headers and rows: configurations, then the trivial rules, then the methods untrained; means over trainings. None
    where no configuration takes lesions out."""
    rows = _healing(table)
    if not rows:
        return None
    named = [(row.name, row.synthesis) for row in rows] + [*_beside(rows).items()]
    shown = {header: name for header, name in COLUMNS.items() if any(name in numbers for _, numbers in named)}
    cells = [[name, *(number(numbers.get(what, math.nan), 3) for what in shown.values())] for name, numbers in named]
    return ["images", *shown], cells


def outdone(table: Ablation) -> list[str]:
    """In sentences: which configurations a trivial rule equals in healthiness and identity together, and which are no
    nearer the truth inside the lesion than the unchanged image."""
    rows, said = _healing(table), []
    for name in TRIVIAL:  # each row beside what its own f_pre says of the rule
        if lesser := [row.name for row in rows if _as_good(_of(row, name), row.synthesis)]:
            said.append(
                f"{name.capitalize()}, which needs no training, is as healthy and as much the same person as "
                f"{_all(lesser, rows)}, or more."
            )
    no_nearer = [row.name for row in rows if row.synthesis.get("error_inside", -math.inf)
                 >= _of(row, "unchanged").get("error_inside", math.nan)]  # fmt: skip
    if no_nearer:
        said.append(f"No nearer the truth inside the lesion than the unchanged image: {_all(no_nearer, rows)}.")
    return said


def _healing(table: Ablation) -> list[Row]:
    return [row for row in table.rows if "identity" in row.synthesis]


def _beside(rows: list[Row]) -> dict[str, Mapping[str, float]]:
    """Name -> numbers, of a trivial rule the same in every row that is judged by the same f_pre, and means over them;
    of the untrained by the configurations that start alike."""
    found: dict[str, Mapping[str, float]] = {}
    for name in TRIVIAL:
        each = [numbers for row in rows if (numbers := _of(row, name))]
        if each:
            known = {key: [one[key] for one in each if key in one] for one in each for key in one}
            found[name] = {key: math.fsum(values) / len(values) for key, values in known.items()}
    alike: dict[tuple[tuple[str, float], ...], list[str]] = defaultdict(list)
    for row in rows:
        if numbers := _of(row, "untrained"):
            alike[tuple(sorted(numbers.items()))].append(row.name)
    return found | {f"untrained ({_all(names, rows)})": dict(numbers) for numbers, names in alike.items()}


def _of(row: Row, name: str) -> dict[str, float]:
    """The numbers beside a row under this name that the table shows."""
    return {what: row.synthesis[key] for what in COLUMNS.values() if (key := f"beside/{name}/{what}") in row.synthesis}


def _as_good(trivial: Mapping[str, float], fitted: Mapping[str, float]) -> bool:
    """Whether both numbers of the trivial rule are known and at least those of the fit."""
    pairs = [(trivial.get(name, math.nan), fitted.get(name, math.nan)) for name in ("healthiness", "identity")]
    return all(rule >= own for rule, own in pairs)


def _all(names: list[str], rows: list[Row]) -> str:
    return "every configuration" if len(names) == len(rows) > 1 else ", ".join(names)
