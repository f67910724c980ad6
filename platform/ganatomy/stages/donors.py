"""Labels that are drawn into images of other patients: from about the same height of the body, and inside it."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ganatomy.contracts import TISSUE, Method
from ganatomy.experiment import Experiment
from ganatomy.images.imaging import fitted
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import Pool
from ganatomy.training.inference import Made

INSIDE = 0.95
"""Share of a donated label that must lie in the body of the image that it is given to."""

DONOR_TRIES = 50


class Donors:
    """Labels for images to be drawn into: each that of another patient, from about the same height of the body."""

    def __init__(self, pool: Pool) -> None:
        self.offers = [
            (entry, number, height_of(entry.record.content, number or 0))
            for entry in pool.entries
            if entry.labelled
            for number in (entry.slices if entry.slices is not None else (None,))
        ]

    def label_for(self, record: Record, image: NDArray[np.float32], number: int | None) -> NDArray[np.uint8] | None:
        """A label [D, H, W] that fits into the body of ``image``, always the same one; None if there is none.

        Which one depends on the image's place in its store: its name is another under another key."""
        height = height_of(record.content, number or 0)
        offers = [offer for offer in self.offers if offer[0].record.patient != record.patient]
        nearest = sorted(offers, key=lambda offer: abs(offer[2] - height))[:DONOR_TRIES]
        seed = hashlib.blake2b(f"{record.index}\0{number}".encode(), digest_size=8).digest()
        order = np.random.default_rng(int.from_bytes(seed, "little")).permutation(len(nearest))
        for entry, slice_number, _ in (nearest[i] for i in order):
            label = entry.store.label(entry.record)
            label = label if slice_number is None else label[slice_number : slice_number + 1]
            label = fitted(label, image.shape)
            if fits(label, image):
                return label
        return None


def label_shown(
    made: Made, label: NDArray[np.uint8] | None, method: Method, experiment: Experiment, role: str, claimed: str
) -> NDArray[np.uint8] | None:
    """The label of an image made of ``role``, where ``label`` was given, and taken for ``claimed``; None: not known.

    A donated label was drawn; one of its own an image shows only as long as it stays in its state.
    """
    into = experiment.state(claimed)
    return made.label_of(label, into if role in method.label_donors else experiment.state(role), into)


def fits(label: NDArray[np.uint8], image: NDArray[np.float32]) -> bool:
    """Whether ``label`` shows anything, and nearly all of it lies in the body of ``image``; both [D, H, W]."""
    voxels = label > 0
    return bool(voxels.any() and (image[voxels] > TISSUE).mean() >= INSIDE)


def height_of(shown: tuple[int, int], number: float) -> float:
    """Where a slice lies among those from ``shown[0]`` to before ``shown[1]``: 0 at the lowest, 1 at the highest."""
    first, end = shown
    return (number - first) / max(1, end - 1 - first)


def label_like(
    label: NDArray[np.uint8], image: NDArray[np.float32], chosen: NDArray[np.bool_], slicewise: bool
) -> NDArray[np.uint8]:
    """A donor's whole label brought into a whole image: [D, H, W] of the image, empty where not ``chosen`` [D].

    slicewise: each slice takes that of the donor at its height; otherwise the label is cropped or padded as a whole.
    """
    if not slicewise:
        return fitted(label, image.shape)
    out, shown = np.zeros(image.shape, np.uint8), shown_in(image)
    for number in map(int, np.flatnonzero(chosen)):
        theirs = round(min(max(height_of(shown, number), 0), 1) * (len(label) - 1))
        out[number] = fitted(label[theirs], image.shape[1:])
    return out


def shown_in(image: NDArray[np.float32]) -> tuple[int, int]:
    """First slice of an image [D, H, W] that shows something of the body, and the one after the last."""
    slices = np.flatnonzero((image > TISSUE).any(axis=(1, 2)))
    return (int(slices[0]), int(slices[-1]) + 1) if len(slices) else (0, len(image))
