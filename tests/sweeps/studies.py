"""What Optuna's own reader finds in the file of a sweep's study, held against what the trials' results say."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ganatomy.core.plain_values import plain
from ganatomy.evidence.results import is_concluded, read_plan, read_results
from ganatomy.sweeps.proposals import read_asked
from ganatomy.sweeps.study_file import CONTROLS, STUDY

STATES = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}


def opened(directory: Path, study: str) -> dict[str, optuna.trial.FrozenTrial]:
    """Name -> trial of a study, as Optuna itself reads the file."""
    storage = JournalStorage(JournalFileBackend(str(directory / STUDY)))
    trials = optuna.load_study(study_name=study, storage=storage).trials
    assert len({trial.user_attrs["trial"] for trial in trials}) == len(trials)
    return {trial.user_attrs["trial"]: trial for trial in trials}


def assert_agrees(directory: Path) -> dict[str, optuna.trial.FrozenTrial]:
    """That the file of the sweep in ``directory`` says what its record says. Returns its trials by name."""
    plan, asked = read_plan(directory), read_asked(directory)
    trials = opened(directory, plan.name) | (opened(directory, plan.name + CONTROLS) if plan.controls else {})
    assert trials.keys() == asked.keys()
    for name, values in asked.items():
        simple = {key: value for key, value in plain(values).items() if not isinstance(value, list)}
        assert {key: value for key, value in trials[name].params.items() if key in simple} == simple
        assert trials[name].params.keys() == values.keys()
    results = {result.trial: result for result in read_results(directory) if is_concluded(directory, result.trial)}
    for name, trial in trials.items():
        assert trial.state == (STATES[results[name].status] if name in results else TrialState.RUNNING)
        if trial.state == TrialState.COMPLETE:
            assert trial.values[0] == results[name].summary[plan.score]
        if trial.state == TrialState.FAIL:
            assert trial.user_attrs["error"] == results[name].error
    return trials
