"""What is wrong with a cohort's files, and what they are like: quarantine, warnings, fingerprint."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ganatomy.cohorts.cohort import SPLITS, Cohort, Finding, Row
from ganatomy.cohorts.pseudonyms import KEY, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.cohorts.splits import hold_to_one_domain, together
from ganatomy.contracts import InputError
from ganatomy.core.plain_values import plain
from ganatomy.core.tables import file_hashes, write_atomically
from ganatomy.images.files import room_for
from ganatomy.images.imaging import Progress, load_native, normalise, spacing_of
from ganatomy.images.near_copies import Signature, linked, near_copies, signature

PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class Facts:
    """What one usable image is like, on its own grid.

    shape: voxels (x, y, z).  spacing: mm.  orientation: axis codes, such as LPS.  intensity: native values at
    ``PERCENTILES`` of the voxels inside the domain's mask.  volumes: class id -> ml, None without a label.
    signature: what near-copies are found by.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    intensity: tuple[float, ...]
    volumes: Mapping[int, float] | None
    signature: Signature = dataclasses.field(repr=False, compare=False)


@dataclass(frozen=True)
class Findings:
    """The outcome of a check. findings: in the order of the table.  fingerprint: plain values, ready for JSON."""

    findings: tuple[Finding, ...] = ()
    fingerprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, severity: str) -> tuple[Finding, ...]:
        """Those of one severity: quarantine, refuse or warn."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def save(self, folder: Path) -> Path:
        """Write ``check.json`` beside the cohort."""
        path = folder / "check.json"
        write_atomically(path, json.dumps(plain(self), indent=1, ensure_ascii=False) + "\n")
        return path


Examined = Mapping[tuple[Path, int | None], Finding | Facts]
"""(image, channel) -> what is wrong with it, or what it is like."""


def who_is(cohort: Cohort) -> dict[str, str]:
    """Pseudonym -> whom or what it stands for in ``cohort``, in words. InputError where the cohort has no key."""
    if not (cohort.path / KEY).is_file():
        raise InputError(f"{cohort.path} has no key", expected=f"{KEY}, which import makes, and nobody else has",
                         remedy="put it back, or ask whoever prepared the cohort")  # fmt: skip
    names, known = pseudonyms_of(cohort.path), dict[str, str]()
    for row in (*cohort.rows, *cohort.set_aside):
        if row.session:
            known.setdefault(names(row.session), f"session {row.session}")
        known[names(row.subject)] = f"examination {row.subject} of patient {row.patient}"
    for patient in cohort.patients() + tuple(row.patient for row in cohort.set_aside):
        known[names(patient)] = f"patient {patient}"
    return known


def check_cohort(
    path: Path | str, progress: Progress | None = None, *, group_near_copies: bool = False
) -> tuple[Cohort, Findings]:
    """Check the cohort on disk, set aside what cannot be used, take back what has been mended, and write both down.

    group_near_copies: patients who share near-copies, and stand in several splits, are moved to one: to training where
    any of them trains, else to validation.
    """
    before = read_cohort(path, require_files=False)
    examined = examine(before, progress)
    cohort = quarantine(before, examined)
    if group_near_copies:
        moved = together(cohort.rows, sharing(cohort.rows, examined))
        cohort = dataclasses.replace(cohort, rows=moved if not cohort.disjoint_domains else hold_to_one_domain(moved))
    findings = summarise(cohort, examined)
    if (cohort.rows, cohort.quarantined) != (before.rows, before.quarantined):
        cohort.save()
    findings.save(cohort.path)
    pseudonyms_of(cohort.path)  # as the owner, who may write there
    return cohort, findings


def check(cohort: Cohort, progress: Progress | None = None) -> Findings:
    """What is wrong with the cohort's files, and its fingerprint. Changes nothing."""
    examined = examine(cohort, progress)
    return summarise(quarantine(cohort, examined), examined)


def examine(cohort: Cohort, progress: Progress | None = None) -> Examined:
    """Open every image with its label, those set aside included. ``progress`` is told (done, total)."""
    rows = [*cohort.rows, *cohort.set_aside]
    examined: dict[tuple[Path, int | None], Finding | Facts] = {}
    # Threads: decompression and numpy leave the interpreter free. Four, because each holds whole volumes.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for done, (row, outcome) in enumerate(zip(rows, pool.map(lambda row: _examine(row, cohort), rows)), start=1):
            examined[row.image, row.channel] = outcome
            if progress:
                progress(done, len(rows))
    examined.update(_copies([row for row in rows if isinstance(examined[row.image, row.channel], Facts)]))
    return examined


def _examine(row: Row, cohort: Cohort) -> Finding | Facts:
    """What is wrong with the image of ``row``, or what it is like; read when there is room beside those of others."""
    with room_for(row.image, row.label, row.mask):
        return _examine_here(row, cohort)


