"""The cycle- and shape-consistent GAN against its paper: what terms do, what updates touch, the schedule."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ganatomy.contracts import UNLABELLED, Images, InputError, Task
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.common.segmentors import UNet
from ganatomy_methods.shape_consistent import ShapeConsistent, ShapeConsistentConfig


def make(seed=0, ndim=2, ratio=1.0, unlabelled="", segmentors=True, **chosen):
    torch.manual_seed(seed)
    task = Task(ndim, 3, lambda: UNet(ndim, 1, 3, width=4), synthetic_ratio=ratio, segmentors=segmentors,
                unlabelled=frozenset(unlabelled))  # fmt: skip
    return ShapeConsistent(ShapeConsistentConfig(**{"width": 0.05, "discriminator_layers": 1, **chosen}), task)


def batch(seed=0, count=2, ndim=2):
    random = torch.Generator().manual_seed(seed)

    def images():
        image = torch.rand(count, 1, *(16,) * ndim, generator=random) * 2 - 1
        return Images(image, torch.randint(0, 3, (count, *(16,) * ndim), generator=random))

    return {"A": images(), "B": images()}


class Inspected:
    """An update that learns nothing: it differentiates and keeps each network's gradients as one vector."""

    def __init__(self, method, phase="joint"):
        self.method, self.phase, self.steps = method, phase, {}

    @contextmanager
    def __call__(self, *names):
        self.method.zero_grad(set_to_none=True)
        for name, network in self.method.networks().items():
            network.requires_grad_(name in names)
        yield lambda loss: loss.backward()
        for name in names:
            gradients = [p.grad.flatten() for p in getattr(self.method, name).parameters() if p.grad is not None]
            self.steps[name] = torch.cat(gradients)


class Unlearned:
    """An update for networks without parameters."""

    phase = "joint"

    @contextmanager
    def __call__(self, *names):
        yield lambda loss: None


def calls_of(method, phase="joint"):
    """How often one step runs each network forward."""
    calls = dict.fromkeys(method.networks(), 0)

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    for name, network in method.networks().items():
        network.register_forward_hook(count(name))
    method.step(batch(), Inspected(method, phase))
    return calls


# --- eq. 1 to 5 on toys with known truth -------------------------------------------------------------------------


