"""Cohort: subjects with their images, labels, domains and patient-level splits.

On disk it is a folder with ``cohort.yaml`` (domains, intensity rules, labels, geometry, what is quarantined) and one
table ``images.csv`` or ``images.parquet`` (one row an image). Splits go by patient, never by scan or slice.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ganatomy.contracts import InputError
from ganatomy.core import plain_values
from ganatomy.core.names import checked_name
from ganatomy.core.plugins import nearest
from ganatomy.core.tables import absolute, file_hashes, write_atomically
from ganatomy.images.imaging import Prepared, load_native, prepare
from ganatomy.images.intensities import Intensity

SPLITS = ("train", "val", "test")
FORMAT = 1
AXES = ("x", "y", "z")
REQUIRED = ("patient", "subject", "domain", "image", "label", "split")
BOX = ("box_x0", "box_y0", "box_z0", "box_x1", "box_y1", "box_z1")
COLUMNS = (*REQUIRED, "session", "class", "channel", "mask", *BOX, "synthetic", "parents")


# --- the contract ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """An appearance: a modality (ct, flair …) or a state (healthy, lesion), and how its intensities become [-1, 1].

    modality: for the record; the name where it is empty.
    """

    name: str
    modality: str = ""
    intensity: Intensity = field(default_factory=Intensity)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", self.modality or self.name)


@dataclass(frozen=True)
class Row:
    """One image.

    patient: the person; splits go by it.  subject: one examination of the person; (subject, domain) is unique.
    label: None for an unlabelled image; one label file may serve several domains of a registered subject.
    split: train, val or test; empty while not assigned.  box: (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1) in voxels
    of the file.  klass: image-level class (column ``class``).  channel: index into a 4D file.  mask: for an intensity
    rule with mask ``file``.  synthetic: made by a generator, from the images of the subjects named in ``parents``.
    """

    patient: str
    subject: str
    domain: str
    image: Path
    label: Path | None = None
    split: str = ""
    session: str = ""
    box: tuple[float, ...] | None = None
    klass: str = ""
    channel: int | None = None
    mask: Path | None = None
    synthetic: bool = False
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something about one file (or the cohort, by its folder) that a user should know.

    severity: ``quarantine``, the image is set aside and the rest goes on; ``refuse``, the cohort cannot serve;
    ``warn``, it can.
    """

    file: str
    severity: Literal["quarantine", "refuse", "warn"]
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Cohort:
    """Everything of a cohort but the voxels.

    path: its folder.  labels: class id 1..C -> name (0 is the background).  label_values: value stored in the label
    files -> class id; empty where they are the same.  spacing: mm (x, y, z) to resample to, 0 keeps an axis, None keeps
    all.  size: voxels (x, y, z) to crop or pad to after that, likewise.  disjoint_domains: no training patient stands
    in two domains.  symmetric: axes (x, y, z) along which a mirror image shows what might as well be, so that strong
    augmentation may mirror.  anatomy: the part of the body that is shown, such as ``heart``; empty where nobody said.
    twins: domain -> another, which shows the same subjects as they would be without their lesions, registered; there
    are some where the truth is known (phantoms). Measures may read them, and they play no role in any method.
    rows: the usable images.  set_aside: the rows that ``quarantined`` names.
    """

    path: Path
    name: str
    domains: Mapping[str, Domain]
    labels: Mapping[int, str] = field(default_factory=dict)
    spacing: tuple[float, float, float] | None = None
    size: tuple[int, int, int] | None = None
    orientation: str = "RAS"
    disjoint_domains: bool = False
    symmetric: tuple[str, ...] = ()
    licence: str = ""
    anatomy: str = ""
    rows: tuple[Row, ...] = ()
    label_values: Mapping[int, int] = field(default_factory=dict)
    quarantined: tuple[Finding, ...] = ()
    set_aside: tuple[Row, ...] = ()
    twins: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """C + 1: the labels and the background."""
        return len(self.labels) + 1

    def rows_of(self, domain: str | None = None, split: str | None = None) -> tuple[Row, ...]:
        """The rows of one domain and one split; None takes all."""
        return tuple(row for row in self.rows if domain in (None, row.domain) and split in (None, row.split))

    def patients(self, split: str | None = None, domain: str | None = None) -> tuple[str, ...]:
        """The patients, sorted, of one split and one domain; None takes all."""
        return tuple(sorted({row.patient for row in self.rows_of(domain, split)}))

    @property
    def shown(self) -> tuple[str, ...]:
        """The domains that may play a role: all but the twins."""
        return tuple(name for name in self.domains if name not in self.twins.values())

    def digest(self) -> str:
        """Content hash (16 hex digits) of what training depends on: the files' bytes, who they are, and the rules.

        Where the files lie, name, anatomy and licence are not in it. File hashes are remembered beside the cohort by
        size and times, so that only changed files are read again.
        """
        names = {file for row in self.rows for file in (row.image, row.label, row.mask) if file is not None}
        hashes = file_hashes(names, self.path / ".hashes.json")
        rows = []
        for row in self.rows:
            values = {item.name: getattr(row, item.name) for item in dataclasses.fields(row)}
            values.update({key: hashes.get(values[key]) for key in ("image", "label", "mask")})
            rows.append(values)
        rows.sort(key=lambda values: (values["subject"], values["domain"], str(values["image"])))
        rules = {"domains": self.domains, "labels": self.labels, "label_values": self.label_values,
                 "spacing": self.spacing, "size": self.size, "orientation": self.orientation}  # fmt: skip
        if self.symmetric:  # of other cohorts the stores stay what they are
            rules["symmetric"] = sorted(self.symmetric)
        if self.twins:
            rules["twins"] = dict(self.twins)
        return plain_values.digest(_with_floats({"format": FORMAT, "rules": rules, "rows": rows}))

    def save(self, path: Path | None = None) -> Cohort:
        """Write the cohort to its folder (or to ``path``), table first, each file beside and then renamed.

        A table ``images.parquet`` that it was read from is kept as ``images.parquet.replaced``.
        Returns the cohort as it now stands on disk. Raises InputError as ``read_cohort`` would.
        """
        cohort = self if path is None else dataclasses.replace(self, path=Path(path))
        validate(cohort, [f"row {number}" for number in range(1, len(cohort.rows) + 1)])
        cohort.path.mkdir(parents=True, exist_ok=True)
        write_atomically(cohort.path / "images.csv", _table_text([*cohort.rows, *cohort.set_aside], cohort.path))
        write_atomically(cohort.path / "cohort.yaml", _yaml_text(cohort))
        before = cohort.path / "images.parquet"
        if before.exists():  # images.csv is the table now; columns of its own that somebody kept there are not in it
            before.replace(before.with_name(f"{before.name}.replaced"))
        return cohort


