"""Generation: a promoted generator over a cohort or a file, one job an image, into a folder that is itself a cohort.

Jobs know nothing of each other, so they can run anywhere and in any order; each can be repeated. What is finished is
kept, what differs is refused. Every image has a sidecar that says what made it and from what (BIDS derivatives).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import nibabel as nib
import numpy as np

from ganatomy.cohorts.cohort import Cohort, Row, prepare_image
from ganatomy.contracts import InputError
from ganatomy.core.durable import put_in_place
from ganatomy.core.names import fitted_name
from ganatomy.core.tables import absolute, write_json
from ganatomy.generation.jobs import DESCRIPTION, Job, by_name, by_pseudonym, plan_generation, rows_before
from ganatomy.generation.outputs import file_digest, like_source, read_sidecar, smallest, stored_labels, stored_mask
from ganatomy.generators.generator import Generator, load_generator
from ganatomy.images.imaging import Prepared, load_image, to_native
from ganatomy.images.intensities import Intensity
from ganatomy.stages.donors import fits, label_like, label_shown
from ganatomy.training.inference import MAX_VOXELS

FOUND_OUT = ("GeneratedBy", "OutputDigest", "IntensityRange", "LabelFile", "LabelDigest", "LabelSource", "LabelDonor",
             "MaskFile", "MaskDigest", "Maps")  # fmt: skip
"""What a sidecar says that is known only when the image is made. It follows from the rest, but for ``GeneratedBy``:
another release of the package does not make another image, the generator's digest says what made it."""


@dataclass(frozen=True)
class Result:
    """What became of a job. row: the made image in a cohort, None when it failed.  error: why it failed, one line."""

    job: Job
    status: Literal["made", "kept", "failed"]
    row: Row | None = None
    error: str = ""


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
    generator: Generator, results: Iterable[Result], out: Path | str, source: Cohort | None, keep_names: bool = False
) -> Cohort:
    """Make ``out`` a cohort of all that is in it, from this and earlier runs.

    source: the cohort it was made from, whose labels and licence it inherits.  keep_names: its table names patients and
    examinations as ``source`` does, instead of by pseudonym. Raises InputError when nothing was made.
    """
    return write_cohort(generator, [one.row for one in results if one.row is not None], out, source, keep_names)


def write_cohort(
    generator: Generator, made_rows: Iterable[Row], out: Path | str, source: Cohort | None, keep_names: bool = False
) -> Cohort:
    """Make ``out`` a cohort of ``made_rows`` and of what earlier runs left there; see ``finish_generation``."""
    out = absolute(out)
    found = [*rows_before(out), *made_rows]
    if source is not None and source.rows:  # earlier ones may be named the other way
        found = (by_name if keep_names else by_pseudonym)(found, source)
    rows = {row.image: row for row in found}
    if not rows:
        raise InputError(f"nothing was made in {out}", remedy="see what each image failed for")
    rules = source or generator.rules
    # A made image is bound by the licence of what it was made from, and of what the generator learnt from.
    licences = dict.fromkeys(filter(None, (generator.rules.licence, rules.licence)))
    made = replace(
        rules,
        path=out,
        name=fitted_name(f"{rules.name}-synthetic"),
        domains={row.domain: generator.rules.domains[row.domain] for row in rows.values()},
        disjoint_domains=False,
        licence="; ".join(licences),
        rows=tuple(rows[image] for image in sorted(rows)),
        quarantined=(),
        set_aside=(),
    )
    description = {"Name": made.name, "BIDSVersion": "1.9.0", "DatasetType": "derivative", "License": made.licence,
                   "GeneratedBy": [maker(generator)],
                   "PatientNames": "those of the cohort" if keep_names else "pseudonyms"}  # fmt: skip
    write_json(out / DESCRIPTION, description)
    return made.save()


