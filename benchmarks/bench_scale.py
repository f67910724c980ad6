"""What a sweep costs where its trials cost nothing: 500 of them on sixteen simulated nodes of this machine.

The platform's own way (`sweep.py`, Optuna, Tune, results, outbox, MLflow server on SQLite) with trials of
`no_op_spaces.py`, which find everything computed. In two parts, because starting a trial's process is the same work for
the first trial as for the last, and much of it:

- a few trials just as they are, each in a process of its own: what a trial costs;
- all of them in processes that Tune hands on from trial to trial (`reuse_actors`, which the platform leaves off): what
  grows with their number. This sweep is killed when nine tenths are done, and resumed.

Then `ganatomy report`. The machine may be shared: CPU seconds say what something takes, wall clock what it took here.
What the tracking store takes with more runs: `bench_tracking.py`; what else grows with trials: `bench_growth.py`.

    python benchmarks/bench_scale.py [--nodes 16] [--trials 500] [--processes 20] [--own 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table
from simulated_cluster import Watch, free_mb, nodes, requests, served

from ganatomy.evidence.results import RESULT, read_results
from ganatomy.phantoms.hearts import make_cohort

HERE = Path(__file__).parent
SWEEP = [sys.executable, str(HERE.parent / "sweep.py")]
REUSING = [sys.executable, "-c", "import sys, functools; from ray import tune; "
           "tune.TuneConfig = functools.partial(tune.TuneConfig, reuse_actors=True); "
           "from ganatomy.commands.sweep import main; sys.exit(main())"]  # fmt: skip

console = Console(width=120)
Measured = dict[str, Any]


@dataclass
class Site:
    """A cohort, a workspace, a cluster and a server to sweep with, and the watch over them."""

    folder: Path
    address: str
    uri: str
    log: Path
    watch: Watch

    def sweep(self, start: list[str], name: str, space: str, trials: int, until: int = 0) -> Measured:
        """Run a sweep to its end, or kill its driver when ``until`` trials have finished; what it took."""
        options = ["--space", f"no_op_spaces:{space}", "--cohort", str(self.folder / "phantom"), "--source", "ct",
                   "--target", "mr", "--trials", str(trials), "--name", name, "--seeds", "0"]  # fmt: skip
        return self._run([*start, *options], name, until)

    def resume(self, start: list[str], name: str) -> Measured:
        return self._run([*start, "--resume", name], name, 0)

    def _run(self, command: list[str], name: str, until: int) -> Measured:
        before, offset, there = self.watch.seconds(), self.log.stat().st_size, len(self.finished(name))
        common = ["--workspace", str(self.folder), "--address", self.address, "--tracking-uri", self.uri]
        began = time.time()
        with (self.folder / f"{name}.out").open("a") as output:
            driver = subprocess.Popen([*command, *common], stdout=output, stderr=output)
        self.watch.driver = driver.pid
        while driver.poll() is None:
            time.sleep(0.5)
            if until and len(self.finished(name)) >= until:
                driver.send_signal(signal.SIGKILL)
                driver.wait()
        ended = self.finished(name)
        if driver.returncode not in (0, -signal.SIGKILL):
            raise SystemExit((self.folder / f"{name}.out").read_text()[-3000:])
        new = ended[there:]
        spent, done = self.watch.seconds() - before, len(new)
        asked = requests(self.log, offset)
        return {
            "trials": done, "to_first_s": new[0] - began, "first_to_last_s": new[-1] - new[0],
            "wall_s": time.time() - began, "cpu_s_per_trial": {kind: s / done for kind, s in spent.items()},
            "requests_per_trial": {what: count / done for what, count in asked.most_common()},
            "requests_per_s": sum(asked.values()) / (time.time() - began),
        }  # fmt: skip

    def finished(self, name: str) -> list[float]:
        """When each finished trial wrote its last result, in order."""
        trials = (self.folder / "sweeps" / name / "trials").glob(f"*/{RESULT}")
        return sorted(path.stat().st_mtime for path in trials if '"finished"' in path.read_text())


def windows(site: Site, name: str, size: int) -> list[Measured]:
    """CPU seconds of driver and server for each trial, ``size`` trials at a time."""
    ended, found = site.finished(name), []
    for start in range(0, len(ended) - size + 1, size):
        low, high = ended[start], ended[start + size - 1]
        row: Measured = {"trials": f"{start + 1}-{start + size}", "per_s": (size - 1) / (high - low)}
        for kind in ("driver", "server"):
            row[kind] = (_at(site.watch.course[kind], high) - _at(site.watch.course[kind], low)) / (size - 1)
        found.append(row)
    return found


def _at(course: list[tuple[float, float]], when: float) -> float:
    after = min(bisect.bisect([moment for moment, _ in course], when), len(course) - 1)
    return course[after][1]


def sizes(folder: Path, trials: int) -> dict[str, tuple[float, float]]:
    """Part -> kilobytes and files for each trial."""
    found = {}
    for part in folder.iterdir() if folder.is_dir() else ():
        files = [path for path in part.rglob("*") if path.is_file()] if part.is_dir() else [part]
        found[part.name] = sum(path.stat().st_size for path in files) / trials / 1024, len(files) / trials
    return found


def report_seconds(site: Site, name: str) -> dict[str, float]:
    """`ganatomy report` of the sweep."""
    began, before = time.time(), os.times()
    command = [sys.executable, "-m", "ganatomy.cli", "report", name, "--workspace", str(site.folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"report_wall_s": time.time() - began, "report_cpu_s": spent}


# --- one after the other -----------------------------------------------------------------------------------------


def measure(asked: argparse.Namespace, folder: Path, found: Measured) -> None:
    found |= {"nodes": asked.nodes, "slots": asked.nodes + 1}
    make_cohort(folder / "phantom", patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])  # for every process
    free, began = free_mb(), time.time()
    with nodes(asked.nodes) as address:
        found["nodes_up_s"] = time.time() - began
        found["mb_per_node"] = (free - free_mb()) / asked.nodes
        say(f"{asked.nodes} nodes after {found['nodes_up_s']:.0f} s, {found['mb_per_node']:.0f} MB each")
        with (
            served(folder / "server", f"sqlite:///{folder / 'server' / 'mlflow.db'}") as (uri, server, log),
            Watch(server) as watch,
        ):
            site = Site(folder, address, uri, log, watch)
            sweeps(site, asked, found)
    name = "reused"
    found["kb_and_files_per_trial"] = sizes(folder / "sweeps" / name, asked.trials)
    whole = asked.trials + asked.processes + asked.own + 1
    found["kb_and_files_per_trial"] |= sizes(folder / "server", whole)
    found["kb_and_files_per_trial"]["outbox"] = sizes(folder, whole)["outbox"]
    found |= report_seconds(site, name)


def sweeps(site: Site, asked: argparse.Namespace, found: Measured) -> None:
    say("one trial, which computes what the others find")
    site.sweep(SWEEP, "first", "SHARED", 1)
    say(f"{asked.processes} trials, each in a process of its own")
    found["processes"] = site.sweep(SWEEP, "processes", "SHARED", asked.processes)
    found["trial_mb"] = site.watch.median("trial")
    if asked.own:
        say(f"{asked.own} trials of a stage of their own, each computed by a task on some node")
        found["own"] = site.sweep(SWEEP, "own", "OWN", asked.own)
    say(f"{asked.trials} trials in processes that are handed on")
    site.watch.memory.clear()
    found["reused"] = site.sweep(REUSING, "reused", "SHARED", asked.trials, until=asked.trials * 9 // 10)
    found["driver_mb"] = [site.watch.memory["driver"][0], site.watch.memory["driver"][-1]]
    found["trial_reused_mb"] = [site.watch.memory["trial"][0], site.watch.memory["trial"][-1]]
    found["server_mb"] = site.watch.median("server")
    found["windows"] = windows(site, "reused", max(5, asked.trials // 10))
    say("the same, killed and resumed")
    found["resumed"] = site.resume(REUSING, "reused")
    results = read_results(site.folder / "sweeps" / "reused")
    assert sum(result.status == "finished" for result in results) == asked.trials, "a trial was lost"


def say(sentence: str) -> None:
    console.print(f"[{time.strftime('%H:%M:%S')}] {sentence}", markup=False)


def show(found: Measured) -> None:
    table = Table(
        "", "trials", "trials/s", "wall x slots / trials [s]", "CPU s a trial", "requests a trial", "requests/s"
    )
    for name in ("processes", "own", "reused", "resumed"):
        if name in found:
            run = found[name]
            pace = (run["trials"] - 1) / run["first_to_last_s"]
            parts = ", ".join(f"{kind} {seconds:.2f}" for kind, seconds in sorted(run["cpu_s_per_trial"].items()))
            table.add_row(name, str(run["trials"]), f"{pace:.2f}", f"{found['slots'] / pace:.1f}", parts,
                          f"{sum(run['requests_per_trial'].values()):.1f}", f"{run['requests_per_s']:.1f}")  # fmt: skip
    console.print(table)
    table = Table("trials of the handed-on sweep", "trials/s", "driver CPU s a trial", "server CPU s a trial")
    for row in found["windows"]:
        table.add_row(row["trials"], f"{row['per_s']:.2f}", f"{row['driver']:.3f}", f"{row['server']:.3f}")
    console.print(table)
    console.print_json(json.dumps({key: value for key, value in found.items() if key != "windows"}))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("nodes", 16), ("trials", 500), ("processes", 20), ("own", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with all that was started here
    folder, found = Path(tempfile.mkdtemp(prefix="ganatomy-scale-")), Measured()
    try:
        measure(asked, folder, found)
        show(found)
    finally:
        if asked.json:  # also what an interrupted run has found
            asked.json.write_text(json.dumps(found, indent=1))
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
