"""What is registered is what was given, found again by name, and says nothing about who registered it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from command_line import error_line

from ganatomy import cli
from ganatomy.commands import doctor
from ganatomy.contracts import InputError
from ganatomy.generators.registry import Registry, unjudged
from ganatomy.tracking.runs import Tracking

MODEL = """
import json
from pathlib import Path
import mlflow
import numpy as np

class Adds(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.offset = json.loads((Path(context.artifacts["generator"]) / "config.json").read_text())["offset"]

    def predict(self, context, model_input, params=None):
        return model_input + np.float32(self.offset + params["seed"])

mlflow.models.set_model(Adds())
"""


@pytest.fixture
def tracking(workspace) -> Tracking:
    return Tracking(None, workspace, patience=2)


@pytest.fixture
def run(tracking) -> str:
    return tracking.sweep_run("sweep")


@pytest.fixture
def code(tmp_path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def a_bundle(folder: Path, offset: float = 0.5, ndim: int = 2) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        f'{{"offset": {offset}, "experiment": {{"sampling": {{"ndim": {ndim}}}}}}}', encoding="utf-8"
    )
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "fingerprint.json").write_text(f'{{"offset": {offset}}}', encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text("# A generator\n")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_promoting_moves_champion_and_keeps_previous_and_rollback_undoes_it(tracking, run, code, tmp_path):
    registry = Registry(tracking)
    for number in (1, 2):
        bundle = a_bundle(tmp_path / f"bundle{number}", number)
        assert registry.register_generator(bundle, "ct-mr", run, {"verdict": "promoted"}, code=code) == number
    third = a_bundle(tmp_path / "bundle3", 3)
    assert registry.register_generator(third, "ct-mr", run, promote=False, code=code) == 3
    versions = registry.versions("ct-mr")
    assert [(version.number, version.aliases) for version in versions] == [
        (1, ("previous",)),
        (2, ("champion",)),
        (3, ()),
    ]
    assert versions[0].tags["verdict"] == "promoted"
    assert versions[0].run_id == run
    assert not any(map(unjudged, versions))
    tracking.client.set_registered_model_alias("ct-mr", "champion", "3")  # as MLflow's UI does for anybody
    assert "models:/ct-mr/3 is called champion, and no gate has judged it" in unjudged(registry.find("models:/ct-mr"))
    [_, said] = doctor.tracking(tracking.workspace, tracking.uri)
    assert (said.status, "models:/ct-mr@champion is version 3" in said.found) == ("warn", True)
    tracking.client.set_registered_model_alias("ct-mr", "champion", "2")
    assert [check.status for check in doctor.tracking(tracking.workspace, tracking.uri)] == ["ok"]
    assert registry.rollback("ct-mr") == 1
    assert registry.find("models:/ct-mr@champion").number == 1
    assert registry.find("models:/ct-mr@previous").number == 2
    assert registry.rollback("ct-mr") == 2  # a rollback is a move like any other: it can be undone
    assert registry.find("models:/ct-mr").number == 2
    registry.promote("ct-mr", 3)
    assert registry.find("models:/ct-mr@previous").number == 2


def test_the_same_folder_is_registered_once(tracking, run, code, tmp_path):
    registry, bundle = Registry(tracking), a_bundle(tmp_path / "bundle")
    assert registry.register_generator(bundle, "ct-mr", run, promote=False, code=code) == 1
    assert registry.register_generator(bundle, "ct-mr", run, code=code) == 1  # as after an interruption
    assert [version.aliases for version in registry.versions("ct-mr")] == [("champion",)]


def test_what_is_downloaded_is_what_was_registered(tracking, run, code, tmp_path):
    registry, bundle = Registry(tracking), a_bundle(tmp_path / "some" / "place" / "bundle")
    registry.register_generator(bundle, "ct-mr", run, code=code)
    place = registry.download("models:/ct-mr@champion")
    assert files(place) == files(bundle)
    assert registry.download("models:/ct-mr/1") == place
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name]  # nothing half done beside it


def test_a_damaged_model_is_refused(tracking, run, code, tmp_path):
    registry = Registry(tracking)
    registry.register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    (stored,) = (tmp_path / "mlartifacts").rglob("weights.safetensors")
    stored.write_bytes(b"x")
    with pytest.raises(InputError, match=r"ct-mr/1 is damaged"):
        registry.download("models:/ct-mr@champion")


def test_loads_by_its_alias_in_a_process_that_has_only_the_package(tracking, run, code, tmp_path):
    Registry(tracking).register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    code.unlink()
    program = (
        "import mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model('models:/ct-mr@champion')\n"
        "image = np.zeros((2, 1, 5, 7), np.float32)\n"
        "assert (model.predict(image) == 0.5).all() and (model.predict(image, params={'seed': 3}) == 3.5).all()\n"
        "assert model.predict(image).shape == image.shape\n"
        "for wrong in (np.zeros((2, 2, 5, 7), np.float32), np.zeros((2, 1, 5, 7, 3), np.float32)):\n"
        "    try: model.predict(wrong)\n"
        "    except mlflow.exceptions.MlflowException: pass\n"
        "    else: raise SystemExit('took an image of another form')\n"
    )
    env = {**os.environ, "MLFLOW_TRACKING_URI": tracking.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mlruns").exists()


def test_the_artifact_tells_nothing_of_the_machine_and_holds_no_pickle(tracking, run, tmp_path, monkeypatch):
    """Home folder, user, host and every folder we worked in, looked for in every byte; with the real model's code."""
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "doctorwho1963")
    monkeypatch.setattr(socket, "gethostname", lambda: "tardis-host")
    assert getpass.getuser() == "doctorwho1963"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "uv.lock").write_text("version = 1\n")  # MLflow likes to take such files along
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'secret-project'\n")
    before = os.environ.get("MLFLOW_TRACKING_URI"), mlflow.is_tracking_uri_set()
    Registry(tracking).register_generator(a_bundle(tmp_path / "secret-folder", ndim=3), "ct-mr", run)
    assert (os.environ.get("MLFLOW_TRACKING_URI"), mlflow.is_tracking_uri_set()) == before
    (described,) = (tmp_path / "mlartifacts").rglob("MLmodel")
    stored = files(described.parent)
    assert {"MLmodel", "pyfunc_model.py"} < set(stored)
    secrets = [str(Path.home()), str(tmp_path), "doctorwho1963", "tardis-host", "secret-project", sys.prefix]
    secrets += [str(Path(mlflow.__file__).parents[1]), os.uname().nodename, "/tmp/"]
    leaks = [(name, secret) for name, content in stored.items() for secret in secrets if secret.encode() in content]
    assert leaks == []
    assert [name for name in stored if name.endswith((".pkl", ".pickle", ".pt", ".pth")) or "__pycache__" in name] == []
    assert [name for name, content in stored.items() if content.startswith(b"\x80") and "weights" not in name] == []
    model = tracking.client.search_logged_models([tracking.experiment_id])[0]
    assert not {key for key in model.tags if key.startswith(("mlflow.user", "mlflow.source"))}
    assert [spec.shape for spec in mlflow.models.Model.load(described.parent).signature.inputs] == [(-1, 1, -1, -1, -1)]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("models:/ct-mt@champion", r"no registered model 'ct-mt'.*did you mean 'ct-mr'"),
        ("models:/ct-mr@champoin", r"no alias 'champoin'.*did you mean 'champion'"),
        ("models:/ct-mr/7", r"no version '7'.*known: 1"),
        ("models:/ct-mr@previous", r"no alias 'previous'"),
        ("ct-mr", r"expected models:/NAME@champion"),
    ],
)
def test_a_model_that_is_not_there_is_told_with_the_nearest_that_is(tracking, run, code, tmp_path, reference, says):
    registry = Registry(tracking)
    registry.register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    with pytest.raises(InputError, match=says):
        registry.download(reference)


