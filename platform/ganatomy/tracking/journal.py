"""A run's journal: what it reports is in an outbox when a call returns, and sent from there afterwards.

A ``Courier`` empties an outbox from a thread; a ``RunLog`` is what a training process writes into. Nothing here knows
who receives: sending is a function handed in.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganatomy.tracking.outbox import Entry, Outbox, Send, now

logger = logging.getLogger(__name__)


class Courier:
    """Empties an outbox in the background: gathers for a moment, sends, and waits longer after each failure.

    gather: seconds between the first news and sending, so that news travel together.  longest: upper bound in seconds
    of the wait between two attempts. The thread is a daemon: a process may end at any time, its outbox stays.
    """

    def __init__(self, outbox: Outbox, send: Send, *, gather: float = 1.0, longest: float = 15.0) -> None:
        self._outbox, self._send = outbox, send
        self._gather, self._longest = gather, longest
        self._news, self._hurry, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        """There is something to send."""
        with self._guard:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
                self._thread.start()
        self._news.set()

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all is confirmed. False: the rest stays for the next drainer."""
        deadline = time.monotonic() + timeout
        self._hurry.set()
        try:
            while self._outbox.pending():
                self.notify()
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            return True
        finally:
            self._hurry.clear()

    def close(self, timeout: float) -> bool:
        """Flush, then end the thread. A thread stuck in a request is left behind; it dies with the process."""
        sent = self.flush(timeout)
        self._stop.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(1.0)
        return sent

    def _run(self) -> None:
        while not self._stop.is_set():
            self._news.wait()
            self._pause(self._gather)
            self._news.clear()  # before draining: what comes while we send is news again
            self._drain()

    def _drain(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                if self._outbox.drain(self._send):
                    break
            except Exception as error:  # whatever it is, training must not hear of it, and nothing is lost by waiting
                if not failures:
                    logger.warning("tracking does not answer, reports are kept and sent later: %s", _first_line(error))
                failures += 1
            self._pause(random.uniform(0.5, 1.0) * min(self._longest, 0.5 * 2 ** min(failures, 10)))
        if failures and not self._stop.is_set():
            logger.warning("tracking answers again; all reports are sent")

    def _pause(self, seconds: float) -> None:
        """Sleep, but wake within half a second when somebody waits for us, and at once to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop.is_set():
            if self._hurry.is_set():
                left = min(left, 0.25)
                end = min(end, time.monotonic() + left)
            self._stop.wait(min(left, 0.25))


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


class RunLog:
    """What one run reports: durable in ``directory`` when a call returns, sent soon after.

    send: takes it for ``run``, from a thread of this process; None where another process sends what lies there.

    A run that is started again opens the same directory: a metric at a step (a picture at a step) that was reported
    before is not reported twice, so steps recomputed after a checkpoint change nothing. The constructor asks nothing
    of the receiver. Every call may raise OSError when the disk is full, and nothing else.
    """

    def __init__(self, directory: Path, run: str = "", send: Send | None = None) -> None:
        self.outbox = Outbox(directory, run)
        self._courier = Courier(self.outbox, send) if send else None
        self._reported = {key for entry in self.outbox.entries() for key in _reports(entry)}
        if self._courier and self.outbox.pending():
            self._courier.notify()

    def metrics(self, values: Mapping[str, float], step: int, timestamp: int | None = None) -> None:
        """Numbers at ``step``; timestamp in ms since the epoch (now). NaN and infinity are kept as they are."""
        fresh = {name: float(value) for name, value in values.items() if ("metrics", name, step) not in self._reported}
        if fresh:
            self._append(Entry("metrics", timestamp or now(), fresh, step))

    def image(self, name: str, png: bytes, step: int) -> None:
        """A PNG at ``step``; the pictures of one name are a series."""
        if ("image", name, step) not in self._reported:
            self._append(Entry("image", now(), step=step, path=name), {"image.png": png})

    def text(self, path: str, text: str) -> None:
        """A text artifact (HTML, JSON, …) at ``path``, like ``reports/table.html``. Given again, the last one stays."""
        folder, _, name = path.rpartition("/")
        self._append(Entry("artifact", now(), path=folder), {name: text.encode()})

    def artifact(self, source: Path, folder: str = "") -> None:
        """A copy of a file, or of a whole directory, as artifact in ``folder``."""
        self._append(Entry("artifact", now(), path=folder), {source.name: source})

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters; the first value of a name stays."""
        self._append(Entry("params", now(), {name: str(value) for name, value in values.items()}))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Tags; the last value of a name stays."""
        self._append(Entry("tags", now(), {name: str(value) for name, value in values.items()}))

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all of it is confirmed. False after ``timeout`` seconds: the rest stays for the next drainer."""
        return self._courier is None or self._courier.flush(timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """``flush``, then end the background thread."""
        return self._courier is None or self._courier.close(timeout)

    def _append(self, entry: Entry, files: Mapping[str, bytes | Path] | None = None) -> None:
        self.outbox.append(entry, files)
        self._reported.update(_reports(entry))
        if self._courier:
            self._courier.notify()


def _reports(entry: Entry) -> list[tuple[str, str, int]]:
    names = entry.values if entry.kind == "metrics" else [entry.path] if entry.kind == "image" else []
    return [(entry.kind, name, entry.step) for name in names]
