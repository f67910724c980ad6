"""The ablation table on sweeps with known answers, and its three ways to be shown."""

from __future__ import annotations

import html.parser
import json
import math

import numpy as np
import pytest

from ganatomy.contracts import InputError
from ganatomy.evidence import report
from ganatomy.evidence.ablation import relevant
from ganatomy.experiment import Experiment, Score, TrialResult
from ganatomy.measures.statistics import holm, paired_bootstrap, permutation_test

BASE = Experiment("cohort", {"A": "ct", "B": "mr"})
DIFFICULTY = np.linspace(0.4, 0.8, 12)


def experiment(**values):
    return BASE.with_values({name.replace("__", "."): value for name, value in values.items()})


def trial(name, made, lift=0.0, patients=12, noise=0.005, **more):
    rng = np.random.default_rng(sum(map(ord, name)))
    scores = []
    for index in range(patients):
        value = float(np.clip(DIFFICULTY[index % 12] + lift + noise * rng.normal(), 0, 1))
        scores += [
            Score(f"s{index}", f"p{index}", "dice", "lv", value), Score(f"s{index}", f"p{index}", "dice", "rv", value),
            Score(f"s{index}", f"p{index}", "hd95", "lv", 10 * (1 - value)),
        ]  # fmt: skip
    given = {"status": "finished", "scores": tuple(scores), "device_seconds": 100.0, **more}
    return TrialResult(name, made, **given)


def sweep(patients=12):
    results = []
    for seed in (0, 1):
        results += [
            trial(f"r{seed}", experiment(arm="real", seed=seed), patients=patients),
            trial(f"c{seed}", experiment(arm="classical", seed=seed), 0.03, patients=patients),
            trial(f"o{seed}", experiment(arm="offline", mixing__ratio=0.5, seed=seed), 0.03, patients=patients),
            trial(f"j{seed}", experiment(arm="joint", mixing__ratio=0.5, seed=seed), 0.1, patients=patients,
                  summary={"synthesis/s_score/mr": 0.8 + 0.1 * seed, "synthesis/s_score/ct": 0.7,
                           "synthesis/s_score_reference/ct": 0.95}),
            trial(f"k{seed}", experiment(arm="joint", mixing__ratio=2.0, seed=seed), -0.05, patients=patients),
        ]  # fmt: skip
    return results


LOST = [
    TrialResult("x1", experiment(arm="joint", seed=7), "failed", "out of memory\nat line 3"),
    TrialResult("x2", experiment(arm="offline", seed=7), "pruned"),
]


def test_the_baseline_is_the_best_arm_without_synthetic_images_and_readings_follow_the_truth():
    table = report.ablation_table(sweep())
    by_name = {row.name: row for row in table.rows}
    assert table.row(table.baseline).name == "classical"
    assert table.row(table.candidate).name == "joint · ratio=0.5"
    assert by_name["joint · ratio=0.5"].reading == "shown to help"
    assert by_name["joint · ratio=2"].reading == "shown to harm"
    assert by_name["offline · ratio=0.5"].reading == "not shown to help"
    assert by_name["classical"].difference is None
    assert [row.dice for row in table.rows] == sorted((row.dice for row in table.rows), reverse=True)
    assert "shown to help" in table.conclusion


def test_a_row_averages_seeds_per_patient_before_it_compares():
    results = sweep()
    table = report.ablation_table(results)
    row, base = table.row(table.candidate), table.row(table.baseline)

    def patients(*names):
        found = [score for result in results if result.trial in names for score in result.scores if score.label == "lv"]
        return [np.mean([s.value for s in found if s.patient == f"p{i}" and s.metric == "dice"]) for i in range(12)]

    joint, classical = (patients(*names) for names in (("j0", "j1"), ("c0", "c1")))  # in the order of the rows
    assert row.seeds == base.seeds == (0, 1)
    assert row.difference.mean == pytest.approx(np.mean(joint) - np.mean(classical))
    expected = paired_bootstrap(joint, classical)
    assert (row.difference.low, row.difference.high) == pytest.approx((expected.low, expected.high))
    assert row.p == pytest.approx(permutation_test(joint, classical))
    assert row.s_scores == pytest.approx({"mr": 0.85, "ct": 0.7})
    compared = [row for row in table.rows if row.difference]
    assert [row.p_holm for row in compared] == pytest.approx(holm([row.p for row in compared]))


