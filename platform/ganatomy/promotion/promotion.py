"""Promotion: the one reading of the test split, the gates, and the registry.

The candidate and what it must beat are chosen on validation patients alone. Then both are scored on test patients, the
verdict is written down whatever it is, and only what passes (or is forced, with a reason) becomes the champion.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import plain
from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.evidence.report import brief
from ganatomy.evidence.results import (
    SweepPlan,
    outstanding,
    read_plan,
    read_results,
    sweep_directory,
    sweeps,
    write_json,
)
from ganatomy.experiment import TrialResult
from ganatomy.generators.generator import Generator, write_report
from ganatomy.generators.registry import Registry, check_name
from ganatomy.measures.families import reading_level
from ganatomy.promotion import gate
from ganatomy.promotion.examination import Bench
from ganatomy.promotion.gate import Verdict
from ganatomy.promotion.ledger import LEDGER, Ledger, Reading, earlier_readings, place
from ganatomy.stores.store import open_store
from ganatomy.tracking.runs import Tracking
from ganatomy.training.models import scored_images

VERDICT = "verdict.json"


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
    earlier: the readings before it.
    """

    candidate: str
    baseline: str
    domain: str
    judges: int
    number: int
    level: float
    earlier: tuple[Reading, ...]

    def text(self) -> str:
        """In lines."""
        which = place(self.number, self.judges)
        lines = [
            f"candidate: {self.candidate}; it must beat: {self.baseline}",
            f"promoting it would be {which} of domain {self.domain}, judged at a one-sided level of {self.level:.2%}",
            *(f"before: {reading.sentence}" for reading in self.earlier),
            "nothing was read",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self), "earlier": [plain(reading) for reading in self.earlier]}


@dataclass(frozen=True)
class _Case:
    """A sweep whose candidate and baseline are chosen, and whose test patients have not been read."""

    plan: SweepPlan
    directory: Path
    table: Ablation
    bench: Bench
    candidate: list[TrialResult]
    baseline: list[TrialResult]
    names: tuple[str, str]
    outstanding: int

    @property
    def ledger(self) -> Ledger:
        """Of the test patients that would judge. InputError where they have no image to judge by."""
        images = scored_images(self.bench.store, self.candidate[0].experiment, "test")
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
    ledger = case.ledger
    ledger.check_writable()
    earlier = tuple(ledger.readings())
    number = len(earlier) + 1
    domain = case.candidate[0].experiment.target_domain()
    return Outlook(*case.names, domain, ledger.judges, number, reading_level(number), earlier)


