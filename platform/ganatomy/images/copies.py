"""Does an image repeat one of a set, whole or in part, moved, mirrored, turned, scaled, warped, recoloured or noisy?

Images are compared by their detail: what a voxel is beside its surroundings, by how much those vary, which neither
brightness nor contrast nor a bias field changes. Every mirroring, some rotations and some scales of an image, and parts
of it, are laid upon every image of the set at every place at once (cross-correlation by Fourier transform). The few
patients who fit best are fitted closer by an affine motion (Lucas and Kanade, IJCAI 1981), and what is left is a small
move of each tile. The tiles' correlations are averaged over the whole, over halves and over smaller parts.

What counts is not how well the best patient fits but by how much better than the next one (the ratio of Lowe, IJCV
2004): what all people share fits everywhere, so that a smooth picture of anybody is nobody's copy. The number has no
scale of its own: compare it with that of real images which cannot be copies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ganatomy.images.details import detail, laid_closer, on_grid, sampled
from ganatomy.images.imaging import fitted

Volume = NDArray[Any]

PATIENTS = 3
"""Fewest other patients among whom one can stand out."""

_WHOLE, _PARTS = 6, 3  # patients who are fitted closer: those most alike as a whole, and in a part
_LARGEST = 0.97  # correlation that is as good as 1
_SOFT, _AROUND = 0.7, 4.0  # voxels of the fine grid
_FAINT = 0.02  # of the strongest tile: below there is nothing to be alike
_SHOWN = 0.25  # part of an image's detail that a part must have to be looked for


@dataclass(frozen=True)
class _Kind:
    """How images of so many axes are looked at.

    side: voxels of the longest on the fine grid; the coarse one has half.  tile, stride, reach: of the tiles, and how
    far each may move.  turns: degrees.  scales: factors.
    steps: by which it is fitted on the coarse and on the fine grid.
    """

    side: int
    tile: int
    stride: int
    reach: int
    turns: tuple[float, ...]
    scales: tuple[float, ...]
    steps: tuple[int, int]


_KINDS = {2: _Kind(64, 16, 8, 2, (-16, -8, 8, 16), (0.88, 1.14), (12, 6)),
          3: _Kind(32, 8, 4, 1, (), (0.9, 1.11), (12, 3))}  # fmt: skip


@dataclass(frozen=True)
class Match:
    """How the image of the set that fits best does.

    standing_out: what it tells of the image (nats a voxel, see ``_told``) beyond the best image of any other patient;
    NaN where there are too few patients.  agreement: the correlation that tells as much.
    reference: its place in the set, -1 for none.  how: what was done to it, in words.
    """

    standing_out: float = math.nan
    agreement: float = math.nan
    reference: int = -1
    how: str = ""


class Album:
    """Images that something may be a copy of, ready to be searched.

    images: [D, H, W] of any sizes, all slices (D = 1) or all volumes.  patients: whose each is.
    Memory: some 60 kB a slice, 0.5 MB a volume.
    """

    def __init__(self, images: Sequence[Volume], patients: Sequence[str]) -> None:
        self.axes = 2 if all(image.shape[0] == 1 for image in images) else 3
        self.kind = _KINDS[self.axes]
        self.names = list(dict.fromkeys(patients))
        self.owner = torch.tensor([self.names.index(patient) for patient in patients], dtype=torch.long)
        grids = [on_grid(image, self.axes, self.kind.side) for image in images]
        longest = [max(self.kind.tile, *(grid.shape[axis] for grid in grids)) for axis in range(self.axes)]
        self.fine_shape = [2 * math.ceil(side / 2) for side in longest]
        self.coarse_shape = [side // 2 for side in self.fine_shape]
        fine, coarse = (torch.stack(details) for details in zip(*map(self._both, grids)))
        self.fine, self.coarse = (torch.stack([one, *torch.gradient(one, dim=self._dims)], 1) for one in (fine, coarse))
        # A shift by more than what is added wraps around, and comes back from the other side.
        self.padded = [side + 2 * round(side / 8 if self.axes == 2 else 1) for side in self.coarse_shape]
        unit = coarse / self._spread(coarse.flatten(1).norm(dim=1) + 1e-6)
        self.spectra = self._spectrum(unit)
        box = torch.zeros(self.coarse_shape)
        box[tuple(slice(side // 2) for side in self.coarse_shape)] = 1
        energies = self._correlated(self._spectrum(unit**2), self._spectrum(box)).clamp(min=0)
        self.parts_shown = 1 / (energies.sqrt() + 0.15)  # by where in an image the part lies

    @property
    def _dims(self) -> list[int]:
        return list(range(1, 1 + self.axes))

    def search(self, image: Volume, patient: str = "") -> Match:
        """Which image of another patient fits ``image`` best, and by how much better than all other patients'.

        patient: whose anatomy it shows, whose images here do not count; "" where it is nobody's.
        """
        own = self.names.index(patient) if patient in self.names else -1
        if len(self.names) - (own >= 0) < PATIENTS:
            return Match()
        fine, coarse = self._both(on_grid(image, self.axes, self.kind.side))
        if not bool(coarse.any()):
            return Match(0.0, 0.0)
        found = self._candidates(coarse, own)
        return self._judged(fine, coarse, found) if len({self._who(one) for one in found}) > 1 else Match(0.0, 0.0)

    # --- where it may lie ----------------------------------------------------------------------------------------

    def _candidates(self, coarse: torch.Tensor, own: int) -> list[_Candidate]:
        """The best places in the images of those patients who fit best: as a whole, then in a part."""
        ways = list(_ways(self.axes, self.kind))
        seen = sampled(coarse.expand(len(ways), 1, *coarse.shape), torch.stack(ways))[:, 0]
        wholes: list[_Laid] = [
            (way, None, self._correlated(self.spectra, self._spectrum(one / (one.norm() + 1e-6))).abs())
            for way, one in zip(ways, seen)
        ]
        return self._best(wholes, own, _WHOLE) + self._best(list(self._parts(ways, seen)), own, _PARTS)

    def _parts(self, ways: list[torch.Tensor], seen: torch.Tensor) -> Iterator[_Laid]:
        """Correlations of each quarter (in 3D eighth) of the image with all images; in 2D of its mirror images, too."""
        for way, one in list(zip(ways, seen))[: 3 if self.axes == 2 else 1]:
            for corner in itertools.product((0, 1), repeat=self.axes):
                part = tuple(
                    slice(at * (side - side // 2), at * (side - side // 2) + side // 2)
                    for at, side in zip(corner, self.coarse_shape)
                )
                alone = torch.zeros_like(one)
                alone[tuple(slice(side // 2) for side in self.coarse_shape)] = one[part]  # at the origin
                size = float(alone.norm())
                if size > _SHOWN * float(one.norm()):
                    fit = self._correlated(self.spectra, self._spectrum(alone / size)).abs_()
                    yield way, part, fit.mul_(self.parts_shown)

    def _best(self, laid: list[_Laid], own: int, count: int) -> list[_Candidate]:
        """The best way and place in the best image of each of the ``count`` patients who fit best."""
        if not laid:
            return []
        tops = [fit.flatten(1).max(1) for _, _, fit in laid]
        values = torch.stack([top.values for top in tops])
        values[:, self.owner == own] = -1
        fits, which = values.max(0)
        by_patient = torch.full((len(self.names),), -1.0).scatter_reduce(0, self.owner, fits, "amax")
        found = []
        for patient in by_patient.topk(min(count, len(self.names))).indices.tolist():
            if patient != own:
                reference = int(torch.where(self.owner == patient, fits, -2.0).argmax())
                way, part, _ = laid[int(which[reference])]
                place = np.unravel_index(int(tops[int(which[reference])].indices[reference]), self.padded)
                start = [axis.start for axis in part] if part else [0] * self.axes
                shift = [(int(at) - first + size // 2) % size - size // 2
                         for at, first, size in zip(place, start, self.padded)]  # fmt: skip
                found.append(_Candidate(reference, way, torch.tensor(shift).float(), part))
        return found

    # --- how well it lies there ----------------------------------------------------------------------------------

    def _judged(self, fine: torch.Tensor, coarse: torch.Tensor, found: list[_Candidate]) -> Match:
        """The candidates fitted closer, and the one that stands out most."""
        images = torch.tensor([one.reference for one in found])
        motion = torch.stack([torch.linalg.inv(one.way) for one in found])
        shift = torch.stack([one.shift for one in found])
        weight = torch.stack([one.weight(self.coarse_shape) for one in found])
        motion, shift, _ = laid_closer(coarse, self.coarse[images], weight, motion, shift, self.kind.steps[0])
        weight = functional.interpolate(weight[:, None], size=self.fine_shape)[:, 0]
        motion, shift, fit = laid_closer(fine, self.fine[images], weight, motion, 2 * shift, self.kind.steps[1])
        laid = sampled(self.fine[images, :1], motion, shift)[:, 0] * self._spread(fit.sign())
        agreements = self._agreements(fine, laid)  # [scales, candidates]
        patients = torch.tensor([self._who(one) for one in found])
        best = Match(-1.0)
        for scale, values in zip(("whole", "half", "part"), agreements):
            first = int(values.argmax())
            ahead = float(values[first] - values[patients != patients[first]].max())
            if ahead > best.standing_out:
                how = _in_words(motion[first], shift[first] / max(self.fine_shape), bool(fit[first] < 0), scale)
                best = Match(ahead, math.sqrt(1 - math.exp(-2 * float(values[first]))), found[first].reference, how)
        return best

    def _agreements(self, image: torch.Tensor, laid: torch.Tensor) -> list[torch.Tensor]:
        """Mean of what is told of the tiles by each candidate: of the whole, of its best half, of its best part."""
        kind, pool = self.kind, functional.avg_pool2d if self.axes == 2 else functional.avg_pool3d

        def tiled(voxels: torch.Tensor) -> torch.Tensor:
            return pool(voxels[:, None], kind.tile, kind.stride)[:, 0]

        energy = tiled(image[None] ** 2)
        best = torch.zeros_like(tiled(laid))
        for move in itertools.product(range(-kind.reach, kind.reach + 1), repeat=self.axes):
            there = torch.roll(laid, move, self._dims)
            size = (tiled(there**2) * energy).sqrt() + _FAINT * energy.max()
            best = torch.maximum(best, tiled(there * image) / size)
        told = _told(best)
        shown = (energy[0] / (0.3 * energy.max())).clamp(max=1)
        means = []
        for windows in _windows(told.shape[1:]):
            kept = [window for window in windows if shown[window].mean() > 0.5] or [windows[0]]
            means.append(torch.stack([
                (told[(slice(None), *window)] * shown[window]).flatten(1).sum(1) / (shown[window].sum() + 1e-6)
                for window in kept
            ]).amax(0))  # fmt: skip
        return means

    # --- small things --------------------------------------------------------------------------------------------

    def _who(self, one: _Candidate) -> int:
        return int(self.owner[one.reference])

    def _both(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Detail on the fine and on the coarse grid, amid nothing."""
        size = [max(2, side // 2) for side in grid.shape]
        half = functional.interpolate(grid[None, None], size=size, mode="area")[0, 0]
        coarse = detail(half, 0.7 * _SOFT, 0.6 * _AROUND)
        shapes = ((detail(grid, _SOFT, _AROUND), self.fine_shape), (coarse, self.coarse_shape))
        fine, coarse = (torch.from_numpy(fitted(one.numpy(), shape)) for one, shape in shapes)
        return fine, coarse

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(-1, *[1] * self.axes)

    def _spectrum(self, images: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfftn(images, s=self.padded, dim=list(range(-self.axes, 0)))

    def _correlated(self, many: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
        """[R, *padded]: of each of many with one moved by every shift."""
        return torch.fft.irfftn(many * one.conj(), s=self.padded, dim=self._dims)


@dataclass(frozen=True)
class _Candidate:
    """reference: place in the set.  way: [axes, axes] by which the image is seen.  shift: coarse voxels.  part: of it,
    as it is seen; None for all."""

    reference: int
    way: torch.Tensor
    shift: torch.Tensor
    part: tuple[slice, ...] | None

    def weight(self, shape: Sequence[int]) -> torch.Tensor:
        """[*S]: 1 where voxels of the image count."""
        if self.part is None:
            return torch.ones(*shape)
        weight = torch.zeros(*shape)
        weight[self.part] = 1
        return sampled(weight[None, None], torch.linalg.inv(self.way)[None])[0, 0]


_Laid = tuple["torch.Tensor", "tuple[slice, ...] | None", "torch.Tensor"]


def _ways(axes: int, kind: _Kind) -> Iterator[torch.Tensor]:
    """Matrices [axes, axes]: mirrorings by number of axes, then each turned, then each scaled."""
    mirrored = []
    for count in range(axes + 1):
        for flipped in itertools.combinations(range(axes), count):
            mirrored.append(torch.diag(torch.tensor([-1.0 if axis in flipped else 1.0 for axis in range(axes)])))
    yield from mirrored
    for angle in kind.turns:
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        yield from (torch.tensor([[cosine, -sine], [sine, cosine]]) @ one for one in mirrored)
    for scale in kind.scales:
        yield from (scale * one for one in mirrored[:4])


def _told(correlation: torch.Tensor) -> torch.Tensor:
    """Mutual information of two normal variables that correlate so, in nats: little for all that are not near 1."""
    return -torch.log1p(-(correlation.clamp(max=_LARGEST) ** 2)) / 2


def _windows(shape: Sequence[int]) -> list[list[tuple[slice, ...]]]:
    """Of tiles [*shape]: the whole; halves; every part of two tiles a side. The first of each is the whole."""
    whole = tuple(slice(0, side) for side in shape)
    halves = [whole]
    for axis, side in enumerate(shape):
        for part in (slice(0, (side + 1) // 2), slice(side // 2, side)):
            halves.append((*whole[:axis], part, *whole[axis + 1 :]))
    places = itertools.product(*(range(max(1, side - 1)) for side in shape))
    parts = [whole, *(tuple(slice(at, at + 2) for at in place) for place in places)]
    return [[whole], halves, parts]


def _in_words(motion: torch.Tensor, shift: torch.Tensor, inverted: bool, scale: str) -> str:
    """What was done to an image, as far as an affine motion tells it. shift: in parts of the longest side."""
    mirrored = bool(torch.linalg.det(motion) < 0)
    size = float(torch.linalg.det(motion).abs()) ** (-1 / len(motion))
    left, _, right = torch.linalg.svd(motion)
    turn = left @ right
    if len(motion) == 2:
        told = ["mirrored"] if mirrored else []
        plain = turn @ torch.diag(torch.tensor([1.0, -1.0])) if mirrored else turn
        angle = abs(math.degrees(math.atan2(float(plain[1, 0]), float(plain[0, 0]))))
    else:
        flips = turn.diagonal().sign()
        told = ["mirrored"] if bool((flips < 0).any()) else []
        angle = math.degrees(math.acos(max(-1.0, min(1.0, (float((turn * torch.diag(flips)).sum()) - 1) / 2))))
    told += [f"turned by {angle:.0f}°"] if angle >= 3 else []
    told += [f"{size:.2f} times as large"] if abs(size - 1) >= 0.03 else []
    told += ["moved"] if float(shift.abs().max()) >= 0.02 else []
    told += ["inverted"] if inverted else []
    told += ["" if scale == "whole" else f"in {'half' if scale == 'half' else 'part'}"]
    return ", ".join(word for word in told if word) or "as it is"
