"""What commands have in common on a screen: the options of all, one line for a wrong option, aligned lines, progress.

A leaf without heavy imports, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ganatomy.commands.repeated_options import once_each
from ganatomy.core.installation import default_workspace

DONE, UNDONE = 0, 1
"""Exit codes: the job is done; it could not be done. ``ganatomy.core.terminal`` has those of errors."""

WIDE = 240
"""Columns of what is not printed on a terminal."""

COMPLETION = "--tyro-print-completion"
"""Prints a script that completes words in a shell; tyro has those of bash and zsh."""

_COLOURS = {"ok": "green", "warn": "yellow", "quarantine": "yellow", "fail": "red", "refuse": "red"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command can be told."""

    workspace: Path = field(default_factory=default_workspace)
    """Folder of the sweeps, stores and the embedded MLflow store (or set GANATOMY_WORKSPACE)."""
    debug: bool = False
    """Show the traceback of an error."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Say more of what goes on: what is computed and found, and where it lies."""
    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    """Say results, warnings and errors only."""


def described(command: type, *, whole: bool) -> str:
    """The docstring of a command: ``whole`` for its own help, else the first line, for a list of commands."""
    text = inspect.cleandoc(command.__doc__ or "")
    return text if whole else text.partition("\n")[0]


def parse(kind: Any, *, program: str, description: str, arguments: Sequence[str]) -> Any:
    """The ``kind`` that the arguments spell. A wrong option ends the program with 2 and one line on standard error."""
    if COMPLETION in arguments and not {"bash", "zsh"} & set(arguments):
        print(f"error: {COMPLETION} for a shell that is not known; expected bash or zsh", file=sys.stderr)
        raise SystemExit(2)
    style = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = once_each(kind, arguments)
            return tyro.cli(kind, prog=program, description=description, args=given, config=style)
    finally:
        if said.getvalue():
            print(f"error: {_one_line(said.getvalue())}", file=sys.stderr)


def code_of(end: SystemExit) -> int:
    """The exit code of a program that parsing ended: after help or a completion script it had nothing more to do."""
    return DONE if end.code is None else end.code if isinstance(end.code, int) else UNDONE


def _one_line(box: str) -> str:
    """The sections of tyro's box, each as a clause."""
    clauses: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip("│ ")
        if text.startswith("─"):
            clauses.append([])
        elif text and not text.startswith(("╭", "╰")):
            clauses[-1].append(text)
    return "; ".join(" ".join(clause).rstrip(".:") for clause in clauses if clause)


def print_rows(rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Lines of (status, what, found, remedy), aligned."""
    if not rows:
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column(overflow="fold")
    for status, what, found, remedy in rows:
        text = escape(found) + (f"\n[bold]remedy:[/] {escape(remedy)}" if remedy else "")
        table.add_row(f"[{_COLOURS[status]}]{status}[/]", escape(what), text)
    screen().print(table)


def screen() -> Console:
    """Standard output; in a file or a pipe lines are long, so that paths stay whole and can be searched for."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, unless ``-q`` was given; yields what to tell (done, total)."""
    from ganatomy.core.terminal import QUIET, amount  # it knows InputError, which stands beside torch

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=amount() == QUIET) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
