"""How much of what there is takes part: draws that are nested in their number, and shares in proportion to numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ganatomy.contracts import InputError
from ganatomy.experiment import Mixing
from ganatomy.stores.layout import Record

Thing = TypeVar("Thing")


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
    order = [index for index in nested(range(made), seed) if index in set(kept)]
    return tuple(sorted(order[: count or None]))


def in_proportion(mixing: Mixing, real: int, synthetic: int) -> Mixing:
    """``mixing`` with the ratio that so many images of either kind come to, where it goes by counts."""
    return replace(mixing, ratio=synthetic / real) if mixing.share == "counts" and real else mixing
