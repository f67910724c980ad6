"""The report as Markdown and as LaTeX, held against readers of both."""

from __future__ import annotations

import re

import pytest
from evidence.sweeps import LOST, sweep
from exhibits.materials import material
from markdown_it import MarkdownIt

from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.reports.record import compose
from ganatomy.writers.document import Report
from ganatomy.writers.latex import say, to_latex
from ganatomy.writers.markdown import to_markdown

NASTY = r"a|b *c* _d_ [e](f) <g> `h` \i #j & 50 % $k ~l ^m {n} Δ·×±≥²– ρ é → 中 http://x.y/z"
GRID = Grid(
    ("what|it", "Δ [95 %]", "why"),
    ((NASTY, "+1.0 [+0.5, +1.5]", "one\ntwo"), ("[b", "–", ""), ("1. x", "-2.0", "# no heading")),
    ("helps", "", "harms"),
    frozenset({0}),
    "What | was *found*",
)
REPORT = Report(
    title=NASTY,
    answer=NASTY,
    reading="helps",
    state="running_3 of 8",
    sentences=(NASTY, "- no list", "1. nor one"),
    facts=(("cohort_x", "50 %"),),
    links=(("all runs", "http://127.0.0.1:5000/#/experiments/1?a=b&c=%7B1%7D"),),
    exhibits=(
        Exhibit("A_heading", (NASTY, "+ no list"), (GRID,), (Picture("seen_here", b"\x89PNG 1"),),
                ("ganatomy x --y 'a_b'",)),
        Exhibit("Another", pictures=(Picture("two", b"\x89PNG 2"),)),
    ),
    legend=(("Δ", "50 % of {it}"),),
)  # fmt: skip


def parsed(text):
    return MarkdownIt("commonmark").enable("table").parse(text)


def texts(tokens):
    """What a reader sees of every block, line breaks as such."""
    return [
        "".join({"html_inline": "\n"}.get(child.type, child.content) for child in token.children)
        for token in tokens
        if token.type == "inline"
    ]


def test_markdown_is_read_as_what_was_said():
    text, figures = to_markdown(REPORT, "x-figures")
    tokens = parsed(text)
    shown = texts(tokens)
    assert shown[0] == NASTY
    assert {NASTY, "- no list", "1. nor one", "+ no list", "What | was *found*"} <= set(shown)
    assert shown.count(NASTY) == 5  # title, answer, remark, sentence, cell: nothing in it became anything else
    assert [token.content for token in tokens if token.type == "fence"] == ["ganatomy x --y 'a_b'\n"]
    images = [child.attrs["src"] for token in tokens for child in token.children or () if child.type == "image"]
    assert images == ["x-figures/01.png", "x-figures/02.png"]
    assert figures == {"01.png": b"\x89PNG 1", "02.png": b"\x89PNG 2"}
    links = [child.attrs["href"] for token in tokens for child in token.children or () if child.type == "link_open"]
    assert links == ["http://127.0.0.1:5000/#/experiments/1?a=b&c=%7B1%7D"]
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2", "h2", "h2"]


def cells(tokens):
    """The tables: rows of cells."""
    tables, row = [], []
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            row = []
            tables[-1].append(row)
        elif token.type in ("th_open", "td_open"):
            row += texts([tokens[place + 1]])
    return tables


def test_a_table_of_markdown_has_all_its_cells():
    ((head, *rows),) = cells(parsed(to_markdown(REPORT, "x")[0]))
    assert tuple(head) == GRID.headers
    assert [*map(tuple, rows)] == [*GRID.rows]


def test_the_markdown_of_a_sweep_has_its_table():
    made = material([*sweep(), *LOST])
    tables = cells(parsed(to_markdown(compose(made), "x")[0]))
    assert [row[0] for row in tables[0][1:]] == [row.name for row in made.table.rows]
    assert all(len({len(row) for row in table}) == 1 for table in tables)


def environments(text):
    """Names of the environments, in the order they begin; fails where one is not ended in its place."""
    begun, open_ = [], []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            begun.append(name)
            open_.append(name)
        else:
            assert open_.pop() == name
    assert open_ == []
    return begun


def check_latex(text):
    """What TeX would stumble over."""
    environments(text)
    body = re.sub(
        r"\\begin\{verbatim\}.*?\\end\{verbatim\}", "", text.partition(r"\begin{document}")[2], flags=re.DOTALL
    )
    assert re.findall(r"(?<!\\)[#%~]", re.sub(r"\\href\{[^}]*\}", "", body)) == []
    bare = re.sub(r"\\[\\{}$&#%_]", "", body)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert all(one.isascii() or (one.isalpha() and ord(one) < 0x180) for one in body)
    outside = re.sub(r"\$[^$]*\$", "", re.sub(r"\\(href|includegraphics)(\[[^]]*\])?\{[^}]*\}", "", bare))
    assert "_" not in outside
    assert "^" not in outside
    for table in re.findall(r"\\begin\{longtable\}.*?\\end\{longtable\}", body, flags=re.DOTALL):
        check_table(table)


def check_table(table):
    assert [re.findall(rule, table) for rule in (r"\\toprule", r"\\midrule", r"\\bottomrule")] == [
        [r"\toprule"], [r"\midrule"], [r"\bottomrule"]
    ]  # fmt: skip
    layout = re.match(r"\\begin\{longtable\}\{@\{\}(.*)@\{\}\}", table)[1]
    columns = len(re.sub(r"\{[^}]*\}", "", layout.replace(r">{\raggedright\arraybackslash}", "")))
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows} == {columns}
    assert not any(re.match(r"\s*\[", line) for line in rows)  # an argument of the line break before


def test_latex_is_well_formed_whatever_it_is_given():
    text, figures = to_latex(REPORT, "x-figures")
    check_latex(text)
    assert environments(text) == [
        "document", "itemize", "itemize", "longtable", "center", "verbatim", "center", "description",
    ]  # fmt: skip
    assert re.findall(r"\{(x-figures/\d+\.png)\}", text) == ["x-figures/01.png", "x-figures/02.png"]
    assert figures == {"01.png": b"\x89PNG 1", "02.png": b"\x89PNG 2"}
    assert "ganatomy x --y 'a_b'" in text


@pytest.mark.parametrize(("text", "said"), [
    ("a_b", r"a\_b"), ("50 %", r"50 \%"), ("Δ ρ", r"$\Delta$ $\rho$"), ("\\", r"\textbackslash{}"),
    ("≥3.1", r"$\geq$3.1"), ("Ρο", r"$\mathrm{P}$$\mathrm{o}$"), ("é", "é"), ("中", "{[}U+4E2D{]}"), ("½", "1/2"),
])  # fmt: skip
def test_characters_are_told_as_tex_knows_them(text, said):
    assert say(text).replace("⁄", "/") == said


def test_the_latex_of_a_sweep_is_well_formed_and_has_its_table():
    made = material([*sweep(), *LOST])
    text, figures = to_latex(compose(made), "x")
    check_latex(text)
    assert all(say(row.name) in text for row in made.table.rows)
    assert len(figures) == text.count(r"\includegraphics") > 3
