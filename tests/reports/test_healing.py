"""Pseudo-healthy images in a report: no configuration is shown without what needs no training."""

from __future__ import annotations

from evidence.sweeps import experiment, sweep, trial

from ganatomy.evidence.ablation import ablation_table
from ganatomy.reports.healing import HEADING, healing_table, outdone
from ganatomy.reports.text import render_text

TRIVIAL = {
    "beside/unchanged": (0.02, 1.0, 0.15), "beside/clipped": (0.9, 0.97, 0.1), "beside/untrained": (0.98, 0.2, 0.3),
}  # fmt: skip


def made(healthiness, identity, error, f_pre=0.9):
    several = {"": (healthiness, identity, error), **TRIVIAL}
    numbers = {
        f"synthesis/{name}/{what}".replace("//", "/"): value
        for name, values in several.items()
        for what, value in zip(("healthiness", "identity", "error_inside"), values, strict=True)
    }
    return {**numbers, "synthesis/f_pre": f_pre}


def table(*numbers):
    more = [
        trial(f"p{place}", experiment(arm="offline", mixing__ratio=4.0 + place), summary=one)
        for place, one in enumerate(numbers)
    ]
    return ablation_table([*sweep(), *more])


def test_what_needs_no_training_stands_beside_every_configuration():
    headers, rows = healing_table(table(made(0.95, 0.98, 0.08), made(0.8, 0.9, 0.2)))
    assert headers == ["images", "h", "identity", "error inside"]
    fitted, trivial = rows[:2], rows[2:]  # those by their name's luck in Dice, these in the order of the measure
    assert sorted(row[1:] for row in fitted) == [["0.800", "0.900", "0.200"], ["0.950", "0.980", "0.080"]]
    assert [row[1:] for row in trivial] == [["0.020", "1.000", "0.150"], ["0.900", "0.970", "0.100"],
                                            ["0.980", "0.200", "0.300"]]  # fmt: skip
    assert [row[0] for row in rows][2:] == ["unchanged", "clipped", "untrained (every configuration)"]
    assert healing_table(ablation_table(sweep())) is None


def test_a_configuration_that_a_trivial_rule_equals_is_named_and_one_it_does_not_is_not():
    assert outdone(table(made(0.95, 0.98, 0.08))) == []
    said = outdone(table(made(0.95, 0.98, 0.08), made(0.8, 0.9, 0.2)))
    assert [sentence.partition(",")[0] for sentence in said] == [
        "Clipped", "No nearer the truth inside the lesion than the unchanged image: offline · ratio=5."]  # fmt: skip
    assert "ratio=5" in said[0]
    assert "ratio=4" not in said[0]
    assert outdone(ablation_table(sweep())) == []


def test_the_terminal_shows_them_within_its_width():
    text = render_text(table(made(0.8, 0.9, 0.2)))
    assert HEADING in text
    assert "! Clipped, which needs no training, is as healthy" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_weak_f_pre_is_warned_of_as_a_weak_reference_is():
    assert not any("Healthiness says" in caveat for caveat in table(made(0.8, 0.9, 0.2)).caveats)
    weak = table(made(0.8, 0.9, 0.2, f_pre=0.02)).caveats
    assert "Healthiness says little where its segmentor is weak on real images: Dice 0.02." in weak
