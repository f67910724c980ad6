"""Pseudo-healthy synthesis: the wiring of both cycles, and what comes out."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from ganatomy.contracts import UNLABELLED, Drawn, Images, InputError
from ganatomy.training.loop import rate_factor
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.common.adversarial import critique, shares
from ganatomy_methods.common.losses import lsgan_discriminator, lsgan_generator, soft_dice
from ganatomy_methods.pseudo_healthy import PseudoHealthyConfig
from methods.inspected import Inspected
from methods.small_pseudo_healthy import batch, make


class Half(nn.Module):
    """A segmentor that says ``value`` everywhere, or sees what a function tells it to."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, image):
        return self.value(image) if callable(self.value) else torch.full_like(image, self.value)


class FirstChannel(nn.Module):
    """R that hands the healthy image on and does not look at the map."""

    def forward(self, image):
        return image[:, :1]


# --- objectives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("supervision", "λ2"), [("paired", 1.0), ("unpaired", 2.0), ("mixed", 2.0)])
@pytest.mark.parametrize("healthy_cycle", [True, False])
def test_the_objective_is_the_weighted_sum_of_its_terms(supervision, λ2, healthy_cycle):
    """Section 4.1: λ = (10, 1, 10) when paired, (10, 2, 10) when not."""
    update = Inspected()
    losses = make(supervision=supervision, healthy_cycle=healthy_cycle).step(batch(), update)
    cycles = ["cycle_pathological", *(("cycle_healthy", "cycle_mask") if healthy_cycle else ())]
    masks = {"paired": ["segmentation"], "unpaired": ["adversarial_mask"]}
    named = masks.get(supervision, ["segmentation", "adversarial_mask"])
    expected = 10 * sum(losses[name] for name in cycles) + λ2 * losses["adversarial"]
    expected = expected + 10 * sum(losses[name] for name in named)
    judges = ("D_x",) if supervision == "paired" else ("D_x", "D_m")
    judged = [name for name in ("discriminator", "mask_discriminator") if name in losses]
    assert set(losses) == {*cycles, *named, "adversarial", *judged}
    assert len(judged) == len(judges)
    torch.testing.assert_close(update.objectives["G", "R", "S"].detach(), expected)
    torch.testing.assert_close(update.objectives[judges].detach(), sum(losses[name] for name in judged))


def test_every_term_is_that_of_the_paper():
    """Section 3.4, written out on images in [0, 1]; the printed min-max of L_GAN1 in its bounded direction."""
    method, images = make(), batch()
    losses = method.step(images, Inspected())
    x_p, x_h = (images["P"].image + 1) / 2, (images["H"].image + 1) / 2
    G, R, S, D_x = method.G, method.R, method.S, method.D_x
    fake_h, map_p = G(x_p), S(x_p)
    same_h = R(torch.cat([x_h, torch.zeros_like(x_h)], 1))
    m_p = (images["P"].label > 0)[:, None].float()
    expected = {
        "cycle_pathological": (R(torch.cat([fake_h, map_p], 1)) - x_p).abs().mean(),
        "cycle_healthy": (G(same_h) - x_h).abs().mean(),
        "cycle_mask": (S(same_h) - 0).abs().mean(),
        "adversarial": (lsgan_generator(D_x(fake_h)) + lsgan_generator(D_x(same_h))) / 2,
        "segmentation": soft_dice(map_p, m_p, torch.ones(2)),
        "discriminator": lsgan_discriminator(D_x(x_h), D_x(fake_h)) + lsgan_discriminator(D_x(x_h), D_x(same_h)),
    }
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach(), msg=name)


def test_every_term_of_unpaired_training_is_that_of_the_paper():
    """Section 3.4, L_GAN2 in its bounded direction: real masks are those of other volumes."""
    method, images = make(supervision="unpaired"), batch()
    losses = method.step(images, Inspected())
    S, D_m = method.S, method.D_m
    map_p, m = S((images["P"].image + 1) / 2), (images["masks"].label > 0)[:, None].float()
    torch.testing.assert_close(losses["adversarial_mask"], ((D_m(map_p) - 1) ** 2).mean().detach() / 2)
    expected = ((D_m(m) - 1) ** 2).mean() / 2 + (D_m(map_p) ** 2).mean() / 2
    torch.testing.assert_close(losses["mask_discriminator"], expected.detach())


