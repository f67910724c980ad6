"""N workers equal one worker on the N batches together, and a worker that is killed costs nothing but time."""

import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file
from torch import nn

from ganatomy.contracts import Images, Task
from ganatomy.core.installation import WrongNode
from ganatomy.core.single_flight import LeaseLost
from ganatomy.core.terminal import one_line, raised_at, whole_traceback
from ganatomy.experiment import Training
from ganatomy.training.distributed import (
    NETWORKS,
    DirectoryReporter,
    HistoryFollower,
    Workers,
    read_history,
    run_task,
    train,
    write_history,
)
from ganatomy.training.loop import Loop
from ganatomy_methods.shape_consistent import ShapeConsistent, ShapeConsistentConfig

# Ray's workers cannot import this file; what they are sent from it travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Scans:
    """Unpaired labelled 16 x 16 images, a pure function of step and place; every third image of B is unlabelled."""

    def __init__(self, pause=0.0):
        self.pause = pause

    def batch(self, step, rank=0, world=1):
        time.sleep(self.pause)
        return {role: self._images(role, step, rank, world) for role in ("A", "B")}

    def _images(self, role, step, rank, world):
        images, labels = [], []
        for i in range(rank, 4, world):
            generator = torch.Generator().manual_seed(10_000 * (role == "B") + 10 * step + i)
            label = (torch.rand(16, 16, generator=generator) > 0.6).long()
            noise = 0.2 * torch.randn(16, 16, generator=generator, dtype=torch.float64)
            images.append((label * 1.2 - 0.6 + noise)[None].clamp(-1, 1))
            labels.append(torch.full_like(label, -1) if role == "B" and i == 2 else label)
        return Images(torch.stack(images), torch.stack(labels))


