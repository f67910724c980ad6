"""The examination finds what is wrong and says what to do; each fault here is a real one, made on purpose."""

from __future__ import annotations

import http.server
import os
import re
import sqlite3
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ganatomy.commands import doctor


@pytest.fixture
def tracking_server():
    """Serve what the handler says at /version; yields a function that starts one and returns its address."""
    servers = []

    def start(body: str, status: int = 200) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                found = self.path == "/version"
                self.send_response(status if found else 404)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def statuses(checks) -> list[str]:
    return [check.status for check in checks]


def test_nothing_fails_on_the_machine_that_runs_the_tests(tmp_path, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    checks = doctor.examine(tmp_path / "not made yet")
    assert [check for check in checks if check.status == "fail"] == []
    assert {"python", "packages", "workspace", "disc", "tracking", "cluster"} <= {check.name for check in checks}
    assert all(check.remedy for check in checks if check.status != "ok")
    assert not (tmp_path / "not made yet").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torch<2", "torch .* is installed, <2 is needed"),
        ("a-package-that-nobody-wrote>=1", "is not installed, >=1 is needed"),
    ],
)
def test_a_requirement_that_is_not_met_is_named(text, said):
    [problem] = doctor._unmet(Requirement(text))
    assert re.search(said, problem)


def test_a_build_of_the_right_release_meets_its_pin():
    release = version("torch").partition("+")[0]
    assert list(doctor._unmet(Requirement(f"torch=={release}"))) == []


def test_an_extra_whose_parts_are_missing_is_found(tmp_path, monkeypatch):
    """Ray without [default] is installed and imports, and sweeps hang: only the extra's own requirements tell."""
    info = tmp_path / "half_installed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: half-installed\nVersion: 1.0\nProvides-Extra: default\n"
        'Requires-Dist: absent-part>=3; extra == "default"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert list(doctor._unmet(Requirement("half-installed"))) == []
    [problem] = doctor._unmet(Requirement("half-installed[default]"))
    assert problem.startswith("half-installed[default]: absent-part is not installed")


def test_a_shadowed_standard_library_is_found(tmp_path):
    """What platform/__init__.py or platform.py at the repository root would do to everybody."""
    (tmp_path / "platform.py").write_text("")
    program = "import sys, ganatomy.commands.doctor as d; [c] = d.python(); print(c.status, c.found)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("fail"), done.stderr
    assert str(tmp_path) in done.stdout


def test_a_check_that_breaks_is_reported_and_hides_no_other(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("driver gone")
        yield

    monkeypatch.setattr(doctor, "devices", broken)
    checks = doctor.examine(tmp_path)
    [broken_one] = [check for check in checks if check.name == "devices"]
    assert broken_one.status == "fail"
    assert "driver gone" in broken_one.found
    assert {"python", "disc", "cluster"} <= {check.name for check in checks}


def test_a_workspace_inside_a_file_fails(tmp_path):
    (tmp_path / "file").write_text("")
    [check] = doctor.writable(tmp_path / "file" / "workspace")
    assert check.status == "fail"
    assert str(tmp_path / "file") in check.found


@pytest.mark.parametrize(
    ("cores", "free", "expected", "said", "remedy"),
    [
        (2, 23, "ok", "2 at once: 2 cores, one a trial; memory would bear 18", ""),
        (1, 23, "ok", "1 at once", ""),
        (2, 3, "warn", "2 at once: 2 cores, one a trial; memory bears 1", "--concurrent 1"),
        (64, 24, "warn", "memory bears 19", "--concurrent 19"),
    ],
)
def test_as_many_trials_are_counted_as_cores_carry(cores, free, expected, said, remedy, monkeypatch):
    """And fewer where memory bears fewer, with the option that keeps a sweep within it."""
    monkeypatch.setattr(doctor, "cores", lambda: cores)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(doctor, "_memory", lambda: (free * doctor.GIB, 32 * doctor.GIB))
    [memory, trials] = doctor.trials()
    assert (memory.name, memory.status, trials.name, trials.status) == ("memory", "ok", "trials", expected)
    assert said in trials.found
    assert remedy in trials.remedy
    assert bool(trials.remedy) == (expected == "warn")


def test_where_ray_counts_cores_that_this_process_may_not_use_a_sweep_is_to_be_told(monkeypatch):
    monkeypatch.setattr(doctor, "cores", lambda: 2)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(doctor, "_memory", lambda: (100 * doctor.GIB, 100 * doctor.GIB))
    [_, trials] = doctor.trials()
    assert trials.status == "warn"
    assert "the machine has 64" in trials.found
    assert "--concurrent 2" in trials.remedy


def test_without_memory_for_one_trial_it_fails(monkeypatch):
    monkeypatch.setattr(doctor, "_memory", lambda: (doctor.GIB, 2 * doctor.GIB))
    assert statuses(doctor.trials()) == ["fail"]


def test_a_container_that_is_given_fewer_cores_has_fewer(tmp_path):
    here = doctor.cores(tmp_path)
    assert 1 <= here <= (os.cpu_count() or 1)
    for bound, expected in (("max 100000", here), ("150000 100000", 1), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(bound + "\n")
        assert doctor.cores(tmp_path) == expected


def test_a_small_shared_memory_folder_is_warned_about(tmp_path, monkeypatch):
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=64 * 2**20))
    [check] = doctor.shared_memory(tmp_path)
    assert check.status == "warn"
    assert "--shm-size" in check.remedy


