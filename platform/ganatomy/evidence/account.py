"""The account of a sweep: its table, what papers say beside it, what has come of it since; its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.evidence.confirmed import aftermath
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import TrialResult

if TYPE_CHECKING:
    from ganatomy.tracking.runs import Tracking


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


def write_page(table: Ablation, plan: SweepPlan, path: Path) -> Path:
    """The account as one self-contained page, written to ``path``; returns that."""
    from ganatomy.evidence.report import write_html  # it draws figures

    # Pages are given away and stand in MLflow: where a cohort lies is nobody's business there.
    facts = {"cohort": Path(plan.cohort).name, "digest": plan.cohort_digest, "search space": plan.space}
    return write_html(table, path, title=f"Sweep {plan.name}", facts=facts)


def record(table: Ablation, plan: SweepPlan, directory: Path, tracking: Tracking) -> None:
    """Keep the account in the sweep's ``directory`` and in MLflow, in the place of an earlier one."""
    from ganatomy.evidence.report import to_json

    tracking.log_artifact(plan.run_id, write_page(table, plan, directory / "report.html"))
    tracking.log_text(plan.run_id, "ablation.json", to_json(table))
