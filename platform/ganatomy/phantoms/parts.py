"""What the phantoms of all body parts are made of: streams of random numbers, warped coordinates, files on disk.

Arrays are [D, H, W] = (superior, anterior, right), as everywhere inside the platform.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ganatomy.contracts import InputError

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]

SPACING = 1.5
"""Voxel side in mm."""
_ORIENTATIONS = ("RAS", "LPS", "RAS", "ASL", "RAS", "PIR")  # every second file must be turned, as in a clinic's archive
_STREAMS = ("anatomy", "tissue", "lesion", "noise", "scanner")


def stream(seed: int, case: int, name: str) -> np.random.Generator:
    """The random numbers of one aspect (``anatomy``, ``tissue``, ``lesion``, ``noise``, ``scanner``) of one case."""
    return np.random.default_rng([seed, case, _STREAMS.index(name)])


def grid(shape: tuple[int, int, int]) -> Floats:
    """Coordinates (x, y, z) of the voxel centres, [3, D, H, W]; the shorter in-plane side spans [-1, 1]."""
    axes = [(np.arange(n) - (n - 1) / 2) / (min(shape[1:]) / 2) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1])


def ellipsoid(points: Floats, centre: ArrayLike, axes: ArrayLike) -> Mask:
    """Where ``points`` [3, ...] lie within the ellipsoid."""
    squares = [((p - c) / a) ** 2 for p, c, a in zip(points, np.asarray(centre), np.asarray(axes))]
    return sum(squares) <= 1.0


def smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> Floats:
    """Gaussian-filtered white noise of mean 0 and SD 1.

    Filtered on a grid deep enough for the kernel, then cut: a thin slab sees the middle of a field of the full body,
    not one that its own borders flattened.
    """
    deep = (max(shape[0], min(shape[1:]) // 2), *shape[1:])
    spectrum = ndimage.fourier_gaussian(np.fft.rfftn(rng.standard_normal(deep)), sigma, n=deep[-1])
    smooth = np.fft.irfftn(spectrum, deep, axes=(0, 1, 2))
    smooth = (smooth - smooth.mean()) / smooth.std()
    return smooth[: shape[0]]


def warp(rng: np.random.Generator, shape: tuple[int, int, int], amplitude: float) -> tuple[Floats, float]:
    """A displacement (x, y, z) in voxels, [3, D, H, W], with SD ``amplitude``, and its smallest Jacobian determinant.

    Fold-free by construction: in the rare draw that folds, the displacement shrinks until it does not.
    """
    sigma = min(shape[1:]) / 8
    displacement = amplitude * np.stack([smooth_field(rng, shape, sigma) for _ in range(3)])
    while (smallest := float(jacobian_determinant(displacement).min())) <= 0.1:
        displacement *= 0.8
    return displacement, smallest


def jacobian_determinant(displacement: Floats) -> Floats:
    """det J of the map p -> p + u(p): [D, H, W] from a displacement u [3, D, H, W] given as (x, y, z) in voxels."""
    rows = [np.gradient(component)[::-1] for component in displacement]
    jacobian = np.moveaxis(np.array(rows), (0, 1), (-2, -1)) + np.eye(3)
    return np.linalg.det(jacobian)


# --- files -----------------------------------------------------------------------------------------------------------


def refuse_taken(path: Path) -> None:
    """InputError where something stands at ``path`` already; an empty folder may."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists", expected="a new folder", remedy="remove it or choose another")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to write in; it becomes ``path`` at the end of the block, or vanishes with an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def scanner(case: int, shape: tuple[int, ...], seed: int) -> tuple[Floats, float]:
    """A patient's RAS affine (nobody lies in the scanner's centre) and receive gain."""
    rng = stream(seed, case, "scanner")
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = np.round(rng.normal(0, 15, 3) - SPACING * np.array(shape[::-1]) / 2, 2)
    return affine, float(np.exp(rng.normal(0, 0.3)))


def save_volume(volume: NDArray[np.generic], affine: Floats, case: int, path: Path) -> None:
    """Write [D, H, W] as NIfTI in the orientation of patient number ``case``; the affine is that of the RAS grid."""
    turn = orientations.axcodes2ornt(_ORIENTATIONS[case % len(_ORIENTATIONS)])
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine)
    turned = image.as_reoriented(orientations.ornt_transform(orientations.axcodes2ornt("RAS"), turn))
    turned.header.set_xyzt_units("mm")
    nibabel.save(turned, path)


def write_oracle(folder: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """The table ``oracle.csv`` of ``folder``, row by row: patient, domain, and the image, which is written by then."""
    with (folder / "oracle.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("patient", "domain", "image"))
        table.writerows(rows)
