"""The gates: each fails for what it is there for and for nothing else, and a verdict survives JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.measures.segmentation import nearest_distances
from ganatomy.measures.verdicts import compare, of_scores
from ganatomy.promotion import gate

PASSED = {name: gate.GateResult(name, True, "Fine.") for name in gate.GATES}


def gates(**changed):
    return [changed.get(name, result) for name, result in PASSED.items()]


# --- utility -----------------------------------------------------------------------------------------------------


def found(effect=0.0, patients=12, trainings=5, least=0.0, luck=0.01, alpha=0.0274):
    """What so many trainings show on so many patients where the candidate is better by ``effect``."""
    rng = np.random.default_rng(3)
    names = [f"p{number}" for number in range(patients)]
    base = rng.uniform(0.4, 0.7, patients)
    sides = [
        of_scores([dict(zip(names, base + more + rng.normal(0, luck) + rng.normal(0, luck, patients)))
                   for _ in range(trainings)])
        for more in (effect, 0.0)
    ]  # fmt: skip
    return compare(*sides, alpha=alpha, least=least)


@settings(deadline=None, max_examples=40)
@given(st.floats(-0.3, 0.3), st.integers(1, 20), st.integers(1, 6), st.floats(0, 0.1))
def test_utility_is_passed_exactly_when_the_limit_lies_above_the_least_effect(effect, patients, trainings, least):
    finding = found(effect, patients, trainings, least)
    result = gate.utility(finding)
    enough = patients >= 6 and trainings >= 3
    assert result.passed == (enough and finding.low > least)
    assert ("shown to help" in result.sentence.replace("not shown to help", "")) == result.passed


def test_each_answer_is_told_with_its_figures():
    help_, harm = gate.utility(found(0.05), candidate="joint", baseline="real"), gate.utility(found(-0.05))
    assert help_.passed
    assert "On 12 held-out patients and 5 trainings against 5, joint" in help_.sentence
    assert "94.5% interval" in help_.sentence
    assert "shown to harm" in harm.sentence
    assert "Dice points less than" in harm.sentence
    undecided = gate.utility(found(0.001))
    assert "not shown to help. A study of this size shows an effect of +" in undecided.sentence
    assert "not shown to help by more than 8.0" in gate.utility(found(0.05, least=0.08)).sentence
    assert "shown to help by more than 1.0" in gate.utility(found(0.05, least=0.01)).sentence


def test_what_else_the_two_differ_in_is_named_and_bars_nothing():
    helps, few = (gate.utility(one, besides="labels.fraction 1 against 0.1") for one in (found(0.05), found(0.4, 5)))
    said = " They differ in more than synthetic data: labels.fraction 1 against 0.1."
    assert helps.passed
    assert helps.sentence.endswith(said)
    assert few.sentence.endswith(said)
    assert helps.figures["besides"] == "labels.fraction 1 against 0.1"


@pytest.mark.parametrize(("patients", "trainings", "said"), [
    (5, 5, "5 patients of 6"), (1, 5, "On 1 held-out patient "), (12, 2, "2 trainings a side of 3"),
])  # fmt: skip
def test_too_few_cannot_pass_whatever_the_improvement(patients, trainings, said):
    few = gate.utility(found(0.4, patients, trainings))
    assert not few.passed
    assert said in few.sentence
    assert "no verdict" in few.sentence


# --- memorisation ------------------------------------------------------------------------------------------------


def images(n, seed, noise=0.0):
    """Blobs of varied place and size; the same seed gives the same patients."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    made = []
    for _ in range(n):
        cy, cx = rng.uniform(-0.5, 0.5, 2)
        sy, sx = rng.uniform(0.15, 0.4, 2)
        blob = np.exp(-(((y - cy) / sy) ** 2) - ((x - cx) / sx) ** 2)
        made.append((2 * blob - 1 + noise * rng.normal(size=blob.shape))[None].astype(np.float32))
    return made


def memorise(synthetic, training, held_out):
    mine, theirs, others = ([f"{kind}{i}" for i in range(len(group))] for kind, group in
                            (("made", synthetic), ("train", training), ("val", held_out)))  # fmt: skip
    return gate.memorisation(
        nearest_distances(synthetic, mine, training, theirs), mine,
        nearest_distances(held_out, others, training, theirs), others,
    )  # fmt: skip


def failures(make, *, repeats=60):
    results = [memorise(*make(seed)) for seed in range(repeats)]
    return np.mean([not result.passed for result in results])


@pytest.mark.parametrize(("made", "training", "held_out"), [(30, 20, 8), (12, 4, 4), (40, 6, 6)])
def test_new_patients_are_rarely_taken_for_copies(made, training, held_out):
    """Calibration: anatomies drawn anew from the same distribution, few patients as in practice."""
    rate = failures(lambda seed: (images(made, seed, 0.1), images(training, 1000 + seed, 0.1),
                                  images(held_out, 3000 + seed, 0.1)))  # fmt: skip
    assert rate <= 0.15


