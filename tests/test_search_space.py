"""A search space suggests what is not fixed, lists its points once a seed, and never what cannot be run."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import optuna
import pytest
import torch

from ganatomy.contracts import InputError
from ganatomy.core.plugins import available, resolve
from ganatomy.experiment import Choice, Experiment
from ganatomy.search_space import SearchSpace, parse_settings
from ganatomy.training.downstream import task_of

SPACES = sorted(name for name, path in available("spaces").items() if path.startswith("ganatomy_search_spaces"))
SIZES = [
    (name, full) for name in SPACES for full in (False, True) if not full or resolve("spaces", name).full is not None
]
BASE = Experiment(cohort="c", domains={"A": "ct", "B": "mr"})


def sample(trial):
    """A toy space: a branch, a boolean, a whole number and a number."""
    if trial.suggest_categorical("arm", ["real", "joint"]) == "joint":
        if trial.suggest_categorical("method.use_reconstructed", [True, False]):
            trial.suggest_float("method.shape_weight", 0.1, 10.0, log=True)
        trial.suggest_int("budget.batch", 1, 8)


SPACE = SearchSpace(
    "toy", "", BASE, sample,
    points=({"arm": "real"}, *({"arm": "joint", "method.shape_weight": weight} for weight in (1.0, 0.0))),
    seeds=(0, 1),
)  # fmt: skip


def asked(sampler, trials, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for _ in range(trials):
        trial = study.ask()
        assert sampler(trial) == {}
        found.append(trial.params)
    return found


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def installed(name, full):
    """A space of ours at one of its sizes, with a domain for each role."""
    space = resolve("spaces", name)
    space = space.at_full_size() if full else space
    domains = {role: f"{role}{state}" for role, state in space.base.domains.items()}
    return replace(space, base=replace(space.base, cohort="c", domains=domains))


@pytest.mark.parametrize("name", ["shape_consistent", "shape_consistent_small", "cyclegan", "phantom_demo"])
def test_without_labels_of_the_target_source_stands_for_the_arms_that_need_them(name):
    space, fixed = installed(name, False), {"labels.fraction": "0"}
    listed = space.listed(fixed, (0,))
    made = [space.experiment(values, fixed).validate() for values in (*listed, *asked(space.sampler(fixed, (0,)), 30))]
    assert {one.arm for one in made} >= {"source", "offline"}
    assert len({one.digest() for one in made[: len(listed)]}) == len(listed)
    augmented = [values["downstream.augmentation"] for values in listed if values["arm"] == "source"]
    assert augmented == (["light", "strong"] if name in ("shape_consistent", "cyclegan") else ["light"])
    assert "source" not in {values["arm"] for values in space.listed({}, (0,))}


@pytest.mark.parametrize(("name", "full"), SIZES)
def test_whatever_an_installed_space_suggests_validates_and_builds(name, full):
    space = installed(name, full)
    suggested = asked(space.sampler({}, space.seeds), 16) + space.listed({}, space.seeds)
    built = set()
    for values in suggested:
        experiment = space.experiment(values, {}).validate()
        assert {key: experiment.flat()[key] for key in values} == values
        config = experiment.method_config()
        method = experiment.method_class()
        assert sum(p.steps for p in method.phases(_Bare(config), *_steps(experiment))) > 0
        if config not in built:
            built.add(config)
            with torch.device("meta"):  # shapes without numbers: the paper's networks would take seconds each
                assert method(config, task_of(experiment, 3)).networks()
    assert len({values["arm"] for values in suggested}) > 1


class _Bare:
    segments = True

    def __init__(self, config):
        self.config = config


def _steps(experiment):
    return experiment.budget.generator_steps, experiment.budget.segmentor_steps


@pytest.mark.parametrize(("name", "full"), SIZES)
def test_an_installed_space_lists_points_that_its_sampler_could_suggest(name, full):
    """What Optuna could not suggest it refuses to run; what a point leaves open it would choose, for each seed anew."""
    space = installed(name, full)
    study = optuna.create_study()
    for values in space.listed({}, space.seeds):
        study.enqueue_trial(values)
        trial = study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            space.sampler({}, space.seeds)(trial)
        assert trial.params == values


def test_the_full_size_has_another_base_and_says_where_there_is_none():
    large = replace(BASE, budget=replace(BASE.budget, batch=16))
    space = replace(SPACE, full=large).at_full_size()
    assert [values["budget.batch"] for values in space.listed({"arm": "joint"}, (0,))] == [16, 16]
    assert space.points == SPACE.points
    assert replace(SPACE, full=large, full_points=({"arm": "real"},)).at_full_size().listed({}, (3,)) == [
        {"arm": "real", "seed": 3}
    ]
    with pytest.raises(InputError, match="space toy has no full size"):
        space.at_full_size()


def test_what_is_sampled_at_full_size_need_not_be_what_is_at_the_small_one():
    def narrow(trial):
        trial.suggest_categorical("downstream.network.width", [8])

    space = replace(SPACE, sample=narrow, full=BASE, full_sample=sample, points=({"arm": "real"},))
    assert space.listed({}, (0,)) == [{"arm": "real", "downstream.network.width": 8, "seed": 0}]
    assert space.at_full_size().listed({}, (0,)) == [{"arm": "real", "seed": 0}]
    assert replace(space, full_sample=None).at_full_size().sample is narrow


def test_what_is_fixed_is_never_sampled():
    fixed = {"method.shape_weight": "0.5", "arm": "joint", "seed": "7"}
    for values in asked(SPACE.sampler(fixed, (0, 1)), 20):
        assert not values.keys() & fixed.keys()
        experiment = SPACE.experiment(values, fixed)
        assert (experiment.arm, experiment.method.config["shape_weight"], experiment.seed) == ("joint", 0.5, 7)


@pytest.mark.parametrize(("text", "branch"), [("true", True), ("false", False)])
def test_a_space_branches_on_what_is_fixed_as_on_what_it_suggests(text, branch):
    fixed = {"method.use_reconstructed": text, "arm": "joint"}
    assert all(("method.shape_weight" in values) == branch for values in asked(SPACE.sampler(fixed, (0,)), 5))


def test_what_is_fixed_is_read_as_the_experiment_reads_it():
    seen = []

    def look(trial):
        seen.append((trial.suggest_int("budget.batch", 1, 8), trial.suggest_float("mixing.ratio", 0, 1),
                     trial.suggest_categorical("mixing.order", ["mixed"])))  # fmt: skip

    fixed = {"budget.batch": "4.0", "mixing.ratio": "2", "mixing.order": "real_first"}
    asked(replace(SPACE, sample=look).sampler(fixed, (0,)), 1)
    assert seen == [(4, 2.0, "real_first")]
    assert SPACE.experiment({}, fixed).budget.batch == 4


def test_the_same_sampler_seed_suggests_the_same():
    sampler = SPACE.sampler({}, (0, 1))
    assert asked(sampler, 10, seed=3) == asked(sampler, 10, seed=3) != asked(sampler, 10, seed=4)


def test_a_sampler_survives_pickling():
    """Ray keeps it with the searcher's state, for a resumed sweep."""
    sampler = SPACE.sampler({"arm": "joint"}, (0, 1))
    assert asked(pickle.loads(pickle.dumps(sampler)), 5) == asked(sampler, 5)


