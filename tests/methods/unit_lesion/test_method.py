"""UNIT for lesions: its six terms, what is shared, when there is noise."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from ganatomy.contracts import UNLABELLED, Images, InputError, Task
from ganatomy.training.loop import rate_factor
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.unit_lesion.method import (
    Discriminator,
    UnitLesion,
    UnitLesionConfig,
    bce_discriminator,
    bce_generator,
    kl_to_prior,
)
from methods.inspected import Inspected

SHARED = {"E_shared", "G_shared"}


def make(seed=0, ndim=2, **settings):
    torch.manual_seed(seed)
    small = {"width": 0.05, "discriminator_layers": 2, "residual_blocks": 1}
    return UnitLesion(UnitLesionConfig(**{**small, **settings}), Task(ndim, 1, nn.Identity))


def batch(seed=0, count=2):
    random = torch.Generator().manual_seed(seed)
    label = torch.full((count, 16, 16), UNLABELLED)
    return {role: Images(torch.rand(count, 1, 16, 16, generator=random) * 2 - 1, label) for role in "HL"}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


class Affine(nn.Module):
    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, image):
        return image * self.scale + self.shift


# --- losses ------------------------------------------------------------------------------------------------------


def test_the_divergence_from_the_prior_is_half_the_mean_square():
    """T-C4; and an outside truth: KL(N(μ, 1) ‖ N(0, 1)) for each element."""
    assert kl_to_prior(torch.zeros(2, 3, 4, 4)) == 0
    mean = torch.linspace(-2, 3, 24).view(1, 6, 2, 2)
    torch.testing.assert_close(kl_to_prior(mean), (mean**2).mean() / 2)
    normal = torch.distributions.Normal
    truth = torch.distributions.kl_divergence(normal(mean, 1.0), normal(torch.zeros_like(mean), 1.0)).mean()
    torch.testing.assert_close(kl_to_prior(mean), truth)


def test_the_adversarial_losses_are_those_of_goodfellow():
    p, q = torch.tensor([0.9, 0.6]), torch.tensor([0.2, 0.3])
    expected = -(p.log().mean() + (1 - q).log().mean())
    torch.testing.assert_close(bce_discriminator(p.logit(), q.logit()), expected)
    torch.testing.assert_close(bce_generator(q.logit()), -q.log().mean())
    undecided = torch.zeros(3)
    assert bce_discriminator(undecided, undecided).item() == pytest.approx(2 * math.log(2))


def of_affine_maps(**settings):
    method = make(**settings).eval()
    method.E_shared = method.G_shared = nn.Identity()
    method.E_H, method.E_L = Affine(), Affine(shift=0.1)
    method.G_H, method.G_L = Affine(scale=2.0), Affine(shift=-0.3)
    method.D_H, method.D_L = Affine(), Affine()
    return method


def of_one_value_each():
    label = torch.full((2, 8, 8), UNLABELLED)
    values = {"H": 0.2, "L": -0.4}
    return {role: Images(torch.full((2, 1, 8, 8), value), label) for role, value in values.items()}


def by_hand(**settings):
    """A method of affine maps, images of one value each: every term is a number that can be worked out on paper."""
    update = Inspected()
    return of_affine_maps(**settings).step(of_one_value_each(), update), update.objectives


def softplus(value):
    return math.log1p(math.exp(value))


def test_the_terms_are_those_worked_out_by_hand():
    """Codes 0.2 and -0.3; translations -0.1 (H → L) and -0.6 (L → H); their codes 0 and -0.6."""
    losses, _ = by_hand()
    expected = {
        "kl": (0.2**2 + 0.3**2) / 2,
        "reconstruction": 0.2 + 0.2,
        "adversarial": softplus(0.6) + softplus(0.1),
        "cycle_kl": (0.2**2 + 0.3**2) / 2 + (0.0**2 + 0.6**2) / 2,
        "cycle": 0.2 + 0.5,
        "discriminator": softplus(-0.2) + softplus(-0.6) + softplus(0.4) + softplus(-0.1),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, abs=1e-6)


def test_the_objective_is_eq_4_with_each_weight_on_its_own_term():
    weights = {
        "adversarial_weight": 2.0,
        "kl_weight": 3.0,
        "reconstruction_weight": 5.0,
        "cycle_kl_weight": 7.0,
        "cycle_weight": 11.0,
    }
    losses, objectives = by_hand(**weights)
    assert list(objectives) == [("D_H", "D_L"), UnitLesion.generators], "D first, then E and G"
    expected = sum(weight * losses[name.removesuffix("_weight")] for name, weight in weights.items())
    torch.testing.assert_close(objectives[UnitLesion.generators], expected)
    torch.testing.assert_close(objectives["D_H", "D_L"], 2 * losses["discriminator"])


def test_the_weights_of_the_papers_are_the_defaults():
    config = dataclasses.asdict(UnitLesionConfig())
    assert [config[name] for name in config if name.endswith("_weight")] == [10, 0.1, 100, 0.1, 100]
    adam = set(make().optimisers().values())
    assert {(one.lr, one.betas, one.weight_decay) for one in adam} == {(1e-4, (0.5, 0.999), 1e-4)}


# --- what is shared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_shared_blocks_are_one_object_and_counted_once(ndim):
    """T-C4: the parameters are those of two separate models, less two blocks."""
    method = make(ndim=ndim)
    assert method.encoder("H")[-1] is method.encoder("L")[-1] is method.E_shared
    assert method.generator("H")[0] is method.generator("L")[0] is method.G_shared
    separate = sum(parameters(part) for role in "HL" for part in (method.encoder(role), method.generator(role))) + sum(
        parameters(judge) for judge in (method.D_H, method.D_L)
    )
    assert parameters(method) == separate - parameters(method.E_shared) - parameters(method.G_shared)
    in_networks = [id(p) for network in method.networks().values() for p in network.parameters()]
    assert len(in_networks) == len(set(in_networks)), "a parameter with two optimisers"
    assert set(method.networks()) == {*UnitLesion.generators, "D_H", "D_L"}


def test_the_full_size_networks_have_the_channels_of_the_nips_code():
    method = make(width=1.0, residual_blocks=3, discriminator_layers=6)
    convolutions = [m for m in method.D_L.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512, 1024, 2048, 1]
    block = 2 * (256 * 256 * 9 + 256)
    encoder = (49 * 64 + 64) + (64 * 128 * 9 + 128) + (128 * 256 * 9 + 256) + 3 * block
    decoder = 3 * block + (256 * 128 * 9 + 128) + (128 * 64 * 9 + 64) + (64 + 1)
    assert parameters(method.E_H) == encoder
    assert parameters(method.G_L) == decoder
    assert parameters(method.E_shared) == parameters(method.G_shared) == block


def test_the_encoders_may_differ():
    """E_l(x) = E_h(x) is the assumption of the shared space, not a constraint."""
    method = make().eval()
    image = batch()["H"].image
    assert not torch.equal(method.encoder("H")(image), method.encoder("L")(image))


# --- noise -------------------------------------------------------------------------------------------------------


def test_codes_are_noisy_in_training_only():
    method = make()
    mean = torch.full((4, 8, 16, 16), 0.5)
    first, second = method.sample(mean), method.sample(mean)
    assert not torch.equal(first, second)
    noise = (first - mean).flatten()
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    assert method.eval().sample(mean) is mean


def test_every_code_that_is_decoded_is_drawn_first():
    """z ~ q(z|x) in all expectations of eqs. 1-3: both sides of eq. 2, reconstructions, and codes of translations."""
    method, drawn = of_affine_maps(), []
    method.sample = lambda mean: drawn.append(round(float(mean.mean()), 4)) or mean
    method.step(of_one_value_each(), Inspected())
    assert drawn == [-0.3, 0.2, 0.2, -0.3, 0.0, -0.6]


@pytest.mark.parametrize("training", [True, False])
def test_translations_are_deterministic_and_go_to_the_other_role(training):
    """T-C4, and beyond: not even in training mode may two calls differ."""
    method = make().train(training)
    images = batch()
    made, again = method.synthesize(images), method.synthesize(images)
    assert [(item.source, item.role, item.kind) for item in made] == [
        ("H", "L", "translated"),
        ("L", "H", "translated"),
    ]
    for one, other in zip(made, again, strict=True):
        assert torch.equal(one.image, other.image)
        assert (one.label == UNLABELLED).all()
    expected = method.G_L(method.G_shared(method.E_shared(method.E_H(images["H"].image))))
    assert torch.equal(made[0].image, expected)


# --- learning ----------------------------------------------------------------------------------------------------


def test_a_step_of_each_side_gains_on_the_other():
    """T-A1 for this loss: D's step parts real from fake; the generators' step brings their fakes closer to 1."""
    method = make(learning_rate=1e-3, discriminator_layers=1, cycle_weight=0.0, reconstruction_weight=0.0).eval()
    images, update = batch(), OptimisationStep(method.networks(), method.optimisers())

    @torch.no_grad()
    def gap(D, real, fake):
        return float(D(real).mean() - D(fake).mean())

    fake = method.synthesize(images)[0].image
    before = gap(method.D_L, images["L"].image, fake)
    method.step(images, update)
    assert gap(method.D_L, images["L"].image, fake) > before
    persuaded = method.synthesize(images)[0].image
    assert method.D_L(persuaded).mean() > method.D_L(fake).mean()


def test_it_learns_to_reconstruct():
    """Autoencoders that cannot give a patch back have no latent space to share."""
    method = make(width=0.1, learning_rate=2e-3)
    images, update = batch(count=1), OptimisationStep(method.networks(), method.optimisers())
    smooth = {role: Images(torch.nn.functional.avg_pool2d(i.image, 5, 1, 2), i.label) for role, i in images.items()}
    losses = [method.step(smooth, update)["reconstruction"].item() for _ in range(60)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_rate_is_constant():
    phases = make().phases(50, 7)
    assert [(phase.name, phase.steps) for phase in phases] == [("constant", 50)]
    assert {rate_factor(step, phases) for step in range(50)} == {1.0}


@pytest.mark.parametrize("side", [(16, 18), (10, 8)])
def test_sides_that_do_not_return_are_refused(side):
    with pytest.raises(InputError, match="multiple of 4"):
        make().encoder("H")(torch.zeros(1, 1, *side))


@pytest.mark.parametrize(("side", "layers", "positions"), [(128, 6, 2), (64, 4, 4), (20, 3, 3), (8, 6, 1)])
def test_the_discriminator_takes_any_side(side, layers, positions):
    assert Discriminator(2, 0.05, layers)(torch.zeros(1, 1, side, side)).shape == (1, 1, positions, positions)


@pytest.mark.parametrize("setting", [{"adversarial_weight": -1}, {"discriminator_layers": 0}, {"width": 0}])
def test_impossible_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        UnitLesionConfig(**setting)


def test_it_trains_no_segmentor():
    with pytest.raises(InputError, match="arm=offline"):
        make().segmentor("L")
