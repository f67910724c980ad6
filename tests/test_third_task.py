"""A downstream task in a laboratory's own package: stages, table, report and gate serve it as they serve ours.

``tests/toy_plugin`` enters it under ``ganatomy.tasks``; nothing of the platform knows its name, its score, its network.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
import tiny
from promotion.squares import make_cohort
from reports.materials import page_of
from test_plugin import installed, plugged

from ganatomy.contracts import InputError
from ganatomy.core.plugins import ALLOWED
from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.evidence.results import SweepPlan, read_plan, read_results
from ganatomy.promotion import examination as room
from ganatomy.promotion.promotion import promote
from ganatomy.reports.tabulated import to_dict
from ganatomy.reports.text import render_text
from ganatomy.search_space import SearchSpace
from ganatomy.stages.stages import KEPT, Stages
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import open_store
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.runs import Tracking

__all__ = ["installed", "plugged"]

BASE = tiny.EXPERIMENT.with_values({"method": "cyclegan", "method.generator": "unet_t1", "method.width": 0.0625,
    "method.discriminator_layers": 1, "downstream.task": "toy_extent", "downstream.network": "toy_share",
    "downstream.learning_rate": 0.05})  # fmt: skip
SPACE = SearchSpace("tiny", "", BASE, lambda suggest: None)
POINTS = [{"arm": "real", "downstream.learning_rate": 1e-6}, {"arm": "offline", "filter.min_probability": 0.05}]

pytestmark = pytest.mark.usefixtures("plugged", "one_thread_and_no_pictures")


def run_sweep(workspace: Path, name: str = "extents") -> list[float]:
    """A sweep of two arms and two seeds, without Ray; what Tune was told at the end of each trial."""
    cohort = make_cohort(workspace / "cohort")
    store = prepare(cohort, workspace / "stores")
    plan = SweepPlan(name, "tiny", BASE, str(store.path), str(cohort.path), store.digest, trials=4, seeds=(0, 1),
                     run_id=Tracking(None, workspace).sweep_run(name))  # fmt: skip
    plan.save(workspace / "sweeps" / name)
    told: list[dict[str, float]] = []
    for number, (seed, point) in enumerate((seed, point) for seed in (0, 1) for point in POINTS):
        run_trial({**point, "seed": seed}, plan, SPACE, workspace, f"{name}-{number}", partial(told.append))
    return [metrics["val/agreement"] for metrics in told]


def test_what_is_no_task_is_refused(monkeypatch):
    assert BASE.validate().downstream.score == "val/agreement"
    with pytest.raises(InputError, match=r"unknown task 'toy_extend'.*did you mean 'toy_extent'"):
        BASE.with_values({"downstream.task": "toy_extend"}).validate()
    monkeypatch.setenv(ALLOWED, "toy_lab.moments:Moments")
    with pytest.raises(InputError, match=r"toy_lab.moments:Moments is a \w+; expected a DownstreamTask"):
        BASE.with_values({"downstream.task": "toy_lab.moments:Moments"}).validate()


def test_from_stages_to_the_gate_it_is_served_as_ours_are(workspace, monkeypatch):
    monkeypatch.setattr(room, "INTEGRITY_VOLUMES", 1)
    told = run_sweep(workspace)
    assert all(0 < value <= 1 for value in told)
    directory = workspace / "sweeps" / "extents"
    plan, results = read_plan(directory), read_results(directory)
    assert (plan.score, plan.measure) == ("val/agreement", "agreement")
    assert [result.status for result in results] == ["finished"] * 4
    assert {row.metric for result in results for row in result.scores} == {"agreement"}

    table = ablation_table(results)
    check_table(table, results)
    check_report(table, results)
    check_filter(workspace, plan, results)
    check_gate(workspace)


def check_table(table: Ablation, results) -> None:
    candidate, baseline = table.row(table.candidate), table.row(table.baseline)
    assert (candidate.arm, baseline.arm) == ("offline", "real")
    for row in (candidate, baseline):
        own = [result.summary["val/agreement"] for result in results if result.experiment.arm == row.arm]
        assert row.dice == pytest.approx(sum(own) / len(own))
        assert row.further["error"] == pytest.approx(100 * (1 - row.dice))
        assert len(row.patients) == 3
    assert candidate.finding.estimate == pytest.approx(candidate.dice - baseline.dice)
    assert "agreement points" in table.conclusion
    assert "No verdict: 3 patients of 6 that it takes, and 2 trainings a side of 3 that it takes" in table.conclusion


def check_report(table: Ablation, results) -> None:
    page = page_of(results, base=results[0].experiment)
    text, page = render_text(table), re.sub(r"base64,[^\"]*", "", page)  # a picture may spell anything
    for shown in (text, page):
        assert "agreement" in shown
        assert "error" in shown
        assert not any(word in shown for word in ("Dice", "AUC", "HD95", "missed"))
    assert to_dict(table)["measure"] == "agreement"


def check_filter(workspace: Path, plan: SweepPlan, results) -> None:
    """Synthetic images are judged by the task's own model."""
    result = next(result for result in results if result.experiment.arm == "offline")
    kept = json.loads((workspace / "stages" / "filter" / result.stages["filter"] / KEPT).read_text())
    assert kept["of"] == len(kept["probability"]) > 0
    assert len({round(value, 6) for value in kept["probability"].values()}) > 1
    inputs = Stages(workspace, Path(plan.store), result.experiment).model().record["inputs"]
    assert len(inputs["task"]) == 2  # whoever edits either half gets new results


def check_gate(workspace: Path) -> None:
    promotion = promote(workspace, "extents", "extents", force="a test")
    utility = promotion.verdict.gates[0]
    assert "agreed with the true extent" in utility.sentence
    assert "agreement points" in utility.sentence
    assert utility.figures["patients"] == 12
    card = (promotion.bundle / "MODEL_CARD.md").read_text()
    assert "toy_share measurer of extents" in card
    assert "agreement" in card
    assert "operating_points" not in json.loads((promotion.bundle / "report.json").read_text())


def test_a_filter_or_an_arm_that_it_has_no_use_for_is_refused():
    for values, said in (({"filter.min_dice": 0.5}, "filter.min_dice"),
                         ({"arm": "joint", "method": "shape_consistent"}, "real, source or offline")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            BASE.with_values(values).validate()


def test_its_code_is_part_of_the_keys_and_ours_is_not(workspace):
    store = tiny.make_store(workspace / "s")
    ours = Stages(workspace, store.path, tiny.EXPERIMENT)
    assert "task" not in ours._data()
    theirs = Stages(workspace, store.path, BASE)
    assert open_store(store.path).digest == theirs._data()["store"]
    assert theirs._data().keys() - ours._data().keys() == {"task"}


def test_a_task_that_names_no_models_is_refused(monkeypatch):
    from ganatomy.training.models import models_of

    asked = BASE.downstream.asked()
    monkeypatch.setattr(type(asked), "trained_by", "toy_lab.extent_models:Share")
    with pytest.raises(InputError, match="expected a DownstreamModels"):
        models_of(BASE)
    monkeypatch.setattr(type(asked), "trained_by", "toy_lab.nowhere:MODELS")
    with pytest.raises(InputError, match=r"toy_extent.*cannot be imported"):
        models_of(BASE)
