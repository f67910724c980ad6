"""What is put in its place whole or not at all, for nobody's eyes that had none on it before; and what must outlive a
power cut: bytes are on disc before a rename names them, and that name before anybody is told."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, to be written; with the end of the block it is ``path``, with an error it is gone.

    A reader finds the old file or the new one, never half of one. From its first byte it has the permissions of any new
    file (0666 less the umask), and none that the file it replaces lacks.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    allowed = _permissions(path) | stat.S_IWUSR  # for ourselves, who write it
    # The system itself takes the umask off: to read it, a process would have to change it for all its threads.
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, allowed & 0o666))
    try:
        yield beside
        put_in_place(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def put_in_place(beside: Path, path: Path) -> None:
    """Rename a file to ``path``, less the permissions that the file it replaces lacks: private stays private."""
    keep_private(beside, path)
    beside.replace(path)


def keep_private(new: Path, old: Path) -> None:
    """Take from a file or folder the permissions that the one it replaces lacks."""
    mode = stat.S_IMODE(new.stat().st_mode)
    if mode != (narrowed := mode & _permissions(old)):
        new.chmod(narrowed)


def _permissions(path: Path) -> int:
    """What may be done with ``path``; everything, where nothing is there."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o777


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disc."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Add a line to ``path``, on disc when this returns. Of several processes that do so at once, none loses a line."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # where there are no locks, one write to the end is still one
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # on NFS the end of a file is known under a lock only
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # by a process that was killed
        os.write(descriptor, ("\n" * torn + line + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)  # frees the lock
