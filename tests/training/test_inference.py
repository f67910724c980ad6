"""Whole images of any size: what padding, slicing and windows must leave unchanged."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ganatomy.contracts import UNLABELLED, Images, Synthetic
from ganatomy.experiment import Sampling
from ganatomy.training.inference import (
    evaluating,
    map_volume,
    padded,
    predict_labels,
    predict_volume,
    synthesize_labelled,
    synthesize_volume,
)
from ganatomy.training.optimisation import Diverged

FLAT = Sampling(ndim=2, size=(16, 16))
SOLID = Sampling(ndim=3, size=(8, 16, 16))


class Saying(nn.Module):
    """Logits of two classes: the image, and the same number everywhere."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image, torch.full_like(image, self.number)], dim=1)


class Strict(nn.Module):
    """Identity that, like a real encoder, takes multiples of 8 only; remembers the sizes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        assert all(side % 8 == 0 for side in image.shape[2:]), image.shape
        assert not torch.is_grad_enabled() or not self.training
        self.seen.append(tuple(image.shape))
        return image


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype(np.float32)


@given(sides=st.lists(st.integers(1, 40), min_size=2, max_size=3), multiple=st.sampled_from([1, 2, 8, 16]))
@settings(max_examples=60, deadline=None)
def test_padded_identity_is_the_identity_at_any_size(sides: list[int], multiple: int) -> None:
    image = torch.randn(2, 1, *sides)
    seen = []

    def network(grown: Tensor) -> Tensor:
        seen.append(grown.shape[2:])
        return grown

    assert torch.equal(padded(network, multiple)(image), image)
    assert all(grown % multiple == 0 and side <= grown < side + multiple for grown, side in zip(seen[0], sides))


def test_padding_is_symmetric_background_and_reaches_the_least_size() -> None:
    grown = []
    padded(lambda x: grown.append(x) or x, 8, at_least=(24, 8))(torch.ones(1, 1, 5, 6))
    assert grown[0].shape == (1, 1, 24, 8)
    inside = grown[0][0, 0] == 1
    assert inside.sum() == 30
    assert torch.all(grown[0][0, 0][~inside] == -1)
    assert inside[9:14, 1:7].all()


@pytest.mark.parametrize("shape", [(1, 20, 30), (7, 17, 9), (3, 86, 112), (13, 8, 8)])
@pytest.mark.parametrize("sampling", [FLAT, SOLID], ids=["2d", "3d"])
@pytest.mark.parametrize("max_voxels", [1, 3000, 10**7])
def test_identity_network_gives_the_image_back_however_it_is_cut(shape, sampling, max_voxels) -> None:
    image = noise(*shape)
    network = Strict()
    made = map_volume(network, image, sampling, max_voxels=max_voxels)
    assert made.shape == shape
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, image, atol=1e-5)
    assert all(np.prod(seen[2:]) * seen[0] <= max(max_voxels, np.prod(seen[2:])) for seen in network.seen)


def test_2d_chunks_do_not_change_the_logits() -> None:
    network = nn.Conv2d(1, 4, 3, padding=1)
    image = noise(9, 24, 16)
    whole = predict_volume(network, image, FLAT)
    assert whole.shape == (4, 9, 24, 16)
    by_hand = network(torch.from_numpy(image)[:, None]).detach().transpose(0, 1)
    # the padded border differs (background instead of zeros) only where padding happened: nowhere here
    torch.testing.assert_close(whole, by_hand)
    torch.testing.assert_close(predict_volume(network, image, FLAT, max_voxels=2 * 24 * 16), whole)


def test_windows_agree_with_the_whole_where_the_receptive_field_is_local() -> None:
    network = nn.Conv3d(1, 2, 1)
    image = noise(24, 40, 24)
    torch.testing.assert_close(
        predict_volume(network, image, SOLID, max_voxels=5000), predict_volume(network, image, SOLID), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("sampling", "max_voxels"), [(FLAT, 600), (SOLID, 10**7), (SOLID, 4000)])
def test_labels_are_the_argmax_of_the_logits(sampling, max_voxels) -> None:
    network = nn.Conv2d(1, 5, 1) if sampling.ndim == 2 else nn.Conv3d(1, 5, 1)
    image = noise(10, 21, 19)
    logits = predict_volume(network, image, sampling, max_voxels=max_voxels)
    labels = predict_labels(network, image, sampling, max_voxels=max_voxels)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, logits.argmax(0).numpy())


def test_network_keeps_its_modes_and_gets_no_gradient() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    network.train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, second = (predict_volume(network, noise(2, 16, 16), FLAT) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [module.training for module in network] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(ZeroDivisionError), evaluating(network):
        1 / 0  # noqa: B018
    assert network.training


class Negative(nn.Module):
    """A stand-in for a method: negates an image, and takes a labelled voxel to 1."""

    multiple_of = 8

    def synthesize(self, batch: dict[str, Images]) -> list[Synthetic]:
        ((role, images),) = batch.items()
        assert all(side % 8 == 0 for side in images.image.shape[2:])
        made = torch.where(images.label[:, None] > 0, torch.ones_like(images.image), -images.image)
        assert images.label.dtype == torch.int64
        self.labels = images.label
        return [Synthetic(made, "B", role), Synthetic(images.image * 2, "A", role, "reconstructed")]


@pytest.mark.parametrize(("sampling", "max_voxels"), [(FLAT, 700), (SOLID, 10**7), (SOLID, 2500)])
def test_synthesize_volume_names_what_it_made_and_stays_in_range(sampling, max_voxels) -> None:
    image, label = noise(11, 18, 23), np.zeros((11, 18, 23), np.uint8)
    label[2:5, 3:9, 4:11] = 3
    method = Negative()
    made = synthesize_volume(method, image, "A", sampling, label=label, max_voxels=max_voxels)
    assert set(made) == {("B", "translated"), ("A", "reconstructed")}
    np.testing.assert_allclose(made["B", "translated"], np.where(label > 0, 1, -image), atol=1e-5)
    assert np.abs(made["A", "reconstructed"]).max() <= 1
    assert method.labels.min() >= 0


class Telling:
    """A stand-in for a method: says where its images are bright, that it cannot tell, and nothing."""

    multiple_of = 8
    task = SimpleNamespace(classes=3)

    def synthesize(self, batch: dict[str, Images]) -> list[Synthetic]:
        ((role, images),) = batch.items()
        bright = (images.image[:, 0] > 0).long() * 2
        unknown = torch.where(bright > 0, UNLABELLED, 0)
        return [
            Synthetic(images.image, "B", role, label=bright),
            Synthetic(-images.image, "A", role, label=unknown),
            Synthetic(images.image, "A", role, "reconstructed"),
        ]


@pytest.mark.parametrize(("sampling", "max_voxels"), [(FLAT, 700), (SOLID, 10**7), (SOLID, 2500)])
def test_the_label_that_a_method_gives_is_kept_and_else_that_of_the_source(sampling, max_voxels) -> None:
    image, source = noise(11, 18, 23), np.ones((11, 18, 23), np.uint8)
    made = synthesize_labelled(Telling(), image, "A", sampling, label=source, max_voxels=max_voxels)
    told, unknown, silent = made["B", "translated"], made["A", "translated"], made["A", "reconstructed"]
    np.testing.assert_array_equal(told.label_of(source), (image > 0) * 2)
    assert told.label.dtype == np.uint8
    assert unknown.label_of(source) is None
    assert silent.label_of(source) is source
    for item, expected in ((told, image), (unknown, -image), (silent, image)):
        np.testing.assert_allclose(item.image, expected, atol=1e-5)


def test_synthesize_volume_without_labels_says_unlabelled() -> None:
    method = Negative()
    synthesize_volume(method, noise(2, 8, 8), "A", FLAT)
    assert torch.all(method.labels == UNLABELLED)


@pytest.mark.parametrize("sampling", [FLAT, SOLID])
def test_the_class_of_what_is_no_number_is_not_guessed(sampling: Sampling) -> None:
    image = noise(8, 16, 16)
    for number in (np.nan, np.inf):
        with pytest.raises(Diverged, match="no number"):
            predict_labels(Saying(number), image, sampling)
    np.testing.assert_array_equal(predict_labels(Saying(0.0), image, sampling), image < 0)
    assert not predict_labels(Saying(-np.inf), image, sampling).any()  # a class that is ruled out
