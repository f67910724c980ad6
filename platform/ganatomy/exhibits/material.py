"""What every exhibit is computed from: a sweep, or several as one, as they stand, read once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ganatomy.evidence.ablation import Ablation
from ganatomy.evidence.confirmed import Confirmed, came_to, confirmation_of, pick
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

    @cached_property
    def named(self) -> dict[str, TrialResult]:
        """Name of a trial -> its result."""
        return {result.trial: result for result in self.results}

    @cached_property
    def confirmed(self) -> Confirmed | None:
        """What the pick came to; None where nothing was picked, or it was not trained again. InputError for damage."""
        if not (self.table.candidate and self.table.baseline):
            return None
        picked = pick(self.table, self.results, self.plan.name)
        found = confirmation_of(self.workspace, self.plan.name, picked)
        return None if found is None else came_to(self.workspace, found, picked)
