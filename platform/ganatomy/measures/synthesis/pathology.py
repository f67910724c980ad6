"""How healthy a pseudo-healthy image is, and how much it still is the image of the same person.

Xia et al., "Adversarial pseudo healthy synthesis needs pathology factorization", MIDL 2019, section 4.2. Volumes are
[D, H, W] (a 2D image is [1, H, W]) and images lie in [-1, 1]; the measures themselves are taken in the paper's [0, 1],
where the background is 0. Neither number means much alone: an empty image is perfectly healthy, an unchanged one
perfectly the same person. Nothing may be ranked by one without the other. Nor do both together tell a trained method
from everything that needs no training (``trivial``): beside them stands what such a rule reaches, and, where the truth
is known, how far from it an image is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ganatomy.contracts import InputError
from ganatomy.core.standstill import moved
from ganatomy.experiment import Score
from ganatomy.measures.segmentation import patient_scores

Volume = NDArray[Any]

WINDOW, SIGMA = 11, 1.5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales of MS-SSIM (Wang et al. 2003), finest first."""

# --- healthiness -------------------------------------------------------------------------------------------------


def healthiness(found: Iterable[Volume], truth: Iterable[Volume]) -> float:
    """h = 1 - mean N(f_pre(G(x))) / mean N(m): how much less pathology is found than there was.

    found: what the segmentor f_pre finds in the pseudo-healthy images, as probabilities or masks; N counts the voxels
    at ½ or more.  truth: the pathology masks of the images they were made from, in the same number.
    A ratio of means and not a mean of ratios; not clamped: below 0 there is more pathology than before. NaN when the
    truth is empty. An unchanged image has h = 0 only if f_pre errs as often on one side as on the other.
    """
    claimed, there = [_area(mask) for mask in found], [_area(mask) for mask in truth]
    if len(claimed) != len(there):
        raise ValueError(f"{len(claimed)} predictions for {len(there)} masks")
    return 1 - sum(claimed) / sum(there) if sum(there) else math.nan


def relative_healthiness(found: Iterable[Volume], found_before: Iterable[Volume]) -> float:
    """h_rel = 1 - Σ N(f_pre(G(x))) / Σ N(f_pre(x)): exactly 0 for an unchanged image, whatever f_pre's bias.

    found_before: what the same segmentor finds in the source images.
    """
    return healthiness(found, found_before)


def _area(mask: Volume) -> int:
    return int(np.count_nonzero(np.asarray(mask) >= 0.5))


# --- identity ----------------------------------------------------------------------------------------------------


def scales(sides: Sequence[int]) -> int:
    """Number of scales M of MS-SSIM for an image: the largest M <= 5 with min(sides) / 2^(M - 1) >= 11.

    The usual five need 176 pixels; the paper's own 208 x 160 images carry four. Raises InputError below 11 pixels.
    """
    smallest = min(sides)
    if smallest < WINDOW:
        raise InputError(
            f"MS-SSIM of an image with sides {tuple(sides)}",
            expected=f"sides of at least {WINDOW} pixels",
            remedy="measure larger images",
        )
    return max(m for m in range(1, len(WEIGHTS) + 1) if smallest / 2 ** (m - 1) >= WINDOW)


