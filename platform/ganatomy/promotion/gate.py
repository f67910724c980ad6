"""From figures to a verdict: what a generator must show before it is promoted, each gate with its figures in words.

Nothing is measured, chosen or written here. Candidate and baseline were chosen on the validation split, and trained
again; the figures of ``utility`` come from the test split, which is read for this alone. Every gate fails when its
figures are missing: what could not be checked has not been shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ganatomy.contracts import InputError
from ganatomy.downstream.task import DownstreamTask, task_named
from ganatomy.experiment import Downstream
from ganatomy.measures.statistics import Values, counted, finite, group_medians, rank_test
from ganatomy.measures.verdicts import HARMS, HELPS, NO_VERDICT, UNDECIDED, Finding
from ganatomy.promotion.ledger import place
from ganatomy.promotion.resemblance import Own, Resemblance

GATES = ("utility", "memorisation", "lineage", "integrity")

NEAR_COPY = 0.2
"""Closer to a training image than this fraction of what is usual between real patients: a copy. Simulated with
noisy blobs of four degrees of freedom, 60 images and 6 patients: a noisy copy was found always, a new patient taken for
one in 3 % of the sets. Real anatomy has more freedom, so chance comes this close more rarely still."""

CLOSER = 0.8
"""Synthetic images carry less noise than real ones, which alone brings them nearer to *every* image: this passes. At .9
means of two new patients' images did not in 20 % (LGG) and 30 % (hippocampus) of all sets."""

SIGNIFICANT = 0.05
"""Level of the rank test: how often a generator that repeats nobody may be stopped by chance."""

Figure = float | int | str | None


@dataclass(frozen=True)
class GateResult:
    """One gate: whether it was passed, on what figures, in a sentence that a physician understands."""

    name: str
    passed: bool
    sentence: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate is promoted, and why.

    forced: the reason given for promoting it whatever the gates say; empty when nobody forced it.
    candidate, baseline: names of the two configurations compared.
    outstanding, as_it_stands: trials that had not ended, and the reason given for judging the sweep without them.
    reading, judges: which reading of how many test patients it rests on; 0 where none is on record.
    level: one-sided, that utility was judged at.  confirmation: which one over the cohort it rests on; 0: on none.
    """

    promoted: bool
    gates: tuple[GateResult, ...]
    forced: str = ""
    candidate: str = ""
    baseline: str = ""
    outstanding: int = 0
    as_it_stands: str = ""
    reading: int = 0
    judges: int = 0
    level: float = 0.0
    confirmation: int = 0

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that were not passed."""
        return tuple(gate.name for gate in self.gates if not gate.passed)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence; then which reading of the test patients it was, and what was left out."""
        sentence = self.judged
        if self.reading:
            by = f", by confirmation {self.confirmation} over this cohort" if self.confirmation > self.reading else ""
            sentence += (
                f" This was {place(self.reading, self.judges)}{by}, judged at a one-sided level of {self.level:.2%}."
            )
        if not self.outstanding:
            return sentence
        left = "a trial was" if self.outstanding == 1 else f"{self.outstanding} trials were"
        return f"{sentence} Judged as the sweep stood, while {left} outstanding. Reason given: {self.as_it_stands}"

    @property
    def judged(self) -> str:
        """What the gates came to, in a sentence or two, whichever reading it was."""
        if not self.failed:
            sentence = "Promoted: all gates passed."
            return sentence + (
                f" It was to be forced (reason: {self.forced}); that was not needed." if self.forced else ""
            )
        if self.promoted:
            return f"Promoted by force although it failed {_listed(self.failed)}. Reason given: {_ended(self.forced)}"
        if "utility" in self.failed:
            others = tuple(name for name in self.failed if name != "utility")
            also = f" It also failed {_listed(others)}." if others else ""
            harms = next(gate for gate in self.gates if gate.name == "utility").figures.get("answer") == HARMS
            shown = "shown to harm" if harms else "not shown to help"
            return f"Not promoted: the synthetic data is {shown}.{also}"
        return f"Not promoted: it failed {_listed(self.failed)}."

    def text(self) -> str:
        """The verdict and every gate, a line each."""
        lines = [f"[{'pass' if gate.passed else 'FAIL'}] {gate.name}: {gate.sentence}" for gate in self.gates]
        return "\n".join([self.sentence, *lines])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        gates = [{**vars(gate), "figures": {key: finite(value) for key, value in gate.figures.items()}}
                 for gate in self.gates]  # fmt: skip
        return {**vars(self), "gates": gates, "sentence": self.sentence}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Inverse of ``to_dict``."""
        rest = {key: value for key, value in values.items() if key not in ("gates", "sentence")}
        return cls(gates=tuple(GateResult(**gate) for gate in values["gates"]), **rest)

    def to_json(self) -> str:
        """Standard JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Inverse of ``to_json``."""
        return cls.from_dict(json.loads(text))


