"""The images of a cohort as a torch Dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from ganatomy.cohorts.cohort import SPLITS, Cohort, Row, prepare_image
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import UNLABELLED, InputError
from ganatomy.core.plugins import nearest

Transform = Callable[[dict[str, Any]], Any]


class ImageDataset(Dataset[Any]):
    """Images of a cohort as dictionaries, prepared by its rules when they are asked for.

    ``image``: float32 [1, D, H, W] in [-1, 1] (D upwards, H from posterior to anterior, W from left to right), of a
    film [1, H, W].  ``label``: int64 of the same shape, class ids 0 to C, or UNLABELLED (-1) throughout for an image
    without one; not there where none of the images has one. Both are MONAI MetaTensors that know their affine (4 x 4,
    from voxel (d, h, w) to RAS mm), so that spatial transforms and writers of MONAI are right in mm.
    ``patient``, ``subject``, ``domain``, ``split``, ``class``: text.  ``synthetic``: bool.

    Sizes are those of the cohort's geometry (``size`` of cohort.yaml makes them equal), spacing likewise.
    """

    def __init__(self, cohort: Cohort, rows: Sequence[Row], transform: Transform | None = None) -> None:
        self.cohort, self.rows, self.transform = cohort, tuple(rows), transform
        self._labelled = any(row.label is not None for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """The dictionary, or what ``transform`` makes of it. InputError naming the file where it cannot be used."""
        from monai.data import MetaTensor

        row = self.rows[index]
        prepared = prepare_image(row, self.cohort)
        # The affine is of (w, h, d); the first axes of the array come last in it.
        affine = torch.from_numpy(np.asarray(prepared.affine, np.float64)[:, [2, 1, 0, 3]].copy())
        image, label = prepared.image, prepared.label
        flat = prepared.native_shape[2] == 1 and image.shape[0] == 1

        def tensor(array: np.ndarray, kind: torch.dtype) -> Any:
            made = torch.from_numpy(np.ascontiguousarray(array)).to(kind)
            return MetaTensor(made if flat else made[None], affine=affine.clone())

        item: dict[str, Any] = {"image": tensor(image, torch.float32)}
        if self._labelled:
            item["label"] = tensor(np.full(image.shape, UNLABELLED) if label is None else label, torch.int64)
        about = {"patient": row.patient, "subject": row.subject, "domain": row.domain, "split": row.split}
        item |= {**about, "class": row.klass, "synthetic": row.synthetic}
        return item if self.transform is None else self.transform(item)

    def __repr__(self) -> str:
        return f"ImageDataset({self.cohort.name!r}, {len(self)} images)"


def dataset(
    cohort: Cohort | Path | str,
    split: Literal["train", "val", "test"] | None = None,
    *,
    domain: str | None = None,
    labelled: bool = False,
    transform: Transform | None = None,
) -> ImageDataset:
    """The images of a cohort, real or synthetic, ready for MONAI's transforms and a DataLoader: see ``ImageDataset``.

    cohort: as ``read_cohort`` or ``Generated.cohort`` gives it, or its folder.  split, domain: only these; synthetic
    images have the split of the patient that they were made from.  labelled: only those with a label.
    transform: is given each dictionary. Raises InputError where nothing is left.
    """
    found = read_cohort(cohort) if isinstance(cohort, Path | str) else cohort
    for what, name, known in (("split", split, SPLITS), ("domain", domain, found.domains)):
        if name is not None and name not in known:
            raise InputError(f"unknown {what} {name!r} of cohort {found.name}", expected=nearest(name, known))
    rows = [row for row in found.rows_of(domain, split) if row.label is not None or not labelled]
    if not rows:
        asked = ", ".join(filter(None, (split, domain, "labelled" if labelled else "")))
        raise InputError(f"cohort {found.name} has no image" + (f" that is {asked}" if asked else ""))
    return ImageDataset(found, rows, transform)