def _examine_here(row: Row, cohort: Cohort) -> Finding | Facts:
    intensity = cohort.domains[row.domain].intensity
    try:
        native = load_native(row.image, row.label, row.mask, row.channel, cohort.label_values, cohort.classes)
        normalise(native, intensity)
        _check_box(row, native.volume.shape)
    except InputError as error:
        reason = error.what + (f" (expected {error.expected})" if error.expected else "")
        return Finding(str(row.image), "quarantine", reason, error.remedy)
    inside = intensity.foreground(native.volume, native.mask)
    values = native.volume if inside is None else native.volume[inside]
    spacing = spacing_of(native.affine)
    volumes = None
    if native.label is not None:
        counts = np.bincount(native.label.ravel(), minlength=cohort.classes)
        volumes = {number: float(counts[number] * spacing.prod() / 1000) for number in cohort.labels}
    return Facts(
        shape=tuple(native.volume.shape),
        spacing=tuple(round(float(side), 4) for side in spacing),
        orientation="".join(code or "?" for code in nibabel.aff2axcodes(native.affine)),
        intensity=tuple(float(value) for value in np.percentile(values, PERCENTILES)),
        volumes=volumes,
        signature=signature(native.volume),
    )


def _check_box(row: Row, shape: Sequence[int]) -> None:
    """Refuse a box that cannot be that of a lesion in this image: what is cut by it would show something else."""
    if row.box is None:
        return
    half = len(row.box) // 2
    low, high, sides = row.box[:half], row.box[half:], shape[:half]
    if half not in (2, 3) or not all(0 <= a < b <= side for a, b, side in zip(low, high, sides)):
        raise InputError(f"{row.image} of {' x '.join(map(str, sides))} voxels has box {row.box}",
                         expected="corners within the image, the first before the second",
                         remedy="correct box_*, in voxels of the file")  # fmt: skip
    if row.klass in ("normal", "healthy"):
        raise InputError(f"{row.image} is of class {row.klass} and has a box", expected="one or the other",
                         remedy="correct the class, or empty box_*")  # fmt: skip


def _copies(rows: Sequence[Row]) -> dict[tuple[Path, int | None], Finding]:
    """A finding for each image whose bytes are those of an earlier row: a copy under another name leaks over splits."""
    hashes = file_hashes({row.image for row in rows})
    first: dict[tuple[str, int | None], Row] = {}
    copies = {}
    for row in rows:
        original = first.setdefault((hashes[row.image], row.channel), row)
        if original is not row:
            reason = f"{row.image} is a copy of {original.image} (patient {original.patient}, domain {original.domain})"
            copies[row.image, row.channel] = Finding(str(row.image), "quarantine", reason, "remove one of the two")
    return copies


def sharing(rows: Sequence[Row], examined: Examined) -> dict[str, str]:
    """Patient -> name of the group of patients whose images are near-copies of each other; others are left out."""
    seen, signatures = _comparable(rows, examined)
    owners = [row.patient for row in seen]
    return linked(near_copies(signatures, owners), owners)


def _comparable(rows: Sequence[Row], examined: Examined) -> tuple[list[Row], list[Signature]]:
    """The real ones among usable images, and what they are compared by: synthetic ones resemble whom they may."""
    facts = [(row, examined.get((row.image, row.channel))) for row in rows if not row.synthetic]
    usable = [(row, fact.signature) for row, fact in facts if isinstance(fact, Facts)]
    return [row for row, _ in usable], [found for _, found in usable]


def _near_copies(cohort: Cohort, examined: Examined) -> list[Finding]:
    """A warning where two patients share an image: counted, with the pair most alike, one across splits if any is."""
    rows, signatures = _comparable(cohort.rows, examined)
    pairs = near_copies(signatures, [row.patient for row in rows])
    if not pairs:
        return []
    across = [pair for pair in pairs if rows[pair.first].split != rows[pair.second].split]
    worst = (across or pairs)[0]
    first, second = rows[worst.first], rows[worst.second]
    held = {rows[place].patient for pair in across for place in (pair.first, pair.second)}
    reason = (
        f"{len(pairs)} pairs of patients share a nearly equal image"
        f"{f', {len(across)} of them across splits ({len(held)} patients)' if across else ''}; "
        f"most alike{' of those' if across else ''}: {first.image} (patient {first.patient}) and "
        f"{second.image} (patient {second.patient}), r = {worst.r:.3f}"
    )
    remedy = "--group-near-copies keeps such patients in one split; or remove one of each pair"
    return [Finding(str(cohort.path), "warn", reason, remedy)]


def quarantine(cohort: Cohort, examined: Examined) -> Cohort:
    """The cohort with every faulty image set aside, and mended ones taken back.

    An image taken back joins its patient's split, or training if the patient has none, so that held-out sets stay as
    they were; where that would put a training patient in a second domain of a disjoint cohort it stays aside.
    """
    faults = {finding.file: finding for finding in examined.values() if isinstance(finding, Finding)}
    rows = [row for row in cohort.rows if str(row.image) not in faults]
    aside = [row for row in cohort.rows if str(row.image) in faults]
    split_of = {row.patient: row.split for row in rows}
    trained = {row.patient: row.domain for row in rows if row.split == "train"}
    for row in cohort.set_aside:
        split = split_of.get(row.patient, "train" if any(split_of.values()) else "")
        elsewhere = trained.get(row.patient, row.domain) != row.domain
        if split == "train" and elsewhere and cohort.disjoint_domains and str(row.image) not in faults:
            reason = (
                f"{row.image} shows patient {row.patient}, who trains domain {trained[row.patient]} (disjoint_domains)"
            )
            faults[str(row.image)] = Finding(str(row.image), "quarantine", reason, "none needed")
        if str(row.image) in faults:
            aside.append(row)
            continue
        rows.append(dataclasses.replace(row, split=split))
        split_of.setdefault(row.patient, split)
        if split == "train":
            trained.setdefault(row.patient, row.domain)
    found = tuple(faults[name] for name in dict.fromkeys(str(row.image) for row in aside))
    return dataclasses.replace(cohort, rows=tuple(rows), set_aside=tuple(aside), quarantined=found)


