"""Networks of Qu et al. 2019: between noise, structure maps, codes and modalities. Their layers are not in the paper.

What is: the code of images is [N, 512, H/4, W/4] with the modality's planes stacked behind it, the code of structure
maps a vector of 64² numbers, and discriminators have one head for real or fake and one for the modality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganatomy.contracts import InputError
from ganatomy_methods.common.networks import InstanceNorm, ResidualBlock, normal02, scaled, upsample
from ganatomy_methods.common.segmentors import Downsampling, kaiming, two_convolutions

Guidance = Literal["4seg", "1enc4dec", "1seg"]

CODE_GRID = (6, 5)
"""Places of the map from which a structure map's code is read: 184 × 144 over 32, rounded up."""


def mean_filter(network: nn.Module, jitter: float = 0.01) -> None:
    """Convolution weights 1 / (kernel voxels · input channels), biases 0 (section 3.4), times 1 + N(0, jitter).

    Without jitter, as printed, the channels of a layer are copies of each other and remain so for ever.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            mean = 1 / module.weight[0].numel()
            nn.init.normal_(module.weight, mean, jitter * mean)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _normalised(channels: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2)
    return [convolution, InstanceNorm(out), nn.ReLU(inplace=True)]


def code_side(width: float) -> int:
    """Side of a structure map's code laid out as a square: 64 at full width, at least 8."""
    return max(8, round(64 * width))


class StructureEncoder(nn.Module):
    """EC_f: structure map [N, 1, H, W] -> mean and log-variance of its code, [N, L] each; sides multiples of 8.

    Any size goes in: the last map is averaged onto ``CODE_GRID``, from which two dense layers read the code.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        widths = [1, *(scaled(channels, width) for channels in (64, 128, 256))]
        last = scaled(512, width)
        layers = [layer for before, after in pairwise(widths) for layer in _normalised(before, after, 3, 2)]
        self.layers = nn.Sequential(*layers, *_normalised(widths[-1], last), nn.AdaptiveAvgPool2d(CODE_GRID))
        places, length = last * math.prod(CODE_GRID), code_side(width) ** 2
        self.mean = nn.Linear(places, length)
        self.log_variance = nn.Linear(places, length)
        normal02(self)

    def forward(self, structure: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the code's normal distribution."""
        features = self.layers(structure).flatten(1)
        return self.mean(features), self.log_variance(features)


