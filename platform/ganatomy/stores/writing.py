"""Writing a store: images are checked and go to disk one by one, as they come.

The folder gets its name by one rename when everything in it is on disk, so a folder with that name is complete.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ganatomy.contracts import InputError
from ganatomy.core.durable import sync
from ganatomy.core.plain_values import plain
from ganatomy.core.standstill import moved
from ganatomy.stores.layout import FORMAT, IDENTITY, Place, Record, shard_file, write_records
from ganatomy.stores.staging import HEADER, file_hash
from ganatomy.stores.store import Store

FOREGROUND_VOXELS = 1000
"""At most so many labelled voxels of an image are kept as centres for foreground sampling."""

_OPEN_SHARDS = 32  # shards written at once; far below the usual limit of 1,024 open files


@dataclass(frozen=True)
class Item:
    """One image on its way into a store. subject, patient, parents: as a reader may know them, pseudonyms.

    image: [D, H, W] (2D: [1, H, W]), finite, in [-1, 1].  label: [D, H, W] class ids, or None.
    affine: 4 x 4, voxel (x, y, z) to RAS millimetres; the arrays' axes are z, y, x.
    lo, hi: native intensities that -1 and +1 stand for.  source: what made a synthetic image (a generator's digest).
    kind: ``translated`` or ``reconstructed`` for a synthetic image.  parents: subjects it was made from.
    rank: place of its patient in the cohort's own order, in which patients are drawn; the store's order where it is 0.
    attributes: anything else that JSON knows.
    """

    subject: str
    patient: str
    domain: str
    split: str
    image: NDArray[Any]
    label: NDArray[Any] | None = None
    affine: Any = IDENTITY
    lo: float = -1.0
    hi: float = 1.0
    source: str = ""
    kind: str = ""
    parents: tuple[str, ...] = ()
    rank: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)


def write_store(
    path: Path | str,
    *,
    name: str,
    labels: Mapping[int, str],
    domains: Mapping[str, Any],
    digest: str,
    items: Iterable[Item],
    key: str = "",
    symmetric: Sequence[str] = (),
    twins: Mapping[str, str] | None = None,
) -> Store:
    """Write ``items`` as a store at ``path`` and open it. The folder appears complete or not at all.

    labels: class id (1..255) -> name.  domains: name -> description.  digest: content hash of what made the items.
    key: identity of the key of its pseudonyms.  symmetric: axes (x, y, z) along which a mirror image is as good.
    twins: as in ``Cohort``.
    When two write the same at once, the first to finish wins and both get its store. InputError for an item that does
    not fit (names the subject), when the disc is full, or when ``path`` holds something else.
    """
    path = Path(path)
    if not all(0 < value < 256 for value in labels):
        raise InputError(f"labels of {name} have ids {sorted(labels)}", expected="whole numbers in 1..255")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    part.mkdir()
    header = {"name": name, "digest": digest, "key": key, "labels": dict(labels), "domains": plain(domains)}
    if symmetric:
        header["symmetric"] = list(symmetric)
    if twins:
        header["twins"] = dict(twins)
    try:
        _write_files(part, header, items)
        _publish(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"disc full while writing {path}", remedy="free space, or choose another folder"
            ) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already when published
    store = Store(path)
    if store.digest != digest:
        raise InputError(
            f"{path} holds another store (digest {store.digest})", expected=digest, remedy="remove it first"
        )
    return store


# --- the folder --------------------------------------------------------------------------------------------------


def _write_files(part: Path, header: dict[str, Any], items: Iterable[Item]) -> None:
    known, domains = {0, *header["labels"]}, header["domains"]
    records, places = [], []
    with _Shards(part) as shards:
        for index, item in enumerate(items):
            item, present = _checked(item, known, domains)
            foreground = _foreground(item.label, present, index)
            places.append(shards.add(item, foreground))
            records.append(_record(index, item))
            moved()
    write_records(part / "records.arrow", records, places)
    files = sorted(part.iterdir())
    header = {
        "format": FORMAT,
        **header,
        "files": {file.name: file.stat().st_size for file in files},
        "hashes": {file.name: file_hash(file) for file in files},
    }
    (part / HEADER).write_text(json.dumps(header, indent=1, ensure_ascii=False))
    for file in part.iterdir():
        sync(file)


def _publish(part: Path, path: Path) -> None:
    sync(part)
    try:
        part.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    sync(path.parent)


# --- the voxels --------------------------------------------------------------------------------------------------


class _Shards:
    """The Arrow files being written: one open per (shape, labelled). A cohort of many shapes closes the least used."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.open: OrderedDict[tuple[Any, ...], tuple[int, Any]] = OrderedDict()
        self.rows: dict[int, int] = {}

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        while self.open:
            self._close()

    def _close(self) -> None:
        _, (_, writer) = self.open.popitem(last=False)
        writer.close()

    def add(self, item: Item, foreground: NDArray[np.int32]) -> Place:
        columns = _columns(item, foreground)
        key = (item.image.shape, item.label is not None)
        if key not in self.open:
            if len(self.open) >= _OPEN_SHARDS:
                self._close()
            schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()])
            self.open[key] = self.count, pa.ipc.new_file(str(shard_file(self.folder, self.count)), schema)
            self.count += 1
        self.open.move_to_end(key)
        number, writer = self.open[key]
        writer.write_batch(pa.record_batch(list(columns.values()), names=list(columns)))
        row = self.rows.get(number, 0)
        self.rows[number] = row + 1
        return Place(number, row)


