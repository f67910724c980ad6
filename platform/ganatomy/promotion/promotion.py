"""Promotion: the one reading of the test split, the gates, and the registry.

The candidate and what it must beat are chosen on validation patients alone. Then both are scored on test patients, the
verdict is written down whatever it is, and only what passes (or is forced, with a reason) becomes the champion.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.durable import append_line
from ganatomy.core.plain_values import plain
from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.evidence.report import brief
from ganatomy.evidence.results import SweepPlan, outstanding, read_plan, read_results, sweep_directory, write_json
from ganatomy.experiment import TrialResult
from ganatomy.generators.generator import Generator, write_report
from ganatomy.generators.registry import Registry, check_name
from ganatomy.promotion import gate
from ganatomy.promotion.examination import Bench
from ganatomy.promotion.gate import Verdict
from ganatomy.tracking.runs import Tracking

VERDICT = "verdict.json"
READINGS, EARLIER_READINGS = "test-readings.jsonl", "test-readings.json"
"""Files of a sweep: one line a reading of the test split; a list of those that earlier versions recorded."""


@dataclass(frozen=True)
class Promotion:
    """How a promotion ended. version: of the registered generator, None where none was registered.
    bundle: folder of the candidate's generator, kept whatever the verdict."""

    verdict: Verdict
    bundle: Path
    version: int | None = None


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
    Raises InputError where trials are outstanding, or there is nothing to judge. "Not shown to help" is a result, no
    error.
    """
    check_name(name)  # what can be refused is refused before the test split is read for nothing
    if force is not None and not force.strip():
        raise InputError("a forced promotion without a reason", expected="why it is promoted whatever the gates say")
    if as_it_stands is not None and not as_it_stands.strip():
        raise InputError("a sweep judged as it stands without a reason", expected="why it will never be finished")
    directory = sweep_directory(workspace, sweep)
    left = _left_out(directory, as_it_stands)
    plan, results = read_plan(directory), [r for r in read_results(directory) if r.status == "finished"]
    for sentence in plan.elsewhere(workspace):
        say(sentence)
    tracking = Tracking(uri or plan.tracking_uri or None, workspace)
    table, bench = ablation_table(results, declared=plan.family), Bench(workspace, plan, say)
    candidate, baseline = choose(table, results, plan.name)
    for result in (*candidate, *baseline):
        result.experiment.validate()  # what it names may not be here, or not be allowed
    bench.check_rules()
    names = [table.row(configuration).name for configuration in (table.candidate, table.baseline)]
    say(f"candidate: {names[0]}; it must beat: {names[1]}")

    _record_reading(directory, names)
    effect = bench.effect(candidate, baseline)
    best = max(candidate, key=lambda result: result.summary[plan.score])
    generator, stages = bench.bundle(best, directory / "generators" / best.trial)
    verdict = gate.judge(
        [
            gate.utility(effect, candidate=names[0], baseline=names[1], task=plan.task),
            bench.memorisation(stages),
            bench.lineage(generator, stages),
            bench.integrity(generator, stages),
        ],
        forced=force,
        candidate=names[0],
        baseline=names[1],
    )
    verdict = replace(verdict, outstanding=left, as_it_stands=(as_it_stands or "").strip() if left else "")
    report = {"verdict": verdict.to_dict(), "table": brief(table), "sweep": plan.name}
    pair = zip(("candidate", "baseline"), (candidate, baseline), strict=True)
    if any((points := {kind: bench.operating_point(group) for kind, group in pair}).values()):
        report["operating_points"] = points
    write_report(generator.directory, report)
    write_json(directory / VERDICT, verdict.to_dict())
    version = _register(tracking, generator, name, best, verdict) if verdict.promoted else None
    _record(tracking, plan, verdict, name, version)
    return Promotion(verdict, generator.directory, version)


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


def read_readings(directory: Path) -> list[dict[str, Any]]:
    """Every reading of the test split that is on record for the sweep in ``directory``: {time, configurations}."""
    earlier, path = directory / EARLIER_READINGS, directory / READINGS
    readings = json.loads(earlier.read_text()) if earlier.exists() else []
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # torn: its process died before it read anything
            readings.append(json.loads(line))
    return readings


def _record_reading(directory: Path, names: Sequence[str]) -> None:
    """The test split is read from here on; whoever reads it again can see that it was."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    append_line(directory / READINGS, json.dumps({"time": now, "configurations": list(names)}, ensure_ascii=False))


def _register(tracking: Tracking, generator: Generator, name: str, best: TrialResult, verdict: Verdict) -> int:
    tags = {
        "method": best.experiment.method.name,
        "domain_pair": "-".join(best.experiment.domains.values()),
        "verdict": verdict.sentence,
        "digest": generator.digest,
    }
    return Registry(tracking).register_generator(generator.directory, name, best.run_id, tags, promote=True)


def _record(tracking: Tracking, plan: SweepPlan, verdict: Verdict, name: str, version: int | None) -> None:
    """Into MLflow, promoted or not: the verdict, each gate with its figures, and that the test split was read."""
    figures = {
        f"gate/{result.name}/{key}": float(value)
        for result in verdict.gates
        for key, value in result.figures.items()
        if isinstance(value, int | float) and value is not None
    }
    tracking.log_metrics(plan.run_id, {**figures, "gate/promoted": float(verdict.promoted)})
    tracking.log_text(plan.run_id, VERDICT, json.dumps(verdict.to_dict(), indent=1))
    tags: Mapping[str, Any] = {
        "verdict": verdict.sentence,
        "candidate": verdict.candidate,
        "baseline": verdict.baseline,
        "registered_model": f"{name} version {version}" if version is not None else "none",
        "test_read": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    tracking.terminate(plan.run_id, "FINISHED", plain(tags))
