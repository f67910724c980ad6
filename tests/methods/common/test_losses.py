"""Losses against the equations written out, and the properties that distribution and missing labels need."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from ganatomy.contracts import UNLABELLED, cross_entropy
from ganatomy_methods.common.losses import l1, lsgan_discriminator, lsgan_generator


def test_discriminator_loss_is_zero_only_when_real_is_one_and_fake_is_zero():
    """T-A2."""
    one, zero = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    assert lsgan_discriminator(one, zero) == 0
    assert lsgan_discriminator(zero, one) == 1
    assert lsgan_discriminator(one, one) == lsgan_discriminator(zero, zero) == 0.5


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 1, 6, 5, 4)])
def test_an_undecided_discriminator_costs_both_sides_a_quarter(shape):
    """T-A2: catches a missing half and a sum in place of a mean."""
    half = torch.full(shape, 0.5)
    assert lsgan_discriminator(half, half) == 0.25
    assert lsgan_generator(half) == 0.25


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_lsgan_gives_generator_and_discriminator_opposite_wishes(real, fake):
    """X1: the gradients on a fake's score point in opposite directions wherever it lies between the two targets."""
    score = torch.tensor([[fake]], requires_grad=True)
    (up,) = torch.autograd.grad(lsgan_generator(score), score)
    (down,) = torch.autograd.grad(lsgan_discriminator(torch.tensor([[real]]), score), score)
    assert up.item() == pytest.approx(2 * (fake - 1), abs=1e-5)
    assert down.item() == pytest.approx(fake, abs=1e-5)


def test_losses_of_a_batch_are_means_of_the_losses_of_its_samples():
    torch.manual_seed(0)
    image, reference, logits = torch.randn(4, 1, 6, 5), torch.randn(4, 1, 6, 5), torch.randn(4, 3, 6, 5)
    label = torch.randint(0, 3, (4, 6, 5))
    label[1] = UNLABELLED
    for loss, *arguments in (
        (lsgan_generator, image),
        (lsgan_discriminator, image, reference),
        (l1, image, reference),
        (cross_entropy, logits, label),
    ):
        each = [loss(*(argument[i : i + 1] for argument in arguments)) for i in range(4)]
        torch.testing.assert_close(loss(*arguments), torch.stack(each).mean(), msg=loss.__name__)


def test_l1_is_numpys_mean_absolute_difference():
    first, second = np.random.default_rng(0).normal(size=(2, 2, 1, 4, 4, 4))
    assert l1(torch.tensor(first), torch.tensor(second)).item() == pytest.approx(np.abs(first - second).mean())


@pytest.mark.parametrize("sides", [(5, 4), (3, 4, 2)])
def test_cross_entropy_agrees_with_scikit_learn(sides):
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, *sides, dtype=torch.float64), torch.randint(0, 4, (2, *sides))
    voxels = logits.softmax(1).movedim(1, -1).reshape(-1, 4)
    expected = log_loss(label.flatten(), voxels, labels=[0, 1, 2, 3])
    assert cross_entropy(logits, label).item() == pytest.approx(expected)


def test_an_unlabelled_sample_has_no_loss_and_no_gradient():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    label = torch.randint(0, 3, (2, 4, 4))
    label[0] = UNLABELLED
    cross_entropy(logits, label).backward()
    assert logits.grad[0].abs().max() == 0
    assert logits.grad[1].abs().max() > 0
    assert cross_entropy(logits.detach(), torch.full_like(label, UNLABELLED)) == 0
