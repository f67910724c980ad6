"""Whoever installed the package from a wheel has all of it: commands, demo, sweep, a laboratory's own method.

The wheel is built from a clean clone of the last commit, so that nothing which only lies about here is in it, and
installed into a new environment outside of the repository. No network is asked: what the package depends on is lent by
the environment of the tests, and only ``ganatomy doctor`` says that it is all that the wheel asks for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from ganatomy.cohorts.reading import read_cohort

pytestmark = pytest.mark.slow

HOUSE = Path(__file__).resolve().parent.parent
TOY = HOUSE / "tests" / "toy_plugin"
BUDGET = ["budget.segmentor_steps=4", "budget.generator_steps=4", "budget.validations=1"]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


def done(command: list[str | Path], folder: Path) -> str:
    """What a command that ends well says, on either way, in a shell that knows nothing of this repository."""
    ours = ("PYTHONPATH", "GANATOMY_WORKSPACE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@dataclass(frozen=True)
class Elsewhere:
    """A folder with an environment of its own, the wheel that is installed there, and the commit that it is of."""

    folder: Path
    wheel: Path
    commit: str

    @property
    def bin(self) -> Path:
        return self.folder / "environment" / "bin"

    def ganatomy(self, *words: str | Path) -> str:
        return done([self.bin / "ganatomy", *words], self.folder)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Elsewhere:
    if shutil.which("git") is None or not (HOUSE / ".git").exists():
        pytest.skip("a clean clone needs git, and a repository")
    folder = tmp_path_factory.mktemp("elsewhere")
    done(["git", "clone", "--quiet", HOUSE, "clone"], folder)
    done([*PIP, "wheel", *OFFLINE, "--wheel-dir", "dist", "./clone"], folder)
    commit = done(["git", "-C", "clone", "rev-parse", "HEAD"], folder).strip()
    shutil.rmtree(folder / "clone")  # what is installed does not need it
    [wheel] = (folder / "dist").glob("*.whl")
    _make_environment(folder / "environment")
    found = Elsewhere(folder, wheel, commit)
    shutil.copytree(TOY, folder / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    python = ["--python", found.bin / "python"]
    done([*PIP, *python, "install", *OFFLINE, wheel, "./toy"], folder)
    return found


def _make_environment(place: Path) -> None:
    """One that finds the packages of this one, but not what this one has of the repository: editable installations
    are ``.pth`` files, which are read in an environment's own folder only."""
    venv.create(place, with_pip=False, symlinks=True)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)}))
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")


def test_it_is_installed_there_and_says_what_it_is(elsewhere):
    where = done([elsewhere.bin / "python", "-c", "import ganatomy; print(ganatomy.__file__)"], elsewhere.folder)
    assert Path(where.strip()).is_relative_to(elsewhere.folder / "environment")
    said = elsewhere.ganatomy("--version")
    commit = re.fullmatch(r"ganatomy \S+ \(commit ([0-9a-f]{12})\)\n", said)
    assert commit, said
    assert elsewhere.commit.startswith(commit[1])


def test_the_wheel_brings_its_licence_and_every_package_and_nothing_else(elsewhere):
    names = zipfile.ZipFile(elsewhere.wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "ganatomy", "ganatomy_methods", "ganatomy_search_spaces",
    }  # fmt: skip
    sources = {
        str(path.relative_to(root))
        for root in (HOUSE / "platform", HOUSE / "methods", HOUSE / "search_spaces")
        for path in root.rglob("*.py")
    }
    assert sources <= {*names}
    [licence] = [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert zipfile.ZipFile(elsewhere.wheel).read(licence) == (HOUSE / "LICENSE").read_bytes()


def test_what_the_wheel_asks_for_is_there(elsewhere):
    assert re.search(r"ok +packages .*all within the pins", elsewhere.ganatomy("doctor"))


def test_the_demo_goes_from_nifti_to_nifti_and_on_where_it_was_and_a_plugged_in_method_is_swept_after_it(elsewhere):
    """With budgets too small to teach anything: whatever the verdict, it is said, and the rest is there. The demo's
    phantom is the sweep's cohort."""
    demo = ["demo", "--workspace", "demo", "--set", *BUDGET, "method.shape_weight=1", "mixing.ratio=1", "seed=0"]
    for _ in range(2):
        said = elsewhere.ganatomy(*demo)
        assert ("@champion is version 1" in said) != ("nothing was promoted" in said)
        assert (elsewhere.folder / "demo" / "panel.png").stat().st_size > 10_000
        assert {row.domain for row in read_cohort(elsewhere.folder / "demo" / "synthetic").rows} == {"mr"}
        assert "Traceback" not in said
    sweep = ["sweep", "--space", "toy_moments", "--cohort", "demo/phantom", "--source", "ct", "--target", "mr"]
    here = ["--workspace", "demo", "--address", "local"]
    small = ["downstream.network.width=4", "sampling.size=[32,32]"]
    said = elsewhere.ganatomy(*sweep, *here, "--seeds", "0", "--name", "toy", "--set", *BUDGET, *small)
    assert "2/2 trials" in said