def generate(
    generator: Generator,
    source: Cohort | Path | str,
    out: Path | str,
    *,
    progress: Callable[[Result], None] = lambda result: None,
    max_voxels: int = MAX_VOXELS,
    keep_names: bool = False,
    **options: Any,
) -> list[Result]:
    """Plan, run every job in this process, and finish. ``options`` are those of ``plan_generation``."""
    results = []
    for job in plan_generation(generator, source, out, **options):
        results.append(run_job(generator.directory, job, device=str(generator.device), max_voxels=max_voxels))
        progress(results[-1])
    finish_generation(generator, results, out, source if isinstance(source, Cohort) else None, keep_names)
    return results


# --- one job -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _loaded(bundle: str, device: str) -> Generator:
    """A generator for all jobs that one process runs."""
    return load_generator(bundle, device)


def _run(generator: Generator, job: Job, max_voxels: int) -> Result:
    described = _provenance(generator, job)
    if _finished(job, described):
        return Result(job, "kept", _made_row(generator, job, read_sidecar(job.sidecar)))
    _refuse_in_the_way(job, described, [job.image, job.beside("dseg")])
    outputs = _outputs(generator, job, max_voxels)
    _refuse_in_the_way(job, described, list(outputs.files))
    job.image.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.image.parent, prefix=".part-") as part:
        written = {}
        for place, content in outputs.files.items():
            written[place] = Path(part) / place.name
            nib.save(content, written[place])
        digests = {place.name: file_digest(path) for place, path in written.items()}
        # The sidecar goes first, and says what the bytes of all others will be: an interruption in between shows.
        sidecar = {**described, "GeneratedBy": [maker(generator)], **outputs.described(digests, job)}
        write_json(job.sidecar, sidecar)
        for place, path in written.items():
            put_in_place(path, place)
    return Result(job, "made", _made_row(generator, job, sidecar))


@dataclass(frozen=True)
class _Outputs:
    """What is to be written of a job. files: place -> the NIfTI, none of them a copy; the image itself comes last.

    span: native values that -1 and +1 stand for.  donor: whose label was drawn into the image, if any.
    """

    files: Mapping[Path, nib.Nifti1Image]
    span: tuple[float, float]
    label: Path | None
    mask: Path | None
    label_source: str
    maps: Mapping[str, Path]
    donor: Row | None

    def described(self, digests: Mapping[str, str], job: Job) -> dict[str, Any]:
        """What of the sidecar is known now. digests: file name -> hash of its bytes."""
        parents = [job.row] + ([self.donor] if self.donor else [])
        return {
            "OutputDigest": digests[job.image.name],
            "IntensityRange": list(self.span),
            "LabelSource": self.label_source,
            "LabelFile": self.label and self.label.name,
            "LabelDigest": self.label and digests[self.label.name],
            "LabelDonor": self.donor and self.donor.subject,
            "Sources": [f"{job.cohort or 'file'}:{row.patient}" for row in parents],
            "MaskFile": self.mask and self.mask.name,
            "MaskDigest": self.mask and digests[self.mask.name],
            "Maps": {
                name: {"File": place.name, "Digest": digests[place.name], "Range": [0, 1]}
                for name, place in self.maps.items()
            },
        }


