"""What the trials of a sweep try: controls, the listed points, then what Optuna proposes. On record before it runs.

Tune writes its own state down now and then; a killed sweep that went on from there would forget the trials since. So it
goes on from this record, and Tune and Optuna are told anew what has been.
"""

from __future__ import annotations

import json
import math
import os
import uuid
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from ganatomy.contracts import InputError
from ganatomy.core.durable import append_line, sync
from ganatomy.core.names import checked_name
from ganatomy.evidence.results import RESULT, SweepPlan, is_concluded, read_result
from ganatomy.experiment import TrialResult
from ganatomy.measures.objectives import COST, FIDELITY, UTILITY, fidelity
from ganatomy.sweeps.study_file import StudyFile, chosen, directions, sought, validated_before
from ganatomy.sweeps.trial import VALIDATION

ASKED = "asked.jsonl"
"""File of a sweep: the name and the values of each of its trials, in order."""

TRIAL = "trial"
"""Key of a trial's name among the values that Tune knows of: its own names for trials do not outlive it."""


def read_asked(directory: Path) -> dict[str, dict[str, Any]]:
    """Name -> values of every trial of the sweep in ``directory`` that was ever to run, in order.

    InputError where a trial has run that is not on record.
    """
    path = directory / ASKED
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # A line without its end was being written when the sweep was killed: no trial had begun.
    entries = [json.loads(line, object_hook=_unpacked) for line in lines if line.endswith("\n")]
    asked = {checked_name(entry[TRIAL], f"{path}: trial"): entry["values"] for entry in entries}
    ran = {trial.name for trial in (directory / "trials").glob("*") if trial.is_dir()}
    if unknown := sorted(ran - asked.keys()):
        raise InputError(
            f"{path} does not know of {len(unknown)} trials that have run, {unknown[0]} among them",
            expected="the record that a sweep keeps of what its trials try",
            remedy="begin anew, in the same workspace: what its stages left is found again",
        )
    return asked


