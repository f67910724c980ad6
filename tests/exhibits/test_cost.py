"""Utility against cost, as it is shown."""

from __future__ import annotations

from evidence.sweeps import experiment, sweep, trial

from exhibits.materials import material_of, size_of
from ganatomy.exhibits.cost import cost


def test_the_front_is_listed_cheapest_first_with_the_generators_part():
    priced = [
        trial("a", experiment(arm="real"), device_seconds=50.0),
        trial("b", experiment(arm="real", downstream__augmentation="strong"), 0.02, device_seconds=60.0),
        trial("c", experiment(arm="offline"), 0.01, device_seconds=300.0, summary={"generator/device_seconds": 200.0}),
        trial("d", experiment(arm="joint"), 0.1, device_seconds=400.0, summary={"generator/device_seconds": 340.0}),
    ]
    material = material_of(priced)
    shown = cost(material)
    assert [(row[0], row[3], row[4]) for row in shown.grids[0].rows] == [
        ("real · augmentation=none", "50", "–"), ("real · augmentation=strong", "60", "–"),
        ("joint", "400", "340")]  # fmt: skip
    assert shown.grids[0].strong == {2}
    assert "3 of 4 configurations are on the Pareto front" in shown.sentences[1]
    assert size_of(shown.pictures[0])[0] == 1118


def test_one_configuration_is_no_trade_off():
    assert cost(material_of([one for one in sweep() if one.experiment.downstream.augmentation == "strong"])) is None
    assert cost(material_of([])) is None