@dataclass(frozen=True)
class BuildLoop:
    """Pools off, so that ranks share everything but their samples. In double precision: in single, Adam blows rounding
    up to full steps wherever a gradient is zero but for it (a bias before InstanceNorm), and hides what is compared."""

    steps: int = 6
    reports: int = 3
    pause: float = 0.0
    pids: str = ""

    def __call__(self, *, rank, world, device):
        if self.pids:
            (Path(self.pids) / f"rank-{rank}-{time.time_ns()}").write_text(str(os.getpid()))
        torch.set_num_threads(1)
        torch.manual_seed(0)
        task = Task(2, 2, lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
        config = ShapeConsistentConfig(width=0.0625, discriminator_layers=1, pool_size=0)
        method = ShapeConsistent(config, task).double()
        return Loop(
            method,
            Scans(self.pause),
            method.phases(self.steps, self.steps),
            training=Training(),
            batch=4,
            reports=self.reports,
            seed=0,
            device=device,
            rank=rank,
            world=world,
        )


def run_to_end(loop, directory):
    directory.mkdir()
    loop.run(DirectoryReporter(directory, lambda: None))


def on_two_processes(build, folder):
    """Train with two ranks that meet over gloo, without Ray; leaves what each had in ``folder``."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (2, port, str(folder), build), nprocs=2)
    return folder


def _rank(rank, world, port, folder, build):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=world)
    loop = build(rank=rank, world=world, device=torch.device("cpu"))
    run_to_end(loop, Path(folder) / f"rank-{rank}")
    torch.save(loop.final_weights(), Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()


def losses_of(directory):
    return [
        {name: value for name, value in record.items() if name.startswith("train/")}
        for record in read_history(directory)
    ]


def test_two_workers_equal_one_on_both_batches_together(tmp_path):
    alone = BuildLoop()(rank=0, world=1, device=torch.device("cpu"))
    initial = {name: value.clone() for name, value in alone.final_weights().items()}
    run_to_end(alone, tmp_path / "alone")
    on_two_processes(BuildLoop(), tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in alone.final_weights().items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-5)
        assert torch.equal(first[name], second[name])
    assert max(float((value - initial[name]).abs().max()) for name, value in first.items()) > 1e-3
    for record, other in zip(losses_of(tmp_path / "alone"), losses_of(tmp_path / "rank-0"), strict=True):
        assert record == pytest.approx(other, abs=1e-5)


def test_training_here_leaves_history_and_weights_and_tells_of_each_report(tmp_path):
    calls = []
    train(BuildLoop(), tmp_path, Workers(), lambda: calls.append(len(read_history(tmp_path))))
    assert calls == [1, 2, 3]
    expected = BuildLoop()(rank=0, world=1, device=torch.device("cpu")).final_weights()
    assert set(load_file(tmp_path / NETWORKS)) == set(expected)


def test_a_follower_gives_each_record_once_even_if_history_is_rewritten(tmp_path):
    seen = []
    follower = HistoryFollower(tmp_path, lambda record: seen.append(record["step"]))
    follower.poll()
    write_history(tmp_path, [{"step": 1}, {"step": 2}])
    follower.poll()
    write_history(tmp_path, [{"step": 1}])  # resumed from the checkpoint of step 1
    follower.poll()
    write_history(tmp_path, [{"step": 1}, {"step": 2}, {"step": 3}])
    follower.poll()
    assert seen == [1, 2, 3]


def test_of_two_that_compute_the_same_the_later_goes_on_and_the_earlier_is_told(tmp_path):
    """As when a node is cut off, goes on, and its work has been handed out again."""
    lost = []

    def cut_off():
        try:
            train(BuildLoop(steps=40, reports=20, pause=0.1), tmp_path, Workers(), lambda: None)
        except LeaseLost as error:
            lost.append(error)

    earlier = threading.Thread(target=cut_off)
    earlier.start()
    while len(read_history(tmp_path)) < 2:
        assert earlier.is_alive()
    train(BuildLoop(steps=40, reports=20), tmp_path, Workers(), lambda: None)
    earlier.join()
    assert len(lost) == 1
    alone = BuildLoop(steps=40, reports=20)(rank=0, world=1, device=torch.device("cpu"))
    run_to_end(alone, tmp_path / "alone")
    assert losses_of(tmp_path) == losses_of(tmp_path / "alone")
    weights = load_file(tmp_path / NETWORKS)
    assert all(torch.equal(value, weights[name]) for name, value in alone.final_weights().items())
    assert [path.name for path in tmp_path.glob(".*.*") if path.is_file()] == []


def test_history_is_never_half_written(tmp_path):
    records = [{"step": step, "value": "x" * 2000} for step in range(200)]
    stop = threading.Event()

    def write():
        while not stop.is_set():
            write_history(tmp_path, records)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert len(read_history(tmp_path)) in (0, 200)
    finally:
        stop.set()
        writer.join()


# --- real Ray Train ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_the_result_is_that_of_an_undisturbed_run(tmp_path, ray_cluster):
    pids, directory = tmp_path / "pids", tmp_path / "stage"
    pids.mkdir()
    build = BuildLoop(steps=40, reports=20, pause=0.1, pids=str(pids))
    killed = []

    def kill_once():
        ranks = sorted(pids.glob("rank-1-*"))
        if not killed and ranks and len(read_history(directory)) >= 3:
            killed.append(int(ranks[0].read_text()))
            os.kill(killed[0], signal.SIGKILL)

    train(build, directory, Workers(count=2, here=False), kill_once)
    assert killed, "the worker outran the test"
    assert len(list(pids.glob("rank-1-*"))) >= 2, "nobody was restarted"
    undisturbed = on_two_processes(replace(build, pause=0.0, pids=""), tmp_path / "undisturbed")
    assert losses_of(directory) == losses_of(undisturbed / "rank-0")
    weights = torch.load(undisturbed / "rank-0.pt", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in load_file(directory / NETWORKS).items())


@pytest.mark.parametrize(("wrong", "raised"), [(1, None), (99, WrongNode)])
def test_work_that_came_to_a_node_with_other_sources_is_handed_out_again(
    tmp_path, ray_cluster, monkeypatch, wrong, raised
):
    monkeypatch.setattr("ganatomy.training.distributed.WRONG_NODE_S", 0.1)

    def work():
        tries = len(list(tmp_path.iterdir()))
        (tmp_path / f"try-{tries}").touch()
        if tries < wrong:
            raise WrongNode("node rack-2: ganatomy has other sources")

    if raised:
        with pytest.raises(raised, match="rack-2"):
            run_task(work, Workers(here=False, max_failures=2), tmp_path)
        assert len(list(tmp_path.iterdir())) == 3
    else:
        run_task(work, Workers(here=False), tmp_path)
        assert len(list(tmp_path.iterdir())) == wrong + 1


def a_plugins_step():
    return {}["C"]


def assert_raised_in_a_plugin(error):
    """The error is the plug-in's own, and its traceback the worker's, of whose machine nothing is said."""
    assert one_line(error) == "KeyError: 'C'"
    told = whole_traceback(error)
    assert raised_at(told).startswith(f"{__file__}, line ")
    assert raised_at(told).endswith(", in a_plugins_step")
    assert "\x1b" not in told
    assert "ip=" not in told


def test_what_a_task_raised_comes_with_the_traceback_of_the_worker(tmp_path, ray_cluster):
    with pytest.raises(KeyError) as raised:
        run_task(a_plugins_step, Workers(here=False), tmp_path)
    assert_raised_in_a_plugin(raised.value)


@pytest.mark.slow
@pytest.mark.beyond_ci
def test_what_one_of_a_group_raised_comes_with_the_traceback_of_the_worker(tmp_path, ray_cluster):
    def build(**_):
        a_plugins_step()

    with pytest.raises(KeyError) as raised:
        train(build, tmp_path / "stage", Workers(count=2, here=False, max_failures=0), lambda: None)
    assert_raised_in_a_plugin(raised.value)


def test_a_wrapper_of_rays_speaks_as_what_is_in_it(ray_cluster):
    with pytest.raises(ray.exceptions.RayTaskError) as raised:
        ray.get(ray.remote(num_cpus=0)(a_plugins_step).remote())
    assert one_line(raised.value) == "KeyError: 'C'"
