"""Which domain plays which role: told, or found from the names of domains and from what the base leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganatomy.cohorts.cohort import Cohort, Domain, Row
from ganatomy.cohorts.roles import cast_roles, choose_domains, tie_of, with_roles
from ganatomy.contracts import InputError
from ganatomy.experiment import Choice, Experiment
from ganatomy.images.intensities import Intensity

STATES = Experiment("", {"P": ":lesion", "H": ":healthy"}, target="H", method=Choice("pseudo_healthy"), arm="offline")
NAMED = Experiment("", {"T1": "", "FLAIR": ""}, target="FLAIR", method=Choice("multimodal_mr"), arm="offline")
PAIR = Experiment("", {"A": "", "B": ""})


def cohort_of(labelled: dict[str, int]) -> Cohort:
    """Domain -> number of labelled training patients, on paper only."""
    domains = {name: Domain(name, name.upper(), Intensity.parse("percentile:0.5:99.5")) for name in labelled}
    rows = [
        Row(f"{name}{k}", f"{name}{k}", name, Path("x.nii"), Path("y.nii"), "train")
        for name, count in labelled.items()
        for k in range(count)
    ]
    return Cohort(Path("c"), "c", domains, {1: "heart"}, rows=tuple(rows))


def test_the_domain_with_fewer_labels_is_the_target_unless_told():
    cohort = cohort_of({"mr": 3, "ct": 20})
    assert choose_domains(cohort, "", "") == ("ct", "mr")
    assert choose_domains(cohort, "mr", "") == ("mr", "ct")
    assert choose_domains(cohort, "", "ct") == ("mr", "ct")
    assert cast_roles(PAIR, cohort).domains == {"A": "ct", "B": "mr"}


@pytest.mark.parametrize("names", [("ct", "mr"), ("mr", "ct")])
def test_with_as_many_labels_in_both_the_cohort_s_order_decides_and_is_told(names):
    """Source first, target second: rows of a paper's table are of the domains that it names."""
    first, second = names
    cohort = cohort_of(dict.fromkeys(names, 4))
    assert choose_domains(cohort, "", "") == (first, second)
    assert f"makes {first} the source and {second} the target" in tie_of(cast_roles(PAIR, cohort), cohort)
    assert tie_of(cast_roles(PAIR, cohort_of({first: 4, second: 3})), cohort_of({first: 4, second: 3})) == ""
    assert choose_domains(cohort, "", first) == (second, first)
    assert choose_domains(cohort, second, "") == (second, first)


@pytest.mark.parametrize(
    ("labelled", "source", "target", "says"),
    [
        ({"ct": 3}, "", "", "has one domain"),
        ({"ct": 3, "mr": 2, "t1": 1}, "", "", "--source and --target"),
        ({"ct": 3, "mr": 2}, "ctt", "", "did you mean 'ct'"),
        ({"ct": 3, "mr": 2}, "ct", "ct", "both ct"),
    ],
)
def test_domains_that_cannot_be_chosen_are_refused(labelled, source, target, says):
    with pytest.raises(InputError, match=says):
        choose_domains(cohort_of(labelled), source, target)


def test_states_are_of_the_only_domain_or_of_the_target():
    assert cast_roles(STATES, cohort_of({"flair": 3})).domains == {"P": "flair:lesion", "H": "flair:healthy"}
    two = cohort_of({"flair": 3, "t1": 3})
    assert cast_roles(STATES, two, target="t1").domains == {"P": "t1:lesion", "H": "t1:healthy"}
    with pytest.raises(InputError, match="--target"):
        cast_roles(STATES, two)
    given = cast_roles(STATES, two, ["H=t1"], target="flair")
    assert given.domains == {"P": "flair:lesion", "H": "t1"}
    assert (given.domain("P"), given.state("P"), given.state("H"), given.target_domain()) == (
        "flair",
        "lesion",
        "",
        "t1",
    )


def test_modalities_are_found_by_name():
    assert cast_roles(NAMED, cohort_of({"flair": 1, "t1": 1})).domains == {"T1": "t1", "FLAIR": "flair"}
    with pytest.raises(InputError, match="--domains T1=DOMAIN"):
        cast_roles(NAMED, cohort_of({"flair": 1, "t1w": 1}))
    assert cast_roles(NAMED, cohort_of({"flair": 1, "t1w": 1}), ["T1=t1w"]).domains == {"T1": "t1w", "FLAIR": "flair"}


def test_the_target_is_the_only_domain_or_the_one_that_is_told_where_none_has_its_name():
    drawn = Experiment("", {"P": ":lesion", "B": ""}, target="B", method=Choice("diffusion"), arm="offline")
    assert cast_roles(drawn, cohort_of({"flair": 3})).domains == {"P": "flair:lesion", "B": "flair"}
    two = cohort_of({"flair": 3, "t1": 3})
    assert cast_roles(drawn, two, target="t1").domains == {"P": "t1:lesion", "B": "t1"}
    assert cast_roles(NAMED, cohort_of({"t1": 3, "t2": 3}), target="t2").domains == {"T1": "t1", "FLAIR": "t2"}
    with pytest.raises(InputError, match="--domains B=DOMAIN or --target DOMAIN"):
        cast_roles(drawn, two, ["P=t1:lesion"])


@pytest.mark.parametrize(("given", "says"), [
    ("H", "ROLE=DOMAIN"), ("Q=flair", "the roles being P, H"), ("H=flare", "did you mean 'flair'"),
])  # fmt: skip
def test_a_role_that_cannot_be_given_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        cast_roles(STATES, cohort_of({"flair": 3}), [given])


def test_an_unknown_state_is_refused():
    odd = cast_roles(STATES, cohort_of({"flair": 3}), ["H=flair:helthy"])
    with pytest.raises(InputError, match="did you mean 'healthy'"):
        odd.validate()


def test_a_method_may_have_other_roles_under_what_is_fixed():
    """Two contrasts of four, or one more that the base does not know; anything else leaves the base as it was."""
    four = Experiment(
        "", dict.fromkeys(("T1", "T2", "T1c", "FLAIR"), ""), target="FLAIR", method=Choice("multimodal_mr")
    )
    cohort = cohort_of({"t1": 3, "flair": 3, "swi": 3})
    two = cast_roles(with_roles(four, {"method.contrasts": '["T1", "FLAIR"]', "seed": "1"}), cohort)
    assert (dict(two.domains), two.target) == ({"T1": "t1", "FLAIR": "flair"}, "FLAIR")
    three = with_roles(four, {"method.contrasts": ["T1", "T2", "SWI"]})
    with pytest.raises(InputError, match="no domain for role T2"):
        cast_roles(three, cohort)
    told = cast_roles(three, cohort, ["T2=flair"])
    assert (dict(told.domains), told.target) == ({"T1": "t1", "T2": "flair", "SWI": "swi"}, "SWI")
    for fixed in ({}, {"method.width": 0.5}, {"method.nonsense": 1}, {"arm": "real"}):
        assert with_roles(four, fixed) is four
    two = two.with_values({"method.contrasts": ["T1", "FLAIR"], "arm": "offline"})
    assert two.validate().method_class().roles == ("T1", "FLAIR")
