"""Generators and discriminators: the tables of the papers, and what convolution and normalisation promise."""

import pytest
import torch
from torch import nn

from ganatomy.contracts import InputError
from ganatomy_methods.common.networks import (
    InstanceNorm,
    PatchDiscriminator,
    ResnetGenerator,
    UNetGenerator,
    upsample,
)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def without_normalisation(network):
    """The same network with every instance normalisation taken out, in double precision."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, InstanceNorm):
                setattr(module, name, nn.Identity())
    return network.double()


def small_networks(ndim):
    return (
        UNetGenerator(ndim, 0.05),
        ResnetGenerator(ndim, 0.05, blocks=1),
        PatchDiscriminator(ndim, 0.05, layers=2),
        PatchDiscriminator(ndim, 0.05, layers=2, final_activation="sigmoid"),
    )


@pytest.mark.parametrize(
    ("network", "ndim", "parameters"),
    [
        (UNetGenerator, 3, 10_845_121),
        (UNetGenerator, 2, 3_616_321),
        (PatchDiscriminator, 3, 11_047_873),
        (PatchDiscriminator, 2, 2_762_689),
    ],
)
def test_parameter_counts_of_table_1(network, ndim, parameters):
    """T-B2."""
    assert count(network(ndim)) == parameters


@pytest.mark.parametrize(("blocks", "millions"), [(9, 11.378), (6, 7.838)])
def test_resnet_has_the_published_number_of_parameters(blocks, millions):
    """The sizes printed by public CycleGAN programs for colour images."""
    assert round(count(ResnetGenerator(2, blocks=blocks, channels=3)) / 1e6, 3) == millions


@pytest.mark.parametrize("sides", [(64, 64), (80, 64), (72, 104), (32, 32, 32), (16, 24, 40)])
@pytest.mark.parametrize("network", [UNetGenerator, ResnetGenerator])
def test_generators_preserve_shape_and_stay_in_range(network, sides):
    """T-B1."""
    image = torch.randn(1, 1, *sides)
    with torch.no_grad():
        output = network(len(sides), 0.05)(image)
    assert output.shape == image.shape
    assert output.abs().max() <= 1


@pytest.mark.parametrize("sides", [(86, 112), (64,), (16, 16, 16)])
def test_generator_says_which_sides_it_cannot_take(sides):
    """T-B1; 86 is the cardiac crop of Cai et al. 2019, which three halvings cannot take."""
    with pytest.raises(InputError, match="multiple of 8"):
        UNetGenerator(2, 0.05)(torch.zeros(1, 1, *sides))


def test_discriminator_gives_the_map_of_the_paper_and_refuses_images_smaller_than_its_strides():
    with torch.no_grad():
        assert PatchDiscriminator(3, 0.05)(torch.randn(1, 1, 80, 128, 128)).shape[2:] == (8, 14, 14)
        assert PatchDiscriminator(2, 0.05)(torch.randn(1, 1, 24, 24)).shape[2:] == (1, 1)
        with pytest.raises(InputError, match="at least 24"):
            PatchDiscriminator(2, 0.05)(torch.randn(1, 1, 23, 64))


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_discriminator_sees_a_patch(layers, patch):
    """The receptive field, measured: which voxels one score depends on."""
    image = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    scores = without_normalisation(PatchDiscriminator(2, 0.1, layers))(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = image.grad[0, 0] != 0
    assert seen.any(0).sum() == seen.any(1).sum() == patch


def test_discriminator_output_is_a_probability_only_when_asked():
    image = 1e3 * torch.randn(1, 1, 32, 32)
    torch.manual_seed(0)
    plain = PatchDiscriminator(2, 0.1, 2)
    torch.manual_seed(0)
    squashed = PatchDiscriminator(2, 0.1, 2, "sigmoid")
    torch.testing.assert_close(plain(image).sigmoid(), squashed(image))
    assert plain(image).min() < 0


def test_generator_commutes_with_a_shift_of_its_coarsest_voxel():
    """T-B2, without the normalisation, whose statistics see the border."""
    torch.manual_seed(0)
    generator = without_normalisation(UNetGenerator(2, 0.05))
    for (
        parameter
    ) in generator.parameters():  # at the gain of training a net without normalisation gives all but nothing
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    image = torch.randn(1, 1, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        moved = generator(image.roll((8, 8), (2, 3))).roll((-8, -8), (2, 3))
        inside = (..., slice(48, -48), slice(48, -48))
        torch.testing.assert_close(moved[inside], generator(image)[inside], rtol=0, atol=1e-12)
        moved = generator(image.roll((4, 4), (2, 3))).roll((-4, -4), (2, 3))
        assert not torch.allclose(moved[inside], generator(image)[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_sample_is_treated_alike_in_any_company_and_mode(ndim):
    """T-A5."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, *(16,) * ndim, dtype=torch.float64)
    for network in small_networks(ndim):
        network.double()
        with torch.no_grad():
            together = network(images)
            torch.testing.assert_close(torch.cat([network(images[:1]), network(images[1:])]), together)
            assert torch.equal(network.eval()(images), together)


@pytest.mark.parametrize("ndim", [2, 3])
def test_weights_start_normal_and_biases_at_zero(ndim):
    for network in (UNetGenerator(ndim, 0.25), ResnetGenerator(ndim, 0.25, 1), PatchDiscriminator(ndim, 0.25)):
        weights = torch.cat([p.flatten() for p in network.parameters() if p.dim() > 1])
        assert weights.mean().item() == pytest.approx(0, abs=1e-3)
        assert weights.std().item() == pytest.approx(0.02, rel=0.02)
        assert all((p == 0).all() for p in network.parameters() if p.dim() == 1)


def test_width_scales_every_network():
    for network in (UNetGenerator, ResnetGenerator, PatchDiscriminator):
        assert count(network(2, 0.5)) == pytest.approx(count(network(2)) / 4, rel=0.02)
        network(2, 0.001)  # a width that rounds to nothing still builds


@pytest.mark.parametrize("sides", [(6, 5), (3, 4, 5)])
def test_quicker_layers_are_torchs_own_functions(sides):
    """Instance normalisation as group normalisation, upsampling as transposed convolution: values and slopes."""
    reference_norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[len(sides)](4)

    def reference_upsample(features):
        return nn.functional.interpolate(features, scale_factor=2, mode="nearest")

    for ours, theirs in ((InstanceNorm(4), reference_norm), (upsample, reference_upsample)):
        first = torch.randn(2, 4, *sides, requires_grad=True)
        second = first.detach().clone().requires_grad_(True)
        mine, reference = ours(first), theirs(second)
        torch.testing.assert_close(mine, reference)
        weights = torch.randn_like(reference)
        (mine * weights).sum().backward()
        (reference * weights).sum().backward()
        torch.testing.assert_close(first.grad, second.grad)
