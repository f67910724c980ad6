"""Keys of stages: a parameter changes those of what depends on it, and no others."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny
from tiny import Watched, experiment

from ganatomy.contracts import InputError
from ganatomy.experiment import Choice
from ganatomy.stages.artefacts import Artefacts, Stage, key_of
from ganatomy.stages.outcome import outcome_of, reference_models
from ganatomy.stages.stages import Stages
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.downstream import needs_segmentors

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture
def keys_of(tmp_path, store, monkeypatch):
    """Kind -> key of the stages that an experiment would run, without running them."""

    def planned(self, kind, inputs, work, **_):
        self.keys[kind] = key_of(kind, inputs)
        return Stage(kind, self.keys[kind], tmp_path / kind)

    monkeypatch.setattr(Artefacts, "compute", planned)

    def keys_of(values, store=store):
        stages = Stages(tmp_path, store.path, experiment(**values))
        model = stages.model()
        references = {f"reference {role}": stage.key for role, stage in reference_models(stages).items()}
        return {**stages.keys, "model": model.key, **references}

    return keys_of


OFFLINE, JOINT, REAL = {"arm": "offline"}, {"arm": "joint"}, {"arm": "real"}
CYCLES = {**OFFLINE, "method__shape_weight": 0.0}
REFERENCES = {"reference ct", "reference mr"}


@pytest.mark.parametrize(("values", "change", "changed"), [
    (OFFLINE, {"mixing__ratio": 2.0}, {"downstream", "model"}),
    (OFFLINE, {"mixing__order": "real_first"}, {"downstream", "model"}),
    (OFFLINE, {"mixing__order": "synthetic_alone"}, {"downstream", "model"}),
    (OFFLINE, {"mixing__real": 0.5}, {"downstream", "model"}),
    (REAL, {"mixing__real": 0.5}, {"downstream", "model"}),
    (OFFLINE, {"filter__set_mean": 0.3}, {"filter", "downstream", "model"}),
    ({**REAL, "downstream__augmentation": "light"}, {"downstream__augmented": 0.5},
     {"downstream", "model", *REFERENCES}),
    (OFFLINE, {"filter__min_dice": 0.3}, {"filter", "downstream", "model"}),
    (OFFLINE, {"method__shape_weight": 0.0}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"method": "cyclegan", "method__width": 0.1}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"training__ema": 0.9}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"budget__generator_steps": 5}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"method__shape_weight": 1.0}, set()),  # the default, spelled out
    # γ = 0: generators know nothing of the segmentors
    (CYCLES, {"downstream__network__width": 8}, {"downstream", "model", *REFERENCES}),
    (CYCLES, {"downstream__learning_rate": 1e-3}, {"downstream", "model", *REFERENCES}),
    (CYCLES, {"training__patience": 1, "downstream__learning_rate": 1e-3},
     {"fit", "synthesise", "filter", "downstream", "model", *REFERENCES}),
    ({**CYCLES, **JOINT}, {"downstream__network__width": 8}, {"fit", "model", *REFERENCES}),
    (OFFLINE, {"downstream__network__width": 8},
     {"fit", "synthesise", "filter", "downstream", "model", *REFERENCES}),
    (JOINT, {"mixing__ratio": 2.0}, {"fit", "model"}),
    (JOINT, {"mixing__composition": "paper"}, {"fit", "model"}),
    (REAL, {"mixing__composition": "paper"}, set()),
    (JOINT, {"filter__min_dice": 0.3, "mixing__order": "real_first"}, set()),
    (REAL, {"method__shape_weight": 0.0, "mixing__ratio": 9.0, "filter__min_dice": 0.5}, set()),
    (REAL, {"method": "cyclegan", "budget__generator_steps": 99, "training__ema": 0.5}, set()),
    (REAL, {"labels__gan_sees": "all", "labels__fraction": 1.0}, set()),
    (REAL, {"labels__fraction": 0.5}, {"downstream", "model"}),
    (REAL, {"seed": 1}, {"downstream", "model"}),
    (REAL, {"downstream__augmentation": "light"}, {"downstream", "model", *REFERENCES}),
    ({**OFFLINE, "method": "cyclegan"}, {"downstream__augmentation": "light"}, {"downstream", "model", *REFERENCES}),
    (JOINT, {"downstream__augmentation": "light"}, {"fit", "model", *REFERENCES}),
    (REAL, {"target": "A"}, {"downstream", "model", *REFERENCES}),
    (REAL, {"downstream__learning_rate": 1e-3}, {"downstream", "model", *REFERENCES}),
    (REAL, {"downstream__network": "pspnet"}, {"downstream", "model", *REFERENCES}),
    (REAL, {"budget__segmentor_steps": 7}, {"downstream", "model", *REFERENCES}),
    (REAL, {"budget__batch": 1}, {"downstream", "model", *REFERENCES}),
    (REAL, {"sampling__foreground": 0.0}, {"downstream", "model", *REFERENCES}),
    (REAL, {"training__patience": 2}, {"downstream", "model", *REFERENCES}),
    (REAL, {"training__patience_epochs": 2.0}, {"downstream", "model", *REFERENCES}),
    (REAL, {"downstream__loss": "dice_cross_entropy"}, {"downstream", "model", *REFERENCES}),
    (REAL, {"downstream__average": 0.9}, {"downstream", "model", *REFERENCES}),
    (JOINT, {"downstream__average": 0.9}, {"fit", "model", *REFERENCES}),
    (REAL, {"training__keep": "best"}, {"downstream", "model", *REFERENCES}),
    (OFFLINE, {"labels__fraction": 0.5}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"seed": 1}, {"fit", "synthesise", "filter", "downstream", "model"}),
    ({**OFFLINE, "labels__fraction": 0.5}, {"labels__gan_sees": "all"},
     {"fit", "synthesise", "filter", "downstream", "model"}),
    ({**REAL, "labels__fraction": 0.5}, {"labels__gan_sees": "all"}, set()),
])  # fmt: skip
def test_a_parameter_changes_the_keys_of_what_depends_on_it_and_no_others(keys_of, values, change, changed):
    before, after = keys_of(values), keys_of({**values, **change})
    assert {kind for kind in before | after if before.get(kind) != after.get(kind)} == changed


def test_another_cohort_changes_every_key(keys_of, tmp_path):
    other = tiny.make_store(tmp_path / "other", digest="another")
    before, after = keys_of(OFFLINE), keys_of(OFFLINE, other)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_a_method_without_segmentors_does_not_depend_on_their_budget(keys_of):
    cyclegan = {**OFFLINE, "method": "cyclegan"}
    before, after = keys_of(cyclegan), keys_of({**cyclegan, "budget__segmentor_steps": 7, "mixing__ratio": 3.0})
    assert before["fit"] == after["fit"]
    assert before["downstream"] != after["downstream"]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_judge_of_the_filter_is_the_real_arms_own_model(tmp_path, store, share):
    """That of all real images, whichever share of them the model sees."""
    real = Watched(tmp_path, store, experiment(arm="real"))
    outcome_of(real.stages)
    filtered = Watched(tmp_path, store, experiment(arm="offline", filter__min_dice=0.001, mixing__real=share))
    kept = filtered.stages.filtered()
    assert kept.record["inputs"]["judge"] == real.stages.model().key
    assert "downstream" not in filtered.computed
    chosen = json.loads((kept.directory / "kept.json").read_text())
    assert chosen["kept"] == [int(index) for index, dice in chosen["dice"].items() if dice >= 0.001]
    assert {key for key, _ in filtered.records} == {filtered.stages.keys["fit"]}  # the judge is no progress of ours


@pytest.mark.parametrize(("values", "needed"), [
    ({}, False), ({"arm": "joint"}, True), ({"method__shape_weight": 1.0}, True),
    # Their score says when to stop, or what to keep.
    ({"training__patience": 1}, True), ({"training__patience_epochs": 1.0}, True), ({"training__keep": "best"}, True),
])  # fmt: skip
def test_generators_that_know_no_segmentor_have_one_where_something_waits_for_it(values, needed):
    assert needs_segmentors(experiment(**{**CYCLES, **values})) == needed


def test_generators_that_know_no_segmentor_are_the_same_whichever_there_is(tmp_path, store):
    """Trained apart, to the last bit: so one fit may serve every downstream network. They hold no segmentor."""
    fits = []
    for network, config in (("unet", {"width": 4}), ("pspnet", {"width": 8})):
        chosen = experiment(**CYCLES, downstream__network=network)
        chosen = replace(chosen, downstream=replace(chosen.downstream, network=Choice(network, config)))
        fits.append(Stages(tmp_path / network, store.path, chosen).fit())
    assert fits[0].key == fits[1].key
    assert (fits[0].directory / NETWORKS).read_bytes() == (fits[1].directory / NETWORKS).read_bytes()
    with pytest.raises(InputError, match="no segmentor"):
        stages = Stages(tmp_path / "unet", store.path, experiment(**CYCLES))
        stages.method(stages.fit()).segmentor("B")