def judge(
    gates: Iterable[GateResult], *, forced: str | None = None, candidate: str = "", baseline: str = ""
) -> Verdict:
    """The verdict on all four gates.

    forced: None, or the reason why the candidate is to be promoted even if a gate fails. Raises InputError for a blank
    reason, ValueError unless each of ``GATES`` is there exactly once.
    """
    results = tuple(gates)
    found = {result.name: result for result in results}
    if set(found) != set(GATES) or len(results) != len(GATES):
        raise ValueError(f"a verdict needs each of {GATES} once, these are {[result.name for result in results]}")
    if forced is not None and not forced.strip():
        raise InputError("a forced promotion without a reason", expected="why it is promoted all the same",
                         remedy="give the reason; it is recorded with the model")  # fmt: skip
    reason = (forced or "").strip()
    passed = all(result.passed for result in results)
    return Verdict(passed or bool(reason), tuple(found[name] for name in GATES), reason, candidate, baseline)


# --- the gates ---------------------------------------------------------------------------------------------------


def utility(
    finding: Finding,
    *,
    candidate: str = "with synthetic data",
    baseline: str = "the best training without it",
    task: DownstreamTask | None = None,
    besides: str = "",
    points: Mapping[str, Mapping[str, float]] | None = None,
) -> GateResult:
    """Does it help real, held-out patients? The lower limit of the difference lies above the least effect that matters.

    finding: what fresh trainings of the candidate and of the best configuration without synthetic data show on the
    *test* patients, at the level of this reading of them.  task: whose score that is; segmentation if not given.
    besides: what else than synthetic data sets the two apart, in words: it is said, and bars nothing.
    points: side -> ``DownstreamTask.operating_point``: figures beside, which decide nothing.
    """
    task = task or task_named(Downstream.task)
    more = f" They differ in more than synthetic data: {besides}." if besides else ""
    figures: dict[str, Figure] = {**finding.figures, **({"besides": besides} if besides else {})}
    figures |= {f"{side}/{name}": value for side, point in (points or {}).items() for name, value in point.items()}
    measured = (
        f"On {counted(finding.patients, 'held-out patient')} and {finding.of_trainings}, {candidate} {task.achieved} "
        f"by {_points(finding.estimate)} {task.measure} points {'more' if finding.estimate >= 0 else 'less'} "
        f"than {baseline}"
    )
    if finding.answer == NO_VERDICT:
        return GateResult("utility", False, f"{measured}: no verdict, {finding.reason}.{more}", figures)
    interval = f"{finding.level:.1%} interval {100 * finding.low:+.1f} to {100 * finding.high:+.1f}"
    by = f" by more than {_points(finding.least)}" if finding.least else ""
    read = {HELPS: f"shown to help{by}", HARMS: "shown to harm"}.get(finding.answer, f"not shown to help{by}")
    sentence = f"{measured} ({interval}): {read}."
    if finding.answer == UNDECIDED:
        sentence += (
            f" A study of this size shows an effect of {100 * finding.least_shown:+.1f} points four times out of five."
        )
    return GateResult("utility", finding.answer == HELPS, sentence + more, figures)


