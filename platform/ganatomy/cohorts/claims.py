"""Names and folders that one process has to itself: taken in one step, given back, and not held for ever by the dead.

Made of what is atomic on a shared disc too: a folder renamed to a name that is taken, and a file created exclusively.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from ganatomy.contracts import InputError
from ganatomy.core.single_flight import Holder, beating, is_abandoned, read_holder

RESERVED = "reserved.json"
"""File of a reserved folder: who reserved it. Gone when the folder holds what it was reserved for."""

IN_USE = ".in-use.json"


# --- names -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reserved(root: Path, names: Iterator[str], is_there: Callable[[Path], bool]) -> Iterator[str | None]:
    """Reserve the first free of ``names`` below ``root`` and yield it; None where all are taken.

    is_there: whether a folder holds what it was reserved for. It is asked at the end: a folder that does not is taken
    away again. A reservation whose process is dead, or silent for long, is free. Raises InputError where this process
    was silent for so long that another has the name now.
    """
    root.mkdir(parents=True, exist_ok=True)
    mine = Holder.this_process()
    name = next((name for name in names if _reserve(root / name, mine, is_there)), None)
    if name is None:
        yield None
        return
    note = root / name / RESERVED
    try:
        with beating(note, mine):
            yield name
    finally:
        if read_holder(note) == mine:
            if is_there(root / name):
                note.unlink()
            else:
                shutil.rmtree(_take_away(root / name, mine), ignore_errors=True)


def assert_reserved(folder: Path) -> None:
    """InputError unless ``folder`` is still reserved by this process."""
    holder, this = read_holder(folder / RESERVED), Holder.this_process()
    if holder is None or (holder.place, holder.pid, holder.born) != (this.place, this.pid, this.born):
        raise InputError(f"{folder} was taken by another process while this one stood still", remedy="begin anew")


def _reserve(folder: Path, mine: Holder, is_there: Callable[[Path], bool]) -> bool:
    beside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    beside.mkdir()
    try:
        (beside / RESERVED).write_text(json.dumps(asdict(mine)))
        for _ in range(4):  # the abandoned is taken away by one, perhaps between two looks of another
            try:
                os.rename(beside, folder)  # noqa: PTH104 (fails where something is in the folder, as wanted)
                return True
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if not folder.exists():
                continue
            holder = read_holder(folder / RESERVED)
            if holder is None or is_there(folder) or not is_abandoned(folder / RESERVED):
                return False
            _take_away(folder, holder)
        return False
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # gone already where it was renamed


def _take_away(folder: Path, holder: Holder) -> Path:
    """Move what ``holder`` reserved to a place named for it, which stays for a moment: of two that do so at once, the
    second finds it there, and does not move what the first has reserved since. Returns the place."""
    place = folder.with_name(f".{folder.name}-of-{holder.token}")
    with contextlib.suppress(OSError):
        os.rename(folder, place)  # noqa: PTH104 (fails where something is in the place, as wanted)
    for old in folder.parent.glob(f".{glob.escape(folder.name)}-of-*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    return place


def numbered(name: str) -> Iterator[str]:
    """``name``, ``name-2``, ``name-3`` …"""
    return itertools.chain([name], (f"{name}-{number}" for number in range(2, 10_000)))


# --- folders -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Have ``folder`` to oneself while writing in it. InputError where another process writes there now.

    A folder that is still empty at the end, and was not there before, is taken away.
    """
    new = not folder.exists()
    if not (new or folder.is_dir()):
        raise InputError(f"{folder} is a file", expected="a folder", remedy="choose another")
    folder.mkdir(parents=True, exist_ok=True)
    note, mine = folder / IN_USE, Holder.this_process()
    _enter(note, mine)
    try:
        with beating(note, mine):
            yield
    finally:
        if read_holder(note) == mine:
            note.unlink(missing_ok=True)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def in_use(folder: Path) -> bool:
    """Whether a process has ``folder`` to itself now. Of one on another host its latest sign of life tells, for a
    minute: nothing is waited for."""
    note = folder / IN_USE
    return note.exists() and not is_abandoned(note)


def _enter(note: Path, mine: Holder) -> None:
    for _ in range(2):
        try:
            with note.open("x") as file:
                file.write(json.dumps(asdict(mine)))
            return
        except FileExistsError:
            pass
        holder = read_holder(note)
        if _lives(note, holder, mine):
            break
        aside = note.with_name(f"{IN_USE}-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):  # its holder has just ended
            note.replace(aside)
            if read_holder(aside) != holder:  # another was as quick, and has it already
                with contextlib.suppress(OSError):
                    os.link(aside, note)
            aside.unlink()
    raise InputError(f"{note.parent} is being written by another process", expected="one at a time",
                     remedy="wait for it, or choose another folder")  # fmt: skip


def _lives(note: Path, holder: Holder | None, mine: Holder) -> bool:
    """Whether the holder of ``note`` is at work. Of one on another host only its next sign of life, or its silence,
    can tell: that is waited for."""
    last = _touched(note)
    while last and not is_abandoned(note):
        if (holder is not None and holder.place == mine.place) or _touched(note) > last:
            return True
        time.sleep(0.5)
    return False


def _touched(note: Path) -> int:
    try:
        return note.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
