"""What is wrong with this machine, its cluster, the workspace or the tracking server, and what to do about it.

Every check is a function that says what it found; one that itself fails is reported as failed, never raised.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from packaging.requirements import Requirement

GIB = 1024**3
TRIAL_BYTES = 1.2 * GIB
"""Resident memory of one trial whose fit runs in a Ray Train worker group of one."""


@dataclass(frozen=True)
class Check:
    """One line of the examination. ``remedy`` is what to do about a ``warn`` or a ``fail``, empty otherwise."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def examine(workspace: Path, *, tracking_uri: str = "", address: str = "", cohort: Path | None = None) -> list[Check]:
    """Run every check.

    workspace: the folder that sweeps write to; it need not exist yet.
    tracking_uri: MLflow server or store; ``MLFLOW_TRACKING_URI``, else the store embedded in the workspace.
    address: a running Ray cluster; ``RAY_ADDRESS``, else none is looked for.
    cohort: a folder that every node of the cluster is to see, as it is to see the workspace.
    """
    tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    address = address or os.environ.get("RAY_ADDRESS", "")
    examinations: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", python),
        ("packages", packages),
        ("devices", devices),
        ("trials", trials),
        ("shared memory", lambda: shared_memory(Path("/dev/shm"))),
        ("workspace", lambda: writable(workspace)),
        ("disc", lambda: disc(workspace)),
        ("stores", lambda: stores(workspace)),
        ("tracking", lambda: tracking(workspace, tracking_uri)),
        ("token", token),
        ("cluster", lambda: cluster(address, workspace=workspace, cohort=cohort)),
    ]
    return [check for name, examination in examinations for check in _survive(name, examination)]


