"""Small files: tables in, text and JSON written whole or not at all, and what is in a file by its hash."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.durable import replacing
from ganatomy.core.plain_values import plain

MAX_ROWS, USUAL_ROWS = "GANATOMY_MAX_TABLE_ROWS", 1_000_000
"""The setting that bounds the rows of a table, and its default."""

_TABLE_BYTES = 256 * 2**20


def absolute(path: Path | str) -> Path:
    """Absolute, without "..", and with symbolic links left alone: data kept by links loses its names otherwise."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def read_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, column -> text) of each row of a .csv, .tsv or .parquet table.

    Raises InputError naming the file where it cannot be read, or has more rows than ``GANATOMY_MAX_TABLE_ROWS`` allows
    (a million), more cells than 20 times that, or more bytes than 256 MiB.
    """
    bound = _max_rows()
    try:
        if table.suffix.lower() == ".parquet":
            frame = _read_parquet(table, bound)
            texts = frame.astype(object).where(frame.notna(), "").astype(str).to_dict("records")
            return [(number, dict(values)) for number, values in enumerate(texts, start=1)]
        _check_size(table, table.stat().st_size)
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
            rows: list[tuple[int, dict[str, str]]] = []
            for values in reader:
                _check_cells(table, len(rows) + 1, len(reader.fieldnames or ()), bound)
                rows.append((reader.line_num, {k: (v or "").strip() for k, v in values.items() if k}))
            return rows
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a table: {error}", expected="CSV, TSV or Parquet") from error


def _read_parquet(table: Path, bound: int) -> Any:
    """A pandas frame of the columns of single values. A text that is stored once and stands in many rows is kept once,
    and bounded as often as it stands there: a file of 500 bytes may say 100 GB so."""
    from pyarrow import compute, parquet, types  # loaded only where somebody has such a table

    about = parquet.read_metadata(table)
    unpacked = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    _check_size(table, max(unpacked, table.stat().st_size))
    _check_cells(table, about.num_rows, about.num_columns, bound)
    fields = [field for field in parquet.read_schema(table) if not types.is_nested(field.type)]
    kinds = [field.type.value_type if types.is_dictionary(field.type) else field.type for field in fields]
    widths = [kind.byte_width for kind in kinds if types.is_fixed_size_binary(kind)]
    _check_size(table, sum(widths) * about.num_rows)
    names = [field.name for field in fields]
    read, size = parquet.read_table(table, columns=names, read_dictionary=names), 0
    for chunk in (chunk for column in read.columns if types.is_dictionary(column.type) for chunk in column.chunks):
        if _is_text(chunk.type.value_type):
            lengths = compute.cast(compute.binary_length(chunk.dictionary), "int64")
            size += compute.sum(compute.take(lengths, chunk.indices)).as_py() or 0
    _check_size(table, size)
    return read.to_pandas()


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _max_rows() -> int:
    said = os.environ.get(MAX_ROWS) or str(USUAL_ROWS)
    if not (said.isascii() and said.isdigit() and 0 < len(said) < 16 and int(said)):
        raise InputError(f"{MAX_ROWS} = {said!r}", expected="a whole number above 0, such as 2000000")
    return int(said)


def _check_size(table: Path, size: int) -> None:
    if size > _TABLE_BYTES:
        raise InputError(f"{table} has {size} bytes", expected=f"a table of at most {_TABLE_BYTES}",
                         remedy="divide it, or leave columns out")  # fmt: skip


def _check_cells(table: Path, rows: int, columns: int, bound: int) -> None:
    if rows > bound or rows * columns > 20 * bound:
        raise InputError(
            f"{table} has too many rows: {rows} or more of {columns} columns",
            expected=f"at most {bound} rows and {20 * bound} cells",
            remedy=f"divide it, or leave columns out; where it is that long, set {MAX_ROWS} higher",
        )


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename (see ``replacing``): a reader finds the old file or the new one, never half of one."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def file_hashes(files: Iterable[Path], memory: Path | None = None) -> dict[Path, str]:
    """Content hash of each file. ``memory``: a JSON file that remembers them by size and times of change."""
    try:
        known = json.loads(memory.read_text()) if memory else {}
    except (OSError, ValueError):
        known = {}

    def one(file: Path) -> tuple[Path, list[Any]]:
        try:
            about = file.stat()
            stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
            entry = known.get(str(file))
            if entry and entry[1:] == stamp:
                return file, entry
            with file.open("rb") as stream:
                return file, [hashlib.file_digest(stream, "blake2b").hexdigest()[:32], *stamp]
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}", remedy="ganatomy cohort check") from error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(pool.map(one, sorted(files)))
    fresh = {str(file): entry for file, entry in found.items()}
    if memory and any(known.get(name) != entry for name, entry in fresh.items()) and memory.parent.is_dir():
        with contextlib.suppress(OSError):  # a read-only cohort is hashed each time
            write_atomically(memory, json.dumps({**known, **fresh}))
    return {file: entry[0] for file, entry in found.items()}


def write_json(path: Path, values: Any) -> None:
    """Plain values as sorted JSON, beside and then renamed; NaN and infinities as null, for which JSON has no words."""
    text = json.dumps(_finite(plain(values)), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
