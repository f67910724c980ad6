"""From a file on disk to what a network sees, and back to the file's own grid.

Forward: load, turn to RAS, map intensities to [-1, 1], resample, crop or pad about the centre. Intensities are mapped
before anything is interpolated, so that a background sentinel far below the tissue cannot bleed into its edges.
Backward: ``to_native`` undoes the geometry, ``Intensity.invert`` the intensities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from scipy import ndimage

from ganatomy.contracts import InputError
from ganatomy.images.files import check_room, read_voxels
from ganatomy.images.intensities import Array, Intensity

GRID_TOLERANCE = 0.1
"""Largest distance, in voxels, by which two grids may differ and still be the same: headers round, shifts do not."""

_RAS = np.array([[0, 1], [1, 1], [2, 1]])


# --- files -------------------------------------------------------------------------------------------------------


def load_image(path: Path, channel: int | None = None, *, as_label: bool = False) -> tuple[Array, Array]:
    """Voxels [x, y, z] (float32) and affine (4 x 4, voxel to RAS mm) of any file that nibabel or Pillow reads.

    A 2D image has z = 1. channel: index along the fourth axis of a 4D file. as_label: palette indices of a raster image
    are class ids, and colours are refused instead of turned to grey.
    Raises InputError naming the file when it cannot be read or is not one image, when it is
    larger than ``GANATOMY_MAX_IMAGE_GB`` allows or shorter than its header claims: before room is made for its voxels.
    """
    path = Path(path)
    try:
        voxels, affine = read_voxels(path, as_label)
    except InputError:
        raise
    except Exception as error:  # decoders of many formats raise whatever they like on a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}", remedy="copy the file again or take it out") from error
    if voxels.ndim == 4 and channel is not None:
        if channel >= voxels.shape[3]:
            raise InputError(
                f"{path} has {voxels.shape[3]} channels, not channel {channel}", remedy="correct its channel"
            )
        voxels = voxels[..., channel]
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    if voxels.ndim != 3 or 0 in voxels.shape:
        raise InputError(
            f"{path} has shape {voxels.shape}", expected="one 2D or 3D image", remedy="split it, or name its channel"
        )
    return np.asarray(voxels, dtype=np.float32), affine


@dataclass(frozen=True)
class Native:
    """One image as its file has it, checked.

    volume: float32 [x, y, z], finite, not constant.  label: uint8 [x, y, z] class ids, or None.
    mask: bool [x, y, z], or None.  affine: 4 x 4, voxel to RAS mm.
    """

    volume: Array
    affine: Array
    label: Array | None = None
    mask: Array | None = None


def load_native(
    image: Path,
    label: Path | None = None,
    mask: Path | None = None,
    channel: int | None = None,
    label_values: Mapping[int, int] | None = None,
    classes: int | None = None,
) -> Native:
    """Load an image with its label and mask, and check what would make it worthless.

    label_values: stored value -> class id; every value is its own class where it is empty or None.
    classes: C + 1; a class id at or beyond it is undeclared (None allows all up to 255).
    Raises InputError with the reason and a remedy: unreadable, NaN or Inf, no contrast, singular affine, a shape or
    affine that disagrees with the label's or the mask's, label values that are not declared.
    """
    volume, affine = load_image(image, channel)
    if not np.isfinite(volume).all():
        count = int((~np.isfinite(volume)).sum())
        raise InputError(f"{image} has {count} voxels that are NaN or Inf", remedy="mend the image or take it out")
    if volume.min() == volume.max():
        raise InputError(f"{image} has no contrast: every voxel is {volume.flat[0]:g}", remedy="take the image out")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(f"{image} has an affine that cannot be inverted", remedy="mend its header")
    native = Native(volume, affine)
    if label is not None:
        voxels = _on_same_grid(image, native, label, "label")
        native = Native(volume, affine, _class_ids(label, voxels, label_values or {}, classes))
    if mask is not None:
        native = Native(volume, affine, native.label, _on_same_grid(image, native, mask, "mask") != 0)
    return native


def _on_same_grid(image: Path, native: Native, path: Path, kind: str) -> Array:
    voxels, affine = load_image(path, as_label=True)
    shape = native.volume.shape
    if voxels.shape != shape:
        raise InputError(
            f"{image} has shape {shape}, its {kind} {path} has {voxels.shape}",
            remedy=f"resample the {kind} to the image, or correct the pairing",
        )
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in shape], indexing="ij")).reshape(3, -1)
    apart = (native.affine - affine)[:3, :3] @ corners + (native.affine - affine)[:3, 3:]
    distance = float(np.linalg.norm(apart, axis=0).max())
    if not distance <= GRID_TOLERANCE * spacing_of(native.affine).min():
        raise InputError(
            f"{image} and its {kind} {path} have affines that differ by up to {distance:.3g} mm",
            remedy=f"resample the {kind} to the image, or correct its header",
        )
    return voxels


def _class_ids(path: Path, voxels: Array, label_values: Mapping[int, int], classes: int | None) -> Array:
    present = np.unique(voxels)
    strange = [value for value in present if not (np.isfinite(value) and value == round(float(value)) and value >= 0)]
    if strange:
        raise InputError(
            f"label {path} has values that are no class ids: {strange[0]:g}", remedy="store whole numbers >= 0"
        )
    stored = [int(value) for value in present]
    mapping = {0: 0, **label_values} if label_values else {value: value for value in stored}
    limit = 256 if classes is None else classes
    unknown = [value for value in stored if not 0 <= mapping.get(value, -1) < limit]
    declared = label_values or {value: value for value in range(1, limit)}
    if unknown:
        raise InputError(
            f"label {path} has undeclared values {', '.join(map(str, unknown[:8]))}",
            expected=f"0 and {', '.join(str(value) for value, to in sorted(declared.items()) if to) or 'none'}",
            remedy="declare them (--labels NAME=VALUE,…; --labels background=VALUE ignores them) or mend the label",
        )
    return np.array([mapping[value] for value in stored], dtype=np.uint8)[np.searchsorted(present, voxels)]


# --- geometry ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """One image as a network sees it, with what leads back.

    image: float32 [D, H, W] in [-1, 1], D upwards, H from posterior to anterior, W from left to right.
    label: uint8 [D, H, W] class ids, or None.  affine: 4 x 4, (w, h, d) voxel to RAS mm.
    native_shape, native_affine: the grid of the file, [x, y, z].  lo, hi: native values of -1 and +1.
    """

    image: Array
    label: Array | None
    affine: Array
    native_shape: tuple[int, int, int]
    native_affine: Array
    lo: float
    hi: float


def normalise(native: Native, intensity: Intensity) -> tuple[NDArray[np.float32], float, float]:
    """The volume in [-1, 1] on its own grid, and the native values of -1 and +1. Raises InputError without contrast."""
    lo, hi = intensity.range(native.volume, native.mask)
    image = intensity.scale(native.volume, lo, hi, intensity.foreground(native.volume, native.mask))
    if image.min() == image.max():
        raise InputError(f"no contrast after {intensity.text()}", remedy="change the domain's intensity rule")
    return image, lo, hi


def prepare(
    native: Native,
    intensity: Intensity,
    spacing: Sequence[float] | None = None,
    size: Sequence[int] | None = None,
) -> Prepared:
    """Orient, normalise, resample, crop or pad. Images are interpolated linearly, labels by the nearest voxel.

    spacing: mm (x, y, z), 0 keeps an axis; None keeps all.  size: voxels (x, y, z) cropped or padded about the centre
    after resampling, 0 keeps an axis; None keeps all. Padding is -1 in the image, 0 in the label.
    """
    image, lo, hi = normalise(native, intensity)
    turn = orientations.io_orientation(native.affine)
    affine = native.affine @ orientations.inv_ornt_aff(turn, native.volume.shape)
    image = orientations.apply_orientation(image, turn)
    shape, scale, offset = _target_grid(image.shape, spacing_of(affine), spacing, size)
    check_room("an image prepared to this spacing and size", shape)
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = np.diag(scale), offset
    label = None if native.label is None else orientations.apply_orientation(native.label, turn)
    return Prepared(
        image=_reversed(_sample(image, shape, scale, offset, 1, -1.0)),
        label=None if label is None else _reversed(_sample(label, shape, scale, offset, 0, 0)),
        affine=affine @ step,
        native_shape=cast(tuple[int, int, int], tuple(native.volume.shape)),
        native_affine=native.affine,
        lo=lo,
        hi=hi,
    )


def to_native(volume: Array, prepared: Prepared, order: int = 1, fill: float | None = None) -> Array:
    """``volume`` [D, H, W] on the prepared grid, brought back to the file's own grid [x, y, z] and orientation.

    order: 1 linear (images), 0 nearest (labels).  fill: value of native voxels that preparation cropped away; -1 for
    order 1 and 0 for order 0 when None. Exact where preparation did not resample.
    """
    turn = orientations.io_orientation(prepared.native_affine)
    shape = [0, 0, 0]
    for axis, (target, _) in enumerate(turn):
        shape[int(target)] = prepared.native_shape[axis]
    affine = prepared.native_affine @ orientations.inv_ornt_aff(turn, prepared.native_shape)
    step = np.linalg.inv(prepared.affine) @ affine
    # Rounded, because the inverse of an affine leaves 1e-13 voxels that would turn an exact copy into an interpolation.
    scale, offset = np.round(np.diag(step)[:3], 6), np.round(step[:3, 3], 6)
    fill = (-1.0 if order else 0) if fill is None else fill
    restored = _sample(np.asarray(volume).transpose(2, 1, 0), tuple(shape), scale, offset, order, fill)
    back = orientations.ornt_transform(_RAS, turn)
    return np.ascontiguousarray(orientations.apply_orientation(restored, back))


def box_in(prepared: Prepared, corners: Sequence[float]) -> list[float]:
    """A box of the file, in voxels of the prepared image: (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1), as given.

    Corners are edges of voxels, half a voxel from their centres; what preparation cropped away is cut off.
    """
    there = np.linalg.inv(prepared.affine) @ prepared.native_affine
    return _moved(corners, there, prepared.image.shape[::-1])


def box_out(prepared: Prepared, corners: Sequence[float]) -> list[float]:
    """Inverse of ``box_in``: a box of the prepared image, in voxels of the file."""
    back = np.linalg.inv(prepared.native_affine) @ prepared.affine
    return _moved(corners, back, prepared.native_shape)


def in_plane(box: Sequence[float]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of a box, which may have z too."""
    x0, y0, x1, y1 = (*box[:2], *box[-2:]) if len(box) == 4 else (*box[:2], *box[3:5])
    return x0, y0, x1, y1