def test_a_configuration_that_failed_under_a_hard_seed_is_compared_on_the_others():
    """Under seed 1 every segmentor is bad. One configuration has no result there; it is no better than the baseline."""
    hard = {0: 0.1, 1: -0.3, 2: 0.1}
    lifts = {"real": 0.0, "joint": 0.0, "offline": 0.05}
    results = [
        trial(f"{arm}{seed}", experiment(arm=arm, seed=seed), lift + hard[seed])
        for arm, lift in lifts.items()
        for seed in hard
        if (arm, seed) != ("joint", 1)
    ]
    failed = TrialResult("x", experiment(arm="joint", seed=1), "failed", "keeps none")
    table = report.ablation_table([*results, failed])
    rows = {row.arm: row for row in table.rows}
    assert rows["joint"].dice > rows["offline"].dice > rows["real"].dice
    assert abs(rows["joint"].difference.mean) < 0.01
    assert table.rows[0].arm == "offline"
    assert table.row(table.candidate).arm == "offline"
    assert any("lack seeds of the baseline" in caveat for caveat in table.caveats)
    whole = report.ablation_table([result for result in results if result.experiment.arm != "joint"])
    assert not any("lack seeds" in caveat for caveat in whole.caveats)


def test_settings_of_the_generator_make_no_difference_to_an_arm_without_one():
    results = [
        trial("a", experiment(arm="real", method__shape_weight=1.0, seed=0)),
        trial("b", experiment(arm="real", mixing__ratio=3.0, filter__min_dice=0.5, drawing__per_label=3.0, seed=1)),
        trial("c", experiment(arm="joint", method__shape_weight=1.0)),
        trial("d", experiment(arm="joint", method__shape_weight=0.0)),
    ]
    table = report.ablation_table(results)
    assert sorted(row.name for row in table.rows) == ["joint · shape_weight=0", "joint · shape_weight=1", "real"]
    assert table.row(table.baseline).seeds == (0, 1)
    joint = experiment(arm="joint", mixing__ratio=3.0)
    assert relevant(joint) == joint


def test_the_same_experiment_run_twice_is_one_replicate():
    twice = [trial("a", experiment(arm="real")), trial("again", experiment(arm="real"), 0.2)]
    (row,) = report.ablation_table(twice).rows
    assert row.seeds == (0,)
    assert row.trials == ("a", "again")
    assert row.dice == pytest.approx(0.6, abs=0.01)


def test_names_keep_the_prefix_that_tells_two_parameters_apart():
    results = [
        trial("a", experiment(arm="joint", labels__fraction=0.5, downstream__learning_rate=1e-3)),
        trial("b", experiment(arm="joint", labels__fraction=1.0, downstream__learning_rate=1e-4)),
    ]
    names = {row.name for row in report.ablation_table(results).rows}
    assert names == {"learning_rate=0.001 · fraction=0.5", "learning_rate=0.0001 · fraction=1"}
    (only,) = report.ablation_table(results[:1]).rows
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
        table = report.ablation_table(results)
        counts.append(len(compared))
        assert {row.name for row in table.rows} == {f"ratio={1 + n / 64:.4g}" for n in range(size)}
    assert counts[0] < counts[1] < 2.5 * counts[0]


def test_misses_and_the_worst_case_are_counted_and_missing_structures_are_not_zero():
    scores = (
        Score("s0", "p0", "dice", "lv", 0.0, True), Score("s0", "p0", "dice", "rv", math.nan),
        Score("s1", "p1", "dice", "lv", 0.9), Score("s1", "p1", "dice", "rv", 0.7),
    )  # fmt: skip
    (row,) = report.ablation_table([TrialResult("t", experiment(arm="real"), "finished", scores=scores)]).rows
    assert (row.missed, row.worst, row.worst_subject) == (1, 0, "s0")
    assert row.labels == pytest.approx({"lv": 0.45, "rv": 0.7})
    assert row.dice == pytest.approx(0.4)
    assert math.isnan(row.hd95)


def test_failed_pruned_and_scoreless_trials_are_listed_with_one_line():
    table = report.ablation_table([*sweep(), *LOST, TrialResult("x3", experiment(arm="real"), "finished")])
    assert [(item.trial, item.status, item.error) for item in table.unfinished] == [
        ("x1", "failed", "out of memory"), ("x2", "pruned", ""), ("x3", "finished", "no scores"),
    ]  # fmt: skip
    assert "failed: trial x1 (joint · ratio=1): out of memory" in report.render_text(table)


def test_few_patients_are_said_to_be_few_and_can_show_nothing():
    table = report.ablation_table(sweep(patients=4))
    assert table.row(table.candidate).reading == "not shown to help"
    caveats = " ".join(table.caveats)
    assert "Only 4 validation patients" in caveats
    assert "the least corrected p is 0.5" in caveats  # 4 comparisons x 2 of 16 sign patterns
    assert not any("Only" in caveat for caveat in report.ablation_table(sweep()).caveats)


