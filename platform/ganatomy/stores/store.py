"""Store: a cohort prepared once, as memory-mapped Arrow files that all trials and workers of a node share.

It is opened where it lies, or where the node's own copy of it does, fetched from the shared folder or from where it was
published. How it looks on disk is ``layout``'s, how it comes there ``writing``'s.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ganatomy.contracts import InputError
from ganatomy.core.installation import CACHE
from ganatomy.core.standstill import moved
from ganatomy.images.intensities import Intensity
from ganatomy.stores.layout import Record, Volume, read_header, read_records, read_volume, shard_file
from ganatomy.stores.staging import HEADER, PIECE, pieces, staged
from ganatomy.tracking.server import shown

URL = "GANATOMY_STORE_URL"
"""Environment variable: where copies are fetched from instead of the shared folder, such as ``s3://bucket/stores``."""


class Store:
    """Read a prepared cohort (or a synthetic set). Get one from ``preparation.prepare``, ``write_store`` or
    ``open_store``.

    Opening reads the table of records only. Arrays are read-only views of the mapped files: they cost no memory of
    their own and all processes of a node share the pages. A Store is shipped to another process by its path.

    path, digest, name: where it is, what went in, what it is called.  key: identity of the key of its pseudonyms; "" in
    a synthetic set.  origin: where others find it, where ``path`` is a copy on this node.
    labels: class id -> name, without 0.
    domains: domain name -> its description (modality, intensity rule) as plain values.
    symmetric: axes (x, y, z) along which a mirror image is as good.
    """

    def __init__(self, path: Path, origin: str = "") -> None:
        self.path, self.origin = path, origin or str(path)
        header = read_header(path)
        self.digest: str = header["digest"]
        self.name: str = header["name"]
        self.key: str = header["key"]
        self.labels: dict[int, str] = {int(key): name for key, name in header["labels"].items()}
        self.domains: dict[str, Any] = header["domains"]
        self.symmetric: tuple[str, ...] = tuple(header.get("symmetric", ()))
        self.twins: dict[str, str] = header.get("twins", {})
        self._records, self._places = read_records(path / "records.arrow")
        self._shards: dict[int, Any] = {}
        self._volumes: dict[int, Volume] = {}

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

    def twin(self, record: Record) -> NDArray[np.float32] | None:
        """What the image would be without its lesion, float32 [D, H, W] in the image's own range, clipped to [-1, 1];
        None where nobody knows (``Cohort.twins``). For measures alone."""
        domain = self.twins.get(record.domain)
        same = self.counterpart(record, domain) if domain else None
        if same is None:
            return None
        native = Intensity.invert(self.image(same), same.lo, same.hi)
        return Intensity.scale(native, record.lo, record.hi)

    def counterpart(self, record: Record, domain: str) -> Record | None:
        """The real image of the same examination in ``domain``; None where there is none."""
        same = (one for one in self.records(domain) if one.subject == record.subject)
        return next((one for one in same if not one.attributes.get("synthetic")), None)

    def foreground(self, record: Record) -> NDArray[np.int32]:
        """int32 [n, 3] (d, h, w) of labelled voxels, n <= ``FOREGROUND_VOXELS``, every class present equally often
        (voxels of a small one repeat). n = 0 for an image without a label or with an empty one."""
        return self._volume(record).foreground

    def spacing(self, record: Record) -> tuple[float, float, float]:
        """Voxel size in millimetres, (D, H, W)."""
        x, y, z = np.linalg.norm(np.asarray(record.affine)[:3, :3], axis=0).tolist()
        return z, y, x

    def _volume(self, record: Record) -> Volume:
        moved()
        volume = self._volumes.get(record.index)
        if volume is None:
            place = self._places[record.index]
            if place.shard not in self._shards:
                source = pa.memory_map(str(shard_file(self.path, place.shard)), "r")
                self._shards[place.shard] = pa.ipc.open_file(source)
            batch = self._shards[place.shard].get_batch(place.row)
            volume = self._volumes[record.index] = read_volume(batch, record.shape)
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
            for name in [*read_header(path)["files"], HEADER]:  # last, what declares it
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
        read_header(path)  # what is wrong with it is said as ever
        self.path, self.header = path, (path / HEADER).read_bytes()

    def __str__(self) -> str:
        return str(self.path)

    def fetch(self, name: str, to: Path) -> None:
        with (self.path / name).open("rb") as source, to.open("wb") as target:
            target.writelines(pieces(source))


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
            target.writelines(pieces(source))

    def put(self, file: Path) -> None:
        from pyarrow.fs import LocalFileSystem

        if isinstance(self.system, LocalFileSystem):  # an object store has no folders
            self.system.create_dir(self.folder, recursive=True)
        with file.open("rb") as source, self.system.open_output_stream(f"{self.folder}/{file.name}") as target:
            shutil.copyfileobj(source, target, PIECE)