def test_a_full_disc_fails_and_an_almost_full_one_warns(tmp_path, monkeypatch):
    usage = doctor.shutil.disk_usage(tmp_path)
    for free, expected in ((2**20, "fail"), (5 * 2**30, "warn"), (50 * 2**30, "ok")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        assert statuses(doctor.disc(tmp_path / "workspace")) == [expected]


def test_a_store_of_another_version_fails_with_its_remedy(tmp_path):
    store = tmp_path / "stores" / "0123456789abcdef"
    store.mkdir(parents=True)
    (store / "store.json").write_text('{"format": 99999}')
    [check] = [check for check in doctor.stores(tmp_path) if check.status == "fail"]
    assert str(store) in check.found
    assert check.remedy


def test_the_tracking_server_that_answers_with_our_version_is_well(tmp_path, tracking_server):
    assert statuses(doctor.tracking(tmp_path, tracking_server(version("mlflow")))) == ["ok"]


def test_a_tracking_server_of_another_version_is_warned_about(tmp_path, tracking_server):
    [check] = doctor.tracking(tmp_path, tracking_server("2.9.2"))
    assert check.status == "warn"
    assert "2.9.2" in check.found


def test_a_tracking_server_that_refuses_is_warned_about(tmp_path, tracking_server):
    [check] = doctor.tracking(tmp_path, tracking_server("Invalid Host header", 403))
    assert check.status == "warn"
    assert "403" in check.found


def test_no_tracking_server_fails_without_printing_its_password(tmp_path):
    [check] = doctor.tracking(tmp_path, "http://somebody:secret@127.0.0.1:9")
    assert check.status == "fail"
    assert "127.0.0.1:9" in check.found
    assert "secret" not in check.found + check.remedy


def test_a_file_that_is_no_tracking_database_fails(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 1000)
    [check] = doctor.tracking(tmp_path, "")
    assert check.status == "fail"
    assert "mlflow.db" in check.found


def test_the_runs_of_a_sound_tracking_database_are_counted(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("a",), ("b",)])
    for uri in ("", f"sqlite:///{tmp_path / 'mlflow.db'}"):
        [check] = doctor.tracking(tmp_path, uri)
        assert check.status == "ok"
        assert "2 runs" in check.found


def test_a_token_that_others_can_read_fails(tmp_path, monkeypatch):
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert statuses(doctor.token()) == ["fail"]
    path.write_text("0" * 64)
    path.chmod(0o644)
    assert statuses(doctor.token()) == ["fail"]
    path.chmod(0o600)
    assert statuses(doctor.token()) == ["ok"]


def test_a_cluster_that_does_not_answer_fails_in_time():
    [check] = doctor.cluster("127.0.0.1:9", timeout=2)
    assert check.status == "fail"
    assert "127.0.0.1:9" in check.found
    assert "RAY_ADDRESS" in check.remedy


def test_what_is_wrong_with_nodes_is_told_with_its_remedy():
    """Which faults there are, test_nodes tells."""
    faults = [{"what": "torch is 2.9.0 on node 10.0.0.2, 2.13.0+cpu here", "remedy": "bring it up to date"}]
    answer = {"nodes": ["10.0.0.1", "10.0.0.2"], "resources": {"CPU": 8.0}, "faults": faults}
    checks = list(doctor.judged("head:6379", answer))
    assert statuses(checks) == ["ok", "fail"]
    assert "2 nodes, 8 CPU, 0 GPU: 10.0.0.1, 10.0.0.2" in checks[0].found
    assert "torch is 2.9.0 on node 10.0.0.2" in checks[1].found
    assert checks[1].remedy == "bring it up to date"


def test_a_running_cluster_is_asked_by_the_same_questions_as_before_a_sweep(ray_cluster, tmp_path):
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "cohort.yaml").write_text("name: seen")
    address = ray_cluster.get_runtime_context().gcs_address
    [check] = doctor.cluster(address, workspace=tmp_path, cohort=tmp_path / "cohort")
    assert check.status == "ok"
    assert "1 nodes, 2 CPU" in check.found
    [check] = doctor.cluster(address, workspace=tmp_path, cohort=tmp_path / "nowhere")
    assert check.status == "fail"
    assert "nowhere" in check.found


def test_paths_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert statuses(doctor.writable(Path("a/b/c"))) == ["ok"]
