"""The report as one self-contained page: it asks for nothing, and is read without JavaScript, on a phone, printed."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from ganatomy.evidence.figures import BLUE, GREY, ORANGE
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.writers.document import Report

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2430; background: #f5f6f8; margin: 0; overflow-wrap: anywhere }
main { max-width: 1240px; margin: 0 auto; padding: 2.2rem 1.5rem 4rem }
h1 { font-size: 1.7rem; margin: 0 0 .3rem }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
p, li { max-width: 78ch }
.facts, nav, .note { color: #56606e; font-size: .9rem }
.facts span, nav a { display: inline-block; margin-right: 1.1em }
.state { background: #e9ecf0; font-weight: 600; padding: .7rem 1.1rem; max-width: none }
.answer { background: #fff; border-left: 5px solid GREY; padding: .9rem 1.1rem; font-size: 1.1rem; max-width: none }
.answer.helps { border-color: BLUE }
.answer.harms { border-color: ORANGE }
.helps > td:last-child, .answer.helps b { color: BLUE; font-weight: 600 }
.harms > td:last-child, .answer.harms b { color: #a84800; font-weight: 600 }
.undecided > td:last-child { color: #56606e }
.box { overflow: auto; max-height: 85vh; background: #fff; border: 1px solid #dfe3e8; border-radius: 4px;
  margin: .6rem 0 }
table { border-collapse: separate; border-spacing: 0; width: 100%;
  font-variant-numeric: tabular-nums; font-size: .93rem }
caption { text-align: left; padding: .5rem .6rem; color: #56606e }
th, td { padding: .4rem .5rem; text-align: left; border-bottom: 1px solid #e3e7ec; vertical-align: top }
th, td { overflow-wrap: break-word }
th { position: sticky; top: 0; background: #eef1f4; font-weight: 600; color: #414b58; white-space: nowrap; z-index: 1 }
.n { text-align: right; white-space: nowrap }
.s { white-space: nowrap }
td:first-child { min-width: 12em; overflow-wrap: anywhere }
.long { min-width: 18em }
.read th:last-child, .read td:last-child { position: sticky; right: 0; min-width: 7em; white-space: normal;
  box-shadow: -1px 0 0 #dfe3e8 }
.read td:last-child { background: #fff }
.read th:last-child { z-index: 2 }
th:first-child, td:first-child { border-left: 4px solid transparent }
.helps > td:first-child { border-left-color: BLUE }
.harms > td:first-child { border-left-color: ORANGE }
.undecided > td:first-child { border-left-color: GREY }
tr.strong > td, .read tr.strong > td:last-child { background: #eef4f8; font-weight: 600 }
tbody tr:hover > td, .read tr:hover > td:last-child { background: #f3f5f7 }
th.sorts { cursor: pointer }
th.sorts:focus-visible { outline: 2px solid BLUE; outline-offset: -2px }
th[aria-sort=ascending]::after { content: " ▲" }
th[aria-sort=descending]::after { content: " ▼" }
figure { margin: 0 0 1.4rem }
figure div { overflow-x: auto }
img { max-width: 100%; height: auto; border-radius: 4px; background: #fff }
figcaption { color: #56606e; font-size: .9rem; max-width: 78ch }
pre { background: #fff; border: 1px solid #dfe3e8; border-radius: 4px; padding: .7rem .9rem; overflow-x: auto }
dt { font-weight: 600; margin-top: .5rem }
dd { margin: 0 0 0 1.2rem; max-width: 76ch }
@media (max-width: 600px) {
  main { padding: 1.1rem .8rem 3rem }
  h1 { font-size: 1.35rem }
  th, td { padding: .35rem .45rem }
  td:first-child { min-width: 9em }
  img { max-width: none; width: 660px }
}
@media print {
  body { background: #fff; font-size: 10pt }
  main { max-width: none; padding: 0 }
  nav { display: none }
  .box { max-height: none; overflow: visible; border: 0 }
  table { font-size: 8pt }
  th, .read th:last-child, .read td:last-child { position: static; white-space: normal; min-width: 0 }
  th, td { padding: .2rem .3rem }
  td:first-child, .long { min-width: 0 }
  .n, .s { white-space: normal }
  img { max-width: 100%; max-height: 215mm; width: auto }
  tr, figure, pre { break-inside: avoid }
  h2 { break-after: avoid }
  thead { display: table-header-group }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""

SORTING = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], first = [...body.rows], number = cell => {
    const found = cell.textContent.trim().match(/^[+-]?[0-9.]+(e[+-]?[0-9]+)?/);
    return found ? Number(found[0]) : NaN;
  };
  if (first.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    const sort = () => {
      const now = head.getAttribute("aria-sort");
      const next = { null: "descending", descending: "ascending", ascending: null }[now];
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1, order = next ? [...first].sort((a, b) => {
        const [x, y] = [a.cells[place], b.cells[place]], [m, n] = [number(x), number(y)];
        if (!isNaN(m) && !isNaN(n)) return sign * (m - n);
        if (isNaN(m) !== isNaN(n)) return isNaN(m) ? 1 : -1;
        return -sign * x.textContent.localeCompare(y.textContent);
      }) : first;
      body.append(...order);
    };
    head.classList.add("sorts"); head.tabIndex = 0; head.title = "sort";
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
"""
"""What a click on a column's head does: largest first, least first, as it was. The page lacks nothing else without."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"
"""To the browser: whatever should ever slip into a page, it asks no other machine for anything."""


def to_html(report: Report) -> str:
    """The page."""
    exhibits = [(f"s{place}", exhibit) for place, exhibit in enumerate(report.exhibits, start=1)]
    places = [
        *((name, exhibit.heading) for name, exhibit in exhibits),
        *([("legend", "Legend")] if report.legend else []),
    ]
    contents = "".join(f'<a href="#{name}">{_say(heading)}</a> ' for name, heading in places)
    style = STYLE.replace("BLUE", BLUE).replace("ORANGE", ORANGE).replace("GREY", GREY)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<title>{_say(report.title)}</title><style>{style}</style></head><body><main>
<h1>{_say(report.title)}</h1>
<p class="facts">{" ".join(f"<span>{_say(name)}: {_say(value)}</span>" for name, value in report.facts)}</p>
{f'<p class="state">{_say(report.state)}</p>' if report.state else ""}
{_answer(report)}
{_list(report.sentences)}
{_links(report)}
<nav>{contents}</nav>
{"".join(_section(name, exhibit) for name, exhibit in exhibits)}
{_legend(report)}
</main><script>{SORTING}</script></body></html>
"""


