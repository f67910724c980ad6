"""What must outlive a power cut: bytes are on disc before a rename names them, and that name before anybody is told."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


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
