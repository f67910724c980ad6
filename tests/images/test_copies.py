"""Copies stand out from new images, whatever was done to them; what resembles everybody is nobody's copy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from ganatomy.images.copies import Album

SHAPES = {"slices": (1, 64, 64), "volumes": (24, 28, 28)}


def anatomy(seed, shape, own=1.0):
    """An outline and structures that all share, with some of several sizes that nobody shares; [D, H, W]."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) if side > 1 else [0.0] for side in shape), indexing="ij")

    def structures(seed):
        rng = np.random.default_rng(seed)
        grains = ([grain if side > 1 else 0 for side in shape] for grain in (2, 4))
        textures = [ndimage.gaussian_filter(rng.normal(size=shape), grain) for grain in grains]
        return sum(texture / texture.std() for texture in textures)

    inside = structures(10_000) + own * structures(seed)
    image = (np.sqrt(sum(axis**2 for axis in axes)) < 0.9) * (4 + inside)
    return (2 * (image - image.min()) / np.ptp(image) - 1).astype(np.float32)


def about_centre(image, motion):
    centre = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(image, motion, centre - motion @ centre, order=1, cval=-1)


def warped(image):
    rng = np.random.default_rng(0)
    places = list(np.meshgrid(*(np.arange(side, dtype=float) for side in image.shape), indexing="ij"))
    for axis in (1, 2):
        field = ndimage.gaussian_filter(rng.normal(size=image.shape), [0, 8, 8])
        places[axis] = places[axis] + field / field.std() * 0.015 * image.shape[axis]
    return ndimage.map_coordinates(image, places, order=1, cval=-1)


def in_part(image):
    """Half of it in somebody else."""
    other = anatomy(99, image.shape)
    other[..., : image.shape[2] // 2] = image[..., : image.shape[2] // 2]
    return other


CHANGED = {
    "as it is": lambda image: image,
    "shifted": lambda image: np.roll(image, (3, 2), (1, 2)),
    "mirrored": lambda image: image[..., ::-1],
    "turned": lambda image: ndimage.rotate(image, 8, axes=(1, 2), reshape=False, order=1, cval=-1),
    "zoomed": lambda image: about_centre(image, np.diag([1 / 1.1 if side > 1 else 1 for side in image.shape])),
    "warped": warped,
    "recoloured": lambda image: -(((image + 1) / 2) ** 2),
    "noisy": lambda image: image + 0.15 * np.random.default_rng(0).normal(size=image.shape),
    "in part": in_part,
}


@pytest.fixture(scope="module", params=SHAPES)
def album(request):
    """Images of twelve patients ready to be searched, those images, and how far new patients stand out, as roots."""
    shape = SHAPES[request.param]
    images = [anatomy(seed, shape) for seed in range(12)]
    album = Album(images, [f"p{seed}" for seed in range(12)])
    return album, images, np.sqrt([album.search(anatomy(100 + seed, shape)).standing_out for seed in range(10)])


@pytest.mark.parametrize("how", CHANGED)
def test_a_copy_stands_out_and_is_named(album, how):
    pages, images, new = album
    found = pages.search(np.ascontiguousarray(CHANGED[how](images[2])))
    assert found.reference == 2
    assert math.sqrt(found.standing_out) > new.mean() + (2 if how == "in part" else 4) * new.std(ddof=1)


def test_what_was_done_is_told(album):
    pages, images, _ = album
    assert pages.search(images[3]).how.startswith(("as it is", "in "))
    assert "mirrored" in pages.search(np.ascontiguousarray(CHANGED["mirrored"](images[3]))).how
    assert "turned by 8°" in pages.search(CHANGED["turned"](images[3])).how
    assert "inverted" in pages.search(-images[3]).how


def test_what_all_share_is_nobodys_copy(album):
    """What a hardly trained generator makes: the mean of all, or somebody new of whom little is left but that."""
    pages, images, new = album
    shape = images[0].shape
    smooth = [np.mean(images, 0), anatomy(0, shape, own=0.0)]
    smooth += [ndimage.gaussian_filter(anatomy(200 + seed, shape, own=0.3), [0, 2, 2]) for seed in range(4)]
    found = np.sqrt([pages.search(image).standing_out for image in smooth])
    assert found.max() < new.mean() + 3.5 * new.std(ddof=1)


def test_the_own_patient_does_not_count(album):
    pages, images, new = album
    found = pages.search(images[2], "p2")
    assert found.reference != 2
    assert math.sqrt(found.standing_out) < new.mean() + 4 * new.std(ddof=1)


def test_what_shows_nothing_is_no_copy_and_few_patients_tell_nothing(album):
    pages, images, _ = album
    assert pages.search(np.zeros_like(images[0])).standing_out == 0
    few = Album(images[:3], ["a", "b", "c"])
    assert few.search(images[0]).standing_out > 0
    assert math.isnan(few.search(images[0], "a").standing_out)
