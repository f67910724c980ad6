"""What a benchmark of the platform at scale needs: nodes that are processes of this machine, a tracking server, and a
watch over what all of their processes take."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

# Read when Ray is imported: on a busy machine its processes take longer than the half minute that it gives them.
os.environ.update(RAY_raylet_start_wait_time_s="600", RAY_agent_register_timeout_ms="600000")

import ray  # noqa: F401 (before psutil, which is among what it brings with it)

import psutil  # isort: skip

OBJECT_STORE = 80 * 2**20  # Ray's least; nothing is put there


def free_mb() -> float:
    """Memory that this machine has to give."""
    return psutil.virtual_memory().available / 2**20


@contextlib.contextmanager
def nodes(count: int) -> Iterator[str]:
    """The address of a cluster of ``count`` nodes of one CPU each, the head among them."""
    with tempfile.TemporaryDirectory(prefix="scale") as folder:
        os.environ.update(RAY_TMPDIR=folder, RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
        from ray.cluster_utils import Cluster

        least = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
        cluster = Cluster(initialize_head=True, head_node_args={**least, "dashboard_port": 0})
        try:
            for _ in range(count - 1):
                cluster.add_node(wait=False, **least)
            cluster.wait_for_nodes(timeout=600)
            yield cluster.address
        finally:
            for process in psutil.Process().children(recursive=True):  # ours; nodes that drain take half a minute each
                with contextlib.suppress(psutil.Error):
                    process.kill()


@contextlib.contextmanager
def served(folder: Path, store: str) -> Iterator[tuple[str, psutil.Process, Path]]:
    """An MLflow server as ``clusters/tracking.sh`` starts it: its address, its process and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **quiet},
                                  start_new_session=True)  # fmt: skip
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            if server.poll() is not None:
                raise SystemExit(f"the tracking server ended:\n{log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", psutil.Process(server.pid), log
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, and why is being said
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes and all below them have taken, of ended ones what their parents have heard of."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def requests(log: Path, start: int = 0) -> Counter[str]:
    """What the server was asked, from byte ``start`` of its log on: method and path, without ids."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    asked = re.findall(r'"(GET|POST|PUT|PATCH|DELETE) (\S+) HTTP', text)
    return Counter(f"{method} {_plain(path)}" for method, path in asked)


def _plain(path: str) -> str:
    path = path.partition("?")[0].replace("/api/2.0/", "/")
    return path if "artifacts" not in path else "artifacts"


class Watch:
    """What the descendants of this process take, looked at every two seconds, by what they are.

    seconds: kind -> CPU seconds so far, of processes that ended too (less what they took since they were last seen).
    course: (time, CPU seconds) of the sweep's driver and of the server.  memory: kind -> MB (resident, private) of
    single processes, one look each half minute.
    """

    def __init__(self, server: psutil.Process) -> None:
        self.server = server
        self.driver = 0
        self.course: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._spent: dict[tuple[int, float], tuple[str, float]] = {}
        self._looked = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def seconds(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for kind, spent in list(self._spent.values()):
            found[kind] += spent  # type: ignore[assignment]
        return found

    def median(self, kind: str) -> tuple[float, float]:
        looks = self.memory[kind] or [(0.0, 0.0)]
        return statistics.median(r for r, _ in looks), statistics.median(p for _, p in looks)

    def _run(self) -> None:
        while not self._stop.wait(2.0):
            self.look()

    def look(self) -> None:
        deep = time.monotonic() - self._looked > 30
        serving = {self.server.pid}
        with contextlib.suppress(psutil.Error):
            serving |= {process.pid for process in self.server.children(recursive=True)}
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                key = (process.pid, process.create_time())
                kind = "server" if process.pid in serving else self._kind(process, self._spent.get(key, ("", 0.0))[0])
                times = process.cpu_times()
                self._spent[key] = kind, times.user + times.system
                if deep and kind in ("driver", "trial", "server"):
                    memory = process.memory_full_info()
                    self.memory[kind].append((memory.rss / 2**20, memory.uss / 2**20))
        if deep:
            self._looked = time.monotonic()
        sums = self.seconds()
        for kind in ("driver", "server"):
            self.course[kind].append((time.time(), sums[kind]))

    def _kind(self, process: psutil.Process, before: str) -> str:
        if process.pid == self.driver:
            return "driver"
        title = (process.cmdline() or [""])[0]
        if title.startswith("ray::ImplicitFunc"):
            return "trial"
        if title.startswith("ray::_call"):
            return "computing"
        return before if before in ("trial", "computing") else "Ray's own"
