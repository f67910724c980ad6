"""Augmentation: image and label move together, as a rigid and scaled view in millimetres of what is really there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ganatomy.experiment import STRONGEST, Sampling
from ganatomy.stores import sampling as sampling_module
from ganatomy.stores.sampling import OUTSIDE, Augmentation, Pool, Sampler
from stores.addressed_volumes import FLAT, SOLID, addressed, crops, five, make_store

STILL = Augmentation(rotation=0, scale=0, translation=0, gamma=0, noise=0)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    store = five(tmp_path_factory.mktemp("sampling") / "s")
    return Pool.of(store, store.records())


def test_no_augmentation_is_the_crop(pool):
    for sampling in (FLAT, SOLID, Sampling(3, (12, 24, 16), 0.5)):
        plain, still = (Sampler({"A": pool}, sampling, 4, seed=0, augment=augment) for augment in (False, STILL))
        for step in range(5):
            one, other = plain.batch(step)["A"], still.batch(step)["A"]
            torch.testing.assert_close(one.image, other.image, atol=1e-6, rtol=0)
            assert torch.equal(one.label, other.label)


def test_the_strength_of_augmentation_is_how_far_it_goes(pool):
    """Differences to the plain crop grow with it, from none; 1 is the default."""

    def shifted(augment):
        plain, moved = (Sampler({"A": pool}, FLAT, 8, seed=0, augment=amount) for amount in (False, augment))
        return np.mean([float((plain.batch(step)["A"].image - moved.batch(step)["A"].image).abs().mean())
                        for step in range(8)])  # fmt: skip

    assert Augmentation.of(1.0) == Augmentation()
    assert Augmentation.of(0.0) == STILL
    far = [shifted(Augmentation.of(strength)) for strength in (0.1, 1.0, STRONGEST)]
    assert far == sorted(far)
    assert far[2] > 1.5 * far[1] > 2 * far[0]


@pytest.mark.parametrize("sampling", [Sampling(2, (32, 32), 1.0), Sampling(3, (16, 32, 32), 1.0)])
def test_image_and_label_move_together(tmp_path, sampling):
    """T-D5: a marked cylinder is where its label is, and it really moves."""
    marked = np.zeros((16, 40, 40), np.uint8)
    rows, columns = np.mgrid[:40, :40]
    marked[3:13] = (rows - 20) ** 2 + (columns - 14) ** 2 <= 49
    store = make_store(tmp_path / "s", [marked * 2.0 - 1], [marked], spacing=(2.0, 1.0, 1.0))
    amount = Augmentation(gamma=0, noise=0)
    sampler = Sampler({"A": Pool.of(store, store.records())}, sampling, 4, seed=0, augment=amount)
    places, apart = set(), []
    for image, label, _ in crops(sampler, 10):
        assert label.any()
        one, other = (np.array(ndimage.center_of_mass(part)) for part in (image + 1, label))
        assert np.abs(one - other).max() < 0.6  # class ids are taken from the nearest voxel, at most half a one away
        apart.append(one - other)
        assert ((image > 0) != (label > 0)).mean() < 0.02
        places.add(tuple(np.round(other, 2)))
    assert len(places) > 30
    assert np.abs(np.mean(apart, axis=0)).max() < 0.15  # to no side more than to the other


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(8, 8), (4, 8, 8), (12, 24, 16)]), st.booleans())
def test_the_view_is_that_of_the_whole_volume(number, sides, is_label):
    """Reading only the box that is needed changes nothing: scipy on the whole array is the truth."""
    generator = np.random.default_rng(number)
    source = addressed()[is_label][(0,) * (3 - len(sides))]
    corner = tuple(int(generator.integers(-3, n)) for n in source.shape)
    spacing = generator.uniform(0.5, 4, len(sides))
    matrix, offset = sampling_module._view(corner, sides, spacing, Augmentation(rotation=60, scale=0.4), generator)
    out = np.empty(sides, np.int64 if is_label else np.float32)
    outside = 0 if is_label else OUTSIDE
    sampling_module._look(source, matrix, offset, out, outside)
    whole = ndimage.affine_transform(source, matrix, offset, sides, order=0 if is_label else 1, cval=outside)
    np.testing.assert_allclose(out, whole, atol=1e-6)


@given(number=st.integers(0, 10**6), n=st.sampled_from([2, 3]))
def test_the_view_is_a_rotation_and_a_scale_in_millimetres(number, n):
    """Voxels may be anisotropic, tissue is not sheared; the angle and the scale stay within what was asked."""
    generator = np.random.default_rng(number)
    spacing, amount = generator.uniform(0.5, 4, n), Augmentation(rotation=10, scale=0.1)
    matrix, _ = sampling_module._view((0,) * n, (8,) * n, spacing, amount, generator)
    turn = spacing[:, None] * matrix / spacing[None, :]  # in millimetres
    sizes = np.linalg.svd(turn)[1]
    np.testing.assert_allclose(sizes, sizes[0])
    assert 1 / 1.1 - 1e-9 <= sizes[0] <= 1 / 0.9 + 1e-9
    assert np.linalg.det(turn) > 0  # never a mirror image: left stays left
    angle = np.arccos(np.clip((np.trace(turn / sizes[0]) - (n - 2)) / 2, -1, 1))
    assert np.rad2deg(angle) <= 10 * (1 if n == 2 else 2)


def test_contrast_and_noise_change_the_image_alone(pool):
    shaken = Sampler({"A": pool}, SOLID, 4, seed=0, augment=Augmentation(rotation=0, scale=0, translation=0))
    plain = Sampler({"A": pool}, SOLID, 4, seed=0)
    for step in range(5):
        one, other = shaken.batch(step)["A"], plain.batch(step)["A"]
        assert torch.equal(one.label, other.label)
        assert not torch.equal(one.image, other.image)
        assert one.image.min() >= -1
        assert one.image.max() <= 1
        assert (one.image - other.image).abs().mean() < 0.3
