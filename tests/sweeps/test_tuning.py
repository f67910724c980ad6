"""Sweeps: what is refused before anything is spent, and a driver that is killed and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ganatomy.cohorts.reading import read_cohort
from ganatomy.commands.sweep import Sweep, main
from ganatomy.contracts import InputError
from ganatomy.core.plugins import resolve
from ganatomy.evidence.results import read_plan, read_results
from ganatomy.experiment import Choice
from ganatomy.phantoms.hearts import make_cohort
from sweeps.studies import assert_agrees

from . import breaking

ROOT = Path(__file__).parents[2]

TINY = (
    "sampling.size=[16,16]",
    "budget.segmentor_steps=8",
    "budget.generator_steps=8",
    "budget.validations=2",
    "downstream.network.width=4",
    "method.width=0.0625",
    "method.discriminator_layers=1",
    "labels.fraction=0.5",
)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "phantom"
    make_cohort(folder, patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    return folder


# --- before anything is spent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--space NAME --cohort DIR"),
        ({"space": "phantom_dem"}, "did you mean 'phantom_demo'"),
        ({"set": ("method.shape_wieght=1",)}, "method.shape_weight"),
        ({"set": ("method.shape_weight=heavy",)}, "heavy"),
        ({"set": ("arm=jont",)}, "did you mean 'joint'"),
        ({"set": ("arm",)}, "NAME=VALUE"),
        ({"full": ()}, "space phantom_demo has no full size"),
        ({"cohort": Path("nowhere")}, "nowhere"),
        ({"resume": "phantom"}, "no sweep 'phantom'"),
        ({"resume": "../../phantom"}, "no sweep '../../phantom'"),
        ({"objectives": ("utility", "speed")}, "speed"),
        ({"objectives": ("cost", "fidelity")}, "utility among them"),
        ({"objectives": ("utility", "cost"), "scheduler": "asha"}, "ASHA stops trials by one number"),
        ({"name": "../../x"}, "sweep name '../../x'"),
        ({"name": "/tmp/x"}, "sweep name '/tmp/x'"),
        ({"name": "latest"}, "a sweep called latest"),
        ({"name": "a\nb"}, r"sweep name 'a\nb'"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line_before_anything_is_written(phantom, tmp_path, capsys, options, says):
    given = {"space": "phantom_demo", "cohort": phantom, **options} if options else {}
    arguments = ["--workspace", str(tmp_path / "workspace")]
    for name, value in given.items():
        arguments += [f"--{name}", *(value if isinstance(value, tuple) else (str(value),))]
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "\n" not in said
    assert "Traceback" not in said
    assert not (tmp_path / "workspace" / "sweeps").exists()


@pytest.mark.parametrize("given", [["--space", "gupta2019_table2"], ["--space=gupta2019_table2"]])
def test_help_with_a_space_says_what_that_space_varies(given, capsys):
    assert main([*given, "--help"]) == 0
    assert "arm=offline filter.min_probability=0.9" in capsys.readouterr().out
    assert main([*given, "--full", "--help"]) == 0
    assert "[1024, 512]" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "--space NAME --help" in capsys.readouterr().out


def test_help_with_a_space_that_is_not_there_names_the_nearest(capsys):
    assert main(["--help", "--space", "gupta2019_tabl"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'gupta2019_table2'" in said
    assert said.count("\n") == 1


def test_an_unknown_option_is_one_line(capsys):
    assert main(["--spcae", "phantom_demo"]) == 2
    assert "--space" in capsys.readouterr().err


def test_a_plan_survives_its_file_and_names_are_not_taken_twice(phantom, workspace, capsys):
    sweep = Sweep(space="phantom_demo", cohort=phantom, workspace=workspace, set=TINY, seeds=(0,))
    first, second = sweep.planned(), sweep.planned()
    assert "labels of 2 of 4 training patients of mr are used (labels.fraction 0.5)" in capsys.readouterr().err
    assert read_plan(workspace / "sweeps" / first.name) == first
    assert (first.name, second.name) == ("phantom-phantom_demo", "phantom-phantom_demo-2")
    assert first.store == second.store
    assert first.trials == 5
    assert first.apart  # one of the points trains on two workers
    with pytest.raises(InputError, match="--resume phantom-phantom_demo"):
        replace(sweep, name=first.name).planned()


def test_a_sweep_at_full_size_keeps_its_size_when_it_goes_on(phantom, workspace):
    sweep = Sweep(space="shape_consistent_small", full=True, cohort=phantom, source="ct", target="mr",
                  workspace=workspace)  # fmt: skip
    name = sweep.planned().name
    assert name == "phantom-shape_consistent_small-full"
    resumed = Sweep(resume=name, workspace=workspace).resumed().search_space()
    paper = resolve("spaces", "shape_consistent").base
    assert resumed.base == replace(paper, cohort="phantom", domains={"A": "ct", "B": "mr"})
    small = replace(sweep, full=False).planned().search_space()
    assert small.base.sampling.size == (64, 64)


@pytest.mark.parametrize("trials", [0, 40])
def test_controls_come_on_top_of_what_is_listed_or_sampled(phantom, workspace, trials):
    def planned(**more):
        sweep = Sweep(space="phantom_demo", cohort=phantom, source="ct", target="mr", workspace=workspace, set=TINY,
                      trials=trials, seeds=(0, 3), **more)  # fmt: skip
        return sweep.planned()

    plain, plan = planned(), planned(controls=("long_real", "strong_real"))
    assert (plain.controls, plan.trials, plan.family) == ((), plain.trials + 4, plain.family)
    made = [plan.search_space().experiment(point, plan.fixed) for point in plan.controls]
    # The generator's own schedule is longer than its budget: joint steps follow those before them.
    assert [(one.arm, one.budget.segmentor_steps, one.downstream.augmentation, one.seed) for one in made] == [
        ("real", 20, "light", 0), ("real", 20, "light", 3), ("real", 8, "strong", 0), ("real", 8, "strong", 3),
    ]  # fmt: skip
    named = planned(controls=("long_real",), compare=("arm=real", "arm=joint"))
    assert len(named.family) == 3
    with pytest.raises(InputError, match="arm=real: no listed point"):
        planned(compare=("arm=real",))


@pytest.mark.parametrize(("setting", "said"), [
    ("mixing.source_patients=99", "training patients of domain ct"), ("mixing.distinct=9999", "of at most"),
    ("transfer.judge=nobody", "transfer from cohort 'nobody'"),
])  # fmt: skip
def test_amounts_and_lenders_that_are_not_there_are_refused_before_there_is_a_plan(phantom, tmp_path, setting, said):
    sweep = Sweep(space="phantom_demo", cohort=phantom, source="ct", target="mr", workspace=tmp_path,
                  set=(*TINY, setting))  # fmt: skip
    with pytest.raises(InputError, match=said):
        sweep.planned()
    assert not [*tmp_path.glob("sweeps/*/sweep.json")]


def test_the_segmentor_is_chosen_on_the_command_line(phantom, workspace):
    kept = [setting for setting in TINY if "network" not in setting]
    chosen = ("downstream.network=segresnet", "downstream.network.width=4")
    plan = Sweep(space="phantom_demo", cohort=phantom, workspace=workspace, set=(*kept, *chosen)).planned()
    for values in plan.search_space().listed(plan.fixed, (0,)):
        network = plan.search_space().experiment(values, plan.fixed).downstream.network
        assert network == Choice("segresnet", {"width": 4})


# --- real sweeps -------------------------------------------------------------------------------------------------


def ended(process: subprocess.Popen[str], workspace: Path, within: float = 800) -> int:
    """Exit code of a sweep that ends by itself; of one that does not, what it said is told."""
    try:
        return process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        logs = [f"{path}: {path.read_text()[-500:]}" for path in workspace.glob("sweeps/*/trials/*/log.txt")]
        raise AssertionError("\n".join([f"not over after {within:.0f} s", output_of(workspace), *logs])) from None


def output_of(workspace: Path) -> str:
    return (workspace / "output.txt").read_text()


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "sweep.py"), "--workspace", str(workspace), "--address", "local", *arguments]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep),
                                                  str(Path(__file__).parent)]),
                   breaking.PASSED: str(workspace / "passed")}  # fmt: skip
    with (workspace / "output.txt").open("a") as output:
        STARTED.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment, text=True))
    return STARTED[-1]


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """A test that fails leaves no sweep behind to slow the next one down."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def finished(workspace: Path) -> dict[str, tuple[str, float]]:
    """Trial -> what it found, and when its result was written: 0 before the driver has noted the trial's run there."""
    results = {path: json.loads(path.read_text()) for path in workspace.glob("sweeps/killed/trials/*/result.json")}
    return {
        path.parent.name: (json.dumps(values), path.stat().st_mtime_ns if run else 0)
        for path, values in results.items()
        for run in [values.pop("run_id")]
        if values["status"] == "finished"
    }


