"""A process that hangs is ended and its work taken up; one that only takes its time is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray_on_hosts import table
from test_tuning import ROOT, TINY

from ganatomy.contracts import InputError
from ganatomy.phantom import make_cohort
from ganatomy.standstill import STANDSTILL, Standstills
from ganatomy.sweep_command import Sweep

LIMIT_S = 60
"""Longer than a worker takes to import what it needs, on a busy machine too."""

WORK = """
import ctypes, sys, threading, time
from pathlib import Path
from ganatomy import standstill

standstill.GRACE_S = 1.0

def in_a_lock():
    threading.Event().wait()

def in_a_library():
    ctypes.PyDLL(None).sleep(600)  # while nothing of Python can run

def slowly():
    for _ in range(30):
        time.sleep(0.1)
        standstill.moved()

with standstill.watched(Path(sys.argv[2])):
    globals()[sys.argv[1]]()
print("through")
"""


def work(how: str, folder: Path, limit: str = "1") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, STANDSTILL: limit}
    command = [sys.executable, "-c", WORK, how, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def test_a_process_that_hangs_is_ended_and_leaves_a_note_of_where(tmp_path):
    assert work("in_a_lock", tmp_path).returncode == 1
    told = []
    for _ in range(2):
        Standstills(tmp_path, told.append).tell()
    standstills = Standstills(tmp_path, told.append)
    standstills.tell()
    standstills.tell()
    [note] = tmp_path.iterdir()
    assert "in in_a_lock" in note.read_text()
    assert len(told) == 3
    assert "took no step for 1 s" in told[0]
    assert str(note) in told[0]


@pytest.mark.parametrize("folder", ["there", "gone"])
def test_a_process_in_which_nothing_of_python_runs_is_ended_too(tmp_path, folder):
    """Nor need the folder be there, as on a file system that is away."""
    (tmp_path / "there").mkdir()
    ended = work("in_a_library", tmp_path / folder)
    assert ended.returncode == 1
    assert "in in_a_library" in ended.stderr


def test_a_process_whose_folder_is_gone_is_ended(tmp_path):
    assert work("in_a_lock", tmp_path / "gone").returncode == 1


@pytest.mark.parametrize("limit", ["1", "0", "inf", ""])
def test_a_process_that_takes_its_time_is_left_alone(tmp_path, limit):
    assert work("slowly", tmp_path, limit).stdout == "through\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [{"space": "phantom_demo", "cohort": Path("x")}, {"resume": "x"}])
def test_less_than_no_time_is_refused(tmp_path, given):
    sweep = Sweep(workspace=tmp_path, standstill_s=-1.0, **given)
    with pytest.raises(InputError, match="--standstill-s -1"):
        sweep.run()


# --- in a sweep --------------------------------------------------------------------------------------------------


def run(workspace: Path, cohort: Path, flags: Path) -> None:
    """Run one whose processes hang, unless ``flags`` says that they have."""
    kept = [setting for setting in TINY if "network" not in setting]
    hanging = ("downstream.network=hanging:network", "downstream.network.width=4", f"downstream.network.flags={flags}")
    command = [sys.executable, str(ROOT / "sweep.py"), "--address", "local", "--workspace", str(workspace)]
    command += ["--space", "phantom_demo", "--cohort", str(cohort), "--name", "x", "--seeds", "0"]
    command += ["--standstill-s", str(LIMIT_S), "--set", *kept, *hanging]
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",  # beside other programs, what is slow must not look like what hangs
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=800)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_whose_processes_hang_comes_to_what_an_undisturbed_one_does(tmp_path):
    """One that trains alone, and one of a group of two."""
    cohort, flags = tmp_path / "phantom", tmp_path / "flags"
    make_cohort(cohort, patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    flags.mkdir()
    run(tmp_path / "hanging", cohort, flags)
    assert sorted(path.name for path in flags.iterdir()) == ["alone", "group"]
    run(tmp_path / "undisturbed", cohort, flags)
    assert table(tmp_path / "hanging/sweeps/x") == table(tmp_path / "undisturbed/sweeps/x")
    notes = [path.read_text() for path in (tmp_path / "hanging").glob("stages/*/*/standstill-*")]
    assert sum("hanging.py" in note for note in notes) == 2
    logs = [path.read_text() for path in (tmp_path / "hanging").glob("sweeps/x/trials/*/log.txt")]
    assert sum(f"took no step for {LIMIT_S} s" in log for log in logs) >= 2
