"""What breaks in the midst of a sweep, on two hosts, and what is lost of it: nothing.

Every fault strikes a real process, link or disc while the sweep computes. Afterwards the table, the stages and what
MLflow holds are those of the undisturbed run with the same seeds. docs/faults.md tells of each of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.ray_on_hosts import RAYLET, SETTINGS, SPACE, Cluster, finished, is_a_cost, make_phantom, table, wait
from cluster.two_hosts import ROOT, Hosts, missing
from ganatomy.evidence.results import RESULT, read_results
from ganatomy.sweeps.showing import EFFECT, HIGH, LOW

PATIENCE_S = 900.0


# --- a sweep that something happens to ---------------------------------------------------------------------------


class Running:
    """A sweep under way: ``name`` is that of its workspace."""

    def __init__(self, cluster: Cluster, name: str, trials: int, seeds: str) -> None:
        self.cluster, self.hosts, self.name = cluster, cluster.hosts, name
        self.workspace, self.log = cluster.shared / name, cluster.hosts.folder / f"{name}.log"
        self.sweep = self.workspace / "sweeps" / "sweep"
        self.before: dict[Path, Any] = {}
        self.heard = 0
        self.began = time.monotonic()
        self.go(
            f"{' '.join(SPACE)} --cohort {cluster.shared}/phantom --name sweep --seeds {seeds} "
            f"--nodes 2 --trials {trials} --set {' '.join(SETTINGS)}"
        )

    def go(self, arguments: str) -> None:
        self.process = self.cluster.sweep(self.name, self.log, arguments)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to happen while the sweep runs."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"the sweep outran the test:\n{self.log.read_text()}"
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def said(self) -> str:
        """Since something was last struck."""
        return self.log.read_text()[self.heard :]

    def says(self, words: str) -> None:
        self.until(lambda: words in self.said())

    def trains(self) -> bool:
        """Some network is in the midst of its training."""
        return bool([*self.workspace.glob("stages/*/*/checkpoint-*")])

    def trains_on(self, host: str) -> bool:
        return self.trains() and bool(self.hosts.running(host, "ray::_call"))

    def finished(self) -> int:
        return len(finished(self.sweep))

    def strike(self) -> None:
        """From here on something is wrong: what is done by now must stay as it is."""
        self.heard = len(self.log.read_text())
        done = [*self.sweep.glob("trials/*/result.json"), *self.workspace.glob("stages/*/*/stage.json")]
        self.before |= {path: kept(path) for path in done if '"running"' not in path.read_text()}

    def kill(self, host: str, *words: str) -> None:
        """SIGKILL for the processes of a host whose command line holds ``words``."""
        self.strike()
        struck = self.hosts.running(host, *words)
        assert struck, f"no {' '.join(words)} on {host}"
        for process in struck:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def end(self) -> None:
        assert self.process.wait(timeout=2 * PATIENCE_S) == 0, self.log.read_text()
        self.seconds = time.monotonic() - self.began
        print(f"{self.name}: {self.seconds:.0f} s")


def kept(path: Path) -> Any:
    """What must stay of a file of work that is done: of a stage all, to the time it was written at; of a trial what it
    came to, for a sweep that was killed before it had recorded a trial writes down afterwards in which run that is."""
    if path.name == RESULT:
        return {name: value for name, value in json.loads(path.read_text()).items() if name != "run_id"}
    return path.stat().st_mtime_ns


# --- what happens to it ------------------------------------------------------------------------------------------


def training_worker(run: Running) -> None:
    run.until(run.trains)
    host = "work" if run.trains_on("work") else "head"
    run.kill(host, "ray::_call")


def trial_driver(run: Running) -> None:
    run.until(run.trains)
    run.kill("head", "ray::ImplicitFunc.train")
    run.says("died; another takes it up")


def worker_node(run: Running) -> None:
    run.until(lambda: run.trains_on("work"))
    run.strike()
    run.hosts.pull_the_plug("work")
    run.says("has left")
    run.hosts.boot("work")
    run.cluster.start("work")


def tracking_server(run: Running) -> None:
    run.until(run.trains)
    before = run.finished()
    run.kill("head", "mlflow")
    run.until(lambda: run.finished() > before)
    assert not run.hosts.running("head", "mlflow", "server")
    run.cluster.track()


def sweep_itself(run: Running) -> None:
    run.until(lambda: run.finished() > 0)
    run.kill("head", "sweep.py", "--workspace")
    run.process.wait()
    run.go("--resume sweep --nodes 2")


def short_cut(run: Running) -> None:
    run.until(lambda: run.trains_on("work"))
    run.strike()
    run.hosts.cut("work")
    time.sleep(5.0)
    run.hosts.mend("work")


def long_cut(run: Running) -> None:
    run.until(lambda: run.trains_on("work"))
    run.strike()
    run.hosts.cut("work")
    run.says("has left")
    run.hosts.mend("work")
    run.until(lambda: not run.hosts.running("work", RAYLET))  # told that it is counted dead, Ray ends there
    run.cluster.start("work")


def full_disc(run: Running) -> None:
    run.until(lambda: run.trains_on("work"))
    run.strike()
    run.hosts.on("work", "dd if=/dev/zero of=~/disc/filler bs=64k")
    run.says("it leaves when what runs there has ended")
    assert "(work) has 0 MB left in /tmp/ray" in run.said()
    wait(lambda: not run.hosts.running("work", RAYLET), PATIENCE_S, run.log.read_text)  # or when the sweep has ended
    run.hosts.on("work", "rm ~/disc/filler")
    run.cluster.start("work")


def slow_node(run: Running) -> None:
    run.until(lambda: run.hosts.running("work", "ray::"))
    run.strike()
    threading.Thread(target=_slow_down, args=(run, "work"), daemon=True).start()


def _slow_down(run: Running, host: str) -> None:
    """A fifth of its speed, until the sweep ends."""
    while run.process.poll() is None:
        for number, seconds in ((signal.SIGSTOP, 0.4), (signal.SIGCONT, 0.1)):
            for process in run.hosts.running(host):
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            time.sleep(seconds)


SEVERAL = (training_worker, trial_driver, worker_node, short_cut, tracking_server, sweep_itself)

SWEEPS: dict[str, tuple[int, str, tuple[Callable[[Running], None], ...]]] = {
    "several": (10, "0 1", SEVERAL),
    "long_cut": (3, "0", (long_cut,)),
    "full_disc": (3, "0", (full_disc,)),
    "slow_node": (3, "0", (slow_node,)),
}
"""Trials and their seeds, and what strikes them, one after another. Until a node is counted as gone, or has emptied,
the other does all that there is to do of a sweep: what waits for that has one of its own."""

BEYOND_CI = ("long_cut", "slow_node")

# --- what is left of it ------------------------------------------------------------------------------------------

RUNS = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
found = {}
for run in client.search_runs(["1"], "tags.kind = 'trial'", max_results=1000):
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    history = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
               for name in run.data.metrics}
    tags = run.data.tags
    found.setdefault(parent.info.run_id, []).append([tags["experiment"], tags["trial_id"], run.info.status, history])
print(json.dumps(found))
"""


