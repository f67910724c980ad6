"""The report as Markdown with tables in pipes, as GitHub, GitLab and pandoc read it; figures beside it as PNG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count

from ganatomy.exhibits.exhibit import Exhibit, Grid
from ganatomy.writers.document import Report


def to_markdown(report: Report, folder: str) -> tuple[str, Mapping[str, bytes]]:
    """The text, and its figures: file name in ``folder`` -> PNG. folder: where they are to lie, as the text names it;
    of letters, digits and ``-_./`` alone."""
    figures: dict[str, bytes] = {}
    return "\n\n".join(_parts(report, folder, figures)) + "\n", figures


def _parts(report: Report, folder: str, figures: dict[str, bytes]) -> Iterator[str]:
    yield f"# {_say(report.title)}"
    if report.facts:
        yield " · ".join(f"{_say(name)}: {_say(value)}" for name, value in report.facts)
    if report.state:
        yield f"> {_say(report.state)}"
    yield f"**{_say(report.answer)}**"
    if report.sentences:
        yield "\n".join(f"- {_say(sentence)}" for sentence in report.sentences)
    if report.links:
        yield "\n".join(f"- [{_say(text)}](<{address}>)" for text, address in report.links)
    names = count(len(figures) + 1)
    for exhibit in report.exhibits:
        yield from _section(exhibit, folder, figures, names)
    if report.legend:
        yield "## Legend"
        yield "\n".join(f"- **{_say(term)}**: {_say(meaning)}" for term, meaning in report.legend)


def _section(exhibit: Exhibit, folder: str, figures: dict[str, bytes], names: Iterator[int]) -> Iterator[str]:
    yield f"## {_say(exhibit.heading)}"
    yield from map(_say, exhibit.sentences)
    for grid in exhibit.grids:
        if grid.caption:
            yield _say(grid.caption)
        yield _grid(grid)
    for picture in exhibit.pictures:
        name = f"{next(names):02}.png"
        figures[name] = picture.png
        yield f"![{_say(exhibit.heading)}]({folder}/{name})"
        yield f"*{_say(picture.caption)}*"
    for command in exhibit.commands:
        yield f"```\n{command}\n```"


def _grid(grid: Grid) -> str:
    strong = [[f"**{_cell(cell)}**" if cell.strip() else "" for cell in row] if place in grid.strong else
              [*map(_cell, row)] for place, row in enumerate(grid.rows)]  # fmt: skip
    lines = [[*map(_cell, grid.headers)], ["---:" if number else ":---" for number in grid.numeric], *strong]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def _say(text: str) -> str:
    """``text`` with nothing in it that Markdown would read as more than text."""
    plain = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d+)([.)])(?=\s)|^([-+=])(?=\s|$)", lambda found: _not_a_list(found), plain)


def _not_a_list(found: re.Match[str]) -> str:
    return f"{found[1]}\\{found[2]}" if found[1] else f"\\{found[3]}"


def _cell(text: str) -> str:
    return "<br>".join(map(_say, text.splitlines()))
