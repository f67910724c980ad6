"""Generation: a promoted generator over a cohort or a file, one job an image, into a folder that is itself a cohort.

Jobs know nothing of each other, so they can run anywhere and in any order; each can be repeated. What is finished is
kept, what differs is refused. Every image has a sidecar that says what made it and from what (BIDS derivatives).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import nibabel as nib
import numpy as np

from ganatomy.cohort import Cohort, Row, prepare_image, read_cohort
from ganatomy.contracts import InputError
from ganatomy.experiment import pseudonym
from ganatomy.generator import Generator, load_generator, write_json
from ganatomy.imaging import RASTER, Intensity, load_image, to_native
from ganatomy.inference import MAX_VOXELS
from ganatomy.tables import absolute

INTEGER_LEVELS = 255
"""A made image keeps its source's integer type only where its native range spans at least so many whole numbers."""


@dataclass(frozen=True)
class Job:
    """One image to make. Plain values, so that it can be sent anywhere.

    row: the source image.  source, target: roles.  image: the file to write; its sidecar and label lie beside it.
    cohort: name of the source cohort ("" for a file), which pseudonyms are relative to.
    labels, label_values: what the numbers in the label file mean, as in ``Cohort``.
    overwrite: replace what is there and differs.
    """

    row: Row
    source: str
    target: str
    image: Path
    cohort: str = ""
    labels: Mapping[int, str] = field(default_factory=dict)
    label_values: Mapping[int, int] = field(default_factory=dict)
    overwrite: bool = False

    @property
    def sidecar(self) -> Path:
        """Where the provenance goes."""
        return self.image.with_name(_split_suffix(self.image)[0] + ".json")

    @property
    def label(self) -> Path | None:
        """Where the source's label goes; None where it has none."""
        if self.row.label is None:
            return None
        entities, _, _ = self.image.name.rpartition("_")
        return self.image.with_name(f"{entities}_dseg{_split_suffix(self.row.label)[1]}")


@dataclass(frozen=True)
class Result:
    """What became of a job. row: the made image in a cohort, None when it failed.  error: why it failed, one line."""

    job: Job
    status: Literal["made", "kept", "failed"]
    row: Row | None = None
    error: str = ""


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
    overwrite: bool = False,
) -> list[Job]:
    """One job for each real image of the source domain, and nothing written yet.

    source: a cohort, or one image file (then ``label`` and ``patient`` may be told).  source_role, target_role: a role
    or a domain; by default what leads to the domain that the generator was promoted for.  splits: only these.
    overwrite: replace what another generator, or another image, left in ``out``; without it that is an InputError, as
    it is when there is nothing to do.
    """
    out = absolute(out)
    role, target = generator.route(source_role, target_role)
    domain = generator.domain(role).name
    if isinstance(source, Cohort):
        rows, rules, name = _rows_of(source, domain, splits), source, source.name
    else:
        rows, rules, name = [_row_of(Path(source), domain, label, patient)], generator.rules, ""
    _rows_before(out)  # refuses the folder of a real cohort
    jobs = [
        Job(row, role, target, place, name, dict(rules.labels), dict(rules.label_values), overwrite)
        for row, place in zip(rows, _places(rows, generator.domain(target).name, out))
    ]
    for job in jobs:
        _check_ours(generator.digest, job)
    return jobs


def run_job(bundle: Path | str, job: Job, *, device: str = "cpu", max_voxels: int = MAX_VOXELS) -> Result:
    """Make one image with the generator in the folder ``bundle``; nothing that the user gave stops the other jobs.

    An image that cannot be used (or an output that may not be replaced) gives a failed Result that says why.
    """
    generator = _loaded(str(bundle), device)
    try:
        return _run(generator, job, max_voxels)
    except InputError as error:
        return Result(job, "failed", error=str(error))
    except OSError as error:  # a full disc, a folder that may not be written
        return Result(job, "failed", error=f"{job.image} cannot be written: {error.strerror or error}")


