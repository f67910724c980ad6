"""What may be said of a difference: helps, harms, undecided, or nothing yet. From the scores of trainings on patients.

``of_scores`` and ``of_predictions`` take what the trainings of one configuration were scored by, ``compare`` judges two
of them, ``compare_all`` a family with one baseline, ``compare_each`` one whose members each have their own. The
interval, the p-values and the answer of a ``Finding`` are readings of one model (``crossed``) at one level: none can
contradict another.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ganatomy.contracts import InputError
from ganatomy.measures.crossed import Contrast, Floats, Side, contrast, scores_of
from ganatomy.measures.families import family
from ganatomy.measures.reader_studies import areas
from ganatomy.measures.roc import Predictions
from ganatomy.measures.statistics import counted, finite

MINIMUM_PATIENTS, MINIMUM_OF_A_CLASS, MINIMUM_TRAININGS = 6, 3, 3
"""Below any of these there is no verdict: variances of so few say nothing, and simulated levels are not kept."""

HELPS, HARMS, UNDECIDED, NO_VERDICT = "helps", "harms", "undecided", "no verdict"

PAIRS = 5
"""From so many trainings of equal seeds on, what is judged is their differences: with fewer, the degrees of freedom
that this costs are dearer than what it takes off."""

K = TypeVar("K", bound=Hashable)

POWER = 0.8
"""How surely a study shows the smallest effect that it is said to be able to show."""


@dataclass(frozen=True)
class Judged:
    """The trainings of one configuration with what they scored on the patients that judge them.

    side: for the analysis.  patients: names, in the order of its pulls.  scores: [patients, trainings], empty for AUC.
    classes: image -> whether it shows a lesion, for AUC.  smallest_class: how many patients the rarer class has.
    """

    side: Side
    patients: tuple[str, ...]
    scores: Floats
    classes: Mapping[str, bool]
    measure: str = "Dice"
    smallest_class: int | None = None

    def of(self, patients: Sequence[str]) -> Judged:
        """The same with its patients in another order."""
        place = {name: index for index, name in enumerate(self.patients)}
        order = [place[name] for name in patients]
        scores = self.scores[order] if self.scores.size else self.scores
        return replace(
            self, side=replace(self.side, pulls=self.side.pulls[..., order]), patients=tuple(patients), scores=scores
        )


def of_scores(trainings: Sequence[Mapping[str, float]], measure: str = "Dice") -> Judged:
    """From one mapping a training: patient -> score (a patient's own mean, whatever visits there were).

    Raises InputError where there is none, where a training lacks a patient that another has, or a score is no number:
    left out, a patient whom one training could not do would speak for that training.
    """
    if not trainings or not trainings[0]:
        raise InputError("no scores to judge by", expected="one training and one patient at least")
    patients = tuple(trainings[0])
    for number, training in enumerate(trainings, start=1):
        if odd := sorted(set(patients) ^ set(training)):
            raise InputError(f"training {number} of {len(trainings)} was scored on other patients than the first",
                             expected=f"{', '.join(odd[:3])} in all trainings or in none",
                             remedy="score what is missing; a structure that was not found counts as 0")  # fmt: skip
        if wrong := [name for name in patients if not math.isfinite(training[name])]:
            raise InputError(f"training {number} of {len(trainings)}: the score of patient {wrong[0]} is no number",
                             expected="a number for every patient",
                             remedy="a training that diverged is no training: fail it, and train another")  # fmt: skip
    table = np.array([[training[name] for training in trainings] for name in patients], np.float64)
    return Judged(scores_of(table), patients, table, {}, measure)


def of_predictions(predictions: Predictions) -> Judged:
    """From what classifiers, a training each, say of the same images. Raises InputError for NaN or a missing class."""
    ordered = predictions.of(predictions.in_order())
    if not np.isfinite(ordered.probabilities).all():
        raise InputError("a probability is no number", expected="a number for every image and training",
                         remedy="a training that diverged is no training: fail it, and train another")  # fmt: skip
    lesion, names = ordered.truth, np.array(ordered.patients)
    sizes = [len(set(names[lesion])), len(set(names[~lesion]))]
    if not all(sizes):
        raise InputError("an area under the ROC curve of one class", expected="images with a lesion and without")
    patients = tuple(dict.fromkeys(ordered.patients))
    classes = {subject: bool(shown) for subject, shown in zip(ordered.subjects, lesion)}
    side = areas(ordered.probabilities, lesion, ordered.patients)
    return Judged(side, patients, np.empty((0, 0)), classes, "AUC", min(sizes))


@dataclass(frozen=True)
class Parts:
    """What makes a difference uncertain, as standard deviations in the measure's unit.

    patients: of the difference, for having these patients and no others, had both sides been trained without end.
    training: of one training's luck, shared by all patients.  residual: of what else makes two trainings' means differ.
    Both: of (candidate, baseline), or, where trainings are pairs, of (their difference,) alone.
    """

    patients: float
    training: tuple[float, ...]
    residual: tuple[float, ...]


@dataclass(frozen=True)
class Finding:
    """What two configurations' trainings show on the same patients.

    answer: ``helps`` (low > least), ``harms`` (high < 0), ``undecided``, or ``no verdict``.  reason: of no verdict.
    estimate: mean of the candidate less that of the baseline, in shares (0.01 is a point).  low, high: one-sided limits
    at ``alpha`` each, infinite without a verdict.  p_helps, p_harms: one-sided, times ``comparisons``: below ``family``
    exactly where the answer says so.  family: level of the whole family; alpha: of this comparison in it.
    error, freedom: of the t.  patients, trainings (candidate, baseline): how many.  paired: whether the trainings of
    either side were taken as pairs, of equal seeds.
    means: what each training reached, a side each.  pairs: patient, candidate, baseline, means over trainings (Dice).
    least_shown, least_shown_doubled: the smallest true effect above ``least`` that is shown four times out of five, by
    a study like this one and by one with twice its patients.
    """

    answer: str
    estimate: float
    low: float
    high: float
    p_helps: float
    p_harms: float
    alpha: float
    family: float
    least: float
    measure: str
    patients: int
    trainings: tuple[int, int]
    means: tuple[tuple[float, ...], tuple[float, ...]]
    pairs: tuple[tuple[str, float, float], ...] = ()
    error: float = math.nan
    freedom: float = math.nan
    parts: Parts | None = None
    least_shown: float = math.nan
    least_shown_doubled: float = math.nan
    reason: str = ""
    paired: bool = False

    @property
    def comparisons(self) -> float:
        """How many independent comparisons the family counts as."""
        return self.family / self.alpha

    @property
    def p(self) -> float:
        """Two-sided, corrected: below twice ``family`` exactly where an effect is shown, if ``least`` is 0; NaN where
        there is no verdict."""
        return math.nan if self.answer == NO_VERDICT else min(1.0, 2 * min(self.p_helps, self.p_harms))

    @property
    def level(self) -> float:
        """Of the interval, both sides together."""
        return 1 - 2 * self.alpha

    @property
    def of_trainings(self) -> str:
        """How many trainings were compared, in words."""
        return of_trainings(*self.trainings, paired=self.paired)

    @property
    def sentence(self) -> str:
        """The finding in words."""
        who = f"{counted(self.patients, 'patient')}, {self.of_trainings}"
        told = f"{100 * self.estimate:+.1f} {self.measure} points"
        if self.answer == NO_VERDICT:
            return f"No verdict: {self.reason}. Measured: {told} ({who})."
        interval = f"{self.level:.1%} interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        text = f"{self.answer.capitalize()}: {told} ({interval}; {who})."
        if self.answer != UNDECIDED:
            return text
        return (
            f"{text} A study of this size shows an effect of {100 * self.least_shown:+.1f} points four times out of "
            f"five; with twice the patients, one of {100 * self.least_shown_doubled:+.1f}."
        )

    @property
    def figures(self) -> dict[str, float | int | str | None]:
        """What a verdict keeps of it, by name; ``p`` of helping, the difference and its limits in shares."""
        return {"answer": self.answer, "difference": self.estimate, "low": self.low, "high": self.high,
                "least": self.least, "p": self.p_helps, "alpha": self.alpha, "level": self.level,
                "patients": self.patients, "trainings": self.trainings[0], "baseline_trainings": self.trainings[1],
                "paired": self.paired, "least_shown": self.least_shown, "reason": self.reason}  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values; numbers that JSON does not know become None."""
        parts = None if self.parts is None else vars(self.parts)
        return {name: finite(value) for name, value in {**vars(self), "parts": parts}.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Inverse of ``to_dict``: a missing limit is infinitely far away, a missing p NaN."""
        known: dict[str, Any] = {"low": -math.inf, "high": math.inf, "p_helps": math.nan, "p_harms": math.nan}
        known.update((name, value) for name, value in values.items() if value is not None)
        known |= {"trainings": tuple(values["trainings"]), "means": tuple(map(tuple, values["means"]))}
        known["pairs"] = tuple(tuple(pair) for pair in values["pairs"])
        if values["parts"] is not None:
            patients, training, residual = (values["parts"][name] for name in ("patients", "training", "residual"))
            known["parts"] = Parts(patients, tuple(training), tuple(residual))
        return cls(**known)


def of_trainings(more: int, less: int, *, paired: bool) -> str:
    """``5 trainings against 3``, ``5 pairs of trainings``."""
    return f"{more} pairs of trainings" if paired else f"{counted(more, 'training')} against {less}"


def answers(difference: Contrast, alpha: float, least: float = 0.0) -> NDArray[np.int64]:
    """1 where it is shown to help (by more than ``least``), -1 where shown to harm, else 0; of one study or of many."""
    return (difference.low(alpha) > least).astype(np.int64) - (difference.high(alpha) < 0)


def too_few(patients: int, trainings: Sequence[int], smallest_class: int | None = None) -> str:
    """Why so many allow no verdict, in words; empty where they do."""
    lacking = []
    if patients < MINIMUM_PATIENTS:
        lacking.append(f"{counted(patients, 'patient')} of {MINIMUM_PATIENTS} that it takes")
    if smallest_class is not None and smallest_class < MINIMUM_OF_A_CLASS:
        lacking.append(f"{counted(smallest_class, 'patient')} of one class where it takes {MINIMUM_OF_A_CLASS}")
    if min(trainings) < MINIMUM_TRAININGS:
        lacking.append(f"{counted(min(trainings), 'training')} a side of {MINIMUM_TRAININGS} that it takes")
    return ", and ".join(lacking)


def compare(
    more: Judged,
    less: Judged,
    *,
    alpha: float = 0.025,
    least: float = 0.0,
    seeds: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Finding:
    """Judge a candidate against a baseline at a one-sided ``alpha``. least: the effect that must be exceeded to help.

    seeds: of the trainings of either side, in their order; where they are the same, and ``PAIRS`` or more, they are
    judged as pairs. Raises InputError where the two were judged by other patients, images or measures.
    """
    one, paired = _alike(more, less), are_pairs(*seeds)
    lacking = _lacking(one, less, paired)
    found = None if lacking else contrast(one.side, less.side, pairs=paired)
    return _finding(one, less, found, alpha, alpha, least, lacking, paired)


def are_pairs(more: Sequence[int], less: Sequence[int]) -> bool:
    """Whether trainings under these seeds, in this order, are judged as pairs."""
    return len(more) >= PAIRS and tuple(more) == tuple(less)


def compare_all(
    candidates: Mapping[K, Judged],
    baseline: Judged,
    *,
    alpha: float = 0.025,
    least: float = 0.0,
    seeds: tuple[Mapping[K, Sequence[int]], Sequence[int]] = ({}, ()),
) -> dict[K, Finding]:
    """Judge a family of candidates against one baseline: all limits hold together. Keys as given.

    seeds: of the candidates' trainings and of the baseline's: a family of one is judged as ``compare`` does.
    A candidate with too few trainings is in the table, and not in the family. Raises InputError as ``compare``.
    """
    if len(candidates) == 1:
        [(name, one)] = candidates.items()
        return {name: compare(one, baseline, alpha=alpha, least=least, seeds=(seeds[0].get(name, ()), seeds[1]))}
    alike = {name: _alike(judged, baseline) for name, judged in candidates.items()}
    lacking = {name: _lacking(judged, baseline) for name, judged in alike.items()}
    able = [name for name, reason in lacking.items() if not reason]
    judged = family([alike[name].side for name in able], baseline.side, alpha) if able else None
    contrasts = dict(zip(able, judged.contrasts)) if judged else {}
    each = judged.each if judged else alpha
    return {
        name: _finding(one, baseline, contrasts.get(name), each, alpha, least, lacking[name])
        for name, one in alike.items()
    }


def compare_each(
    pairs: Mapping[K, tuple[Judged, Judged]], *, alpha: float = 0.025, least: float = 0.0
) -> dict[K, Finding]:
    """Judge candidates (first) that each have a baseline of their own: all limits hold together. Keys as given.

    Nothing is assumed of what they have in common (Bonferroni): every comparison that can be made is judged at its
    share of ``alpha``. Raises InputError as ``compare``.
    """
    alike = {name: (_alike(more, less), less) for name, (more, less) in pairs.items()}
    lacking = {name: _lacking(*sides) for name, sides in alike.items()}
    each = alpha / max(1, sum(not reason for reason in lacking.values()))
    return {
        name: _finding(more, less, None if lacking[name] else contrast(more.side, less.side), each, alpha, least,
                       lacking[name])
        for name, (more, less) in alike.items()
    }  # fmt: skip


def measured(more: Judged, less: Judged, reason: str, *, alpha: float = 0.025) -> Finding:
    """What was measured of two configurations that no verdict is given on. reason: why, as it stands behind ``No
    verdict:``. Raises InputError as ``compare``."""
    return _finding(_alike(more, less), less, None, alpha, alpha, 0.0, reason)


def _lacking(one: Judged, baseline: Judged, paired: bool = False) -> str:
    trainings = (one.side.trainings, baseline.side.trainings)
    if few := too_few(len(one.patients), trainings, one.smallest_class):
        return few
    same = not float(contrast(one.side, baseline.side, pairs=paired).error)
    return "nothing varies, over neither patients nor trainings, so that nothing tells luck from effect" if same else ""


def _alike(one: Judged, baseline: Judged) -> Judged:
    """``one`` with the baseline's order of patients. Raises InputError for what cannot be compared."""
    if one.measure != baseline.measure:
        raise InputError(f"{one.measure} against {baseline.measure}", expected="one measure on both sides")
    odd = sorted(set(one.patients) ^ set(baseline.patients)) or sorted(
        name for name in {*one.classes, *baseline.classes} if one.classes.get(name) != baseline.classes.get(name)
    )
    if odd:
        raise InputError("two configurations that were judged by other patients, images or classes",
                         expected=f"{', '.join(odd[:3])} on both sides alike")  # fmt: skip
    return one.of(baseline.patients)


def _finding(
    more: Judged,
    less: Judged,
    found: Contrast | None,
    each: float,
    alpha: float,
    least: float,
    reason: str,
    paired: bool = False,
) -> Finding:
    means = tuple(tuple(float(mean) for mean in judged.side.means) for judged in (more, less))
    scores = [judged.scores.mean(axis=1) for judged in (more, less)] if more.scores.size else [[], []]
    plain = Finding(
        answer=NO_VERDICT, estimate=float(np.mean(means[0]) - np.mean(means[1])), low=-math.inf, high=math.inf,
        p_helps=math.nan, p_harms=math.nan, alpha=each, family=alpha, least=least, measure=less.measure,
        patients=len(less.patients), trainings=(more.side.trainings, less.side.trainings), means=(means[0], means[1]),
        pairs=tuple((name, float(a), float(b)) for name, a, b in zip(less.patients, *scores)), reason=reason,
        paired=paired,
    )  # fmt: skip
    if found is None:
        return plain
    times = alpha / each
    training, residual = (tuple(math.sqrt(float(part)) for part in parts) for parts in (found.training, found.residual))
    return replace(
        plain,
        answer={1: HELPS, 0: UNDECIDED, -1: HARMS}[int(answers(found, each, least))],
        low=float(found.low(each)), high=float(found.high(each)),
        p_helps=min(1.0, times * float(found.p_more(least))), p_harms=min(1.0, times * float(found.p_less())),
        error=float(found.error), freedom=float(found.freedom),
        parts=Parts(math.sqrt(float(found.patient)), training, residual),
        least_shown=least + float(found.least_shown(each, POWER)),
        least_shown_doubled=least + float(found.least_shown(each, POWER, times=2)),
    )  # fmt: skip
