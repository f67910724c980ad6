"""The generator's bundle: whole, small, without pickle, and the same anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganatomy.cohorts.cohort import Cohort, Domain
from ganatomy.cohorts.pseudonyms import Pseudonyms
from ganatomy.contracts import Adam, Batch, InputError, Method, Phase, Synthetic, Task, Update
from ganatomy.core.plugins import allow
from ganatomy.experiment import Choice, Experiment, Sampling
from ganatomy.generators.generator import load_generator, save_generator, write_report
from ganatomy.generators.reloading import Example, differences_when_reloaded
from ganatomy.images.intensities import Intensity
from ganatomy.stores.store import Store
from ganatomy.stores.writing import Item, write_store
from ganatomy.training.downstream import task_of
from ganatomy.training.inference import synthesize_volume

NAMES = Pseudonyms(b"a key")


class Scaling(nn.Module):
    """x -> gain * x + offset, one gain for all voxels; its bias is what a random start would get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x + self.offset


class Affine(Method):
    """The smallest method: G_B makes -x of A, G_A makes x / 2 of B; D_A is there to be left out of the bundle."""

    @dataclass(frozen=True)
    class Config:
        reconstructs: bool = True

    trains_segmentors: ClassVar[bool] = True

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.G_A, self.G_B, self.D_A = Scaling(), Scaling(), Scaling()

    def set(self) -> Affine:
        for network, gain in ((self.G_A, 0.5), (self.G_B, -1.0)):
            nn.init.constant_(network.gain, gain)
            nn.init.zeros_(network.offset)
        return self

    def optimisers(self) -> dict[str, Adam]:
        return {name: Adam() for name in self.networks()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        return (Phase("only", generator_steps),)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        return {}

    def synthesize(self, batch: Batch) -> list[Synthetic]:
        made = []
        for role, other, there, back in (("A", "B", self.G_B, self.G_A), ("B", "A", self.G_A, self.G_B)):
            if role in batch:
                image = batch[role].image
                assert all(side % self.multiple_of == 0 for side in image.shape[2:])
                made.append(Synthetic(there(image), other, role))
                if self.config.reconstructs:
                    made.append(Synthetic(back(there(image)), role, role, "reconstructed"))
        return made


allow(f"{__name__}:Affine")  # as whoever types it does

CT = Domain("ct", "CT", Intensity("window", -160, 240))
MR = Domain("mr", "MR", Intensity("percentile", 0.5, 99.5))


def experiment(ndim: int = 2) -> Experiment:
    return Experiment(
        cohort="/home/somebody/secret/cohort",
        domains={"A": "ct", "B": "mr"},
        arm="offline",
        method=Choice(f"{__name__}:Affine"),
        sampling=Sampling(ndim=ndim, size=(16,) * ndim),
        seed=7,
    )


def cohort(path: Path, **settings: object) -> Cohort:
    return replace(
        Cohort(path, "heart", {"ct": CT, "mr": MR}, {1: "lv", 2: "rv"}, spacing=(2.0, 2.0, 2.0), licence="CC BY 4.0"),
        **settings,  # type: ignore[arg-type]
    )


def store(path: Path) -> Store:
    def item(domain: str, number: int, split: str, lo: float, hi: float) -> Item:
        image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
        label = np.ones((1, 8, 8), np.uint8)
        return Item(f"{domain}{number}", NAMES(f"Jane Doe {domain}{number}"), domain, split, image, label, lo=lo, hi=hi)

    items = [item("ct", 1, "train", -160, 240), item("ct", 2, "val", -160, 240)]
    items += [item("mr", n, "train", 10.0 * n, 500.0 * n) for n in (1, 2, 3)] + [item("mr", 9, "test", 0, 1e6)]
    domains = {"ct": {"modality": "CT"}, "mr": {"modality": "MR"}}
    return write_store(path, name="heart", labels={1: "lv", 2: "rv"}, domains=domains, digest="d1", items=items)


@pytest.fixture
def saved(tmp_path: Path):
    method = Affine(Affine.Config(), Task(2, 3, nn.Identity)).set()
    return save_generator(
        tmp_path / "bundle", method, experiment(), cohort=cohort(tmp_path), store=store(tmp_path / "store"),
        stages={"fit": "abc123"},
    )  # fmt: skip


def test_generator_knows_what_it_needs_without_being_told_again(saved) -> None:
    again = load_generator(saved.directory)
    assert again.digest == saved.digest
    assert again.routes == {"A": ("B",), "B": ("A",)}
    assert again.ranges == {"A": (-160, 240), "B": (20.0, 1000.0)}  # the window; the median over training images
    assert again.rules.domains == {"ct": CT, "mr": MR}
    assert again.rules.labels == {1: "lv", 2: "rv"}
    assert again.rules.spacing == (2.0, 2.0, 2.0)
    assert again.experiment == replace(experiment(), cohort="heart")


@pytest.mark.parametrize(("names", "expected"), [
    ((None, None), ("A", "B")), (("ct", None), ("A", "B")), (("B", None), ("B", "A")), ((None, "ct"), ("B", "A")),
])  # fmt: skip
def test_route_by_role_or_domain(saved, names, expected) -> None:
    assert saved.route(*names) == expected


@pytest.mark.parametrize("names", [("pet", None), (None, "C"), ("A", "ct")])
def test_unknown_route_names_the_known_ones(saved, names) -> None:
    with pytest.raises(InputError, match=r"ct|A to B"):
        saved.route(*names)


def test_bundle_holds_only_what_synthesis_needs_and_nothing_pickled(saved) -> None:
    names = {path.name for path in saved.directory.iterdir()}
    assert names == {"weights.safetensors", "config.json", "fingerprint.json", "report.json", "MODEL_CARD.md"}
    assert set(load_generator(saved.directory).method.networks()) == {"G_A", "G_B"}
    for path in saved.directory.iterdir():
        with pytest.raises(ValueError):  # noqa: PT011  (whatever is wrong with it, it must not parse as a pickle)
            list(pickletools.genops(path.read_bytes()))


def test_bundle_tells_no_names_and_no_paths(saved, tmp_path: Path) -> None:
    for path in saved.directory.iterdir():
        content = path.read_bytes()
        for secret in (b"Jane Doe", b"/home", b"secret", str(tmp_path).encode()):
            assert secret not in content, (path.name, secret)
    patients = json.loads((saved.directory / "fingerprint.json").read_text())["patients"]
    assert patients == {NAMES(f"Jane Doe {name}"): "train" for name in ("ct1", "mr1", "mr2", "mr3")}


def test_synthesize_any_size_in_range(saved) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (3, 21, 13)).astype(np.float32)
    (role, made), *rest = saved.synthesize(image, "A").items()
    assert (role, rest) == ("B", [])
    np.testing.assert_allclose(made, -image, atol=1e-6)
    np.testing.assert_allclose(saved.synthesize(image, "B")["A"], image / 2, atol=1e-6)