AMONG_OTHERS = (EFFECT, LOW, HIGH)
"""What sets a trial apart from the sweep's baseline: another number where fewer trials stand beside it."""


def recorded(hosts: Hosts, store: str, sweep: Path) -> dict[str, list]:
    """Experiment -> trial, status, and metric -> (step, value), …, as the tracking store tells; each is there once."""
    asked = hosts.client(sys.executable, "-c", RUNS, store, timeout=300)
    assert asked.returncode == 0, asked.stderr[-3000:]
    run_id = json.loads((sweep / "sweep.json").read_text())["run_id"]
    runs = json.loads(asked.stdout.splitlines()[-1])[run_id]
    assert len({experiment for experiment, *_ in runs}) == len(runs), "a trial has two runs"
    return {experiment: rest for experiment, *rest in runs}


def steady(history: dict[str, list]) -> dict[str, list]:
    """The course of every metric; of those that are times, the steps only."""
    return {
        name: sorted(step if is_a_cost(name) or name in AMONG_OTHERS else (step, value) for step, value in course)
        for name, course in history.items()
    }


def check(run: Running, undisturbed: Path) -> None:
    """Nothing lost, nothing repeated, the same come to as without the fault."""
    results = {result.experiment.digest(): result.trial for result in read_results(run.sweep)}
    expected = {experiment: row for experiment, row in table(undisturbed).items() if experiment in results}
    assert table(run.sweep) == expected
    assert {path: kept(path) for path in run.before} == run.before
    server, database = f"http://{run.hosts.addresses['head']}:5000", undisturbed.parents[1] / "mlflow.db"
    there, here = recorded(run.hosts, f"sqlite:///{database}", undisturbed), recorded(run.hosts, server, run.sweep)
    assert here.keys() == results.keys()
    for experiment, (trial, status, history) in here.items():
        assert (trial, status) == (results[experiment], "FINISHED")
        assert steady(history) == steady(there[experiment][2])
    assert "Traceback" not in run.log.read_text()


# --- the tests ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("hosts")
    made = Cluster(Hosts(folder), folder / "shared")
    make_phantom(made.shared / "phantom")
    try:
        made.hosts.up()
        made.up()
        yield made
    finally:
        made.hosts.down()
    assert made.hosts.left_behind() == []


@contextmanager
def whole(cluster: Cluster) -> Iterator[None]:
    """Whatever a fault left broken is mended for the next."""
    try:
        yield
    finally:
        cluster.mend()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "struck", [pytest.param(name, marks=[pytest.mark.beyond_ci] if name in BEYOND_CI else []) for name in SWEEPS]
)
def test_one_fault_after_another_in_one_sweep(cluster, undisturbed, struck):
    with whole(cluster):
        trials, seeds, faults = SWEEPS[struck]
        run = Running(cluster, struck, trials, seeds)
        for fault in faults:
            fault(run)
            print(f"{struck}: {fault.__name__} has struck after {time.monotonic() - run.began:.0f} s")
        run.end()
        check(run, undisturbed)


def test_the_page_tells_of_every_fault_that_is_tested_and_of_no_other():
    page = (ROOT / "docs" / "faults.md").read_text()
    told = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(told) == sorted(fault.__name__ for *_, faults in SWEEPS.values() for fault in faults)
