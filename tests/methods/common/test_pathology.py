"""The networks of pseudo-healthy synthesis: the paper's tables, ranges, patches, and what they refuse."""

import pytest
import torch
from torch import nn

from ganatomy.contracts import InputError
from ganatomy_methods.common.losses import soft_dice, weighted_least_squares
from ganatomy_methods.common.networks import InstanceNorm
from ganatomy_methods.common.pathology import PathologyDiscriminator, PathologyGenerator, ResidualUNet


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_of_tables_2_to_4():
    assert count(PathologyGenerator(2)) == 1_957_505
    assert count(PathologyGenerator(2, channels=2)) == 1_959_073
    assert count(PathologyDiscriminator(2)) == 2_696_609


def test_sizes_of_the_paper():
    image = torch.rand(1, 1, 208, 160)
    with torch.no_grad():
        assert PathologyGenerator(2, 0.1, 1)(image).shape == image.shape
        assert PathologyDiscriminator(2, 0.1)(image).shape == (1, 1, 13, 10)
        assert ResidualUNet(2, 1, 3, 2)(image).shape == (1, 3, 208, 160)


@pytest.mark.parametrize(("layers", "patch"), [(1, 10), (2, 22), (3, 46), (4, 94)])
def test_discriminator_sees_a_patch(layers, patch):
    """The receptive field, measured without the normalisation, whose statistics see everything."""
    discriminator = PathologyDiscriminator(2, 0.1, layers)
    for index, module in enumerate(discriminator.layers):
        if isinstance(module, InstanceNorm):
            discriminator.layers[index] = nn.Identity()
    discriminator.double()
    image = torch.randn(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    scores = discriminator(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = image.grad[0, 0] != 0
    assert seen.any(0).sum() == seen.any(1).sum() == patch


def test_generator_reaches_both_ends_of_its_range():
    """T-D4: a ReLU before the sigmoid, as in a public program, could not go below one half."""
    torch.manual_seed(0)
    for target in (0.0, 1.0):
        generator, image = PathologyGenerator(2, 0.1, 1), torch.rand(1, 1, 16, 16)
        optimiser = torch.optim.Adam(generator.parameters(), lr=1e-2)
        for _ in range(50):
            optimiser.zero_grad()
            ((generator(image) - target) ** 2).mean().backward()
            optimiser.step()
        assert (generator(image).mean() - target).abs() < 0.1


def test_with_the_first_layer_normalised_a_discriminator_cannot_see_contrast():
    """An image and its half are one to the printed D, but for the normalisation's epsilon."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, 32, 32)
    for first_norm, told_apart in ((True, False), (False, True)):
        network = PathologyDiscriminator(2, 0.25, 2, first_norm=first_norm)
        for parameter in network.parameters():  # biases too: without any, what comes later takes the factor out again
            nn.init.normal_(parameter)
        whole, half = (network(scale * image) for scale in (1.0, 0.5))
        assert bool(((whole - half).abs() > 0.05 * whole.std()).any()) == told_apart


@pytest.mark.parametrize("ndim", [2, 3])
def test_long_skips_hand_on_what_a_quarter_of_the_scale_cannot(ndim):
    """Nothing of a single voxel reaches the output at its own scale without them; and they cost no parameter."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, *(16,) * ndim)
    plain, skipping = (PathologyGenerator(ndim, 0.1, 1, long_skips=skips) for skips in (False, True))
    skipping.load_state_dict(plain.state_dict())
    for network in (plain, skipping):
        for block in network.up1, network.up2:  # what comes by the way up, silenced
            block[1] = nn.Identity()
            nn.init.zeros_(block[0].weight)
    assert plain(image).std() == 0
    assert skipping(image).std() > 0


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("norm", ["none", "instance"])
def test_a_sample_is_treated_alike_in_any_company_and_mode(ndim, norm):
    """T-A5."""
    torch.manual_seed(0)
    images = torch.rand(2, 1, *(16,) * ndim, dtype=torch.float64)
    networks = (
        PathologyGenerator(ndim, 0.05, 1),
        PathologyGenerator(ndim, 0.05, 1, long_skips=True),
        PathologyDiscriminator(ndim, 0.05, 2, "sigmoid"),
        PathologyDiscriminator(ndim, 0.05, 2, first_norm=False),
        ResidualUNet(ndim, 1, 2, 2, norm, scales=2),
    )
    for network in networks:
        network.double()
        with torch.no_grad():
            together = network(images)
            torch.testing.assert_close(torch.cat([network(images[:1]), network(images[1:])]), together)
            assert torch.equal(network.eval()(images), together)


def test_sizes_that_cannot_be_taken_are_named():
    with pytest.raises(InputError, match="multiple of 4"):
        PathologyGenerator(2, 0.05)(torch.zeros(1, 1, 18, 16))
    with pytest.raises(InputError, match="multiple of 16"):
        PathologyDiscriminator(2, 0.05)(torch.zeros(1, 1, 24, 32))
    with pytest.raises(InputError, match="more than one patch of 16 voxels"):
        PathologyDiscriminator(2, 0.05)(torch.zeros(1, 1, 16, 16))
    with pytest.raises(InputError, match="more than one voxel after 4 poolings"):
        ResidualUNet(2, 1, 1, 2)(torch.zeros(1, 1, 16, 16))
    with pytest.raises(InputError, match="segmentor norm"):
        ResidualUNet(2, 1, 1, norm="batch")
    with pytest.raises(InputError, match="segmentor width"):
        ResidualUNet(2, 1, 1, width=0)


def test_soft_dice_by_hand_per_sample_and_for_empty_masks():
    mask = torch.zeros(2, 1, 2, 4)
    mask[0, 0, 0] = 1
    weight = torch.ones(2)
    assert soft_dice(mask, mask, weight) == 0
    found = mask.flip(2)
    # first: 1 - 1/9 (nothing shared); second: an empty map for an empty mask costs nothing
    assert soft_dice(found, mask, weight).item() == pytest.approx((8 / 9) / 2)
    assert soft_dice(found, mask, torch.tensor([0.0, 1.0])) == 0
    map_p = torch.full((1, 1, 2, 4), 0.5, requires_grad=True)
    soft_dice(map_p, torch.zeros(1, 1, 2, 4), torch.ones(1)).backward()
    assert (map_p.grad > 0).all()


def test_weighted_least_squares_counts_every_sample_and_weighs_it():
    score = torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]])
    assert weighted_least_squares(score, 1, torch.ones(2)).item() == pytest.approx((2 + 1) / 2)
    assert weighted_least_squares(score, 1, torch.tensor([1.0, 0.0])).item() == pytest.approx(2 / 2)
