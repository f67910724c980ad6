"""Sending to MLflow what was written down.

What a training process reports goes through a ``Journal``: on disk first, sent from the background, so a tracking
server that goes away loses nothing and stops nobody.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ganatomy.tracking.client import REFUSALS, client_of, says
from ganatomy.tracking.journal import RunLog
from ganatomy.tracking.outbox import LIGHT, Entry, Refused

# isort: split
# Last: MLflow reads the environment, which ``client`` sets, when it is imported.
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

T = TypeVar("T")


def as_key(name: str) -> str:
    """``name`` as MLflow takes it for metrics, parameters and pictures: labels may be called anything."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:250]


def chunks(items: list[T], size: int) -> Iterator[list[T]]:
    """``items`` in lists of at most ``size``: MLflow takes only so many at once."""
    return (items[start : start + size] for start in range(0, len(items), size))


def sender(uri: str, run_id: str) -> Callable[[Sequence[Entry], Path], None]:
    """Delivers entries to one run. Sending an entry twice changes nothing: its time and its file names are its own."""

    def send(entries: Sequence[Entry], root: Path) -> None:
        try:
            if entries[0].kind in LIGHT:
                _send_light(client_of(uri), run_id, entries)
            for entry in entries:
                if entry.kind == "status" and entry.values["status"] == "RUNNING":
                    client_of(uri).update_run(run_id, status="RUNNING")
                elif entry.kind == "status":
                    client_of(uri).set_terminated(run_id, entry.values["status"], end_time=entry.time)
                elif entry.kind == "image":
                    _send_image(client_of(uri), run_id, entry, root / entry.folder / "image.png")
                elif entry.kind == "artifact":
                    client_of(uri).log_artifacts(run_id, str(root / entry.folder), entry.path or None)
        except MlflowException as error:
            if says(error, *REFUSALS):
                raise Refused(str(error).splitlines()[0]) from error
            raise

    return send


def _send_light(client: MlflowClient, run_id: str, entries: Sequence[Entry]) -> None:
    metrics: list[Metric] = []
    params: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    for entry in entries:
        if entry.kind == "metrics":
            metrics += [Metric(as_key(name), value, entry.time, entry.step) for name, value in entry.values.items()]
        elif entry.kind == "params":
            params = {**entry.values, **params}  # the first value of a name stays
        else:
            tags |= entry.values
    for chunk in chunks(metrics, 1000):
        client.log_batch(run_id, metrics=chunk)
    for some in chunks(as_params(params), 100):
        client.log_batch(run_id, params=some)
    for few in chunks(_tags(tags), 100):
        client.log_batch(run_id, tags=few)


def as_params(values: Mapping[str, Any]) -> list[Param]:
    """Parameters as MLflow takes them."""
    return [Param(as_key(name), str(value)[:6000]) for name, value in values.items()]


def _tags(values: Mapping[str, Any]) -> list[RunTag]:
    return [RunTag(name, str(value)[:8000]) for name, value in values.items()]


def _send_image(client: MlflowClient, run_id: str, entry: Entry, png: Path) -> None:
    """Under names that the UI's image grid finds (those of ``log_image``), but the same ones at every attempt."""
    from PIL import Image, UnidentifiedImageError

    name = as_key(entry.path).replace("/", "~")
    unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{name}/{entry.step}")
    stem = f"{name}+step+{entry.step}+timestamp+{entry.time}+{unique}"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(png, Path(folder) / f"{stem}.png")
        try:
            preview = Image.open(io.BytesIO(png.read_bytes())).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise Refused(f"{entry.path} is not a picture") from error
        preview.thumbnail((256, 256))
        preview.save(Path(folder) / f"{stem}+compressed.webp")
        client.log_artifacts(run_id, folder, "images")
    client.set_tag(run_id, "mlflow.loggedImages", "True")


class Journal(RunLog):
    """A ``RunLog`` that sends to the run ``run_id`` of the store ``uri``. Making one asks nothing of the server."""

    def __init__(self, directory: Path, uri: str, run_id: str) -> None:
        super().__init__(Path(directory), run_id, sender(uri, run_id))
