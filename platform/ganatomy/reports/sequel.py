"""What came of a sweep: its answer by the strongest evidence there is, its pick before and after, its gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.plain_files import read_json
from ganatomy.evidence import figures
from ganatomy.evidence.confirmed import VERDICT, Confirmed
from ganatomy.evidence.results import outstanding
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.exhibits.material import Material
from ganatomy.measures.statistics import counted
from ganatomy.measures.verdicts import NO_VERDICT, UNDECIDED, of_trainings
from ganatomy.reports.tabulated import nothing_of, number

AGAIN = ", trained again under seeds that chose nothing"


# --- the answer --------------------------------------------------------------------------------------------------


def answer(material: Material) -> tuple[str, str]:
    """The answer in one sentence, and its reading: of the test patients where they were read, else of the confirmation,
    else of the search."""
    table, measure = material.table, material.table.measure
    if not (table.candidate and table.baseline):
        return nothing_of(table) or table.conclusion, ""
    names = table.row(table.candidate).name, table.row(table.baseline).name
    if on_test := _on_test(material, names):
        return on_test
    confirmed = confirmed_of(material)
    again = confirmed.finding if confirmed else None
    if not (found := again or table.row(table.candidate).finding):
        return table.conclusion, ""
    return _sentence(found.figures, names, measure, "validation patient", AGAIN if again else ""), found.answer


def _on_test(material: Material, names: tuple[str, str]) -> tuple[str, str] | None:
    """What the test patients said of candidate and baseline, where they were read and that can be read."""
    told = _judged(material)
    if told is None or (told["candidate"], told["baseline"]) != names:
        return None
    utility: Mapping[str, Any] = next((gate["figures"] for gate in told["gates"] if gate["name"] == "utility"), {})
    again = AGAIN if told.get("confirmation") else ""  # a forced promotion judges the trainings of the search
    try:
        return _sentence(utility, names, material.table.measure, "test patient", again), str(utility["answer"])
    except (KeyError, TypeError, ValueError):  # another version's figures; the exhibit of the gates shows what it can
        return None


def _sentence(found: Mapping[str, Any], names: tuple[str, str], measure: str, judge: str, again: str) -> str:
    """What the figures say of candidate and baseline. judge: who judged, one of them; again: and by what trainings."""
    difference = 100 * found["difference"]
    trained = of_trainings(found["trainings"], found["baseline_trainings"], paired=bool(found.get("paired")))
    pair = (
        f"{names[0]} against {names[1]}, the best without synthetic data, on {counted(found['patients'], judge)}{again}"
    )
    if found["answer"] == NO_VERDICT:
        why = f": {found['reason']}" if found.get("reason") else ""
        return f"No verdict{why}. Measured: {difference:+.1f} {measure} points, {pair} ({trained})."
    interval = f"{found['level']:.1%} interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f}; {trained}"
    bound = f"; to help it had to exceed {100 * found['least']:+.1f}" if found.get("least") else ""
    said = f"{str(found['answer']).capitalize()}: {difference:+.1f} {measure} points, {pair} ({interval}{bound})"
    if found["answer"] != UNDECIDED:
        return f"{said}."
    return f"{said}; a study like this could have shown an effect of ≥\u00a0{100 * found['least_shown']:.1f} points."


# --- before and after --------------------------------------------------------------------------------------------


def confirmation(material: Material) -> Exhibit | None:
    """The pick as it scored when it was chosen, and trained again: the winner's curse, if there was one."""
    again = material.confirmed
    if again is None:
        return None
    left = outstanding(material.workspace / "sweeps" / again.plan.name, again.plan)
    state = [f"{left} of {again.plan.trials} trainings are outstanding."] if left else []
    said = (
        f"Confirmation {again.plan.name}: what was picked is the best of several, and owes a part of its score to "
        "luck. Trained again under seeds that chose nothing, it shows what it is worth.",
        *state,
        *again.remarks,
    )
    rows = tuple(
        (name, _mean(before), _mean(after), str(lost))
        for name, before, after, lost in zip(again.names, again.before, again.after, again.failed)
    )
    grid = Grid(("configuration", "when it was chosen", "trained again", "came to no end"), rows)
    reading = again.finding.answer if again.finding else ""
    sides = [(name, before, after) for name, before, after in zip(again.names, again.before, again.after)]
    caption = (
        f"{again.plan.measure} of every training: hollow when it was chosen, filled trained again; a stroke is their "
        "mean"
    )
    picture = Picture(caption, figures.before_after(sides, again.plan.measure, reading))
    return Exhibit("The winner, before and after confirmation", said, (grid,), (picture,))


def confirmed_of(material: Material) -> Confirmed | None:
    """What the pick of a sweep came to; None where that cannot be told, too: the exhibit says why."""
    try:
        return material.confirmed
    except InputError:
        return None


def _mean(scores: tuple[float, ...]) -> str:
    if not scores:
        return "–"
    return f"{sum(scores) / len(scores):.3f} ({counted(len(scores), 'training')})"


# --- gates -------------------------------------------------------------------------------------------------------


def gates(material: Material) -> Exhibit | None:
    """The latest verdict, gate by gate, with the figures of the test patients. InputError where it is damaged."""
    path = material.workspace / "sweeps" / material.plan.name / VERDICT
    if not path.exists():
        return None
    told = _judged(material)
    if told is None:
        raise InputError(f"{VERDICT} of sweep {material.plan.name} is damaged", expected="what a promotion wrote")
    table, said = material.table, [str(told["sentence"])]
    names = [table.row(one).name for one in (table.candidate, table.baseline) if one]
    if [told["candidate"], told["baseline"]] != names:
        said.insert(0, f"Of another pick than today's: {told['candidate']} was judged against {told['baseline']}.")
    passed = tuple((gate["name"], "passed" if gate["passed"] else "FAILED", gate["sentence"]) for gate in told["gates"])
    strong = frozenset(place for place, gate in enumerate(told["gates"]) if not gate["passed"])
    grids = [Grid(("gate", "came to", "because"), passed, strong=strong)]
    if shown := _test_figures(told, table.measure):
        grids.append(shown)
    return Exhibit("Gates", tuple(said), tuple(grids))


def _judged(material: Material) -> Mapping[str, Any] | None:
    """The latest verdict as it was written down, where there is one that can be read."""
    path = material.workspace / "sweeps" / material.plan.name / VERDICT
    try:
        told = read_json(path)
        [(gate["name"], gate["passed"], gate["sentence"], dict(gate.get("figures", {}))) for gate in told["gates"]]
        return {**told, "gates": [{"figures": {}, **gate} for gate in told["gates"]],
                "sentence": told["sentence"], "candidate": told["candidate"], "baseline": told["baseline"]}  # fmt: skip
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None


SHARES = ("difference", "low", "high", "least", "least_shown")
"""Figures of the gate of utility that are shares, and told as points."""


def _test_figures(told: Mapping[str, Any], measure: str) -> Grid | None:
    rows = []
    for gate in told["gates"]:
        for name, value in gate["figures"].items():
            if value is None or (isinstance(value, str) and not value):
                continue
            points = gate["name"] == "utility" and name in SHARES
            unit = f" {measure} points" if points else ""
            rows.append((gate["name"], name.replace("_", " ").replace("/", ": "), _figure(value, points) + unit))
    if not rows:
        return None
    return Grid(
        ("gate", "figure", "value"), tuple(rows), caption="What the gates saw, on test patients where not said else"
    )


def _figure(value: Any, points: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if points:
        return f"{100 * value:+.1f}" if math.isfinite(value) else number(value, 1)
    return f"{value:.4g}"
