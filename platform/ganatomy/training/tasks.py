"""What the training stages train: from an Experiment and the artefacts before it to one rank's loop.

Both classes here are plain picklable values that any worker, on any node that sees the workspace, turns into its loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ganatomy.contracts import InputError, Method, Phase, labelled
from ganatomy.evidence.panels import Column, panel, sheet, write_png
from ganatomy.experiment import Budget, Experiment, Sampling
from ganatomy.measures.segmentation import summarise
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Entry, Mixture, Pool, Sampler, label_subset
from ganatomy.stores.store import Store, open_store
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.downstream import ROLE, Segmentation, multiple_of, score_records, segment, task_of
from ganatomy.training.inference import synthesize_volume
from ganatomy.training.loop import Draws, Loop, Record

PANELS = "panels"
"""Folder of a training stage that holds one picture a report, ``<step>.png``."""

PANEL_SUBJECTS = 3
PANELS_A_STAGE = 4


# --- who may see what --------------------------------------------------------------------------------------------


def real_images(store: Store, domain: str, split: str) -> list[Image]:
    """Images of real patients: a cohort may hold synthetic ones too, which no arm may take for real."""
    return [image for image in store.records(domain, split) if not image.attributes.get("synthetic")]


def labelled_patients(store: Store, experiment: Experiment, role: str) -> frozenset[str]:
    """Training patients whose labels the pipeline may see: the label fraction applies to the target domain alone."""
    domain = experiment.domain(role)
    images = [image for image in real_images(store, domain, "train") if annotated(image, experiment)]
    patients = {image.patient for image in images}
    if domain != experiment.target_domain():
        return frozenset(patients)
    if not patients:
        raise InputError(
            f"cohort {store.name}: no labelled training image of domain {domain!r}",
            expected="at least one labelled patient in split train",
            remedy="choose another target domain, or label some",
        )
    return drawn_patients(images, patients, experiment.labels.fraction, experiment.seed)


def drawn_patients(images: Iterable[Image], patients: Collection[str], fraction: float, seed: int) -> frozenset[str]:
    """``label_subset`` of ``patients``, drawn by their places in the cohort: pseudonyms are others under another key.

    images: of all of them."""
    places: dict[str, tuple[int, int]] = {}
    for image in images:
        if image.patient in patients:
            places.setdefault(image.patient, (image.rank, image.index))
    chosen = label_subset(places.values(), fraction, seed)
    return frozenset(patient for patient, place in places.items() if place in chosen)


def annotated(image: Image, experiment: Experiment) -> bool:
    """Whether an image says what the downstream task asks of it: by a label or, to a classifier, by its class."""
    return image.labelled or (experiment.downstream.task == "classification" and bool(image.attributes.get("class")))


def generator_pool(store: Store, experiment: Experiment, role: str) -> Pool:
    """The images that a generator learns ``role`` from, in its state; labels only of ``labelled_patients``."""
    images = real_images(store, experiment.domain(role), "train")
    patients = labelled_patients(store, experiment, role)
    if experiment.domain(role) == experiment.target_domain() and experiment.labels.gan_sees == "subset":
        images = [image for image in images if image.patient in patients]
    pool = Pool.of(store, images, patients).in_state(experiment.state(role), experiment.sampling.ndim)
    if not len(pool):
        raise InputError(
            f"cohort {store.name}: no image for role {role} ({experiment.domains[role]}) in split train",
            expected="at least one" + (", or a slice of one, in that state" if experiment.state(role) else ""),
            remedy="choose another domain, or split the cohort anew",
        )
    return pool


def label_pool(store: Store, experiment: Experiment, role: str) -> Pool:
    """The images whose labels may be seen and that are in the state of ``role``: where its labels are drawn from."""
    return segmentor_pool(store, experiment, role).in_state(experiment.state(role), experiment.sampling.ndim)


def segmentor_pool(store: Store, experiment: Experiment, role: str) -> Pool:
    """The real labelled images that a segmentor of the domain of ``role`` learns from, in whatever state."""
    patients = labelled_patients(store, experiment, role)
    images = real_images(store, experiment.domain(role), "train")
    return Pool.of(store, [image for image in images if image.labelled and image.patient in patients])


def _supervision(store: Store, experiment: Experiment, pools: Mapping[str, Pool]) -> dict[str, Pool]:
    """Pools of labelled images for the roles whose own pools hold unlabelled ones too."""
    mixed = [role for role, pool in pools.items() if len({entry.labelled for entry in pool.entries}) == 2]
    return {labelled(role): segmentor_pool(store, experiment, role) for role in mixed}


def evaluation_images(store: Store, domain: str, split: str) -> list[Image]:
    """The labelled images of one split; InputError when they hold nothing to score."""
    images = [image for image in real_images(store, domain, split) if image.labelled]
    if not images:
        raise InputError(
            f"cohort {store.name}: no labelled {domain} image in split {split}",
            expected=f"at least one labelled patient in split {split}",
            remedy="split the cohort anew (ganatomy cohort import --split …)",
        )
    if not any(len(store.foreground(image)) for image in images):
        raise InputError(
            f"cohort {store.name}: no structure is labelled in any {domain} image of split {split}",
            expected="at least one, or there is nothing to score",
            remedy="split the cohort anew, or correct the labels",
        )
    return images


# --- building ----------------------------------------------------------------------------------------------------


def make_method(experiment: Experiment, classes: int) -> Method:
    """The experiment's method with freshly initialised networks, the same for the same seed."""
    torch.manual_seed(experiment.seed)
    return experiment.method_class()(experiment.method_config(), task_of(experiment, classes))