def _moved(corners: Sequence[float], step: Array, shape: Sequence[int]) -> list[float]:
    half = len(corners) // 2
    edges = np.array([[*corners[:half], 0.0][:3], [*corners[half:], 1.0][:3]]).T - 0.5
    found = np.sort(step[:3, :3] @ edges + step[:3, 3:], axis=1) + 0.5
    found = np.clip(found, 0, np.array(shape)[:, None])
    return [round(float(value), 4) for value in found[:half].T.ravel()]


def spacing_of(affine: Array) -> NDArray[np.float64]:
    """Voxel sides (x, y, z) in mm."""
    return cast(NDArray[np.float64], np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0)))


def _target_grid(
    shape: Sequence[int], native: Array, spacing: Sequence[float] | None, size: Sequence[int] | None
) -> tuple[tuple[int, ...], Array, Array]:
    """Shape of the prepared grid, and (scale, offset): its voxel i lies at scale * i + offset of the old."""
    old = np.asarray(shape)
    wanted = np.where(np.asarray(spacing or (0, 0, 0)) > 0, np.asarray(spacing or (0, 0, 0)), native)
    scale = np.where(np.isclose(wanted, native, rtol=1e-4), 1.0, wanted / native)
    resampled = np.maximum(1, np.round(old / scale)).astype(int)
    offset = (old - 1) / 2 - scale * (resampled - 1) / 2  # the centres coincide
    final = np.where(np.asarray(size or (0, 0, 0)) > 0, np.asarray(size or (0, 0, 0)), resampled)
    start = (resampled - final) // 2  # whole voxels, so that a crop alone never interpolates
    return tuple(int(side) for side in final), scale, offset + scale * start


