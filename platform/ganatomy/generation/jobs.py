"""What is to be generated, one job an image: planned before anything is made, so that nothing is half tried."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ganatomy.cohorts.cohort import Cohort, Row
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.core.tables import absolute
from ganatomy.generation.outputs import alphanumeric, read_sidecar, split_suffix
from ganatomy.generators.generator import Generator
from ganatomy.stores.sampling import state_of

DONORS = 20
"""At most so many patients are tried for a label that fits."""


DESCRIPTION = "dataset_description.json"
"""Written first into every folder of synthetic images, so that an interrupted one is known again."""

_WRITTEN = ("images.csv", "images.parquet", "boxes.csv", "annotations.coco.json")


@dataclass(frozen=True)
class Job:
    """One image to make. Plain values, so that it can be sent anywhere; who is shown stands in them by pseudonym.

    row: the source image, as of ``under_pseudonym``.  source, target: roles.  image: the file to write; its sidecar and
    label lie beside it.
    cohort: name of the source cohort ("" for a file).
    labels, label_values: what the numbers in the label file mean, as in ``Cohort``.
    donors: labelled images of other patients, one of whose labels is drawn into this one; none, its own is used.
    overwrite: replace what is there and differs.
    """

    row: Row
    source: str
    target: str
    image: Path
    cohort: str = ""
    labels: Mapping[int, str] = field(default_factory=dict)
    label_values: Mapping[int, int] = field(default_factory=dict)
    donors: tuple[Row, ...] = ()
    overwrite: bool = False

    @property
    def sidecar(self) -> Path:
        """Where the provenance goes."""
        return self.image.with_name(split_suffix(self.image)[0] + ".json")

    @property
    def label(self) -> Path | None:
        """Where the source's label goes; None where it has none."""
        return None if self.row.label is None else self.beside("dseg")

    def beside(self, what: str, ending: str = ".nii.gz", **entities: str) -> Path:
        """Where something else about the image goes: ``sub-01_label-<…>_desc-<…>_<what>.nii.gz``."""
        name, _, _ = self.image.name.rpartition("_")
        before, description, after = name.rpartition("_desc-")
        added = "".join(f"_{key}-{alphanumeric(value)}" for key, value in entities.items())
        return self.image.with_name(f"{before}{added}{description}{after}_{what}{ending}")


def plan_generation(
    generator: Generator,
    source: Cohort | Path | str,
    out: Path | str,
    *,
    source_role: str | None = None,
    target_role: str | None = None,
    splits: Sequence[str] | None = None,
    label: Path | None = None,
    patient: str = "",
    names: Pseudonyms | None = None,
    overwrite: bool = False,
) -> list[Job]:
    """One job for each real image of the source domain, and nothing written yet.

    Where the method draws labels of other patients, those of labelled images of the cohort and of the same split are
    tried; a single file is given the label to draw by ``label``.

    source: a cohort, or one image file (then ``label`` and ``patient`` may be told).  names: whose key pseudonyms are
    under; a cohort has its own, of a file they must be given.  source_role, target_role: a role or a domain; by default
    what leads to the domain that the generator was promoted for.  splits: only these.
    overwrite: replace what another generator, or another image, left in ``out``; without it that is an InputError, as
    it is when there is nothing to do.
    """
    out = absolute(out)
    role, target = generator.route(source_role, target_role)
    domain = generator.domain(role).name
    if isinstance(source, Cohort):
        names = names or pseudonyms_of(source.path)
        rows, rules, name = _rows_of(source, domain, generator.experiment.state(role), splits), source, source.name
        donors = _donors_of(generator, role, source, rows)
    else:
        if names is None:
            raise ValueError("a file has no cohort whose key its pseudonyms could be under: give names")
        rows, rules, name = [row_of_file(Path(source), domain, label, patient)], generator.rules, ""
        donors = [()]
        if role in generator.method.label_donors and label is None:
            raise InputError(
                f"{source} has no label to draw into it", expected="one on its grid", remedy="--label, or --cohort"
            )
    shown = [under_pseudonym(row, names) for row in rows]
    given = [tuple(under_pseudonym(row, names) for row in offered) for offered in donors]
    jobs = [
        Job(row, role, target, place, name, dict(rules.labels), dict(rules.label_values), offered, overwrite)
        for row, place, offered in zip(shown, _places(shown, generator, role, target, out), given)
    ]
    before = rows_before(out)
    before = by_pseudonym(before, source) if isinstance(source, Cohort) else before
    _check_apart(jobs, before, generator.domain(target).name)
    for job in jobs:
        _check_ours(generator.digest, job)
    return jobs


def _rows_of(cohort: Cohort, domain: str, state: str, splits: Sequence[str] | None) -> list[Row]:
    """The cohort's real images of a domain, in the given splits, but for those whose class is another state's."""
    rows = [
        row
        for row in cohort.rows_of(domain)
        if not row.synthetic
        and (splits is None or row.split in splits)
        and (row.label is not None or not row.klass or not state or state_of(row.klass) == state)
    ]
    if not rows:
        present = ", ".join(sorted({row.domain for row in cohort.rows})) or "none"
        within = f" in split {', '.join(splits)}" if splits else ""
        raise InputError(
            f"cohort {cohort.name} has no real image of domain {domain!r}{within}",
            expected="images of the domain that the generator translates from",
            remedy=f"its domains: {present}",
        )
    return rows


