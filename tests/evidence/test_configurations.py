"""What a sweep declares before it starts: which configurations it compares, and that nothing else has a verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ganatomy.contracts import InputError
from ganatomy.evidence.configurations import CONTROLS, besides_synthetic, control_points, declared_family, relevant
from ganatomy.evidence.results import SweepPlan, read_plan
from ganatomy.experiment import Experiment
from ganatomy.search_space import SearchSpace

BASE = Experiment("cohort", {"A": "ct", "B": "mr"})
POINTS = (
    {"arm": "real"}, {"arm": "joint", "method.shape_weight": 1.0}, {"arm": "joint", "method.shape_weight": 0.0},
    {"arm": "offline", "mixing.ratio": 2.0},
)  # fmt: skip
SPACE = SearchSpace("lab", "", BASE, lambda suggest: None, points=POINTS)


def declared(asked=(), fixed=None, seeds=(0, 1, 2)):
    return declared_family(SPACE, fixed or {}, SPACE.listed(fixed or {}, seeds), asked)


def test_all_listed_points_with_synthetic_data_are_declared_once_under_all_their_seeds():
    family = declared()
    assert family == {
        relevant(BASE.with_values(point)).configuration(): " ".join(f"{key}={value}" for key, value in point.items())
        for point in POINTS[1:]
    }
    assert declared(seeds=(5,)) == family


def test_what_else_than_synthetic_data_sets_two_apart_is_named():
    joint, real = (BASE.with_values(POINTS[number]) for number in (1, 0))
    assert besides_synthetic(joint, real) == ""
    assert besides_synthetic(joint, replace(real, seed=3)) == ""
    strong = BASE.with_values({"arm": "real", "downstream.augmentation": "strong"})
    assert besides_synthetic(joint, strong) == f"downstream.augmentation {BASE.downstream.augmentation} against strong"
    other = BASE.with_values({"arm": "real", "labels.fraction": 0.1, "downstream.learning_rate": 0.01})
    rate = BASE.downstream.learning_rate
    assert besides_synthetic(joint, other) == (
        f"downstream.learning_rate {rate:g} against 0.01, labels.fraction 1 against 0.1"
    )


def test_a_fixed_value_is_part_of_what_is_declared():
    family = declared(fixed={"budget.batch": "2"})
    assert not family.keys() & declared().keys()
    expected = relevant(BASE.with_values({**POINTS[1], "budget.batch": 2})).configuration()
    assert expected in family


@pytest.mark.parametrize(("asked", "points"), [
    (("arm=joint",), (1, 2)), (("arm=offline", "method.shape_weight=0.0"), (2, 3)), (("mixing.ratio=2",), (3,)),
])  # fmt: skip
def test_a_smaller_family_may_be_asked_for(asked, points):
    whole = [relevant(BASE.with_values(point)).configuration() for point in POINTS]
    assert [*declared(asked)] == [whole[place] for place in points]


@pytest.mark.parametrize(("asked", "said"), [
    ("arm=jiont", "arm=jiont.*expected arm=joint or arm=offline"), ("arm=real", "arm=real"), ("joint", "NAME=VALUE"),
    ("method.shape_wait=1", "shape_wait"),
])  # fmt: skip
def test_a_member_that_does_not_exist_is_refused_in_one_line(asked, said):
    with pytest.raises(InputError, match=said) as error:
        declared((asked,))
    assert "\n" not in str(error.value)


def updates(experiment):
    """Of a generator that takes as many steps as its budget says."""
    return experiment.budget.generator_steps


def controls(names=CONTROLS, fixed=None, seeds=(0, 1, 2), space=SPACE):
    return control_points(names, space, fixed or {}, seeds, updates)


def test_controls_stand_beside_the_candidates_under_the_same_seeds():
    budget = BASE.budget
    spent = budget.generator_steps + budget.segmentor_steps
    assert controls() == [
        *({"arm": "real", "budget.segmentor_steps": spent, "seed": seed} for seed in (0, 1, 2)),
        *({"arm": "real", "downstream.augmentation": "strong", "seed": seed} for seed in (0, 1, 2)),
    ]
    alone = controls(fixed={"labels.fraction": "0"}, seeds=(0,))  # where nobody of the target is labelled
    assert [point["arm"] for point in alone] == ["source", "source"]
    assert controls(()) == []
    assert all(SPACE.experiment(point, {}).validate() for point in controls())


def test_there_is_a_control_for_each_budget_and_downstream_model_of_the_candidates():
    points = ({"arm": "joint", "budget.generator_steps": 10}, {"arm": "offline", "budget.generator_steps": 20},
              {"arm": "joint", "budget.generator_steps": 10, "mixing.ratio": 2.0},
              {"arm": "joint", "budget.generator_steps": 10, "downstream.network": "pspnet"},
              {"arm": "real", "downstream.augmentation": "strong"})  # fmt: skip
    made = controls(seeds=(0,), space=replace(SPACE, points=points))
    steps = BASE.budget.segmentor_steps
    assert [(point["budget.segmentor_steps"] - steps, point.get("downstream.network")) for point in made[:3]] == [
        (10, None), (20, None), (10, "pspnet"),
    ]  # fmt: skip
    # The strongest augmentation of the base's network is listed already.
    assert [(point["arm"], point.get("downstream.network")) for point in made[3:]] == [("real", "pspnet")]


def test_controls_of_a_space_without_points_are_of_its_base_and_what_is_fixed_holds():
    fixed = {"budget.segmentor_steps": "30", "budget.generator_steps": "12", "arm": "offline", "seed": "7"}
    found = [SPACE.experiment(point, fixed) for point in controls(fixed=fixed, space=replace(SPACE, points=()))]
    assert [(one.arm, one.budget.segmentor_steps, one.downstream.augmentation, one.seed) for one in found] == [
        ("real", 42, BASE.downstream.augmentation, 7), ("real", 30, "strong", 7),
    ]  # fmt: skip


def test_controls_are_the_same_from_the_plan_of_a_sweep_that_goes_on(tmp_path):
    space = replace(SPACE, points=({"arm": "joint", "sampling.size": (32, 32)},))
    plan = SweepPlan("s", "lab", BASE, "", "", "0", trials=6, controls=tuple(controls(space=space)))
    plan.save(tmp_path / "sweeps" / "s")
    assert read_plan(tmp_path / "sweeps" / "s").controls == plan.controls


def test_a_control_is_compared_only_where_it_is_named():
    points, listed = controls(), SPACE.listed({}, (0, 1, 2))
    assert declared_family(SPACE, {}, listed, (), points) == declared()
    longer = relevant(SPACE.experiment(points[0], {})).configuration()
    assert [*declared_family(SPACE, {}, listed, ("arm=real",), points)] == [longer]
    assert {longer} < {*declared_family(SPACE, {}, listed, ("arm=joint", "arm=real"), points)}


def test_a_control_that_there_is_not_is_refused():
    with pytest.raises(InputError, match=r"--controls long_reel; did you mean 'long_real'\?"):
        controls(("long_reel",))


def test_the_plan_keeps_what_was_declared(tmp_path):
    folder = tmp_path / "sweeps" / "s"
    plan = SweepPlan("s", "lab", BASE, "", "", "0", trials=3, endpoint="val/dice", family=declared(),
                     controls=tuple(controls()))  # fmt: skip
    plan.save(folder)
    found = read_plan(folder)
    assert found.controls == plan.controls
    assert (found.endpoint, found.family, found.rule) == ("val/dice", declared(), plan.rule)
    assert SweepPlan("s", "lab", BASE, "", "", "0", trials=3).family is None
