"""How the tracking store takes many runs: what it writes and finds in a second when it holds 500, 2000, 10,000 of them.

An MLflow server as `clusters/tracking.sh` starts it, on SQLite or on the PostgreSQL database given. One run is written
by the platform through the server; its rows are copied in the database until there are as many as wanted (a run as a
sweep leaves it: 46 parameters, 10 tags, 48 numbers at 8 steps). Then, through the server again:

- begin: what a trial's beginning asks (is there a run of this trial? make one; its parameters; its tags);
- write: batches of six numbers, as journals send them, from eight clients at once for ten seconds;
- page: the hundred best trials by Dice, as the UI asks for them.

Before that a few trials of `no_op_spaces.py` are run in this process, as a trial's process runs them: what one asks of
the server, how often, and what it leaves on disk.

The machine may be shared: CPU seconds of the server (and of PostgreSQL, where it is the database of --postgres-pid) say
what a request takes, wall clock what it took here.

    python benchmarks/bench_tracking.py [--trials 20] [--runs 500 2000 10000]
        [--store postgresql://USER@HOST/DB --postgres-pid PID]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# A busy machine is to be measured, not to be given up.
os.environ.update(MLFLOW_HTTP_REQUEST_TIMEOUT="600", MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true")

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Metric
from rich.console import Console
from rich.table import Table
from simulated_cluster import cpu_seconds, requests, served

from ganatomy.commands.sweep import Sweep
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.sweeps.progress import SweepProgress
from ganatomy.sweeps.proposals import TRIAL
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.sending import Journal

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")
CLIENTS, SECONDS, TIMES = 8, 10.0, 10


def first_run(tracking: Tracking, sweep: str, folder: Path) -> str:
    """A run as a trial leaves it."""
    params = {f"method.setting_{number}": number / 7 for number in range(46)}
    tags = dict.fromkeys(("arm", "method", "domain_pair", "cohort", "seed", "experiment"), "value")
    run = tracking.trial_run(sweep, "trial-0", "first", params, tags)
    journal = Journal(folder / "journal", tracking.uri, run)
    for step in range(8):
        names = (
            "val/dice",
            "val/hd95",
            "train/loss",
            "speed/samples_per_second",
            "budget/device_seconds",
            "val/missed",
        )
        journal.metrics(dict.fromkeys(names, step / 7), step)
    assert journal.close(60)
    tracking.terminate(run, "FINISHED", {"status": "finished"})
    return run


class Copies:
    """Rows of one run, again and again under other ids."""

    def __init__(self, store: str, run: str) -> None:
        self.engine, metadata = sqlalchemy.create_engine(store), sqlalchemy.MetaData()
        metadata.reflect(self.engine, only=TABLES)
        self.tables = [metadata.tables[name] for name in TABLES]
        self.have = 1
        with self.engine.connect() as connection:
            self.rows = [[dict(row._mapping) for row in connection.execute(t.select().where(t.c.run_uuid == run))]
                         for t in self.tables]  # fmt: skip

    def grow(self, count: int) -> None:
        """Until there are ``count`` runs."""
        while self.have < count:
            some = range(self.have, min(self.have + 250, count))
            ids = {number: uuid.uuid4().hex for number in some}
            with self.engine.begin() as connection:
                for table, rows in zip(self.tables, self.rows):
                    made = [self._other(row, number, ids[number]) for number in some for row in rows]
                    connection.execute(table.insert(), made)
            self.have += len(some)

    def _other(self, row: dict[str, Any], number: int, run: str) -> dict[str, Any]:
        changed = {**row, "run_uuid": run}
        if row.get("key") == "trial_id":
            changed["value"] = f"trial-{number}"
        if row.get("key") == "val/dice":
            changed["value"] = row["value"] * (number % 997) / 997
        return changed


def begin(tracking: Tracking, sweep: str) -> None:
    tracking.trial_run(sweep, uuid.uuid4().hex[:8], "another", {f"p{n}": n for n in range(46)}, {"arm": "real"})


def page(tracking: Tracking, sweep: str) -> None:
    found = tracking.client.search_runs(
        [tracking.experiment_id], "tags.kind = 'trial'", max_results=100, order_by=["metrics.`val/dice` DESC"]
    )
    assert len(found) == 100


def writes(uri: str, run: str) -> int:
    """Batches that eight clients together could write in ten seconds."""
    until, count = time.monotonic() + SECONDS, [0] * CLIENTS

    def write(number: int) -> None:
        client = MlflowClient(uri)
        while time.monotonic() < until:
            now = int(time.time() * 1000)
            client.log_batch(run, [Metric(f"train/{n}", 0.5, now, count[number]) for n in range(6)])
            count[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(count)


def trials(count: int, folder: Path, uri: str, server: int, log: Path) -> None:
    """Run ``count`` trials that find everything computed; print what one takes."""
    make_cohort(folder / "phantom", patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    plan = Sweep(
        space="no_op_spaces:SHARED", cohort=folder / "phantom", source="ct", target="mr", trials=count,
        tracking_uri=uri, workspace=folder,
    ).planned()  # fmt: skip
    directory, space = folder / "sweeps" / plan.name, plan.search_space()
    progress = SweepProgress(plan, directory, Tracking(uri, folder))
    run_trial({"method.cycle_weight": 9.0}, plan, space, folder, "first", lambda metrics: None)  # leaves its stages
    offset, served_before, before = log.stat().st_size, cpu_seconds([server]), os.times()
    ending = 0.0
    for number in range(count):
        values = {"method.cycle_weight": 1 + number / 7}
        run_trial(values, plan, space, folder, f"trial-{number}", lambda metrics: None)
        start = time.process_time()
        progress.on_trial_complete(0, [], SimpleNamespace(config={TRIAL: f"trial-{number}"}))
        ending += time.process_time() - start
    after, asked = os.times(), requests(log, offset)
    spent = after.user + after.system - before.user - before.system - ending
    print(f"one of {count} trials: {spent / count:.2f} CPU s in its process, {ending / count:.3f} in the driver at its "
          f"end, {(cpu_seconds([server]) - served_before) / count:.2f} in the server; requests:")  # fmt: skip
    for what, times in asked.most_common():
        print(f"  {times / count:5.1f} {what}", flush=True)
    for part in (directory / "trials", folder / "outbox", folder / "artifacts"):
        files = [path for path in part.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1024
        print(f"  {part.name}: {size / (count + 1):.0f} kB in {len(files) / (count + 1):.0f} files a trial")


def taken(pids: Iterable[int], work: Callable[[], int]) -> tuple[float, float]:
    """Wall and server's CPU milliseconds for each of the requests that ``work`` made."""
    began, before = time.monotonic(), cpu_seconds(pids)
    count = work()
    return 1000 * (time.monotonic() - began) / count, 1000 * (cpu_seconds(pids) - before) / count


