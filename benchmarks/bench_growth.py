"""What the driver of a sweep and `ganatomy report` do that grows with the number of trials, in CPU seconds; no cluster.

One no-op trial (`no_op_spaces.py`) is run; its result is copied under other settings until there are as many as wanted.

- propose: the next values from Optuna, a mean over fifty proposals;
- read: all results, as a report, a resumed sweep and a sweep's end do once;
- table: the ablation table of so many configurations, as text;
- page: their report with all its exhibits, as a sweep's end, a confirmation and a promotion write it once each;
- outboxes: what every run has had to say, looked through, as a sweep's beginning and end do once;
- on record again: Optuna told of all of them, and its study written, as a resumed sweep does once.

    python benchmarks/bench_growth.py [--trials 500 1000 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ganatomy.commands.sweep import Sweep
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.results import SweepPlan, conclude, read_results, write_result
from ganatomy.exhibits.material import Material
from ganatomy.experiment import TrialResult
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.reports.record import compose
from ganatomy.reports.text import render_text
from ganatomy.sweeps.proposals import ASKED, TRIAL, Proposals, study_of
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.outbox import Entry, Outbox, now
from ganatomy.tracking.runs import Tracking
from ganatomy.writers.page import to_html


def one_trial(folder: Path) -> tuple[SweepPlan, TrialResult]:
    make_cohort(folder / "phantom", patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    sweep = Sweep(space="no_op_spaces:SHARED", cohort=folder / "phantom", source="ct", target="mr", trials=1,
                  tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", workspace=folder)  # fmt: skip
    plan = sweep.planned()
    run_trial({"method.cycle_weight": 9.0}, plan, plan.search_space(), folder, "first", lambda metrics: None)
    return plan, read_results(folder / "sweeps" / plan.name)[0]


def proposals(plan: SweepPlan, counts: list[int]) -> None:
    study, sample = study_of(plan), plan.search_space().sampler(plan.fixed, plan.seeds)
    rng, start = random.Random(0), 0.0
    for number in range(max(counts)):
        if number + 50 in counts:
            start = time.process_time()
        sample(trial := study.ask())
        study.tell(trial, rng.random())
        if number + 1 in counts:
            print(f"{number + 1} trials: propose {(time.process_time() - start) / 50:.4f} s", flush=True)


def copies(folder: Path, plan: SweepPlan, some: TrialResult, count: int) -> None:
    """As many trials that have ended: on record, with results, and with outboxes with all they held sent."""
    study, sample = study_of(plan), plan.search_space().sampler(plan.fixed, plan.seeds)
    rng, asked = random.Random(0), []
    for number in range(count):
        values = {"downstream.learning_rate": 10 ** rng.uniform(-5, -2)}
        scores = tuple(replace(row, value=rng.random()) for row in some.scores)
        experiment = some.experiment.with_values(values)
        result = replace(some, trial=f"{number:05d}", experiment=experiment, scores=scores)
        write_result(folder / "trials" / result.trial, result)
        outbox = Outbox(folder / "outbox" / result.trial, result.trial)
        outbox.append(Entry("status", now(), {"status": "FINISHED"}))
        outbox.drain(lambda entries, root: None)
        conclude(folder, result.trial)
        sample(trial := study.ask())
        asked.append(json.dumps({TRIAL: result.trial, "values": trial.params}) + "\n")
    (folder / ASKED).write_text("".join(asked))


def seconds(work: Callable[..., object], *given: Any) -> float:
    start = time.process_time()
    work(*given)
    return time.process_time() - start


def _shown(results: list[TrialResult]) -> str:
    return render_text(ablation_table(results))


def _page(plan: SweepPlan, workspace: Path, results: list[TrialResult]) -> str:
    table = ablation_table(results, declared=())  # sampled, as so many are
    return to_html(compose(Material(workspace, plan, tuple(results), table, lambda why: None)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, nargs="+", action="extend")
    counts = parser.parse_args().trials or [500, 1000, 2000]
    with tempfile.TemporaryDirectory(prefix="ganatomy-growth-") as root:
        plan, some = one_trial(Path(root))
        print(f"{len(some.scores)} rows of scores a trial", flush=True)
        for count in counts:
            with tempfile.TemporaryDirectory(dir=root) as folder:
                copies(Path(folder), plan, some, count)
                read = seconds(read_results, Path(folder))
                table = seconds(_shown, read_results(Path(folder)))
                page = seconds(_page, plan, Path(root), read_results(Path(folder)))
                looked = seconds(Tracking(plan.tracking_uri, Path(folder)).drain_all)
                again = seconds(Proposals, replace(plan, trials=count + 1), Path(folder))
                print(f"{count} trials: read {read:.2f} s, table {table:.2f} s, page {page:.2f} s, "
                      f"outboxes {looked:.2f} s, on record again {again:.2f} s", flush=True)  # fmt: skip
        proposals(plan, counts)


if __name__ == "__main__":
    main()