def assert_kept(after: dict[str, tuple[str, float]], before: dict[str, tuple[str, float]]) -> None:
    """What had finished is there as it was, written once more for its run alone, where that was missing."""
    for trial, (found, when) in before.items():
        assert after[trial][0] == found
        assert after[trial][1] == when or not when


def kill(driver: subprocess.Popen[str], workspace: Path, by: signal.Signals) -> None:
    """Send the signal to the sweep's driver when one more trial has finished; where it is the end of a job's time, to
    all that it has started too."""
    output = workspace / "output.txt"
    said, before = len(output.read_text()), len(finished(workspace))
    deadline = time.monotonic() + 800
    while len(finished(workspace)) == before:
        assert driver.poll() is None, output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for pid in [driver.pid, *(started_by(driver.pid) if by == signal.SIGTERM else [])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, by)
    code = driver.wait(timeout=60)
    assert ("interrupted with" in output.read_text()[said:]) == (by != signal.SIGKILL)
    if by != signal.SIGKILL:
        assert code == 130
        assert "RUNNING" not in statuses(workspace)


def started_by(pid: int) -> list[int]:
    """All processes below one, as far as this system tells."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(stat.parent.name), *started_by(int(stat.parent.name))]
    return found


def tracked(workspace: Path):
    """Where the one sweep of a workspace is recorded."""
    from ganatomy.tracking.runs import Tracking

    (directory,) = (workspace / "sweeps").iterdir()
    return Tracking(None, workspace, read_plan(directory).experiment)


def statuses(workspace: Path) -> list[str]:
    """How the runs in MLflow ended, the sweep's first."""
    tracking = tracked(workspace)
    runs = tracking.client.search_runs([tracking.experiment_id], order_by=["attributes.start_time ASC"])
    return [run.info.status for run in runs]


