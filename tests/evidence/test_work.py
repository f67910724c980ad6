"""Only equal work downstream is compared, and what was spent is shown."""

from __future__ import annotations

import json
import math

import pytest
from reports.materials import page_of

from evidence.sweeps import experiment, sweep, trial
from ganatomy.evidence.ablation import ablation_table
from ganatomy.reports.tabulated import to_json
from ganatomy.reports.text import render_text


@pytest.mark.parametrize(("values", "said"), [
    ({"budget__segmentor_steps": 50}, "50 updates against 2000"), ({"budget__batch": 4}, "4 in a batch against 1"),
    ({"training__patience": 3}, "3 validations of patience against 0"),
    ({"training__patience_epochs": 2.5}, "2.5 epochs of patience against 0"),
    ({"mixing__composition": "paper"}, "1 synthetic beside each against 0"),
])  # fmt: skip
def test_unequal_work_is_not_compared_and_said_to_be_unequal(values, said):
    more = [trial(f"b{seed}", experiment(arm="joint", seed=seed, **values), 0.4) for seed in range(3)]
    results = sweep()
    table = ablation_table([*results, *more])
    row = table.rows[0]
    assert (row.reading, said in row.finding.reason) == ("no verdict", True)
    assert said in table.conclusion
    assert math.isinf(row.finding.low)
    plain = ablation_table(results)
    assert table.row(plain.candidate).finding == plain.row(plain.candidate).finding  # nor is it in the family


def test_a_control_with_more_work_is_shown_beside_and_is_no_baseline():
    results = sweep()
    plain = ablation_table(results)
    longer = [trial(f"l{seed}", experiment(arm="real", seed=seed, budget__segmentor_steps=9000), 0.2)
              for seed in range(3)]  # fmt: skip
    listed = {row.configuration for row in plain.rows if row.synthetic}
    table = ablation_table([*results, *longer], declared=listed)
    control = table.rows[0]  # it validates best of all
    assert (table.baseline, table.candidate) == (plain.baseline, plain.candidate)
    assert (control.reading, control.finding.answer, control.control) == ("control", "no verdict", True)
    assert control.finding.reason == "a control with more downstream work: 9000 updates against 2000"
    assert math.isinf(control.finding.low)
    assert control.finding.estimate == pytest.approx(control.dice - table.row(table.baseline).dice)
    assert table.row(plain.candidate).finding == plain.row(plain.candidate).finding
    assert any("is a control: more downstream work" in caveat and "no member" in caveat for caveat in table.caveats)
    assert "control" in render_text(table)

    named = ablation_table([*results, *longer], declared={*listed, control.configuration})
    row = named.row(control.configuration)
    assert (named.baseline, row.reading, row.control) == (plain.baseline, "helps", True)
    assert row.finding.alpha < table.row(plain.candidate).finding.alpha  # one more member
    assert any("compared all the same" in caveat for caveat in named.caveats)


def test_what_was_spent_stands_in_text_page_and_json():
    spent = {"work/updates": 50.0, "work/real_samples": 30.0, "work/synthetic_samples": 20.0,
             "work/synthetic_images": 64.0, "work/kept_images": 17.0, "generator/updates": 90.0,
             "work/used_images": 8.0, "work/synthetic_shown": 2.5, "work/real_shown": 1.0,
             "generator/device_seconds": 12.4}  # fmt: skip
    results = [trial(f"o{seed}", experiment(arm="offline", seed=seed), summary=spent) for seed in range(2)]
    results.append(trial("r", experiment(arm="real"), summary={"work/updates": 50.0}))
    table = ablation_table(results)
    text, page = render_text(table), page_of(results)
    for said in ("Work and its cost", "synthetic seen", "images made"):
        assert said in page
    told = text[text.index("Work and its cost") :].splitlines()
    assert [line.split()[1:] for line in told if line.startswith("offline")] == [
        ["50", "30", "20", "8", "2.5", "1.0"], ["64", "17", "90", "–", "12"]
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= 120
    values = json.loads(to_json(table))["rows"]
    assert next(row for row in values if row["arm"] == "offline")["work"]["work/kept_images"] == 17
    assert "Work and its cost" not in render_text(ablation_table(sweep()))


def test_guides_below_their_bar_are_told_of():
    """A synthetic set is worth what the guides know of lesions; the one of three that knows nothing is not hidden."""

    def table(found):
        made = [trial(f"g{seed}", experiment(arm="offline", seed=seed), 0.1,
                      summary={"generator/guide_dice": 0.9 if seed else found, "generator/guide_bar": 0.7})
                for seed in range(3)]  # fmt: skip
        return ablation_table([*sweep(), *made])

    said = [caveat for caveat in table(0.02).caveats if caveat.startswith("Guides")]
    assert len(said) == 1
    assert "offline" in said[0]
    assert "0.02 of 0.7" in said[0]
    assert not any(caveat.startswith("Guides") for caveat in table(0.7).caveats)
