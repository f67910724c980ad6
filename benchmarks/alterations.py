"""What may be done to an image: twenty ways to hide a copy, and ways in which honest images differ from real ones.

Each takes an image [D, H, W] (D = 1 for a slice), another patient's image and a source of chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
Alteration = Callable[[Image, Image, np.random.Generator], Image]


def unit(image: Image) -> Image:
    """In [0, 1], cut at the percentiles .5 and 99.5."""
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) / (high - low + 1e-9), 0, 1).astype(np.float32)


def axes_of(image: Image) -> list[int]:
    return [axis for axis in range(3) if image.shape[axis] > 1]


def along(image: Image, values: float) -> list[float]:
    """``values`` for each axis that an image has, 0 for the others."""
    return [values if axis in axes_of(image) else 0.0 for axis in range(3)]


def moved(image: Image, motion: NDArray[np.float64], shift: NDArray[np.float64] | None = None) -> Image:
    """At y what lies at motion y + shift, about the centre; what comes from outside is as dark as the darkest."""
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - motion @ centre + (np.zeros(3) if shift is None else shift)
    return ndimage.affine_transform(image, motion, offset, order=1, cval=float(image.min())).astype(np.float32)


def shifted(part: float) -> Alteration:
    """Along the last two axes by that part of them."""

    def alter(image: Image, other: Image, rng: np.random.Generator) -> Image:
        shift = np.array([0, *(rng.choice([-1, 1]) * round(part * side) for side in image.shape[1:])], float)
        return moved(image, np.eye(3), shift)

    return alter


def turned(degrees: float) -> Alteration:
    """Either way; a volume about one of its axes."""

    def alter(image: Image, other: Image, rng: np.random.Generator) -> Image:
        first, second = sorted(rng.permutation(axes_of(image))[:2])
        angle = np.deg2rad(degrees) * rng.choice([-1, 1])
        motion = np.eye(3)
        motion[first, first] = motion[second, second] = np.cos(angle)
        motion[first, second], motion[second, first] = -np.sin(angle), np.sin(angle)
        return moved(image, motion)

    return alter


def zoomed(factor: float) -> Alteration:
    return lambda image, other, rng: moved(
        image, np.diag([1 / factor if axis in axes_of(image) else 1 for axis in range(3)])
    )


def warped(part: float) -> Alteration:
    """Every voxel by a smooth random displacement whose standard deviation is that part of each side."""

    def alter(image: Image, other: Image, rng: np.random.Generator) -> Image:
        places = list(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in image.shape), indexing="ij"))
        smooth = [image.shape[axis] / 8 if axis in axes_of(image) else 0 for axis in range(3)]
        for axis in axes_of(image):
            field = ndimage.gaussian_filter(rng.normal(size=image.shape), smooth)
            places[axis] = places[axis] + field / field.std() * part * image.shape[axis]
        return ndimage.map_coordinates(image, places, order=1, cval=float(image.min())).astype(np.float32)

    return alter


def unevenly_lit(image: Image, other: Image, rng: np.random.Generator) -> Image:
    """Brightness changes across the image by a factor of 2.7 at most."""
    field = sum(
        rng.normal() * np.linspace(-1, 1, image.shape[axis]).reshape([-1 if one == axis else 1 for one in range(3)])
        for axis in axes_of(image)
    )
    return (unit(image) * np.exp(0.5 * field / (np.abs(field).max() + 1e-9))).astype(np.float32)


def noisy(deviation: float) -> Alteration:
    return lambda image, other, rng: (unit(image) + rng.normal(0, deviation, image.shape)).astype(np.float32)


def blurred(part: float) -> Alteration:
    """By a normal kernel whose standard deviation is that part of the longest side."""
    return lambda image, other, rng: ndimage.gaussian_filter(image, along(image, part * max(image.shape)))


def fitted(other: Image, image: Image) -> Image:
    """Another patient's image in the size of this one, in [0, 1]."""
    return unit(ndimage.zoom(other, np.array(image.shape) / np.array(other.shape), order=1))


def half(image: Image, other: Image, rng: np.random.Generator) -> Image:
    """One side of it in another patient."""
    host, middle = fitted(other, image), image.shape[2] // 2
    side = slice(0, middle) if rng.random() < 0.5 else slice(middle, None)
    host[..., side] = unit(image)[..., side]
    return host


def part(share: float) -> Alteration:
    """A block of that share of each side, where the image shows most, in another patient."""

    def alter(image: Image, other: Image, rng: np.random.Generator) -> Image:
        host, own = fitted(other, image), unit(image)
        smooth = along(image, 3)
        detail = ndimage.gaussian_filter(
            np.abs(own - ndimage.gaussian_filter(own, smooth)), along(image, max(image.shape) / 10)
        )
        block = []
        for at, side in zip(np.unravel_index(detail.argmax(), detail.shape), image.shape):
            size = side if side == 1 else round(share * side)
            start = int(np.clip(at - size // 2, 0, side - size))
            block.append(slice(start, start + size))
        host[tuple(block)] = own[tuple(block)]
        return host

    return alter


def several(*alterations: Alteration) -> Alteration:
    """One after the other."""

    def alter(image: Image, other: Image, rng: np.random.Generator) -> Image:
        for one in alterations:
            image = np.ascontiguousarray(one(image, other, rng))
        return image

    return alter


def mirrored(image: Image, other: Image, rng: np.random.Generator) -> Image:
    return image[:, :, ::-1]


def recoloured(image: Image, other: Image, rng: np.random.Generator) -> Image:
    return unit(image) ** 2


COPIES: dict[str, Alteration] = {
    "as it is": lambda image, other, rng: image,
    "shifted by 3 % of each side": shifted(0.03),
    "shifted by 8 %": shifted(0.08),
    "mirrored left to right": mirrored,
    "mirrored top to bottom": lambda image, other, rng: image[:, ::-1],
    "turned by 5°": turned(5),
    "turned by 10°": turned(10),
    "turned by 20°": turned(20),
    "zoomed by 1.05": zoomed(1.05),
    "zoomed by 1.2": zoomed(1.2),
    "zoomed by 0.85": zoomed(0.85),
    "warped, 1.5 % of a side": warped(0.015),
    "warped, 3 %": warped(0.03),
    "gamma 2": recoloured,
    "inverted": lambda image, other, rng: 1 - unit(image),
    "noise of 10 %": noisy(0.1),
    "blurred, 1 % of a side": blurred(0.01),
    "half, in another patient": half,
    "40 % of each side, in another": part(0.4),
    "mirrored, turned 6°, zoomed 1.05, gamma 2, uneven light, noise 5 %": several(
        mirrored, turned(6), zoomed(1.05), recoloured, unevenly_lit, noisy(0.05)
    ),
}

HONEST: dict[str, Alteration] = {
    "real": lambda image, other, rng: image,
    "blurred, 2 % of a side": blurred(0.02),
    "gamma 2, uneven light": several(recoloured, unevenly_lit),
    "mean of two patients": lambda image, other, rng: (unit(image) + fitted(other, image)) / 2,
    "noise of 10 %": noisy(0.1),
}
