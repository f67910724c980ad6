"""Which voxels of an image are of the body: where a method learns to copy, and where what it made is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TISSUE = -0.95
"""Image values above this are of the body, not of what lies around it."""


def body(*images: Tensor) -> Tensor:
    """The voxels of one body that images registered to each other show: bool, the shape of each, [..., H, W].

    Where one of them is brighter than ``TISSUE``; and where, in the axial slice, such voxels lie on both sides in the
    row and on both sides in the column, so that lungs and ventricles, which are dark, are of the body, and the air
    around it is not. Images in [-1, 1].
    """
    bright = images[0] > TISSUE
    for image in images[1:]:
        bright = bright | (image > TISSUE)
    return _between(bright, -1) & _between(bright, -2)


def _between(bright: Tensor, axis: int) -> Tensor:
    """Where a bright voxel lies at or before, and one at or after, along ``axis``."""
    before = bright.cumsum(axis) > 0
    after = bright.flip(axis).cumsum(axis).flip(axis) > 0
    return before & after