def _columns(item: Item, foreground: NDArray[np.int32]) -> dict[str, Any]:
    columns = {"image": _tensor(item.image)}
    if item.label is not None:
        columns["label"] = _tensor(item.label)
        triples = pa.FixedSizeListArray.from_arrays(pa.array(foreground.ravel()), 3)
        columns["foreground"] = pa.ListArray.from_arrays(pa.array([0, len(foreground)], pa.int32()), triples)
    return columns


def _tensor(array: NDArray[Any]) -> Any:
    """A column of one row that holds ``array`` itself, not a copy."""
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(array.dtype), array.shape)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.size)
    return pa.ExtensionArray.from_storage(kind, storage)


# --- one image ---------------------------------------------------------------------------------------------------


def _checked(item: Item, known: set[int], domains: Mapping[str, Any]) -> tuple[Item, list[int]]:
    """The item as it is stored (contiguous float32, uint8) and the classes present. InputError when it does not fit."""
    image = np.ascontiguousarray(item.image, np.float32)
    who = f"image of subject {item.subject} ({item.domain})"
    if item.domain not in domains:
        raise InputError(f"{who}: unknown domain", expected=f"one of {', '.join(domains)}")
    if image.ndim != 3 or image.size == 0:
        raise InputError(f"{who} has shape {image.shape}", expected="[D, H, W], 2D as [1, H, W]")
    low, high = float(image.min()), float(image.max())
    if not -1.001 <= low <= high <= 1.001:  # also false for NaN
        raise InputError(f"{who} has values in [{low:g}, {high:g}]", expected="finite values in [-1, 1]",
                         remedy="of a generator that made it: it diverged, lower its learning rate")  # fmt: skip
    if low < -1 or high > 1:
        image = np.clip(image, -1, 1)
    if item.label is None:
        return dataclasses.replace(item, image=image), []
    given = np.asarray(item.label)
    if given.shape != image.shape:
        raise InputError(f"label of {who} has shape {given.shape}", expected=f"that of the image, {image.shape}")
    label = np.ascontiguousarray(given, np.uint8)
    present = np.flatnonzero(np.bincount(label.reshape(-1))).tolist()
    if not np.array_equal(label, given) or not known.issuperset(present):
        raise InputError(
            f"label of {who} has values {np.unique(given).tolist()}", expected=f"class ids {sorted(known)}"
        )
    return dataclasses.replace(item, image=image, label=label), [value for value in present if value]


def _foreground(label: NDArray[Any] | None, present: list[int], seed: int) -> NDArray[np.int32]:
    """(d, h, w) of labelled voxels, equally many of each class present: a class with fewer repeats its own."""
    if label is None or not present:
        return np.zeros((0, 3), np.int32)
    generator = np.random.default_rng(seed)
    voxels = [np.flatnonzero(label.reshape(-1) == value) for value in present]
    each = min(FOREGROUND_VOXELS // len(present), max(map(len, voxels)))
    chosen = [
        generator.choice(found, each, replace=False) if len(found) >= each else np.resize(found, each)
        for found in voxels
    ]
    return np.stack(np.unravel_index(np.concatenate(chosen), label.shape), axis=1).astype(np.int32)


def _record(index: int, item: Item) -> Record:
    shown = np.flatnonzero([bool((piece != piece.flat[0]).any()) for piece in item.image])
    content = (int(shown[0]), int(shown[-1]) + 1) if len(shown) else (0, len(item.image))
    depth, height, width = item.image.shape
    affine = tuple(tuple(row) for row in np.asarray(item.affine, float).reshape(4, 4).tolist())
    shared = {name: getattr(item, name) for name in _SHARED}
    return Record(
        index=index,
        shape=(depth, height, width),
        affine=affine,
        labelled=item.label is not None,
        content=content,
        labelled_slices=() if item.label is None else tuple(np.flatnonzero(item.label.any(axis=(1, 2))).tolist()),
        **{**shared, "parents": tuple(item.parents), "attributes": plain(item.attributes)},
    )


_SHARED = ("subject", "patient", "domain", "split", "lo", "hi", "source", "kind", "parents", "rank", "attributes")
