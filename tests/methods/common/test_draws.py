"""Noise of a sample: its own, in whatever batch it stands, and remembered over a resumed run."""

import copy

import torch

from ganatomy_methods.common.draws import SampleDraws, dropped, normal


def test_the_noise_of_a_sample_is_its_own():
    images = torch.rand(3, 1, 8, 8)
    one, other = SampleDraws(), SampleDraws()
    whole = normal(one(images), (4,), images)
    parts = [normal(copy.deepcopy(other)(images[n : n + 1]), (4,), images) for n in (2, 0, 1)]
    torch.testing.assert_close(torch.cat(parts)[[1, 2, 0]], whole, rtol=0, atol=0)
    assert not torch.equal(normal(one(images), (4,), images), whole)  # the next step
    other.seed(1, 0)
    assert not torch.equal(normal(other(images), (4,), images), whole)  # another run
    assert abs(float(normal(one(images), (4000,), images).std()) - 1) < 0.05


def test_the_number_of_draws_is_remembered():
    images, draws, resumed = torch.rand(1, 1, 8, 8), SampleDraws(), SampleDraws()
    draws(images)
    resumed.load_state_dict(draws.state_dict())
    assert torch.equal(normal(draws(images), (3,), images), normal(resumed(images), (3,), images))


def test_dropout_keeps_the_mean():
    x = torch.ones(2, 1, 64, 64)
    randoms = [torch.Generator().manual_seed(n) for n in range(2)]
    assert dropped(x, 0.0, randoms) is x
    out = dropped(x, 0.1, randoms)
    assert abs(float(out.mean()) - 1) < 0.02
    assert abs(float((out == 0).float().mean()) - 0.1) < 0.02
