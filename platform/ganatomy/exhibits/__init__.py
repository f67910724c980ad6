"""What a report shows of a sweep, exhibit by exhibit: each computes its own, and says nothing where it has nothing."""

from __future__ import annotations

from collections.abc import Callable

from ganatomy.exhibits.cases import cases
from ganatomy.exhibits.cost import cost
from ganatomy.exhibits.exhibit import Exhibit
from ganatomy.exhibits.importance import importance
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.objectives import objectives
from ganatomy.exhibits.patients import patients
from ganatomy.exhibits.responses import responses
from ganatomy.exhibits.structures import structures
from ganatomy.exhibits.trainings import learning_curves

EXHIBITS: tuple[Callable[[Material], Exhibit | None], ...] = (
    structures, patients, cases, responses, importance, learning_curves, cost, objectives,
)  # fmt: skip
"""In the order in which they are read: what was found, on whom, of what it depends, what it took."""
