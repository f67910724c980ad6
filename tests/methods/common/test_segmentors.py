"""The segmentors: sizes, shapes, order of capacity, and that they can learn."""

import pytest
import torch
import torch.nn.functional as F

from ganatomy.contracts import InputError, cross_entropy
from ganatomy.core.plugins import resolve
from ganatomy.experiment import Sampling
from ganatomy.training.inference import predict_volume
from ganatomy_methods.common.monai_segmentors import DynUNet, SegResNet
from ganatomy_methods.common.segmentors import PSPNet, RefineNet, UNet

NETWORKS = (PSPNet, UNet, RefineNet)
MONAI = (DynUNet, SegResNet)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("width", [None, 4])
def test_capacity_rises_from_psp_net_to_refine_net(ndim, width):
    """T-B8, X7."""
    sizes = [count(network(ndim, 1, 6, width)) for network in NETWORKS]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("sides", [(8, 8), (64, 40), (16, 8, 24)])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["none", "instance"])
def test_logits_have_the_size_of_the_image(network, sides, norm):
    """T-B8."""
    if norm == "instance" and min(sides) == max(sides) == 8:
        sides = (16, 16)  # a single coarsest voxel cannot be normalised
    with torch.no_grad():
        assert network(len(sides), 2, 5, 4, norm)(torch.randn(3, 2, *sides)).shape == (3, 5, *sides)


@pytest.mark.parametrize("network", NETWORKS)
def test_impossible_input_and_settings_are_refused(network):
    with pytest.raises(InputError, match="multiple of 8"):
        network(2, 1, 2, 4)(torch.zeros(1, 1, 60, 64))
    with pytest.raises(InputError, match="'batch'"):
        network(2, 1, 2, 4, "batch")
    with pytest.raises(InputError, match="width = 0"):
        network(2, 1, 2, 0)
    assert network.multiple_of == 8


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["none", "instance"])
def test_a_sample_is_treated_alike_in_any_company_and_mode(network, ndim, norm):
    """T-A5."""
    torch.manual_seed(0)
    segmentor, images = network(ndim, 1, 3, 4, norm).double(), torch.randn(2, 1, *(16,) * ndim).double()
    with torch.no_grad():
        together = segmentor(images)
        torch.testing.assert_close(torch.cat([segmentor(images[:1]), segmentor(images[1:])]), together)
        assert torch.equal(segmentor.eval()(images), together)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_unnormalised_logits_start_in_the_range_where_softmax_learns(network, ndim):
    torch.manual_seed(0)
    with torch.no_grad():
        logits = network(ndim, 1, 6)(torch.rand(1, 1, *(16,) * ndim) * 2 - 1)
    assert 0.01 < logits.std() < 10


@pytest.mark.parametrize("network", [*NETWORKS, *MONAI])
def test_segmentors_learn_to_threshold_with_all_their_parameters(network):
    torch.manual_seed(0)
    image = F.interpolate(torch.randn(2, 1, 4, 4), scale_factor=8)
    label = (image[:, 0] > 0).long()
    segmentor = network(2, 1, 2, 8)
    optimiser = torch.optim.Adam(segmentor.parameters(), 3e-3)
    for _ in range(50):
        optimiser.zero_grad()
        cross_entropy(segmentor(image), label).backward()
        optimiser.step()
    gradients = [parameter.grad for parameter in segmentor.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert (segmentor(image).argmax(1) == label).float().mean() > 0.9


def test_all_are_found_by_name():
    names = ("pspnet", "unet", "refinenet", "dynunet", "segresnet")
    assert [resolve("networks", name) for name in names] == [*NETWORKS, *MONAI]


# --- what MONAI keeps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(16, 24), (16, 24, 16)])
@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("network", MONAI)
def test_monai_segmentors_give_logits_of_the_images_size_alike_in_any_company_and_mode(network, width, sides):
    torch.manual_seed(0)
    segmentor, images = network(len(sides), 2, 5, width).double(), torch.randn(2, 2, *sides).double()
    with torch.no_grad():
        together = segmentor(images)
        assert together.shape == (2, 5, *sides)
        torch.testing.assert_close(torch.cat([segmentor(images[:1]), segmentor(images[1:])]), together)
        assert torch.equal(segmentor.eval()(images), together)


@pytest.mark.parametrize("network", MONAI)
def test_monai_segmentors_refuse_what_they_cannot_take_and_grow_with_their_width(network):
    with pytest.raises(InputError, match="multiple of 8"):
        network(2, 1, 2, 4)(torch.zeros(1, 1, 60, 64))
    with pytest.raises(InputError, match="width = 0"):
        network(2, 1, 2, 0)
    sizes = [count(network(2, 1, 3, width)) for width in (4, 8, 16, None)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("network", [*NETWORKS, *MONAI])
def test_a_segmentor_has_one_name_for_each_of_its_tensors(network):
    """Weights files know no aliases."""
    weights = network(2, 1, 3, 4).state_dict()
    assert len({tensor.data_ptr() for tensor in weights.values()}) == len(weights)


@pytest.mark.parametrize("shape", [(2, 19, 21), (5, 17, 20)])
@pytest.mark.parametrize("network", [*NETWORKS, *MONAI])
def test_odd_sizes_are_padded_by_the_platform(network, shape):
    """Slices in 2D, whole volumes in 3D; the logits are those of the padded image, cut back."""
    ndim = 2 if shape[0] == 2 else 3
    size = (24, 24) if ndim == 2 else (16, 24, 24)
    segmentor = network(ndim, 1, 3, 4).eval()
    volume = torch.randn(shape)
    logits = predict_volume(segmentor, volume, Sampling(ndim=ndim, size=size), multiple_of=segmentor.multiple_of)
    assert logits.shape == (3, *shape)
    assert torch.isfinite(torch.as_tensor(logits)).all()
