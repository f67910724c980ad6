"""The platform's way to the patches of Gupta et al. 2019: which windows to cut, and how to put a patch back."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ganatomy.contracts import Corners
from ganatomy_methods.unit_lesion.lesions import (
    Box,
    changed_box,
    cut,
    disjoint_sources,
    lesion_window,
    normal_windows,
    paste,
    shows_tissue,
    source_windows,
)

Sides = tuple[int, int]


@dataclass(frozen=True)
class LesionPatches:
    """Fulfils ``contracts.Patches``; the fields are those of the method's settings."""

    side: int
    window: float
    crops: int
    normals: int
    minimum_intensity: float
    source_share: float
    blend: float
    positions: int
    candidates: int

    def of_lesions(
        self, boxes: Mapping[str, Corners], sides: Mapping[str, Sides], seed: int
    ) -> dict[str, list[Corners]]:
        """``crops`` squares around each lesion, placed at random."""
        windows: dict[str, list[Corners]] = {}
        for name in sorted(boxes):
            draws = random.Random(f"{seed} {name}")  # its own, so that one lesion more moves no other's window
            box, image = Box.around(boxes[name]), sides[name]
            windows[name] = [lesion_window(box, image, self.window, draws).corners for _ in range(self.crops)]
        return windows

    def of_normals(
        self,
        windows: Mapping[str, Sequence[Corners]],
        normals: Sequence[str],
        sides: Mapping[str, Sides],
        seed: int,
    ) -> list[tuple[str, Corners]]:
        """For each lesion image ``normals`` others, at its windows."""
        boxes = {name: [Box(*corners) for corners in some] for name, some in windows.items()}
        crops = normal_windows(boxes, sorted(normals), sides, self.normals, random.Random(seed))
        return [(str(crop.image), crop.window.corners) for crop in crops]

    def receiving(
        self,
        windows: Mapping[str, Sequence[Corners]],
        sources: Sequence[str],
        sides: Mapping[str, Sides],
        seed: int,
    ) -> list[tuple[str, Corners]]:
        """Every source at ``positions`` windows, the first ``candidates`` of these where that sets a bound."""
        boxes = {name: [Box(*corners) for corners in some] for name, some in windows.items()}
        crops = source_windows(boxes, sorted(sources), sides, self.positions, seed)
        return [(str(crop.image), crop.window.corners) for crop in crops[: self.candidates or None]]

    def sources(self, negatives: Sequence[str], used: Sequence[str], patients: Mapping[str, str]) -> list[str]:
        """By patient."""
        return disjoint_sources(negatives, used, patients)

    def cut(self, image: Tensor, window: Corners) -> Tensor:
        """The window at the networks' size."""
        return cut(image, Box(*window), self.side)

    def worth(self, patch: Tensor) -> bool:
        """Whether its mean intensity reaches the minimum."""
        return shows_tissue(patch, self.minimum_intensity)

    def paste(self, image: Tensor, window: Corners, patch: Tensor) -> tuple[Tensor, Corners]:
        """The blended image. Its box is where it changed visibly; the whole window where it nowhere did."""
        pasted = paste(image, Box(*window), patch, self.blend)
        box = changed_box(image, pasted.image) or pasted.box
        return pasted.image, box.corners
