"""What a fitted method makes of a cohort: synthetic images with the labels they carry, and how well those are found."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganatomy.contracts import InputError, Method
from ganatomy.experiment import Experiment, Score
from ganatomy.measures.segmentation import score_subject
from ganatomy.stages.donors import Donors, label_shown
from ganatomy.stages.drawing import Offers, centred, drawn_subjects, size_for
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import Pool
from ganatomy.stores.store import Store
from ganatomy.stores.writing import Item
from ganatomy.training.downstream import score_records, segment
from ganatomy.training.inference import synthesize_labelled
from ganatomy.training.pools import evaluation_images, generator_pool, held_out, label_pool, real_images

S_SCORE_SUBJECTS = 64
"""At most so many subjects are drawn for an S-score."""


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


@dataclass(frozen=True)
class MadeImage:
    """One image that a method made of a given one.

    claimed: the role it is taken for.  kind: as in ``contracts.Synthetic``.  image: float32 [D, H, W].
    label: class ids [D, H, W] of what it shows; None where that is not known.
    """

    given: Given
    claimed: str
    kind: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None


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


def made_images(
    method: Method,
    experiment: Experiment,
    store: Store,
    role: str,
    pool: Pool,
    donors: Mapping[str, Donors],
    device: torch.device,
) -> Iterator[MadeImage]:
    """All that the method makes of the images of ``pool``, given to it for ``role``."""
    for given in given_images(method, experiment, store, role, pool, donors):
        made = synthesize_labelled(method, given.image, role, experiment.sampling, label=given.label, device=device)
        for (claimed, kind), one in made.items():
            shown = label_shown(one, given.label, method, experiment, role, claimed)
            yield MadeImage(given, claimed, kind, one.image, shown)


def synthetic_items(
    method: Method, experiment: Experiment, store: Store, source: str, device: torch.device
) -> Iterator[Item]:
    """Every synthetic image of the target domain whose label is known: drawn from noise and labels of training images
    where the method can, else made of training images.

    source: what to name in the items as their maker.
    """
    if method.draws_from_noise:
        yield from drawn_items(method, experiment, store, source)
        return
    domain = experiment.target_domain()
    lo, hi = _usual_range(store, domain)
    donors = {role: Donors(label_pool(store, experiment, donor)) for role, donor in method.label_donors.items()}
    for role in method.roles:
        pool = generator_pool(store, experiment, role)
        for made in made_images(method, experiment, store, role, pool, donors, device):
            if experiment.domain(made.claimed) == domain and made.label is not None:  # a segmentor learns from labels
                name = f"{role}-{made.kind}" if _same_domain(experiment, method) else made.kind
                yield Item(
                    subject=made.given.subject(name),
                    patient=made.given.record.patient,
                    domain=domain,
                    split="train",
                    image=made.image,
                    label=made.label,
                    affine=made.given.affine(),
                    lo=lo,
                    hi=hi,
                    source=source,
                    kind=made.kind,
                    parents=(made.given.record.subject,),
                )


def drawn_items(method: Method, experiment: Experiment, store: Store, source: str) -> Iterator[Item]:
    """Images of the target domain drawn from noise, as many as ``experiment.drawing`` says.

    Each carries the patient whose label it shows a variation of; one that fails the method's own checks is no item.
    Raises InputError where all do.
    """
    domain, size = experiment.target_domain(), size_for(method, experiment.sampling.size)
    offers = Offers.of(label_pool(store, experiment, experiment.target), size)
    lo, hi = _usual_range(store, domain)
    count, number = offers.count(experiment.drawing), None
    for subject in drawn_subjects(method, offers.labels, count, experiment.seed):
        donor, number = offers.records[subject.donor], subject.number
        yield Item(
            subject=f"drawn-{number:05d}",
            patient=donor.patient,
            domain=domain,
            split="train",
            image=subject.images[experiment.target],
            label=subject.label,
            affine=centred(donor.affine, subject.label.shape),
            lo=lo,
            hi=hi,
            source=source,
            kind="drawn",
            parents=(donor.subject,),
            attributes={"number": number, **subject.figures},
        )
    if number is None:
        raise InputError(
            f"none of the images that {experiment.method.name} drew passed its own checks",
            expected="some: a closed outline, say, with the lesion inside",
            remedy="train the generator longer, or loosen the checks among its settings",
        )


def held_out_translations(
    method: Method, experiment: Experiment, store: Store, split: str, device: torch.device
) -> Iterator[MadeImage]:
    """Images of ``split``, which nobody learnt from, translated into the target domain."""
    for made in _made_of_held_out(method, experiment, store, split, device):
        if made.kind == "translated" and experiment.domain(made.claimed) == experiment.target_domain():
            yield made


def _made_of_held_out(
    method: Method, experiment: Experiment, store: Store, split: str, device: torch.device
) -> Iterator[MadeImage]:
    """All that is made of the images of ``split``."""
    pools = {role: held_out(store, experiment, role, split) for role in method.roles}
    # Training patients may donate too: a split of one patient has nobody else.
    donors = {
        role: Donors(pools[donor] + label_pool(store, experiment, donor)) for role, donor in method.label_donors.items()
    }
    for role, pool in pools.items():
        yield from made_images(method, experiment, store, role, pool, donors, device)


def score_synthesis(
    method: Method,
    experiment: Experiment,
    store: Store,
    judges: Mapping[str, nn.Module],
    split: str,
    device: torch.device,
) -> dict[str, dict[str, list[Score]]]:
    """Domain -> rows of its judge on ``real`` images of ``split`` and on ``synthetic`` ones.

    Those are translated into the domain or, where the method draws, drawn of labels of ``split``.
    """
    rows: dict[str, dict[str, list[Score]]] = {}
    for domain, judge in judges.items():
        images = evaluation_images(store, domain, split)
        rows[domain] = {"real": score_records(judge, store, images, experiment.sampling, device), "synthetic": []}
    if method.draws_from_noise:
        for domain, row in _drawn_scores(method, experiment, store, judges, split, device):
            rows[domain]["synthetic"].append(row)
        return {domain: both for domain, both in rows.items() if both["synthetic"]}
    for made in _made_of_held_out(method, experiment, store, split, device):
        domain, record = experiment.domain(made.claimed), made.given.record
        if made.kind == "translated" and domain in judges and made.label is not None and made.label.any():
            found = segment(judges[domain], made.image, experiment.sampling, device)
            who = record.subject, record.patient
            rows[domain]["synthetic"] += score_subject(found, made.label, store.spacing(record), store.labels, *who)
    return {domain: both for domain, both in rows.items() if both["synthetic"]}


def _drawn_scores(
    method: Method,
    experiment: Experiment,
    store: Store,
    judges: Mapping[str, nn.Module],
    split: str,
    device: torch.device,
) -> Iterator[tuple[str, Score]]:
    """(domain, row) of every image drawn of labels that the generator never saw, one subject a label."""
    pool, size = held_out(store, experiment, experiment.target, split), size_for(method, experiment.sampling.size)
    offers = Offers.of(pool, size)
    for subject in drawn_subjects(method, offers.labels, min(len(offers.labels), S_SCORE_SUBJECTS), experiment.seed):
        donor = offers.records[subject.donor]
        who = f"drawn-{subject.number:05d}", donor.patient
        for role, image in subject.images.items():
            domain = experiment.domain(role)
            if domain in judges:
                found = segment(judges[domain], image, experiment.sampling, device)
                for row in score_subject(found, subject.label, store.spacing(donor), store.labels, *who):
                    yield domain, row


def _usual_range(store: Store, domain: str) -> tuple[float, float]:
    """Native intensities that -1 and +1 usually stand for in real training images of ``domain``."""
    real = real_images(store, domain, "train")
    return statistics.median(image.lo for image in real), statistics.median(image.hi for image in real)


def _same_domain(experiment: Experiment, method: Method) -> bool:
    """Whether roles share a domain, so that the kind alone does not tell apart what is made of one subject."""
    return len({experiment.domain(role) for role in method.roles}) < len(method.roles)


def _part(volume: NDArray[Any], number: int | None) -> NDArray[Any]:
    return volume if number is None else volume[number : number + 1]
