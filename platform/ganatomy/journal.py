"""A durable outbox: what a run reports is on disk before anything is sent, so no outage and no crash loses any of it.

An ``Outbox`` is a folder: ``journal.jsonl`` (append-only, one entry a line, synced), ``files/`` (what entries carry),
``cursor.json`` (how far the receiver has confirmed), ``refused.jsonl`` (what it will never take, with its reason).
A ``Courier`` empties it from a background thread; a ``RunLog`` is what a training process writes into. Delivery is at
least once: the receiver must take an entry twice without harm, so every entry keeps the time at which it was made.

Nothing here knows who receives: sending is a function handed in.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ganatomy.durable import replacing, sync

logger = logging.getLogger(__name__)

Kind = Literal["metrics", "params", "tags", "image", "artifact", "status"]
LIGHT = frozenset({"metrics", "params", "tags"})
"""Kinds that carry no file: neighbours of these kinds travel together."""

BATCH = 200
"""Light entries that travel together at most: few enough that repeating them after a failure costs little."""


class Refused(Exception):
    """The receiver is there and will never take this entry: sending it again is pointless."""


@dataclass(frozen=True)
class Entry:
    """One thing reported. time: milliseconds since the epoch, when it was made.

    values: name -> number (metrics) or text (params, tags, status).  step: of metrics and images.
    path: name of an image, or folder of an artifact at the receiver.  folder: holds the files, inside the outbox.
    """

    kind: Kind
    time: int
    values: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    path: str = ""
    folder: str = ""


Send = Callable[[Sequence[Entry], Path], None]
"""Delivers entries (their ``folder`` is relative to the path given). Raises Refused for good, anything else for now."""


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """An exclusive lock on ``path``, between processes and threads. Yields False if it is taken and ``wait`` is not."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True  # closing the file frees the lock


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: a reader, or a crash, sees the old or the new and never a part."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _copy(folder: Path, to: Path) -> None:
    """Content only: permissions are those of any new file, however wide the original's are."""
    to.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            _copy(path, to / path.name)
        else:
            shutil.copyfile(path, to / path.name)


