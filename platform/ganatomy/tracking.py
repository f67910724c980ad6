"""Runs, metrics, pictures and the model registry in MLflow: the only room that imports it.

Two ways in. What a training process reports goes through a ``Journal``: on disk first, sent from the background, so a
tracking server that goes away loses nothing and stops nobody. What the driver asks (find a run, register a model) goes
through ``Tracking``, which asks again while the server is away, for ``patience`` seconds.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal, TypeVar

from ganatomy.contracts import InputError
from ganatomy.journal import LIGHT, Entry, Outbox, Refused, RunLog, now
from ganatomy.tracking_store import create_once, is_served, shown, store_uri

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

import mlflow.artifacts  # noqa: E402
import mlflow.pyfunc  # noqa: E402
import numpy as np  # noqa: E402
import requests  # noqa: E402
import yaml  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model, ModelSignature  # noqa: E402
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec  # noqa: E402

logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

T = TypeVar("T")
Status = Literal["FINISHED", "FAILED", "KILLED"]

START_SECONDS = 8
"""How long the first question to a tracking server may take: a wrong address must be told at once."""

BUNDLE = "generator"
"""Name under which the model's code finds the generator's folder: ``context.artifacts["generator"]``."""

_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}
_ANSWERS = _REFUSALS | {
    "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "ALREADY_EXISTS", "INVALID_STATE", "NOT_IMPLEMENTED",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED",
}  # fmt: skip
"""Error codes by which a server that is well says no; any other failure means that it is away."""


# --- the store ---------------------------------------------------------------------------------------------------


@functools.cache
def _client(uri: str) -> MlflowClient:
    create_once(uri, lambda fresh: MlflowClient(fresh).search_experiments(max_results=1))
    return MlflowClient(uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


# --- what went wrong ---------------------------------------------------------------------------------------------


def _is_away(error: BaseException) -> bool:
    if isinstance(error, MlflowException):
        return error.error_code not in _ANSWERS
    return isinstance(error, ConnectionError | TimeoutError | requests.RequestException)


def says(error: BaseException, *codes: str) -> bool:
    """True when the server said no with one of MLflow's error ``codes``."""
    return isinstance(error, MlflowException) and error.error_code in codes


