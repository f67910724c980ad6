"""Store: a cohort prepared once, as memory-mapped Arrow files that all trials and workers of a node share.

On disk a store is a folder: ``store.json`` (format, digest, labels, domains, size of every file), ``records.arrow``
(one row an image) and shards ``volumes-NNNN.arrow``. A shard holds volumes of one shape as Arrow fixed-shape tensors,
one record batch a volume, uncompressed: reading one is address arithmetic in the page cache, nothing is decoded or
copied. The folder gets its name by one rename when everything in it is on disk, so a folder with that name is complete.

Also the only room that knows pyarrow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ganatomy.contracts import InputError
from ganatomy.installation import CACHE
from ganatomy.plain_values import plain
from ganatomy.staging import HEADER, file_hash, staged
from ganatomy.tracking_store import shown

FORMAT = 2
"""Version of the layout on disk. A store of another version is refused, never half understood."""

URL = "GANATOMY_STORE_URL"
"""Environment variable: where copies are fetched from instead of the shared folder, such as ``s3://bucket/stores``."""

FOREGROUND_VOXELS = 1000
"""At most so many labelled voxels of an image are kept as centres for foreground sampling."""

_OPEN_SHARDS = 32  # shards written at once; far below the usual limit of 1,024 open files
_AFFINE = tuple[tuple[float, ...], ...]
_IDENTITY: _AFFINE = tuple(tuple(row) for row in np.eye(4).tolist())


@dataclass(frozen=True)
class Item:
    """One image on its way into a store.

    image: [D, H, W] (2D: [1, H, W]), finite, in [-1, 1].  label: [D, H, W] class ids, or None.
    affine: 4 x 4, voxel (x, y, z) to RAS millimetres; the arrays' axes are z, y, x.
    lo, hi: native intensities that -1 and +1 stand for.  source: where it was made from (a file, a generator's digest).
    kind: ``translated`` or ``reconstructed`` for a synthetic image.  parents: subjects it was made from.
    attributes: anything else that JSON knows.
    """

    subject: str
    patient: str
    domain: str
    split: str
    image: NDArray[Any]
    label: NDArray[Any] | None = None
    affine: Any = _IDENTITY
    lo: float = -1.0
    hi: float = 1.0
    source: str = ""
    kind: str = ""
    parents: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What a store knows of one image without touching its voxels.

    index: its place in the store.  shape: (D, H, W).  content: first slice and last + 1 that show anything (are not
    constant); (0, D) when none does.  labelled_slices: those with a labelled voxel.  The other fields are those of
    ``Item``.
    """

    index: int
    subject: str
    patient: str
    domain: str
    split: str
    shape: tuple[int, int, int]
    affine: _AFFINE
    labelled: bool
    lo: float
    hi: float
    content: tuple[int, int]
    labelled_slices: tuple[int, ...] = ()
    source: str = ""
    kind: str = ""
    parents: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class _Place:
    shard: int
    row: int


@dataclass(frozen=True)
class _Volume:
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    foreground: NDArray[np.int32]


class Store:
    """Read a prepared cohort (or a synthetic set). Get one from ``preparation.prepare``, ``write_store`` or
    ``open_store``.

    Opening reads the table of records only. Arrays are read-only views of the mapped files: they cost no memory of
    their own and all processes of a node share the pages. A Store is shipped to another process by its path.

    path, digest, name: where it is, what went in, what it is called.  origin: where others find it, where ``path`` is a
    copy on this node.  labels: class id -> name, without 0.
    domains: domain name -> its description (modality, intensity rule) as plain values.
    """

    def __init__(self, path: Path, origin: str = "") -> None:
        self.path, self.origin = path, origin or str(path)
        header = _read_header(path)
        self.digest: str = header["digest"]
        self.name: str = header["name"]
        self.labels: dict[int, str] = {int(key): name for key, name in header["labels"].items()}
        self.domains: dict[str, Any] = header["domains"]
        self._records, self._places = _read_records(path / "records.arrow")
        self._shards: dict[int, Any] = {}
        self._volumes: dict[int, _Volume] = {}

    @property
    def classes(self) -> int:
        """Number of segmentation logits: the highest class id + 1, so C + 1 for ids 1..C; 1 without labels."""
        return max(self.labels, default=0) + 1

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"Store({self.name!r}, {len(self)} images, {self.path})"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.origin,)

    def records(self, domain: str | None = None, split: str | None = None) -> list[Record]:
        """Records of one domain and split (None: all), in the store's order. An unknown domain raises InputError."""
        if domain is not None and domain not in self.domains:
            raise InputError(
                f"unknown domain {domain!r} in store {self.name}", expected=f"one of {', '.join(self.domains)}"
            )
        return [
            record
            for record in self._records
            if (domain is None or record.domain == domain) and (split is None or record.split == split)
        ]

    def image(self, record: Record) -> NDArray[np.float32]:
        """float32 [D, H, W] in [-1, 1]: a read-only view, no copy."""
        return self._volume(record).image

    def label(self, record: Record) -> NDArray[np.uint8]:
        """uint8 [D, H, W] class ids: a read-only view, no copy. InputError for an image without a label."""
        label = self._volume(record).label
        if label is None:
            raise InputError(
                f"image of subject {record.subject} ({record.domain}) has no label", expected="a labelled image"
            )
        return label

    def foreground(self, record: Record) -> NDArray[np.int32]:
        """int32 [n, 3] (d, h, w) of labelled voxels, n <= ``FOREGROUND_VOXELS``, every class present equally often
        (voxels of a small one repeat). n = 0 for an image without a label or with an empty one."""
        return self._volume(record).foreground

    def spacing(self, record: Record) -> tuple[float, float, float]:
        """Voxel size in millimetres, (D, H, W)."""
        x, y, z = np.linalg.norm(np.asarray(record.affine)[:3, :3], axis=0).tolist()
        return z, y, x

    def _volume(self, record: Record) -> _Volume:
        volume = self._volumes.get(record.index)
        if volume is None:
            place = self._places[record.index]
            if place.shard not in self._shards:
                source = pa.memory_map(str(_shard(self.path, place.shard)), "r")
                self._shards[place.shard] = pa.ipc.open_file(source)
            batch = self._shards[place.shard].get_batch(place.row)
            volume = self._volumes[record.index] = _read_volume(batch, record.shape)
        return volume


