"""Conditional GAN: a generator and a discriminator and nothing else; the weaker baseline of pseudo-healthy synthesis.

Xia, Chartsias & Tsaftaris, "Adversarial pseudo healthy synthesis needs pathology factorization", MIDL 2019,
section 4.1. Conditional on the image that it is given, in that G starts from an image and not from noise; the
discriminator is not conditioned, since the data are unpaired. Differences: docs/conditional_gan.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ganatomy.contracts import Adam, Batch, Method, Phase, Synthetic, Task, Update
from ganatomy_methods.common.adversarial import constant_then_decay, discrimination
from ganatomy_methods.common.losses import lsgan_generator
from ganatomy_methods.common.pathology import PathologyDiscriminator, PathologyGenerator
from ganatomy_methods.common.settings import require_within


@dataclass(frozen=True)
class ConditionalGANConfig:
    """Settings of ConditionalGAN.

    width: factor on all channels.  residual_blocks: of G.  long_skips: see PathologyGenerator.  discriminator_layers,
    final_activation, discriminator_first_norm: see PathologyDiscriminator.
    learning_rate: of both networks; not in the paper.
    """

    width: float = 1.0
    residual_blocks: int = 6
    long_skips: bool = False
    discriminator_layers: int = 4
    final_activation: Literal["none", "sigmoid"] = "none"
    discriminator_first_norm: bool = True
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        require_within(self, residual_blocks=(0, math.inf), learning_rate=(0, math.inf))
        require_within(self, width=(0.01, math.inf), discriminator_layers=(1, 4))


class ConditionalGAN(Method):
    """Networks G: P -> H and D_x, the discriminator of healthy images.

    Roles P, pathological, and H, healthy: images [N, 1, *S] in [-1, 1], unpaired; labels are never looked at. Inside,
    images lie in [0, 1] as in the paper. Nothing is made from H.
    """

    Config: ClassVar[type] = ConditionalGANConfig
    roles: ClassVar[tuple[str, ...]] = ("P", "H")
    generators: ClassVar[tuple[str, ...]] = ("G",)
    multiple_of: ClassVar[int] = 16
    config: ConditionalGANConfig

    def __init__(self, config: ConditionalGANConfig, task: Task) -> None:
        super().__init__(config, task)
        self.G = PathologyGenerator(task.ndim, config.width, config.residual_blocks, long_skips=config.long_skips)
        layers, first_norm = config.discriminator_layers, config.discriminator_first_norm
        self.D_x = PathologyDiscriminator(task.ndim, config.width, layers, config.final_activation, first_norm)

    def optimisers(self) -> dict[str, Adam]:
        """Adam with momentum 0.5 for each network."""
        return {name: Adam(self.config.learning_rate, (0.5, 0.999)) for name in self.networks()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """Half of the generator's steps at constant rate, half decaying; there is no segmentor."""
        return constant_then_decay(generator_steps)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update G, then D_x. Returns both objectives."""
        x_p, x_h = (batch["P"].image + 1) / 2, (batch["H"].image + 1) / 2
        with update("G") as minimise:
            fake_h = self.G(x_p)
            adversarial = lsgan_generator(self.D_x(fake_h))
            minimise(adversarial)

        with update("D_x") as minimise:
            judged = discrimination(self.D_x, x_h, fake_h.detach())
            minimise(judged)
        return {"adversarial": adversarial.detach(), "discriminator": judged.detach()}

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """The pseudo-healthy images G(x_p), with empty labels."""
        if "P" not in batch:
            return []
        made = self.G((batch["P"].image + 1) / 2).float() * 2 - 1
        return [Synthetic(made, role="H", source="P", label=torch.zeros_like(made[:, 0], dtype=torch.long))]
