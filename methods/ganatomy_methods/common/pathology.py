"""The networks of Xia et al., "Adversarial pseudo healthy synthesis needs pathology factorization", MIDL 2019.

Appendix A, Tables 2 to 4 and the segmentor that is described beside them; in 2D, and in 3D by the same equations.
Images and maps lie in [0, 1] here, as in the paper.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganatomy.contracts import InputError
from ganatomy_methods.common.networks import CONV, InstanceNorm, normal02, require_multiple, scaled, upsample

Norm = Literal["none", "instance"]
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
SLOPE = 0.2
"""Of every leaky ReLU; the paper gives none."""


class PathologyBlock(nn.Module):
    """x + IN(conv(LeakyReLU(IN(conv(x))))): a residual block of Tables 2 and 3."""

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            CONV[ndim](channels, channels, 3, padding=1),
            InstanceNorm(channels),
            nn.LeakyReLU(SLOPE, inplace=True),
            CONV[ndim](channels, channels, 3, padding=1),
            InstanceNorm(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, channels, *S] -> the same shape."""
        return features + self.branch(features)


class PathologyGenerator(nn.Module):
    """G (Table 2) and, with two channels in, R (Table 3): two scales down, residual blocks, two up, sigmoid.

    [N, channels, *S] -> [N, 1, *S] in [0, 1]; every side a multiple of 4, at least 8. At width 1 and 6 blocks there are
    1,957,505 parameters in 2D with one channel in, 1,959,073 with two.

    long_skips: what the way down has at the full and at the half scale is added to what the way up has there, as in the
    authors' journal version (Xia et al., Medical Image Analysis 64, 2020); no parameter more. Table 2 has none: all
    that is kept of a person must then pass a quarter of the scale.

    Table 3 prints two channels out; what R makes is compared with an image, so it is one. The last activation is the
    sigmoid alone: a ReLU before it would leave [0.5, 1).
    """

    multiple_of = 4

    def __init__(
        self, ndim: int, width: float = 1.0, blocks: int = 6, channels: int = 1, long_skips: bool = False
    ) -> None:
        super().__init__()
        self.ndim, self.long_skips = ndim, long_skips
        c32, c64, c128 = scaled(32, width), scaled(64, width), scaled(128, width)
        self.down = nn.Sequential(
            *self._normalised(channels, c32, 7, 1),
            *self._normalised(c32, c64, 3, 2),
            *self._normalised(c64, c128, 3, 2),
        )
        self.blocks = nn.Sequential(*(PathologyBlock(ndim, c128) for _ in range(blocks)))
        self.up1 = nn.Sequential(*self._normalised(c128, c64, 3, 1))
        self.up2 = nn.Sequential(*self._normalised(c64, c32, 3, 1))
        self.head = CONV[ndim](c32, 1, 3, padding=1)
        normal02(self)

    def _normalised(self, channels: int, out: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
        convolution = CONV[self.ndim](channels, out, kernel, stride, kernel // 2)
        return convolution, InstanceNorm(out), nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """The image made. Raises InputError on sides that are not multiples of 4."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        whole = self.down[:3](image)
        half = self.down[3:6](whole)
        coarse = self.up1(upsample(self.blocks(self.down[6:](half))))
        fine = self.up2(upsample(coarse + half if self.long_skips else coarse))
        return torch.sigmoid(self.head(fine + whole if self.long_skips else fine))


class PathologyDiscriminator(nn.Module):
    """D_x and D_m (Table 4): strided 4-voxel convolutions, then one score for each overlapping patch.

    [N, 1, *S] -> [N, 1, *S / 2^layers]; every side a multiple of 2^layers. ``layers``: 4 in the paper, a patch of 94
    voxels; 46 with 3, 22 with 2, 10 with 1. ``final_activation``: ``sigmoid`` as Table 4 prints, ``none`` as least
    squares needs (a sigmoid saturates under it). At width 1 and 4 layers: 2,696,609 parameters in 2D.

    As printed, channels go from 32 to 128 and the first layer too is normalised. Table 4's two channels in are read as
    one: both discriminators judge single images.

    first_norm: False leaves the first normalisation out. With it an image at half its contrast is scored as the image
    itself: the factor is normalised away before anything has looked at it.
    """

    def __init__(
        self,
        ndim: int,
        width: float = 1.0,
        layers: int = 4,
        final_activation: Literal["none", "sigmoid"] = "none",
        first_norm: bool = True,
    ) -> None:
        super().__init__()
        self.ndim, self.strided = ndim, layers
        widths = [1, *(scaled(channels, width) for channels in (32, 128, 256, 512)[:layers])]
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            norm = InstanceNorm(after) if modules or first_norm else nn.Identity()
            modules += [CONV[ndim](before, after, 4, 2, 1), norm, nn.LeakyReLU(SLOPE, inplace=True)]
        self.layers = nn.Sequential(*modules)
        self.head = CONV[ndim](widths[-1], 1, 4)
        self.final = nn.Sigmoid() if final_activation == "sigmoid" else nn.Identity()
        normal02(self)

    def forward(self, image: Tensor) -> Tensor:
        """Patch scores. Raises InputError on sides that the strides do not divide, or that leave a single score."""
        multiple = 2**self.strided
        require_multiple(image, self.ndim, multiple, type(self).__name__)
        if image[0, 0].numel() < 2 * multiple**self.ndim:  # normalising a single voxel would leave nothing of it
            raise InputError(
                f"the discriminator with {self.strided} layers was given an image with sides {tuple(image.shape[2:])}",
                expected=f"more than one patch of {multiple} voxels a side",
                remedy="set method.discriminator_layers lower or sampling.size higher",
            )
        # The size stays under an even kernel only if one side is padded by one voxel more than the other.
        return self.final(self.head(F.pad(self.layers(image), (1, 2) * self.ndim)))


class ResidualConvolutions(nn.Module):
    """LeakyReLU(two convolutions of x + x), x brought to the channels by a 1-voxel convolution where it must be."""

    def __init__(self, ndim: int, channels: int, out: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            CONV[ndim](channels, out, 3, padding=1),
            self._normalisation(out, norm),
            nn.LeakyReLU(SLOPE, inplace=True),
            CONV[ndim](out, out, 3, padding=1),
            self._normalisation(out, norm),
        )
        self.skip = nn.Identity() if channels == out else CONV[ndim](channels, out, 1)

    @staticmethod
    def _normalisation(channels: int, norm: Norm) -> nn.Module:
        return InstanceNorm(channels) if norm == "instance" else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """[N, channels, *S] -> [N, out, *S]."""
        return F.leaky_relu(self.skip(features) + self.branch(features), SLOPE)


class ResidualUNet(nn.Module):
    """The segmentor S, and the f_pre that judges healthiness: a U-Net with leaky ReLUs and a residual at each level.

    [N, in_channels, *S] -> logits [N, classes, *S]; every side a multiple of 2^scales, and at least one of them
    larger (instance normalisation has nothing to normalise in a single voxel). width: channels at full resolution,
    doubled at each of the ``scales`` poolings. The paper gives neither width nor normalisation: 32 channels are those
    of the authors' later program.
    """

    multiple_of: ClassVar[int] = 16

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        classes: int,
        width: int | None = None,
        norm: Norm = "instance",
        scales: int = 4,
    ) -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise InputError(f"segmentor norm = {norm!r}", expected=" or ".join(get_args(Norm)))
        if width is not None and width < 1:
            raise InputError(f"segmentor width = {width}", expected="a whole number >= 1")
        self.ndim, self.scales, self.norm = ndim, scales, norm
        channels = [(width or 32) * 2**scale for scale in range(scales + 1)]
        self.down = nn.ModuleList(
            ResidualConvolutions(ndim, before, after, norm)
            for before, after in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.up = nn.ModuleList(
            ResidualConvolutions(ndim, fine + coarse, fine, norm) for fine, coarse in reversed(list(pairwise(channels)))
        )
        self.pool = MAX_POOL[ndim](2)
        self.head = CONV[ndim](channels[0], classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits. Raises InputError on sides that the poolings do not divide, or that leave a single voxel."""
        multiple = 2**self.scales
        require_multiple(image, self.ndim, multiple, type(self).__name__)
        if self.norm == "instance" and image[0, 0].numel() < 2 * multiple**self.ndim:
            raise InputError(
                f"{type(self).__name__} was given an image with sides {tuple(image.shape[2:])}",
                expected=f"more than one voxel after {self.scales} poolings",
                remedy="use larger images or fewer scales",
            )
        maps = [self.down[0](image)]
        for block in self.down[1:]:
            maps.append(block(self.pool(maps[-1])))
        features = maps.pop()
        for block in self.up:
            features = block(torch.cat([upsample(features), maps.pop()], dim=1))
        return self.head(features)
