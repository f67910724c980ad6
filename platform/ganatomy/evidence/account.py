"""The account of a sweep: its table, what papers say beside it, what has come of it since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ganatomy.evidence.ablation import Ablation, Unfinished, ablation_table
from ganatomy.evidence.confirmed import aftermath
from ganatomy.evidence.results import TRACEBACK, SweepPlan
from ganatomy.evidence.state import SweepState, state_of
from ganatomy.experiment import TrialResult


def account(
    workspace: Path,
    plan: SweepPlan,
    results: Sequence[TrialResult],
    tell: Callable[[str], None] = lambda why: None,
    *,
    driven: bool | None = None,
) -> Ablation:
    """The table of a sweep, ``published``, ``aftermath`` and ``state`` with it. results: of all its trials that have
    one.  tell: hears why nothing that papers say can be shown.  driven: whether a driver is at work on it, where that
    is known."""
    directory = workspace / "sweeps" / plan.name
    table = ablation_table(results, published=plan.published(tell), declared=plan.family)
    state = state_of(directory, plan, results, driven=driven)
    lost = tuple(_told(one, workspace, directory, state) for one in table.unfinished)
    since = aftermath(workspace, plan, table, results)
    return replace(table, aftermath=since, state=state.sentence, unfinished=lost)


def _told(lost: Unfinished, workspace: Path, directory: Path, state: SweepState) -> Unfinished:
    """A trial that is not in the table, as it stands while the sweep does: its traceback, and whether it goes on."""
    if lost.status == "running":
        return replace(lost, status="training" if state.driven else "cut short")
    path = directory / "trials" / lost.trial / TRACEBACK
    return replace(lost, traceback=str(path.relative_to(workspace)) if path.exists() else "")