def make_segmentation(experiment: Experiment, classes: int) -> Segmentation:
    """The downstream model with freshly initialised weights, the same for the same seed."""
    torch.manual_seed(experiment.seed)
    return Segmentation(Segmentation.Config(), task_of(experiment, classes))


def _grown(sampling: Sampling, method: Method) -> Sampling:
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


def make_loop(
    experiment: Experiment,
    method: Method,
    draws: Draws,
    phases: Sequence[Phase],
    validate: Callable[[Method, int], Record],
    *,
    rank: int,
    world: int,
    device: torch.device,
) -> Loop:
    """One rank's loop, trained as the experiment's budget and training settings say."""
    return Loop(
        method,
        draws,
        phases,
        training=experiment.training,
        batch=experiment.budget.batch,
        reports=experiment.budget.validations,
        seed=experiment.seed,
        device=device,
        rank=rank,
        world=world,
        validate=validate,
    )


@dataclass(frozen=True)
class FitGenerator:
    """Builds the loop that trains the experiment's method.

    A method that trains segmentors has that of the target domain scored on validation patients at every report: in the
    ``joint`` arm it is the downstream model.
    """

    store: Path
    experiment: Experiment
    directory: Path

    def __call__(self, *, rank: int, world: int, device: torch.device) -> Loop:
        """One rank's loop."""
        store, experiment, budget = open_store(self.store), self.experiment, self.experiment.budget
        method = make_method(experiment, store.classes)
        phases = method.phases(budget.generator_steps, budget.segmentor_steps)
        pools = {role: generator_pool(store, experiment, role) for role in method.roles}
        if method.trains_segmentors:
            pools |= _supervision(store, experiment, pools)
        pools |= {key: label_pool(store, experiment, role) for key, role in method.second_draws.items()}
        return make_loop(
            experiment,
            method,
            Sampler(pools, _grown(experiment.sampling, method), budget.batch, experiment.seed),
            phases,
            self._validator(store, phases, device),
            rank=rank,
            world=world,
            device=device,
        )

    def _validator(
        self, store: Store, phases: Sequence[Phase], device: torch.device
    ) -> Callable[[Method, int], Record]:
        experiment = self.experiment
        roles = experiment.method_class().roles
        shown = {role: _shown(store, experiment, role) for role in roles}

        def validate(method: Method, step: int) -> Record:
            record: Record = {}
            if method.trains_segmentors:
                images = evaluation_images(store, experiment.target_domain(), "val")
                segmentor = method.segmentor(experiment.target)
                record = summarise(score_records(segmentor, store, images, experiment.sampling, device))
            if picture := picture_of(step, self.directory, phases, experiment.budget):
                _show_translations(method, shown, experiment, picture, device)
            return record

        return validate


@dataclass(frozen=True)
class TrainSegmentor:
    """Builds the loop that trains the downstream model of ``role`` on real images and, if given, synthetic ones.

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
        made = None
        if self.synthetic is not None:
            synthetic, kept = open_store(self.synthetic), set(self.kept)
            made = Pool.of(synthetic, [image for image in synthetic.records() if image.index in kept])
        real = segmentor_pool(store, experiment, self.role)
        mixture = Mixture(real, made, experiment.mixing, budget.segmentor_steps)
        method = make_segmentation(experiment, store.classes)
        phases = method.phases(0, budget.segmentor_steps)
        return make_loop(
            experiment,
            method,
            Sampler(
                {ROLE: mixture},
                _grown(experiment.sampling, method),
                budget.batch,
                experiment.seed,
                augment=self.augment,
            ),
            phases,
            self._validator(store, phases, device),
            rank=rank,
            world=world,
            device=device,
        )

    def _validator(
        self, store: Store, phases: Sequence[Phase], device: torch.device
    ) -> Callable[[Method, int], Record]:
        experiment = self.experiment
        images = evaluation_images(store, experiment.domain(self.role), "val")

        def validate(method: Method, step: int) -> Record:
            network = method.get_submodule("S")
            if picture := picture_of(step, self.directory, phases, experiment.budget):
                _show_segmentations(network, store, images[:PANEL_SUBJECTS], experiment, picture, device)
            return summarise(score_records(network, store, images, experiment.sampling, device))

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
    images = real_images(store, experiment.domain(role), "val")
    pool = Pool.of(store, images).in_state(experiment.state(role), experiment.sampling.ndim)
    return pool.entries[:PANEL_SUBJECTS]


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
                if kind == "translated" and method.trains_segmentors:
                    found = segment(method.segmentor(role), volume, experiment.sampling, device)
                    columns.append(Column("its segmentation", volume, found, truth))
            rows[f"{experiment.domains[source]} {image.subject}"] = columns
    first = next((entry for entries in shown.values() for entry in entries), None)
    if first is not None:
        write_picture(rows, first.store, first.record, experiment, path)


def _show_segmentations(
    network: nn.Module,
    store: Store,
    images: Sequence[Image],
    experiment: Experiment,
    path: Path,
    device: torch.device,
) -> None:
    """Real, expert label and prediction: a row a subject."""
    rows: dict[str, list[Column]] = {}
    for image in images:
        real, truth = store.image(image), store.label(image)
        found = segment(network, real, experiment.sampling, device)
        rows[image.subject] = [
            Column("real", real),
            Column("label", real, truth),
            Column("predicted", real, found, truth),
        ]
    write_picture(rows, store, next(iter(images), None), experiment, path)


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
