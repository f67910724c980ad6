"""DRN-D-22: its published size and resolution, and what fine-tuning may change."""

import pytest
import torch

from ganatomy.contracts import Adam, InputError
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.common.classifiers import DRN, BasicBlock

LEARNING = ("stages.7.", "stages.8.", "head.")


def small(seed=0, classes=2):
    torch.manual_seed(seed)
    return DRN(classes=classes, width=0.05)


def images(count=4, seed=0, side=32):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def copy_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def learn(network, steps=2, weight_decay=1e-4):
    """Real steps of the loop's own update, which asks every parameter of the network for gradients."""
    update = OptimisationStep({"S": network}, {"S": Adam(1e-3, (0.9, 0.999), weight_decay)})
    for step in range(steps):
        with update("S") as minimise:
            minimise(torch.nn.functional.cross_entropy(network(images(seed=step)), torch.tensor([0, 1, 0, 1])))


def test_the_parameter_count_is_the_published_one():
    """16.4 million for colour images and ImageNet's classes."""
    with torch.device("meta"):
        network = DRN(in_channels=3, classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 16_393_752


def test_stages_have_the_published_channels_strides_and_dilations():
    with torch.device("meta"):
        network = DRN()
        features, seen = torch.zeros(2, 1, 64, 64), []
        for stage in network.stages:
            features = stage(features)
            dilations = {m.dilation[0] for m in stage.modules() if isinstance(m, torch.nn.Conv2d) and m.padding[0]}
            blocks = sum(isinstance(m, BasicBlock) for m in stage.modules())
            seen.append((features.shape[1], 64 // features.shape[-1], dilations.pop(), blocks))
            assert not dilations
    assert seen == [
        (16, 1, 1, 0),
        (16, 1, 1, 0),
        (32, 2, 1, 0),
        (64, 4, 1, 2),
        (128, 8, 1, 2),
        (256, 8, 2, 2),
        (512, 8, 4, 2),
        (512, 8, 2, 0),
        (512, 8, 1, 0),
    ]


def test_only_the_last_two_stages_and_the_linear_layer_change():
    """T-C8: weights and batch statistics; weight decay does not move the frozen ones either."""
    network = small().freeze().train()
    before = copy_of(network)
    learn(network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(LEARNING), name


def test_thawed_everything_changes():
    network = small().freeze().freeze(learning=9).train()
    before = copy_of(network)
    learn(network, weight_decay=0.0)
    assert all(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_frozen_statistics_hold_in_whatever_order_one_asks():
    for network in (small().train().freeze(), small().freeze().eval().train(), small().eval().freeze().train()):
        before = copy_of(network)
        network(images())
        moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        assert moved
        assert all(name.startswith(LEARNING) and "head" not in name for name in moved)


def test_freezing_keeps_the_mode():
    assert not small().eval().freeze().stages[8].training
    assert small().train().freeze().stages[8].training


def test_what_learns_is_what_gets_a_gradient():
    network = small().freeze().train()
    torch.nn.functional.cross_entropy(network(images()), torch.tensor([0, 1, 0, 1])).backward()
    received = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert received == {name for name, _ in network.named_parameters() if name.startswith(LEARNING)}


def test_freezing_changes_no_prediction():
    network = small().eval()
    whole = network(images())
    assert torch.equal(network.freeze()(images()), whole)


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (33, 47)])
def test_any_size_gives_one_row_of_logits_an_image(size):
    assert small(classes=3).eval()(torch.zeros(2, 1, *size)).shape == (2, 3)


def test_it_learns_to_tell_bright_from_dark():
    torch.manual_seed(0)
    network = DRN(width=0.1).train()
    update = OptimisationStep({"S": network}, {"S": Adam(1e-3, (0.9, 0.999))})
    labels = torch.tensor([0, 1] * 4)
    brightness = (labels * 1.2 - 0.6).view(-1, 1, 1, 1)
    for step in range(40):
        with update("S") as minimise:
            logits = network(images(8, seed=step, side=16) * 0.3 + brightness)
            minimise(torch.nn.functional.cross_entropy(logits, labels))
    network.eval()
    assert torch.equal(network(images(8, seed=99, side=16) * 0.3 + brightness).argmax(dim=1), labels)


def test_three_dimensions_are_refused():
    with pytest.raises(InputError, match="cannot work in 3D"):
        DRN(ndim=3)


@pytest.mark.parametrize("learning", [-1, 10])
def test_an_impossible_number_of_stages_is_refused(learning):
    with pytest.raises(InputError, match="learning stages"):
        small().freeze(learning)
