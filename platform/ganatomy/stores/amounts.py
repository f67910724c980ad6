"""How much of what there is takes part: patients whose labels may be seen, source patients, synthetic images. Draws are
nested in their number, and of one seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ganatomy.contracts import InputError
from ganatomy.experiment import STATES, Mixing
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import generator_of, slices_in

Thing = TypeVar("Thing")
Place = TypeVar("Place", str, tuple[int, int])


def nested(things: Sequence[Thing], seed: int) -> list[Thing]:
    """All of them in an order that the seed draws: the first n are among the first n + 1."""
    return [things[place] for place in np.random.default_rng(seed).permutation(len(things))]


def some_patients(images: Iterable[Record], count: int, seed: int, said: str) -> frozenset[str]:
    """``count`` of the patients of ``images``, all for 0; those of one seed are nested, and drawn by their places in
    the cohort: pseudonyms are others under another key. said: whose they are, for the InputError where there are fewer.
    """
    places: dict[str, tuple[int, int]] = {}
    for image in images:
        places.setdefault(image.patient, (image.rank, image.index))
    if count > len(places):
        raise InputError(f"mixing.source_patients = {count} of {len(places)} {said}", expected=f"at most {len(places)}",
                         remedy="--set mixing.source_patients=…, 0 for all")  # fmt: skip
    return frozenset(nested(sorted(places, key=places.__getitem__), seed)[: count or None])


def distinct_images(kept: Collection[int], made: int, count: int, seed: int) -> tuple[int, ...]:
    """``count`` of the ``kept`` among ``made`` synthetic images, all for 0. The order is that of all that were made: of
    one seed the images of a smaller count are among those of a larger one, and a filter takes some out of it.

    InputError where fewer are kept.
    """
    if count > len(kept):
        raise InputError(f"mixing.distinct = {count}, and {len(kept)} of {made} synthetic images are kept",
                         expected=f"at most {len(kept)}", remedy="a smaller number, a filter that keeps more, or more "
                         "images to choose from")  # fmt: skip
    known = set(kept)
    order = [index for index in nested(range(made), seed) if index in known]
    return tuple(sorted(order[: count or None]))


def in_proportion(mixing: Mixing, real: int, synthetic: int) -> Mixing:
    """``mixing`` with the ratio that so many images of either kind come to, where it goes by counts."""
    return replace(mixing, ratio=synthetic / real) if mixing.share == "counts" and real else mixing


def label_subset(
    patients: Iterable[Place], fraction: float, seed: int, classes: Mapping[Place, Collection[str]] | None = None
) -> frozenset[Place]:
    """``fraction`` of the patients, at least one, and at least one of every class. Subsets of one seed are nested,
    whatever the order of ``patients``, and hold each class in about its share.

    patients: by names, or places in a cohort, whose own order decides.  classes: of each patient, who may have several
    or none; without it all are of one.

    InputError when there is no patient, or ``fraction`` is not in [0, 1]; 0 is nobody.
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"labels.fraction = {fraction!r}", expected="a number in [0, 1]")
    if fraction == 0:
        return frozenset()
    known = sorted(set(patients))
    if not known:
        raise InputError(
            "no labelled training patient", expected="at least one", remedy="label some, or change the split"
        )
    shuffled = [known[i] for i in generator_of(seed, "label subset", 0).permutation(len(known))]
    groups = {place: frozenset((classes or {}).get(place, ())) for place in shuffled}
    sizes, met, shown = Counter(groups.values()), Counter[frozenset[str]](), set[str]()
    ranks: dict[Place, float] = {}
    for place, group in groups.items():
        # Who brings a class comes first; the others as evenly spread as their group is large.
        ranks[place] = -1.0 if group - shown else (met[group] + 0.5) / sizes[group]
        met[group] += 1
        shown |= group
    first = sum(rank < 0 for rank in ranks.values())
    count = max(1, first, int(fraction * len(known) + 0.5))
    return frozenset(sorted(shuffled, key=ranks.__getitem__)[:count])


def drawn_patients(images: Iterable[Record], patients: Collection[str], fraction: float, seed: int) -> frozenset[str]:
    """``label_subset`` of ``patients``, drawn by their places in the cohort: pseudonyms are others under another key.

    images: of all of them. A patient is of the class that an image names, or shows a lesion by its label, or none."""
    places: dict[str, tuple[int, int]] = {}
    classes: dict[tuple[int, int], set[str]] = {}
    for image in images:
        if image.patient in patients:
            place = places.setdefault(image.patient, (image.rank, image.index))
            classes.setdefault(place, set()).update(filter(None, [_class_of(image)]))
    chosen = label_subset(places.values(), fraction, seed, classes)
    return frozenset(patient for patient, place in places.items() if place in chosen)


def _class_of(image: Record) -> str:
    """``lesion`` where anything is labelled, ``healthy`` where nothing is; else the class that the image is given."""
    state = next((state for state in STATES if slices_in(image, state)), "")
    return state or str(image.attributes.get("class") or "")
