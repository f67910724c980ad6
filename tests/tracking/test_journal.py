"""Nothing that was reported is lost, reordered or reported twice, whatever dies and whenever the receiver is away."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy.tracking.journal import Courier, RunLog
from ganatomy.tracking.outbox import BATCH, Entry, Outbox, Refused, locked


class Receiver:
    """Takes entries, except when told to be away or to refuse; remembers every delivery."""

    def __init__(self, away=(), refuses=lambda entry: False):
        self.calls: list[list[Entry]] = []
        self.files: list[dict[str, bytes]] = []
        self.attempts = 0
        self.away, self.refuses = set(away), refuses

    def __call__(self, entries, root):
        self.attempts += 1
        if self.attempts - 1 in self.away:
            raise ConnectionError("away")
        if any(self.refuses(entry) for entry in entries):
            raise Refused("never")
        self.calls.append(list(entries))
        for entry in entries:
            place = root / entry.folder
            files = [path for path in place.rglob("*") if path.is_file()] if entry.folder else []
            self.files += [{str(path.relative_to(place)): path.read_bytes() for path in files}] if files else []

    @property
    def got(self):
        return [entry for call in self.calls for entry in call]


def metric(step, **values):
    return Entry("metrics", 1000 + step, values or {"loss": float(step)}, step)


def drain_through(outbox, receiver):
    while True:
        try:
            assert outbox.drain(receiver)
            return
        except ConnectionError:
            continue


def test_what_was_appended_is_read_by_another_process_in_order(tmp_path):
    outbox = Outbox(tmp_path, "run")
    for step in range(5):
        outbox.append(metric(step))
    again = Outbox.reopen(tmp_path)
    assert again.run == "run"
    assert list(again.entries()) == [metric(step) for step in range(5)]


@settings(deadline=None, max_examples=40)
@given(
    kinds=st.lists(st.sampled_from(["metrics", "tags", "status"]), max_size=12),
    away=st.sets(st.integers(0, 30), max_size=12),
    split=st.integers(0, 12),
)
def test_delivered_once_and_in_order_however_often_the_receiver_is_away(tmp_path_factory, kinds, away, split):
    outbox, receiver = Outbox(tmp_path_factory.mktemp("outbox"), "run"), Receiver(away)
    entries = [Entry(kind, time, {"n": str(time)}) for time, kind in enumerate(kinds)]
    for entry in entries[:split]:
        outbox.append(entry)
    drain_through(outbox, receiver)
    for entry in entries[split:]:
        outbox.append(entry)
    assert outbox.pending() == bool(entries[split:])
    drain_through(Outbox.reopen(outbox.directory), receiver)
    assert receiver.got == entries
    assert not outbox.pending()


def test_a_failure_repeats_at_most_one_delivery_and_keeps_the_time(tmp_path):
    outbox = Outbox(tmp_path, "run")
    for step in range(3 * BATCH):
        outbox.append(metric(step))
    delivered = []

    def loses_its_answer(entries, root, failed=[]):  # noqa: B006
        delivered.extend(entries)
        if len(delivered) > BATCH and not failed:
            failed.append(True)
            raise TimeoutError("the entries arrived, the answer did not")

    with pytest.raises(TimeoutError):
        outbox.drain(loses_its_answer)
    assert outbox.drain(loses_its_answer)
    assert len(delivered) == 4 * BATCH
    assert {(entry.time, entry.step) for entry in delivered} == {(1000 + step, step) for step in range(3 * BATCH)}


def test_light_entries_travel_together_and_files_alone(tmp_path):
    outbox, receiver = Outbox(tmp_path, "run"), Receiver()
    for step in range(BATCH + 1):
        outbox.append(metric(step))
    outbox.append(Entry("artifact", 1, path="a"), {"x.txt": b"1"})
    outbox.append(Entry("artifact", 2, path="a"), {"y.txt": b"2"})
    outbox.append(Entry("tags", 3, {"k": "v"}))
    assert outbox.drain(receiver)
    assert [len(call) for call in receiver.calls] == [BATCH, 1, 1, 1, 1]


def test_a_line_cut_short_by_a_crash_costs_itself_only(tmp_path):
    outbox, receiver = Outbox(tmp_path, "run"), Receiver()
    outbox.append(metric(0))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"kind":"metrics","ti')
    assert [entry.step for entry in outbox.entries()] == [0]
    assert outbox.drain(receiver)
    assert not outbox.pending()  # nothing that can be sent is left, so nobody waits for it
    outbox.append(metric(1))
    assert outbox.drain(receiver)
    assert [entry.step for entry in receiver.got] == [0, 1]


def test_a_killed_writer_loses_nothing_that_it_was_told_is_safe(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom ganatomy.tracking.outbox import Entry, Outbox\n"
        "outbox, step = Outbox(Path(sys.argv[1]), 'run'), 0\n"
        "while True:\n"
        "    outbox.append(Entry('metrics', 1, {'loss': 0.5}, step)); print(step, flush=True); step += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    safe = [int(writer.stdout.readline()) for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    safe += [int(line) for line in writer.stdout.read().splitlines()]
    writer.wait()
    steps = [entry.step for entry in Outbox.reopen(tmp_path).entries()]
    assert steps[: len(safe)] == safe
    assert len(steps) - len(safe) in (0, 1)  # killed between the disk and the word


def test_many_writers_share_an_outbox(tmp_path):
    Outbox(tmp_path, "run")

    def write(writer):
        outbox = Outbox(tmp_path, "run")
        for step in range(25):
            outbox.append(Entry("metrics", writer, {"loss": 1.0}, step))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(entry.time, entry.step) for entry in Outbox.reopen(tmp_path).entries()]
    assert sorted(found) == [(writer, step) for writer in range(6) for step in range(25)]
    for writer in range(6):
        assert [step for time, step in found if time == writer] == list(range(25))


def test_two_drainers_never_interleave(tmp_path):
    """Two real processes drain one outbox while it is written: every entry goes out once, in order."""
    outbox = Outbox(tmp_path / "outbox", "run")
    outbox.append(metric(0))
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom ganatomy.tracking.outbox import Outbox\n"
        "outbox, out, end = Outbox.reopen(Path(sys.argv[1])), Path(sys.argv[2]), 60\n"
        "def send(entries, root):\n"
        "    for entry in entries:\n"
        "        with out.open('a') as file: file.write(f'{entry.step}\\n')\n"
        "        time.sleep(0.002)\n"
        "print('ready', flush=True)\n"
        "while not (Path(sys.argv[1]) / 'done').exists() or outbox.pending():\n"
        "    outbox.drain(send)\n"
    )
    command = [sys.executable, "-c", program, str(outbox.directory), str(tmp_path / "out")]
    drainers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for drainer in drainers:
        assert drainer.stdout.readline() == "ready\n"
    for step in range(1, 80):
        outbox.append(metric(step))
    (outbox.directory / "done").touch()
    assert [drainer.wait(30) for drainer in drainers] == [0, 0]
    assert [int(line) for line in (tmp_path / "out").read_text().split()] == list(range(80))


def test_a_lock_that_is_taken_says_so(tmp_path):
    with locked(tmp_path / "lock") as mine:
        assert mine
        with locked(tmp_path / "lock", wait=False) as other:
            assert not other
    with locked(tmp_path / "lock", wait=False) as mine:
        assert mine


def test_an_entry_that_is_refused_is_set_aside_with_its_reason(tmp_path):
    outbox = Outbox(tmp_path, "run")
    receiver = Receiver(refuses=lambda entry: entry.step == 2)
    for step in range(5):
        outbox.append(metric(step))
    assert outbox.drain(receiver)
    assert [entry.step for entry in receiver.got] == [0, 1, 3, 4]
    (line,) = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "never"
    assert json.loads(line)["step"] == 2
    assert len(list(outbox.entries())) == 5


def test_files_are_kept_until_they_are_confirmed_and_no_longer(tmp_path):
    source = tmp_path / "report"
    (source / "sub").mkdir(parents=True)
    (source / "a.html").write_text("a")
    (source / "sub" / "b.json").write_text("b")
    outbox, receiver = Outbox(tmp_path / "outbox", "run"), Receiver(away={0})
    outbox.append(Entry("artifact", 1, path="x"), {"report": source, "one.txt": b"1"})
    (source / "a.html").unlink()  # what happens to the original later is of no concern
    with pytest.raises(ConnectionError):
        outbox.drain(receiver)
    assert len(list((outbox.directory / "files").iterdir())) == 1
    assert outbox.drain(receiver)
    assert receiver.files == [{"report/a.html": b"a", "report/sub/b.json": b"b", "one.txt": b"1"}]
    assert list((outbox.directory / "files").iterdir()) == []


@pytest.mark.parametrize("folder", ["../precious", "/{here}/precious", "files", "files/..", "files/{hex}"])
def test_a_line_that_names_another_folder_sends_and_removes_nothing_of_it(tmp_path, folder):
    """Whoever can write into a journal must not have another's folder sent to a server, or emptied."""
    precious, outbox, receiver = tmp_path / "precious", Outbox(tmp_path / "outbox", "run"), Receiver()
    precious.mkdir()
    (precious / "scan.nii").write_text("voxels")
    (outbox.directory / "files" / ("0" * 32)).symlink_to(precious)
    named = folder.format(here=str(tmp_path).strip("/"), hex="0" * 32)
    outbox.append(Entry("artifact", 1, folder=named))
    outbox.append(Entry("artifact", 2), {"own.txt": b"own"})
    assert outbox.drain(receiver)
    assert receiver.files == [{"own.txt": b"own"}]
    assert (precious / "scan.nii").read_text() == "voxels"
    (line,) = (outbox.directory / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["folder"] == named


def test_an_outbox_for_a_new_run_sends_its_history_again(tmp_path):
    first, second = Receiver(), Receiver()
    outbox = Outbox(tmp_path, "run")
    outbox.append(metric(0))
    outbox.drain(first)
    assert not Outbox(tmp_path, "run").pending()
    Outbox(tmp_path, "successor").drain(second)
    assert second.got == first.got


def test_all_outboxes_below_a_folder_are_found(tmp_path):
    for place in ("b", "a/deep"):
        Outbox(tmp_path / place, "run").append(metric(0))
    Outbox(tmp_path / "nothing said", "run")
    assert Outbox.below(tmp_path) == [tmp_path / "a" / "deep", tmp_path / "b"]
    assert Outbox.below(tmp_path / "not there") == []


# --- what a training process sees --------------------------------------------------------------------------------


def test_a_restarted_run_reports_nothing_twice(tmp_path):
    receiver = Receiver()
    first = RunLog(tmp_path, "run", receiver)
    for step in range(4):
        first.metrics({"loss": step}, step, timestamp=100 + step)
    first.image("panel", b"png", 2)
    assert first.close(10)
    again = RunLog(tmp_path, "run", receiver)
    for step in range(2, 6):
        again.metrics({"loss": -1.0, "later": 1.0}, step)
    again.image("panel", b"other", 2)
    again.image("panel", b"other", 4)
    assert again.close(10)
    losses = [(e.step, e.values["loss"], e.time) for e in receiver.got if "loss" in e.values]
    assert losses[:4] == [(step, step, 100 + step) for step in range(4)]
    assert [step for step, *_ in losses] == [0, 1, 2, 3, 4, 5]
    assert [e.step for e in receiver.got if "later" in e.values] == [2, 3, 4, 5]
    assert [(e.path, e.step) for e in receiver.got if e.kind == "image"] == [("panel", 2), ("panel", 4)]


def test_numbers_pass_through_unchanged(tmp_path):
    receiver = Receiver()
    log = RunLog(tmp_path, "run", receiver)
    log.metrics({"nan": math.nan, "inf": math.inf, "tiny": 5e-324, "third": 1 / 3}, 0)
    log.params({"method": "x", "n": 3})
    log.tags({"arm": "real"})
    log.text("reports/table.html", "<b>µ</b>")
    assert log.close(10)
    values = receiver.got[0].values
    assert math.isnan(values["nan"])
    assert (values["inf"], values["tiny"], values["third"]) == (math.inf, 5e-324, 1 / 3)
    assert receiver.got[1].values == {"method": "x", "n": "3"}
    assert receiver.got[3].path == "reports"
    assert receiver.files == [{"table.html": "<b>µ</b>".encode()}]


def test_training_goes_on_while_the_receiver_is_away_and_hears_nothing_of_it(tmp_path):
    receiver = Receiver(away=range(3))
    log = RunLog(tmp_path, "run", receiver)
    log.metrics({"loss": 1.0}, 0)
    assert log.flush(20)
    assert receiver.attempts == 4
    assert receiver.got[0].step == 0
    assert log.close(1)


def test_giving_up_waiting_gives_up_nothing_else(tmp_path):
    hanging = threading.Event()

    def stuck(entries, root):
        hanging.wait(30)
        raise ConnectionError("never came back")

    log = RunLog(tmp_path, "run", stuck)
    log.metrics({"loss": 1.0}, 0)
    start = time.monotonic()
    assert log.close(0.5) is False
    assert time.monotonic() - start < 5
    hanging.set()
    receiver = Receiver()
    deadline = time.monotonic() + 10
    while not Outbox.reopen(tmp_path).drain(receiver):  # until the stuck thread has let go
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [entry.step for entry in receiver.got] == [0]


def test_what_an_earlier_process_left_is_sent_without_being_asked(tmp_path):
    Outbox(tmp_path, "run").append(metric(7))
    receiver = Receiver()
    log = RunLog(tmp_path, "run", receiver)
    assert log.flush(10)
    assert [entry.step for entry in receiver.got] == [7]
    assert log.close(1)


def test_news_gather_before_they_are_sent(tmp_path):
    outbox, receiver = Outbox(tmp_path, "run"), Receiver()
    courier = Courier(outbox, receiver, gather=0.3)
    for step in range(20):
        outbox.append(metric(step))
        courier.notify()
    deadline = time.monotonic() + 10
    while outbox.pending():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(receiver.calls) == 1
    assert courier.close(1)


def test_the_outbox_knows_no_tracking_server():
    program = (
        "import sys, ganatomy.tracking.journal; "
        "sys.exit(any(m in sys.modules for m in ('mlflow', 'torch', 'requests')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
