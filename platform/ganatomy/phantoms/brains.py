"""Procedural brains with lesions whose truth is known: registered MR contrasts, one label, and the same brain without.

A case is a function of (seed, case number), as in ``hearts``: the lesion has a stream of random numbers of its own, so
that its lesion-free twin has the same anatomy, tissue values and noise, and differs only where the lesion blurs to.
Each contrast has tissue values and noise of its own, whichever others are asked for.

Arrays are [D, H, W] = (superior, anterior, right), as everywhere inside the platform.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ganatomy.cohorts.cohort import SPLITS, Cohort, Domain, Row
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest
from ganatomy.images.intensities import Intensity
from ganatomy.phantoms.parts import (
    Floats,
    Mask,
    appearing,
    ellipsoid,
    grid,
    refuse_taken,
    save_volume,
    scanner,
    smooth_field,
    stream,
    warp,
    write_oracle,
)

TISSUES = ("outside", "csf", "gm", "wm", "oedema", "core", "rim")
_ID = {name: index for index, name in enumerate(TISSUES)}

CONTRASTS: Mapping[str, tuple[float, ...]] = {
    "flair": (0.0, 0.10, 0.55, 0.42, 0.88, 0.70, 0.92),
    "t1": (0.0, 0.12, 0.45, 0.70, 0.36, 0.28, 0.40),
    "t2": (0.0, 0.92, 0.60, 0.40, 0.80, 0.86, 0.70),
    "t1c": (0.0, 0.12, 0.46, 0.70, 0.36, 0.22, 0.95),
}
"""Contrast -> mean value in [0, 1] of each of ``TISSUES``."""

LESION = {1: "lesion"}
"""The whole lesion as one class."""
NESTED = {1: "oedema", 2: "core", 3: "rim"}
"""Its parts as classes."""

JITTER, NOISE, BIAS = 0.04, 0.03, 0.12  # SDs: of tissue values, of both Rician channels, of the log receive field
_PSF = 0.6
_RIM, _CORE = 0.65, 0.40  # outer radii, as fractions of the lesion's


@dataclass(frozen=True)
class Brain:
    """One brain.

    images: contrast -> float32 [D, H, W] in [0, 1]; exactly 0 outside the brain.  twins: the same without the lesion.
    label: uint8 [D, H, W], ids of ``NESTED``.  tissue: uint8 [D, H, W], ids of ``TISSUES``, lesion included.
    jacobian: smallest determinant of the Jacobian of the anatomy's warp, > 0.
    """

    images: Mapping[str, NDArray[np.float32]]
    twins: Mapping[str, NDArray[np.float32]]
    label: NDArray[np.uint8]
    tissue: NDArray[np.uint8]
    jacobian: float


def brain_case(
    seed: int,
    case: int,
    shape: tuple[int, int, int],
    *,
    contrasts: Sequence[str] = ("flair",),
    lesion_slices: int | None = None,
    mass_effect: float = 0.0,
    lesion_contrast: float = 1.0,
) -> Brain:
    """Brain number ``case`` with one lesion.

    shape: [D, H, W]; the in-plane field of view is one head, D slices of the same voxel side through its middle.
    lesion_slices: consecutive slices that the lesion crosses, 1 <= n < D; half of them by default.  mass_effect: how
    far tissue is pushed outwards at the edge of the lesion, as a fraction of its radius, in [0, 0.5]; with one, the
    twin differs beyond the lesion too.  lesion_contrast: how far the values of a lesion's parts lie from those of white
    matter, as a fraction of what ``CONTRASTS`` says, in (0, 1]. At 1 no tissue of FLAIR is as bright as a lesion, and a
    threshold takes it out; at 0.4 most of it is no brighter than the brightest twentieth of grey matter.
    InputError for an unknown contrast or an impossible number.
    """
    for name in contrasts:
        if name not in CONTRASTS:
            raise InputError(f"unknown contrast {name!r}", expected=nearest(name, CONTRASTS))
    if shape[0] < 2 or min(shape[1:]) < 16:
        raise InputError(f"brain phantom of shape {shape}", expected="at least 2 slices of 16 x 16")
    count = shape[0] // 2 if lesion_slices is None else lesion_slices
    if not 1 <= count < shape[0]:
        raise InputError(
            f"lesion_slices = {count} of {shape[0]} slices",
            expected=f"1 to {shape[0] - 1}, so that some slices have a lesion and some have none",
        )
    if not 0 <= mass_effect <= 0.5:
        raise InputError(f"mass_effect = {mass_effect!r}", expected="a fraction of the radius, 0 to 0.5")
    if not 0 < lesion_contrast <= 1:
        raise InputError(f"lesion_contrast = {lesion_contrast!r}", expected="a fraction above 0, up to 1")
    healthy, jacobian = _anatomy(stream(seed, case, "anatomy"), shape)
    tissue = _with_lesion(stream(seed, case, "lesion"), healthy, count, mass_effect)
    label = np.where(tissue >= _ID["oedema"], tissue - _ID["oedema"] + 1, 0).astype(np.uint8)
    images, twins = (_imaged(seed, case, shown, contrasts, lesion_contrast) for shown in (tissue, healthy))
    return Brain(images, twins, label, tissue, jacobian)


# --- anatomy -----------------------------------------------------------------------------------------------------


def _anatomy(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], float]:
    """Tissue ids [D, H, W] of a healthy brain without its skull, and the smallest Jacobian determinant of its warp."""
    side = min(shape[1:])
    displacement, smallest = warp(rng, shape, 1.5 * side / 64)
    points = grid(shape) + displacement / (side / 2)
    x, y, _ = points
    axes = np.array([0.70, 0.86, 0.90]) * rng.uniform(0.94, 1.05, 3)
    tissue = np.zeros(shape, np.uint8)
    tissue[ellipsoid(points, (0, 0, 0), axes)] = _ID["csf"]
    # The cortex is a ribbon between two boundaries that wave with the angle, the inner one more, as sulci do.
    angle, phases = np.arctan2(y, x), rng.uniform(0, 2 * np.pi, 3)
    waves = sum(np.cos(k * angle + phase) for k, phase in zip((7, 11, 16), phases))
    for name, inset, depth in (("gm", 0.06, 0.008), ("wm", 0.19, 0.022)):
        tissue[ellipsoid(points / (1 + depth * waves), (0, 0, 0), axes - inset)] = _ID[name]
    fissure = (np.abs(x) < 0.022) & (np.abs(y) > 0.42 * axes[1]) & (tissue > 0)
    tissue[fissure] = _ID["csf"]
    reach, tilt = rng.uniform(0.24, 0.34), rng.uniform(0.10, 0.20)
    for sign in (-1, 1):
        nucleus = rng.normal((sign * 0.27, -0.02, 0), 0.015)
        tissue[ellipsoid(points, nucleus, (0.10, 0.17, 0.4))] = _ID["gm"]
        sheared = np.stack([x - sign * tilt * np.abs(y), y, points[2]])
        tissue[ellipsoid(sheared, (sign * 0.10, 0.02, 0), (0.065, reach, 0.45))] = _ID["csf"]
    return tissue, smallest


# --- lesion ------------------------------------------------------------------------------------------------------


def _with_lesion(
    rng: np.random.Generator, healthy: NDArray[np.uint8], slices: int, mass_effect: float
) -> NDArray[np.uint8]:
    """Tissue ids with a star-shaped lesion: oedema around a rim around a core, in ``slices`` consecutive slices."""
    shape, side = healthy.shape, min(healthy.shape[1:])
    parenchyma = healthy >= _ID["gm"]
    first, slices = _block(rng, parenchyma, slices)
    block = slice(first, first + slices)
    depth = ndimage.distance_transform_edt(parenchyma[block].all(axis=0))
    places = np.argwhere(depth >= min(2.0, depth.max()))
    row, column = places[rng.integers(len(places))]
    radius = rng.uniform(4, 9) * side / 64
    amplitudes, phases = rng.uniform(0.04, 0.14, 4), rng.uniform(0, 2 * np.pi, 4)

    down, right = np.meshgrid(np.arange(shape[1]) - row, np.arange(shape[2]) - column, indexing="ij")
    angle = np.arctan2(down, right)
    star = 1 + sum(a * np.cos(k * angle + p) for k, a, p in zip((2, 3, 4, 5), amplitudes, phases))
    middle = first + (slices - 1) / 2
    along = 2 * np.abs(np.arange(shape[0]) - middle) / slices  # < 1 within the block
    taper = np.sqrt(np.clip(1 - 0.8 * along**2, 0, None))  # never to nothing within it
    relative = np.hypot(down, right) / (radius * star) / np.maximum(taper, 1e-6)[:, None, None]
    relative[along >= 1] = np.inf
    if mass_effect:
        healthy = _pushed(healthy, (down, right), relative, mass_effect * radius)
        parenchyma = healthy >= _ID["gm"]
    return _painted(healthy, relative, parenchyma)


def _painted(healthy: NDArray[np.uint8], relative: Floats, parenchyma: Mask) -> NDArray[np.uint8]:
    """``healthy`` with the lesion where ``relative``, the distance from its centre over its radius, is below 1."""
    tissue = healthy.copy()
    for name, radius in (("oedema", 1.0), ("rim", _RIM), ("core", _CORE)):
        tissue[parenchyma & (relative < radius)] = _ID[name]
    return tissue


def _block(rng: np.random.Generator, parenchyma: Mask, slices: int) -> tuple[int, int]:
    """First slice, and number, of those that the lesion crosses: all of them show much of the brain, one does not."""
    area = parenchyma.sum(axis=(1, 2))
    usable = np.flatnonzero(area >= 0.5 * area.max())
    slices = min(slices, len(usable), len(area) - 1)
    return int(usable[0] + rng.integers(len(usable) - slices + 1)), slices


def _pushed(
    tissue: NDArray[np.uint8], away: tuple[Floats, Floats], relative: Floats, distance: float
) -> NDArray[np.uint8]:
    """``tissue`` pushed away from the lesion in its plane, by ``distance`` voxels at its edge, less beyond."""
    length = np.maximum(np.hypot(*away), 1e-6)
    push = distance * np.minimum(relative, np.exp(1 - np.minimum(relative, 1e3)))
    planes, rows, columns = np.indices(tissue.shape, float)
    coordinates = [planes, rows - push * away[0] / length, columns - push * away[1] / length]
    return ndimage.map_coordinates(tissue, coordinates, order=0, mode="nearest")


# --- imaging -----------------------------------------------------------------------------------------------------


def _imaged(
    seed: int, case: int, tissue: NDArray[np.uint8], contrasts: Sequence[str], lesion_contrast: float
) -> dict[str, NDArray[np.float32]]:
    """Tissue means with a patient's deviations, point spread, receive field, Rician noise; without what is outside.

    The point spread is in the plane: a slice beside the lesion shows nothing of it, as its label says.
    """
    deviations = stream(seed, case, "tissue").normal(0, JITTER, (len(CONTRASTS), len(TISSUES)))
    noises = dict(zip(CONTRASTS, stream(seed, case, "noise").spawn(len(CONTRASTS))))
    brain, images = tissue > 0, {}
    for index, (name, values) in enumerate(CONTRASTS.items()):
        if name in contrasts:
            means, white = np.array(values), values[_ID["wm"]]
            means[_ID["oedema"] :] = white + lesion_contrast * (means[_ID["oedema"] :] - white)
            first, second = NOISE * noises[name].standard_normal((2, *tissue.shape))
            receive = np.exp(BIAS * smooth_field(noises[name], tissue.shape, min(tissue.shape[1:]) / 3))
            clean = ndimage.gaussian_filter((means + deviations[index])[tissue] * brain, (0, _PSF, _PSF))
            signal = np.clip(np.hypot(clean * receive + first, second), 0, 1)
            images[name] = (signal * brain).astype(np.float32)
    return {name: images[name] for name in contrasts}


# --- files -------------------------------------------------------------------------------------------------------


def make_brain_cohort(
    out: Path | str,
    *,
    patients: Sequence[int],
    shape: tuple[int, int, int] = (8, 64, 64),
    contrasts: Sequence[str] = ("flair",),
    lesion_slices: int | None = None,
    mass_effect: float = 0.0,
    lesion_contrast: float = 1.0,
    nested: bool = False,
    seed: int = 0,
    oracle: Path | str | None = None,
    twins: bool = False,
    name: str = "brain-phantom",
) -> Cohort:
    """Write a cohort of brains with lesions as NIfTI volumes to the new folder ``out`` and return it.

    patients: their number in (train, val, test). Each has one examination: ``<patient>/<contrast>.nii.gz`` for each of
    ``contrasts``, registered, and the one ``<patient>/label.nii.gz`` of them all; every second is stored in another
    orientation than RAS.
    shape, lesion_slices, mass_effect, lesion_contrast: as for ``brain_case``.
    nested: oedema, core and rim are classes; otherwise the lesion is one.
    oracle: a new folder outside ``out``, for evaluation only: each patient's images without the lesion, on the grid of
    the patient's own files, listed in ``oracle.csv`` (patient, domain, image).
    twins: in the cohort too, of validation and test patients, as domains ``flair_twin`` and so on (``Cohort.twins``):
    measures may read them and no method is trained on them.

    Each folder appears complete or not at all. Raises InputError where one exists and is not empty, for an unknown
    contrast, and for counts without a training patient.
    """
    out, apart = Path(out).resolve(), None if oracle is None else Path(oracle).resolve()
    if len(patients) != len(SPLITS) or min(patients) < 0 or patients[0] < 1:
        raise InputError(f"patients {tuple(patients)}", expected="train >= 1, val >= 0, test >= 0")
    if seed < 0:
        raise InputError(f"seed {seed}", expected="a whole number >= 0")
    if not contrasts:
        raise InputError("a brain phantom without contrasts", expected=f"some of {', '.join(CONTRASTS)}")
    refuse_taken(out)
    if apart is not None:
        refuse_taken(apart)
        if apart.is_relative_to(out) or out.is_relative_to(apart):
            raise InputError(f"oracle {apart} and cohort {out}", expected="two separate folders")

    def drawn(case: int) -> Brain:
        return brain_case(seed, case, shape, contrasts=contrasts, lesion_slices=lesion_slices, mass_effect=mass_effect,
                          lesion_contrast=lesion_contrast)  # fmt: skip

    splits = [split for split, count in zip(SPLITS, patients) for _ in range(count)]
    with appearing(out) as folder:
        rows = [
            row
            for case, split in enumerate(splits)
            for row in _write_patient(folder, case, split, drawn(case), seed, nested, twins and split != "train")
        ]
        domains = {contrast: Domain(contrast, "MR", Intensity("percentile", 0.0, 99.5)) for contrast in contrasts}
        without = {contrast: f"{contrast}_twin" for contrast in contrasts} if twins else {}
        # Nothing is clipped: a twin is brought to the range of the image that it is the twin of.
        domains |= {name: Domain(name, "MR", Intensity("percentile", 0.0, 100.0)) for name in without.values()}
        Cohort(folder, name, domains, NESTED if nested else LESION, licence="generated, free of rights",
               anatomy="brain", rows=tuple(rows), twins=without).save()  # fmt: skip
    if apart is not None:
        with appearing(apart) as folder:
            write_oracle(folder, _twins(folder, {case: drawn(case) for case in range(len(splits))}, seed))
    return read_cohort(out)


def _write_patient(
    folder: Path, case: int, split: str, brain: Brain, seed: int, nested: bool, twins: bool
) -> list[Row]:
    name = f"p{case:03d}"
    home = folder / name
    home.mkdir()
    affine, gain = scanner(case, brain.label.shape, seed)
    label = brain.label if nested else (brain.label > 0).astype(np.uint8)
    save_volume(label, affine, case, home / "label.nii.gz")
    rows = []
    for contrast, image in brain.images.items():
        file = home / f"{contrast}.nii.gz"
        save_volume(_stored(image, gain), affine, case, file)
        rows.append(Row(name, name, contrast, file, home / "label.nii.gz", split))
    for contrast, image in brain.twins.items() if twins else ():
        file = home / f"{contrast}_twin.nii.gz"
        save_volume(_stored(image, gain), affine, case, file)
        rows.append(Row(name, name, f"{contrast}_twin", file, split=split))
    return rows


def _twins(folder: Path, brains: Mapping[int, Brain], seed: int) -> Iterator[tuple[str, str, str]]:
    for case, brain in brains.items():
        affine, gain = scanner(case, brain.label.shape, seed)
        for contrast, image in brain.twins.items():
            name = f"p{case:03d}_{contrast}.nii.gz"
            save_volume(_stored(image, gain), affine, case, folder / name)
            yield f"p{case:03d}", contrast, name


def _stored(image: NDArray[np.float32], gain: float) -> NDArray[np.int16]:
    """Values [0, 1] as a scanner stores them, 0 to 1000 times ``gain``; 0 stays exactly 0."""
    return np.rint(1000 * gain * image).astype(np.int16)