def open_store(path: Path | str) -> Store:
    """Open the store at ``path``; where GANATOMY_STORE_CACHE names a folder of this node, the copy of it there, fetched
    once (see ``staging``). InputError when there is none, it is damaged, or another version wrote it."""
    cache = os.environ.get(CACHE)
    if not cache:
        return Store(Path(path))
    origin = _Published.find(Path(path).name) or _Shared(Path(path))
    return Store(staged(str(origin), origin.header, origin.fetch, Path(cache)), origin=str(path))


def publish_store(path: Path, url: str) -> None:
    """Put the store at ``path`` below ``url``, from where nodes with a cache fetch it; nothing to do if it is there.

    InputError when the place cannot be written.
    """
    with _reachable(f"store {path} cannot be put to {shown(url)}", "mend --store-url, or leave it out"):
        there, header = _Published(url, path.name), (path / HEADER).read_bytes()
        if there.header != header:
            for name in [*json.loads(header)["files"], HEADER]:  # last, what declares it
                there.put(path / name)


@contextlib.contextmanager
def _reachable(otherwise: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{otherwise}: {shown(str(error))}", remedy=remedy) from error


class _Shared:
    """A store in the folder that nodes share, as it is copied from."""

    def __init__(self, path: Path) -> None:
        _read_header(path)  # what is wrong with it is said as ever
        self.path, self.header = path, (path / HEADER).read_bytes()

    def __str__(self) -> str:
        return str(self.path)

    def fetch(self, name: str, to: Path) -> None:
        shutil.copyfile(self.path / name, to)


class _Published:
    """A store at an address that pyarrow's file systems know (S3-compatible ones among them)."""

    def __init__(self, url: str, name: str) -> None:
        from pyarrow.fs import FileSystem

        self.system, root = FileSystem.from_uri(url)
        self.folder = f"{root.rstrip('/')}/{name}"
        try:
            with self.system.open_input_stream(f"{self.folder}/{HEADER}") as source:
                self.header = source.read()
        except FileNotFoundError:
            self.header = b""

    @classmethod
    def find(cls, name: str) -> _Published | None:
        """The store called ``name`` at GANATOMY_STORE_URL, if there is one; InputError if nobody can tell."""
        if not (url := os.environ.get(URL)):
            return None
        with _reachable(f"{URL} {shown(url)} cannot be read", "mend it on this node, or unset it"):
            there = cls(url, name)
        # Synthetic sets all have one name, and are not put there: they come from the shared folder.
        return there if there.header and json.loads(there.header)["digest"] == name else None

    def __str__(self) -> str:
        return self.folder

    def fetch(self, name: str, to: Path) -> None:
        with (
            _reachable(f"{name} of store {self} cannot be fetched", "try again; see whether its server is well"),
            self.system.open_input_stream(f"{self.folder}/{name}") as source,
            to.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 16 * 2**20)

    def put(self, file: Path) -> None:
        from pyarrow.fs import LocalFileSystem

        if isinstance(self.system, LocalFileSystem):  # an object store has no folders
            self.system.create_dir(self.folder, recursive=True)
        with file.open("rb") as source, self.system.open_output_stream(f"{self.folder}/{file.name}") as target:
            shutil.copyfileobj(source, target, 16 * 2**20)


def write_store(
    path: Path | str,
    *,
    name: str,
    labels: Mapping[int, str],
    domains: Mapping[str, Any],
    digest: str,
    items: Iterable[Item],
) -> Store:
    """Write ``items`` as a store at ``path`` and open it. The folder appears complete or not at all.

    labels: class id (1..255) -> name.  domains: name -> description.  digest: content hash of what made the items.
    When two write the same at once, the first to finish wins and both get its store. InputError for an item that does
    not fit (names the subject), when the disc is full, or when ``path`` holds something else.
    """
    path = Path(path)
    if not all(0 < value < 256 for value in labels):
        raise InputError(f"labels of {name} have ids {sorted(labels)}", expected="whole numbers in 1..255")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    part.mkdir()
    try:
        _write_files(part, {"name": name, "digest": digest, "labels": dict(labels), "domains": plain(domains)}, items)
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


# --- writing -----------------------------------------------------------------------------------------------------


def _write_files(part: Path, header: dict[str, Any], items: Iterable[Item]) -> None:
    known, domains = {0, *header["labels"]}, header["domains"]
    records, places = [], []
    with _Shards(part) as shards:
        for index, item in enumerate(items):
            item, present = _checked(item, known, domains)
            foreground = _foreground(item.label, present, index)
            places.append(shards.add(item, foreground))
            records.append(_record(index, item))
    _write_records(part / "records.arrow", records, places)
    files = sorted(part.iterdir())
    header = {
        "format": FORMAT,
        **header,
        "files": {file.name: file.stat().st_size for file in files},
        "hashes": {file.name: file_hash(file) for file in files},
    }
    (part / HEADER).write_text(json.dumps(header, indent=1, ensure_ascii=False))
    for file in part.iterdir():
        _sync(file)


def _publish(part: Path, path: Path) -> None:
    _sync(part)
    try:
        part.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """On disk before the rename is: a machine that loses power must not keep the name without the bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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

    def add(self, item: Item, foreground: NDArray[np.int32]) -> _Place:
        columns = _columns(item, foreground)
        key = (item.image.shape, item.label is not None)
        if key not in self.open:
            if len(self.open) >= _OPEN_SHARDS:
                self._close()
            schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()])
            self.open[key] = self.count, pa.ipc.new_file(str(_shard(self.folder, self.count)), schema)
            self.count += 1
        self.open.move_to_end(key)
        number, writer = self.open[key]
        writer.write_batch(pa.record_batch(list(columns.values()), names=list(columns)))
        row = self.rows.get(number, 0)
        self.rows[number] = row + 1
        return _Place(number, row)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"volumes-{number:04d}.arrow"


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
        raise InputError(f"{who} has values in [{low:g}, {high:g}]", expected="finite values in [-1, 1]")
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


_SHARED = ("subject", "patient", "domain", "split", "lo", "hi", "source", "kind", "parents", "attributes")


# --- the table of records ----------------------------------------------------------------------------------------

_RECORDS = pa.schema(
    [
        *((name, pa.string()) for name in ("subject", "patient", "domain", "split", "source", "kind", "attributes")),
        ("shape", pa.list_(pa.int32(), 3)),
        ("affine", pa.list_(pa.float64(), 16)),
        ("labelled", pa.bool_()),
        ("lo", pa.float64()),
        ("hi", pa.float64()),
        ("content", pa.list_(pa.int32(), 2)),
        ("labelled_slices", pa.list_(pa.int32())),
        ("parents", pa.list_(pa.string())),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


def _write_records(path: Path, records: list[Record], places: list[_Place]) -> None:
    rows = []
    for record, place in zip(records, places, strict=True):
        row = {name: getattr(record, name) for name in _RECORDS.names if hasattr(record, name)}
        row["attributes"] = json.dumps(record.attributes, ensure_ascii=False)
        row["affine"] = np.ravel(record.affine).tolist()
        rows.append({**row, "shard": place.shard, "row": place.row})
    with pa.ipc.new_file(str(path), _RECORDS) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=_RECORDS))


def _read_records(path: Path) -> tuple[list[Record], list[_Place]]:
    with pa.memory_map(str(path), "r") as source:
        rows = pa.ipc.open_file(source).read_all().to_pylist()
    records, places = [], []
    for index, row in enumerate(rows):
        places.append(_Place(row.pop("shard"), row.pop("row")))
        affine = row.pop("affine")
        row |= {name: tuple(row[name]) for name in ("shape", "content", "labelled_slices", "parents")}
        row |= {"affine": tuple(tuple(affine[i : i + 4]) for i in range(0, 16, 4))}
        records.append(Record(index=index, **{**row, "attributes": json.loads(row["attributes"])}))
    return records, places


def _read_header(path: Path) -> dict[str, Any]:
    again = f"delete {path} and prepare it again"
    try:
        header = json.loads((path / HEADER).read_text())
    except FileNotFoundError:
        raise InputError(
            f"no store at {path}", expected="a folder with store.json", remedy="prepare the cohort"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path / HEADER} cannot be read: {error}", remedy=again) from error
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path} was made by another version (store format {header.get('format')})",
            expected=f"format {FORMAT}",
            remedy=f"{again}; the cohort itself is not touched",
        )
    for name, size in header["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(f"{file} is damaged or missing", expected=f"{size} bytes", remedy=again)
    return header


def _read_volume(batch: Any, shape: tuple[int, int, int]) -> _Volume:
    image = batch.column("image").storage.flatten().to_numpy(zero_copy_only=True).reshape(shape)
    if "label" not in batch.schema.names:
        return _Volume(image, None, np.zeros((0, 3), np.int32))
    label = batch.column("label").storage.flatten().to_numpy(zero_copy_only=True).reshape(shape)
    foreground = batch.column("foreground").flatten().flatten().to_numpy(zero_copy_only=True).reshape(-1, 3)
    return _Volume(image, label, foreground)


def read_parquet(path: Path | str) -> list[dict[str, Any]]:
    """Rows of a Parquet table, column name -> value. InputError when the file is not one."""
    import pyarrow.parquet as parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}", expected="a Parquet table") from error
    return rows
