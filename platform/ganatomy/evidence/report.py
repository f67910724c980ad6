"""The report of a sweep: its ablation table as text, JSON and one self-contained page with figures."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ganatomy.core.plain_values import plain
from ganatomy.core.tables import write_atomically
from ganatomy.downstream.task import Column, task_named
from ganatomy.evidence import figures
from ganatomy.evidence.ablation import Ablation, Row, Unfinished, ablation_table, difference, measured_of
from ganatomy.evidence.published import INCOMPARABLE, Comparison, Figure, Finding
from ganatomy.measures import verdicts
from ganatomy.measures.statistics import finite
from ganatomy.measures.verdicts import UNDECIDED

__all__ = [
    "Ablation",
    "Row",
    "ablation_table",
    "brief",
    "comparison_caveats",
    "comparison_tables",
    "render_text",
    "rich_table",
    "to_dict",
    "to_json",
    "write_html",
]


def rich_table(table: Ablation) -> Table:
    """The table for a terminal of 120 columns."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("configuration", overflow="fold", min_width=18)
    for header in _headers(table)[1:-1]:
        unit = header.removesuffix(" mm").removesuffix(" s")
        shown.add_column(f"{unit}\n{header[len(unit) + 1 :]}".rstrip(), justify="right", no_wrap=True)
    shown.add_column("reading", overflow="fold", min_width=13)
    for row in table.rows:
        shown.add_row(*_cells(table, row), style="bold" if row.configuration == table.candidate else "")
    return shown


def render_text(table: Ablation, width: int = 120) -> str:
    """Conclusion, table, caveats and the trials that did not finish, as plain text of at most ``width`` columns."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(table.conclusion)
    if table.rows:
        console.print()
        console.print(rich_table(table))
        console.print()
        console.print(f"{task_named(table.task).legend} {LEGEND}")
    for line in measured_of(table):
        console.print(line)
    headers, rows = work_table(table)
    if rows:
        console.print("\nWork and its cost, mean over trainings:\n")
        _print_table(console, headers, rows)
    for caveat in table.caveats:
        console.print(f"! {caveat}")
    for published in table.published:
        _print_comparison(console, published)
    for sentence in table.aftermath:
        console.print(sentence)
    for trial in table.unfinished:
        console.print(f"{_state(trial)}: trial {trial.trial} ({trial.name}){': ' if trial.error else ''}{trial.error}")
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _print_comparison(console: Console, published: Comparison) -> None:
    console.print(f"\nThe paper's figures beside ours: {published.where}\n{INCOMPARABLE}\n")
    for headers, rows in comparison_tables(published):
        _print_table(console, headers, rows)
    for caveat in comparison_caveats(published):
        console.print(f"! {caveat}")


def _print_table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for index, header in enumerate(headers):
        shown.add_column(header, overflow="fold", justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    console.print()


def to_dict(table: Ablation) -> dict[str, Any]:
    """Everything in the table as plain values for JSON; numbers it does not know are None."""
    rows = [{**plain(row), "synthetic": row.synthetic, "reading": row.reading,
             "finding": row.finding and _told(row.finding)} for row in table.rows]  # fmt: skip
    published = [_comparison_dict(printed) for printed in table.published]
    whole = {**plain(table), "measure": table.measure, "rows": rows, "conclusion": table.conclusion,
             "published": published}  # fmt: skip
    del whole["names"]  # every row and unfinished trial has its own
    return {key: _finite(value) for key, value in whole.items()}


def _told(finding: verdicts.Finding) -> dict[str, Any]:
    return {**finding.to_dict(), "p": finite(finding.p), "sentence": finding.sentence}


def to_json(table: Ablation) -> str:
    """``to_dict`` as standard JSON text."""
    return json.dumps(to_dict(table), indent=2, ensure_ascii=False, allow_nan=False)


def brief(table: Ablation) -> list[dict[str, str]]:
    """The rows as they are shown, header -> text: for a model card."""
    return [dict(zip(_headers(table), (cell.replace("\n", ", ") for cell in _cells(table, row)))) for row in table.rows]


def write_html(
    table: Ablation,
    path: Path,
    *,
    title: str = "Ablation",
    facts: Mapping[str, str] | None = None,
    panels: Mapping[str, bytes] | None = None,
) -> Path:
    """One self-contained page: conclusion, table, figures, panels; written whole or not at all.

    facts: name -> value, shown under the title (cohort, digest, date).  panels: caption -> PNG.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _page(table, title, facts or {}, panels or {}))
    return path


LEGEND = (
    "Δ: points against the baseline, over patients and trainings; all intervals of the table hold together with 95 %, "
    "p is corrected likewise. Undecided: in brackets what a study like this shows four times out of five."
)

HEALTHY = "healthy"
"""Header of healthiness and identity: in one cell, for neither says anything without the other."""


def _headers(table: Ablation) -> list[str]:
    synthesis = ["S-score"] if any(row.s_scores for row in table.rows) else []
    synthesis += [HEALTHY] if any(row.synthesis for row in table.rows) else []
    own = [column.header for column in task_named(table.task).columns]
    return ["configuration", "seeds", table.measure, "Δ [95 % interval]", "p", *own, *synthesis, "device s",
            "reading"]  # fmt: skip


