"""A segmentor in whose training a process hangs, once: as real ones do, in a lock that nobody opens."""

from __future__ import annotations

import threading
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn

from ganatomy_methods.common.segmentors import UNet

HANGS_AT = 5
"""Of the passes of one process."""


class Hanging(nn.Module):
    """``network``; once alone and once in a group, as told by files in ``flags``, a pass of it never ends."""

    def __init__(self, network: nn.Module, flags: Path) -> None:
        super().__init__()
        self.network, self.flags = network, flags
        self.passes = 0

    def forward(self, image: Tensor) -> Tensor:
        self.passes += self.training
        if self.passes == HANGS_AT:
            try:
                (self.flags / ("group" if dist.is_initialized() else "alone")).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                threading.Event().wait()
        return self.network(image)


def network(*, ndim: int, in_channels: int, classes: int, width: int, flags: str) -> nn.Module:
    """A U-Net that hangs."""
    return Hanging(UNet(ndim=ndim, in_channels=in_channels, classes=classes, width=width), Path(flags))
