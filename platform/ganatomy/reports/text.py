"""The report of a sweep as text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ganatomy.downstream.task import task_named
from ganatomy.evidence.ablation import Ablation
from ganatomy.evidence.published import INCOMPARABLE, Comparison
from ganatomy.reports.healing import HEADING, WHAT, healing_table, outdone
from ganatomy.reports.tabulated import (
    LEGEND,
    TRAININGS,
    cells,
    comparison_caveats,
    comparison_tables,
    headers,
    measured_of,
    nothing_of,
    work_tables,
)


def rich_table(table: Ablation) -> Table:
    """The table for a terminal of 120 columns."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("configuration", overflow="fold", min_width=18)
    for header in headers(table)[1:-1]:
        shown.add_column(_stacked(header), justify="right", no_wrap=True)
    shown.add_column("reading", overflow="fold", min_width=13)
    for row in table.rows:
        *own, reading = cells(table, row)
        style = "bold" if row.configuration == table.candidate else ""
        shown.add_row(*own, reading.replace(" (", "\n("), style=style)
    return shown


def _stacked(header: str) -> str:
    """A header over two lines, where one would make its column wider than what stands in it."""
    if header == TRAININGS:
        return "train-\nings"
    unit = header.removesuffix(" mm").removesuffix(" s")
    return f"{unit}\n{header[len(unit) + 1 :]}".rstrip()


def render_text(table: Ablation, width: int = 120) -> str:
    """Conclusion, table, caveats and the trials that did not finish, as plain text of at most ``width`` columns."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, emoji=False)
    if table.state:
        console.print(f"{table.state}\n")
    console.print(nothing_of(table) or table.conclusion)
    if table.rows:
        console.print()
        console.print(rich_table(table))
        console.print()
        console.print(f"{task_named(table.task).legend} {LEGEND}")
    for line in measured_of(table):
        console.print(line)
    if (healing := healing_table(table)) is not None:
        console.print(f"\n{HEADING}:\n")
        _print_table(console, *healing)
        console.print(WHAT)
        for sentence in outdone(table):
            console.print(f"! {sentence}")
    for number, (names, rows) in enumerate(work_tables(table)):
        console.print("" if number else "\nWork and its cost, mean over trainings:\n")
        _print_table(console, names, rows)
    for caveat in table.caveats:
        console.print(f"! {caveat}")
    for published in table.published:
        _print_comparison(console, published)
    for sentence in table.aftermath:
        console.print(sentence)
    for trial in table.unfinished:
        why = f": {trial.error}" if trial.error else ""
        where = f"; traceback: {trial.traceback}" if trial.traceback else ""
        console.print(f"{trial.status}: trial {trial.trial} ({trial.name}){why}{where}")
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _print_comparison(console: Console, published: Comparison) -> None:
    console.print(f"\nThe paper's figures beside ours: {published.where}\n{INCOMPARABLE}\n")
    for names, rows in comparison_tables(published):
        _print_table(console, names, rows)
    for caveat in comparison_caveats(published):
        console.print(f"! {caveat}")


def _print_table(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for index, header in enumerate(names):
        shown.add_column(header, overflow="fold", justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    console.print()
