"""Registered multi-modal MR against Qu et al. 2019: what each loss reaches, and who learns what (T-E5 to T-E13)."""

import copy
import dataclasses
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch import nn

from ganatomy.contracts import UNLABELLED, Images, InputError, Phase, Task
from ganatomy.experiment import Choice, Experiment
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.common.segmentors import UNet
from ganatomy_methods.multimodal_mr import MultimodalMR, MultimodalMRConfig
from ganatomy_methods.multimodal_mr import structure as maps
from ganatomy_methods.multimodal_mr.networks import LesionGuide, mean_filter
from methods.multimodal_mr.small import CLASSES, SIDE, SMALL, batch, brains, make


class Inspected:
    """An update that differentiates and keeps each network's gradients, and learns nothing."""

    def __init__(self, method, phase):
        self.method, self.phase, self.gradients = method, phase, {}

    @contextmanager
    def __call__(self, *names):
        self.method.zero_grad(set_to_none=True)
        self.method.requires_grad_(False)
        for name in names:
            getattr(self.method, name).requires_grad_(True)
        yield lambda loss: loss.backward()
        for name in names:
            self.gradients[name] = [p.grad.clone() for p in getattr(self.method, name).parameters()]
        self.method.requires_grad_(True)


def first_convolution(network):
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d)).weight


def reaches(loss, network):
    (gradient,) = torch.autograd.grad(loss, first_convolution(network), retain_graph=True, allow_unused=True)
    return gradient is not None and bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0


def stage_one(method, images):
    x = maps.unit(images.image)
    f = maps.without_lesion(maps.structure_map(x, 0.07), images.label)
    code = torch.randn(2, len(x), method.EC_f.mean.out_features, generator=torch.Generator().manual_seed(1))
    return method.structure_losses(f, maps.outside_mask(x, 2), *code)


def stage_two(method, images):
    x = maps.unit(images.image)
    f = maps.structure_map(x, 0.12)
    return method.generation_losses(maps.without_lesion(f, images.label), images.label, maps.outside_mask(x, 2))


# --- losses ------------------------------------------------------------------------------------------------------

STRUCTURE_LOSSES = {
    "map_code_adversarial": "EC_f",
    "map_adversarial": "DC_f",
    "map_normal": "EC_f",
    "map_reconstruction": "EC_f",
    "map_outside": "EC_f",
    "mask": "MASK",
    "mask_outside": "MASK",
}


def test_every_structure_loss_reaches_the_network_it_is_for():
    """T-E9: nothing ends at a threshold."""
    method = make()
    losses, _, _ = stage_one(method, brains(2, 0))
    assert set(losses) == set(STRUCTURE_LOSSES)
    for name, network in STRUCTURE_LOSSES.items():
        assert reaches(losses[name], getattr(method, network)), name
    assert reaches(losses["mask_outside"], method.DC_f)


@pytest.mark.parametrize("class_loss", ["regression", "cross_entropy"])
def test_every_loss_of_the_synthetic_images_reaches_the_fusion_encoder(class_loss):
    """T-E9, stage 2: structure and lesion losses too, which had no gradient in their first programs."""
    method = make(class_loss=class_loss)
    losses, _, _ = stage_two(method, brains(2, 0))
    for name, loss in losses.items():
        assert reaches(loss, method.EC_R), name
        if name != "code_adversarial":
            assert reaches(loss, method.DC_M), name


def test_every_loss_of_the_real_images_reaches_their_encoder():
    method = make()
    real = [maps.unit(images.image) for images in batch().values()]
    losses, _, _ = method.real_losses(real, [maps.outside_mask(x, 2) for x in real])
    for name, loss in losses.items():
        assert reaches(loss, method.EC_M), name


def test_every_weight_is_the_weight_of_a_loss_and_every_loss_has_one():
    method, seen = make(), set()
    real = [maps.unit(images.image) for images in batch().values()]
    for losses, _, _ in (
        stage_one(method, brains(2, 0)),
        stage_two(method, brains(2, 0)),
        method.real_losses(real, [maps.outside_mask(x, 2) for x in real]),
    ):
        seen |= set(losses)
        ones = dataclasses.replace(method.config, **dict.fromkeys(losses, 1.0))
        plain = make()
        plain.config = ones
        torch.testing.assert_close(plain._weighted(losses), torch.stack(list(losses.values())).sum())
    assert seen <= {field.name for field in dataclasses.fields(MultimodalMRConfig)}
    assert len(seen) == 7 + 12 + 8