def _say(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _answer(report: Report) -> str:
    said, word = _say(report.answer), report.reading.capitalize()
    if word and report.answer.startswith(word):
        said = f"<b>{_say(word)}</b>{said.removeprefix(_say(word))}"
    return f'<p class="answer {_class(report.reading)}">{said}</p>'


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{_say(sentence)}</li>\n" for sentence in sentences)
    return f"<ul>\n{items}</ul>" if items else ""


def _links(report: Report) -> str:
    """Links are followed by whoever clicks on them; the page itself asks for none."""
    shown = "".join(
        f'<a rel="noreferrer" href="{html.escape(address)}">{_say(text)}</a> ' for text, address in report.links
    )
    return f"<nav>{shown}</nav>" if shown else ""


def _section(name: str, exhibit: Exhibit) -> str:
    parts = [
        *(f"<p>{_say(sentence)}</p>" for sentence in exhibit.sentences),
        *map(_grid, exhibit.grids),
        *map(_picture, exhibit.pictures),
        *(f"<pre>{html.escape(command)}</pre>" for command in exhibit.commands),
    ]
    return f'<section id="{name}"><h2>{_say(exhibit.heading)}</h2>\n' + "\n".join(parts) + "</section>\n"


SHORT, LONG = 20, 60
"""Columns of cells of less characters are not broken; cells of more are sentences, and get room for some words."""


def _grid(grid: Grid) -> str:
    kinds = [_kind(grid, place, number) for place, number in enumerate(grid.numeric)]
    head = "".join(f'<th scope="col"{_classes(kind)}>{_say(header)}</th>' for header, kind in zip(grid.headers, kinds))
    caption = f"<caption>{_say(grid.caption)}</caption>" if grid.caption else ""
    body = "".join(_row(grid, place, kinds) for place in range(len(grid.rows)))
    read = _classes("read" if any(grid.readings) else "")
    table = f"<table{read}>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="box" tabindex="0">{table}</div>'


def _kind(grid: Grid, place: int, number: bool) -> str:
    """The class of a column: ``n`` for numbers, ``s`` for short words."""
    longest = max((len(line) for row in grid.rows for line in row[place].splitlines()), default=0)
    return "n" if number else "s" if place and longest <= SHORT else ""


def _row(grid: Grid, place: int, kinds: Sequence[str]) -> str:
    reading = _class(grid.readings[place]) if place < len(grid.readings) else ""
    cells = "".join(
        f"<td{_classes(kind, 'long' if len(cell) > LONG else '')}>{_say(cell)}</td>"
        for cell, kind in zip(grid.rows[place], kinds)
    )
    return f"<tr{_classes(reading, 'strong' if place in grid.strong else '')}>{cells}</tr>\n"


def _classes(*names: str) -> str:
    given = " ".join(filter(None, names))
    return f' class="{given}"' if given else ""


def _picture(picture: Picture) -> str:
    data, caption = base64.b64encode(picture.png).decode(), _say(picture.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f'<figure><div tabindex="0">{image}</div><figcaption>{caption}</figcaption></figure>'


def _legend(report: Report) -> str:
    terms = "".join(f"<dt>{_say(term)}</dt><dd>{_say(meaning)}</dd>\n" for term, meaning in report.legend)
    return f'<section id="legend"><h2>Legend</h2><dl>\n{terms}</dl></section>' if terms else ""


def _class(reading: str) -> str:
    """A reading as the name of a class of elements; of the same colour as in figures."""
    return reading.replace(" ", "-")
