"""``import ganatomy`` loads nothing, and offers everything."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ganatomy
import ganatomy.contracts
from ganatomy.core.plugins import nearest

HEAVY = {
    "torch",
    "numpy",
    "ray",
    "mlflow",
    "optuna",
    "monai",
    "nibabel",
    "scipy",
    "pandas",
    "matplotlib",
    "tyro",
    "rich",
}


def modules_after(program: str) -> set[str]:
    """Names of the modules that a fresh process has loaded."""
    command = [sys.executable, "-c", f"import sys\n{program}\nprint(*sorted(sys.modules))"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_nothing_heavy():
    loaded = modules_after("import ganatomy; dir(ganatomy); ganatomy.__all__")
    assert "ganatomy" in loaded
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("ganatomy")} == {"ganatomy"}


def test_a_plug_in_loads_the_contracts_and_no_api():
    loaded = modules_after("from ganatomy.contracts import Method; from ganatomy.experiment import Experiment")
    assert not {name for name in loaded if name.startswith("ganatomy.api")}
    assert not loaded & {"ray", "mlflow", "monai"}


def test_a_cohort_is_read_without_ray_and_mlflow(tmp_path):
    ganatomy.phantom(tmp_path / "phantom", patients={"ct": (1, 1, 1)}, shape=(2, 16, 16))
    folder = str(tmp_path / "phantom")
    loaded = modules_after(f"import ganatomy; ganatomy.dataset(ganatomy.read_cohort({folder!r}), 'train')")
    assert not loaded & {"ray", "mlflow", "optuna", "pandas", "matplotlib"}


@pytest.mark.parametrize("name", ganatomy.__all__)
def test_every_name_is_there_listed_and_says_what_it_is(name):
    value = getattr(ganatomy, name)
    assert name in dir(ganatomy)
    assert name == "__version__" or value.__doc__


def test_no_name_is_that_of_a_room():
    """``import ganatomy.NAME`` anywhere would put the room in its place."""
    assert not set(ganatomy.__all__) & {module.name for module in pkgutil.iter_modules(ganatomy.__path__)}


def test_type_checkers_are_told_what_is_imported_at_first_use():
    tree = ast.parse(Path(ganatomy.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module.removeprefix("ganatomy.")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert told == ganatomy._ROOM_OF
    assert {*told, "__version__"} == set(ganatomy.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'swepe'"):
        _ = ganatomy.swepe
    assert not hasattr(ganatomy, "__path_of_nothing__")


def test_errors_of_python_are_those_of_the_commands():
    assert ganatomy.InputError is ganatomy.contracts.InputError
    assert nearest("swep", ganatomy.__all__).startswith("did you mean 'sweep'")