def finish_generation(
    generator: Generator, results: Iterable[Result], out: Path | str, source: Cohort | None = None
) -> Cohort:
    """Make ``out`` a cohort of all that is in it, from this and earlier runs.

    source: the cohort it was made from, whose labels and licence it inherits. Raises InputError when nothing was made.
    """
    out = absolute(out)
    rows = {row.image: row for row in _rows_before(out)}
    rows |= {result.row.image: result.row for result in results if result.row is not None}
    if not rows:
        raise InputError(f"nothing was made in {out}", remedy="see what each image failed for")
    rules = source or generator.rules
    # A made image is bound by the licence of what it was made from, and of what the generator learnt from.
    licences = dict.fromkeys(filter(None, (generator.rules.licence, rules.licence)))
    made = replace(
        rules,
        path=out,
        name=f"{rules.name}-synthetic",
        domains={row.domain: generator.rules.domains[row.domain] for row in rows.values()},
        disjoint_domains=False,
        licence="; ".join(licences),
        rows=tuple(rows[image] for image in sorted(rows)),
        quarantined=(),
        set_aside=(),
    )
    description = {"Name": made.name, "BIDSVersion": "1.9.0", "DatasetType": "derivative", "License": made.licence,
                   "GeneratedBy": [_maker(generator)]}  # fmt: skip
    write_json(out / "dataset_description.json", description)
    return made.save()


def generate(
    generator: Generator,
    source: Cohort | Path | str,
    out: Path | str,
    *,
    progress: Callable[[Result], None] = lambda result: None,
    max_voxels: int = MAX_VOXELS,
    **options: Any,
) -> list[Result]:
    """Plan, run every job in this process, and finish. ``options`` are those of ``plan_generation``."""
    results = []
    for job in plan_generation(generator, source, out, **options):
        results.append(run_job(generator.directory, job, device=str(generator.device), max_voxels=max_voxels))
        progress(results[-1])
    finish_generation(generator, results, out, source if isinstance(source, Cohort) else None)
    return results


# --- one job -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _loaded(bundle: str, device: str) -> Generator:
    """A generator for all jobs that one process runs."""
    return load_generator(bundle, device)


def _run(generator: Generator, job: Job, max_voxels: int) -> Result:
    described = _provenance(generator, job)
    if _finished(job, described):
        return Result(job, "kept", _made_row(generator, job))
    if (there := _in_the_way(job, described)) and not job.overwrite:
        raise InputError(
            f"{there} exists and is not what this generator makes of {job.row.image}",
            expected="an empty place, or what the same generation left",
            remedy="--overwrite, or another --out",
        )
    image = _made_image(generator, job, max_voxels)
    job.image.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.image.parent, prefix=".part-") as part:
        beside = Path(part) / "image.nii.gz"
        nib.save(image, beside)
        # The sidecar goes first, and says what the image's bytes will be: an interruption between the two shows.
        write_json(job.sidecar, {**described, "OutputDigest": _file_digest(beside)})
        if job.label and job.row.label:
            shutil.copyfile(job.row.label, Path(part) / "label").replace(job.label)
        beside.replace(job.image)
    return Result(job, "made", _made_row(generator, job))


def _made_image(generator: Generator, job: Job, max_voxels: int) -> nib.Nifti1Image:
    """What the generator makes of the job's image, in native values on the grid of its file."""
    rules = replace(generator.rules, labels=job.labels, label_values=job.label_values)
    prepared = prepare_image(job.row, rules)
    # A method may look at labels, but only at those whose numbers mean what they meant in training.
    label = prepared.label if job.labels == generator.rules.labels else None
    made = generator.synthesize(prepared.image, job.source, label, max_voxels)[job.target]
    low, high = generator.ranges[job.target]
    values = Intensity.invert(to_native(made, prepared, order=1), low, high)
    background = _background(generator, job)
    if background is not None:
        empty = _empty_value(generator.domain(job.target).intensity, low, high)
        values[background] = empty
        low = min(low, empty)
    return _like_source(job.row.image, values, low, high, prepared.native_affine)


def _background(generator: Generator, job: Job) -> np.ndarray | None:
    """Voxels [x, y, z] of the source outside its mask, where the target domain has a mask too; else None.

    They were taken out of both domains before training (skull-stripped heads, say), so they stay out.
    """
    source, target = generator.domain(job.source).intensity, generator.domain(job.target).intensity
    if "none" in (source.mask, target.mask):
        return None
    volume, _ = load_image(job.row.image, job.row.channel)
    mask = load_image(job.row.mask, as_label=True)[0] if job.row.mask else None
    inside = source.foreground(volume, mask)
    return None if inside is None else ~inside


