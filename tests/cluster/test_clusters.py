"""The files that bring a cluster up: valid by Ray's own schema, and what their scripts really do on a node."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
LAUNCHED = ("cluster.yaml", "clusters/aws.yaml")


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def commands(config: dict) -> list[str]:
    return [command for key, value in config.items() if key.endswith("_commands") for command in value]


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launcher_takes_it(name):
    """As `ray up` does: defaults filled in, then held against the schema that Ray brings."""
    validate_config(prepare_config(read(name)))
    with pytest.raises(Exception, match="hosts"):
        validate_config(prepare_config({**read(name), "hosts": []}))


def test_all_workers_of_the_laboratory_are_kept():
    config = read("cluster.yaml")
    [node] = prepare_config(config)["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_has_the_package_the_token_and_its_environment(name):
    config = read(name)
    assert config["file_mounts"] == {"~/ganatomy": ".", "~/.ray/auth_token": "~/.ray/auth_token"}
    assert any("make environment" in command for command in config["setup_commands"])
    for role in ("head", "worker"):
        first, *_, last = config[f"{role}_start_ray_commands"]
        assert "clusters/node.sh /data" in first
        assert "ray start" in last
    head = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert ("RAY_enable_autoscaler_v2=0" in head) == (config["provider"]["type"] == "local")


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_files_that_commands_name_are_there(name):
    named = {file for command in commands(read(name)) for file in re.findall(r"~/ganatomy/(\S+\.sh)", command)}
    assert named == {"clusters/node.sh", "clusters/tracking.sh"}
    assert all((ROOT / file).is_file() for file in named)


# --- Kubernetes --------------------------------------------------------------------------------------------------

# As the reference of the custom resource (KubeRay 1.6) names them; only those used here.
CLUSTER = {
    "rayVersion",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "authOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
HEAD = {"serviceType", "rayStartParams", "template"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
CONTAINER = {"name", "image", "command", "args", "env", "ports", "resources", "volumeMounts", "securityContext"}


def test_ray_reads_the_kuberay_cluster():
    """By the function with which Ray's autoscaler reads the custom resource in a pod, held against Ray's schema."""
    derived = _derive_autoscaling_config_from_ray_cr(read("clusters/kuberay.yaml"))
    head, workers = (derived["available_node_types"][name] for name in ("headgroup", "gpu"))
    assert head["resources"] == {"CPU": 0, "memory": 32 * 2**30}
    assert workers["resources"] == {"CPU": 8, "GPU": 1, "memory": 32 * 2**30}
    assert (workers["min_workers"], workers["max_workers"]) == (1, 8)


def test_the_kuberay_cluster_has_no_field_that_the_operator_does_not_know():
    resource = read("clusters/kuberay.yaml")
    assert (resource["apiVersion"], resource["kind"]) == ("ray.io/v1", "RayCluster")
    spec = resource["spec"]
    groups = [(spec["headGroupSpec"], HEAD), *((group, WORKERS) for group in spec["workerGroupSpecs"])]
    assert set(spec) == CLUSTER
    assert spec["authOptions"] == {"mode": "token"}
    assert set(spec["autoscalerOptions"]) == {"idleTimeoutSeconds", "upscalingMode"}
    for group, fields in groups:
        assert set(group) == fields
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert set(pod) == {"securityContext", "containers", "volumes"}
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert set(container) <= CONTAINER
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert all(isinstance(pair["value"], str) for pair in container["env"])


def test_the_image_holds_the_ray_that_the_operator_is_told():
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\nray=={read('clusters/kuberay.yaml')['spec']['rayVersion']} \\\n" in lock


def test_no_container_runs_as_root_and_each_may_write_where_its_volumes_are():
    [*_, user] = re.findall(r"^USER (\d+):(\d+)$", image := (ROOT / "clusters/Dockerfile").read_text(), re.MULTILINE)
    assert "0" not in user
    assert not re.search(r"^(RUN|COPY|ADD) ", image.partition(f"USER {':'.join(user)}")[2], re.MULTILINE)
    owned = re.search(r"install -d -o (\d+) -g (\d+) (.*)$", image, re.MULTILINE).groups()
    assert owned[:2] == user
    spec = read("clusters/kuberay.yaml")["spec"]
    mounted = set()
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        ids = [pod["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")]
        assert [str(number) for number in ids] == [*user, user[1]]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            mounted |= {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted - {"/dev/shm"} == set(owned[2].split())


# --- what runs on a node -----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / ".ray").mkdir(mode=0o755)
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    return tmp_path


def run(home: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
    command = ["bash", str(ROOT / "clusters" / script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**inherited, "HOME": str(home), **environment}, timeout=200
    )


def known(home: Path) -> dict[str, str]:
    names = ("RAY_AUTH_MODE", "GLOO_SOCKET_IFNAME", "GANATOMY_HEAD", "GANATOMY_WORKSPACE", "MLFLOW_TRACKING_URI")
    program = f". {home}/.bashrc; echo {' '.join(f'${name}' for name in names)}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, env={"HOME": str(home)})
    return dict(zip(names, done.stdout.split(), strict=True))


needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")


@needs_ip
def test_a_node_is_told_once_what_it_needs_to_know(home):
    for _ in range(2):
        done = run(home, "node.sh", "/shared", "127.0.0.1")
        assert done.returncode == 0, done.stderr
    assert known(home) == {
        "RAY_AUTH_MODE": "token",
        "GLOO_SOCKET_IFNAME": "lo",
        "GANATOMY_HEAD": "127.0.0.1",
        "GANATOMY_WORKSPACE": "/shared/workspace",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    }
    assert (home / ".bashrc").read_text().count("ganatomy") == 1
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o600


@needs_ip
def test_the_head_knows_its_address_from_the_launcher(home):
    (home / "ray_bootstrap_config.yaml").write_text('{"provider": {"type": "local", "head_ip": "127.0.0.1"}}')
    assert run(home, "node.sh", "/shared").returncode == 0
    assert known(home)["GANATOMY_HEAD"] == "127.0.0.1"


@pytest.mark.slow
@needs_ip
def test_the_tracking_server_starts_once_and_stops(home):
    import mlflow

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 5000)) == 0:
            pytest.skip("port 5000 is taken")
    assert run(home, "node.sh", "/shared", "127.0.0.1").returncode == 0
    try:
        started = run(home, "tracking.sh", "start")
        assert started.returncode == 0, started.stderr
        pid = (home / "tracking" / "pid").read_text()
        assert run(home, "tracking.sh", "start").returncode == 0
        assert (home / "tracking" / "pid").read_text() == pid
        client = mlflow.MlflowClient("http://127.0.0.1:5000")
        run_id = client.create_run(client.create_experiment("x")).info.run_id
        client.log_text(run_id, "through the server", "a.txt")
        assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:")
        assert list((home / "tracking" / "artifacts").rglob("a.txt"))
    finally:
        assert run(home, "tracking.sh", "stop").returncode == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 5000)) != 0


def commands_of(group: int) -> list[str]:
    """The commands of a process group, as every user of the machine can read them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((place / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
@needs_ip
@pytest.mark.skipif(find_spec("flask_wtf") is None, reason="mlflow[auth] is not installed: make environment")
def test_a_tracking_server_that_asks_for_a_password_lets_only_who_has_it_record(home, monkeypatch, tmp_path):
    """By one variable. The password is in no command, and in a file that its owner alone can read."""
    from ganatomy.contracts import InputError
    from ganatomy.tracking.runs import Tracking

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 5000)) == 0:
            pytest.skip("port 5000 is taken")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert run(home, "node.sh", "/shared", "127.0.0.1").returncode == 0
    try:
        started = run(home, "tracking.sh", "start", GANATOMY_TRACKING_AUTH="1")
        assert started.returncode == 0, started.stderr
        folder = home / "tracking"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        password = (folder / "admin-password").read_text().strip()
        secrets = (password, (folder / "session-key").read_text().strip())
        assert all(len(secret) >= 32 for secret in secrets)
        assert {stat.S_IMODE((folder / f).stat().st_mode) for f in ("admin-password", "session-key")} == {0o600}
        commands = commands_of(int((folder / "pid").read_text()))
        assert any("basic-auth" in command for command in commands)
        assert not any(secret in command for secret in secrets for command in commands)

        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen("http://127.0.0.1:5000/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=30)
        with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD"):
            Tracking("http://127.0.0.1:5000", tmp_path / "work")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://admin:{password}@127.0.0.1:5000")
        tracking = Tracking(None, tmp_path / "work")
        run_id = tracking.sweep_run("sweep")
        tracking.log_text(run_id, "a.txt", "through the server")
        assert tracking.drain_all() == []
        assert tracking.client.get_run(run_id).data.tags["sweep"] == "sweep"
        assert list((folder / "artifacts").rglob("a.txt"))
        written = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
        assert written
        assert not [path for path in written if password.encode() in path.read_bytes()]
        assert tracking.uri == "http://127.0.0.1:5000"
    finally:
        assert run(home, "tracking.sh", "stop").returncode == 0


@needs_ip
def test_a_database_address_with_a_password_is_refused_before_a_server_starts(home):
    assert run(home, "node.sh", "/shared", "127.0.0.1").returncode == 0
    done = run(home, "tracking.sh", "start", GANATOMY_TRACKING_STORE="postgresql://ann:s3cr3t@db.lab/mlflow")
    assert done.returncode == 2
    assert ".pgpass" in done.stderr
    assert "s3cr3t" not in done.stderr
    assert not (home / "tracking" / "pid").exists()


@needs_ip
def test_a_tracking_server_that_cannot_start_says_why(home):
    assert run(home, "node.sh", "/shared", "127.0.0.1").returncode == 0
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    (home / ".ganatomy.sh").write_text((home / ".ganatomy.sh").read_text().replace(":5000", ":9"))
    done = run(home, "tracking.sh", "start", GANATOMY_TRACKING_STORE="nonsense://nowhere", **nowhere)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "nonsense" in done.stderr
