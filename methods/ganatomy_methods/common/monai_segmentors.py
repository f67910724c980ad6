"""Two segmentors that MONAI keeps, in the platform's terms: what most laboratories would reach for today.

Both take [N, in_channels, *S], every side a multiple of 8, and give logits [N, classes, *S], in 2D and 3D. Neither
keeps statistics between batches, so training and evaluation give the same output.
"""

from __future__ import annotations

import math
from typing import ClassVar

from monai.networks import nets
from torch import Tensor

from ganatomy_methods.common.networks import require_multiple
from ganatomy_methods.common.segmentors import base_width

WIDEST = {2: 512, 3: 320}
"""Channels beyond which nnU-Net's networks do not grow."""


class DynUNet(nets.DynUNet):
    """The U-Net of nnU-Net (Isensee et al., Nature Methods 2021): strided convolutions, instance norm, leaky ReLU.

    Four scales, ``width`` channels at the finest (default 32 in 2D, 16 in 3D) and twice as many at each coarser one.
    """

    multiple_of: ClassVar[int] = 8

    def __init__(self, ndim: int, in_channels: int, classes: int, width: int | None = None) -> None:
        widths = [min(base_width(ndim, width) * 2**scale, WIDEST[ndim]) for scale in range(4)]
        super().__init__(
            ndim, in_channels, classes, kernel_size=[3] * 4, strides=[1, 2, 2, 2], upsample_kernel_size=[2] * 3,
            filters=widths,
        )  # fmt: skip
        self.ndim = ndim
        # The nested skip_layers hold every block; a second name for each would be a second tensor in a weights file.
        del self.input_block, self.downsamples, self.bottleneck, self.upsamples

    def forward(self, image: Tensor) -> Tensor:
        """Logits. Raises InputError on sides that are not multiples of 8."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        return super().forward(image)


class SegResNet(nets.SegResNet):
    """The residual encoder with a light decoder of Myronenko (BraTS 2018), without its variational branch.

    Four scales, ``width`` channels at the finest (default 32 in 2D, 16 in 3D). Group norm with 8 groups, fewer where
    ``width`` is no multiple of 8.
    """

    multiple_of: ClassVar[int] = 8

    def __init__(self, ndim: int, in_channels: int, classes: int, width: int | None = None) -> None:
        filters = base_width(ndim, width)
        groups = ("GROUP", {"num_groups": math.gcd(filters, 8)})
        super().__init__(ndim, filters, in_channels, classes, norm=groups)
        self.ndim = ndim

    def forward(self, image: Tensor) -> Tensor:
        """Logits. Raises InputError on sides that are not multiples of 8."""
        require_multiple(image, self.ndim, self.multiple_of, type(self).__name__)
        return super().forward(image)
