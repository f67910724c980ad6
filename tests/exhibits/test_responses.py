"""Curves of what was varied: which trainings stand in which, and that their means are those of the trainings."""

from __future__ import annotations

import math
from statistics import fmean

import pytest
from evidence.sweeps import experiment, sweep, trial

from exhibits.materials import material_of, size_of
from ganatomy.exhibits.responses import MOST_VALUES, Point, Response, means_of, responses
from ganatomy.experiment import TrialResult


def varied(seeds=(0, 1, 2)):
    """Two arms, ratios in both, a threshold in one, label fractions in all; amounts as such trainings have them."""
    made = [{"arm": "real", "labels__fraction": fraction} for fraction in (0.25, 1.0)]
    made += [{"arm": "joint", "mixing__ratio": ratio, "labels__fraction": 1.0} for ratio in (0.5, 2.0)]
    made += [{"arm": "offline", "mixing__ratio": 1.0, "filter__min_dice": least, "labels__fraction": fraction}
             for least, fraction in ((0.0, 1.0), (0.5, 1.0), (0.5, 0.25))]  # fmt: skip
    results = []
    for place, values in enumerate(made):
        kept = {"work/synthetic_images": 40.0, "work/kept_images": 40.0 if not values.get("filter__min_dice") else 10.0}
        seen = {} if values["arm"] == "real" else {"work/synthetic_samples": 100.0 * values["mixing__ratio"]}
        summary = {**seen, **(kept if values["arm"] == "offline" else {})}
        results += [trial(f"t{place}{seed}", experiment(**values, seed=seed), 0.01 * place, summary=summary)
                    for seed in seeds]  # fmt: skip
    return results


def rows_of(exhibit, name):
    return [row for row in exhibit.grids[0].rows if row[0] == name]


def test_each_curve_holds_the_trainings_to_whom_its_parameter_matters():
    shown = responses(material_of(varied()))
    counts = {(row[0], row[1], row[2]): int(row[3]) for row in shown.grids[0].rows}
    assert counts == {
        ("mixing.ratio", "0.5", "with"): 3, ("mixing.ratio", "1", "with"): 9, ("mixing.ratio", "2", "with"): 3,
        ("synthetic samples seen", "50", "with"): 3, ("synthetic samples seen", "100", "with"): 9,
        ("synthetic samples seen", "200", "with"): 3,
        ("filter.min_dice", "0", "with"): 3, ("filter.min_dice", "0.5", "with"): 6,  # of the offline arm alone
        ("labels.fraction", "0.25", "with"): 3, ("labels.fraction", "1", "with"): 12,
        ("labels.fraction", "0.25", "without"): 3, ("labels.fraction", "1", "without"): 3,
    }  # fmt: skip
    captions = [picture.caption for picture in shown.pictures]
    assert captions[0] == "Dose–response: Dice against mixing.ratio, synthetic samples seen"
    assert (
        captions[1] == "Threshold of the filter: Dice against filter.min_dice; images kept, % against filter.min_dice"
    )
    assert captions[2] == "Fraction of the labels: Dice against labels.fraction"
    assert all(size_of(picture)[0] == 1118 for picture in shown.pictures)


def test_means_are_those_of_the_table():
    material = material_of(varied())
    by_value = {row[1]: row[4] for row in rows_of(responses(material), "mixing.ratio")}
    for ratio in (0.5, 2.0):
        row = next(row for row in material.table.rows if row.parameters.get("mixing.ratio") == ratio)
        assert by_value[f"{ratio:g}"] == f"{row.dice:.3f}"


def test_amounts_are_axes_of_their_own_on_which_all_is_no_number():
    """0 distinct images are all there are: the axis of what was mixed in has their place."""
    results = []
    for distinct in (0, 5, 10):
        for seed in range(3):
            made = experiment(arm="offline", mixing__distinct=distinct, seed=seed)
            work = {"work/used_images": float(distinct or 40), "work/synthetic_samples": 100.0}
            one = trial(f"{distinct}{seed}", made, summary=work)
            results.append(one)
    shown = responses(material_of(results))
    assert shown.pictures[0].caption.startswith(
        "Dose–response: Dice against mixing.distinct, distinct synthetic images"
    )
    assert {row[1] for row in rows_of(shown, "mixing.distinct")} == {"5", "10"}
    assert {row[1] for row in rows_of(shown, "distinct synthetic images")} == {"5", "10", "40"}


def test_trainings_that_failed_are_counted_for_those_left_are_the_luckier_ones():
    lost = TrialResult("x", experiment(arm="offline", mixing__ratio=2.0, seed=1), "failed", "keeps none")
    assert not any("failed" in sentence for sentence in responses(material_of(varied())).sentences)
    said = responses(material_of([*varied(), lost])).sentences
    assert any(sentence.startswith("1 training that failed is in no curve") for sentence in said)


def point(value, score, others="", synthetic=True):
    return Point(value, score, f"{value}{others}", others, "offline", "", synthetic)


def test_a_line_joins_only_what_differs_in_nothing_else():
    points = [point(1, 0.5, "a"), point(2, 0.6, "a"), point(2, 0.8, "a"), point(3, 0.1, "b")]
    assert Response("ratio", tuple(points), "Dice").alone == [[(1, 0.5), (2, pytest.approx(0.7))]]


def test_many_values_are_told_in_groups_that_share_all_trainings_among_them():
    points = [point(n, math.sin(n)) for n in range(MOST_VALUES + 7)]
    found = means_of(points)
    assert len(found) == 5
    assert fmean(mean for _, mean in found) == pytest.approx(fmean(p.score for p in points))  # fifteen, in threes
    assert [value for value, _ in found] == [1, 4, 7, 10, 13]
    few = points[:MOST_VALUES]
    assert means_of(few) == [(p.value, p.score) for p in few]


def test_what_varied_in_nothing_numeric_has_no_curve():
    same = [one for one in sweep() if one.experiment.mixing.ratio != 2.0 and one.experiment.arm != "offline"]
    assert responses(material_of(same)) is None
    assert responses(material_of([])) is None
