"""What the gate of memorisation is told: how near synthetic images come to training images, and real ones that nobody
trained on to the same.

A generator may be borrowed from another cohort. Then ``Stages.taught`` is where it learnt, and what it may repeat are
the images there; ``known`` is what patients of this cohort are called in that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from ganatomy.generators.reloading import drawn_arrays
from ganatomy.measures.roc import LESION
from ganatomy.measures.segmentation import nearest_distances
from ganatomy.promotion import gate
from ganatomy.promotion.gate import GateResult
from ganatomy.stages.drawing import Offers, as_volume, fitted, size_for
from ganatomy.stages.lesion_patches import rules_of
from ganatomy.stages.stages import PATCHES, SYNTHETIC, Stages
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import OUTSIDE, Pool
from ganatomy.stores.store import Store, open_store
from ganatomy.training.classification import class_of
from ganatomy.training.tasks import generator_pool, label_pool, real_images


def examine(stages: Stages, known: Mapping[str, str]) -> GateResult:
    """Are synthetic images closer to the real training images than real images that nobody trained on are?

    Every real image of a domain that it was trained on counts, in whatever state: what was made for a healthy slice
    may repeat one with a lesion. What is drawn from noise is drawn in every contrast, and each is looked at.
    The yardstick is the validation split of the sweep's cohort: training images compared with each other would make
    innocent generators fail where patients are few.
    """
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    if stages.experiment.method_class().on_patches:
        return _copied_lesions(stages, made, known)
    synthetic = [record for record in made.records() if record.kind in ("translated", "drawn")]
    sets = {stages.experiment.target_domain(): [made.image(record) for record in synthetic]}
    if stages.experiment.method_class().draws_from_noise:
        sets = _other_contrasts(stages, synthetic) | sets
    return gate.memorisation_of(
        {domain: partial(_copied, stages, known, domain, synthetic, images) for domain, images in sets.items()}
    )


def _copied(
    stages: Stages,
    known: Mapping[str, str],
    domain: str,
    synthetic: Sequence[Record],
    images: Sequence[np.ndarray],
    level: float,
) -> GateResult:
    taught, like = stages.taught(), _slice_of(images)
    (references, patients), (fresh, others) = (
        _shown(pool, like) for pool in (_trained(taught, domain), _fresh(stages.store, domain))
    )
    others = [known.get(patient, patient) for patient in others]
    owners = [known.get(record.patient, record.patient) for record in synthetic]
    # What is drawn shows a label of its patient but nobody's anatomy: it may resemble no training patient at all.
    apart = ["" if record.kind == "drawn" else owner for record, owner in zip(synthetic, owners)]
    return gate.memorisation(
        nearest_distances(images, apart, references, patients),
        owners,
        nearest_distances(fresh, others, references, patients),
        others,
        level,
    )


def _copied_lesions(stages: Stages, made: Store, known: Mapping[str, str]) -> GateResult:
    """The same of the patches with a lesion: a whole film is nearly all real, a copied lesion would drown in it."""
    rules, films = rules_of(stages.experiment), made.records()
    taught, held_out = (
        [(patches.image(record), record.patient) for record in patches.records(split=split)
         if class_of(record) == LESION]
        for owner, split in ((stages.taught(), "train"), (stages, "val"))
        for patches in [open_store(owner.patches().directory / PATCHES)]
    )  # fmt: skip
    pasted = [rules.cut(torch.from_numpy(made.image(film).copy()), film.attributes["window"]) for film in films]
    images = [patch.numpy() for patch in pasted]
    references, patients = [image for image, _ in taught], [patient for _, patient in taught]
    fresh = [image for image, _ in held_out]
    owners, others = (
        [known.get(patient, patient) for patient in some]
        for some in ([film.patient for film in films], [patient for _, patient in held_out])
    )
    return gate.memorisation(
        nearest_distances(images, owners, references, patients),
        owners,
        nearest_distances(fresh, others, references, patients),
        others,
    )


def _other_contrasts(stages: Stages, drawn: Sequence[Record]) -> dict[str, list[np.ndarray]]:
    """Domain -> the images of it that belong to the drawn ones of the target domain."""
    experiment, method = stages.experiment, stages.method(stages.fit())
    pool = label_pool(stages.store, experiment, experiment.target)
    labels = Offers.of(pool, size_for(method, experiment.sampling.size)).labels
    images: dict[str, list[np.ndarray]] = {}
    for record in drawn:
        arrays = drawn_arrays(method, labels, record.attributes["number"], experiment.seed)
        for role in method.roles:
            images.setdefault(experiment.domain(role), []).append(as_volume(arrays[role][0, 0]))
    return images


# --- what is compared --------------------------------------------------------------------------------------------


def _trained(taught: Stages, domain: str) -> Pool:
    """What a fit saw of a domain, in any of its roles."""
    roles = [role for role in taught.experiment.method_class().roles if taught.experiment.domain(role) == domain]
    return sum((generator_pool(taught.store, taught.experiment, role) for role in roles), Pool())


def _fresh(store: Store, domain: str) -> Pool:
    """Real images that nobody trained on."""
    return Pool.of(store, real_images(store, domain, "val"))


def _slice_of(images: Iterable[np.ndarray]) -> tuple[int, ...] | None:
    """[1, H, W] where all synthetic images are slices of that shape; None where they are whole images."""
    shapes = {image.shape for image in images}
    return next(iter(shapes)) if len(shapes) == 1 and all(shape[0] == 1 for shape in shapes) else None


def _shown(pool: Pool, like: tuple[int, ...] | None) -> tuple[list[np.ndarray], list[str]]:
    """The images of a pool and whose they are.

    like: [1, H, W] of what they are to be compared with; each slice that shows something is then an image of that size.
    """
    images: list[np.ndarray] = []
    patients: list[str] = []
    for entry in pool.entries:
        parts = [entry.store.image(entry.record)]
        if like is not None:
            numbers = entry.slices or range(*entry.record.content)
            parts = [fitted(parts[0][number : number + 1], like, OUTSIDE) for number in numbers]
        images += parts
        patients += [entry.record.patient] * len(parts)
    return images, patients
