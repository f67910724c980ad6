"""Procedural crops around one structure, as two domains see it, unpaired: a pancreas in CT and MR, a mass in the
mammograms of two archives.

A pancreas is a bent tube, thick at one end, that hardly differs from what is around it; loops of bowel that look like
it and vessels lie beside it. A mass is a disc with an irregular outline in the texture of a breast; dense spots that
are no masses lie around it. Nothing here is medical; what matters is that there is one structure a case, that its
border is vague, and that the domains differ in how they look and not in what they show.

Arrays are [D, H, W] = (superior, anterior, right), as everywhere inside the platform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ganatomy.phantoms.parts import Floats, appearing, grid, refuse_taken, save_volume, scanner, smooth_field, stream


@dataclass(frozen=True)
class Look:
    """How a domain images tissue, in [-1, 1]. ground, likeness, structure: means of what is around, of what resembles
    the structure, of the structure itself.  vessel: of vessels, or of dense spots.  texture, noise: SD."""

    modality: str
    ground: float
    likeness: float
    structure: float
    vessel: float
    texture: float
    noise: float


@dataclass(frozen=True)
class Kind:
    """What the crop is around. label: name of the structure.  looks: domain -> how it looks there; the first is A."""

    label: str
    looks: Mapping[str, Look]


KINDS = {
    "pancreas": Kind(
        "pancreas",
        {
            "ct": Look("CT", -0.25, 0.08, 0.14, 0.75, 0.12, 0.08),
            "mr": Look("MR", 0.35, 0.02, -0.06, -0.75, 0.14, 0.06),
        },
    ),
    "breast": Kind(
        "mass",
        {
            "bcdr": Look("mammography", -0.45, 0.10, 0.30, 0.35, 0.20, 0.12),
            "inbreast": Look("mammography", -0.75, -0.35, -0.20, 0.05, 0.16, 0.05),
        },
    ),
}
"""Anatomy -> what its crops are around."""
JITTER = 0.04
"""SD of a patient's tissue values around the means."""