def _outputs(generator: Generator, job: Job, max_voxels: int) -> _Outputs:
    """The image that the generator makes, the label it has, and its maps, in native values on the grid of its file."""
    prepared = prepare_image(job.row, replace(generator.rules, labels=job.labels, label_values=job.label_values))
    # A method may look at labels, but only at those whose numbers mean what they meant in training.
    agree = job.labels == generator.rules.labels
    label, donor, kept = prepared.label if agree else None, None, None
    if job.donors:
        label, donor, kept = _donated(generator, job, prepared)
    made = generator.make(prepared.image, job.source, label, max_voxels)[job.target]

    def on_grid(volume: np.ndarray, order: int, empty: float) -> np.ndarray:
        if kept is not None:
            volume = np.where(kept[:, None, None], volume, np.asarray(empty, volume.dtype))
        return to_native(volume, prepared, order, empty)

    span = _span(generator, job, prepared)
    files: dict[Path, nib.Nifti1Image] = {}
    place, label_source = None, "none"
    given = label if donor else prepared.label
    shown = label_shown(made, given, generator.method, generator.experiment, job.source, job.target)
    if donor is None and shown is not None and shown is prepared.label:
        place, label_source = job.label, "carried over unchanged from the source image"
        files[cast(Path, place)] = stored_labels(cast(Path, job.row.label), prepared.native_affine)
    elif shown is not None and (agree or not shown.any()):
        place = job.beside("dseg")
        label_source = "given by the method: what the image shows" if donor is None else "of another patient, drawn in"
        stored = _stored_labels(on_grid(shown, 0, 0), job)
        files[place] = like_source(job.row.image, stored, prepared.native_affine, dtype=smallest(stored))
    maps = {name: job.beside("probseg", label=name) for name in made.maps}
    for name, volume in made.maps.items():
        files[maps[name]] = like_source(job.row.image, on_grid(volume, 1, 0.0), prepared.native_affine)
    mask = job.beside("mask") if job.row.mask and generator.domain(job.target).intensity.mask == "file" else None
    if mask is not None:  # the table must not lead back to a file of the source
        files[mask] = stored_mask(cast(Path, job.row.mask), prepared.native_affine)
    files[job.image] = _native_image(generator, job, on_grid(made.image, 1, -1.0), span, prepared.native_affine)
    return _Outputs(files, span, place, mask, label_source, maps, donor)


def _native_image(
    generator: Generator, job: Job, image: np.ndarray, span: tuple[float, float], affine: np.ndarray
) -> nib.Nifti1Image:
    """``image`` [x, y, z] in [-1, 1], in native values, as its source is stored."""
    low, high = span
    values = Intensity.invert(image, low, high)
    background = _background(generator, job)
    if background is not None:
        empty = empty_value(generator.domain(job.target).intensity, low, high)
        values[background] = empty
        low = min(low, empty)
    return like_source(job.row.image, values, affine, (low, high))


def _span(generator: Generator, job: Job, prepared: Prepared) -> tuple[float, float]:
    """Native values of -1 and +1: the image's own where it stays in its domain, else what is usual in the other."""
    if generator.domain(job.source) == generator.domain(job.target):
        return prepared.lo, prepared.hi
    return generator.ranges[job.target]


def _stored_labels(ids: np.ndarray, job: Job) -> np.ndarray:
    """Class ids as the source's label files store them; of several values for a class the smallest."""
    if not job.label_values:
        return ids
    stored = np.zeros(max(job.label_values.values()) + 1, np.int64)
    for value in sorted(job.label_values, reverse=True):
        stored[job.label_values[value]] = value
    stored[0] = 0
    return stored[ids]


def _donated(generator: Generator, job: Job, prepared: Prepared) -> tuple[np.ndarray, Row, np.ndarray | None]:
    """A label to draw into the image, whose it is, and in 2D which of its slices [D] it is drawn into: those in the
    state that the source role asks for."""
    sampling, state = generator.experiment.sampling, generator.experiment.state(job.source)
    chosen = np.ones(len(prepared.image), bool)
    if prepared.label is not None and state:
        lesion = prepared.label.any(axis=(1, 2)) if sampling.ndim == 2 else prepared.label.any()
        chosen &= lesion == (state == "lesion")
    if not chosen.any():
        raise InputError(f"{job.row.image} shows nothing in state {state}", remedy="leave it out")
    rules = replace(generator.rules, label_values=job.label_values)
    for donor in job.donors:
        theirs = prepare_image(donor, rules).label
        if theirs is not None:
            label = label_like(theirs, prepared.image, chosen, sampling.ndim == 2)
            if fits(label, prepared.image):
                return label, donor, chosen if sampling.ndim == 2 else None
    raise InputError(
        f"none of {len(job.donors)} labels fits into {job.row.image}",
        expected="a label that lies in the body at the same height",
        remedy="a cohort with more labelled patients in this split",
    )


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


def empty_value(intensity: Intensity, low: float, high: float) -> float:
    """The native value that the target's own rule takes for background."""
    below_all = low - 0.01 * (high - low)
    return 0.0 if intensity.mask != "above_minimum" or low > 0 else below_all


