"""The ablation table as cells: what each row says, in the words and the places of every writer; and as plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ganatomy.core.plain_values import plain
from ganatomy.downstream.task import Column, task_named
from ganatomy.evidence.ablation import BASELINE, CONTROL, REAL, SEARCHED, Ablation, Row, difference
from ganatomy.evidence.published import INCOMPARABLE, Comparison, Figure, Finding
from ganatomy.exhibits.exhibit import Grid
from ganatomy.experiment import NO_RESULT
from ganatomy.measures import verdicts
from ganatomy.measures.statistics import counted, finite
from ganatomy.measures.verdicts import NO_VERDICT, UNDECIDED

TRAININGS = "trainings"

LEGEND = (
    "Δ: points against the baseline, over patients and trainings; all intervals of the table hold together with 95 %, "
    "p is corrected likewise. Undecided: in brackets the effect that a study like this shows four times out of five."
)

COLUMNS = ("HD95 mm", "missed", "worst", "S-score", "healthy", "to the real")
RARE = (SEARCHED, REAL, CONTROL, "no verdict")
TERMS = (
    ("configuration", "Trials that differ in nothing but the seed, called by the settings that vary in this sweep."),
    (TRAININGS, "How often a configuration was trained, each time under another seed. The luck of a training is part "
     "of its result, so a training is drawn at random as a patient is, and both are in every interval."),
    ("patient", "Counts once, however many images there are of him, and appears as a pseudonym."),
    (BASELINE, "The best configuration without synthetic data, chosen on validation patients."),
    ("candidate", "The best configuration with synthetic data, in bold type; chosen on the same patients."),
    ("Δ", "The difference to the baseline on the same patients, in points: hundredths of the score. In brackets its "
     "interval, over patients and trainings; all intervals of the table hold together with 95 %."),
    ("p", "How easily chance alone gives such a difference, corrected for all comparisons of the table: below 0.05 "
     "exactly where the interval leaves out 0."),
    ("reading", "helps: the whole interval is above 0. harms: it is below. undecided: 0 is in it; in brackets the "
     "smallest effect, in points, that a study like this one shows four times out of five."),
    ("no verdict", "Too few patients or trainings, unequal work downstream, or a training that came to no end."),
    (NO_RESULT, "A trial whose synthetic set was refused by those who judge it: nothing was trained on it, which says "
     "nothing for or against synthetic data."),
    (SEARCHED, "Sampled by a search and not declared before it: ranked, and no comparison."),
    (REAL, "A configuration without synthetic data that is not the best of them."),
    (CONTROL, "More downstream work than the baseline, without synthetic data: what else the effort could buy."),
    ("HD95 mm", "95th percentile of the distance between surfaces: less is better."),
    ("missed", "Structures of which the model found no voxel, a training; they count as Dice 0."),
    ("worst", "The least score of any subject under any training."),
    ("S-score", "How well a segmentor that learnt from real images finds the label that a synthetic image carries, by "
     "domain; after the stroke what it reaches on real images."),
    ("healthy", "h: share of the lesion that is gone; id: how much outside of it is as before."),
    ("to the real", "Of translated images beside the patient's own real ones, inside the body: mean absolute error (HU "
     "where the target is CT, else of values from -1 to 1), PSNR in dB, MS-SSIM. A smooth image does well in them."),
    ("device s", "Device seconds: time inside training steps times workers, waiting left out; what a trial alone would "
     "have cost, stages included that it shares with others."),
)  # fmt: skip
"""Term -> what it means to a reader of the page."""

HEALTHY = "healthy"
"""Header of healthiness and identity: in one cell, for neither says anything without the other."""

PAIRED = "to the real"
"""Header of what is measured on images whose real counterpart is known."""

SHOWN = {
    HEALTHY: (("h", "healthiness", 2), ("id", "identity", 2)),
    PAIRED: (("MAE HU", "mae_hu", 0), ("MAE", "mae", 3), ("PSNR", "psnr", 1), ("MS-SSIM", "ms_ssim", 3)),
}
"""Header -> short name, metric and places of what its cells say of synthetic images."""


def headers(table: Ablation) -> list[str]:
    """What stands above the columns of the table; the first is ``configuration``, the last ``reading``."""
    synthesis = ["S-score"] if any(row.s_scores for row in table.rows) else []
    synthesis += _measured(table)
    own = [column.header for column in task_named(table.task).columns]
    return ["configuration", TRAININGS, table.measure, "Δ [95 % interval]", "p", *own, *synthesis, "device s",
            "reading"]  # fmt: skip


def cells(table: Ablation, row: Row) -> list[str]:
    """A row of the table as text; a cell may be of several lines."""
    finding, reading = row.finding, table.reading(row)
    if finding is not None and finding.answer == UNDECIDED:
        reading += f" (≥{100 * finding.least_shown:.1f})"
    return [
        row.name, str(len(row.seeds)), number(row.dice, 3),
        difference(finding), p_value(math.nan if finding is None else finding.p),
        *(_own(row, column) for column in task_named(table.task).columns),
        *([_s_scores(row) or "–"] if any(other.s_scores for other in table.rows) else []),
        *(_made(row, header) or "–" for header in _measured(table)), f"{row.device_seconds:.0f}", reading,
    ]  # fmt: skip


def p_value(p: float) -> str:
    """Three places, ``<0.001`` below; a dash for none."""
    return "<0.001" if p < 0.0005 else number(p, 3)


def nothing_of(table: Ablation) -> str:
    """Why a table has no row, in a sentence; empty where it has one."""
    if table.rows:
        return ""
    ended = [trial for trial in table.unfinished if trial.status in ("finished", "pruned", "failed", NO_RESULT)]
    failed = sum(trial.status == "failed" for trial in ended)
    if not ended:
        return "No answer: no trial has ended yet."
    if failed == len(table.unfinished):
        who = {1: "its only trial", 2: "both trials"}.get(failed, f"all {failed} trials")
        return f"No answer: {who} failed; why stands below."
    return "No answer: no trial has finished; what became of them stands below."


def table_grid(table: Ablation) -> Grid:
    """The table, its candidate standing out."""
    strong = frozenset(place for place, row in enumerate(table.rows) if row.configuration == table.candidate)
    rows = tuple(tuple(cells(table, row)) for row in table.rows)
    return Grid(tuple(headers(table)), rows, tuple(map(table.reading, table.rows)), strong)


def brief(table: Ablation) -> list[dict[str, str]]:
    """The rows as they are shown, header -> text: for a model card."""
    shown = headers(table)
    return [dict(zip(shown, (cell.replace("\n", ", ") for cell in cells(table, row)))) for row in table.rows]


def legend(table: Ablation) -> tuple[tuple[str, str], ...]:
    """Terms of a report, and what they mean; those of columns that the table has not are left out."""
    own = (table.measure, task_named(table.task).legend)
    return (own, *((term, meaning) for term, meaning in TERMS if _asked_for(term, table)))


def _asked_for(term: str, table: Ablation) -> bool:
    readings, shown = {*map(table.reading, table.rows)}, headers(table)
    return (term not in COLUMNS or term in shown) and (term not in RARE or term in readings)


SEEN = {
    "updates": "work/updates", "real seen": "work/real_samples", "synthetic seen": "work/synthetic_samples",
    "mixed in": "work/used_images", "each shown": "work/synthetic_shown", "a real one": "work/real_shown",
}  # fmt: skip
MADE = {
    "images made": "work/synthetic_images", "kept": "work/kept_images", "generator updates": "generator/updates",
    "its samples": "generator/samples", "its device s": "generator/device_seconds",
}  # fmt: skip
"""Header -> what was spent: by the downstream model, and by and on what made its images."""


def work_tables(table: Ablation) -> list[tuple[list[str], list[list[str]]]]:
    """Headers and rows of what the downstream model of every configuration saw, and of what making images took; none
    where no trial recorded it, or nobody made any."""
    found = []
    for columns in (SEEN, MADE):
        places = {name: 1 if name.endswith("_shown") else 0 for name in columns.values()}
        rows = [[row.name, *(number(row.work.get(name, math.nan), some) for name, some in places.items())]
                for row in table.rows if places.keys() & row.work.keys()]  # fmt: skip
        if rows:
            found.append((["configuration", *columns], rows))
    return found


def _own(row: Row, column: Column) -> str:
    """A number that is a column of the row's task, or an interval."""
    known = {**row.work, **row.further}
    values = [known.get(of, getattr(row, of, math.nan)) for of in (column.of, column.to) if of]
    return "–".join(format(value, column.form) for value in values) if all(map(math.isfinite, values)) else "–"


