"""Label-conditional diffusion: the loss of Ho et al., DDIM's steps, labels as channels, and images drawn of them."""

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler
from torch import nn

from ganatomy.contracts import UNLABELLED, Images, InputError, Task
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.diffusion import Diffusion, DiffusionConfig
from methods.inspected import Inspected

CLASSES = 3
PREDICTIONS = ("epsilon", "v_prediction")


def make(**settings):
    torch.manual_seed(0)
    small = {"width": 0.125, "residual_blocks": 1, "sampling_steps": 10}
    return Diffusion(DiffusionConfig(**{**small, **settings}), Task(2, CLASSES, nn.Identity))


def batch(count=2, side=16):
    """Images that are what their labels say: -0.8, 0, 0.8."""
    label = torch.randint(0, CLASSES, (count, side // 4, side // 4), generator=torch.Generator().manual_seed(0))
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return {"B": Images(0.8 * (label[:, None] - 1.0), label)}


class Oracle(nn.Module):
    """Knows the image behind the noise, and so what the network is to tell."""

    def __init__(self, image, alphas, predicts):
        super().__init__()
        self.image, self.alphas, self.predicts = image, alphas, predicts

    def forward(self, x, timesteps, context=None):
        alpha = self.alphas[int(timesteps[0])]
        noise = (x[:, :1] - alpha**0.5 * self.image) / (1 - alpha) ** 0.5
        return noise if self.predicts == "epsilon" else alpha**0.5 * noise - (1 - alpha) ** 0.5 * self.image


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["linear_beta", "cosine"])
@pytest.mark.parametrize("steps", [1, 8, 1000])
def test_whoever_knows_the_noise_has_the_image_back_in_however_few_steps(predicts, schedule, steps):
    method, image = make(predicts=predicts, schedule=schedule, sampling_steps=steps), batch(1)["B"].image
    method.epsilon = Oracle(image, DDIMScheduler(1000, schedule).alphas_cumprod, predicts)
    made = method._denoised(torch.randn(1, 1, 16, 16), torch.zeros(1, CLASSES, 16, 16))
    torch.testing.assert_close(made, image, rtol=0, atol=5e-3)


def test_the_last_image_is_noise_whatever_the_number_of_steps():
    for schedule in ("linear_beta", "cosine"):
        for T in (10, 100, 500, 1000):
            kept = make(noise_steps=T, schedule=schedule)._scheduler.alphas_cumprod[-1] ** 0.5
            assert float(kept) < 0.05, (schedule, T)


@pytest.mark.parametrize("steps", [1, 10, 50, 1000])
def test_all_steps_are_as_long_and_go_from_the_noisiest_to_the_image(steps):
    scheduler = make(sampling_steps=steps)._scheduler
    assert scheduler.timesteps[0] == 999
    assert len(scheduler.timesteps) == steps
    long = scheduler.num_train_timesteps // scheduler.num_inference_steps  # so far MONAI steps back
    assert torch.equal(scheduler.timesteps - long, torch.cat([scheduler.timesteps[1:], torch.tensor([-1])]))


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_objective_is_the_squared_error_of_what_it_is_to_tell(predicts):
    """Ho et al. 2020, eq. 14: with the noise that it put in itself, seen by a network that is in the way of nothing."""
    method, images, update = make(predicts=predicts), batch(), Inspected()
    seen = []

    class Told(nn.Module):
        def forward(self, x, timesteps, context=None):
            seen.append((x, timesteps))
            return torch.zeros_like(x[:, :1])

    method.epsilon = Told()
    method.step(images, update)
    (x, t), image = seen[0], images["B"].image
    alpha = DDIMScheduler(1000).alphas_cumprod[t][:, None, None, None]
    noise = (x[:, :1] - alpha**0.5 * image) / (1 - alpha) ** 0.5
    sought = noise if predicts == "epsilon" else alpha**0.5 * noise - (1 - alpha) ** 0.5 * image
    torch.testing.assert_close(update.objectives["epsilon",], (sought**2).mean(), rtol=1e-3, atol=1e-4)
    assert torch.equal(x[:, 1:].argmax(1), images["B"].label)
    assert torch.equal(x[:, 1:].sum(1), torch.ones_like(x[:, 0]))
    assert len(set(t.tolist())) > 1


def test_of_an_image_without_a_label_nothing_is_known():
    method, label = make(), batch()["B"].label.clone()
    label[1] = UNLABELLED
    condition = method._condition(label, torch.zeros(1))
    assert condition[0].sum() == 16 * 16
    assert not condition[1].any()


def test_it_learns_what_its_labels_look_like():
    """After a short training images follow their labels, and one label's images differ in their noise alone."""
    method, images = make(learning_rate=5e-3, predicts="v_prediction"), batch(4)
    update = OptimisationStep(method.networks(), method.optimisers())
    for _ in range(60):
        method.step(images, update)
    method.eval()
    drawn = method.draw(images["B"].label, (0, 1, 2, 3), seed=0)
    wanted = 0.8 * (drawn.label[:, None] - 1.0)
    apart, swapped = ((drawn.images["B"] - other).abs().mean() for other in (wanted, wanted.roll(1, 0)))
    assert apart < 0.5 * swapped


def test_labels_are_drawn_by_turns_and_shown_as_they_are():
    method, labels = make(sampling_steps=1), batch(4)["B"].label
    drawn = method.draw(labels, range(8), seed=3)
    assert sorted(drawn.donors[:4]) == [0, 1, 2, 3]
    assert drawn.donors[:4] == drawn.donors[4:]
    assert torch.equal(drawn.label, labels[list(drawn.donors)])
    assert not torch.equal(drawn.images["B"][0], drawn.images["B"][4])  # one label, other noise
    assert method.draw(labels, (0,), seed=3).donors == drawn.donors[:1]
    assert len({method.draw(labels, range(4), seed=seed).donors for seed in range(8)}) > 1


def test_nothing_stands_still_at_the_start():
    """MONAI begins with layers of zeros, behind which nothing would learn in the first update."""
    assert all(weight.any() for name, weight in make().epsilon.named_parameters() if name.endswith("weight"))


def test_the_number_of_steps_matters_after_training_only():
    assert Diffusion.synthesis_settings == {"sampling_steps"}
    few, many = make(sampling_steps=1), make(sampling_steps=20)
    assert all(torch.equal(one, other) for one, other in zip(few.parameters(), many.parameters(), strict=True))


@pytest.mark.parametrize(
    "setting",
    [{"sampling_steps": 3}, {"sampling_steps": 2000}, {"noise_steps": 1}, {"width": 0}, {"learning_rate": -1}],
)
def test_impossible_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        make(**setting)


def test_what_it_cannot_draw_of_is_refused():
    with pytest.raises(InputError, match="without labels"):
        Diffusion(DiffusionConfig(width=0.125), Task(2, 1, nn.Identity))
    for labels, numbers in (
        (torch.zeros(1, 12, 16), (0,)),
        (torch.zeros(0, 16, 16), (0,)),
        (torch.zeros(1, 16, 16), ()),
    ):
        with pytest.raises(InputError, match="images from labels of shape"):
            make().draw(labels.long(), numbers, seed=0)
