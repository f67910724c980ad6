"""What generation writes: NIfTI on the grid of its source, names, digests."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from ganatomy.contracts import InputError
from ganatomy.image_files import RASTER
from ganatomy.plain_files import read_json

INTEGER_LEVELS = 255
"""A made image keeps its source's integer type only where its native range spans at least so many whole numbers."""


def like_source(
    source: Path,
    values: np.ndarray,
    affine: np.ndarray,
    span: tuple[float, float] | None = None,
    dtype: type = np.float32,
) -> nib.Nifti1Image:
    """``values`` [x, y, z] in a NIfTI with the grid, codes and units of ``source``, and nothing that names anybody.

    affine: of a source whose file has none.  span: of the values, where they are to be stored as the source's are if
    that is fine enough.  dtype: how they are stored otherwise.
    """
    header, kind, stored = None, nib.Nifti1Image, np.dtype(np.uint8)
    if source.suffix.lower() not in RASTER:
        original = cast(Any, nib.load(source))
        stored = original.get_data_dtype()
        if values.size == math.prod(original.shape):
            values = values.reshape(original.shape)  # a source [X, Y, Z, 1] stays one
        if isinstance(original, nib.Nifti1Pair):
            header, affine = original.header.copy(), original.affine
            kind = nib.Nifti2Image if isinstance(original, nib.Nifti2Pair) else nib.Nifti1Image
    chosen = np.dtype(dtype) if span is None else output_type(stored, *span)
    if np.issubdtype(chosen, np.integer):
        values = np.rint(values)
    image = kind(values.astype(chosen), affine, header=header)
    image.header.set_data_dtype(chosen)
    image.header.extensions.clear()
    for name, blank in _BLANK.items():
        if name in image.header:
            image.header[name] = blank
    if header is None:
        image.header.set_xyzt_units("mm")
    return image


_BLANK = {"descrip": b"synthetic", "aux_file": b"", "db_name": b"", "intent_name": b"", "cal_min": 0, "cal_max": 0}
"""Header fields that could name somebody, or that speak of the source's intensities."""


def output_type(stored: np.dtype, low: float, high: float) -> np.dtype:
    """The source's integer type where it holds the native range finely enough, else float32."""
    if np.issubdtype(stored, np.integer):
        limits = np.iinfo(stored)
        if limits.min <= low and high <= limits.max and high - low >= INTEGER_LEVELS:
            return stored
    return np.dtype(np.float32)


# --- names and files ---------------------------------------------------------------------------------------------


def alphanumeric(name: str) -> str:
    """The letters and digits of ``name``: what a BIDS entity may hold."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


def bids_subject(subject: str) -> str:
    """``sub-01``. BIDS names hold letters and digits only; one that holds more gets a tag that keeps it apart."""
    plain = alphanumeric(subject)
    tag = "" if plain == subject else hashlib.blake2b(subject.encode(), digest_size=3).hexdigest()
    return f"sub-{plain}{tag}"


def split_suffix(path: Path) -> tuple[str, str]:
    """Name and ending, where a compression belongs to the ending: (``scan``, ``.nii.gz``)."""
    inner = Path(path.stem) if path.suffix in (".gz", ".bz2", ".zst") else path
    return inner.stem, path.name.removeprefix(inner.stem)


def file_digest(path: Path) -> str:
    """Hash of a file's bytes. InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_sidecar(path: Path) -> dict[str, Any]:
    """What a sidecar says; nothing where there is none or it is damaged."""
    try:
        return cast(dict[str, Any], read_json(path))
    except (OSError, ValueError, InputError):
        return {}
