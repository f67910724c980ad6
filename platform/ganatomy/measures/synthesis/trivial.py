"""What rules without any training make of an image with a lesion, for whatever was trained to take it out to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIVIAL: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "unchanged": lambda source: source,
    "darker": lambda source: source / 2 - 0.5,
    "clipped": lambda source: np.minimum(source, np.float32(0.2)),
}
"""Name -> what the rule makes of an image in [-1, 1]: x, x/2 and min(x, 0.6) in [0, 1]."""
