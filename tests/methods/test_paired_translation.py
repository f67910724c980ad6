"""Paired translation: an L1 in the body, a discriminator that sees the source, and regression without one."""

import pytest
import torch
from torch import nn

from ganatomy.contracts import Images, InputError, Task, body
from ganatomy_methods.common.losses import l1_where, lsgan_discriminator, lsgan_generator
from ganatomy_methods.paired_translation import PairedTranslation, PairedTranslationConfig
from methods.inspected import Inspected


def make(ndim=2, **settings):
    torch.manual_seed(0)
    small = {"width": 0.125, "discriminator_layers": 1, "residual_blocks": 1}
    return PairedTranslation(PairedTranslationConfig(**{**small, **settings}), Task(ndim, 2, nn.Identity))


def batch(count=2, sides=(16, 24)):
    """A bright square on air, and its negative. Labels are None: a method that looked at one would fail."""
    x = torch.full((count, 1, *sides), -1.0)
    x[..., 4:12, 4:16] = torch.rand(count, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 0.5
    return {"A": Images(x, None), "B": Images(torch.where(x > -1, -x, x), None)}


def test_the_objectives_are_those_of_the_paper_with_the_l1_in_the_body():
    method, update, images = make(adversarial_weight=0.02, outside_weight=0.3), Inspected(), batch()
    losses = method.step(images, update)
    x_A, x_B = images["A"].image, images["B"].image
    fake, inside = method.G(x_A), torch.zeros_like(x_A, dtype=torch.bool)
    inside[..., 4:12, 4:16] = True
    distance = (fake - x_B).abs()
    expected = distance[inside].mean() + 0.3 * distance[~inside].mean()
    expected = expected + 0.02 * lsgan_generator(method.D(torch.cat([x_A, fake], 1)))
    torch.testing.assert_close(update.objectives["G",], expected)
    judged = lsgan_discriminator(method.D(torch.cat([x_A, x_B], 1)), method.D(torch.cat([x_A, fake], 1)))
    torch.testing.assert_close(update.objectives["D",], judged)
    assert losses.keys() == {"adversarial", "l1", "l1_outside", "discriminator"}


def test_without_the_adversarial_loss_it_is_regression_and_nobody_judges():
    method, update = make(adversarial_weight=0.0), Inspected()
    assert method.step(batch(), update).keys() == {"l1", "l1_outside"}
    assert list(update.objectives) == [("G",)]
    assert set(method.networks()) == {"G"} == set(method.optimisers())


def test_the_discriminator_sees_of_what_an_image_was_made():
    """The same image of B beside another source is another pair: what makes the GAN a conditional one."""
    method, images = make(), batch(1)
    x_A, x_B = images["A"].image, images["B"].image
    assert not torch.equal(method.D(torch.cat([x_A, x_B], 1)), method.D(torch.cat([-x_A, x_B], 1)))


def test_samples_count_alike_however_large_their_bodies():
    image, reference = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    image[0], image[1] = 1.0, 3.0
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0], mask[1, ..., :1, :1] = True, True
    assert l1_where(image, reference, mask) == pytest.approx(2.0)
    assert l1_where(image, reference, torch.zeros_like(mask)) == 0.0


@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_it_learns_a_mapping_that_is_there(weight):
    from ganatomy.training.optimisation import OptimisationStep

    method, images = make(adversarial_weight=weight, learning_rate=3e-3), batch(4)
    update = OptimisationStep(method.networks(), method.optimisers())

    def apart():
        (made,) = method.synthesize({"A": images["A"]})
        return float(l1_where(made.image, images["B"].image, body(images["A"].image)))

    before = apart()
    for _ in range(40):
        method.step(images, update)
    assert apart() < 0.3 * before


@pytest.mark.parametrize(("ndim", "generator"), [(2, "unet"), (2, "resnet"), (3, "unet")])
def test_images_are_made_of_the_source_alone(ndim, generator):
    method, images = make(ndim, generator=generator), batch()
    if ndim == 3:
        images = {role: Images(one.image[:, :, None].expand(-1, -1, 8, -1, -1), None) for role, one in images.items()}
    (made,) = method.synthesize(images)
    assert (made.source, made.role, made.kind, made.label) == ("A", "B", "translated", None)
    assert method.synthesize({"B": images["B"]}) == []


def test_the_generator_at_full_width_is_a_u_net_of_32_channels():
    with torch.device("meta"):
        method = PairedTranslation(PairedTranslationConfig(), Task(2, 2, nn.Identity))
    assert sum(p.numel() for p in method.G.parameters()) == 1_946_305
    assert method.D.layers[0].weight.shape == (64, 2, 4, 4)


@pytest.mark.parametrize("setting", [{"adversarial_weight": -1}, {"width": 0}, {"discriminator_layers": 7}])
def test_impossible_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        PairedTranslationConfig(**setting)
