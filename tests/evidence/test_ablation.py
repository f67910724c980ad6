"""The ablation table on sweeps with known answers."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from reports.materials import page_of

from evidence.sweeps import LOST, experiment, sweep, trial
from ganatomy.contracts import InputError
from ganatomy.evidence import figures
from ganatomy.evidence.ablation import SAME_PATIENTS, ablation_table
from ganatomy.evidence.configurations import relevant
from ganatomy.experiment import SYNTHETIC_ARMS, Score, TrialResult
from ganatomy.measures.segmentation import patient_scores
from ganatomy.measures.verdicts import compare, compare_all, of_scores
from ganatomy.reports.tabulated import brief, to_json
from ganatomy.reports.text import render_text


def test_the_baseline_is_the_best_arm_without_synthetic_images_and_readings_follow_the_truth():
    table = ablation_table(sweep())
    by_name = {row.name: row for row in table.rows}
    assert table.row(table.baseline).name == "real · augmentation=strong"
    assert table.row(table.candidate).name == "joint · ratio=0.5"
    assert by_name["joint · ratio=0.5"].reading == "helps"
    assert by_name["joint · ratio=2"].reading == "harms"
    assert by_name["offline · ratio=0.5"].reading == "undecided"
    assert by_name["real · augmentation=none"].reading == "no synthetic data"
    assert by_name["real · augmentation=strong"].finding is None
    assert [row.dice for row in table.rows] == sorted((row.dice for row in table.rows), reverse=True)
    assert "Helps: +7.0 Dice points" in table.conclusion
    assert "12 patients, 3 trainings against 3" in table.conclusion


def own(results, arm, **values):
    """Patient -> score, one mapping a training, of one configuration."""
    made = experiment(arm=arm, **values)
    return [patient_scores(one.scores) for one in results if one.experiment.configuration() == made.configuration()]


def test_rows_are_judged_as_one_family_against_the_baseline():
    results = sweep()
    rows = {row.name: row.finding for row in ablation_table(results).rows}
    asked = {
        "joint · ratio=0.5": own(results, "joint", mixing__ratio=0.5),
        "joint · ratio=2": own(results, "joint", mixing__ratio=2.0),
        "offline · ratio=0.5": own(results, "offline", mixing__ratio=0.5),
    }  # fmt: skip
    baseline = of_scores(own(results, "real", downstream__augmentation="strong"))
    expected = compare_all({name: of_scores(scores) for name, scores in asked.items()}, baseline)
    for name, finding in expected.items():
        assert (rows[name].estimate, rows[name].low, rows[name].high) == pytest.approx(
            (finding.estimate, finding.low, finding.high)
        )
        assert rows[name].alpha < 0.025
        alone = compare(of_scores(asked[name]), baseline)
        assert rows[name].low < alone.low < alone.high < rows[name].high
    assert rows["real · augmentation=none"].answer == "no verdict"


def test_what_a_search_sampled_is_no_member_of_the_family():
    results = sweep()
    listed = {relevant(one.experiment).configuration() for one in results if one.experiment.arm in SYNTHETIC_ARMS}
    sampled = [trial(f"s{n}", experiment(arm="joint", mixing__ratio=1 + n / 32), 0.2) for n in range(30)]
    table = ablation_table([*results, *sampled], declared=listed)
    assert {row.reading for row in table.rows if row.synthetic and not row.declared} == {"searched"}
    plain = ablation_table(results)
    assert table.row(plain.candidate).finding == plain.row(plain.candidate).finding  # however much was searched
    assert table.rows[0].reading == "searched"
    assert "a point that a search sampled" in table.conclusion
    assert any("'searched'" in caveat for caveat in table.caveats)


def test_a_patient_with_four_visits_counts_once_and_no_row_stands_above_another_against_its_difference():
    """The many visits of one patient would put a row first that is worse in all the others."""
    visits = {"p0": 20} | {f"p{n}": 1 for n in range(1, 8)}

    def visited(name, arm, seed, first, others):
        scores = [Score(f"{who}-{v}", who, "dice", "lv", (first if who == "p0" else others) + 0.01 * seed)
                  for who, number in visits.items() for v in range(number)]  # fmt: skip
        return TrialResult(name, experiment(arm=arm, seed=seed), "finished", scores=tuple(scores))

    results = [visited(f"r{seed}", "real", seed, 0.2, 0.8) for seed in range(3)]
    results += [visited(f"j{seed}", "joint", seed, 0.6, 0.7) for seed in range(3)]
    results += [visited(f"o{seed}", "offline", seed, 0.2, 0.81) for seed in range(3)]
    table = ablation_table(results)
    assert [row.arm for row in table.rows] == ["offline", "real", "joint"]
    baseline = table.row(table.baseline)
    for row in table.rows:
        if row.finding:
            assert row.dice - baseline.dice == pytest.approx(row.finding.estimate)
    assert table.row(table.baseline).dice == pytest.approx((0.2 + 7 * 0.8) / 8 + 0.01)
    assert [row.dice for row in table.rows] == sorted((row.dice for row in table.rows), reverse=True)


def test_numbers_beside_the_score_are_means_over_trainings():
    table = ablation_table(sweep())
    row = table.row(table.candidate)
    assert row.seeds == (0, 1, 2)
    assert row.s_scores == pytest.approx({"mr": 0.9, "ct": 0.7})
    assert row.dice == pytest.approx(np.mean([*row.patients.values()]))


def refused(name, made):
    return TrialResult(name, made, "failed", "filter.set_mean = 0.5: the set is refused", refused=True)


def test_a_refused_set_is_no_result_and_harms_nobody():
    """However bad what is left of its trainings looks: nothing was trained on what its judges refused."""
    results = [*sweep(), *(trial(f"b{seed}", experiment(arm="offline", mixing__ratio=3.0, seed=seed), -0.3)
                           for seed in range(3))]  # fmt: skip
    assert "harms" in {row.reading for row in ablation_table(results).rows}
    table = ablation_table([*results, refused("x", experiment(arm="offline", mixing__ratio=3.0, seed=3))])
    row = next(row for row in table.rows if row.parameters.get("mixing.ratio") == 3.0 and row.arm == "offline")
    assert (row.reading, row.finding.reason) == (
        "no verdict", "no result under seed 3, where the synthetic set was refused",
    )  # fmt: skip
    assert [(one.trial, one.status) for one in table.unfinished] == [("x", "no result")]


def test_where_every_set_was_refused_the_sweep_has_no_result():
    real = [result for result in sweep() if result.experiment.arm == "real"]
    lost = [refused(f"x{seed}", experiment(arm="offline", seed=seed)) for seed in range(3)]
    table = ablation_table([*real, *lost])
    assert table.conclusion.startswith("No result: every synthetic set was refused")
    assert "no result" in render_text(table)
    assert table.answer == ""


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_a_configuration_that_failed_under_a_hard_seed_has_no_verdict(status):
    """Under seed 1 every segmentor is bad. One configuration has no result there; it is no better than the baseline."""
    hard = {0: 0.1, 1: -0.3, 2: 0.1, 3: 0.1}
    lifts = {"real": 0.0, "joint": 0.0, "offline": 0.05}
    results = [
        trial(f"{arm}{seed}", experiment(arm=arm, seed=seed), lift + hard[seed])
        for arm, lift in lifts.items()
        for seed in hard
        if (arm, seed) != ("joint", 1)
    ]
    lost = TrialResult("x", experiment(arm="joint", seed=1), status, "keeps none")
    rows = {row.arm: row for row in ablation_table([*results, lost]).rows}
    assert rows["joint"].dice > rows["real"].dice
    assert rows["joint"].reading == "no verdict"
    assert "seed 1 came to no end" in rows["joint"].finding.reason
    assert rows["offline"].reading == "undecided"  # the luck of a training is large here
    again = trial("y", experiment(arm="joint", seed=1), hard[1])
    rows = {row.arm: row for row in ablation_table([*results, lost, again]).rows}
    assert rows["joint"].reading == "undecided"


def test_rows_that_nobody_can_compare_are_shown_and_said_to_be_so():
    results = [trial("a", experiment(arm="real")), trial("b", experiment(arm="joint"), 0.1)]
    elsewhere = tuple(Score(f"t{n}", f"q{n}", "dice", "lv", 0.5) for n in range(6))
    results[1] = TrialResult("b", results[1].experiment, "finished", scores=elsewhere)
    table = ablation_table(results)
    assert [row.reading for row in table.rows] == ["", ""]
    assert any("no patient was scored by all trainings" in caveat for caveat in table.caveats)
    assert "nothing can be compared" in table.conclusion
    assert table.conclusion in render_text(table).replace("\n", " ")


def test_settings_of_the_generator_make_no_difference_to_an_arm_without_one():
    results = [
        trial("a", experiment(arm="real", method__shape_weight=1.0, seed=0)),
        trial("b", experiment(arm="real", mixing__ratio=3.0, filter__min_dice=0.5, drawing__per_label=3.0, seed=1)),
        trial("c", experiment(arm="joint", method__shape_weight=1.0)),
        trial("d", experiment(arm="joint", method__shape_weight=0.0)),
    ]
    table = ablation_table(results)
    assert sorted(row.name for row in table.rows) == ["joint · shape_weight=0", "joint · shape_weight=1", "real"]
    assert table.row(table.baseline).seeds == (0, 1)
    joint = experiment(arm="joint", mixing__ratio=3.0)
    assert relevant(joint) == joint


@pytest.mark.parametrize(("fraction", "drawn", "said"), [
    (0.5, "once", True), (0.5, "each", False), (1.0, "once", False),
])  # fmt: skip
def test_intervals_without_the_luck_of_the_patients_say_so(fraction, drawn, said):
    """Also where all trials have the setting, and no row is told by it."""
    labels = {"labels__fraction": fraction, "labels__drawn": drawn}
    results = [trial(f"{arm}{seed}", experiment(arm=arm, seed=seed, **labels)) for arm in ("real", "joint")
               for seed in range(3)]  # fmt: skip
    assert (SAME_PATIENTS in ablation_table(results).caveats) == said


def test_what_generators_are_shown_makes_no_difference_to_an_arm_without_one():
    shown = experiment(arm="real", sampling__middle_slices=4, sampling__central=True)
    assert relevant(shown) == relevant(experiment(arm="real"))
    assert relevant(experiment(arm="joint", sampling__central=True)).sampling.central


def test_the_same_experiment_run_twice_is_one_replicate():
    twice = [trial("a", experiment(arm="real")), trial("again", experiment(arm="real"), 0.2)]
    (row,) = ablation_table(twice).rows
    assert row.seeds == (0,)
    assert row.trials == ("a", "again")
    assert row.dice == pytest.approx(0.6, abs=0.01)


def test_augmentation_is_in_the_names_of_those_that_it_sets_apart():
    points = ({}, {"downstream.augmentation": "strong"}, {"arm": "joint"})
    results = [trial(str(n), experiment(arm="real").with_values(point)) for n, point in enumerate(points)]
    names = {row.name for row in ablation_table(results).rows}
    assert names == {"real · augmentation=none", "real · augmentation=strong", "joint"}
    assert {row.name for row in ablation_table(results[1:]).rows} == {"real", "joint"}


def test_names_keep_the_prefix_that_tells_two_parameters_apart():
    results = [
        trial("a", experiment(arm="joint", labels__fraction=0.5, downstream__learning_rate=1e-3)),
        trial("b", experiment(arm="joint", labels__fraction=1.0, downstream__learning_rate=1e-4)),
    ]
    names = {row.name for row in ablation_table(results).rows}
    assert names == {"learning_rate=0.001 · fraction=0.5", "learning_rate=0.0001 · fraction=1"}
    (only,) = ablation_table(results[:1]).rows
    assert only.name == "joint"


def test_naming_twice_as_many_configurations_is_twice_the_work(monkeypatch):
    """Not four times: a sweep may have thousands."""
    compared, dumps = [], json.dumps
    monkeypatch.setattr(
        "ganatomy.evidence.ablation.json.dumps", lambda value, **how: compared.append(1) or dumps(value, **how)
    )
    counts = []
    for size in (10, 20):
        results = [trial(f"t{n}", experiment(arm="joint", mixing__ratio=1 + n / 64), patients=2) for n in range(size)]
        compared.clear()
        table = ablation_table(results)
        counts.append(len(compared))
        assert {row.name for row in table.rows} == {f"ratio={1 + n / 64:.4g}" for n in range(size)}
    assert counts[0] < counts[1] < 2.5 * counts[0]


def test_misses_and_the_worst_case_are_counted_and_missing_structures_are_not_zero():
    scores = (
        Score("s0", "p0", "dice", "lv", 0.0, True), Score("s0", "p0", "dice", "rv", math.nan),
        Score("s1", "p1", "dice", "lv", 0.9), Score("s1", "p1", "dice", "rv", 0.7),
    )  # fmt: skip
    (row,) = ablation_table([TrialResult("t", experiment(arm="real"), "finished", scores=scores)]).rows
    assert (row.missed, row.worst, row.worst_subject) == (1, 0, "s0")
    assert row.labels == pytest.approx({"lv": 0.45, "rv": 0.7})
    assert row.dice == pytest.approx(0.4)
    assert math.isnan(row.hd95)


def test_failed_pruned_and_scoreless_trials_are_listed_with_one_line():
    table = ablation_table([*sweep(), *LOST, TrialResult("x3", experiment(arm="real"), "finished")])
    assert [(item.trial, item.status, item.error) for item in table.unfinished] == [
        ("x1", "failed", "out of memory"), ("x2", "pruned", ""), ("x3", "finished", "no scores"),
    ]  # fmt: skip
    assert "failed: trial x1 (joint · ratio=1): out of memory" in render_text(table)


@pytest.mark.parametrize(("patients", "seeds", "lacking"), [
    (5, (0, 1, 2), "5 patients of 6"), (12, (0, 1), "2 trainings a side of 3"), (4, (0,), "4 patients of 6"),
])  # fmt: skip
def test_too_few_patients_or_trainings_are_shown_raw_and_without_a_verdict(patients, seeds, lacking):
    results = sweep(patients, seeds)
    table = ablation_table(results)
    row = table.row(table.candidate)
    assert row.reading == "no verdict"
    assert lacking in table.conclusion
    assert math.isinf(row.finding.low)
    text = render_text(table)
    pairs = [f"{100 * (more - less):+.1f}" for _, more, less in row.finding.pairs]
    assert f"Δ of the patients {' '.join(pairs)}" in text.replace("\n", " ")
    assert f"{100 * row.dice:+.1f} [" not in text
    assert any("no verdict" in caveat for caveat in table.caveats)
    page = page_of(results)
    assert " ".join(pairs) in page
    assert 'class="answer no-verdict"' in page


def test_undecided_says_what_such_a_study_could_have_shown():
    results = [trial(f"{arm}{seed}", experiment(arm=arm, seed=seed), lift, noise=0.05)
               for arm, lift in (("real", 0.0), ("joint", 0.01)) for seed in range(3)]  # fmt: skip
    table = ablation_table(results)
    finding = table.row(table.candidate).finding
    assert f"undecided (≥{100 * finding.least_shown:.1f})" in " ".join(render_text(table).split())
    assert "four times out of five" in table.conclusion


def colours(png):
    from PIL import Image

    return {colour for _, colour in Image.open(io.BytesIO(png)).convert("RGB").getcolors(1 << 24)}


@pytest.mark.parametrize(("lift", "seeds", "reading", "colour"), [
    (0.1, 3, "helps", figures.BLUE), (-0.1, 3, "harms", figures.ORANGE), (0.0, 3, "undecided", figures.GREY),
    (0.1, 2, "no verdict", figures.GREY),
])  # fmt: skip
def test_an_interval_has_the_colour_of_its_reading(lift, seeds, reading, colour):
    results = [trial(f"{arm}{seed}", experiment(arm=arm, seed=seed), more)
               for arm, more in (("real", 0.0), ("joint", lift)) for seed in range(seeds)]  # fmt: skip
    table = ablation_table(results)
    row = table.row(table.candidate)
    assert row.reading == reading
    drawn = colours(figures.forest([(row.name, row.finding)]))
    inks = {name: tuple(int(name[place : place + 2], 16) for place in (1, 3, 5))
            for name in (figures.BLUE, figures.ORANGE, figures.GREY)}  # fmt: skip
    assert [name for name, ink in inks.items() if ink in drawn] == [colour]


@pytest.mark.parametrize("results", [[], LOST, sweep()[:2], [sweep()[3]]])
def test_without_anything_to_compare_it_says_so(results):
    table = ablation_table(results)
    assert table.conclusion.startswith("No comparison: no trial with")
    assert (table.conclusion if table.rows else "No answer: no trial has") in render_text(table)
    json.loads(to_json(table))


def test_a_baseline_may_be_named_and_must_exist():
    results = sweep()
    real = results[0].experiment.configuration()
    assert ablation_table(results, baseline=real).row(real).finding is None
    with pytest.raises(InputError, match="nonsense"):
        ablation_table(results, baseline="nonsense")


def test_names_and_brief_rows_serve_whoever_writes_a_model_card():
    results = [*sweep(), *LOST]
    table = ablation_table(results)
    assert table.name_of(results[3].experiment) == "joint · ratio=0.5"
    assert table.name_of(LOST[0].experiment) == "joint · ratio=1"
    rows = brief(table)
    assert rows[0]["configuration"] == "joint · ratio=0.5"
    assert rows[0]["S-score"] == "ct 0.70/0.95, mr 0.90"
    assert all(isinstance(cell, str) and "\n" not in cell for row in rows for cell in row.values())


def test_another_downstream_model_than_the_baselines_is_said_to_be_one():
    assert not any("downstream model" in caveat for caveat in ablation_table(sweep()).caveats)
    other = trial("q", experiment(arm="joint", downstream__network="pspnet"), -0.2)
    assert any("downstream model" in caveat for caveat in ablation_table([*sweep(), other]).caveats)


def test_healthiness_is_never_shown_without_identity():
    made = {"synthesis/healthiness": 0.98, "synthesis/identity": 0.875, "synthesis/healthiness_sd": 0.1}
    table = ablation_table([*sweep(), trial("p", experiment(arm="offline", mixing__ratio=4.0), summary=made)])
    (cell,) = [row["healthy"] for row in brief(table) if row["healthy"] != "–"]
    assert cell == "h 0.98, id 0.88"
    assert max(map(len, render_text(table).splitlines())) <= 120
    assert "healthy" not in brief(ablation_table(sweep()))[0]


@pytest.mark.parametrize(("trainings", "candidates", "said"), [
    (5, 1, "5 pairs of trainings"), (4, 1, "4 trainings against 4"), (5, 2, "5 trainings against 5"),
])  # fmt: skip
def test_one_comparison_of_enough_equal_seeds_is_of_pairs_as_its_confirmation_is(trainings, candidates, said):
    """What a seed gives both sides is no luck of either; two pages of one thing have one interval."""
    luck = (0.0, 0.2, -0.2, 0.1, -0.1)
    results = [trial(f"r{seed}", experiment(arm="real", seed=seed), luck[seed]) for seed in range(trainings)]
    for ratio in range(1, candidates + 1):
        results += [trial(f"{ratio}j{seed}", experiment(arm="joint", mixing__ratio=float(ratio), seed=seed),
                          luck[seed] + 0.04 + 0.001 * seed / ratio) for seed in range(trainings)]  # fmt: skip
    finding = (table := ablation_table(results)).row(table.candidate).finding
    assert finding.of_trainings == said
    assert (finding.low > 0) == (said == "5 pairs of trainings")
