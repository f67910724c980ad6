"""What the training stages train: from an Experiment and the artefacts before it to one rank's loop.

Both classes here are plain picklable values that any worker, on any node that sees the workspace, turns into its loop.
What is peculiar to a downstream task is asked of ``models_of`` the experiment.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from ganatomy.contracts import InputError, Method, Phase
from ganatomy.downstream.segmentation import SEGMENTATION
from ganatomy.downstream.task import task_of as asked_of
from ganatomy.evidence.panels import Column, panel, sheet, write_png
from ganatomy.experiment import Budget, Experiment, Sampling
from ganatomy.measures.segmentation import patient_scores
from ganatomy.stores.augmentation import Augmentation, Augmented
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Entry, Sampler
from ganatomy.stores.store import Store, open_store
from ganatomy.stores.supervision import Supervised
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.downstream import fresh_segmentor, multiple_of, score_records, segment, task_of
from ganatomy.training.inference import synthesize_volume
from ganatomy.training.loop import GUIDE, GUIDE_BAR, LOSS, Draws, Loop, Record, Validate
from ganatomy.training.models import DownstreamModels, Some, models_of
from ganatomy.training.pools import evaluation_images, generator_pools, held_out, real_images, supervision

PANELS = "panels"
"""Folder of a training stage that holds one picture a report, ``<step>.png``."""

PANEL_SUBJECTS = 3
PANELS_A_STAGE = 4


# --- building ----------------------------------------------------------------------------------------------------


def make_method(experiment: Experiment, classes: int) -> Method:
    """The experiment's method with freshly initialised networks, the same for the same seed; with the settings of its
    lender where it is borrowed."""
    torch.manual_seed(experiment.seed)
    return experiment.method_class()(experiment.lent().method_config(), task_of(experiment, classes))


def augmentation_of(experiment: Experiment, store: Store) -> Augmentation | None:
    """What is done to the samples of the downstream model; None for nothing."""
    strength, share = experiment.downstream.augmentation, experiment.downstream.augmented
    return None if strength == "none" else Augmentation(strength, store.symmetric, share)


def phases_of(experiment: Experiment, classes: int) -> Sequence[Phase]:
    """The schedule of the experiment's method."""
    budget = experiment.budget
    return make_method(experiment.trained(), classes).phases(budget.generator_steps, budget.segmentor_steps)


def generator_updates(experiment: Experiment, classes: int) -> int:
    """All steps that the schedule of the experiment's method has, its early stop apart."""
    return sum(phase.steps for phase in phases_of(experiment, classes))


def epoch_updates(store: Store, experiment: Experiment, role: str) -> int:
    """Updates in which the downstream model of ``role`` goes through its real training samples (slices in 2D, else
    images) once, those of the class that has most; the same in every arm. 1 where nobody counts in epochs."""
    if not experiment.training.patience_epochs:
        return 1
    samples = [
        sum(len(entry.slices or range(*entry.record.content)) if experiment.sampling.ndim == 2 else 1
            for entry in mixture.real.entries)
        for mixture in models_of(experiment).mixtures(store, experiment, role, None).values()
    ]  # fmt: skip
    return max(1, math.ceil(max(samples) / experiment.budget.batch))


def grown(sampling: Sampling, method: Method) -> Sampling:
    """``sampling`` with each side raised to the next that all networks of ``method`` take: a little more is seen of the
    image, or of what pads it. Whole images are padded and cropped back (``inference``)."""
    multiple = math.lcm(*(multiple_of(network, method.multiple_of) for network in method.networks().values()))
    return replace(sampling, size=tuple(math.ceil(side / multiple) * multiple for side in sampling.size))


def load_networks(method: Method, directory: Path) -> Method:
    """``method`` with the weights that a finished training stage left, in evaluation mode."""
    weights, own = load_file(directory / NETWORKS), method.state_dict()
    known = {name for name in own if name.partition(".")[0] in method.networks()}  # replay pools are not kept
    misfits = known ^ weights.keys() or {name for name in known if own[name].shape != weights[name].shape}
    if misfits:
        raise InputError(
            f"{directory / NETWORKS} does not fit {type(method).__name__}: {sorted(misfits)[0]}",
            expected="the networks as they were when they were trained",
            remedy=f"remove {directory} to train them anew",
        )
    method.load_state_dict(weights, strict=False)
    return method.eval()


@dataclass(frozen=True)
class Recipe(ABC):
    """What any worker, on any node that sees the workspace, turns into its loop, trained as the experiment's budget and
    training settings say.

    store: folder of the images.  directory: of the stage, for its pictures.
    """

    store: Path
    experiment: Experiment
    directory: Path

    def __call__(self, *, rank: int, world: int, device: torch.device) -> Loop:
        """One rank's loop."""
        experiment, budget = self.experiment, self.experiment.budget
        course = self.course(open_store(self.store), device)
        return Loop(
            course.method,
            course.draws,
            course.phases,
            training=experiment.training,
            batch=budget.batch,
            reports=budget.validations,
            seed=experiment.seed,
            device=device,
            rank=rank,
            world=world,
            validate=course.validate,
            score=course.score,
            epoch=course.epoch,
            average=experiment.downstream.average,
        )

    @abstractmethod
    def course(self, store: Store, device: torch.device) -> Course:
        """What is trained, of the images of ``store``."""


