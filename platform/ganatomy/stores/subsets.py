"""Which patients' labels may be seen where only a fraction of them may: nested over fractions, stratified by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from ganatomy.contracts import InputError
from ganatomy.experiment import STATES
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import generator_of, slices_in

Place = TypeVar("Place", str, tuple[int, int])


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
