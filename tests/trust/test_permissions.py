"""What is written can be read by whom the user's umask allows, and by nobody else: it names patients."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import tiny
from command_line import make_phantom

from ganatomy import cli
from ganatomy.cohorts.reading import read_cohort
from ganatomy.core.durable import put_in_place, replacing
from ganatomy.core.tables import write_atomically
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import Choice, Experiment, Sampling
from ganatomy.generators.generator import save_generator
from ganatomy.search_space import SearchSpace
from ganatomy.stores.preparation import prepare
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.outbox import Entry, Outbox, now
from ganatomy.tracking.runs import Tracking
from ganatomy.training.distributed import DirectoryReporter
from ganatomy.training.downstream import task_of

UMASKS = (0o077, 0o027, 0o022)
LAYOUT = ["--layout", "folders", "--image", "{domain}={patient}/{domain}.nii.gz", "--label", "{patient}/label.nii.gz"]


@pytest.fixture
def umask():
    """Sets the umask; the one before comes back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def wrong(folder: Path, mask: int) -> dict[str, str]:
    """Every file and folder below ``folder`` whose permissions are not those of a new one, with what they are."""
    return {
        str(path.relative_to(folder)): oct(permissions(path))
        for path in sorted(folder.rglob("*"))
        if permissions(path) != (0o777 if path.is_dir() else 0o666) & ~mask
    }


def go_all_the_way(folder: Path) -> None:
    """A folder of images imported, checked and prepared; a trial, its table; a generator, and what it makes."""
    make_phantom(folder / "in")
    cohort = folder / "cohort"
    assert cli.main(["cohort", "import", str(folder / "in"), *LAYOUT, "--out", str(cohort)]) == 0
    assert cli.main(["cohort", "check", str(cohort)]) == 0
    store = prepare(read_cohort(cohort), folder / "workspace" / "stores", workers=1)

    plan = trial_plan(folder / "workspace")
    plan.save(folder / "workspace" / "sweeps" / plan.name)
    space = SearchSpace("tiny", "", tiny.EXPERIMENT, lambda suggest: None)
    run_trial({"arm": "offline"}, plan, space, folder / "workspace", "t1", lambda metrics: None)
    page = str(folder / "pages" / "report.html")
    assert cli.main(["report", "sweep", "--workspace", str(folder / "workspace"), "--html", page]) == 0

    experiment = Experiment(str(cohort), {"A": "ct", "B": "mr"}, arm="offline", sampling=Sampling(2, (32, 32)),
                            method=Choice("cyclegan", {"width": 0.0625, "residual_blocks": 1}))  # fmt: skip
    method = experiment.method_class()(experiment.method_config(), task_of(experiment, store.classes))
    save_generator(folder / "bundle", method, experiment, cohort=read_cohort(cohort), store=store, stages={})
    generate = ["generate", str(folder / "bundle"), "--cohort", str(cohort), "--workers", "1"]
    assert cli.main([*generate, "--out", str(folder / "synthetic"), "--split", "val"]) == 0


def trial_plan(workspace: Path) -> SweepPlan:
    store = tiny.make_store(workspace / "stores" / "tiny")
    run = Tracking(None, workspace).sweep_run("sweep")
    return SweepPlan("sweep", "tiny", tiny.EXPERIMENT, str(store.path), "mine", store.digest, trials=1, run_id=run)


@pytest.mark.parametrize("mask", UMASKS, ids=oct)
def test_everything_from_the_import_to_the_synthetic_images_has_the_umasks_permissions(
    workspace, umask, mask, one_thread_and_no_pictures
):
    umask(mask)
    (workspace / "mlflow.db").chmod(0o666 & ~mask)  # a copy of these tests' own
    (workspace / "workspace").mkdir()
    (workspace / "mlflow.db").rename(workspace / "workspace" / "mlflow.db")
    go_all_the_way(workspace)
    kinds = {path.name for path in workspace.rglob("*")}
    assert {"images.csv", "sweep.json", "result.json", "report.html", "journal.jsonl", "networks.safetensors",
            "records.arrow", "fingerprint.json"} <= kinds  # fmt: skip
    (key,) = workspace.rglob(".pseudonym-key")
    assert permissions(key) == 0o600  # a secret, whatever the mask allows
    key.unlink()
    assert wrong(workspace, mask) == {}


@pytest.mark.parametrize("mask", UMASKS, ids=oct)
def test_a_file_is_never_wider_than_it_will_be_while_it_is_written(tmp_path, umask, mask):
    umask(mask)
    seen = []
    (private := tmp_path / "private.csv").touch(0o600)
    for place in (tmp_path / "new.csv", private):
        with replacing(place) as beside:
            seen.append(permissions(beside))
            beside.write_text("patient\n")
        assert permissions(place) == seen[-1]
    assert seen == [0o666 & ~mask, 0o600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "private.csv"]


def test_what_its_owner_made_private_stays_private_when_it_is_written_anew(tmp_path, umask):
    umask(0o022)
    table = tmp_path / "images.csv"
    write_atomically(table, "one")
    table.chmod(0o640)
    write_atomically(table, "two")
    assert (table.read_text(), permissions(table)) == ("two", 0o640)
    table.chmod(0o666)
    write_atomically(table, "three")
    assert permissions(table) == 0o644


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    table = tmp_path / "images.csv"
    write_atomically(table, "old")
    with pytest.raises(RuntimeError), replacing(table) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("images.csv", "old")]


def test_what_is_sent_to_mlflow_is_not_as_open_as_its_original(tmp_path, umask):
    """Of a folder too, such as a bundle: content is copied, and the permissions of what it was copied from are not."""
    umask(0o077)
    (tmp_path / "original" / "inner").mkdir(parents=True)
    (tmp_path / "original" / "inner" / "config.json").touch()
    for path in (tmp_path / "original", *(tmp_path / "original").rglob("*")):
        path.chmod(0o777)
    outbox = Outbox(tmp_path / "outbox", "run")
    outbox.append(Entry("artifact", now()), {"bundle": tmp_path / "original"})
    assert any(path.name == "config.json" for path in (tmp_path / "outbox").rglob("*"))
    assert wrong(tmp_path / "outbox", 0o077) == {}


def test_a_new_synthetic_image_is_as_private_as_the_one_it_replaces(tmp_path, umask):
    umask(0o022)
    (place := tmp_path / "image.nii.gz").touch(0o600)
    (made := tmp_path / "part.nii.gz").write_bytes(b"x")
    put_in_place(made, place)
    assert (permissions(place), place.read_bytes()) == (0o600, b"x")


def test_whoever_may_read_a_workspace_may_resume_from_its_checkpoints(tmp_path, umask):
    umask(0o027)
    reporter = DirectoryReporter(tmp_path, lambda: None)
    for step in (1.0, 2.0):
        reporter.report([{"step": step}], lambda folder: (folder / "shared.pt").touch())
    assert [path.name for path in tmp_path.glob("*checkpoint-*")] == ["checkpoint-000000002"]
    assert wrong(tmp_path, 0o027) == {}