def _donors_of(generator: Generator, role: str, cohort: Cohort, rows: Sequence[Row]) -> list[tuple[Row, ...]]:
    """For each row the images whose labels may be drawn into it, those to be tried first in front.

    Of its own split only: what is drawn into a training image is training data. None where the method draws no labels.
    """
    if role not in generator.method.label_donors:
        return [()] * len(rows)
    domain = generator.domain(generator.method.label_donors[role]).name
    if cohort.labels != generator.rules.labels:
        raise InputError(
            f"cohort {cohort.name} has labels {dict(cohort.labels)}",
            expected=f"those that the generator draws: {dict(generator.rules.labels)}",
        )
    labelled = [row for row in cohort.rows_of(domain) if row.label is not None and not row.synthetic]
    chosen = []
    for row in rows:
        offers = [one for one in labelled if one.split == row.split and one.patient != row.patient]
        if not offers:
            raise InputError(
                f"cohort {cohort.name} has no label to draw into {row.subject}",
                expected=f"a labelled {domain} image of another patient in split {row.split}",
                remedy="label some, or --split another",
            )
        offers.sort(key=lambda one: hashlib.blake2b(f"{row.subject}\0{one.subject}".encode(), digest_size=8).digest())
        chosen.append(tuple(offers[:DONORS]))
    return chosen


def row_of_file(image: Path, domain: str, label: Path | None = None, patient: str = "") -> Row:
    """A single file as the row of a cohort that has no other. InputError where it does not exist."""
    for path in filter(None, (image, label)):
        if not path.is_file():
            raise InputError(f"{path} does not exist", expected="an image file")
    name = split_suffix(image)[0]
    return Row(patient or name, name, domain, absolute(image), absolute(label) if label else None)


# --- who is shown ------------------------------------------------------------------------------------------------


def under_pseudonym(row: Row, names: Pseudonyms) -> Row:
    """The row with a pseudonym for patient, examination, session and parents; its files are the same."""
    return replace(
        row,
        patient=names(row.patient),
        subject=names(row.subject),
        session=row.session and names(row.session),
        parents=tuple(map(names, row.parents)),
    )


def by_pseudonym(rows: Iterable[Row], source: Cohort) -> list[Row]:
    """Rows of a synthetic cohort that was made of ``source``: those by its patients' own names, by their pseudonyms."""
    known, names = {row.patient for row in source.rows}, pseudonyms_of(source.path)
    return [under_pseudonym(row, names) if row.patient in known else row for row in rows]


def by_name(rows: Iterable[Row], source: Cohort) -> list[Row]:
    """Inverse of ``by_pseudonym``; an examination that ``source`` does not hold keeps what it is called."""
    names = pseudonyms_of(source.path)
    own = {names(name): name for row in source.rows for name in (row.patient, row.subject, row.session) if name}
    return [
        replace(
            row,
            patient=own.get(row.patient, row.patient),
            subject=own.get(row.subject, row.subject),
            session=own.get(row.session, row.session),
            parents=tuple(own.get(parent, parent) for parent in row.parents),
        )
        for row in rows
    ]


# --- where it goes -----------------------------------------------------------------------------------------------


def _places(rows: Sequence[Row], generator: Generator, source: str, target: str, out: Path) -> list[Path]:
    """``sub-<…>/ses-<…>/sub-<…>_ses-<…>_desc-from<domain>_<target>.nii.gz``, by pseudonyms: one for each row, whatever
    else is generated.

    A source that is a state of the target's own domain is named with its state.
    """
    played, made = generator.domain(source).name, generator.domain(target).name
    origin = generator.experiment.domains[source] if played == made else played
    places = []
    for row in rows:
        folders = [f"sub-{row.subject}"] + ([f"ses-{row.session}"] if row.session else [])
        name = "_".join([*folders, f"desc-from{alphanumeric(origin)}", alphanumeric(made)])
        places.append(out.joinpath(*folders) / f"{name}.nii.gz")
    return places


def _check_apart(jobs: Sequence[Job], before: Sequence[Row], domain: str) -> None:
    """Refuse a second image of one subject and domain: a cohort holds one, so each way needs a folder of its own."""
    there = {(row.subject, row.domain): row.image for row in before}
    for job in jobs:
        other = there.get((job.row.subject, domain), job.image)
        if other != job.image:
            raise InputError(
                f"{other} is already there for subject {job.row.subject}",
                expected="one image of a subject and a domain",
                remedy="another --out",
            )


def _check_ours(digest: str, job: Job) -> None:
    """Refuse early, before anything is made, what can be seen without reading images."""
    if job.overwrite or not job.image.exists():
        return
    found = read_sidecar(job.sidecar).get("GeneratorDigest")
    if found != digest:
        maker = f"made by generator {found}" if found else "not made by a generator"
        raise InputError(
            f"{job.image} exists and was {maker}",
            expected=f"nothing there, or the work of generator {digest}",
            remedy="--overwrite, or another --out",
        )


def rows_before(out: Path) -> list[Row]:
    """Rows of earlier generations into the same folder whose files are still there.

    InputError where the folder is somebody else's: a cohort of real images, or with files that would be written over.
    """
    _refuse_others(out)
    if not (out / "cohort.yaml").is_file():
        return []
    rows = read_cohort(out, require_files=False).rows
    if not all(row.synthetic for row in rows):
        raise InputError(f"{out} holds a cohort of real images", expected="a folder of its own", remedy="another --out")
    return [row for row in rows if row.image.is_file()]


def _refuse_others(out: Path) -> None:
    """InputError where a data set, a table or boxes lie in ``out`` that no generation left there."""
    makers = read_sidecar(out / DESCRIPTION).get("GeneratedBy")
    if isinstance(makers, list) and any(isinstance(one, dict) and one.get("Name") == "ganatomy" for one in makers):
        return
    tables = () if (out / "cohort.yaml").exists() else _WRITTEN
    if taken := next((name for name in (DESCRIPTION, *tables) if (out / name).exists()), None):
        raise InputError(f"{out / taken} is somebody else's, and would be written over",
                         expected="a new folder, or that of an earlier generation", remedy="another --out")  # fmt: skip
