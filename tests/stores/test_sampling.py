"""Sampling: a pure function of the step; crops that are really there; labels withheld and states told apart."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy.contracts import UNLABELLED, InputError
from ganatomy.experiment import Experiment, Mixing, Sampling
from ganatomy.stores.sampling import OUTSIDE, Mixture, Pool, Sampler
from ganatomy.stores.writing import Item, write_store
from stores.addressed_volumes import FLAT, SHAPE, SOLID, addressed, crops, five, make_store, same


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return five(tmp_path_factory.mktemp("sampling") / "s")


@pytest.fixture(scope="module")
def pool(store):
    return Pool.of(store, store.records())


# --- a pure function of (step, rank, world) ----------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FLAT, SOLID])
def test_a_batch_depends_on_its_step_only(pool, sampling):
    first = Sampler({"A": pool, "B": pool}, sampling, 3, seed=7)
    ahead = [first.batch(step) for step in range(6)]
    fresh = Sampler({"B": pool, "A": pool}, sampling, 3, seed=7)
    for step in (4, 0, 5, 4):
        for role in ("A", "B"):
            assert same(fresh.batch(step)[role], ahead[step][role])
    assert not any(same(ahead[i]["A"], ahead[j]["A"]) for i in range(6) for j in range(i))
    assert not any(same(batch["A"], batch["B"]) for batch in ahead)
    assert not same(Sampler({"A": pool}, sampling, 3, seed=8).batch(0)["A"], ahead[0]["A"])


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 9), world=st.integers(1, 4), step=st.integers(0, 10**6), synthetic=st.booleans())
def test_workers_together_see_the_batch_of_one_worker(pool, batch, world, step, synthetic):
    roles = {"A": pool, "B": Mixture(pool, pool if synthetic else None, Mixing(0.7, "mixed", 0.0), 10**6)}
    sampler = Sampler(roles, FLAT, batch, seed=1)
    whole = sampler.batch(step)
    for role in roles:
        parts = [sampler.batch(step, rank, world)[role] for rank in range(world)]
        for rank, part in enumerate(parts):
            assert len(part) == len(range(rank, batch, world))
            assert torch.equal(part.image, whole[role].image[rank::world])
            assert torch.equal(part.label, whole[role].label[rank::world])
            assert part.subjects == whole[role].subjects[rank::world]


def test_every_epoch_shows_every_image_once(pool):
    sampler = Sampler({"A": pool}, FLAT, 1, seed=0)
    epochs = [tuple(sampler.batch(epoch * 5 + i)["A"].subjects[0] for i in range(5)) for epoch in range(30)]
    assert all(sorted(epoch) == [f"s{i}" for i in range(5)] for epoch in epochs)
    assert len(set(epochs)) > 15  # of 120 orders


def test_what_a_batch_holds(pool):
    for sampling, size in ((FLAT, (8, 8)), (SOLID, (4, 8, 8))):
        images = Sampler({"A": pool}, sampling, 3, seed=0).batch(0)["A"]
        assert (images.image.shape, images.image.dtype) == ((3, 1, *size), torch.float32)
        assert (images.label.shape, images.label.dtype) == ((3, *size), torch.int64)
        assert len(images.subjects) == 3


def test_a_role_without_images_is_refused(pool):
    for nothing in (Pool(), Mixture(Pool(), pool, Mixing(), 10)):
        with pytest.raises(InputError, match="role B"):
            Sampler({"A": pool, "B": nothing}, FLAT, 1, seed=0)


# --- crops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FLAT, SOLID, Sampling(2, (20, 16), 0.5), Sampling(3, SHAPE, 0.5)])
def test_a_sample_is_a_piece_of_its_volume(pool, sampling):
    """The values say where in which volume a voxel stood: all of them agree, and the label moved along."""
    size = (1, *sampling.size) if sampling.ndim == 2 else sampling.size
    for image, label, number in crops(Sampler({"A": pool}, sampling, 4, seed=3), 20):
        volume, mask = addressed(number=number)
        corner = np.argwhere(volume == image.flat[0])[0]
        piece = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
        np.testing.assert_array_equal(image.reshape(size), volume[piece])
        np.testing.assert_array_equal(label.reshape(size), mask[piece])


@pytest.mark.parametrize("size", [(6, 6), (3, 6, 6)])
@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_samples_come_from_everywhere(tmp_path, size, foreground):
    """Every voxel of the volume is seen sooner or later, the first and the last included."""
    volume, _ = addressed((5, 10, 9))
    store = make_store(tmp_path / "s", [volume], [np.ones(volume.shape, np.uint8)])
    sampler = Sampler({"A": Pool.of(store, store.records())}, Sampling(len(size), size, foreground), 8, 0)
    seen = np.unique(np.concatenate([image.ravel() for image, _, _ in crops(sampler, 150)]))
    assert len(seen) == volume.size


def test_a_sample_larger_than_its_volume_is_padded_about_it(pool):
    for sampling in (Sampling(3, (12, 24, 16), 0.5), Sampling(2, (24, 32), 1.0)):
        for image, label, number in crops(Sampler({"A": pool}, sampling, 3, seed=0), 4):
            volume, mask = addressed(number=number)
            if sampling.ndim == 2:
                slices = [k for k in range(SHAPE[0]) if np.isin(volume[k], image).all()]
                (volume,), (mask,) = [volume[k] for k in slices], [mask[k] for k in slices]
            inside = image != OUTSIDE
            np.testing.assert_array_equal(image[inside], volume.ravel())
            np.testing.assert_array_equal(label[inside], mask.ravel())
            assert (label[~inside] == 0).all()
            for axis, (side, n) in enumerate(zip(image.shape, volume.shape, strict=True)):
                at = np.argwhere(inside)[:, axis]
                before, after = at.min(), side - 1 - at.max()
                assert before + after == side - n
                assert abs(before - after) <= 1


def test_slices_that_show_nothing_are_not_drawn(tmp_path):
    volume = np.full(SHAPE, -1, np.float32)
    volume[3:6] = addressed()[0][3:6]
    store = make_store(tmp_path / "s", [volume])
    sampler = Sampler({"A": Pool.of(store, store.records())}, FLAT, 8, seed=0)
    drawn = Counter(int(np.argwhere(volume == image.flat[0])[0][0]) for image, _, _ in crops(sampler, 60))
    assert set(drawn) == {3, 4, 5}
    assert min(drawn.values()) > 100  # each about 160 of 480


@pytest.mark.parametrize("sampling", [Sampling(2, (5, 5), 1.0), Sampling(3, (3, 5, 5), 1.0)])
def test_foreground_samples_are_centred_on_a_labelled_voxel(tmp_path, sampling):
    """One voxel in 2,880 is found each time; away from the border it is the middle one."""
    volume, mask = addressed()[0], np.zeros(SHAPE, np.uint8)
    mask[4, 9, 7] = 2
    store = make_store(tmp_path / "s", [volume], [mask])
    pool = Pool.of(store, store.records())
    middle = tuple(side // 2 for side in sampling.size)
    for _, label, _ in crops(Sampler({"A": pool}, sampling, 4, seed=0), 10):
        assert label[middle] == 2
    half = Sampler({"A": pool}, Sampling(sampling.ndim, sampling.size, 0.3), 10, seed=0)
    hits = [bool((label == 2).any()) for _, label, _ in crops(half, 100)]
    assert abs(np.mean(hits) - 0.3) < 0.05  # standard error 0.0145, and chance hits


def test_small_structures_are_drawn_as_often_as_large_ones(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:8, 2:18, 2:8] = 1
    mask[4, 4:7, 13] = 2
    store = make_store(tmp_path / "s", [addressed()[0]], [mask])
    sampler = Sampler({"A": Pool.of(store, store.records())}, Sampling(3, (1, 1, 1), 1.0), 10, seed=0)
    drawn = Counter(int(label.flat[0]) for _, label, _ in crops(sampler, 100))
    assert set(drawn) == {1, 2}
    assert abs(drawn[2] - 500) < 80


def test_a_withheld_label_is_not_seen_in_any_way(tmp_path, store):
    """Neither in the batch nor through where the samples are taken: the images are those of a store without labels."""
    blind = make_store(tmp_path / "blind", [addressed(number=number)[0] for number in range(5)])
    withheld = Pool.of(store, store.records(), patients={"p1", "p3"})
    for sampling in (Sampling(2, (8, 8), 1.0), Sampling(3, (4, 8, 8), 1.0)):
        one = Sampler({"A": withheld}, sampling, 5, seed=0).batch(0)["A"]
        other = Sampler({"A": Pool.of(blind, blind.records())}, sampling, 5, seed=0).batch(0)["A"]
        assert one.subjects == other.subjects
        for i, subject in enumerate(one.subjects):
            if subject in ("s1", "s3"):
                assert (one.label[i] >= 0).all()
                assert one.label[i].any()
            else:
                assert (one.label[i] == UNLABELLED).all()
                assert torch.equal(one.image[i], other.image[i])


def test_pools_add_up(store):
    records = store.records()
    both = Pool.of(store, records[:2]) + Pool.of(store, records[2:], patients=())
    assert len(both) == 5
    assert [entry.labelled for entry in both.entries] == [True, True, False, False, False]


def test_only_the_crop_is_copied(tmp_path):
    """A batch of 32 kB patches from 16 MB volumes allocates kilobytes."""
    store = make_store(tmp_path / "s", [np.zeros((64, 256, 256), np.float32)], [np.ones((64, 256, 256), np.uint8)])
    sampler = Sampler({"A": Pool.of(store, store.records())}, Sampling(3, (8, 32, 32), 0.5), 2, 0)
    sampler.batch(0)
    tracemalloc.start()
    sampler.batch(1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


# --- states ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_ill(tmp_path_factory):
    """Three volumes: a lesion in slices 2 to 4, none at all, and no label; the first and last slice show nothing."""
    images = [addressed(number=number)[0] for number in range(3)]
    for image in images:
        image[0] = image[-1] = -1
    ill = np.zeros(SHAPE, np.uint8)
    ill[2:5, 3:6, 4:7] = 1
    return make_store(tmp_path_factory.mktemp("states") / "s", images, [ill, np.zeros(SHAPE, np.uint8), None])


def test_slices_of_a_state_and_no_others_are_drawn(half_ill):
    pool = Pool.of(half_ill, half_ill.records())
    ill, well = pool.in_state("lesion", 2), pool.in_state("healthy", 2)
    assert [entry.slices for entry in ill.entries] == [(2, 3, 4)]
    assert [entry.slices for entry in well.entries] == [(1, 5, 6, 7), (1, 2, 3, 4, 5, 6, 7)]  # no label: no state
    assert pool.in_state("", 2) is pool
    whole = Sampling(2, SHAPE[1:], foreground=0.7)
    drawn = Sampler({"P": ill, "H": well}, whole, 4, seed=3)
    numbers = {"P": set(), "H": set()}
    for step in range(30):
        batch = drawn.batch(step)
        assert (batch["P"].label > 0).flatten(1).any(1).all()
        assert not (batch["H"].label > 0).any()
        for role, images in batch.items():
            for image, subject in zip(images.image, images.subjects):
                index = round((float(image[0, 0, 0]) + 0.9) * 2**15) - int(subject[1:]) * int(np.prod(SHAPE))
                numbers[role].add((subject, index // (SHAPE[1] * SHAPE[2])))
    assert numbers["P"] == {("s0", k) for k in (2, 3, 4)}
    assert numbers["H"] == {("s0", k) for k in (1, 5, 6, 7)} | {("s1", k) for k in range(1, 8)}


def test_of_the_middle_slices_of_what_an_image_shows_and_no_others(half_ill):
    """Slices 1 to 7 show something: the middle three are 3 to 5, whatever is in them."""
    pool = Pool.of(half_ill, half_ill.records())
    assert [entry.slices for entry in pool.in_state("lesion", 2, 3).entries] == [(3, 4)]
    assert [entry.slices for entry in pool.in_state("healthy", 2, 3).entries] == [(5,), (3, 4, 5)]
    assert [entry.slices for entry in pool.in_state("", 2, 3).entries] == [(3, 4, 5)] * 3
    assert pool.in_state("lesion", 2, 100).entries == pool.in_state("lesion", 2).entries
    role = Experiment("", {"P": "ct:lesion"}, sampling=Sampling(2, (8, 8), middle_slices=3))
    assert pool.playing("P", role).entries == pool.in_state("lesion", 2, 3).entries


def test_samples_of_the_middle_are_the_middle_of_their_plane(store):
    for sampling in (FLAT, SOLID):
        sampler = Sampler({"A": Pool.of(store, store.records()).from_the_middle()}, sampling, 4, seed=1)
        seen = set()
        for image, _, number in crops(sampler, 20):
            volume, _ = addressed(number=number)
            middle = volume[:, 6:14, 4:12] if sampling.ndim == 2 else volume[2:6, 6:14, 4:12]
            found = [k for k in range(len(middle)) if np.array_equal(middle[k], image)] if sampling.ndim == 2 else [0]
            assert found
            assert sampling.ndim == 2 or np.array_equal(middle, image)
            seen.update(found)
        assert len(seen) > (5 if sampling.ndim == 2 else 0)


def test_a_withheld_label_still_tells_the_state(half_ill):
    """Whether a slice shows a lesion is a weak label, which unpaired methods need of every image."""
    ill = Pool.of(half_ill, half_ill.records(), patients=()).in_state("lesion", 2)
    batch = Sampler({"P": ill}, Sampling(2, SHAPE[1:], 0.5), 4, seed=3).batch(0)["P"]
    assert (batch.label == UNLABELLED).all()
    assert set(batch.subjects) == {"s0"}


def test_a_volume_is_in_the_state_of_its_worst_slice(half_ill):
    pool = Pool.of(half_ill, half_ill.records())
    assert [entry.record.subject for entry in pool.in_state("lesion", 3).entries] == ["s0"]
    assert [entry.record.subject for entry in pool.in_state("healthy", 3).entries] == ["s1"]


def test_without_a_label_the_class_of_an_image_is_its_state(tmp_path):
    image = addressed((1, 8, 8))[0]
    items = [
        Item(name, name, "xr", "train", image, attributes={"class": name}) for name in ("lesion", "normal", "unknown")
    ]
    store = write_store(tmp_path / "s", name="c", labels={}, domains={"xr": {}}, digest="d", items=items)
    pool = Pool.of(store, store.records())
    assert [entry.record.subject for entry in pool.in_state("lesion", 2).entries] == ["lesion"]
    assert [entry.record.subject for entry in pool.in_state("healthy", 2).entries] == ["normal"]
