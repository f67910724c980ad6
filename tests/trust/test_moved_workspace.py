"""A workspace that was copied, moved or reached by a link: what goes on in it goes on in it, and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nibabel
import pytest
import tiny
from promotion.squares import CYCLEGAN, LITTLE, MUCH, SPACE, confirm, make_cohort

from ganatomy import cli
from ganatomy.commands.sweep import Sweep, main
from ganatomy.contracts import InputError
from ganatomy.evidence.results import SweepPlan, read_plan
from ganatomy.generators.registry import CHAMPION, Registry
from ganatomy.promotion import examination
from ganatomy.promotion.ledger import LEDGER
from ganatomy.stores.preparation import prepare
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.server import ui_command

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")

POINTS = [{"arm": "real", **LITTLE}, {"arm": "offline", **MUCH, **CYCLEGAN}]
TRIALS = [{**point, "seed": seed} for seed in (0, 1) for point in POINTS]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, empty_database) -> Path:
    """A workspace with its cohort, a sweep of four trials and its confirmation."""
    home = tmp_path_factory.mktemp("laboratory")
    workspace = home / "workspace"
    workspace.mkdir()
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    cohort = make_cohort(workspace / "cohort")
    store, tracking = prepare(cohort, workspace / "stores"), Tracking(None, workspace)
    plan = SweepPlan(
        "helps", "tiny", tiny.EXPERIMENT, str(store.path), str(cohort.path), store.digest, trials=4, seeds=(0, 1),
        tracking_uri=tracking.uri, run_id=tracking.sweep_run("helps"),
    )  # fmt: skip
    plan.save(workspace / "sweeps" / "helps")
    for number, values in enumerate(TRIALS):
        run_trial(values, plan, SPACE, workspace, f"helps-{number}", lambda metrics: None)
    confirm(workspace, "helps")
    return workspace


@pytest.fixture(autouse=True)
def one_volume(monkeypatch):
    monkeypatch.setattr(examination, "INTEGRITY_VOLUMES", 1)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below, when it was written and what is in it."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def places(workspace: Path) -> set[str]:
    """Folders of artifacts that the embedded database names."""
    with sqlite3.connect(workspace / "mlflow.db") as database:
        rows = database.execute("SELECT artifact_uri FROM runs UNION SELECT storage_location FROM model_versions")
        uris = [uri for (uri,) in rows if uri]
    return {unquote(urlsplit(uri).path).partition("/mlartifacts")[0] for uri in uris}


def go_on(workspace: Path, out: Path, capsys) -> None:
    """Report, a trial that is not finished, promote and generate, by the commands but for the trial."""
    there = ["--workspace", str(workspace)]
    directory = workspace / "sweeps" / "helps"
    (directory / "trials" / "helps-3" / "result.json").unlink()
    run_trial(TRIALS[3], read_plan(directory), SPACE, workspace, "helps-3", lambda metrics: None)
    assert cli.main(["report", "helps", *there]) == 0
    assert cli.main(["promote", "helps", "--name", "squares", *there]) == 0, capsys.readouterr().err
    cohort = read_plan(directory).cohort
    assert cli.main(["generate", "models:/squares@champion", "--cohort", cohort, "--out", str(out), *there]) == 0


def assert_at_home(workspace: Path, out: Path) -> None:
    """All that ``go_on`` made is of this workspace."""
    registry = Registry(Tracking(None, workspace))
    [version] = registry.versions("squares")
    assert CHAMPION in version.aliases
    assert len((workspace / "cohort" / LEDGER).read_text().splitlines()) == 2  # a reading, and its verdict
    assert places(workspace) == {str(workspace)}
    assert (workspace / "sweeps" / "helps" / "trials" / "helps-3" / "result.json").exists()
    assert all(nibabel.load(path).shape for path in out.rglob("*.nii.gz"))
    assert list(out.rglob("*.nii.gz"))


# --- copied, moved ------------------------------------------------------------------------------------------------


def test_a_copy_goes_on_by_itself_and_the_original_is_untouched(laboratory, tmp_path, capsys):
    before = contents(laboratory)
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    go_on(copy, tmp_path / "out", capsys)
    assert_at_home(copy, tmp_path / "out")
    assert contents(laboratory) == before
    assert "which is not in workspace" not in capsys.readouterr().err


def test_a_moved_workspace_goes_on_and_its_old_place_stays_gone(laboratory, tmp_path, capsys):
    old = shutil.copytree(laboratory, tmp_path / "old")
    Tracking(None, old)  # it lives there now
    new = tmp_path / "moved" / "here"
    new.parent.mkdir()
    old.rename(new)
    go_on(new, tmp_path / "out", capsys)
    assert_at_home(new, tmp_path / "out")
    assert not old.exists()


def test_a_plan_of_an_earlier_version_is_of_the_workspace_that_it_lies_in(laboratory, tmp_path):
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    file = copy / "sweeps" / "helps" / "sweep.json"
    values = json.loads(file.read_text())
    assert values["tracking_uri"] == "sqlite:///workspace:mlflow.db"
    assert values["store"].startswith("workspace:stores/")
    old = read_plan(laboratory / "sweeps" / "helps")
    file.write_text(json.dumps({**values, "store": old.store, "tracking_uri": old.tracking_uri}))
    plan = read_plan(file.parent)
    assert Path(plan.store).is_relative_to(copy)
    assert plan.tracking_uri == f"sqlite:///{copy / 'mlflow.db'}"
    assert plan.elsewhere(copy) == []


def test_a_cohort_in_the_workspace_comes_along_and_one_beside_it_stays_where_it_is(laboratory, tmp_path):
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    plan = read_plan(copy / "sweeps" / "helps")
    assert plan.cohort == str(copy / "cohort")
    replace(plan, name="other", cohort=str(tmp_path / "beside")).save(copy / "sweeps" / "other")
    moved = copy.rename(tmp_path / "moved")
    assert read_plan(moved / "sweeps" / "helps").cohort == str(moved / "cohort")
    assert read_plan(moved / "sweeps" / "other").cohort == str(tmp_path / "beside")


def test_what_lies_elsewhere_is_said(laboratory, tmp_path, monkeypatch):
    plan = read_plan(laboratory / "sweeps" / "helps")
    monkeypatch.chdir(laboratory)
    assert plan.elsewhere(Path()) == []
    recorded, prepared = plan.elsewhere(tmp_path)
    assert f"runs are recorded in {laboratory / 'mlflow.db'}, which is not in workspace {tmp_path}" == recorded
    assert plan.store in prepared


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("store", 7),
        ("store", "stores/x"),
        ("store", "workspace:"),
        ("store", "workspace:../x"),
        ("store", "workspace:/x"),
        ("cohort", "cohort"),
        ("cohort", ["x"]),
        ("tracking_uri", "sqlite:///workspace:"),
        ("tracking_uri", "sqlite:///workspace:../../mlflow.db"),
        ("tracking_uri", None),
    ],
)
def test_a_place_that_can_be_none_is_refused_by_the_name_of_the_file(laboratory, tmp_path, what, value):
    directory = shutil.copytree(laboratory / "sweeps" / "helps", tmp_path / "sweeps" / "helps")
    values = json.loads((directory / "sweep.json").read_text())
    (directory / "sweep.json").write_text(json.dumps({**values, what: value}))
    with pytest.raises(InputError, match=rf"sweep\.json: {what}"):
        read_plan(directory)


def test_a_store_that_is_gone_is_refused_by_its_place_in_the_workspace(laboratory, tmp_path, capsys):
    copy = shutil.copytree(laboratory, tmp_path / "copy", ignore=shutil.ignore_patterns("stores"))
    assert cli.main(["promote", "helps", "--name", "squares", "--workspace", str(copy)]) == 2
    assert str(copy / "stores") in capsys.readouterr().err
    assert not list(copy.rglob(LEDGER))


def test_a_cohort_that_is_gone_is_told_before_a_test_patient_is_read(laboratory, tmp_path, capsys):
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    directory = copy / "sweeps" / "helps"
    replace(read_plan(directory), cohort=str(tmp_path / "gone")).save(directory)
    assert cli.main(["promote", "helps", "--name", "squares", "--workspace", str(copy)]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "gone") in said
    assert "sweep.json" in said
    assert not list(copy.rglob(LEDGER))


# --- the database's places ----------------------------------------------------------------------------------------


def test_a_workspace_reached_by_a_link_is_the_same_one(laboratory, tmp_path):
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    Tracking(None, copy)
    (tmp_path / "link").symlink_to(copy)
    Tracking(None, tmp_path / "link")
    assert places(copy) == {str(copy)}
    moved = copy.rename(tmp_path / "moved")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(moved)
    tracking = Tracking(None, tmp_path / "link")
    assert len(places(moved)) == 1
    assert Path(places(moved).pop()).samefile(moved)
    tracking.log_text(read_plan(moved / "sweeps" / "helps").run_id, "said.txt", "here")
    assert tracking.drain_all() == []
    assert list((moved / "mlartifacts").rglob("said.txt"))


def test_what_another_workspace_recorded_in_this_ones_database_keeps_its_place(laboratory, tmp_path):
    """Earlier versions kept its artifacts in that other workspace."""
    other = tmp_path / "other"
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    uri = Tracking(None, copy).uri
    foreign = Tracking(uri, other, "theirs")
    run = foreign.sweep_run("theirs")
    with sqlite3.connect(copy / "mlflow.db") as database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'theirs'",
                         ((other / "mlartifacts").as_uri(),))  # fmt: skip
        database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?",
                         (f"{(other / 'mlartifacts').as_uri()}/{run}/artifacts", run))  # fmt: skip
    moved = copy.rename(tmp_path / "moved")
    Tracking(None, moved)
    assert places(moved) == {str(moved), str(other)}


def test_runs_recorded_in_another_workspaces_database_lie_beside_it_and_move_with_it(laboratory, tmp_path):
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    guest = Tracking(f"sqlite:///{copy / 'mlflow.db'}", tmp_path / "guest", "theirs")
    guest.log_text(guest.sweep_run("theirs"), "said.txt", "here")
    assert guest.drain_all() == []
    assert list((copy / "mlartifacts").rglob("said.txt"))
    moved = copy.rename(tmp_path / "moved")
    Tracking(None, moved)
    assert places(moved) == {str(moved)}


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_copy_that_cannot_be_written_is_told(laboratory, tmp_path):
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    (copy / "mlflow.db").chmod(0o400)
    with pytest.raises(InputError, match="cannot be corrected"):
        Tracking(None, copy)


def test_the_page_of_a_copy_shows_the_copys_own(laboratory, tmp_path):
    copy = shutil.copytree(laboratory, tmp_path / "copy")
    command = ui_command(None, copy, 5000)
    assert command[-1] == str(copy / "mlartifacts")
    assert places(copy) == {str(copy)}


# --- what a resumed sweep is given --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seeds", "1", "2"], "--seeds"),
        (["--full"], "--full"),
        (["--no-full"], "--full"),
        (["--set", "arm=real", "--space=phantom_demo"], "--set, --space"),
        (["--workers_per_trial", "2"], "--workers-per-trial"),
        (["--tracking-uri", "http://127.0.0.1:9"], "--tracking-uri"),
        (["--trials", "3"], "--trials 3 of a sweep of 4"),
        (["--trials", "0"], "--trials 0 of a sweep of 4"),
    ],
)
def test_what_would_make_it_another_sweep_is_refused_by_name(laboratory, capsys, options, named):
    before = (laboratory / "sweeps" / "helps" / "sweep.json").read_bytes()
    assert main(["--resume", "helps", "--workspace", str(laboratory), *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert named in line
    assert (laboratory / "sweeps" / "helps" / "sweep.json").read_bytes() == before


def test_what_is_of_a_run_is_taken(phantom_plan):
    workspace, plan = phantom_plan
    given = {"trials": 9, "concurrent": 3, "standstill_s": 77.0}
    resumed = Sweep(resume=plan.name, workspace=workspace, **given).resumed(given)
    assert resumed == replace(plan, **given)
    assert Sweep(resume=plan.name, workspace=workspace).resumed() == plan


@pytest.fixture
def phantom_plan(workspace, tmp_path_factory) -> tuple[Path, SweepPlan]:
    from ganatomy.phantoms.hearts import make_cohort as make_phantom

    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    make_phantom(folder, patients={"ct": (3, 1, 1), "mr": (3, 1, 1)}, shape=(2, 16, 16))
    sweep = Sweep(space="phantom_demo", cohort=folder, workspace=workspace, set=("sampling.size=[16,16]",), seeds=(0,))
    return workspace, sweep.planned()
