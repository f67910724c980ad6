"""The record of a sweep: its report composed from what lies in its folder, written as whatever is asked, and kept.

``compose`` calls every exhibit with the same ``Material``. One that fails costs itself, never the report.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ganatomy.contracts import InputError
from ganatomy.core.durable import replacing
from ganatomy.core.names import on_one_line
from ganatomy.core.tables import write_atomically
from ganatomy.evidence.ablation import BEST_OF_SEVERAL
from ganatomy.evidence.account import account
from ganatomy.evidence.results import SweepPlan, read_results
from ganatomy.exhibits import EXHIBITS
from ganatomy.exhibits.exhibit import Exhibit
from ganatomy.exhibits.material import Material
from ganatomy.reports import findings, origins, sequel
from ganatomy.reports.tabulated import legend, to_json
from ganatomy.tracking.views import base_of, views_of
from ganatomy.writers.document import Report
from ganatomy.writers.latex import to_latex
from ganatomy.writers.markdown import to_markdown
from ganatomy.writers.page import to_html

if TYPE_CHECKING:
    from ganatomy.tracking.runs import Tracking

Section = Callable[[Material], Exhibit | None]

SECTIONS: tuple[Section, ...] = (
    findings.configurations,
    findings.effects,
    findings.trainings,
    sequel.confirmation,
    sequel.gates,
    findings.certainty,
    findings.pairs,
    findings.levels,
    findings.healing,
    *EXHIBITS,
    findings.published,
    findings.work,
    findings.lost,
    origins.declaration,
    origins.cohort,
    origins.versions,
)
"""Exhibits in the order of the page: each says nothing where it has nothing."""

KINDS = (".html", ".md", ".tex", ".json")
"""What a report is written as, by the suffix of its file."""

PAGE, PAPER, TABLE = "report.html", "report", "ablation.json"
"""In a sweep's folder and on its run: the page, a folder of Markdown and LaTeX with figures, the table as JSON."""


def material_of(workspace: Path, plan: SweepPlan, tell: Callable[[str], None] = lambda why: None) -> Material:
    """A sweep as its folder holds it now. tell: hears why something cannot be shown."""
    results = read_results(workspace / "sweeps" / plan.name)
    return Material(workspace, plan, tuple(results), account(workspace, plan, results, tell), tell)


def compose(
    material: Material, links: Sequence[tuple[str, str]] = (), sections: Sequence[Section] = SECTIONS
) -> Report:
    """The report. links: text and address of what can be looked at elsewhere, such as views in MLflow.  sections: the
    exhibits; one that raises is left out, and a sentence says why."""
    table, exhibits, left_out = material.table, [], []
    for section in sections:
        try:
            exhibit = section(material)
        except Exception as error:  # whatever one of them meets, the others are worth reading
            name = getattr(section, "__name__", "an exhibit").replace("_", " ")
            material.tell(f"the report lacks {name}: {type(error).__name__}: {on_one_line(str(error))}")
            left_out.append(f"Left out, {name}: {_without_places(error)}.")
            continue
        exhibits += [exhibit] if exhibit is not None else []
    said, reading = sequel.answer(material)
    caveats = [one for one in table.caveats if one != BEST_OF_SEVERAL or sequel.confirmed_of(material) is None]
    return Report(
        title=f"Sweep{'s' * bool(material.sweeps)} {material.plan.name}",
        answer=said,
        reading=reading,
        state=table.state,
        sentences=(*caveats, *left_out),
        facts=origins.facts(material),
        links=tuple(links),
        exhibits=tuple(exhibits),
        legend=legend(table),
    )


def _without_places(error: Exception) -> str:
    """What went wrong, in a line; of paths their last part alone, for pages are given away."""
    said = re.sub(r"(?<![\w.])/(?:[^\s/:;,'\")]+/)+", "", on_one_line(str(error)))
    return said.rstrip(".") if isinstance(error, InputError) else f"{type(error).__name__}: {said}".rstrip(". :")


# --- written -----------------------------------------------------------------------------------------------------


def write(material: Material, path: Path, links: Sequence[tuple[str, str]] = ()) -> Path:
    """Write the report to ``path``, as its suffix says (``KINDS``); its folder is made. Returns ``path``.

    Markdown and LaTeX have their figures in a folder beside. InputError, before anything is computed where that can be
    known, for another suffix and for what cannot be written.
    """
    check_place(path)
    kind = kind_of(path)
    if kind == ".json":
        return _kept(path, to_json(material.table))
    return write_as(compose(material, links), path, kind)


def kind_of(path: Path) -> str:
    """What a report at ``path`` is written as. InputError for a suffix of no format."""
    if (kind := path.suffix.lower()) not in KINDS:
        raise InputError(f"report {path}: no format ends in {path.suffix or 'nothing'}",
                         expected=f"a file that ends in {', '.join(KINDS[:-1])} or {KINDS[-1]}")  # fmt: skip
    return kind


def check_place(path: Path) -> None:
    """InputError where ``path`` is no place for a file: said before a report is computed."""
    if path.is_dir():
        raise InputError(f"report {path} is a folder", expected="a file", remedy=f"{path / PAGE}")


def write_as(report: Report, path: Path, kind: str) -> Path:
    """Write a composed report as ``.html``, ``.md`` or ``.tex``, whatever ``path`` ends in. Returns ``path``."""
    folder = _figures_of(path)
    if kind == ".html":
        return _kept(path, to_html(report))
    text, figures = (to_markdown if kind == ".md" else to_latex)(report, folder.name)
    for name, png in figures.items():
        _kept(folder / name, png)
    return _kept(path, text)


def _figures_of(path: Path) -> Path:
    """Folder of the figures of a report at ``path``: a name that TeX and Markdown take without quotes."""
    return path.with_name(re.sub(r"[^A-Za-z0-9-]", "-", path.stem) + "-figures")


def _kept(path: Path, content: str | bytes) -> Path:
    """Write whole or not at all. InputError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            write_atomically(path, content)
        else:
            with replacing(path) as beside:
                beside.write_bytes(content)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"{path} cannot be written: {why}", expected="a file in a folder that you may write to",
                         remedy="name another") from error  # fmt: skip
    return path


# --- kept --------------------------------------------------------------------------------------------------------


def record(material: Material, tracking: Tracking) -> None:
    """Keep the report in the sweep's folder and in MLflow, in the place of an earlier one: page, Markdown, LaTeX, and
    the table as JSON; with links to the sweep's views there."""
    plan, directory = material.plan, material.workspace / "sweeps" / material.plan.name
    there = views_of(tracking.experiment_id, plan.run_id).at(base_of(tracking.uri))
    report = compose(material, (("all trainings by score, in MLflow", there.table), ("as charts", there.charts)))
    page = write_as(report, directory / PAGE, ".html")
    shutil.rmtree(directory / PAPER, ignore_errors=True)  # figures of an earlier report, which may have had more
    for kind in (".md", ".tex"):
        write_as(report, directory / PAPER / f"{PAPER}{kind}", kind)
    _kept(directory / TABLE, to_json(material.table))
    for artefact in (page, directory / PAPER, directory / TABLE):
        tracking.log_artifact(plan.run_id, artefact)