def _sample(volume: Array, shape: Sequence[int], scale: Array, offset: Array, order: int, fill: float) -> Array:
    """``volume`` read at scale * i + offset along each axis; ``fill`` beyond half a voxel outside it.

    Axis by axis: the grids are parallel, so (tri)linear interpolation separates and costs three passes.
    """
    for axis in range(3):
        # On the way it may be larger than at both ends: 2 x 9,000 x 9,000 voxels to 9,000 x 2 x 2.
        check_room("an image on its way to another grid", (*shape[: axis + 1], *volume.shape[axis + 1 :]))
        side, positions = volume.shape[axis], scale[axis] * np.arange(shape[axis]) + offset[axis]
        outside = (positions < -0.5 - 1e-6) | (positions > side - 0.5 + 1e-6)
        if order and scale[axis] > 1:  # averages what a coarser voxel covers; without it fine texture aliases
            volume = ndimage.gaussian_filter1d(volume, (scale[axis] - 1) / 2, axis=axis, mode="nearest")
        volume = (_linear if order else _nearest)(volume, np.clip(positions, 0, side - 1), axis)
        if outside.any():
            volume[tuple(outside if other == axis else slice(None) for other in range(3))] = fill
    return volume


def _nearest(volume: Array, positions: Array, axis: int) -> Array:
    return np.take(volume, np.floor(positions + 0.5).astype(int), axis=axis)


def _linear(volume: Array, positions: Array, axis: int) -> Array:
    below = np.floor(positions).astype(int)
    weight = (positions - below).astype(np.float32)
    lower = np.take(volume, below, axis=axis)
    if not weight.any():
        return lower
    upper = np.take(volume, np.minimum(below + 1, volume.shape[axis] - 1), axis=axis)
    weight = weight.reshape([-1 if other == axis else 1 for other in range(3)])
    return lower + weight * (upper - lower)


def _reversed(volume: Array) -> Array:
    return np.ascontiguousarray(volume.transpose(2, 1, 0))


Progress = Callable[[int, int], None]
"""Told (done, total) as a long job goes on."""


def fitted(volume: NDArray[Any], shape: Sequence[int], outside: float = 0) -> NDArray[Any]:
    """``volume`` cropped or padded evenly to ``shape``, with ``outside`` beyond its edge."""
    out = np.full(tuple(shape), outside, volume.dtype)
    into, taken = [], []
    for have, want in zip(volume.shape, shape, strict=True):
        side, gap = min(have, want), abs(have - want) // 2
        into.append(slice(gap, gap + side) if want > have else slice(0, side))
        taken.append(slice(gap, gap + side) if have > want else slice(0, side))
    out[tuple(into)] = volume[tuple(taken)]
    return out