def memorisation(
    synthetic: Values,
    synthetic_patients: Sequence[str],
    real: Values,
    real_patients: Sequence[str],
    level: float = SIGNIFICANT,
    resemblance: Resemblance | None = None,
    own: Own | None = None,
) -> GateResult:
    """Does it hand out its training images? Synthetic images are not closer to them than other real patients are.

    synthetic: distance of every synthetic image to the nearest real training image of another patient.
    real: the same for real images of patients the generator was *not* trained on (validation), to the same training
    images. Both by ``segmentation.nearest_distances``; NaN does not count.  *_patients: whose parent or image each is.
    level: of all tests together, which share it evenly.
    Training images among each other would do for ``real`` only in a pinch: each has one neighbour fewer to be close to.

    Ways to fail. (1) A near copy: closer than ``NEAR_COPY`` times the median between real patients. One is enough:
    one patient handed out is one too many, and no average shows it. (2) The set as a whole is closer: medians differ by
    more than ``CLOSER`` allows *and* a rank test over patients says that this is no chance. Ranks rather than a
    bootstrap of quantiles: with a handful of real patients a low quantile is their minimum, whose bootstrap interval
    covers nothing, while a rank test stays calibrated (both samples are measured against the same training images); the
    ratio beside it keeps trifles from failing large sets. (3) By ``resemblance``: an image, or the set, repeats
    training images that were moved, mirrored, warped, recoloured, or in part. (4) By ``own``: in a registered cohort,
    an image or the set is closer to the same patient's own target where that was trained on than where it was not.
    """
    made, between = group_medians(synthetic, synthetic_patients), group_medians(real, real_patients)
    distances = np.asarray(synthetic, np.float64)
    counted = int((~np.isnan(distances)).sum())
    figures: dict[str, Figure] = {
        "synthetic_images": counted, "synthetic_patients": len(made), "real_patients": len(between),
    }  # fmt: skip
    if not len(made) or not len(between):
        sentence = (
            "Could not be checked: closeness needs synthetic images, and real images of patients it was not trained on."
        )
        return GateResult("memorisation", False, sentence, figures)
    level /= 1 + 2 * (resemblance is not None) + (own is not None)
    usual, none = float(np.median(between)), np.zeros(len(distances), bool)
    near, altered, kept = (
        distances <= NEAR_COPY * usual,
        resemblance.copies(level) if resemblance else none,
        own.copies() if own else none,
    )
    copies = int((near | altered | kept).sum())
    ratio = float(np.median(made)) / usual if usual else math.inf
    p = rank_test(made, between)
    figures |= {
        "copies": copies, "copy_distance": NEAR_COPY * usual, "nearest_synthetic": float(np.nanmin(distances)),
        "nearest_real": float(np.nanmin(np.asarray(real, np.float64))), "median_ratio": ratio, "p": p,
    }  # fmt: skip
    figures |= (resemblance.figures(level) if resemblance else {}) | (own.figures() if own else {})
    closer = ratio < CLOSER and p < level
    repeats = resemblance is not None and resemblance.repeats(level)
    taught = own is not None and own.closer(level)
    relation = f"{ratio:.2f} times that between real patients (median, rank test p = {p:.2g})"
    if copies:
        which = " of the same patient" if kept.any() and not (near | altered).any() else ""
        sentence = (
            f"{copies} of {counted} synthetic images come so close to a real training image{which} that they may be "
            "copies" + (f": one looks like {resemblance.best}." if altered.any() and resemblance else ".")
        )
    elif repeats:
        sentence = f"The {counted} synthetic images may repeat real training images, moved, altered or in part."
    elif taught:
        sentence = f"The {counted} synthetic images are closer to patients' own targets where it was trained on those."
    elif closer:
        sentence = (
            f"The {counted} synthetic images may repeat real training images: "
            f"the distance to the nearest is {relation}."
        )
    else:
        sentence = (
            f"None of the {counted} synthetic images looks copied: "
            f"the distance to the nearest real training image is {relation}."
        )
    return GateResult("memorisation", not (copies or closer or repeats or taught), sentence, figures)


