"""Where runs are kept: the address of the tracking store, its database made once, and the command that shows it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ganatomy.contracts import InputError
from ganatomy.journal import locked

SQLITE = "sqlite:///"


def store_uri(uri: str | None, workspace: Path) -> str:
    """``uri``, else MLFLOW_TRACKING_URI, else the SQLite store embedded in ``workspace``; SQLite paths made absolute.

    Raises InputError for what MLflow no longer takes (a plain folder) and for a database that lives in memory.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.absolute() / 'mlflow.db'}"
    scheme = urlsplit(uri).scheme
    if uri.startswith("sqlite:///") and ":memory:" not in uri:
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    if (scheme in ("", "file", "sqlite") or len(scheme) == 1) and uri != "databricks":
        raise InputError(f"tracking store {uri!r} cannot be used", expected="sqlite:///FILE or http(s)://HOST:PORT",
                         remedy="set MLFLOW_TRACKING_URI, or unset it to use the store in the workspace")  # fmt: skip
    return uri


def shown(uri: str) -> str:
    """``uri`` without the password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", uri)


def is_served(uri: str) -> bool:
    """True when a server stands between us and the store, so that it says where artifacts lie."""
    return uri.partition(":")[0] in ("http", "https", "databricks")


def create_once(uri: str, make: Callable[[str], object]) -> None:
    """Have ``make`` build the SQLite database of ``uri`` if it is not there; other stores are somebody else's to make.

    Built beside, then renamed, by one process while others wait: MLflow's own first use of a file races, and leaves
    half a database when it is interrupted. Raises InputError when the file is something else.
    """
    if not uri.startswith(SQLITE):
        return
    database = Path(uri.removeprefix(SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.with_name(f".{database.name}.lock")):
        if database.exists() and database.stat().st_size:
            with database.open("rb") as file:
                if file.read(16) != b"SQLite format 3\0":
                    raise InputError(f"{database} is not an SQLite database", remedy="restore it, or move it away")
            return
        for left in database.parent.glob(f".{database.name}.new-*"):
            left.unlink()  # by a builder that was killed: nobody else builds while we hold the lock
        fresh = database.with_name(f".{database.name}.new-{uuid.uuid4().hex}")
        try:
            make(f"{SQLITE}{fresh}")
            fresh.replace(database)
        finally:
            fresh.unlink(missing_ok=True)


def ui_command(uri: str | None, workspace: Path, port: int) -> list[str]:
    """The command that serves the UI of a store on disk on 127.0.0.1:``port``; for a server, that opens its page."""
    uri = store_uri(uri, workspace)
    if urlsplit(uri).scheme in ("http", "https"):
        return [sys.executable, "-m", "webbrowser", uri]
    artifacts = workspace.absolute() / "mlartifacts"
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", uri, "--artifacts-destination", str(artifacts)]  # fmt: skip


def serve(command: list[str]) -> int:
    """Run ``ui_command``'s command until it ends or Ctrl-C does; then everything that it started ends too."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(command, env={**os.environ, **quiet}, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # its workers are of its group, and of nobody else's
        server.wait()
