"""The three segmentors of Cai et al. 2019, section 4.1: one shared downsampling branch, three ways up, in 2D and 3D.

All take [N, in_channels, *S], every side a multiple of 8, and give logits [N, classes, *S]. Base widths are not in the
paper: 16 in 3D, 32 in 2D. By parameter count PSPNet < UNet < RefineNet.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganatomy.contracts import InputError
from ganatomy_methods.common.networks import CONV, InstanceNorm, require_multiple, upsample

Norm = Literal["none", "instance"]
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL: dict[int, type[nn.AdaptiveAvgPool2d] | type[nn.AdaptiveAvgPool3d]] = {
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}
LINEAR = {2: "bilinear", 3: "trilinear"}


def base_width(ndim: int, width: int | None) -> int:
    """Channels at full resolution: ``width``, or 32 in 2D and 16 in 3D."""
    if width is not None and width < 1:
        raise InputError(f"segmentor width = {width}", expected="a whole number >= 1")
    return width if width is not None else {2: 32, 3: 16}[ndim]


def kaiming(network: nn.Module) -> None:
    """Convolution weights by He et al. 2015 for ReLU, biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def two_convolutions(ndim: int, channels: int, out: int, norm: Norm) -> nn.Sequential:
    """[conv 3, (IN), ReLU] twice: what stands at each scale."""
    if norm not in get_args(Norm):
        raise InputError(f"segmentor norm = {norm!r}", expected=" or ".join(get_args(Norm)))
    modules: list[nn.Module] = []
    for entering in (channels, out):
        modules += [CONV[ndim](entering, out, 3, padding=1)]
        modules += [InstanceNorm(out)] if norm == "instance" else []
        modules += [nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


class Downsampling(nn.Module):
    """The branch that all three share: two convolutions at each of four scales, max-pooling by 2 in between.

    [N, in_channels, *S] -> four maps, [N, width · 2^k, *S / 2^k] for k = 0..3.
    """

    def __init__(self, ndim: int, in_channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.channels = [width, 2 * width, 4 * width, 8 * width]
        entering = [in_channels, *self.channels[:-1]]
        self.scales = nn.ModuleList(
            two_convolutions(ndim, before, after, norm) for before, after in zip(entering, self.channels, strict=True)
        )
        self.pool = MAX_POOL[ndim](2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps, finest first."""
        maps = [self.scales[0](image)]
        for scale in self.scales[1:]:
            maps.append(scale(self.pool(maps[-1])))
        return maps


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with nearest upsampling and concatenated skips."""

    multiple_of: ClassVar[int] = 8

    def __init__(
        self, ndim: int, in_channels: int, classes: int, width: int | None = None, norm: Norm = "none"
    ) -> None:
        super().__init__()
        self.ndim = ndim
        self.down = Downsampling(ndim, in_channels, base_width(ndim, width), norm)
        pairs = list(zip(self.down.channels[:-1], self.down.channels[1:], strict=True))[::-1]
        self.up = nn.ModuleList(two_convolutions(ndim, fine + coarse, fine, norm) for fine, coarse in pairs)
        self.head = CONV[ndim](self.down.channels[0], classes, 1)
        kaiming(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits. Raises InputError on sides that are not multiples of 8."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        *skips, features = self.down(image)
        for skip, block in zip(reversed(skips), self.up, strict=True):
            features = block(torch.cat([upsample(features), skip], dim=1))
        return self.head(features)


class ResidualConvolution(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))): the residual convolution unit of RefineNet."""

    def __init__(self, ndim: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.first = CONV[ndim](channels, channels, 3, padding=1)
        self.second = CONV[ndim](channels, channels, 3, padding=1)
        self.norm = InstanceNorm(channels) if norm == "instance" else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """[N, channels, *S] -> the same shape."""
        return features + self.second(F.relu(self.norm(self.first(F.relu(features)))))


class ChainedPooling(nn.Module):
    """ReLU, then twice: max-pool over 5 voxels without stride, convolve, add to what came before."""

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.pool = MAX_POOL[ndim](5, stride=1, padding=2)
        self.convolutions = nn.ModuleList(CONV[ndim](channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """[N, channels, *S] -> the same shape."""
        pooled = total = F.relu(features)
        for convolution in self.convolutions:
            pooled = convolution(self.pool(pooled))
            total = total + pooled
        return total


class RefineUnit(nn.Module):
    """One RefineNet unit: residual units on each input, fusion by convolving, upsampling and adding, chained pooling.

    fine: [N, channels, *S]; coarse: [N, coarse, *S / 2], absent at the coarsest scale.
    """

    def __init__(self, ndim: int, channels: int, coarse: int | None, norm: Norm) -> None:
        super().__init__()
        self.fine, self.fuse_fine = self._path(ndim, channels, channels, norm)
        self.has_coarse = coarse is not None
        if coarse is not None:
            self.coarse, self.fuse_coarse = self._path(ndim, coarse, channels, norm)
        self.pooling = ChainedPooling(ndim, channels)
        self.output = ResidualConvolution(ndim, channels, norm)

    @staticmethod
    def _path(ndim: int, channels: int, out: int, norm: Norm) -> tuple[nn.Module, nn.Conv2d | nn.Conv3d]:
        units = (ResidualConvolution(ndim, channels, norm) for _ in range(2))
        return nn.Sequential(*units), CONV[ndim](channels, out, 3, padding=1)

    def forward(self, fine: Tensor, coarse: Tensor | None = None) -> Tensor:
        """Refined map [N, channels, *S]."""
        fused = self.fuse_fine(self.fine(fine))
        if self.has_coarse and coarse is not None:
            fused = fused + upsample(self.fuse_coarse(self.coarse(coarse)))
        return self.output(self.pooling(fused))


class RefineNet(nn.Module):
    """RefineNet (Lin et al. 2017): one unit at each scale on the shared downsampling branch, skips added."""

    multiple_of: ClassVar[int] = 8

    def __init__(
        self, ndim: int, in_channels: int, classes: int, width: int | None = None, norm: Norm = "none"
    ) -> None:
        super().__init__()
        self.ndim = ndim
        self.down = Downsampling(ndim, in_channels, base_width(ndim, width), norm)
        channels: list[int | None] = [*self.down.channels, None]
        self.units = nn.ModuleList(
            RefineUnit(ndim, fine, coarse, norm) for fine, coarse in zip(self.down.channels, channels[1:], strict=True)
        )
        self.head = CONV[ndim](self.down.channels[0], classes, 1)
        kaiming(self)
        self._level_gain()

    def _level_gain(self) -> None:
        # He's gain is for a plain stack. Without normalisation, some 25 residual branches at that gain would double
        # the variance 25 times; a tenth of it starts the network near the sum of its skips. What is fused has not
        # passed a ReLU and is added to another such map: half the gain keeps the variance of the sum.
        for module in self.modules():
            if isinstance(module, ResidualConvolution):
                module.second.weight.data.mul_(0.1)
            elif isinstance(module, ChainedPooling):
                for convolution in module.convolutions:
                    convolution.get_parameter("weight").data.mul_(0.1)
            elif isinstance(module, RefineUnit) and module.has_coarse:
                module.fuse_fine.weight.data.mul_(0.5)
                module.fuse_coarse.weight.data.mul_(0.5)

    def forward(self, image: Tensor) -> Tensor:
        """Logits. Raises InputError on sides that are not multiples of 8."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        features: Tensor | None = None
        for fine, unit in zip(reversed(self.down(image)), reversed(self.units), strict=True):
            features = unit(fine, features)
        assert features is not None
        return self.head(F.relu(features))


class PSPNet(nn.Module):
    """PSP-Net (Zhao et al. 2017): pyramid pooling over three bin sizes on the coarsest map, no decoder.

    The bin sizes are not in the paper.
    """

    multiple_of: ClassVar[int] = 8
    bins: ClassVar[tuple[int, ...]] = (1, 2, 4)

    def __init__(
        self, ndim: int, in_channels: int, classes: int, width: int | None = None, norm: Norm = "none"
    ) -> None:
        super().__init__()
        self.ndim = ndim
        self.down = Downsampling(ndim, in_channels, base_width(ndim, width), norm)
        coarsest, reduced = self.down.channels[-1], self.down.channels[-1] // 4
        self.pyramid = nn.ModuleList(
            nn.Sequential(AVERAGE_POOL[ndim](size), CONV[ndim](coarsest, reduced, 1), nn.ReLU(inplace=True))
            for size in self.bins
        )
        self.merge = CONV[ndim](coarsest + len(self.bins) * reduced, coarsest // 2, 3, padding=1)
        self.head = CONV[ndim](coarsest // 2, classes, 1)
        kaiming(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits. Raises InputError on sides that are not multiples of 8."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        features = self.down(image)[-1]
        levels = [features] + [self._upsample(level(features), features) for level in self.pyramid]
        # Classified at the coarse scale and upsampled afterwards: the same as the reverse (both are linear), in a
        # fraction of the memory.
        return self._upsample(self.head(F.relu(self.merge(torch.cat(levels, dim=1)))), image)

    def _upsample(self, features: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(features, size=like.shape[2:], mode=LINEAR[self.ndim], align_corners=False)
