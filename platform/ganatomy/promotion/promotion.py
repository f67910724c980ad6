"""Promotion: the one reading of the test split, the gates, and the registry.

The candidate and what it must beat are chosen on validation patients alone, and trained again (``confirmation``). Those
trainings are scored on test patients, the verdict is written down whatever it is, and only what passes (or is forced,
with a reason) becomes the champion: the generator of the training in the middle, as good as what was judged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import plain
from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.evidence.confirmed import (
    BASELINE,
    CANDIDATE,
    VERDICT,
    Pick,
    check_equal_work,
    confirmation_of,
    finished,
    lost_of,
    pick,
    place_of,
    trainings_of,
)
from ganatomy.evidence.results import (
    SweepPlan,
    outstanding,
    read_plan,
    sweep_directory,
    sweeps,
    write_json,
)
from ganatomy.experiment import TrialResult
from ganatomy.generators.generator import CARD, Generator, write_report
from ganatomy.generators.registry import FORCED, PROMOTED, Registry, check_name
from ganatomy.generators.registry import VERDICT as VERDICT_TAG
from ganatomy.measures.families import reading_level
from ganatomy.measures.statistics import counted, finite
from ganatomy.promotion import gate
from ganatomy.promotion.confirmation import check_still, left_out
from ganatomy.promotion.examination import Bench
from ganatomy.promotion.gate import Verdict
from ganatomy.promotion.ledger import LEDGER, Ledger, Reading, earlier_readings, place
from ganatomy.reports.record import material_of, record
from ganatomy.reports.tabulated import brief
from ganatomy.stores.store import open_store
from ganatomy.sweeps.showing import NOTE, note
from ganatomy.tracking.runs import Tracking
from ganatomy.training.models import scored_images


@dataclass(frozen=True)
class Promotion:
    """How a promotion ended. version: of the registered generator, None where none was registered.
    bundle: folder of the candidate's generator, kept whatever the verdict."""

    verdict: Verdict
    bundle: Path
    version: int | None = None


@dataclass(frozen=True)
class Outlook:
    """What a promotion would read, before it has read anything.

    candidate, baseline: names of the configurations.  domain: whose test patients judge.  judges: how many they are.
    number, level: which reading it would be, and the one-sided level that it would be judged at.
    confirmation: which one over this cohort it would rest on: a reading by the third is judged as a third one at least.
    earlier: the readings before it.  evidence: by which trainings it would be judged, in words.  confirmed: whether
    those are there.
    """

    candidate: str
    baseline: str
    domain: str
    judges: int
    number: int
    level: float
    confirmation: int
    earlier: tuple[Reading, ...]
    evidence: str
    confirmed: bool

    def text(self) -> str:
        """In lines."""
        which = place(self.number, self.judges)
        by = f", by confirmation {self.confirmation} over this cohort" if self.confirmation > self.number else ""
        lines = [
            f"candidate: {self.candidate}; it must beat: {self.baseline}",
            self.evidence,
            f"promoting it would be {which} of domain {self.domain}{by}, judged at a one-sided level of "
            f"{self.level:.2%}",
            *(f"before: {reading.sentence}" for reading in self.earlier),
            "nothing was read",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self), "earlier": [plain(reading) for reading in self.earlier]}


