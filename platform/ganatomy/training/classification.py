"""A classifier as the downstream model: which whole images show a lesion. Its training, prediction and evidence.

Both classes are drawn equally often, whatever their numbers: a batch holds as many lesions as normals. Every arm trains
the same network on the same budget; synthetic images join the class that they are meant to be of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ganatomy.contracts import Adam, Batch, InputError, Method, Phase, Synthetic, Task, Update
from ganatomy.core.standstill import moved
from ganatomy.evidence.panels import Column
from ganatomy.experiment import Experiment, Sampling, Score, State
from ganatomy.images.imaging import in_plane
from ganatomy.measures.segmentation import LESION, NORMAL, PROBABILITY, summarise
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Mixture, Pool, Sampler, resized, slices_in
from ganatomy.stores.store import Store, open_store
from ganatomy.training.downstream import DECAY_FRACTION, task_of
from ganatomy.training.loop import Loop, Record
from ganatomy.training.tasks import (
    PANEL_SUBJECTS,
    evaluation_images,
    labelled_patients,
    make_loop,
    picture_of,
    real_images,
    write_picture,
)

STATE: dict[str, State] = {NORMAL: "healthy", LESION: "lesion"}
"""Class -> the state of its images. The order is that of the logits."""

AT_ONCE = 16


def class_of(image: Image) -> str:
    """``lesion`` or ``normal``, by its label or else by its class; "" where neither says."""
    return next((name for name in (LESION, NORMAL) if slices_in(image, STATE[name])), "")


class Classification(Method):
    """A classifier S trained alone, by cross-entropy, on as many lesions as normals.

    What of S may learn is the network's own affair: one with frozen stages gives their parameters no gradient.
    """

    @dataclass(frozen=True)
    class Config:
        """weight_decay: the paper is silent; that of the generator."""

        weight_decay: float = 1e-4

    roles: ClassVar[tuple[str, ...]] = tuple(STATE)
    generators: ClassVar[tuple[str, ...]] = ()
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.S = task.segmentor()

    def optimisers(self) -> dict[str, Adam]:
        """Adam with the usual betas."""
        return {"S": Adam(self.task.segmentor_rate, (0.9, 0.999), self.config.weight_decay)}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """Constant, then linear decay over the last quarter, as for a segmentor."""
        decay = round(segmentor_steps * DECAY_FRACTION)
        return Phase("constant", segmentor_steps - decay), Phase("decay", decay, decay=True)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of S on the images of both classes."""
        image = torch.cat([batch[name].image for name in self.roles])
        truth = torch.cat([torch.full((len(batch[name]),), i) for i, name in enumerate(self.roles)]).to(image.device)
        with update("S") as minimise:
            loss = functional.cross_entropy(self.S(image), truth)
            minimise(loss)
        return {"classification": loss.detach()}

    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """A classifier makes no images."""
        return []


def make_classification(experiment: Experiment) -> Classification:
    """The classifier with freshly initialised weights, the same for the same seed."""
    torch.manual_seed(experiment.seed)
    return Classification(Classification.Config(), task_of(experiment, len(STATE)))


# --- prediction ----------------------------------------------------------------------------------------------------


def lesion_probabilities(
    network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
) -> Iterator[tuple[Image, float]]:
    """Every image with p(lesion | whole image) in [0, 1]."""
    network.eval()
    ahead = iter(images)
    lesion = list(STATE).index(LESION)
    while some := list(islice(ahead, AT_ONCE)):
        whole = np.stack([resized(store.image(image), sampling) for image in some])
        given = torch.from_numpy(whole if sampling.ndim == 2 else whole[:, None]).to(device)
        with torch.no_grad():
            found = network(given).float().softmax(dim=1)[:, lesion].tolist()
        moved()
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