def test_what_a_listed_point_leaves_out_is_as_in_the_base():
    points = ({"arm": "joint", "method.use_reconstructed": True}, {"arm": "joint", "method": "shape_consistent"})
    base = BASE.with_values({"method.use_reconstructed": False, "budget.batch": 3})
    first, second = replace(SPACE, base=base, points=points).listed({"mixing.ratio": "2"}, (5,))
    assert first == {**points[0], "method.shape_weight": 1.0, "budget.batch": 3, "seed": 5}
    assert second == {**points[1], "method.use_reconstructed": False, "budget.batch": 3, "seed": 5}


def test_a_listed_point_that_leaves_open_what_the_base_does_not_say_is_refused():
    space = replace(SPACE, sample=lambda trial: trial.suggest_int("downstream.network.depth", 2, 4))
    with pytest.raises(InputError, match=r"leaves downstream\.network\.depth open"):
        space.listed({}, (0,))


def test_a_listed_point_leaves_nothing_open_where_there_is_one_choice():
    """Another network leaves the settings of the base's behind; what holds for all of them is the only choice."""

    def one(trial):
        if trial.suggest_categorical("downstream.network", ["unet", "segresnet"]) == "unet":
            trial.suggest_categorical("downstream.network.norm", ["instance"])

    space = replace(SPACE, sample=one, points=({"arm": "real"},), seeds=(0,))
    (point,) = space.listed({}, (0,))
    assert point == {"arm": "real", "downstream.network": "unet", "downstream.network.norm": "instance", "seed": 0}
    assert space.experiment(point, {}).downstream.network == Choice("unet", {"norm": "instance"})
    assert space.listed({"downstream.network": "segresnet"}, (0,)) == [{"arm": "real", "seed": 0}]


def test_a_space_described_names_all_that_it_varies_and_what_each_way_offers():
    text = replace(SPACE, full=BASE, name="toy", description="what for").described()
    assert text.startswith("toy:\n  what for\n")
    assert "arm=joint method.shape_weight=0.0" in text
    for offer in ("arm: real, joint", "method.use_reconstructed: True, False", "budget.batch: 1 to 8"):
        assert offer in text
    assert "method.shape_weight: 0.1 to 10, logarithmic" in text
    assert "seeds 0, 1" in text
    assert "method.cycle_weight=10.0" in text, "what is not sampled can be fixed too"
    assert "--full" in text
    assert "--full" not in SPACE.described()