class Toy(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        return self.function(image)


def flip(image):
    return image.flip(-1)


def same(image):
    return image


def toy_method(G_A, G_B):
    """Domain A shows label 1 bright on dark, B dark on bright; segmentors threshold, discriminators see no place."""
    method = make(pool_size=0)
    method.G_A, method.G_B = Toy(G_A), Toy(G_B)
    method.S_A = Toy(lambda x: torch.cat([-20 * x, 20 * x, torch.full_like(x, -40)], dim=1))
    method.S_B = Toy(lambda x: torch.cat([20 * x, -20 * x, torch.full_like(x, -40)], dim=1))
    method.D_A = method.D_B = Toy(lambda x: torch.stack([x.mean((1, 2, 3)), (x**3).mean((1, 2, 3))], dim=1))
    return method


def toy_batch():
    """The same lopsided shape in both domains."""
    label = torch.zeros(1, 16, 16, dtype=torch.long)
    label[:, 3:9, 1:6] = 1
    image = label[:, None].float() * 2 - 1
    return {"A": Images(image, label), "B": Images(-image, label)}


def test_cycle_and_adversarial_losses_are_blind_to_a_flip_and_the_shape_loss_is_not():
    """T-B3, the ambiguity of section 3.3: G_B = T c and G_A = c^-1 T^-1, with c the inversion of intensities."""
    honest = toy_method(lambda x: -x, lambda x: -x).step(toy_batch(), Unlearned())
    flipping = toy_method(lambda x: -flip(x), lambda x: flip(-x)).step(toy_batch(), Unlearned())
    assert honest["cycle"] == flipping["cycle"] == 0
    torch.testing.assert_close(flipping["adversarial"], honest["adversarial"])
    torch.testing.assert_close(flipping["discriminator"], honest["discriminator"])
    assert honest["shape"] < 1e-6
    assert flipping["shape"] > honest["shape"] + 1


def test_the_ambiguity_needs_the_transformation_after_one_generator_and_before_the_other():
    """X33: eq. 1 as printed, G_A T with G_B T^-1, is cycle-consistent only for generators that commute with T."""

    def G_B(x):  # invertible, and it knows its place: it does not commute with the flip
        return x.cumsum(-1)

    def G_A(x):
        return torch.diff(x, dim=-1, prepend=torch.zeros_like(x[..., :1]))

    plain = toy_method(G_A, G_B).step(toy_batch(), Unlearned())
    around = toy_method(lambda x: G_A(flip(x)), lambda x: flip(G_B(x))).step(toy_batch(), Unlearned())
    printed = toy_method(lambda x: G_A(flip(x)), lambda x: G_B(flip(x))).step(toy_batch(), Unlearned())
    assert plain["cycle"] == around["cycle"] == 0
    assert printed["cycle"] > 0.1


@pytest.mark.parametrize("T", [same, flip], ids=["identity", "flip"])
def test_a_synthetic_image_carries_the_label_of_what_it_was_made_from(T):
    """Shapes differ between the domains, so a swap of y_A and y_B would show."""
    images = toy_batch()
    other = images["B"].label.roll(5, 1)
    images["B"] = Images(-(other[:, None].float() * 2 - 1), other)
    losses = toy_method(lambda x: -T(x), lambda x: T(-x)).step(images, Unlearned())
    assert losses["segmentation_real"] < 1e-6
    assert (losses["shape"] < 1e-6) == (T is same)
    # Reconstructions are exact and translations are worth what the shape loss says: the sum is the same number.
    torch.testing.assert_close(losses["segmentation_synthetic"], losses["shape"])


# --- what learns, and from what ----------------------------------------------------------------------------------


def test_without_shape_weight_generators_know_nothing_of_segmentors():
    """T-B4."""
    with_one, with_other = make(shape_weight=0), make(shape_weight=0)
    for parameter in with_other.S_A.parameters():
        parameter.data.add_(1)
    first, second = Inspected(with_one), Inspected(with_other)
    losses = with_one.step(batch(), first)
    with_other.step(batch(), second)
    for name in ("G_A", "G_B", "D_A", "D_B"):
        assert torch.equal(first.steps[name], second.steps[name])
    assert not torch.equal(first.steps["S_A"], second.steps["S_A"])
    assert "shape" not in losses


def test_the_shape_loss_reaches_each_generator_through_a_fixed_segmentor():
    """T-B4."""
    off, on = Inspected(make(shape_weight=0)), Inspected(make(shape_weight=1))
    off.method.step(batch(), off)
    on.method.step(batch(), on)
    for name in ("G_A", "G_B"):
        assert (on.steps[name] - off.steps[name]).abs().max() > 0
    for name in ("D_A", "D_B", "S_A", "S_B"):
        assert torch.equal(on.steps[name], off.steps[name])


def test_the_weights_of_eq_6_are_linear():
    """Gradient of the whole = adversarial + λ cycle + γ shape, so a doubled weight adds its own term once more."""

    def gradient(**chosen):
        update = Inspected(make(**chosen).double())
        double = {role: Images(images.image.double(), images.label) for role, images in batch().items()}
        update.method.step(double, update)
        return update.steps["G_A"]

    none = gradient(cycle_weight=0, shape_weight=0)
    cycle = gradient(cycle_weight=1, shape_weight=0) - none
    shape = gradient(cycle_weight=0, shape_weight=1) - none
    torch.testing.assert_close(gradient(cycle_weight=10, shape_weight=3), none + 10 * cycle + 3 * shape)
    assert cycle.abs().max() > 0


class Only:
    """The loop's update, except that of all steps only those of ``wanted`` are taken."""

    phase = "pretrain_generators"

    def __init__(self, method, *wanted):
        self.inner, self.wanted = OptimisationStep(method.networks(), method.optimisers()), wanted

    @contextmanager
    def __call__(self, *names):
        if names == self.wanted:
            with self.inner(*names) as minimise:
                yield minimise
        else:
            yield lambda loss: None


@torch.no_grad()
def judged(method, images, fake):
    """Mean score of A's discriminator on real images, and on ``fake``."""
    return method.D_A(images["A"].image).mean(), method.D_A(fake).mean()


def test_discriminator_steps_separate_real_from_fake():
    """T-A1, through the method: a wrong sign or swapped targets (X1) fail here.

    One step must lower the loss; the gap between mean scores follows only over several, as it is no gradient of it.
    """
    method, images = make(pool_size=0, learning_rate=2e-3), batch()
    fake = method.G_A(images["B"].image).detach()
    real_before, fake_before = judged(method, images, fake)
    update = Only(method, "D_A", "D_B")
    losses = [method.step(images, update)["discriminator"] for _ in range(20)]
    real_after, fake_after = judged(method, images, fake)
    assert losses[1] < losses[0]
    assert real_after - fake_after > real_before - fake_before + 0.05


def test_one_generator_step_persuades_the_discriminator():
    """T-A1."""
    method, images = make(pool_size=0, cycle_weight=0), batch()
    _, before = judged(method, images, method.G_A(images["B"].image))
    method.step(images, Only(method, "G_A", "G_B"))
    _, after = judged(method, images, method.G_A(images["B"].image))
    assert after > before


def test_segmentors_learn_real_synthetic_and_reconstructed_images_at_the_asked_ratio():
    """X9, and ``synthetic_ratio``: terms add up linearly; a ratio of 0 is training on real images alone."""

    def gradient(ratio, phase="joint", **chosen):
        update = Inspected(make(ratio=ratio, **chosen), phase)
        update.method.step(batch(), update)
        return update.steps["S_A"]

    real = gradient(0)
    torch.testing.assert_close(real, gradient(1, "pretrain_segmentors"))
    both = gradient(1) - real
    torch.testing.assert_close(gradient(3), real + 3 * both, rtol=1e-4, atol=1e-5)
    translated = gradient(1, use_reconstructed=False) - real
    assert translated.abs().max() > 0
    assert (both - translated).abs().max() > 0


def test_an_unlabelled_image_still_trains_the_adversaries():
    """``gan_sees=all``: no label, no shape or segmentation term, but adversarial and cycle terms as before."""
    images = batch()
    images["B"] = Images(images["B"].image, torch.full_like(images["B"].label, UNLABELLED))
    labelled, unlabelled = Inspected(make(shape_weight=0)), Inspected(make(shape_weight=0))
    labelled.method.step(batch(), labelled)
    losses = unlabelled.method.step(images, unlabelled)
    for name in ("G_A", "G_B", "D_A", "D_B"):
        assert torch.equal(labelled.steps[name], unlabelled.steps[name])
    assert torch.isfinite(torch.stack(list(losses.values()))).all()
    update = Inspected(make(use_reconstructed=False))
    update.method.step({"A": images["B"], "B": images["B"]}, update)
    assert update.steps["S_A"].abs().max() == 0


def test_nothing_is_computed_twice():
    """Two translations and two reconstructions; D and S once for G and once for themselves, all kinds in one pass."""
    joint = {"G_A": 2, "G_B": 2, "D_A": 2, "D_B": 2, "S_A": 2, "S_B": 2}
    assert calls_of(make()) == joint
    assert calls_of(make(shape_weight=0)) == {**joint, "S_A": 1, "S_B": 1}
    assert calls_of(make(), "pretrain_generators") == {**joint, "S_A": 0, "S_B": 0}
    assert calls_of(make(), "pretrain_segmentors") == dict.fromkeys(joint, 0) | {"S_A": 1, "S_B": 1}


def test_pools_feed_the_discriminators_and_never_the_segmentors_or_generators():
    method = make(pool_size=3)
    for seed in range(4):
        method.step(batch(seed), Inspected(method))
    assert len(method.pool_A.images) == len(method.pool_B.images) == 3
    for pool in (method.pool_A, method.pool_B):
        pool.images = [torch.full_like(image, float("nan")) for image in pool.images]
    update, spoiled = Inspected(method), False
    for seed in range(8):  # a stored image comes back half of the time
        losses = method.step(batch(seed), update)
        for name in ("adversarial", "cycle", "shape", "segmentation_real", "segmentation_synthetic"):
            assert torch.isfinite(losses[name])
        spoiled |= bool(torch.isnan(losses["discriminator"]))
    assert spoiled


# --- schedule ----------------------------------------------------------------------------------------------------


def test_the_papers_schedule():
    """Section 4.2: S 100 epochs and G 60 beforehand, 50 jointly, 50 decaying."""
    phases = [(phase.name, phase.steps, phase.decay) for phase in make().phases(160, 200)]
    assert phases == [
        ("pretrain_segmentors", 100, False),
        ("pretrain_generators", 60, False),
        ("joint", 50, False),
        ("decay", 50, True),
    ]


def test_from_scratch_has_joint_phases_only():
    method = make(from_scratch=True)
    assert [(phase.name, phase.steps) for phase in method.phases(101, 101)] == [("joint", 51), ("decay", 50)]
    for generator_steps in (100, 102):
        with pytest.raises(InputError, match="101"):
            method.phases(generator_steps, 101)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 500), st.integers(1, 500), st.floats(0, 1))
