"""The conditional GAN: two networks, one adversarial loss, no labels."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from ganatomy.contracts import Images, InputError, Task
from ganatomy.experiment import Sampling
from ganatomy.training.inference import synthesize_volume
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.common.losses import lsgan_discriminator, lsgan_generator
from ganatomy_methods.common.pathology import PathologyDiscriminator, PathologyGenerator
from ganatomy_methods.conditional_gan import ConditionalGAN, ConditionalGANConfig
from methods.inspected import Inspected


def make(**settings):
    torch.manual_seed(0)
    small = {"width": 0.05, "discriminator_layers": 1, "residual_blocks": 1}
    return ConditionalGAN(ConditionalGANConfig(**{**small, **settings}), Task(2, 2, nn.Identity))


def batch():
    random = torch.Generator().manual_seed(0)
    return {role: Images(torch.rand(2, 1, 16, 16, generator=random) * 2 - 1, None) for role in "PH"}


def test_the_objectives_are_least_squares_on_images_between_0_and_1():
    """Labels are None: a method that looked at one would fail."""
    method, update, images = make(), Inspected(), batch()
    method.step(images, update)
    x_p, x_h = (images["P"].image + 1) / 2, (images["H"].image + 1) / 2
    fake = method.G(x_p)
    torch.testing.assert_close(update.objectives["G",], lsgan_generator(method.D_x(fake)))
    expected = lsgan_discriminator(method.D_x(x_h), method.D_x(fake))
    torch.testing.assert_close(update.objectives["D_x",], expected)


def test_a_discriminator_step_separates_and_a_generator_step_persuades():
    """T-A1."""
    method, images = make(learning_rate=1e-3), batch()
    x_p, x_h = (images["P"].image + 1) / 2, (images["H"].image + 1) / 2

    def scores():
        with torch.no_grad():
            return method.D_x(x_h).mean(), method.D_x(method.G(x_p)).mean()

    class Only(OptimisationStep):
        @contextmanager
        def __call__(self, *names):
            with super().__call__(*names) as minimise:
                yield minimise if names[0] == self.learns else lambda loss: minimise(0 * loss)

    for learns in ("D_x", "G"):
        update = Only(method.networks(), method.optimisers())
        update.learns = learns
        real, fake = scores()
        method.step(images, update)
        real_after, fake_after = scores()
        if learns == "D_x":
            assert real_after - fake_after > real - fake
        else:
            assert fake_after > fake


def test_pseudo_healthy_images_come_from_pathological_ones_only_and_show_no_pathology():
    method, images = make(), batch()
    (made,) = method.synthesize(images)
    assert (made.source, made.role, made.kind) == ("P", "H", "translated")
    assert made.label.shape == (2, 16, 16)
    assert not made.label.any()
    assert method.synthesize({"H": images["H"]}) == []


def test_a_role_that_nothing_is_made_of_gives_no_volumes():
    volume, sampling = np.random.default_rng(0).uniform(-1, 1, (3, 20, 18)).astype(np.float32), Sampling(size=(16, 16))
    assert set(synthesize_volume(make(), volume, "P", sampling)) == {("H", "translated")}
    assert synthesize_volume(make(), volume, "H", sampling) == {}


def test_the_networks_are_those_of_the_factorising_method():
    method = make(width=1.0, residual_blocks=6, discriminator_layers=4)
    assert isinstance(method.G, PathologyGenerator)
    assert isinstance(method.D_x, PathologyDiscriminator)
    assert sum(p.numel() for p in method.parameters()) == 1_957_505 + 2_696_609


@pytest.mark.parametrize("setting", [{"learning_rate": -1}, {"width": 0}, {"discriminator_layers": 5}])
def test_impossible_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        ConditionalGANConfig(**setting)