@dataclass(frozen=True)
class Crop:
    """One case. image: float32 [D, H, W] in [-1, 1].  label: uint8 [D, H, W], 1 in the structure."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8]


def crop_case(seed: int, case: int, anatomy: str, domain: str, shape: tuple[int, int, int]) -> Crop:
    """Case number ``case`` as ``domain`` sees it: in another domain it has the same label.

    shape: [D, H, W], sides of at least 32 in plane. InputError for an unknown anatomy or domain, or a smaller crop.
    """
    if anatomy not in KINDS:
        raise InputError(f"unknown crop {anatomy!r}", expected=nearest(anatomy, KINDS))
    if domain not in KINDS[anatomy].looks:
        raise InputError(f"unknown domain {domain!r} of {anatomy}", expected=nearest(domain, KINDS[anatomy].looks))
    if min(shape[1:]) < 32 or shape[0] < 1:
        raise InputError(f"a crop of shape {shape}", expected="at least 1 slice of 32 x 32")
    draws, points = stream(seed, case, "anatomy"), grid(shape)
    draw = _pancreas if anatomy == "pancreas" else _mass
    structure, likeness, vessels = draw(draws, points)
    look, tissue = KINDS[anatomy].looks[domain], stream(seed, case, "tissue")
    ground, alike, own, bright = (
        mean + JITTER * tissue.standard_normal() for mean in (look.ground, look.likeness, look.structure, look.vessel)
    )
    image = ground + (alike - ground) * likeness
    image = np.where(structure, own, image)
    image = image + (bright - image) * vessels * ~structure
    image = image + look.texture * smooth_field(tissue, shape, 0.04 * min(shape[1:]))
    image = ndimage.gaussian_filter(image, (0, 0.8, 0.8), mode="nearest")
    image += look.noise * stream(seed, case, "noise").standard_normal(shape)
    return Crop(np.clip(image, -1, 1).astype(np.float32), structure.astype(np.uint8))


def _pancreas(draws: np.random.Generator, points: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """The structure, how far what resembles it covers (0 to 1), and vessels."""
    x, y, z = points
    centre, angle = draws.normal(0, 0.10, 2), np.deg2rad(draws.uniform(-35, 35))
    u = np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])
    v = np.cos(angle) * (y - centre[1]) - np.sin(angle) * (x - centre[0])
    bend, sway = draws.uniform(-0.5, 0.5), draws.uniform(0.05, 0.12)
    v = v - bend * u**2 - sway * np.sin(draws.uniform(4, 7) * u + draws.uniform(0, 6)) - draws.normal(0, 0.15) * z
    length, thick = draws.uniform(0.45, 0.65), draws.uniform(0.15, 0.21)
    width = thick * np.clip(1 - 0.45 * (u + length) / (2 * length), 0.3, None)
    structure = (np.abs(v) <= width) & (np.abs(u) <= length)
    loops, vessels = np.zeros_like(x), np.zeros_like(x)
    for _ in range(draws.integers(3, 6)):
        at, radius = draws.uniform(-0.9, 0.9, 2), draws.uniform(0.12, 0.22)
        loops = np.maximum(loops, np.hypot(x - at[0], y - at[1] - 0.2 * z) <= radius)
    for _ in range(draws.integers(2, 4)):
        at, radius = draws.uniform(-0.8, 0.8, 2), draws.uniform(0.05, 0.09)
        vessels = np.maximum(vessels, np.hypot(x - at[0], y - at[1]) <= radius)
    return structure, loops.astype(float), vessels.astype(float)


def _mass(draws: np.random.Generator, points: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """The structure, how far glandular tissue covers (0 to 1), and dense spots."""
    x, y, _ = points
    centre, radius = draws.normal(0, 0.14, 2), draws.uniform(0.22, 0.45)
    du, dv = x - centre[0], y - centre[1]
    around, phase, swing = np.arctan2(dv, du), draws.uniform(0, 2 * np.pi, 4), draws.uniform(0.03, 0.10, 4)
    outline = radius * (1 + sum(s * np.cos((k + 2) * around + p) for k, (s, p) in enumerate(zip(swing, phase))))
    structure = np.hypot(du, dv) <= outline
    gland = np.zeros_like(x)
    for _ in range(draws.integers(4, 8)):
        at, reach, tilt = draws.uniform(-1, 1, 2), draws.uniform(0.15, 0.5, 2), draws.uniform(0, np.pi)
        p = np.cos(tilt) * (x - at[0]) + np.sin(tilt) * (y - at[1])
        q = np.cos(tilt) * (y - at[1]) - np.sin(tilt) * (x - at[0])
        gland += draws.uniform(0.4, 0.9) * np.exp(-((p / reach[0]) ** 2) - (q / reach[1]) ** 2)
    spots = np.zeros_like(x)
    for _ in range(draws.integers(1, 4)):
        at, size = draws.uniform(-0.9, 0.9, 2), draws.uniform(0.10, 0.18)
        spots = np.maximum(spots, np.exp(-((np.hypot(x - at[0], y - at[1]) / size) ** 4)))
    return structure, np.clip(gland, 0, 1), spots


# --- files -----------------------------------------------------------------------------------------------------------


def make_crop_cohort(
    out: Path | str,
    *,
    anatomy: str,
    patients: Mapping[str, Sequence[int]],
    shape: tuple[int, int, int],
    seed: int = 0,
    name: str = "",
) -> Cohort:
    """Write an unpaired cohort of crops (NIfTI, one labelled volume a patient) to the new folder ``out``; return it.

    patients: domain of ``anatomy`` -> number of patients in (train, val, test).  shape: as for ``crop_case``.
    InputError as there, where the folder is taken, and for counts that leave a domain without a training patient.
    """
    out = Path(out).resolve()
    for domain, counts in patients.items():
        if len(counts) != len(SPLITS) or min(counts) < 0 or counts[0] < 1:
            raise InputError(f"patients of {domain}: {tuple(counts)}", expected="train >= 1, val >= 0, test >= 0")
    if seed < 0:
        raise InputError(f"seed {seed}", expected="a whole number >= 0")
    refuse_taken(out)
    enrolled = [
        (domain, split) for domain, counts in patients.items() for split, n in zip(SPLITS, counts) for _ in range(n)
    ]
    with appearing(out) as folder:
        rows = [
            _write_patient(folder, case, domain, split, crop_case(seed, case, anatomy, domain, shape), seed)
            for case, (domain, split) in enumerate(enrolled)
        ]
        kind = KINDS[anatomy]
        domains = {name: Domain(name, kind.looks[name].modality, Intensity("window", 0.0, 1000.0)) for name in patients}
        Cohort(folder, name or f"{anatomy}-phantom", domains, {1: kind.label}, disjoint_domains=True,
               licence="generated, free of rights", anatomy=anatomy, rows=tuple(rows)).save()  # fmt: skip
    return read_cohort(out)


def _write_patient(folder: Path, case: int, domain: str, split: str, crop: Crop, seed: int) -> Row:
    home, name = folder / f"p{case:03d}", f"p{case:03d}"
    home.mkdir()
    image, label = home / f"{domain}.nii.gz", home / "label.nii.gz"
    affine, _ = scanner(case, crop.image.shape, seed)
    save_volume(np.rint(500 * (crop.image + 1)).astype(np.int16), affine, case, image)
    save_volume(crop.label, affine, case, label)
    return Row(name, name, domain, image, label, split)