def _cells(table: Ablation, row: Row) -> list[str]:
    finding = row.finding
    reading = "baseline" if row.configuration == table.baseline else row.reading
    if finding is not None and finding.answer == UNDECIDED:
        reading += f" ({100 * finding.least_shown:+.1f})"
    return [
        row.name, str(len(row.seeds)), _number(row.dice, 3),
        difference(finding), _number(math.nan if finding is None else finding.p, 3),
        *(_own(row, column) for column in task_named(table.task).columns),
        *([_s_scores(row) or "–"] if any(other.s_scores for other in table.rows) else []),
        *([_healthy(row) or "–"] if any(other.synthesis for other in table.rows) else []), f"{row.device_seconds:.0f}",
        reading,
    ]  # fmt: skip


WORK = {
    "updates": "work/updates", "real seen": "work/real_samples", "synthetic seen": "work/synthetic_samples",
    "images made": "work/synthetic_images", "kept": "work/kept_images", "generator updates": "generator/updates",
    "its samples": "generator/samples", "its device s": "generator/device_seconds",
}  # fmt: skip
"""Header -> what was spent: by the downstream model, on it, and by what made the images."""


def work_table(table: Ablation) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of what every configuration took; no rows where no trial recorded it."""
    rows = [[row.name, *(_number(row.work.get(name, math.nan), 0) for name in WORK.values())]
            for row in table.rows if row.work]  # fmt: skip
    return ["configuration", *WORK], rows


def _own(row: Row, column: Column) -> str:
    """A number that is a column of the row's task."""
    value = row.further[column.of] if column.of in row.further else getattr(row, column.of, math.nan)
    return format(value, column.form) if math.isfinite(value) else "–"


def _s_scores(row: Row) -> str:
    return "\n".join(
        f"{domain} {_number(value, 2)}" + (f"/{row.s_references[domain]:.2f}" if domain in row.s_references else "")
        for domain, value in sorted(row.s_scores.items())
    )


def _healthy(row: Row) -> str:
    shown = (("h", "healthiness"), ("id", "identity"))
    return "\n".join(f"{short} {_number(row.synthesis[name], 2)}" for short, name in shown if name in row.synthesis)


def _number(value: float, places: int) -> str:
    return f"{value:.{places}f}" if math.isfinite(value) else "–"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else finite(value)


# --- the papers' figures -----------------------------------------------------------------------------------------


def comparison_tables(published: Comparison) -> list[tuple[list[str], list[list[str]]]]:
    """Headers and rows of the figures, and of the claims where the paper makes some."""
    figures = (
        ["in the paper", "metric", "paper", "ours (± SD over seeds)"],
        [_figure_cells(f) for f in published.figures],
    )
    claims = (
        ["the paper's claim", "metric", "paper Δ", "our Δ [95 % interval]", "p", "here"],
        [_finding_cells(f) for f in published.findings],
    )
    return [part for part in (figures, claims) if part[1]]


def _figure_cells(figure: Figure) -> list[str]:
    ours = _number(figure.ours, 3)
    if math.isfinite(figure.deviation):
        ours += f" ± {figure.deviation:.3f}"
    seeds = f" ({figure.seeds} seed{'s' * (figure.seeds != 1)})" if figure.seeds else ""
    return [figure.name, figure.metric, f"{figure.paper:.3f} {figure.spread}".rstrip(), ours + seeds]


def _finding_cells(finding: Finding) -> list[str]:
    found = finding.found
    ours, p = "–", math.nan
    if found is not None:
        limits = f" [{found.low:+.3f}, {found.high:+.3f}]" if math.isfinite(found.low) else ""
        ours, p = f"{found.estimate:+.3f}{limits}, {finding.units}", found.p
    paper = f"{finding.paper:+.3f}" if math.isfinite(finding.paper) else "–"
    return [finding.says, finding.metric, paper, ours, _number(p, 3), finding.reading]


def comparison_caveats(published: Comparison) -> list[str]:
    """What a reader of the table must know, how much of it this sweep lacks among it."""
    lacking = f"{published.absent} more of the table's figures are of configurations that this sweep does not have."
    return [*published.caveats, *([lacking] if published.absent else [])]


def _comparison_dict(published: Comparison) -> dict[str, Any]:
    findings = [{**plain(finding), "found": finding.found and _told(finding.found), "reading": finding.reading}
                for finding in published.findings]  # fmt: skip
    return {**plain(published), "findings": findings, "warning": INCOMPARABLE}


