"""Image files, opened header first: what a header claims is bounded and compared with the file before room is made.

One setting bounds what one image may take: ``GANATOMY_MAX_IMAGE_GB``. Work that reads several images at once shares it.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from PIL import Image

from ganatomy.contracts import InputError
from ganatomy.images.intensities import Array

RASTER = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
"""Endings read by Pillow as 2D images (a TIFF of several pages is a stack); everything else goes to nibabel."""

RASTER_AFFINE = np.diag([1.0, -1.0, 1.0, 1.0])
"""Pixels of a raster image: columns run rightwards, rows run downwards, 1 mm a side."""

MAX_IMAGE, USUAL_GB = "GANATOMY_MAX_IMAGE_GB", 2.0
"""The setting, in GiB of voxels of one image at 4 bytes a voxel (more where the file stores more), and its default."""

_HEADER = 16 * 2**20  # bytes before the voxels, extensions included; those of scanners and CIFTI take some 1 MiB
_DEFLATE = 1032  # no deflated byte becomes more
_PIECE = 2**20
_GZIPPED, _PACKED = (".gz", ".mgz"), (".gz", ".mgz", ".bz2", ".zst")


@dataclass(frozen=True)
class Grid:
    """What a header says. shape: sides (x, y, z, channels, …).  zooms: mm (x, y, z).  held: bytes of its voxels."""

    shape: tuple[int, ...]
    zooms: tuple[float, ...]
    held: int


def max_bytes() -> int:
    """Bytes that the voxels of one image may take: ``GANATOMY_MAX_IMAGE_GB``. InputError where it is no size."""
    said = os.environ.get(MAX_IMAGE) or str(USUAL_GB)
    try:
        bound = float(said)
    except ValueError:
        bound = math.nan
    if not 0 < bound < math.inf:
        raise InputError(f"{MAX_IMAGE} = {said!r}", expected="a number of GiB above 0, such as 4")
    return int(bound * 2**30)


def check_room(what: str, shape: Sequence[int], itemsize: int = 4) -> int:
    """Bytes of ``shape`` at 4 bytes a voxel, or ``itemsize`` where that is more. InputError beyond the bound."""
    needed = math.prod(int(side) for side in shape) * max(4, itemsize)
    if needed > max_bytes():
        raise InputError(
            f"{what} would take {needed / 2**30:.3g} GiB: {' x '.join(map(str, shape))} voxels",
            expected=f"at most {max_bytes() / 2**30:.3g} GiB an image",
            remedy=f"correct its header or take it out; where it is that large, set {MAX_IMAGE} higher",
        )
    return needed


def read_grid(path: Path) -> Grid | None:
    """What the header of an image says, without its voxels; None where it cannot be read or claims too much (reading
    the image then says what is wrong with it)."""
    with suppress(Exception):  # decoders of many formats raise whatever they like on a damaged file
        if path.suffix.lower() in RASTER:
            with Image.open(path) as picture:
                shape = _raster_shape(path, picture)
            return Grid(shape, (1.0, 1.0, 1.0), check_room(str(path), shape))
        file = open_volume(path)
        sides = (*(abs(float(side)) or 1.0 for side in file.header.get_zooms()[:3]), 1.0, 1.0)[:3]
        return Grid(tuple(file.shape), sides, check_room(str(path), file.shape, _itemsize(file)))
    return None


def read_voxels(path: Path, as_label: bool) -> tuple[Array, Array]:
    """Voxels as stored, with all axes, and affine (4 x 4, voxel to RAS mm). as_label: colours are refused.

    Raises InputError where the file claims more than it holds or may take; decoders raise what they like.
    """
    return _read_raster(path, as_label) if path.suffix.lower() in RASTER else _read_volume(path)


# --- volumes -----------------------------------------------------------------------------------------------------


def _read_volume(path: Path) -> tuple[Array, Array]:
    file = open_volume(path)
    affine = getattr(file, "affine", None)
    if affine is None:
        raise InputError(f"{path} holds a {type(file).__name__}", expected="an image on a voxel grid")
    if len(file.shape) > 0 and min(file.shape) < 0:
        raise InputError(f"{path} has shape {tuple(file.shape)}", expected="sides of 1 voxel or more")
    check_room(str(path), file.shape, _itemsize(file))
    voxels = _stored(path, file.dataobj)
    if voxels.dtype.names or np.iscomplexobj(voxels):
        raise InputError(f"{path} holds colours or complex numbers", expected="one number a voxel")
    return voxels, np.asarray(affine, dtype=np.float64)


def open_volume(path: Path) -> Any:
    """nibabel's image, of which only the header is read; what stands before the voxels is bounded first."""
    if not path.is_file():
        raise InputError(f"{path} cannot be read: there is no such file", remedy="correct its path, or take it out")
    ending = path.name.lower().removesuffix(".gz")
    if ending.endswith(".gii"):
        raise InputError(f"{path} holds a GiftiImage", expected="an image on a voxel grid")
    header = path.with_name(path.name.replace(".img", ".hdr")) if ".img" in path.name else path
    if header.is_file():
        _check_header(header)
    if path.suffix.lower() in _PACKED and ".mnc" in ending:  # read whole by its decoder, header or not
        _check_length(path, max_bytes())
    return cast(Any, nibabel.load(path))