class Only(OptimisationStep):
    """The loop's update, in which one group of networks learns and the others are stepped along nothing."""

    def __init__(self, method, learns):
        super().__init__(method.networks(), method.optimisers())
        self.learns = learns

    @contextmanager
    def __call__(self, *names):
        with super().__call__(*names) as minimise:
            yield minimise if self.learns in names else lambda loss: minimise(0 * loss)


@pytest.mark.parametrize(("judge", "makes"), [("D_x", "G"), ("D_m", "S")])
def test_judges_part_real_from_made_and_makers_persuade_them(judge, makes):
    """T-A1 for both discriminators, and for what each of them judges."""
    alone = {"cycle_weight": 0.0} | ({"mask_weight": 0.0} if judge == "D_x" else {"unpaired_adversarial_weight": 0.0})
    method, images = make(supervision="unpaired", learning_rate=1e-3, **alone), batch()
    x_p, x_h = (images["P"].image + 1) / 2, (images["H"].image + 1) / 2
    real = x_h if judge == "D_x" else (images["masks"].label > 0)[:, None].float()

    @torch.no_grad()
    def scores():
        D, network = getattr(method, judge), getattr(method, makes)
        return float(D(real).mean()), float(D(network(x_p)).mean())

    before = scores()
    for _ in range(10):
        method.step(images, Only(method, judge))
    told = scores()
    assert told[0] - told[1] > before[0] - before[1]
    method.step(images, Only(method, makes))
    assert scores()[1] > told[1]


@pytest.mark.parametrize("supervision", ["unpaired", "mixed"])
def test_gradients_of_a_batch_are_means_of_those_of_its_samples_however_supervised(supervision):
    """T-A6, where samples are weighed: one has a mask of its own and one has none, one foreign mask is its image's."""
    method, images = make(supervision=supervision).double(), batch()
    images = {role: Images(i.image.double(), i.label, i.subjects) for role, i in images.items()}
    images["P"].label[1] = UNLABELLED
    images["masks"] = Images(images["masks"].image, images["masks"].label, ("P0", "masks1"))
    parts = [
        {role: Images(i.image[n : n + 1], i.label[n : n + 1], i.subjects[n : n + 1]) for role, i in images.items()}
        for n in range(2)
    ]

    def gradients(given):
        update = Inspected()
        method.step(given, update)
        return [
            torch.autograd.grad(loss, [p for name in names for p in getattr(method, name).parameters()])
            for names, loss in update.objectives.items()
        ]

    whole, one, other = (gradients(given) for given in (images, *parts))
    for objective in range(2):
        for together, first, second in zip(whole[objective], one[objective], other[objective], strict=True):
            torch.testing.assert_close(together, (first + second) / 2, rtol=1e-6, atol=1e-9)


# --- variants ----------------------------------------------------------------------------------------------------


def slope_of(weight):
    """A critic whose score of an image is ``weight`` times the sum of its voxels: its gradient is known."""
    return Half(lambda image: weight * image.flatten(1).sum(1).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("supervision", ["paired", "unpaired"])
def test_the_other_game_is_that_of_wasserstein_with_its_penalty(supervision):
    """Gulrajani et al. 2017, eq. 3, by hand on linear critics of 256 voxels, whose gradient has the norm 16 w."""
    method, images = make(supervision=supervision, adversarial="wgan_gp", gradient_penalty=7.0), batch()
    method.D_x = slope_of(0.05)
    x_p, x_h = (images["P"].image + 1) / 2, (images["H"].image + 1) / 2
    map_p = method.S(x_p)
    fakes = method.G(x_p), method.R(torch.cat([x_h, torch.zeros_like(x_h)], 1))
    sums = [image.flatten(1).sum(1).mean() for image in (x_h, *fakes)]
    expected = {
        "adversarial": -0.05 * (sums[1] + sums[2]) / 2,
        "discriminator": 0.05 * (sums[1] + sums[2] - 2 * sums[0]) + 2 * 7 * (16 * 0.05 - 1) ** 2,
    }
    if supervision == "unpaired":
        method.D_m = slope_of(0.1)
        real, made = 20.0, map_p.flatten(1).sum(1).mean()
        expected["adversarial_mask"] = -0.1 * made / 2
        expected["mask_discriminator"] = 0.1 * (made - real) + 7 * (1.6 - 1) ** 2
    losses = method.step(images, Inspected())
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach(), msg=name)