@pytest.mark.slow
def test_a_driver_that_is_killed_twice_goes_on_then_moved_and_to_more_trials_and_repeats_none(phantom, workspace):
    arguments = (
        "--space",
        "phantom_demo",
        "--cohort",
        str(phantom),
        "--name",
        "killed",
        "--seeds",
        "0",
        "--trials",
        "6",
    )
    driver, before = start(workspace, *arguments, "--scheduler", "asha", "--set", *TINY), {}
    for by in (signal.SIGTERM, signal.SIGKILL):
        kill(driver, workspace, by)
        before = finished(workspace) | before  # what the first left, the second must leave too
        assert len(before) < 6, "the sweep outran the test"
        driver = start(workspace, "--resume", "killed")
    assert ended(driver, workspace) == 0, output_of(workspace)
    results = read_results(workspace / "sweeps" / "killed")
    assert len(results) == 6
    assert all(result.status in ("finished", "pruned") for result in results)
    after = finished(workspace)
    assert_kept(after, before)
    assert len(assert_agrees(workspace / "sweeps" / "killed")) == 6

    tracking = tracked(workspace)
    runs = tracking.client.search_runs([tracking.experiment_id], "tags.kind = 'trial'")
    assert len(runs) == 6
    for run in runs:
        history = tracking.client.get_metric_history(run.info.run_id, "budget/device_seconds")
        assert len({metric.step for metric in history}) == len(history), "a metric was logged twice"
        assert run.info.status in ("FINISHED", "KILLED")
    assert "Traceback" not in (workspace / "output.txt").read_text()

    moved = workspace.rename(workspace.with_name("moved"))
    again = start(moved, "--resume", "killed", "--trials", "7")
    assert ended(again, moved) == 0, output_of(moved)
    assert len(read_results(moved / "sweeps" / "killed")) == read_plan(moved / "sweeps" / "killed").trials == 7
    assert all(when for _, when in after.values())
    assert_kept(finished(moved), after)
    assert len(assert_agrees(moved / "sweeps" / "killed")) == 7
    assert not workspace.exists()


@pytest.mark.parametrize(("options", "says"), [
    (("--workers-per-trial", "64", "--set", *TINY, "budget.batch=64"), "64 workers needs 64"),
    (("--gpus-per-worker", "32", "--set", *TINY), "2 workers needs 64"),
])  # fmt: skip
def test_workers_that_the_cluster_has_no_room_for_are_refused(phantom, workspace, options, says):
    """Waiting for them would end in a time-out, hours later."""
    process = start(workspace, "--space", "phantom_demo", "--cohort", str(phantom), "--name", "crowd", *options)
    assert process.wait(timeout=120) == 2
    last = (workspace / "output.txt").read_text().strip().splitlines()[-1]
    assert says in last
    assert "remedy" in last
    assert not (workspace / "sweeps" / "crowd").exists()


def test_the_cohort_of_these_tests_is_what_it_says(phantom):
    cohort = read_cohort(phantom)
    assert len(cohort.patients("test", "mr")) == 5
