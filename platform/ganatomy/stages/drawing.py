"""What a method draws from noise: which labels it is given for it, and which of its images are used.

Labels are whole images in 3D and slices in 2D; either way only those with something labelled. Volumes here are
[D, H, W], a slice [1, H, W].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ganatomy.contracts import InputError, Method
from ganatomy.core.standstill import moved
from ganatomy.experiment import Drawing
from ganatomy.images.imaging import fitted
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import Pool
from ganatomy.training.inference import evaluating

TRIES = 4
"""So many times as many subjects as are asked for are drawn at most: some fail the method's own checks."""


@dataclass(frozen=True)
class Offers:
    """Labels that a method may draw from. labels: int64 [M, *S].  records: the image that each one is of."""

    labels: torch.Tensor
    records: tuple[Record, ...]

    @classmethod
    def of(cls, pool: Pool, size: Sequence[int]) -> Offers:
        """The labels of a pool, cropped or padded to ``size``. Raises InputError where nothing is labelled."""
        found = [
            (label, entry.record)
            for entry in pool.entries
            if entry.labelled
            for number, label in labels_in(entry.store.label(entry.record), size)
            if entry.slices is None or number is None or number in entry.slices
        ]
        if not found:
            raise InputError(
                "no label to draw images of: nothing is labelled in the images whose labels may be seen",
                expected="a label with something in it",
                remedy="label some, or raise labels.fraction",
            )
        return cls(stacked([label for label, _ in found]), tuple(record for _, record in found))

    def count(self, drawing: Drawing) -> int:
        """How many subjects to draw of them."""
        return max(drawing.at_least, math.ceil(drawing.per_label * len(self.labels)))


@dataclass(frozen=True)
class Subject:
    """One that was drawn.

    number: with the seed it says how to draw it again.  images: role -> float32 [D, H, W] in [-1, 1].
    label: uint8 [D, H, W].  outside: where nothing is shown, None where that is not known.  donor: index of the label
    that its own was made of.  figures: the method's, for the provenance.
    """

    number: int
    images: Mapping[str, NDArray[np.float32]]
    label: NDArray[np.uint8]
    outside: NDArray[np.bool_] | None
    donor: int
    figures: Mapping[str, float]


def drawn_subjects(
    method: Method, labels: torch.Tensor, count: int, seed: int, numbers: Iterator[int] | None = None
) -> Iterator[Subject]:
    """The first ``count`` subjects that pass the method's own checks; fewer where ``TRIES`` times as many hold no more.

    labels: int64 [M, *S].  numbers: of the subjects to try; 0, 1, 2 … by default.
    """
    made = 0
    for number in itertools.islice(numbers or itertools.count(), TRIES * count):
        subject = draw_one(method, labels, number, seed)
        if subject is not None:
            yield subject
            made += 1
        if made == count:
            return


def draw_one(method: Method, labels: torch.Tensor, number: int, seed: int) -> Subject | None:
    """Subject ``number`` of this seed; None where it does not pass the method's own checks."""
    with evaluating(method):
        drawn = method.draw(labels, (number,), seed)
    moved()
    if not drawn.accepted[0]:
        return None
    return Subject(
        number,
        {role: as_volume(image[0, 0].float().cpu().numpy()) for role, image in drawn.images.items()},
        as_volume(drawn.label[0].to(torch.uint8).cpu().numpy()),
        None if drawn.outside is None else as_volume(drawn.outside[0].cpu().numpy()),
        drawn.donors[0],
        {name: float(values[0]) for name, values in drawn.figures.items()},
    )


def labels_in(label: NDArray[np.uint8], size: Sequence[int]) -> Iterator[tuple[int | None, NDArray[np.uint8]]]:
    """What can be offered of one label [D, H, W], brought to ``size``.

    In 2D (number of the slice, [H, W]) for each slice with something labelled, in 3D (None, [D, H, W]). What the crop
    leaves empty is left out.
    """
    slices = range(len(label)) if len(size) == 2 else (None,)
    for number in slices:
        part = label if number is None else label[number]
        if part.any():
            part = fitted(part, size)
            if part.any():
                yield number, part


def stacked(labels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """int64 [M, *S]."""
    return torch.from_numpy(np.stack(labels).astype(np.int64))


def size_for(method: Method, size: Sequence[int]) -> tuple[int, ...]:
    """``size`` with each side raised to the next that the method takes."""
    return tuple(math.ceil(side / method.multiple_of) * method.multiple_of for side in size)


def centred(affine: Any, shape: Sequence[int]) -> NDArray[np.float64]:
    """Voxel (x, y, z) to millimetres with the axes and the spacing of ``affine``, the middle of [D, H, W] at 0.

    What was drawn lies nowhere in particular.
    """
    affine = np.array(affine, float)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return affine


def as_volume(image: NDArray[Any]) -> NDArray[Any]:
    """[*S] as [D, H, W]."""
    return image.reshape((1, *image.shape)[-3:])