def test_registration_is_zero_when_translations_agree_and_not_after_a_shift():
    """T-E13."""
    images = [torch.rand(1, 1, 16, 16) for _ in range(4)]
    agreed = {(i, j): images[j].clone() for i in range(4) for j in range(4) if i != j}
    assert MultimodalMR.registration(images, agreed) == 0
    for modality in range(4):
        moved = [image.roll(int(k == modality), -1) for k, image in enumerate(images)]
        assert MultimodalMR.registration(moved, agreed) > 0


def test_the_terms_of_real_images_do_not_care_which_subjects_stand_together():
    """T-E8: no loss compares an image with one of another modality's list."""
    method = make()
    real = [maps.unit(images.image) for images in batch(3).values()]
    shuffled = [*real[:1], real[1][[2, 0, 1]], *real[2:]]
    both = [method.real_losses(x, [maps.outside_mask(image, 2) for image in x])[0] for x in (real, shuffled)]
    for name, loss in both[0].items():
        torch.testing.assert_close(both[1][name], loss, msg=name)


def test_the_lesion_of_a_structure_comes_from_another_modality_and_lies_inside_its_brain():
    """T-E5 and T-E8 in the step itself."""
    method, given = make(), batch()
    mask = maps.outside_mask(maps.unit(given["T2"].image), 2)
    alone = {role: images if role == "T2" else Images(images.image, 0 * images.label) for role, images in given.items()}
    randoms = [torch.Generator().manual_seed(n) for n in range(2)]
    assert method._labels(alone, "T2", mask, randoms).sum() == 0
    placed = method._labels(given, "T2", mask, randoms)
    assert (placed > 0).flatten(1).any(dim=1).all()
    assert (mask[:, 0] * placed).sum() == 0


