"""The Brain Imaging Data Structure as a source of images."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ganatomy.cohorts.layouts import (
    Companions,
    Pattern,
    Source,
    files_under,
    from_paths,
    matches,
    read_json,
    require_domains,
)
from ganatomy.contracts import InputError
from ganatomy.core.tables import read_table

_NOT_IMAGES = {"func", "dwi", "fmap", "perf", "eeg", "meg", "ieeg", "beh", "motion", "nirs"}
_IDENTITY = {"sub", "ses", "ce", "suffix", "domain"}
_TELLS_NOTHING = {"space", "desc", "label", "res", "den", "hemi", "atlas", "seg"}


def read(directory: Path, label: Sequence[str], mask: Sequence[str], domains: Sequence[str]) -> Source:
    """Brain Imaging Data Structure. A domain is a suffix (T1w, FLAIR), with ``_ce-AGENT`` where contrast was given.

    Labels are the derivatives' ``_dseg`` files (or ``_mask`` files with a ``label-`` entity) of the same subject and
    session, unless patterns say otherwise. Label names come from a ``dseg.tsv`` in the root or a derivative's root.
    """
    files = files_under(directory)
    named = {file: _entities(file) for file in files if file.endswith((".nii", ".nii.gz"))}
    images = {
        file: entities
        for file, entities in named.items()
        if file.startswith("sub-") and entities["suffix"] not in ("dseg", "mask", "probseg")
    }
    require_domains(domains, {entities["domain"] for entities in images.values()})
    found = {
        file: entities
        for file, entities in images.items()
        if (entities["domain"] in domains if domains else Path(file).parent.name not in _NOT_IMAGES)
    }
    if not found:
        raise InputError(f"{directory} has no BIDS image", expected="files such as sub-01/anat/sub-01_T1w.nii.gz")
    said = _bids_identities(found)
    patterns = {kind: [Pattern.parse(text, domains, "[A-Za-z0-9]+") for text in texts]
                for kind, texts in (("mask", mask), ("label", label))}  # fmt: skip
    masks = Companions(directory, "mask", matches(patterns["mask"], files))
    if label:
        labels = Companions(directory, "label", matches(patterns["label"], files))
        source = from_paths(directory, said, labels, masks)
    else:
        source = from_paths(directory, said, Companions(directory, "label", {}), masks)
        rows = [
            dataclasses.replace(row, label=_bids_label(directory, file, found[file], named))
            for file, row in zip(source.places, source.rows, strict=True)
        ]
        source = dataclasses.replace(source, rows=rows)
    names = _bids_label_names(directory, files)
    about = (
        read_json(directory / "dataset_description.json") if (directory / "dataset_description.json").exists() else {}
    )
    return dataclasses.replace(
        source, labels=names, name=str(about.get("Name", "")), licence=str(about.get("License", ""))
    )


def _entities(file: str) -> dict[str, str]:
    *pairs, suffix = Path(file).name.split(".")[0].split("_")
    entities = dict(pair.partition("-")[::2] for pair in pairs)
    domain = f"{suffix}_ce-{entities['ce']}" if entities.get("ce") else suffix
    return {**entities, "suffix": suffix, "domain": domain}


def _bids_identities(found: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """File -> patient, session, subject, domain. Several runs or acquisitions of one domain: what sets them apart goes
    into the subject's name."""

    def named(entities: Mapping[str, str], extra: Sequence[str]) -> dict[str, str]:
        patient, session = entities["sub"], entities.get("ses", "")
        subject = "_".join(part for part in (patient, session, *extra) if part)
        return {"patient": patient, "session": session, "subject": subject, "domain": entities["domain"]}

    plain = {file: named(entities, ()) for file, entities in found.items()}
    times = Counter((said["subject"], said["domain"]) for said in plain.values())
    return {
        file: named(entities, [f"{key}-{value}" for key, value in entities.items() if key not in _IDENTITY])
        if times[plain[file]["subject"], plain[file]["domain"]] > 1
        else plain[file]
        for file, entities in found.items()
    }


def _bids_label(
    directory: Path, image: str, entities: Mapping[str, str], named: Mapping[str, Mapping[str, str]]
) -> Path | None:
    def agrees(other: Mapping[str, str]) -> bool:
        keys = set(other) - _TELLS_NOTHING - {"suffix", "domain"}
        return other.get("sub") == entities["sub"] and all(other[key] == entities.get(key) for key in keys)

    for suffix in ("dseg", "mask"):
        fitting = [file for file, other in named.items() if other["suffix"] == suffix and agrees(other)
                   and (suffix == "dseg" or "label" in other)]  # fmt: skip
        if len(fitting) > 1:
            raise InputError(
                f"{image} has several labels: {', '.join(fitting[:3])}",
                expected="one label an image",
                remedy="name it, such as --label 'derivatives/NAME/sub-{patient}/**/*_dseg.nii.gz'",
            )
        if fitting:
            return directory / fitting[0]
    return None


def _bids_label_names(directory: Path, files: Iterable[str]) -> dict[str, tuple[int, ...]]:
    for file in files:
        if re.fullmatch(r"(?:derivatives/[^/]+/)?(?:[^/]*_)?dseg\.tsv", file):
            rows = [values for _, values in read_table(directory / file)]
            if all(values.get("index", "").isdigit() and values.get("name") for values in rows):
                return {values["name"]: (int(values["index"]),) for values in rows if int(values["index"])}
    return {}