def test_loading_leaves_the_random_streams_alone(saved) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_generator(saved.directory)
    assert torch.equal(torch.rand(3), expected)


def test_saving_twice_is_the_same_and_something_else_is_refused(saved, tmp_path: Path) -> None:
    again = {"cohort": cohort(tmp_path), "store": store(tmp_path / "store2"), "stages": {"fit": "abc123"}}
    method = Affine(Affine.Config(), Task(2, 3, nn.Identity)).set()
    assert save_generator(saved.directory, method, experiment(), **again).digest == saved.digest
    nn.init.constant_(method.G_A.gain, 0.7)
    with pytest.raises(InputError, match="is not this generator"):
        save_generator(saved.directory, method, experiment(), **again)
    assert load_generator(saved.directory).digest == saved.digest
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
    assert save_generator(tmp_path / "other", method, experiment(), **again).digest != saved.digest


def test_report_goes_into_the_card_and_leaves_the_digest(saved) -> None:
    gates = [
        {"name": "utility", "passed": True, "sentence": "Dice rises by 0.05 (0.02 to 0.08).", "figures": {}},
        {"name": "memorisation", "passed": False, "sentence": "Too close.", "figures": {}},
    ]
    assert "No verdict is recorded" in (saved.directory / "MODEL_CARD.md").read_text()
    table = [{"arm": "joint", "val/dice": 0.81234}, {"arm": "real", "val/dice": float("nan")}]
    verdict = {"promoted": False, "gates": gates, "sentence": "Not promoted: it failed memorisation."}
    write_report(saved.directory, {"verdict": verdict, "table": table})
    card = (saved.directory / "MODEL_CARD.md").read_text()
    evidence = (
        "Not promoted: it failed memorisation.", "utility: passed. Dice rises by 0.05", "memorisation: not passed",
        "| joint | 0.8123 |", "| real | – |",
    )  # fmt: skip
    data = ("CC BY 4.0", "`abc123`", "4 of split train", "lv, rv", "ct to mr", "window -160 to 240", saved.digest)
    for expected in (*evidence, *data, "not for diagnosis"):
        assert expected in card, expected
    assert json.loads((saved.directory / "report.json").read_text())["table"][1]["val/dice"] is None
    assert load_generator(saved.directory).digest == saved.digest


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_one_flipped_bit_is_noticed(saved, name) -> None:
    path = saved.directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"damaged: {name}"):
        load_generator(saved.directory)


def test_another_training_set_is_another_generator(saved) -> None:
    path = saved.directory / "fingerprint.json"
    path.write_text(path.read_text().replace('"train"', '"test"', 1))
    assert load_generator(saved.directory).digest != saved.digest


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "fingerprint.json"])
def test_a_missing_file_is_named(saved, name) -> None:
    (saved.directory / name).unlink()
    with pytest.raises(InputError, match=name):
        load_generator(saved.directory)