@pytest.mark.parametrize("phase", ["guide", "images"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_images_without_labels_teach_the_guide_nothing(phase, loss):
    method, given = make(guide_loss=loss), batch()
    silent = {role: Images(images.image, torch.full_like(images.label, UNLABELLED)) for role, images in given.items()}
    without, beside = (Inspected(method, phase) for _ in range(2))
    method.step(silent, without)
    assert all(gradient.abs().max() == 0 for gradient in without.gradients["guide"])
    method.step(given, beside)
    assert any(gradient.abs().max() > 0 for gradient in beside.gradients["guide"])


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_unlabelled_samples_weigh_nothing_in_the_lesion_loss(loss):
    method = make()
    images = brains(2, 0)
    mixed = images.label.clone()
    mixed[1] = UNLABELLED
    x = [maps.unit(images.image)] * 4
    half = method._lesion(x, [mixed] * 4, loss)
    first = method._lesion([image[:1] for image in x], [images.label[:1]] * 4, loss)
    torch.testing.assert_close(half, first / 2)


# --- who learns what ---------------------------------------------------------------------------------------------


def test_the_discriminator_learns_modalities_from_real_images_only():
    """X28: told the class of fakes as well, it would help the generator."""
    method = make()
    real, x_g = ([maps.unit(brains(1, 10 * s + k).image) for k in range(4)] for s in (1, 2))
    x_t = {(i, j): maps.unit(brains(1, 30 + 4 * i + j).image) for i in range(4) for j in range(4) if i != j}
    other = [x.flip(-1) for x in x_g]

    def category(method, x_g):
        return method.discriminator_losses(real, x_g, x_t)["discriminator_category"].detach()

    torch.testing.assert_close(category(method, x_g), category(method, other))
    told = make(class_on_fakes=True)
    assert float(category(told, x_g)) != float(category(told, other))
    assert float(category(told, x_g)) > float(category(method, x_g))


def test_discriminator_steps_tell_real_from_synthetic():
    method = make()
    real = [maps.unit(brains(2, k).image) for k in range(4)]
    _, _, x_g = stage_two(method, brains(2, 9))
    _, _, x_t = method.real_losses(real, [maps.outside_mask(x, 2) for x in real])
    fakes = [x.detach() for x in x_g], {key: x.detach() for key, x in x_t.items()}

    def gap():
        score, _ = method._judge([*real, *fakes[0]])
        return float(
            torch.stack([d.mean() for d in score[:4]]).mean() - torch.stack([d.mean() for d in score[4:]]).mean()
        )

    optimiser, before = torch.optim.Adam(method.D_M.parameters(), 1e-3), gap()
    for _ in range(10):
        optimiser.zero_grad()
        torch.stack(list(method.discriminator_losses(real, *fakes).values())).sum().backward()
        optimiser.step()
    assert gap() > before


def test_the_guide_learns_from_real_images_only_and_not_with_the_generators():
    method = make()
    inspected = [Inspected(method, "images") for _ in range(2)]
    start = copy.deepcopy(method.draws.state_dict())
    method.step(batch(), inspected[0])
    method.draws.load_state_dict(start)
    with torch.no_grad():
        for network in (method.EC_R, method.DC_M):
            for parameter in network.parameters():
                parameter.add_(0.1)  # other synthetic images
    method.step(batch(), inspected[1])
    for one, other in zip(*(inspection.gradients["guide"] for inspection in inspected), strict=True):
        assert torch.equal(one, other)
    assert set(inspected[0].gradients) == {"EC_R", "EC_M", "DC_M", "D_M", "FD_R", "guide"}


@pytest.mark.parametrize("kind", ["1seg", "1enc4dec", "4seg"])
def test_what_is_asked_of_each_modality_is_what_guides_it(kind):
    """In the platform's range of values."""
    method, images = make(guidance=kind, guide_width=0.1), [images.image for images in batch().values()]
    logits = method.guide([maps.unit(image) for image in images])
    for asked, image, expected in zip(method.guides().values(), images, logits, strict=True):
        assert torch.equal(asked(image), expected)
    assert list(method.guides()) == list(method.roles)
    assert not set(method.networks()) & {"guides"}


@pytest.mark.parametrize(("kind", "encoders", "decoders"), [("1seg", 1, 1), ("1enc4dec", 1, 4), ("4seg", 4, 4)])
def test_guides_share_what_their_names_say(kind, encoders, decoders):
    torch.manual_seed(0)
    guide = LesionGuide(kind, 4, CLASSES, 0.1)
    assert (len(guide.encoders), len(guide.decoders)) == (encoders, decoders)
    image = torch.rand(1, 1, 16, 16)
    logits = guide([image] * 4)
    assert all(each.shape == (1, CLASSES, 16, 16) for each in logits)
    assert torch.equal(logits[0], logits[1]) == (kind == "1seg")


def test_condition_permutes_the_modalities_and_changes_the_image():
    """T-E7."""
    method = make()
    code = method.EC_R(maps.fuse(maps.structure_map(maps.unit(brains(1, 0).image), 0.12), brains(1, 0).label, CLASSES))
    images = method._render([code] * 4, range(4))
    again = method._render([code] * 4, [2, 0, 3, 1])
    for k, modality in enumerate([2, 0, 3, 1]):
        torch.testing.assert_close(again[k], images[modality])
    inside = [image[..., 8:-8, 8:-8] for image in images]
    assert all((one - other).abs().max() > 1e-4 for one, other in pairwise(inside))


def test_the_two_stages_have_the_generators_budget_each_and_share_no_network():
    method = make()
    guide = Phase("guide", 40, may_stop=False, bar=0.7)
    stages = Phase("structure", 40, may_stop=False), Phase("images", 40)
    assert method.phases(40, 7) == (guide, *stages)
    assert make(guide_share=0.25, guide_bar=0.5).phases(40, 7) == (
        dataclasses.replace(guide, steps=10, bar=0.5),
        *stages,
    )
    assert make(guide_share=0.0).phases(40, 7) == stages
    assert method.phases(0, 0) == ()
    alone = Inspected(method, "guide")
    method.step(batch(), alone)
    assert set(alone.gradients) == {"guide"}
    inspected = Inspected(method, "structure")
    method.step(batch(), inspected)
    assert set(inspected.gradients) == {"EC_f", "DC_f", "MASK", "D_f", "FD_f"}


@pytest.mark.parametrize("phase", ["guide", "structure", "images"])
def test_steps_in_half_precision_stay_near_those_in_full(phase):
    full, half = make(), make()
    plain = OptimisationStep(full.networks(), full.optimisers())
    mixed = OptimisationStep(half.networks(), half.optimisers(), autocast=torch.bfloat16)
    plain.phase = mixed.phase = phase
    losses, rough = full.step(batch(), plain), half.step(batch(), mixed)
    for name, loss in losses.items():
        assert float(rough[name]) == pytest.approx(float(loss), rel=0.2, abs=0.05), name
    assert not any(mixed.non_finite.values())


def test_every_modality_gives_structures_in_its_turn():
    method, given = make(), batch()
    for k in range(8):
        silent = dict(given)
        source = method.roles[k % 4]
        silent[source] = Images(torch.full_like(silent[source].image, -1), silent[source].label)
        losses = method.step(silent, Inspected(method, "structure"))
        # Of an empty image nothing is structure and all is outside: the map's error is that of its own values.
        assert losses["map_reconstruction"] == losses["map_outside"]


def test_a_cohort_without_labels_and_volumes_are_refused():
    with pytest.raises(InputError, match="without labels"):
        MultimodalMR(MultimodalMRConfig(**SMALL), Task(2, 1, lambda: UNet(2, 1, 1, 4)))
    with pytest.raises(InputError, match="cannot work in 3D"):
        MultimodalMR(MultimodalMRConfig(**SMALL), Task(3, CLASSES, lambda: UNet(3, 1, CLASSES, 4)))
    with pytest.raises(InputError, match=r"method\.tau"):
        MultimodalMRConfig(tau=0.0)
    with pytest.raises(InputError, match="lesion_weights"):
        MultimodalMRConfig(lesion_weights=())
    with pytest.raises(InputError, match="discriminator_layers"):
        make(discriminator_layers=4).D_M(torch.zeros(1, 1, SIDE, SIDE))


@pytest.mark.parametrize("contrasts", [("PD", "T2"), ("FLAIR", "T1", "SWI")])
@pytest.mark.parametrize("kind", ["1seg", "1enc4dec", "4seg"])
def test_contrasts_are_those_that_are_asked_for(contrasts, kind):
    made = make(contrasts=contrasts, guidance=kind)
    chosen = Experiment("", {}, method=Choice("multimodal_mr", {**SMALL, "contrasts": list(contrasts)}))
    assert chosen.method_class() is MultimodalMR.configured(made.config)
    torch.manual_seed(0)
    method = chosen.method_class()(chosen.method_config(), made.task)
    assert chosen.method_class().roles == method.roles == made.roles == contrasts
    given = {role: brains(1, k) for k, role in enumerate(contrasts)}
    for phase in ("guide", "structure", "images"):
        losses = method.step(given, Inspected(method, phase))
        assert all(torch.isfinite(loss) for loss in losses.values())
        # Of two there are no triples.
        for name in ("registration_pairs", "code_pairs", "cycle_consistency"):
            assert name not in losses or (float(losses[name]) > 0) == (len(contrasts) > 2)
    first = contrasts[0]
    assert [(item.source, item.role) for item in method.synthesize({first: given[first]})] == [
        (first, role) for role in contrasts
    ]  # fmt: skip
    assert list(method.guides()) == list(contrasts)
    drawn = method.draw(torch.cat([images.label for images in given.values()]), (0, 1), 0)
    assert set(drawn.images) == set(contrasts)


@pytest.mark.parametrize("contrasts", [("T1",), ("T1", "T1"), ("T1", "")])
def test_contrasts_that_are_no_several_are_refused(contrasts):
    with pytest.raises(InputError, match=r"method\.contrasts"):
        MultimodalMRConfig(contrasts=contrasts)


# --- initialisation ----------------------------------------------------------------------------------------------


def ranks_after_training(jitter):
    torch.manual_seed(0)
    hidden, out = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
    network = nn.Sequential(hidden, nn.ReLU(), out)
    mean_filter(network, jitter)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    x = torch.rand(4, 1, 16, 16)
    for _ in range(10):
        optimiser.zero_grad()
        ((network(x) - x.roll(1, -1)) ** 2).mean().backward()
        optimiser.step()
    with torch.no_grad():
        activations = hidden(x).transpose(0, 1).flatten(1)
    return int(torch.linalg.matrix_rank(activations, rtol=1e-4))


def test_mean_filters_need_jitter_to_become_different():
    """T-E10: as printed, all channels of a layer stay copies of each other."""
    assert ranks_after_training(0.0) == 1
    assert ranks_after_training(0.01) > 1


def test_mean_filters_average_what_they_see():
    method = make(initialisation="mean_filter")
    weight = first_convolution(method.EC_R)
    torch.testing.assert_close(weight.flatten(1).sum(dim=1), torch.ones(len(weight)), atol=0.02, rtol=0)
    assert first_convolution(method.D_M).mean().abs() < 0.02
