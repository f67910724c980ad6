"""Runs a training loop to its end: in this process, or by a group of Ray Train workers that average their gradients.

Both leave the same in the stage's directory: ``history.jsonl`` (rewritten whole at each report, so that it never
holds a line that the checkpoint beside it does not know), ``networks.safetensors`` at the end, and checkpoints from
which either resumes after being killed at any moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import save

from ganatomy.contracts import InputError
from ganatomy.core.installation import CACHE, WrongNode, check_sources
from ganatomy.core.single_flight import LeaseLost, Turn
from ganatomy.core.standstill import limit, noted, paused, watched
from ganatomy.core.tables import write_atomically
from ganatomy.core.terminal import innermost, note_elsewhere, one_line
from ganatomy.stores.staging import NoRoom
from ganatomy.training.loop import Loop, Record

HISTORY = "history.jsonl"
NETWORKS = "networks.safetensors"

# One report a poll is handed over, and the default poll of 2 s makes short epochs wait for it; set before Train starts.
# A group that waits for other trials' workers is given up after controller_failure_limit + 1 time-outs, which are a
# minute each by default: a busy cluster would fail one waiting trial after the other.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


COLLECTIVE_S = 1800
"""How long a rank waits for the others in one of torch's collectives."""

WRONG_NODE_S = 5.0
"""Pause before work that came to a node with other sources is handed out again; the node is kept busy meanwhile."""

T = TypeVar("T")


class Build(Protocol):
    """Makes one rank's loop; a picklable callable (a module-level function, perhaps bound by functools.partial)."""

    def __call__(self, *, rank: int, world: int, device: torch.device) -> Loop:
        """The loop of ``rank`` among ``world`` workers on ``device``."""
        ...


@dataclass(frozen=True)
class Workers:
    """How a training stage is spread: ``count`` ranks, each with so many CPUs and (possibly fractional) GPUs.

    here: a single rank runs in the calling process, which already holds those resources; otherwise the caller holds
    nothing, and what is to be computed asks Ray for them.
    """

    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    here: bool = True
    max_failures: int = 3

    def device(self) -> torch.device:
        """Where one worker computes. InputError where a GPU was asked for and torch sees none: never a silent CPU."""
        if self.gpus == 0:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise InputError(
                f"{self.gpus:g} GPU a worker asked for, but torch {torch.__version__} sees none here",
                expected="a CUDA build of torch and a driver that fits it",
                remedy="see `ganatomy doctor`, or leave --gpus-per-worker out",
            )
        return torch.device("cuda")


def train(build: Build, directory: Path, workers: Workers, published: Callable[[], None]) -> None:
    """Train to the end in ``directory``, calling ``published`` in this thread whenever the history may have grown.

    Raises what the loop raised; a worker that died is restarted from the last checkpoint up to ``max_failures`` times.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if workers.count > 1:
        _train_on_ray(build, directory, workers, published)
    else:
        told = published if workers.here else _nothing
        run_task(partial(_train_alone, build, directory, workers, told), workers, directory, published)


def _train_alone(build: Build, directory: Path, workers: Workers, published: Callable[[], None]) -> None:
    _finish(build(rank=0, world=1, device=workers.device()), DirectoryReporter(directory, published), directory)


def _nothing() -> None:
    return None


def _call(packed: bytes, directory: Path) -> None:
    """Unpacked only here: it is then that a store is opened, or copied to this node."""
    import ray

    check_sources()
    with watched(directory):
        with_room(lambda: ray.cloudpickle.loads(packed)())


def with_room(work: Callable[[], T]) -> T:
    """Do ``work``; where this node's disc has no room for a copy of what it reads, reading the original."""
    try:
        return work()
    except NoRoom:
        os.environ.pop(CACHE, None)
        return work()


def _finish(loop: Loop, reporter: Any, directory: Path) -> None:
    loop.run(reporter)
    if loop.rank == 0:
        beside = directory / f".{NETWORKS}.{uuid.uuid4().hex}"
        try:
            beside.write_bytes(save(loop.final_weights()))  # save_file would shut everybody but us out
            with reporter.turn.taken():
                beside.replace(directory / NETWORKS)
        finally:
            beside.unlink(missing_ok=True)


def run_task(
    work: Callable[[], None], workers: Workers, directory: Path, published: Callable[[], None] = _nothing
) -> None:
    """Run ``work`` (picklable) with one worker's resources: in this process if it holds them, else as a Ray task.

    directory: where a note goes of where it stood still, if it does.  ``published`` is called now and then while the
    task runs. A task whose node died is run again, and so is one that came to a node that just joined with other
    sources: it will be kept from taking more.
    """
    if workers.here:
        with watched(directory):
            work()
        return
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    task = ray.remote(
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
        max_retries=workers.max_failures,
        # Outside the trial's own placement group, which holds nothing.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),
    )(_call)
    packed = ray.cloudpickle.dumps(work)
    for chance in range(workers.max_failures, -1, -1):
        running = task.remote(packed, directory)
        try:
            while not ray.wait([running], timeout=0.5)[0]:
                published()
            return ray.get(running)
        except ray.exceptions.WorkerCrashedError:
            raise RuntimeError(f"its process died, {workers.max_failures + 1} times{noted(directory)}") from None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause or error
            if not (chance and isinstance(cause, WrongNode)):
                raise note_elsewhere(cause, str(error)) from None
        time.sleep(WRONG_NODE_S)


# --- history -----------------------------------------------------------------------------------------------------


