"""What is measured, defined once: Dice, HD95, S-score, image distances to a known truth, nearest-neighbour distances.

Volumes are [D, H, W] (a 2D image is [1, H, W]); spacings are mm in that order. Scores stay rows, one a subject and
metric, until the very last moment: statistics need the rows.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ganatomy.core.standstill import moved
from ganatomy.experiment import Score

if TYPE_CHECKING:
    import torch

Volume = NDArray[Any]
K = TypeVar("K")

# --- segmentation ------------------------------------------------------------------------------------------------


def dice(predicted: Volume, truth: Volume) -> float:
    """Dice coefficient 2 |P and T| / (|P| + |T|) of two boolean masks of one shape.

    NaN where both are empty (there was nothing to find, and nothing was claimed); 0 where only one of them is.
    """
    _same_shape(predicted, truth)
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(predicted & truth)) / total if total else math.nan


def dice_per_label(predicted: Volume, truth: Volume, labels: Mapping[int, str]) -> dict[str, float]:
    """Dice of every structure of ``labels`` (class id -> name, no background) between two maps of class ids."""
    return {name: dice(predicted == index, truth == index) for index, name in labels.items()}


def hd95(predicted: Volume, truth: Volume, spacing: Sequence[float]) -> float:
    """95th percentile of the symmetric surface distance of two boolean masks, in mm.

    A distance to an empty mask does not exist, and leaving it out would reward the model that finds nothing: where
    exactly one mask is empty the value is ``diagonal``, which no two found structures can exceed. NaN where both are.
    """
    _same_shape(predicted, truth)
    found, there = bool(predicted.any()), bool(truth.any())
    if not (found and there):
        return diagonal(truth.shape, spacing) if found or there else math.nan
    from monai.metrics import compute_hausdorff_distance  # seconds to import, and the commands that need none are many

    # A slice kept as a volume one voxel thick is all surface to MONAI: every voxel touches the border. Measure it flat.
    axes = _flat_axes(truth.shape)
    with warnings.catch_warnings():  # MONAI calls a deprecated option of its own
        warnings.simplefilter("ignore", FutureWarning)
        distance = compute_hausdorff_distance(
            _flat(predicted), _flat(truth), include_background=True, percentile=95,
            spacing=[float(spacing[axis]) for axis in axes],
        )  # fmt: skip
    return float(distance)


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Distance in mm between the centres of the two farthest voxels of an image."""
    return math.dist([0.0] * len(shape), [(side - 1) * step for side, step in zip(shape, spacing)])


def score_subject(
    predicted: Volume,
    truth: Volume,
    spacing: Sequence[float],
    labels: Mapping[int, str],
    subject: str,
    patient: str,
) -> list[Score]:
    """Rows ``dice`` and ``hd95`` (mm) of every structure for one subject.

    predicted, truth: integers [D, H, W].  spacing: mm, same order.  labels: class id -> name, no background.
    A structure that is there and not found is ``missed``: Dice 0, HD95 the image diagonal. One that is not there and
    claimed all the same has the same values without being a miss. One that is neither is NaN.
    """
    rows = []
    for index, name in labels.items():
        claimed, there = predicted == index, truth == index
        missed = bool(there.any()) and not bool(claimed.any())
        rows.append(Score(subject, patient, "dice", name, dice(claimed, there), missed))
        rows.append(Score(subject, patient, "hd95", name, hd95(claimed, there, spacing), missed))
        moved()
    return rows


def label_index_dice(predicted: Volume, truth: Volume) -> float:
    """(2 Σab + ε) / (Σa² + Σb² + ε) on class *ids* as if they were intensities, ε = 1e-5, of each slice [H, W] of
    [D, H, W] by itself, 1 where both are empty; their mean.

    No Dice of classes: to call a 4 a 3 costs less than to call it a 1, and empty slices raise it. By all signs it is
    the score in the tables of Qu et al. 2019, and only for orderings beside those.
    """
    _same_shape(predicted, truth)
    found, there = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    overlap, total = (found * there).sum(axis=(1, 2)), (found**2 + there**2).sum(axis=(1, 2))
    return float(np.mean((2 * overlap + 1e-5) / (total + 1e-5)))


def label_index_mse(predicted: Volume, truth: Volume) -> float:
    """Mean squared difference of class *ids* as if they were intensities: beside ``label_index_dice`` in the same
    tables."""
    _same_shape(predicted, truth)
    return float(np.mean((np.asarray(predicted, np.float64) - truth) ** 2))