@dataclass(frozen=True)
class Course:
    """A training: of what, on what, how long, and what is told of it. score, epoch: as ``Loop`` has them."""

    method: Method
    draws: Draws
    phases: Sequence[Phase]
    validate: Validate
    score: str
    epoch: int = 1


@dataclass(frozen=True)
class FitGenerator(Recipe):
    """Builds the loop that trains the experiment's method.

    A method that has segmentors has that of the target domain scored on validation patients at every report: in the
    ``joint`` arm it is the downstream model.
    """

    def course(self, store: Store, device: torch.device) -> Course:
        """The method's, on the images of all its roles."""
        experiment, budget = self.experiment, self.experiment.budget
        method = make_method(experiment, store.classes)
        if method.segments and (augment := augmentation_of(experiment, store)):
            method.task = replace(method.task, augment=augment)
        phases = method.phases(budget.generator_steps, budget.segmentor_steps)
        size, pools = grown(experiment.sampling, method), generator_pools(store, experiment, method)
        sampler = Sampler(pools, size, budget.batch, experiment.seed)
        draws: Draws = sampler
        if method.segments:
            if any(phase.bar for phase in phases):  # batches of segmentors are planned for whole phases
                raise ValueError(f"{type(method).__name__} has a phase with a bar beside segmentors")
            seen = supervision(store, experiment, method.roles, phases)
            draws = Supervised(sampler, Sampler(seen, size, budget.batch, experiment.seed), phases)
            same = fresh_segmentor(experiment, store.classes).S
            method.segmentor(experiment.target).load_state_dict(same.state_dict())
        whole = replace(experiment, mixing=replace(experiment.mixing, real=1.0))  # generators see all there are
        epoch = epoch_updates(store, whole, experiment.target) if method.trains_segmentors else 1
        return Course(method, draws, phases, self._validator(store, phases, device), SEGMENTATION.score, epoch)

    def _validator(self, store: Store, phases: Sequence[Phase], device: torch.device) -> Validate:
        experiment = self.experiment
        roles = experiment.method_class().roles
        shown = {role: _shown(store, experiment, role) for role in roles}

        def validate(method: Method, step: int) -> Record:
            record: Record = {}
            if method.segments:
                images = evaluation_images(store, experiment.target_domain(), "val")
                segmentor = method.segmentor(experiment.target)
                rows = score_records(segmentor, store, images, experiment.sampling, device)
                record = SEGMENTATION.summarise(rows)
                if experiment.training.waits_for == "loss":
                    models = models_of(experiment)
                    record[LOSS] = models.loss(segmentor, store, images, experiment.sampling, device)
            record |= guides_found(method, store, experiment, device)
            if picture := picture_of(step, self.directory, phases, experiment.budget):
                _show_translations(method, shown, experiment, picture, device)
            return record

        return validate


def guides_found(method: Method, store: Store, experiment: Experiment, device: torch.device) -> Record:
    """What the method's guides find on validation patients: ``guide/dice/<domain>``, a mean over patients of all
    structures, and ``guide/dice``, the mean over domains. Nothing of a domain in which nothing is labelled."""
    record: Record = {}
    for role, network in method.guides().items():
        images = [image for image in real_images(store, experiment.domain(role), "val") if image.labelled_slices]
        if own := patient_scores(score_records(network, store, images, experiment.sampling, device)):
            record[f"{GUIDE}/{experiment.domain(role)}"] = math.fsum(own.values()) / len(own)
    return record | ({GUIDE: math.fsum(record.values()) / len(record)} if record else {})


def guide_of(history: Sequence[Record]) -> tuple[float, float] | None:
    """What guides reached by the end of the phase that they learn in, and its bar; None where there was no such phase,
    or nothing to look at."""
    asked = [record for record in history if GUIDE_BAR in record and GUIDE in record]
    return (asked[-1][GUIDE], asked[-1][GUIDE_BAR]) if asked else None


