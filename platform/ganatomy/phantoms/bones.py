"""Procedural radiographs of a long bone, some with a lesion whose box is known, and each one's twin without it.

A film is the shadow of a hollow shaft in soft tissue: cortex bright at its edges, textured marrow, dark spots that are
no lesions. A lesion is a dark disc with a bright rim inside the cortex. Body parts differ in how the shaft may lie and
in what lies over it. Nothing here is medical; what matters is that lesions are rare, small and placed where bone is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ganatomy.cohorts.cohort import SPLITS, Cohort, Domain, Row
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest
from ganatomy.images.intensities import Intensity
from ganatomy.phantoms.parts import Floats, appearing, grid, refuse_taken, smooth_field, stream

DOMAIN = "xray"
CLASSES = ("lesion", "normal")
LESION_RADII = (0.10, 0.17)
"""Of half the shorter side: 3 to 5.5 pixels on a film of 64."""


@dataclass(frozen=True)
class Part:
    """A body part. tilt: of the shaft, degrees either way.  clutter: bright bands that lie over the bone.
    training_lesions: how many films with a lesion there usually are to learn from."""

    tilt: float
    clutter: int
    training_lesions: int


PEOPLE = 10_000
"""Cases of a part begin at a multiple of this: nobody stands in two cohorts under one name, with one anatomy."""

PARTS = {"humerus": Part(15.0, 0, 24), "tibia": Part(40.0, 0, 20), "femur": Part(90.0, 2, 6)}


@dataclass(frozen=True)
class Film:
    """One radiograph. image: float32 [H, W] in [-1, 1], row 0 at the top.  box: (x0, y0, x1, y1) of the lesion, half
    open, in pixels of the image; None without one."""

    image: NDArray[np.float32]
    box: tuple[int, int, int, int] | None


def bone_film(seed: int, case: int, part: str, shape: tuple[int, int], *, lesion: bool, contrast: float = 1.0) -> Film:
    """Film number ``case`` of a body part, with or without its lesion; everything else is the same in both.

    shape: (H, W), sides of at least 32.  contrast: factor on what the lesion changes; at a half it is about as dark as
    the spots that are none.  InputError for an unknown part, a smaller film or a contrast that is none.
    """
    if not contrast > 0:
        raise InputError(f"contrast {contrast}", expected="a number > 0")
    if part not in PARTS:
        raise InputError(f"unknown body part {part!r}", expected=nearest(part, PARTS))
    if min(shape) < 32:
        raise InputError(f"a film of shape {shape}", expected="sides of at least 32 pixels")
    draws = stream(seed, case, "anatomy")
    x, y, _ = grid((1, *shape))[:, 0]
    along, across, width = _shaft(draws, x, y, PARTS[part].tilt)
    image = _shadow(draws, along, across, width)
    for centre, radius, depth in _spots(draws, width):
        image -= depth * np.exp(-(((along - centre[0]) ** 2 + (across - centre[1]) ** 2) / radius**2))
    for _ in range(PARTS[part].clutter):
        image += _band(draws, x, y)
    texture = smooth_field(stream(seed, case, "tissue"), (1, *shape), 0.02 * min(shape))[0]
    image += 0.06 * texture * (np.abs(across) < width)
    box = None
    if lesion:
        change, box = _lesion(stream(seed, case, "lesion"), along, across, width)
        image += contrast * change
    image = ndimage.gaussian_filter(image, 0.6, mode="nearest")
    image += 0.05 * stream(seed, case, "noise").standard_normal(shape)
    return Film(np.clip(image, -1, 1).astype(np.float32), box)


def _shaft(draws: np.random.Generator, x: Floats, y: Floats, tilt: float) -> tuple[Floats, Floats, Floats]:
    """Coordinates along and across a bent shaft, and its half width; in halves of the film's shorter side."""
    angle = np.deg2rad(draws.uniform(-tilt, tilt))
    shift, bend = draws.normal(0, 0.12, 2), draws.normal(0, 0.08)
    x, y = x - shift[0], y - shift[1]
    along, across = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
    width = draws.uniform(0.30, 0.40) * (1 + draws.uniform(0.0, 0.15) * along**2)
    return along, across - bend * along**2, width


def _shadow(draws: np.random.Generator, along: Floats, across: Floats, width: Floats) -> Floats:
    """What a hollow cylinder in soft tissue absorbs, from -1 (air) to about 0.8 (cortex seen edge on)."""

    def chord(radius: Floats) -> Floats:
        return np.sqrt(np.clip(radius**2 - across**2, 0, None))

    marrow = width * draws.uniform(0.62, 0.74)
    flesh = np.clip(1.6 - np.abs(across) / draws.uniform(0.75, 0.95), 0, 1)
    bone = 2.2 * (chord(width) - chord(marrow)) / width + 0.55 * chord(marrow) / width
    return -0.95 + 0.55 * np.sqrt(flesh) + 0.8 * bone + draws.normal(0, 0.03)


