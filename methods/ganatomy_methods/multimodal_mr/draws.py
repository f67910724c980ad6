"""What is drawn of registered brains, and what is told of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ganatomy.contracts import Registered


@dataclass(frozen=True)
class RegisteredBrains(Registered):
    """Brains with what they were drawn by.

    structure: maps, 0 or 1, [n, 1, H, W].  closed: the error of Algorithm 3 is within the threshold.
    whole: the lesion lies inside the brain as it was drawn, not cut off.  Accepted are those that are both; figures are
    ``structure_error``, that of Algorithm 3, and ``structure_tries``, how many maps were drawn for it.
    """

    structure: Tensor = field(default_factory=lambda: torch.empty(0))
    closed: tuple[bool, ...] = ()
    whole: tuple[bool, ...] = ()
