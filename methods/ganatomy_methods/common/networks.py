"""Generators and discriminators, in 2D and 3D alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ganatomy.contracts import InputError

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSE: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
REFLECT: dict[int, type[nn.ReflectionPad2d] | type[nn.ReflectionPad3d]] = {2: nn.ReflectionPad2d, 3: nn.ReflectionPad3d}


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation (Ulyanov et al. 2016) without parameters or running statistics, in 2D and 3D.

    Group normalisation with one channel a group is the same function, and several times faster on the CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, affine=False)


def upsample(features: Tensor) -> Tensor:
    """Nearest-neighbour upsampling, twice each side: [N, C, *S] -> [N, C, *2S].

    In 2D on the CPU by a transposed convolution with ones, the same values in half the time of ``interpolate``.
    """
    if features.ndim == 4 and features.device.type == "cpu":
        channels = features.shape[1]
        return functional.conv_transpose2d(features, features.new_ones(channels, 1, 2, 2), stride=2, groups=channels)
    return functional.interpolate(features, scale_factor=2, mode="nearest")


def scaled(channels: int, width: float) -> int:
    """``channels`` of the paper times the width factor, at least 2."""
    return max(2, round(channels * width))


def require_multiple(image: Tensor, ndim: int, multiple: int, network: str) -> None:
    """Raise InputError unless ``image`` is [N, C, *S] with ``ndim`` sides, each a multiple of ``multiple``."""
    sides = tuple(image.shape[2:])
    if len(sides) != ndim or any(side % multiple for side in sides):
        raise InputError(
            f"{network} was given an image with sides {sides}",
            expected=f"{ndim} sides, each a multiple of {multiple}",
            remedy="pad the image and crop the output",
        )


def normal02(network: nn.Module) -> None:
    """Convolution weights from N(0, 0.02), biases 0: the initialisation of CycleGAN (Zhu et al. 2017)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class UNetGenerator(nn.Module):
    """The generator of Cai et al. 2019, Table 1: three scales down and up, long skips, nearest upsampling, tanh.

    [N, 1, *S] -> [N, 1, *S] in [-1, 1]; every side a multiple of 8, at least 16 (instance normalisation has nothing to
    normalise in a single voxel). ``width`` multiplies all inner channels; at 1 there are 10,845,121 parameters in 3D
    and 3,616,321 in 2D.

    Table 1 is read with stride 1 in the decoder (its printed 2 undoes the upsampling) and with a leaky ReLU before
    every inner convolution (it prints none between the two convolutions of adjoining encoder scales).
    """

    multiple_of = 8

    def __init__(self, ndim: int, width: float = 1.0) -> None:
        super().__init__()
        self.ndim = ndim
        c64, c256 = scaled(64, width), scaled(256, width)
        self.down1 = self._block(1, c64, c64, stride=2)
        self.down2 = self._block(c64, c256, c256, stride=2)
        self.down3 = self._block(c256, c256, c256, stride=2)
        self.up1 = self._block(c256, c256, c256)
        self.up2 = self._block(2 * c256, c64, c64)
        self.up3 = nn.Sequential(*self._first(2 * c64, 2 * c64), CONV[ndim](2 * c64, 1, 3, padding=1), nn.Tanh())
        self.activate = nn.LeakyReLU(0.2)
        normal02(self)

    def _first(self, channels: int, out: int, stride: int = 1) -> Iterable[nn.Module]:
        yield CONV[self.ndim](channels, out, 3, stride, 1)
        yield InstanceNorm(out)
        yield nn.LeakyReLU(0.2, inplace=True)

    def _block(self, channels: int, inner: int, out: int, stride: int = 1) -> nn.Sequential:
        """conv, IN, LReLU, conv, IN: what Table 1 has between two changes of scale."""
        second = CONV[self.ndim](inner, out, 3, 1, 1), InstanceNorm(out)
        return nn.Sequential(*self._first(channels, inner, stride), *second)

    def forward(self, image: Tensor) -> Tensor:
        """Translate ``image``. Raises InputError on sides that are not multiples of 8."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        e1 = self.down1(image)
        e2 = self.down2(self.activate(e1))
        e3 = self.down3(self.activate(e2))
        d1 = self.up1(upsample(self.activate(e3)))
        d2 = self.up2(upsample(self.activate(torch.cat([d1, e2], dim=1))))
        return self.up3(upsample(self.activate(torch.cat([d2, e1], dim=1))))


class ResidualBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))), reflection padded (Johnson et al. 2016 as used by CycleGAN)."""

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            REFLECT[ndim](1),
            CONV[ndim](channels, channels, 3),
            InstanceNorm(channels),
            nn.ReLU(inplace=True),
            REFLECT[ndim](1),
            CONV[ndim](channels, channels, 3),
            InstanceNorm(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, channels, *S] -> the same shape."""
        return features + self.branch(features)


class ResnetGenerator(nn.Module):
    """The generator of CycleGAN (Zhu et al. 2017, section 7.1): two scales down, residual blocks, two scales up, tanh.

    [N, channels, *S] -> [N, channels, *S] in [-1, 1]; every side a multiple of 4, at least 8. ``blocks``: 6 for images
    up to 128 pixels, 9 above. ``width`` multiplies all inner channels.
    """

    multiple_of = 4

    def __init__(self, ndim: int, width: float = 1.0, blocks: int = 9, channels: int = 1) -> None:
        super().__init__()
        self.ndim = ndim
        c64, c128, c256 = scaled(64, width), scaled(128, width), scaled(256, width)
        self.layers = nn.Sequential(
            REFLECT[ndim](3),
            *self._normalised(CONV[ndim](channels, c64, 7), c64),
            *self._normalised(CONV[ndim](c64, c128, 3, 2, 1), c128),
            *self._normalised(CONV[ndim](c128, c256, 3, 2, 1), c256),
            *(ResidualBlock(ndim, c256) for _ in range(blocks)),
            *self._normalised(TRANSPOSE[ndim](c256, c128, 3, 2, 1, output_padding=1), c128),
            *self._normalised(TRANSPOSE[ndim](c128, c64, 3, 2, 1, output_padding=1), c64),
            REFLECT[ndim](3),
            CONV[ndim](c64, channels, 7),
            nn.Tanh(),
        )
        normal02(self)

    def _normalised(self, convolution: nn.Module, channels: int) -> tuple[nn.Module, ...]:
        return convolution, InstanceNorm(channels), nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """Translate ``image``. Raises InputError on sides that are not multiples of 4."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        return self.layers(image)


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017; Cai et al. 2019, Table 1): one score for each overlapping patch.

    [N, channels, *S] -> [N, 1, *P]. ``layers`` strided convolutions set the patch: 70 voxels wide with 3, 34 with 2 and
    16 with 1. A patch as large as the image judges the arrangement of the anatomy and no longer its appearance only.
    ``final_activation``: ``sigmoid`` as Table 1 prints, ``none`` as least squares needs (a sigmoid saturates under it).
    At width 1 and 3 layers: 11,047,873 parameters in 3D, 2,762,689 in 2D.
    """

    def __init__(
        self,
        ndim: int,
        width: float = 1.0,
        layers: int = 3,
        final_activation: Literal["none", "sigmoid"] = "none",
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.ndim, self.strided = ndim, layers
        widths = [scaled(64 * min(2**scale, 8), width) for scale in range(layers + 1)]
        # The first layer has no normalisation: it would hide the contrast of the image from the discriminator.
        modules: list[nn.Module] = [CONV[ndim](channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for scale in range(1, layers + 1):
            stride = 2 if scale < layers else 1
            modules += [CONV[ndim](widths[scale - 1], widths[scale], 4, stride, 1), InstanceNorm(widths[scale])]
            modules += [nn.LeakyReLU(0.2, inplace=True)]
        modules += [CONV[ndim](widths[-1], 1, 4, 1, 1)]
        if final_activation == "sigmoid":
            modules += [nn.Sigmoid()]
        self.layers = nn.Sequential(*modules)
        normal02(self)

    def forward(self, image: Tensor) -> Tensor:
        """Patch scores. Raises InputError when a side is too small for the number of layers."""
        smallest = 3 * 2**self.strided  # two unstrided 4-voxel convolutions shrink each side by 1, one score must stay
        if image.dim() != self.ndim + 2 or min(image.shape[2:]) < smallest:
            raise InputError(
                f"the discriminator with {self.strided} layers was given an image with sides {tuple(image.shape[2:])}",
                expected=f"{self.ndim} sides of at least {smallest}",
                remedy="set method.discriminator_layers lower or sampling.size higher",
            )
        return self.layers(image)