# --- from rows to numbers ----------------------------------------------------------------------------------------


def case_scores(scores: Iterable[Score], metric: str = "dice") -> dict[str, float]:
    """Subject -> mean of ``metric`` over the structures that count for it; subjects without any are left out."""
    return _means((score.subject, score.value) for score in scores if score.metric == metric)


def patient_scores(scores: Iterable[Score], metric: str = "dice") -> dict[str, float]:
    """Patient -> mean over the patient's subjects of their case scores: the unit that all statistics work on."""
    scores = list(scores)
    patients = {score.subject: score.patient for score in scores}
    return _means((patients[subject], value) for subject, value in case_scores(scores, metric).items())


def label_scores(scores: Iterable[Score], metric: str = "dice") -> dict[str, float]:
    """Structure -> mean of ``metric`` over the patients for whom it counts, each the mean of his subjects'."""
    own = _means(((score.label, score.patient), score.value) for score in scores if score.metric == metric)
    return _means((label, value) for (label, _), value in own.items())


def summarise(scores: Iterable[Score], split: str = "val") -> dict[str, float]:
    """Numbers to log: ``val/dice``, ``val/dice/<label>``, ``val/hd95``, ``val/missed``, ``val/worst``, ``val/best``.

    Dice and HD95 are means over patients of ``patient_scores``: one with four visits counts once. Worst and best are
    the extreme case Dice; missed counts the structures that no voxel was found of. What no row speaks of is left out
    rather than logged as NaN.
    """
    scores = list(scores)
    cases = case_scores(scores)
    distances = patient_scores(scores, "hd95")
    summary: dict[str, float] = {}
    if cases:
        values = list(cases.values())
        own = [*patient_scores(scores).values()]
        summary |= {f"{split}/dice": _mean(own), f"{split}/worst": min(values), f"{split}/best": max(values)}
        summary |= {f"{split}/dice/{name}": value for name, value in label_scores(scores).items()}
    if distances:
        summary[f"{split}/hd95"] = _mean(list(distances.values()))
    if scores:
        summary[f"{split}/missed"] = float(sum(score.missed for score in scores if score.metric == "dice"))
    return summary


def mean_over_patients(scores: Iterable[Score]) -> dict[str, float]:
    """Metric -> mean of ``patient_scores``, of every metric that the rows have."""
    scores = list(scores)
    own = {metric: patient_scores(scores, metric) for metric in dict.fromkeys(score.metric for score in scores)}
    return {metric: _mean(list(values.values())) for metric, values in own.items() if values}


def s_score_rows(synthetic: Iterable[Score], real: Iterable[Score], domain: str) -> list[Score]:
    """Rows ``synthesis/s_score/<domain>`` and, because it means little without it,
    ``synthesis/s_score_reference/<domain>``; the S-score itself is their ``mean_over_patients``.

    synthetic: rows of an independent segmentor, trained on real images of ``domain`` only and never updated by the
    method under test, on images synthesised into ``domain``, against the labels of what they were made from.
    real: rows of the same segmentor on real images of ``domain``. A reference below 0.8 flattens every comparison.
    Source: Zhang et al., CVPR 2018, section 5.2.
    """
    return [
        replace(row, metric=f"synthesis/{name}/{domain}")
        for name, rows in (("s_score", synthetic), ("s_score_reference", real))
        for row in rows
        if row.metric == "dice"
    ]


# --- images with a known counterpart (phantoms only) -------------------------------------------------------------


def l1(image: Volume, truth: Volume) -> float:
    """Mean absolute difference of two images in [-1, 1]."""
    _same_shape(image, truth)
    return float(np.mean(np.abs(np.asarray(image, np.float64) - truth)))


