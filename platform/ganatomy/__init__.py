"""ganatomy: does synthetic data help my task on real, held-out patients; which method's, how much, at what cost?

Everything that the commands do, from Python, with the same words and the same errors:

>>> import ganatomy as ga
>>> cohort = ga.read_cohort("my-cohort")
>>> sweep = ga.sweep("shape_consistent_small", cohort, trials=20, workspace="workspace")
>>> sweep.table()
>>> verdict = sweep.promote("ct-mr").verdict
>>> generator = ga.load_generator("models:/ct-mr@champion", workspace="workspace")

Importing it loads nothing; torch, Ray and MLflow come with the first use of what needs them. docs/python.md is a tour.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ganatomy.api.cohorts import phantom, who
    from ganatomy.api.comparing import Sweeps, compare
    from ganatomy.api.generating import audit, generate, load_generator, rollback
    from ganatomy.api.images import ImageDataset, dataset
    from ganatomy.api.sweeping import Sweep, list_sweeps, load_sweep, sweep
    from ganatomy.cohorts.cohort import Cohort, prepare_image
    from ganatomy.cohorts.importers import import_cohort
    from ganatomy.cohorts.inspection import Findings, check_cohort
    from ganatomy.cohorts.reading import read_cohort
    from ganatomy.contracts import InputError
    from ganatomy.generation.audit import Audit
    from ganatomy.generation.request import Generated
    from ganatomy.generators.generator import Generator
    from ganatomy.promotion.promotion import Outlook, Promotion

_ROOMS = {
    "api.cohorts": ("phantom", "who"),
    "api.comparing": ("Sweeps", "compare"),
    "api.generating": ("audit", "generate", "load_generator", "rollback"),
    "api.images": ("ImageDataset", "dataset"),
    "api.sweeping": ("Sweep", "list_sweeps", "load_sweep", "sweep"),
    "cohorts.cohort": ("Cohort", "prepare_image"),
    "cohorts.importers": ("import_cohort",),
    "cohorts.inspection": ("Findings", "check_cohort"),
    "cohorts.reading": ("read_cohort",),
    "contracts": ("InputError",),
    "generation.audit": ("Audit",),
    "generation.request": ("Generated",),
    "generators.generator": ("Generator",),
    "promotion.promotion": ("Outlook", "Promotion"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Audit", "Cohort", "Findings", "Generated", "Generator", "ImageDataset", "InputError", "Outlook", "Promotion",
    "Sweep", "Sweeps", "__version__", "audit", "check_cohort", "compare", "dataset", "generate", "import_cohort",
    "list_sweeps", "load_generator", "load_sweep", "phantom", "prepare_image", "read_cohort", "rollback", "sweep",
    "who",
]  # fmt: skip

if not TYPE_CHECKING:  # which would take every name for one of these

    def __getattr__(name: str) -> Any:
        """Imported at first use, and then there."""
        if name not in _ROOM_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
