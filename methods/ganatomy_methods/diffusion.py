"""Label-conditional diffusion in 2D: images drawn of noise and a label map, by MONAI's own network and schedulers.

Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020 (DDPM): ε_θ learns to tell the noise in an image.
Song et al., "Denoising diffusion implicit models", ICLR 2021 (DDIM): images of it in few steps, a function of the first
noise alone. The label stands beside the noisy image, a channel a class. Differences from both: docs/diffusion.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from torch import Tensor, nn

from ganatomy.contracts import UNLABELLED, Adam, Batch, InputError, Method, Phase, Registered, Synthetic, Task, Update
from ganatomy_methods.common.draws import SampleDraws, normal
from ganatomy_methods.common.settings import require_within

GROUP = 8
"""Channels of a level are a multiple of it: groups are normalised together, heads of attention are so wide."""


@dataclass(frozen=True)
class DiffusionConfig:
    """Settings of Diffusion.

    noise_steps: T, of the process that is learnt.  schedule: of its noise.  predicts: what the network tells of a noisy
    image, its noise ε (Ho et al.) or the velocity v (Salimans & Ho, ICLR 2022).
    sampling_steps: of DDIM, by which an image is made; a divisor of T.
    width: factor on 64, 128, 256 channels.  residual_blocks: at each of these scales.  learning_rate: of Adam.
    """

    noise_steps: int = 1000
    schedule: Literal["linear_beta", "cosine"] = "linear_beta"
    predicts: Literal["epsilon", "v_prediction"] = "epsilon"
    sampling_steps: int = 50
    width: float = 1.0
    residual_blocks: int = 2
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        require_within(self, noise_steps=(2, 10_000), sampling_steps=(1, self.noise_steps), width=(0.01, math.inf))
        require_within(self, residual_blocks=(1, math.inf), learning_rate=(0, math.inf))
        if self.noise_steps % self.sampling_steps:
            raise InputError(
                f"method.sampling_steps = {self.sampling_steps} of method.noise_steps = {self.noise_steps}",
                expected="a divisor of it, so that all steps are as long",
                remedy="--set method.sampling_steps=…",
            )


class Diffusion(Method):
    """Network epsilon: what noise is in a noisy image of B, of which its label and the step are known.

    Role B: images x [N, 1, H, W] in [-1, 1] with labels y [N, H, W]. An unlabelled image is learnt from as one of
    which nothing is known. Images are drawn of noise and the labels of training images, each as it is.
    """

    Config: ClassVar[type] = DiffusionConfig
    roles: ClassVar[tuple[str, ...]] = ("B",)
    ndims: ClassVar[frozenset[int]] = frozenset({2})
    generators: ClassVar[tuple[str, ...]] = ("epsilon",)
    draws_from_noise: ClassVar[bool] = True
    synthesis_settings: ClassVar[frozenset[str]] = frozenset({"sampling_steps"})
    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig, task: Task) -> None:
        super().__init__(config, task)
        if task.classes < 2:
            raise InputError("a cohort without labels", expected="labels, which this method draws images of",
                             remedy="import labels, or take a method that needs none: cyclegan")  # fmt: skip
        channels = [GROUP * max(1, round(wide * config.width / GROUP)) for wide in (64, 128, 256)]
        self.epsilon = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1 + task.classes,
            out_channels=1,
            channels=channels,
            num_res_blocks=config.residual_blocks,
            attention_levels=(False, False, True),
            norm_num_groups=GROUP,
            num_head_channels=GROUP,
        )
        _start(self.epsilon)
        self.draws = SampleDraws()

    def optimisers(self) -> dict[str, Adam]:
        """Adam with its usual momenta."""
        return {"epsilon": Adam(self.config.learning_rate, (0.9, 0.999))}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """All steps at constant rate, as in Ho et al.; there is no segmentor."""
        return (Phase("denoise", generator_steps),)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update epsilon. Returns the loss. Ho et al., algorithm 1."""
        x, condition = batch["B"].image, self._condition(batch["B"].label, batch["B"].image)
        randoms = self.draws(x)
        t = torch.cat([torch.randint(self.config.noise_steps, (1,), generator=random) for random in randoms])
        t, noise = t.to(x.device), normal(randoms, tuple(x.shape[1:]), x)
        scheduler = self._scheduler
        with update("epsilon") as minimise:
            told = DiffusionInferer(scheduler)(x, self.epsilon, noise, t, condition, mode="concat")
            sought = noise if self.config.predicts == "epsilon" else scheduler.get_velocity(x, noise, t)
            loss = F.mse_loss(told, sought)  # eq. 14
            minimise(loss)
        return {"denoising": loss.detach()}

    def _condition(self, label: Tensor, like: Tensor) -> Tensor:
        """[N, classes, H, W], 1 in the channel of a voxel's class; nothing but 0 for an image without a label."""
        known = F.one_hot(label.clamp_min(0), self.task.classes).movedim(-1, 1)
        return (known * (label != UNLABELLED)[:, None]).to(like)

    @cached_property
    def _scheduler(self) -> Any:
        """DDIM's, from T on in steps that are all T / sampling_steps long: MONAI steps back by so much, where its own
        list of steps has other distances."""
        config = self.config
        # The βs of Ho et al. are those of T = 1000: scaled, so that of any T the last image is noise.
        T = config.noise_steps
        betas = {"beta_start": min(0.1 / T, 0.999), "beta_end": min(20 / T, 0.999)}
        own = betas if config.schedule == "linear_beta" else {}
        scheduler = DDIMScheduler(T, config.schedule, prediction_type=config.predicts, **own)
        scheduler.set_timesteps(config.sampling_steps)
        scheduler.timesteps = torch.arange(config.noise_steps - 1, -1, -(config.noise_steps // config.sampling_steps))
        return scheduler

    def _denoised(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Images [N, 1, H, W] in [-1, 1] of standard normal noise. Song et al., eq. 12 with σ = 0."""
        scheduler = self._scheduler
        made = DiffusionInferer(scheduler).sample(
            noise, self.epsilon, scheduler, conditioning=condition, mode="concat", verbose=False
        )
        return made.float().clamp(-1, 1)

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """The labels of the images as images again, all of one and the same noise."""
        if "B" not in batch:
            return []
        image, label = batch["B"].image, batch["B"].label
        noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)
        made = self._denoised(noise.expand_as(image), self._condition(label, image))
        return [Synthetic(made, role="B", source="B", kind="reconstructed")]

    @torch.no_grad()
    def draw(self, labels: Tensor, numbers: Sequence[int], seed: int) -> Registered:
        """Images of noise, each of one of ``labels`` [M, H, W] as it is: by turns in a random order of theirs.

        Raises InputError on sides that are not multiples of 8, no labels or no numbers.
        """
        sides = tuple(labels.shape[1:])
        if not numbers or labels.dim() != 3 or not len(labels) or any(side % self.multiple_of for side in sides):
            raise InputError(f"{len(numbers)} images from labels of shape {tuple(labels.shape)}",
                             expected="[M, H, W] with M >= 1, H and W multiples of 8, and a count >= 1")  # fmt: skip
        weight = next(self.epsilon.parameters())
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
        donors = tuple(order[number % len(labels)] for number in numbers)
        images = []
        # One by one: in a batch, sums of another order would make an image depend on its neighbours.
        for number, donor in zip(numbers, donors):
            random = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
            noise = torch.randn((1, 1, *sides), generator=random).to(weight)
            images.append(self._denoised(noise, self._condition(labels[donor][None].to(weight.device), noise)))
        return Registered(
            images={"B": torch.cat(images)},
            label=labels[list(donors)].to(weight.device),
            outside=None,
            donors=donors,
            accepted=(True,) * len(numbers),
        )


def _start(network: nn.Module) -> None:
    """Small weights where MONAI has zeros: with those the first update would reach the last layer alone."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("weight"):
                weight.add_(1e-3 * torch.randn_like(weight) * (weight == 0))
