"""Optuna opens what a sweep has tried, and finds in it what the trials' results say, whenever the sweep was killed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ganatomy.contracts import InputError
from ganatomy.evidence.results import SweepPlan, conclude, read_plan, write_result
from ganatomy.experiment import TrialResult
from ganatomy.sweeps.proposals import Proposals
from ganatomy.sweeps.study_file import CONTROLS, STUDY
from ganatomy.sweeps.trial import VALIDATION
from sweeps.studies import assert_agrees, opened
from sweeps.test_proposals import BASE, PLAN, SCORE, ask


def ended(proposals: Proposals, trial: str, status: str, score: float = 0.5, **more) -> None:
    """A trial ends as ``status`` says, as its process, Tune and the sweep's progress note it one after the other."""
    name = proposals.names[trial]
    folder, summary = proposals.directory / "trials" / name, {SCORE: score, **more.pop("summary", {})}
    result = TrialResult(name, BASE, status, "out of memory" * (status == "failed"), summary=summary, **more)
    write_result(folder, replace(result, status="running", summary={}) if status == "pruned" else result)
    proposals.on_trial_complete(trial, {SCORE: score})
    write_result(folder, result)
    conclude(proposals.directory, name)


def validated(proposals: Proposals, trial: str, *scores: float) -> None:
    for step, score in enumerate(scores, start=1):
        proposals.on_trial_result(trial, {SCORE: score, VALIDATION: step})


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / PLAN.name
    PLAN.save(folder)
    return folder


def begun(directory: Path) -> Proposals:
    """A sweep with a trial of each end, and two that run."""
    proposals = Proposals(read_plan(directory), directory)
    ask(proposals, 5, "first")
    validated(proposals, "first-0", 0.1, 0.4)
    ended(proposals, "first-0", "finished", 0.5)
    ended(proposals, "first-1", "failed")
    validated(proposals, "first-2", 0.25)
    ended(proposals, "first-2", "pruned", 0.25)
    validated(proposals, "first-3", 0.3)
    return proposals


def test_optuna_reads_every_trial_with_its_state_values_and_validations(directory):
    begun(directory)
    trials = assert_agrees(directory)
    assert [trial.state.name for trial in trials.values()] == ["COMPLETE", "FAIL", "PRUNED", "RUNNING", "RUNNING"]
    assert [trial.intermediate_values for trial in trials.values()] == [{1: 0.1, 2: 0.4}, {}, {1: 0.25}, {1: 0.3}, {}]
    assert trials["first-2"].value == 0.25


@pytest.mark.parametrize("damage", ["none", "torn", "lost", "not Optuna's"])
def test_a_resumed_sweep_writes_it_anew_from_its_record_whatever_the_kill_left(directory, damage):
    begun(directory)
    before, text = assert_agrees(directory), (directory / STUDY).read_text()
    if damage == "lost":
        (directory / STUDY).unlink()
    elif damage != "none":
        (directory / STUDY).write_text(f'{text}{{"op_code": 6, "wor' if damage == "torn" else "[1, 2]\nnothing\n")
    again = Proposals(read_plan(directory), directory)
    after = assert_agrees(directory)
    assert list(after) == list(before)
    assert after["first-2"].value == 0.25, "what a trial had reached when it was stopped"
    if damage in ("none", "torn"):
        assert [one.intermediate_values for one in after.values()] == [
            one.intermediate_values for one in before.values()
        ]
    ask(again, 3, "second")
    validated(again, "second-0", 0.3, 0.6)
    ended(again, "second-0", "finished", 0.7)
    after = assert_agrees(directory)
    assert len(after) == 6
    assert after["first-3"].state == TrialState.COMPLETE


def test_what_the_sampler_knows_is_what_the_file_says(directory):
    proposals = begun(directory)
    for known in (proposals, Proposals(read_plan(directory), directory)):
        asked = [trial for trial in known.study.trials if trial.params]
        told = [(trial.state, trial.values, trial.intermediate_values, trial.params) for trial in asked]
        shown = [(one.state, one.values, one.intermediate_values, one.params)
                 for one in opened(directory, PLAN.name).values()]  # fmt: skip
        assert told == shown


