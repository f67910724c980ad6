"""One makes it and the others get it, whatever happens to the one: real processes, really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import asdict, replace

import pytest

from ganatomy.core import single_flight as room
from ganatomy.core.single_flight import LEASE, Holder, LeaseLost, single_flight

MAKER = """
import sys, time
from pathlib import Path
from ganatomy.core.single_flight import single_flight
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
artefact = folder / "artefact"
with single_flight(folder, artefact.exists, poll_s=0.02) as still_mine:
    if still_mine is not None:
        print("making", flush=True)
        time.sleep(seconds)
        still_mine()
        artefact.write_text("made")
    else:
        print("got", artefact.read_text(), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that makes the artefact of tmp_path in so many seconds, or waits for it."""
    started = []

    def start(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(MAKER), str(tmp_path), str(seconds)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def flight(folder, **choices):
    return single_flight(folder, (folder / "artefact").exists, poll_s=0.01, **choices)


def leave_lease(folder, holder: Holder) -> None:
    (folder / LEASE).write_text(json.dumps(asdict(holder)))


def test_of_several_processes_one_makes_it_and_all_have_it(start):
    makers = [start(0.5) for _ in range(3)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in makers)
    assert said == ["got made", "got made", "making"]
    assert all(process.returncode == 0 for process in makers)


def test_a_killed_maker_is_followed_at_once(start, tmp_path):
    maker = start(600)
    assert maker.stdout.readline() == "making\n"
    waiting = threading.Event()
    killed = []

    def kill():
        assert waiting.wait(30)
        killed.append(time.monotonic())
        maker.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    # Not yet waited for by its parent, so a zombie: dead all the same.
    with flight(tmp_path, waiting=waiting.set) as still_mine:
        took = time.monotonic() - killed[0]
        still_mine()
        (tmp_path / "artefact").write_text("made by another")
    killer.join()
    assert took < room.HEARTBEAT_S < room.SILENCE_S
    assert start(0).communicate(timeout=60)[0] == "got made by another\n"


def test_what_is_done_is_not_made_again(tmp_path):
    (tmp_path / "artefact").touch()
    with flight(tmp_path) as still_mine:
        assert still_mine is None
    assert not (tmp_path / LEASE).exists()


def test_what_was_finished_between_look_and_lease_is_not_made_again(tmp_path):
    answers = iter([False, True])
    with single_flight(tmp_path, lambda: next(answers)) as still_mine:
        assert still_mine is None
    assert not (tmp_path / LEASE).exists()


def test_a_failed_maker_leaves_the_way_free(tmp_path):
    with pytest.raises(OSError, match="no luck"), flight(tmp_path):
        raise OSError("no luck")
    with flight(tmp_path) as still_mine:
        assert still_mine is not None


def test_threads_of_one_process_wait_for_each_other(tmp_path):
    made = []

    def make():
        with flight(tmp_path) as still_mine:
            if still_mine is not None:
                made.append(threading.get_ident())
                time.sleep(0.1)
                (tmp_path / "artefact").touch()

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


ELSEWHERE = Holder("theirs", "another-host/boot/1", 1, "1")


def test_a_maker_elsewhere_that_fell_silent_is_replaced_and_one_that_speaks_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "SILENCE_S", 1.0)
    leave_lease(tmp_path, ELSEWHERE)
    lease, polls, spoken = tmp_path / LEASE, [], 12

    def waiting():
        polls.append(time.monotonic())
        if len(polls) <= spoken:
            os.utime(lease)  # it speaks, for longer than silence is borne
            time.sleep(0.15)

    with flight(tmp_path, waiting=waiting) as still_mine:
        silent = time.monotonic() - polls[spoken - 1]
        still_mine()
    assert polls[spoken - 1] - polls[0] > room.SILENCE_S
    assert silent >= room.SILENCE_S


def test_a_living_maker_is_waited_for_although_its_lease_is_new_to_us(tmp_path, start):
    maker = start(1.5)
    assert maker.stdout.readline() == "making\n"
    polls = []
    with flight(tmp_path, waiting=lambda: polls.append(1)) as still_mine:
        assert still_mine is None
    assert polls
    assert (tmp_path / "artefact").read_text() == "made"


def test_a_number_given_to_another_process_is_not_taken_for_the_maker(tmp_path):
    """This very process has the number of a maker that was born at another time, or before the machine started."""
    me = Holder.this_process()
    for past in (replace(me, token="past", born="1"), replace(me, token="past", pid=2**22 + 1)):
        assert past.is_dead()
        leave_lease(tmp_path, past)
        with flight(tmp_path) as still_mine:
            still_mine()
    assert not replace(me, token="other").is_dead()
    assert not replace(me, place="elsewhere", born="1").is_dead()  # who knows


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": "t"}', "null"])
def test_a_lease_that_cannot_be_read_holds_nobody_up(tmp_path, content):
    (tmp_path / LEASE).write_text(content)
    with flight(tmp_path) as still_mine:
        still_mine()


def test_a_maker_that_was_replaced_is_told_and_keeps_nothing_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "HEARTBEAT_S", 0.02)
    with pytest.raises(LeaseLost), flight(tmp_path) as still_mine:
        still_mine()
        leave_lease(tmp_path, ELSEWHERE)
        os.utime(tmp_path / LEASE, (1, 1))
        time.sleep(0.2)
        assert (tmp_path / LEASE).stat().st_mtime == 1
        still_mine()
    assert json.loads((tmp_path / LEASE).read_text()) == asdict(ELSEWHERE)  # not ours to take away


def test_a_maker_at_work_keeps_its_lease_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "HEARTBEAT_S", 0.02)
    with flight(tmp_path):
        os.utime(tmp_path / LEASE, (1, 1))
        time.sleep(0.3)
        assert (tmp_path / LEASE).stat().st_mtime > 1


def test_nothing_but_the_lock_remains(tmp_path):
    with flight(tmp_path):
        (tmp_path / "artefact").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"artefact", ".lease-lock"}