def _provenance(generator: Generator, job: Job) -> dict[str, Any]:
    """What the sidecar says before anything is made."""
    source, target, row = generator.domain(job.source), generator.domain(job.target), job.row
    return {
        "Description": f"Synthetic {target.modality} made from a {source.modality} image. Not for diagnosis.",
        "Synthetic": True,
        "GeneratorDigest": generator.digest,
        "Sources": [f"{job.cohort or 'file'}:{row.patient}"],
        "SourceDigest": file_digest(row.image),
        "SourceLabelDigest": None if row.label is None else file_digest(row.label),
        "SourceRole": job.source,
        "SourceDomain": source.name,
        "Role": job.target,
        "Domain": target.name,
        "Modality": target.modality,
        "Split": row.split,
        "Seed": generator.experiment.seed,
        "FilterScore": None,
        "IntensityRule": target.intensity.text(),
    }


def maker(generator: Generator) -> dict[str, str]:
    """One entry of BIDS's GeneratedBy."""
    made_by = f"{generator.experiment.method.name}, generator {generator.digest}"
    return {"Name": "ganatomy", "Version": version("ganatomy"), "Description": made_by}


def _finished(job: Job, described: dict[str, Any]) -> bool:
    """Whether all is there, and byte for byte what this job leaves."""
    found = read_sidecar(job.sidecar)
    if not _agrees(found, described) or (job.donors and _donor(job, found) is None):
        return False
    files = _digests(job, found)
    return bool(files) and all(place.exists() and file_digest(place) == digest for place, digest in files.items())


def _refuse_in_the_way(job: Job, described: dict[str, Any], places: Sequence[Path]) -> None:
    """InputError where a file in the job's place is not what the job itself, interrupted, would have left."""
    if job.overwrite:
        return
    found = read_sidecar(job.sidecar)
    known = _digests(job, found)
    strange = [place for place in places if place.exists() and file_digest(place) != known.get(place)]
    if job.sidecar.exists() and not _agrees(found, described):
        strange.append(job.sidecar)
    if job.image.exists():
        strange.append(job.image)  # the last to be written, so it would have been finished
    if strange:
        raise InputError(
            f"{strange[0]} exists and is not what this generator makes of {job.row.image}",
            expected="an empty place, or what the same generation left",
            remedy="--overwrite, or another --out",
        )


def _agrees(found: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
    """Whether a sidecar tells of the same job. Of the sources the first is the image; a donor's is found out."""
    told = {**found, "Sources": list(found.get("Sources") or ())[:1]}
    return {key: value for key, value in told.items() if key not in FOUND_OUT} == dict(described)


def _digests(job: Job, sidecar: Mapping[str, Any]) -> dict[Path, str]:
    """Place -> digest of the files that a sidecar tells of."""
    if "OutputDigest" not in sidecar:
        return {}
    files = {job.image.name: sidecar["OutputDigest"]}
    if sidecar.get("LabelFile"):
        files[sidecar["LabelFile"]] = sidecar["LabelDigest"]
    if sidecar.get("MaskFile"):
        files[sidecar["MaskFile"]] = sidecar["MaskDigest"]
    files |= {one["File"]: one["Digest"] for one in (sidecar.get("Maps") or {}).values()}
    return {job.image.with_name(name): digest for name, digest in files.items()}


def _donor(job: Job, sidecar: Mapping[str, Any]) -> Row | None:
    named = sidecar.get("LabelDonor")
    return next((row for row in job.donors if named == row.subject), None)


def _made_row(generator: Generator, job: Job, sidecar: Mapping[str, Any]) -> Row:
    """The made image inherits patient, subject and split, so that it can never carry a test patient into training."""
    target, donor = generator.domain(job.target), _donor(job, sidecar)
    label, mask = sidecar["LabelFile"], sidecar.get("MaskFile")
    return replace(
        job.row,
        domain=target.name,
        image=job.image,
        label=job.image.with_name(label) if label else None,
        channel=None,
        mask=job.image.with_name(mask) if mask else None,
        klass=generator.experiment.state(job.target) or job.row.klass,
        synthetic=True,
        parents=(job.row.subject, *([donor.subject] if donor else [])),
    )
