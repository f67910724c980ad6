"""Procedural cohorts with known truth: a cardiac-like CT/MR pair of domains, for demo, tests and benchmarks.

A case is a function of (seed, case number): anatomy, tissue values, lesion and noise come from independent streams of
random numbers, so that the same heart can be imaged again with one thing changed and everything else equal. Nothing
here is medical; what matters is that blood, fat and bone invert between the domains, that structures which nobody
labels (fat, lungs, spine, aorta, vessels) must survive a translation, and that patients differ.

Arrays are [D, H, W] = (superior, anterior, right), as everywhere inside the platform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Literal

import nibabel
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

LABELS = {1: "lv_blood", 2: "lv_myocardium", 3: "rv", 4: "la", 5: "ra"}
TISSUES = ("air", *LABELS.values(), "fat", "muscle", "lung", "bone", "aorta", "vessel")
"""Tissue id -> name; ids 1..5 are the labels, the rest is anatomy that nobody labels."""
_ID = {name: index for index, name in enumerate(TISSUES)}

_OPPOSITE = {"lv_blood": "rv", "rv": "lv_blood", "la": "ra", "ra": "la"}  # a left chamber and its right counterpart
_DAMAGES = ("unreadable", "nan", "flat", "label_shape", "label_affine", "label_values")


@dataclass(frozen=True)
class Appearance:
    """How a domain images tissue.

    means: tissue -> value in [-1, 1].  jitter: SD of a patient's tissue values around them.  noise: SD; Gaussian on
    [-1, 1] in a CT, of both Rician channels on [0, 1] in an MR.  bias: SD of the log receive field (MR only).
    """

    kind: Literal["ct", "mr"]
    means: Mapping[str, float]
    jitter: float
    noise: float
    bias: float = 0.0


APPEARANCES: dict[str, Appearance] = {
    "ct": Appearance(
        "ct",
        {"air": -1.0, "lv_blood": 0.60, "lv_myocardium": 0.15, "rv": 0.35, "la": 0.62, "ra": 0.32,
         "fat": -0.60, "muscle": -0.05, "lung": -0.85, "bone": 0.92, "aorta": 0.66, "vessel": 0.40},
        jitter=0.04, noise=0.05,
    ),
    "mr": Appearance(
        "mr",
        {"air": -1.0, "lv_blood": -0.45, "lv_myocardium": 0.30, "rv": -0.15, "la": -0.50, "ra": -0.10,
         "fat": 0.85, "muscle": -0.25, "lung": -0.90, "bone": -0.70, "aorta": -0.55, "vessel": -0.40},
        jitter=0.06, noise=0.03, bias=0.15,
    ),
}  # fmt: skip
"""Domain -> appearance. The first, CT, has the reference pose; ``pose_gap`` and ``swap_gap`` act on the other."""
DOMAINS = tuple(APPEARANCES)


@dataclass(frozen=True)
class Case:
    """One heart as one domain sees it.

    image: float32 [D, H, W] in [-1, 1].  label: uint8 [D, H, W], ids of ``LABELS``.  tissue: uint8 [D, H, W], ids of
    ``TISSUES``.  jacobian: smallest determinant of the warp's Jacobian, > 0.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    tissue: NDArray[np.uint8]
    jacobian: float


def cardiac_case(
    seed: int,
    case: int,
    domain: str,
    shape: tuple[int, int, int],
    *,
    appearance: str | None = None,
    pose_gap: float = 0.0,
    swap_gap: float = 0.0,
) -> Case:
    """Heart number ``case``, of a patient of ``domain``, as ``appearance`` (default: that domain) sees it.

    shape: [D, H, W]; the in-plane field of view is one body, D slices of the same voxel side through its middle.
    pose_gap: g >= 0; hearts of the second domain are scaled by 1 + g and shifted by (-0.35 g, 0.2 g) of half the field
    of view, so that a discriminator rewards distortion. It belongs to the patient, not to the picture: the counterpart
    of a patient in the other appearance has the same anatomy.  swap_gap: in [0, 1]; how far the second domain exchanges
    the mean values of left and right chambers, so that meaning cannot be guessed from intensity order.
    """
    appearance = appearance or domain
    for name in (domain, appearance):
        if name not in APPEARANCES:
            raise InputError(f"unknown phantom domain {name!r}", expected=nearest(name, APPEARANCES))
    tissue, jacobian = _anatomy(stream(seed, case, "anatomy"), shape, pose_gap if domain != DOMAINS[0] else 0.0)
    look = APPEARANCES[appearance]
    if appearance != DOMAINS[0]:
        look = replace(look, means=_swapped(look.means, swap_gap))
    image = _imaged(tissue, look, stream(seed, case, "tissue"), stream(seed, case, "noise"))
    label = np.where(tissue <= len(LABELS), tissue, 0).astype(np.uint8)
    return Case(image, label, tissue, jacobian)


