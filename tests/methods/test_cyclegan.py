"""CycleGAN: its objective, its independence of labels, its schedule."""

import pytest
import torch
from torch import nn

from ganatomy.contracts import UNLABELLED, Images, InputError, Task
from ganatomy.training.loop import rate_factor
from ganatomy_methods.common.networks import ResnetGenerator, UNetGenerator
from ganatomy_methods.cyclegan import CycleGAN, CycleGANConfig
from methods.inspected import Inspected


def make(seed=0, **settings):
    torch.manual_seed(seed)
    small = {"width": 0.05, "discriminator_layers": 1, "residual_blocks": 1}
    return CycleGAN(CycleGANConfig(**{**small, **settings}), Task(2, 1, nn.Identity))


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    label = torch.full((2, 16, 16), UNLABELLED)
    return {role: Images(torch.rand(2, 1, 16, 16, generator=random) * 2 - 1, label) for role in "AB"}


@pytest.mark.parametrize("identity_weight", [0.0, 5.0])
def test_the_objective_is_the_weighted_sum_of_its_terms(identity_weight):
    """Zhu et al. 2017, eq. 3; the identity term of section 5.2 only where it is asked for."""
    update = Inspected()
    losses = make(cycle_weight=7.0, identity_weight=identity_weight).step(batch(), update)
    expected = losses["adversarial"] + 7 * losses["cycle"] + identity_weight * losses.get("identity", torch.zeros(()))
    torch.testing.assert_close(update.objectives["G_A", "G_B"].detach(), expected)
    torch.testing.assert_close(update.objectives["D_A", "D_B"].detach(), losses["discriminator"])
    assert ("identity" in losses) == (identity_weight > 0)


def test_every_term_is_that_of_the_paper():
    """Zhu et al. 2017, eqs. 1 (least squares) and 2 and the identity loss of section 5.2, written out."""
    method, images = make(identity_weight=1.0, pool_size=0), batch()
    losses = method.step(images, Inspected())
    G_A, G_B, D_A, D_B, x_A, x_B = method.G_A, method.G_B, method.D_A, method.D_B, images["A"].image, images["B"].image
    fake_A, fake_B = G_A(x_B), G_B(x_A)

    def told(D, real, fake):
        return (((D(real) - 1) ** 2).mean() + (D(fake) ** 2).mean()) / 2

    expected = {
        "adversarial": ((D_A(fake_A) - 1) ** 2).mean() + ((D_B(fake_B) - 1) ** 2).mean(),
        "cycle": (G_A(fake_B) - x_A).abs().mean() + (G_B(fake_A) - x_B).abs().mean(),
        "identity": (G_A(x_A) - x_A).abs().mean() + (G_B(x_B) - x_B).abs().mean(),
        "discriminator": told(D_A, x_A, fake_A) + told(D_B, x_B, fake_B),
    }
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach(), msg=name)


def test_discriminators_see_past_fakes_of_their_own_domain():
    """A pool of one image for each domain, already full: where the coin says so, the judge sees what was there."""
    method, images, seen = make(pool_size=1), batch(), {"A": [], "B": []}
    stored = {"A": torch.full((1, 16, 16), 0.25), "B": torch.full((1, 16, 16), -0.25)}
    for domain, pool in (("A", method.pool_A), ("B", method.pool_B)):
        pool.images = [stored[domain].clone()]
        getattr(method, f"D_{domain}").register_forward_pre_hook(
            lambda _, given, domain=domain: seen[domain].append(given[0])
        )
    for _ in range(6):
        method.step(images, Inspected())
    for domain, other in (("A", "B"), ("B", "A")):
        judged = torch.cat([given[2:] for given in seen[domain] if len(given) == 4])
        assert any(torch.equal(image, stored[domain]) for image in judged)
        assert not any(torch.equal(image, stored[other]) for image in judged)
        current = [given for given in seen[domain] if len(given) == 2]
        assert not any(torch.equal(image, stored[domain]) for given in current for image in given)


def test_the_papers_networks_and_settings_are_the_defaults():
    config = CycleGANConfig()
    assert (config.generator, config.residual_blocks, config.discriminator_layers, config.pool_size) == (
        "resnet",
        9,
        3,
        50,
    )
    assert (config.cycle_weight, config.identity_weight, config.width, config.final_activation) == (10, 0, 1, "none")
    assert {(one.lr, one.betas, one.weight_decay) for one in make().optimisers().values()} == {(2e-4, (0.5, 0.999), 0)}


def test_generators_are_named_by_the_domain_they_make():
    """An exact pair of inverse maps has no cycle loss and, being no identity, an identity loss."""
    method = make(identity_weight=1.0)
    method.G_A, method.G_B = nn.Softplus(), _InverseSoftplus()
    images = {role: Images(drawn.image.abs() + 0.1, drawn.label) for role, drawn in batch().items()}
    losses = method.step(images, Inspected())
    assert losses["cycle"] < 1e-5
    assert losses["identity"] > 0.1
    translated = {(item.role, item.source): item.image for item in method.synthesize(images)}
    torch.testing.assert_close(translated["A", "B"], nn.functional.softplus(images["B"].image))
    torch.testing.assert_close(translated["A", "A"], images["A"].image)


class _InverseSoftplus(nn.Module):
    def forward(self, image):
        return torch.log(torch.expm1(image))


@pytest.mark.parametrize(("name", "generator"), [("resnet", ResnetGenerator), ("unet_t1", UNetGenerator)])
def test_both_generators_are_offered(name, generator):
    method = make(generator=name)
    assert isinstance(method.G_A, generator)
    assert isinstance(method.G_B, generator)
    assert set(method.networks()) == {"G_A", "G_B", "D_A", "D_B"}


def test_reconstructions_are_optional():
    assert [item.kind for item in make().synthesize(batch())] == ["translated", "reconstructed"] * 2
    assert [item.kind for item in make(use_reconstructed=False).synthesize(batch())] == ["translated"] * 2


def test_the_rate_is_that_of_the_published_schedule():
    """T-A4: 1 - max(0, e + 1 - n) / (n_decay + 1), here n = n_decay = 100; never negative."""
    phases = make().phases(200, 7)
    assert sum(phase.steps for phase in phases) == 200
    for e in (0, 50, 99, 100, 101, 150, 199):
        assert rate_factor(e, phases) == pytest.approx(1 - max(0, e + 1 - 100) / 101)
    assert min(rate_factor(e, phases) for e in range(250)) >= 0


def test_a_single_step_can_be_scheduled():
    assert [(phase.name, phase.steps) for phase in make().phases(1, 1)] == [("constant", 1)]


@pytest.mark.parametrize("setting", [{"identity_weight": -1}, {"residual_blocks": -1}, {"width": 0}])
def test_impossible_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        CycleGANConfig(**setting)


def test_it_trains_no_segmentor():
    with pytest.raises(InputError, match="arm=offline"):
        make().segmentor("A")
