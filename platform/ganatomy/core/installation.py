"""What a machine has and sees: release, commit, versions, a hash of the sources, and whether others see the same files.

Standard library only: ``look`` is sent whole to the nodes of a cluster, so that one that lacks the package can say so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MISSING = "missing"

SOURCES = "GANATOMY_SOURCES"
"""Environment variable of a sweep's workers: what the sources on their nodes must be."""

CACHE = "GANATOMY_STORE_CACHE"
"""Environment variable of a node: the folder on its own disc that stores are copied to before they are read."""

WORKSPACE = "GANATOMY_WORKSPACE"
"""Environment variable: the usual workspace."""

APPEARING_S = 5.0
"""How long a file that was just written elsewhere may take to appear on a network file system."""

COMMIT = "commit.txt"
"""In the package as a wheel or a source archive brings it: the commit that it was built from."""

UNKNOWN = "unknown"

COUNTED = ("torch", "ray", "mlflow", "monai", "optuna", "numpy", "scipy")
"""Distributions that results rest upon."""


def release() -> str:
    """Version and commit of this package, as ``0.1.0 (commit 0ce5490f1d2a)``."""
    from ganatomy import __version__

    return f"{__version__} (commit {commit()})"


def commit() -> str:
    """The commit that the sources of this package are of, with ``+changes`` where they differ from it.

    Written down when a wheel was built, else asked of git where this is a checkout, else ``unknown``.
    """
    package = Path(__file__).resolve().parents[1]
    if (package / COMMIT).is_file():
        return (package / COMMIT).read_text().strip()
    house = package.parents[1]
    if package.parent.name != "platform" or not (house / ".git").exists():  # another repository's may lie further up
        return UNKNOWN
    describe = ["git", "-C", str(house), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes"]
    try:
        said = subprocess.run(describe, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return said.stdout.strip() or UNKNOWN


def software() -> dict[str, str]:
    """Name -> version of what computes here: this package and its commit, Python, and what is ``COUNTED``."""
    from ganatomy import __version__

    here = {"ganatomy": __version__, "commit": commit(), "python": sys.version.split()[0]}
    return here | {name: _version(name) for name in COUNTED}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return UNKNOWN


def login() -> str:
    """The user's name, as this machine knows it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not be in any list
        return f"user {os.getuid()}"


def default_workspace() -> Path:
    """``GANATOMY_WORKSPACE``, else ``./workspace``."""
    return Path(os.environ.get(WORKSPACE) or "workspace")


def workspace_of(given: Path | str | None) -> Path:
    """The folder that a caller names, else ``default_workspace``; absolute."""
    return (default_workspace() if given is None else Path(given)).absolute()


def look(question: Mapping[str, Any]) -> dict[str, Any]:
    """What is here, for a ``question`` of distributions, packages, files (what -> path) and a folder to write in.

    Answers host, versions (``python`` among them), sources (package -> hash), files (what -> hash, or why it cannot be
    read), wrote (name of the file left in the folder, or why there is none), and room (bytes left where this machine's
    own processes write: temporary files, Ray's, copies of stores).
    """
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in question["distributions"]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = MISSING
    files = {what: _seen(Path(path)) for what, path in question["files"].items()}
    wrote = {"wrote": _leave(Path(question["folder"]))} if question["folder"] else {}
    sources = sources_of(question["packages"])
    host, room = socket.gethostname(), dict(_room())
    return {"host": host, "versions": found, "sources": sources, "files": files, "room": room, **wrote}


class Watch:
    """Stays on a node while a sweep runs, begun while all was well: on a full disc no process could be started."""

    def room(self) -> dict[str, int]:
        """As ``look`` answers."""
        return dict(_room())


def _room() -> Iterator[tuple[str, int]]:
    for name in (tempfile.gettempdir(), "/tmp/ray", os.environ.get(CACHE, "")):
        if name and Path(name).exists():
            yield name, shutil.disk_usage(name).free


def sources_of(packages: Iterable[str]) -> dict[str, str]:
    """Package -> hash of all its Python files, as they would be imported here; ``missing`` where there is none."""
    return {package: _hash_of(package) for package in sorted(set(packages))}


def _hash_of(package: str) -> str:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return MISSING
    if not spec.submodule_search_locations:
        return hashlib.blake2b(Path(spec.origin or "").read_bytes(), digest_size=8).hexdigest()
    hasher = hashlib.blake2b(digest_size=8)
    for folder in spec.submodule_search_locations:
        for file in sorted(Path(folder).rglob("*.py")):
            hasher.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            hasher.update(hashlib.blake2b(file.read_bytes()).digest())
    return hasher.hexdigest()


def _seen(path: Path) -> str:
    until = time.monotonic() + APPEARING_S
    while True:
        try:
            return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        except OSError as error:
            if time.monotonic() > until:
                return error.strerror or str(error)
        time.sleep(0.5)


def _leave(folder: Path) -> str:
    name = uuid.uuid4().hex
    try:
        (folder / name).write_text("")
    except OSError as error:
        return error.strerror or str(error)
    return name


# --- a process against its sweep ---------------------------------------------------------------------------------


class WrongNode(RuntimeError):
    """Work came to a node whose sources are not the sweep's: it is to be done elsewhere."""


def demanded(packages: Iterable[str]) -> str:
    """Value of ``GANATOMY_SOURCES`` that holds workers elsewhere to the sources that are here."""
    return json.dumps({"host": socket.gethostname(), "sources": sources_of(packages)})


def check_sources() -> None:
    """Raise WrongNode where the sources here are not those that the sweep demands. On the machine that started it they
    are the same files, which their owner may edit meanwhile."""
    demand = json.loads(os.environ.get(SOURCES) or "{}")
    if not demand or demand["host"] == socket.gethostname():
        return
    here = sources_of(demand["sources"])
    for package, theirs in demand["sources"].items():
        if here[package] != theirs:
            state = "is not installed" if here[package] == MISSING else "has other sources"
            raise WrongNode(
                f"node {socket.gethostname()}: {package} {state} than where the sweep was started; "
                "remedy: bring every node up to date (ray up cluster.yaml), then --resume the sweep"
            )
