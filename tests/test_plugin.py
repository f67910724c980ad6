"""A method in a laboratory's own package works exactly as ours do: found by name or path, trained, stored, scored.

``tests/toy_plugin`` is that package, with a project file of its own. It is really installed, into a folder of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from ganatomy.contracts import InputError
from ganatomy.core.plugins import ALLOWED, available, resolve
from ganatomy.experiment import Budget, Choice, Experiment, Sampling
from ganatomy.stages.stages import Stages
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import Item, write_store

TOY = Path(__file__).parent / "toy_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that the toy package was installed into."""
    source, site = tmp_path_factory.mktemp("source") / "toy", tmp_path_factory.mktemp("site")
    source.mkdir()
    for path in [TOY / "pyproject.toml", *sorted((TOY / "toy_lab").glob("*.py"))]:
        place = source / path.relative_to(TOY)
        place.parent.mkdir(exist_ok=True)
        place.write_text(path.read_text())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(site), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def plugged(installed, monkeypatch):
    """The toy package can be imported and its entry points are seen; gone again after the test."""
    monkeypatch.syspath_prepend(installed)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_lab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    """A store of 16 x 16 slices: a disc that is bright on dark in domain a, and half as bright with an offset in b."""

    def item(domain: str, number: int, split: str) -> Item:
        generator = np.random.default_rng([number, ord(domain)])
        rows, columns = np.mgrid[:16, :16] - generator.uniform(6, 9, size=(2, 1, 1))
        label = (np.hypot(rows, columns) < 4).astype(np.uint8)[None]
        gain, offset = {"a": (1.6, -0.8), "b": (0.8, -0.1)}[domain]
        image = gain * label + offset + generator.normal(0, 0.02, size=label.shape)
        patient = f"{domain}{number}"
        return Item(patient, patient, domain, split, image.astype(np.float32), label)

    path = tmp_path_factory.mktemp("store") / "discs"
    splits = ["train", "train", "train", "val", "test"]
    items = [item(domain, number, split) for domain in "ab" for number, split in enumerate(splits)]
    write_store(path, name="discs", labels={1: "disc"}, domains={"a": {}, "b": {}}, digest="discs", items=items)
    return path


def experiment(method: str, **config: float) -> Experiment:
    return Experiment(
        cohort="discs",
        domains={"A": "a", "B": "b"},
        arm="offline",
        method=Choice(method, config),
        sampling=Sampling(ndim=2, size=(16, 16)),
        budget=Budget(segmentor_steps=2, generator_steps=60, batch=2, validations=1),
    )


def test_without_its_package_the_method_is_unknown():
    with pytest.raises(InputError, match="toy_moments"):
        experiment("toy_moments").validate()
    with pytest.raises(InputError, match="nobody allowed"):
        experiment("toy_lab.moments:Moments").validate()


def test_a_method_that_was_typed_but_is_not_there_says_so(monkeypatch):
    monkeypatch.setenv(ALLOWED, "toy_lab.moments:Moments")
    with pytest.raises(InputError, match="install its package"):
        experiment("toy_lab.moments:Moments").validate()


@pytest.mark.usefixtures("plugged")
def test_it_is_found_by_name_and_by_dotted_path():
    assert available("methods")["toy_moments"] == "toy_lab.moments:Moments"
    by_name, by_path = resolve("methods", "toy_moments"), resolve("methods", "toy_lab.moments:Moments")
    assert by_name is by_path
    assert experiment("toy_moments").validate().method_config().learning_rate == 0.05


@pytest.mark.usefixtures("plugged")
def test_its_parameters_are_checked_like_ours():
    given = experiment("toy_moments").with_values({"method.spread_weight": "0.5"}).validate()
    assert given.method_config().spread_weight == 0.5
    with pytest.raises(InputError, match=r"spread_weight"):
        experiment("toy_moments", spred_weight=0.5).validate()


@pytest.mark.usefixtures("plugged")
def test_every_point_of_its_search_space_is_an_experiment():
    space = resolve("spaces", "toy_moments")
    points = space.listed({}, seeds=(0, 1))
    assert len(points) == 4
    for point in points:
        space.experiment(point, {}).with_values({"domains.A": "a", "domains.B": "b"}).validate()

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        space.sample(trial)
        assert space.experiment(trial.params, {}).validate().arm in ("real", "offline")


@pytest.mark.usefixtures("plugged")
def test_it_trains_synthesises_and_is_scored(tmp_path, discs):
    """The path of an arm; the synthetic discs are nearer to the domain they claim than what they were made from."""
    stages = Stages(tmp_path, discs, experiment("toy_lab.moments:Moments"))
    subject = "b3"
    assert {(score.subject, score.label, score.metric) for score in stages.scores("val")} == {
        (subject, "disc", "dice"),
        (subject, "disc", "hd95"),
    }
    synthetic, real = open_store(stages.synthesised().directory / "synthetic"), open_store(discs)
    made = [synthetic.image(record) for record in synthetic.records("b", "train") if record.kind == "translated"]
    assert len(made) == 3

    def gap(images) -> float:
        targets = [real.image(record) for record in real.records("b", "train")]
        return abs(np.mean(images) - np.mean(targets)) + abs(np.std(images) - np.std(targets))

    assert gap(made) < 0.5 * gap([real.image(record) for record in real.records("a", "train")])
