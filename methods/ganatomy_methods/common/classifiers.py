"""Classifiers of whole images: the dilated residual network of Gupta et al. 2019, fine-tuned in its last stages only,
and a densely connected one."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganatomy.contracts import InputError
from ganatomy_methods.common.networks import scaled

CHANNELS = (16, 16, 32, 64, 128, 256, 512, 512, 512)
STRIDES = (1, 1, 2, 2, 2, 1, 1, 1, 1)
DILATIONS = (1, 1, 1, 1, 1, 2, 4, 2, 1)
RESIDUAL_STAGES = (3, 4, 5, 6)
BLOCKS = 2


class BasicBlock(nn.Module):
    """ReLU(x + BN(conv(ReLU(BN(conv(x)))))), both convolutions dilated; a projection where shapes differ.

    [N, before, H, W] -> [N, after, H/stride, W/stride].
    """

    def __init__(self, before: int, after: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, 3, stride, dilation)
        self.second = _convolution(after, after, 3, 1, dilation)
        same = stride == 1 and before == after
        self.project = nn.Identity() if same else _convolution(before, after, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[N, before, H, W] -> [N, after, H/stride, W/stride]."""
        return F.relu(self.project(features) + self.second(F.relu(self.first(features))))


def _convolution(before: int, after: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    convolution = nn.Conv2d(before, after, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


def _stage(number: int, before: int, after: int) -> nn.Sequential:
    stride, dilation = STRIDES[number], DILATIONS[number]
    if number not in RESIDUAL_STAGES:
        return nn.Sequential(_convolution(before, after, 3 if number else 7, stride, dilation), nn.ReLU(inplace=True))
    blocks = [BasicBlock(before, after, stride, dilation)]
    blocks += [BasicBlock(after, after, 1, dilation) for _ in range(BLOCKS - 1)]
    return nn.Sequential(*blocks)


class DRN(nn.Module):
    """DRN-D-22 (Yu et al., "Dilated residual networks", CVPR 2017): nine stages, pooling, one linear layer.

    [N, in_channels, H, W] -> logits [N, classes]; any size, the last features at an eighth of it. With three channels
    and 1000 classes there are 16,393,752 parameters (16.4 million published). ``width`` multiplies all channels.

    Whoever fine-tunes gives ``learning`` or calls ``freeze``: stages up to ``frozen`` then give no gradient and keep
    their batch statistics, whatever ``train()`` or ``requires_grad_()`` a training loop calls.
    """

    multiple_of: ClassVar[int] = 8

    def __init__(
        self, ndim: int = 2, in_channels: int = 1, classes: int = 2, width: float = 1.0, learning: int = len(CHANNELS)
    ) -> None:
        if ndim != 2:
            raise InputError(f"DRN cannot work in {ndim}D", expected="ndim = 2", remedy="set sampling.ndim")
        super().__init__()
        channels = [in_channels, *(scaled(count, width) for count in CHANNELS)]
        self.stages = nn.ModuleList(_stage(i, before, after) for i, (before, after) in enumerate(pairwise(channels)))
        self.head = nn.Linear(channels[-1], classes)
        self.frozen = 0
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.freeze(learning)

    def freeze(self, learning: int = 2) -> DRN:
        """Let only the last ``learning`` stages and the linear layer learn (section 4.2); all stages thaw with 9."""
        if not 0 <= learning <= len(self.stages):
            raise InputError(f"{learning} learning stages", expected=f"0 to {len(self.stages)}")
        self.frozen = len(self.stages) - learning
        return self.train(self.training)

    def train(self, mode: bool = True) -> DRN:
        """As ``nn.Module.train``, but frozen stages stay in evaluation mode: their batch statistics do not move."""
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            stage.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Logits. Frozen stages are run without a graph, which also spares its memory."""
        features = image
        with torch.no_grad():
            for stage in self.stages[: self.frozen]:
                features = stage(features)
        for stage in self.stages[self.frozen :]:
            features = stage(features)
        return self.head(features.mean(dim=(2, 3)))


def densenet121(
    ndim: int = 2,
    in_channels: int = 1,
    classes: int = 2,
    features: int = 64,
    growth: int = 32,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
) -> nn.Module:
    """MONAI's DenseNet (Huang et al., CVPR 2017) of 121 layers; fewer or narrower ones for small images.

    [N, in_channels, *S] -> logits [N, classes], 2D and 3D; the image is halved by each block and twice before them.
    """
    from monai.networks.nets import DenseNet  # seconds to import

    return DenseNet(
        ndim, in_channels, classes, init_features=features, growth_rate=growth, block_config=tuple(blocks)
    )  # fmt: skip
