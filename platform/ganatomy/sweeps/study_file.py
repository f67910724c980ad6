"""The sampler's study as a file that Optuna and its dashboard open: ``optuna.journal`` in the sweep's folder.

It is written beside the record (``asked.jsonl`` and the trials' results), never gone on from: whoever begins or resumes
a sweep writes it anew from that, and adds to it as trials begin, validate and end. So a kill may leave it torn and
costs nothing, and a disc that cannot hold it ends no sweep.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ganatomy.core.plain_values import plain
from ganatomy.core.tables import write_atomically
from ganatomy.core.terminal import one_line, warn
from ganatomy.evidence.results import RESULT, SweepPlan
from ganatomy.measures.objectives import OBJECTIVES, UTILITY
from ganatomy.sweeps.trial import NAME

STUDY = "optuna.journal"
"""File of a sweep: its study, in the words of Optuna's journals."""

TRIAL_NAME = "trial"
"""User attribute of the study's trials: what their folder is called."""

CONTROLS = " controls"
"""Behind a sweep's name: the study of its controls, of which the sampler hears nothing, in the same file. Among the
others they would be in the way of all that Optuna computes of parameters that all trials have."""


class Lines(BaseJournalBackend):
    """What a journal says, kept here and added to a file: without a lock, which a killed process would leave behind."""

    def __init__(self, path: Path) -> None:
        self.path, self.logs = path, list[dict[str, Any]]()
        self.written = 0
        """How many of them the file has; 0: it is to be written whole."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Those from that number on."""
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep them, as they would be read from the file."""
        self.logs += json.loads(json.dumps(logs))

    def write(self) -> None:
        """Bring the file up to what is kept. Raises OSError; what was left half written is written whole next time."""
        text = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in self.logs[self.written :])
        whole, self.written = not self.written, 0
        if whole:
            write_atomically(self.path, text)
        else:
            with self.path.open("a") as file:
                file.write(text)
        self.written = len(self.logs)


@dataclass
class StudyFile:
    """The study of a sweep in ``directory``, written as the sweep goes: whole at first, then what is new.

    places: name of a trial -> its number in the file.
    """

    plan: SweepPlan
    directory: Path
    places: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lines, self.told = Lines(self.directory / STUDY), False
        self.storage = JournalStorage(self.lines)
        self.studies = {beside: self._study(beside) for beside in (False, *[True] * bool(self.plan.controls))}

    def _study(self, beside: bool) -> int:
        name = self.plan.name + CONTROLS * beside
        study = optuna.create_study(storage=self.storage, study_name=name, directions=directions(self.plan))
        study.set_metric_names([self.plan.score if one == UTILITY else one for one in sought(self.plan)])
        study.set_user_attr("space", self.plan.space)
        study.set_user_attr("cohort", self.plan.base.cohort)
        return self.storage.get_study_id_from_name(name)

    def add(self, name: str, trial: FrozenTrial, *, beside: bool, error: str = "") -> None:
        """A trial as it stands: of what is beside the space, whose parameters are no choices, or of the space.
        error: what a failed one failed of."""
        trials = self.directory / "trials" / name
        began, ended = _time(trials / NAME), _time(trials / RESULT)
        about = {TRIAL_NAME: name} | ({"error": error} if error else {})
        copy = FrozenTrial(
            number=-1, trial_id=-1, state=trial.state, value=None, values=trial.values,
            datetime_start=min(began, ended), datetime_complete=ended if trial.state.is_finished() else None,
            params={key: _written(value) for key, value in trial.params.items()},
            distributions={key: _written_choices(choices) for key, choices in trial.distributions.items()},
            user_attrs=about, system_attrs={}, intermediate_values=trial.intermediate_values,
        )  # fmt: skip
        self.places[name] = self.storage.create_new_trial(self.studies[beside], copy)

    def hear(self, name: str, step: int, value: float) -> None:
        """The ``step``-th validation of a trial came to ``value``."""
        self.storage.set_trial_intermediate_value(self.places[name], step, value)

    def end(self, name: str, state: TrialState, values: Sequence[float] | None, error: str = "") -> None:
        """A trial has come to its end."""
        if error:
            self.storage.set_trial_user_attr(self.places[name], "error", error)
        self.storage.set_trial_state_values(self.places[name], state, values)

    def write(self) -> None:
        """Bring the file up to date. Says, once, where it cannot be; the sweep goes on without it."""
        try:
            self.lines.write()
        except OSError as error:
            if not self.told:
                warn(f"note: {self.lines.path} cannot be written: {one_line(error)}; the sweep goes on without it")
            self.told = True


def sought(plan: SweepPlan) -> tuple[str, ...]:
    """The objectives of a sweep: what it was told, else utility."""
    return plan.objectives or (UTILITY,)


def directions(plan: SweepPlan) -> list[str]:
    """Of its objectives, as Optuna calls them."""
    return ["maximize" if OBJECTIVES[name].greater else "minimize" for name in sought(plan)]


def validated_before(directory: Path) -> dict[str, dict[int, float]]:
    """Name of a trial -> validation -> score, as an earlier driver of the sweep in ``directory`` heard it: that alone
    stands nowhere else. Nothing where its file is not there, or damaged."""
    path = directory / STUDY
    if not path.exists():
        return {}
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        studies = [storage.get_study_id_from_name(study.study_name) for study in storage.get_all_studies()]
        trials = [one for study in studies for one in storage.get_all_trials(study)]
        return {one.user_attrs[TRIAL_NAME]: one.intermediate_values for one in trials}
    except Exception:  # whatever is wrong with it, all that matters is on record
        return {}


def chosen(
    values: Mapping[str, Any], state: TrialState = TrialState.RUNNING, reached: Sequence[float] | None = None
) -> FrozenTrial:
    """A trial of values that nobody sampled, in that state. reached: what it came to in each objective."""
    params = {name: _written(value) for name, value in values.items()}
    only = {name: CategoricalDistribution((value,)) for name, value in params.items()}
    return optuna.trial.create_trial(state=state, values=reached, params=params, distributions=only)


def _time(path: Path) -> datetime:
    """When a file was written; now, where it is not there yet."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.exists() else datetime.now(UTC)


def _written(value: Any) -> Any:
    """A parameter as files of Optuna hold it: what is neither number nor word, as text."""
    kept = value.item() if isinstance(value, np.generic) else plain(value)
    return kept if kept is None or isinstance(kept, bool | int | float | str) else json.dumps(kept, default=str)


def _written_choices(offered: BaseDistribution) -> BaseDistribution:
    if not isinstance(offered, CategoricalDistribution):
        return offered
    return CategoricalDistribution(tuple(_written(choice) for choice in offered.choices))
