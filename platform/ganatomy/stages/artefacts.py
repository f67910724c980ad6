"""What stages leave: folders named by the hash of what they depend on, each computed once by whoever comes first."""

from __future__ import annotations

import hashlib
import inspect
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, cast

from ganatomy.contracts import InputError
from ganatomy.core.plain_files import read_json
from ganatomy.core.plain_values import digest, plain
from ganatomy.core.single_flight import LeaseLost, single_flight
from ganatomy.core.standstill import Standstills
from ganatomy.evidence.results import write_json
from ganatomy.training.distributed import HistoryFollower, Workers, discard_checkpoints, read_history
from ganatomy.training.loop import Record
from ganatomy.training.optimisation import Diverged

FORMAT = 4
"""Part of every key: raised when what a stage leaves, or how it computes it, changes."""

STAGE = "stage.json"

Grown = Callable[[], None]
"""Called whenever a stage's history may have grown."""

Work = Callable[[Path, Grown], None]
"""Computes a stage in the folder it is given."""

Follow = Callable[["Stage", Record], None]
"""Called with a stage and a new record of its history: the progress of the stages that train a trial's own networks."""


@dataclass(frozen=True)
class Stage:
    """One finished stage on disk. Its record ``stage.json`` holds the inputs that its key is the hash of."""

    kind: str
    key: str
    directory: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of ``stage.json``."""
        return cast(dict[str, Any], read_json(self.directory / STAGE))

    def finished(self) -> bool:
        """Complete on disk."""
        return (self.directory / STAGE).exists()


@dataclass
class Artefacts:
    """The finished stages of a workspace, and the ones being computed.

    directory: holds ``<kind>/<key>/``.  workers: recorded with what they computed.  say: told, in a sentence, what is
    being computed or waited for.  may_train: False where a missing fit or downstream model is an InputError.
    keys: kind -> key of the stage asked for last.  finished: key -> stage asked for.  costs: key -> device seconds.
    """

    directory: Path
    workers: Workers
    say: Callable[[str], None]
    may_train: bool = True
    keys: dict[str, str] = field(default_factory=dict)
    finished: dict[str, Stage] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    def compute(
        self, kind: str, inputs: Mapping[str, Any], work: Work, *, follow: Follow | None = None, costs: bool = False
    ) -> Stage:
        """The stage with these inputs: as it lies on disk, or computed now, or waited for while another computes it.

        follow: told every record of its history, whoever writes it.  costs: what it took counts among ``costs``.
        """
        key = key_of(kind, inputs)
        if key in self.finished:
            return self.finished[key]
        stage = Stage(kind, key, self.directory / kind / key)
        follower = HistoryFollower(stage.directory, partial(follow, stage) if follow else lambda record: None)
        if kind in ("fit", "downstream") and not self.may_train and not stage.finished():
            raise InputError(
                f"the networks of {kind} {key} are not in {self.directory}",
                expected="what the sweep trained; other sources or another cohort make another key",
                remedy="run the sweep anew with the installed version",
            )
        said: list[str] = []

        def waiting() -> None:
            if not said:
                said.append(f"waiting for {kind} {key}, which another process is computing")
                self.say(said[0])
            follower.poll()

        while not stage.finished():
            # Suspended for so long that another took over: from here on wait for that one.
            with suppress(LeaseLost), single_flight(stage.directory, stage.finished, waiting) as still_mine:
                if still_mine is not None:
                    began = time.perf_counter()
                    self._work(stage, work, follower)
                    still_mine()
                    self._conclude(stage, plain(inputs), time.perf_counter() - began)
        follower.poll()
        self.keys[kind] = key
        self.finished[key] = stage
        if costs:
            self.costs[key] = stage.record["device_seconds"]
        return stage

    def _work(self, stage: Stage, work: Work, follower: HistoryFollower) -> None:
        """Compute a stage, saying so, and saying of processes that stood still over it, earlier ones and its own."""
        computing, standstills = f"computing {stage.kind} {stage.key}", Standstills(stage.directory, self.say)

        def grown() -> None:
            follower.poll()
            if standstills.tell():
                self.say(computing)

        standstills.tell()
        self.say(computing)
        try:
            work(stage.directory, grown)
        except Diverged as error:
            raise error.within(f"{stage.kind} {stage.key}") from None
        finally:
            standstills.tell()

    def _conclude(self, stage: Stage, inputs: Any, seconds: float) -> None:
        """Declare the stage complete: from here on it is never computed again."""
        history = read_history(stage.directory)
        record = {
            "format": FORMAT,
            "kind": stage.kind,
            "key": stage.key,
            "inputs": inputs,
            "device_seconds": history[-1]["budget/device_seconds"] if history else seconds,
            "workers": self.workers.count,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(stage.directory / STAGE, record)
        discard_checkpoints(stage.directory)

    def __getstate__(self) -> dict[str, Any]:
        """Ships to another process without the callback, which belongs to the trial's own."""
        return {**self.__dict__, "say": _silent}


def _silent(sentence: str) -> None:
    return None


def key_of(kind: str, inputs: Mapping[str, Any]) -> str:
    """Key of the stage of this kind that depends on these inputs."""
    return digest({"kind": kind, "format": FORMAT, "inputs": plain(inputs)})


def code_digest(thing: Any) -> str:
    """Hash of the sources behind ``thing``: its own file and those of its package that it draws on, however indirectly.

    Whoever edits a method or a loss gets new results, not yesterday's.
    """
    hasher = hashlib.blake2b(digest_size=8)
    for name in sorted(_modules_behind(thing.__module__)):
        file = inspect.getsourcefile(sys.modules[name])
        hasher.update(Path(file).read_bytes() if file else b"")
    return hasher.hexdigest()


@cache
def _modules_behind(module: str) -> frozenset[str]:
    """``module`` and every module of the same top-level package that it takes something from."""
    package, found, ahead = module.partition(".")[0], {module}, [module]
    while ahead:
        for value in vars(sys.modules[ahead.pop()]).values():
            name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.partition(".")[0] == package and name not in found:
                found.add(name)
                ahead.append(name)
    return frozenset(found & sys.modules.keys())
