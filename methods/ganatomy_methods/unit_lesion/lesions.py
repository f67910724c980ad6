"""Lesions in whole images: which patches to cut, how to blend a translated one back.

Gupta et al. 2019, sections 3.2 and 3.3. Pure functions on arrays and boxes; randomness comes from the caller's
generator. Images are [..., H, W] in [-1, 1]; a box counts pixels, x along W and y along H, half open as slices are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ganatomy.contracts import InputError

MINIMUM_INTENSITY = 0.15
"""Normal patches with a lower mean intensity in [0, 1] are taken to hold no bone (section 3.2)."""

BLEND_EXPONENT = 3.0
"""n of the blending factor; the paper leaves it open. Larger keeps more of the translated patch."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Box:
    """Pixels x0 <= x < x1, y0 <= y < y1 of an image. Raises InputError when it is empty."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            raise InputError(f"box {self.corners} is empty or negative", expected="0 <= x0 < x1 and 0 <= y0 < y1")

    @classmethod
    def around(cls, corners: Sequence[float]) -> Box:
        """The smallest box of whole pixels around the corners (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = corners
        return cls(math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1))

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1)."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    def contains(self, other: Box) -> bool:
        """Whether every pixel of ``other`` is in this box."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and self.x1 >= other.x1 and self.y1 >= other.y1

    def of(self, image: Tensor) -> Tensor:
        """View of the box in ``image`` [..., H, W]. Raises InputError when it reaches beyond the image."""
        height, width = image.shape[-2:]
        if self.y1 > height or self.x1 > width:
            raise InputError(f"box {self.corners} reaches beyond an image of {width} x {height} pixels")
        return image[..., self.y0 : self.y1, self.x0 : self.x1]


# --- patches (section 3.2) ---------------------------------------------------------------------------------------


def lesion_window(lesion: Box, image_sides: tuple[int, int], factor: float, draws: random.Random) -> Box:
    """A square around ``lesion``, ``factor`` times its larger side (rounded up), the lesion anywhere in it.

    image_sides: (height, width). factor: s >= 1; 2 for humerus and femur, 1 for tibia. Offsets are drawn evenly among
    those that keep the square within the image; only a square larger than the image is clipped, to the image's side.
    """
    if not factor >= 1:
        raise InputError(f"window factor s = {factor}", expected="a number >= 1, so that the lesion fits in")
    height, width = image_sides
    if lesion.y1 > height or lesion.x1 > width:
        raise InputError(f"lesion box {lesion.corners} reaches beyond an image of {width} x {height} pixels")
    side = math.ceil(factor * max(lesion.sides))
    y0, y1 = _interval_around(lesion.y0, lesion.y1, side, height, draws)
    x0, x1 = _interval_around(lesion.x0, lesion.x1, side, width, draws)
    return Box(x0, y0, x1, y1)


def _interval_around(low: int, high: int, length: int, limit: int, draws: random.Random) -> tuple[int, int]:
    """An interval of ``length`` within [0, limit] that contains [low, high]; [0, limit] when that is shorter."""
    if length >= limit:
        return 0, limit
    start = draws.randint(max(0, high - length), min(low, limit - length))
    return start, start + length


def same_place(window: Box, sides: tuple[int, int], other_sides: tuple[int, int]) -> Box:
    """``window`` of an image with ``sides`` (height, width), in an image with ``other_sides``.

    It keeps its size, so that a pixel stays a pixel, and its relative place among all that it could have; it is the
    same window when the images are of one size, and clipped only where it is larger than the other image.
    """
    y0, y1 = _interval_moved(window.y0, window.y1, sides[0], other_sides[0])
    x0, x1 = _interval_moved(window.x0, window.x1, sides[1], other_sides[1])
    return Box(x0, y0, x1, y1)


def _interval_moved(low: int, high: int, limit: int, other_limit: int) -> tuple[int, int]:
    length = min(high - low, other_limit)
    room, other_room = limit - (high - low), other_limit - length
    start = round(low / room * other_room) if room > 0 else other_room // 2
    return start, start + length


class Crop(NamedTuple):
    """A window of the image called ``image``, and the lesion image whose box gave it."""

    image: Hashable
    window: Box
    lesion_image: Hashable


def normal_windows(
    lesions: Mapping[Name, Sequence[Box]],
    normals: Sequence[Name],
    sides: Mapping[Name, tuple[int, int]],
    per_lesion: int,
    draws: random.Random,
) -> list[Crop]:
    """Where to cut normal patches: for each lesion image ``per_lesion`` random non-lesion images, at its windows.

    lesions: lesion image -> its windows.  normals: images without lesion; a caller who can tell which are similar (one
    body part, one view) gives those.  sides: (height, width) of every image.  per_lesion: n, at most all normals.
    """
    if per_lesion < 1 or not normals:
        raise InputError(
            f"{len(normals)} non-lesion images, {per_lesion} for each lesion image", expected="at least one of each"
        )
    crops = []
    for lesion_image, windows in lesions.items():
        for normal in draws.sample(normals, min(per_lesion, len(normals))):
            for window in windows:
                place = same_place(window, sides[lesion_image], sides[normal])
                crops.append(Crop(normal, place, lesion_image))
    return crops


def source_windows(
    lesions: Mapping[Name, Sequence[Box]],
    sources: Sequence[Name],
    sides: Mapping[Name, tuple[int, int]],
    positions: int,
    seed: int,
) -> list[Crop]:
    """Where lesions may go: in every one of ``sources`` at ``positions`` different windows of lesions, each drawn at
    random from all of them. Section 4.1: all negatives that the generator was not trained on, cropped as in 3.2.

    lesions, sides: as in ``normal_windows``.  sources: images that receive lesions.  positions: at most all windows.
    The order is a random one of images at their first window, then the same at their second: its beginning holds as
    many images as it can. A larger ``positions`` adds windows at the end and moves none, as does one image more.
    """
    offered = [(lesion_image, window) for lesion_image, windows in lesions.items() for window in windows]
    if positions < 1 or not offered:
        raise InputError(f"{positions} of {len(offered)} windows for each image", expected="at least one")
    rounds: list[list[tuple[float, Crop]]] = [[] for _ in range(min(positions, len(offered)))]
    for source in sources:
        draws = random.Random(f"{seed} {source}")  # its own, so that one image more moves no other's windows
        rank, chosen = draws.random(), list[int]()
        for crops in rounds:
            while (place := draws.randrange(len(offered))) in chosen:
                pass
            chosen.append(place)
            lesion_image, window = offered[place]
            moved = same_place(window, sides[lesion_image], sides[source])
            crops.append((rank, Crop(source, moved, lesion_image)))
    return [crop for crops in rounds for _, crop in sorted(crops, key=lambda ranked: ranked[0])]


def shows_tissue(patch: Tensor, minimum: float = MINIMUM_INTENSITY) -> bool:
    """Whether the mean intensity of ``patch`` (in [-1, 1]), normalised to [0, 1], is at least ``minimum``."""
    mean = float((patch.double().mean() + 1) / 2)
    return mean >= minimum or math.isclose(mean, minimum, abs_tol=1e-7)  # single precision cannot hold 0.15


def disjoint_sources(
    negatives: Sequence[Name], used: Collection[Name], patients: Mapping[Name, Hashable]
) -> list[Name]:
    """The negatives that may receive a synthetic lesion: those of patients none of whose images trained the generator.

    negatives: non-lesion images of the training split.  used: those that the generator was trained on.
    patients: image -> patient. The paper separates images; the left and the right side of one person are too alike for
    that. Raises InputError when none is left.
    """
    seen = {patients[name] for name in used}
    sources = [name for name in negatives if patients[name] not in seen]
    if not sources:
        raise InputError(
            f"all {len(negatives)} images without lesion share a patient with the generator's training",
            expected="some patients whose images only receive synthetic lesions",
            remedy="train the generator on fewer normal images",
        )
    return sources


def cut(image: Tensor, window: Box, side: int) -> Tensor:
    """The window of ``image`` [1, H, W] at the network's size, [1, side, side]; never a view of the image."""
    return _resized(window.of(image), (side, side))