def _check_header(path: Path) -> None:
    """Refuse a NIfTI whose voxels begin far beyond any header, and a header file that long: nibabel reads it whole."""
    with ImageOpener(path) as file:
        block = file.read(540)
    for order in "<>":
        if block[344:347] == b"n+1":
            offset = struct.unpack_from(f"{order}f", block, 108)[0]
        elif block[4:7] == b"n+2" and len(block) == 540:
            offset = struct.unpack_from(f"{order}q", block, 168)[0]
        else:
            continue
        size = struct.unpack_from(f"{order}i", block, 0)[0]
        if size in (348, 540) and not offset <= _HEADER:
            raise InputError(f"{path} has voxels from byte {offset:g} on",
                             expected=f"a header of at most {_HEADER} bytes", remedy="mend its header")  # fmt: skip
    if path.suffix.lower() == ".hdr" or path.name.lower().endswith(tuple(f".hdr{packed}" for packed in _PACKED)):
        _check_length(path, _HEADER)


def _check_length(path: Path, most: int) -> None:
    """Refuse a file that unpacks to more than ``most`` bytes, without holding them."""
    with ImageOpener(path) as file:
        seen = 0
        while piece := file.read(_PIECE):
            seen += len(piece)
            if seen > most:
                raise InputError(f"{path} holds more than {most} bytes", expected="a smaller file",
                                 remedy="take it out")  # fmt: skip


def _itemsize(file: Any) -> int:
    return int(np.dtype(file.get_data_dtype()).itemsize)


def _stored(path: Path, proxy: Any) -> Array:
    """The voxels behind nibabel's ``proxy``, scaled as it scales them, once the file was seen to be long enough."""
    if type(proxy) is not ArrayProxy or not isinstance(proxy.file_like, str | os.PathLike):
        return np.asanyarray(proxy)  # formats that know better where their voxels are
    file = Path(proxy.file_like)
    needed, size = proxy.offset + math.prod(map(int, proxy.shape)) * proxy.dtype.itemsize, file.stat().st_size
    packed = file.suffix.lower()
    if needed > (size * _DEFLATE if packed in _GZIPPED else math.inf if packed in _PACKED else size):
        raise InputError(f"{path} is too short: its header claims {needed} bytes, the file has {size}",
                         expected="a whole file", remedy="copy the file again or take it out")  # fmt: skip
    if packed not in _GZIPPED:
        return np.asanyarray(proxy)
    spec = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    with _Unpacked(path, file) as stream:
        return np.asanyarray(ArrayProxy(stream, spec, mmap=False, order=proxy.order))


class _Unpacked(gzip.GzipFile):
    """A gzip that is read in pieces, and to its end where that is near, so that its checksum is looked at."""

    def __init__(self, image: Path, file: Path) -> None:
        super().__init__(file, "rb")
        self._image = image

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``. Raises InputError where the file ends before, and what gzip raises for a wrong checksum."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            piece = self.read(min(_PIECE, len(view) - done))
            if not piece:
                raise InputError(
                    f"{self._image} is too short: its header claims {len(view)} bytes of voxels, the file has {done}",
                    expected="a whole file", remedy="copy the file again or take it out")  # fmt: skip
            view[done : done + len(piece)] = piece
            done += len(piece)
        for _ in range(_HEADER // _PIECE):  # a footer or padding may follow the voxels; a bomb is not unpacked
            if not self.read(_PIECE):
                break
        return done


# --- pictures ----------------------------------------------------------------------------------------------------


def _read_raster(path: Path, as_label: bool) -> tuple[Array, Array]:
    try:
        with Image.open(path) as file:
            return _pages(path, file, as_label), RASTER_AFFINE.copy()
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has more pixels than a picture is read with: {error}",
                         expected=f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels a page",
                         remedy="store it as NIfTI, smaller, or take it out") from error  # fmt: skip


def _pages(path: Path, file: Any, as_label: bool) -> Array:
    columns, rows, count = _raster_shape(path, file)
    check_room(str(path), (columns, rows, count), len(file.getbands()))
    pages: list[Array] = []
    for page in range(count):
        file.seek(page)
        if file.size != (columns, rows):
            raise InputError(f"{path} has pages of {columns} x {rows} and of {file.size[0]} x {file.size[1]} pixels",
                             expected="pages of one size", remedy="split it")  # fmt: skip
        grey = len(file.getbands()) == 1 and (as_label or file.mode != "P")
        if as_label and not grey:
            raise InputError(f"{path} is in colour", expected="class ids as grey values or palette indices")
        pages.append(np.asarray(file if grey else file.convert("L")).T)  # rows, columns -> x, y
    return np.stack(pages, axis=-1)


def _raster_shape(path: Path, file: Any) -> tuple[int, int, int]:
    """(columns, rows, pages), from the headers of the pages; pages are counted once one of them is seen to fit."""
    check_room(str(path), file.size)
    return (*file.size, getattr(file, "n_frames", 1))


# --- several at once ---------------------------------------------------------------------------------------------

_taken, _changed = [0], threading.Condition()


@contextmanager
def room_for(*paths: Path | None) -> Iterator[None]:
    """Wait until the images at ``paths`` fit beside those that other threads hold: together no more than one may take.

    An image and its label that are larger together are held alone.
    """
    needed = sum(grid.held for path in paths if path is not None and (grid := read_grid(path)) is not None)
    bound = max_bytes()
    with _changed:
        _changed.wait_for(lambda: _taken[0] == 0 or _taken[0] + needed <= bound)
        _taken[0] += needed
    try:
        yield
    finally:
        with _changed:
            _taken[0] -= needed
            _changed.notify_all()
