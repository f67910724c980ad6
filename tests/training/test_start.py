"""Weights that downstream models start from: in every arm, by what the file holds, with a part that never changes."""

from __future__ import annotations

import pickle
import shutil

import pytest
import radiographs
import tiny
import torch
from safetensors.torch import load_file, save_file

from ganatomy.contracts import InputError
from ganatomy.experiment import Experiment
from ganatomy.stages.stages import Stages
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.models import models_of
from ganatomy.training.tasks import make_method


def fresh(experiment, classes=2):
    return models_of(experiment).fresh(experiment, classes).S


def asked(path, experiment=tiny.EXPERIMENT, **values):
    return experiment.with_values({"downstream.weights": str(path), **values})


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A file of weights of another seed, and what is in it."""
    weights = {
        name: value.clone() for name, value in fresh(tiny.EXPERIMENT.with_values({"seed": 9})).state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    save_file(weights, path)
    return path, weights


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("tiny") / "s")


def test_every_arms_model_starts_from_them_whatever_the_seed(given):
    path, weights = given
    for seed in (0, 1):
        for arm in ("real", "offline"):
            network = fresh(asked(path, arm=arm, seed=seed))
            assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    joint = make_method(asked(path, arm="joint"), 2)
    for role in ("A", "B"):
        assert all(torch.equal(value, weights[name]) for name, value in joint.segmentor(role).state_dict().items())
    plain = make_method(tiny.EXPERIMENT.with_values({"arm": "joint"}), 2)  # and nothing else begins otherwise
    assert torch.equal(next(plain.G_A.parameters()), next(joint.G_A.parameters()))


def test_what_the_file_lacks_starts_at_random_and_only_what_is_not_frozen_learns(given, store, tmp_path):
    _, weights = given
    first = next(iter(weights)).split(".")[0]
    part = {name: value for name, value in weights.items() if name.startswith(f"{first}.")}
    assert 0 < len(part) < len(weights)
    save_file(part, tmp_path / "part.safetensors")
    for arm in ("real", "joint"):
        experiment = asked(tmp_path / "part.safetensors", arm=arm).with_values({"downstream.frozen": [f"{first}."]})
        stages = Stages(tmp_path / "w", store.path, experiment)
        trained = load_file(stages.model().directory / NETWORKS)
        for network in ["S"] if arm == "real" else ["S_A", "S_B"]:
            assert all(torch.equal(trained[f"{network}.{name}"], value) for name, value in part.items())
            start = fresh(experiment)
            moved = [name for name, value in start.state_dict().items()
                     if not torch.equal(trained[f"{network}.{name}"], value)]  # fmt: skip
            assert moved
            assert not any(name.startswith(f"{first}.") for name in moved)


def test_statistics_of_frozen_layers_do_not_move(tmp_path):
    base = radiographs.EXPERIMENT
    weights = fresh(base.with_values({"seed": 9})).state_dict()
    save_file({name: value.clone() for name, value in weights.items()}, tmp_path / "drn.safetensors")
    network = fresh(
        asked(tmp_path / "drn.safetensors", base).with_values({"downstream.frozen": ["stages.0", "stages.1."]})
    )
    network.train()
    network(torch.rand(2, 1, 24, 16))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, weights[name])}
    assert any(name.startswith("stages.2.") for name in changed)
    assert not any(name.startswith(("stages.0", "stages.1.")) for name in changed)


def test_what_is_in_the_file_decides_and_not_where_it_lies(given, store, tmp_path):
    path, weights = given
    keys = []
    shutil.copyfile(path, tmp_path / "copy.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "other.safetensors")
    for some in (path, tmp_path / "copy.safetensors", tmp_path / "other.safetensors"):
        keys.append(Stages(tmp_path / "w", store.path, asked(some))._segmentor_inputs())
    keys.append(Stages(tmp_path / "w", store.path, tiny.EXPERIMENT)._segmentor_inputs())
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]
    assert keys[3]["weights"] == "" != keys[0]["weights"]
    assert str(path) not in str(keys[0])


def test_a_trained_model_is_loaded_where_the_file_is_no_more(given, store, tmp_path):
    path, _ = given
    shutil.copyfile(path, tmp_path / "mine.safetensors")
    stages = Stages(tmp_path / "w", store.path, asked(tmp_path / "mine.safetensors"))
    model = stages.model()
    (tmp_path / "mine.safetensors").unlink()
    trained = load_file(model.directory / NETWORKS)
    assert all(torch.equal(trained[f"S.{name}"], value) for name, value in stages.network(model).state_dict().items())


def test_what_does_not_fit_is_one_line_before_anything_is_spent(given, store, tmp_path):
    path, weights = given
    name = next(iter(weights))
    shape = list(weights[name].shape)
    files = {one: tmp_path / f"{one}.safetensors" for one in ("shape", "name", "part", "pickle")}
    save_file({name: torch.zeros(3, *shape[1:])}, files["shape"])
    save_file({f"module.{name}": weights[name]}, files["name"])
    save_file({name: weights[name]}, files["part"])
    files["pickle"].write_bytes(pickle.dumps({"a": 1}))
    last = list(weights)[-1]
    cases = [
        (files["shape"], [], f"{files['shape']}: tensor {name} has shape [3"),
        (files["shape"], [], f"expected {shape}"),
        (files["name"], [], f"tensor module.{name} is none of the network's"),
        (files["pickle"], [], "is no safetensors file"),
        (tmp_path / "nowhere", [], "there is no such file"),
        (files["part"], [last], f"{last} is not in"),
        (path, ["encodr"], "no parameter is called encodr"),
        (path, [""], "leaves nothing to learn"),
        ("", [name], "downstream.frozen"),
    ]
    for file, frozen, said in cases:
        with pytest.raises(InputError) as refused:
            Stages(tmp_path / "w", store.path, asked(file).with_values({"downstream.frozen": frozen}))
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "w").exists()


def test_plans_of_before_keep_their_hashes():
    made = Experiment("c", {"A": "ct", "B": "mr"}, arm="real")
    assert made.configuration() == "dd52d41dadaa82a4"
    assert made.with_values({"downstream.weights": "a"}).configuration() != "dd52d41dadaa82a4"
