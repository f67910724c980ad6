"""An Experiment is a value: the same in JSON, in any order, from text; and it refuses what cannot be meant."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import digest
from ganatomy.core.plugins import resolve
from ganatomy.experiment import ARMS, Budget, Choice, Downstream, Experiment, Filter, Labels, Mixing, Sampling, Training
from ganatomy_methods.cyclegan import CycleGAN

BASE = Experiment(cohort="c", domains={"A": "ct", "B": "mr"})
UNIT = st.floats(0, 1)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters=":"), min_size=1, max_size=8)
"""Of domains: what follows a colon says in which state their images are."""


@st.composite
def experiments(draw) -> Experiment:
    ndim = draw(st.sampled_from([2, 3]))
    method = draw(st.sampled_from([
        Choice("shape_consistent", {"shape_weight": draw(st.floats(0, 100)), "from_scratch": draw(st.booleans())}),
        Choice("cyclegan", {"generator": draw(st.sampled_from(["resnet", "unet_t1"]))}),
        Choice("cyclegan"),
    ]))  # fmt: skip
    return Experiment(
        cohort=draw(st.text(max_size=20)),
        domains=dict(zip("AB", draw(st.lists(NAMES, min_size=2, max_size=2, unique=True)))),
        target=draw(st.sampled_from("AB")),
        arm=draw(
            st.sampled_from(ARMS if method.name == "shape_consistent" else [arm for arm in ARMS if arm != "joint"])
        ),
        method=method,
        labels=Labels(draw(st.floats(0.01, 1)), draw(st.sampled_from(["subset", "all"]))),
        mixing=Mixing(draw(st.floats(0, 50)), draw(st.sampled_from(["mixed", "real_first"])), draw(UNIT)),
        filter=Filter(draw(UNIT)),
        downstream=Downstream(
            Choice("unet", {"width": draw(st.integers(1, 64))}),
            draw(st.floats(1e-6, 1)),
            augmentation=draw(st.sampled_from(["none", "light", "strong"])),
        ),
        sampling=Sampling(ndim, tuple(draw(st.integers(1, 512)) for _ in range(ndim)), draw(UNIT)),
        budget=Budget(*(draw(st.integers(1, 10**6)) for _ in range(4))),
        training=Training(draw(st.floats(0, 0.999)), draw(st.integers(0, 9)), draw(st.floats(0, 10))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def shuffled(values, rng):
    if not isinstance(values, dict):
        return values
    names = list(values)
    rng.shuffle(names)
    return {name: shuffled(values[name], rng) for name in names}


@given(experiments(), st.randoms(use_true_random=False))
def test_json_there_and_back_whatever_the_order(experiment, rng):
    values = shuffled(json.loads(json.dumps(experiment.to_dict())), rng)
    again = Experiment.from_dict(values)
    assert again == experiment
    assert again.digest() == experiment.digest() == digest(values)


@given(experiments(), st.randoms(use_true_random=False))
def test_flat_names_every_parameter_and_sets_every_parameter(experiment, rng):
    """What is logged is enough to make the experiment again, and so is each value typed as text, in any order."""
    flat = shuffled(experiment.flat(), rng)
    assert BASE.with_values(flat) == experiment
    typed = {name: value if isinstance(value, str) else json.dumps(value) for name, value in flat.items()}
    assert BASE.with_values(typed) == experiment


@settings(max_examples=30, deadline=None)
@given(experiments())
def test_what_can_be_meant_is_valid(experiment):
    assert experiment.validate() is experiment


@given(experiments(), st.integers(0, 2**32 - 1))
def test_replicates_share_a_configuration_and_nothing_else_does(experiment, seed):
    other = replace(experiment, seed=seed)
    assert other.configuration() == experiment.configuration()
    assert (other.digest() == experiment.digest()) == (seed == experiment.seed)
    assert replace(experiment, arm="real").configuration() != replace(experiment, arm="offline").configuration()


def test_a_setting_that_is_new_leaves_configurations_of_before_as_they_were():
    """Plans hold them: a sweep that declared what it compares is still told what it asked."""
    before = Experiment("cohort", {"A": "ct", "B": "mr"}, mixing=Mixing(composition="paper"))
    assert before.configuration() == "527d474eecdf75b8"
    assert before.configuration() != replace(before, mixing=Mixing()).configuration()
    made = [BASE.with_values({"downstream.augmentation": name}).configuration() for name in ("none", "light", "strong")]
    assert made[0] == BASE.configuration()
    assert len({*made}) == 3


@pytest.mark.parametrize(("arm", "strength", "now"), [
    ("classical", 1.0, ("real", "light")), ("classical", 0.3, ("real", "light")),
    ("classical", 3.0, ("real", "strong")), ("offline", 1.0, ("offline", "none")),
    ("joint", 1.0, ("joint", "none")), ("real", 1.0, ("real", "none")),
])  # fmt: skip
def test_an_experiment_of_when_augmentation_was_an_arm_is_read_as_what_comes_nearest(arm, strength, now):
    before = BASE.to_dict()
    del before["downstream"]["augmentation"], before["mixing"]["composition"]
    read = Experiment.from_dict({**before, "arm": arm, "augmentation": strength})
    assert (read.arm, read.downstream.augmentation) == now
    assert read.mixing.composition == ("paper" if arm == "joint" else "equal")  # its ratio was a weight
    with pytest.raises(InputError, match="classical"):
        BASE.with_values({"arm": "classical"})


@pytest.mark.parametrize(("name", "text", "value"), [
    ("method.shape_weight", "0.5", 0.5), ("method.from_scratch", "false", False), ("budget.batch", "8", 8),
    ("budget.batch", "8.0", 8), ("sampling.size", "[32, 48]", (32, 48)), ("mixing.ratio", "2", 2.0),
    ("arm", "joint", "joint"), ("domains.A", "1", "1"), ("sampling.ndim", "2.0", 2), ("cohort", "7", "7"),
])  # fmt: skip
def test_text_is_read_by_the_type_that_is_wanted(name, text, value):
    experiment = BASE.with_values({name: text})
    part, _, last = name.rpartition(".")
    found = getattr(getattr(experiment, part), last, None) if part else getattr(experiment, last)
    if part == "method":
        found = getattr(experiment.method_config(), last)
    if part == "domains":
        found = experiment.domains[last]
    assert found == value
    assert type(found) is type(value)


def test_a_thing_is_chosen_before_it_is_configured():
    wanted = Choice("cyclegan", {"cycle_weight": 5})
    for values in ({"method.cycle_weight": "5", "method": "cyclegan"},
                   {"method": "cyclegan", "method.cycle_weight": "5"}):  # fmt: skip
        assert BASE.with_values({"method.shape_weight": 2.0}).with_values(values).method == wanted


def test_choosing_what_is_chosen_keeps_its_settings():
    experiment = BASE.with_values({"method.shape_weight": 0.25})
    assert experiment.with_values({"method": "shape_consistent"}) == experiment
    assert experiment.with_values({"method": "cyclegan"}).method == Choice("cyclegan")


@pytest.mark.parametrize(("values", "nearest"), [
    ({"mixing.ration": 1}, "mixing.ratio"), ({"methud": "cyclegan"}, "method"), ({"budgt.batch": 2}, "budget.batch"),
    ({"method.shape_weigth": 1}, "method.shape_weight"), ({"method": "shape_consistant"}, "shape_consistent"),
    ({"arm": "ofline"}, "offline"), ({"labels.gan_sees": "al"}, "all"), ({"mixing.order": "mixd"}, "mixed"),
    ({"downstream.network": "unnet"}, "unet"), ({"training.precision": "bf61"}, "bf16"),
    ({"labels": 5}, "labels.fraction"), ({"sampling": "[64, 64]"}, "sampling.size"), ({"mixing.ratio.x": 1}, "mixing"),
])  # fmt: skip
def test_an_unknown_name_or_value_is_answered_with_the_nearest(values, nearest):
    with pytest.raises(InputError) as refused:
        BASE.with_values(values).validate()
    ((name, value),) = values.items()
    assert nearest in refused.value.expected
    assert name in refused.value.what or str(value) in refused.value.what


@pytest.mark.parametrize("values", [
    {"labels.fraction": -0.1}, {"labels.fraction": 1.5}, {"labels.fraction": "NaN"}, {"labels.fraction": "half"},
    {"mixing.ratio": -1}, {"mixing.ratio": "Infinity"}, {"mixing.pretrain": 2}, {"filter.min_dice": 1.1},
    {"sampling.ndim": 4}, {"sampling.size": "[64]"}, {"sampling.size": "64"}, {"sampling.size": "[0, 64]"},
    {"sampling.ndim": 3}, {"sampling.size": '["a", "b"]'}, {"sampling.foreground": -0.1}, {"budget.batch": 0},
    {"budget.batch": 1.5}, {"budget.validations": 0}, {"budget.generator_steps": -5}, {"budget.segmentor_steps": "x"},
    {"training.ema": 1}, {"training.patience": -1}, {"training.clip_norm": -1}, {"downstream.learning_rate": 0},
    {"seed": -1}, {"seed": 2**32}, {"seed": "one"}, {"seed": True}, {"target": "C"}, {"domains": "ct"},
    {"method.width": -1}, {"method.from_scratch": 3}, {"method.cycle_weight": "ten"}, {"method.pretrain_fraction": 2},
    {"arm": "joint", "method": "cyclegan"}, {"method": "nowhere.at:All"}, {"method": "ganatomy_methods:Nothing"},
    {"downstream.network": "nowhere.at:All"}, {"arm": 3}, {"method": "[]"},
    {"labels.fraction": 0, "arm": "real"},
    {"labels.fraction": 0, "arm": "offline", "filter.min_dice": 0.5}, {"labels.fraction": 0, "mixing.ratio": 0},
    {"labels.fraction": 0, "domains.A": "mr"}, {"arm": "source", "domains.A": "mr:lesion"},
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(values):
    with pytest.raises(InputError) as refused:
        BASE.with_values(values).validate()
    assert refused.value.what
    assert refused.value.expected or refused.value.remedy
    assert "\n" not in str(refused.value)


def test_a_method_that_needs_labels_of_the_target_is_refused_without_them():
    drawn = Experiment("c", {role: role.lower() for role in ("T1", "T1c", "T2", "FLAIR")}, "FLAIR", "offline",
                       Choice("multimodal_mr"))  # fmt: skip
    drawn.validate()
    with pytest.raises(InputError, match=r"with labels\.fraction = 0"):
        drawn.with_values({"labels.fraction": 0}).validate()
    drawn.with_values({"labels.fraction": 0, "arm": "source"}).validate()


def test_a_role_without_a_domain_is_refused():
    with pytest.raises(InputError, match="a domain for each role"):
        replace(BASE, domains={"B": "mr"}).validate()


def test_a_dotted_path_is_as_good_as_an_entry_point():
    assert resolve("methods", "ganatomy_methods.cyclegan:CycleGAN") is resolve("methods", "cyclegan") is CycleGAN


def test_the_papers_values_are_the_defaults():
    assert BASE.method_config() == resolve("methods", "shape_consistent").Config()