def _spots(draws: np.random.Generator, width: Floats) -> Iterator[tuple[tuple[float, float], float, float]]:
    """Dark spots without a rim, in the bone and beside it: (where, radius, depth)."""
    middle = float(width.min())
    for _ in range(draws.integers(2, 5)):
        where = (draws.uniform(-0.9, 0.9), draws.uniform(-1.1, 1.1) * middle)
        yield where, draws.uniform(0.04, 0.09), draws.uniform(0.2, 0.5)


def _band(draws: np.random.Generator, x: Floats, y: Floats) -> Floats:
    angle, offset = draws.uniform(0, np.pi), draws.uniform(-0.7, 0.7)
    distance = np.cos(angle) * x + np.sin(angle) * y - offset
    return draws.uniform(0.15, 0.3) / (1 + np.exp((np.abs(distance) - draws.uniform(0.08, 0.2)) / 0.03))


def _lesion(
    draws: np.random.Generator, along: Floats, across: Floats, width: Floats
) -> tuple[Floats, tuple[int, int, int, int]]:
    """What a lesion changes, nowhere but in its box: a dark disc of irregular outline, and its bright rim."""
    radius = draws.uniform(*LESION_RADII)
    reach = max(0.0, 0.7 * float(width.min()) - radius)
    centre = draws.uniform(-0.55, 0.55), draws.uniform(-reach, reach)
    du, dv = along - centre[0], across - centre[1]
    angle, phase = np.arctan2(dv, du), draws.uniform(0, 2 * np.pi, 2)
    outline = radius * (1 + 0.10 * np.cos(2 * angle + phase[0]) + 0.07 * np.cos(3 * angle + phase[1]))
    relative = np.hypot(du, dv) / outline
    inside = relative <= 1
    change = np.where(relative <= 0.75, -draws.uniform(0.55, 0.75), draws.uniform(0.30, 0.45)) * inside
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return change, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


# --- files -----------------------------------------------------------------------------------------------------------


def make_bone_cohort(
    out: Path | str,
    *,
    part: str = "humerus",
    patients: Mapping[str, Sequence[int]] | None = None,
    shape: tuple[int, int] = (64, 64),
    contrast: float = 1.0,
    seed: int = 0,
    oracle: Path | str | None = None,
    name: str = "",
) -> Cohort:
    """Write a cohort of radiographs (PNG, one a patient, one domain ``xray``) to the new folder ``out``; return it.

    patients: class (``lesion``, ``normal``) -> number of patients in (train, val, test); by default the part's usual
    number of training lesions, ten times as many normals, 20 and 100 for validation, 40 and 200 for the test.
    shape, contrast: as for ``bone_film``.  oracle: a new folder outside ``out``, for evaluation only: the twin without
    the lesion of every film with one, under the same name. Rows of films with a lesion have its box. InputError as
    ``bone_film``, where a folder is taken, and for counts that leave a class without a training patient.
    """
    folders = [Path(out).resolve()] + ([] if oracle is None else [Path(oracle).resolve()])
    lesions = PARTS[part].training_lesions if part in PARTS else 1
    patients = patients or {"lesion": (lesions, 20, 40), "normal": (10 * lesions, 100, 200)}
    for klass in CLASSES:
        counts = tuple(patients.get(klass, ()))
        if len(counts) != len(SPLITS) or min(counts) < 0 or counts[0] < 1:
            raise InputError(f"patients of class {klass}: {counts}", expected="train >= 1, val >= 0, test >= 0")
    if seed < 0:
        raise InputError(f"seed {seed}", expected="a whole number >= 0")
    for folder in folders:
        refuse_taken(folder)
    if len(folders) == 2 and (folders[1].is_relative_to(folders[0]) or folders[0].is_relative_to(folders[1])):
        raise InputError(f"oracle {folders[1]} and cohort {folders[0]}", expected="two separate folders")
    first = PEOPLE * list(PARTS).index(part) if part in PARTS else 0
    enrolled = [
        (klass, split) for klass in CLASSES for split, n in zip(SPLITS, patients[klass]) for _ in range(n)
    ]  # fmt: skip
    with appearing(folders[0]) as folder:
        rows = []
        for case, (klass, split) in enumerate(enrolled, start=first):
            film = bone_film(seed, case, part, shape, lesion=klass == "lesion", contrast=contrast)
            path = _save(film, folder / f"{_name(case)}.png")
            rows.append(Row(_name(case), _name(case), DOMAIN, path, split=split, box=film.box, klass=klass))
        domain = Domain(DOMAIN, "radiograph", Intensity("window", 0.0, 255.0))
        Cohort(folder, name or f"{part}-phantom", {DOMAIN: domain}, licence="generated, free of rights",
               anatomy=part, rows=tuple(rows)).save()  # fmt: skip
    for folder in folders[1:]:
        with appearing(folder) as twins:
            for case, (klass, _) in enumerate(enrolled, start=first):
                if klass == "lesion":
                    _save(bone_film(seed, case, part, shape, lesion=False), twins / f"{_name(case)}.png")
    return read_cohort(folders[0])


def _name(case: int) -> str:
    return f"p{case:04d}"


def _save(film: Film, path: Path) -> Path:
    Image.fromarray(np.rint((film.image + 1) * 127.5).astype(np.uint8)).save(path)
    return path