# --- anatomy -----------------------------------------------------------------------------------------------------


def _anatomy(rng: np.random.Generator, shape: tuple[int, int, int], gap: float) -> tuple[NDArray[np.uint8], float]:
    """Tissue ids [D, H, W], and the smallest Jacobian determinant of the warp they were drawn through."""
    side = min(shape[1:])
    if shape[0] < 2 or side < 16:
        raise InputError(
            f"phantom of shape {shape}", expected="at least 2 slices of 16 x 16", remedy="ask for a larger one"
        )
    displacement, smallest = warp(rng, shape, 1.5 * side / 64)
    points = grid(shape) + displacement / (side / 2)
    tissue = np.zeros(shape, np.uint8)
    width, height = 0.88 * rng.uniform(0.92, 1.07), 0.74 * rng.uniform(0.92, 1.08)
    ring = rng.uniform(0.06, 0.13)
    tissue[ellipsoid(points, (0, 0, 0), (width, height, 3))] = _ID["fat"]
    inner = ellipsoid(points, (0, 0, 0), (width - ring, height - ring, 3))
    tissue[inner] = _ID["muscle"]
    for name, region in _thorax(rng, points, width - ring, height - ring):
        tissue[region & inner] = _ID[name]
    for name, region in _heart(rng, points, gap):
        tissue[region & inner] = _ID[name]
    return tissue, smallest


def _thorax(rng: np.random.Generator, points: Floats, width: float, height: float) -> Iterator[tuple[str, Mask]]:
    """What nobody labels, back to front, in a chest with semi-axes ``width`` and ``height``: (tissue, region)."""
    pleura = ellipsoid(points, (0, 0, 0), (width - 0.06, height - 0.05, 3))
    for sign in (-1, 1):
        centre = np.array([sign * (width - 0.30), rng.normal(-0.04, 0.02), rng.normal(0, 0.1)])
        lung = pleura & ellipsoid(points, centre, (rng.uniform(0.26, 0.36), rng.uniform(0.40, 0.52), 1.2))
        yield "lung", lung
        for _ in range(5):
            radius = rng.uniform(0.035, 0.06)
            offset = rng.uniform(-0.3, 0.3, 3) * (0.6, 1, 1)
            yield "vessel", lung & ellipsoid(points, centre + offset, (radius, radius, 4 * radius))
    yield "bone", ellipsoid(points, (0, -0.52, 0), (0.15, 0.13, 3))  # spine
    yield "bone", ellipsoid(points, (0, height - 0.03, 0), (0.14, 0.05, 3))  # sternum
    yield "aorta", ellipsoid(points, (rng.normal(-0.22, 0.02), rng.normal(-0.42, 0.02), 0), (0.085, 0.085, 3))


def _heart(rng: np.random.Generator, points: Floats, gap: float) -> Iterator[tuple[str, Mask]]:
    """The labelled structures, back to front, in a frame of their own (scale, centre, rotation): (tissue, region)."""
    scale = 1.05 * np.exp(rng.normal(0, 0.10)) * (1 + gap)
    centre = rng.normal((-0.05, 0.07, 0), (0.05, 0.04, 0.05)) + gap * np.array([-0.35, 0.2, 0])
    cosine, sine = np.cos(angle := np.deg2rad(rng.normal(0, 14))), np.sin(angle)
    x, y, z = (points - centre[:, None, None, None]) / scale
    heart = np.stack([cosine * x + sine * y, cosine * y - sine * x, z])
    chambers = {
        "ra": ((0.26, -0.03, 0.06), (0.16, 0.19, 0.42)),
        "la": ((0.01, -0.28, 0.10), (0.22, 0.15, 0.42)),
        "rv": ((0.03, 0.23, -0.06), (0.27, 0.19, 0.45)),
        "lv_blood": ((-0.19, 0.00, -0.08), (0.13, 0.19, 0.50)),
    }
    ellipsoids = {
        name: (rng.normal(middle, 0.02), np.array(axes) * np.exp(rng.normal(0, 0.11, 3)))
        for name, (middle, axes) in chambers.items()
    }
    middle, axes = ellipsoids.pop("lv_blood")
    ellipsoids |= {"lv_myocardium": (middle, axes + rng.uniform(0.065, 0.105)), "lv_blood": (middle, axes)}
    for name, (middle, axes) in ellipsoids.items():
        if not name.startswith("lv_"):  # a rim of fat marks the grooves between chambers of like intensity
            yield "fat", ellipsoid(heart, middle, axes + 0.05)
        yield name, ellipsoid(heart, middle, axes)


