"""The simulation of sweeps, in short: verdicts keep their level, intervals hold the truth, effects are found."""

from __future__ import annotations

import json
from itertools import product

import pytest


@pytest.fixture(scope="module")
def bench(benchmark_script):
    return benchmark_script("bench_verdicts")


@pytest.mark.parametrize(("measure", "shape"), [*product(("dice", "auc"), ("symmetric", "skewed"))])
def test_null_sweeps_are_not_promoted_and_intervals_hold_the_truth(bench, measure, shape):
    """Over all luck, trainings and patients: 30 cells of 1,000 verdicts. One cell alone is left the noise of so few."""
    settings = [
        bench.Setting(measure, shape, luck, 12, trainings, patients, 0.0, shared)
        for (luck, shared), trainings, patients in product(bench.LUCK, bench.TRAININGS, bench.PATIENTS)
    ]
    cells = [bench.measured(setting, 200, seed=1) for setting in settings]
    assert sum(cell.promoted for cell in cells) / len(cells) <= 0.03
    assert max(cell.promoted for cell in cells) <= 0.05
    assert min(cell.coverage for cell in cells) >= 0.92


def test_ten_null_sweeps_on_one_cohort_share_one_level(bench):
    cells = [
        bench.measured(bench.Setting(luck=luck, trainings=trainings), 400, seed=2, ten=True)
        for luck, trainings in product((0.0, 3.0), (3, 5))
    ] + [bench.measured(bench.Setting(luck=6.0, shared=0.8, patients=30), 400, seed=2, ten=True)]
    assert sum(cell.ten for cell in cells) / 5 <= 0.05
    assert all(cell.ten >= cell.promoted / 2 for cell in cells)


def test_true_effects_are_found_the_more_surely_the_more_is_known(bench):
    def promoted(**given):
        return bench.measured(bench.Setting(**{"effect": 5.0, **given}), 200, seed=3).promoted

    assert promoted() > 0.4 > promoted(trainings=3) > 0.2 > promoted(effect=1.0)
    assert promoted(luck=0.0) > 0.9
    assert promoted(patients=30) > promoted(patients=6)


def test_luck_that_equal_seeds_share_hides_no_effect_from_pairs(bench):
    alone, shared = (
        bench.measured(bench.Setting(effect=5.0, luck=6.0, shared=share), 200, seed=4).promoted for share in (0.0, 0.8)
    )
    assert shared > 2 * alone


def test_cells_are_told_and_kept(bench, tmp_path, monkeypatch, capsys):
    few = [bench.Setting(effect=effect) for effect in (0.0, 5.0)]
    monkeypatch.setattr(bench, "grid", lambda: iter(few))
    bench.main(["--sweeps", "20", "--json", str(tmp_path / "cells.json")])
    cells = json.loads((tmp_path / "cells.json").read_text())
    assert {"measure", "luck", "candidates", "trainings", "patients", "effect", "promoted", "coverage"} <= set(cells[0])
    assert [cell["effect"] for cell in cells] == [0.0, 5.0]
    assert cells[0]["ten"] is not None
    told = capsys.readouterr().out
    assert "false promotions, worst cell" in told
    assert "| dice | symmetric | 12 | 5 | 3 |" in told
