"""The page and the notebook that go the whole way from Python do what they say, in their order, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, NOTEBOOK = DOCS / "python.md", DOCS / "tour.ipynb"


def blocks(heading: str = "") -> list[str]:
    """The Python of the page, as far as a heading."""
    page = PAGE.read_text()
    return re.findall(r"^```python\n(.*?)^```", page[: page.index(heading)] if heading else page, re.M | re.S)


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def codes() -> list[str]:
    return ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]


RUN = """
import json, sys
names = {"__name__": "__main__"}
for number, text in enumerate(json.load(sys.stdin)):
    exec(compile(text, f"piece {number}", "exec"), names)
"""


def run(pieces: list[str], folder: Path) -> str:
    """What the pieces print, run one after the other in a fresh process of one namespace, as a kernel runs cells."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment.pop("GANATOMY_WORKSPACE", None)
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(
        command, input=json.dumps(pieces), capture_output=True, text=True, cwd=folder, env=environment, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_before_its_sweep(tmp_path):
    before = blocks("## A sweep")
    assert len(before) >= 4
    assert "did you mean 'shape_consistent_small'" in run(before, tmp_path)


def test_the_notebook_is_one_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(cell["cell_type"] in ("code", "markdown") and cell["source"] for cell in cells())
    assert len({cell["id"] for cell in cells()}) == len(cells())
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells())
    for text in codes():
        compile(text, "cell", "exec")


@pytest.mark.parametrize("pieces", [blocks(), codes()], ids=["page", "notebook"])
def test_every_name_of_the_api_that_is_shown_is_there(pieces):
    import ganatomy

    assert set(re.findall(r"\bga\.(\w+)", "\n".join(pieces))) <= set(ganatomy.__all__)


def test_every_name_of_the_api_is_on_the_page():
    import ganatomy

    functions = {name for name in ganatomy.__all__ if name[0].islower() and name != "prepare_image"}
    assert functions <= set(re.findall(r"\b[a-z_]+\b", PAGE.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(("pieces", "says"), [
    pytest.param(blocks(), "", id="page"),
    pytest.param(codes(), "passed integrity", id="notebook", marks=pytest.mark.beyond_ci),
])  # fmt: skip
def test_it_goes_the_whole_way(tmp_path, pieces, says):
    said = run(pieces, tmp_path)
    assert says in said
    assert "Promoted by force although it failed utility" in said
    assert "4 made, 0 kept, 0 failed" in said
    if pieces == blocks():
        assert (tmp_path / "report.html").stat().st_size > 10_000
