"""The ledger: each reading of test patients has a number of its own, whoever reads, and is kept with its verdict."""

from __future__ import annotations

import json
import os
import stat

import pytest
from cohorts.test_claims import race

from ganatomy.contracts import InputError
from ganatomy.measures.families import reading_level
from ganatomy.promotion.ledger import EARLIER, LEDGER, Ledger, earlier_readings

PATIENTS = ("p1", "p2", "p3")


def ledger(folder, **changed) -> Ledger:
    return Ledger(**{"folder": folder, "key": "k", "patients": PATIENTS, **changed})


def test_eight_who_read_at_once_have_eight_numbers_and_keep_their_verdicts(tmp_path):
    program = """
        import json
        from ganatomy.promotion.ledger import Ledger
        ledger = Ledger(Path(sys.argv[3]), "k", ["p1", "p2", "p3"])
        together(sys.argv[1], int(sys.argv[2]))
        for number in range(5):
            reading = ledger.read(f"sweep{os.getpid()}", ["a" * 3000, "b"])
            ledger.conclude(reading, {"sentence": f"verdict of {os.getpid()} {number}"})
            print(os.getpid(), number, reading.number)
    """
    raced = race(tmp_path / "start", 8, program, str(tmp_path))
    assert {code for code, _ in raced} == {0}, raced
    said = [line.split() for _, text in raced for line in text.splitlines()]
    assert sorted(int(line[2]) for line in said) == [*range(1, 41)]
    for reading in ledger(tmp_path).readings():
        (whose,) = [line for line in said if int(line[2]) == reading.number]
        assert reading.verdict["sentence"] == f"verdict of {whose[0]} {whose[1]}"
        assert reading.sweep == f"sweep{whose[0]}"


def test_readings_are_counted_over_sweeps_and_apart_for_other_patients(tmp_path):
    first = ledger(tmp_path).read("one", ["a", "b"])
    other = ledger(tmp_path, patients=("p1", "p9")).read("two", ["a", "b"])
    second = ledger(tmp_path, patients=reversed(PATIENTS)).read("three", ["a", "b"])
    assert (first.number, other.number, second.number) == (1, 1, 2)
    assert (second.judges, other.judges) == (3, 2)
    assert second.level == reading_level(2)
    assert second.place == "reading 2 of these 3 test patients"
    assert first.verdict == {}
    assert "No verdict is on record" in ledger(tmp_path).readings()[0].sentence
    assert not any(name in (tmp_path / LEDGER).read_text() for name in PATIENTS)


def test_what_earlier_versions_recorded_counts_once_wherever_it_was_copied_to(tmp_path):
    sweep = tmp_path / "sweeps" / "old"
    sweep.mkdir(parents=True)
    (sweep / EARLIER).write_text(json.dumps([{"time": "0", "configurations": ["a", "b"]}]))
    (sweep / LEDGER).write_text('{"time": "1", "configurations": ["a", "b"]}\n{"tim\n{"time": "2"}\n')
    before = earlier_readings(sweep)
    assert [line["time"] for line in before] == ["0", "1", "2"]
    assert [reading.number for reading in ledger(tmp_path, before=before).readings()] == [1, 2, 3]
    assert not (tmp_path / LEDGER).exists()  # to look writes nothing
    assert ledger(tmp_path, before=before).read("new", ["a", "b"]).number == 4
    assert ledger(tmp_path, before=before).read("new", ["a", "b"]).number == 5
    assert [reading.sweep for reading in ledger(tmp_path).readings()] == ["old"] * 3 + ["new"] * 2


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"kind": "rea', "is no JSON"), ("[]", "neither a reading nor a verdict"), ('{"kind": "reading"}', "neither"),
     ('{"kind": "verdict", "of": "x", "key": "k", "time": "t", "number": 1}', "a reading 1 that is not there")],
)  # fmt: skip
def test_a_damaged_ledger_is_refused_in_one_line(tmp_path, line, said):
    ledger(tmp_path).read("one", ["a", "b"])
    with (tmp_path / LEDGER).open("a") as file:
        file.write(line + "\n")
    for use in (ledger(tmp_path).readings, lambda: ledger(tmp_path).read("two", ["a", "b"])):
        with pytest.raises(InputError, match=f"{LEDGER} is damaged: line 2 .*{said}") as refused:
            use()
        assert len(str(refused.value).splitlines()) == 1
    (tmp_path / LEDGER).write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="is damaged"):
        ledger(tmp_path).readings()


def test_a_reading_that_was_taken_out_is_missed(tmp_path):
    kept = ledger(tmp_path)
    for sweep in ("one", "two"):
        kept.conclude(kept.read(sweep, ["a", "b"]), {"sentence": "no"})
    lines = (tmp_path / LEDGER).read_text().splitlines(keepends=True)
    (tmp_path / LEDGER).write_text("".join(lines[2:]))
    with pytest.raises(InputError, match="line 2 is the verdict of a reading 2 that is not there"):
        ledger(tmp_path).readings()


def test_the_ledger_of_another_cohort_is_refused(tmp_path):
    ledger(tmp_path, key="another").read("one", ["a", "b"])
    with pytest.raises(InputError, match="line 1 is of another cohort"):
        ledger(tmp_path).read("two", ["a", "b"])


def test_a_ledger_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "gone").mkdir()
    asked = ledger(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for use in (asked.check_writable, lambda: asked.read("one", ["a", "b"])):
        with pytest.raises(InputError, match="cannot be written"):
            use()


def test_whoever_may_write_in_the_folder_may_add_a_reading(tmp_path):
    tmp_path.chmod(0o775)
    before = os.umask(0o077)
    try:
        ledger(tmp_path).read("one", ["a", "b"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / LEDGER).stat().st_mode) == 0o664
