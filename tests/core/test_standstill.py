"""A process that hangs is ended and its work taken up; one that only takes its time is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster.ray_on_hosts import table
from sweeps.test_tuning import ROOT, TINY

from ganatomy.commands.sweep import Sweep
from ganatomy.contracts import InputError
from ganatomy.core.standstill import STANDSTILL, Standstills, noted
from ganatomy.phantoms.hearts import make_cohort

LIMIT_S = 30
"""Longer than a worker takes to import what it needs, on a busy machine too."""

WORK = """
import ctypes, sys, threading, time
from pathlib import Path
from ganatomy.core import standstill

standstill.GRACE_S = 1.0

def in_a_lock():
    threading.Event().wait()

def in_a_library():
    ctypes.PyDLL(None).sleep(600)  # while nothing of Python can run

def slowly():
    print("begun", flush=True)
    for _ in range(30):
        time.sleep(0.1)
        standstill.moved()

def in_a_pause():
    time.sleep(3)

def for_somebody_else():
    with standstill.paused():
        time.sleep(3)

with standstill.watched(Path(sys.argv[2])):
    globals()[sys.argv[1]]()
if sys.argv[1] == "slowly":
    time.sleep(2.5)  # what comes afterwards is not watched
print("through")
"""


def work(how: str, folder: Path, limit: str = "1") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, STANDSTILL: limit}
    command = [sys.executable, "-c", WORK, how, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def test_a_process_that_hangs_is_ended_and_leaves_a_note_of_where(tmp_path):
    assert work("in_a_lock", tmp_path).returncode == 1
    [note] = tmp_path.iterdir()
    assert "in in_a_lock" in note.read_text()
    assert "took no step for 1 s" in noted(tmp_path)
    assert noted(tmp_path).endswith(f"it stood where {note} says")


def test_each_note_is_told_of_once_and_of_those_of_earlier_processes_the_newest(tmp_path):
    told = []
    for number in range(3):
        note(tmp_path, number)
    (tmp_path / "standstill-begun.txt").touch()
    standstills = Standstills(tmp_path, told.append)
    assert [standstills.tell(), standstills.tell()] == [True, False]
    note(tmp_path, 3)
    assert [standstills.tell(), standstills.tell()] == [True, False]
    assert [line.split(";")[0] for line in told] == ["process 2", "process 3"]
    assert noted(tmp_path / "nothing") == ""


def note(folder: Path, number: int) -> None:
    path = folder / f"standstill-node-{number}.txt"
    path.write_text(f"process {number}\nThread …\n")
    os.utime(path, (number, number))


@pytest.mark.parametrize("folder", ["there", "gone"])
def test_a_process_in_which_nothing_of_python_runs_is_ended_too(tmp_path, folder):
    """Nor need the folder be there, as on a file system that is away."""
    (tmp_path / "there").mkdir()
    ended = work("in_a_library", tmp_path / folder)
    assert ended.returncode == 1
    assert "in in_a_library" in ended.stderr


def test_a_process_whose_folder_is_gone_is_ended(tmp_path):
    assert work("in_a_lock", tmp_path / "gone").returncode == 1


@pytest.mark.parametrize(("how", "limit"), [
    ("slowly", "1"),
    ("in_a_pause", "0"),
    ("in_a_pause", "inf"),
    ("in_a_pause", ""),
    ("for_somebody_else", "1"),
])  # fmt: skip
def test_a_process_that_takes_its_time_is_left_alone(tmp_path, how, limit):
    assert work(how, tmp_path, limit).stdout.endswith("through\n")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_suspended_is_not_taken_for_one_that_hangs(tmp_path):
    command = [sys.executable, "-c", WORK, "slowly", str(tmp_path)]
    process = subprocess.Popen(command, env=os.environ | {STANDSTILL: "2"}, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)  # less than the limit and the grace
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "through\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [{"space": "phantom_demo", "cohort": Path("x")}, {"resume": "x"}])
def test_less_than_no_time_is_refused(tmp_path, given):
    sweep = Sweep(workspace=tmp_path, standstill_s=-1.0, **given)
    with pytest.raises(InputError, match="--standstill-s -1"):
        sweep.run()


# --- in a sweep --------------------------------------------------------------------------------------------------


def run(workspace: Path, cohort: Path, flags: Path, *settings: str) -> str:
    """Run one whose processes hang, unless ``flags`` says that they have."""
    kept = [setting for setting in TINY if "network" not in setting]
    hanging = ("downstream.network=hanging:network", "downstream.network.width=4", f"downstream.network.flags={flags}")
    command = [sys.executable, str(ROOT / "sweep.py"), "--address", "local", "--workspace", str(workspace)]
    command += ["--space", "phantom_demo", "--cohort", str(cohort), "--name", "x", "--seeds", "0"]
    command += ["--standstill-s", str(LIMIT_S), "--set", *kept, *hanging, *settings]
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",  # beside other programs, what is slow must not look like what hangs
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=800)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stderr


@pytest.mark.slow
@pytest.mark.beyond_ci
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("settings", "struck"), [
    pytest.param(("arm=joint",), ["alone", "group"], id="joint"),  # one point trains on one worker, the other on two
    pytest.param(("arm=real",), ["alone"], id="real"),  # in the trial's own process
])  # fmt: skip
def test_a_sweep_whose_processes_hang_comes_to_what_an_undisturbed_one_does(tmp_path, settings, struck):
    cohort, flags = tmp_path / "phantom", tmp_path / "flags"
    make_cohort(cohort, patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    flags.mkdir()
    said = run(tmp_path / "hanging", cohort, flags, *settings)
    assert sorted(path.name for path in flags.iterdir()) == struck
    assert ("died; another takes it up" in said) == (struck == ["alone"])
    run(tmp_path / "undisturbed", cohort, flags, *settings)
    assert table(tmp_path / "hanging/sweeps/x") == table(tmp_path / "undisturbed/sweeps/x")
    notes = [path.read_text() for path in (tmp_path / "hanging").glob("stages/*/*/standstill-*")]
    assert sum("hanging.py" in text for text in notes) == len(struck)
    logs = [path.read_text() for path in (tmp_path / "hanging").glob("sweeps/x/trials/*/log.txt")]
    assert sum(f"took no step for {LIMIT_S} s" in log for log in logs) >= len(struck)


HANGS = """
import sys, threading
from pathlib import Path
import ray
from ganatomy.training.distributed import Workers, run_task
from ganatomy.cluster.joining import start_ray
from ganatomy.core.standstill import STANDSTILL

start_ray("local", {STANDSTILL: "10"})
ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
run_task(lambda: threading.Event().wait(), Workers(here=False, max_failures=1), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_task_that_hangs_every_time_fails_and_says_where(tmp_path):
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert len(list(tmp_path.glob("standstill-*"))) == 2
    last = ran.stderr.strip().splitlines()[-1]
    assert "its process died, 2 times; process" in last
    assert f"it stood where {tmp_path}" in last