def study_of(plan: SweepPlan, before: list[dict[str, Any]] | None = None) -> optuna.Study:
    """What proposes the values of the sweep's trials: the listed points, then Optuna's TPE.

    before: values of the trials that were asked for earlier, no controls; they come first, and are proposed again.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # PartialFixedSampler, since 2.4
    before = before or []
    listed = plan.search_space().listed(plan.fixed, plan.seeds)[: plan.trials - len(plan.controls)]
    # Not the stream of the sweep's beginning: that would propose its first values again.
    sampler = optuna.samplers.TPESampler(seed=(plan.sampler_seed + 1_000_003 * len(before)) % 2**32)
    study = optuna.create_study(
        directions=directions(plan),
        # Sampled points keep the first seed: a sampler free to choose seeds would search for a lucky one.
        sampler=optuna.samplers.PartialFixedSampler({"seed": plan.seeds[0]}, sampler),
        pruner=optuna.pruners.NopPruner(),
    )
    for values in (*before, *listed[len(before) :]):
        study.enqueue_trial(values)
    return study


def came_to(plan: SweepPlan, result: TrialResult | None, failed: bool) -> tuple[TrialState, list[float] | None]:
    """How a trial ended, as Optuna calls it, and what it came to in each objective of the sweep.

    result: as it stands on record, if it does: of one that the scheduler has stopped, that it is still running. One
    without a number for utility failed. Synthetic images that a trial has not made have a fidelity of 0.
    """
    if failed or result is None or result.status == "failed":
        return TrialState.FAIL, None
    if result.status != "finished":
        return TrialState.PRUNED, None
    true = fidelity(result.summary)
    reached = {
        UTILITY: float(result.summary.get(plan.score, math.nan)),
        COST: float(result.device_seconds),
        FIDELITY: 0.0 if math.isnan(true) else true,
    }
    values = [reached[name] for name in sought(plan)]
    return (TrialState.FAIL, None) if any(map(math.isnan, values)) else (TrialState.COMPLETE, values)


class Proposals(Searcher):
    """The values of each trial of a sweep; of one that was killed, those of its unfinished trials first."""

    def __init__(self, plan: SweepPlan, directory: Path) -> None:
        super().__init__(metric=plan.score, mode="max")
        self.plan, self.directory = plan, directory
        asked, validated = read_asked(directory), validated_before(directory)
        _mend(directory / ASKED)
        self.study = study_of(plan, [values for values in asked.values() if values not in plan.controls])
        self.sampler = plan.search_space().sampler(plan.fixed, plan.seeds)
        self.file = StudyFile(plan, directory)
        self.controls = deque(point for point in plan.controls if point not in asked.values())
        self.trials: dict[str, optuna.Trial] = {}
        """Name -> trial of the study; those of controls, no points of the space, are not in it."""
        self.again: deque[tuple[str, dict[str, Any]]] = deque()
        self.names: dict[str, str] = {}
        self.taken = set(asked)
        for name, values in asked.items():
            beside = values in plan.controls
            if not beside:
                self._propose(name)
            path = directory / "trials" / name / RESULT
            result = read_result(path) if is_concluded(directory, name) and path.exists() else None
            if result is None:
                self.again.append((name, values))
            self._recall(name, values, result, validated.get(name, {}))
        self.file.write()
        self.left = plan.trials - len(asked) + len(self.again)
        """Trials that have yet to come to their end."""

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The values of the next trial, and its name."""
        if self.again:
            name, values = self.again.popleft()
        else:
            name = trial_id if trial_id not in self.taken else uuid.uuid4().hex  # Tune's are short
            beside = bool(self.controls)  # the longest of all, so that they are not what is waited for in the end
            values = dict(self.controls.popleft()) if beside else self._propose(name)
            line = json.dumps({TRIAL: name, "values": _packed(values)}, default=_native)
            append_line(self.directory / ASKED, line)
            self.taken.add(name)
            self.file.add(name, chosen(values) if beside else self._known(name), beside=beside)
            self.file.write()
        self.names[trial_id] = name
        return {**values, TRIAL: name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial validated: of one that is stopped Optuna knows how far it came."""
        if VALIDATION in result:
            name, step, score = self.names[trial_id], int(result[VALIDATION]), float(result[self.plan.score])
            if self._heard(name, {step: score}):
                self.file.hear(name, step, score)
                self.file.write()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial is over; of one that failed, nothing that it reported before counts."""
        name = self.names[trial_id]
        path = self.directory / "trials" / name / RESULT
        kept = read_result(path) if path.exists() else None
        state, values = self._tell(name, kept, error)
        self.file.end(name, state, values, kept.error if kept else "")
        self.file.write()

    def _propose(self, name: str) -> dict[str, Any]:
        """Ask the study for the values of a trial."""
        trial = self.trials[name] = self.study.ask()
        self.sampler(trial)
        return dict(trial.params)

    def _known(self, name: str) -> FrozenTrial:
        """A trial as the study has it."""
        return self.study.get_trials(deepcopy=False)[self.trials[name].number]

    def _heard(self, name: str, validations: Mapping[int, float]) -> bool:
        """Tell the study of validations; whether any of them was new to it. Of several objectives it takes none, and
        nothing of what is beside the space."""
        if name not in self.trials or len(sought(self.plan)) > 1:
            return False
        known = self._known(name).intermediate_values
        fresh = {step: score for step, score in validations.items() if step not in known}
        for step, score in fresh.items():
            self.trials[name].report(score, step)
        return bool(fresh)

    def _recall(
        self, name: str, values: Mapping[str, Any], result: TrialResult | None, validated: Mapping[int, float]
    ) -> None:
        """A trial of before: ``result`` if it has come to its end."""
        beside = name not in self.trials
        last = result.summary.get(self.plan.score) if result and result.status == "pruned" else None
        self._heard(name, validated or ({1: last} if last is not None else {}))
        ended = self._tell(name, result, False) if result else (TrialState.RUNNING, None)
        known = chosen(values, *ended) if beside else self._known(name)
        self.file.add(name, known, beside=beside, error=result.error if result else "")

    def _tell(self, name: str, result: TrialResult | None, failed: bool) -> tuple[TrialState, list[float] | None]:
        """Tell the study of a trial's end; how that stands in it."""
        state, values = came_to(self.plan, result, failed)
        if name not in self.trials:
            return state, values
        told = self.study.tell(self.trials[name], values, state=state)
        return told.state, told.values

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what there is to know is on record."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """From Tune's own file nothing is read."""


def _mend(path: Path) -> None:
    """Take away the line that was being written when the sweep was killed; make the file, if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        os.fsync(file.fileno())
    sync(path.parent)


# Optuna knows a choice by its value: a tuple that comes back as a list is none of them.


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _packed(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_packed(part) for part in value]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    return value


def _unpacked(found: dict[str, Any]) -> Any:
    return tuple(found["tuple"]) if found.keys() == {"tuple"} else found


def _native(value: Any) -> Any:
    """Of what JSON does not know, NumPy's numbers."""
    if isinstance(value, np.generic):
        return value.item()
    raise InputError(
        f"the space proposes {value!r}, a {type(value).__name__}, which cannot be put on record",
        expected="numbers, words, truth values, None, or lists or tuples of them",
    )
