"""The leaf that everything may import: what a method is, what it is given, and how an error speaks to a user.

Nothing here knows files, Ray, MLflow or Optuna. A method written against this package alone is complete.

``Method`` is a torch module, and torch takes seconds: it is loaded when somebody first asks for that name. What reads a
table or speaks to a user imports the rest without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ganatomy.contracts.errors import InputError, shortened
from ganatomy.contracts.exchanged import (
    UNLABELLED,
    Adam,
    Batch,
    Corners,
    Drawn,
    Images,
    Patches,
    Phase,
    Registered,
    Synthetic,
    Task,
    Update,
    cross_entropy,
    labelled,
)
from ganatomy.contracts.tissue import TISSUE, body

if TYPE_CHECKING:
    from ganatomy.contracts.method import Method

__all__ = [
    "TISSUE",
    "UNLABELLED",
    "Adam",
    "Batch",
    "Corners",
    "Drawn",
    "Images",
    "InputError",
    "Method",
    "Patches",
    "Phase",
    "Registered",
    "Synthetic",
    "Task",
    "Update",
    "body",
    "cross_entropy",
    "labelled",
    "shortened",
]


def __getattr__(name: str) -> Any:
    if name == "Method":
        from ganatomy.contracts.method import Method

        return Method
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
