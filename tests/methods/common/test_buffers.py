"""Replay pools: what they return, and that they survive a checkpoint."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy_methods.common.buffers import ReplayPool


def numbered(first, count):
    """Images that know their number."""
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_a_pool_of_size_zero_is_the_identity():
    """T-A3."""
    images = torch.randn(3, 1, 4, 4, requires_grad=True)
    returned = ReplayPool(0)(images)
    assert torch.equal(returned, images)
    assert not returned.requires_grad


def test_a_pool_first_fills_and_then_returns_the_current_image_half_of_the_time():
    """T-A3."""
    pool = ReplayPool(50)
    first = torch.cat([pool(numbered(i, 1)) for i in range(50)])
    assert torch.equal(first, numbered(0, 50))
    returned = [int(pool(numbered(i, 1))[0, 0, 0, 0]) for i in range(50, 4050)]
    current = sum(answer == i for i, answer in enumerate(returned, start=50))
    assert current / 4000 == pytest.approx(0.5, abs=0.03)
    assert all(0 <= answer <= i for i, answer in enumerate(returned, start=50))
    assert len(pool.images) == 50


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 6))
def test_every_returned_image_was_once_given_and_batches_only_group_them(batches, size):
    """T-A3: an image is handled alone, so the grouping into batches changes nothing."""
    grouped, alone, given_so_far = ReplayPool(size), ReplayPool(size), 0
    for count in batches:
        images = numbered(given_so_far, count)
        given_so_far += count
        returned = grouped(images)
        assert returned.shape == images.shape
        assert returned.max() < given_so_far
        assert torch.equal(returned, torch.cat([alone(image[None]) for image in images]))


def test_draws_are_set_by_seed_rank_and_stream():
    """T-A3."""

    def answers(seed, rank, stream=0):
        pool = ReplayPool(3, stream)
        pool.seed(seed, rank)
        return [float(pool(numbered(i, 1))[0, 0, 0, 0]) for i in range(60)]

    assert answers(7, 0) == answers(7, 0)
    assert len({tuple(answers(*key)) for key in ((7, 0), (7, 1), (8, 0), (7, 0, 1))}) == 4


def test_stored_images_hold_neither_a_graph_nor_their_batch():
    """T-A3."""
    weight = torch.ones(1, requires_grad=True)
    pool = ReplayPool(2)
    batch = weight * torch.randn(2, 1, 4, 4)
    pool(batch)
    for image in pool.images:
        assert not image.requires_grad
        assert image.untyped_storage().nbytes() == 4 * 16


@pytest.mark.parametrize("seen", [0, 2, 9])
def test_a_pool_continues_from_a_checkpoint_as_if_nothing_had_happened(seen):
    pool = ReplayPool(4)
    pool.seed(3, 1)
    for i in range(seen):
        pool(numbered(i, 1))
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    file.seek(0)
    resumed = ReplayPool(4)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for i in range(seen, seen + 40):
        assert torch.equal(pool(numbered(i, 1)), resumed(numbered(i, 1)))


def test_a_saved_state_is_not_changed_by_later_images():
    pool = ReplayPool(1)
    pool(numbered(1, 1))
    state = pool.get_extra_state()
    resumed = ReplayPool(1)
    resumed.set_extra_state(state)
    for i in range(2, 20):
        pool(numbered(i, 1))
    assert float(resumed.images[0].max()) == float(state["images"][0].max()) == 1


def test_a_pool_has_no_parameters():
    assert list(ReplayPool().parameters()) == []