def memorisation_of(domains: Mapping[str, Callable[[float], GateResult]]) -> GateResult:
    """The gate over several domains: the one that fails, or comes closest to it, speaks for all.

    domains: name -> the gate of its images at a level of the rank test, which they share (Bonferroni).
    """
    found = {name: judged_at(SIGNIFICANT / len(domains)) for name, judged_at in domains.items()}
    name = min(found, key=lambda name: (found[name].passed, float(found[name].figures.get("median_ratio") or 0)))
    if len(found) == 1:
        return found[name]
    figures = {**found[name].figures, "domain": name, "domains": len(found)}
    sentence = f"Of {len(found)} domains {name} comes closest. {found[name].sentence}"
    return replace(found[name], sentence=sentence, figures=figures)


def lineage(parents: Iterable[str], held_out: Iterable[str]) -> GateResult:
    """Has it seen the patients it is judged on?

    parents: pseudonyms of all patients whose images trained the generator or were turned into synthetic ones.
    held_out: pseudonyms of the test patients.
    """
    known, judges = set(parents), set(held_out)
    shared = sorted(known & judges)
    figures: dict[str, Figure] = {"parents": len(known), "held_out": len(judges), "shared": ", ".join(shared)}
    if not known or not judges:
        missing = "the patients it was made from" if not known else "the held-out patients"
        return GateResult("lineage", False, f"Could not be checked: {missing} are not recorded.", figures)
    if shared:
        who = counted(len(judges), "held-out patient")
        sentence = f"{len(shared)} of {who} had a part in making it: {_listed(shared)}."
    else:
        who = "The held-out patient is not" if len(judges) == 1 else f"None of the {len(judges)} held-out patients is"
        sentence = f"{who} among the {counted(len(known), 'patient')} it was made from."
    return GateResult("lineage", not shared, sentence, figures)


def unknown_lineage(cohort: str) -> GateResult:
    """The gate where nobody can tell who is who. cohort: name of the one whose patients trained the generator."""
    sentence = f"Could not be checked: the key of the pseudonyms of cohort {cohort}, which taught it, is not there."
    return GateResult("lineage", False, sentence, {})


def integrity(differences: Mapping[str, float], tolerance: float = 1e-4) -> GateResult:
    """Is what is stored what was judged? Loaded in another process it gives the same volumes.

    differences: volume -> largest absolute difference between the volume as it was judged and as generated after
    reloading, images in [-1, 1].  tolerance: room for another order of floating-point sums, far below what is visible.
    """
    worst = max(differences.values(), key=lambda value: math.inf if math.isnan(value) else value, default=math.nan)
    wrong = sorted(name for name, value in differences.items() if not value <= tolerance)
    figures: dict[str, Figure] = {"volumes": len(differences), "largest_difference": worst, "tolerance": tolerance}
    count = f"{len(differences)} volume{'' if len(differences) == 1 else 's'}"
    if not differences:
        sentence = "Could not be checked: no volume was generated again after reloading."
    elif wrong:
        sentence = f"Reloaded elsewhere it gave other images for {len(wrong)} of {count}: {_listed(wrong)}."
    else:
        sentence = f"Reloaded elsewhere it gave the same images ({count} compared, largest difference {worst:.1g})."
    return GateResult("integrity", bool(differences) and not wrong, sentence, figures)


def _ended(text: str) -> str:
    """``text`` as a sentence that another may follow."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _points(difference: float) -> str:
    return f"{abs(100 * difference):.1f}"


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
