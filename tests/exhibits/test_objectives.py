"""The Pareto set of a sweep's configurations, as its report shows it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from evidence.sweeps import BASE, experiment, sweep, trial
from PIL import Image

from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.results import SweepPlan
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.objectives import objectives

PLAN = SweepPlan("x", "phantom_demo", BASE, "", "", "", 9)


def of(results, *told: str) -> Material:
    plan = replace(PLAN, objectives=told)
    return Material(Path(), plan, tuple(results), ablation_table(results), lambda why: None)


def shown(exhibit) -> dict[str, tuple[str, ...]]:
    return {cells[0]: cells[1:] for grid in exhibit.grids for cells in grid.rows}


COSTS = {"r": 10.0, "c": 12.0, "o": 90.0, "j": 80.0, "k": 95.0}
RESULTS = [replace(result, device_seconds=COSTS[result.trial[0]]) for result in sweep()]


def test_the_set_is_of_what_no_other_beats_in_utility_cost_and_fidelity():
    exhibit = objectives(of(RESULTS))
    rows = shown(exhibit)
    assert exhibit.grids[0].headers == ("configuration", "Dice", "device s", "fidelity", "Pareto set")
    # Strong augmentation beats the offline one in score and cost; neither made images that were measured.
    assert {name: cells[-1] for name, cells in rows.items()} == {
        "joint · ratio=0.5": "yes", "real · augmentation=strong": "yes", "real · augmentation=none": "yes",
        "offline · ratio=0.5": "", "joint · ratio=2": "",
    }  # fmt: skip
    assert rows["joint · ratio=0.5"][1:3] == ("80", "0.800")
    assert rows["real · augmentation=none"][1:3] == ("10", "–")
    assert [exhibit.grids[0].rows[place][-1] for place in exhibit.grids[0].strong] == ["yes"] * 3
    assert "3 of 5 configurations" in exhibit.sentences[0]
    assert "utility alone" in exhibit.sentences[1]
    assert Image.open(io.BytesIO(exhibit.pictures[0].png)).format == "PNG"


@pytest.mark.parametrize(("told", "headers"), [
    (("cost", "utility"), ("Dice", "device s")),
    (("utility", "fidelity"), ("Dice", "fidelity")),
])  # fmt: skip
def test_a_sweep_that_was_told_its_objectives_is_shown_in_those(told, headers):
    exhibit = objectives(of(RESULTS, *told))
    assert exhibit.grids[0].headers[1:-1] == headers
    assert "The sampler looked for utility and" in exhibit.sentences[1]
    assert "by utility (Dice)" in exhibit.sentences[1]


def test_where_no_fidelity_was_measured_utility_against_cost_says_as_much():
    assert objectives(of([result for result in RESULTS if result.trial[0] in "rc"])) is None


def test_of_one_configuration_there_is_nothing_to_say():
    assert objectives(of([])) is None
    assert objectives(of([trial("a", experiment(arm="real"))])) is None
