"""A process that computes and gets nowhere is ended: a dead one is replaced, a hanging one would be waited for forever.

Whatever computes says ``moved()`` at every step, image and piece of a file. Standard library only.
"""

from __future__ import annotations

import faulthandler
import math
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

LOOK_S = 5.0
GRACE_S = 60.0

_last_moved = 0.0


def moved() -> None:
    """The work that this process does has come a step further."""
    global _last_moved
    _last_moved = time.monotonic()


@contextmanager
def watched(directory: Path) -> Iterator[None]:
    """End this process where it stands still meanwhile, leaving a note in ``directory`` of where that was."""
    limit = float(os.environ.get(STANDSTILL) or 0)
    if not 0 < limit < math.inf:
        yield
        return
    moved()
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(limit, directory, over), daemon=True, name="standstill")
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
        faulthandler.cancel_dump_traceback_later()


def _watch(limit: float, directory: Path, over: threading.Event) -> None:
    while True:
        # For what keeps Python from running at all, this thread too: it needs neither the interpreter nor a file system
        # that answers, and writes where it was to the process's own log.
        faulthandler.dump_traceback_later(limit + GRACE_S, exit=True, file=2)
        if over.wait(min(limit / 10, LOOK_S)):
            return
        if time.monotonic() - _last_moved > limit:
            faulthandler.dump_traceback_later(GRACE_S, exit=True, file=2)
            with suppress(OSError):
                _note(limit, directory)
            os._exit(1)


def _note(limit: float, directory: Path) -> None:
    path = directory / f"{NOTE}{socket.gethostname()}-{os.getpid()}.txt"
    with path.open("w") as file:
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} took no step for {limit:g} s, ended {when}\n")
        file.flush()
        faulthandler.dump_traceback(file)


class Standstills:
    """Tells of each note in ``directory`` once, those of earlier processes among them."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.directory, self.say = directory, say
        self.told: set[Path] = set()

    def tell(self) -> None:
        """Of those that are new."""
        for path in sorted(self.directory.glob(f"{NOTE}*.txt")):
            if path not in self.told and (lines := path.read_text().splitlines()):
                self.told.add(path)
                self.say(f"{lines[0]}; it stood where {path} says")
