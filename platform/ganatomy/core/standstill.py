"""A process that computes and gets nowhere is ended: a dead one is replaced, a hanging one would be waited for forever.

Whatever computes says ``moved()`` at every step, image, slice and piece of a file. Standard library only.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STANDSTILL = "GANATOMY_STANDSTILL_S"
"""Environment variable of a sweep's workers: after how many seconds without a step one is ended; 0 or unset, never."""

USUAL_S = 1800.0
"""As long as torch's collectives wait for another rank."""

NOTE = "standstill-"
"""How the names of files begin that tell where a process stood still."""

FOREVER_S = 1e6
"""So long a limit is none; far longer ones are more than a timer takes."""

LOOK_S = 5.0
"""How often a watch looks whether the work has moved."""

GRACE_S = 60.0
"""How long a process may take to be ended before it is ended without its note."""

_last_moved = 0.0
_pauses = 0


def moved() -> None:
    """The work that this process does has come a step further."""
    global _last_moved
    _last_moved = time.monotonic()


@contextmanager
def paused() -> Iterator[None]:
    """What happens inside is somebody else's to do, and to bound."""
    global _pauses
    _pauses += 1
    try:
        yield
    finally:
        moved()
        _pauses -= 1


def limit() -> float:
    """Seconds without a step after which this process is ended; 0 for never."""
    seconds = float(os.environ.get(STANDSTILL) or 0)
    return seconds if 0 < seconds < FOREVER_S else 0.0


@contextmanager
def watched(directory: Path) -> Iterator[None]:
    """End this process where it stands still meanwhile, leaving a note in ``directory`` of where that was."""
    if not (seconds := limit()):
        yield
        return
    moved()
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(seconds, directory, over), daemon=True, name="standstill")
    try:
        watch.start()
        yield
    finally:
        over.set()
        try:
            watch.join()
        finally:
            faulthandler.cancel_dump_traceback_later()


def _watch(seconds: float, directory: Path, over: threading.Event) -> None:
    look = min(seconds / 10, LOOK_S)
    while True:
        # For what keeps Python from running at all, this thread too: it needs neither the interpreter nor a file system
        # that answers, and writes where it was to the process's own log.
        faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=2)
        looked = time.monotonic()
        if over.wait(look):
            return
        if _pauses or time.monotonic() - looked > 2 * look + 1:  # whoever suspended this process did so to the work too
            moved()
        if time.monotonic() - _last_moved > seconds:
            faulthandler.dump_traceback_later(GRACE_S, exit=True, file=2)
            with suppress(OSError):
                _note(seconds, directory)
            # Of a group, all wait for the one that hangs: each leaves a note before the first of them ends them all.
            if over.wait(2 * look):
                return
            if time.monotonic() - _last_moved > seconds:
                os._exit(1)


def _note(seconds: float, directory: Path) -> None:
    path = directory / f"{NOTE}{socket.gethostname()}-{os.getpid()}.txt"
    with path.open("w") as file:
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} took no step for {seconds:g} s until {when}\n")
        file.flush()
        faulthandler.dump_traceback(file)


def noted(directory: Path) -> str:
    """What the newest note in ``directory`` says, to end a sentence about a process that died; often nothing."""
    return "".join(f"; {_told(path)}" for path in _notes(directory)[-1:])


class Standstills:
    """Tells of the notes in ``directory`` as they come; of those that are there already, of the newest."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.directory, self.say = directory, say
        self.told = set(_notes(directory)[:-1])

    def tell(self) -> bool:
        """Of those that are new; whether there were any."""
        new = [path for path in _notes(self.directory) if path not in self.told]
        for path in new:
            self.say(_told(path))
        self.told |= set(new)
        return bool(new)


def _notes(directory: Path) -> list[Path]:
    """The oldest first; none that is just being written."""
    found = [path for path in directory.glob(f"{NOTE}*.txt") if "\n" in path.read_text()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def _told(path: Path) -> str:
    return f"{path.read_text().partition(chr(10))[0]}; it stood where {path} says"
