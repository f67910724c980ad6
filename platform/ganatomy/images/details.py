"""The detail of images on a small grid, and how one is laid upon another by an affine motion.

Detail is what a voxel is beside its surroundings, by how much those vary: neither brightness nor contrast nor a bias
field changes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

_FLOOR = 0.15
"""Part of an image's strongest contrast that counts as none: below is nothing but noise."""

_RIDGE, _FARTHEST, _STRAIN = 0.02, 2.0, 0.08  # of a step: how much it is held back; voxels; part of a length


def laid_closer(
    image: torch.Tensor, seen: torch.Tensor, weight: torch.Tensor, motion: torch.Tensor, shift: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Motion [N, axes, axes], shift [N, axes] and correlation [N] by which other images lie best upon ``image`` [*S].

    seen: [N, 1 + axes, *S] the others and their slopes.  weight: [N, *S] of the voxels of ``image``.  motion, shift: to
    begin with, as in ``sampled``. A negative correlation is one of opposite contrast, and as good.
    Gauss and Newton's steps, the best of them kept (Lucas & Kanade, IJCAI 1981).
    """
    axes, half = image.dim(), max(image.shape) / 2
    sides = [torch.arange(side) - (side - 1) / 2 for side in image.shape]
    places = torch.stack(torch.meshgrid(*sides, indexing="ij")).reshape(axes, -1) / half
    flat, weight = image.flatten(), weight.flatten(1)
    size = (weight @ flat**2).clamp(min=1e-6).sqrt()
    best = (motion, shift, torch.zeros(len(motion)))
    for _ in range(steps + 1):
        voxels = sampled(seen, motion, shift).flatten(2)
        there, slopes = voxels[:, 0], voxels[:, 1:]
        length = (weight * there**2).sum(1).clamp(min=1e-6).sqrt()
        fit = (weight * there * flat).sum(1) / (size * (length + 0.2 * size))
        better = fit.abs() > best[2].abs()
        best = (torch.where(better[:, None, None], motion, best[0]), torch.where(better[:, None], shift, best[1]),
                torch.where(better, fit, best[2]))  # fmt: skip
        terms = torch.cat([slopes, (slopes[:, :, None] * places).flatten(1, 2)], 1)
        weighed = terms * weight[:, None]
        normal = weighed @ terms.transpose(1, 2)
        ridge = _RIDGE * torch.diagonal(normal, dim1=1, dim2=2).mean(1, keepdim=True) + 1e-6
        left = (fit.sign() * length / size)[:, None] * flat - there
        step = torch.linalg.solve(
            normal + torch.diag_embed(ridge.expand(-1, terms.shape[1])), weighed @ left[..., None]
        )
        shift = shift + step[:, :axes, 0].clamp(-_FARTHEST, _FARTHEST)
        motion = motion + (step[:, axes:, 0].reshape(-1, axes, axes) / half).clamp(-_STRAIN, _STRAIN)
    return best


def sampled(images: torch.Tensor, motion: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
    """[N, C, *S]: at y the voxels of images [N, C, *S] at motion y + shift, both about the centre; 0 outside."""
    half = (torch.tensor(images.shape[2:]).float() - 1) / 2
    turned = (motion * half / half[:, None]).flip(1, 2)
    moved = torch.zeros_like(motion[:, 0]) if shift is None else (shift / half).flip(1)
    places = functional.affine_grid(
        torch.cat([turned, moved[..., None]], 2), [len(motion), 1, *images.shape[2:]], align_corners=True
    )
    return functional.grid_sample(images, places, padding_mode="zeros", align_corners=True)


def on_grid(image: NDArray[Any], axes: int, longest: int) -> torch.Tensor:
    """[*S] of the last ``axes`` of an image [D, H, W], whose longest side is ``longest``."""
    flat = torch.from_numpy(np.array(image, np.float32).reshape(image.shape[-axes:]))[None, None]
    scale = longest / max(flat.shape)
    size = [max(4, round(side * scale)) for side in flat.shape[2:]]
    mode = "area" if scale < 1 else "bilinear" if axes == 2 else "trilinear"
    return functional.interpolate(flat, size=size, mode=mode)[0, 0]


def detail(grid: torch.Tensor, soft: float, around: float) -> torch.Tensor:
    """What voxels are beside their surroundings, by how much those vary; 0 where all is even. Sigmas in voxels."""
    inside = _smoothed(grid, soft)
    inside = inside - _smoothed(inside, around)
    spread = _smoothed(inside**2, around).clamp(min=0).sqrt()
    floor = _FLOOR * float(torch.quantile(spread.flatten()[: 2**23], 0.95))
    return (inside / (spread + floor + 1e-9)).clamp(-3, 3) if floor > 1e-7 * float(grid.abs().max()) else 0 * grid


def _smoothed(grid: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(grid.numpy(), sigma, mode="nearest", truncate=3.0))