def promote(
    workspace: Path,
    sweep: str,
    name: str,
    *,
    force: str | None = None,
    as_it_stands: str | None = None,
    uri: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Promotion:
    """Judge the best synthetic configuration of a sweep on test patients, and register its generator if it passes.

    name: of the registered model.  force: a reason to promote whatever the gates say; recorded.
    as_it_stands: a reason to judge a sweep that will never be finished; recorded.
    Raises InputError where trials are outstanding, where there is nothing to judge, or where the reading of the test
    patients cannot be recorded. "Not shown to help" is a result, no error.
    """
    check_name(name)  # what can be refused is refused before the test split is read for nothing
    if force is not None and not force.strip():
        raise InputError("a forced promotion without a reason", expected="why it is promoted whatever the gates say")
    case = _prepared(workspace, sweep, as_it_stands, say)
    plan, bench, candidate, baseline, names = case.plan, case.bench, case.candidate, case.baseline, case.names
    tracking = Tracking(uri or plan.tracking_uri or None, workspace)
    say(f"candidate: {names[0]}; it must beat: {names[1]}")

    ledger = case.ledger
    reading = ledger.read(plan.name, names)
    _record_reading(tracking, plan, reading)
    say(f"{reading.place}, judged at a one-sided level of {reading.level:.2%}")
    effect, p = bench.effect(candidate, baseline)
    best = max(candidate, key=lambda result: result.summary[plan.score])
    generator, stages = bench.bundle(best, case.directory / "generators" / best.trial)
    verdict = gate.judge(
        [
            gate.utility(effect, candidate=names[0], baseline=names[1], task=plan.task, p=p / 2, alpha=reading.level),
            bench.memorisation(stages),
            bench.lineage(generator, stages),
            bench.integrity(generator, stages),
        ],
        forced=force,
        candidate=names[0],
        baseline=names[1],
    )
    why = (as_it_stands or "").strip() if case.outstanding else ""
    verdict = replace(verdict, outstanding=case.outstanding, as_it_stands=why, reading=reading.number,
                      judges=reading.judges, level=reading.level)  # fmt: skip
    ledger.conclude(reading, verdict.to_dict())
    report = {"verdict": verdict.to_dict(), "table": brief(case.table), "sweep": plan.name}
    pair = zip(("candidate", "baseline"), (candidate, baseline), strict=True)
    if any((points := {kind: bench.operating_point(group) for kind, group in pair}).values()):
        report["operating_points"] = points
    write_report(generator.directory, report)
    write_json(case.directory / VERDICT, verdict.to_dict())
    version = _register(tracking, generator, name, best, plan, verdict) if verdict.promoted else None
    _record(tracking, plan, verdict, name, version, ledger)
    return Promotion(verdict, generator.directory, version)


def _prepared(workspace: Path, sweep: str, as_it_stands: str | None, say: Callable[[str], None]) -> _Case:
    """All that can be refused is refused here, before the test split is read for nothing."""
    if as_it_stands is not None and not as_it_stands.strip():
        raise InputError("a sweep judged as it stands without a reason", expected="why it will never be finished")
    directory = sweep_directory(workspace, sweep)
    left = _left_out(directory, as_it_stands)
    plan, results = read_plan(directory), [r for r in read_results(directory) if r.status == "finished"]
    for sentence in plan.elsewhere(workspace):
        say(sentence)
    table, bench = ablation_table(results, declared=plan.family), Bench(workspace, plan, say)
    candidate, baseline = choose(table, results, plan.name)
    for result in (*candidate, *baseline):
        result.experiment.validate()  # what it names may not be here, or not be allowed
    bench.check_rules()
    names = (table.row(table.candidate).name, table.row(table.baseline).name)
    return _Case(plan, directory, table, bench, candidate, baseline, names, left)


def choose(table: Ablation, results: Sequence[TrialResult], sweep: str) -> tuple[list[TrialResult], list[TrialResult]]:
    """Trials of (candidate, baseline): the configuration with synthetic data, and the one without, that validate best
    over their seeds. InputError where the sweep finished no trial of one of the two kinds."""
    for configuration, kind in ((table.candidate, "offline or joint"), (table.baseline, "real or classical")):
        if not configuration:
            raise InputError(
                f"sweep {sweep!r} has no finished trial of arm {kind}",
                expected="at least one with and one without synthetic data",
                remedy="run more trials, or a space that has both",
            )
    by_trial = {result.trial: result for result in results}
    candidate, baseline = (
        [by_trial[trial] for trial in table.row(configuration).trials]
        for configuration in (table.candidate, table.baseline)
    )
    return candidate, baseline


def _left_out(directory: Path, as_it_stands: str | None) -> int:
    """How many trials the verdict does without. InputError where there are any, and nobody said why."""
    plan = read_plan(directory)
    left = outstanding(directory, plan)
    if left and as_it_stands is None:
        raise InputError(
            f"sweep {plan.name!r} has {left} of {plan.trials} trials outstanding",
            expected="a sweep whose trials have all ended: the test patients are read once",
            remedy=f"wait for it, or ganatomy sweep --resume {plan.name}; of one that will never be finished, "
            "--as-it-stands REASON judges what is there",
        )
    return left


# --- writing down ------------------------------------------------------------------------------------------------


def _record_reading(tracking: Tracking, plan: SweepPlan, reading: Reading) -> None:
    """Into MLflow too, before anything is read: a promotion that breaks off has read all the same."""
    tags = {"test_read": reading.time, "test_reading": reading.place, "test_read_by": reading.who,
            "test_level": f"{reading.level:.6f}"}  # fmt: skip
    tracking.terminate(plan.run_id, "FINISHED", tags)


def _register(
    tracking: Tracking, generator: Generator, name: str, best: TrialResult, plan: SweepPlan, verdict: Verdict
) -> int:
    tags = {
        "method": best.experiment.method.name,
        "domain_pair": "-".join(best.experiment.domains.values()),
        "verdict": verdict.sentence,
        "judged": verdict.judged,
        "digest": generator.digest,
    }
    registry = Registry(tracking)
    # The same one, judged the same at another reading, is no new version: a rollback would lead from it to itself.
    if same := registry.with_tags(name, {tag: tags[tag] for tag in ("judged", "digest")}):
        registry.promote(name, same.number)
        return same.number
    run = best.run_id or plan.run_id  # a trial has no run where the server was away until the sweep had ended
    return registry.register_generator(generator.directory, name, run, tags, promote=True)


def _record(
    tracking: Tracking, plan: SweepPlan, verdict: Verdict, name: str, version: int | None, ledger: Ledger
) -> None:
    """Into MLflow, promoted or not: the verdict, each gate with its figures, and the ledger as it stands now. Verdicts
    of earlier readings stay beside it."""
    figures = {
        f"gate/{result.name}/{key}": float(value)
        for result in verdict.gates
        for key, value in result.figures.items()
        if isinstance(value, int | float) and value is not None
    }
    tracking.log_metrics(plan.run_id, {**figures, "gate/promoted": float(verdict.promoted)})
    text = json.dumps(verdict.to_dict(), indent=1)
    for file, content in ((VERDICT, text), (f"verdicts/reading-{verdict.reading}.json", text), (LEDGER, ledger.text())):
        tracking.log_text(plan.run_id, file, content)
    tags: Mapping[str, Any] = {
        "verdict": verdict.sentence,
        "candidate": verdict.candidate,
        "baseline": verdict.baseline,
        "registered_model": f"{name} version {version}" if version is not None else "none",
    }
    tracking.terminate(plan.run_id, "FINISHED", plain(tags))
