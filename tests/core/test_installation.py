"""Which commit the sources are of: asked of git in a checkout, read where it was written down, unknown elsewhere."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from ganatomy.core import installation

SOURCE = Path(installation.__file__)


@pytest.fixture
def house(tmp_path) -> Path:
    """A repository with one commit, of a package that knows the file in question and nothing else."""
    place = tmp_path / "house" / "platform" / "ganatomy" / "core" / "installation.py"
    place.parent.mkdir(parents=True)
    shutil.copy(SOURCE, place)
    git(tmp_path / "house", "init", "--quiet")
    git(tmp_path / "house", "add", ".")
    git(tmp_path / "house", "commit", "--quiet", "--message", "all of it")
    return tmp_path / "house"


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@nowhere.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_of(package: Path) -> str:
    return runpy.run_path(str(package / "core" / "installation.py"))["commit"]()


def test_a_checkout_is_of_its_commit_until_something_is_changed(house):
    head = git(house, "rev-parse", "HEAD")
    package = house / "platform" / "ganatomy"
    assert commit_of(package) == head[:12]
    with (package / "core" / "installation.py").open("a") as source:
        source.write("\n")
    assert commit_of(package) == f"{head[:12]}+changes"


def test_what_was_written_down_when_it_was_built_is_believed(house):
    package = house / "platform" / "ganatomy"
    (package / installation.COMMIT).write_text("0123456789ab\n")
    assert commit_of(package) == "0123456789ab"


def test_of_an_installation_inside_a_repository_of_something_else_nothing_is_claimed(house):
    package = house / ".venv" / "lib" / "ganatomy"
    shutil.copytree(house / "platform" / "ganatomy", package)
    assert commit_of(package) == "unknown"


def test_without_git_nothing_is_claimed(house, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert commit_of(house / "platform" / "ganatomy") == "unknown"


def test_of_a_copy_without_its_history_nothing_is_claimed(house):
    shutil.rmtree(house / ".git")
    assert commit_of(house / "platform" / "ganatomy") == "unknown"
