"""Reading a cohort: ``cohort.yaml`` and its table, refused with file and line where they do not say what they must."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganatomy.cohorts.cohort import BOX, COLUMNS, FORMAT, REQUIRED, Cohort, Domain, Finding, Row, validate
from ganatomy.contracts import InputError
from ganatomy.core import plain_values
from ganatomy.core.names import fitted_name, is_one_line, shortened
from ganatomy.core.plain_files import read_yaml
from ganatomy.core.plugins import nearest
from ganatomy.core.tables import absolute, read_table
from ganatomy.images.intensities import Intensity


def read_cohort(path: Path | str, *, require_files: bool = True) -> Cohort:
    """The cohort in the folder ``path`` (or whose ``cohort.yaml`` it is), validated.

    Raises InputError with file and line: not a cohort, unknown keys or values, an unknown domain, a patient in two
    splits, a training patient in two domains of a disjoint cohort, one image twice, and, with ``require_files``, a
    missing file.
    """
    folder = absolute(path)
    folder = folder.parent if folder.name == "cohort.yaml" else folder
    file = folder / "cohort.yaml"
    values = _read_yaml(file)
    _known(values, _YAML_KEYS, str(file))
    table = next((folder / name for name in ("images.csv", "images.parquet") if (folder / name).exists()), None)
    if table is None:
        raise InputError(f"{folder} has no table", expected="images.csv or images.parquet beside cohort.yaml")
    findings = _quarantined(values.get("quarantined") or (), file)
    aside = {finding.file for finding in findings}
    lines, rows = load_rows(table)
    kept = [index for index, row in enumerate(rows) if str(row.image) not in aside]
    cohort = Cohort(
        path=folder,
        name=str(values.get("name") or fitted_name(folder.name)),
        domains=_domains(values.get("domains") or {}, file),
        labels=_numbers(values.get("labels") or {}, file, "labels", str),
        label_values=_numbers(values.get("label_values") or {}, file, "label_values", int),
        spacing=_triple(values.get("spacing"), float, f"{file}: spacing"),
        size=_triple(values.get("size"), int, f"{file}: size"),
        orientation=str(values.get("orientation", "RAS")),
        disjoint_domains=bool(values.get("disjoint_domains", False)),
        symmetric=_axes(values.get("symmetric") or (), file),
        licence=str(values.get("licence") or ""),
        anatomy=str(values.get("anatomy") or ""),
        rows=tuple(rows[index] for index in kept),
        quarantined=findings,
        set_aside=tuple(row for row in rows if str(row.image) in aside),
        twins=_pairs(values.get("twins") or {}, file),
    )
    validate(cohort, [f"{table}, line {lines[index]}" for index in kept])
    if require_files:
        _require_files(cohort, [f"{table}, line {lines[index]}" for index in kept])
    return cohort


def _pairs(values: Any, file: Path) -> dict[str, str]:
    if not isinstance(values, Mapping):
        raise InputError(f"{file}: twins = {values!r}", expected="a mapping from a domain to that of its twins")
    return {str(name): str(twin) for name, twin in values.items()}


def _axes(values: Any, file: Path) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"{file}: symmetric {values!r}", expected="a list of axes, such as [x]")
    return tuple(map(str, values))


def load_rows(table: Path) -> tuple[list[int], list[Row]]:
    """Line numbers and rows of a cohort's own table; relative paths are relative to the table's folder, and stay in it.

    An absolute path may name a file anywhere, as those of an import do: what a table names is read, and never written.
    Links are followed, because data kept by them would be lost otherwise.
    """
    lines, rows = [], []
    for line, values in read_table(table):
        where = f"{table}, line {line}"
        row = row_from(values, table.parent, where)
        for column, file in (("image", row.image), ("label", row.label), ("mask", row.mask)):
            if file is not None and not Path(values[column]).is_absolute() and not file.is_relative_to(table.parent):
                raise InputError(f"{where}: {column} {shortened(values[column])} leaves the cohort's folder",
                                 expected="a path in it, or an absolute one", remedy=f"write {file}")  # fmt: skip
        lines.append(line)
        rows.append(row)
    return lines, rows


def row_from(values: Mapping[str, str], folder: Path, where: str) -> Row:
    """A Row from the columns of a table. ``where`` names file and line for errors."""
    for column in ("patient", "domain", "image"):
        if not values.get(column):
            missing = "is empty" if column in values else "is missing"
            raise InputError(f"{where}: column {column!r} {missing}", expected=f"columns {', '.join(REQUIRED)}")
    for column in COLUMNS:
        if not is_one_line(values.get(column, "")):
            raise InputError(f"{where}: {column} {shortened(values[column])}",
                             expected="one line, without control characters")  # fmt: skip
    session = values.get("session", "")
    corners = [values.get(column, "") for column in BOX]
    try:
        return Row(
            patient=values["patient"],
            subject=values.get("subject") or "_".join(part for part in (values["patient"], session) if part),
            domain=values["domain"],
            image=_absolute(folder, values["image"]),
            label=_absolute(folder, values["label"]) if values.get("label") else None,
            split=values.get("split", ""),
            session=session,
            box=tuple(float(corner) for corner in corners if corner) or None,
            klass=values.get("class", ""),
            channel=int(float(values["channel"])) if values.get("channel") else None,
            mask=_absolute(folder, values["mask"]) if values.get("mask") else None,
            synthetic=values.get("synthetic", "").lower() in ("1", "true", "yes"),
            parents=tuple(values["parents"].split(";")) if values.get("parents") else (),
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}", expected="numbers in channel and box_*") from error


def _absolute(folder: Path, text: str) -> Path:
    return absolute(folder / text)


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file.parent} is not a cohort: it has no cohort.yaml", remedy="ganatomy cohort import")
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise InputError(f"{file} holds no mapping", expected=f"the keys {', '.join(_YAML_KEYS)}")
    if values.get("format", FORMAT) != FORMAT:
        raise InputError(f"{file} has format {values['format']!r}", expected=f"{FORMAT}", remedy="import it again")
    return values


_YAML_KEYS = ("format", "name", "licence", "anatomy", "orientation", "spacing", "size", "disjoint_domains", "symmetric",
              "twins", "domains", "labels", "label_values", "quarantined")  # fmt: skip


def _known(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}", expected=nearest(str(key), known))


def _domains(values: Any, file: Path) -> dict[str, Domain]:
    if not isinstance(values, dict) or not values:
        raise InputError(
            f"{file}: domains = {values!r}", expected="a mapping from domain name to its modality and intensity"
        )
    domains = {}
    for name, settings in values.items():
        settings = settings or {}
        _known(settings, ("modality", "intensity"), f"{file}: domain {name}")
        rule = settings.get("intensity") or {}
        if isinstance(rule, str):
            rule = plain_values.plain(Intensity.parse(rule))
        _known(rule, ("rule", "low", "high", "mask"), f"{file}: intensity of {name}")
        parts = [rule.get(key) for key in ("rule", "low", "high", "mask")]
        intensity = Intensity.parse(":".join(str(part) for part in parts if part is not None)) if rule else Intensity()
        domains[str(name)] = Domain(str(name), str(settings.get("modality") or ""), intensity)
    return domains


def _quarantined(entries: Any, file: Path) -> tuple[Finding, ...]:
    try:
        return tuple(
            Finding(
                str(absolute(file.parent / entry["file"])),
                "quarantine",
                entry.get("reason", ""),
                entry.get("remedy", ""),
            )
            for entry in entries
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file}: quarantined = {entries!r}", expected="a list of file, reason, remedy") from error


def _numbers(values: Any, file: Path, key: str, kind: Callable[[Any], Any]) -> dict[int, Any]:
    try:
        return {int(number): kind(value) for number, value in values.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{file}: {key} = {values!r}", expected="a mapping from whole numbers") from error


def _triple(value: Any, kind: Callable[[Any], Any], where: str) -> Any:
    if value is None:
        return None
    try:
        triple = tuple(kind(part) for part in value)
    except (TypeError, ValueError):
        triple = ()
    if len(triple) != 3 or min(triple) < 0:
        raise InputError(f"{where} = {value!r}", expected="three numbers x, y, z (0 keeps an axis)")
    return triple


def _require_files(cohort: Cohort, where: Sequence[str]) -> None:
    for row, place in zip(cohort.rows, where, strict=True):
        for kind, file in (("image", row.image), ("label", row.label), ("mask", row.mask)):
            if file is not None and not file.is_file():
                raise InputError(f"{place}: {kind} {file} does not exist",
                                 remedy=f"ganatomy cohort check {cohort.path} quarantines it")  # fmt: skip
