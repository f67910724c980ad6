"""Runs at a real MLflow server on loopback, which is killed and comes back."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ganatomy.contracts import InputError
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.sending import Journal
from ganatomy.tracking.server import ui_command, ui_environment
from tracking.test_runs import artifacts, history, png


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A real `mlflow server` on loopback, as `ganatomy ui` starts it; it can be killed and started again."""

    def __init__(self, workspace: Path) -> None:
        self.workspace, self.port = workspace, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        store = f"sqlite:///{self.workspace / 'mlflow.db'}"
        command, environment = ui_command(store, self.workspace, self.port), ui_environment(store)
        with (self.workspace / "server.log").open("ab") as log:
            # Its own session: it has children, and they must go with it.
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert self.process.poll() is None, (self.workspace / "server.log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def server(tmp_path_factory, empty_database):
    workspace = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    server = Server(workspace)
    server.start()
    yield server
    server.kill()


TRAINER = """
import io, sys, time
from pathlib import Path
from PIL import Image
from ganatomy.tracking.sending import Journal
directory, uri, run, first, last = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
buffer = io.BytesIO()
Image.new("L", (8, 8)).save(buffer, "PNG")
journal = Journal(directory, uri, run)
for step in range(first, last):
    journal.metrics({"loss": step / 7, "dice": 1.0}, step)
    if step % 10 == 0:
        journal.image("panel", buffer.getvalue(), step)
    print(step, flush=True)
    time.sleep(0.05)
print("sent" if journal.close(0.5) else "kept", flush=True)
"""


def train(directory: Path, uri: str, run: str, first: int, last: int) -> subprocess.Popen:
    command = [sys.executable, "-c", TRAINER, str(directory), uri, run, str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_server_that_is_waited_for_is_named_once(tmp_path):
    said = []
    with pytest.raises(InputError, match="has been away for 1 s"):
        Tracking("http://127.0.0.1:9", tmp_path, patience=1, wait=True, say=said.append)
    assert said == ["waiting for the tracking server http://127.0.0.1:9, at most 1 s"]


def test_a_server_that_goes_away_loses_no_metric_and_stops_no_training(server, tmp_path):
    """A trainer is in the middle of its steps when the server is killed. It ends while the server is away; another
    takes over from an older checkpoint, is killed itself, and all of it is in MLflow once when the server is back."""
    tracking = Tracking(server.uri, tmp_path, patience=120)
    sweep = tracking.sweep_run("outage")
    run = tracking.trial_run(sweep, "t0", "trial", {"arm": "real"})
    place = tmp_path / "trials" / "t0"
    living = Journal(tmp_path / "trials" / "t1", server.uri, tracking.trial_run(sweep, "t1", "another"))
    living.metrics({"loss": 0.0}, 0)
    assert living.flush(60)

    trainer = train(place, server.uri, run, 0, 60)
    lines = [trainer.stdout.readline() for _ in range(25)]
    server.kill()
    lines += trainer.stdout.read().splitlines()
    assert trainer.wait(60) == 0
    assert [line.strip() for line in lines] == [*map(str, range(60)), "kept"]

    successor = train(place, server.uri, run, 50, 1000)  # steps 50 to 59 are computed again
    while successor.stdout.readline().strip() != "80":
        assert successor.poll() is None
    os.kill(successor.pid, signal.SIGKILL)
    reported = 1 + max([80, *(int(line) for line in successor.stdout.read().split() if line.isdigit())])
    successor.wait()

    living.metrics({"loss": 1.0}, 1)
    assert living.flush(0.5) is False
    ended = int(time.time() * 1000)
    tracking.terminate(run, "KILLED", {"pruned": True})
    with pytest.raises(InputError, match="has been away for 1 s"):
        Tracking(server.uri, tmp_path, patience=1, wait=True)
    waiting = []
    asker = threading.Thread(target=lambda: waiting.append(tracking.trial_run(sweep, "t2", "late")))
    asker.start()
    assert tracking.drain_all(tmp_path / "trials", timeout=0.5)

    server.start()
    asker.join(60)
    assert tracking.client.get_run(waiting[0]).data.tags["trial_id"] == "t2"
    assert tracking.drain(tmp_path / "trials" / "of a trial that ends now") == []
    assert tracking.client.get_run(run).info.status == "KILLED"  # said while it was away, without a look at all runs
    assert living.close(60)
    assert tracking.drain_all(tmp_path / "trials") == []
    steps = [step for step, *_ in history(tracking, run, "loss")]
    assert steps[:reported] == list(range(reported))  # each once: no loss, no repetition
    assert len(steps) - reported in (0, 1)
    assert all(value == step / 7 for step, value, _ in history(tracking, run, "loss"))
    stamps = [stamp for *_, stamp in history(tracking, run, "loss")]
    assert stamps == sorted(stamps)
    assert max(stamps) <= ended  # when it was measured, not when it was sent
    assert [step for step, *_ in history(tracking, living.outbox.run, "loss")] == [0, 1]
    pictures = [path for path in artifacts(tracking, run, "images") if path.endswith(".png")]
    assert len(pictures) == len(range(0, len(steps), 10))
    found = tracking.client.get_run(run)
    assert (found.info.status, found.data.tags["pruned"]) == ("KILLED", "True")
    assert abs(found.info.end_time - ended) < 5000


def test_through_a_server(server, tmp_path):
    """The same calls as on a file; numbers that JSON does not know come through; artifacts are the server's affair."""
    tracking = Tracking(server.uri, tmp_path)
    run = tracking.trial_run(tracking.sweep_run("served"), "t0", "trial", {"arm": "real"})
    tracking.log_dataset(run, "glioma", "0123456789abcdef")
    journal = Journal(tmp_path / "journal", server.uri, run)
    journal.metrics({"nan": math.nan, "inf": math.inf, "third": 1 / 3}, 3, timestamp=5)
    journal.image("panel", png(), 3)
    assert journal.close(60)
    assert math.isnan(history(tracking, run, "nan")[0][1])
    assert history(tracking, run, "inf")[0][1] > 1e308
    assert history(tracking, run, "third") == [(3, 1 / 3, 5)]
    assert len(artifacts(tracking, run, "images")) == 2
    assert not (tmp_path / "mlartifacts").exists()
    assert (server.workspace / "mlartifacts").is_dir()


def test_the_registry_of_a_server(server, tmp_path):
    from ganatomy.generators.registry import Registry

    tracking = Tracking(server.uri, tmp_path)
    registry, run = Registry(tracking), tracking.sweep_run("registered")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text('{"experiment": {"sampling": {"ndim": 2}}}')
    (bundle / "fingerprint.json").write_text("{}")
    assert registry.register_generator(bundle, "served", run) == 1
    fetched = registry.download("models:/served@champion")
    assert sorted(path.name for path in fetched.iterdir()) == ["config.json", "fingerprint.json"]
    version = MlflowClient(server.uri).get_model_version_by_alias("served", "champion")
    assert version.run_id == run
    with pytest.raises(InputError, match=r"did you mean 'served'"):
        registry.download("models:/serve@champion")


def test_one_bundle_registered_at_a_server_by_three_processes_at_once_is_one_version(server, tmp_path):
    from generators.test_registry import MODEL, race

    from ganatomy.generators.registry import Registry

    tracking = Tracking(server.uri, tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    told = race(server.uri, tracking.sweep_run("raced"), tmp_path / "model.py", tmp_path)
    [version] = Registry(tracking).versions("ct-mr")
    assert told == [str(version.number)] * 3
    assert version.aliases == ("champion",)


def test_the_ui_serves_what_an_embedded_store_holds(server, workspace):
    """`ganatomy ui` on the store of a workspace: its runs and their pictures can be looked at."""
    tracking = Tracking(f"sqlite:///{server.workspace / 'mlflow.db'}", server.workspace, experiment="embedded")
    run = tracking.sweep_run("on a file")
    tracking.log_text(run, "report.html", "<b>seen</b>")
    with urllib.request.urlopen(f"{server.uri}/get-artifact?path=report.html&run_uuid={run}", timeout=20) as page:
        assert page.read() == b"<b>seen</b>"
