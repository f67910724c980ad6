"""How images lie in a folder: by patterns, as the Medical Segmentation Decathlon or nnU-Net v2 has them, or in a table.

Each reader turns a folder into a ``Source``; it opens no image. BIDS has a room of its own.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganatomy.cohorts.cohort import Row
from ganatomy.cohorts.reading import row_from
from ganatomy.contracts import InputError
from ganatomy.core import plain_files
from ganatomy.core.plugins import nearest
from ganatomy.core.tables import absolute, read_table

PLACEHOLDERS = ("patient", "subject", "session", "domain", "class", "split")
"""What a pattern may capture from a path, as ``{patient}`` or, with a regular expression, ``{patient:sub-\\d+}``."""

_PLACEHOLDER = re.compile(r"\{(\w+)(?::((?:[^{}]|\{\d+(?:,\d*)?\})+))?\}")


@dataclass(frozen=True)
class Source:
    """What a layout knows.

    rows: images, without splits unless the layout gives them.  places: where each row comes from, for errors.
    labels: label name -> values in the label files, where the layout names them.  name, licence: likewise.
    """

    rows: list[Row]
    places: list[str]
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    name: str = ""
    licence: str = ""


# --- patterns ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """``[DOMAIN=]PATH`` relative to the folder; ``*`` and ``**`` as in a shell. domain: the fixed one, if any."""

    text: str
    domain: str
    expression: re.Pattern[str]

    @classmethod
    def parse(cls, text: str, domains: Sequence[str] = (), word: str = "[^/]+") -> Pattern:
        """Raises InputError for an unknown placeholder. ``{domain}`` matches nothing but ``domains``, if there are any;
        the others match ``word``, a regular expression."""
        left, equals, path = text.partition("=")
        if not (equals and re.fullmatch(r"\{domain\}|[\w.+-]+", left)):
            left, path = "", text
        known = "|".join(re.escape(name) for name in sorted(domains, key=len, reverse=True))
        parts, at, named = [], 0, set()
        for match in _PLACEHOLDER.finditer(path):
            parts.append(_glob(path[at : match.start()]))
            name, at = match[1], match.end()
            if name not in PLACEHOLDERS:
                raise InputError(f"unknown placeholder {{{name}}} in {text!r}", expected=nearest(name, PLACEHOLDERS))
            inner = match[2] or (known if name == "domain" and known else word)
            parts.append(f"(?P={name})" if name in named else f"(?P<{name}>{inner})")
            named.add(name)
        try:
            return cls(text, "" if left == "{domain}" else left, re.compile("".join(parts) + _glob(path[at:])))
        except re.error as error:
            raise InputError(f"pattern {text!r}: {error}", expected="a regular expression after the colon") from error

    def captured(self, path: str) -> dict[str, str] | None:
        """What the path says, or None where it does not match."""
        match = self.expression.fullmatch(path)
        if match is None:
            return None
        return {**match.groupdict(), **({"domain": self.domain} if self.domain else {})}


def _glob(text: str) -> str:
    text = re.escape(text).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*")
    return text.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def files_under(directory: Path) -> list[str]:
    """Paths of all files, relative, with "/", sorted; hidden ones left out."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder", expected="the folder that holds the images")
    found: list[str] = []
    been: set[str] = set()
    for folder, folders, files in os.walk(directory, followlinks=True):
        if os.path.realpath(folder) in been:  # a link back up would otherwise lead round for ever
            folders.clear()
            continue
        been.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(Path(folder) / name).relative_to(directory).as_posix() for name in files if not name.startswith(".")]
    return sorted(found)


def matches(patterns: Sequence[Pattern], files: Sequence[str]) -> dict[str, dict[str, str]]:
    """File -> what it says, by the first pattern that it matches. A pattern without any file is an error."""
    found: dict[str, dict[str, str]] = {}
    for pattern in patterns:
        captures = {file: said for file in files if (said := pattern.captured(file)) is not None}
        if not captures:
            raise InputError(
                f"no file matches {pattern.text!r}", expected=f"paths such as {', '.join(files[:3]) or 'any'}"
            )
        found = {**captures, **found}
    return found


def _domains_of(patterns: Sequence[Pattern], files: Sequence[str]) -> set[str]:
    return {said["domain"] for pattern in patterns for file in files if (said := pattern.captured(file)) is not None}


def _spoken(said: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in said.items())


def require_domains(asked: Sequence[str], present: Iterable[str]) -> None:
    """Raises InputError for a domain asked for of which there is no image."""
    present = sorted(present)
    for domain in asked:
        if domain not in present:
            raise InputError(f"no image of domain {domain!r}", expected=nearest(domain, present), remedy="--domains …")


