"""What every exhibit of a report is made of: sentences, tables and pictures under a heading, whatever it is written as.

An exhibit knows neither HTML nor LaTeX; ``ganatomy.reports`` writes it as either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A table as it is shown.

    headers: one a column, the first of them of what a row is about.  rows: cells as text, as many as headers; a line
    break in a cell stays one.  readings: one a row, ``helps``, ``harms``, ``undecided`` … or empty: what colours it.
    strong: the places of rows that stand out, such as the candidate.  caption: what the table shows, above it.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    readings: tuple[str, ...] = ()
    strong: frozenset[int] = frozenset()
    caption: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Of each column, whether its cells begin with numbers (or a dash for one that is not known): set to the right
        where the first column, which names rows, never is."""
        columns = list(zip(*self.rows)) or [()] * len(self.headers)
        return tuple(place > 0 and all(map(_NUMBER.match, cells)) for place, cells in enumerate(columns))


_NUMBER = re.compile(r"[+\-−–≥≤<>]?\d+(\.\d+)?(e[+-]?\d+)?(?=$|[\s/\[(,;%×±])|[–-]?$")


@dataclass(frozen=True)
class Picture:
    """A PNG with the sentence that says what is seen in it; that sentence is its alternative text as well."""

    caption: str
    png: bytes


@dataclass(frozen=True)
class Exhibit:
    """One section of a report.

    heading: in a few words.  sentences: plain text, before what follows.  grids, pictures: shown in this order.
    commands: what is typed, a line each, after them.
    """

    heading: str
    sentences: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    pictures: tuple[Picture, ...] = ()
    commands: tuple[str, ...] = ()
