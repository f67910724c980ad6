"""What a report shows of a sweep, exhibit by exhibit: each computes its own, and says nothing where it has nothing."""

from __future__ import annotations

from collections.abc import Callable

from ganatomy.exhibits.exhibit import Exhibit
from ganatomy.exhibits.material import Material

EXHIBITS: tuple[Callable[[Material], Exhibit | None], ...] = ()
"""In the order in which they are read: what was found, on whom, of what it depends, what it took."""
