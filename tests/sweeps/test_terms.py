"""A sweep that was planned when arms had other terms is read, and not gone on with."""

from __future__ import annotations

import json

import pytest
import tiny

from ganatomy.contracts import InputError
from ganatomy.evidence.results import PLAN, SweepPlan, read_plan
from ganatomy.sweeps.resuming import check_terms


def test_a_plan_of_before_is_read_and_not_resumed(tmp_path):
    folder = tmp_path / "sweeps" / "old"
    SweepPlan("old", "phantom_demo", tiny.EXPERIMENT, "", "cohort", "digest", trials=1).save(folder)
    check_terms(read_plan(folder))
    values = json.loads((folder / PLAN).read_text())
    del values["terms"], values["base"]["mixing"]["composition"], values["base"]["downstream"]["augmentation"]
    values["base"] |= {"arm": "classical", "augmentation": 3.0}
    (folder / PLAN).write_text(json.dumps(values))
    plan = read_plan(folder)
    assert (plan.base.arm, plan.base.downstream.augmentation) == ("real", "strong")
    with pytest.raises(InputError, match=r"'old' was planned when arms had other terms.*begin a new sweep"):
        check_terms(plan)
