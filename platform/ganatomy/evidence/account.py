"""The account of a sweep: its table, what papers say beside it, what has come of it since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.evidence.confirmed import aftermath
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import TrialResult


def account(
    workspace: Path,
    plan: SweepPlan,
    results: Sequence[TrialResult],
    tell: Callable[[str], None] = lambda why: None,
) -> Ablation:
    """The table of a sweep, ``published`` and ``aftermath`` with it. results: of all its trials that have one.
    tell: hears why nothing that papers say can be shown."""
    table = ablation_table(results, published=plan.published(tell), declared=plan.family)
    return replace(table, aftermath=aftermath(workspace, plan, table, results))
