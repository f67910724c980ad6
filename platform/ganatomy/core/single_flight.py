"""Single flight: of several processes that want the same artefact at once, one makes it and the others wait.

A lease file beside the artefact names its maker. The maker touches it every few seconds; a lease whose maker is dead
(known at once on the same host) or silent (another host) is taken over, and the work resumes from its checkpoint.
Works between processes, sweeps and nodes that share the folder, and needs no service.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ganatomy.core.durable import replacing

HEARTBEAT_S = 5.0
SILENCE_S = 60.0

LEASE = "lease.json"
TURN = ".turn"


class LeaseLost(RuntimeError):
    """Another process took the work over: this one was suspended for long, or cut off, or its sweep was killed."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. ``place`` tells hosts and process-id namespaces apart, ``born`` a process from a later one
    that was given the same number."""

    token: str
    place: str
    pid: int
    born: str

    @classmethod
    def this_process(cls) -> Holder:
        """A new lease's holder."""
        return cls(uuid.uuid4().hex, _place(), os.getpid(), _born(os.getpid()))

    def is_dead(self) -> bool:
        """Certainly gone. Never true of a process elsewhere, whose silence alone can tell."""
        return self.place == _place() and _born(self.pid) != self.born


@contextlib.contextmanager
def single_flight(
    directory: Path, done: Callable[[], bool], waiting: Callable[[], None] = lambda: None, *, poll_s: float = 0.5
) -> Iterator[Callable[[], None] | None]:
    """Yield None when the artefact is ``done()``; else hold the lease and yield ``still_mine``, to be called before the
    result is declared complete (raises LeaseLost). ``waiting`` is called at every poll while another process works."""
    directory.mkdir(parents=True, exist_ok=True)
    mine = Holder.this_process()
    while not done():
        if _take(directory, mine):
            break
        waiting()
        time.sleep(poll_s)
    else:
        yield None
        return
    if done():  # finished between the look and the lease
        _release(directory, mine)
        yield None
        return
    try:
        with beating(directory / LEASE, mine):
            yield lambda: _assert_mine(directory, mine)
    finally:
        _release(directory, mine)


@contextlib.contextmanager
def beating(lease: Path, mine: Holder) -> Iterator[None]:
    """Touch the file ``lease`` every few seconds, as long as it is of ``mine``: its holder lives."""
    stop = threading.Event()
    threading.Thread(target=_heartbeat, args=(lease, mine, stop), daemon=True, name="lease").start()
    try:
        yield
    finally:
        stop.set()


def is_abandoned(lease: Path) -> bool:
    """The holder of the file ``lease`` is dead, or has been silent for long."""
    holder = read_holder(lease)
    return (holder is not None and holder.is_dead()) or _silence(lease) > SILENCE_S


class Turn:
    """The right to write in ``directory``: of processes that compute the same there, the last to begin has it.

    The lease is held by who steers. What it steers may run on a node that is cut off, go on there, and be done again
    elsewhere meanwhile: back again, it must not write over its successor.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.token = directory, uuid.uuid4().hex
        with self._alone():
            _place_file(directory / TURN, self.token)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """For moments, in which what was written beside is put in its place. Raises LeaseLost when another began."""
        with self._alone():
            if (self.directory / TURN).read_text() != self.token:
                raise LeaseLost(f"{self.directory}: another process computes this now; its result is used")
            yield

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return _brief_lock(self.directory / f"{TURN}-lock")


def _take(directory: Path, mine: Holder) -> bool:
    with _brief_lock(directory / ".lease-lock"):
        lease = directory / LEASE
        holder = read_holder(lease)
        if holder is not None and not is_abandoned(lease):
            return False
        _place_file(lease, json.dumps(asdict(mine)))
        return True


def _place_file(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text)


def _release(directory: Path, mine: Holder) -> None:
    with _brief_lock(directory / ".lease-lock"):
        if read_holder(directory / LEASE) == mine:
            (directory / LEASE).unlink(missing_ok=True)


def _assert_mine(directory: Path, mine: Holder) -> None:
    if read_holder(directory / LEASE) != mine:
        raise LeaseLost(f"{directory}: another process took this stage over; its result is used")


def _heartbeat(lease: Path, mine: Holder, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        if read_holder(lease) == mine:  # another's lease must not look alive because of us
            with contextlib.suppress(OSError):
                os.utime(lease)


def read_holder(lease: Path) -> Holder | None:
    """Who holds the file ``lease``; None where nobody does, or it cannot be read."""
    try:
        return Holder(**json.loads(lease.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _silence(lease: Path) -> float:
    """Seconds since the last heartbeat, by the file system's own clock: clocks of nodes may disagree."""
    try:
        return _now(lease.parent) - lease.stat().st_mtime
    except OSError:  # the lease is gone, or the folder that it lay in has been taken away
        return float("inf")


def _now(folder: Path) -> float:
    """By the clock of the file system; by our own, where the folder can only be read, as one of somebody else's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as probe:
            return os.fstat(probe.fileno()).st_mtime
    except FileNotFoundError:
        raise
    except OSError:
        return time.time()


@contextlib.contextmanager
def _brief_lock(path: Path) -> Iterator[None]:
    """Held for microseconds around looking at something and replacing it, so that nothing is overwritten unseen."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    boot_id = boot.read_text().strip() if boot.exists() else ""
    return f"{socket.gethostname()}/{boot_id}/{namespace.stat().st_ino if namespace.exists() else 0}"


def _born(pid: int) -> str:
    """Start time of a process in clock ticks since boot, as text; empty if there is none (or it is a zombie)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _alive_without_proc(pid)
    return "" if after_name[0] in ("Z", "X") else after_name[19]


def _alive_without_proc(pid: int) -> str:
    """Where there is no /proc (macOS): a living process counts as the same one, a dead one as gone."""
    if Path("/proc/self").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"
