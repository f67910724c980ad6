"""MLflow's client for a store, what MLflow must find in the environment, and what its refusals mean.

Every other room that imports MLflow imports this one first.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ganatomy.contracts import InputError
from ganatomy.tracking.server import connection, create_once, is_served, shown

# MLflow reads these when it is imported. Its own retries stay off: a creation repeated below us would make two runs,
# while everything here asks again knowing what it asks. What the user has set is kept.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is raised, and said once, in our words
}.items():
    os.environ.setdefault(_name, _value)

import requests  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking._tracking_service import utils as service  # noqa: E402

logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

START_SECONDS = 8
"""How long the first question to a tracking server may take: a wrong address must be told at once."""

REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}
"""Error codes by which a server says that what it was told is wrong, and will be the next time."""

_ANSWERS = REFUSALS | {
    "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "ALREADY_EXISTS", "INVALID_STATE", "NOT_IMPLEMENTED",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED",
}  # fmt: skip
"""Error codes by which a server that is well says no; any other failure means that it is away."""


CLASHES = 8
"""How often what clashed with another process is asked again."""

_CLASHING = ("IntegrityError", "UniqueViolation", "database is locked")
"""What the database's refusal of a thing that another process has just made says, through MLflow."""

T = TypeVar("T")


# --- the store ---------------------------------------------------------------------------------------------------


def forget_places() -> None:
    """Have MLflow look up anew where artifacts lie: a process remembers that by run, and copies have the same runs."""
    getattr(service, "_artifact_repos_cache", {}).clear()


@functools.cache
def client_of(uri: str) -> MlflowClient:
    """MLflow's own client for the store ``uri``, which is made if it is an SQLite file that is not there."""
    create_once(uri, lambda fresh: MlflowClient(fresh).search_experiments(max_results=1))
    return MlflowClient(connection(uri), registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or connection(uri))


# --- what went wrong ---------------------------------------------------------------------------------------------


def is_away(error: BaseException) -> bool:
    """True when the server did not answer, or was not well when it did."""
    if isinstance(error, MlflowException):
        return error.error_code not in _ANSWERS
    return isinstance(error, ConnectionError | TimeoutError | requests.RequestException)


def says(error: BaseException, *codes: str) -> bool:
    """True when the server said no with one of MLflow's error ``codes``."""
    return isinstance(error, MlflowException) and error.error_code in codes


def at_once(call: Callable[[], T]) -> T:
    """The answer of ``call``, which may be asked twice, though another process makes the same at the same time.

    MLflow looks whether a thing is there and then makes it. Between the two another may have made it, and the database
    refuses the second: asked again, it is found.
    """
    for again in range(CLASHES):
        try:
            return call()
        except MlflowException as error:
            if not any(word in str(error) for word in _CLASHING):
                raise
        time.sleep(random.uniform(0.02, 0.1) * (again + 1))
    return call()


def unusable(uri: str, error: Exception) -> InputError:
    """What to tell somebody whose store ``uri`` cannot be used, and what to do."""
    address, reason = shown(uri), str(error).splitlines()[0][:200]
    if says(error, "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return InputError(f"tracking server {address} refuses access", remedy=remedy)
    if "database schema" in reason:
        remedy = f"keep a copy of it, then: mlflow db upgrade {address}"
        return InputError(f"tracking store {address} was made by another version of MLflow", remedy=remedy)
    if is_served(uri) and is_away(error):
        remedy = "start it, or leave out --tracking-uri and MLFLOW_TRACKING_URI to use the store in the workspace"
        return InputError(f"tracking server {address} does not answer", expected="an MLflow server", remedy=remedy)
    return InputError(f"tracking store {address} cannot be used: {shown(reason)}", remedy="see `ganatomy doctor`")


@contextlib.contextmanager
def brisk() -> Iterator[None]:
    """Short time-outs for a moment (MLflow has no other way to say so)."""
    brief = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(START_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ[name] for name in brief}
    os.environ.update(brief)
    try:
        yield
    finally:
        os.environ.update(before)
