"""A store copied to a node's own disc: once, whoever asks first, checked by hash, and never once a trial.

For nodes whose way to the shared folder is slow. The copy is named after the hash of the store's description, which in
turn holds the hashes of its files, so that what has the name is what was prepared. Nothing is thrown away: the folder
may be emptied whenever no sweep runs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.durable import sync
from ganatomy.core.names import checked_name
from ganatomy.core.single_flight import single_flight
from ganatomy.core.standstill import moved

HEADER = "store.json"
PIECE = 16 * 2**20
ROOM = "free space there, name another folder in GANATOMY_STORE_CACHE, or unset it"
AGAIN = "it was not written by ganatomy: delete it and prepare its cohort again"
CHECKED = "checked.json"
"""Size and time of every file when its hash was found right: while they stay the same, it is not read again."""


class NoRoom(InputError):
    """The node's own disc cannot hold a copy: the original can be read all the same."""


Fetch = Callable[[str, Path], None]
"""Copies one file of the original, by its name, to a path."""


def staged(origin: str, header: bytes, fetch: Fetch, cache: Path) -> Path:
    """The copy in ``cache`` of the store described by ``header`` (the content of its ``store.json``).

    origin: what to call the original.  Of several processes that want it, one copies and the others wait. A copy that
    was damaged since is replaced; who has it open keeps the old one. InputError when the disc cannot hold it, or when
    what arrives has not the hash it should have.
    """
    described = json.loads(header)
    if "hashes" not in described:
        raise InputError(
            f"store {origin} was prepared by a version that kept no hashes, so no copy of it can be checked",
            remedy="delete it and start again: it is prepared anew; or unset GANATOMY_STORE_CACHE",
        )
    for part in (described["digest"], *described["hashes"]):
        checked_name(part, f"store {origin}: file", remedy=AGAIN)
    name = f"{described['digest']}-{hashlib.blake2b(header, digest_size=8).hexdigest()}"
    try:
        return _staged(origin, header, described, fetch, cache, cache / name)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoom(f"no space left for a copy of store {origin} in {cache}", remedy=ROOM) from error


def _staged(origin: str, header: bytes, described: Mapping[str, Any], fetch: Fetch, cache: Path, place: Path) -> Path:
    name = place.name
    with single_flight(cache / f".{name}", lambda: _is_as_checked(place), waiting=moved) as still_mine:
        # still_mine need not be asked: a second copy would be the same.
        if still_mine is not None and not _check(place, described):
            for left in cache.glob(f".{name}.*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            _copy(origin, header, described, fetch, place)
    return place


def _is_as_checked(place: Path) -> bool:
    try:
        return bool(json.loads((place / CHECKED).read_text()) == _state(place))
    except (OSError, ValueError):
        return False


def _state(place: Path) -> dict[str, list[int]]:
    files = [file for file in sorted(place.iterdir()) if file.name != CHECKED]
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _check(place: Path, described: Mapping[str, Any]) -> bool:
    """Read all of it, and remember that it is right."""
    hashes: Mapping[str, str] = described["hashes"]
    if not all((place / name).is_file() and file_hash(place / name) == digest for name, digest in hashes.items()):
        return False
    if not (place / HEADER).is_file() or json.loads((place / HEADER).read_text()) != described:
        return False
    _remember(place)
    return True


def _remember(place: Path) -> None:
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    beside.write_text(json.dumps(_state(place)))
    beside.replace(place / CHECKED)


def _copy(origin: str, header: bytes, described: Mapping[str, Any], fetch: Fetch, place: Path) -> None:
    needed, free = sum(described["files"].values()), shutil.disk_usage(place.parent).free
    if needed > free:
        raise NoRoom(
            f"no space for a copy of store {origin} in {place.parent}: {free / 1e9:.3g} GB free",
            expected=f"{needed / 1e9:.3g} GB",
            remedy=ROOM,
        )
    part = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}")
    part.mkdir()
    try:
        for name, digest in described["hashes"].items():
            fetch(name, part / name)
            if file_hash(part / name) != digest:
                raise InputError(
                    f"{name} of store {origin} did not arrive as it was prepared",
                    expected=f"hash {digest}",
                    remedy="try again; if it stays so, the original is damaged: delete it and prepare the cohort again",
                )
            sync(part / name)
        (part / HEADER).write_bytes(header)
        _remember(part)
        if place.exists():
            place.rename(part.with_name(f"{part.name}.old"))  # whoever reads it has its files open
        part.rename(place)
    finally:
        for left in (part, part.with_name(f"{part.name}.old")):
            shutil.rmtree(left, ignore_errors=True)


def file_hash(path: Path) -> str:
    """Hash of a file's content."""
    hasher = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for piece in pieces(file):
            hasher.update(piece)
    return hasher.hexdigest()


def pieces(file: Any) -> Iterator[bytes]:
    """The content of an open file, so much at a time that a slow way to it is not taken for none."""
    while piece := file.read(PIECE):
        moved()
        yield piece
