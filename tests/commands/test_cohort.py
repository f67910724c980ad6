"""Commands on cohorts: phantoms and imports, checked by the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import error_line, make_phantom

from ganatomy import cli
from ganatomy.cohorts.reading import read_cohort
from ganatomy.commands import cohort as cohort_commands
from ganatomy.commands.console import Command
from ganatomy.phantoms import hearts


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("cohort") / "phantom")


def test_the_brain_phantom_is_a_sound_cohort(tmp_path, capsys):
    options = ["--patients", "2", "1", "1", "--shape", "4", "32", "32", "--contrasts", "flair", "t1"]
    assert cli.main(["phantom", "--kind", "brain", "--out", str(tmp_path / "brain"), *options]) == 0
    assert cli.main(["cohort", "check", str(tmp_path / "brain"), "--json"]) == 0
    assert '"quarantined": 0' in capsys.readouterr().out


def test_the_phantom_is_a_sound_cohort(cohort, capsys):
    assert cli.main(["cohort", "check", str(cohort), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fingerprint"]["patients"] == 8
    assert found["findings"] == []


def test_an_import_sets_aside_what_cannot_be_used_and_says_so(tmp_path, capsys):
    counts = {"ct": (3, 1, 1), "mr": (3, 1, 1)}
    hearts.make_cohort(tmp_path / "in", patients=counts, shape=(4, 32, 32), corrupt=["nan", "unreadable"])
    patterns = ["--image", "{domain}={patient}/{domain}.nii.gz", "--label", "{patient}/label.nii.gz"]
    geometry = ["--spacing", "2", "2", "2", "--size", "24", "24", "4", "--intensity", "ct=window:-150:250", "mr=zscore"]
    options = [*patterns, *geometry, "--domains", "ct", "mr", "--licence", "CC0", "--name", "small"]
    out = str(tmp_path / "out")
    assert cli.main(["cohort", "import", str(tmp_path / "in"), "--layout", "folders", *options, "--out", out]) == 0
    said = capsys.readouterr().out
    assert "10 images of 10 patients; 2 quarantined" in said
    assert said.count("quarantine ") == 2
    made = read_cohort(out)
    assert (made.name, made.licence, made.spacing, made.size) == ("small", "CC0", (2, 2, 2), (24, 24, 4))
    assert made.domains["ct"].intensity.rule == "window"

    assert cli.main(["cohort", "import", str(tmp_path / "in"), "--layout", "folders", *options, "--out", out]) == 2
    assert "--overwrite" in error_line(capsys)


def test_every_option_of_an_import_reaches_the_import():
    import inspect

    from ganatomy.cohorts.importers import import_cohort

    offered = set(cohort_commands.CohortImport.__dataclass_fields__) - set(Command.__dataclass_fields__)
    assert offered == set(inspect.signature(import_cohort).parameters) - {"progress"}