def _comparison_html(published: Comparison) -> str:
    say = html.escape
    tables = ""
    for headers, rows in comparison_tables(published):
        head = "".join(f"<th>{say(header)}</th>" for header in headers)
        body = "".join("<tr>" + "".join(f"<td>{say(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
        tables += f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>\n'
    caveats = "".join(f"<li>{say(caveat)}</li>" for caveat in comparison_caveats(published))
    return f"""<h2>The paper's figures beside ours: {say(published.where)}</h2>
<p>{say(INCOMPARABLE)}</p>{tables}<ul>{caveats}</ul>
"""


# --- the page ----------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2430; background: #f5f6f8; margin: 0 }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem }
h1 { font-size: 1.7rem; margin: 0 0 .3rem }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
.facts { color: #5b6675; margin: 0 0 1.4rem }
.conclusion { background: #fff; border-left: 4px solid #7a8594; padding: .9rem 1.1rem; font-size: 1.05rem }
.conclusion.helps { border-color: #0072b2 }
.conclusion.harms { border-color: #d55e00 }
.wide { overflow-x: auto }
table { border-collapse: collapse; background: #fff; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .45rem .6rem; text-align: right; border-bottom: 1px solid #e3e7ec }
th { font-weight: 600; color: #5b6675 }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left }
tr.best td { background: #eaf4fb; font-weight: 600 }
figure { margin: 0 0 1.4rem }
img { max-width: 100%; border-radius: 4px }
figcaption { color: #5b6675; font-size: .9rem }
li { margin: .2rem 0 }
"""


def _page(table: Ablation, title: str, facts: Mapping[str, str], panels: Mapping[str, bytes]) -> str:
    say = html.escape
    head = "".join(f"<th>{say(header)}</th>" for header in _headers(table))
    body = "".join(
        f'<tr class="{"best" if row.configuration == table.candidate else "row"}">'
        + "".join(f"<td>{say(cell).replace(chr(10), '<br>')}</td>" for cell in _cells(table, row)) + "</tr>\n"
        for row in table.rows
    )  # fmt: skip
    measure, labels = say(table.measure), sorted({label for row in table.rows for label in row.labels})
    by_label = "".join(
        f"<tr><td>{say(row.name)}</td>"
        + "".join(f"<td>{_number(row.labels.get(label, math.nan), 3)}</td>" for label in labels)
        + f"<td>{say(row.worst_subject)} ({_number(row.worst, 3)})</td></tr>\n"
        for row in table.rows
    )
    structures = (
        f"""<h2>{measure} of each structure, and the worst case</h2><div class="wide"><table>
<tr><th>configuration</th>{"".join(f"<th>{say(label)}</th>" for label in labels)}<th>worst subject ({measure})</th></tr>
{by_label}</table></div>"""
        if task_named(table.task).by_structure
        else ""
    )
    pictures = {**_figures(table), **panels}
    shown = "".join(
        f'<figure><img alt="{say(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{say(name)}</figcaption></figure>\n" for name, png in pictures.items()
    )  # fmt: skip
    lost = "".join(
        f"<li>{say(_state(item))}: trial {say(item.trial)} ({say(item.name)}) {say(item.error)}</li>\n"
        for item in table.unfinished
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{say(title)}</title><style>{STYLE}</style></head><body><main>
<h1>{say(title)}</h1><p class="facts">{" · ".join(f"{say(key)}: {say(value)}" for key, value in facts.items())}</p>
<p class="conclusion {table.answer.replace(" ", "-")}">{say(table.conclusion)}</p>
{"".join(f"<p>{say(sentence)}</p>" for sentence in table.aftermath)}
<ul>{"".join(f"<li>{say(caveat)}</li>" for caveat in table.caveats)}</ul>
<h2>Configurations</h2><div class="wide"><table><tr>{head}</tr>
{body}</table></div>
<p class="facts">{say(f"{task_named(table.task).legend} {LEGEND}") if table.rows else ""}</p>
{"".join(f"<p>{say(line)}</p>" for line in measured_of(table))}
{_work_html(table)}{structures}
{"".join(map(_comparison_html, table.published))}<h2>Figures</h2>{shown}
<h2>Trials not in the table</h2>{f"<ul>{lost}</ul>" if lost else "<p>None: every trial finished.</p>"}
</main></body></html>
"""


def _work_html(table: Ablation) -> str:
    headers, rows = work_table(table)
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"""<h2>Work and its cost, mean over trainings</h2><div class="wide"><table><tr>{head}</tr>
{body}</table></div>
"""


def _figures(table: Ablation) -> dict[str, bytes]:
    findings = [(row.name, row.finding) for row in table.rows if row.finding is not None]
    drawn = {}
    if findings:
        caption = (
            f"Difference to the baseline, {table.measure} points: blue helps, orange harms, grey undecided or without "
            "verdict; intervals over patients and trainings, all of which hold together with 95 %"
        )
        drawn[caption] = figures.forest(findings, table.measure)
    if table.baseline and table.candidate and table.row(table.candidate).patients:
        pair = table.row(table.baseline), table.row(table.candidate)
        drawn["Every patient, without and with synthetic data"] = figures.paired(
            *((row.name, row.patients) for row in pair)
        )
    if table.rows:
        points = [(row.name, row.device_seconds, row.dice, row.synthetic) for row in table.rows]
        drawn[f"{table.measure} against the device time of a trial"] = figures.cost(points, table.measure)
    return drawn


def _state(trial: Unfinished) -> str:
    """A trial that has no end yet may be running, or wait for its interrupted sweep to be resumed."""
    return "unfinished (--resume goes on with it)" if trial.status == "running" else trial.status
