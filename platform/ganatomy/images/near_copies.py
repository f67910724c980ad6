"""Which images are nearly the same picture, such as one that was saved twice: found on voxels, not on bytes.

Two images are near-copies where the means of a coarse grid correlate by more than ``MEANS`` and what is left of those
means beside their surroundings by more than ``DETAIL``. The first alone would take people for each other: of 874 brain
slices of 110 patients 144 have another patient's within r > .95, none with r > .9 in the detail, too. Of volumes the
detail is that within the body: skulls taken off in one space share their outline, which of six gliomas made r .84. No
two of 60 hippocampi, 11 glioblastomas and those six reach r .4 within; saved again with noise and marks all have .85.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MEANS, DETAIL, DEEP_DETAIL = 0.95, 0.9, 0.6
"""Correlations above which two images are near-copies; the last of the detail of volumes."""

FLAT_SIDE, DEEP_SIDE = 24, 20
"""Cells a side of the coarse grid of a slice and of a volume."""

_ROWS = 1024
"""Images compared with all others at once: 40 MB for 10,000 images."""

Signature = NDArray[np.float16]
Cells = NDArray[np.float64]


@dataclass(frozen=True)
class NearCopy:
    """Two images, by their places in the list, of two owners: the most alike of theirs. r: of their means."""

    first: int
    second: int
    r: float


def signature(volume: NDArray[Any]) -> Signature:
    """[2, cells] of an image [x, y, z]: means of a coarse grid, and their detail; both of mean 0 and norm 1.

    Values are cut at their percentiles .5 and 99.5, so that no single voxel decides. An image that is constant has
    rows of zeros, which resemble nothing. Slices (z = 1) and volumes have signatures of different lengths.
    """
    side = FLAT_SIDE if volume.shape[2] == 1 else DEEP_SIDE
    low, high = np.percentile(volume, (0.5, 99.5))
    cells = np.clip(volume, low, high).astype(np.float64)
    for axis in range(2 if volume.shape[2] == 1 else 3):
        cells = _means_along(cells, axis, side)
    cells = cells.squeeze()
    detail = _detail(cells, 5) if cells.ndim == 2 else _detail(cells, 3, _body(cells))
    return np.stack([_unit(cells), _unit(detail)]).astype(np.float16)


def near_copies(signatures: Sequence[Signature], owners: Sequence[str]) -> list[NearCopy]:
    """Of each two owners that share near-copies the pair most alike, the most alike of all first.

    The work grows by the square of the images (10,000 slices: some ten seconds), the memory by their number.
    """
    found: list[NearCopy] = []
    for length in sorted({one.shape[1] for one in signatures}):
        places = [place for place, one in enumerate(signatures) if one.shape[1] == length]
        found += _among(places, signatures, owners)
    return sorted(found, key=lambda pair: (-pair.r, pair.first, pair.second))


def linked(pairs: Sequence[NearCopy], owners: Sequence[str]) -> dict[str, str]:
    """Owner -> first name of those that near-copies link with it, through others too; who has none is left out."""
    leader: dict[str, str] = {}

    def first(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for pair in pairs:
        one, other = sorted((first(owners[pair.first]), first(owners[pair.second])))
        leader[other] = one
    return {name: first(name) for name in sorted(leader)}


def _among(places: Sequence[int], signatures: Sequence[Signature], owners: Sequence[str]) -> list[NearCopy]:
    """``near_copies`` of images whose signatures have one length."""
    numbers: Mapping[str, int] = {name: number for number, name in enumerate(dict.fromkeys(owners))}
    own = np.array([numbers[owners[place]] for place in places])
    means, details = (np.stack([signatures[place][row] for place in places]).astype(np.float32) for row in (0, 1))
    best: dict[tuple[int, int], NearCopy] = {}
    for start in range(0, len(places), _ROWS):
        rows = slice(start, start + _ROWS)
        alike = means[rows] @ means.T
        least = DETAIL if means.shape[1] == FLAT_SIDE**2 else DEEP_DETAIL
        near = (alike > MEANS) & (own[rows, None] < own)
        if near.any():
            near &= details[rows] @ details.T > least
        at, other = np.nonzero(near)
        r = alike[at, other]
        order = np.argsort(-r, kind="stable")  # the first of each two owners is then their most alike
        pairs = own[start + at[order]] * len(numbers) + own[other[order]]
        for index in order[np.unique(pairs, return_index=True)[1]]:
            first, second = start + int(at[index]), int(other[index])
            pair = NearCopy(places[first], places[second], float(r[index]))
            two = int(own[first]), int(own[second])
            if two not in best or best[two].r < pair.r:
                best[two] = pair
    return list(best.values())


def _detail(cells: Cells, around: int, body: NDArray[np.bool_] | None = None) -> Cells:
    """What the cells are beside the mean of their surroundings, by how much that varies there; 0 off the body."""
    inside = np.ones_like(cells) if body is None else body.astype(np.float64)
    share = ndimage.uniform_filter(inside, around) + 1e-9
    detail = inside * (cells - ndimage.uniform_filter(cells * inside, around) / share)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(detail**2, around) / share, 0))
    # Where an edge that all share stands out, it would be all that counts.
    return detail / (spread + 0.1 * np.sqrt((detail**2).sum() / max(1.0, inside.sum())) + 1e-9)


def _body(cells: Cells) -> NDArray[np.bool_]:
    """Cells that are no background, nor beside it: the whole, where an image has none."""
    background = cells <= cells.min() + 0.1 * np.ptp(cells)
    return ~ndimage.binary_dilation(background)


def _means_along(cells: Cells, axis: int, count: int) -> Cells:
    """Means of ``count`` parts of an axis, as even as they can be; shorter axes repeat what they have."""
    side = cells.shape[axis]
    if side < count:
        return np.take(cells, np.arange(count) * side // count, axis)
    starts = np.arange(count) * side // count
    sizes = np.diff(np.append(starts, side)).reshape([-1 if other == axis else 1 for other in range(3)])
    means: Cells = np.add.reduceat(cells, starts, axis) / sizes
    return means


def _unit(cells: Cells) -> Cells:
    flat = cells.ravel() - cells.mean()
    norm = float(np.linalg.norm(flat))
    unit: Cells = flat / norm if norm > 1e-6 * (1 + abs(float(cells.mean()))) * flat.size else 0 * flat
    return unit
