"""The tracking store is made once, named once, and one clear line says why it cannot be used."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest

from ganatomy.contracts import InputError
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.server import ui_command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_four_processes_may_be_the_first_to_use_a_store(tmp_path):
    """Each makes the same sweep's trial in a store that is not there yet; nobody fails, and nobody prints a word."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom ganatomy.tracking.runs import Tracking\n"
        "workspace, trial = Path(sys.argv[1]), sys.argv[2]\n"
        "(workspace / f'ready{trial}').touch()\n"
        "while len(list(workspace.glob('ready*'))) < 4: pass\n"
        "tracking = Tracking(None, workspace)\n"
        "tracking.terminate(tracking.trial_run('0' * 32, trial, trial, {'arm': 'real'}), 'FINISHED')\n"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    racers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(trial)], env=env, cwd=tmp_path,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for trial in range(4)
    ]  # fmt: skip
    said = [racer.communicate(timeout=240)[0] for racer in racers]
    assert said == [""] * 4
    assert [racer.returncode for racer in racers] == [0] * 4
    tracking = Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    runs = tracking.client.search_runs([tracking.experiment_id])
    assert sorted(run.data.tags["trial_id"] for run in runs) == ["0", "1", "2", "3"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("ready")}
    assert left == {"mlflow.db", ".mlflow.db.lock", "outbox"}


def test_a_database_is_built_once_and_whole_whoever_comes_first(tmp_path):
    """Four processes want it at once, and the first builder is killed half way: one other builds, all find it whole."""
    uri = f"sqlite:///{tmp_path / 'deep' / 'mlflow.db'}"
    program = (
        "import sqlite3, sys, time\nfrom ganatomy.tracking.server import create_once\n"
        "def build(uri):\n"
        "    print('building', flush=True)\n"
        "    database = sqlite3.connect(uri.removeprefix('sqlite:///'))\n"
        "    for name in 'abc':\n"
        "        database.execute(f'CREATE TABLE {name} (x)'); database.commit(); time.sleep(float(sys.argv[2]))\n"
        "create_once(sys.argv[1], build)\n"
        "database = sqlite3.connect(sys.argv[1].removeprefix('sqlite:///'))\n"
        "assert len(database.execute('SELECT name FROM sqlite_master').fetchall()) == 3\n"
    )

    def start(pause):
        return subprocess.Popen([sys.executable, "-c", program, uri, str(pause)], stdout=subprocess.PIPE, text=True)

    first = start(30)
    assert first.stdout.readline() == "building\n"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "deep" / "mlflow.db").exists()
    others = [start(0.05) for _ in range(4)]
    assert sorted(other.communicate(timeout=120)[0] for other in others) == ["", "", "", "building\n"]
    assert [other.returncode for other in others] == [0] * 4
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


def test_the_store_is_named_once_for_all_processes(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    assert Tracking("sqlite:///mlflow.db", workspace).uri == f"sqlite:///{workspace / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace / 'mlflow.db'}")
    elsewhere = Tracking(None, workspace / "elsewhere")
    assert elsewhere.uri == f"sqlite:///{workspace / 'mlflow.db'}"


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite:///:memory:", "sqlite://"])
def test_a_store_that_mlflow_no_longer_takes_is_refused(tmp_path, uri):
    with pytest.raises(InputError, match="cannot be used; expected sqlite:///FILE"):
        Tracking(uri, tmp_path)


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    (tmp_path / "mlflow.db").write_text("a letter to my aunt")
    with pytest.raises(InputError, match="not an SQLite database"):
        Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    assert (tmp_path / "mlflow.db").read_text() == "a letter to my aunt"


def test_a_database_of_another_version_is_told(workspace):
    database = sqlite3.connect(workspace / "mlflow.db")
    database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    database.commit()
    database.close()
    with pytest.raises(InputError, match=r"another version of MLflow; remedy: .*mlflow db upgrade sqlite"):
        Tracking(None, workspace)


def test_a_deleted_experiment_is_told(workspace):
    tracking = Tracking(None, workspace)
    tracking.client.delete_experiment(tracking.experiment_id)
    with pytest.raises(InputError, match=r"'ganatomy'.*deleted; remedy: mlflow experiments restore --experiment-id 2"):
        Tracking(None, workspace)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used"):
        Tracking(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", tmp_path)


def test_a_server_that_is_not_there_is_told_at_once(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):  # set below us, and as they were afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{free_port()}")
    start = time.monotonic()
    says = r"http://127\.0\.0\.1:\d+ does not answer; .*leave out --tracking-uri"
    with pytest.raises(InputError, match=says) as error:
        Tracking(None, tmp_path)
    assert time.monotonic() - start < 10
    assert "secret" not in str(error.value)


def test_a_server_that_listens_and_says_nothing_is_told_within_ten_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")  # what a user set for other ends does not count here
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        start = time.monotonic()
        with pytest.raises(InputError, match="does not answer"):
            Tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        assert 5 < time.monotonic() - start < 12
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"


def test_the_ui_of_a_server_is_its_page(tmp_path):
    assert ui_command("http://mlflow.lab:5000", tmp_path, 1)[-1] == "http://mlflow.lab:5000"