def _empty_value(intensity: Intensity, low: float, high: float) -> float:
    """The native value that the target's own rule takes for background."""
    below_all = low - 0.01 * (high - low)
    return 0.0 if intensity.mask != "above_minimum" or low > 0 else below_all


def _provenance(generator: Generator, job: Job) -> dict[str, Any]:
    """The sidecar but for the digest of the image itself. Patients appear as pseudonyms only."""
    source, target, row = generator.domain(job.source), generator.domain(job.target), job.row
    return {
        "Description": f"Synthetic {target.modality} made from a {source.modality} image. Not for diagnosis.",
        "Synthetic": True,
        "GeneratedBy": [_maker(generator)],
        "GeneratorDigest": generator.digest,
        "Sources": [f"{job.cohort or 'file'}:{pseudonym(row.patient, job.cohort)}"],
        "SourceDigest": _file_digest(row.image),
        "SourceRole": job.source,
        "SourceDomain": source.name,
        "Role": job.target,
        "Domain": target.name,
        "Modality": target.modality,
        "Split": row.split,
        "LabelSource": "none" if row.label is None else "carried over unchanged from the source image",
        "LabelDigest": None if row.label is None else _file_digest(row.label),
        "Seed": generator.experiment.seed,
        "FilterScore": None,
        "IntensityRange": list(generator.ranges[job.target]),
        "IntensityRule": target.intensity.text(),
    }


def _maker(generator: Generator) -> dict[str, str]:
    """One entry of BIDS's GeneratedBy."""
    made_by = f"{generator.experiment.method.name}, generator {generator.digest}"
    return {"Name": "ganatomy", "Version": version("ganatomy"), "Description": made_by}


def _finished(job: Job, described: dict[str, Any]) -> bool:
    """Whether image, label and sidecar are all there, and byte for byte what this job leaves."""
    if not job.image.exists() or (job.label and not job.label.exists()) or _in_the_way(job, described, image=False):
        return False
    return bool(_read_sidecar(job.sidecar).get("OutputDigest") == _file_digest(job.image))


def _in_the_way(job: Job, described: dict[str, Any], *, image: bool = True) -> Path | None:
    """A file in the job's place that the job itself, finished or interrupted, would not have left."""
    if job.label and job.label.exists() and _file_digest(job.label) != described["LabelDigest"]:
        return job.label
    found = _read_sidecar(job.sidecar)
    # Another release of the package does not make another image: the generator's digest says what made it.
    ours = {**described, "GeneratedBy": found.get("GeneratedBy"), "OutputDigest": found.get("OutputDigest")}
    if job.sidecar.exists() and found != ours:
        return job.sidecar
    return job.image if image and job.image.exists() else None


def _made_row(generator: Generator, job: Job) -> Row:
    """The made image inherits patient, subject and split, so that it can never carry a test patient into training."""
    target = generator.domain(job.target)
    return replace(
        job.row,
        domain=target.name,
        image=job.image,
        label=job.label,
        channel=None,
        mask=job.row.mask if target.intensity.mask == "file" else None,
        synthetic=True,
        parents=(job.row.subject,),
    )


def _like_source(source: Path, values: np.ndarray, low: float, high: float, affine: np.ndarray) -> nib.Nifti1Image:
    """``values`` in a NIfTI with the source's grid, codes and units, and nothing that names anybody."""
    header, kind, stored = None, nib.Nifti1Image, np.dtype(np.uint8)
    if source.suffix.lower() not in RASTER:
        original = cast(Any, nib.load(source))
        stored = original.get_data_dtype()
        if values.size == math.prod(original.shape):
            values = values.reshape(original.shape)  # a source [X, Y, Z, 1] stays one
        if isinstance(original, nib.Nifti1Pair):
            header, affine = original.header.copy(), original.affine
            kind = nib.Nifti2Image if isinstance(original, nib.Nifti2Pair) else nib.Nifti1Image
    dtype = _output_type(stored, low, high)
    if np.issubdtype(dtype, np.integer):
        values = np.rint(values)
    image = kind(values.astype(dtype), affine, header=header)
    image.header.set_data_dtype(dtype)
    image.header.extensions.clear()
    for name, blank in _BLANK.items():
        if name in image.header:
            image.header[name] = blank
    if header is None:
        image.header.set_xyzt_units("mm")
    return image


