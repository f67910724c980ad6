"""What methods that translate after CycleGAN share: their schedule, the discriminator's side, the images of both ways.

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganatomy.contracts import Batch, Phase, Synthetic
from ganatomy_methods.common.losses import lsgan_discriminator


def constant_then_decay(steps: int) -> tuple[Phase, ...]:
    """Half of the steps at a constant rate, half decaying to 0 (100 + 100 epochs in the paper)."""
    decay = steps // 2
    phases = Phase("constant", steps - decay), Phase("decay", decay, decay=True)
    return tuple(phase for phase in phases if phase.steps)


def discrimination(D: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Least-squares objective of D, which sees real and fake images [N, 1, *S] in one batch; the fakes are detached."""
    real_score, fake_score = D(torch.cat([real, fake])).split([len(real), len(fake)])
    return lsgan_discriminator(real_score, fake_score)


def both_ways(batch: Batch, G_A: nn.Module, G_B: nn.Module, *, reconstructed: bool) -> list[Synthetic]:
    """Translations of the roles A and B that are in ``batch``; with ``reconstructed``, those turned back as well.

    G_A makes images of A, G_B of B.
    """
    made: list[Synthetic] = []
    for role, other, there, back in (("A", "B", G_B, G_A), ("B", "A", G_A, G_B)):
        if role not in batch:
            continue
        fake = there(batch[role].image)
        made.append(Synthetic(fake.float(), role=other, source=role))
        if reconstructed:
            made.append(Synthetic(back(fake).float(), role=role, source=role, kind="reconstructed"))
    return made