def _s_scores(row: Row) -> str:
    return "\n".join(
        f"{domain} {number(value, 2)}" + (f"/{row.s_references[domain]:.2f}" if domain in row.s_references else "")
        for domain, value in sorted(row.s_scores.items())
    )


def _measured(table: Ablation) -> list[str]:
    """The headers of ``SHOWN`` under which some row says something."""
    return [header for header in SHOWN if any(_made(row, header) for row in table.rows)]


def _made(row: Row, header: str) -> str:
    known = {name: value for name, value in row.synthesis.items() if not (name == "mae" and "mae_hu" in row.synthesis)}
    shown = [(short, known[name], places) for short, name, places in SHOWN[header] if name in known]
    return "\n".join(f"{short} {number(value, places)}" for short, value, places in shown)


def number(value: float, places: int) -> str:
    """With so many places, or a dash."""
    return f"{value:.{places}f}" if math.isfinite(value) else "–"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else finite(value)


# --- the papers' figures -----------------------------------------------------------------------------------------


def comparison_tables(published: Comparison) -> list[tuple[list[str], list[list[str]]]]:
    """Headers and rows of the figures, and of the claims where the paper makes some."""
    figures = (
        ["in the paper", "metric", "paper", "ours (± SD over trainings)"],
        [_figure_cells(f) for f in published.figures],
    )
    claims = (
        ["the paper's claim", "metric", "paper Δ", "our Δ [95 % interval]", "p", "here"],
        [_finding_cells(f) for f in published.findings],
    )
    return [part for part in (figures, claims) if part[1]]


