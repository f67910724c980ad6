"""Nodes that are not like the driver are named before anything is spent; those that come later are judged too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ganatomy
from ganatomy.cluster import nodes
from ganatomy.cluster.nodes import inquiry
from ganatomy.cluster.roll import slots
from ganatomy.core import installation
from ganatomy.core.installation import look, sources_of

ROOT = Path(__file__).parents[2]


def answers(question, **changes):
    """Our own answer to the question, and that of a node like us but for the changes."""
    here, there = look(question), look(question)
    for part, change in changes.items():
        there[part] = {**there[part], **change} if isinstance(change, dict) else change
    return here, [("10.0.0.2 (rack-2)", there)]


def told(question, **changes) -> list[str]:
    return [fault.what for fault in nodes.faults(*answers(question, **changes), question)]


@pytest.fixture
def cohort(tmp_path) -> Path:
    folder = tmp_path / "cohort"
    folder.mkdir()
    (folder / "cohort.yaml").write_text("name: seen")
    return folder


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(installation, "APPEARING_S", 0.0)


def test_a_node_like_us_is_not_at_fault_and_nothing_is_left_behind(tmp_path, cohort):
    with inquiry(["ganatomy"], workspace=tmp_path, cohort=cohort) as question:
        assert told(question) == []
        assert list(tmp_path.glob(".asked-*"))
    assert not list(tmp_path.glob(".asked-*"))


def test_a_node_whose_disc_is_full_is_named_with_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GANATOMY_STORE_CACHE", str(tmp_path))
    with inquiry(["ganatomy"]) as question:
        assert look(question)["room"][str(tmp_path)] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
        assert told(question, room={"/tmp/ray": 3_000_000}) == ["node 10.0.0.2 (rack-2) has 3 MB left in /tmp/ray"]
        assert told(question, room={"/tmp/ray": 200_000_000}) == []


def test_what_differs_is_named_with_the_node(tmp_path, cohort, at_once):
    with inquiry(["ganatomy"], workspace=tmp_path, cohort=cohort) as question:
        assert told(question, versions={"torch": "2.9.0"})[0].startswith("torch is 2.9.0 on node 10.0.0.2 (rack-2), 2.")
        assert told(question, versions={"torch": look(question)["versions"]["torch"].partition("+")[0] + "+cu1"}) == []
        assert told(question, sources={"ganatomy": "0" * 16}) == [
            "package ganatomy has other sources on node 10.0.0.2 (rack-2)"
        ]
        assert told(question, sources={"ganatomy": "missing"}) == [
            "package ganatomy is missing on node 10.0.0.2 (rack-2)"
        ]
        [blind] = told(question, files={f"cohort {cohort}": "No such file or directory"})
        assert blind == f"node 10.0.0.2 (rack-2) does not see the cohort {cohort} (No such file or directory)"
        [astray] = told(question, files={f"workspace {tmp_path}": "0" * 16})
        assert astray == f"node 10.0.0.2 (rack-2) sees another workspace {tmp_path}"
        [barred] = told(question, wrote="Read-only file system")
        assert (
            barred == f"node 10.0.0.2 (rack-2) cannot write to the workspace {tmp_path.absolute()}"
            " (Read-only file system)"
        )
        [elsewhere] = told(question, wrote="f" * 32)  # it wrote, but not where we look
        assert elsewhere.startswith("node 10.0.0.2 (rack-2) cannot write to the workspace")
    silent = [("10.0.0.2", {"error": "has not answered for 90 s"})]
    [fault] = nodes.faults(look(question), silent, question)
    assert fault.what == "node 10.0.0.2 has not answered for 90 s"
    assert fault.remedy


def test_sources_are_told_apart_by_content_and_by_name(tmp_path, monkeypatch):
    package = tmp_path / "a_laboratory"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "loss.py").write_text("weight = 1")
    monkeypatch.syspath_prepend(tmp_path)
    seen = [sources_of(["a_laboratory"])]
    (package / "__pycache__").mkdir()
    assert sources_of(["a_laboratory"]) == seen[0]
    (package / "inner" / "loss.py").write_text("weight = 2")
    seen.append(sources_of(["a_laboratory"]))
    (package / "inner" / "loss.py").rename(package / "inner" / "losses.py")
    seen.append(sources_of(["a_laboratory"]))
    assert len({found["a_laboratory"] for found in seen}) == 3
    assert sources_of(["nobody_wrote_this"]) == {"nobody_wrote_this": "missing"}


def test_everything_that_plugs_in_is_asked_for():
    assert nodes.packages_of("shape_consistent", "toy_lab.moments:Moments") == [
        "ganatomy", "ganatomy_methods", "ganatomy_search_spaces", "toy_lab",
    ]  # fmt: skip


def test_work_on_a_node_with_other_sources_says_which(monkeypatch):
    demand = json.loads(installation.demanded(["ganatomy"]))
    for host, sources, wrong in (
        (demand["host"], {"ganatomy": "0" * 16}, False),  # where the sweep was started they may be edited meanwhile
        ("head", demand["sources"], False),
        ("head", {"ganatomy": "0" * 16}, True),
        ("head", {**demand["sources"], "nobody_wrote_this": "0" * 16}, True),
    ):
        monkeypatch.setenv(installation.SOURCES, json.dumps({"host": host, "sources": sources}))
        if wrong:
            with pytest.raises(installation.WrongNode, match=f"node {demand['host']}: .*ray up"):
                installation.check_sources()
        else:
            installation.check_sources()
    monkeypatch.setenv(installation.SOURCES, "")
    installation.check_sources()


@pytest.mark.parametrize(("has", "cpus", "gpus", "workers"), [
    ([{"CPU": 8}, {"CPU": 4}], 1, 0, 12),
    ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2),  # what nodes have left over does not add up
    ([{"CPU": 3}, {"CPU": 3}], 4, 0, 0),
    ([{"CPU": 16, "GPU": 2}, {"CPU": 64}], 4, 1, 2),  # heterogenous: a node without GPU takes no GPU worker
    ([{"CPU": 16, "GPU": 2}], 1, 0.4, 4),  # a fraction never lies on two devices
    ([{"CPU": 16, "GPU": 1}], 1, 0.1, 10),
    ([{"CPU": 2, "GPU": 1}], 1, 0.1, 2),
    ([{"CPU": 0}], 1, 0, 0),
    ([], 1, 1, 0),
])  # fmt: skip
def test_workers_are_counted_node_by_node(has, cpus, gpus, workers):
    assert slots([{"Resources": resources} for resources in has], cpus, gpus) == workers


# --- real nodes --------------------------------------------------------------------------------------------------

CLUSTER = """
import json, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ganatomy.cluster import nodes, roll
from ganatomy.contracts import InputError

