"""A classifier as the downstream model: which whole images show a lesion. Its training, prediction and evidence.

Both classes are drawn equally often, whatever their numbers: a batch holds as many lesions as normals. Every arm trains
the same network on the same budget; synthetic images join the class that they are meant to be of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ganatomy.contracts import Adam, Batch, InputError, Method, Update
from ganatomy.core.standstill import moved
from ganatomy.evidence.panels import Column
from ganatomy.experiment import Experiment, Sampling, Score, State
from ganatomy.images.imaging import in_plane
from ganatomy.measures.roc import LESION, NORMAL, PROBABILITY
from ganatomy.stores.amounts import in_proportion
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Mixture, Pool, Sampler, resized, slices_in
from ganatomy.stores.store import Store
from ganatomy.training.downstream import Alone, task_of
from ganatomy.training.models import DownstreamModels, Some
from ganatomy.training.optimisation import Diverged
from ganatomy.training.pools import labelled_patients, real_images
from ganatomy.training.tasks import PANEL_SUBJECTS

STATE: dict[str, State] = {NORMAL: "healthy", LESION: "lesion"}
"""Class -> the state of its images. The order is that of the logits."""

AT_ONCE = 16
LEAST = 1e-7
"""No probability counts as less in a loss: single precision rounds what is nearly certain."""


def class_of(image: Image) -> str:
    """``lesion`` or ``normal``, by its label or else by its class; "" where neither says."""
    return next((name for name in (LESION, NORMAL) if slices_in(image, STATE[name])), "")


class Classification(Alone):
    """A classifier S, trained by cross-entropy on as many lesions as normals.

    What of S may learn is the network's own affair: one with frozen stages gives their parameters no gradient.
    """

    @dataclass(frozen=True)
    class Config:
        """weight_decay: the paper is silent; that of the generator."""

        weight_decay: float = 1e-4

    roles: ClassVar[tuple[str, ...]] = tuple(STATE)
    config: Config

    def optimisers(self) -> dict[str, Adam]:
        """Adam with the usual betas."""
        return {"S": Adam(self.task.segmentor_rate, (0.9, 0.999), self.config.weight_decay)}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of S on the images of both classes."""
        image = torch.cat([batch[name].image for name in self.roles])
        truth = torch.cat([torch.full((len(batch[name]),), i) for i, name in enumerate(self.roles)]).to(image.device)
        with update("S") as minimise:
            loss = functional.cross_entropy(self.S(image), truth)
            minimise(loss)
        return {"classification": loss.detach()}


def make_classification(experiment: Experiment) -> Classification:
    """The classifier with freshly initialised weights, the same for the same seed."""
    torch.manual_seed(experiment.seed)
    return Classification(Classification.Config(), task_of(experiment, len(STATE)))


# --- prediction ----------------------------------------------------------------------------------------------------


def lesion_probabilities(
    network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
) -> Iterator[tuple[Image, float]]:
    """Every image with p(lesion | whole image) in [0, 1]. Raises Diverged for a probability that is no number."""
    network.eval()
    ahead = iter(images)
    lesion = list(STATE).index(LESION)
    while some := list(islice(ahead, AT_ONCE)):
        whole = np.stack([resized(store.image(image), sampling) for image in some])
        given = torch.from_numpy(whole if sampling.ndim == 2 else whole[:, None]).to(device)
        with torch.no_grad():
            found = network(given).float().softmax(dim=1)[:, lesion].tolist()
        moved()
        if not all(map(math.isfinite, found)):
            raise Diverged("what a classifier says of an image is no number")
        yield from zip(some, found, strict=True)


def score_classes(
    network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
) -> list[Score]:
    """A row a subject: its class as the label, p(lesion) as the value. Subjects and patients appear as pseudonyms."""
    rows = []
    for image, p in lesion_probabilities(network, store, images, sampling, device):
        who = image.subject, image.patient
        rows.append(Score(*who, PROBABILITY, class_of(image), p))
    return rows


def classified_images(store: Store, domain: str, split: str) -> list[Image]:
    """The real images of one split that have a class; InputError unless both classes are there."""
    images = [image for image in real_images(store, domain, split) if class_of(image)]
    for name in STATE:
        if not any(class_of(image) == name for image in images):
            raise InputError(
                f"cohort {store.name}: no {domain} image of class {name!r} in split {split}",
                expected="at least one of either class, lesion and normal (column class)",
                remedy="split the cohort anew, or fill in the classes",
            )
    return images