def test_a_single_copy_among_many_is_found():
    def make(seed):
        training, made = images(6, seed, 0.1), images(30, 500 + seed, 0.1)
        made[17] = 0.6 * training[4] + 0.2  # brightness and contrast changed
        return made, training, images(6, 3000 + seed, 0.1)

    assert failures(make, repeats=20) == 1
    assert memorise(*make(0)).figures["copies"] == 1


def test_a_generator_that_hands_out_its_training_set_with_noise_is_caught():
    def make(seed):
        rng, training = np.random.default_rng(seed), images(6, seed)
        made = [image + 0.15 * rng.normal(size=image.shape) for image in training * 4]
        return made, training, images(6, 3000 + seed)

    assert failures(make, repeats=20) == 1


def test_a_set_that_is_closer_as_a_whole_fails_without_any_copy():
    rng = np.random.default_rng(0)
    real, made = rng.normal(1, 0.1, 8), rng.normal(0.7, 0.05, 40)
    result = gate.memorisation(made, [f"m{i}" for i in range(40)], real, [f"r{i}" for i in range(8)])
    assert result.figures["copies"] == 0
    assert not result.passed
    assert "may repeat" in result.sentence


def test_hundreds_of_images_do_not_make_a_trifle_fail():
    rng = np.random.default_rng(0)
    real, made = rng.normal(1, 0.05, 300), rng.normal(0.96, 0.05, 300)
    result = gate.memorisation(made, [f"m{i}" for i in range(300)], real, [f"r{i}" for i in range(300)])
    assert result.figures["p"] < 0.001
    assert result.passed


@pytest.mark.parametrize(
    ("made", "real"), [([], [1.0, 1.1]), ([1.0], []), ([1.0], [math.nan]), ([math.nan], [1.0, 1.2])]
)
def test_what_could_not_be_compared_has_not_been_shown(made, real):
    result = gate.memorisation(made, ["a"] * len(made), real, [f"b{i}" for i in range(len(real))])
    assert not result.passed
    assert "Could not be checked" in result.sentence


# --- lineage and integrity ---------------------------------------------------------------------------------------


def test_a_test_patient_among_the_parents_fails_by_name():
    assert gate.lineage(["p1", "p2", "p2"], ["p7", "p8"]).passed
    leaked = gate.lineage(["p1", "p7"], iter(["p7", "p8"]))
    assert not leaked.passed
    assert "p7" in leaked.sentence
    assert not gate.lineage([], ["p7"]).passed
    assert not gate.lineage(["p1"], []).passed


def test_integrity_wants_every_volume_the_same():
    assert gate.integrity({"a": 0.0, "b": 3e-6}).passed
    for broken in ({"a": 0.0, "b": 0.1}, {"a": math.nan, "b": 0.0}, {}):
        assert not gate.integrity(broken).passed
    assert "b" in gate.integrity({"a": 0.0, "b": 0.1}).sentence


# --- the verdict -------------------------------------------------------------------------------------------------


def test_all_gates_promote_and_any_one_stops():
    assert gate.judge(gates()).promoted
    for name in gate.GATES:
        verdict = gate.judge(gates(**{name: gate.GateResult(name, False, "Bad.")}))
        assert not verdict.promoted
        assert verdict.failed == (name,)
    harms = gate.judge(gates(utility=gate.utility(found(-0.05))))
    assert harms.sentence == "Not promoted: the synthetic data is shown to harm."
    stopped = gate.judge(gates(utility=gate.GateResult("utility", False, "Bad.")))
    assert stopped.sentence == "Not promoted: the synthetic data is not shown to help."


def test_force_needs_a_reason_and_keeps_it():
    failing = gates(lineage=gate.GateResult("lineage", False, "p7 is a parent."))
    verdict = gate.judge(failing, forced=" agreed with the ethics board ")
    assert verdict.promoted
    assert verdict.failed == ("lineage",)
    assert "agreed with the ethics board" in verdict.sentence
    assert "although it failed lineage" in verdict.text()
    for blank in ("", "  "):
        with pytest.raises(InputError, match="reason"):
            gate.judge(failing, forced=blank)


def test_a_gate_left_out_or_given_twice_is_no_verdict():
    for wrong in (gates()[:3], [*gates(), PASSED["utility"]]):
        with pytest.raises(ValueError, match="each of"):
            gate.judge(wrong)


def test_a_verdict_survives_standard_json():
    verdict = gate.judge(
        gates(
            utility=gate.utility(found(0.1, patients=1)),
            memorisation=gate.memorisation([1.0, 1.1], ["a", "b"], [0.9, 1.0], ["c", "d"]),
            integrity=gate.integrity({}),
        ),
        forced="a pilot", candidate="joint", baseline="real",
    )  # fmt: skip
    text = verdict.to_json()
    again = gate.Verdict.from_json(text)
    assert again.to_json() == text
    assert json.loads(text)["sentence"] == verdict.sentence
    assert (again.promoted, again.failed, again.forced, again.candidate) == (
        True,
        ("utility", "integrity"),
        "a pilot",
        "joint",
    )