_BLANK = {"descrip": b"synthetic", "aux_file": b"", "db_name": b"", "intent_name": b"", "cal_min": 0, "cal_max": 0}
"""Header fields that could name somebody, or that speak of the source's intensities."""


def _output_type(stored: np.dtype, low: float, high: float) -> np.dtype:
    """The source's integer type where it holds the native range finely enough, else float32."""
    if np.issubdtype(stored, np.integer):
        limits = np.iinfo(stored)
        if limits.min <= low and high <= limits.max and high - low >= INTEGER_LEVELS:
            return stored
    return np.dtype(np.float32)


# --- planning ----------------------------------------------------------------------------------------------------


def _rows_of(cohort: Cohort, domain: str, splits: Sequence[str] | None) -> list[Row]:
    """The cohort's real images of a domain, in the given splits."""
    rows = [row for row in cohort.rows_of(domain) if not row.synthetic and (splits is None or row.split in splits)]
    if not rows:
        present = ", ".join(sorted({row.domain for row in cohort.rows})) or "none"
        within = f" in split {', '.join(splits)}" if splits else ""
        raise InputError(
            f"cohort {cohort.name} has no real image of domain {domain!r}{within}",
            expected="images of the domain that the generator translates from",
            remedy=f"its domains: {present}",
        )
    return rows


def _row_of(image: Path, domain: str, label: Path | None, patient: str) -> Row:
    for path in filter(None, (image, label)):
        if not path.is_file():
            raise InputError(f"{path} does not exist", expected="an image file")
    name = _split_suffix(image)[0]
    return Row(patient or name, name, domain, absolute(image), absolute(label) if label else None)


def _places(rows: Sequence[Row], target: str, out: Path) -> list[Path]:
    """``sub-01/ses-2/sub-01_ses-2_desc-from<domain>_<target>.nii.gz``: one for each row, whatever else is generated.

    BIDS names hold letters and digits only; a subject whose name holds more gets a tag that keeps it apart.
    """
    places = []
    for row in rows:
        subject, session = _alphanumeric(row.subject), _alphanumeric(row.session)
        tag = "" if subject == row.subject else hashlib.blake2b(row.subject.encode(), digest_size=3).hexdigest()
        folders = [f"sub-{subject}{tag}"] + ([f"ses-{session}"] if session else [])
        name = "_".join([*folders, f"desc-from{_alphanumeric(row.domain)}", _alphanumeric(target)])
        places.append(out.joinpath(*folders) / f"{name}.nii.gz")
    return places


def _check_ours(digest: str, job: Job) -> None:
    """Refuse early, before anything is made, what can be seen without reading images."""
    if job.overwrite or not job.image.exists():
        return
    found = _read_sidecar(job.sidecar).get("GeneratorDigest")
    if found != digest:
        maker = f"made by generator {found}" if found else "not made by a generator"
        raise InputError(
            f"{job.image} exists and was {maker}",
            expected=f"nothing there, or the work of generator {digest}",
            remedy="--overwrite, or another --out",
        )


def _rows_before(out: Path) -> list[Row]:
    """Rows of earlier generations into the same folder whose files are still there."""
    if not (out / "cohort.yaml").is_file():
        return []
    rows = read_cohort(out, require_files=False).rows
    if not all(row.synthetic for row in rows):
        raise InputError(f"{out} holds a cohort of real images", expected="a folder of its own", remedy="another --out")
    return [row for row in rows if row.image.is_file()]


# --- names and files ---------------------------------------------------------------------------------------------


def _alphanumeric(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", name)


def _split_suffix(path: Path) -> tuple[str, str]:
    """Name and ending, where a compression belongs to the ending: (``scan``, ``.nii.gz``)."""
    inner = Path(path.stem) if path.suffix in (".gz", ".bz2", ".zst") else path
    return inner.stem, path.name.removeprefix(inner.stem)


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _read_sidecar(path: Path) -> dict[str, Any]:
    """What a sidecar says; nothing where there is none or it is damaged."""
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
