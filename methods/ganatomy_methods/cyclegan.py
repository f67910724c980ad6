"""CycleGAN: unpaired translation with adversarial and cycle losses only; the baseline of several papers.

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017.
G_A and D_A are named by the domain that G_A makes and D_A judges, as in the other methods here.
Differences from the paper: docs/cyclegan.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ganatomy.contracts import Adam, Batch, Method, Phase, Synthetic, Task, Update
from ganatomy_methods.common.adversarial import both_ways, constant_then_decay, discrimination
from ganatomy_methods.common.buffers import ReplayPool
from ganatomy_methods.common.losses import l1, lsgan_generator
from ganatomy_methods.common.networks import PatchDiscriminator, ResnetGenerator, UNetGenerator
from ganatomy_methods.common.settings import require_within


@dataclass(frozen=True)
class CycleGANConfig:
    """Settings of CycleGAN; the defaults are the paper's.

    generator: ``resnet``, the paper's; ``unet_t1``, that of Cai et al. 2019, Table 1, whose "without shape consistency"
    baseline this is.  residual_blocks: of the resnet; 9, or 6 for images up to 128 pixels.
    cycle_weight: λ.  identity_weight: weight of |G_A(x_A) - x_A| + |G_B(x_B) - x_B|, absent from the medical papers
    (public CycleGAN programs use 5).
    use_reconstructed: reconstructions too are synthetic images.  width: factor on all inner channels.
    discriminator_layers, final_activation: see PatchDiscriminator.  pool_size: past fakes kept per domain, 0 for none.
    learning_rate: of all networks.
    """

    generator: Literal["resnet", "unet_t1"] = "resnet"
    residual_blocks: int = 9
    cycle_weight: float = 10.0
    identity_weight: float = 0.0
    use_reconstructed: bool = True
    width: float = 1.0
    discriminator_layers: int = 3
    final_activation: Literal["none", "sigmoid"] = "none"
    pool_size: int = 50
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        weights = ("cycle_weight", "identity_weight", "pool_size", "learning_rate", "residual_blocks")
        require_within(self, **dict.fromkeys(weights, (0, math.inf)))
        require_within(self, width=(0.01, math.inf), discriminator_layers=(1, 6))


class CycleGAN(Method):
    """Networks G_A: B -> A, G_B: A -> B, and for each domain a discriminator D.

    Roles A and B, unpaired: images x [N, 1, *S] in [-1, 1]; labels are never looked at.
    """

    Config: ClassVar[type] = CycleGANConfig
    config: CycleGANConfig

    def __init__(self, config: CycleGANConfig, task: Task) -> None:
        super().__init__(config, task)
        self.G_A = self._generator()
        self.G_B = self._generator()
        judge = (task.ndim, config.width, config.discriminator_layers, config.final_activation)
        self.D_A = PatchDiscriminator(*judge)
        self.D_B = PatchDiscriminator(*judge)
        self.pool_A = ReplayPool(config.pool_size, stream=0)
        self.pool_B = ReplayPool(config.pool_size, stream=1)

    def _generator(self) -> nn.Module:
        if self.config.generator == "unet_t1":
            return UNetGenerator(self.task.ndim, self.config.width)
        return ResnetGenerator(self.task.ndim, self.config.width, self.config.residual_blocks)

    def optimisers(self) -> dict[str, Adam]:
        """Adam with momentum 0.5 for each network."""
        return {name: Adam(self.config.learning_rate, (0.5, 0.999)) for name in self.networks()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """Half of the generators' steps at constant rate, half decaying (100 + 100 epochs); there is no segmentor."""
        return constant_then_decay(generator_steps)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update G, then D. Returns the terms of each objective. Equation numbers are those of Zhu et al. 2017."""
        config = self.config
        G_A, G_B, D_A, D_B = self.G_A, self.G_B, self.D_A, self.D_B
        x_A, x_B = batch["A"].image, batch["B"].image
        losses: dict[str, Tensor] = {}

        with update("G_A", "G_B") as minimise:  # eq. 3; D fixed
            fake_A, fake_B = G_A(x_B), G_B(x_A)
            adversarial = lsgan_generator(D_A(fake_A)) + lsgan_generator(D_B(fake_B))  # eq. 1 in section 4's form
            cycle = l1(G_A(fake_B), x_A) + l1(G_B(fake_A), x_B)  # eq. 2
            objective = adversarial + config.cycle_weight * cycle
            if config.identity_weight:
                identity = l1(G_A(x_A), x_A) + l1(G_B(x_B), x_B)  # section 5.2
                objective = objective + config.identity_weight * identity
                losses["identity"] = identity.detach()
            minimise(objective)
        losses |= {"adversarial": adversarial.detach(), "cycle": cycle.detach()}

        with update("D_A", "D_B") as minimise:  # eq. 1, the other side; G fixed
            discrimination_A = discrimination(D_A, x_A, self.pool_A(fake_A))
            discrimination_B = discrimination(D_B, x_B, self.pool_B(fake_B))
            minimise(discrimination_A + discrimination_B)
        losses["discriminator"] = (discrimination_A + discrimination_B).detach()
        return losses

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """Translations of the roles present and, with ``use_reconstructed``, their reconstructions."""
        return both_ways(batch, self.G_A, self.G_B, reconstructed=self.config.use_reconstructed)
