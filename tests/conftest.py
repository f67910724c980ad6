"""What tests of several rooms need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _no_tracking_server():
    """What tests record stays in their own stores, whatever server their user's shell names."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An MLflow database with nothing in it. Making one takes seconds; copying it takes none."""
    from ganatomy.tracking.runs import Tracking

    workspace = tmp_path_factory.mktemp("empty")
    Tracking(f"sqlite:///{workspace / 'mlflow.db'}", workspace, experiment="unused")
    return workspace / "mlflow.db"


@pytest.fixture(scope="session")
def benchmark_script():
    """Name of a script in ``benchmarks/`` -> its module, which no package holds."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "benchmarks" / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look it up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def workspace(tmp_path, empty_database) -> Path:
    """A folder with an embedded MLflow store that nobody has used."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="module")
def one_thread_and_no_pictures():
    """For tests of many small trainings: threads cost them more than they give, and so does drawing."""
    import tiny
    import torch

    from ganatomy.training import tasks

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "sheet", tasks.sheet)
        tiny.draw_dots()
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The sweep that sweeps on several hosts are held against: on this machine alone, and nothing happens to it. Its
    folder; the workspace is two above."""
    from cluster import ray_on_hosts, two_hosts

    if reason := two_hosts.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("undisturbed")
    return ray_on_hosts.sweep_alone(ray_on_hosts.make_phantom(folder / "phantom"), folder / "workspace")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """A real Ray of this test session's own, with two CPUs whatever the machine has."""
    import ray

    from ganatomy.training.distributed import TRAIN_ENVIRONMENT

    # Without this Ray writes an authentication token into the home directory.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.update(TRAIN_ENVIRONMENT)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()
