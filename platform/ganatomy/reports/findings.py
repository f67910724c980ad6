"""What a sweep found, exhibit by exhibit: its table, every training, what makes it uncertain, patients, structures."""

from __future__ import annotations

from ganatomy.downstream.task import task_named
from ganatomy.evidence import figures
from ganatomy.evidence.ablation import Ablation, Row
from ganatomy.evidence.published import INCOMPARABLE
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.trainings import reached
from ganatomy.reports.healing import HEADING, WHAT, healing_table, outdone
from ganatomy.reports.tabulated import (
    comparison_caveats,
    comparison_tables,
    measured_of,
    number,
    table_grid,
    work_tables,
)


def configurations(material: Material) -> Exhibit | None:
    """The table, with its conclusion, and what was measured where there is no verdict."""
    table = material.table
    if not table.rows:
        return None
    said = (table.conclusion, *measured_of(table))
    return Exhibit("Configurations", said, (table_grid(table),))


MOST_DRAWN = 60
"""Rows of a figure that has a line for each: with more it is no picture any more, and with thousands no PNG."""


def drawn(table: Ablation) -> list[Row]:
    """The rows that a figure has room for: the baseline, what was declared, then the best."""
    first = sorted(table.rows, key=lambda row: (row.configuration != table.baseline, not row.declared))[:MOST_DRAWN]
    named = {row.configuration for row in first}
    return [row for row in table.rows if row.configuration in named]


def _left_out(table: Ablation) -> tuple[str, ...]:
    left = len(table.rows) - MOST_DRAWN
    said = f"{left} rows of the table are not drawn: the baseline is, then what was declared, then the best."
    return (said,) if left > 0 else ()


def effects(material: Material) -> Exhibit | None:
    """What sets each configuration apart from the baseline."""
    table = material.table
    found = [(row.name, row.finding) for row in drawn(table) if row.finding is not None]
    if not found:
        return None
    caption = (
        f"Difference to the baseline, {table.measure} points: blue helps, orange harms, grey undecided or without "
        "verdict; intervals over patients and trainings, all of which hold together with 95 %. Where there is no "
        "interval, every patient's own difference is a stroke; with an arrow, it goes on."
    )
    return Exhibit("Effects", _left_out(table), pictures=(Picture(caption, figures.forest(found, table.measure)),))


def trainings(material: Material) -> Exhibit | None:
    """Every training of every configuration as a dot, those of the baseline too."""
    table = material.table
    if not table.rows:
        return None
    scores = reached(material)
    rows = [(row.name, scores[row.configuration], table.reading(row)) for row in drawn(table)]
    reference = table.row(table.baseline).dice if table.baseline else float("nan")
    caption = (
        f"{table.measure} of every training, mean over patients: a dot is a training, a stroke their mean, the dashed "
        "line the baseline's mean; blue helps, orange harms, grey undecided, without verdict or without synthetic data"
    )
    picture = Picture(caption, figures.dots(rows, table.measure, reference))
    return Exhibit("Every training", _left_out(table), pictures=(picture,))


def certainty(material: Material) -> Exhibit | None:
    """What makes each difference uncertain, and the smallest effect that such a study detects."""
    table, rows = material.table, []
    for row in table.rows:
        found = row.finding
        if found is None or found.parts is None:
            continue
        parts = found.parts
        rows.append((
            row.name, f"{found.patients}", f"{found.trainings[0]} / {found.trainings[1]}", _points(parts.patients),
            " / ".join(map(_points, parts.training)), " / ".join(map(_points, parts.residual)), _points(found.error),
            _points(found.least_shown), _points(found.least_shown_doubled),
        ))  # fmt: skip
    if not rows:
        return None
    said = (
        f"Standard deviations and effects in {table.measure} points; before the stroke of the configuration, after it "
        "of the baseline. patients: what the difference would vary by, had other patients been drawn and every side "
        "been trained without end. training: the luck of one training, which all patients share. residual: what else "
        "makes two trainings' means differ. The standard error of the difference is made of all three.",
        "Smallest detectable effect: what a study shows four times out of five, at this number of patients (n) and at "
        "twice as many (2n), with as many trainings.",
    )
    columns = ("configuration", "patients", TRAININGS_OF, "SD patients", "SD training", "SD residual", "error",
               "detectable at n", "at 2n")  # fmt: skip
    return Exhibit("What makes it uncertain", said, (Grid(columns, tuple(rows)),))


TRAININGS_OF = "trainings (it / baseline)"


def _points(share: float) -> str:
    return number(100 * share, 1)


def pairs(material: Material) -> Exhibit | None:
    """Every patient with and without synthetic data, candidate beside baseline."""
    table = material.table
    if not (table.baseline and table.candidate and table.row(table.candidate).patients):
        return None
    pair = [(row.name, row.patients) for row in map(table.row, (table.baseline, table.candidate))]
    caption = (
        "Every patient, without and with synthetic data, mean over trainings: blue where the score rose, orange where "
        "it fell"
    )
    return Exhibit("Every patient", pictures=(Picture(caption, figures.paired(pair[0], pair[1], table.measure)),))


def levels(material: Material) -> Exhibit | None:
    """The score of each structure, and the worst subject, where the task knows any."""
    table = material.table
    if not (table.rows and task_named(table.task).by_structure):
        return None
    labels = sorted({label for row in table.rows for label in row.labels})
    rows = tuple(
        (row.name, *(number(row.labels.get(label, float("nan")), 3) for label in labels),
         f"{row.worst_subject} ({number(row.worst, 3)})")
        for row in table.rows
    )  # fmt: skip
    headers = ("configuration", *labels, f"worst subject ({table.measure})")
    return Exhibit(f"{table.measure} of each structure, and the worst case", grids=(Grid(headers, rows),))


def healing(material: Material) -> Exhibit | None:
    """Pseudo-healthy images beside what needs no training."""
    found = healing_table(material.table)
    if found is None:
        return None
    headers, rows = found
    return Exhibit(HEADING, (WHAT, *outdone(material.table)), (Grid(tuple(headers), tuple(map(tuple, rows))),))


def published(material: Material) -> Exhibit | None:
    """What papers printed beside what was found here."""
    if not material.table.published:
        return None
    said, grids = [INCOMPARABLE], []
    for one in material.table.published:
        for place, (headers, rows) in enumerate(comparison_tables(one)):
            cells = tuple(map(tuple, rows))
            grids.append(Grid(tuple(headers), cells, caption="" if place else one.where))
        said += comparison_caveats(one)
    return Exhibit("The paper's figures beside ours", tuple(said), tuple(grids))


def work(material: Material) -> Exhibit | None:
    """What each configuration took."""
    grids = tuple(Grid(tuple(headers), tuple(map(tuple, rows))) for headers, rows in work_tables(material.table))
    return Exhibit("Work and its cost, mean over trainings", grids=grids) if grids else None


def lost(material: Material) -> Exhibit:
    """The trials that are not in the table, and why."""
    heading, unfinished = "Trials not in the table", material.table.unfinished
    if not unfinished:
        left = material.plan.trials - len(material.results)
        some = "None of those that have begun." if left > 0 else "None: every trial finished."
        return Exhibit(heading, (some,))
    headers = ("trial", "configuration", "came to", "why", "traceback")
    rows = [(one.trial, one.name, one.status, one.error, one.traceback) for one in unfinished]
    kept = len(headers) if any(one.traceback for one in unfinished) else len(headers) - 1
    return Exhibit(heading, grids=(Grid(headers[:kept], tuple(row[:kept] for row in rows)),))
