"""Generators in MLflow's model registry: put there, made a version, fetched again."""

from __future__ import annotations

import functools
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path

from ganatomy.contracts import InputError
from ganatomy.core.names import confined
from ganatomy.core.plain_files import read_yaml
from ganatomy.tracking.client import says
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.server import connection, shown

# isort: split
# Last: MLflow reads the environment, which ``client`` sets, when it is imported.
import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
import yaml
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

BUNDLE = "generator"
"""Name under which the model's code finds the generator's folder: ``context.artifacts["generator"]``."""

MLMODEL = "MLmodel"
"""File of every model of MLflow, which says what it is made of."""


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
    described = yaml.safe_load((model / MLMODEL).read_text())
    flavor = described["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    described |= {"model_id": model_id, "model_uuid": model_id}
    (model / MLMODEL).write_text(yaml.safe_dump(described, sort_keys=False))
    for cache in model.rglob("__pycache__"):
        shutil.rmtree(cache)


def create_version(tracking: Tracking, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> int:
    """Make a model the next version of the registered model ``name``; returns the version."""
    # MLflow looks a model up in the process-wide default store here, whatever store the client was made for.
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(connection(tracking.uri))
    try:
        made = tracking.client.create_model_version(name, f"models:/{model_id}", run_id, dict(tags), model_id=model_id)
    finally:
        mlflow.set_tracking_uri(before)
    return int(made.version)


def withdraw_version(tracking: Tracking, name: str, number: int, model_id: str) -> None:
    """Take back a version that was just made, and the model that it is."""
    client = tracking.client
    steps = (
        lambda: client.delete_model_version(name, str(number)),
        lambda: client.delete_logged_model(model_id),
    )
    for step in steps:
        try:
            tracking.ask(step)
        except MlflowException as error:
            if not says(error, "RESOURCE_DOES_NOT_EXIST"):  # asked again after a lost answer
                raise


def fetch_model(tracking: Tracking, name: str, number: int, out: Path) -> Path:
    """Download a version of a registered model into ``out``; returns where its generator's folder is, in there.

    Raises InputError where the model names no generator, or one that lies anywhere else: what a tracking server says of
    paths is not believed.
    """
    place = tracking.ask(lambda: tracking.client.get_model_version_download_uri(name, str(number)))
    uri = connection(tracking.uri)
    fetch = functools.partial(mlflow.artifacts.download_artifacts, place, dst_path=str(out), tracking_uri=uri)
    version = f"models:/{name}/{number}"
    remedy = "do not use that version; roll back, or promote again, and ask who can write to the tracking server"
    try:
        model = confined(tracking.ask(fetch), out, f"{version} on the tracking server", remedy=remedy)
    except MlflowException as error:
        raise InputError(f"{version} cannot be fetched: {shown(str(error))}", remedy=remedy) from error
    try:
        named = read_yaml(model / MLMODEL)["flavors"]["python_function"]["artifacts"][BUNDLE]["path"]
        if not isinstance(named, str):
            raise TypeError("a path is a text")
    except (InputError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{version} is no generator: its MLmodel names none", remedy=remedy) from error
    bundle = confined(named, model, f"the MLmodel of {version}", remedy=remedy)
    if not bundle.is_dir():
        raise InputError(f"{version} is no generator: it has no folder {named!r}", remedy=remedy)
    return bundle
