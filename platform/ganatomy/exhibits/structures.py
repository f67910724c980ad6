"""What synthetic data does to each structure: candidate against baseline, structure by structure, as one family."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from ganatomy.contracts import InputError
from ganatomy.core.names import on_one_line
from ganatomy.downstream.task import judged_alike, task_named
from ganatomy.evidence.ablation import LEVEL, difference
from ganatomy.evidence.figures import forest
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.trainings import trainings_of
from ganatomy.experiment import Score, TrialResult
from ganatomy.measures.verdicts import NO_VERDICT, Finding, Judged, compare_each


def structures(material: Material) -> Exhibit | None:
    """Δ of each structure's Dice with its interval; None with fewer than two structures, or nothing to compare."""
    table = material.table
    if not (table.candidate and table.baseline and task_named(table.task).by_structure):
        return None
    candidate, baseline = (trainings_of(material, table.row(key)) for key in (table.candidate, table.baseline))
    findings = compared(candidate, baseline, material.tell)
    if len(findings) < 2:
        return None
    cells, readings = [], []
    for name, found in sorted(findings.items(), key=lambda pair: -pair[1].estimate):
        reached = [math.fsum(means) / len(means) for means in reversed(found.means)]
        p = f"{found.p:.3f}" if math.isfinite(found.p) else "–"
        cells.append((name, *(f"{mean:.3f}" for mean in reached), difference(found), p, str(found.patients),
                      found.answer))  # fmt: skip
        readings.append(found.answer)
    grid = Grid(("structure", "baseline", "candidate", "Δ [95 % interval]", "p", "patients", "reading"),
                tuple(cells), tuple(readings))  # fmt: skip
    return Exhibit("Structures", _sentences(material, findings), (grid,), _pictures(findings))


def compared(
    candidate: Sequence[TrialResult],
    baseline: Sequence[TrialResult],
    tell: Callable[[str], None] = lambda why: None,
) -> dict[str, Finding]:
    """Structure -> what sets the candidate's trainings apart from the baseline's, by the analysis of the table, of the
    patients whom all of these trainings scored on it. All intervals hold together with 95 %.

    A structure that was missed counts 0. tell: hears why one cannot be compared.
    """
    tables = [[_by_structure(one.scores) for one in side] for side in (candidate, baseline)]
    pairs: dict[str, tuple[Judged, Judged]] = {}
    for name in dict.fromkeys(name for side in tables for training in side for name in training):
        try:
            more, less = judged_alike([[training.get(name, {}) for training in side] for side in tables])
        except InputError as error:
            tell(f"structure {name} is not compared: {on_one_line(str(error))}")
            continue
        pairs[name] = more, less
    return compare_each(pairs, alpha=LEVEL)


def _by_structure(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    """Structure -> patient -> mean Dice over the patient's subjects that it counts for."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        if score.metric == "dice" and not math.isnan(score.value):
            values[score.label][score.patient].append(score.value)
    return {label: {patient: math.fsum(some) / len(some) for patient, some in own.items()}
            for label, own in values.items()}  # fmt: skip


def _sentences(material: Material, findings: dict[str, Finding]) -> tuple[str, ...]:
    table = material.table
    pair = f"{table.row(table.candidate).name} against {table.row(table.baseline).name}"
    judged = sum(found.answer != NO_VERDICT for found in findings.values())
    held = f"The intervals of {judged} structures hold together with 95 %. " if judged else ""
    said = [
        f"Dice of each structure, {pair}: of the patients who have it, over patients and trainings. {held}Structures "
        "are looked at beside what the sweep was run for, and decide nothing."
    ]
    for reason in dict.fromkeys(found.reason for found in findings.values() if found.answer == NO_VERDICT):
        names = [name for name, found in findings.items() if found.reason == reason]
        said.append(f"No verdict: {reason} ({', '.join(names)}).")
    return tuple(said)


def _pictures(findings: dict[str, Finding]) -> tuple[Picture, ...]:
    ordered = sorted(findings.items(), key=lambda pair: -pair[1].estimate)
    caption = (
        "Dice points of each structure, candidate against baseline: blue helps, orange harms, grey undecided or "
        "without verdict; where there is no interval, every patient's own difference"
    )
    return (Picture(caption, forest(ordered, "Dice")),)