def _survive(name: str, examination: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(examination())
    except Exception as error:
        return [
            Check(name, "fail", f"could not be examined: {type(error).__name__}: {error}", "ganatomy doctor --debug")
        ]


# --- this machine ------------------------------------------------------------------------------------------------


def python() -> Iterator[Check]:
    """The interpreter, and that its standard library is not shadowed by our folder called ``platform``."""
    import platform

    where = Path(platform.__file__ or "").parent
    if where == Path(sysconfig.get_path("stdlib")):
        yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")
    else:
        remedy = f"remove every .py file that stands directly in {where}"
        yield Check("python", "fail", f"the module platform comes from {where}, not from the standard library", remedy)


def packages() -> Iterator[Check]:
    """Every requirement of the package, with the extras it asks for, against what is installed here."""
    wrong = False
    for text in requires("ganatomy") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        for missing in _unmet(requirement):
            wrong = True
            yield Check("packages", "fail", missing, f'pip install "{_without_marker(requirement)}"')
    if not wrong:
        named = ", ".join(f"{name} {version(name)}" for name in ("ganatomy", "torch", "ray", "mlflow", "optuna"))
        yield Check("packages", "ok", f"{named}; all within the pins")


def _unmet(requirement: Requirement) -> Iterator[str]:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        yield f"{requirement.name} is not installed, {requirement.specifier or 'any version'} is needed"
        return
    # A local version (2.13.0+cpu) is that release, built differently.
    if not requirement.specifier.contains(installed.partition("+")[0], prereleases=True):
        yield f"{requirement.name} {installed} is installed, {requirement.specifier} is needed"
    for extra in requirement.extras:
        for text in requires(requirement.name) or []:
            part = Requirement(text)
            if part.marker is not None and part.marker.evaluate({"extra": extra}):
                yield from (f"{requirement.name}[{extra}]: {problem}" for problem in _unmet(part))


def _without_marker(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def devices() -> Iterator[Check]:
    """Accelerators, what they are, and whether they compute in bf16."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32 (no bf16)"
            found = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, {precision}"
            yield Check(f"device {index}", "ok", found)
    elif shutil.which("nvidia-smi"):
        remedy = (
            f"install the CUDA build of torch {version('torch').partition('+')[0]}, or mend the driver (nvidia-smi)"
        )
        yield Check("device", "warn", f"an NVIDIA driver is here, but torch {torch.__version__} sees no GPU", remedy)
    else:
        yield Check("device", "ok", f"CPU only, {cores()} cores, fp32")


def trials() -> Iterator[Check]:
    """How many trials train here at once, a core each as usual, and whether memory bears as many."""
    free, total = _memory()
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB available"
    if free < TRIAL_BYTES:
        yield Check("memory", "fail", found, "close other programs, or use a machine with 4 GiB free")
        return
    yield Check("memory", "ok", found)
    at_once, counted = cores(), os.cpu_count() or 1
    bearable = max(1, int(free / TRIAL_BYTES) - 1)  # beside Ray itself, and a trial that waits for another's stage
    found = f"{at_once} at once: {at_once} cores, one a trial"
    if bearable < at_once:
        yield Check("trials", "warn", f"{found}; memory bears {bearable}", f"sweep with --concurrent {bearable}")
    elif at_once < counted:
        found = f"{found}; the machine has {counted}, of which this process may use no more, and Ray may count them all"
        yield Check("trials", "warn", found, f"sweep with --concurrent {at_once}")
    else:
        yield Check("trials", "ok", f"{found}; memory would bear {bearable}")


def cores(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, inside the bound of a container where there is one: at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if (bound := group / "cpu.max").exists():
        quota, period = bound.read_text().split()
        if quota != "max":
            allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def _memory() -> tuple[int, int]:
    """Bytes that processes may still take and bytes in all, inside the bound of a container where there is one."""
    total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if (table := Path("/proc/meminfo")).exists():
        lines = dict(line.split(":", 1) for line in table.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    if (bound := group / "memory.max").exists() and (limit := bound.read_text().strip()) != "max":
        total = min(total, int(limit))
        free = min(free, int(limit) - int((group / "memory.current").read_text()))
    return free, total


def shared_memory(folder: Path) -> Iterator[Check]:
    """Where Ray keeps its objects; in a container it is often 64 MiB."""
    if not folder.is_dir():
        yield Check("shared memory", "warn", f"{folder} does not exist", "Ray will use the disc, which is slow")
        return
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if free < 1 * GIB:
        yield Check(
            "shared memory", "warn", found, "start the container with --shm-size=8g; Ray uses the disc until then"
        )
    else:
        yield Check("shared memory", "ok", found)


# --- the workspace -----------------------------------------------------------------------------------------------


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def writable(workspace: Path) -> Iterator[Check]:
    """That a file can be written in the workspace, or in the folder it would be made in."""
    folder = _nearest_existing(workspace)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ganatomy-doctor-"):
            pass
    except OSError as error:
        reason = f"{workspace}: nothing can be written in {folder} ({error.strerror})"
        yield Check("workspace", "fail", reason, "choose another with --workspace, or mend its permissions")
        return
    yield Check("workspace", "ok", f"{workspace}" + ("" if workspace.exists() else " (not made yet)") + ", writable")


def disc(workspace: Path) -> Iterator[Check]:
    """Room for stores, checkpoints and artefacts."""
    folder = _nearest_existing(workspace)
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free where {workspace} is"
    remedy = "free some, or choose another disc with --workspace"
    yield Check(
        "disc", "fail" if free < GIB else "warn" if free < 10 * GIB else "ok", found, "" if free >= 10 * GIB else remedy
    )


def stores(workspace: Path) -> Iterator[Check]:
    """That every prepared store in the workspace can be opened by this version."""
    from ganatomy.contracts import InputError
    from ganatomy.stores.store import Store

    folders = sorted(path for path in (workspace / "stores").glob("[!.]*") if path.is_dir())
    opened = 0
    for folder in folders:
        try:
            Store(folder)
            opened += 1
        except InputError as error:
            yield Check("stores", "fail", error.what, error.remedy or f"remove {folder}: it is made again when needed")
    if opened or not folders:
        yield Check("stores", "ok", f"{opened} of {len(folders)} open" if folders else "none prepared yet")


UNJUDGED = """
SELECT alias.name, alias.version FROM registered_model_aliases alias LEFT JOIN model_version_tags tag
ON tag.name = alias.name AND tag.version = alias.version AND tag.key = 'verdict'
WHERE alias.alias = 'champion' AND tag.value IS NULL
"""
"""Champions of MLflow's registry that ``ganatomy promote`` did not make."""


# --- what is elsewhere -------------------------------------------------------------------------------------------


def tracking(workspace: Path, uri: str) -> Iterator[Check]:
    """That the tracking server answers, or that the embedded store is a sound database."""
    if urlparse(uri).scheme in ("http", "https"):
        yield _server(uri)
        return
    if uri and urlparse(uri).scheme != "sqlite":
        from ganatomy.tracking.server import without_password  # late: a shadowed standard library is to be told of

        found = f"{without_password(uri)} is not examined: neither an MLflow server nor an SQLite store"
        yield Check("tracking", "warn", found, "http(s)://HOST:PORT, or sqlite:////ABSOLUTE/PATH")
        return
    database = Path(uri.removeprefix("sqlite:///")) if uri else workspace / "mlflow.db"
    if not database.exists():
        yield Check("tracking", "ok", f"{database} (made by the first sweep)")
        return
    import sqlite3

    try:
        with sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            registry = {"registered_model_aliases", "model_version_tags"} <= tables  # which old databases lack
            unjudged = connection.execute(UNJUDGED).fetchall() if registry else []
    except sqlite3.Error as error:
        yield Check("tracking", "fail", f"{database}: {error}", "restore it from a copy, or move it away to begin anew")
        return
    if answer == "ok":
        yield Check("tracking", "ok", f"{database}, {runs} runs")
        for name, number in unjudged:
            found = f"models:/{name}@champion is version {number}, which no gate has judged: MLflow's UI put it there"
            yield Check("registry", "warn", found, f"ganatomy rollback {name}, or promote a sweep")
    else:
        yield Check("tracking", "fail", f"{database} is damaged: {answer}", "restore it from a copy")


def _server(uri: str) -> Check:
    parts = urlparse(uri)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()  # no password on a screen
    request = urllib.request.Request(shown.rstrip("/") + "/version")
    name = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    secret = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if name:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            theirs = answer.read(100).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        return Check(
            "tracking", "warn", f"{shown} answers {error.code} {error.reason}", "check its address and your credentials"
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Check("tracking", "fail", f"{shown} does not answer: {reason}", "start it, or unset MLFLOW_TRACKING_URI")
    ours = version("mlflow")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Check(
            "tracking", "warn", f"{shown} runs MLflow {theirs}, here is {ours}", "use the same MLflow on both sides"
        )
    return Check("tracking", "ok", f"{shown}, MLflow {theirs}")


def token() -> Iterator[Check]:
    """Where Ray is told to authenticate by token, that this machine has one that nobody else can read."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file():
        yield Check("token", "fail", f"RAY_AUTH_MODE=token, but {path} is missing", "copy it from the head node")
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Check("token", "fail", f"{path} can be read by others", f"chmod 600 {path}")
    else:
        yield Check("token", "ok", str(path))


def cluster(
    address: str, timeout: float = 60.0, *, workspace: Path | None = None, cohort: Path | None = None
) -> Iterator[Check]:
    """That the Ray cluster at ``address`` answers within ``timeout`` seconds, and that each node has our versions and
    sources and sees the workspace and the cohort."""
    if not address or address == "local":
        yield Check("cluster", "ok", "none named (RAY_ADDRESS, --cluster): sweeps start Ray on this machine")
        return
    if cohort is not None and not cohort.exists():
        yield Check("cluster", "fail", f"there is no {cohort} here", "name the folder that all nodes share")
        return
    remedy = "start it (ray up cluster.yaml), correct RAY_ADDRESS, or unset it to use this machine"
    places = ["" if path is None or not path.exists() else str(path.absolute()) for path in (workspace, cohort)]
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "ganatomy.cluster.nodes", address, *places],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        yield Check("cluster", "fail", f"{address} does not answer within {timeout:.0f} s", remedy)
        return
    if asked.returncode != 0:
        lines = [line.strip() for line in asked.stderr.splitlines() if line.strip()]
        yield Check(
            "cluster", "fail", f"{address} does not answer: {lines[-1] if lines else 'no reason given'}", remedy
        )
        return
    yield from judged(address, json.loads(asked.stdout.splitlines()[-1]))


def judged(address: str, answer: dict[str, Any]) -> Iterator[Check]:
    """What ``ganatomy.cluster.nodes`` told of the cluster: its ``nodes``, their ``resources`` and ``faults``."""
    nodes, resources = answer["nodes"], answer["resources"]
    size = f"{len(nodes)} nodes, {resources.get('CPU', 0):.0f} CPU, {resources.get('GPU', 0):.0f} GPU"
    yield Check("cluster", "ok", f"{address}: {size}: {', '.join(nodes)}")
    for fault in answer["faults"]:
        yield Check("cluster", "fail", fault["what"], fault["remedy"])