class Outbox:
    """The folder itself. Any number of processes may append; one at a time drains.

    run: who the entries are about. An outbox opened again for another run is sent again from its start: the first
    run is gone, and its history belongs to its successor.
    """

    def __init__(self, directory: Path, run: str) -> None:
        self.directory = Path(directory)
        self.run = run
        (self.directory / "files").mkdir(parents=True, exist_ok=True)
        self._journal = self.directory / "journal.jsonl"
        self._cursor = self.directory / "cursor.json"
        if not self._addressed():
            with locked(self.directory / "drain.lock"):
                if not self._addressed():
                    self._write_cursor(0)

    @classmethod
    def reopen(cls, directory: Path) -> Outbox:
        """An outbox that some process, dead or alive, left in ``directory``."""
        return cls(directory, json.loads((directory / "cursor.json").read_text())["run"])

    @classmethod
    def below(cls, directory: Path) -> list[Path]:
        """Every outbox in ``directory`` or under it, in a stable order."""
        return sorted(
            path.parent for path in directory.rglob("journal.jsonl") if path.with_name("cursor.json").exists()
        )

    def append(self, entry: Entry, files: Mapping[str, bytes | Path] | None = None) -> None:
        """Put ``entry`` on disk, with ``files`` (name -> bytes, or a file or folder to copy). Synced when this returns.

        Raises OSError when the disk takes no more; the journal stays readable.
        """
        if files:
            entry = replace(entry, folder=self._keep(files))
        line = json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n"
        with self._journal.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                line = b"\n" + line  # a writer died in the middle of a line: that line is lost, the next must not be
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if not end:
            sync(self.directory)  # the file's name must survive a power cut too

    def entries(self) -> Iterator[Entry]:
        """Everything ever appended, in order, sent or not."""
        return (entry for entry, _ in self._read(0) if entry)

    def pending(self) -> bool:
        """True while something has not been confirmed by the receiver."""
        return next(self._read(self._read_cursor()[1]), None) is not None

    def drain(self, send: Send) -> bool:
        """Send what is pending. True when all of it is confirmed, False when another drainer is at work.

        Raises what ``send`` raises; all that was confirmed before stays confirmed.
        """
        with locked(self.directory / "drain.lock", wait=False) as mine:
            if not mine:
                return False
            while True:
                entries, end = self._next()
                if end == self._read_cursor()[1]:
                    return True
                for stray in (entry for entry in entries if not self._is_own(entry)):
                    self._set_aside(stray, "its files are not in this outbox")
                entries = [entry for entry in entries if self._is_own(entry)]
                self._deliver(entries, send)
                self._write_cursor(end)
                for entry in entries:
                    if entry.folder:
                        shutil.rmtree(self.directory / entry.folder, ignore_errors=True)

    def _is_own(self, entry: Entry) -> bool:
        """Its files, if it has any, are where ``_keep`` puts them: whoever can write a line into the journal must not
        have any other folder sent, or removed."""
        if not re.fullmatch("(files/[0-9a-f]{32})?", str(entry.folder)):
            return False
        place = self.directory / entry.folder
        return not entry.folder or not any(path.is_symlink() for path in (place.parent, place, *place.rglob("*")))

    def _deliver(self, entries: list[Entry], send: Send) -> None:
        # Files go only after the cursor has passed their entry, so a missing folder means: this was sent before.
        entries = [entry for entry in entries if not entry.folder or (self.directory / entry.folder).is_dir()]
        if not entries:
            return
        try:
            send(entries, self.directory)
        except Refused as error:
            if len(entries) == 1:
                return self._set_aside(entries[0], str(error))
            for entry in entries:  # one bad entry must not take its neighbours with it
                self._deliver([entry], send)

    def _set_aside(self, entry: Entry, reason: str) -> None:
        with (self.directory / "refused.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": reason, **asdict(entry)}) + "\n")
        logger.warning("refused by the tracking server: %s (%s)", reason, self.directory / "refused.jsonl")

    def _next(self) -> tuple[list[Entry], int]:
        """The entries to send next, and where the journal stands behind them."""
        _, end = self._read_cursor()
        entries: list[Entry] = []
        for entry, after in self._read(end):
            if entry and entries and (len(entries) == BATCH or {entry.kind, entries[0].kind} - LIGHT):
                break
            entries += [entry] if entry else []
            end = after
        return entries, end

    def _read(self, start: int) -> Iterator[tuple[Entry | None, int]]:
        """Entry (None for a line that a crash cut short) and the position behind it, from ``start`` on."""
        if not self._journal.exists():
            return
        with self._journal.open("rb") as file:
            file.seek(start)
            position = start
            for line in file:
                if not line.endswith(b"\n"):
                    return  # its writer is still at it, or dead; the next append closes it
                position += len(line)
                yield _parse(line), position

    def _keep(self, files: Mapping[str, bytes | Path]) -> str:
        folder = f"files/{uuid.uuid4().hex}"
        (self.directory / folder).mkdir()
        for name, content in files.items():
            target = self.directory / folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif content.is_dir():
                _copy(content, target)
            else:
                shutil.copyfile(content, target)
        for path in (self.directory / folder).rglob("*"):
            if path.is_file():
                sync(path)
        return folder

    def _addressed(self) -> bool:
        return self._cursor.exists() and self._read_cursor()[0] == self.run

    def _read_cursor(self) -> tuple[str, int]:
        cursor = json.loads(self._cursor.read_text())
        return cursor["run"], cursor["offset"]

    def _write_cursor(self, offset: int) -> None:
        write_atomic(self._cursor, json.dumps({"run": self.run, "offset": offset}))


def _parse(line: bytes) -> Entry | None:
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None


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

    A run that is started again opens the same directory: a metric at a step (a picture at a step) that was reported
    before is not reported twice, so steps recomputed after a checkpoint change nothing. The constructor asks nothing
    of the receiver. Every call may raise OSError when the disk is full, and nothing else.
    """

    def __init__(self, directory: Path, run: str, send: Send) -> None:
        self.outbox = Outbox(directory, run)
        self._courier = Courier(self.outbox, send)
        self._reported = {key for entry in self.outbox.entries() for key in _reports(entry)}
        if self.outbox.pending():
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
        return self._courier.flush(timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """``flush``, then end the background thread."""
        return self._courier.close(timeout)

    def _append(self, entry: Entry, files: Mapping[str, bytes | Path] | None = None) -> None:
        self.outbox.append(entry, files)
        self._reported.update(_reports(entry))
        self._courier.notify()


def _reports(entry: Entry) -> list[tuple[str, str, int]]:
    names = entry.values if entry.kind == "metrics" else [entry.path] if entry.kind == "image" else []
    return [(entry.kind, name, entry.step) for name in names]