def _with_floats(value: Any) -> Any:
    """Plain values with every number a float: 1 and 1.0 are one rule, whether it came from code or from a file."""
    value = plain_values.plain(value)
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def prepare_image(row: Row, cohort: Cohort) -> Prepared:
    """The image of ``row`` as a network sees it, by the cohort's rules. Raises InputError naming the file."""
    native = load_native(row.image, row.label, row.mask, row.channel, cohort.label_values, cohort.classes)
    try:
        return prepare(native, cohort.domains[row.domain].intensity, cohort.spacing, cohort.size)
    except InputError as error:
        raise InputError(f"{row.image}: {error.what}", expected=error.expected, remedy=error.remedy) from error


def validate(cohort: Cohort, where: Sequence[str]) -> None:
    """Refuse, by InputError, a cohort that would mislead. ``where`` names the place of each row."""
    said = f"{cohort.path / 'cohort.yaml'}:"
    checked_name(cohort.name, f"{said} name", remedy="another name there, or --name when it is imported")
    for domain in cohort.domains:
        checked_name(domain, f"{said} domain", also="*", remedy="another name there, and in the table")
    if cohort.orientation != "RAS":
        raise InputError(f"orientation {cohort.orientation!r}", expected="RAS, the only one")
    if sorted(cohort.labels) != list(range(1, len(cohort.labels) + 1)):
        raise InputError(f"labels {dict(cohort.labels)}", expected="class ids 1, 2, … without gaps",
                         remedy="map stored values with label_values")  # fmt: skip
    if wrong := [axis for axis in cohort.symmetric if axis not in AXES]:
        raise InputError(f"{said} symmetric {wrong[0]!r}", expected="axes of the body: x (left and right), y, z",
                         remedy="symmetric: [x], or leave it out")  # fmt: skip
    for named in (name for pair in cohort.twins.items() for name in pair):
        if named not in cohort.domains:
            raise InputError(f"{said} twins: unknown domain {named!r}", expected=nearest(named, cohort.domains))
    if both := set(cohort.twins) & set(cohort.twins.values()):
        raise InputError(f"{said} twins: {min(both)} is a twin and has one", expected="a domain and its twin")
    splits: dict[str, tuple[str, str]] = {}
    keys: dict[Any, str] = {}
    trained: dict[str, tuple[str, str]] = {}
    for row, place in zip(cohort.rows, where, strict=True):
        if row.domain not in cohort.domains:
            raise InputError(f"{place}: unknown domain {row.domain!r}", expected=nearest(row.domain, cohort.domains))
        if row.split not in (*SPLITS, ""):
            raise InputError(f"{place}: unknown split {row.split!r}", expected=nearest(row.split, SPLITS))
        split, first = splits.setdefault(row.patient, (row.split, place))
        if split != row.split:
            raise InputError(
                f"{place}: patient {row.patient!r} is in split {row.split!r}, and in {split!r} at {first}",
                expected="every image of a patient in one split",
                remedy="correct the split column",
            )
        for key in ((row.subject, row.domain), (row.image, row.channel)):
            if key in keys:
                named = f"subject {key[0]!r} in domain {key[1]!r}" if isinstance(key[0], str) else f"image {key[0]}"
                raise InputError(f"{place}: {named} stands here and at {keys[key]}", expected="one row an image",
                                 remedy="name examinations apart by session or subject")  # fmt: skip
            keys[key] = place
        if cohort.disjoint_domains and row.split == "train" and not row.synthetic:
            domain, first = trained.setdefault(row.patient, (row.domain, place))
            if domain != row.domain:
                raise InputError(
                    f"{place}: patient {row.patient!r} trains domain {row.domain!r}, and {domain!r} at {first}",
                    expected="each training patient in one domain, since disjoint_domains is set",
                    remedy="remove one of the rows",
                )


