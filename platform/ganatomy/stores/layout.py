"""What a store looks like on disk.

It is a folder: ``store.json`` (format, digest, labels, domains, size of every file), ``records.arrow`` (one row an
image) and shards ``volumes-NNNN.arrow``. A shard holds volumes of one shape as Arrow fixed-shape tensors, one record
batch a volume, uncompressed: reading one is address arithmetic in the page cache, nothing is decoded or copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ganatomy.contracts import InputError
from ganatomy.core.names import checked_name
from ganatomy.core.plain_files import read_json
from ganatomy.stores.staging import HEADER

FORMAT = 3
"""Version of the layout on disk. A store of another version is refused, never half understood."""

Affine = tuple[tuple[float, ...], ...]
IDENTITY: Affine = tuple(tuple(row) for row in np.eye(4).tolist())


@dataclass(frozen=True)
class Record:
    """What a store knows of one image without touching its voxels. Of people it knows pseudonyms only.

    index: its place in the store.  shape: (D, H, W).  content: first slice and last + 1 that show anything (are not
    constant); (0, D) when none does.  labelled_slices: those with a labelled voxel.  The other fields are those of
    ``writing.Item``.
    """

    index: int
    subject: str
    patient: str
    domain: str
    split: str
    shape: tuple[int, int, int]
    affine: Affine
    labelled: bool
    lo: float
    hi: float
    content: tuple[int, int]
    labelled_slices: tuple[int, ...] = ()
    source: str = ""
    kind: str = ""
    parents: tuple[str, ...] = ()
    rank: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Place:
    """Where an image's voxels are: the number of the shard, the record batch in it."""

    shard: int
    row: int


@dataclass(frozen=True)
class Volume:
    """An image's voxels, views of the mapped file: [D, H, W] in [-1, 1], class ids (None without a label), and int32
    [n, 3] (d, h, w) of labelled ones."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    foreground: NDArray[np.int32]


def shard_file(folder: Path, number: int) -> Path:
    """File of the shard of that number."""
    return folder / f"volumes-{number:04d}.arrow"


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
        ("rank", pa.int32()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


def write_records(path: Path, records: list[Record], places: list[Place]) -> None:
    """Write the table of records, each with the place of its voxels."""
    rows = []
    for record, place in zip(records, places, strict=True):
        row = {name: getattr(record, name) for name in _RECORDS.names if hasattr(record, name)}
        row["attributes"] = json.dumps(record.attributes, ensure_ascii=False)
        row["affine"] = np.ravel(record.affine).tolist()
        rows.append({**row, "shard": place.shard, "row": place.row})
    with pa.ipc.new_file(str(path), _RECORDS) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=_RECORDS))


def read_records(path: Path) -> tuple[list[Record], list[Place]]:
    """What ``write_records`` wrote."""
    with pa.memory_map(str(path), "r") as source:
        rows = pa.ipc.open_file(source).read_all().to_pylist()
    records, places = [], []
    for index, row in enumerate(rows):
        places.append(Place(row.pop("shard"), row.pop("row")))
        affine = row.pop("affine")
        row |= {name: tuple(row[name]) for name in ("shape", "content", "labelled_slices", "parents")}
        row |= {"affine": tuple(tuple(affine[i : i + 4]) for i in range(0, 16, 4))}
        records.append(Record(index=index, **{**row, "attributes": json.loads(row["attributes"])}))
    return records, places


# --- the header --------------------------------------------------------------------------------------------------


def read_header(path: Path) -> dict[str, Any]:
    """``store.json`` of the store at ``path``, whose files are all there and of their size; else InputError."""
    again = f"delete {path} and prepare it again"
    try:
        header = read_json(path / HEADER)
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
        file = path / checked_name(name, f"{path / HEADER}: file", remedy=again)
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(f"{file} is damaged or missing", expected=f"{size} bytes", remedy=again)
    return header


# --- the voxels --------------------------------------------------------------------------------------------------


def read_volume(batch: Any, shape: tuple[int, int, int]) -> Volume:
    """The volume of ``shape`` that a record batch of a shard holds, without a copy."""
    image = batch.column("image").storage.flatten().to_numpy(zero_copy_only=True).reshape(shape)
    if "label" not in batch.schema.names:
        return Volume(image, None, np.zeros((0, 3), np.int32))
    label = batch.column("label").storage.flatten().to_numpy(zero_copy_only=True).reshape(shape)
    foreground = batch.column("foreground").flatten().flatten().to_numpy(zero_copy_only=True).reshape(-1, 3)
    return Volume(image, label, foreground)
