"""Intensities: the rules by which a domain's native values become [-1, 1], and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest

Array = NDArray[Any]
Rule = Literal["window", "percentile", "zscore"]
Mask = Literal["none", "nonzero", "above_minimum", "file"]


@dataclass(frozen=True)
class Intensity:
    """How native values become [-1, 1]: linear between two values that map to -1 and +1, clipped beyond.

    rule: ``window``, low..high are the values themselves (HU for CT); ``percentile``, percentiles 0..100 of the image;
    ``zscore``, mean + low..high standard deviations of the image.
    mask: which voxels percentiles, mean and deviation are taken over. ``none``, all; ``nonzero``; ``above_minimum``,
    those above the image's smallest value (a background sentinel of any value); ``file``, the row's own mask image.
    Voxels outside the mask are background: they become -1.
    Raises InputError for an impossible rule.
    """

    rule: Rule = "percentile"
    low: float = 0.5
    high: float = 99.5
    mask: Mask = "none"

    DEFAULTS: ClassVar[Mapping[str, tuple[float, float]]] = {"percentile": (0.5, 99.5), "zscore": (-4.0, 4.0)}

    def __post_init__(self) -> None:
        text = self.text()
        if self.rule not in get_args(Rule):
            raise InputError(f"unknown intensity rule {self.rule!r}", expected=nearest(self.rule, get_args(Rule)))
        if self.mask not in get_args(Mask):
            raise InputError(f"unknown mask {self.mask!r} in {text}", expected=nearest(self.mask, get_args(Mask)))
        if not self.low < self.high:
            raise InputError(f"intensity rule {text}", expected="the low value below the high one")
        if self.rule == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise InputError(f"intensity rule {text}", expected="percentiles from 0 to 100")
        if self.rule == "zscore" and not self.low < 0 < self.high:
            raise InputError(f"intensity rule {text}", expected="standard deviations below and above the mean: -4:4")

    @classmethod
    def parse(cls, text: str) -> Intensity:
        """``RULE[:LOW:HIGH][:MASK]``: ``window:-160:240``, ``percentile``, ``zscore:-4:4:above_minimum``."""
        rule, *rest = text.strip().split(":")
        mask = rest.pop() if len(rest) in (1, 3) else "none"
        try:
            low, high = (float(value) for value in rest) if rest else cls.DEFAULTS[rule]
        except (ValueError, KeyError):
            expected = "RULE[:LOW:HIGH][:MASK] such as window:-160:240 or zscore:-4:4:nonzero"
            if rule not in get_args(Rule):
                expected = nearest(rule, get_args(Rule))
            raise InputError(f"intensity rule {text!r}", expected=expected) from None
        return cls(cast(Rule, rule), low, high, cast(Mask, mask))

    def text(self) -> str:
        """Inverse of ``parse``."""
        return f"{self.rule}:{self.low:.12g}:{self.high:.12g}:{self.mask}"

    def foreground(self, volume: Array, mask: Array | None = None) -> Array | None:
        """Boolean array of the voxels inside the mask, None where that is all. ``mask``: the row's own, if any."""
        if self.mask == "nonzero":
            return volume != 0
        if self.mask == "above_minimum":
            return volume > volume.min()
        if self.mask == "file":
            if mask is None:
                raise InputError(
                    f"intensity rule {self.text()} and no mask file", remedy="give --mask, or another mask"
                )
            return mask != 0
        return None

    def range(self, volume: Array, mask: Array | None = None) -> tuple[float, float]:
        """Native values (lo, hi) that become -1 and +1. Raises InputError where there is no contrast to map."""
        if self.rule == "window":
            return self.low, self.high
        inside = self.foreground(volume, mask)
        values = volume.ravel() if inside is None else volume[inside]
        if values.size == 0:
            raise InputError(
                f"no contrast: no voxel lies inside the mask {self.mask!r}", remedy="change the intensity rule"
            )
        if self.rule == "percentile":
            lo, hi = (float(value) for value in np.percentile(values, (self.low, self.high)))
        else:
            mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
            lo, hi = mean + self.low * deviation, mean + self.high * deviation
        if not hi > lo:
            raise InputError(
                f"no contrast: {self.text()} gives the range {lo:g}..{hi:g}",
                remedy="take the image out, or restrict the rule to a mask (above_minimum)",
            )
        return lo, hi

    def apply(self, volume: Array, mask: Array | None = None) -> NDArray[np.float32]:
        """float32 in [-1, 1], the shape of ``volume``; -1 outside the mask."""
        return self.scale(volume, *self.range(volume, mask), self.foreground(volume, mask))

    @staticmethod
    def scale(volume: Array, lo: float, hi: float, inside: Array | None = None) -> NDArray[np.float32]:
        """``volume`` with lo..hi mapped to [-1, 1] and clipped; -1 where not ``inside``."""
        scaled = np.clip((volume - lo) * (2.0 / (hi - lo)) - 1.0, -1.0, 1.0).astype(np.float32)
        if inside is not None:
            scaled[~inside] = -1.0
        return scaled

    @staticmethod
    def invert(image: Array, lo: float, hi: float) -> NDArray[np.float32]:
        """Native values of an image in [-1, 1]: -1 becomes ``lo``, +1 becomes ``hi``."""
        return ((image + 1.0) * (0.5 * (hi - lo)) + lo).astype(np.float32)
