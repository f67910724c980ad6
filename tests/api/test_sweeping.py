"""Sweeps from Python: refused as the command refuses, told in tables, and no Ray but its own is ended."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

import ganatomy
from ganatomy import cli
from ganatomy.api.apart import _followed, carried_out_apart
from ganatomy.api.sweeping import Sweep
from ganatomy.commands.sweep import main
from ganatomy.evidence.results import SweepPlan, write_result
from ganatomy.experiment import Choice, Experiment, Score, TrialResult
from ganatomy.sweeps.request import SweepRequest

TINY = {
    "sampling.size": [16, 16],
    "budget.segmentor_steps": 8,
    "budget.generator_steps": 8,
    "budget.validations": 2,
    "downstream.network.width": 4,
    "method.width": 0.0625,
    "method.discriminator_layers": 1,
}
PATIENTS = {"ct": (4, 2, 2), "mr": (4, 2, 5)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return ganatomy.phantom(tmp_path_factory.mktemp("cohorts") / "phantom", patients=PATIENTS, shape=(2, 16, 16))


# --- before anything is spent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "typed"),
    [
        ({"space": "phantom_dem"}, ["--space", "phantom_dem"]),
        ({"set": {"method.shape_wieght": 1}}, ["--set", "method.shape_wieght=1"]),
        ({"set": {"method.shape_weight": "heavy"}}, ["--set", "method.shape_weight=heavy"]),
        ({"set": ["arm=jont"]}, ["--set", "arm=jont"]),
        ({"full": True}, ["--full"]),
        ({"cohort": "nowhere"}, ["--cohort", "nowhere"]),
        ({"name": "../../x"}, ["--name", "../../x"]),
        ({"trials": -1}, ["--trials", "-1"]),
        ({"domains": {"A": "pet"}}, ["--domains", "A=pet"]),
        ({"objectives": ["cost"]}, ["--objectives", "cost"]),
    ],
)
def test_what_cannot_run_is_refused_in_the_words_of_the_command(cohort, tmp_path, capsys, options, typed):
    given = {"space": "phantom_demo", "cohort": cohort, "workspace": tmp_path / "workspace", **options}
    with pytest.raises(ganatomy.InputError) as refused:
        ganatomy.sweep(**given)
    usual = ["--space", "phantom_demo", "--cohort", str(cohort.path), "--workspace", str(tmp_path / "workspace")]
    kept = [word for pair in zip(usual[::2], usual[1::2]) if pair[0] != typed[0] for word in pair]
    assert main([*kept, *typed]) == 2
    assert capsys.readouterr().err.strip() == f"error: {refused.value}"
    assert not (tmp_path / "workspace" / "sweeps").exists()


def test_a_cohort_that_was_changed_and_not_saved_is_refused(cohort, tmp_path):
    changed = replace(cohort, rows=cohort.rows[1:])
    with pytest.raises(ganatomy.InputError, match=r"not what .* holds.*cohort\.save"):
        ganatomy.sweep("phantom_demo", changed, workspace=tmp_path)


def test_one_text_is_no_list_of_settings(cohort, tmp_path):
    with pytest.raises(ganatomy.InputError, match="is one text"):
        ganatomy.sweep("phantom_demo", cohort, workspace=tmp_path, set="arm=real")


# --- told --------------------------------------------------------------------------------------------------------


def write_sweep(workspace: Path) -> Sweep:
    """Two arms under two seeds on six patients, and a trial that failed."""
    base = Experiment("squares", {"A": "ct", "B": "mr"}, arm="real", method=Choice("cyclegan"))
    SweepPlan("told", "phantom_demo", base, "", "cohort", "digest", trials=5).save(workspace / "sweeps" / "told")
    trials = [(arm, seed) for arm in ("real", "offline") for seed in (0, 1)]
    for number, (arm, seed) in enumerate(trials):
        gain = 0.1 if arm == "offline" else 0.0
        scores = tuple(
            Score(f"p{n}-scan", f"p{n}", metric, "square", value)
            for n in range(6)
            for metric, value in (("dice", 0.6 + gain + 0.01 * n + 0.02 * seed), ("hd95", 3.0))
        )
        experiment = base.with_values({"arm": arm, "seed": seed})
        summary = {"val/dice": 0.6 + gain}
        result = TrialResult(f"t{number}", experiment, "finished", scores=scores, summary=summary, device_seconds=2.0)
        write_result(workspace / "sweeps" / "told" / "trials" / f"t{number}", result)
    failed = TrialResult("t9", base.with_values({"arm": "offline", "seed": 2}), "failed", "out of memory")
    write_result(workspace / "sweeps" / "told" / "trials" / "t9", failed)
    return ganatomy.load_sweep("latest", workspace)


def test_the_table_has_one_row_a_configuration_the_best_first(tmp_path):
    table = write_sweep(tmp_path).table()
    assert list(table.name) == ["offline", "real"]
    assert list(table.columns[:4]) == ["name", "arm", "seeds", "dice"]
    best, base = table.iloc[0], table.iloc[1]
    assert (best.seeds, base.seeds) == (2, 2)
    assert best.dice == pytest.approx(0.735)
    assert best.difference == pytest.approx(0.1)
    assert best.reading == "no verdict"
    assert best.reason == "the training under seed 2 came to no end, and may have been the worst"
    assert math.isnan(best.low)
    assert math.isnan(base.difference)
    assert (best.candidate, best.baseline, base.candidate, base.baseline) == (True, False, False, True)
    assert best["labels.square"] == pytest.approx(0.735)
    assert best.hd95 == 3.0


def test_the_scores_have_one_row_a_trial_patient_and_metric(tmp_path):
    sweep = write_sweep(tmp_path)
    scores = sweep.scores()
    assert len(scores) == 4 * 6 * 2
    dice = scores[scores.metric == "dice"]
    assert dice.groupby(["name", "seed"]).size().to_dict() == {
        (name, seed): 6 for name in ("offline", "real") for seed in (0, 1)
    }
    table = sweep.table().set_index("name")
    pandas.testing.assert_series_equal(dice.groupby("name").value.mean(), table.dice.sort_index(), check_names=False)
    assert set(dice.configuration) == set(table.configuration)


def test_trials_that_failed_say_why(tmp_path):
    sweep = write_sweep(tmp_path)
    trials = sweep.trials().set_index("trial")
    assert trials.status.value_counts().to_dict() == {"finished": 4, "failed": 1}
    assert trials.error["t9"] == "out of memory"
    assert trials["summary.val/dice"]["t0"] == 0.6
    assert ganatomy.list_sweeps(tmp_path) == ["told"]


def test_text_and_page_are_those_of_the_command(tmp_path, capsys):
    sweep = write_sweep(tmp_path)
    page = sweep.report(tmp_path / "pages" / "python.html")
    assert cli.main(["report", "told", "--workspace", str(tmp_path), "--html", str(tmp_path / "typed.html")]) == 0
    assert capsys.readouterr().out.strip() == str(sweep).strip()
    assert page.read_bytes() == (tmp_path / "typed.html").read_bytes()


def test_a_sweep_without_a_trial_has_empty_tables(tmp_path):
    base = Experiment("squares", {"A": "ct", "B": "mr"})
    SweepPlan("new", "phantom_demo", base, "", "cohort", "digest", trials=5).save(tmp_path / "sweeps" / "new")
    sweep = ganatomy.load_sweep("new", tmp_path)
    assert len(sweep.table()) == len(sweep.scores()) == len(sweep.trials()) == 0


def test_an_unknown_sweep_is_answered_with_the_nearest(tmp_path):
    write_sweep(tmp_path)
    with pytest.raises(ganatomy.InputError, match="did you mean 'told'"):
        ganatomy.load_sweep("tolt", tmp_path)


def test_a_sweep_with_trials_outstanding_is_not_promoted(tmp_path):
    with pytest.raises(ganatomy.InputError, match="1 of 5 trials outstanding"):
        write_sweep(tmp_path).promote("squares")


def test_what_would_make_it_another_sweep_cannot_even_be_said_and_fewer_trials_are_refused(tmp_path):
    sweep = write_sweep(tmp_path)
    with pytest.raises(TypeError):
        sweep.resume(seeds=[1])
    with pytest.raises(ganatomy.InputError, match="--trials 2 of a sweep of 5"):
        sweep.resume(trials=2)


# --- in a process of its own -------------------------------------------------------------------------------------


def test_what_is_refused_in_a_process_of_its_own_is_refused_here_in_the_same_words(cohort, tmp_path):
    request = SweepRequest(space="phantom_dem", cohort=cohort.path, workspace=tmp_path)
    with pytest.raises(ganatomy.InputError) as here:
        request.planned()
    with pytest.raises(ganatomy.InputError) as there:
        carried_out_apart(request, (), "127.0.0.1:1")
    assert str(there.value) == str(here.value)


def test_an_interruption_is_handed_on_and_its_end_waited_for():
    waits = """
