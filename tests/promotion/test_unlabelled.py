"""A sweep without labels of the target: planned, searched, confirmed and judged against the source's model as it is."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from ganatomy.contracts import InputError
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.results import SweepPlan, read_results
from ganatomy.promotion.promotion import promote
from ganatomy.stores.preparation import prepare
from ganatomy.sweeps.request import SweepRequest
from ganatomy.tracking.runs import Tracking
from promotion.squares import CYCLEGAN, SPACE, confirm, make_cohort, run

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")

NONE = {"labels.fraction": 0.0, "budget.segmentor_steps": 6, "budget.generator_steps": 4, "budget.validations": 1}


def _cohort(folder, without=("train",)):
    """The squares, no image of mr labelled in these splits."""
    cohort = make_cohort(folder)
    hidden = lambda row: row.domain == "mr" and row.split in without  # noqa: E731
    rows = tuple(replace(row, label=None) if hidden(row) else row for row in cohort.rows)
    return replace(cohort, rows=rows).save()


def test_the_sources_model_is_the_baseline_from_search_to_verdict(tmp_path, empty_database):
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    cohort = _cohort(tmp_path / "cohort")
    store = prepare(cohort, tmp_path / "stores")
    points = [{"arm": "source", **NONE}, {"arm": "offline", **CYCLEGAN, **NONE}]
    plan = SweepPlan("none", "tiny", SPACE.base, str(store.path), str(cohort.path), store.digest, trials=2,
                     seeds=(0,), run_id=Tracking(None, tmp_path).sweep_run("none"))  # fmt: skip
    plan.save(tmp_path / "sweeps" / "none")
    for number, point in enumerate(points):
        run({**point, "seed": 0}, plan, SPACE, tmp_path, f"none-{number}")
    table = ablation_table(read_results(tmp_path / "sweeps" / "none"))
    assert (table.row(table.baseline).arm, table.row(table.candidate).arm) == ("source", "offline")
    confirm(tmp_path, "none")
    verdict = promote(tmp_path, "none", "none").verdict
    utility = verdict.gates[0]
    assert utility.figures["answer"] in ("helps", "harms", "undecided")
    assert "source" in table.conclusion


def _planned(tmp_path, *settings):
    sweep = SweepRequest(space="shape_consistent_small", cohort=tmp_path / "cohort", workspace=tmp_path / "w",
                         source="ct", target="mr", set=("labels.fraction=0", *settings), seeds=(0,))  # fmt: skip
    return sweep.planned()


def test_a_space_is_planned_with_the_source_in_the_place_of_the_real_arm(tmp_path, capsys):
    _cohort(tmp_path / "cohort")
    plan = _planned(tmp_path)
    space = plan.search_space()
    arms = [space.experiment(point, plan.fixed).arm for point in space.listed(plan.fixed, plan.seeds)]
    assert arms == ["source", "offline", "joint", "joint"]
    assert "no label of a training patient of mr is used" in capsys.readouterr().err


@pytest.mark.parametrize(("without", "settings", "why"), [
    (("train",), ("arm=real",), r"arm = 'real'.*labels\.fraction = 0"),
    (("train", "val"), (), "no labelled mr image in split val"),
    (("train",), ("filter.min_dice=0.5",), r"filter\.min_dice"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_spent(tmp_path, without, settings, why):
    _cohort(tmp_path / "cohort", without)
    with pytest.raises(InputError, match=why):
        _planned(tmp_path, *settings)
    assert not list((tmp_path / "w").glob("sweeps/*/sweep.json"))
