"""Images in the layouts that people have them in, taken one by one and given back as they came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ganatomy.contracts import InputError

Volumes = TypeVar("Volumes", np.ndarray, torch.Tensor)

ROUNDED = 1e-3
"""How far beyond [-1, 1] an image may go: resampling and augmentation overshoot a little."""


def each_image(
    images: Volumes,
    labels: np.ndarray | torch.Tensor | None,
    ndim: int,
    make: Callable[[NDArray[np.float32], NDArray[np.uint8] | None], NDArray[np.float32]],
) -> Volumes:
    """What ``make`` makes of each image [D, H, W] and its label, in the layout, kind, type and device of ``images``.

    images: floats in [-1, 1]; [D, H, W], [1, D, H, W], [N, 1, D, H, W], and where ndim is 2 also [H, W], [N, 1, H, W].
    labels: class ids in one of these layouts, as many; or None. Raises InputError for anything else.
    """
    given = _as_numpy(images)
    volumes = _one_by_one(given, ndim, "images")
    _check_values(given)
    if labels is None:
        made = [make(np.ascontiguousarray(volume, np.float32), None) for volume in volumes]
    else:
        ids = _one_by_one(_as_numpy(labels), ndim, "labels")
        if ids.shape != volumes.shape:
            raise InputError(f"labels of shape {ids.shape} for images of shape {volumes.shape}", expected="the same")
        made = [make(np.ascontiguousarray(one, np.float32), two.astype(np.uint8)) for one, two in zip(volumes, ids)]
    values = np.stack(made).reshape(given.shape)
    if isinstance(images, torch.Tensor):
        # A tensor that carries something along, as MONAI's do their affine, still does.
        return images.detach().clone().copy_(torch.from_numpy(values))
    return values.astype(given.dtype)


def _as_numpy(array: np.ndarray | torch.Tensor) -> np.ndarray:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def _one_by_one(array: np.ndarray, ndim: int, what: str) -> np.ndarray:
    """[N, D, H, W] of an array in any of the layouts."""
    shape = array.shape
    if 0 not in shape and (found := _volumes(shape, ndim)) is not None:
        return array.reshape(found)
    flat = ", of single slices [H, W] or [N, 1, H, W]" if ndim == 2 else ""
    raise InputError(f"{what} of shape {tuple(shape)}", expected=f"[D, H, W], [1, D, H, W] or [N, 1, D, H, W]{flat}")


def _volumes(shape: Sequence[int], ndim: int) -> tuple[int, ...] | None:
    match len(shape):
        case 2 if ndim == 2:
            return (1, 1, *shape)
        case 3:
            return (1, *shape)
        case 4 if ndim == 2 and shape[1] == 1:
            return tuple(shape)
        case 4 if shape[0] == 1:
            return tuple(shape)
        case 5 if shape[1] == 1:
            return (shape[0], *shape[2:])
    return None


def _check_values(given: np.ndarray) -> None:
    low, high = float(given.min()), float(given.max())
    if not np.issubdtype(given.dtype, np.floating) or not -1 - ROUNDED <= low <= high <= 1 + ROUNDED:
        raise InputError(
            f"images of type {given.dtype} with values from {low:g} to {high:g}",
            expected="floats in [-1, 1], as a network sees them",
            remedy="prepare them by the cohort's rules (ganatomy.dataset), or have ganatomy.generate read the files",
        )