import time
try:
    print("waiting", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("ended in order", flush=True)
"""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background ignores it
    interrupted = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    interrupted.start()
    try:
        assert _followed([sys.executable, "-c", waits], dict(os.environ)) == "ended in order"
    finally:
        signal.signal(signal.SIGINT, before)


# --- real sweeps -------------------------------------------------------------------------------------------------

OWN = {"space": "shape_consistent_small", "source": "ct", "target": "mr", "seeds": [0], "set": {**TINY, "arm": "real"}}


@pytest.mark.slow
def test_a_ray_that_was_there_before_is_joined_and_left_as_it_was(cohort, workspace, ray_cluster, capfd):
    from ganatomy.cluster.joining import connected

    @ray_cluster.remote(num_cpus=0)
    class Counter:
        count = 0

        def add(self):
            self.count += 1
            return self.count

    counter, here = Counter.remote(), connected()
    assert ray_cluster.get(counter.add.remote()) == 1
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    sweep = ganatomy.sweep(cohort=cohort, workspace=workspace, **OWN)
    assert set(sweep.trials().status) == {"finished"}
    said = capfd.readouterr()
    assert "1/1 trials; finished" in said.err  # progress is said here
    assert not said.out
    assert connected() == here
    assert ray_cluster.get(counter.add.remote()) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    with pytest.raises(ganatomy.InputError, match="--concurrent -1"):
        sweep.resume(concurrent=-1)


WITHOUT = """
import json, signal, sys
from pathlib import Path
import ganatomy
options = json.loads(sys.argv[1])
before = signal.getsignal(signal.SIGTERM)
sweep = ganatomy.sweep(address="local", **options)
assert signal.getsignal(signal.SIGTERM) is before
import ray
assert not ray.is_initialized()
more = sweep.resume(trials=2, address="local")
assert more == sweep
print(len(sweep.trials()))
"""


@pytest.mark.slow
def test_without_a_ray_one_is_started_and_ended_and_a_sweep_goes_on_to_more_trials(cohort, workspace):
    import json

    options = json.dumps({"cohort": str(cohort.path), "workspace": str(workspace), "trials": 1, **OWN})
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT, options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]