# --- the other half of the task ------------------------------------------------------------------------------------


class Classifiers(DownstreamModels):
    """``downstream.classification``: whole images, both classes equally often."""

    def annotated(self, image: Image) -> bool:
        """By a label, or by its class."""
        return image.labelled or bool(image.attributes.get("class"))

    def scored_images(self, store: Store, domain: str, split: str) -> list[Image]:
        """``classified_images``."""
        return classified_images(store, domain, split)

    def fresh(self, experiment: Experiment, classes: int) -> Classification:
        """``make_classification``, whatever classes the labels have."""
        return make_classification(experiment)

    def mixtures(self, store: Store, experiment: Experiment, role: str, synthetic: Some | None) -> dict[str, Mixture]:
        """Class -> real and synthetic images of it."""
        patients = labelled_patients(store, experiment, role)
        images = classified_images(store, experiment.domain(role), "train") if patients else []
        real = [image for image in images if image.patient in patients]
        steps, mixed = experiment.budget.segmentor_steps, {}
        for name in STATE:
            made = None if synthetic is None else Pool.of(synthetic[0], _of_class(synthetic[1], name))
            own = Pool.of(store, _of_class(real, name))
            mixing = in_proportion(experiment.mixing, len(own), len(made or ()))
            mixed[name] = Mixture(own, made, mixing, steps, not patients)
        return mixed

    def sampler(self, mixtures: Mapping[str, Mixture], experiment: Experiment, method: Method) -> Sampler:
        """Of whole images, brought to the size of a sample."""
        batch = experiment.budget.batch
        return Sampler(mixtures, experiment.sampling, batch, experiment.seed, whole=True)

    def score(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> list[Score]:
        """``score_classes``."""
        return score_classes(network, store, images, sampling, device)

    def loss(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> float:
        """Cross-entropy, a mean over the images of either class and then of both: they count alike, as in training."""
        found: dict[str, list[float]] = {name: [] for name in STATE}
        for image, p in lesion_probabilities(network, store, images, sampling, device):
            found[class_of(image)].append(-math.log(max(p if class_of(image) == LESION else 1 - p, LEAST)))
        return sum(math.fsum(some) / len(some) for some in found.values()) / len(found)

    def judge(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> dict[int, float]:
        """By the probability of the class that each is meant to be of."""
        found = lesion_probabilities(network, store, images, sampling, device)
        return {image.index: p if class_of(image) == LESION else 1 - p for image, p in found}

    def shown(
        self, network: nn.Module, real: Some, synthetic: Some | None, sampling: Sampling, device: torch.device
    ) -> dict[str, list[Column]]:
        """Real images of both classes, synthetic lesions, and what those were made of."""
        rows = _rows(*real, synthetic)
        return {name: list(_columns(network, *some, sampling, device)) for name, some in rows.items()}


CLASSIFIERS = Classifiers()


def _of_class(images: Sequence[Image], name: str) -> list[Image]:
    return [image for image in images if class_of(image) == name]


# --- pictures ------------------------------------------------------------------------------------------------------


def _rows(store: Store, images: Sequence[Image], synthetic: Some | None) -> dict[str, Some]:
    """Kind -> a few images and their store: real ones of both classes, synthetic lesions, what those were made of."""
    rows: dict[str, Some] = {
        f"real, {name}": (store, _of_class(images, name)[:PANEL_SUBJECTS]) for name in reversed(STATE)
    }
    if synthetic is not None and (lesions := _of_class(synthetic[1], LESION)):
        some = lesions[:: max(1, len(lesions) // PANEL_SUBJECTS)][:PANEL_SUBJECTS]
        origins = {(record.subject, record.domain): record for record in store.records()}
        rows["synthetic, lesion"] = synthetic[0], some
        rows["made of"] = store, [origins[parent, image.domain] for image in some for parent in image.parents[:1]]
    return rows


def _columns(
    network: nn.Module, store: Store, images: Sequence[Image], sampling: Sampling, device: torch.device
) -> Iterator[Column]:
    """Each image with its box or label, whose it is, and what the classifier takes it for."""
    for image, p in lesion_probabilities(network, store, images, sampling, device):
        box = image.attributes.get("box") if image.shape[0] == 1 else None
        label = store.label(image) if image.labelled else None
        who = image.parents[0] if image.parents else image.subject
        caption = f"{who}  p(lesion) = {p:.2f}"
        yield Column("", store.image(image), label, box=in_plane(box) if box else None, caption=caption)
