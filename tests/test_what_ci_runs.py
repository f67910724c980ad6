"""What CI leaves out is slow, and named in CONTRIBUTING.md with the reason; all else that is slow it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent
LEFT_OUT = re.compile(r"^\| `tests/([\w/]+\.py)(?:::(\w+))?(?:\[(\w+)\])?` \| (.+) \|$", re.MULTILINE)
"""A line of the list: a file, and of it a test, or what is true of one parameter; and why."""

COLLECT = """
import sys, pytest

class Found:
    def pytest_collection_modifyitems(self, items):
        for item in items:
            marks = {mark.name for mark in item.iter_markers()}
            if marks & {"slow", "beyond_ci"}:
                print("\\nFOUND", "slow" in marks, "beyond_ci" in marks, item.nodeid)

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Found()]))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[bool, bool]]:
    """Test, by its file, name and parameter -> whether it is slow, and whether it is left out of CI."""
    files = [str(path) for path in (HOUSE / "tests").rglob("test_*.py") if "beyond_ci" in path.read_text()]
    done = subprocess.run([sys.executable, "-c", COLLECT, *files], capture_output=True, text=True, cwd=HOUSE)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" ", 3)[1:] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    return {name.removeprefix("tests/"): (slow == "True", beyond == "True") for slow, beyond, name in lines}


def covers(line: tuple[str, str, str], name: str) -> bool:
    """Whether a line of the list speaks of a test."""
    (file, test, parameter), (path, _, rest) = line, name.partition("::")
    function, _, parameters = rest.rstrip("]").partition("[")
    return path == file and test in ("", function) and parameter in ("", *parameters.split("-"))


def test_what_ci_leaves_out_is_what_the_page_names(found):
    page = (HOUSE / "CONTRIBUTING.md").read_text()
    lines = [(file, test, parameter) for file, test, parameter, _ in LEFT_OUT.findall(page)]
    named = {name: [line for line in lines if covers(line, name)] for name in found}
    beyond = {name for name, (_, left_out) in found.items() if left_out}
    assert beyond
    assert {name for name, spoken in named.items() if spoken} == beyond
    assert all(len(named[name]) == 1 for name in beyond)
    assert {line for spoken in named.values() for line in spoken} == set(lines)  # none is named that is gone


def test_what_ci_leaves_out_is_in_the_slow_suite(found):
    assert all(slow for slow, left_out in found.values() if left_out)


def test_ci_runs_all_other_slow_tests():
    makefile, run = (HOUSE / "Makefile").read_text(), (HOUSE / ".ci" / "run").read_text()
    recipes = dict(re.findall(r"^(test[a-z-]*):.*\n\t.*pytest -m (\"[^\"]+\"|\w+) ", makefile, re.MULTILINE))
    assert recipes == {"test": '"not slow"', "test-slow": "slow", "test-ci": '"slow and not beyond_ci"'}
    assert re.findall(r"^make ([a-z-]+)$", run, re.MULTILINE) == ["check", "test-ci"]
    assert re.search(r"^check:.* test( |$)", makefile, re.MULTILINE)
