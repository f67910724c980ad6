"""Audit: all that a generator or a synthetic set carries, and what of it should not be there when it is given away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganatomy.cohorts.cohort import Cohort
from ganatomy.cohorts.pseudonyms import PSEUDONYM
from ganatomy.contracts import InputError
from ganatomy.core.plain_values import plain
from ganatomy.core.tables import read_table
from ganatomy.generation.audit_files import LEAST_NAME, Carried, Names, carried
from ganatomy.generation.outputs import read_sidecar


@dataclass(frozen=True)
class Audit:
    """facts: (of what, what) that the folder says of itself.  patients: pseudonym -> split, as it records them.
    files: all of them.  notes: what was not looked for."""

    folder: Path
    facts: tuple[tuple[str, str], ...]
    patients: Mapping[str, str]
    files: tuple[Carried, ...]
    notes: tuple[str, ...]

    @property
    def findings(self) -> tuple[tuple[str, str], ...]:
        """(file, what should not be there)."""
        return tuple((one.file, finding) for one in self.files for finding in one.findings)

    def as_plain(self) -> dict[str, Any]:
        """For JSON: without the folder's own path."""
        return {
            "folder": self.folder.name,
            "facts": [{"of": of, "is": what} for of, what in self.facts],
            "patients": dict(self.patients),
            "files": plain(self.files),
            "findings": [{"file": file, "finding": finding} for file, finding in self.findings],
            "notes": list(self.notes),
        }


def audit(folder: Path, cohort: Cohort | None = None) -> Audit:
    """Look at every file below ``folder``.

    cohort: whose patients' and examinations' names are looked for in the bytes and names of all files, also inside
    compressed ones. Raises InputError for a folder that is not there or holds nothing.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    if not paths:
        raise InputError(f"{folder} holds no file", expected="the folder of a generator or of a synthetic set")
    names = Names(_named(cohort) if cohort else ())
    files = [carried(path, folder, names) for path in paths]
    patients: dict[str, str] = {}
    facts: list[tuple[str, str]] = []
    for one in files:
        if one.kind != "link":
            _add_facts(folder / one.file, one.file, facts, patients)
    facts += [("sidecar keys", ", ".join(keys))] if (keys := _sidecar_keys(folder, files)) else []
    found = [_with_names_of_table(folder, one) for one in files]
    notes = [] if cohort else ["no name was looked for: --cohort DIR"]
    if names.short:
        notes.append(f"{names.short} names of fewer than {LEAST_NAME} letters were not looked for")
    return Audit(folder, tuple(facts), patients, tuple(found), tuple(notes))


def _named(cohort: Cohort) -> Iterator[str]:
    for row in (*cohort.rows, *cohort.set_aside):
        yield from (row.patient, row.subject, *row.parents)


# --- what the folder says of itself ------------------------------------------------------------------------------


def _add_facts(path: Path, file: str, facts: list[tuple[str, str]], patients: dict[str, str]) -> None:
    """Add what a file that we write says of where everything is from."""
    said = _said(path)
    if path.name == "fingerprint.json":
        source = said.get("cohort") or {}
        facts.append(("trained on cohort", f"{source.get('name')}, content {source.get('digest')}"))
        facts.append(("key of its pseudonyms", source.get("key") or "none: they can be undone"))
        facts.append(("made by", f"ganatomy {said.get('ganatomy')}"))
        facts.append(("stages", _listed(said.get("stages") or {})))
        facts.append(("images", _listed(said.get("images") or {})))
        patients.update(said.get("patients") or {})
        facts.append(("patients", _counted((said.get("patients") or {}).values())))
    elif path.name == "config.json" and "experiment" in said:
        facts.append(("licence", said.get("licence") or "not declared"))
        facts.append(("domains", ", ".join(said.get("domains") or {})))
    elif path.name == "dataset_description.json":
        makers = [f"{one.get('Name')} {one.get('Version')}: {one.get('Description')}" for one in
                  said.get("GeneratedBy") or ()]  # fmt: skip
        facts.append(("set", f"{said.get('Name')}; licence {said.get('License') or 'not declared'}"))
        facts.append(("made by", "; ".join(makers) or "not said"))
        facts.append(("names in its table", said.get("PatientNames") or "not said"))
    elif path.name in ("images.csv", "images.parquet"):
        rows = [values for _, values in read_table(path)]
        facts.append((f"table {file}", f"{len(rows)} images; columns {', '.join(rows[0]) if rows else 'none'}"))
        own = {values.get("patient", ""): values.get("split", "") for values in rows}
        patients.update(own)
        facts.append(("patients", _counted(own.values())))


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items())) or "none"


def _counted(splits: Any) -> str:
    counts = Counter(split or "undeclared" for split in splits)
    return ", ".join(f"{count} of split {split}" for split, count in sorted(counts.items())) or "none"


def _sidecar_keys(folder: Path, files: list[Carried]) -> list[str]:
    """Keys of all sidecars of synthetic images."""
    said = [_said(folder / one.file) for one in files]
    return sorted({key for values in said if "GeneratorDigest" in values for key in values})


def _said(path: Path) -> dict[str, Any]:
    """What a JSON file of keys says; nothing of any other."""
    said: Any = read_sidecar(path) if path.suffix == ".json" else {}
    return said if isinstance(said, dict) else {}


# --- who is named ------------------------------------------------------------------------------------------------


def _with_names_of_table(folder: Path, one: Carried) -> Carried:
    """The file with a finding more where it is one of ours that names patients otherwise than by pseudonym."""
    path = folder / one.file
    if one.kind == "link":
        return one
    named: list[str] = []
    outside = 0
    if path.name in ("images.csv", "images.parquet"):
        rows = [values for _, values in read_table(path)]
        named = [values.get("patient", "") for values in rows]
        outside = sum(".." in Path(values.get(column, "")).parts for values in rows
                      for column in ("image", "label", "mask"))  # fmt: skip
    elif path.name == "fingerprint.json":
        named = list(_said(path).get("patients") or {})
    told = len({name for name in named if not PSEUDONYM.fullmatch(name)})
    said = [f"{told} patients named otherwise than by a pseudonym under a key"] if told else []
    said += [f"{outside} files outside of the folder"] if outside else []
    return Carried(one.file, one.bytes, one.kind, one.holds, (*one.findings, *said))


def written(found: Audit) -> str:
    """The audit as JSON."""
    return json.dumps(found.as_plain(), indent=2, ensure_ascii=False) + "\n"
