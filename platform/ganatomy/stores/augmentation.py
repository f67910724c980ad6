"""Ordinary augmentation of training samples, real and synthetic alike: geometry in millimetres, then intensities.

What is done to a sample is a function of the sample's own number (``Images.drawn``): a resumed run, another number of
workers and another arm do to it what they did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganatomy.contracts import UNLABELLED, Drawn, Images
from ganatomy.stores.sampling import OUTSIDE, Sampler

if TYPE_CHECKING:
    from monai.transforms import Compose

AXES = "zyx"
"""Of an image's arrays; the last two in 2D."""


@dataclass(frozen=True)
class Geometry:
    """How a sample is turned, scaled, moved and mirrored.

    rotation: degrees about each axis, either way.  scale: smallest and largest size.  translation: fraction of a side,
    either way.  often: probability that it is turned, and that it is scaled; of a mirror image along an axis that
    allows one it is a half where ``mirror`` is on.
    """

    rotation: float
    scale: tuple[float, float]
    translation: float = 0.0
    often: float = 1.0
    mirror: bool = False


LIGHT = Geometry(rotation=10, scale=(0.9, 1.1), translation=0.05)
STRONG = Geometry(rotation=30, scale=(0.7, 1.4), often=0.2, mirror=True)
GEOMETRY: Mapping[str, Geometry] = {"light": LIGHT, "strong": STRONG}
"""By ``downstream.augmentation``. ``strong`` has the probabilities and ranges of nnU-Net (Isensee et al., Nature
Methods 2021, supplementary note 4), but turns slices by 30 degrees as volumes, where nnU-Net turns them all the way
round."""


def intensities(strength: str) -> Compose:
    """What is done to an image [1, *S] in [0, 1], in MONAI's transforms: for ``strong`` nnU-Net's list in its order."""
    from monai import transforms as t  # seconds to import

    if strength == "light":
        curve = float(np.exp(-0.3)), float(np.exp(0.3))
        return t.Compose([t.RandAdjustContrast(prob=1, gamma=curve), t.RandGaussianNoise(prob=1, std=0.025)])
    blur, factors, curve = (0.5, 1.0), (-0.25, 0.25), (0.7, 1.5)
    return t.Compose([
        t.RandGaussianNoise(prob=0.1, std=0.1),
        t.RandGaussianSmooth(sigma_x=blur, sigma_y=blur, sigma_z=blur, prob=0.2),
        t.RandScaleIntensity(factors=factors, prob=0.15),
        t.RandScaleIntensityFixedMean(prob=0.15, factors=factors, preserve_range=True),
        t.RandSimulateLowResolution(prob=0.25, upsample_mode="area", zoom_range=(0.5, 1.0)),
        t.RandAdjustContrast(prob=0.1, gamma=curve, invert_image=True, retain_stats=True),
        t.RandAdjustContrast(prob=0.3, gamma=curve, retain_stats=True),
    ])  # fmt: skip


class Augmentation:
    """Augments samples. strength: ``light`` or ``strong``.  symmetric: axes (x, y, z) along which a mirror image is as
    good, by ``strong`` alone.  share: of the samples that anything is done to."""

    def __init__(self, strength: str, symmetric: Sequence[str] = (), share: float = 1.0) -> None:
        self.geometry, self.symmetric, self.share = GEOMETRY[strength], frozenset(symmetric), share
        self.colours = intensities(strength)

    def __call__(self, images: Images) -> Images:
        """The same samples under another view and light, each by its own number; their labels move along. What turns in
        from beyond a sample is as what is beyond a volume: ``OUTSIDE``, and background."""
        done = [self._one(*one) for one in zip(images.image, images.label, images.drawn, strict=True)]
        if not done:
            return images
        image, label = (torch.stack(part) for part in zip(*done, strict=True))
        return replace(images, image=image, label=label)

    def _one(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        generator = np.random.Generator(np.random.Philox(key=drawn.number))
        apart = np.random.Generator(np.random.Philox(key=drawn.number, counter=[0, 0, 0, 1]))
        if self.share < 1 and apart.random() >= self.share:
            return image, label
        names = AXES[-label.ndim :]
        mirrored = [axis in self.symmetric for axis in names]
        matrix, offset = view(image.shape[1:], np.asarray(drawn.spacing), mirrored, self.geometry, generator)
        self.colours.set_random_state(seed=int(generator.integers(2**31)))
        label = label if bool((label == UNLABELLED).all()) else look(label[None], matrix, offset, 0)[0]
        unit = (look(image, matrix, offset, OUTSIDE) + 1) / 2
        seen = self.colours(unit).as_subclass(Tensor)  # MONAI's own carry what nobody asks for here
        return seen.to(image).clamp(0, 1) * 2 - 1, label


def view(
    sides: Sequence[int],
    spacing: NDArray[np.float64],
    mirrored: Sequence[bool],
    amount: Geometry,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(matrix, offset): voxel o of what is seen shows point matrix @ o + offset of the sample, in voxels.

    Its centre, moved a little, under a rotation in millimetres (voxels may be anisotropic) and a scale. mirrored: the
    axes along which a mirror image is as good.
    """
    n, middle = len(sides), (np.asarray(sides) - 1) / 2
    turned, scaled = generator.random(2) < amount.often
    rotation = np.eye(n)
    for first in range(n):
        for second in range(first + 1, n):
            angle = np.deg2rad(generator.uniform(-amount.rotation, amount.rotation)) * turned
            turn = np.eye(n)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            rotation = rotation @ turn
    size = generator.uniform(*amount.scale)
    flips = np.where((generator.random(n) < 0.5) & np.asarray(mirrored) & amount.mirror, -1.0, 1.0)
    matrix = rotation * spacing[None, :] / spacing[:, None] / (size if scaled else 1.0) * flips[None, :]
    shift = generator.uniform(-amount.translation, amount.translation, n) * np.asarray(sides)
    return matrix, middle + shift - matrix @ middle


def look(source: Tensor, matrix: NDArray[np.float64], offset: NDArray[np.float64], outside: float) -> Tensor:
    """The view (matrix, offset) of ``source`` [1, *S]: linear for images, nearest for class ids."""
    n, sides = len(offset), np.asarray(source.shape[1:])
    if np.array_equal(matrix, np.eye(n)) and not offset.any():
        return source
    # torch's grids run over x, y, z and from -1 to 1 between the outer edges of the outermost voxels.
    half = sides / 2
    unit = matrix * half[None, :] / half[:, None]
    shift = (offset + matrix @ (half - 0.5) - (half - 0.5)) / half
    theta = np.concatenate([unit[::-1, ::-1], shift[::-1, None]], axis=1)
    given = torch.from_numpy(theta.copy()).to(source.device, torch.float32)[None]
    grid = torch.nn.functional.affine_grid(given, [1, 1, *source.shape[1:]], align_corners=False)
    labels = not source.is_floating_point()
    values = source.to(torch.float32)[None] - outside
    mode = "nearest" if labels else "bilinear"
    return (torch.nn.functional.grid_sample(values, grid, mode=mode, align_corners=False)[0] + outside).to(source.dtype)


@dataclass(frozen=True)
class Augmented:
    """Batches of ``draws`` with every sample augmented."""

    draws: Sampler
    augment: Augmentation

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Mapping[str, Images]:
        """As the draws' own, augmented."""
        return {role: self.augment(images) for role, images in self.draws.batch(step, rank, world).items()}
