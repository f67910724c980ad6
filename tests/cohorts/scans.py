"""Small NIfTI files of noise with their labels, laid out as somebody might have them."""

from __future__ import annotations

import nibabel
import numpy as np


def write(path, seed=0, label=None, shape=(6, 5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if label is None:
        voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(np.int16)
    else:
        voxels = np.zeros(shape, np.uint8)
        for number, value in enumerate(label):
            voxels[number + 1] = value
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return path


def write_registered(folder):
    """Ten patients in t1 and flair on one grid, one label file for both, and a file that is neither."""
    for number in range(10):
        patient = folder / f"p{number}"
        write(patient / "t1.nii.gz", 2 * number)
        write(patient / "flair.nii.gz", 2 * number + 1)
        write(patient / "label.nii.gz", label=(1, 2, 4))
    (folder / "README.txt").write_text("about")
    return folder
