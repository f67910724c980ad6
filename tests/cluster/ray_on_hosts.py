"""Ray and the tracking server on two hosts, started by the lines of cluster.yaml itself, without the launcher.

What the launcher does besides, copying the package and starting nodes that died, is done here by hand: the package is
linked, and who takes a host down brings it back with ``start``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import yaml
from sweeps.test_tuning import TINY

from cluster.two_hosts import ROOT, Hosts
from ganatomy.cohorts.pseudonyms import KEY
from ganatomy.evidence.results import read_results
from ganatomy.phantoms.hearts import make_cohort

SPACE = ("--space", "phantom_demo", "--scheduler", "none")
SETTINGS = (*TINY, "budget.segmentor_steps=60", "budget.generator_steps=60", "budget.validations=4")
"""Steps enough for something to break in their midst."""

RAYLET = "ray/raylet/raylet "
"""Part of the command line of Ray's own process on a node."""


def make_phantom(folder: Path) -> Path:
    """The cohort that hosts compute on, and that they are held against: stores of two keys would be two stores."""
    make_cohort(folder, patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    (folder / KEY).unlink(missing_ok=True)
    (folder / KEY).touch(0o600)
    (folder / KEY).write_text("0123456789abcdef" * 4)
    return folder


def sweep_alone(cohort: Path, workspace: Path) -> Path:
    """All five points of the space, under two seeds, on this machine: the sweep's folder."""
    options = ("--address", "local", "--workspace", str(workspace), "--cohort", str(cohort), "--name", "alone")
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweep.py"), *SPACE, *options, "--seeds", "0", "1", "--set", *SETTINGS],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return workspace / "sweeps" / "alone"


class Cluster:
    """Two nodes of one CPU each, ``head`` and ``work``; both see ``shared``, where the workspaces lie. What ``work``
    writes for itself, Ray's files and copies of stores, lies on a small disc of its own."""

    def __init__(self, hosts: Hosts, shared: Path) -> None:
        self.hosts, self.shared = hosts, shared
        hosts.discs["work"] = "300m"
        self.lines = yaml.safe_load((ROOT / "cluster.yaml").read_text())

    def up(self) -> None:
        """Start Ray on both hosts, and the tracking server."""
        for name in ("head", "work"):
            home = self.hosts.folder / f"{name}.home"
            (home / ".ray").mkdir()
            (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
            (home / "ray_bootstrap_config.yaml").write_text(json.dumps({"head_ip": self.hosts.addresses["head"]}))
            (home / "ganatomy").mkdir()
            for entry in ("platform", "methods", "search_spaces", "clusters", "sweep.py"):
                (home / "ganatomy" / entry).symlink_to(ROOT / entry)
            (home / "ganatomy" / ".venv").symlink_to(sys.prefix)
            self.start(name)

    def start(self, name: str) -> None:
        """Start a node as cluster.yaml does; several times, as the launcher would, where Ray gave its processes up."""
        # Two hosts on one machine, which may have other work to do: patience, and no host's workers behind its others.
        variables = "RAY_agent_register_timeout_ms=300000 RAY_raylet_start_wait_time_s=90 RAY_worker_niceness=0"
        if name == "work":
            variables += " GANATOMY_STORE_CACHE=~/disc/stores"
        script = [f"set -e; export RAY_HEAD_IP={self.hosts.addresses['head']}"]
        for line in self.lines[f"{'head' if name == 'head' else 'worker'}_start_ray_commands"]:
            line = line.replace("/data", str(self.shared)).replace(
                "--autoscaling-config=~/ray_bootstrap_config.yaml", ""
            )
            line = line.replace("ray start", f"{variables} ray start --num-cpus=1 --object-store-memory=100000000")
            script += [line, ". ~/.bashrc"]
        for _ in range(5):
            done = self.hosts.on(name, "\n".join(script), timeout=600)
            if done.returncode == 0:
                return
        raise AssertionError(done.stdout[-2000:] + done.stderr[-2000:])

    def track(self) -> None:
        """Start the tracking server if it does not run."""
        done = self.hosts.on("head", "bash ~/ganatomy/clusters/tracking.sh start", timeout=600)
        assert done.returncode == 0, done.stderr

    def mend(self) -> None:
        """Whatever happened, both nodes are up and work for nobody."""
        for process in self.hosts.running("head", "sweep.py", "--workspace"):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.hosts.mend("work")
        if "work" not in self.hosts.processes:
            self.hosts.boot("work")
        for process in self.hosts.running("work"):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        self.hosts.on("work", "rm -f ~/disc/filler")
        if not self.hosts.running("work", RAYLET):
            self.start("work")
        self.track()

    def sweep(self, name: str, log: Path, arguments: str) -> subprocess.Popen[str]:
        """Begin a sweep on the head, as ``ray submit`` does, in a workspace of its own."""
        return self.hosts.begin(
            "head", log, f"cd ~ && exec python ganatomy/sweep.py --workspace {self.shared / name} {arguments}"
        )


def table(sweep: Path) -> dict[str, tuple]:
    """What each experiment came to, whichever trial ran it: everything but times and costs."""
    return {
        result.experiment.digest(): (
            result.status,
            dict(result.stages),
            sorted(map(repr, result.scores)),
            {name: value for name, value in result.summary.items() if not is_a_cost(name)},
        )
        for result in read_results(sweep)
    }


def is_a_cost(name: str) -> bool:
    """What differs from run to run: seconds, and how fast."""
    return name.startswith(("budget/", "speed/")) or name.endswith("device_seconds")


def finished(sweep: Path) -> dict[str, int]:
    """Trial -> when its result was written."""
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in sweep.glob("trials/*/result.json")
        if json.loads(path.read_text())["status"] == "finished"
    }


def wait(condition: Callable[[], object], seconds: float, said: Callable[[], str]) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, said()
        time.sleep(0.5)
