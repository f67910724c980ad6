"""The store embedded in a workspace: named by its place there, corrected where the workspace was copied or moved."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ganatomy.contracts import InputError
from ganatomy.core.tables import absolute
from ganatomy.tracking.outbox import locked

SQLITE = "sqlite:///"

INSIDE = "workspace:"
"""Begins what a plan says of a file in its workspace: the place in there, wherever the workspace lies now."""

MARK = "workspace.id"
"""File that tells a workspace's sweeps from those of another that have the same name in the same store."""

ARTIFACTS = "mlartifacts"
"""Folder beside an embedded database that holds its artifacts."""

_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""Tables of MLflow, and their columns that say where artifacts lie."""


def inner(path: Path, workspace: Path) -> str:
    """``path`` as a plan says it: by its place in ``workspace`` where it lies there, so that of a workspace that was
    copied or moved it is the copy's own."""
    path, workspace = absolute(path), absolute(workspace)
    return INSIDE + path.relative_to(workspace).as_posix() if path.is_relative_to(workspace) else str(path)


def found_in(workspace: Path, said: str) -> Path:
    """Inverse of ``inner``, in the workspace as it lies now. InputError for a place that is not in it."""
    place = Path(said.removeprefix(INSIDE))
    if said.startswith(INSIDE) and place.parts and not place.is_absolute() and ".." not in place.parts:
        return absolute(workspace) / place
    if not said.startswith(INSIDE) and place.is_absolute():
        return place
    raise InputError(f"place {said!r}", expected=f"{INSIDE}PATH, of something in the workspace, or an absolute path")


def recorded(uri: str, workspace: Path) -> str:
    """``uri`` as a plan says it: a database in ``workspace`` by its place there."""
    return SQLITE + inner(Path(uri.removeprefix(SQLITE)), workspace) if uri.startswith(SQLITE) else uri


def address(workspace: Path, said: str) -> str:
    """Inverse of ``recorded``. InputError for a place that is not in the workspace."""
    return f"{SQLITE}{found_in(workspace, said.removeprefix(SQLITE))}" if said.startswith(SQLITE) else said


def settle(uri: str, workspace: Path) -> bool:
    """Have the database embedded in ``workspace`` name the artifacts beside it, where it was copied or moved here;
    returns whether it had to be corrected.

    MLflow keeps absolute places: those of another workspace would be read, and written to, while they are there. A
    database that is not ``workspace``'s own is left alone, and so is what another workspace recorded in this one's.
    Raises InputError where the database cannot be written.
    """
    database = Path(uri.removeprefix(SQLITE))
    if not (uri.startswith(SQLITE) and database.is_file() and _is_same(database.parent, workspace)):
        return False
    own = database.parent / ARTIFACTS
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60.0)) as reader:
            if not _came_along(reader, own):
                return False
    except sqlite3.DatabaseError:
        return False  # what is wrong with it is said by who opens it
    try:
        with (
            locked(database.with_name(f".{database.name}.lock")),
            contextlib.closing(sqlite3.connect(database, timeout=60.0, isolation_level=None)) as writer,
        ):
            writer.execute("BEGIN IMMEDIATE")
            for place in _came_along(writer, own):  # looked for again: another process may have been first
                _rename(writer, place, own.as_uri())
            writer.execute("COMMIT")
    except (sqlite3.OperationalError, OSError) as error:
        raise InputError(
            f"{database} still names artifacts where its workspace lay before, and cannot be corrected: {error}",
            expected="a workspace that can be written", remedy="make it writable, or copy it to where it is",
        ) from error  # fmt: skip
    return True


def _rename(database: sqlite3.Connection, place: str, new: str) -> None:
    """Have all that lies in ``place`` lie in ``new``; both file URIs."""
    for table, column in _columns(database):
        database.execute(
            f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?)'
            f' WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
            (new, len(place) + 1, place, len(place) + 1, f"{place}/"),
        )


def _came_along(database: sqlite3.Connection, own: Path) -> list[str]:
    """Places of artifacts, as file URIs, that were this workspace's before it was copied or moved: not ``own``, by
    whatever path, and of the same workspace by the mark of its sweeps or by the artifacts that are here too."""
    if ("experiments", "artifact_location") not in _columns(database):
        return []
    named = {str(place) for (place,) in database.execute("SELECT DISTINCT artifact_location FROM experiments")}
    mark = own.with_name(MARK)
    known = mark.read_text() if mark.is_file() else ""
    others = [place for place in sorted(named) if place.startswith("file://") and place.endswith(f"/{ARTIFACTS}")]
    return [place for place in others
            if not _is_same(_path(place).parent, own.parent) and _is_ours(database, place, own, known)]  # fmt: skip


def _is_ours(database: sqlite3.Connection, place: str, own: Path, mark: str) -> bool:
    prefix = (len(place) + 1, f"{place}/")
    runs = [str(uri) for (uri,) in database.execute(
        "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", prefix)]  # fmt: skip
    marks = {str(value) for (value,) in database.execute(
        "SELECT value FROM tags JOIN runs USING (run_uuid) WHERE key = 'workspace' AND substr(artifact_uri, 1, ?) = ?",
        prefix)}  # fmt: skip
    return not runs or mark in marks or any((own / _path(uri).relative_to(_path(place))).exists() for uri in runs)


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one folder, by a link or not; of one that is not there yet, whether they are equal."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return absolute(one) == absolute(other)


def _columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """(table, column) that say where artifacts lie, as far as this version of MLflow has them."""
    there = [
        (table, str(column)) for table in _PLACES for _, column, *_ in database.execute(f"PRAGMA table_info({table})")
    ]
    return [(table, column) for table, column in there if column in _PLACES[table]]


def artifacts_of(uri: str, workspace: Path) -> Path:
    """Where a store that is not a server's keeps artifacts: beside a database that is a file, in whose workspace it may
    be; else in ``workspace``."""
    return (Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else absolute(workspace)) / ARTIFACTS
