"""Pseudo-healthy synthesis with small networks, and batches for it."""

import torch
from torch import nn

from ganatomy.contracts import Images, Task
from ganatomy_methods.pseudo_healthy import PseudoHealthy, PseudoHealthyConfig

SMALL = {"width": 0.05, "discriminator_layers": 1, "residual_blocks": 1, "segmentor_scales": 1}


def make(seed=0, **settings):
    torch.manual_seed(seed)
    return PseudoHealthy(PseudoHealthyConfig(**{**SMALL, **settings}), Task(2, 2, nn.Identity))


def batch(seed=0, count=2, side=16):
    """Random images; a square of pathology in P and, elsewhere, in the masks of other volumes."""
    random = torch.Generator().manual_seed(seed)
    drawn = {}
    for role, corner in (("P", 2), ("H", None), ("masks", 9)):
        label = torch.zeros(count, side, side, dtype=torch.long)
        if corner is not None:
            label[:, corner : corner + 4, corner : corner + 5] = 1
        image = torch.rand(count, 1, side, side, generator=random) * 2 - 1
        drawn[role] = Images(image, label, tuple(f"{role}{i}" for i in range(count)))
    return drawn