def ms_ssim(first: Volume, second: Volume, region: Volume | None = None) -> float:
    """Multi-scale structural similarity (Wang et al. 2003) of two 2D images in [0, 1], at most 1.

    first, second: [H, W].  region: boolean [H, W]; then the means over the image are means over the windows that are
    centred in it, at coarser scales weighted by how much of the voxel belongs to it. NaN if no window is.
    Gaussian window of 11 with sigma 1.5, K = (0.01, 0.03), data range 1; ``scales`` of them, whose exponents are the
    first of ``WEIGHTS`` brought to sum 1; negative means count as 0. In double precision.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"two [H, W] images of one shape, not {first.shape} and {second.shape}")
    levels = scales(first.shape)
    x, y = _tensor(first), _tensor(second)
    weight = torch.ones_like(x) if region is None else _tensor(region)
    total, value = sum(WEIGHTS[:levels]), 1.0
    for level, exponent in enumerate(WEIGHTS[:levels]):
        contrast, similarity = _similarities(x, y)
        centred = weight[..., WINDOW // 2 : -(WINDOW // 2), WINDOW // 2 : -(WINDOW // 2)]
        local = similarity if level == levels - 1 else contrast
        if not centred.any():
            return math.nan
        # From 1, so that equal images score exactly 1 whatever the weights sum up to.
        mean = 1 - float((centred * (1 - local)).sum() / centred.sum())
        value *= max(mean, 0.0) ** (exponent / total)
        x, y, weight = (functional.avg_pool2d(image, 2) for image in (x, y, weight))
    return value


def _tensor(image: Volume) -> Tensor:
    return torch.from_numpy(np.array(image, np.float64))[None, None]


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast-structure term and SSIM of every window that lies within the image."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def mean(image: Tensor) -> Tensor:
        rows = functional.conv2d(image, window.reshape(1, 1, -1, 1))
        return functional.conv2d(rows, window.reshape(1, 1, 1, -1))

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = mean(x), mean(y)
    variances = (mean(x * x) - mean_x**2) + (mean(y * y) - mean_y**2)  # so grouped, equal images give exactly 1
    contrast = (2 * (mean(x * y) - mean_x * mean_y) + c2) / (variances + c2)
    return contrast, contrast * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)


def identity(made: Volume, source: Volume, lesion: Volume) -> float:
    """MS-SSIM of (1 - m) x̃_h and (1 - m) x_p, the mean over the axial slices that hold pathology; NaN without any.

    made: the pseudo-healthy image x̃_h.  source: x_p.  lesion: m, boolean or class ids.  All [D, H, W].
    What is zeroed is alike by construction, in the lesion and in a black background: see ``identity_of_brain``.
    """
    return _mean(ms_ssim(*pair) for pair, _ in _slices(made, source, lesion, None))


def identity_of_brain(made: Volume, source: Volume, lesion: Volume, brain: Volume | None = None) -> float:
    """The same, counting only windows centred in the brain without the lesion.

    brain: boolean [D, H, W]; without it, where the source lies above the bottom of its range (skull-stripped images).
    """
    inside = np.asarray(source) > -1 if brain is None else np.asarray(brain, bool)
    return _mean(ms_ssim(*pair, region) for pair, region in _slices(made, source, lesion, inside))


def _slices(
    made: Volume, source: Volume, lesion: Volume, inside: Volume | None
) -> Iterable[tuple[tuple[Volume, Volume], Volume | None]]:
    """((1 - m) x̃_h, (1 - m) x_p) in [0, 1] and the region to count, for each axial slice with pathology."""
    if not made.shape == source.shape == lesion.shape or made.ndim != 3:
        raise ValueError(f"volumes [D, H, W] of one shape, not {made.shape}, {source.shape} and {lesion.shape}")
    for k in range(len(lesion)):
        healthy = np.asarray(lesion[k]) == 0
        if not healthy.all():
            pair = tuple(healthy * (np.asarray(volume[k], np.float64) + 1) / 2 for volume in (made, source))
            yield (pair[0], pair[1]), None if inside is None else inside[k] & healthy
            moved()


# --- error -------------------------------------------------------------------------------------------------------


def errors(made: Volume, twin: Volume, lesion: Volume, source: Volume) -> tuple[float, float]:
    """Mean |x̃_h - x_h| in [0, 1], inside the lesion and in the brain outside of it; NaN where there is no voxel.

    twin: x_h, the same image as it would be without the lesion.  lesion: m, boolean or class ids.  All [D, H, W].
    The brain is where the source or the twin lies above the bottom of its range. Where a lesion pushes tissue aside,
    the twin differs beyond it, and an unchanged image has an error outside.
    """
    apart = np.abs(np.asarray(made, np.float64) - twin) / 2
    inside = np.asarray(lesion) > 0
    around = ((np.asarray(source) > -1) | (np.asarray(twin) > -1)) & ~inside
    return _mean(apart[inside]), _mean(apart[around])


# --- from cases to numbers ---------------------------------------------------------------------------------------


MEASURED = ("synthesis/identity", "synthesis/identity_of_brain", "synthesis/error_inside", "synthesis/error_outside")
"""What a volume has of its own, beside its share of healthiness."""


@dataclass(frozen=True)
class PseudoHealthyCase:
    """One pathological volume and what was made of it; all [D, H, W].

    made, source: x̃_h and x_p in [-1, 1].  lesion: the true mask.  found, found_before: probabilities or masks by f_pre,
    trained on training volumes only, in ``made`` and in ``source``; None where there is no f_pre.
    twin: the source without its lesion, in [-1, 1]; None where nobody knows.
    """

    made: Volume
    source: Volume
    lesion: Volume
    found: Volume | None = None
    found_before: Volume | None = None
    twin: Volume | None = None


def summarise_pseudo_healthy(cases: Sequence[PseudoHealthyCase]) -> dict[str, float]:
    """Numbers to log, ``synthesis/healthiness`` and the like; what does not exist is left out.

    Healthiness is pooled over volumes, its ``_sd`` is that of the volumes' own h (the paper does not say what its ±
    is); identity is the mean over volumes. ``identity_scales``: of MS-SSIM, for the smallest volume. ``error_inside``
    and ``error_outside``, means over volumes likewise, where there are twins.
    """
    looked = [(c.found, c.found_before, c.lesion) for c in cases if c.found is not None and c.found_before is not None]
    numbers = {
        "healthiness": healthiness([found for found, _, _ in looked], [lesion for _, _, lesion in looked]),
        "healthiness_sd": _deviation(healthiness([found], [lesion]) for found, _, lesion in looked),
        "healthiness_relative": relative_healthiness([one[0] for one in looked], [one[1] for one in looked]),
    }
    for name, measure in (("identity", identity), ("identity_of_brain", identity_of_brain)):
        values = [measure(c.made, c.source, c.lesion) for c in cases]
        numbers |= {name: _mean(values), f"{name}_sd": _deviation(values)}
    wrong = [errors(c.made, c.twin, c.lesion, c.source) for c in cases if c.twin is not None]
    for name, own in zip(("error_inside", "error_outside"), zip(*wrong)):
        numbers |= {name: _mean(own), f"{name}_sd": _deviation(own)}
    if cases:
        numbers["identity_scales"] = float(min(scales(c.made.shape[1:]) for c in cases))
    return {f"synthesis/{name}": value for name, value in numbers.items() if not math.isnan(value)}


def areas(case: PseudoHealthyCase) -> dict[str, int]:
    """Voxels with pathology in one volume: ``lesion``, N(m), and ``found``, N(f_pre(G(x))): see ``healthiness``.
    Nothing where there is no f_pre."""
    if case.found is None:
        return {}
    return {"lesion": _area(case.lesion), "found": _area(case.found)}


def healing_rows(volumes: Iterable[Mapping[str, Any]]) -> list[Score]:
    """Rows ``synthesis/healthiness`` and those of ``MEASURED`` that there are, of each volume.

    volumes: subject, patient, role (what it is taken for), ``areas`` where f_pre looked, and the volume's numbers by
    name.
    A volume's healthiness is 1 - N(f_pre(G(x))) over the mean lesion of all patients, not over its own: so the mean
    over patients is the ratio of means that ``healthiness`` is, and a small lesion speaks for no more than it is.
    """
    volumes = list(volumes)
    lesions = [Score(one["subject"], one["patient"], "lesion", one["role"], one["areas"]["lesion"])
               for one in volumes if "areas" in one]  # fmt: skip
    usual = _mean(patient_scores(lesions, "lesion").values())
    rows = []
    for one in volumes:
        who = one["subject"], one["patient"]
        if "areas" in one and usual > 0:
            gone = 1 - one["areas"]["found"] / usual
            rows.append(Score(*who, "synthesis/healthiness", one["role"], gone))
        for metric in MEASURED:
            if metric in one:
                rows.append(Score(*who, metric, one["role"], one[metric]))
    return rows


def _mean(values: Iterable[float] | NDArray[np.float64]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _deviation(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.stdev(known) if len(known) > 1 else math.nan
