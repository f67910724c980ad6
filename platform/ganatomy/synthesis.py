"""What a fitted method makes of a cohort: synthetic images with the labels they carry, and how well those are found."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganatomy.contracts import Method
from ganatomy.downstream import score_records, segment
from ganatomy.experiment import Experiment, Score, pseudonym
from ganatomy.inference import Made, synthesize_labelled
from ganatomy.metrics import score_subject
from ganatomy.sampling import Pool
from ganatomy.store import Item, Record, Store
from ganatomy.training import evaluation_images, generator_pool, label_pool, real_images

TISSUE = -0.95
"""Image values above this are of the body, not of what lies around it."""

INSIDE = 0.95
"""Share of a donated label that must lie in the body of the image that it is given to."""

DONOR_TRIES = 50


@dataclass(frozen=True)
class Given:
    """An image as a method is given it: a whole one, or one slice of it in the state that its role asks for.

    image: float32 [D, H, W].  label: class ids [D, H, W], its own or a donor's; None for none.  number: of the slice;
    None for a whole image.
    """

    record: Record
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    number: int | None = None

    def subject(self, kind: str) -> str:
        """Name of what is made of it."""
        return f"{self.record.subject}-{kind}" + ("" if self.number is None else f"-{self.number}")

    def affine(self) -> NDArray[np.float64]:
        """Of the image's own grid."""
        affine = np.array(self.record.affine, float)
        affine[:3, 3] += affine[:3, 2] * (self.number or 0)
        return affine


class Donors:
    """Labels for images to be drawn into: each that of another patient, from about the same height of the body."""

    def __init__(self, pool: Pool) -> None:
        self.offers = [
            (entry, number, _height(entry.record, number or 0))
            for entry in pool.entries
            if entry.labelled
            for number in (entry.slices if entry.slices is not None else (None,))
        ]

    def label_for(self, record: Record, image: NDArray[np.float32], number: int | None) -> NDArray[np.uint8] | None:
        """A label [D, H, W] that fits into the body of ``image``, always the same one; None if there is none."""
        height = _height(record, number or 0)
        offers = [offer for offer in self.offers if offer[0].record.patient != record.patient]
        nearest = sorted(offers, key=lambda offer: abs(offer[2] - height))[:DONOR_TRIES]
        seed = hashlib.blake2b(f"{record.subject}\0{number}".encode(), digest_size=8).digest()
        order = np.random.default_rng(int.from_bytes(seed, "little")).permutation(len(nearest))
        for entry, slice_number, _ in (nearest[i] for i in order):
            label = _fitted(_part(entry.store.label(entry.record), slice_number), image.shape)
            voxels = label > 0
            if voxels.any() and (image[voxels] > TISSUE).mean() >= INSIDE:
                return label
        return None


def given_images(
    method: Method, experiment: Experiment, store: Store, role: str, pool: Pool, donors: Mapping[str, Donors]
) -> Iterator[Given]:
    """The images of ``pool`` as the method is given them for ``role``; those without a label it needs are left out."""
    for entry in pool.entries:
        whole = store.image(entry.record)
        for number in entry.slices if entry.slices is not None else (None,):
            image = _part(whole, number)
            if role in donors:
                label = donors[role].label_for(entry.record, image, number)
            else:
                label = _part(store.label(entry.record), number) if entry.labelled else None
            if label is not None:
                yield Given(entry.record, image, label, number)


