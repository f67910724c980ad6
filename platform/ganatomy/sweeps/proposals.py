"""What the trials of a sweep try: controls, the listed points, then what Optuna proposes. On record before it runs.

Tune writes its own state down now and then; a killed sweep that went on from there would forget the trials since. So it
goes on from this record, and Tune and Optuna are told anew what has been.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ganatomy.contracts import InputError
from ganatomy.core.durable import append_line, sync
from ganatomy.core.names import checked_name
from ganatomy.evidence.results import RESULT, SweepPlan, is_concluded, read_result, read_status

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


def search_algorithm(plan: SweepPlan, before: list[dict[str, Any]] | None = None) -> OptunaSearch:
    """What proposes the values of the sweep's trials: the listed points, then Optuna's TPE.

    before: values of the trials that were asked for earlier, no controls; they come first, and are proposed again.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # PartialFixedSampler, since 2.4
    space, before = plan.search_space(), before or []
    listed = space.listed(plan.fixed, plan.seeds)[: plan.trials - len(plan.controls)]
    # Not the stream of the sweep's beginning: that would propose its first values again.
    sampler = optuna.samplers.TPESampler(seed=(plan.sampler_seed + 1_000_003 * len(before)) % 2**32)
    return OptunaSearch(
        space.sampler(plan.fixed, plan.seeds),
        metric=plan.score,
        mode="max",
        # Sampled points keep the first seed: a sampler free to choose seeds would search for a lucky one.
        sampler=optuna.samplers.PartialFixedSampler({"seed": plan.seeds[0]}, sampler),
        points_to_evaluate=[*before, *listed[len(before) :]],
    )


class Proposals(Searcher):
    """The values of each trial of a sweep; of one that was killed, those of its unfinished trials first."""

    def __init__(self, plan: SweepPlan, directory: Path) -> None:
        super().__init__(metric=plan.score, mode="max")
        self.directory = directory
        asked = read_asked(directory)
        _mend(directory / ASKED)
        self.optuna = search_algorithm(plan, [values for values in asked.values() if values not in plan.controls])
        self.controls = deque(point for point in plan.controls if point not in asked.values())
        self.beside: set[str] = set()
        """Names of trials that are controls: no points of the space, of which Optuna learns nothing."""
        self.again: deque[tuple[str, dict[str, Any]]] = deque()
        self.names: dict[str, str] = {}
        self.taken = set(asked)
        for name, values in asked.items():
            if values in plan.controls:
                self.beside.add(name)
            else:
                self.optuna.suggest(name)
            path = directory / "trials" / name / RESULT
            if is_concluded(directory, name) and path.exists():
                result = read_result(path)
                self._tell(name, dict(result.summary), result.status == "failed")
            else:
                self.again.append((name, values))
        self.left = plan.trials - len(asked) + len(self.again)
        """Trials that have yet to come to their end."""

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The values of the next trial, and its name."""
        if self.again:
            name, values = self.again.popleft()
        else:
            name = trial_id if trial_id not in self.taken else uuid.uuid4().hex  # Tune's are short
            if self.controls:  # the longest of all, so that they are not what is waited for in the end
                values = dict(self.controls.popleft())
                self.beside.add(name)
            else:
                values = self.optuna.suggest(name)
            line = json.dumps({TRIAL: name, "values": _packed(values)}, default=_native)
            append_line(self.directory / ASKED, line)
            self.taken.add(name)
        self.names[trial_id] = name
        return {**values, TRIAL: name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial validated: Optuna makes no use of it."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial is over; of one that failed, nothing that it reported before counts."""
        name = self.names[trial_id]
        self._tell(name, result, error or read_status(self.directory, name) == "failed")

    def _tell(self, name: str, result: dict[str, Any] | None, failed: bool) -> None:
        if name not in self.beside:
            self.optuna.on_trial_complete(name, None if failed else result, failed)

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
