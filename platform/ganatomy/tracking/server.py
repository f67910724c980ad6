"""Where runs are kept: the address of the tracking store, its database made once, and the command that shows it.

No address that is written down, sent to another process or seen in a list of processes holds a password: that stays in
the environment, or in files of the user's home, on each node.
"""

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
from urllib.parse import unquote, urlsplit

from ganatomy.contracts import InputError
from ganatomy.core.tables import absolute
from ganatomy.tracking.embedded import SQLITE, artifacts_of, settle
from ganatomy.tracking.outbox import locked

URI = "MLFLOW_TRACKING_URI"

_SECRET = r"[\w.-]*?(?:pass(?:word|wd|phrase)?|pwd|secret|token|sig|signature|(?:secret|access|account|api)[_-]?key)="
"""An option of an address, behind its "?", that is nobody's business."""

_LOGIN = re.compile(r"(?<=://)([^/?#:@\s]*):(?!\d{1,5}(?:[/?#]|$))(?:[^?#\s]*|[^@\s]*)@")
"""User and password in front of a host. A password may hold any sign that an address is parted by: databases and stores
read it up to the "@" (PostgreSQL's ``u:a/b?c@host``, keys of S3)."""


def store_uri(uri: str | None, workspace: Path) -> str:
    """``uri``, else MLFLOW_TRACKING_URI, else the SQLite store embedded in ``workspace``; SQLite paths made absolute.

    A password that MLFLOW_TRACKING_URI holds is not in it: a server's is moved to where MLflow looks for it, a
    database's is put back by ``connection``. Raises InputError for a ``uri`` with a password, for what MLflow no longer
    takes (a plain folder) and for a database that lives in memory.
    """
    if uri:
        refuse_password(uri, "tracking store")
    named = os.environ.get(URI, "")
    if not uri or uri == without_password(named):
        _keep_apart(named)
    uri = uri or without_password(named) or f"sqlite:///{absolute(workspace) / 'mlflow.db'}"
    scheme = urlsplit(uri).scheme
    if uri.startswith("sqlite:///") and ":memory:" not in uri:
        return f"sqlite:///{absolute(uri.removeprefix('sqlite:///'))}"
    if (scheme in ("", "file", "sqlite") or len(scheme) == 1) and uri != "databricks":
        raise InputError(f"tracking store {uri!r} cannot be used", expected="sqlite:///FILE or http(s)://HOST:PORT",
                         remedy="set MLFLOW_TRACKING_URI, or unset it to use the store in the workspace")  # fmt: skip
    return uri


def shown(uri: str) -> str:
    """``uri``, or a sentence with one in it, without the user and the password that may stand in it."""
    text = re.sub(r"//[^/\s]*@", "//", _LOGIN.sub("", uri))
    return re.sub(rf"(?i)([?&]{_SECRET})[^&\s]*", r"\1…", text)


def without_password(uri: str) -> str:
    """``uri`` without a password, behind its user's name or among its options; of a server's, without the user too."""
    clean = _LOGIN.sub(lambda login: f"{login[1]}@" if login[1] and not is_served(uri) else "", uri)
    place, _, query = clean.partition("?")
    options = query.split("&")
    known = [option for option in options if not re.match(f"(?i){_SECRET}", option)]
    if known != options:
        clean = "?".join(part for part in (place, "&".join(known)) if part)
    return clean


def refuse_password(uri: str, what: str) -> None:
    """InputError where ``uri``, given on a command line or found in a plan as ``what``, holds a password."""
    if without_password(uri) == uri:
        return
    places = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials"
    if uri.partition(":")[0] in ("s3", "gs", "gcs", "abfs", "abfss"):
        places = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"
    elif not is_served(uri):
        places = f"~/.pgpass of PostgreSQL, or {URI} in the environment"
    raise InputError(
        f"{what} {shown(uri)} is given with a password, which every user of the machine could read",
        expected="an address without one",
        remedy=f"put it into {places}, on every node (docs/cluster.md, Secrets)",
    )


def connection(uri: str) -> str:
    """``uri`` as a client must be told it: with the password that MLFLOW_TRACKING_URI has for it on this node."""
    named = os.environ.get(URI, "")
    return named if named and without_password(named) == uri else uri


def _keep_apart(named: str) -> None:
    """Move user and password out of a server's address in the environment, to where MLflow looks for them."""
    if is_served(named) and (clean := without_password(named)) != named:
        parts = urlsplit(named)
        os.environ[URI] = clean
        if parts.password and "MLFLOW_TRACKING_PASSWORD" not in os.environ:
            os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
            os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)


def is_served(uri: str) -> bool:
    """True when a server stands between us and the store, so that it says where artifacts lie."""
    return uri.strip().partition(":")[0].lower() in ("http", "https", "databricks")


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
    settle(uri, workspace)
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--artifacts-destination", str(artifacts_of(uri, workspace))]  # fmt: skip


def ui_environment(uri: str) -> dict[str, str]:
    """What the command for the store ``uri`` finds in its environment: the store too, as every user of the machine can
    read a command, and an address may hold a password."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**os.environ, **quiet, "MLFLOW_BACKEND_STORE_URI": connection(uri)}


def serve(command: list[str], uri: str) -> int:
    """Run ``ui_command``'s command for the store ``uri`` until it ends or Ctrl-C does; then everything that it started
    ends too."""
    server = subprocess.Popen(command, env=ui_environment(uri), start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # its workers are of its group, and of nobody else's
        server.wait()