class Companions:
    """Label (or mask) files, found for an image by what both paths say."""

    def __init__(self, directory: Path, kind: str, found: Mapping[str, Mapping[str, str]]) -> None:
        self.directory, self.kind = directory, kind
        self.by_patient: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
        for file, said in found.items():
            self.by_patient.setdefault(said.get("patient", ""), []).append((file, said))

    def of(self, image: str, said: Mapping[str, str]) -> Path | None:
        """The file that agrees with ``said`` in all it says itself, or None; of several, the one that says most."""
        near = [*self.by_patient.get(said.get("patient", ""), ()), *self.by_patient.get("", ())]
        agreeing = [(len(own), file) for file, own in near if all(said.get(key) == own[key] for key in own)]
        most = max((count for count, _ in agreeing), default=0)
        best = [file for count, file in agreeing if count == most]
        if len(best) > 1:
            raise InputError(
                f"{image} has several {self.kind}s: {', '.join(sorted(best)[:3])}",
                expected=f"one {self.kind} an image",
                remedy=f"a --{self.kind} pattern that says more, such as DOMAIN={{patient}}/…",
            )
        return self.directory / best[0] if best else None

    def require_use(self, used: Sequence[Path | None], images: Mapping[str, Mapping[str, str]]) -> None:
        """Raises InputError where files were found and not one of them belongs to an image: the patterns disagree."""
        if self.by_patient and not any(used):
            file, said = next(iter(self.by_patient.values()))[0]
            image, other = next(iter(sorted(images.items())))
            raise InputError(
                f"no {self.kind} belongs to an image: {file} says {_spoken(said)}, {image} says {_spoken(other)}",
                expected="the same words in both patterns to say the same",
                remedy=f"correct --{self.kind}, such as with {{patient:REGEX}}",
            )


# --- the layouts -------------------------------------------------------------------------------------------------


def folders(
    directory: Path, image: Sequence[str], label: Sequence[str], mask: Sequence[str], domains: Sequence[str]
) -> Source:
    """Images found by patterns. A file that is a label or a mask is no image; the first image pattern to match wins."""
    if not image:
        raise InputError(
            "layout folders without --image", expected="such as --image '{domain}={patient}/{domain}.nii.gz'"
        )
    files = files_under(directory)
    patterns = [Pattern.parse(text, domains) for text in image]
    for pattern in patterns:
        if "patient" not in pattern.expression.groupindex:
            raise InputError(f"--image {pattern.text!r} names no patient", expected="{patient} in the pattern")
        if not pattern.domain and "domain" not in pattern.expression.groupindex:
            raise InputError(f"--image {pattern.text!r} names no domain", expected="DOMAIN=PATTERN, or {domain} in it")
    labels = matches([Pattern.parse(text, domains) for text in label], files)
    masks = matches([Pattern.parse(text, domains) for text in mask], files)
    candidates = [file for file in files if file not in labels and file not in masks]
    if domains:  # what the patterns would find without being told the domains, to name the nearest right one
        free = [Pattern.parse(text) for text in image]
        require_domains(domains, _domains_of([*patterns, *free], candidates))
    found = matches(patterns, candidates)
    return from_paths(directory, found, Companions(directory, "label", labels), Companions(directory, "mask", masks))


def from_paths(
    directory: Path, found: Mapping[str, Mapping[str, str]], labels: Companions, masks: Companions
) -> Source:
    """A row for each path of ``found``, with the label and the mask that belong to it."""
    rows = []
    for file in sorted(found):
        said = found[file]
        row = row_from({"image": file, **said}, directory, file)
        rows.append(dataclasses.replace(row, label=labels.of(file, said), mask=masks.of(file, said)))
    labels.require_use([row.label for row in rows], found)
    masks.require_use([row.mask for row in rows], found)
    return Source(rows, sorted(found))


def msd(directory: Path, patient: str = "") -> Source:
    """Medical Segmentation Decathlon: ``dataset.json``, imagesTr, labelsTr, imagesTs.

    A domain is a modality; several modalities are the channels of 4D files. Test images carry no label. patient: a
    regular expression whose first group is the patient within a case's name; the whole name by default.
    """
    about = _dataset_json(directory, ("modality", "labels", "training"))
    modalities = {int(number): _slug(name) for number, name in about["modality"].items()}
    cases = [(entry["image"], entry["label"]) for entry in about["training"]]
    cases += [(entry["image"] if isinstance(entry, dict) else entry, "") for entry in about.get("test") or ()]
    rows, places = [], []
    for image, label in cases:
        case = Path(image).name.split(".")[0]
        for channel, domain in sorted(modalities.items()):
            rows.append(Row(
                _patient(patient, case), case, domain, absolute(directory / image),
                absolute(directory / label) if label else None, channel=channel if len(modalities) > 1 else None,
            ))  # fmt: skip
            places.append(f"{directory / 'dataset.json'}: {image}")
    labels = {str(name): (int(value),) for value, name in about["labels"].items() if int(value)}
    licence = about.get("licence") or about.get("license") or ""
    return Source(rows, places, labels, str(about.get("name", "")), str(licence))


