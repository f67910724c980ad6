"""Stages of several processes: one computes, others follow; who is killed or replaced costs nobody a result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny
from tiny import Watched, experiment

from ganatomy.core.single_flight import LeaseLost
from ganatomy.stages import artefacts as room
from ganatomy.stages.outcome import outcome_of
from ganatomy.training.distributed import HISTORY, NETWORKS

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("store") / "store")


RUN = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import tiny
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import Stages
tiny.draw_dots()
workspace, store, values = Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
def follow(stage, record):
    print(json.dumps(["follow", stage.key, record]), flush=True)
def say(sentence):
    print(json.dumps(["say", sentence]), flush=True)
outcome = outcome_of(Stages(workspace, store, tiny.experiment(**values), follow=follow, say=say))
print(json.dumps(["done", outcome.summary, outcome.device_seconds]), flush=True)
"""


def start(workspace, store, **values) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), str(workspace), str(store.path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, json.dumps(values)], stdout=subprocess.PIPE, text=True, env=environment)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_two_processes_compute_each_stage_once_and_all_see_the_same(tmp_path, store):
    values = {"arm": "offline", "budget__segmentor_steps": 12, "budget__generator_steps": 8, "budget__validations": 4}
    processes = [start(tmp_path, store, **values) for _ in range(2)]
    said = [lines(process.communicate(timeout=300)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    computed = Counter(line[1] for one in said for line in one if line[0] == "say" and line[1].startswith("computing"))
    assert len(computed) == 8
    assert set(computed.values()) == {1}

    late = Watched(tmp_path, store, experiment(**values))
    outcome = outcome_of(late.stages)
    assert late.computed == []
    followed = [[(key, record) for kind, key, *record in one if kind == "follow"] for one in said for _ in (0,)]
    expected = [(key, [record]) for key, record in late.records]
    assert followed == [expected, expected]
    assert {key for key, _ in late.records} == {outcome.keys["fit"], outcome.keys["downstream"]}
    for one in said:
        assert one[-1] == ["done", dict(outcome.summary), outcome.device_seconds]


def test_a_killed_stage_goes_on_bit_for_bit(tmp_path, store):
    values = {"arm": "joint", "budget__segmentor_steps": 20, "budget__generator_steps": 20, "budget__validations": 8}
    process = start(tmp_path / "killed", store, **values)
    for line in process.stdout:
        if json.loads(line)[0] == "follow" and json.loads(line)[2]["step"] >= 8:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "killed" / "stages" / "fit").iterdir()
    assert not (folder / NETWORKS).exists()

    resumed, whole = (Watched(tmp_path / name, store, experiment(**values)) for name in ("killed", "whole"))
    ends = [one.stages.fit() for one in (resumed, whole)]
    assert ends[0].key == ends[1].key
    assert (ends[0].directory / NETWORKS).read_bytes() == (ends[1].directory / NETWORKS).read_bytes()
    assert [untimed(record) for _, record in resumed.records] == [untimed(record) for _, record in whole.records]
    assert len((ends[0].directory / HISTORY).read_text().splitlines()) == 8


def untimed(record):
    """All of a record that does not depend on the clock."""
    return {name: value for name, value in record.items() if not name.startswith(("time", "speed/", "budget/"))}


def test_who_was_replaced_while_suspended_takes_the_others_result(tmp_path, store, monkeypatch):
    """The first time its lease is asked for it is lost, and another's result lies there."""
    other = Watched(tmp_path / "other", store, experiment())
    theirs = other.stages.model()
    really, lost = room.single_flight, []

    def flight(directory, done, waiting):
        flying = really(directory, done, waiting)
        if not lost:
            lost.append(directory)
            enter = flying.__enter__

            def entered():
                assert enter() is not None

                def still_mine():
                    (directory / "stage.json").write_bytes((theirs.directory / "stage.json").read_bytes())
                    raise LeaseLost("another took over")

                return still_mine

            monkeypatch.setattr(flying, "__enter__", entered, raising=False)
            return _Flying(entered, flying.__exit__)
        return flying

    monkeypatch.setattr(room, "single_flight", flight)
    mine = Watched(tmp_path / "mine", store, experiment())
    stage = mine.stages.model()
    assert lost
    assert stage.record == theirs.record
    assert len(mine.computed) == 1


class _Flying:
    def __init__(self, enter, leave):
        self.enter, self.leave = enter, leave

    def __enter__(self):
        return self.enter()

    def __exit__(self, *error):
        return self.leave(*error)