def _figure_cells(figure: Figure) -> list[str]:
    ours = number(figure.ours, 3)
    if math.isfinite(figure.deviation):
        ours += f" ± {figure.deviation:.3f}"
    seeds = f" ({counted(figure.seeds, 'training')})" if figure.seeds else ""
    return [figure.name, figure.metric, f"{number(figure.paper, 3)} {figure.spread}".rstrip(), ours + seeds]


def _finding_cells(finding: Finding) -> list[str]:
    found = finding.found
    ours, p = "–", math.nan
    if found is not None:
        limits = f" [{found.low:+.3f}, {found.high:+.3f}]" if math.isfinite(found.low) else ""
        ours, p = f"{found.estimate:+.3f}{limits}, {finding.units}", found.p
    paper = f"{finding.paper:+.3f}" if math.isfinite(finding.paper) else "–"
    return [finding.says, finding.metric, paper, ours, p_value(p), finding.reading]


def comparison_caveats(published: Comparison) -> list[str]:
    """What a reader of the table must know, how much of it this sweep lacks among it."""
    lacking = f"{published.absent} more of the table's figures are of configurations that this sweep does not have."
    return [*published.caveats, *([lacking] if published.absent else [])]


def _comparison_dict(published: Comparison) -> dict[str, Any]:
    findings = [{**plain(finding), "found": finding.found and _told(finding.found), "reading": finding.reading}
                for finding in published.findings]  # fmt: skip
    return {**plain(published), "findings": findings, "warning": INCOMPARABLE}


def to_dict(table: Ablation) -> dict[str, Any]:
    """Everything in the table as plain values for JSON; numbers it does not know are None."""
    rows = [{**plain(row), "synthetic": row.synthetic, "reading": row.reading,
             "finding": row.finding and _told(row.finding)} for row in table.rows]  # fmt: skip
    published = [_comparison_dict(printed) for printed in table.published]
    whole = {"state": table.state, **plain(table), "measure": table.measure, "rows": rows,
             "conclusion": table.conclusion, "published": published}  # fmt: skip
    del whole["names"]  # every row and unfinished trial has its own
    return {key: _finite(value) for key, value in whole.items()}


def _told(finding: verdicts.Finding) -> dict[str, Any]:
    return {**finding.to_dict(), "p": finite(finding.p), "sentence": finding.sentence}


def to_json(table: Ablation) -> str:
    """``to_dict`` as standard JSON text."""
    return json.dumps(to_dict(table), indent=2, ensure_ascii=False, allow_nan=False)


def measured_of(table: Ablation, most: int = 12) -> list[str]:
    """A line a declared comparison that has no verdict: what its trainings reached, and what each patient gained, of
    ``most`` patients at most."""
    lines = []
    for row in table.rows:
        found = row.finding
        if found is not None and found.answer == NO_VERDICT and row.declared:
            reached = [" ".join(f"{100 * mean:.1f}" for mean in means) for means in found.means]
            own = [f"{100 * (more - less):+.1f}" for _, more, less in found.pairs]
            left = f" and {len(own) - most} more" if len(own) > most else ""
            by_patient = f"; Δ of the patients {' '.join(own[:most])}{left}" if own else ""
            lines.append(f"{row.name}: trainings {reached[0]} against {reached[1]}{by_patient}.")
    return lines
