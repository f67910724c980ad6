"""A dotted path imports whatever it says: it is followed where somebody typed it, and not because a file says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from command_line import error_line
from generators import test_generator
from generators.test_generator import saved  # noqa: F401 a fixture

from ganatomy import cli
from ganatomy.commands.sweep import Sweep, main
from ganatomy.contracts import InputError
from ganatomy.core.plugins import ALLOWED, allow, allowed, resolve
from ganatomy.evidence.results import SweepPlan, read_results, write_result
from ganatomy.experiment import Choice, Score, TrialResult
from ganatomy.generators.generator import Generator, load_generator
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.stores.staging import file_hash

ROOT = Path(__file__).parents[2]

SMALL = ("sampling.size=[16,16]", "budget.segmentor_steps=2", "budget.generator_steps=2", "budget.validations=1",
         "downstream.network.width=4", "arm=real")  # fmt: skip

TRAP = """
from pathlib import Path
Path({imported!r}).touch()
from dataclasses import replace
from ganatomy.core.plugins import resolve
from ganatomy.search_space import SearchSpace

class Method(resolve("methods", "cyclegan")):
    pass

def sample(trial):
    trial.suggest_categorical("downstream.network", ["unet", "trap:unet"])

unet = resolve("networks", "unet")
BASE = resolve("spaces", "shape_consistent_small").base
SPACE = SearchSpace("trap", "", BASE, sample, ({{"arm": "real", "downstream.network": "unet"}}, {{"arm": "real"}}))
"""


@pytest.fixture
def imported(tmp_path, monkeypatch) -> Path:
    """A file that is there once the module ``trap``, which could be imported, has been; nothing is allowed yet."""
    marker = tmp_path / "imported"
    (tmp_path / "trapped").mkdir()
    (tmp_path / "trapped" / "trap.py").write_text(TRAP.format(imported=str(marker)))
    monkeypatch.syspath_prepend(tmp_path / "trapped")
    monkeypatch.setenv(ALLOWED, "")
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return marker


@pytest.mark.parametrize("group", ["methods", "networks", "spaces", "tasks"])
@pytest.mark.parametrize(
    "name", ["trap:Method", "trap.inner:Method", "os:system", "trap:Method.deeper", "trap: Method"]
)
def test_a_dotted_path_is_refused_before_anything_is_imported(imported, group, name):
    with pytest.raises(InputError, match=rf"{group[:-1]} .*nobody allowed.*--allow-dotted {name}"):
        resolve(group, name)
    assert not imported.exists()


def test_the_refusal_names_the_nearest_that_is_installed(imported):
    with pytest.raises(InputError, match="did you mean 'cyclegan'"):
        resolve("methods", "trap:CycleGAN")


def test_only_what_was_allowed_is_followed_and_an_entry_points_own_path_needs_no_leave(imported):
    allow("trap:Method", "cyclegan")
    assert allowed() == ("trap:Method",)
    assert resolve("methods", "trap:Method").__module__ == "trap"
    with pytest.raises(InputError, match="nobody allowed"):
        resolve("networks", "trap:unet")
    assert resolve("methods", "ganatomy_methods.cyclegan:CycleGAN") is resolve("methods", "cyclegan")


# --- bundles -----------------------------------------------------------------------------------------------------


def rewritten(bundle: Path, **experiment: object) -> Path:
    """A bundle as an attacker leaves it: whole in its own eyes, with another method or network in its settings."""
    config = json.loads((bundle / "config.json").read_text())
    config["experiment"] |= experiment
    (bundle / "config.json").write_text(json.dumps(config))
    fingerprint = json.loads((bundle / "fingerprint.json").read_text())
    fingerprint["config"] = file_hash(bundle / "config.json")
    (bundle / "fingerprint.json").write_text(json.dumps(fingerprint))
    return bundle


def test_a_bundle_imports_nothing_that_is_not_installed(saved: Generator, imported, tmp_path, capsys):  # noqa: F811
    from ganatomy.generators.pyfunc_model import GeneratorModel

    bundle = rewritten(saved.directory, method={"name": "trap:Method", "config": {}})
    ways = (
        lambda: load_generator(bundle),
        lambda: GeneratorModel().load_context(SimpleNamespace(artifacts={"generator": str(bundle)})),
    )
    for way in ways:
        with pytest.raises(InputError, match=r"trap:Method.*nobody allowed"):
            way()
    command = ["generate", str(bundle), "--image", str(tmp_path / "x.nii.gz"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--workspace", str(tmp_path)]) == 2
    assert "remedy: if you trust that code, --allow-dotted trap:Method" in error_line(capsys)
    assert not imported.exists()

    assert cli.main([*command, "--workspace", str(tmp_path), "--allow-dotted", "trap:Method"]) == 2
    assert "do not fit Method" in error_line(capsys)  # it was imported, and is not what made these weights
    assert imported.exists()


@pytest.mark.parametrize("spoil", [{"domains": 3}, {"method": []}, {"cohort": 3, "seed": "x"}, {"target": "\x1b[2J"}])
def test_a_bundle_whose_settings_make_no_sense_is_refused_in_one_line(saved, imported, spoil, tmp_path, capsys):  # noqa: F811
    allow(f"{test_generator.__name__}:Affine")
    bundle = rewritten(saved.directory, **spoil)
    command = ["generate", str(bundle), "--image", str(tmp_path / "x.nii.gz"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--workspace", str(tmp_path)]) == 2
    assert error_line(capsys).isprintable()


# --- plans -------------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(tmp_path, workspace) -> SweepPlan:
    """A finished sweep whose plan, whoever wrote it, names the trap wherever it can."""
    store = tiny.make_store(tmp_path / "store")
    base = replace(tiny.EXPERIMENT, method=Choice("trap:Method"))
    plan = SweepPlan("trapped", "trap:SPACE", base, str(store.path), str(tmp_path / "cohort"), store.digest,
                     trials=2, fixed={"downstream.network": "trap:unet"})  # fmt: skip
    folder = workspace / "sweeps" / "trapped"
    plan.save(folder)
    for number, arm in enumerate(("real", "offline")):
        scores = tuple(Score(f"s{n}", f"p{n}", "dice", "square", 0.5 + number / 10) for n in range(8))
        experiment = replace(base, arm=arm)
        result = TrialResult(str(number), experiment, "finished", scores=scores, summary={"val/dice": 0.5})
        write_result(folder / "trials" / str(number), result)
    return plan


def test_a_plan_that_was_not_typed_imports_nothing(planned, imported, workspace, capsys):
    there = ["--workspace", str(workspace)]
    assert cli.main(["promote", "trapped", "--name", "ct-mr", *there]) == 2
    assert "--allow-dotted trap:Method" in capsys.readouterr().err.splitlines()[-1]
    assert not list(workspace.rglob("test-readings.json*"))  # nothing was read for nothing
    assert cli.main(["report", "trapped", *there]) == 0  # a table needs none of it
    assert "--allow-dotted trap:SPACE" in error_line(capsys, "note")
    shutil.rmtree(workspace / "sweeps" / "trapped" / "trials")
    assert main(["--resume", "trapped", *there]) == 2
    assert "--allow-dotted trap:SPACE" in error_line(capsys)
    assert not imported.exists()


def test_what_is_allowed_for_a_resumed_sweep_covers_what_its_space_names_but_not_what_its_file_does(
    planned, imported, workspace
):
    shutil.rmtree(workspace / "sweeps" / "trapped" / "trials")
    resumed = Sweep(resume="trapped", workspace=workspace, allow_dotted=("trap:SPACE",))
    with pytest.raises(InputError, match="--allow-dotted trap:Method"):
        resumed.resumed()
    assert imported.exists()
    assert allowed() == ("trap:SPACE", "trap:unet")
    assert replace(resumed, allow_dotted=("trap:SPACE", "trap:Method")).resumed() == planned


def test_what_is_typed_for_a_sweep_needs_no_further_leave_and_its_workers_are_told(imported, workspace, tmp_path):
    make_cohort(tmp_path / "phantom", patients={"ct": (3, 1, 1), "mr": (3, 1, 1)}, shape=(2, 16, 16))
    sweep = Sweep(space="trap:SPACE", cohort=tmp_path / "phantom", workspace=workspace, source="ct", target="mr",
                  set=("method=trap:Method", "arm=real", "sampling.size=[16,16]"))  # fmt: skip
    assert sweep.planned().fixed["method"] == "trap:Method"
    assert set(allowed()) == {"trap:SPACE", "trap:Method", "trap:unet"}


@pytest.mark.slow
def test_a_sweep_that_was_typed_runs_and_goes_on_where_it_is_allowed_again(imported, workspace, tmp_path):
    """With real workers, which are told what they may import; of what a stopped sweep left one trial is missing."""
    make_cohort(tmp_path / "phantom", patients={"ct": (3, 1, 1), "mr": (3, 1, 1)}, shape=(2, 16, 16))
    sweep = [sys.executable, str(ROOT / "sweep.py"), "--workspace", str(workspace), "--address", "local"]
    typed = ["--space", "trap:SPACE", "--cohort", str(tmp_path / "phantom"), "--source", "ct", "--target", "mr",
             "--name", "typed", "--set", "method=trap:Method", "downstream.network=trap:unet", *SMALL]  # fmt: skip
    path = [str(tmp_path / "trapped"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "RAY_AUTH_MODE": "disabled"}

    def run(*options: str) -> subprocess.CompletedProcess:
        return subprocess.run([*sweep, *options], env=environment, cwd=tmp_path, capture_output=True, text=True)

    done = run(*typed)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = workspace / "sweeps" / "typed"
    [result] = read_results(folder)
    assert (result.status, result.experiment.downstream.network.name) == ("finished", "trap:unet")
    shutil.rmtree(folder / "trials" / result.trial)
    refused = run("--resume", "typed")
    assert refused.returncode == 2
    assert "--allow-dotted trap:SPACE" in refused.stderr
    resumed = run("--resume", "typed", "--allow-dotted", "trap:SPACE", "trap:Method", "trap:unet")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [again.status for again in read_results(folder)] == ["finished"]