def test_what_counts_on_one_side_alone_moves_no_critic():
    """Else adding a constant to every score would lower the loss for ever."""
    torch.manual_seed(0)
    D, real, fake = torch.nn.Conv2d(1, 1, 3), torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    weights = torch.ones(4), torch.tensor([1.0, 0.0, 1.0, 1.0])
    loss = critique(D, real, fake, torch.full((4,), 0.5), weights, 10.0)
    loss.backward()
    assert float(D.bias.grad.abs()) < 1e-6
    alone = [critique(D, real[i : i + 1], fake[i : i + 1], torch.tensor([0.5]), (weights[0][:1], weights[1][i : i + 1]),
                      10.0) for i in range(4)]  # fmt: skip
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    assert float(alone[1].detach()) == 0


def test_where_the_penalty_is_taken_is_a_function_of_how_a_sample_was_drawn():
    """So that workers that share a batch, and a run that goes on, take it where one in one go would."""
    drawn = tuple(Drawn(number, (1.0, 1.0)) for number in (2**62, 3 * 2**62, 0))
    images = Images(torch.zeros(3, 1, 4, 4), torch.zeros(3, 4, 4), drawn=drawn)
    assert shares(images).tolist() == [0.25, 0.75, 0.0]
    assert shares(Images(images.image, images.label)).tolist() == [0.5] * 3


def test_the_discriminators_may_learn_more_often_than_what_they_judge():
    counted = []

    class Counted(Inspected):
        def __call__(self, *names):
            counted.append(names)
            return super().__call__(*names)

    make(supervision="unpaired", discriminator_updates=3).step(batch(), Counted())
    assert counted == [("G", "R", "S"), *[("D_x", "D_m")] * 3]


def test_a_critic_without_bounds_has_no_sigmoid():
    with pytest.raises(InputError, match=r"final_activation = 'sigmoid' with method.adversarial = 'wgan_gp'"):
        make(adversarial="wgan_gp", final_activation="sigmoid")


def test_perfect_networks_cost_nothing_in_the_healthy_cycle():
    """T-D2: with G = R(., 0) = id and S = 0 both terms of Cycle H-H are exactly 0."""
    method = make()
    method.G, method.R, method.S = nn.Identity(), FirstChannel(), Half(0.0)
    losses = method.step(batch(), Inspected())
    assert losses["cycle_healthy"] == losses["cycle_mask"] == 0
    method.S = Half(0.25)
    assert method.step(batch(), Inspected())["cycle_mask"] == 0.25


@pytest.mark.slow
def test_the_reconstructor_learns_to_leave_a_healthy_image_alone():
    """T-D2, softly: no loss says R(x_h, 0) = x_h, but G after R, and D_x, lead there."""
    method = make(width=0.25, learning_rate=1e-3, discriminator_layers=2)
    unseen = heads(seed=9999).pop("H")

    def distance():
        (made,) = method.synthesize({"H": unseen})
        return (made.image - unseen.image).abs().mean()

    before, update = distance(), OptimisationStep(method.networks(), method.optimisers())
    for step in range(200):
        method.step(heads(seed=step), update)
    assert distance() < before / 2


def heads(seed, side=32):
    """Grey tissue on a black background, as in a skull-stripped head; pathology is bright."""
    images, axis = batch(seed, side=side), torch.linspace(-1, 1, side)
    inside = axis[:, None] ** 2 + axis**2 < 0.6
    for role in "PH":
        coarse = images[role].image[:, :, :8, :8]
        tissue = nn.functional.interpolate(coarse, scale_factor=side / 8, mode="bilinear")
        images[role].image.copy_(torch.where(inside, 0.3 * tissue, -1.0))
    images["P"].image[images["P"].label.unsqueeze(1) > 0] = 1.0
    return images


# --- ablations ---------------------------------------------------------------------------------------------------


def test_without_the_mask_the_reconstructor_sees_the_image_alone():
    method = make(mask_input=False)
    assert method.R.down[0].in_channels == 1
    images = batch()
    with_lesion = Images(images["H"].image, images["P"].label)
    plain, drawn = (method.synthesize({"H": given})[0].image for given in (images["H"], with_lesion))
    assert torch.equal(plain, drawn)