class StructureDecoder(nn.Module):
    """DC_f: code [N, L] and sides, multiples of 8 -> probability of structure, [N, 1, *sides] in [0, 1]."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.channels = scaled(512, width)
        self.dense = nn.Linear(code_side(width) ** 2, self.channels * math.prod(CODE_GRID))
        widths = [self.channels, *(scaled(channels, width) for channels in (256, 128, 64))]
        self.scales = nn.ModuleList(nn.Sequential(*_normalised(before, after)) for before, after in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)
        normal02(self)

    def forward(self, code: Tensor, sides: Sequence[int]) -> Tensor:
        """A map of probabilities, not of decisions: those would have no gradient."""
        features = F.relu(self.dense(code)).view(len(code), self.channels, *CODE_GRID)
        features = F.interpolate(features, size=[side // 8 for side in sides], mode="bilinear", align_corners=False)
        for scale in self.scales:
            features = upsample(scale(features))
        return torch.sigmoid(self.last(features))


class CodeEncoder(nn.Module):
    """EC_R, EC_M: fusion map or image [N, channels, H, W] -> semantic code [N, 512 · width, H/4, W/4]."""

    def __init__(self, channels: int, width: float, blocks: int) -> None:
        super().__init__()
        c64, c256, c512 = scaled(64, width), scaled(256, width), scaled(512, width)
        self.layers = nn.Sequential(
            *_normalised(channels, c64, 7),
            *_normalised(c64, c256, 3, 2),
            *_normalised(c256, c512, 3, 2),
            *(ResidualBlock(2, c512) for _ in range(blocks)),
        )
        normal02(self)

    def forward(self, image: Tensor) -> Tensor:
        """The code."""
        return self.layers(image)


class CodeDecoder(nn.Module):
    """DC_M: code and the planes of a modality [N, 512 · width + planes, H/4, W/4] -> image [N, 1, H, W] in [0, 1]."""

    def __init__(self, planes: int, width: float, blocks: int) -> None:
        super().__init__()
        c64, c256, c512 = scaled(64, width), scaled(256, width), scaled(512, width)
        # A constant plane adds a constant to what the first convolution gives, which a normalisation would take out
        # again: only after a nonlinearity has the modality left its mark.
        self.enter = nn.Sequential(nn.Conv2d(c512 + planes, c512, 3, padding=1), nn.LeakyReLU(0.2))
        self.blocks = nn.Sequential(*(ResidualBlock(2, c512) for _ in range(blocks)))
        self.up1 = nn.Sequential(*_normalised(c512, c256))
        self.up2 = nn.Sequential(*_normalised(c256, c64), nn.Conv2d(c64, 1, 7, padding=3), nn.Sigmoid())
        normal02(self)

    def forward(self, code: Tensor) -> Tensor:
        """The image of the modality whose plane is set."""
        return self.up2(upsample(self.up1(upsample(self.blocks(self.enter(code))))))


class Judge(nn.Module):
    """A patch discriminator with several heads: [N, channels, H, W] -> one map [N, heads[k], *P] for each head.

    layers: strided convolutions.  kernel: 4 for images, as in PatchGAN; 3 for codes, which are small.
    normalised: False for codes, whose mean and spread are what is to be judged and what a normalisation takes out.
    """

    def __init__(
        self,
        channels: int,
        width: float,
        layers: int,
        heads: Sequence[int] = (1,),
        *,
        kernel: int = 4,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        self.smallest = 3 * 2**layers if kernel == 4 else 2
        widths = [channels, *(scaled(64 * min(2**scale, 8), width) for scale in range(layers + 1))]
        modules: list[nn.Module] = []
        for scale, (before, after) in enumerate(pairwise(widths)):
            modules += [nn.Conv2d(before, after, kernel, 2 if scale < layers else 1, 1)]
            modules += [InstanceNorm(after)] if normalised and scale else []
            modules += [nn.LeakyReLU(0.2, inplace=True)]
        self.trunk = nn.Sequential(*modules)
        self.heads = nn.ModuleList(nn.Conv2d(widths[-1], head, kernel, 1, 1) for head in heads)
        normal02(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The heads' maps. Raises InputError when a side is too small for the number of layers."""
        if min(image.shape[2:]) < self.smallest:
            raise InputError(
                f"a discriminator was given sides {tuple(image.shape[2:])}",
                expected=f"at least {self.smallest}",
                remedy="set method.discriminator_layers lower or sampling.size higher",
            )
        features = self.trunk(image)
        return [head(features) for head in self.heads]


class LesionDecoder(nn.Module):
    """The way up of a U-Net on the maps of ``Downsampling``: -> logits [N, classes, H, W]."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        pairs = list(pairwise(channels))[::-1]
        self.up = nn.ModuleList(two_convolutions(2, fine + coarse, fine, "instance") for fine, coarse in pairs)
        self.head = nn.Conv2d(channels[0], classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits."""
        *skips, features = maps
        for skip, block in zip(reversed(skips), self.up):
            features = block(torch.cat([upsample(features), skip], dim=1))
        return self.head(features)


class LesionGuide(nn.Module):
    """Finds the lesion in each of K modalities (section 2.7): K U-Nets, or one, or one encoder with K decoders."""

    def __init__(self, kind: Guidance, modalities: int, classes: int, width: float) -> None:
        super().__init__()
        encoders = modalities if kind == "4seg" else 1
        decoders = 1 if kind == "1seg" else modalities
        self.encoders = nn.ModuleList(Downsampling(2, 1, scaled(32, width), "instance") for _ in range(encoders))
        channels = [scaled(32, width) * 2**scale for scale in range(4)]
        self.decoders = nn.ModuleList(LesionDecoder(channels, classes) for _ in range(decoders))
        kaiming(self)

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images [N, 1, H, W] of modality 0 to K - 1, in [0, 1], sides multiples of 8 -> logits [N, classes, H, W]."""
        return [
            self.decoders[k % len(self.decoders)](self.encoders[k % len(self.encoders)](image))
            for k, image in enumerate(images)
        ]


class OneGuide(nn.Module):
    """A guide's segmentor of modality ``number``, as the platform applies one: [N, 1, H, W] in [-1, 1] -> logits."""

    def __init__(self, guide: LesionGuide, number: int) -> None:
        super().__init__()
        self.encoder = guide.encoders[number % len(guide.encoders)]
        self.decoder = guide.decoders[number % len(guide.decoders)]

    def forward(self, image: Tensor) -> Tensor:
        """Logits [N, classes, H, W]."""
        return self.decoder(self.encoder((image + 1) / 2))
