"""The ledger of a cohort's test patients: who read them, when, for which configurations, and what the verdict was.

One file beside ``cohort.yaml``, so that every sweep over the cohort adds to one count, in whatever workspace and under
whatever name: a promotion that is tried until it passes is told from one that passed. Lines are only ever added. Which
reading one was is its place among those of the same patients, so that processes which read at once are counted apart
on any file system. Patients stand in it as a hash of their pseudonyms.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.durable import append_line
from ganatomy.core.installation import login
from ganatomy.core.plain_files import read_text
from ganatomy.core.plain_values import digest
from ganatomy.measures.families import reading_level

LEDGER = "test-readings.jsonl"
"""File of a cohort. Of a sweep, as earlier versions left them: the same name, or one list."""

EARLIER = "test-readings.json"

READING, VERDICT = "reading", "verdict"
"""Kinds of lines: the test patients are read from here on; what that came to."""

_MOST = 64 * 2**20  # bytes: some ten thousand readings
_TEXTS = {READING: ("id", "key", "patients", "time", "who", "sweep"), VERDICT: ("of", "key", "time")}


@dataclass(frozen=True)
class Reading:
    """One time that test patients were read.

    number: from 1, among the readings of these patients.  judges: how many patients they are.  id: of its line.
    time: UTC.  who: login name.  sweep: whose.  configurations: candidate and baseline, by name.
    verdict: as ``Verdict.to_dict`` gave it; empty where none was reached.
    """

    number: int
    judges: int
    id: str
    time: str
    who: str
    sweep: str
    configurations: tuple[str, ...]
    verdict: Mapping[str, Any]

    @property
    def level(self) -> float:
        """One-sided level that it is judged at, at most."""
        return reading_level(self.number)

    @property
    def place(self) -> str:
        """Which one it is, in words."""
        return place(self.number, self.judges)

    @property
    def sentence(self) -> str:
        """Who, when, what for, and what came of it."""
        came, names = self.verdict.get("sentence") or "No verdict is on record.", " against ".join(self.configurations)
        return f"reading {self.number}, {self.time} by {self.who}, sweep {self.sweep}, {names}: {came}"


def place(number: int, judges: int) -> str:
    """``reading 2 of these 12 test patients``."""
    return f"reading {number} of {f'these {judges} test patients' if judges != 1 else 'this one test patient'}"


class Ledger:
    """The ledger in the folder of a cohort, as far as it tells of certain test patients.

    key: identity of the pseudonyms, ``Store.key``.  patients: pseudonyms of those who judge.
    before: lines that earlier versions left in folders of sweeps (``earlier_readings``): they count as well.
    """

    def __init__(
        self, folder: Path, key: str, patients: Iterable[str], before: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        known = sorted(set(patients))
        self.path, self.key, self.judges, self.before = folder / LEDGER, key, len(known), before
        self.patients = digest(known)

    def readings(self) -> list[Reading]:
        """All readings of these patients that are on record, in order.

        InputError where the file is damaged, or is the ledger of another cohort.
        """
        lines = list(self._lines())
        known = {line["id"] for line in lines if line["kind"] == READING}
        mine = [line for line in lines if line["kind"] == READING and line["patients"] == self.patients]
        mine += [line for line in map(self._adopted, self.before) if line["id"] not in known]
        verdicts = {line["of"]: line["verdict"] for line in lines if line["kind"] == VERDICT}
        return [
            Reading(number, self.judges, line["id"], line["time"], line["who"], line["sweep"],
                    tuple(line["configurations"]), verdicts.get(line["id"], {}))
            for number, line in enumerate(_once(mine), start=1)
        ]  # fmt: skip

    def check_writable(self) -> None:
        """InputError where a reading could not be recorded. Writes nothing."""
        if not os.access(self.path if self.path.exists() else self.path.parent, os.W_OK):
            raise self._unwritable("Permission denied")

    def read(self, sweep: str, configurations: Sequence[str]) -> Reading:
        """Write down that the patients are read from here on; returns which reading it is.

        Raises InputError, before anything is read, where that cannot be written down, or ``readings`` raises it.
        """
        known = {line["id"] for line in self._lines() if line["kind"] == READING}
        for line in map(self._adopted, self.before):
            if line["id"] not in known:
                self._append(line)
        mine = self._line(secrets.token_hex(8), now(), login(), sweep, configurations)
        self._append(mine)
        return next(reading for reading in self.readings() if reading.id == mine["id"])

    def conclude(self, reading: Reading, verdict: Mapping[str, Any]) -> None:
        """Write down what a reading came to. Raises InputError where that cannot be written down."""
        self._append({"kind": VERDICT, "of": reading.id, "key": self.key, "time": now(), "number": reading.number,
                      "level": verdict.get("level", reading.level), "verdict": dict(verdict)})  # fmt: skip

    def text(self) -> str:
        """The whole file, as it is kept in MLflow besides."""
        if not self.path.exists():
            return ""
        with self.path.open() as file:
            with contextlib.suppress(OSError):  # where there are no locks
                fcntl.flock(file, fcntl.LOCK_SH)  # or the line that somebody writes now is seen in part
            return read_text(self.path, _MOST)

    def _line(self, identity: str, when: str, who: str, sweep: str, configurations: Sequence[str]) -> dict[str, Any]:
        return {"kind": READING, "id": identity, "key": self.key, "patients": self.patients, "judges": self.judges,
                "time": when, "who": who, "sweep": sweep, "configurations": list(configurations)}  # fmt: skip

    def _adopted(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """A line of an earlier version; the same one, wherever the workspace was copied to, has the same id."""
        said = [str(name) for name in line.get("configurations", ())]
        return self._line(digest(dict(line)), str(line.get("time", "")), "unknown", str(line.get("sweep", "")), said)

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = self.text()
        except (OSError, ValueError) as error:
            raise self._damaged(getattr(error, "strerror", None) or "it is no text") from error
        began: dict[str, str] = {}
        counted: dict[str, int] = {}
        for number, said in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
            line = self._checked(said, f"line {number}")
            if line["kind"] == READING and line["id"] not in began:
                counted[line["patients"]] = counted.get(line["patients"], 0) + 1
                began[line["id"]] = f"{counted[line['patients']]}"
            elif line["kind"] == VERDICT and began.get(line["of"]) != str(line.get("number")):
                raise self._damaged(f"line {number} is the verdict of a reading {line.get('number')} that is not there")
            yield line

    def _checked(self, said: str, where: str) -> dict[str, Any]:
        """One line as it was written; InputError for any other."""
        try:
            line = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"{where} is no JSON") from error
        texts = _TEXTS.get(str(line.get("kind")), ()) if isinstance(line, dict) else ()
        if not texts or not all(isinstance(line.get(name), str) for name in texts):
            raise self._damaged(f"{where} is neither a reading nor a verdict")
        names, verdict = line.get("configurations", []), line.get("verdict", {})
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and isinstance(verdict, dict)):
            raise self._damaged(f"{where} is neither a reading nor a verdict")
        if line["key"] != self.key:
            raise InputError(f"{self.path}, {where} is of another cohort, by the key of its pseudonyms",
                             expected=f"the ledger of the cohort in {self.path.parent}",
                             remedy="put back the cohort's own ledger and .pseudonym-key")  # fmt: skip
        return line

    def _damaged(self, how: str) -> InputError:
        return InputError(f"{self.path} is damaged: {how}", expected="the ledger as it was written",
                          remedy=f"put back the copy that MLflow keeps with each promotion, {LEDGER}; a last line that "
                          "was cut off as its process died is to be taken away")  # fmt: skip

    def _unwritable(self, why: str | None) -> InputError:
        return InputError(f"{self.path} cannot be written: {why}",
                          expected="a cohort's folder in which the readings of its test patients can be recorded",
                          remedy="ask its owner for permission to write there")  # fmt: skip

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self._shared()
            append_line(self.path, json.dumps(line, ensure_ascii=False))
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        except ValueError as error:
            raise self._damaged("it is no text") from error

    def _shared(self) -> None:
        """Make the file, if there is none, for all who may write in the folder: each of them may promote."""
        with contextlib.suppress(FileExistsError):
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                os.fchmod(handle, stat.S_IMODE(self.path.parent.stat().st_mode) & 0o666 | 0o600)
            finally:
                os.close(handle)


def _once(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each reading once, where it stands first: two processes may have taken over the same earlier one."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(line["id"], line)
    return iter(found.values())


def earlier_readings(directory: Path) -> list[dict[str, Any]]:
    """What earlier versions recorded in the folder of a sweep: {time, configurations, sweep}. InputError where that
    cannot be read."""
    listed, lined = directory / EARLIER, directory / LEDGER
    readings: list[Any] = []
    try:
        if listed.exists():
            readings += json.loads(read_text(listed, _MOST))
        for line in read_text(lined, _MOST).splitlines() if lined.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # torn: its process died before it read anything
                readings.append(json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the readings of test patients in {directory} cannot be read: {error}") from error
    return [{**reading, "sweep": directory.name} for reading in readings if isinstance(reading, dict)]


def now() -> str:
    """The time, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
