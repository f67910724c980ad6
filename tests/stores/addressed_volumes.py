"""Volumes whose every voxel says where it stands, so that a crop shows what it is a piece of."""

from __future__ import annotations

import numpy as np
import torch

from ganatomy.experiment import Sampling
from ganatomy.stores.writing import Item, write_store

SHAPE = (9, 20, 16)
FLAT, SOLID = Sampling(2, (8, 8), 0.5), Sampling(3, (4, 8, 8), 0.5)


def make_store(path, images, labels=(), spacing=(1.0, 1.0, 1.0), domain="ct"):
    """images: arrays [D, H, W]; labels: as many arrays or None."""
    labels = list(labels) or [None] * len(images)
    items = [
        Item(f"s{i}", f"p{i}", domain, "train", image, label, affine=np.diag([*spacing[::-1], 1.0]))
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return write_store(path, name="c", labels={1: "a", 2: "b"}, domains={domain: {}}, digest="d", items=items)


def addressed(shape=SHAPE, number=0):
    """An image whose every voxel is unique over images, and a label that is a function of the image."""
    index = np.arange(np.prod(shape)).reshape(shape) + number * np.prod(shape)
    image = (index / 2**15 - 0.9).astype(np.float32)  # exact in float32
    return image, (index % 7 == 0).astype(np.uint8) + (index % 11 == 0).astype(np.uint8)


def five(path):
    """A store of five of them, labelled."""
    images, labels = zip(*(addressed(number=number) for number in range(5)), strict=True)
    return make_store(path, images, labels)


def same(one, other):
    return (
        torch.equal(one.image, other.image) and torch.equal(one.label, other.label) and one.subjects == other.subjects
    )


def crops(sampler, steps):
    for step in range(steps):
        batch = sampler.batch(step)["A"]
        for image, label, subject in zip(batch.image[:, 0].numpy(), batch.label.numpy(), batch.subjects, strict=True):
            yield image, label, int(subject[1:])