def summarise(cohort: Cohort, examined: Examined) -> Findings:
    """Findings and fingerprint of a cohort whose faulty images have been set aside."""
    facts = {row: fact for row in cohort.rows if isinstance(fact := examined.get((row.image, row.channel)), Facts)}
    fingerprint = {
        "name": cohort.name,
        "images": len(cohort.rows),
        "patients": len(cohort.patients()),
        "quarantined": len(cohort.quarantined),
        "domains": {name: _domain_fingerprint(cohort, name, facts) for name in cohort.domains},
    }
    warned = (*_cohort_findings(cohort, facts), *_near_copies(cohort, examined))
    return Findings((*cohort.quarantined, *warned), fingerprint)


def _domain_fingerprint(cohort: Cohort, domain: str, facts: Mapping[Row, Facts]) -> dict[str, Any]:
    rows = [row for row in facts if row.domain == domain]
    seen = [facts[row] for row in rows]
    splits = {split: len(cohort.patients(split, domain)) for split in SPLITS}
    volumes = [fact.volumes for fact in seen if fact.volumes is not None]
    intensity = np.array([fact.intensity for fact in seen]) if seen else np.zeros((0, len(PERCENTILES)))
    return {
        "images": len(rows),
        "labelled": len(volumes),
        "patients": splits,
        "orientation": sorted({fact.orientation for fact in seen}),
        "shape": _spread([fact.shape for fact in seen]),
        "spacing": _spread([fact.spacing for fact in seen]),
        "intensity": {
            f"{percentile:g}%": _spread(column) for percentile, column in zip(PERCENTILES, intensity.T, strict=True)
        },
        "labels": {
            name: {
                "images": sum(volume[number] > 0 for volume in volumes),
                "ml": _spread([volume[number] for volume in volumes if volume[number] > 0]),
            }
            for number, name in cohort.labels.items()
        },
    }


def _spread(values: Any) -> dict[str, Any]:
    """Smallest, median and largest along the first axis; empty for no values."""
    if len(values) == 0:
        return {}
    array = np.asarray(values, dtype=np.float64)
    return {
        name: np.round(reduce(array, axis=0), 3).tolist()
        for name, reduce in (("min", np.min), ("median", np.median), ("max", np.max))
    }


def _cohort_findings(cohort: Cohort, facts: Mapping[Row, Facts]) -> list[Finding]:
    findings = []

    def say(severity: Any, reason: str, remedy: str) -> None:
        findings.append(Finding(str(cohort.path), severity, reason, remedy))

    split = any(row.split for row in cohort.rows)
    labelled = any(row.label for row in cohort.rows)
    if cohort.rows and not labelled and not any(row.klass for row in cohort.rows):
        remedy = "--label PATTERN, or a table; without them nothing can be scored"
        say("warn", "no image has a label or a class", remedy)
    for name in cohort.shown:
        rows = cohort.rows_of(name)
        if not rows:
            say("refuse", f"domain {name} has no usable image", "mend its quarantined images, or import it without it")
            continue
        missing = [part for part in SPLITS if split and not cohort.patients(part, name)]
        if missing:
            say("warn", f"domain {name} has no patient in {', '.join(missing)}", "more patients, or other --splits")
        if labelled and not any(row.label for row in rows):
            say("warn", f"domain {name} has no labels", "it can be translated to, not scored in")
        for number, label in cohort.labels.items():
            volumes = [fact.volumes for row, fact in facts.items() if row.domain == name and fact.volumes is not None]
            if volumes and not any(volume[number] > 0 for volume in volumes):
                say("warn", f"label {label} occurs in no image of domain {name}", "check --labels")
    if len(cohort.shown) == 1:
        say("warn", "the cohort has one domain", "methods that translate need two")
    if cohort.spacing is None and len({fact.spacing for fact in facts.values()}) > 1:
        say("warn", "voxel spacings differ and are kept", "--spacing X Y Z resamples all to one")
    both = {row.patient for row in cohort.rows_of(split="train") if len({
        other.domain for other in cohort.rows_of(split="train") if other.patient == row.patient}) > 1}  # fmt: skip
    if both and not cohort.disjoint_domains:
        say("warn", f"{len(both)} training patients stand in several domains: an unpaired method would see pairs",
            "--disjoint-domains train holds each to one")  # fmt: skip
    return findings
