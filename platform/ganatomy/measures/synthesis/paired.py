"""How near a translated image comes to the real image of the same patient, inside the body.

For registered cohorts alone. Volumes are [D, H, W] (a 2D image is [1, H, W]) in [-1, 1]. A smooth image does well in
these measures: they rank regression above a GAN whose images look more real (Blau & Michaeli, CVPR 2018), and say
nothing of what a segmentor learns from either.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ganatomy.contracts import body
from ganatomy.core.standstill import moved
from ganatomy.experiment import Score
from ganatomy.measures.synthesis.pathology import WINDOW, ms_ssim

Volume = NDArray[Any]

RANGE = 2.0
"""Of values from -1 to 1."""


@dataclass(frozen=True)
class PairedCase:
    """One translated volume and the real one of the same examination; all [D, H, W] in [-1, 1].

    source: what was translated; with the real one it says what is body (``contracts.body``), the translated one does
    not.  native: units of the real image that a whole step from -1 to 1 stands for, Hounsfield units where the domain
    is CT; NaN where its units mean nothing.
    """

    made: Volume
    real: Volume
    source: Volume
    native: float = math.nan

    def inside(self) -> NDArray[np.bool_]:
        """The body, boolean [D, H, W]."""
        images = (torch.from_numpy(np.array(image, np.float32)) for image in (self.source, self.real))
        return body(*images).numpy()


def mean_absolute_error(made: Volume, real: Volume, inside: Volume) -> float:
    """MAE over the voxels ``inside``, in the units of the images; NaN without any."""
    apart = np.abs(np.asarray(made, np.float64) - real)[np.asarray(inside, bool)]
    return float(apart.mean()) if apart.size else math.nan


def peak_signal_to_noise(made: Volume, real: Volume, inside: Volume) -> float:
    """PSNR in dB over the voxels ``inside``: 10 log10(4 / MSE) for values in [-1, 1]; NaN without any, or where both
    are equal."""
    apart = (np.asarray(made, np.float64) - real)[np.asarray(inside, bool)]
    error = float((apart**2).mean()) if apart.size else 0.0
    return 10 * math.log10(RANGE**2 / error) if error else math.nan


def structural_similarity(made: Volume, real: Volume, inside: Volume) -> float:
    """MS-SSIM (``pathology.ms_ssim``) over windows centred ``inside``: the mean over the axial slices that have any;
    NaN without one, and for sides below the window's 11 voxels."""
    values = []
    for k in range(len(real)) if min(real.shape[1:]) >= WINDOW else ():
        if np.asarray(inside[k]).any():
            first, second = ((np.asarray(volume[k], np.float64) + 1) / 2 for volume in (made, real))
            values.append(ms_ssim(first, second, inside[k]))
            moved()
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def measures_of(case: PairedCase) -> dict[str, float]:
    """``mae`` in [0, 2], ``mae_hu`` where the volume has such units, ``psnr`` and ``ms_ssim``; what does not exist is
    left out."""
    inside = case.inside()
    error = mean_absolute_error(case.made, case.real, inside)
    found = {
        "mae": error,
        "mae_hu": error * case.native / RANGE,
        "psnr": peak_signal_to_noise(case.made, case.real, inside),
        "ms_ssim": structural_similarity(case.made, case.real, inside),
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def paired_rows(volumes: Iterable[Mapping[str, Any]]) -> list[Score]:
    """Rows ``synthesis/mae``, ``synthesis/psnr`` … of each volume.

    volumes: subject, patient, domain (what it was translated into), and ``measures_of`` it.
    """
    return [
        Score(one["subject"], one["patient"], f"synthesis/{name}", one["domain"], value)
        for one in volumes
        for name, value in one["measures"].items()
    ]
