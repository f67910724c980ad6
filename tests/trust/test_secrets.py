"""No password is written down, stands in a command or is handed to Ray; and yet the connection has it."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command_line import GANATOMY, error_line, make_phantom

from ganatomy import cli
from ganatomy.commands import sweep
from ganatomy.contracts import InputError
from ganatomy.tracking.server import connection, refuse_password, shown, store_uri, ui_command, without_password

MARK = "s3cr3t-m4rk"
needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="command lines are read from /proc")
NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@pytest.fixture
def environment(monkeypatch):
    """What the process knows of the tracking server; as it was afterwards, whoever changed it."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch.setenv


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("cohort") / "phantom")


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        (f"http://ann:{MARK}@mlflow.lab:5000", "http://mlflow.lab:5000"),
        (f"https://ann:{MARK}@mlflow.lab/base", "https://mlflow.lab/base"),
        (f"http://ann:half@{MARK}@mlflow.lab", "http://mlflow.lab"),
        (f"postgresql://ann:{MARK}@db.lab/mlflow", "postgresql://ann@db.lab/mlflow"),
        (f"mysql+pymysql://:{MARK}@db.lab/mlflow", "mysql+pymysql://db.lab/mlflow"),
        (f"postgresql://db.lab/mlflow?user=ann&password={MARK}", "postgresql://db.lab/mlflow?user=ann"),
        (f"s3://KEY:{MARK}@bucket/stores?scheme=http", "s3://KEY@bucket/stores?scheme=http"),
        (f"s3://KEY:half/{MARK}+x@bucket/stores", "s3://KEY@bucket/stores"),
        (f"postgresql://ann:half/{MARK}@db.lab/mlflow", "postgresql://ann@db.lab/mlflow"),
        (f"postgresql://ann:half?{MARK}@db.lab/mlflow?a=b", "postgresql://ann@db.lab/mlflow?a=b"),
        (f"http://ann:5000{MARK}@mlflow.lab:5000", "http://mlflow.lab:5000"),
        (f"postgresql://ann@db.lab/mlflow?sslpassword={MARK}", "postgresql://ann@db.lab/mlflow"),
        (f"http://mlflow.lab/?api_key={MARK}&a=b", "http://mlflow.lab/?a=b"),
    ],
)  # fmt: skip
def test_a_password_is_taken_out_and_never_shown(uri, clean):
    assert without_password(uri) == clean
    assert MARK not in shown(f"cannot reach {uri} now")
    with pytest.raises(InputError, match="is given with a password") as refusal:
        refuse_password(uri, "--store-url")
    assert MARK not in str(refusal.value)


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////data/mlflow.db", "sqlite:////data/a:b@c/mlflow.db", "http://mlflow.lab:5000/a@b",
     "postgresql://db.lab:5432/mlflow?user=a@b", "s3://bucket/a:b@c", "http://mlflow.lab:5000",
     "postgresql://ann@db.lab/mlflow", "databricks",
     "s3://bucket/stores?endpoint_override=127.0.0.1:9000&scheme=http&design=1"],
)  # fmt: skip
def test_an_address_without_a_password_stays_as_it_is(uri):
    assert without_password(uri) == uri
    refuse_password(uri, "--store-url")


