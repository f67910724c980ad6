"""`ray up`, `ray submit cluster.yaml sweep.py …`, a host that dies in the midst and comes back: the same final table.

Two hosts with addresses of their own on this machine (see two_hosts), brought up by the repository's cluster.yaml with
nothing changed but addresses, keys, and where the environment comes from, which is this machine's instead of installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from cluster.ray_on_hosts import SETTINGS, SPACE, finished, make_phantom, table, wait
from cluster.two_hosts import ROOT, Hosts, missing

SWEEP = (*SPACE, "--seeds", "0")

pytestmark = [pytest.mark.slow, pytest.mark.beyond_ci, pytest.mark.timeout(2400)]


@pytest.fixture
def hosts(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    made = Hosts(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.down()


def cluster_file(hosts: Hosts, shared: Path) -> Path:
    """The repository's cluster.yaml with what a user fills in, and one CPU a host."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["provider"] |= {"head_ip": hosts.addresses["head"], "worker_ips": [hosts.addresses["work"]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.folder / "key")}
    token = hosts.folder / "token"
    token.write_text("0123456789abcdef" * 4)
    config["file_mounts"]["~/.ray/auth_token"] = str(token)
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/ganatomy/.venv"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[key] = [
            command.replace("/data", str(shared)).replace(
                "ray start", "ray start --num-cpus=1 --object-store-memory=100000000"
            )
            for command in config[key]
        ]
    # The worker reads stores from its own disc.
    config["worker_start_ray_commands"][-1] = f"GANATOMY_STORE_CACHE=~/stores {config['worker_start_ray_commands'][-1]}"
    path = hosts.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_sweep_over_two_hosts_survives_one_of_them_and_comes_to_what_one_machine_does(hosts, undisturbed, tmp_path):
    shared = tmp_path / "shared"
    cohort, elsewhere = shared / "phantom", tmp_path / "elsewhere"
    for folder in (cohort, elsewhere / "phantom"):
        make_phantom(folder)
    hosts.hidden["work"] = elsewhere
    hosts.pull_the_plug("work")
    hosts.boot("work")
    config = str(cluster_file(hosts, shared))

    up = hosts.client("ray", "up", "-y", "--no-config-cache", config, timeout=600)
    assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]

    def submit(*arguments: str) -> list[str]:
        return ["ray", "submit", config, str(ROOT / "sweep.py"), *arguments]

    # What a node does not see is refused by the node's name, before anything is spent: as a command, and as a job.
    blind = [*SWEEP, "--cohort", str(elsewhere / "phantom"), "--name", "blind", "--nodes", "2", "--set", *SETTINGS]
    job = f"RAY_ADDRESS=http://127.0.0.1:8265 ray job submit -- python ganatomy/sweep.py {' '.join(blind)}"
    for command in (submit(*blind), ["ray", "exec", config, job]):
        refused = hosts.client(*command, timeout=600)
        said = refused.stdout + refused.stderr
        assert f"node {hosts.addresses['work']} (work) does not see the cohort" in said, said[-3000:]
        assert not (shared / "workspace" / "sweeps" / "blind").exists()

    # A sweep; in its midst the worker's host dies, and comes back.
    sweep, log = shared / "workspace" / "sweeps" / "far", tmp_path / "far.log"
    options = ("--cohort", str(cohort), "--name", "far", "--nodes", "2", "--set", *SETTINGS)
    running = hosts.start(log, *submit(*SWEEP, *options))
    wait(lambda: len(finished(sweep)) >= 1 or running.poll() is not None, 600, log.read_text)
    assert running.poll() is None, log.read_text()
    before = finished(sweep)
    assert len(before) < 5, "the sweep outran the test"
    hosts.pull_the_plug("work")
    wait(lambda: "has left" in log.read_text(), 300, log.read_text)
    hosts.boot("work")
    assert running.wait(timeout=1500) == 0, log.read_text()
    assert "has joined" in log.read_text(), log.read_text()
    after = finished(sweep)
    assert len(after) == 5
    assert {trial: after[trial] for trial in before} == before
    assert all(status == "finished" for status, *_ in table(sweep).values())
    [prepared] = (shared / "workspace" / "stores").glob("[!.]*")
    assert len([*(hosts.folder / "work.home" / "stores").glob(f"{prepared.name}-*")]) == 1

    # The same on one machine, with the same seed.
    alone = {digest: row for digest, row in table(undisturbed).items() if digest in table(sweep)}
    assert table(sweep) == alone

    down = hosts.client("ray", "down", "-y", config, timeout=300)
    assert down.returncode == 0, down.stdout + down.stderr
    hosts.down()
    assert hosts.left_behind() == []
