"""Copies of phantoms stand out from new phantoms, whatever was done to them; in 2D and 3D, whole and in part."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ganatomy.measures.copies import Album, resemblances


def anatomy(seed, shape):
    """An outline that all share, about structures of several sizes that nobody shares; [D, H, W] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) if side > 1 else [0.0] for side in shape), indexing="ij")
    grains = ([grain if side > 1 else 0 for side in shape] for grain in (2, 4))
    textures = (ndimage.gaussian_filter(rng.normal(size=shape), grain) for grain in grains)
    inside = sum(texture / texture.std() for texture in textures)
    image = (np.sqrt(sum(axis**2 for axis in axes)) < 0.9) * (2 + inside)
    return (2 * (image - image.min()) / np.ptp(image) - 1).astype(np.float32)


def turned(image):
    return ndimage.rotate(image, 10, axes=(1, 2), reshape=False, order=1, cval=-1)


def in_part(image):
    """Half of it in somebody else."""
    other = anatomy(99, image.shape)
    other[..., : image.shape[2] // 2] = image[..., : image.shape[2] // 2]
    return other


CHANGED = {
    "as it is": lambda image: image,
    "shifted": lambda image: np.roll(image, (5, 5), (1, 2)),
    "mirrored": lambda image: image[..., ::-1],
    "turned": turned,
    "recoloured": lambda image: -(((image + 1) / 2) ** 2),
    "noisy": lambda image: image + 0.1 * np.random.default_rng(0).normal(size=image.shape),
    "in part": in_part,
}


@pytest.fixture(scope="module", params=[(1, 64, 64), (24, 28, 28)], ids=["slices", "volumes"])
def album(request):
    """Its album, the images in it, and what new people reach."""
    images = [anatomy(seed, request.param) for seed in range(6)]
    album = Album(images, [f"p{seed}" for seed in range(6)])
    return album, images, np.log([album.resemblance(anatomy(100 + seed, request.param)) for seed in range(6)])


@pytest.mark.parametrize("how", CHANGED)
def test_a_copy_stands_out(album, how):
    pages, images, new = album
    found = np.log(pages.resemblance(np.ascontiguousarray(CHANGED[how](images[2]))))
    assert found > new.max()
    assert found > new.mean() + 4 * max(new.std(ddof=1), 0.1)


def test_own_images_do_not_count(album):
    pages, images, new = album
    assert np.log(pages.resemblance(images[2], "p2")) < new.mean() + 4 * max(new.std(ddof=1), 0.1)


def test_what_shows_nothing_resembles_nothing():
    image = anatomy(0, (1, 48, 48))
    assert Album([image, image[:, ::-1]], ["a", "b"]).resemblance(np.zeros((1, 48, 48), np.float32)) == 0
    assert Album([image], ["a"]).resemblance(image, "a") == 0
    assert np.isnan(resemblances([image], ["a"], [], [])).all()
