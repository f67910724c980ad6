"""The report as LaTeX: one article with booktabs' tables that break over pages, its figures beside it as PNG."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from ganatomy.exhibits.exhibit import Exhibit, Grid
from ganatomy.writers.document import Report

PREAMBLE = r"""\documentclass[a4paper,10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage[margin=2cm]{geometry}
\usepackage{array}
\usepackage{booktabs}
\usepackage{longtable}
\usepackage{pdflscape}
\usepackage{graphicx}
\usepackage[hidelinks]{hyperref}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\setlength{\LTleft}{0pt}
\setlength{\emergencystretch}{3em}
"""

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "·": r"\textperiodcentered{}", "×": r"$\times$", "±": r"$\pm$",
    "≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$", "−": "--", "–": "--", "—": "---", "→": r"$\rightarrow$",
    "←": r"$\leftarrow$", "²": r"$^2$", "³": r"$^3$", "°": r"$^\circ$", "µ": r"$\mu$", "…": r"\ldots{}",
    "’": "'", "‘": "`", "“": "``", "”": "''", "\u00a0": "~", "√": r"$\surd$", "∞": r"$\infty$", "∈": r"$\in$",
    "Σ": r"$\Sigma$", "[": "{[}", "]": "{]}",
}  # fmt: skip
"""What TeX would read as more than text, or lacks in its usual fonts. A bracket at the beginning of a row would be an
argument of the line break before it."""


def to_latex(report: Report, folder: str) -> tuple[str, Mapping[str, bytes]]:
    """The text, and its figures: file name in ``folder`` -> PNG. folder: where they are to lie, as the text names it;
    of letters, digits and ``-_./`` alone."""
    figures: dict[str, bytes] = {}
    body = "\n\n".join(_parts(report, folder, figures))
    return f"{PREAMBLE}\\begin{{document}}\n\n{body}\n\n\\end{{document}}\n", figures


def _parts(report: Report, folder: str, figures: dict[str, bytes]) -> Iterator[str]:
    yield rf"\section*{{{say(report.title)}}}"
    if report.facts:
        yield r"\textperiodcentered{} ".join(f"{say(name)}: {say(value)} " for name, value in report.facts)
    if report.state:
        yield rf"\textit{{{say(report.state)}}}"
    yield rf"\fbox{{\parbox{{0.97\linewidth}}{{\textbf{{{say(report.answer)}}}}}}}"
    if report.sentences:
        yield _itemized([say(sentence) for sentence in report.sentences])
    if report.links:
        yield _itemized([rf"\href{{{_address(address)}}}{{{say(text)}}}" for text, address in report.links])
    names = count(1)
    for exhibit in report.exhibits:
        yield from _section(exhibit, folder, figures, names)
    if report.legend:
        yield r"\subsection*{Legend}"
        terms = [rf"\item[{{{say(term)}}}] {say(meaning)}" for term, meaning in report.legend]
        yield "\n".join([r"\begin{description}", *terms, r"\end{description}"])


def _section(exhibit: Exhibit, folder: str, figures: dict[str, bytes], names: Iterator[int]) -> Iterator[str]:
    yield rf"\subsection*{{{say(exhibit.heading)}}}"
    yield from map(say, exhibit.sentences)
    for grid in exhibit.grids:
        yield _grid(grid)
    for picture in exhibit.pictures:
        name = f"{next(names):02}.png"
        figures[name] = picture.png
        yield "\n".join([
            r"\begin{center}",
            rf"\includegraphics[width=\linewidth,height=0.85\textheight,keepaspectratio]{{{folder}/{name}}}",
            rf"\par\small {say(picture.caption)}",
            r"\end{center}",
        ])  # fmt: skip
    for command in exhibit.commands:
        yield f"\\begin{{verbatim}}\n{command}\n\\end{{verbatim}}"


def _itemized(items: Sequence[str]) -> str:
    return "\n".join([r"\begin{itemize}", *(rf"\item {item}" for item in items), r"\end{itemize}"])


def _grid(grid: Grid) -> str:
    """A table that may break over pages, its head on each; one that is too wide for the page across it."""
    needs = [_need(grid, place) for place in range(len(grid.headers))]
    size, across = next(((size, across) for size, across in SIZES if _fits(grid, needs, size, across)), SIZES[-1])
    rows = [_row(row, strong=place in grid.strong) for place, row in enumerate(grid.rows)]
    caption = [say(grid.caption) + r"\par"] if grid.caption else []
    lines = [
        rf"{{\{size}", r"\setlength{\tabcolsep}{3pt}", *caption,
        rf"\begin{{longtable}}{{@{{}}{_columns(grid, needs, size, across)}@{{}}}}",
        r"\toprule", _head(grid, needs), r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *rows,
        r"\end{longtable}", "}",
    ]  # fmt: skip
    return "\n".join([r"\begin{landscape}", *lines, r"\end{landscape}"] if across else lines)


CHARACTER = {"small": 0.0112, "footnotesize": 0.0101, "scriptsize": 0.0088}
"""Size of type -> what a character takes of a line of 17 cm, bold ones too."""

SIZES = (("small", False), ("footnotesize", False), ("scriptsize", False), ("scriptsize", True))
GAP, ACROSS, SENTENCE, NARROW = 0.0125, 17 / 25.7, 60, 16
"""Of the line: between two columns; of it, when the page lies across. Characters: of a cell whose sentence may be
broken, and of the narrowest column of words that is still read."""


def _need(grid: Grid, place: int) -> int:
    """Characters that a column wants; its header may stand over several lines."""
    lines = [line for row in grid.rows for line in row[place].splitlines()]
    return min(SENTENCE, max(map(len, [*grid.headers[place].split(), *lines])))


def _head(grid: Grid, needs: Sequence[int]) -> str:
    """The headers; over numbers, as wide as these."""
    heads = []
    for header, need, number in zip(grid.headers, needs, grid.numeric):
        lines = [say(line) for line in textwrap.wrap(header, need, break_long_words=False)]
        several = r"\shortstack[r]{" + r" \\ ".join(lines) + "}"
        heads.append(several if number and len(lines) > 1 else say(header))
    return " & ".join(heads) + r" \\"


def _fits(grid: Grid, needs: Sequence[int], size: str, across: bool) -> bool:
    least = [need if number else min(need, NARROW) for need, number in zip(needs, grid.numeric)]
    return sum(least) * CHARACTER[size] * (ACROSS if across else 1) + GAP * len(least) < 1


def _columns(grid: Grid, needs: Sequence[int], size: str, across: bool) -> str:
    """Numbers to the right; words in columns that share what is left of the line, by what they want."""
    each = CHARACTER[size] * (ACROSS if across else 1)
    left = 1 - GAP * len(needs) - each * sum(need for need, number in zip(needs, grid.numeric) if number)
    wanted = each * sum(need for need, number in zip(needs, grid.numeric) if not number)
    share = each * min(1.0, max(left, 0.2) / wanted) if wanted else 0.0
    return "".join(
        "r" if number else rf">{{\raggedright\arraybackslash}}p{{{share * need:.3f}\linewidth}}"
        for need, number in zip(needs, grid.numeric)
    )


def _row(cells: Sequence[str], *, strong: bool = False) -> str:
    shown = [r"\newline ".join(map(say, cell.splitlines())) for cell in cells]
    return " & ".join(rf"\textbf{{{cell}}}" if strong and cell else cell for cell in shown) + r" \\"


def say(text: str) -> str:
    """``text`` as TeX sets it: special characters escaped, Greek in mathematics, what its fonts lack as near as ASCII
    comes."""
    return "".join(map(_character, " ".join(text.split())))


def _character(one: str) -> str:
    if one in SPECIAL:
        return SPECIAL[one]
    if one.isascii() or (one.isalpha() and ord(one) < 0x180):  # letters of Western and Central Europe
        return one
    name = unicodedata.name(one, "")
    if name.startswith("GREEK") and "LETTER" in name and " WITH " not in name:
        letter = name.rsplit(" ", 1)[-1].lower().replace("lamda", "lambda")
        return _greek(letter.capitalize() if "CAPITAL" in name else letter)
    near = unicodedata.normalize("NFKD", one).replace("\u2044", "/").encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(letter, letter) for letter in near) or f"{{[}}U+{ord(one):04X}{{]}}"


LATIN = {"Alpha": "A", "Beta": "B", "Epsilon": "E", "Zeta": "Z", "Eta": "H", "Iota": "I", "Kappa": "K",
         "Mu": "M", "Nu": "N", "Omicron": "O", "Rho": "P", "Tau": "T", "Chi": "X",
         "omicron": "o", "final": "varsigma"}  # fmt: skip
"""Greek letters that TeX has no command for: they look like Latin ones."""


def _greek(letter: str) -> str:
    return f"$\\mathrm{{{LATIN[letter]}}}$" if letter in LATIN else f"$\\{letter}$"


def _address(address: str) -> str:
    return (
        address.replace("\\", "")
        .replace("%", r"\%")
        .replace("#", r"\#")
        .replace("&", r"\&")
        .replace("{", "%7B")
        .replace("}", "%7D")
    )
