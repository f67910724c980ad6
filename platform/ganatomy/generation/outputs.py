"""What generation writes: NIfTI on the grid of its source, names, digests."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from ganatomy.contracts import InputError
from ganatomy.core.plain_files import read_json
from ganatomy.images.files import RASTER
from ganatomy.images.imaging import load_image

INTEGER_LEVELS = 255
"""A made image keeps its source's integer type only where its native range spans at least so many whole numbers."""


def like_source(
    source: Path,
    values: np.ndarray,
    affine: np.ndarray,
    span: tuple[float, float] | None = None,
    dtype: type = np.float32,
) -> nib.Nifti1Image:
    """``values`` [x, y, z] in a NIfTI of the grid, codes and units of ``source``; nothing else of its header is there.

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
            kind = nib.Nifti2Image if isinstance(original.header, nib.Nifti2Header) else nib.Nifti1Image
            header, affine = _grid_alone(original.header, kind, values.shape), original.affine
    chosen = np.dtype(dtype) if span is None else output_type(stored, *span)
    if np.issubdtype(chosen, np.integer):
        values = np.rint(values)
    image = kind(values.astype(chosen), affine, header=header)
    image.header.set_data_dtype(chosen)
    image.header["descrip"] = b"synthetic"
    if header is None:
        image.header.set_xyzt_units("mm")
    return image


_AXES = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_ROWS = ("srow_x", "srow_y", "srow_z")


def _grid_alone(original: Any, kind: Any, shape: Sequence[int]) -> Any:
    """A new header with the numbers of ``original`` that say where its voxels lie, bit for bit, and no other field.

    What a field cannot mean in a file of this ``shape`` (steps along axes that it has not) is not taken over."""
    header = kind.header_class()
    header.set_data_shape(shape)
    steps = np.asarray(header["pixdim"]).copy()
    for name in ("xyzt_units", "qform_code", "sform_code"):
        header[name] = original[name]
    if original["qform_code"] > 0:
        for name in _AXES:
            header[name] = original[name]
    if original["sform_code"] > 0:
        for name in _ROWS:
            header[name] = original[name]
    steps[: len(shape) + 1] = np.asarray(original["pixdim"])[: len(shape) + 1]
    header["pixdim"] = steps
    return header


def output_type(stored: np.dtype, low: float, high: float) -> np.dtype:
    """The source's integer type where it holds the native range finely enough, else float32."""
    if np.issubdtype(stored, np.integer):
        limits = np.iinfo(stored)
        if limits.min <= low and high <= limits.max and high - low >= INTEGER_LEVELS:
            return stored
    return np.dtype(np.float32)


def stored_labels(source: Path, affine: np.ndarray) -> nib.Nifti1Image:
    """The voxels of a label file in a new NIfTI on its own grid: the same whole numbers, and nothing else.

    affine: of one whose file has none."""
    values, _ = load_image(source, as_label=True)
    return like_source(source, values, affine, dtype=smallest(values))


def stored_mask(source: Path, affine: np.ndarray) -> nib.Nifti1Image:
    """Likewise a mask file, 1 wherever it is not 0: a mask of fractions means that too."""
    values, _ = load_image(source, as_label=True)
    return like_source(source, values != 0, affine, dtype=np.uint8)


def smallest(values: np.ndarray) -> type:
    """The smallest integer type that holds all of the labels ``values``."""
    top = values.max(initial=0)
    return np.uint8 if top < 2**8 else np.int16 if top < 2**15 else np.int32


# --- names and files ---------------------------------------------------------------------------------------------


def alphanumeric(name: str) -> str:
    """The letters and digits of ``name``: what a BIDS entity may hold."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


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
