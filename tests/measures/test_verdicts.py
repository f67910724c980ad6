"""Three answers and none: what is said of the trainings of two configurations, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ganatomy.contracts import InputError
from ganatomy.measures.crossed import contrast, scores_of
from ganatomy.measures.roc import Predictions
from ganatomy.measures.verdicts import (
    HARMS,
    HELPS,
    NO_VERDICT,
    UNDECIDED,
    Finding,
    answers,
    compare,
    compare_all,
    compare_each,
    of_predictions,
    of_scores,
)


def trainings(seed=0, count=4, patients=10, shift=0.0, luck=0.02):
    rng, hard = np.random.default_rng(seed), np.random.default_rng(99).normal(0.7, 0.1, patients)
    return [
        {f"p{n}": float(hard[n] + shift + lucky + rng.normal(0, 0.02)) for n in range(patients)}
        for lucky in rng.normal(0, luck, count)
    ]


def predictions(seed=0, count=3, apart=1.5, images=24, lesions=12):
    rng, hard = np.random.default_rng(seed), np.random.default_rng(98).normal(0, 1, images)
    truth = np.arange(images) < lesions
    logits = apart * truth + hard + 0.5 * rng.standard_normal((count, images))
    names = tuple(f"s{n}" for n in range(images))
    return Predictions(names, tuple(f"p{n}" for n in range(images)), truth, 1 / (1 + np.exp(-logits)))


@pytest.mark.parametrize(("shift", "least", "answer"), [
    (0.15, 0.0, HELPS), (-0.15, 0.0, HARMS), (0.0, 0.0, UNDECIDED), (0.15, 0.14, UNDECIDED), (0.15, 0.05, HELPS),
])  # fmt: skip
def test_three_answers_that_interval_and_p_agree_with(shift, least, answer):
    found = compare(of_scores(trainings(1, shift=shift)), of_scores(trainings(2, 5)), alpha=0.03, least=least)
    assert found.answer == answer
    assert (found.low > least, found.high < 0) == (answer == HELPS, answer == HARMS)
    assert (found.p_helps < found.family, found.p_harms < found.family) == (answer == HELPS, answer == HARMS)
    assert found.sentence.startswith(answer.capitalize())
    assert "94.0% interval" in found.sentence
    assert (found.patients, found.trainings) == (10, (4, 5))
    assert ("four times out of five" in found.sentence) == (answer == UNDECIDED)
    assert found.least_shown > found.least_shown_doubled > least


def test_a_finding_says_what_the_analysis_found():
    more, less = trainings(1), trainings(2, 5)
    table = [np.array([[one[name] for one in side] for name in more[0]]) for side in (more, less)]
    plain = contrast(*map(scores_of, table))
    found = compare(of_scores(more), of_scores(less))
    assert (found.estimate, found.low, found.high) == pytest.approx(
        [float(plain.estimate), float(plain.low()), float(plain.high())]
    )
    assert found.parts.training == pytest.approx([math.sqrt(part) for part in plain.training])
    assert found.pairs[3] == ("p3", pytest.approx(table[0][3].mean()), pytest.approx(table[1][3].mean()))
    assert found.means[1] == pytest.approx(table[1].mean(axis=0))
    assert found.answer == {1: HELPS, 0: UNDECIDED, -1: HARMS}[int(answers(plain, 0.025))]


def test_trainings_of_equal_seeds_are_judged_as_pairs_from_five_on():
    more, less = of_scores(trainings(1, 5)), of_scores(trainings(2, 5))
    found = compare(more, less, seeds=(range(5), range(5)))
    plain = contrast(more.side, less.side, pairs=True)
    assert found.paired
    assert (found.low, found.high) == pytest.approx((float(plain.low()), float(plain.high())))
    assert "5 pairs of trainings" in found.sentence
    assert len(found.parts.training) == 1
    assert Finding.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for seeds in ((range(5), (1, 0, 2, 3, 4)), (range(5), range(1, 6)), ((), ())):
        assert not compare(more, less, seeds=seeds).paired
    four = of_scores(trainings(1, 4)), of_scores(trainings(2, 4))
    assert not compare(*four, seeds=(range(4), range(4))).paired


def test_the_order_of_patients_does_not_matter():
    less = trainings(2)
    turned = [dict(reversed(one.items())) for one in less]
    assert compare(of_scores(trainings(1)), of_scores(turned)).low == pytest.approx(
        compare(of_scores(trainings(1)), of_scores(less)).low
    )


@pytest.mark.parametrize(("patients", "counts", "reason"), [
    (5, (4, 4), "5 patients of 6"), (10, (2, 4), "2 trainings a side of 3"), (10, (4, 1), "1 training a side"),
    (1, (1, 1), "1 patient of 6 that it takes, and 1 training"),
])  # fmt: skip
def test_of_too_few_the_raw_pairs_are_shown_and_nothing_is_said(patients, counts, reason):
    more, less = (trainings(n, count, patients, 0.2 * n) for n, count in enumerate(counts))
    found = compare(of_scores(more), of_scores(less))
    assert found.answer == NO_VERDICT
    assert reason in found.sentence
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert math.isnan(found.p_helps)
    assert [name for name, _, _ in found.pairs] == [f"p{n}" for n in range(patients)]
    assert [len(side) for side in found.means] == list(counts)
    assert found.parts is None


def test_one_table_twice_is_no_evidence():
    same = of_scores(trainings(1, luck=0.0, count=1) * 3)
    assert compare(same, same).answer in (UNDECIDED, NO_VERDICT)
    flat = [dict.fromkeys(f"p{n}" for n in range(8)) | {f"p{n}": 0.5 + shift for n in range(8)} for shift in (0.0, 0.3)]
    found = compare(of_scores([flat[1]] * 3), of_scores([flat[0]] * 3))
    assert found.answer == NO_VERDICT
    assert "nothing varies" in found.reason


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda side: side[1].pop("p3"), "p3 in all trainings or in none"),
    (lambda side: side[1].update(p3=math.nan), "training 2 of 4: the score of patient p3 is no number"),
    (lambda side: side[0].update(extra=0.5), "other patients than the first"),
    (lambda side: side.clear(), "no scores"),
])  # fmt: skip
def test_what_is_missing_or_no_number_is_refused(spoil, said):
    side = trainings(1)
    spoil(side)
    with pytest.raises(InputError, match=said):
        of_scores(side)


def test_other_patients_measures_and_classes_are_refused():
    with pytest.raises(InputError, match="p9 on both sides alike"):
        compare(of_scores(trainings(1)), of_scores(trainings(2, patients=9)))
    with pytest.raises(InputError, match="one measure"):
        compare(of_scores(trainings(1)), of_predictions(predictions()))
    said = predictions(1)
    other = replace(said, truth=said.truth[::-1].copy())
    with pytest.raises(InputError, match="s0"):
        compare(of_predictions(said), of_predictions(other))
    with pytest.raises(InputError, match="lesion and without"):
        of_predictions(replace(said, truth=np.ones(24, bool)))
    with pytest.raises(InputError, match="probability is no number"):
        of_predictions(replace(said, probabilities=np.full((3, 24), np.nan)))


# --- areas -------------------------------------------------------------------------------------------------------


def area(said):
    """Mean over the classifiers, each by scikit-learn."""
    return np.mean([roc_auc_score(said.truth, one) for one in said.probabilities])


def test_areas_are_judged_alike():
    more, less = predictions(1, 4, apart=4.0), predictions(2, 3, apart=0.5)
    found = compare(of_predictions(more), of_predictions(less))
    assert found.answer == HELPS
    assert found.estimate == pytest.approx(area(more) - area(less))
    assert (found.measure, found.pairs, found.trainings) == ("AUC", (), (4, 3))
    assert "AUC points" in found.sentence


def test_images_of_one_class_from_too_few_patients_allow_no_verdict():
    found = compare(of_predictions(predictions(1, lesions=2)), of_predictions(predictions(2, lesions=2)))
    assert "2 patients of one class where it takes 3" in found.reason
    assert found.means[0]
    alone = compare(of_predictions(predictions(1, lesions=1)), of_predictions(predictions(2, lesions=1)))
    assert alone.answer == NO_VERDICT


def test_two_perfect_classifiers_differ_by_nothing_that_could_be_judged():
    found = compare(of_predictions(predictions(1, apart=90.0)), of_predictions(predictions(2, apart=90.0)))
    assert (found.answer, found.estimate) == (NO_VERDICT, 0.0)


# --- families ----------------------------------------------------------------------------------------------------


def test_a_family_is_judged_more_strictly_than_each_alone():
    baseline = of_scores(trainings(0))
    candidates = {name: of_scores(trainings(n, shift=0.04)) for n, name in enumerate("abc", start=1)}
    together = compare_all(candidates, baseline, alpha=0.05)
    for name, judged in candidates.items():
        alone = compare(judged, baseline, alpha=0.05)
        assert together[name].low < alone.low
        assert together[name].high > alone.high
        assert together[name].p_helps == pytest.approx(min(1, alone.p_helps * together[name].comparisons))
        assert (together[name].p_helps < 0.05) == (together[name].low > 0)
        assert 1 < together[name].comparisons <= 3 + 1e-9


def test_comparisons_with_baselines_of_their_own_share_the_level():
    """Each as it would be alone at its share, its p told for the family; one that cannot be judged takes no share."""
    sides = {
        name: (of_scores(trainings(n, shift=0.1)), of_scores(trainings(10 + n))) for n, name in enumerate("abc", 1)
    }
    found = compare_each({**sides, "few": (of_scores(trainings(5, 2)), sides["a"][1])}, alpha=0.03)
    for name, (more, less) in sides.items():
        alone = compare(more, less, alpha=0.01)
        assert (found[name].low, found[name].high, found[name].answer) == (alone.low, alone.high, alone.answer)
        assert found[name].p_helps == pytest.approx(min(1, 3 * alone.p_helps))
        assert (found[name].family, found[name].comparisons) == (0.03, pytest.approx(3))
    assert found["few"].answer == NO_VERDICT
    only = compare_each({"a": sides["a"]}, alpha=0.03)["a"]
    assert only == compare(*sides["a"], alpha=0.03)


def test_who_cannot_be_judged_is_shown_and_takes_nothing_from_the_family():
    baseline, able = of_scores(trainings(0)), of_scores(trainings(1))
    found = compare_all({"able": able, "few": of_scores(trainings(2, 2))}, baseline)
    assert found["few"].answer == NO_VERDICT
    assert found["able"] == compare(able, baseline)


@pytest.mark.parametrize("patients", [10, 5])
def test_a_finding_is_kept_as_json(patients):
    found = compare(of_scores(trainings(1, patients=patients)), of_scores(trainings(2, patients=patients)))
    again = Finding.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()
    assert again.sentence == found.sentence
    if patients == 10:
        assert again == found
