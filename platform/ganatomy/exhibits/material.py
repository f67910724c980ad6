"""What every exhibit is computed from: a sweep, or several as one, as they stand, read once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ganatomy.evidence.ablation import Ablation
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import TrialResult


@dataclass(frozen=True)
class Material:
    """A sweep in ``workspace``: its plan, the results of all its trials that have one, and its table.

    tell: hears, in a sentence, why something cannot be shown.  sweeps: names of those that are taken as one, where they
    are several.
    """

    workspace: Path
    plan: SweepPlan
    results: tuple[TrialResult, ...]
    table: Ablation
    tell: Callable[[str], None]
    sweeps: tuple[str, ...] = ()
