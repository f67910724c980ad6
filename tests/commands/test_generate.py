"""The command that generates: from a bundle or the registered champion, over cohorts and single images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import GANATOMY, error_line, make_phantom

from ganatomy import cli
from ganatomy.cohorts.reading import read_cohort
from ganatomy.experiment import Choice, Experiment, Sampling
from ganatomy.generators.generator import save_generator
from ganatomy.generators.registry import Registry
from ganatomy.stores.preparation import prepare
from ganatomy.tracking.runs import Tracking
from ganatomy.training.downstream import task_of


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("cohort") / "phantom")


@pytest.fixture(scope="module")
def bundles(cohort, tmp_path_factory) -> list[Path]:
    """Two small untrained generators of CT and MR."""
    folder = tmp_path_factory.mktemp("bundles")
    store = prepare(read_cohort(cohort), folder / "stores", workers=1)
    made = []
    for number in range(2):
        experiment = Experiment(
            str(cohort),
            {"A": "ct", "B": "mr"},
            arm="offline",
            method=Choice("cyclegan", {"width": 0.0625, "residual_blocks": 1 + number}),
            sampling=Sampling(ndim=2, size=(32, 32)),
        )
        method = experiment.method_class()(experiment.method_config(), task_of(experiment, store.classes))
        bundle = folder / f"bundle{number}"
        save_generator(bundle, method, experiment, cohort=read_cohort(cohort), store=store, stages={})
        made.append(bundle)
    return made


def test_generated_images_lie_on_the_grid_of_their_source(bundles, cohort, tmp_path, capsys):
    out = tmp_path / "synthetic"
    command = ["generate", str(bundles[0]), "--cohort", str(cohort), "--out", str(out), "--workers", "1"]
    assert cli.main([*command, "--split", "train"]) == 0
    assert f"{out}: 2 made, 0 kept, 0 failed" in capsys.readouterr().out
    made = read_cohort(out)
    assert {(row.domain, row.split, row.synthetic) for row in made.rows} == {("mr", "train", True)}
    sources = [nibabel.load(row.image) for row in read_cohort(cohort).rows_of("ct", "train")]
    for row in made.rows:
        image = nibabel.load(row.image)
        assert any(image.shape == of.shape and np.array_equal(image.affine, of.affine) for of in sources)

    assert cli.main([*command, "--split", "train"]) == 0
    assert "0 made, 2 kept, 0 failed" in capsys.readouterr().out


def test_one_image_that_fails_is_told_and_the_rest_is_made(bundles, cohort, tmp_path, capsys):
    folder = shutil.copytree(cohort, tmp_path / "cohort")
    broken = read_cohort(folder).rows_of("ct", "train")[0].image
    broken.write_bytes(b"not an image")
    arguments = ["--cohort", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(["generate", str(bundles[0]), *arguments]) == 1
    said = capsys.readouterr()
    assert "3 made, 0 kept, 1 failed" in said.out
    assert broken.name in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("given", [[], ["--cohort", "a", "--image", "b"]])
def test_generation_needs_one_source(given, bundles, tmp_path, capsys):
    assert cli.main(["generate", str(bundles[0]), "--out", str(tmp_path / "out"), *given]) == 2
    assert "--cohort" in error_line(capsys)


@pytest.mark.slow
def test_generation_spreads_over_ray(bundles, cohort, tmp_path):
    arguments = ["--cohort", str(cohort), "--out", str(tmp_path / "out"), "--workers", "2", "--address", "local"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [*GANATOMY, "generate", str(bundles[0]), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "4 made, 0 kept, 0 failed" in done.stdout
    assert cli.main(["generate", str(bundles[0]), *arguments[:2], "--out", str(tmp_path / "in"), "--workers", "1"]) == 0
    for there, here in zip(read_cohort(tmp_path / "out").rows, read_cohort(tmp_path / "in").rows, strict=True):
        first, second = (np.asarray(nibabel.load(row.image).dataobj) for row in (there, here))
        np.testing.assert_allclose(first, second, atol=1)


def test_a_rollback_moves_the_champion_and_generation_follows(bundles, cohort, workspace, tmp_path, capsys):
    tracking = Tracking(None, workspace)
    run = tracking.sweep_run("sweep")
    for bundle in bundles:
        Registry(tracking).register_generator(bundle, "ct-mr", run)
    digests = []
    for step in range(2):
        if step:
            assert cli.main(["rollback", "ct-mr", "--workspace", str(workspace)]) == 0
            assert "models:/ct-mr@champion is version 1" in capsys.readouterr().out
        out = tmp_path / f"out{step}"
        image = read_cohort(cohort).rows_of("ct", "test")[0].image
        arguments = ["--image", str(image), "--out", str(out), "--workspace", str(workspace)]
        assert cli.main(["generate", "models:/ct-mr@champion", *arguments]) == 0
        capsys.readouterr()
        [sidecar] = [path for path in out.rglob("*.json") if "GeneratorDigest" in path.read_text()]
        digests.append(json.loads(sidecar.read_text())["GeneratorDigest"])
    assert digests[0] != digests[1]
    for folder in ("models:/ct-mr@champion", str(out)):
        assert cli.main(["audit", folder, "--cohort", str(cohort), "--workspace", str(workspace)]) == 0
        assert "0 findings" in capsys.readouterr().out


def test_a_model_that_is_not_registered_is_one_line(workspace, tmp_path, capsys):
    assert cli.main(["rollback", "nobody", "--workspace", str(workspace)]) == 2
    assert "nobody" in error_line(capsys)
    given = ["--image", "x.nii.gz", "--out", str(tmp_path / "out"), "--workspace", str(workspace)]
    assert cli.main(["generate", "models:/nobody@champion", *given]) == 2
    assert "nobody" in error_line(capsys)
