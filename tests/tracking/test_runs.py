"""Runs in real MLflow stores, which are SQLite files; `test_served` has those at a server."""

from __future__ import annotations

import io
import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganatomy.contracts import InputError
from ganatomy.tracking.outbox import Entry, Outbox, write_atomic
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.sending import Journal


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (40, 30), shade).save(buffer, "PNG")
    return buffer.getvalue()


def history(tracking: Tracking, run_id: str, name: str) -> list[tuple[int, float, int]]:
    return sorted((m.step, m.value, m.timestamp) for m in tracking.client.get_metric_history(run_id, name))


def artifacts(tracking: Tracking, run_id: str, folder: str | None = None) -> list[str]:
    return sorted(item.path for item in tracking.client.list_artifacts(run_id, folder))


@pytest.fixture
def tracking(workspace) -> Tracking:
    return Tracking(None, workspace, patience=2)


@pytest.fixture
def run(tracking) -> str:
    return tracking.trial_run(tracking.sweep_run("sweep"), "t0", "first trial")


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_is_made_once_and_found_again(tracking, workspace):
    sweep = tracking.sweep_run("sweep", {"space": "demo"})
    first = tracking.trial_run(sweep, "t0", "first", {"arm": "real", "method.shape_weight": 0.5}, {"seed": 3})
    again = Tracking(None, workspace)  # as after a restart
    assert again.sweep_run("sweep") == sweep
    assert again.trial_run(sweep, "t0", "first", {"arm": "real", "later": 1}) == first
    assert again.trial_run(sweep, "t1", "second") != first
    assert again.trial_run(again.sweep_run("other"), "t0", "first") != first
    data = tracking.client.get_run(first).data
    assert data.params == {"arm": "real", "method.shape_weight": "0.5", "later": "1"}
    assert data.tags == {"mlflow.parentRunId": sweep, "trial_id": "t0", "kind": "trial", "seed": "3",
                         "mlflow.runName": "first"}  # fmt: skip


def test_sweeps_of_two_workspaces_on_one_server_may_have_the_same_name(tracking, tmp_path):
    neighbour = Tracking(tracking.uri, tmp_path / "neighbour")
    first, second = tracking.sweep_run("sweep"), neighbour.sweep_run("sweep")
    assert first != second
    assert (tracking.sweep_run("sweep"), neighbour.sweep_run("sweep")) == (first, second)


def test_runs_tell_nothing_of_the_user_or_the_machine(tracking, run):
    found = tracking.client.get_run(run)
    assert found.info.user_id in ("", "unknown")
    assert not {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} & set(found.data.tags)


def test_a_run_that_goes_on_is_running_again_whatever_was_still_to_be_said(tracking, run):
    tracking.terminate(run, "FAILED", {"error": "power cut"})
    assert tracking.client.get_run(run).info.status == "FAILED"
    # An ending that could not be said yet must not arrive after the new beginning.
    Outbox(tracking.outbox / run, run).append(Entry("status", 5, {"status": "KILLED"}))
    sweep = tracking.sweep_run("sweep")
    assert tracking.trial_run(sweep, "t0", "first trial") == run
    tracking.drain_all()
    assert tracking.client.get_run(run).info.status == "RUNNING"
    tracking.terminate(run, "FINISHED")
    info = tracking.client.get_run(run).info
    assert info.status == "FINISHED"
    assert abs(info.end_time / 1000 - time.time()) < 60


def test_more_than_one_request_takes(tracking):
    """MLflow takes 100 parameters, 100 tags and 1000 metrics at a time, and 6000 characters a parameter."""
    params = {f"p{i:03}": "x" * (7000 if i == 0 else 5) for i in range(230)}
    run = tracking.trial_run(tracking.sweep_run("sweep"), "t0", "first", params)
    journal = Journal(tracking.workspace / "journal", tracking.uri, run)
    journal.metrics({f"m{i}": i for i in range(2300)}, 0)
    journal.tags({f"t{i}": i for i in range(120)})
    assert journal.close(60)
    data = tracking.client.get_run(run).data
    assert len(data.params) == 230
    assert data.params["p000"] == "x" * 6000
    assert data.metrics == {f"m{i}": i for i in range(2300)}
    assert {f"t{i}" for i in range(120)} < set(data.tags)
    assert not (journal.outbox.directory / "refused.jsonl").exists()


def test_a_cohort_is_logged_with_its_digest_and_no_path(tracking, run):
    for _ in range(2):
        tracking.log_dataset(run, "glioma", "0123456789abcdef", profile={"patients": 12})
    (given,) = tracking.client.get_run(run).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("glioma", "0123456789abcdef")
    assert given.dataset.source == '{"cohort": "glioma", "digest": "0123456789abcdef"}'


