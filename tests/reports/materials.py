"""Sweeps with known answers as their reports take them."""

from __future__ import annotations

from pathlib import Path

from evidence.sweeps import BASE

from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.results import SweepPlan
from ganatomy.exhibits.material import Material
from ganatomy.reports.page import to_html
from ganatomy.reports.record import compose


def material(results, workspace=Path(), table=None, tell=lambda why: None, **plan):
    """Of trials that are written nowhere; a store, and so facts of the cohort, it has none."""
    given = {"store": "", "cohort": "/data/phantom", "cohort_digest": "0123abcd", "trials": len(results), **plan}
    made = SweepPlan("ct-mr", "shape_consistent", given.pop("base", BASE), **given)
    return Material(workspace, made, tuple(results), table or ablation_table(results, declared=made.family), tell)


def page_of(results, **more):
    """The page of these trials."""
    return to_html(compose(material(results, **more)))