def test_without_the_healthy_cycle_only_pathological_images_are_reconstructed():
    method, seen = make(healthy_cycle=False), []
    method.R.register_forward_hook(lambda network, given, output: seen.append(len(output)))
    method.step(batch(), Inspected())
    assert seen == [2]


# --- what it makes -----------------------------------------------------------------------------------------------


def test_it_makes_healthy_images_with_a_map_and_pathological_ones_where_the_label_asks():
    method, images = make(), batch()
    made = {(item.source, item.role): item for item in method.synthesize(images)}
    assert set(made) == {("P", "H"), ("P", "P"), ("H", "P")}
    healthy = made["P", "H"]
    x_p = (images["P"].image + 1) / 2
    torch.testing.assert_close(healthy.image, method.G(x_p).detach() * 2 - 1)
    torch.testing.assert_close(healthy.maps["pathology"], method.S(x_p).detach())
    assert healthy.label.shape == (2, 16, 16)
    assert not healthy.label.any()  # it claims to show none, whatever the label of its source
    assert made["P", "P"].label is made["H", "P"].label is None  # these show what their sources' labels say
    assert [item.role for item in make(use_reconstructed=False).synthesize({"P": images["P"]})] == ["H"]


def test_the_label_of_a_healthy_image_says_where_pathology_is_drawn():
    method, images = make(), batch()
    x_h = (images["H"].image + 1) / 2
    label = images["P"].label * 3  # any class but the background is pathology
    for given, mask in ((label, label > 0), (images["H"].label, label < 0), (torch.full_like(label, -1), label < 0)):
        (made,) = method.synthesize({"H": Images(images["H"].image, given)})
        expected = method.R(torch.cat([x_h, mask[:, None].float()], 1)).detach() * 2 - 1
        torch.testing.assert_close(made.image, expected)


def test_images_cross_the_border_between_the_platforms_range_and_the_papers():
    """-1 is the paper's 0 and 1 its 1; networks that hand on what they see give back what was put in."""
    method, images = make(), batch()
    method.G, method.R = nn.Identity(), FirstChannel()
    for item in method.synthesize(images):
        torch.testing.assert_close(item.image, images[item.source].image)
    seen = []
    method.S = Half(lambda image: seen.append((image.min(), image.max())) or image)
    method.synthesize(images)
    assert all(0 <= low < high <= 1 for low, high in seen)


# --- what the map smuggles (T-D6) --------------------------------------------------------------------------------


def test_a_plain_map_hides_nothing_and_a_map_that_carries_the_image_is_found_out():
    image = batch()["P"].image
    method = make()
    method.S = Half(lambda x: (x > 0.7).float())
    torch.testing.assert_close(method.hidden_information(image), torch.ones(2))
    # S writes the image into the map and R reads it there, up to a small error of its own.
    method.S = Half(lambda x: x)
    method.R = Half(lambda given: given[:, 1:] + 0.01)
    assert (method.hidden_information(image) > 10).all()
    # R that does not look at the map reconstructs as well, or as badly, with any.
    method.R = FirstChannel()
    torch.testing.assert_close(method.hidden_information(image), torch.ones(2))


# --- schedule and settings ---------------------------------------------------------------------------------------


def test_the_rate_is_constant_and_then_falls_to_nothing():
    phases = make().phases(200, 7)
    assert [rate_factor(e, phases) for e in (0, 99)] == [1, 1]
    assert rate_factor(199, phases) == pytest.approx(1 / 101)


def test_the_networks_and_rates_of_the_paper_are_the_defaults():
    config = PseudoHealthyConfig()
    assert (config.width, config.residual_blocks, config.discriminator_layers, config.segmentor_scales) == (1, 6, 4, 4)
    assert (config.supervision, config.healthy_cycle, config.mask_input) == ("paired", True, True)
    assert (config.final_activation, config.adversarial, config.long_skips) == ("none", "lsgan", False)
    assert (config.discriminator_first_norm, config.discriminator_updates) == (True, 1)
    adam = make(supervision="unpaired").optimisers()
    assert {(one.lr, one.betas, one.weight_decay) for one in adam.values()} == {(2e-4, (0.5, 0.999), 0)}


@pytest.mark.parametrize("setting", [{"mask_weight": -1}, {"width": 0}, {"discriminator_layers": 5},
                                     {"gradient_penalty": -1}, {"discriminator_updates": 0}])  # fmt: skip
def test_impossible_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        PseudoHealthyConfig(**setting)