@dataclass(frozen=True)
class _Case:
    """A sweep whose candidate and baseline are chosen, and whose test patients have not been read.

    picked: what the sweep picked.  outstanding: trials that it was picked without.
    again: the confirmation of that, if there is one.  place: which one over this cohort it is, or would be.
    left, lost: trainings of it that are outstanding, and that failed (of the candidate, of the baseline).
    fresh: trainings of it that have finished, of candidate and baseline.
    """

    plan: SweepPlan
    directory: Path
    table: Ablation
    bench: Bench
    picked: Pick
    outstanding: int
    again: SweepPlan | None
    place: int
    left: int
    lost: tuple[int, int]
    fresh: tuple[list[TrialResult], list[TrialResult]]

    @property
    def confirmed(self) -> bool:
        """The trainings that are to judge are there."""
        return self.again is not None and not self.left and all(self.fresh)

    @property
    def sides(self) -> tuple[Sequence[TrialResult], Sequence[TrialResult]]:
        """The trainings of candidate and baseline: fresh ones, or where they are not there, those that were picked."""
        return self.fresh if self.confirmed else self.picked.sides

    @property
    def evidence(self) -> str:
        """What the verdict rests on, in a sentence."""
        if self.again is None:
            return "it is not confirmed yet: both would be trained again first, under fresh seeds (ganatomy confirm)"
        if self.left:
            return f"{self.again.name} would be ended first, {counted(self.left, 'training')} of it outstanding"
        several = f"{counted(len(self.fresh[0]), 'training')} against {len(self.fresh[1])}"
        return f"judged by what {self.again.name} trained again: {several}, which chose nothing"

    @property
    def barred(self) -> str:
        """Why such trainings allow no verdict, in words; empty where they do."""
        if self.picked.unequal:
            return f"unequal work downstream: {self.picked.unequal}"
        if not self.confirmed:
            return "these are the trainings that it was chosen by, whose luck counts in its favour"
        return ""

    def level(self, reading: int) -> float:
        """One-sided, that a reading is judged at: by the third confirmation as a third reading, as either is a draw."""
        return reading_level(max(reading, self.place))

    @property
    def median(self) -> TrialResult:
        """The candidate's training in the middle on validation patients, of an even number the lower: what was judged
        is what they all are, and the best of them is the luckiest."""
        ordered = sorted(self.sides[0], key=lambda result: result.summary[self.plan.score])
        return ordered[(len(ordered) - 1) // 2]

    @property
    def trainings(self) -> dict[str, Any]:
        """What each training of the candidate reached on validation patients, by seed, and whose generator is handed
        over."""
        reached = {str(result.experiment.seed): float(result.summary[self.plan.score]) for result in self.sides[0]}
        return {"score": self.plan.score, "registered_seed": self.median.experiment.seed, "by_seed": reached,
                "confirmation": self.again.name if self.confirmed and self.again else ""}  # fmt: skip

    @property
    def ledger(self) -> Ledger:
        """Of the test patients that would judge. InputError where they have no image to judge by."""
        images = scored_images(self.bench.store, self.picked.candidate[0].experiment, "test")
        patients = {image.patient for image in images}
        before = self._earlier(patients)
        return Ledger(self.bench.cohort.path, self.bench.store.key, patients, before)

    def _earlier(self, patients: set[str]) -> list[dict[str, Any]]:
        """What earlier versions recorded of these patients in the folders of this workspace's sweeps."""
        found: list[dict[str, Any]] = []
        store = self.bench.store
        for directory in (self.bench.workspace / "sweeps" / name for name in sweeps(self.bench.workspace)):
            if readings := earlier_readings(directory):
                plan = read_plan(directory)
                theirs = store if plan.cohort_digest == store.digest else open_store(plan.store)
                tested = {record.patient for record in theirs.records(split="test")}
                found += readings if theirs.key == store.key and patients <= tested else []
        return found


def outlook(
    workspace: Path, sweep: str, *, as_it_stands: str | None = None, say: Callable[[str], None] = lambda sentence: None
) -> Outlook:
    """What ``promote`` would read of test patients, and at which level. Nothing is read, and nothing written.

    Raises InputError where it would be refused, or where the reading could not be recorded.
    """
    case = _prepared(workspace, sweep, as_it_stands, say)
    check_equal_work(case.picked, case.plan.name)
    ledger = case.ledger
    ledger.check_writable()
    earlier = tuple(ledger.readings())
    number = len(earlier) + 1
    domain = case.picked.candidate[0].experiment.target_domain()
    return Outlook(
        *case.picked.names, domain, ledger.judges, number, case.level(number), case.place, earlier, case.evidence,
        case.confirmed,
    )  # fmt: skip


def promote(
    workspace: Path,
    sweep: str,
    name: str,
    *,
    least: float = 0.0,
    force: str | None = None,
    as_it_stands: str | None = None,
    uri: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Promotion:
    """Judge what a sweep picked, by the trainings that confirmed it, on test patients; register its generator if it
    passes.

    name: of the registered model.  least: the effect that must be exceeded, in shares (0.01 is a point).
    force: a reason to promote whatever the gates say, confirmed or not; recorded.  as_it_stands: a reason to judge a
    sweep that will never be finished; recorded. Raises InputError where trials are outstanding, where there is nothing
    to judge, where what was picked is not confirmed, or where the reading of the test patients cannot be recorded. "Not
    shown to help" is a result, no error.
    """
    check_request(name, least, force)
    case = _prepared(workspace, sweep, as_it_stands, say)
    if force is None:
        _check_confirmed(case)
    plan, bench, names = case.plan, case.bench, case.picked.names
    tracking = Tracking(uri or plan.tracking_uri or None, workspace, plan.experiment)
    say(f"candidate: {names[0]}; it must beat: {names[1]}")
    say(case.barred or case.evidence)

    bench.check_trained([*case.sides[0], *case.sides[1]])
    ledger = case.ledger
    reading = ledger.read(plan.name, names)
    level = case.level(reading.number)
    _record_reading(tracking, plan, reading, level)
    say(f"{reading.place}, judged at a one-sided level of {level:.2%}")
    finding = bench.finding(*case.sides, level, least, case.barred, case.lost)
    points = {side: bench.operating_point(group) for side, group in zip((CANDIDATE, BASELINE), case.sides)}
    generator, stages = bench.bundle(case.median, case.directory / "generators" / case.median.trial)
    verdict = gate.judge(
        [
            gate.utility(finding, candidate=names[0], baseline=names[1], task=plan.task, besides=case.picked.besides,
                         points=points),
            bench.memorisation(stages),
            bench.lineage(generator, stages),
            bench.integrity(generator, stages),
        ],
        forced=force,
        candidate=names[0],
        baseline=names[1],
    )  # fmt: skip
    why = (as_it_stands or "").strip() if case.outstanding else ""
    verdict = replace(verdict, outstanding=case.outstanding, as_it_stands=why, reading=reading.number,
                      judges=reading.judges, level=level, confirmation=case.place if case.confirmed else 0)  # fmt: skip
    ledger.conclude(reading, verdict.to_dict())
    write_report(generator.directory, _report(case, verdict, points))
    write_json(case.directory / VERDICT, verdict.to_dict())
    version = _register(tracking, generator, name, case.median, plan, verdict) if verdict.promoted else None
    _record(tracking, case, verdict, name, version, ledger)
    return Promotion(verdict, generator.directory, version)


def check_request(name: str, least: float = 0.0, force: str | None = None) -> None:
    """InputError for what no promotion can be asked: said before anything is trained or read for nothing."""
    check_name(name)
    if not (math.isfinite(least) and least >= 0):
        raise InputError(f"a least effect of {100 * least:g} points", expected="0 or more: what help is to exceed")
    if force is not None and not force.strip():
        raise InputError("a forced promotion without a reason", expected="why it is promoted whatever the gates say")


def _prepared(workspace: Path, sweep: str, as_it_stands: str | None, say: Callable[[str], None]) -> _Case:
    """All that can be refused is refused here, before the test split is read for nothing."""
    directory = sweep_directory(workspace, sweep)
    plan, results = read_plan(directory), finished(directory)
    if plan.confirms:
        raise InputError(
            f"sweep {plan.name!r} is a confirmation", expected=f"the sweep that it confirms: {plan.confirms}"
        )
    without = left_out(directory, plan, as_it_stands)
    for sentence in plan.elsewhere(workspace):
        say(sentence)
    table, bench = ablation_table(results, declared=plan.family), Bench(workspace, plan, say)
    picked = pick(table, results, plan.name)
    again = confirmation_of(workspace, plan.name, picked)
    check_still(workspace, again)
    fresh = trainings_of(workspace, again) if again else ([], [])
    for result in (*picked.candidate, *picked.baseline, *fresh[0], *fresh[1]):
        result.experiment.validate()  # what it names may not be here, or not be allowed
    bench.check_rules()
    left = outstanding(workspace / "sweeps" / again.name, again) if again else 0
    lost = lost_of(workspace, again) if again else (0, 0)
    which = place_of(workspace, again or plan)
    return _Case(plan, directory, table, bench, picked, without, again, which, left, lost, fresh)


def _check_confirmed(case: _Case) -> None:
    """InputError where the trainings that are to judge are not there yet, or not of equal work."""
    remedy = f"ganatomy confirm {case.plan.name}"
    check_equal_work(case.picked, case.plan.name)
    if case.again is None:
        raise InputError(f"what sweep {case.plan.name!r} picked is not confirmed",
                         expected="trainings under seeds that chose nothing: those of a search owe a part of their "
                         "scores to luck", remedy=remedy)  # fmt: skip
    if case.left:
        raise InputError(f"the confirmation {case.again.name!r} has {case.left} trainings outstanding",
                         expected="one that has ended: the test patients are read once", remedy=remedy)  # fmt: skip
    if not all(case.fresh):
        raise InputError(f"in the confirmation {case.again.name!r} no training of one side finished",
                         remedy=f"see why: ganatomy report {case.again.name}")  # fmt: skip


# --- writing down ------------------------------------------------------------------------------------------------


def _report(case: _Case, verdict: Verdict, points: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What goes with the generator: verdict, table, what its sisters reached, and how a chosen threshold turned out."""
    report = {"verdict": verdict.to_dict(), "table": brief(case.table), "sweep": case.plan.name,
              "trainings": case.trainings}  # fmt: skip
    told = {side: {name: finite(value) for name, value in point.items()} for side, point in points.items()}
    return report | ({"operating_points": told} if any(told.values()) else {})


def _record_reading(tracking: Tracking, plan: SweepPlan, reading: Reading, level: float) -> None:
    """Into MLflow too, before anything is read: a promotion that breaks off has read all the same."""
    tags = {"test_read": reading.time, "test_reading": reading.place, "test_read_by": reading.who,
            "test_level": f"{level:.6f}"}  # fmt: skip
    tracking.terminate(plan.run_id, "FINISHED", tags)


def _register(
    tracking: Tracking, generator: Generator, name: str, best: TrialResult, plan: SweepPlan, verdict: Verdict
) -> int:
    tags = {
        "method": best.experiment.method.name,
        "domain_pair": "-".join(best.experiment.domains.values()),
        VERDICT_TAG: FORCED if verdict.failed else PROMOTED,
        "judged": verdict.judged,
        "digest": generator.digest,
    }
    registry = Registry(tracking)
    # The same one, judged the same at another reading, is no new version: a rollback would lead from it to itself.
    if same := registry.with_tags(name, {tag: tags[tag] for tag in ("judged", "digest")}):
        registry.promote(name, same.number)
        return same.number
    run = best.run_id or plan.run_id  # a trial has no run where the server was away until the sweep had ended
    number = registry.register_generator(generator.directory, name, run, tags, promote=True)
    first = f"Forced: {verdict.forced.strip()}" if verdict.failed else verdict.judged
    registry.describe(name, number, f"{first}\n\n{(generator.directory / CARD).read_text()}")
    return number


def _record(tracking: Tracking, case: _Case, verdict: Verdict, name: str, version: int | None, ledger: Ledger) -> None:
    """Into MLflow, promoted or not: the verdict, each gate with its figures, the sweep's page, which now tells of it,
    and the ledger as it stands. Verdicts of earlier readings stay beside it."""
    plan = case.plan
    figures = {
        f"gate/{result.name}/{key}": float(value)
        for result in verdict.gates
        for key, value in result.figures.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    tracking.log_metrics(plan.run_id, {**figures, "gate/promoted": float(verdict.promoted)})
    text = json.dumps(verdict.to_dict(), indent=1)
    for file, content in ((VERDICT, text), (f"verdicts/reading-{verdict.reading}.json", text), (LEDGER, ledger.text())):
        tracking.log_text(plan.run_id, file, content)
    record(material_of(case.bench.workspace, plan), tracking)
    tags: Mapping[str, Any] = {
        "verdict": verdict.sentence,
        "candidate": verdict.candidate,
        "baseline": verdict.baseline,
        "registered_model": f"{name} version {version}" if version is not None else "none",
        NOTE: note(plan, verdict.sentence, tracking),
    }
    tracking.terminate(plan.run_id, "FINISHED", plain(tags))
