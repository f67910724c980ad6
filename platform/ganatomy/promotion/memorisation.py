"""What the gate of memorisation is told: how near synthetic images come to training images, and real ones that nobody
trained on to the same; and whether they repeat any that was moved, mirrored, recoloured or cut (`images.copies`).

A generator may be borrowed from another cohort. Then ``Stages.taught`` is where it learnt, and what it may repeat are
the images there; ``known`` is what patients of this cohort are called in that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from ganatomy.generators.reloading import drawn_arrays
from ganatomy.images.copies import Album, Match
from ganatomy.images.imaging import fitted
from ganatomy.measures.roc import LESION
from ganatomy.measures.segmentation import nearest_distances
from ganatomy.promotion import gate
from ganatomy.promotion.gate import GateResult
from ganatomy.promotion.resemblance import Own, Resemblance
from ganatomy.stages.drawing import Offers, as_volume, size_for
from ganatomy.stages.lesion_patches import rules_of
from ganatomy.stages.stages import PATCHES, SYNTHETIC, Stages
from ganatomy.stages.synthesis import held_out_translations
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import OUTSIDE, Pool
from ganatomy.stores.store import Store, open_store
from ganatomy.training.classification import class_of
from ganatomy.training.pools import generator_pool, label_pool, real_images

PAIRS, FEWEST = {2: 45_000, 3: 6_000}, 24
"""Synthetic images times training images that are searched for altered copies: a minute on one core. Where there are
more, so many synthetic ones as that allows are drawn evenly, and at least the second; half as many held-out ones.
Where fewer were held out, training images are added that are compared with those of other patients."""

LONG = 5.0
"""Seconds from which on it is said how long the search will take."""

T = TypeVar("T")


@dataclass(frozen=True)
class Looked:
    """Images that are compared with training images. shown: whose anatomy each shows, "" for nobody's; owners: whose
    each counts as."""

    images: Sequence[np.ndarray]
    shown: Sequence[str]
    owners: Sequence[str]


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
    synthetic, target = (
        [record for record in made.records() if record.kind in ("translated", "drawn")],
        stages.experiment.target_domain(),
    )
    sets = {target: [made.image(record) for record in synthetic]}
    own = _own(stages, synthetic, sets[target])
    if stages.experiment.method_class().draws_from_noise:
        sets = _other_contrasts(stages, synthetic) | sets
    return gate.memorisation_of(
        {
            domain: partial(_copied, stages, known, domain, synthetic, images, own if domain == target else None)
            for domain, images in sets.items()
        }
    )


def judged(
    made: Looked, trained: Sequence[np.ndarray], patients: Sequence[str], names: Sequence[str], fresh: Looked,
    level: float = gate.SIGNIFICANT, own: Own | None = None, say: Callable[[str], None] = lambda sentence: None,
) -> GateResult:  # fmt: skip
    """The gate of synthetic images, made by what was trained on images of ``patients`` that are called ``names``.

    fresh: real images that nobody trained on.
    """
    near, usual = (nearest_distances(some.images, some.shown, trained, patients) for some in (made, fresh))
    resemblance = searched(made, trained, patients, names, fresh, say)
    return gate.memorisation(near, made.owners, usual, fresh.owners, level, resemblance, own)


def searched(
    made: Looked, trained: Sequence[np.ndarray], patients: Sequence[str], names: Sequence[str], fresh: Looked,
    say: Callable[[str], None] = lambda sentence: None,
) -> Resemblance | None:  # fmt: skip
    """How both match the training images, however these were altered; None where there is nothing to compare."""
    if not trained or not made.images or not fresh.images:
        return None
    album = Album(trained, patients)
    count = max(FEWEST, PAIRS[album.axes] // len(trained))
    ours, theirs = _evenly(range(len(made.images)), count), _evenly(range(len(fresh.images)), max(FEWEST, count // 2))
    firsts = list({patient: at for at, patient in reversed(list(enumerate(patients)))}.values())
    spare = _evenly(firsts, FEWEST - len(theirs))
    asked = [(made.images[at], made.shown[at]) for at in ours] + [(fresh.images[at], fresh.shown[at]) for at in theirs]
    asked += [(trained[at], patients[at]) for at in spare]
    began, found = perf_counter(), list[Match]()
    for image, shown in asked:
        found.append(album.search(image, shown))
        if len(found) == 1 and (left := (perf_counter() - began) * (len(asked) - 1)) > LONG:
            say(f"searching {len(ours)} images for altered copies of {len(trained)}: about {left:.0f} s")
    first, last = len(ours), len(ours) + len(theirs)
    return Resemblance(
        _spread_out(found[:first], ours, len(made.images)), made.owners,
        found[first:last], [fresh.owners[index] for index in theirs], names, found[last:], album.axes,
    )  # fmt: skip


def _spread_out(found: Sequence[Match], places: Sequence[int], count: int) -> list[Match]:
    """One for each of ``count`` images; an empty one where none was looked for."""
    at = dict(zip(places, found))
    return [at.get(place, Match()) for place in range(count)]


def _copied(
    stages: Stages,
    known: Mapping[str, str],
    domain: str,
    synthetic: Sequence[Record],
    images: Sequence[np.ndarray],
    own: Own | None,
    level: float,
) -> GateResult:
    like = _slice_of(images)
    references, patients, names = _shown(_trained(stages.taught(), domain), like)
    fresh, others, _ = _shown(_fresh(stages.store, domain), like)
    others = [known.get(patient, patient) for patient in others]
    owners = [known.get(record.patient, record.patient) for record in synthetic]
    # What is drawn shows a label of its patient but nobody's anatomy: it may resemble no training patient at all.
    apart = ["" if record.kind == "drawn" else owner for record, owner in zip(synthetic, owners)]
    return judged(
        Looked(images, apart, owners),
        references,
        patients,
        names,
        Looked(fresh, others, others),
        level,
        own,
        stages.say,
    )


def _copied_lesions(stages: Stages, made: Store, known: Mapping[str, str]) -> GateResult:
    """The same of the patches with a lesion: a whole film is nearly all real, a copied lesion would drown in it."""
    rules, films = rules_of(stages.experiment), made.records()
    taught, held_out = (
        [(patches.image(record), record) for record in patches.records(split=split) if class_of(record) == LESION]
        for owner, split in ((stages.taught(), "train"), (stages, "val"))
        for patches in [open_store(owner.patches().directory / PATCHES)]
    )
    pasted = [rules.cut(torch.from_numpy(made.image(film).copy()), film.attributes["window"]) for film in films]
    owners, others = (
        [known.get(record.patient, record.patient) for record in some]
        for some in (films, [record for _, record in held_out])
    )
    return judged(
        Looked([patch.numpy() for patch in pasted], owners, owners),
        [image for image, _ in taught],
        [record.patient for _, record in taught],
        [record.subject for _, record in taught],
        Looked([image for image, _ in held_out], others, others),
        say=stages.say,
    )


def _own(stages: Stages, synthetic: Sequence[Record], images: Sequence[np.ndarray]) -> Own | None:
    """Distances to patients' own targets, trained on and held out.

    None where no target of a patient whose images were translated was trained on, or nobody was held out to compare
    with. Within one domain a method is to keep the image, and its nearness says nothing.
    """
    experiment = stages.experiment
    roles, domain = experiment.method_class().roles, experiment.target_domain()
    apart = len({experiment.domain(role) for role in roles}) == len(roles)
    if stages.taught() is not stages or experiment.method_class().draws_from_noise or not apart:
        return None
    like, owners = _slice_of(images), [record.patient for record in synthetic]
    references, patients, _ = _shown(_trained(stages, domain), like)
    trained = nearest_distances(images, owners, references, patients, own=True)
    if np.isnan(trained).all():
        return None
    made = list(held_out_translations(stages.method(stages.fit()), experiment, stages.store, "val", stages.device()))
    others = [one.given.record.patient for one in made]
    targets, theirs, _ = _shown(_fresh(stages.store, domain), like)
    held_out = nearest_distances([one.image for one in made], others, targets, theirs, own=True)
    return None if np.isnan(held_out).all() else Own(trained, owners, held_out, others)


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


def _shown(pool: Pool, like: tuple[int, ...] | None) -> tuple[list[np.ndarray], list[str], list[str]]:
    """The images of a pool, whose they are, and what they are called.

    like: [1, H, W] of what they are to be compared with; each slice that shows something is then an image of that size.
    """
    images: list[np.ndarray] = []
    patients: list[str] = []
    names: list[str] = []
    for entry in pool.entries:
        whole, record = entry.store.image(entry.record), entry.record
        if like is None:
            images.append(whole)
            names.append(record.subject)
        else:
            numbers = entry.slices or range(*record.content)
            images += [fitted(whole[number : number + 1], like, OUTSIDE) for number in numbers]
            names += [f"{record.subject}, slice {number}" for number in numbers]
        patients += [record.patient] * (len(images) - len(patients))
    return images, patients, names


def _evenly(things: Sequence[T], most: int) -> list[T]:
    """At most so many of them, from all over."""
    count = max(0, min(most, len(things)))
    return [things[index * len(things) // count] for index in range(count)]