def test_budgets_are_kept_or_refused(generator_steps, segmentor_steps, fraction):
    joint = segmentor_steps - round(fraction * segmentor_steps)
    method = make(pretrain_fraction=fraction)
    if joint > generator_steps:
        with pytest.raises(InputError, match="generator_steps"):
            method.phases(generator_steps, segmentor_steps)
        return
    steps = {phase.name: phase.steps for phase in method.phases(generator_steps, segmentor_steps)}
    together = steps.get("joint", 0) + steps.get("decay", 0)
    assert steps.get("pretrain_generators", 0) + together == generator_steps
    assert steps.get("pretrain_segmentors", 0) + together == segmentor_steps
    assert min(steps.values()) > 0


@pytest.mark.parametrize(
    "setting",
    [
        {"width": 0},
        {"cycle_weight": -1},
        {"shape_weight": float("nan")},
        {"pretrain_fraction": 1.5},
        {"discriminator_layers": 0},
        {"pool_size": -1},
    ],
)
def test_impossible_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        ShapeConsistentConfig(**setting)


def test_defaults_are_the_papers():
    config = ShapeConsistentConfig()
    assert (config.cycle_weight, config.shape_weight, config.learning_rate, config.pool_size) == (10, 1, 2e-4, 50)
    adams = make().optimisers()
    assert adams["G_A"].betas == adams["D_B"].betas == (0.5, 0.999)
    assert adams["S_A"].betas == (0.9, 0.999)
    assert {adam.lr for adam in adams.values()} == {2e-4}
