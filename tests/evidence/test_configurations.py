"""What a sweep declares before it starts: which configurations it compares, and that nothing else has a verdict."""

from __future__ import annotations

import pytest

from ganatomy.contracts import InputError
from ganatomy.evidence.configurations import declared_family, relevant
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


def test_the_plan_keeps_what_was_declared(tmp_path):
    folder = tmp_path / "sweeps" / "s"
    plan = SweepPlan("s", "lab", BASE, "", "", "0", trials=3, endpoint="val/dice", family=declared())
    plan.save(folder)
    found = read_plan(folder)
    assert (found.endpoint, found.family, found.rule) == ("val/dice", declared(), plan.rule)
    assert SweepPlan("s", "lab", BASE, "", "", "0", trials=3).family is None
