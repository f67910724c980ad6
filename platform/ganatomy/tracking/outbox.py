"""A durable outbox: what a run reports is on disk before anything is sent, so no outage and no crash loses any of it.

An ``Outbox`` is a folder: ``journal.jsonl`` (append-only, one entry a line, synced), ``files/`` (what entries carry),
``cursor.json`` (how far the receiver has confirmed), ``refused.jsonl`` (what it will never take, with its reason).
Delivery is at least once: the receiver must take an entry twice without harm, so every entry keeps the time at which it
was made.

Nothing here knows who receives: sending is a function handed in.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ganatomy.core.durable import replacing, sync

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

    run: who the entries are about; "" for whoever only appends, and leaves that to the drainer. An outbox opened again
    for another run is sent again from its start: the first run is gone, and its history belongs to its successor.
    """

    def __init__(self, directory: Path, run: str) -> None:
        self.directory = Path(directory)
        self.run = run
        (self.directory / "files").mkdir(parents=True, exist_ok=True)
        self._journal = self.directory / "journal.jsonl"
        self._cursor = self.directory / "cursor.json"
        if run and not self._addressed():
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
