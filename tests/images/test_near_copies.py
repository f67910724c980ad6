"""Near-copies: one picture saved twice is found across owners, people who look alike are not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from ganatomy.images.near_copies import linked, near_copies, signature


def picture(seed, shape=(96, 80, 1)):
    """Speckle of several grains; in a slice, under an outline that all share."""
    rng = np.random.default_rng(seed)
    grain = [1 if side > 1 else 0 for side in shape]
    axes = np.meshgrid(*(np.linspace(-1, 1, side) if side > 1 else [0.0] for side in shape), indexing="ij")
    outline = (shape[2] > 1) | (np.sqrt(sum(axis**2 for axis in axes)) < 0.9)
    speckle = sum(ndimage.gaussian_filter(rng.normal(size=shape), [g * s for g in grain]) * s for s in (2, 5))
    return outline * (5 + 4 * speckle)


def resaved(image):
    """Quantised, a little noise, contrast, and a mark in it."""
    rng = np.random.default_rng(1)
    again = np.round(40 * image + 10) + rng.normal(size=image.shape)
    again[5:9, 5:20] = again.max()
    return again


@pytest.mark.parametrize("shape", [(96, 80, 1), (30, 36, 24)])
def test_what_was_saved_twice_is_found_and_what_is_alike_is_not(shape):
    images = [picture(seed, shape) for seed in range(12)]
    images += [resaved(images[3]), resaved(images[3])]
    owners = [f"p{number}" for number in range(12)] + ["q", "p3"]
    found = near_copies([signature(image) for image in images], owners)
    assert {frozenset((owners[pair.first], owners[pair.second])) for pair in found} == {frozenset(("p3", "q"))}
    assert found[0].r > 0.95


def test_a_mask_in_one_space_makes_nobody_anybodys_copy():
    """Skulls taken off: a bright body on a far lower background, whose outline is the same for all."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in (48, 56, 40)), indexing="ij")
    masked = np.sqrt(sum(axis**2 for axis in axes)) < 0.9
    brains = [np.where(masked, picture(seed, masked.shape), -300.0) for seed in range(6)]
    again = np.where(masked, resaved(brains[2]), -12000)
    found = near_copies([signature(image) for image in (*brains, again)], list("abcdefq"))
    assert [(pair.first, pair.second) for pair in found] == [(2, 6)]


def test_nothing_resembles_an_empty_image_and_slices_are_not_compared_with_volumes():
    images = [np.zeros((30, 30, 1)), np.zeros((30, 30, 1)), np.ones((4, 4, 4)), picture(0, (24, 24, 24))]
    assert near_copies([signature(image) for image in images], list("abcd")) == []
    assert near_copies([], []) == []


def test_groups_go_through_others():
    images = [picture(seed) for seed in range(3)]
    twice = (images[0], resaved(images[0]), images[1], resaved(images[1]), images[2])
    signatures = [signature(image) for image in twice]
    owners = ["d", "c", "c", "b", "a"]
    assert linked(near_copies(signatures, owners), owners) == {"b": "b", "c": "b", "d": "b"}


def test_thousands_of_images_cost_seconds():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 2, 576))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    rows[2999] = rows[0]
    start = time.process_time()
    found = near_copies(list(rows.astype(np.float16)), [f"p{number}" for number in range(3000)])
    assert [(pair.first, pair.second) for pair in found] == [(0, 2999)]
    assert time.process_time() - start < 20