@pytest.mark.parametrize("name", SPACES)
def test_the_help_of_an_installed_space_speaks_of_everything_that_it_suggests(name):
    text = installed(name, full=False).described()
    for values in asked(installed(name, full=False).sampler({}, (0,)), 40):
        assert all(f"  {parameter}: " in text for parameter in values if parameter != "seed")


OF_ITS_OWN = {"cai2019_table4", "cai2019_table5", "cai2019_fig8", "phantom_demo"}
"""Three segmentors, which are what those compare; one, for a demonstration of minutes."""


@pytest.mark.parametrize(("name", "full"), [size for size in SIZES if size[0] not in OF_ITS_OWN])
def test_the_downstream_network_is_sampled_in_every_arm_and_any_can_be_fixed(name, full):
    space = installed(name, full)
    classifies = space.base.downstream.task == "classification"
    expected = {"drn_d_22", "densenet121"} if classifies else set(available("networks")) - {"drn_d_22", "densenet121"}
    found = asked(space.sampler({}, space.seeds), 150)
    for arm in {values["arm"] for values in found}:
        assert {values["downstream.network"] for values in found if values["arm"] == arm} == expected, arm
    points = [(values, {}) for values in found]
    for network in expected:
        fixed = {"downstream.network": network}
        points += [(point, fixed) for point in space.listed(fixed, (0,))]
        assert all(space.experiment(*point).downstream.network.name == network for point in points if point[1] == fixed)
    experiments = [space.experiment(*point) for point in points]
    for experiment in {str(experiment.downstream.network): experiment for experiment in experiments}.values():
        with torch.device("meta"):
            assert sum(p.numel() for p in task_of(experiment.validate(), 3).segmentor().parameters()) > 0


def test_listed_points_run_once_a_seed():
    listed = SPACE.listed({}, (0, 1, 1))
    assert [values["seed"] for values in listed] == [0, 1] * 3
    assert len({str(sorted(values.items())) for values in listed}) == len(listed)


REAL = {"arm": "real"}
JOINT = {"arm": "joint", "method.use_reconstructed": True, "budget.batch": 1}
WEIGHTS = {"method.shape_weight": 1.0}, {"method.shape_weight": 0.0}


def without(values, *names):
    return {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize(("fixed", "expected"), [
    ({"arm": "real"}, [{}]),
    ({"method.shape_weight": "1"}, [REAL, JOINT]),
    ({"method.shape_weight": "5"}, [REAL, JOINT]),
    ({"arm": "joint", "budget.batch": "2"},
     [without({**JOINT, **weight}, "arm", "budget.batch") for weight in WEIGHTS]),
    ({"method.use_reconstructed": "true", "arm": "joint"},
     [without({**JOINT, **weight}, "arm", "method.use_reconstructed") for weight in WEIGHTS]),
    ({"mixing.ratio": "2", "arm": "real"}, [{}]),
])  # fmt: skip
def test_listed_points_that_agree_with_what_is_fixed_remain_once_each(fixed, expected):
    listed = SPACE.listed(fixed, (0, 1))
    assert listed == [{**values, "seed": seed} for values in expected for seed in (0, 1)]
    assert SPACE.listed({**fixed, "seed": "4"}, (0, 1)) == expected


def test_settings_are_names_with_values():
    assert parse_settings(["method.shape_weight=0.5", " arm = joint ", "cohort=a=b"]) == {
        "method.shape_weight": "0.5", "arm": "joint", "cohort": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("setting", ["method.shape_weight", "=3", "", " =x"])
def test_a_setting_without_name_or_value_is_refused(setting):
    with pytest.raises(InputError, match="NAME=VALUE"):
        parse_settings([setting])


def test_a_parameter_may_be_fixed_that_only_one_listed_arm_knows():
    space = replace(SPACE, points=({"arm": "real"}, {"method": "cyclegan", "arm": "offline"}))
    space.check_fixed({"method.generator": "resnet"})
    with pytest.raises(InputError, match="unknown parameter"):
        space.check_fixed({"mixing.rato": "1"})


def test_the_method_can_be_sampled_with_its_settings():
    values = {"method.generator": "unet_t1", "method": "cyclegan", "arm": "offline"}
    assert SPACE.experiment(values, {}).method == Choice("cyclegan", {"generator": "unet_t1"})


def test_what_was_typed_asks_for_two_workers_like_what_is_listed():
    space = replace(SPACE, two_workers=lambda values: values.get("method.shape_weight") == 0.0)
    assert space.on_two({"method.shape_weight": 0.0}, {})
    assert space.on_two({}, {"method.shape_weight": "0.0"})
    assert space.on_two({"method.shape_weight": 1.0}, {"method.shape_weight": "0"})
    assert not space.on_two({"method.shape_weight": 0.0}, {"method.shape_weight": "1"})