def test_rolling_back_to_nothing_is_told(tracking, run, code, tmp_path):
    registry = Registry(tracking)
    with pytest.raises(InputError, match=r"no registered model 'ct-mr'; expected known: none"):
        registry.rollback("ct-mr")
    registry.register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    with pytest.raises(InputError, match="no previous champion"):
        registry.rollback("ct-mr")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@champion", "it's", "..", "a\nb", "<b>a</b>", "%2e%2e", "../x"])
def test_a_name_that_cannot_be_one_is_refused(tracking, run, code, tmp_path, name):
    registry = Registry(tracking)
    for use in (
        lambda: registry.register_generator(a_bundle(tmp_path / "bundle"), name, run, code=code),
        lambda: registry.rollback(name),
    ):
        with pytest.raises(InputError, match="model name") as refusal:
            use()
        assert str(refusal.value).isprintable()
    with pytest.raises(InputError):
        registry.download(f"models:/{name}")
    assert tracking.client.search_registered_models() == []


def test_a_folder_that_is_no_generator_is_refused(tracking, run, code, tmp_path):
    with pytest.raises(InputError, match="is not a generator"):
        Registry(tracking).register_generator(tmp_path, "ct-mr", run, code=code)


def test_the_shape_of_the_networks_is_the_shape_of_the_input(tracking, run, code, tmp_path):
    registry = Registry(tracking)
    registry.register_generator(a_bundle(tmp_path / "volume", ndim=3), "volumes", run, code=code)
    mlflow.set_tracking_uri(tracking.uri)
    try:
        model = mlflow.pyfunc.load_model("models:/volumes@champion")
    finally:
        mlflow.set_tracking_uri(None)
    image = np.zeros((1, 1, 3, 4, 5), np.float32)
    assert (model.predict(image) == 0.5).all()