def test_artifacts_of_a_sweep(tracking, run, tmp_path):
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "figures" / "a.png").write_bytes(png())
    tracking.log_artifact(run, tmp_path / "report", "evidence")
    tracking.log_text(run, "evidence/table.html", "<table/>")
    tracking.log_metrics(run, {"best/val/dice": 0.75})
    assert artifacts(tracking, run, "evidence") == ["evidence/report", "evidence/table.html"]
    assert artifacts(tracking, run, "evidence/report/figures") == ["evidence/report/figures/a.png"]
    assert history(tracking, run, "best/val/dice")[0][:2] == (0, 0.75)


def test_an_id_that_can_be_no_folder_is_refused(tracking, tmp_path):
    for run_id in ("../../x", "/tmp/x", ""):
        with pytest.raises(InputError, match="run id"):
            tracking.log_text(run_id, "a.txt", "a")
    assert not list(tracking.workspace.glob("outbox/*"))


def test_probe_tells_what_it_talks_to(tracking, run):
    found = tracking.probe()
    assert found["uri"] == tracking.uri
    assert found["empty"] is False
    assert 0 <= found["seconds"] < 30


# --- journals ----------------------------------------------------------------------------------------------------


def test_sending_everything_twice_changes_nothing(tracking, run, tmp_path):
    """As when an answer was lost, or the process died between sending and noting it."""
    journal = Journal(tmp_path / "journal", tracking.uri, run)
    for step in range(3):
        journal.metrics({"loss": 1 / (step + 1), "nan": math.nan, "inf": -math.inf}, step, timestamp=10 + step)
    journal.image("val/panel", png(), 1)
    journal.text("notes/a.json", "{}")
    journal.tags({"k": "v"})
    outbox = journal.outbox

    def state():
        data = tracking.client.get_run(run).data
        numbers = [repr(history(tracking, run, name)) for name in ("loss", "nan", "inf")]
        return numbers, data.tags, artifacts(tracking, run, "images"), artifacts(tracking, run, "notes")

    shutil.copytree(outbox.directory / "files", tmp_path / "files")
    assert journal.close(60)
    before = state()
    assert history(tracking, run, "loss") == [(step, 1 / (step + 1), 10 + step) for step in range(3)]
    assert [step for step, *_ in history(tracking, run, "nan")] == [0, 1, 2]
    assert len(before[2]) == 2
    shutil.copytree(tmp_path / "files", outbox.directory / "files", dirs_exist_ok=True)
    write_atomic(outbox.directory / "cursor.json", f'{{"run": "{run}", "offset": 0}}')
    assert tracking.drain_all(tmp_path) == []
    assert state() == before


def test_pictures_are_found_by_the_image_grid(tracking, run, tmp_path):
    """Their names have the form that MLflow's own log_image gives, which is what its UI looks for."""
    other = tracking.trial_run(tracking.sweep_run("sweep"), "t1", "by mlflow")
    tracking.client.log_image(other, np.zeros((30, 40), np.uint8), key="val/panel", step=7)
    journal = Journal(tmp_path / "journal", tracking.uri, run)
    journal.image("val/panel", png(90), 7)
    assert journal.close(60)

    def form(path):
        return re.sub(r"timestamp\+\d+\+[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "timestamp+TIME+UUID", path)

    ours, theirs = artifacts(tracking, run, "images"), artifacts(tracking, other, "images")
    assert [form(path) for path in ours] == [form(path) for path in theirs]
    assert tracking.client.get_run(run).data.tags["mlflow.loggedImages"] == "True"
    assert tracking.client.get_run(other).data.tags["mlflow.loggedImages"] == "True"
    (whole,) = [path for path in ours if path.endswith(".png")]
    copy = tracking.client.download_artifacts(run, whole, str(tmp_path))
    assert Path(copy).read_bytes() == png(90)


def test_a_structure_may_be_called_anything(tracking, run, tmp_path):
    journal = Journal(tmp_path / "journal", tracking.uri, run)
    journal.metrics({"val/dice/necrotic (T1+C), %": 0.5, "val/dice/Ödem": 0.25, "val//dice/../x": 0.125}, 0)
    journal.image("panel (a+b)", png(), 0)
    assert journal.close(60)
    assert tracking.client.get_run(run).data.metrics == {
        "val/dice/necrotic _T1_C__ _": 0.5, "val/dice/Ödem": 0.25, "val/dice/x": 0.125
    }  # fmt: skip
    assert not (tmp_path / "journal" / "refused.jsonl").exists()


def test_one_thing_that_mlflow_will_not_take_holds_up_nothing(tracking, run, tmp_path):
    journal = Journal(tmp_path / "journal", tracking.uri, run)
    journal.params({"arm": "real"})
    journal.params({"arm": "real"})
    assert journal.flush(60)
    journal.params({"arm": "joint"})
    journal.image("broken", b"not a picture", 0)
    journal.metrics({"loss": 1.0}, 0)
    assert journal.close(60)
    data = tracking.client.get_run(run).data
    assert (data.params, data.metrics) == ({"arm": "real"}, {"loss": 1.0})
    assert (tmp_path / "journal" / "refused.jsonl").read_text().count("\n") == 2
