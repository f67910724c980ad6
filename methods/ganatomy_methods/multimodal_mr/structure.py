"""Structure maps, brain masks and lesion labels: all that Qu et al. 2019 do to images without a network.

Images here are the paper's, [N, 1, *S] in [0, 1] with background 0 (``unit`` makes them of ours). Maps and masks are
float 0 or 1 of the same shape; a mask is 1 *outside* the brain. Everything is done sample by sample.
Algorithm and section numbers are those of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

REFERENCE_SIDE = 184
"""Longer side of the paper's images: its lengths in pixels, and shares of pixels near a contour, refer to it."""

STRUCTURE_SHARE, LABEL_SHARE = 0.8, 0.2
"""Weights of the structure map and of the label in a fusion map (not in the paper; the authors' choice)."""


def unit(image: Tensor) -> Tensor:
    """Ours to the paper's: [-1, 1] to [0, 1]."""
    return (image + 1) / 2


def signed(image: Tensor) -> Tensor:
    """The paper's to ours: [0, 1] to [-1, 1]."""
    return 2 * image - 1


# --- Algorithm 1: structure maps ---------------------------------------------------------------------------------


def sobel(image: Tensor) -> Tensor:
    """Sobel derivatives along each axis, reflecting at the borders: [N, 1, *S] -> [N, len(S), *S]."""
    padded = F.pad(image, (1, 1) * (image.dim() - 2), mode="reflect")
    return torch.cat([_derivative(padded, axis) for axis in range(2, image.dim())], dim=1)


def _derivative(padded: Tensor, axis: int) -> Tensor:
    for along in range(2, padded.dim()):
        before, here, after = (padded.narrow(along, start, padded.shape[along] - 2) for start in range(3))
        padded = after - before if along == axis else before + 2 * here + after
    return padded


def _edges(image: Tensor, normalise: bool) -> tuple[Tensor, Tensor]:
    """Lines 2 to 5: how far the least derivative lies below its mean, and the greatest above its own."""
    image = image.float() if image.dtype in (torch.float16, torch.bfloat16) else image  # 8 bits of mantissa blur β
    gradient = sobel(image)
    low, high = gradient.amin(dim=1, keepdim=True), gradient.amax(dim=1, keepdim=True)
    if normalise:
        low, high = _unit_range(low), _unit_range(high)
    space = tuple(range(2, image.dim()))
    return low.mean(space, keepdim=True) - low, high - high.mean(space, keepdim=True)


def _unit_range(values: Tensor) -> Tensor:
    space = tuple(range(2, values.dim()))
    low, high = values.amin(space, keepdim=True), values.amax(space, keepdim=True)
    return (values - low) / (high - low).clamp_min(1e-6)  # a flat image has no edges, not 0 / 0 of them


def structure_map(image: Tensor, beta: float, normalise: bool = True) -> Tensor:
    """Algorithm 1: 1 where an edge stands out from the mean by more than ``beta``, else 0.

    ``normalise`` brings both extremes of the derivatives to [0, 1] first, without which β would depend on the image's
    scale; the printed algorithm leaves it out.
    """
    low, high = _edges(image, normalise)
    return ((low > beta) | (high > beta)).to(low.dtype)


def beta_for(image: Tensor, outside: Tensor, density: float, label: Tensor | None = None) -> Tensor:
    """β [N, 1, ...] of each image with which its map has ``density`` pixels for each of its brain, lesions left out.

    outside: its mask, [N, 1, *S].  label: [N, *S]; what is above 0 in it is neither edge nor brain.
    """
    low, high = _edges(image.detach(), normalise=True)
    return _reached(torch.maximum(low, high), outside, density, label)


def dense_map(image: Tensor, outside: Tensor, density: float, label: Tensor | None = None) -> Tensor:
    """Algorithm 1 with the β of ``beta_for``: as dense a map of every image, whatever its contrast and its size."""
    low, high = _edges(image, normalise=True)
    return densest(torch.maximum(low, high), outside, density, label)


def densest(values: Tensor, outside: Tensor, density: float, label: Tensor | None = None) -> Tensor:
    """1 at the greatest of ``values`` [N, 1, *S], ``density`` of them for each pixel of the brain; 0 at those that are
    not above 0, and in lesions."""
    chosen = (values >= _reached(values, outside, density, label)) & (values > 0)
    return (chosen if label is None else chosen & (label <= 0)[:, None]).to(outside.dtype)


def _reached(values: Tensor, outside: Tensor, density: float, label: Tensor | None) -> Tensor:
    """What so many of the values of each sample reach, [N, 1, ...]."""
    found = []
    for n, own in enumerate(values):
        there = torch.ones_like(own, dtype=torch.bool) if label is None else (label[n] <= 0)[None]
        count = round(density * int((there & (outside[n] < 0.5)).sum()))
        some = own[there]
        found.append(some.topk(count).values[-1] if 0 < count <= len(some) else own.new_tensor(math.inf))
    return torch.stack(found).view(-1, *[1] * (values.dim() - 1))