# --- an entry that somebody else wrote ---------------------------------------------------------------------------


def tampered(tracking: Tracking, path: str) -> None:
    """Whoever can write to the tracking server lets the MLmodel name another folder."""
    (described,) = (tracking.workspace / "mlartifacts").rglob("MLmodel")
    values = yaml.safe_load(described.read_text())
    values["flavors"]["python_function"]["artifacts"]["generator"]["path"] = path
    described.write_text(yaml.safe_dump(values))


def without_tag(tracking: Tracking, tag: str, value: str = "") -> None:
    tracking.client.delete_model_version_tag("ct-mr", "1", tag)
    if value:
        tracking.client.set_model_version_tag("ct-mr", "1", tag, value)


@pytest.mark.parametrize("how", ["absolute", "relative", "link"])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_registry_entry_moves_nothing_of_its_reader(tracking, run, code, tmp_path, how, tagged):
    """The folder that it names, on the reader's own disc, is where it was, with its file; nothing of it is taken."""
    registry = Registry(tracking)
    registry.register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    precious = a_bundle(tmp_path / "elsewhere" / "precious")
    before = files(precious)
    if how == "link":
        (weights,) = (tmp_path / "mlartifacts").rglob("weights.safetensors")
        shutil.rmtree(bundle := weights.parent)
        bundle.symlink_to(precious)  # MLflow copies what a link leads to
        (precious / "config.json").write_text("{}")
        before = files(precious)
    else:
        tampered(tracking, str(precious) if how == "absolute" else "../" * 20 + str(precious))
    if not tagged:
        without_tag(tracking, "content")
    with pytest.raises(InputError, match=r"models:/ct-mr/1") as refusal:
        registry.download("models:/ct-mr@champion")
    assert len(str(refusal.value).splitlines()) == 1
    assert files(precious) == before
    assert not [path for path in (tmp_path / "generators").rglob("*") if path.is_file()]