def synthetic_items(
    method: Method, experiment: Experiment, store: Store, source: str, device: torch.device
) -> Iterator[Item]:
    """Every synthetic image of the target domain whose label is known, made of training images.

    source: what to name in the items as their maker.
    """
    domain = experiment.target_domain()
    real = real_images(store, domain, "train")
    lo, hi = (statistics.median(getattr(image, bound) for image in real) for bound in ("lo", "hi"))
    donors = {role: Donors(label_pool(store, experiment, donor)) for role, donor in method.label_donors.items()}
    for role in method.roles:
        pool = generator_pool(store, experiment, role)
        for given in given_images(method, experiment, store, role, pool, donors):
            for (claimed, kind), made in _made_of(method, given, role, experiment, device).items():
                shown = made.label_of(given.label)
                if experiment.domain(claimed) == domain and shown is not None:  # a segmentor learns from labels
                    yield Item(
                        subject=given.subject(f"{role}-{kind}" if _same_domain(experiment, method) else kind),
                        patient=given.record.patient,
                        domain=domain,
                        split="train",
                        image=made.image,
                        label=shown,
                        affine=given.affine(),
                        lo=lo,
                        hi=hi,
                        source=source,
                        kind=kind,
                        parents=(given.record.subject,),
                    )


def score_synthesis(
    method: Method,
    experiment: Experiment,
    store: Store,
    judges: Mapping[str, nn.Module],
    split: str,
    device: torch.device,
) -> dict[str, dict[str, list[Score]]]:
    """Domain -> rows of its judge on ``real`` images of ``split`` and on ``synthetic`` ones translated into it."""
    rows: dict[str, dict[str, list[Score]]] = {}
    for domain, judge in judges.items():
        images = evaluation_images(store, domain, split)
        rows[domain] = {"real": score_records(judge, store, images, experiment.sampling, device), "synthetic": []}
    pools = {role: _held_out(store, experiment, role, split) for role in method.roles}
    # Training patients may donate too: a split of one patient has nobody else.
    donors = {
        role: Donors(pools[donor] + label_pool(store, experiment, donor)) for role, donor in method.label_donors.items()
    }
    for role, pool in pools.items():
        for given in given_images(method, experiment, store, role, pool, donors):
            for (claimed, kind), made in _made_of(method, given, role, experiment, device).items():
                shown, domain = made.label_of(given.label), experiment.domain(claimed)
                if kind == "translated" and domain in judges and shown is not None and shown.any():
                    found = segment(judges[domain], made.image, experiment.sampling, device)
                    who = pseudonym(given.record.subject, store.name), pseudonym(given.record.patient, store.name)
                    rows[domain]["synthetic"] += score_subject(
                        found, shown, store.spacing(given.record), store.labels, *who
                    )
    return {domain: both for domain, both in rows.items() if both["synthetic"]}


def _held_out(store: Store, experiment: Experiment, role: str, split: str) -> Pool:
    images = real_images(store, experiment.domain(role), split)
    return Pool.of(store, images).in_state(experiment.state(role), experiment.sampling.ndim)


def _made_of(
    method: Method, given: Given, role: str, experiment: Experiment, device: torch.device
) -> dict[tuple[str, str], Made]:
    return synthesize_labelled(method, given.image, role, experiment.sampling, label=given.label, device=device)


def _same_domain(experiment: Experiment, method: Method) -> bool:
    """Whether roles share a domain, so that the kind alone does not tell apart what is made of one subject."""
    return len({experiment.domain(role) for role in method.roles}) < len(method.roles)


def _part(volume: NDArray[Any], number: int | None) -> NDArray[Any]:
    return volume if number is None else volume[number : number + 1]


def _height(record: Record, number: int) -> float:
    """Where in what is shown of the body a slice lies, 0 at its lower end and 1 at its upper."""
    first, end = record.content
    return (number - first) / max(1, end - 1 - first)


def _fitted(label: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    """``label`` cropped or padded evenly to ``shape``."""
    out = np.zeros(tuple(shape), np.uint8)
    into, taken = [], []
    for have, want in zip(label.shape, shape):
        side, gap = min(have, want), abs(have - want) // 2
        into.append(slice(gap, gap + side) if want > have else slice(0, side))
        taken.append(slice(gap, gap + side) if have > want else slice(0, side))
    out[tuple(into)] = label[tuple(taken)]
    return out
