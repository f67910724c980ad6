"""MLflow's UI as a person finds it: what `ganatomy ui` prints, followed in a browser that was never here before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command_line import GANATOMY
from sweeps.test_tuning import ROOT, TINY

from ganatomy.evidence.results import read_plan, read_results
from ganatomy.phantoms.hearts import make_cohort
from tracking.test_server import free_port

SWEEP = "seen"
COLUMNS = ("score", "effect", "reading", "arm", "method", "ratio", "threshold", "training")
FIRST_VISIT = "try { localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true') } catch {}"
"""MLflow opens a panel over its right third at somebody's first visit, and no more after that."""
NOT_OURS = "/users/current"
"""MLflow 3.17 asks who is there, of a server that asks nobody to log in, and logs the 404."""
NOT_YET = "attribute transform: Expected number"
"""What MLflow's parallel coordinates say while they have no size yet, now and then, on a slow machine; and at every
drawing where an axis is one number, which is ours."""

pytestmark = pytest.mark.slow


@dataclass
class Served:
    workspace: Path
    said: list[str]
    base: str

    def link(self, what: str) -> str:
        [line] = [line for line in self.said if line.startswith(f"sweep {SWEEP}: {what} ")]
        return line.rpartition(" ")[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """Three trials of a phantom, recorded, and `ganatomy ui` on them; Ctrl-C ends it."""
    folder = tmp_path_factory.mktemp("ui")
    make_cohort(folder / "phantom", patients={"ct": (4, 2, 2), "mr": (4, 3, 2)}, shape=(2, 16, 16))
    fewer = ("method.shape_weight=1", "mixing.ratio=1", "seed=0")
    there = ("--cohort", str(folder / "phantom"), "--workspace", str(folder / "workspace"), "--address", "local")
    command = [sys.executable, str(ROOT / "sweep.py"), "--space", "phantom_demo", "--name", SWEEP, *there]
    done = subprocess.run([*command, "--set", *TINY, *fewer], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "RAY_AUTH_MODE": "disabled"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("in MLflow: table http://127.0.0.1:5000/#/experiments/1/runs?") == 2  # at start and end
    port = free_port()
    command = [*GANATOMY, "ui", "--workspace", str(folder / "workspace"), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                               text=True)  # fmt: skip
    try:
        said = [process.stdout.readline().strip() for _ in range(4)]
        found = Served(folder / "workspace", said, f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"{found.base}/version", timeout=5):
                    break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield found
        os.killpg(process.pid, signal.SIGINT)  # what a terminal sends on Ctrl-C
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_ui_says_where_the_newest_sweep_is_and_ends_with_ctrl_c(served):
    assert served.said[0].startswith(f"MLflow UI: {served.base} ")
    for what in ("table", "charts", "report"):
        assert served.link(what).startswith(f"{served.base}/#/experiments/1/runs")


# --- in a browser ------------------------------------------------------------------------------------------------


@dataclass
class Visit:
    """A visitor whom no page has seen before, and what went wrong on each page."""

    page: object
    wrong: list[str] = field(default_factory=list)
    settled: bool = False
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _console(self, message) -> None:
        theirs = NOT_OURS in message.location.get("url", "") or (NOT_YET in message.text and not self.settled)
        if message.type == "error" and not theirs:
            self.wrong.append(message.text)

    def open(self, link: str, wanted: str) -> None:
        """Until the text ``wanted`` is to be read."""
        self.settled = False
        self.page.goto("about:blank")  # a link that differs behind its # alone would load nothing
        self.page.goto(link)
        self.page.get_by_text(wanted).first.wait_for(timeout=90_000)

    def draw_again(self) -> None:
        """In another size, once it has one: now whatever is wrong is wrong. MLflow's pages never stop asking."""
        self.page.wait_for_timeout(5000)
        self.settled = True
        self.page.set_viewport_size({"width": 1400, "height": 900})
        self.page.wait_for_timeout(3000)


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.add_init_script(FIRST_VISIT)
    visit = Visit(context.new_page())
    yield visit
    context.close()
    assert visit.wrong == []


def test_the_link_lands_on_all_trainings_of_the_sweep_with_the_columns_that_matter(served, visit):
    visit.open(served.link("table"), "4 matching runs")
    cells = [
        (cell.bounding_box()["x"], cell.inner_text().strip()) for cell in visit.page.locator(".ag-header-cell").all()
    ]
    assert [name for _, name in sorted(cells) if name in COLUMNS] == list(COLUMNS)
    names = [f"{SWEEP} · {arm} · training 0" for arm in ("real", "joint", "offline")]
    for name in (*names, SWEEP):
        assert visit.page.get_by_role("link", name=name, exact=True).count() == 1
    scores = [
        float(text)
        for text in visit.page.locator('[col-id="metrics.`score`"].ag-cell').all_inner_texts()
        if text != "-"
    ]
    plan = read_plan(served.workspace / "sweeps" / SWEEP)
    reached = [round(result.summary[plan.score], 4) for result in read_results(served.workspace / "sweeps" / SWEEP)]
    assert sorted(scores) == pytest.approx(sorted([*reached, max(reached)]))  # of the trials, and the sweep's own best
    assert scores == sorted(scores, reverse=True)


def test_the_other_link_draws_the_score(served, visit):
    visit.open(served.link("charts"), "Parallel Coordinates")
    visit.draw_again()
    visit.page.mouse.move(1200, 700)
    for title in ("ratio vs. score", "budget/device_seconds vs. score", "downstream_panel", "fit_panel"):
        for _ in range(60):  # what is out of sight is not drawn
            if visit.page.get_by_text(title, exact=True).count():
                break
            visit.page.mouse.wheel(0, 300)
            visit.page.wait_for_timeout(500)
        visit.page.get_by_text(title, exact=True).first.wait_for()


def test_a_run_says_what_it_came_to_who_made_it_and_where_the_report_is(served, visit):
    plan = read_plan(served.workspace / "sweeps" / SWEEP)
    visit.open(f"{served.base}/#/experiments/1/runs/{plan.run_id}?workflowType=machine_learning", "The report")
    text = visit.page.inner_text("body")
    for said in ("No verdict", "ganatomy sweep", "Finished"):
        assert said in text, text
    assert str(served.workspace) not in text
    for name, what in (("The report", "report"), ("all trainings, by score", "table"), ("as charts", "charts")):
        href = visit.page.get_by_role("link", name=name).first.evaluate("link => link.href")
        assert href == served.link(what)


def test_the_report_opens_in_the_artifact_viewer_asks_nobody_else_and_prints(served, visit, tmp_path):
    visit.open(served.link("report"), "report.html")
    frame = visit.page.frame_locator("iframe")
    frame.get_by_text(SWEEP).first.wait_for(timeout=90_000)
    plan = read_plan(served.workspace / "sweeps" / SWEEP)
    address = f"{served.base}/get-artifact?path=report.html&run_uuid={plan.run_id}"
    with urllib.request.urlopen(address) as answer:
        (tmp_path / "report.html").write_bytes(answer.read())
    visit.asked.clear()
    visit.open((tmp_path / "report.html").as_uri(), SWEEP)  # as given to somebody: by itself
    assert [url for url in visit.asked if not url.startswith("data:")] == [visit.page.url]
    assert visit.page.pdf()[:5] == b"%PDF-"