@dataclass(frozen=True)
class TrainDownstream(Recipe):
    """Builds the loop that trains the downstream model of ``role`` on real images and, if given, synthetic ones.

    synthetic: a synthetic set (a store) and the indices of its kept images.
    scored: role of the domain that it is validated on, its own if "".
    """

    role: str
    synthetic: Path | None = None
    kept: tuple[int, ...] = ()
    scored: str = ""

    def course(self, store: Store, device: torch.device) -> Course:
        """The downstream task's, with the budget that every arm has."""
        experiment, models, made = self.experiment, models_of(self.experiment), self._synthetic()
        mixtures = models.mixtures(store, experiment, self.role, made)
        method = models.fresh(experiment, store.classes)
        phases = method.phases(0, experiment.budget.segmentor_steps)
        sampler, augment = models.sampler(mixtures, experiment, method), augmentation_of(experiment, store)
        draws = Augmented(sampler, augment) if augment else sampler
        validate = self._validator(models, store, made, phases, device)
        epoch = epoch_updates(store, experiment, self.role)
        return Course(method, draws, phases, validate, experiment.downstream.score, epoch)

    def _synthetic(self) -> Some | None:
        if self.synthetic is None:
            return None
        store, kept = open_store(self.synthetic), set(self.kept)
        return store, [image for image in store.records() if image.index in kept]

    def _validator(
        self, models: DownstreamModels, store: Store, made: Some | None, phases: Sequence[Phase], device: torch.device
    ) -> Validate:
        experiment, task = self.experiment, asked_of(self.experiment)
        images = models.scored_images(store, experiment.domain(self.scored or self.role), "val")

        def validate(method: Method, step: int) -> Record:
            network = method.get_submodule("S")
            if picture := picture_of(step, self.directory, phases, experiment.budget):
                rows = models.shown(network, (store, images), made, experiment.sampling, device)
                write_picture(rows, store, images[0], experiment, picture)
            record = task.summarise(models.score(network, store, images, experiment.sampling, device))
            if experiment.training.waits_for == "loss":
                record[LOSS] = models.loss(network, store, images, experiment.sampling, device)
            return record

        return validate


# --- pictures ----------------------------------------------------------------------------------------------------


def picture_of(step: int, directory: Path, phases: Sequence[Phase], budget: Budget) -> Path | None:
    """Where the picture of the report at ``step`` goes; a few reports of a stage, the last among them, have one."""
    total = sum(phase.steps for phase in phases)
    reports = math.ceil(step / max(1, math.ceil(total / budget.validations)))
    wanted = step == total or reports % max(1, budget.validations // PANELS_A_STAGE) == 0
    return directory / PANELS / f"{step:09d}.png" if wanted else None


def _shown(store: Store, experiment: Experiment, role: str) -> tuple[Entry, ...]:
    """A few validation images of ``role``."""
    return held_out(store, experiment, role, "val").entries[:PANEL_SUBJECTS]


def _show_translations(
    method: Method, shown: Mapping[str, Sequence[Entry]], experiment: Experiment, path: Path, device: torch.device
) -> None:
    """A row a subject: real, translated, reconstructed and, where the method segments, the fake's segmentation."""
    rows: dict[str, list[Column]] = {}
    for source, entries in shown.items():
        for entry in entries:
            image, store = entry.record, entry.store
            real = store.image(image)
            truth = store.label(image) if image.labelled else None
            if entry.slices is not None:  # one of the slices in the state of the role says it all
                middle = entry.slices[len(entry.slices) // 2]
                real = real[middle : middle + 1]
                truth = truth if truth is None else truth[middle : middle + 1]
            made = synthesize_volume(method, real, source, experiment.sampling, label=truth, device=device)
            columns = [Column("real", real, truth)]
            for (role, kind), volume in made.items():
                columns.append(Column(kind, volume))
                if kind == "translated" and method.segments:
                    found = segment(method.segmentor(role), volume, experiment.sampling, device)
                    columns.append(Column("its segmentation", volume, found, truth))
                if method.registered and (own := _counterpart(entry, experiment.domain(role))) is not None:
                    columns.append(Column("the real one", own))
            rows[f"{experiment.domains[source]} {image.subject}"] = columns
    first = next((entry for entries in shown.values() for entry in entries), None)
    if first is not None:
        write_picture(rows, first.store, first.record, experiment, path)


def _counterpart(entry: Entry, domain: str) -> NDArray[np.float32] | None:
    """The real image [D, H, W] of the same examination in ``domain``, or the slice of it that is shown."""
    own = entry.store.counterpart(entry.record, domain)
    if own is None:
        return None
    whole = entry.store.image(own)
    return whole if entry.slices is None else whole[(middle := entry.slices[len(entry.slices) // 2]) : middle + 1]


def write_picture(
    rows: Mapping[str, Sequence[Column]], store: Store, image: Image | None, experiment: Experiment, path: Path
) -> None:
    """All subjects by one axial cut each; in 3D the first of them by three orthogonal cuts."""
    if not rows or image is None:
        return
    spacing = store.spacing(image)
    if experiment.sampling.ndim == 2:
        write_png(path, sheet(rows, store.labels, spacing=spacing))
    else:
        name, columns = next(iter(rows.items()))
        write_png(path, panel(columns, store.labels, spacing=spacing, title=name))