# --- imaging -----------------------------------------------------------------------------------------------------


def _swapped(means: Mapping[str, float], gap: float) -> dict[str, float]:
    """Means with those of left and right chambers exchanged by the fraction ``gap``."""
    return {name: (1 - gap) * mean + gap * means[_OPPOSITE.get(name, name)] for name, mean in means.items()}


def _imaged(
    tissue: NDArray[np.uint8], look: Appearance, values: np.random.Generator, noise: np.random.Generator
) -> NDArray[np.float32]:
    """Tissue means with a patient's deviations, a point spread of 0.6 voxel, the domain's noise; clipped to [-1, 1].

    Both generators are drawn from alike whatever the domain, so that counterparts share deviations and noise.
    """
    deviations = values.standard_normal(len(TISSUES))
    first, second = noise.standard_normal((2, *tissue.shape))
    receive = smooth_field(noise, tissue.shape, min(tissue.shape[1:]) / 3)
    means = np.array([look.means[name] for name in TISSUES]) + look.jitter * deviations
    means[_ID["air"]] = -1.0
    clean = ndimage.gaussian_filter(means[tissue], 0.6, mode="nearest")
    if look.kind == "ct":
        image = clean + look.noise * first
    else:
        signal = (clean + 1) / 2 * np.exp(look.bias * receive)
        image = 2 * np.hypot(signal + look.noise * first, look.noise * second) - 1
    return np.clip(image, -1, 1).astype(np.float32)


# --- files -------------------------------------------------------------------------------------------------------

INTENSITIES = {"ct": Intensity("window", -250.0, 450.0), "mr": Intensity("percentile", 0.5, 99.5)}
"""Domain -> rule that turns its files into [-1, 1]. The CT window gives a case's values back, up to a rounded HU."""


@dataclass(frozen=True)
class _Patient:
    case: int
    domain: str
    split: str
    damage: str = ""

    @property
    def name(self) -> str:
        return f"p{self.case:03d}"


def make_cohort(
    out: Path | str,
    *,
    patients: Mapping[str, Sequence[int]],
    shape: tuple[int, int, int] = (12, 64, 64),
    pose_gap: float = 0.0,
    swap_gap: float = 0.0,
    seed: int = 0,
    oracle: Path | str | None = None,
    corrupt: Sequence[str] = (),
    name: str = "phantom",
) -> Cohort:
    """Write an unpaired CT/MR cohort of NIfTI volumes to the new folder ``out`` and return it.

    patients: domain -> number of patients in (train, val, test): ``{"ct": (20, 4, 4), "mr": (20, 8, 12)}``. Each
    patient stands in one domain, with one labelled volume, ``<patient>/<domain>.nii.gz`` and
    ``<patient>/label.nii.gz``; every second is stored in another orientation than RAS.
    shape, pose_gap, swap_gap: as for ``cardiac_case``.
    oracle: a new folder outside ``out``, for evaluation only: each patient's true counterpart in the other domain, on
    the grid of the patient's own file, listed in ``oracle.csv`` (patient, domain, image).
    corrupt: for each damage named (unreadable, nan, flat, label_shape, label_affine, label_values) one more training
    patient who has it, last in the table; ``make_cohort`` does not quarantine them.

    Each folder appears complete or not at all. Raises InputError where one exists and is not empty, for an unknown
    domain or damage, and for counts that leave a domain without a training patient.
    """
    out, twins = Path(out).resolve(), None if oracle is None else Path(oracle).resolve()
    _refuse_nonsense(patients, corrupt, seed)
    refuse_taken(out)
    if twins is not None:
        refuse_taken(twins)
        if twins.is_relative_to(out) or out.is_relative_to(twins):
            raise InputError(f"oracle {twins} and cohort {out}", expected="two separate folders")
    enrolled = _enrol(patients, corrupt)

    def seen(patient: _Patient, appearance: str) -> Case:
        return cardiac_case(seed, patient.case, patient.domain, shape, appearance=appearance, pose_gap=pose_gap,
                            swap_gap=swap_gap)  # fmt: skip

    with appearing(out) as folder:
        rows = [_write_patient(folder, patient, seen(patient, patient.domain), seed) for patient in enrolled]
        domains = {domain: Domain(domain, domain.upper(), INTENSITIES[domain]) for domain in patients}
        Cohort(folder, name, domains, LABELS, disjoint_domains=True, licence="generated, free of rights",
               anatomy="heart", rows=tuple(rows)).save()  # fmt: skip
    if twins is not None:
        with appearing(twins) as folder:
            write_oracle(folder, _twins(folder, enrolled, seen, seed))
    return read_cohort(out)