# --- writing -----------------------------------------------------------------------------------------------------


def _table_text(rows: Sequence[Row], folder: Path) -> str:
    records = [_record(row, folder) for row in rows]
    used = [name for name in COLUMNS if name in REQUIRED or any(record[name] for record in records)]
    text = io.StringIO()
    writer = csv.DictWriter(text, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(row: Row, folder: Path) -> dict[str, str]:
    corners = dict.fromkeys(BOX, "")
    if row.box:
        names = BOX if len(row.box) == 6 else [name for name in BOX if "z" not in name]
        corners.update({name: f"{value:g}" for name, value in zip(names, row.box, strict=True)})
    return {
        "patient": row.patient, "subject": row.subject, "domain": row.domain, "split": row.split,
        "image": _written(row.image, folder),
        "label": _written(row.label, folder) if row.label else "",
        "session": row.session, "class": row.klass,
        "channel": "" if row.channel is None else str(row.channel),
        "mask": _written(row.mask, folder) if row.mask else "",
        "synthetic": "true" if row.synthetic else "", "parents": ";".join(row.parents), **corners,
    }  # fmt: skip


def _written(file: Path, folder: Path) -> str:
    """Relative for what lies in the cohort's folder, so that the folder can move; absolute for the rest."""
    file, folder = absolute(file), absolute(folder)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()


def _yaml_text(cohort: Cohort) -> str:
    values = {
        "format": FORMAT,
        "name": cohort.name,
        "licence": cohort.licence,
        "anatomy": cohort.anatomy,
        "orientation": cohort.orientation,
        "spacing": list(cohort.spacing) if cohort.spacing else None,
        "size": list(cohort.size) if cohort.size else None,
        "disjoint_domains": cohort.disjoint_domains,
        **({"symmetric": list(cohort.symmetric)} if cohort.symmetric else {}),
        **({"twins": dict(cohort.twins)} if cohort.twins else {}),
        "domains": {
            domain.name: {"modality": domain.modality, "intensity": plain_values.plain(domain.intensity)}
            for domain in cohort.domains.values()
        },
        "labels": dict(cohort.labels),
        "label_values": dict(cohort.label_values),
        "quarantined": [
            {"file": _written(Path(finding.file), cohort.path), "reason": finding.reason, "remedy": finding.remedy}
            for finding in cohort.quarantined
        ],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