def scored_images(store: Store, experiment: Experiment, split: str) -> list[Image]:
    """The images of the target domain that the downstream model is scored on: those with a label, or with a class."""
    choose = classified_images if experiment.downstream.task == "classification" else evaluation_images
    return choose(store, experiment.target_domain(), split)


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainClassifier:
    """Builds the loop that trains the classifier of the target domain on real images and, if given, synthetic ones.

    synthetic: a synthetic set (a store) and the indices of its kept images.  augment: ordinary augmentation.
    """

    store: Path
    experiment: Experiment
    directory: Path
    role: str
    synthetic: Path | None = None
    kept: tuple[int, ...] = ()
    augment: bool = False

    def __call__(self, *, rank: int, world: int, device: torch.device) -> Loop:
        """One rank's loop."""
        store, experiment, budget = open_store(self.store), self.experiment, self.experiment.budget
        method = make_classification(experiment)
        mixtures = {name: self._mixture(store, name) for name in STATE}
        phases = method.phases(0, budget.segmentor_steps)
        return make_loop(
            experiment,
            method,
            Sampler(mixtures, experiment.sampling, budget.batch, experiment.seed, augment=self.augment, whole=True),
            phases,
            self._validator(store, mixtures[LESION].synthetic, phases, device),
            rank=rank,
            world=world,
            device=device,
        )

    def _mixture(self, store: Store, name: str) -> Mixture:
        """Real and synthetic images of one class."""
        experiment, made = self.experiment, None
        patients = labelled_patients(store, experiment, self.role)
        images = classified_images(store, experiment.domain(self.role), "train")
        real = [image for image in images if image.patient in patients]
        if self.synthetic is not None:
            synthetic, kept = open_store(self.synthetic), set(self.kept)
            made = Pool.of(synthetic, _of_class(synthetic.records(), name, kept))
        steps = experiment.budget.segmentor_steps
        return Mixture(Pool.of(store, _of_class(real, name)), made, experiment.mixing, steps)

    def _validator(
        self, store: Store, made: Pool | None, phases: Sequence[Phase], device: torch.device
    ) -> Callable[[Method, int], Record]:
        experiment = self.experiment
        images = classified_images(store, experiment.domain(self.role), "val")
        shown = _shown(store, images, made)

        def validate(method: Method, step: int) -> Record:
            network = method.get_submodule("S")
            if picture := picture_of(step, self.directory, phases, experiment.budget):
                rows = {name: list(_columns(network, *some, experiment, device)) for name, some in shown.items()}
                write_picture(rows, store, images[0], experiment, picture)
            return summarise(score_classes(network, store, images, experiment.sampling, device))

        return validate


def _of_class(images: Sequence[Image], name: str, kept: set[int] | None = None) -> list[Image]:
    return [image for image in images if class_of(image) == name and (kept is None or image.index in kept)]


# --- pictures ------------------------------------------------------------------------------------------------------


def _shown(store: Store, images: Sequence[Image], made: Pool | None) -> dict[str, tuple[Store, list[Image]]]:
    """Kind -> a few images and their store: real ones of both classes, synthetic lesions, what those were made of."""
    shown = {f"real, {name}": (store, _of_class(images, name)[:PANEL_SUBJECTS]) for name in reversed(STATE)}
    if made is not None and len(made):
        entries = made.entries[:: max(1, len(made) // PANEL_SUBJECTS)][:PANEL_SUBJECTS]
        origins = {(record.subject, record.domain): record for record in store.records()}
        sources = [origins[parent, entry.record.domain] for entry in entries for parent in entry.record.parents[:1]]
        shown["synthetic, lesion"] = entries[0].store, [entry.record for entry in entries]
        shown["made of"] = store, sources
    return shown


def _columns(
    network: nn.Module, store: Store, images: Sequence[Image], experiment: Experiment, device: torch.device
) -> Iterator[Column]:
    """Each image with its box or label, whose it is, and what the classifier takes it for."""
    for image, p in lesion_probabilities(network, store, images, experiment.sampling, device):
        box = image.attributes.get("box") if image.shape[0] == 1 else None
        label = store.label(image) if image.labelled else None
        who = image.parents[0] if image.parents else image.subject
        caption = f"{who}  p(lesion) = {p:.2f}"
        yield Column("", store.image(image), label, box=in_plane(box) if box else None, caption=caption)
