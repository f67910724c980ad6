"""What classifiers say of the same images, and where to cut. The area under the ROC curve is in ``reader_studies``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganatomy.experiment import Score

PROBABILITY = "probability"
"""Metric of a classifier's rows: p(lesion) of a subject, whose label is the truth, ``lesion`` or ``normal``."""
LESION, NORMAL = "lesion", "normal"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What classifiers say of the same subjects.

    subjects, patients: names, subject by subject.  truth: whether it shows a lesion.  probabilities: [replicates, n],
    each in [0, 1]; a replicate is a classifier of another seed.  places: of the subjects in the list that they were
    taken from, as they stand here by default.
    """

    subjects: tuple[str, ...]
    patients: tuple[str, ...]
    truth: NDArray[np.bool_]
    probabilities: Floats
    places: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.places) != len(self.subjects):
            object.__setattr__(self, "places", tuple(range(len(self.subjects))))

    def of(self, subjects: Sequence[str]) -> Predictions:
        """Those of ``subjects``, in that order. Raises KeyError for one that is not here."""
        place = {name: index for index, name in enumerate(self.subjects)}
        rows = [place[name] for name in subjects]
        patients = tuple(self.patients[row] for row in rows)
        places = tuple(self.places[row] for row in rows)
        return Predictions(tuple(subjects), patients, self.truth[rows], self.probabilities[:, rows], places)

    def in_order(self) -> tuple[str, ...]:
        """The subjects in the order that they were first listed in."""
        return tuple(name for _, name in sorted(zip(self.places, self.subjects)))


# --- operating point ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperatingPoint:
    """Called a lesion from ``threshold`` on: which share of the lesions (sensitivity), and of the normals not."""

    threshold: float
    sensitivity: float
    specificity: float


def at_threshold(probabilities: Floats, truth: NDArray[np.bool_], threshold: float) -> OperatingPoint:
    """Sensitivity and specificity of the rule p >= threshold."""
    called = probabilities >= threshold
    return OperatingPoint(threshold, float(called[truth].mean()), float((~called[~truth]).mean()))


def operating_point(probabilities: Floats, truth: NDArray[np.bool_]) -> OperatingPoint:
    """The threshold nearest to the upper left corner of the ROC curve: least (1 - sensitivity)² + (1 - specificity)².

    To be chosen on validation patients and read on test patients with ``at_threshold``. Candidates are the
    probabilities given and +inf; of equals the largest.
    """
    candidates = [np.inf, *sorted(set(probabilities.tolist()), reverse=True)]
    points = [at_threshold(probabilities, truth, threshold) for threshold in candidates]
    return min(points, key=lambda point: (1 - point.sensitivity) ** 2 + (1 - point.specificity) ** 2)


def chosen_apart(seen: Predictions, held: Predictions) -> OperatingPoint:
    """What the trainings' thresholds, each the best on ``seen``, come to on ``held``: means over trainings.

    seen, held: the same trainings in the same order, on validation and on test patients, or twice on the same: the
    point is then as good as it can look. Raises ValueError for other numbers of trainings.
    """
    points = [
        at_threshold(there, held.truth, operating_point(here, seen.truth).threshold)
        for here, there in zip(seen.probabilities, held.probabilities, strict=True)
    ]
    each = np.array([(point.threshold, point.sensitivity, point.specificity) for point in points])
    return OperatingPoint(*map(float, each.mean(axis=0)))


def replicates(several: Sequence[Mapping[str, tuple[str, bool, float]]]) -> Predictions:
    """One ``Predictions`` from several classifiers' subject -> (patient, truth, probability), on what all have."""
    first = several[0] if several else {}
    shared = [name for name in first if all(name in one for one in several)]
    return Predictions(
        tuple(shared),
        tuple(first[name][0] for name in shared),
        np.array([first[name][1] for name in shared], bool),
        np.array([[one[name][2] for name in shared] for one in several], np.float64).reshape(len(several), len(shared)),
    )


def predictions(several: Iterable[Iterable[Score]]) -> Predictions:
    """The rows of several classifiers, or of one, on the subjects that all of them scored."""
    return replicates(
        [
            {row.subject: (row.patient, row.label == LESION, row.value) for row in rows if row.metric == PROBABILITY}
            for rows in several
        ]
    )
