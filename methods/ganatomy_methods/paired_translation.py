"""Paired translation: from one image to another of the same patient, where a cohort is registered.

Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017 (pix2pix): a generator that
keeps to the true image by L1, and a discriminator that sees it beside its source. With ``adversarial_weight`` 0 it is
plain regression, the baseline. L1 counts in the body. Differences from the paper: docs/paired_translation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ganatomy.contracts import Adam, Batch, Method, Phase, Synthetic, Task, Update, body
from ganatomy_methods.common.adversarial import constant_then_decay, discrimination
from ganatomy_methods.common.losses import l1_where, lsgan_generator
from ganatomy_methods.common.networks import PatchDiscriminator, ResnetGenerator, scaled
from ganatomy_methods.common.segmentors import UNet, base_width
from ganatomy_methods.common.settings import require_within


@dataclass(frozen=True)
class PairedTranslationConfig:
    """Settings of PairedTranslation.

    generator: ``unet``, with skips at every scale; ``resnet``, that of CycleGAN.  residual_blocks: of the resnet.
    adversarial_weight: of the adversarial loss beside an L1 of weight 1; 0 is regression, without a discriminator. The
    paper's λ = 100 of the L1 is 0.01 here.
    outside_weight: of the L1 outside the body, which keeps air what it is.
    width: factor on all inner channels.  discriminator_layers: see PatchDiscriminator.  learning_rate: of both.
    """

    generator: Literal["unet", "resnet"] = "unet"
    residual_blocks: int = 9
    adversarial_weight: float = 0.01
    outside_weight: float = 0.3
    width: float = 1.0
    discriminator_layers: int = 3
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        weights = ("adversarial_weight", "outside_weight", "learning_rate", "residual_blocks")
        require_within(self, **dict.fromkeys(weights, (0, math.inf)))
        require_within(self, width=(0.01, math.inf), discriminator_layers=(1, 6))


class PairedTranslation(Method):
    """Network G: A -> B and, unless it is regression, D, which judges pairs of an image of A and one of B.

    Roles A and B, registered: images x_A, x_B [N, 1, *S] in [-1, 1] of one examination; labels are never looked at.
    Nothing is made from B.
    """

    Config: ClassVar[type] = PairedTranslationConfig
    registered: ClassVar[bool] = True
    generators: ClassVar[tuple[str, ...]] = ("G",)
    config: PairedTranslationConfig

    def __init__(self, config: PairedTranslationConfig, task: Task) -> None:
        super().__init__(config, task)
        self.G = self._generator()
        if config.adversarial_weight:
            self.D = PatchDiscriminator(task.ndim, config.width, config.discriminator_layers, channels=2)

    def _generator(self) -> nn.Module:
        ndim, width = self.task.ndim, self.config.width
        if self.config.generator == "resnet":
            return ResnetGenerator(ndim, width, self.config.residual_blocks)
        # No tanh at its end: a saturated one learns nothing more, and air is where it would have to be saturated.
        return UNet(ndim, 1, 1, scaled(base_width(ndim, None), width), norm="instance")

    def optimisers(self) -> dict[str, Adam]:
        """Adam with momentum 0.5 for each network."""
        return {name: Adam(self.config.learning_rate, (0.5, 0.999)) for name in self.networks()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """Half of the generator's steps at constant rate, half decaying; there is no segmentor."""
        return constant_then_decay(generator_steps)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update G, then D. Returns the terms of each objective. Equation numbers are those of Isola et al. 2017."""
        config = self.config
        x_A, x_B = batch["A"].image, batch["B"].image
        inside = body(x_A, x_B)
        losses: dict[str, Tensor] = {}

        with update("G") as minimise:  # eq. 4; D fixed
            fake_B = self.G(x_A)
            distance = l1_where(fake_B, x_B, inside)  # eq. 3, in the body
            outside = l1_where(fake_B, x_B, ~inside)
            objective = distance + config.outside_weight * outside
            if config.adversarial_weight:
                adversarial = lsgan_generator(self.D(torch.cat([x_A, fake_B], dim=1)))  # eq. 1, least squares
                objective = objective + config.adversarial_weight * adversarial
                losses["adversarial"] = adversarial.detach()
            minimise(objective)
        losses |= {"l1": distance.detach(), "l1_outside": outside.detach()}

        if config.adversarial_weight:
            with update("D") as minimise:  # eq. 1, the other side; G fixed
                real, fake = torch.cat([x_A, x_B], dim=1), torch.cat([x_A, fake_B.detach()], dim=1)
                judged = discrimination(self.D, real, fake)
                minimise(judged)
            losses["discriminator"] = judged.detach()
        return losses

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """The images G(x_A), which show what the labels of A say."""
        if "A" not in batch:
            return []
        made = self.G(batch["A"].image).float().clamp(-1, 1)
        return [Synthetic(made, role="B", source="A")]
