"""Structure by density: as many edges for each pixel of brain in every map, those that are drawn among them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from ganatomy_methods.multimodal_mr import structure as maps
from methods.multimodal_mr.small import batch, brains, make

DENSITY = 0.3


def brain(side, seed=0):
    """A disc of noise in [0, 1] on 0."""
    random = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, side)
    disc = (axis[:, None] ** 2 + axis[None] ** 2 < 0.6).float()
    return ((0.3 + 0.6 * torch.rand(side, side, generator=random)) * disc)[None, None]


def density(structure, outside, label=None):
    """Pixels of structure for each pixel of brain, of each sample; what is labelled is neither."""
    there = (outside < 0.5) if label is None else (outside < 0.5) & (label <= 0)[:, None]
    return structure.flatten(1).sum(dim=1) / there.flatten(1).sum(dim=1)


@pytest.mark.parametrize("side", [16, 48, 184])
@pytest.mark.parametrize("wanted", [0.1, 0.3, 0.6])
def test_every_image_has_as_many_edges_for_its_brain_whatever_its_size_and_contrast(side, wanted):
    x = torch.cat([brain(side), 0.2 * brain(side, 1), brain(side, 2) ** 3])
    outside = maps.outside_mask(x, 2)
    found = maps.dense_map(x, outside, wanted)
    one = 1 / (outside < 0.5).flatten(1).sum(dim=1)
    assert ((density(found, outside) - wanted).abs() <= one).all()
    # Which β does it differs with the image; with that one it is Algorithm 1.
    beta = maps.beta_for(x, outside, wanted).flatten().tolist()
    assert len(set(beta)) == 3
    for n, own in enumerate(beta):
        apart = maps.structure_map(x[n : n + 1], own) != found[n : n + 1]
        assert int(apart.sum()) <= 1  # the pixel that has just that
    torch.testing.assert_close(maps.dense_map(1 - x, outside, wanted), found)
    assert torch.equal(maps.dense_map(x.transpose(2, 3), outside.transpose(2, 3), wanted), found.transpose(2, 3))


def test_a_lesion_is_neither_edge_nor_brain():
    images = brains(3, 0)
    x, outside = maps.unit(images.image), maps.outside_mask(maps.unit(images.image), 2)
    found = maps.dense_map(x, outside, DENSITY, images.label)
    assert (found * (images.label > 0)[:, None]).sum() == 0
    torch.testing.assert_close(density(found, outside, images.label), torch.full((3,), DENSITY), atol=0.005, rtol=0)


def test_where_nothing_is_brain_or_nothing_is_edge_there_is_no_structure():
    flat, nothing = torch.full((1, 1, 16, 16), 0.5), torch.zeros(1, 1, 16, 16)
    for image in (flat, nothing):
        assert maps.dense_map(image, maps.outside_mask(image, 2), DENSITY).sum() == 0
    assert maps.dense_map(brain(16), torch.ones(1, 1, 16, 16), DENSITY).sum() == 0


def test_the_soft_map_of_an_image_is_near_its_own_and_has_a_gradient():
    x = brain(48).requires_grad_()
    outside = maps.outside_mask(x.detach(), 2)
    soft = maps.soft_structure_map(x, maps.beta_for(x, outside, DENSITY), 1e-4)
    assert float((soft.detach() - maps.dense_map(x.detach(), outside, DENSITY)).abs().mean()) < 0.01
    soft.sum().backward()
    assert float(x.grad.abs().max()) > 0


class Seen:
    """Keeps the structure and the label of every fusion map that the encoder is given, and every map of stage 1."""

    def __init__(self, method):
        self.fused, self.first = [], []
        method.EC_R.register_forward_pre_hook(lambda module, given: self.fused.append(maps.unfuse(given[0])))
        method.EC_f.register_forward_pre_hook(lambda module, given: self.first.append(given[0]))


@pytest.mark.parametrize("trained", [0.0, 0.3])
def test_brains_are_drawn_at_the_density_that_the_encoder_learns_on(trained):
    """Of whatever weights: in stage 1, in stage 2 and in drawing it is given as many edges for each pixel of brain."""
    method = make(edge_density=DENSITY, filter_error=1.0)
    with torch.no_grad():
        for parameter in (*method.DC_f.parameters(), *method.MASK.parameters()):
            parameter.add_(trained * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    seen = Seen(method)
    given = batch(2)
    label = torch.stack([images.label[0] for images in given.values()])
    drawn = method.draw(label, range(4), 0)
    inside = ~drawn.outside[:, None]
    shown = inside.flatten(1).any(dim=1)
    assert shown.any()
    for n in shown.nonzero().flatten().tolist():
        own = drawn.structure[n].sum() / inside[n].sum()
        assert float(own) == pytest.approx(DENSITY, abs=1 / int(inside[n].sum()))
        structure, lesion = seen.fused[n]
        assert torch.equal(structure > 0.5, (drawn.structure[n : n + 1] > 0) & (lesion == 0)[:, None])
    for phase, kept in (("structure", seen.first), ("images", seen.fused)):
        kept.clear()
        source = given[method.roles[int(method.draws.calls) % 4]]
        outside = maps.outside_mask(maps.unit(source.image), maps.even_margin(source.image.shape[2:], 5))
        method.step(given, _Still(method, phase))
        structure, lesion = (kept[0], torch.zeros_like(source.label)) if phase == "structure" else kept[0]
        own = (lesion > 0) | (source.label > 0)
        found = density((structure > 0.5).float(), outside, own.long())
        torch.testing.assert_close(found, torch.full((2,), DENSITY), atol=0.06, rtol=0)  # of the lesion to come


class _Still:
    """An update that learns nothing."""

    def __init__(self, method, phase):
        self.method, self.phase = method, phase

    def __call__(self, *names):
        return nullcontext(lambda loss: None)


def test_by_beta_as_printed_maps_of_the_two_stages_differ_in_density():
    """What the setting is for: β 0.07 and 0.12 are two densities, and brains are drawn at the first."""
    x = maps.unit(brains(4, 0).image)
    outside = maps.outside_mask(x, 2)
    first, second = (density(maps.structure_map(x, beta), outside) for beta in (0.07, 0.12))
    assert (first > second).all()