def test_a_disc_that_cannot_hold_it_ends_no_sweep_and_is_told_once(directory, capsys):
    proposals = begun(directory)
    (directory / STUDY).unlink()
    (directory / STUDY).mkdir()
    ended(proposals, "first-3", "finished", 0.6)
    ended(proposals, "first-4", "finished", 0.7)
    assert capsys.readouterr().err.count("cannot be written") == 1
    (directory / STUDY).rmdir()
    ask(proposals, 6, "first")
    assert_agrees(directory)


def test_controls_are_a_study_of_their_own_and_in_nobodys_way(tmp_path):
    controls = ({"arm": "real", "budget.segmentor_steps": 2300, "seed": 0},)
    plan = replace(PLAN, controls=controls, trials=PLAN.trials + 1)
    plan.save(directory := tmp_path / plan.name)
    proposals = Proposals(plan, directory)
    ask(proposals, 3, "first")
    ended(proposals, "first-0", "finished", 0.9)
    ended(proposals, "first-1", "finished", 0.4)
    for _ in range(2):
        assert_agrees(directory)
        assert {name: trial.values for name, trial in opened(directory, plan.name + CONTROLS).items()} == {
            "first-0": [0.9]
        }
        Proposals(plan, directory)


# --- several objectives ------------------------------------------------------------------------------------------


def several(*names: str) -> SweepPlan:
    return replace(PLAN, objectives=names, scheduler="none")


def test_several_objectives_are_told_and_sought_in_their_directions(tmp_path):
    plan = several("utility", "cost", "fidelity")
    plan.save(directory := tmp_path / plan.name)
    proposals = Proposals(plan, directory)
    ask(proposals, 14, "first")
    validated(proposals, "first-0", 0.1)
    made = {"synthesis/s_score/ct": 0.6, "synthesis/s_score/mr": 0.8}
    ended(proposals, "first-0", "finished", 0.5, device_seconds=30.0, summary=made)
    ended(proposals, "first-1", "finished", 0.6, device_seconds=20.0)
    ended(proposals, "first-2", "finished", 0.4, device_seconds=40.0, summary=made)
    ended(proposals, "first-3", "failed")
    for known in (proposals, Proposals(plan, directory)):
        trials = assert_agrees(directory)
        assert [trial.values for trial in trials.values()][:4] == [
            [0.5, 30.0, pytest.approx(0.7)], [0.6, 20.0, 0.0], [0.4, 40.0, pytest.approx(0.7)], None,
        ]  # fmt: skip
        study = optuna.load_study(study_name=plan.name, storage=known.file.storage)
        assert study.metric_names == [SCORE, "cost", "fidelity"]
        assert {trial.user_attrs["trial"] for trial in study.best_trials} == {"first-0", "first-1"}
        assert [trial.values for trial in known.study.best_trials] == [trial.values for trial in study.best_trials]
    assert read_plan(directory).objectives == plan.objectives


def test_a_plan_of_before_looks_for_utility_alone(directory):
    values = json.loads((directory / "sweep.json").read_text())
    del values["objectives"]
    (directory / "sweep.json").write_text(json.dumps(values))
    assert read_plan(directory) == PLAN
    Proposals(read_plan(directory), directory)
    assert assert_agrees(directory) == {}


def test_an_objective_that_nobody_knows_is_refused_with_the_plan_that_names_it(directory):
    values = json.loads((directory / "sweep.json").read_text())
    (directory / "sweep.json").write_text(json.dumps({**values, "objectives": ["utility", "fidelty"]}))
    with pytest.raises(InputError, match="did you mean 'fidelity'") as refused:
        read_plan(directory)
    assert str(directory / "sweep.json") in str(refused.value)