def test_the_command_leaves_the_folder_that_an_entry_names_alone(tracking, run, code, tmp_path, capsys):
    Registry(tracking).register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    precious = a_bundle(tmp_path / "precious")
    tampered(tracking, str(precious))
    command = ["generate", "models:/ct-mr@champion", "--cohort", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--workspace", str(tmp_path)]) == 2
    line = error_line(capsys)
    assert "models:/ct-mr/1" in line
    assert str(precious) in line
    assert len(files(precious)) == 4


@pytest.mark.parametrize("tag", ["content", "digest"])
@pytest.mark.parametrize("value", ["", "../../../x", "0" * 31, "0" * 32])
def test_a_version_that_does_not_say_what_was_registered_is_refused(tracking, run, code, tmp_path, tag, value):
    registry = Registry(tracking)
    registry.register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    without_tag(tracking, tag, value)
    with pytest.raises(InputError, match=r"models:/ct-mr/1.*remedy: .*promote"):
        registry.download("models:/ct-mr@champion")


def test_a_copy_that_was_changed_since_is_refused_and_fetched_again_when_it_is_gone(tracking, run, code, tmp_path):
    registry = Registry(tracking)
    registry.register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    place = registry.download("models:/ct-mr@champion")
    (place / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"is not what was registered.*remedy: remove that folder"):
        registry.download("models:/ct-mr@champion")
    shutil.rmtree(place)
    place.symlink_to(a_bundle(tmp_path / "same"))  # its content is right: a link is refused all the same
    with pytest.raises(InputError, match="is not what was registered"):
        registry.download("models:/ct-mr@champion")
    place.unlink()
    assert files(registry.download("models:/ct-mr@champion")) == files(tmp_path / "bundle")


def test_a_model_that_names_no_generator_is_refused(tracking, run, code, tmp_path):
    registry = Registry(tracking)
    registry.register_generator(a_bundle(tmp_path / "bundle"), "ct-mr", run, code=code)
    for path, says in (("nothing/here", "has no folder"), ("MLmodel", "has no folder")):
        tampered(tracking, path)
        with pytest.raises(InputError, match=says):
            registry.download("models:/ct-mr@champion")
    (described,) = (tmp_path / "mlartifacts").rglob("MLmodel")
    levels = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]\n" for n in range(1, 11))
    bomb = f"b0: &b0 [{'x' * 50}]\n{levels}flavors: {{python_function: {{artifacts: {{generator: {{path: *b10}}}}}}}}\n"
    for text in ("flavors: 3\n", "flavors: {python_function: {artifacts: {generator: {path: 3}}}}\n", bomb):
        described.write_text(text)
        with pytest.raises(InputError, match="names none"):
            registry.download("models:/ct-mr@champion")


def test_a_bundle_with_a_link_in_it_is_not_registered(tracking, run, code, tmp_path):
    bundle = a_bundle(tmp_path / "bundle")
    (bundle / "more").symlink_to(Path.home())
    with pytest.raises(InputError, match="more"):
        Registry(tracking).register_generator(bundle, "ct-mr", run, code=code)
    assert tracking.client.search_registered_models() == []


# --- at the same moment ------------------------------------------------------------------------------------------

RACER = """
import sys, time
from pathlib import Path
from ganatomy.generators.registry import Registry, unjudged
from ganatomy.tracking.runs import Tracking
here, uri, bundle, code, run, number = sys.argv[1:]
registry = Registry(Tracking(uri, Path(here)))
(Path(here) / f"ready{number}").touch()
while len(list(Path(here).glob("ready*"))) < 3: time.sleep(0.001)
print(registry.register_generator(Path(bundle), "ct-mr", run, code=Path(code)))
"""


def race(uri: str, run: str, code: Path, tmp_path: Path) -> list[str]:
    """What three processes that register one bundle at the same moment are told."""
    bundle = a_bundle(tmp_path / "bundle")
    command = [sys.executable, "-c", RACER, str(tmp_path), uri, str(bundle), str(code), run]
    racers = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    told = [racer.communicate(timeout=240) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 3, told
    return [out.strip() for out, _ in told]


def test_one_bundle_registered_by_three_processes_at_once_is_one_version(tracking, run, code, tmp_path):
    told = race(tracking.uri, run, code, tmp_path)
    [version] = Registry(tracking).versions("ct-mr")
    assert told == [str(version.number)] * 3
    assert version.aliases == ("champion",)
    assert len(tracking.client.search_logged_models([tracking.experiment_id])) == 1
    assert files(Registry(tracking).download("models:/ct-mr")) == files(tmp_path / "bundle")
    another = a_bundle(tmp_path / "another", 2)
    assert Registry(tracking).register_generator(another, "ct-mr", run, code=code) > version.number