def repeated(what: Callable[[Tracking, str], None], tracking: Tracking, sweep: str) -> Callable[[], int]:
    def work() -> int:
        for _ in range(TIMES):
            what(tracking, sweep)
        return TIMES

    return work


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, nargs="*", action="extend")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--store", default="")
    parser.add_argument("--postgres-pid", type=int, default=0)
    asked = parser.parse_args()
    asked.runs = [500, 2000, 10_000] if asked.runs is None else asked.runs
    folder = Path(tempfile.mkdtemp(prefix="ganatomy-tracking-"))
    store = asked.store or f"sqlite:///{folder / 'mlflow.db'}"
    table = Table("runs", "begin a trial [ms]", "of CPU", "write a batch [ms]", "of CPU", "batches/s", "page [ms]",
                  "of CPU", title=store.partition(":")[0])  # fmt: skip
    try:
        with served(folder, store) as (uri, server, log):
            pids = [server.pid, *([asked.postgres_pid] if asked.postgres_pid else [])]
            if asked.trials:
                trials(asked.trials, folder, uri, server.pid, log)
            tracking = Tracking(uri, folder)
            sweep = tracking.sweep_run(f"sweep {uuid.uuid4().hex[:6]}")
            run = first_run(tracking, sweep, folder)
            copies = Copies(store, run)
            for count in asked.runs:
                copies.grow(count)
                cells: list[float] = []
                for work in (
                    repeated(begin, tracking, sweep),
                    lambda: writes(uri, run),
                    repeated(page, tracking, sweep),
                ):
                    cells += taken(pids, work)
                rate = 1000 / cells[2]
                print(f"{count} runs: " + " ".join(f"{cell:.1f}" for cell in cells), flush=True)
                table.add_row(str(count), *(f"{c:.0f}" for c in cells[:4]), f"{rate:.0f}",
                              *(f"{c:.0f}" for c in cells[4:]))  # fmt: skip
        Console(width=120).print(table)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
