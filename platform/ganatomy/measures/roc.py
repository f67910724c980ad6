"""How well probabilities tell lesion from normal: the area under the ROC curve, how sure it is, and where to cut.

Replicates of one configuration (several seeds on the same subjects) are taken together by averaging their areas, which
is the same as averaging who beats whom; that is what all functions here work on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganatomy.experiment import Score
from ganatomy.measures.statistics import Effect

PROBABILITY = "probability"
"""Metric of a classifier's rows: p(lesion) of a subject, whose label is the truth, ``lesion`` or ``normal``."""
LESION, NORMAL = "lesion", "normal"

RESAMPLES = 2000
"""Bootstrap replicates (Gupta et al. 2019, section 4.3)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What classifiers say of the same subjects.

    subjects, patients: names, subject by subject.  truth: whether it shows a lesion.  probabilities: [replicates, n],
    each in [0, 1]; a replicate is a classifier of another seed.  places: of the subjects in the list that they were
    taken from, as they stand here by default; patients are resampled in that order.
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

    def beaten(self) -> Floats:
        """[lesions, normals]: 1 where the lesion is the more probable, ½ for a tie, else 0; mean over replicates."""
        lesion, normal = self.probabilities[:, self.truth, None], self.probabilities[:, None, ~self.truth]
        return np.mean((lesion > normal) + 0.5 * (lesion == normal), axis=0)

    @property
    def auc(self) -> float:
        """Mean over the replicates; NaN where a class is missing."""
        return auc(self)


def auc(predictions: Predictions) -> float:
    """The share of pairs (lesion, normal) in which the lesion is given the higher probability; ties count half.

    Source: Mann-Whitney; the area under the ROC curve. NaN where a class is missing.
    """
    pairs = predictions.beaten()
    return float(pairs.mean()) if pairs.size else float("nan")


def auc_interval(predictions: Predictions, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95) -> Effect:
    """The area with its percentile interval over resampled patients, all images of a patient together."""
    pairs = predictions.beaten()
    return _effect(pairs, predictions, resamples, seed, level)[0]


def auc_difference(
    first: Predictions, second: Predictions, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[Effect, float]:
    """Area of ``first`` minus that of ``second`` on the subjects that both have, and the two-sided p of it being 0.

    Both see the same resampled patients in every replicate, as do all comparisons on the same patients with one seed:
    what is common to two classifiers cancels.  p: twice the share of replicates on the other side of 0, at least
    2 / (resamples + 1); it is the interval, read at every level.
    """
    theirs = set(second.subjects)
    shared = [name for name in first.in_order() if name in theirs]
    one, other = first.of(shared), second.of(shared)
    if not np.array_equal(one.truth, other.truth):
        raise ValueError("two classifiers are compared on the same subjects, with the same truth")
    return _effect(one.beaten() - other.beaten(), one, resamples, seed, level)


def _effect(pairs: Floats, predictions: Predictions, resamples: int, seed: int, level: float) -> tuple[Effect, float]:
    # Resampled in the order of the rows: names are pseudonyms, and others under another key.
    names = list(dict.fromkeys(patient for _, patient in sorted(zip(predictions.places, predictions.patients))))
    n = len(names)
    if not pairs.size:
        return Effect(float("nan"), -np.inf, np.inf, n, level, resamples, seed), float("nan")
    place = {name: index for index, name in enumerate(names)}
    owner = np.array([place[name] for name in predictions.patients])
    lesion, normal = owner[predictions.truth], owner[~predictions.truth]
    if len(set(lesion)) < 2 or len(set(normal)) < 2:  # every replicate would be the same patient again
        return Effect(float(pairs.mean()), -np.inf, np.inf, n, level, resamples, seed), float("nan")
    counts, _ = resampled(lesion, normal, n, resamples, seed)
    areas = _weighted(pairs, counts[:, lesion], counts[:, normal])
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    beyond = min(np.count_nonzero(areas <= 0), np.count_nonzero(areas >= 0))
    p = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    return Effect(float(pairs.mean()), float(low), float(high), n, level, resamples, seed), p


def resampled(
    lesion: NDArray[np.intp], normal: NDArray[np.intp], n: int, resamples: int, seed: int
) -> tuple[Floats, int]:
    """How often each of n patients is drawn, [resamples, n], and how many draws were refused for lacking a class.

    lesion, normal: numbers of the patients that the images of either class belong to.
    """
    generator = np.random.default_rng(seed)
    kept: list[Floats] = []
    missing, refused = resamples, 0
    while missing:
        drawn = generator.integers(0, n, size=(missing, n))
        counts = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
        whole = (counts[:, lesion].sum(axis=1) > 0) & (counts[:, normal].sum(axis=1) > 0)
        kept.append(counts[whole])
        refused += int((~whole).sum())
        missing = int((~whole).sum())
    return np.concatenate(kept), refused


def _weighted(pairs: Floats, lesion: Floats, normal: Floats) -> Floats:
    """Mean of ``pairs`` [P, N] under weights [B, P] of its rows and [B, N] of its columns: [B]."""
    return np.einsum("bn,bn->b", lesion @ pairs, normal) / (lesion.sum(axis=1) * normal.sum(axis=1))


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
