"""Several objectives: which points no other beats, what fidelity is, and what no sweep can look for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.measures.objectives import COST, FIDELITY, OBJECTIVES, UTILITY, check_objectives, fidelity, unbeaten

NUMBERS = st.integers(0, 4).map(float)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(OBJECTIVES, NUMBERS)), min_size=1, max_size=12))
def test_the_pareto_set_is_what_optuna_says_it_is(points):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize" if one.greater else "minimize" for one in OBJECTIVES.values()])
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=[point[name] for name in OBJECTIVES]))
    best = {trial.number for trial in study.best_trials}
    assert [place for place, inside in enumerate(unbeaten(points)) if inside] == sorted(best)


def test_what_was_not_measured_is_the_least_and_keeps_nobody_out_who_leads_elsewhere():
    points = [
        {UTILITY: 0.8, COST: 10.0, FIDELITY: math.nan},
        {UTILITY: 0.8, COST: 10.0, FIDELITY: 0.1},
        {UTILITY: 0.7, COST: 9.0, FIDELITY: math.nan},
        {UTILITY: 0.7, COST: 9.0, FIDELITY: math.nan},
    ]
    assert unbeaten(points) == [False, True, True, True]


def test_points_of_different_objectives_are_not_compared():
    with pytest.raises(ValueError, match="different objectives"):
        unbeaten([{UTILITY: 0.8}, {UTILITY: 0.8, COST: 10.0}])


@pytest.mark.parametrize(("measured", "value"), [
    ({"synthesis/healthiness": 0.8, "synthesis/identity": 0.5, "synthesis/s_score/flair": 0.9}, 0.4),
    ({"synthesis/healthiness": -0.8, "synthesis/identity": 0.5}, 0.0),
    ({"synthesis/s_score/ct": 0.9, "synthesis/s_score/mr": 0.7, "synthesis/s_score_reference/mr": 0.1}, 0.8),
    ({"synthesis/healthiness": math.nan, "synthesis/identity": 0.5}, math.nan),
    ({"val/dice": 0.9}, math.nan),
])  # fmt: skip
def test_fidelity_is_what_the_method_measures(measured, value):
    assert fidelity(measured) == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(("names", "scheduler", "segments", "says"), [
    (("utility", "fidelty"), "none", True, "did you mean 'fidelity'"),
    (("utility", "utility"), "none", True, "each once"),
    (("cost",), "none", True, "utility among them"),
    (("utility", "cost"), "asha", True, "--scheduler none"),
    (("utility", "fidelity"), "none", False, "does not segment"),
])  # fmt: skip
def test_what_no_sweep_can_look_for_is_refused_in_one_line(names, scheduler, segments, says):
    with pytest.raises(InputError, match=says) as refused:
        check_objectives(names, scheduler, segments=segments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("names", [(), ("utility",), ("fidelity", "utility"), ("utility", "cost", "fidelity")])
def test_what_a_sweep_can_look_for_is_not(names):
    check_objectives(names, "auto" if len(names) < 2 else "none", segments=True)
    check_objectives((), "asha", segments=False)