def read_history(directory: Path) -> list[Record]:
    """All records of a stage's history so far, oldest first."""
    path = directory / HISTORY
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_history(directory: Path, history: Sequence[Record]) -> None:
    """Replace the stage's history, atomically."""
    write_atomically(directory / HISTORY, "".join(json.dumps(record) + "\n" for record in history))


class HistoryFollower:
    """Hands each record of a stage's history to ``follow`` once, in order, whoever writes the history.

    A resumed stage repeats the steps after its last checkpoint; those already handed over are not handed over again.
    """

    def __init__(self, directory: Path, follow: Callable[[Record], None]) -> None:
        self.directory, self.follow, self.last = directory, follow, 0.0

    def poll(self) -> None:
        """Hand over what is new."""
        for record in read_history(self.directory):
            if record["step"] > self.last:
                self.last = record["step"]
                self.follow(record)


# --- in this process ---------------------------------------------------------------------------------------------


class DirectoryReporter:
    """Checkpoints as ``checkpoint-<step>`` folders, written beside and renamed; the newest complete one is kept."""

    def __init__(self, directory: Path, published: Callable[[], None]) -> None:
        self.directory, self.published = directory, published
        self.turn = Turn(directory)

    def report(self, history: Sequence[Record], save: Callable[[Path], None]) -> None:
        """Checkpoint, then publish the history."""
        final = self.directory / f"checkpoint-{int(history[-1]['step']):09d}"
        with tempfile.TemporaryDirectory(prefix=".checkpoint-", dir=self.directory) as private:
            beside = Path(private) / final.name  # with a new folder's permissions, as whoever resumes may be another
            beside.mkdir()
            save(beside)
            with self.turn.taken():
                shutil.rmtree(final, ignore_errors=True)
                beside.replace(final)
                for old in self._complete()[:-1]:
                    shutil.rmtree(old, ignore_errors=True)
                write_history(self.directory, history)
        with paused():
            self.published()

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The newest complete checkpoint; the history is cut back to what it knows."""
        complete = self._complete()
        if complete:
            shared = torch.load(complete[-1] / "shared.pt", map_location="cpu", weights_only=True)
            write_history(self.directory, shared["history"])
        yield complete[-1] if complete else None

    def _complete(self) -> list[Path]:
        return sorted(self.directory.glob("checkpoint-*"))


def discard_checkpoints(directory: Path) -> None:
    """Remove what only resuming needed, once the stage is done."""
    for path in [*directory.glob("checkpoint-*"), *directory.glob(".checkpoint-*"), directory / "ray"]:
        shutil.rmtree(path, ignore_errors=True)


# --- on Ray ------------------------------------------------------------------------------------------------------


class TrainReporter:
    """Checkpoints through Ray Train, which stores them, hands them back after a failure and resumes a killed run."""

    def __init__(self, directory: Path, rank: int) -> None:
        self.directory, self.rank = directory, rank
        if rank == 0:
            self.turn = Turn(directory)

    def report(self, history: Sequence[Record], save: Callable[[Path], None]) -> None:
        """Every rank adds its files to one checkpoint; rank 0 then publishes the history."""
        import ray.train

        # Where there is room for checkpoints, and not on the node's own disc.
        with tempfile.TemporaryDirectory(prefix=".checkpoint-", dir=self.directory) as beside:
            save(Path(beside))
            ray.train.report(dict(history[-1]), checkpoint=ray.train.Checkpoint.from_directory(beside))
        if self.rank == 0:
            with self.turn.taken():
                write_history(self.directory, history)

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The checkpoint Ray Train kept, as a local folder."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as path:
            if self.rank == 0:
                shared = torch.load(Path(path) / "shared.pt", map_location="cpu", weights_only=True)
                write_history(self.directory, shared["history"])
            yield Path(path)


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import ray.train.torch

    check_sources()
    context = ray.train.get_context()
    rank, directory = context.get_world_rank(), Path(config["directory"])
    build = partial(config["build"], rank=rank, world=context.get_world_size(), device=ray.train.torch.get_device())
    with watched(directory):
        _finish(with_room(build), TrainReporter(directory, rank), directory)


def _train_on_ray(build: Build, directory: Path, workers: Workers, published: Callable[[], None]) -> None:
    os.environ.update(TRAIN_ENVIRONMENT)
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"build": build, "directory": str(directory)},
        torch_config=TorchConfig(
            backend="nccl" if workers.gpus >= 1 else "gloo",
            timeout_s=int(max(COLLECTIVE_S, 2 * limit())),  # who waits for one that hangs may leave a note first
        ),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker=resources,
            placement_strategy="PACK",
        ),
        run_config=RunConfig(
            name="ray",  # the same name and place: a run whose driver was killed resumes by itself
            storage_path=str(directory.resolve()),
            # Both finite: the default of the second retries a starved worker group for ever.
            failure_config=FailureConfig(max_failures=workers.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    # fit() blocks; records are followed (and reported to Tune) from the trial's own thread, as Tune requires.
    running = threading.Thread(target=fit, name="ray-train", daemon=True)
    running.start()
    while running.is_alive():
        running.join(0.5)
        published()
    if failure:
        raise _root_cause(failure[0], directory) from None


def _root_cause(error: BaseException, directory: Path) -> BaseException:
    """The first worker's own exception, which says more than the group's; where it raised none, why it ended."""
    from ray.exceptions import RayError

    for worker_error in (getattr(error, "worker_failures", None) or {}).values():
        cause, stood = innermost(worker_error), noted(directory)
        if isinstance(cause, RayError) or (stood and not isinstance(cause, InputError | WrongNode | LeaseLost)):
            cause = RuntimeError(f"a worker failed: {one_line(cause)}{stood}")
        return note_elsewhere(cause, str(error))
    return error
