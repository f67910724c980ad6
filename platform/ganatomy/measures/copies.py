"""Does an image repeat one of a set, whole or in part, moved, mirrored, turned, scaled, warped, recoloured or noisy?

A picture is taken apart into overlapping tiles. Each tile looks for its best place in the images of every patient, by a
descriptor of the directions of edges that knows neither brightness nor contrast nor their sign (Fitch et al.,
Orientation correlation, BMVC 2002), then is laid upon the few best places by a small affine motion (Lucas and Kanade,
1981, with contrast free) and compared by correlation. What counts is by how much the best patient explains the tile
better than the next patient does (the ratio of Lowe, IJCV 2004): an edge that all people share fits everywhere, an edge
of one person in one place. The tiles of one image that point to the same image add up.

The number has no scale of its own: compare it with that of real images which cannot be copies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Volume = NDArray[Any]

PLACES = 3
"""Patients whose best place a tile is laid upon."""

TILES = 48
"""Tiles of an image that are laid: those whose best patient stands out most."""

_SMOOTH, _AROUND = 1.0, 4.0  # voxels of the working grid: of images, of what is called local
_FLOOR = 0.1  # of the strongest local contrast: below, there is nothing but noise
_CELL = 2  # voxels of the working grid that one cell of a descriptor averages
_MOTIONS, _RIDGE = 8, 0.02
_FARTHEST, _STRAIN = 4.0, 0.3  # voxels that a tile may move, and how far it may be deformed
_SEEN, _PERFECT = 0.05, 0.995  # part of an image's contrast that counts as none; a correlation that is as good as 1


@dataclass(frozen=True)
class _Kind:
    """How images of so many axes are looked at: longest side, cells of a tile, frequencies kept of them; strides."""

    side: int
    tile: int
    kept: int
    stride: int
    asked: int
    step: int


_KINDS = {2: _Kind(64, 8, 4, 1, 2, 1), 3: _Kind(40, 6, 3, 2, 2, 2)}


class Album:
    """Images that something may be a copy of, ready to be searched.

    images: [D, H, W] of any sizes, all slices (D = 1) or all volumes.  patients: whose each is.
    """

    def __init__(self, images: Sequence[Volume], patients: Sequence[str]) -> None:
        import torch  # here and below: a table of scores is read without it

        self.axes = 2 if all(image.shape[0] == 1 for image in images) else 3
        self.names = list(dict.fromkeys(patients))
        self.owner = torch.tensor([self.names.index(patient) for patient in patients], dtype=torch.long)
        pages = [_Page(image, self.axes, _KINDS[self.axes].stride) for image in images]
        self.shapes = torch.tensor([page.grid.shape for page in pages]).reshape(len(pages), self.axes)
        self.starts = torch.tensor([0, *itertools.accumulate(page.grid.numel() for page in pages)])[:-1]
        self.voxels = torch.cat([torch.stack([page.grid, *page.slopes]).flatten(1).T for page in pages])
        self.tiles, self.centres = (torch.cat([getattr(page, of) for page in pages]) for of in ("tiles", "centres"))
        self.ends = list(itertools.accumulate(len(page.tiles) for page in pages))

    def resemblance(self, image: Volume, patient: str = "") -> float:
        """How much of ``image`` one image of another patient explains better than all other patients do; 0 for none.

        patient: whose anatomy it shows, whose images here do not count; "" where it is nobody's.
        """
        import torch

        out = self.owner == self.names.index(patient) if patient in self.names else torch.zeros(len(self.owner)).bool()
        others = len(set(self.owner[~out].tolist()))
        pages = [
            _Page(np.flip(image, flipped), self.axes, _KINDS[self.axes].asked) for flipped in _mirrorings(self.axes)
        ]
        if not others or not any(len(page.tiles) for page in pages):
            return 0.0
        asked = torch.cat([page.tiles for page in pages])
        way = torch.repeat_interleave(torch.arange(len(pages)), torch.tensor([len(page.tiles) for page in pages]))
        alike, place = self._nearest(asked)
        alike[:, out] = -1
        best = self._by_patient(alike)
        first = best.topk(min(2, others), 1).values.clamp(0, 0.99).atanh()
        standing_out = first[:, 0] - first[:, 1:].sum(1)
        chosen = standing_out.topk(min(TILES, len(asked))).indices
        alike, place, best, way = alike[chosen], place[chosen], best[chosen], way[chosen]
        count = min(PLACES, others)
        patients = best.topk(count, 1).indices
        shown = (self.owner == patients[..., None]) & (alike[:, None] == best.gather(1, patients)[..., None])
        found = shown.float().argmax(2)
        values = torch.cat([page.values() for page in pages])[chosen]
        fit = self._laid(
            values.repeat_interleave(count, 0), found.flatten(), self.centres[place.gather(1, found).flatten()]
        )
        ranked = fit.clamp(max=_PERFECT).atanh().reshape(-1, count).sort(1, descending=True)
        ahead = ranked.values[:, 0] - (ranked.values[:, 1] if count > 1 else 0)
        points_to = way * len(self.owner) + found.gather(1, ranked.indices[:, :1])[:, 0]
        evidence = torch.zeros(len(pages) * len(self.owner)).index_add(0, points_to, ahead**2)
        return float(evidence.max().sqrt())

    def _nearest(self, asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For every tile and image [T, R] the best cosine (-1 for an image without tiles), and of which tile."""
        import torch

        alike = torch.full((len(asked), len(self.ends)), -1.0)
        place = torch.zeros((len(asked), len(self.ends)), dtype=torch.long)
        for number, (start, end) in enumerate(itertools.pairwise([0, *self.ends])):
            if end > start:
                alike[:, number], at = (asked @ self.tiles[start:end].T).max(1)
                place[:, number] = at + start
        return alike, place

    def _by_patient(self, alike: torch.Tensor) -> torch.Tensor:
        """[T, patients]: the best among the images of each; -1 for those left out."""
        import torch

        nothing = torch.full((len(alike), len(self.names)), -1.0)
        return nothing.scatter_reduce(1, self.owner.expand(len(alike), -1), alike, "amax")

    def _laid(self, tiles: torch.Tensor, image: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Best absolute correlation of each tile [B, K] with an image about a centre [B, axes], moved and strained."""
        import torch

        axes, kind = self.axes, _KINDS[self.axes]
        offsets = _offsets(kind, axes)
        half = kind.tile * _CELL / 2
        moved, strained = torch.zeros(len(tiles), axes), torch.zeros(len(tiles), axes, axes)
        centred = tiles - tiles.mean(1, keepdim=True)
        length = centred.norm(dim=1, keepdim=True) + _SEEN * tiles.shape[1] ** 0.5
        best = torch.zeros(len(tiles))
        for _ in range(_MOTIONS + 1):
            at = (centres + moved)[:, None] + offsets + torch.einsum("kd,bed->bke", offsets, strained)
            seen = self._sampled(image, at)
            there = seen[..., 0] - seen[..., 0].mean(1, keepdim=True)
            size = there.norm(dim=1, keepdim=True) + _SEEN * tiles.shape[1] ** 0.5
            best = torch.maximum(best, (there * centred).sum(1).abs() / (size * length)[:, 0])
            # tile = contrast * (there + slopes * motion): linear in contrast and contrast * motion
            slopes = torch.cat([seen[..., 1:], (seen[..., 1:, None] * (offsets / half)[:, None]).flatten(2)], -1)
            terms = torch.cat([slopes - slopes.mean(1, keepdim=True), there[..., None]], -1) / size[..., None]
            normal = terms.transpose(1, 2) @ terms
            diagonal = torch.diagonal(normal, dim1=1, dim2=2)
            ridge = (_RIDGE * diagonal.mean(1, keepdim=True) + 1e-6).expand_as(diagonal)
            found = torch.linalg.solve(normal + torch.diag_embed(ridge), (terms * (centred / length)[..., None]).sum(1))
            contrast = found[:, -1:].abs().clamp(min=0.2) * torch.where(found[:, -1:] < 0, -1.0, 1.0)
            step = found[:, :-1] / contrast
            moved = (moved + step[:, :axes].clamp(-1.5, 1.5)).clamp(-_FARTHEST, _FARTHEST)
            strain = (step[:, axes:] / half).reshape(-1, axes, axes).clamp(-0.1, 0.1)
            strained = (strained + strain).clamp(-_STRAIN, _STRAIN)
        return best

    def _sampled(self, image: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """[B, K, 1 + axes]: value and slopes of each row's image at [B, K, axes], between its voxels."""
        import torch

        shape = self.shapes[image][:, None]
        at = torch.minimum(at.clamp(min=0), (shape - 1).float())
        low = torch.minimum(at.floor().long(), shape - 2)
        part = at - low
        strides = torch.cat([shape[..., 1:].flip(-1).cumprod(-1).flip(-1), torch.ones_like(shape[..., :1])], -1)
        start = self.starts[image][:, None] + (low * strides).sum(-1)
        total = torch.zeros(*at.shape[:2], 1 + self.axes)
        for corner in itertools.product((0, 1), repeat=self.axes):
            weight = torch.ones_like(part[..., 0])
            for axis, upper in enumerate(corner):
                weight = weight * (part[..., axis] if upper else 1 - part[..., axis])
            total += weight[..., None] * self.voxels[start + (strides * torch.tensor(corner)).sum(-1)]
        return total


def resemblances(
    images: Sequence[Volume], patients: Sequence[str], references: Sequence[Volume], owners: Sequence[str]
) -> NDArray[np.float64]:
    """``Album.resemblance`` of every image to the references; NaN for all where there are no references."""
    if not references:
        return np.full(len(images), np.nan)
    album = Album(references, owners)
    return np.array([album.resemblance(image, patient) for image, patient in zip(images, patients)], np.float64)


class _Page:
    """An image on the working grid, with the descriptors of its tiles where it shows something.

    grid: [*S].  slopes: its gradient along each axis.  tiles: unit rows.  centres: in voxels of the grid.
    """

    def __init__(self, image: Volume, axes: int, stride: int) -> None:
        import torch

        self.kind, self.axes, self.stride = _KINDS[axes], axes, stride
        self.grid = _on_grid(image, axes, self.kind)
        self.slopes = torch.gradient(self.grid)
        cells, shown = _directions(self.slopes)
        tiles, weights = cells, shown
        for axis in range(axes):
            tiles = tiles.unfold(1 + axis, self.kind.tile, stride)
            weights = weights.unfold(axis, self.kind.tile, stride)
        places = tiles.shape[1 : 1 + axes]
        waves = _waves(self.kind.tile, self.kind.kept)
        for _ in range(axes):  # each turn takes the first axis within the tile, and puts its frequencies last
            tiles = torch.tensordot(tiles, waves, dims=([1 + axes], [1]))
        rows = tiles.movedim(0, axes).reshape(places.numel(), -1)
        self.kept = weights.reshape(places.numel(), -1).mean(1) > 0.5
        steps = [torch.arange(count) * stride * _CELL + (self.kind.tile * _CELL - 1) / 2 for count in places]
        centres = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).reshape(-1, axes)
        self.tiles = (rows / (rows.norm(dim=1, keepdim=True) + 0.05))[self.kept]
        self.centres = centres[self.kept].float()

    def values(self) -> torch.Tensor:
        """[T, K]: the voxels of the tiles, every ``kind.step``-th along each axis."""
        tiles = self.grid
        for axis in range(self.axes):
            tiles = tiles.unfold(axis, self.kind.tile * _CELL, self.stride * _CELL)
        every: tuple[Any, ...] = (slice(None, None, self.kind.step),) * self.axes
        tiles = tiles[(..., *every)]
        return tiles.reshape(len(self.kept), -1)[self.kept]