def psnr(image: Volume, truth: Volume, data_range: float = 2.0) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(range^2 / MSE); infinite for equal images."""
    _same_shape(image, truth)
    error = float(np.mean((np.asarray(image, np.float64) - truth) ** 2))
    return 10 * math.log10(data_range**2 / error) if error else math.inf


def ssim(image: Volume, truth: Volume, data_range: float = 2.0) -> float:
    """Structural similarity (Wang et al., 2004), Gaussian window 11 with sigma 1.5, K = (0.01, 0.03).

    A [1, H, W] image is measured in 2D. Where a side is shorter than 11 the window shrinks to the largest odd number
    that fits; sides shorter than 3 raise ValueError.
    """
    from monai.metrics.regression import compute_ssim_and_cs  # see hd95

    _same_shape(image, truth)
    sides = [truth.shape[axis] for axis in _flat_axes(truth.shape)]
    window = min(11, *(side - (side + 1) % 2 for side in sides))
    if window < 3:
        raise ValueError(f"SSIM needs sides of 3 voxels or more, these are {tuple(sides)}")
    values, _ = compute_ssim_and_cs(
        _flat(image).float(), _flat(truth).float(), spatial_dims=len(sides), kernel_size=[window] * len(sides),
        kernel_sigma=[1.5] * len(sides), data_range=data_range,
    )  # fmt: skip
    return float(values.mean())


# --- memorisation ------------------------------------------------------------------------------------------------


def nearest_distances(
    images: Sequence[Volume],
    patients: Sequence[str],
    reference: Sequence[Volume],
    reference_patients: Sequence[str],
    side: int = 16,
    *,
    own: bool = False,
) -> NDArray[np.float64]:
    """Distance of every image to the nearest reference image of *another* patient; of the same one where ``own``.

    images, reference: arrays [D, H, W] of any sizes.  patients: whose anatomy each shows; for a synthetic image the
    patient of its parent.  Returns n distances in [0, 2]: images are averaged down to at most ``side`` voxels a side,
    brought to mean 0 and norm 1, and compared by Euclidean distance, sqrt(2 - 2 r) with r their correlation, so that
    neither brightness nor contrast can hide a copy. NaN where the references hold no such patient.

    Sixteen voxels a side keep the anatomy that tells patients apart and average noise away, in which a copy could hide.
    Leaving out the same patient makes synthetic-to-real and real-to-real comparable: a faithful translation of a
    patient scanned in both domains is no copy of that scan, and a second visit is no evidence of variety.
    """
    import torch  # here and below: a table of scores is read without it

    grid = _common_grid([*images, *reference], side)
    first, second = _signatures(images, grid), _signatures(reference, grid)
    distances = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    same = torch.tensor([[mine == theirs for theirs in reference_patients] for mine in patients], dtype=torch.bool)
    left_out = ~same if own else same
    nearest = distances.masked_fill(left_out.reshape(distances.shape), math.inf).amin(1)
    return nearest.masked_fill(nearest.isinf(), math.nan).numpy()


def _common_grid(images: Sequence[Volume], side: int) -> tuple[int, int, int]:
    if not images:
        return (1, 1, 1)
    depth, height, width = (min(side, *(image.shape[axis] for image in images)) for axis in range(3))
    return depth, height, width


def _signatures(images: Sequence[Volume], grid: tuple[int, int, int]) -> torch.Tensor:
    """[n, prod(grid)] float64 rows of mean 0 and norm 1 (a constant image stays 0: it resembles nothing)."""
    import torch
    from torch.nn import functional

    rows = torch.empty(len(images), math.prod(grid), dtype=torch.float64)
    for row, image in zip(rows, images):
        small = functional.adaptive_avg_pool3d(torch.from_numpy(np.array(image, np.float64))[None, None], grid)
        row.copy_(small.flatten())
    return functional.normalize(rows - rows.mean(1, keepdim=True), dim=1, eps=1e-9)


# --- small things ------------------------------------------------------------------------------------------------


def _means(pairs: Iterable[tuple[K, float]]) -> dict[K, float]:
    groups: dict[K, list[float]] = defaultdict(list)
    for key, value in pairs:
        if not math.isnan(value):
            groups[key].append(value)
    return {key: _mean(values) for key, values in groups.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _flat_axes(shape: Sequence[int]) -> list[int]:
    """Axes of an image's true extent: those longer than one voxel, but never fewer than the last two."""
    return [axis for axis, side in enumerate(shape) if side > 1 or axis >= len(shape) - 2]


def _flat(image: Volume) -> torch.Tensor:
    """[1, 1, *S] with the axes of ``_flat_axes``; a copy, since a memory-mapped image may not be written to."""
    import torch

    sides = [image.shape[axis] for axis in _flat_axes(image.shape)]
    return torch.from_numpy(np.array(image, order="C").reshape(1, 1, *sides))


def _same_shape(first: Volume, second: Volume) -> None:
    if first.shape != second.shape:
        raise ValueError(f"images of different shapes: {first.shape} and {second.shape}")