@pytest.mark.parametrize(
    "command", ["ui", "doctor", "rollback ct-mr", "generate models:/x@champion --image x.nii.gz --out made"]
)
def test_a_command_line_with_a_password_is_refused_in_one_line(command, environment, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [*command.split(), "--tracking-uri", f"http://ann:{MARK}@127.0.0.1:9"]
    assert cli.main(given) == 2
    line = error_line(capsys)
    assert "MLFLOW_TRACKING_PASSWORD" in line
    assert MARK not in line


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        (["--tracking-uri", f"postgresql://ann:{MARK}@db.lab/mlflow"], "pgpass"),
        (["--store-url", f"s3://KEY:{MARK}@bucket/stores"], "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_sweep_with_a_password_on_its_command_line_is_refused(option, remedy, phantom, environment, tmp_path, capsys):
    given = ["--space", "phantom_demo", "--cohort", str(phantom), "--workspace", str(tmp_path / "work"), *option]
    assert sweep.main(given) == 2
    line = error_line(capsys)
    assert remedy in line
    assert MARK not in line
    assert not (tmp_path / "work").exists()


def test_a_plan_with_a_password_is_refused(environment, tmp_path):
    with pytest.raises(InputError, match="on every node"):
        store_uri(f"http://ann:{MARK}@mlflow.lab", tmp_path)


def test_a_database_is_connected_to_with_the_password_that_the_node_has(environment, tmp_path):
    environment("MLFLOW_TRACKING_URI", f"postgresql://ann:{MARK}@db.lab/mlflow")
    written = store_uri(None, tmp_path)
    assert written == store_uri(written, tmp_path) == "postgresql://ann@db.lab/mlflow"
    assert connection(written) == f"postgresql://ann:{MARK}@db.lab/mlflow"
    assert connection("postgresql://ann@other.lab/mlflow") == "postgresql://ann@other.lab/mlflow"


def test_a_password_is_not_moved_for_another_server(environment, tmp_path):
    environment("MLFLOW_TRACKING_URI", f"http://ann:{MARK}@mlflow.lab")
    assert store_uri("http://other.lab", tmp_path) == "http://other.lab"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    assert store_uri("http://mlflow.lab", tmp_path) == "http://mlflow.lab"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == MARK


class Guarded(http.server.BaseHTTPRequestHandler):
    """Says no to everybody, and remembers by what name and password they came."""

    def do_GET(self) -> None:
        scheme, _, word = self.headers.get("Authorization", " ").partition(" ")
        self.server.came.append(base64.b64decode(word).decode() if scheme == "Basic" else "")
        body = json.dumps({"error_code": "UNAUTHENTICATED", "message": "who?"}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def guarded():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    server.came = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_server_is_told_the_password_that_the_environment_holds(guarded, environment, tmp_path):
    from ganatomy.tracking.runs import Tracking

    environment("MLFLOW_TRACKING_URI", f"http://ann:{MARK}%21@127.0.0.1:{guarded.server_port}")
    with pytest.raises(InputError, match="refuses access") as refusal:
        Tracking(None, tmp_path)
    assert set(guarded.came) == {f"ann:{MARK}!"}
    assert MARK not in str(refusal.value)
    assert MARK not in os.environ["MLFLOW_TRACKING_URI"]


def children_of(pid: int) -> set[int]:
    found = {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }
    return found.union(*map(children_of, found))


@needs_proc
def test_no_process_of_the_ui_has_an_address_in_its_command(workspace):
    """The real server, as it starts; its address alone is looked for, as that could hold a password."""
    assert not any("mlflow.db" in word for word in ui_command(None, workspace, 1))
    process = subprocess.Popen([*GANATOMY, "ui", "--workspace", str(workspace), "--port", "0"], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        children, lines = [], []
        while not any(b"server" in line for line in lines):  # a process has its parent's command until it has its own
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
            with contextlib.suppress(OSError):  # one that is gone again
                children = children_of(process.pid)
                lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
        assert not any(b"mlflow.db" in line for line in lines)
        [server, *_] = [pid for pid, line in zip(children, lines) if b"server" in line]
        assert (
            f"MLFLOW_BACKEND_STORE_URI=sqlite:///{workspace}/mlflow.db".encode()
            in Path(f"/proc/{server}/environ").read_bytes()
        )
    finally:
        process.terminate()
        process.wait(timeout=60)


PLANNED = """
import contextlib, functools, json, os, pathlib, sys
import ray
from ganatomy.commands.sweep import Sweep

cohort, workspace = map(pathlib.Path, sys.argv[1:])
sweep = Sweep(space="phantom_demo", cohort=cohort, workspace=workspace, trials=1, address="local")
with contextlib.ExitStack() as running:
    running.callback(ray.shutdown)
    sweep.planned(functools.partial(sweep._settled, running))
    there = ray.get(ray.remote(lambda: os.environ["MLFLOW_TRACKING_PASSWORD"]).remote())
    handed = ray.get_runtime_context().runtime_env
    processes = [path.parent for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
    commands = [(process / "cmdline").read_bytes().decode() for process in processes if mine(process)]
    print(json.dumps({"there": there, "handed": handed, "commands": commands}, default=str))
"""
MINE = """
def mine(process):
    with contextlib.suppress(OSError, IndexError):
        while process.name not in ("0", "1"):
            if process.name == str(os.getpid()):
                return True
            process = process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])
    return False
"""


@needs_proc
def test_neither_plan_nor_ray_nor_a_command_holds_a_password_that_workers_know(phantom, workspace):
    """A real Ray for a sweep that is planned and written down. Its workers have the password by their environment."""
    passwords = {"MLFLOW_TRACKING_PASSWORD": MARK, "AWS_SECRET_ACCESS_KEY": MARK,
                 "GANATOMY_STORE_URL": f"{(workspace / 'bucket').as_uri()}?secret={MARK}"}  # fmt: skip
    program = PLANNED.replace("\ncohort, workspace", MINE + "\ncohort, workspace")
    done = subprocess.run([sys.executable, "-c", program, str(phantom), str(workspace)], capture_output=True, text=True,
                          env={**os.environ, **passwords, "RAY_AUTH_MODE": "disabled"}, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["there"] == MARK
    assert told["handed"]["env_vars"]
    assert MARK not in json.dumps(told["handed"])
    assert any("raylet" in command for command in told["commands"])
    assert not any(MARK in command for command in told["commands"])
    assert MARK not in done.stderr
    written = [path for path in (workspace / "sweeps").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if MARK.encode() in path.read_bytes()]
