"""The smallest translation there is: one gain and one offset a direction, such that mean and spread match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ganatomy.contracts import Adam, Batch, Method, Phase, Synthetic, Task, Update


@dataclass(frozen=True)
class MomentsConfig:
    """learning_rate: of both maps.  spread_weight: weight of the spread's difference against the mean's."""

    learning_rate: float = 0.05
    spread_weight: float = 1.0


class Moments(Method):
    """G_A: B -> A and G_B: A -> B, each x -> gain * x + offset.

    Roles A and B, unpaired: x [N, 1, *S] in [-1, 1]; labels are never looked at.
    """

    Config: ClassVar[type] = MomentsConfig
    config: MomentsConfig

    def __init__(self, config: MomentsConfig, task: Task) -> None:
        super().__init__(config, task)
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[task.ndim]
        self.G_A = convolution(1, 1, kernel_size=1)
        self.G_B = convolution(1, 1, kernel_size=1)

    def optimisers(self) -> dict[str, Adam]:
        """Adam for both maps."""
        return {name: Adam(self.config.learning_rate) for name in self.networks()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """One phase, the rate falling all along it."""
        return (Phase("match", generator_steps, decay=True),)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """|mean(G(x)) - mean(y)| + weight * |std(G(x)) - std(y)|, both ways."""
        x_A, x_B = batch["A"].image, batch["B"].image
        with update("G_A", "G_B") as minimise:
            moments = self._distance(self.G_A(x_B), x_A) + self._distance(self.G_B(x_A), x_B)
            minimise(moments)
        return {"moments": moments.detach()}

    def _distance(self, fake: Tensor, real: Tensor) -> Tensor:
        return (fake.mean() - real.mean()).abs() + self.config.spread_weight * (fake.std() - real.std()).abs()

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """The translation of each role present."""
        directions = (("A", "B", self.G_B), ("B", "A", self.G_A))
        return [
            Synthetic(generator(batch[source].image).clamp(-1, 1), role=role, source=source)
            for source, role, generator in directions
            if source in batch
        ]
