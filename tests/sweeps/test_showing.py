"""How a sweep stands in MLflow: names, what is in front, descriptions, and the view that its link opens."""

from __future__ import annotations

import base64
import json
import socket
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from evidence.sweeps import experiment, trial

from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.results import PLAN, SweepPlan, read_plan, write_json
from ganatomy.search_space import load_space
from ganatomy.sweeps import showing
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.views import TAG, views_of

SPACE = load_space("phantom_demo")


@pytest.fixture
def tracking(workspace) -> Tracking:
    return Tracking(None, workspace, "phantom 01234567")


@pytest.fixture
def plan(tracking) -> SweepPlan:
    plan = SweepPlan("first", "phantom_demo", SPACE.base, "", "/data/secret/phantom", "0123456789abcdef", trials=4,
                     tracking_uri=tracking.uri, experiment=tracking.experiment)  # fmt: skip
    return replace(plan, run_id=tracking.sweep_run("first", showing.sweep_tags(plan)))


def kept(tracking: Tracking, plan: SweepPlan) -> tuple[str, dict]:
    """The view as MLflow's front end reads it: its name, and its state."""
    tags = tracking.client.get_experiment(tracking.experiment_id).tags
    envelope = json.loads(tags[TAG + plan.run_id])
    state = envelope["state"]
    if state.startswith("deflate;"):
        state = zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))).decode()
    return envelope["name"], json.loads(state)


def test_a_plan_of_before_keeps_its_experiment_and_finds_its_run(workspace):
    tracking = Tracking(None, workspace)
    plan = SweepPlan("old", "phantom_demo", SPACE.base, "", "", "", trials=1, run_id=tracking.sweep_run("old"))
    folder = workspace / "sweeps" / "old"
    plan.save(folder)
    values = json.loads((folder / PLAN).read_text())
    del values["experiment"]
    write_json(folder / PLAN, values)
    found = read_plan(folder)
    assert Tracking(None, workspace, found.experiment).sweep_run("old") == plan.run_id


def test_two_cohorts_are_two_experiments_and_the_registry_needs_none(workspace, tracking):
    other = Tracking(None, workspace, "glioma 89abcdef")
    assert other.sweep_run("first") != tracking.sweep_run("first")
    assert Tracking(None, workspace, "").experiment_id == ""
    names = {found.name for found in tracking.client.search_experiments()}
    assert names == {"Default", "unused", "phantom 01234567", "glioma 89abcdef"}


def test_each_column_of_the_view_is_of_every_trial_that_it_concerns(tracking, plan):
    """What real training has no part in is 0 or none there, so that charts leave no arm out."""
    showing.present(plan, tracking)
    name, state = kept(tracking, plan)
    assert name == "first"
    assert state["searchFilter"] == "tags.sweep = 'first'"
    columns = [column.partition("`")[2].rstrip("`") for column in state["selectedColumns"]]
    assert columns == ["score", "effect", "reading", "arm", "method", "ratio", "threshold", "shape_weight", "training"]
    trials = [SPACE.experiment(point, {}) for point in SPACE.listed({}, (0, 1))]
    fronts = [showing.front(one, showing.varied(plan)) for one in trials]
    for one, front in zip(trials, fronts):
        missing = {"shape_weight"} if one.arm == "real" else set()
        assert set(columns[3:]) - set(front) == missing
        assert (front["ratio"] == 0) == (front["method"] == "none") == (one.arm == "real")
    assert len({tuple(front.items()) for front in fronts}) == len(trials)
    for chart in state["compareRunCharts"]:
        assert chart["metricSectionId"] == state["compareRunSections"][0]["uuid"]
        assert set(chart.get("selectedParams", ())) <= set(columns)
    assert [chart["selectedMetrics"] for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL"] == [
        ["score"], ["score"]
    ]  # fmt: skip


def test_what_is_fixed_is_no_column(plan, tracking):
    fixed = replace(plan, fixed={"method.shape_weight": "1"})
    showing.present(fixed, tracking)
    assert "params.`shape_weight`" not in kept(tracking, fixed)[1]["selectedColumns"]


def test_at_the_end_every_run_says_what_it_came_to(tracking, plan):
    results = []
    for arm, seed in ((arm, seed) for arm in ("real", "joint") for seed in (0, 1, 2)):
        lift = 0.1 if arm == "joint" else 0.0
        result = trial(
            f"{arm}{seed}", experiment(arm=arm, seed=seed), lift, summary={"val/dice": 0.5 + lift + seed / 100}
        )
        label = f"{result.experiment.arm} · training {result.experiment.seed}"
        tags = showing.trial_tags(result.experiment, plan)
        run = tracking.trial_run(plan.run_id, result.trial, showing.run_name(plan, label), {}, tags)
        results.append(replace(result, run_id=run))
    table = ablation_table(results)
    showing.describe(plan, table, results, tracking)
    sweep = tracking.client.get_run(plan.run_id).data
    links = views_of(tracking.experiment_id, plan.run_id)
    note = sweep.tags["mlflow.note.content"]
    for said in (table.conclusion, links.report, links.table, links.charts, "ganatomy sweep --space phantom_demo"):
        assert said in note
    row = table.row(table.candidate)
    assert sweep.tags["reading"] == row.reading == "helps"
    assert sweep.metrics["effect"] == pytest.approx(100 * row.finding.estimate, abs=1e-3)
    assert sweep.metrics["low"] < sweep.metrics["effect"] < sweep.metrics["high"]
    assert sweep.metrics["score"] == sweep.metrics["best/val/dice"] == max(r.summary["val/dice"] for r in results)
    runs = [tracking.client.get_run(result.run_id) for result in results]
    assert len({run.info.run_name for run in runs}) == len(runs)
    for run, result in zip(runs, results):
        arm = result.experiment.arm
        assert run.data.tags["reading"] == {"real": "baseline", "joint": "helps"}[arm]
        assert run.data.metrics.get("effect") == {"real": None, "joint": sweep.metrics["effect"]}[arm]
        assert arm in run.data.tags["mlflow.note.content"]


def test_source_user_and_commit_are_there_and_no_path_and_no_host(tracking, plan):
    tags = tracking.client.get_run(plan.run_id).data.tags
    assert tags["mlflow.source.name"] == "ganatomy sweep"
    assert tags["mlflow.user"]
    said = " ".join(tags.values())
    assert "--cohort phantom" in said
    for secret in ("/data", str(Path.home()), str(tracking.workspace), socket.gethostname()):
        assert secret not in said


def test_of_listed_points_that_is_in_front_in_which_they_differ_and_of_sampled_ones_what_is_sampled():
    """A segmentor that every point names is no axis; it is one where it is sampled."""
    space = load_space("shape_consistent_small")
    listed = SweepPlan("one", space.name, space.base, "", "", "", trials=12, seeds=(0, 1, 2))
    assert showing.varied(listed) == ["arm", "method.shape_weight", "seed"]
    assert showing.varied(replace(listed, controls=({"arm": "real", "budget.segmentor_steps": 9},), trials=13)) == [
        "arm", "budget.segmentor_steps", "method.shape_weight", "seed"
    ]  # fmt: skip
    assert {"downstream.network", "mixing.ratio"} <= set(showing.varied(replace(listed, trials=13)))