def _on_grid(image: Volume, axes: int, kind: _Kind) -> torch.Tensor:
    """Averaged down to the working grid and smoothed, of standard deviation 1; never smaller than a tile."""
    import torch
    from torch.nn import functional

    flat = torch.from_numpy(np.array(image, np.float32).reshape(image.shape[-axes:]))
    scale = min(1.0, kind.side / max(flat.shape))
    size = [max(kind.tile * _CELL, round(side * scale / _CELL) * _CELL) for side in flat.shape]
    grid = _smoothed(functional.interpolate(flat[None, None], size=size, mode="area")[0, 0], _SMOOTH)
    return grid / (grid.std() + 1e-6)


def _directions(slopes: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """[channels, *cells] directions of edges relative to the contrast around, and [*cells] how far there is any."""
    import torch
    from torch.nn import functional

    axes = len(slopes)
    squared = torch.stack([slope**2 for slope in slopes])
    strength = squared.sum(0)
    around = _smoothed(strength, _AROUND).clamp(min=0).sqrt()
    floor = _FLOOR * torch.quantile(around.flatten(), 0.95) + 1e-6
    crossed = [2**0.5 * slopes[a] * slopes[b] for a, b in itertools.combinations(range(axes), 2)]
    pure = [(squared[0] - squared[1]) / 2**0.5]
    if axes == 3:
        pure.append((2 * squared[2] - squared[0] - squared[1]) / 6**0.5)
    channels = torch.stack([*pure, *crossed]) / (strength.sqrt() + 1e-6) / (around + floor)
    pool = functional.avg_pool2d if axes == 2 else functional.avg_pool3d
    return pool(channels[None], _CELL)[0], pool((around / (around + floor))[None, None], _CELL)[0, 0]


def _smoothed(grid: torch.Tensor, sigma: float) -> torch.Tensor:
    import torch
    from scipy import ndimage

    return torch.from_numpy(ndimage.gaussian_filter(grid.numpy(), sigma, mode="nearest", truncate=3.0))


def _waves(length: int, count: int) -> torch.Tensor:
    """[count, length]: the lowest cosines of a discrete cosine transform, each of norm 1."""
    import torch

    phase = torch.pi * (torch.arange(length) + 0.5) / length
    waves = torch.cos(torch.arange(count)[:, None] * phase)
    return waves / waves.norm(dim=1, keepdim=True)


def _offsets(kind: _Kind, axes: int) -> torch.Tensor:
    """[K, axes]: where the voxels of ``_Page.values`` lie about the centre of their tile."""
    import torch

    side = torch.arange(0, kind.tile * _CELL, kind.step) - (kind.tile * _CELL - 1) / 2
    return torch.stack(torch.meshgrid(*[side] * axes, indexing="ij"), -1).reshape(-1, axes)


def _mirrorings(axes: int) -> Iterator[tuple[int, ...]]:
    """Every set of axes of [D, H, W] along which an image may be mirrored, none among them."""
    for count in range(axes + 1):
        yield from itertools.combinations(range(3 - axes, 3), count)
