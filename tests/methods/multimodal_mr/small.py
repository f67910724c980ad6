"""The multi-modal method with small networks, and registered brains of noise with a lesion of every class."""

import torch

from ganatomy.contracts import Images, Task
from ganatomy_methods.common.segmentors import UNet
from ganatomy_methods.multimodal_mr import MultimodalMR, MultimodalMRConfig

CLASSES, SIDE = 5, 32
SMALL = {"width": 0.05, "discriminator_layers": 1, "residual_blocks": 1}


def make(seed=0, **chosen):
    torch.manual_seed(seed)
    return MultimodalMR(MultimodalMRConfig(**{**SMALL, **chosen}), Task(2, CLASSES, lambda: UNet(2, 1, CLASSES, 4)))


def brains(count, seed):
    """Discs of noise on a background of -1, with a square lesion of every class inside."""
    random = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, SIDE)
    disc = (axis[:, None] ** 2 + axis[None] ** 2 < 0.7).float()
    image = (torch.rand(count, 1, SIDE, SIDE, generator=random) * 0.5 + 0.4) * disc
    label = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    for n in range(count):
        row, column = torch.randint(10, 16, (2,), generator=random).tolist()
        for c in range(1, CLASSES):
            label[n, row + c : row + 6, column : column + 6 - c] = c
    return Images(2 * image - 1, label, tuple(f"{seed}-{n}" for n in range(count)))


def batch(count=2, seed=0):
    return {role: brains(count, 100 * seed + k) for k, role in enumerate(MultimodalMR.roles)}