def to_native(image: NDArray[np.float32], domain: str, gain: float = 1.0) -> NDArray[np.int16]:
    """Values [-1, 1] as a scanner stores them: HU-like for CT, 0 to 1000 times ``gain`` for MR."""
    values = 100 + 350 * image if APPEARANCES[domain].kind == "ct" else 500 * gain * (image + 1)
    return np.rint(values).astype(np.int16)


def _enrol(patients: Mapping[str, Sequence[int]], corrupt: Sequence[str]) -> list[_Patient]:
    """Everybody, numbered through; no two patients share a case number, so no anatomy stands in both domains."""
    homes = [
        (domain, split, "") for domain, counts in patients.items() for split, n in zip(SPLITS, counts) for _ in range(n)
    ]
    homes += [(domain, "train", damage) for damage, domain in zip(corrupt, cycle(patients))]
    return [_Patient(case, *home) for case, home in enumerate(homes)]


def _refuse_nonsense(patients: Mapping[str, Sequence[int]], corrupt: Sequence[str], seed: int) -> None:
    for domain, counts in patients.items():
        if domain not in APPEARANCES:
            raise InputError(f"unknown phantom domain {domain!r}", expected=nearest(domain, APPEARANCES))
        if len(counts) != len(SPLITS) or min(counts) < 0 or counts[0] < 1:
            raise InputError(f"patients of {domain}: {tuple(counts)}", expected="train >= 1, val >= 0, test >= 0")
    if not patients:
        raise InputError("a phantom cohort without patients", expected="at least one domain")
    for damage in corrupt:
        if damage not in _DAMAGES:
            raise InputError(f"unknown damage {damage!r}", expected=nearest(damage, _DAMAGES))
    if seed < 0:
        raise InputError(f"seed {seed}", expected="a whole number >= 0")


def _write_patient(folder: Path, patient: _Patient, case: Case, seed: int) -> Row:
    home = folder / patient.name
    home.mkdir()
    image, label = home / f"{patient.domain}.nii.gz", home / "label.nii.gz"
    affine, gain = scanner(patient.case, case.image.shape, seed)
    save_volume(to_native(case.image, patient.domain, gain), affine, patient.case, image)
    save_volume(case.label, affine, patient.case, label)
    _damage(patient.damage, image, label)
    return Row(patient.name, patient.name, patient.domain, image, label, patient.split)


def _twins(
    folder: Path, enrolled: Sequence[_Patient], seen: Callable[[_Patient, str], Case], seed: int
) -> Iterator[tuple[str, str, str]]:
    for patient in enrolled:
        other = next(domain for domain in DOMAINS if domain != patient.domain)
        case = seen(patient, other)
        affine, gain = scanner(patient.case, case.image.shape, seed)
        image = f"{patient.name}_{other}.nii.gz"
        save_volume(to_native(case.image, other, gain), affine, patient.case, folder / image)
        yield patient.name, other, image


def _damage(kind: str, image: Path, label: Path) -> None:
    """Spoil a patient's files in the way of ``kind``; the empty kind leaves them whole."""
    if kind == "unreadable":
        image.write_bytes(image.read_bytes()[:200])
    elif kind in ("nan", "flat"):
        file = nibabel.load(image)
        voxels = np.full(file.shape, np.nan if kind == "nan" else 0, np.float32)
        if kind == "nan":
            voxels[1:] = file.get_fdata()[1:]
        nibabel.save(nibabel.Nifti1Image(voxels, file.affine), image)
    elif kind:
        file = nibabel.load(label)
        voxels, affine = np.asarray(file.dataobj).copy(), file.affine.copy()
        if kind == "label_shape":
            voxels = voxels[:-1]
        elif kind == "label_affine":
            affine[:3, 3] += 10
        else:
            voxels[0, 0, 0] = len(LABELS) + 4
        nibabel.save(nibabel.Nifti1Image(voxels, affine), label)
