"""Real images in: a folder in any of five layouts becomes a cohort, checked, split by patient, written whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ganatomy.cohorts import bids, layouts
from ganatomy.cohorts.claims import alone_in
from ganatomy.cohorts.cohort import SPLITS, Cohort, Domain, Row, validate
from ganatomy.cohorts.inspection import Findings, examine, quarantine, sharing, summarise
from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.cohorts.splits import hold_to_one_domain, split_patients
from ganatomy.contracts import InputError
from ganatomy.core.names import checked_name, fitted_name
from ganatomy.core.plugins import nearest
from ganatomy.core.tables import absolute
from ganatomy.images.imaging import Progress, load_image
from ganatomy.images.intensities import Intensity

Layout = Literal["folders", "bids", "msd", "nnunet", "table"]
Disjoint = Literal["no", "train", "all"]

BACKGROUND = "background"


def import_cohort(
    directory: Path | str,
    layout: Layout,
    out: Path | str,
    *,
    image: Sequence[str] = (),
    label: Sequence[str] = (),
    mask: Sequence[str] = (),
    domains: Sequence[str] = (),
    modality: Sequence[str] = (),
    intensity: Sequence[str] = (),
    labels: Sequence[str] = (),
    columns: Sequence[str] = (),
    patient: str = "",
    spacing: Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    splits: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    disjoint_domains: Disjoint = "no",
    symmetric: Sequence[str] = (),
    group_near_copies: bool = False,
    name: str = "",
    licence: str = "",
    anatomy: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Cohort, Findings]:
    """Import the images of ``directory`` into a cohort in the folder ``out``. Nothing is copied and nothing changed.

    layout: how the images lie: folders (patterns), bids, msd, nnunet (v2), table (CSV, TSV or Parquet).
    image: folders: patterns of image paths, ``DOMAIN=PATH`` or ``{domain}=PATH``, with {patient} and, where wanted,
    {subject}, {session}, {domain}, {class}, {split}, ``*`` and ``**``; ``{patient:REGEX}`` restricts one.
    label: folders and bids: patterns of label paths, ``PATH`` for all domains or ``DOMAIN=PATH`` for one.
    mask: likewise, of the masks that intensity rules with mask ``file`` use.
    domains: take these domains only; ``{domain}`` then matches nothing else.
    modality: ``DOMAIN=TEXT``, such as ``flair=MR``; the domain's name by default.
    intensity: ``[DOMAIN=]RULE[:LOW:HIGH][:MASK]``, as in ``Intensity.parse``; percentile:0.5:99.5:none by default.
    labels: ``NAME=VALUE[,VALUE…]`` in the order of the class ids; several values become one class, and the values of
    ``background`` none. By default what the layout declares, or else the values that occur.
    columns: table: ``OURS=THEIRS``, such as ``patient=PatientID``.
    patient: msd and nnunet: a regular expression that finds the patient (first group) in a case's name.
    spacing, size: the geometry, as in ``Cohort``: mm and voxels (x, y, z), 0 keeps an axis.
    splits: fractions of patients for train, val and test; seed draws them.
    disjoint_domains: hold a patient scanned in several domains to one: no, train (held-out patients keep all their
    images, which nobody learns from), all.
    symmetric: axes (x, y, z) along which strong augmentation may mirror: a mirror image might as well be one's own.
    group_near_copies: patients who share nearly equal images are one for the split.
    name, licence: for the record.  anatomy: as in ``Cohort``.  overwrite: replace the cohort in ``out``.
    progress: told (images opened, total).

    Faulty images are quarantined, named in the findings, and the rest goes on. Raises InputError where there is nothing
    to go on with, or where an option is wrong; ``out`` is then untouched.
    """
    directory, out = absolute(directory), absolute(out)
    for option, value, known in (("--layout", layout, Layout), ("--disjoint-domains", disjoint_domains, Disjoint)):
        if value not in get_args(known):
            raise InputError(f"unknown {option} {value!r}", expected=nearest(str(value), get_args(known)))
    _refuse_taken(out, overwrite)
    if name:
        checked_name(name, "--name")  # before anything is opened
    source = _read(directory, layout, image, label, mask, domains, columns, patient)
    names = _domain_names(source.rows, domains)
    kept = [index for index, row in enumerate(source.rows) if row.domain in names]
    rows = [source.rows[index] for index in kept]
    declared = _declared(labels) or source.labels or _occurring(rows)
    ids, values = _class_ids(declared)
    cohort = Cohort(
        path=out,
        name=name or fitted_name(source.name or directory.stem),
        domains=_domains(names, modality, intensity),
        labels=ids,
        label_values=values,
        spacing=_axes(spacing, float, "--spacing"),
        size=_axes(size, int, "--size"),
        disjoint_domains=disjoint_domains != "no",
        symmetric=tuple(symmetric),
        licence=licence or source.licence,
        anatomy=anatomy,
        rows=tuple(rows),
    )
    # Splits come later, and so may patients of two domains: only what the source itself says is judged here.
    validate(dataclasses.replace(cohort, disjoint_domains=False), [source.places[index] for index in kept])
    with alone_in(out):
        _refuse_taken(out, overwrite)  # again: another may have imported while we read
        examined = examine(cohort, progress)
        cohort = quarantine(cohort, examined)
        _refuse_empty(cohort)
        groups = sharing(cohort.rows, examined) if group_near_copies else {}
        cohort = dataclasses.replace(cohort, rows=_split(cohort.rows, splits, seed, disjoint_domains, groups)).save()
        findings = summarise(cohort, examined)
        findings.save(out)
        pseudonyms_of(out)
        return cohort, findings


def _refuse_taken(out: Path, overwrite: bool) -> None:
    written = ("cohort.yaml", "images.csv", "images.parquet", "check.json")
    taken = next((file for file in written if (out / file).exists()), None)
    if taken and not overwrite:
        raise InputError(f"{out / taken} exists", expected="a new folder", remedy="another --out, or --overwrite")


def _read(
    directory: Path,
    layout: Layout,
    image: Sequence[str],
    label: Sequence[str],
    mask: Sequence[str],
    domains: Sequence[str],
    columns: Sequence[str],
    patient: str,
) -> layouts.Source:
    needs = {"--image": ("folders",), "--label": ("folders", "bids"), "--mask": ("folders", "bids"),
             "--columns": ("table",), "--patient": ("msd", "nnunet")}  # fmt: skip
    given = {"--image": image, "--label": label, "--mask": mask, "--columns": columns, "--patient": patient}
    for option, value in given.items():
        if value and layout not in needs[option]:
            raise InputError(f"{option} with --layout {layout}", expected=f"--layout {' or '.join(needs[option])}")
    if not directory.exists():
        raise InputError(f"{directory} does not exist", expected="the folder that holds the images")
    if layout == "folders":
        return layouts.folders(directory, image, label, mask, domains)
    if layout == "bids":
        return bids.read(directory, label, mask, domains)
    if layout == "msd":
        return layouts.msd(directory, patient)
    if layout == "nnunet":
        return layouts.nnunet(directory, patient)
    return layouts.table(directory, dict(_pair(text, "--columns", "OURS=THEIRS") for text in columns))


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (equals and left.strip() and right.strip()):
        raise InputError(f"{option} {text!r}", expected=form)
    return left.strip(), right.strip()


def _domain_names(rows: Sequence[Row], domains: Sequence[str]) -> list[str]:
    """The domains asked for, in that order; all that occur, sorted, when none is."""
    present = sorted({row.domain for row in rows})
    layouts.require_domains(domains, present)
    return list(dict.fromkeys(domains)) or present


def _domains(names: Sequence[str], modality: Sequence[str], intensity: Sequence[str]) -> dict[str, Domain]:
    modalities = dict(_pair(text, "--modality", "DOMAIN=TEXT") for text in modality)
    rules: dict[str, Intensity] = {}
    for text in intensity:
        domain, equals, rule = text.partition("=")
        for name in [domain] if equals else names:
            rules[name] = Intensity.parse(rule if equals else text)
    for option, given in (("--modality", modalities), ("--intensity", rules)):
        for name in given:
            if name not in names:
                raise InputError(f"{option} for unknown domain {name!r}", expected=nearest(name, names))
    return {name: Domain(name, modalities.get(name, name), rules.get(name, Intensity())) for name in names}


def _declared(labels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    declared: dict[str, tuple[int, ...]] = {}
    for text in labels:
        name, values = _pair(text, "--labels", "NAME=VALUE[,VALUE…], such as tumour=1,2,3,4")
        try:
            declared[name] = (*declared.get(name, ()), *(int(value) for value in values.split(",")))
        except ValueError:
            raise InputError(f"--labels {text!r}", expected="NAME=VALUE[,VALUE…] with whole numbers") from None
    return declared


def _occurring(rows: Sequence[Row]) -> dict[str, tuple[int, ...]]:
    """A class for each whole value that occurs in a label file. Unreadable ones are left for the quarantine."""
    present: set[int] = set()
    for file in sorted({row.label for row in rows if row.label is not None}):
        try:
            voxels, _ = load_image(file, as_label=True)
        except InputError:
            continue
        values = np.unique(voxels)
        if len(values) <= 256 and np.isfinite(values).all() and (values == np.round(values)).all():
            present.update(int(value) for value in values if value > 0)
    return {f"label_{value}": (value,) for value in sorted(present)}


def _class_ids(declared: Mapping[str, Sequence[int]]) -> tuple[dict[int, str], dict[int, int]]:
    """Class id -> name, and stored value -> class id (empty where all are their own)."""
    names = [name for name in declared if name.lower() != BACKGROUND]
    ids = dict(enumerate(names, start=1))
    values: dict[int, int] = {}
    for name, stored in declared.items():
        for value in stored:
            target = names.index(name) + 1 if name in names else 0
            if values.setdefault(value, target) != target or value < 0 or (value == 0 and target):
                raise InputError(f"label value {value} for {name!r}", expected="values > 0, each in one label")
    if len(ids) > 255:
        raise InputError(f"{len(ids)} labels", expected="at most 255", remedy="declare --labels")
    same = all(value == target for value, target in values.items())
    return ids, {} if same else values


def _axes(values: Sequence[float] | None, kind: type, option: str) -> tuple[int, int, int] | None:
    if not values:
        return None
    if len(values) != 3 or min(values) < 0 or any(kind(value) != value for value in values):
        raise InputError(f"{option} {' '.join(map(str, values))}", expected="three numbers x y z; 0 keeps an axis")
    x, y, z = (kind(value) for value in values)
    return x, y, z


def _refuse_empty(cohort: Cohort) -> None:
    for name in cohort.domains:
        if not cohort.rows_of(name):
            faults = {finding.file: finding for finding in cohort.quarantined}
            finding = next(faults[str(row.image)] for row in cohort.set_aside if row.domain == name)
            raise InputError(f"no image of domain {name} can be used: {finding.reason}", remedy=finding.remedy)


def _split(
    rows: Sequence[Row], splits: Sequence[float], seed: int, disjoint: Disjoint, groups: Mapping[str, str]
) -> tuple[Row, ...]:
    if disjoint == "all":  # held first, so that each domain's own patients are then split in the fractions
        return split_patients(hold_to_one_domain(rows, seed, ("", *SPLITS)), splits, seed, groups)
    divided = split_patients(rows, splits, seed, groups)
    return hold_to_one_domain(divided, seed) if disjoint == "train" else divided
