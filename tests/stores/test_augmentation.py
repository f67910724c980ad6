"""Augmentation: image and label move together, in millimetres, and what is done to a sample is that sample's own."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import Compose
from scipy import ndimage

from ganatomy.contracts import UNLABELLED
from ganatomy.experiment import Sampling
from ganatomy.stores.augmentation import GEOMETRY, LIGHT, STRONG, Augmentation, Augmented, Geometry, look, view
from ganatomy.stores.sampling import OUTSIDE, Pool, Sampler
from stores.addressed_volumes import FLAT, SOLID, crops, five, make_store, same


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    store = five(tmp_path_factory.mktemp("sampling") / "s")
    return Pool.of(store, store.records())


@pytest.mark.parametrize("strength", list(GEOMETRY))
@pytest.mark.parametrize("sampling", [FLAT, SOLID])
def test_what_is_done_to_a_sample_is_its_own_affair(pool, sampling, strength):
    """Whatever was augmented before it, on two workers as on one, alone or in a batch; another seed does another."""
    draws = Sampler({"A": pool}, sampling, 4, seed=3)
    whole = [Augmented(draws, Augmentation(strength, "xyz")).batch(step)["A"] for step in range(4)]
    again = Augmented(draws, Augmentation(strength, "xyz"))
    for step in (2, 0, 3):
        assert same(again.batch(step)["A"], whole[step])
        halves = [again.batch(step, rank, 2)["A"] for rank in (0, 1)]
        for rank, half in enumerate(halves):
            assert torch.equal(half.image, whole[step].image[rank::2])
            assert torch.equal(half.label, whole[step].label[rank::2])
    plain = [draws.batch(step)["A"] for step in range(4)]
    assert any(not torch.equal(one.image, other.image) for one, other in zip(whole, plain, strict=True))
    other = Augmented(Sampler({"A": pool}, sampling, 4, seed=4), Augmentation(strength, "xyz"))
    assert not same(other.batch(0)["A"], whole[0])
    assert all(-1 <= float(one.image.min()) <= float(one.image.max()) <= 1 for one in whole)


def test_a_share_of_the_samples_is_augmented_and_as_it_would_be_among_all(pool):
    """Which ones is their own affair too, and of a larger share they are among the others."""
    draws, steps = Sampler({"A": pool}, FLAT, 4, seed=0), range(60)
    plain, all_of_them = (
        [one.batch(step)["A"] for step in steps] for one in (draws, Augmented(draws, Augmentation("light")))
    )
    before = np.zeros(4 * len(steps), bool)
    for share in (0.2, 0.5, 0.8):
        some = [Augmented(draws, Augmentation("light", share=share)).batch(step)["A"] for step in steps]
        done = []
        for own, done_to_all, found in zip(plain, all_of_them, some, strict=True):
            for n in range(4):
                changed = not torch.equal(found.image[n], own.image[n])
                wanted = done_to_all if changed else own
                assert torch.equal(found.image[n], wanted.image[n])
                assert torch.equal(found.label[n], wanted.label[n])
                done.append(changed)
        assert abs(np.mean(done) - share) < 0.1
        assert not (before & ~np.array(done)).any()
        before = np.array(done)


def test_what_was_made_of_a_sample_is_not_treated_as_the_sample_was(pool):
    images, augment = Sampler({"A": pool}, FLAT, 4, seed=0).batch(0)["A"], Augmentation("light")
    seen = [augment(one).image for one in (images, images.made(images.image), images.made(images.image, kind=2))]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(seen))


@pytest.mark.parametrize("sampling", [Sampling(2, (32, 32), 1.0), Sampling(3, (16, 32, 32), 1.0)])
def test_image_and_label_move_together(tmp_path, sampling):
    """T-D5: a marked cylinder is where its label is, and it really moves."""
    marked = np.zeros((16, 40, 40), np.uint8)
    rows, columns = np.mgrid[:40, :40]
    marked[3:13] = (rows - 20) ** 2 + (columns - 14) ** 2 <= 49
    store = make_store(tmp_path / "s", [marked * 2.0 - 1], [marked], spacing=(2.0, 1.0, 1.0))
    augment = Augmentation("light")
    augment.colours = Compose([])
    draws = Augmented(Sampler({"A": Pool.of(store, store.records())}, sampling, 4, seed=0), augment)
    places, apart = set(), []
    for image, label, _ in crops(draws, 10):
        assert label.any()
        one, other = (np.array(ndimage.center_of_mass(part)) for part in (image + 1, label))
        assert np.abs(one - other).max() < 0.6  # class ids are taken from the nearest voxel, at most half a one away
        apart.append(one - other)
        assert ((image > 0) != (label > 0)).mean() < 0.02
        places.add(tuple(np.round(other, 2)))
    assert len(places) > 30
    assert np.abs(np.mean(apart, axis=0)).max() < 0.15  # to no side more than to the other


@given(st.integers(0, 10**6), st.sampled_from([(8, 8), (4, 8, 8), (12, 24, 16)]))
def test_the_view_is_that_of_scipy(number, sides):
    """Another program, which counts voxels from their centres, sees the same image through the same matrix."""
    generator = np.random.default_rng(number)
    source = generator.uniform(-1, 1, sides).astype(np.float32)
    spacing = generator.uniform(0.5, 4, len(sides))
    matrix, offset = view(sides, spacing, [True] * len(sides), Geometry(60, (0.6, 1.4), 0.2, mirror=True), generator)
    found = look(torch.from_numpy(source)[None], matrix, offset, OUTSIDE)[0].numpy()
    whole = ndimage.affine_transform(np.pad(source, 1, constant_values=OUTSIDE), matrix, offset + 1,
                                     sides, order=1, cval=OUTSIDE)  # fmt: skip
    np.testing.assert_allclose(found, whole, atol=1e-3)


@given(number=st.integers(0, 10**6), n=st.sampled_from([2, 3]), amount=st.sampled_from([LIGHT, STRONG]))
def test_the_view_is_a_rotation_and_a_scale_in_millimetres(number, n, amount):
    """Voxels may be anisotropic, tissue is not sheared; left stays left where no mirror image is allowed."""
    generator = np.random.default_rng(number)
    spacing = generator.uniform(0.5, 4, n)
    matrix, _ = view((8,) * n, spacing, [False] * n, amount, generator)
    turn = spacing[:, None] * matrix / spacing[None, :]  # in millimetres
    sizes = np.linalg.svd(turn)[1]
    np.testing.assert_allclose(sizes, sizes[0])
    assert 1 / amount.scale[1] - 1e-9 <= sizes[0] <= 1 / amount.scale[0] + 1e-9
    assert np.linalg.det(turn) > 0
    angle = np.arccos(np.clip((np.trace(turn / sizes[0]) - (n - 2)) / 2, -1, 1))
    assert np.rad2deg(angle) <= amount.rotation * (1 if n == 2 else 2)


@pytest.mark.parametrize("strength", list(GEOMETRY))
def test_only_strong_mirrors_and_only_along_the_axes_that_the_cohort_allows(strength):
    """x is the last axis of an array; half of the images are mirrored along it, and none along y."""
    signs = []
    for number in range(200):
        matrix, _ = view((8, 8), np.ones(2), [False, True], GEOMETRY[strength], np.random.default_rng(number))
        signs.append((np.sign(matrix[0, 0]), np.sign(matrix[1, 1])))
    mirrored = sum(x < 0 for _, x in signs)
    assert all(y > 0 for y, _ in signs)
    assert 70 < mirrored < 130 if strength == "strong" else not mirrored


def test_contrast_and_noise_change_the_image_alone(pool):
    draws = Sampler({"A": pool}, SOLID, 4, seed=0)
    augment = Augmentation("light")
    augment.geometry = Geometry(0, (1, 1))
    for step in range(5):
        plain = draws.batch(step)["A"]
        shaken = augment(plain)
        assert torch.equal(shaken.label, plain.label)
        assert not torch.equal(shaken.image, plain.image)
        assert (shaken.image - plain.image).abs().mean() < 0.3


def test_an_image_without_a_label_stays_one(pool):
    images = Sampler({"A": pool}, FLAT, 4, seed=0).batch(0)["A"]
    seen = Augmentation("strong")(replace(images, label=torch.full_like(images.label, UNLABELLED)))
    assert (seen.label == UNLABELLED).all()
