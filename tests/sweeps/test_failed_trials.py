"""Trials that fail: recorded with their reason, told of with their traceback, run again where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganatomy.evidence.results import read_results

from . import breaking
from .test_tuning import TINY, nothing_goes_on, phantom, start, statuses  # noqa: F401


@pytest.mark.slow
@pytest.mark.beyond_ci
def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(phantom, workspace):  # noqa: F811
    from ganatomy.tracking.runs import Tracking

    settings = (*TINY, "filter.min_dice=1.0", "method.shape_weight=1.0", "mixing.ratio=1.0")
    arguments = ("--space", "phantom_demo", "--cohort", str(phantom), "--name", "failing", "--seeds", "0")
    assert start(workspace, *arguments, "--set", *settings).wait(timeout=500) == 0
    results = {result.experiment.arm: result for result in read_results(workspace / "sweeps" / "failing")}
    assert results["real"].status == results["joint"].status == "finished"
    assert results["offline"].status == "failed"
    assert "filter.min_dice = 1 keeps none" in results["offline"].error
    output = (workspace / "output.txt").read_text()
    assert "lower filter.min_dice" in output
    assert f"trials/{results['offline'].trial}/traceback.txt" in output
    assert "Traceback" not in output
    log = workspace / "sweeps" / "failing" / "trials" / results["offline"].trial / "log.txt"
    assert log.read_text().count("filter") == 1, "what fails is tried once"
    tracking = Tracking(None, workspace)
    run = tracking.client.get_run(results["offline"].run_id)
    assert run.info.status == "FAILED"
    assert "keeps none" in run.data.tags["error"]
    assert "traceback.txt" in [item.path for item in tracking.client.list_artifacts(run.info.run_id)]


@pytest.mark.slow
@pytest.mark.parametrize(("fixed", "so"), [
    pytest.param(["method.shape_weight=1"], "its one trial failed", id="one"),
    pytest.param([], "all 2 trials failed", id="group", marks=pytest.mark.beyond_ci),
])  # fmt: skip
def test_where_all_trials_failed_the_sweep_did_and_all_of_them_are_run_again(phantom, workspace, fixed, so):  # noqa: F811
    """In a task of Ray's and in a group of two workers: what the plug-in raised is said, and where."""
    name = "breaking:Net"
    settings = (*TINY, f"downstream.network={name}", "arm=joint", *fixed)
    arguments = ("--space", "phantom_demo", "--cohort", str(phantom), "--name", "broken", "--seeds", "0")
    assert start(workspace, *arguments, "--set", *settings).wait(timeout=500) == 1
    assert statuses(workspace) == ["FAILED"] * (2 if fixed else 3)
    directory, output = workspace / "sweeps" / "broken", workspace / "output.txt"
    failed = {result.trial: result for result in read_results(directory)}
    assert {(result.status, result.error) for result in failed.values()} == {("failed", "KeyError: 'C'")}
    for trial in failed:
        folder = directory / "trials" / trial
        assert f"traceback: {folder / 'traceback.txt'}" in output.read_text()
        assert f"failed: KeyError at {breaking.__file__}, line " in (folder / "log.txt").read_text()
        assert (folder / "traceback.txt").read_text().rstrip().endswith("KeyError: 'C'")
    said = output.read_text()
    assert "no trial of sweep broken has finished" in said
    assert f"Sweep broken has ended: {so}; ganatomy sweep --resume broken --retry-failed" in said

    Path(workspace / "passed").touch()
    assert start(workspace, "--resume", "latest").wait(timeout=100) == 2
    assert "anything left to do" in output.read_text().splitlines()[-1]
    again = ("--resume", "latest", "--retry-failed", "--allow-dotted", name)
    assert start(workspace, *again).wait(timeout=500) == 0, output.read_text()
    results = {result.trial: result for result in read_results(directory)}
    assert {trial: (one.experiment, one.run_id) for trial, one in results.items()} == {
        trial: (one.experiment, one.run_id) for trial, one in failed.items()
    }
    assert {result.status for result in results.values()} == {"finished"}
    assert statuses(workspace) == ["FINISHED"] * (len(failed) + 1)
    assert not [*directory.glob("trials/*/traceback.txt")]
    assert f"{len(failed)} of {len(failed)} trials finished. " in output.read_text()
    assert start(workspace, *again).wait(timeout=100) == 2
    assert "has a failed trial to run again" in output.read_text().splitlines()[-1]