def _resized(patch: Tensor, sides: tuple[int, int]) -> Tensor:
    if tuple(patch.shape[-2:]) == sides:
        return patch.clone()
    return functional.interpolate(patch[None], sides, mode="bilinear", align_corners=False, antialias=True)[0]


# --- blending (section 3.3) --------------------------------------------------------------------------------------


def blending_factor(sides: tuple[int, int], exponent: float = BLEND_EXPONENT) -> Tensor:
    """α = cos(|i|ⁿ π/2) cos(|j|ⁿ π/2) over a patch, float64 [H, W] in [0, 1]: 1 in the middle, 0 on the border.

    i, j: coordinates of the pixel centres, -1 at the first and 1 at the last.  exponent: n > 0.
    """
    if not exponent > 0:
        raise InputError(f"blend exponent n = {exponent}", expected="a number > 0")
    rows, columns = (_fade(side, exponent) for side in sides)
    return rows[:, None] * columns[None, :]


def _fade(side: int, exponent: float) -> Tensor:
    distance = torch.linspace(-1, 1, side, dtype=torch.float64).abs()
    # cos(π/2) in floating point is not 0; the border must stay exactly as it was.
    return torch.where(distance < 1, torch.cos(distance**exponent * math.pi / 2), 0.0).clamp_min(0.0)


def blend(translated: Tensor, original: Tensor, exponent: float = BLEND_EXPONENT) -> Tensor:
    """α · translated + (1 - α) · original, patches [..., H, W] of one shape; the border is the original's, exactly."""
    height, width = original.shape[-2:]
    alpha = blending_factor((height, width), exponent).to(original.device)
    return (alpha * translated + (1 - alpha) * original).to(original.dtype)


class Pasted(NamedTuple):
    """image: the full image with the synthetic lesion.  box: its window; every pixel that changed lies inside."""

    image: Tensor
    box: Box


def paste(image: Tensor, window: Box, translated: Tensor, exponent: float = BLEND_EXPONENT) -> Pasted:
    """``image`` [1, H, W] with the translated patch [1, P, P] blended into ``window``; ``image`` itself is unchanged.

    The patch is brought to the window's size; nothing outside the window changes, nor does the window's border.
    """
    original = window.of(image)
    height, width = window.sides
    result = image.clone()
    window.of(result).copy_(blend(_resized(translated.to(image), (height, width)), original, exponent))
    return Pasted(result, window)


def changed_box(before: Tensor, after: Tensor, least: float = 0.1) -> Box | None:
    """The smallest box around all pixels that differ by more than ``least``; None when there is none.

    before, after: [..., H, W] in [-1, 1]. A window is where a lesion was asked for; this is where the image changed.
    """
    changed = ((after - before).abs() > least).reshape(-1, *before.shape[-2:]).any(dim=0)
    rows, columns = (changed.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    return Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows else None