@pytest.mark.parametrize("results", [[], LOST, sweep()[:2], [sweep()[3]]])
def test_without_anything_to_compare_it_says_so(results):
    table = report.ablation_table(results)
    assert table.conclusion.startswith("No comparison: no trial with")
    assert table.conclusion in report.render_text(table)
    json.loads(report.to_json(table))


def test_a_baseline_may_be_named_and_must_exist():
    results = sweep()
    real = results[0].experiment.configuration()
    assert report.ablation_table(results, baseline=real).row(real).difference is None
    with pytest.raises(InputError, match="nonsense"):
        report.ablation_table(results, baseline="nonsense")


def test_names_and_brief_rows_serve_whoever_writes_a_model_card():
    results = [*sweep(), *LOST]
    table = report.ablation_table(results)
    assert table.name_of(results[3].experiment) == "joint · ratio=0.5"
    assert table.name_of(LOST[0].experiment) == "joint · ratio=1"
    rows = report.brief(table)
    assert rows[0]["configuration"] == "joint · ratio=0.5"
    assert rows[0]["S-score"] == "ct 0.70/0.95, mr 0.85"
    assert all(isinstance(cell, str) and "\n" not in cell for row in rows for cell in row.values())


def test_another_downstream_model_than_the_baselines_is_said_to_be_one():
    assert not any("downstream model" in caveat for caveat in report.ablation_table(sweep()).caveats)
    other = trial("q", experiment(arm="joint", downstream__network="pspnet"), -0.2)
    assert any("downstream model" in caveat for caveat in report.ablation_table([*sweep(), other]).caveats)


def test_healthiness_is_never_shown_without_identity():
    made = {"synthesis/healthiness": 0.98, "synthesis/identity": 0.875, "synthesis/healthiness_sd": 0.1}
    table = report.ablation_table([*sweep(), trial("p", experiment(arm="offline", mixing__ratio=4.0), summary=made)])
    (cell,) = [row["healthy"] for row in report.brief(table) if row["healthy"] != "–"]
    assert cell == "h 0.98, id 0.88"
    assert max(map(len, report.render_text(table).splitlines())) <= 120
    assert "healthy" not in report.brief(report.ablation_table(sweep()))[0]


@pytest.mark.parametrize("patients", [3, 12])
def test_text_fits_120_columns_with_nothing_cut_off(patients):
    crowded = experiment(arm="offline", mixing__order="synthetic_first", filter__min_dice=0.25,
                         labels__fraction=0.125, downstream__network="refinenet")  # fmt: skip
    synthesis = {"synthesis/s_score/flair": 0.5, "synthesis/s_score_reference/flair": 0.75}
    long = trial("z", crowded, patients=patients, device_seconds=123456.0, summary=synthesis)
    text = report.render_text(report.ablation_table([*sweep(patients), long, *LOST]))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert "…" not in text
    table = lines[2 : next(index for index, line in enumerate(lines) if line.startswith("Dice, HD95"))]
    words = " ".join(table).split()
    assert words.count("help") + words.count("harm") == words.count("shown") == 5  # nothing is cut off at the edge
    assert "network=refinenet" in text
    assert "123456" in text
    for word in ("baseline", "0.50/0.75", "mr 0.85", "Dice 0.75 in flair", "missed", "worst", "device"):
        assert word in text


def test_json_is_standard_and_keeps_every_patient():
    values = json.loads(report.to_json(report.ablation_table(sweep())), parse_constant=pytest.fail)
    best = values["rows"][0]
    assert len(best["patients"]) == 12
    assert best["reading"] == "shown to help"
    assert best["difference"]["n"] == 12
    assert next(row for row in values["rows"] if row["name"] == "classical")["p"] is None


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value) for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_html_is_one_file_without_outside_resources_and_escapes_names(tmp_path):
    failed = TrialResult("x", experiment(arm="joint", seed=9), "failed", "<script>alert(1)</script>")
    table = report.ablation_table([*sweep(), failed])
    path = report.write_html(
        table, tmp_path / "report" / "index.html", title="a <b> sweep", facts={"cohort": "phantom"},
        panels={"a panel": b"\x89PNG"}, notes=["Not promoted."],
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(page)
    assert len(parser.found) == 4  # three figures and the panel
    assert all(value.startswith("data:image/png;base64,") for _, _, value in parser.found)
    assert "http" not in page
    assert "@import" not in page
    assert "<script>" not in page
    assert "a &lt;b&gt; sweep" in page
    assert table.conclusion in page.replace("&lt;", "<")
    assert [item.name for item in path.parent.iterdir()] == ["index.html"]