def test_another_format_is_refused_with_a_remedy(saved) -> None:
    path = saved.directory / "fingerprint.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="promote again"):
        load_generator(saved.directory)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["shape_consistent", "cyclegan"])
def test_installed_methods_survive_the_bundle(tmp_path: Path, name: str, ndim: int) -> None:
    chosen = replace(experiment(ndim), method=Choice(name, {"width": 0.0625}))
    torch.manual_seed(3)
    method = chosen.method_class()(chosen.method_config(), task_of(chosen, 3))
    made = save_generator(
        tmp_path / "bundle", method, chosen, cohort=cohort(tmp_path), store=store(tmp_path / "store"), stages={}
    )
    assert set(made.method.networks()) == {"G_A", "G_B"}
    image = np.random.default_rng(0).uniform(-1, 1, (3, 19, 21)).astype(np.float32)
    for source, target in (("A", "B"), ("B", "A")):
        expected = synthesize_volume(method, image, source, chosen.sampling)[target, "translated"]
        np.testing.assert_array_equal(made.synthesize(image, source)[target], expected)
        assert expected.std() > 0


def test_settings_that_ask_for_networks_of_a_hundred_gigabytes_are_refused_before_they_are_built(tmp_path) -> None:
    chosen = replace(experiment(2), method=Choice("shape_consistent", {"width": 0.0625}))
    method = chosen.method_class()(chosen.method_config(), task_of(chosen, 3))
    made = save_generator(
        tmp_path / "bundle", method, chosen, cohort=cohort(tmp_path), store=store(tmp_path / "store"), stages={}
    )
    config, fingerprint = (made.directory / name for name in ("config.json", "fingerprint.json"))
    values = json.loads(config.read_text())
    values["experiment"]["method"]["config"]["width"] = 60
    config.write_text(json.dumps(values))
    digest = hashlib.blake2b(config.read_bytes(), digest_size=16).hexdigest()
    fingerprint.write_text(json.dumps({**json.loads(fingerprint.read_text()), "config": digest}))
    with pytest.raises(InputError, match=r"config\.json asks for networks of \d+ GiB"):
        load_generator(made.directory)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which a fresh process can import this file's method, as it would an installed one."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    return dict(os.environ)


def test_fresh_process_gives_the_same_volume(saved, importable) -> None:
    image = np.random.default_rng(1).uniform(-1, 1, (2, 11, 9)).astype(np.float32)
    examples = {"one": Example("A", image), "another": Example("A", image[:1])}
    assert differences_when_reloaded(saved, saved.method, examples) == {"one": 0, "another": 0}
    other = deepcopy(saved.method)
    other.G_B.offset.data += 0.01
    assert differences_when_reloaded(saved, other, {"one": examples["one"]})["one"] == pytest.approx(0.01, rel=1e-3)


def test_fresh_process_that_cannot_load_says_why(saved) -> None:
    with pytest.raises(InputError, match="test_generator"):
        differences_when_reloaded(saved, saved.method, {"one": Example("A", np.zeros((1, 8, 8), np.float32))})


def test_loads_through_mlflow_in_a_fresh_process(saved, tmp_path: Path, importable) -> None:
    """As the registry serves it: the file by its path, the bundle among the artifacts, one image array in and out."""
    import mlflow

    import ganatomy

    code = Path(ganatomy.__file__).parent / "generators" / "pyfunc_model.py"
    mlflow.pyfunc.save_model(
        tmp_path / "model", python_model=str(code), artifacts={"generator": str(saved.directory)},
        pip_requirements=["ganatomy"],
    )  # fmt: skip
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]
    image = np.random.default_rng(2).uniform(-1, 1, (2, 1, 10, 12)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    program = (
        "import sys, mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1] + '/model')\n"
        "image = np.load(sys.argv[1] + '/image.npy')\n"
        "np.save(sys.argv[1] + '/made.npy', model.predict(image))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=importable, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), -image, atol=1e-6)


def test_who_uses_it_hears_what_it_did_not_pass(saved):
    assert "no gate" in saved.caution()
    gates = [{"name": "utility", "passed": False, "sentence": ""}, {"name": "lineage", "passed": True, "sentence": ""}]
    write_report(saved.directory, {"verdict": {"promoted": True, "gates": gates, "forced": "a deadline"}})
    assert saved.caution() == "this generator did not pass utility, promoted by force (a deadline)"
    write_report(saved.directory, {"verdict": {"promoted": True, "gates": gates[1:], "forced": None}})
    assert saved.caution() == ""


def test_models_registered_before_there_were_packages_find_what_they_import():
    """Their code is kept by MLflow as it was, and says ``from ganatomy.generator import load_generator``."""
    from ganatomy import generator as before

    assert before.load_generator is load_generator
