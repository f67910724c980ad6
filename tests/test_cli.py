"""The command: it answers at once, says what is wrong in one line, and does what its help says, on real files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ganatomy import cli, cohort_commands, phantom
from ganatomy.cohort import read_cohort
from ganatomy.contracts import InputError
from ganatomy.downstream import task_of
from ganatomy.experiment import Choice, Experiment, Sampling, Score, TrialResult
from ganatomy.generator import save_generator
from ganatomy.preparation import prepare
from ganatomy.registry import Registry
from ganatomy.results import SweepPlan, write_result
from ganatomy.terminal import guarded
from ganatomy.tracking import Tracking

COMMANDS = [*cli.SINGLE, *(f"cohort {name}" for name in cli.OF_COHORT)]
GANATOMY = [sys.executable, "-m", "ganatomy.cli"]


def error_line(capsys) -> str:
    """The one line on standard error."""
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


# --- asking it ---------------------------------------------------------------------------------------------------


def test_the_installed_command_answers():
    done = subprocess.run([Path(sys.executable).with_name("ganatomy")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*cli.SINGLE, "cohort"))


def test_help_loads_nothing_heavy():
    program = "import sys; from ganatomy.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(eval(done.stderr))
    assert "ganatomy.cli" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "optuna", "monai", "nibabel", "scipy", "matplotlib"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_teaches_by_example(command, capsys):
    assert cli.main([*command.split(), "--help"]) == 0
    assert f"$ ganatomy {command} " in capsys.readouterr().out.replace("RAY_ADDRESS=head:6379 ", "") + " "


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reprot"], "report"),
        (["report", "latest", "--jsno"], "--json"),
        (["cohort", "import", "somewhere", "--layout", "bidz", "--out", "x"], "bids"),
        (["phantom"], "--out"),
        (["phantom", "--out", "x", "--ct", "many", "few", "none"], "--ct"),
    ],
)
def test_a_wrong_option_is_one_line_that_knows_the_right_one(arguments, said, capsys):
    assert cli.main(arguments) == 2
    assert said in error_line(capsys)


# --- errors ------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line_with_its_remedy(tmp_path, capsys):
    assert cli.main(["cohort", "check", str(tmp_path / "nothing")]) == 2
    line = error_line(capsys)
    assert str(tmp_path / "nothing") in line
    assert "remedy: ganatomy cohort import" in line


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert cli.main(["cohort", "check", str(tmp_path / "nothing"), "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_what_nobody_expected_is_one_line_and_a_log(tmp_path, capsys):
    def fail() -> int:
        raise RuntimeError("two\nlines")

    assert guarded(fail, workspace=tmp_path) == 1
    line = error_line(capsys)
    assert "RuntimeError: two lines" in line
    log = Path(line.rpartition("details: ")[2])
    assert log.parent == tmp_path
    assert "raise RuntimeError" in log.read_text()


def test_a_full_disc_is_named_as_such(tmp_path, capsys):
    def fail() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "store"))

    assert guarded(fail, workspace=tmp_path) == 1
    line = error_line(capsys)
    assert "no disc space left" in line
    assert str(tmp_path / "store") in line


def test_bad_input_in_a_worker_still_speaks_for_itself(tmp_path, capsys):
    import pickle

    error = pickle.loads(pickle.dumps(InputError("a", expected="b", remedy="c")))

    def fail() -> int:
        raise error

    assert guarded(fail, workspace=tmp_path) == 2
    assert error_line(capsys) == "error: a; expected b; remedy: c"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_130_and_leaves_nothing_half_made(tmp_path, sent):
    """Ctrl-C, or what a batch system sends, in the middle of writing a cohort, sent to a real process.

    Ctrl-C reaches only what was not started in the background, whatever these tests themselves were started by.
    """
    out = tmp_path / "out"
    command = [*GANATOMY, "phantom", "--out", str(out), "--ct", "400", "1", "1", "--mr", "400", "1", "1"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL if sent == signal.SIGINT else signal.SIG_IGN),
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.startswith("interrupted")
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# --- cohorts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "phantom"
    counts = ["--ct", "2", "1", "1", "--mr", "2", "1", "1"]
    assert cli.main(["phantom", "--out", str(out), "--shape", "4", "32", "32", *counts]) == 0
    return out


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
    phantom.make_cohort(tmp_path / "in", patients=counts, shape=(4, 32, 32), corrupt=["nan", "unreadable"])
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

    from ganatomy.importers import import_cohort

    offered = set(cohort_commands.CohortImport.__dataclass_fields__) - {"workspace", "debug"}
    assert offered == set(inspect.signature(import_cohort).parameters) - {"progress"}


# --- evidence ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tmp_path) -> Path:
    """A workspace with a finished sweep of two arms, as ``sweep.py`` leaves it."""
    base = Experiment("cohort", {"A": "ct", "B": "mr"})
    folder = tmp_path / "sweeps" / "ct-mr"
    SweepPlan("ct-mr", "shape_consistent", base, "stores/x", "cohort", "0123", trials=2).save(folder)
    for number, (arm, value) in enumerate((("real", 0.6), ("joint", 0.7))):
        scores = tuple(Score(f"s{n}", f"p{n}", "dice", "lv", value + 0.01 * n) for n in range(8))
        summary = {"val/dice": value}
        result = TrialResult(str(number), replace(base, arm=arm), "finished", scores=scores, summary=summary)
        write_result(folder / "trials" / str(number), result)
    return tmp_path


def test_a_report_is_a_table_or_json_or_a_page(sweep, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert cli.main(["report", "latest", "--workspace", str(sweep), "--html", str(page)]) == 0
    assert "joint" in capsys.readouterr().out
    assert page.read_text().lstrip().lower().startswith("<!doctype html")
    assert cli.main(["report", "ct-mr", "--workspace", str(sweep), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert sorted(round(row["dice"], 3) for row in rows) == [0.635, 0.735]


def test_an_unknown_sweep_is_answered_with_the_nearest(sweep, capsys, monkeypatch):
    monkeypatch.setenv("GANATOMY_WORKSPACE", str(sweep))
    assert cli.main(["report", "ct-rm"]) == 2
    assert "did you mean 'ct-mr'?" in error_line(capsys)
    assert cli.main(["promote", "ct-rm", "--name", "x"]) == 2
    assert "did you mean 'ct-mr'?" in error_line(capsys)


def test_the_ui_does_not_take_a_port_from_another(workspace, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["ui", "--workspace", str(workspace), "--port", str(port)]) == 2
    assert f"port {port} is taken" in error_line(capsys)


def test_there_is_no_ui_of_a_workspace_that_nobody_wrote_to(tmp_path, capsys):
    assert cli.main(["ui", "--workspace", str(tmp_path / "nowhere")]) == 2
    assert "has no MLflow store" in error_line(capsys)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_the_ui_serves_the_store_of_the_workspace(workspace):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*GANATOMY, "ui", "--workspace", str(workspace), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/version", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("no answer within two minutes")
        os.killpg(process.pid, signal.SIGINT)  # what a terminal sends on Ctrl-C
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_doctor_prints_what_it_found(tmp_path, capsys, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["doctor", "--workspace", str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sound"] is True
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--workspace", str(tmp_path / "file" / "workspace")]) == 1
    said = capsys.readouterr().out
    assert "fail" in said
    assert "remedy:" in said


# --- generators --------------------------------------------------------------------------------------------------


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


def test_a_model_that_is_not_registered_is_one_line(workspace, tmp_path, capsys):
    assert cli.main(["rollback", "nobody", "--workspace", str(workspace)]) == 2
    assert "nobody" in error_line(capsys)
    given = ["--image", "x.nii.gz", "--out", str(tmp_path / "out"), "--workspace", str(workspace)]
    assert cli.main(["generate", "models:/nobody@champion", *given]) == 2
    assert "nobody" in error_line(capsys)


# --- all of it ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_goes_from_nifti_to_nifti_and_on_where_it_was(tmp_path):
    """With a budget too small to teach anything: whatever the verdict, it is said, and the rest is there."""
    budget = ["budget.segmentor_steps=4", "budget.generator_steps=4", "budget.validations=1"]
    fewer = ["method.shape_weight=1", "mixing.ratio=1"]
    command = [*GANATOMY, "demo", "--workspace", str(tmp_path), "--set", *budget, *fewer]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("@champion is version 1" in done.stdout) != ("nothing was promoted" in done.stdout)
        assert (tmp_path / "panel.png").stat().st_size > 10_000
        assert {row.domain for row in read_cohort(tmp_path / "synthetic").rows} == {"mr"}
    assert "Traceback" not in done.stdout + done.stderr