def _unusable(uri: str, error: Exception) -> InputError:
    address, reason = shown(uri), str(error).splitlines()[0][:200]
    if says(error, "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return InputError(f"tracking server {address} refuses access", remedy=remedy)
    if "database schema" in reason:
        remedy = f"keep a copy of it, then: mlflow db upgrade {address}"
        return InputError(f"tracking store {address} was made by another version of MLflow", remedy=remedy)
    if is_served(uri) and _is_away(error):
        remedy = "start it, or leave out --tracking-uri and MLFLOW_TRACKING_URI to use the store in the workspace"
        return InputError(f"tracking server {address} does not answer", expected="an MLflow server", remedy=remedy)
    return InputError(f"tracking store {address} cannot be used: {shown(reason)}", remedy="see `ganatomy doctor`")


@contextlib.contextmanager
def _brisk() -> Iterator[None]:
    """Short time-outs for a moment (MLflow has no other way to say so)."""
    brief = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(START_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ[name] for name in brief}
    os.environ.update(brief)
    try:
        yield
    finally:
        os.environ.update(before)


# --- sending -----------------------------------------------------------------------------------------------------


def _key(name: str) -> str:
    """``name`` as MLflow takes it for metrics, parameters and pictures: labels may be called anything."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:250]


def _chunks(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _sender(uri: str, run_id: str) -> Callable[[Sequence[Entry], Path], None]:
    """Delivers entries to one run. Sending an entry twice changes nothing: its time and its file names are its own."""

    def send(entries: Sequence[Entry], root: Path) -> None:
        try:
            if entries[0].kind in LIGHT:
                _send_light(_client(uri), run_id, entries)
            for entry in entries:
                if entry.kind == "status":
                    _client(uri).set_terminated(run_id, entry.values["status"], end_time=entry.time)
                elif entry.kind == "image":
                    _send_image(_client(uri), run_id, entry, root / entry.folder / "image.png")
                elif entry.kind == "artifact":
                    _client(uri).log_artifacts(run_id, str(root / entry.folder), entry.path or None)
        except MlflowException as error:
            if says(error, *_REFUSALS):
                raise Refused(str(error).splitlines()[0]) from error
            raise

    return send


def _send_light(client: MlflowClient, run_id: str, entries: Sequence[Entry]) -> None:
    metrics: list[Metric] = []
    params: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    for entry in entries:
        if entry.kind == "metrics":
            metrics += [Metric(_key(name), value, entry.time, entry.step) for name, value in entry.values.items()]
        elif entry.kind == "params":
            params = {**entry.values, **params}  # the first value of a name stays
        else:
            tags |= entry.values
    for chunk in _chunks(metrics, 1000):
        client.log_batch(run_id, metrics=chunk)
    for some in _chunks(_params(params), 100):
        client.log_batch(run_id, params=some)
    for few in _chunks(_tags(tags), 100):
        client.log_batch(run_id, tags=few)


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(_key(name), str(value)[:6000]) for name, value in values.items()]


def _tags(values: Mapping[str, Any]) -> list[RunTag]:
    return [RunTag(name, str(value)[:8000]) for name, value in values.items()]


def _send_image(client: MlflowClient, run_id: str, entry: Entry, png: Path) -> None:
    """Under names that the UI's image grid finds (those of ``log_image``), but the same ones at every attempt."""
    from PIL import Image, UnidentifiedImageError

    name = _key(entry.path).replace("/", "~")
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
        super().__init__(Path(directory), run_id, _sender(uri, run_id))


# --- asking ------------------------------------------------------------------------------------------------------


class Tracking:
    """The runs of one MLflow experiment: sweeps, and the trials below them.

    uri: an MLflow server or database; None: MLFLOW_TRACKING_URI, else the SQLite store in ``workspace``, made here if
    it is not there, with its artifacts in ``workspace/mlartifacts``.
    patience: seconds that a call waits for a server that went away.
    wait: have that patience here too, as is right in the midst of a sweep; otherwise a store that cannot be used now
    is an InputError within about ten seconds, as is right at its start.
    say: told, in a sentence, that and for how long a server that is away is waited for.
    """

    def __init__(
        self,
        uri: str | None,
        workspace: Path,
        experiment: str = "ganatomy",
        *,
        patience: float = 300.0,
        wait: bool = False,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.workspace = Path(workspace).absolute()
        self.uri = store_uri(uri, self.workspace)
        self.outbox = self.workspace / "outbox"
        self._patience, self._say = patience, say
        self._unsaid: set[Path] = set()
        try:
            with contextlib.nullcontext() if wait else _brisk():
                opening = functools.partial(self._open, experiment)
                self.experiment_id = self.ask(opening) if wait else opening()
        except InputError:
            raise
        except Exception as error:
            raise _unusable(self.uri, error) from error

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client for this store."""
        return _client(self.uri)

    def ask(self, call: Callable[[], T]) -> T:
        """The answer of ``call``, asked again while the server is away. Asking twice must do no harm.

        Raises InputError when the server stays away, and MlflowException when it says no.
        """
        deadline, pause, said = time.monotonic() + self._patience, 0.25, False
        while True:
            try:
                return call()
            except Exception as error:
                if not _is_away(error):
                    raise
                if time.monotonic() > deadline:
                    raise InputError(f"tracking server {shown(self.uri)} has been away for {self._patience:.0f} s",
                                     remedy="start it again, then resume") from error  # fmt: skip
            if not said:
                self._say(f"waiting for the tracking server {shown(self.uri)}, at most {self._patience:.0f} s")
                said = True
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def probe(self) -> dict[str, Any]:
        """For a look from outside: the store, its experiment, and the seconds one question takes."""
        start = time.monotonic()
        runs = self.ask(lambda: self.client.search_runs([self.experiment_id], max_results=1))
        seconds = round(time.monotonic() - start, 3)
        return {"uri": shown(self.uri), "experiment_id": self.experiment_id, "empty": not runs, "seconds": seconds}

    # Runs.

    def sweep_run(self, name: str, tags: Mapping[str, Any] | None = None) -> str:
        """Id of the run of this workspace's sweep ``name``; made, with ``tags``, unless it is there."""
        identity = {"kind": "sweep", "sweep": name, "workspace": self._mark()}
        return self._find_or_create(identity, name, tags or {}).info.run_id

    def trial_run(
        self,
        sweep_run_id: str,
        trial_id: str,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        """Id of the run of one trial below its sweep's; made, with ``params`` and ``tags``, unless it is there.

        A run that had ended is running again afterwards. Parameters already there are kept.
        """
        identity = {"kind": "trial", "mlflow.parentRunId": sweep_run_id, "trial_id": trial_id}
        run = self._find_or_create(identity, name, tags or {})
        missing = {name: value for name, value in (params or {}).items() if _key(name) not in run.data.params}
        for chunk in _chunks(_params(missing), 100):
            self.ask(functools.partial(self.client.log_batch, run.info.run_id, params=chunk))
        return run.info.run_id

    def terminate(self, run_id: str, status: Status, tags: Mapping[str, Any] | None = None) -> None:
        """End a run. Never waits for an absent server: what could not be said now is sent by ``drain_all``."""
        if tags:
            self._report(run_id, Entry("tags", now(), {name: str(value) for name, value in tags.items()}))
        self._report(run_id, Entry("status", now(), {"status": status}))

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Metrics of a run that has no journal of its own (a sweep's). As ``terminate``, never waits."""
        self._report(run_id, Entry("metrics", now(), {name: float(value) for name, value in values.items()}, step))

    def log_artifact(self, run_id: str, source: Path, folder: str = "") -> None:
        """A file or directory as artifact in ``folder``. As ``terminate``, never waits."""
        self._report(run_id, Entry("artifact", now(), path=folder), {source.name: source})

    def log_text(self, run_id: str, path: str, text: str) -> None:
        """A text artifact (HTML, JSON, …) at ``path``. As ``terminate``, never waits."""
        folder, _, name = path.rpartition("/")
        self._report(run_id, Entry("artifact", now(), path=folder), {name: text.encode()})

    def log_dataset(
        self,
        run_id: str,
        name: str,
        digest: str,
        *,
        profile: Mapping[str, Any] | None = None,
        context: str = "training",
    ) -> None:
        """The cohort a run saw, by name and content hash (at most 36 characters); where it lies is nobody's business.

        profile: counts to show beside it (images, patients, domains …).
        """
        source = json.dumps({"cohort": name, "digest": digest})
        data = Dataset(name, digest, "cohort", source, profile=json.dumps(dict(profile or {})))
        given = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self.ask(lambda: self.client.log_inputs(run_id, [given]))

    def drain_all(self, directory: Path | None = None, timeout: float = 60.0) -> list[Path]:
        """Send what dead processes left in the journals in ``directory``, and what this workspace still has to say.

        Returns the journals that still hold something after ``timeout`` seconds (server away, or drained by another).
        """
        return self._empty(Outbox.below(self.outbox) + (Outbox.below(Path(directory)) if directory else []), timeout)

    def drain(self, directory: Path, timeout: float = 60.0) -> list[Path]:
        """``drain_all`` for a trial's end: what is left in ``directory``, and what we ourselves could not say before.

        The workspace keeps a folder of each run that ever had something to say; it is not looked through here.
        """
        return self._empty([*sorted(self._unsaid), *Outbox.below(Path(directory))], timeout)

    # How.

    def _empty(self, found: list[Path], timeout: float) -> list[Path]:
        deadline = time.monotonic() + timeout
        while True:
            left: list[Path] = []
            for place in found:  # one that cannot be sent may mean that none can: not each of them waits for the server
                if (left and time.monotonic() > deadline) or not self._drain(Outbox.reopen(place)):
                    left.append(place)
            if not left or time.monotonic() > deadline:
                return left
            found = left
            time.sleep(0.5)

    def _mark(self) -> str:
        """What tells this workspace's sweeps from those of another that have the same name on the same server."""
        place = self.workspace / "workspace.id"
        if not place.exists():
            self.workspace.mkdir(parents=True, exist_ok=True)
            beside = place.with_name(f".{uuid.uuid4().hex}")
            beside.write_text(uuid.uuid4().hex)
            with contextlib.suppress(FileExistsError):  # of two processes the first gives the mark
                os.link(beside, place)
            beside.unlink()
        return place.read_text()

    def _open(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = None if is_served(self.uri) else (self.workspace / "mlartifacts").as_uri()
            try:
                return self.client.create_experiment(name, place)
            except MlflowException as error:
                if not says(error, "RESOURCE_ALREADY_EXISTS"):
                    raise
                found = self.client.get_experiment_by_name(name)  # another process was first
        if found.lifecycle_stage != "active":
            raise InputError(f"experiment {name!r} of {shown(self.uri)} was deleted",
                             remedy=f"mlflow experiments restore --experiment-id {found.experiment_id}")  # fmt: skip
        return found.experiment_id

    def _search(self, tags: Mapping[str, str]) -> list[Run]:
        """Runs that carry all of ``tags``, oldest first."""
        wanted = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())
        order = ["attributes.start_time ASC"]
        return list(self.ask(lambda: self.client.search_runs([self.experiment_id], wanted, order_by=order)))

    def _find_or_create(self, identity: Mapping[str, str], name: str, tags: Mapping[str, Any]) -> Run:
        def attempt() -> Run:  # looks first, every time: the answer to a creation may be lost after the run was made
            if found := self._search(identity):
                return found[0]
            everything = {key: str(value)[:8000] for key, value in tags.items()} | dict(identity)
            return self.client.create_run(self.experiment_id, run_name=name, tags=everything)

        run = self.ask(attempt)
        if run.info.status != "RUNNING":
            run_id = run.info.run_id
            self._drain(Outbox(self.outbox / run_id, run_id))  # an old ending must not arrive after the new beginning
            self.ask(lambda: self.client.update_run(run_id, status="RUNNING"))
        return run

    def _report(self, run_id: str, entry: Entry, files: Mapping[str, bytes | Path] | None = None) -> None:
        outbox = Outbox(self.outbox / run_id, run_id)
        outbox.append(entry, files)
        self._drain(outbox)

    def _drain(self, outbox: Outbox) -> bool:
        try:
            sent = outbox.drain(_sender(self.uri, outbox.run))
        except (MlflowException, OSError):
            sent = False
        (self._unsaid.discard if sent else self._unsaid.add)(outbox.directory)
        return sent


def _quoted(text: str) -> str:
    if "'" in text and '"' in text:
        raise InputError(f"name {text!r}", expected="a name without both kinds of quotes")
    return f'"{text}"' if "'" in text else f"'{text}'"


# --- models ------------------------------------------------------------------------------------------------------


def log_model(tracking: Tracking, bundle: Path, code: Path, ndim: int, run_id: str, tags: Mapping[str, str]) -> str:
    """Put a generator's folder into the store as a model of ``run_id``, and return the model's id.

    The model is the folder, the file ``code`` that loads it, and no pickle. Input: float32 [N, 1, *S] with ``ndim``
    spatial axes of any size; the output has the same form; parameters
    ``seed``, ``source`` and ``target`` (domains). Made and cleaned on this side first,
    because what MLflow notes about the machine (absolute paths) must not be sent.
    """
    images = Schema([TensorSpec(np.dtype(np.float32), (-1, 1, *[-1] * ndim))])
    choices = [ParamSpec("seed", "long", 0), ParamSpec("source", "string", ""), ParamSpec("target", "string", "")]
    signature = ModelSignature(images, images, ParamSchema(choices))
    needs = [f"{name}=={installed(name)}" for name in ("ganatomy", "mlflow")]
    client, place = tracking.client, tracking.experiment_id
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(record=True):
        # Recorded to be dropped: advice on type hints and examples, where the signature says it all.
        out = Path(scratch) / "model"
        described = Model(artifact_path=BUNDLE, run_id=run_id)
        mlflow.pyfunc.save_model(out, python_model=str(code), artifacts={BUNDLE: str(bundle)}, signature=signature,
                                 pip_requirements=needs, mlflow_model=described)  # fmt: skip
        made = tracking.ask(lambda: client.create_logged_model(place, BUNDLE, run_id, dict(tags), model_type=BUNDLE))
        _clean(out, made.model_id)
        tracking.ask(lambda: client.log_model_artifacts(made.model_id, str(out)))
    tracking.ask(lambda: client.finalize_logged_model(made.model_id, "READY"))
    tracking.ask(lambda: client.log_outputs(run_id, [LoggedModelOutput(made.model_id, 0)]))
    return made.model_id


def _clean(model: Path, model_id: str) -> None:
    """Take this machine's paths out of a saved model; what loads it looks at the last part of each only."""
    described = yaml.safe_load((model / "MLmodel").read_text())
    flavor = described["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    described |= {"model_id": model_id, "model_uuid": model_id}
    (model / "MLmodel").write_text(yaml.safe_dump(described, sort_keys=False))
    for cache in model.rglob("__pycache__"):
        shutil.rmtree(cache)


def create_version(tracking: Tracking, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> int:
    """Make a model the next version of the registered model ``name``; returns the version."""
    # MLflow looks a model up in the process-wide default store here, whatever store the client was made for.
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking.uri)
    try:
        made = tracking.client.create_model_version(name, f"models:/{model_id}", run_id, dict(tags), model_id=model_id)
    finally:
        mlflow.set_tracking_uri(before)
    return int(made.version)


def fetch_model(tracking: Tracking, name: str, number: int, out: Path) -> Path:
    """Download a version of a registered model into ``out``; returns where its generator's folder is."""
    place = tracking.ask(lambda: tracking.client.get_model_version_download_uri(name, str(number)))
    fetch = functools.partial(mlflow.artifacts.download_artifacts, place, dst_path=str(out), tracking_uri=tracking.uri)
    model = Path(tracking.ask(fetch))
    return model / Model.load(str(model)).flavors["python_function"]["artifacts"][BUNDLE]["path"]