def nnunet(directory: Path, patient: str = "") -> Source:
    """nnU-Net v2 raw data set: ``dataset.json``, imagesTr/CASE_0000.EXT, labelsTr/CASE.EXT, imagesTs, labelsTs.

    A domain is a channel. Where labels are regions, a stored value takes the name of the smallest region that holds it.
    ``patient`` as in ``msd``. The list ``dataset`` of dataset.json, where there is one, says where the files are.
    """
    about = _dataset_json(directory, ("channel_names", "labels", "file_ending"))
    ending = about["file_ending"]
    channels = {int(number): _slug(name) for number, name in about["channel_names"].items()}
    rows, places = [], []
    for case, images, label in _nnunet_cases(directory, about, ending):
        for number, image in images.items():
            if number not in channels:
                raise InputError(
                    f"{image}: channel {number:04d} is not in channel_names", expected=f"{sorted(channels)}"
                )
            rows.append(Row(_patient(patient, case), case, channels[number], image, label))
            places.append(str(image))
    if not rows:
        raise InputError(f"{directory} has no nnU-Net image", expected=f"imagesTr/CASE_0000{ending}")
    regions = {str(name): {int(value)} if isinstance(value, int | str) else {int(part) for part in value}
               for name, value in about["labels"].items()}  # fmt: skip
    labels: dict[str, tuple[int, ...]] = {}
    for value in sorted(set().union(*regions.values()) - {0}):
        name = min((name for name in regions if value in regions[name]), key=lambda name: len(regions[name]))
        if name != "ignore":  # such voxels are neither structure nor background: their images end in quarantine
            labels[name] = (*labels.get(name, ()), value)
    return Source(rows, places, labels, str(about.get("name") or directory.name), str(about.get("licence", "")))


def _nnunet_cases(
    directory: Path, about: Mapping[str, Any], ending: str
) -> Iterable[tuple[str, dict[int, Path], Path | None]]:
    if about.get("dataset"):
        for case, entry in sorted(about["dataset"].items()):
            images = {number: absolute(directory / name) for number, name in enumerate(entry["images"])}
            yield case, images, absolute(directory / entry["label"]) if entry.get("label") else None
        return
    for part in ("Tr", "Ts"):
        cases: dict[str, dict[int, Path]] = {}
        for file in sorted((directory / f"images{part}").glob(f"*{ending}")):
            case, _, number = file.name.removesuffix(ending).rpartition("_")
            if not (case and number.isdigit()):
                raise InputError(f"{file} is not named as nnU-Net names images", expected=f"CASE_0000{ending}")
            cases.setdefault(case, {})[int(number)] = absolute(file)
        for case, images in cases.items():
            label = absolute(directory / f"labels{part}" / f"{case}{ending}")
            # A training case must have its label: the missing file is found, and said, when the images are opened.
            yield case, images, label if part == "Tr" or label.exists() else None


def table(path: Path, columns: Mapping[str, str]) -> Source:
    """A table with a row an image: CSV, TSV or Parquet, or a folder that holds one. columns: our name -> its name."""
    if path.is_dir():
        tables = sorted(file for file in path.iterdir() if file.suffix.lower() in (".csv", ".tsv", ".parquet"))
        named = [file for file in tables if file.stem == "images"] or tables
        if len(named) != 1:
            listed = ", ".join(file.name for file in named) or "none"
            raise InputError(f"{path} holds {len(named)} tables: {listed}", expected="one, or the path of one")
        path = named[0]
    source = Source([], [])
    for line, values in read_table(path):
        place = f"{path}, line {line}"
        missing = [name for name in columns.values() if name not in values]
        if missing:
            raise InputError(f"{place}: no column {missing[0]!r}", expected=nearest(missing[0], values))
        source.rows.append(
            row_from({**values, **{ours: values[its] for ours, its in columns.items()}}, path.parent, place)
        )
        source.places.append(place)
    return source


def _dataset_json(directory: Path, keys: Sequence[str]) -> dict[str, Any]:
    file = directory / "dataset.json"
    about = read_json(file)
    for key in keys:
        if key not in about:
            raise InputError(
                f"{file} has no {key!r}",
                expected=f"the keys {', '.join(keys)}",
                remedy="msd files have modality, nnunet v2 files channel_names: try the other --layout",
            )
    return about


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises InputError naming the file."""
    try:
        values = plain_files.read_json(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}", expected="a JSON file") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} holds no mapping", expected="a JSON object")
    return values


def _patient(expression: str, case: str) -> str:
    if not expression:
        return case
    try:
        match = re.search(expression, case)
    except re.error as error:
        raise InputError(f"--patient {expression!r}: {error}", expected="a regular expression") from error
    if match is None:
        raise InputError(
            f"--patient {expression!r} does not match case {case!r}", expected="one that matches every case"
        )
    return match[1] if match.groups() else match[0]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", str(name)).strip("_")