folder, edited, path = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
said, found = [], {}

def wait(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, said
        roll.working()
        time.sleep(0.2)

def free():
    return ray.available_resources().get("CPU", 0)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
with nodes.inquiry(["ganatomy"], workspace=folder) as question, roll.roll_called(question, said.append, nodes.alive()):
    good = cluster.add_node(num_cpus=2)
    wait(lambda: len(roll.working()) == 2)
    found["good"] = roll.slots(roll.working(), 1, 0)
    nodes.check_nodes(question, said.append)
    cluster.add_node(num_cpus=4, env_vars={"PYTHONPATH": edited + ":" + path})
    wait(lambda: len(said) == 2 and free() == 3)  # it had 4, which are all taken
    found["bad"] = roll.slots(roll.working(), 1, 0)
    try:
        nodes.check_nodes(question, said.append)
    except InputError as error:
        found["refused"] = str(error)
    cluster.remove_node(good, allow_graceful=False)
    wait(lambda: len(roll.working()) == 1)
    found["left"] = roll.slots(roll.working(), 1, 0)
print(json.dumps({**found, "said": said}))
ray.shutdown()
cluster.shutdown()
"""

PACKED = """
import json, socket, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ganatomy.training.distributed import Workers, TRAIN_ENVIRONMENT, train

class Nothing:
    rank = 0
    def __init__(self, rank, folder):
        self.rank, self.folder = rank, folder
    def run(self, reporter):
        (self.folder / f"rank-{self.rank}").write_text(ray.get_runtime_context().get_node_id())
    def final_weights(self):
        import torch
        return {"w": torch.zeros(1)}

class Build:
    def __init__(self, folder):
        self.folder = folder
    def __call__(self, *, rank, world, device):
        return Nothing(rank, self.folder)

folder = Path(sys.argv[1])
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
cluster = Cluster(initialize_head=True,
                  head_node_args={"num_cpus": 1, "include_dashboard": True, "dashboard_port": port})
cluster.add_node(num_cpus=1)
wide = cluster.add_node(num_cpus=2)
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR",
         runtime_env={"env_vars": TRAIN_ENVIRONMENT})
train(Build(folder), folder / "stage", Workers(count=2, here=False), lambda: None)
on = [(folder / f"rank-{rank}").read_text() for rank in (0, 1)]
print(json.dumps({"on": on, "wide": wide.node_id}))
ray.shutdown()
cluster.shutdown()
"""


def on_a_cluster(program: str, *arguments: str) -> dict:
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "6",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.mark.slow
def test_a_node_that_joins_is_counted_if_it_is_like_us_and_kept_busy_if_it_is_not(tmp_path):
    edited = tmp_path / "edited" / "ganatomy"
    shutil.copytree(Path(ganatomy.__file__).parent, edited, ignore=shutil.ignore_patterns("__pycache__"))
    with (edited / "training" / "loop.py").open("a") as source:
        source.write("# a line more\n")
    found = on_a_cluster(CLUSTER, str(tmp_path), str(edited.parent), os.pathsep.join(path for path in sys.path if path))
    assert (found["good"], found["bad"], found["left"]) == (3, 3, 1)
    assert "package ganatomy has other sources on node" in found["refused"]
    assert "ray up cluster.yaml" in found["refused"]
    joined, refused, left = found["said"]
    assert "has joined" in joined
    assert "has other sources on node" in refused
    assert "it gets no trials" in refused
    assert "has left" in left


@pytest.mark.slow
def test_the_workers_of_one_trial_share_a_node_that_has_room_for_them(tmp_path):
    found = on_a_cluster(PACKED, str(tmp_path))
    assert found["on"] == [found["wide"]] * 2
