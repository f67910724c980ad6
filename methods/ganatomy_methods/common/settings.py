"""Checks of a method's settings that types alone cannot make."""

from __future__ import annotations

import math

from ganatomy.contracts import InputError


def require_within(config: object, **bounds: tuple[float, float]) -> None:
    """Raise InputError for the first setting of ``config`` outside its closed bounds.

    bounds: setting name -> (lowest, highest); ``math.inf`` leaves the upper end open. NaN lies nowhere.
    """
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high:
            wanted = f"a number in [{low:g}, {high:g}]" if high < math.inf else f"a number >= {low:g}"
            raise InputError(f"method.{name} = {value!r}", expected=wanted, remedy=f"--set method.{name}=…")