def soft_structure_map(image: Tensor, beta: float | Tensor, tau: float = 0.02) -> Tensor:
    """Algorithm 1 with sigmoids of width ``tau`` for its thresholds: in [0, 1], and with a gradient."""
    low, high = (torch.sigmoid((edges - beta) / tau) for edges in _edges(image, normalise=True))
    return 1 - (1 - low) * (1 - high)


def without_lesion(structure: Tensor, label: Tensor) -> Tensor:
    """The map without what lies in a lesion (section 2.5). label: [N, *S]; an unlabelled sample stays as it is."""
    return structure * (label <= 0)[:, None]


# --- Algorithm 2: masks ------------------------------------------------------------------------------------------


def outside_mask(image: Tensor, margin: int) -> Tensor:
    """Algorithm 2: 1 where the image is background, seen from a brain enlarged by ``margin`` pixels over its sides.

    An odd margin shifts the brain by half a pixel, and it no longer contains the original: see ``even_margin``.
    """
    outside = (image <= 0).to(image.dtype)
    if not margin:
        return outside
    sides = image.shape[2:]
    outside = F.interpolate(outside, size=[side + margin for side in sides], mode="nearest-exact")
    for axis, side in enumerate(sides, start=2):
        outside = outside.narrow(axis, margin // 2, side)
    return outside


def even_margin(sides: Sequence[int], margin: float = 5) -> int:
    """The paper's margin, ``margin`` pixels in 184, for an image of these sides: the next even number."""
    return 2 * math.ceil(margin * max(sides) / REFERENCE_SIDE / 2)


# --- Algorithm 3: which structure maps are closed ----------------------------------------------------------------


def contour_mask(structure: Tensor) -> Tensor:
    """GetMaskFromF of Algorithm 3: the blurred contours, filled; 1 outside of them all.

    What is above 0 after a Gaussian filter of 3 pixels is what a maximum filter of 3 pixels keeps. The filling is a
    flood from the border that no contour lets through, not even between two pixels that touch at a corner.
    """
    pool = F.max_pool2d if structure.dim() == 4 else F.max_pool3d
    free = pool(structure, 3, stride=1, padding=1) == 0
    outside = torch.zeros_like(free)
    for axis in range(2, free.dim()):
        for border in (0, free.shape[axis] - 1):
            outside.select(axis, border).fill_(True)
    outside &= free
    reached = -1
    while reached != (reached := int(outside.sum())):
        for axis in range(2, free.dim()):
            outside = _spread(outside, axis) & free
    return outside.to(structure.dtype)


def _spread(mask: Tensor, axis: int) -> Tensor:
    """``mask`` and its neighbours to both sides along ``axis``."""
    grown, last = mask.clone(), mask.shape[axis] - 1
    grown.narrow(axis, 1, last).logical_or_(mask.narrow(axis, 0, last))
    grown.narrow(axis, 0, last).logical_or_(mask.narrow(axis, 1, last))
    return grown


def contour_error(structure: Tensor, outside: Tensor) -> Tensor:
    """[N]: mean |m' - m|, between the filled contours of a map and its mask. An open contour fills nothing."""
    return (contour_mask(structure) - outside).abs().flatten(1).mean(dim=1)


def error_threshold(sides: Sequence[int], threshold: float = 0.05) -> float:
    """The paper's 0.05 at 184 pixels for these sides: an error along the contour grows as images shrink, up to 3 times.

    The cap keeps it below the error of an open contour, about 0.2.
    """
    return threshold * min(3.0, max(1.0, REFERENCE_SIDE / max(sides)))


@dataclass(frozen=True)
class Drawn:
    """A structure map and its mask, both [1, 1, *S], the error of Algorithm 3, and how many were drawn for it."""

    structure: Tensor
    outside: Tensor
    error: float
    tries: int


def draw_closed(draw: Callable[[], tuple[Tensor, Tensor]], threshold: float, tries: int = 50) -> Drawn:
    """Algorithm 3: draw (map, mask) *until* the error is at most ``threshold``; after ``tries``, the best there was.

    The printed loop goes on while the error is small: its condition is the wrong way round, as its text says.
    """
    best: Drawn | None = None
    for attempt in range(1, tries + 1):
        structure, outside = draw()
        drawn = Drawn(structure, outside, float(contour_error(structure, outside)), attempt)
        if drawn.error <= threshold:
            return drawn
        if best is None or drawn.error < best.error:
            best = drawn
    assert best is not None
    return Drawn(best.structure, best.outside, best.error, tries)


# --- section 2.5: fusion -----------------------------------------------------------------------------------------


def fuse(structure: Tensor, label: Tensor, classes: int) -> Tensor:
    """Fusion map [N, classes, *S]: 0.8 of the structure in every channel, 0.2 more in the channel of the label."""
    onehot = F.one_hot(label.clamp_min(0), classes).movedim(-1, 1).to(structure.dtype)
    return STRUCTURE_SHARE * structure + LABEL_SHARE * onehot


def unfuse(fusion: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of ``fuse`` for two classes or more: structure [N, 1, *S] and label [N, *S]."""
    return fusion.amin(dim=1, keepdim=True) / STRUCTURE_SHARE, fusion.argmax(dim=1)


def condition(code: Tensor, wanted: Sequence[int], count: int) -> Tensor:
    """``code`` [N, C, *S] with ``count`` constant planes behind it, of which sample n has number wanted[n] set to 1."""
    onehot = F.one_hot(torch.tensor(wanted, device=code.device), count).to(code.dtype)
    planes = onehot.view(*onehot.shape, *[1] * (code.dim() - 2)).expand(-1, -1, *code.shape[2:])
    return torch.cat([code, planes], dim=1)


# --- sections 2.5 and 2.8: lesion labels -------------------------------------------------------------------------


def fits(label: Tensor, outside: Tensor) -> bool:
    """Σ m · label = 0: no lesion outside the brain. label: [*S]; outside: the same shape."""
    return not bool(((outside > 0.5) & (label > 0)).any())


def varied(label: Tensor, random: torch.Generator) -> Tensor:
    """``label`` [H, W] after two random ones of: any rotation, a flip, a shift by 2 to 5, shrinking by 2 to 7 pixels.

    Pixels are those of an image of 184; class ids stay, what is moved in from beyond the border is background.
    """
    pixel = max(label.shape) / REFERENCE_SIDE
    there = torch.eye(3, dtype=torch.float64)  # from a pixel of the result to that of the label, from the centre
    for kind in torch.randperm(4, generator=random)[:2].tolist():
        there = there @ _change(kind, pixel, max(label.shape), random)
    centre = torch.tensor([(side - 1) / 2 for side in label.shape], dtype=torch.float64)
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in label.shape)) - centre
    from_ = (places @ there[:2, :2].T + there[:2, 2] + centre).round().long()
    inside = ((from_ >= 0) & (from_ < torch.tensor(label.shape))).all(dim=1)
    rows, columns = from_[inside].to(label.device).unbind(dim=1)
    result = torch.zeros_like(label).flatten()
    result[inside.to(label.device)] = label[rows, columns]
    return result.view_as(label)


def _change(kind: int, pixel: float, side: int, random: torch.Generator) -> Tensor:
    """One of the four changes as a matrix of homogeneous coordinates (row, column, 1)."""
    share = torch.rand(2, generator=random, dtype=torch.float64).tolist()
    change = torch.eye(3, dtype=torch.float64)
    if kind == 0:
        cosine, sine = math.cos(math.tau * share[0]), math.sin(math.tau * share[0])
        change[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]])
    elif kind == 1:
        axis = int(share[0] < 0.5)
        change[axis, axis] = -1
    elif kind == 2:
        for axis in range(2):
            distance = max(1, round((2 + 3 * abs(2 * share[axis] - 1)) * pixel))
            change[axis, 2] = math.copysign(distance, share[axis] - 0.5)
    else:
        change[:2, :2] *= side / (side - max(1.0, (2 + 5 * share[0]) * pixel))
    return change


@dataclass(frozen=True)
class Placed:
    """A label [*S] in its place.

    donor: number of the one that it was made of.  whole: nothing of it was cut off.
    """

    label: Tensor
    donor: int
    whole: bool


def place(labels: Tensor, outside: Tensor, random: torch.Generator, tries: int = 100) -> Placed:
    """A varied one of ``labels`` [M, *S] that lies inside the brain.

    Where none is found in ``tries``, the last one tried, with what lies outside cut off. outside: [*S]. A lesion does
    not vanish in varying, unless it is in none of the labels.
    """
    filled = (labels > 0).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if not filled:
        return Placed(torch.zeros_like(outside, dtype=torch.int64), 0, True)
    moved, donor = labels[filled[0]], filled[0]
    for _ in range(tries):
        donor = filled[int(torch.randint(len(filled), (), generator=random))]
        moved = varied(labels[donor].clamp_min(0), random)
        if bool((moved > 0).any()) and fits(moved, outside):
            return Placed(moved, donor, True)
    return Placed(moved.clamp_min(0) * (outside <= 0.5), donor, False)
