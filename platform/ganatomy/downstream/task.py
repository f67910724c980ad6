"""DownstreamTask: one task that models are trained for, as everything but their training knows it.

Sweep, table, report and gate ask this object and none by name, so that a task of somebody's own needs no change of
theirs: it is entered under ``ganatomy.tasks`` and chosen by ``downstream.task``. Its other half, which loads networks
and images, is named by ``trained_by`` and imported where a model is trained or applied: a report needs neither.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import check
from ganatomy.experiment import Downstream, Experiment, Score
from ganatomy.measures.verdicts import Judged, of_scores

Seeds = Sequence[Sequence[Score]]
"""The rows of one configuration's models on the same images, those of one seed together."""


@dataclass(frozen=True)
class Column:
    """A column of the table beside the score. header: as it is shown, its unit behind a blank.  of: the number, by its
    name in ``Standing``, in its ``further`` or in ``Row.work``.  form: how it is written, as ``format`` takes it.
    to: where the cell is an interval, the number that it ends with, named likewise."""

    header: str
    of: str
    form: str = ".3f"
    to: str = ""


@dataclass(frozen=True)
class Standing:
    """What one configuration's models scored, taken together over their seeds, beside the score itself.

    patients: patient -> its own score; empty where the score is a matter of all patients together.
    labels: structure -> score.  hd95: mm.  missed: structures that no voxel was found of, a seed.
    worst: least score of any subject under any seed.  further: what columns of the task's own show.
    Means over seeds where nothing else is said; empty or NaN for what a task does not know.
    """

    patients: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, float] = field(default_factory=dict)
    hd95: float = math.nan
    missed: float = 0.0
    worst: float = math.nan
    worst_subject: str = ""
    further: Mapping[str, float] = field(default_factory=dict)


class DownstreamTask(ABC):
    """What is asked of a downstream model, and how its answers are read. Holds no state: one object serves all."""

    score: ClassVar[str]
    """Name of the number that experiments are ranked by, on validation patients: ``val/dice``. More is better."""

    measure: ClassVar[str]
    """What that number is, to a reader: ``Dice``. Its differences are told in hundredths, as points."""

    achieved: ClassVar[str]
    """What a model that scores higher did, as it stands between ``the candidate`` and ``by 3 points more``."""

    model: ClassVar[str]
    """What such a model is called: ``segmentor``."""

    legend: ClassVar[str]
    """What the table's columns mean."""

    judged_by: ClassVar[str]
    """What a synthetic image reaches in the eyes of a model trained on real ones, in [0, 1]: ``dice`` where the setting
    ``filter.min_dice`` bounds it, ``probability`` where ``filter.min_probability`` does."""

    trained_by: ClassVar[str]
    """``package.module:NAME`` of the other half, a ``ganatomy.training.models.DownstreamModels``."""

    segments: ClassVar[bool] = False
    """True where a model gives every voxel a class: methods may then train it with their generators (the ``joint``
    arm), and synthetic images are measured by segmentors of their own (S-score, healthiness)."""

    columns: ClassVar[tuple[Column, ...]] = ()
    """Of the table, beside the score."""

    by_structure: ClassVar[bool] = False
    """True where the report also tells the score of each structure, and the worst subject."""

    def check(self, experiment: Experiment) -> None:
        """Raise InputError for an experiment that asks what this task has no use for."""
        task = experiment.downstream.task
        check(self.segments or experiment.arm != "joint", "arm", experiment.arm,
              f"real, source or offline with downstream.task = {task}")  # fmt: skip
        check(self.segments or experiment.downstream.loss == "cross_entropy", "downstream.loss",
              experiment.downstream.loss, f"cross_entropy with downstream.task = {task}")  # fmt: skip

    @abstractmethod
    def summarise(self, scores: Iterable[Score], split: str = "val") -> dict[str, float]:
        """Numbers to log of one model's rows on a split, ``score`` among them where there is anything to score. Rows of
        other metrics, such as ``synthesis/identity``, may be among them, here and below, and are left aside."""

    @abstractmethod
    def standing(self, several: Seeds) -> Standing:
        """What the models of one configuration scored, beside ``score``. several: at least one, each with a score."""

    @abstractmethod
    def judged(self, *configurations: Seeds) -> tuple[Judged, ...]:
        """The trainings of several configurations for ``verdicts.compare``, on the patients whom all of them scored: a
        patient counts once, however many subjects there are of him. InputError where no patient is left."""

    def operating_point(self, rows: Callable[[str], Seeds]) -> dict[str, float]:
        """What is chosen on validation rows and read on test rows, for the report of a promotion; empty where there is
        nothing to choose. rows: of a configuration on the split ``val`` or ``test``, scored when they are asked for."""
        return {}


def task_named(name: str) -> DownstreamTask:
    """The task called ``name``, or at an allowed dotted path; InputError for anything else."""
    return cast(DownstreamTask, Downstream(task=name).asked())


def task_of(experiment: Experiment) -> DownstreamTask:
    """The experiment's downstream task."""
    return task_named(experiment.downstream.task)


def judged_alike(configurations: Sequence[Sequence[Mapping[str, float]]], measure: str = "Dice") -> tuple[Judged, ...]:
    """For ``DownstreamTask.judged`` of a score that every patient has alone.

    configurations: each with a mapping a training, patient -> the patient's own score.
    """
    trainings = [training for several in configurations for training in several]
    patients = [name for name in (trainings or [{}])[0] if all(name in training for training in trainings)]
    if not patients:
        raise InputError("no patient was scored by all trainings that are compared", expected="one at least")
    return tuple(
        of_scores([{name: training[name] for name in patients} for training in several], measure)
        for several in configurations
    )
