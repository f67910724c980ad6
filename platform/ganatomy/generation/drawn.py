"""Generation from noise: registered images of every domain of a generator that draws, and the label they all show.

A drawn subject is a function of (generator, labels, seed, number), so that a run can go on where it ended and anybody
can draw it again. All its files appear together: a folder that has its name is complete. Images of a 2D generator are
single slices, NIfTI [X, Y, 1].
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch

from ganatomy.cohorts.cohort import Cohort, Row, prepare_image
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.contracts import InputError
from ganatomy.core.durable import keep_private
from ganatomy.core.plain_values import digest
from ganatomy.core.tables import absolute, write_json
from ganatomy.generation.jobs import rows_before, under_pseudonym
from ganatomy.generation.outputs import alphanumeric, file_digest, output_type, read_sidecar, split_suffix
from ganatomy.generation.translated import empty_value, maker, write_cohort
from ganatomy.generators.generator import Generator
from ganatomy.images.imaging import load_native, prepare
from ganatomy.images.intensities import Intensity
from ganatomy.stages.drawing import TRIES, Subject, centred, draw_one, labels_in, size_for, stacked

NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class LabelPool:
    """Labels to draw from. labels: int64 [M, *S].  rows, affines: of the image that each one is of, by pseudonym.

    cohort: name of the one they are of; "" for files.
    """

    labels: torch.Tensor
    rows: tuple[Row, ...]
    affines: tuple[np.ndarray, ...]
    cohort: str = ""

    @property
    def digest(self) -> str:
        """Hash of the labels themselves: another pool draws other subjects."""
        return hashlib.blake2b(self.labels.numpy().tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class DrawnResult:
    """A subject that is there. rows: its images in the cohort to be."""

    number: int
    status: Literal["made", "kept"]
    rows: tuple[Row, ...]


def pool_of_cohort(generator: Generator, cohort: Cohort, splits: Sequence[str] = ("train",)) -> LabelPool:
    """The labels of a cohort's real images of the domain that the generator was promoted for.

    splits: whose labels; synthetic subjects inherit patient and split. Raises InputError where there are none, and
    where a class means something else than it did in training.
    """
    if cohort.labels != generator.rules.labels:
        raise InputError(
            f"cohort {cohort.name} has labels {dict(cohort.labels)}",
            expected=f"those that the generator draws: {dict(generator.rules.labels)}",
        )
    domain = generator.domain(generator.experiment.target).name
    rows = [
        row
        for row in cohort.rows_of(domain)
        if row.label is not None and not row.synthetic and row.split in (*splits, "")
    ]
    rules = replace(generator.rules, label_values=cohort.label_values)
    found = [(row, prepared.label, prepared.affine) for row in rows for prepared in [prepare_image(row, rules)]]
    problem = f"cohort {cohort.name} has no {domain} label in split {' '.join(splits)}"
    return _pool(generator, found, cohort.name, problem, pseudonyms_of(cohort.path))


def pool_of_files(generator: Generator, paths: Sequence[Path], names: Pseudonyms) -> LabelPool:
    """The labels in NIfTI files, or in all those of a folder: each file a patient of its own, called as it is.

    names: whose key pseudonyms are under. Raises InputError for files that hold other values than the generator's label
    files did.
    """
    files = sorted(file for path in paths for file in (path.iterdir() if path.is_dir() else [path]))
    files = [absolute(file) for file in files if file.name.endswith(NIFTI)]
    rules, domain = generator.rules, generator.domain(generator.experiment.target).name
    found = []
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} does not exist", expected="a label file")
        native = load_native(file, file, label_values=rules.label_values, classes=rules.classes)
        prepared = prepare(native, Intensity("window", 0, 255), rules.spacing)
        name = split_suffix(file)[0]
        found.append((Row(name, name, domain, file, file, "train"), prepared.label, prepared.affine))
    return _pool(generator, found, "", f"no label in {', '.join(map(str, paths)) or 'no file'}", names)


def generate_drawn(
    generator: Generator,
    pool: LabelPool,
    out: Path | str,
    count: int,
    *,
    seed: int = 0,
    overwrite: bool = False,
    source: Cohort | None = None,
    keep_names: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[DrawnResult]:
    """``count`` subjects ``drawn-0001`` … in the folder ``out``, which becomes a cohort; what is there already stays.

    A number whose subject fails the method's own checks is left out. Fewer than ``count`` come of it where ``TRIES``
    times as many numbers hold no more. overwrite: replace what something else left in a subject's place.
    source: the cohort whose licence is inherited.  keep_names: the table names patients as it does. Raises InputError
    when nothing was made.
    """
    if not generator.method.draws_from_noise:
        raise InputError(
            f"the generator ({generator.experiment.method.name}) draws no images of noise",
            expected="a method that does, for --count",
            remedy="leave --count out: it translates images",
        )
    out = absolute(out)
    rows_before(out)  # refuses the folder of a real cohort
    results: list[DrawnResult] = []
    for number in itertools.islice(itertools.count(1), TRIES * count):
        result = _subject(generator, pool, out, number, seed, overwrite)
        if result is not None:
            results.append(result)
            progress(len(results), count)
        if len(results) == count:
            break
    rules = replace(source or generator.rules, label_values={})  # labels are written as class ids
    write_cohort(generator, [row for result in results for row in result.rows], out, rules, keep_names)
    return results


# --- one subject -------------------------------------------------------------------------------------------------


def _subject(
    generator: Generator, pool: LabelPool, out: Path, number: int, seed: int, overwrite: bool
) -> DrawnResult | None:
    """The subject of this number, there already or made now; None where it fails the method's own checks."""
    place, known = out / f"sub-drawn{number:04d}", _known(generator, pool, number, seed)
    if _finished(generator, place, known):
        donor = pool.rows[int(_sidecar(generator, place, generator.experiment.target)["LabelNumber"])]
        return DrawnResult(number, "kept", _rows(generator, place, number, donor))
    if place.exists() and not overwrite:
        raise InputError(
            f"{place} exists and is not what this generator draws with this seed and these labels",
            expected="an empty place, or what the same generation left",
            remedy="--overwrite, or another --out",
        )
    subject = draw_one(generator.method, pool.labels, number, seed)
    if subject is None:
        return None
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
        made = Path(part) / place.name
        made.mkdir()
        _write(generator, pool, subject, made, known)
        if place.exists():
            replaced = place.rename(Path(part) / "replaced")
            keep_private(made, replaced)
        made.rename(place)
    return DrawnResult(number, "made", _rows(generator, place, number, pool.rows[subject.donor]))


def _write(generator: Generator, pool: LabelPool, subject: Subject, folder: Path, known: Mapping[str, Any]) -> None:
    donor, affine = pool.rows[subject.donor], centred(pool.affines[subject.donor], subject.label.shape)
    label = folder / _label_name(folder.name)
    nib.save(_nifti(subject.label, affine, np.uint8), label)
    if any(generator.domain(role).intensity.mask == "file" for role in subject.images):
        body = np.ones_like(subject.label) if subject.outside is None else ~subject.outside
        nib.save(_nifti(body, affine, np.uint8), folder / _mask_name(folder.name))
    for role, image in subject.images.items():
        domain, (low, high) = generator.domain(role), generator.ranges[role]
        values = Intensity.invert(image, low, high)
        if subject.outside is not None and domain.intensity.mask != "none":
            empty = empty_value(domain.intensity, low, high)
            values[subject.outside] = empty
            low = min(low, empty)
        place = folder / _image_name(folder.name, domain.name)
        nib.save(_nifti(values, affine, output_type(np.dtype(np.int16), low, high)), place)
        write_json(place.with_name(split_suffix(place)[0] + ".json"), {
            "Description": f"Synthetic {domain.modality} drawn from noise and a lesion label. Not for diagnosis.",
            **known,
            "Sources": [f"{pool.cohort or 'file'}:{donor.patient}"],
            "LabelNumber": subject.donor,
            "LabelSource": "a variation of a label of the source, drawn into every image of this subject",
            "LabelDigest": file_digest(label),
            "Role": role,
            "Domain": domain.name,
            "Modality": domain.modality,
            "Split": donor.split,
            "Checks": dict(subject.figures),
            "FilterScore": None,
            "IntensityRange": list(generator.ranges[role]),
            "IntensityRule": domain.intensity.text(),
            "OutputDigest": file_digest(place),
        })  # fmt: skip


def _known(generator: Generator, pool: LabelPool, number: int, seed: int) -> dict[str, Any]:
    """What the sidecars say before anything is drawn, and what decides what is drawn."""
    return {
        "Synthetic": True,
        "GeneratedBy": [maker(generator)],
        "GeneratorDigest": generator.digest,
        "Seed": seed,
        "Number": number,
        "LabelPoolDigest": digest([pool.digest, pool.cohort, [row.subject for row in pool.rows]]),
    }


def _finished(generator: Generator, place: Path, known: Mapping[str, Any]) -> bool:
    """Whether all of the subject is there, byte for byte as its sidecars say, and was drawn of the same."""
    label = place / _label_name(place.name)
    for role in generator.method.roles:
        image, said = place / _image_name(place.name, generator.domain(role).name), _sidecar(generator, place, role)
        # Another release of the package does not draw another image: the generator's digest says what drew it.
        if any(said.get(name) != value for name, value in known.items() if name != "GeneratedBy"):
            return False
        for file, name in ((image, "OutputDigest"), (label, "LabelDigest")):
            if not file.is_file() or file_digest(file) != said.get(name):
                return False
    return True


def _rows(generator: Generator, place: Path, number: int, donor: Row) -> tuple[Row, ...]:
    """A drawn subject inherits patient and split of its label: it can never carry a test patient into training."""
    domains = [generator.domain(role) for role in generator.method.roles]
    return tuple(
        Row(
            donor.patient,
            f"drawn-{number:04d}",
            domain.name,
            place / _image_name(place.name, domain.name),
            place / _label_name(place.name),
            donor.split,
            mask=place / _mask_name(place.name) if domain.intensity.mask == "file" else None,
            synthetic=True,
            parents=(donor.subject,),
        )
        for domain in domains
    )


def _sidecar(generator: Generator, place: Path, role: str) -> dict[str, Any]:
    image = place / _image_name(place.name, generator.domain(role).name)
    return read_sidecar(image.with_name(split_suffix(image)[0] + ".json"))


def _nifti(volume: np.ndarray, affine: np.ndarray, dtype: Any) -> nib.Nifti1Image:
    """[D, H, W] as NIfTI [X, Y, Z]."""
    values = np.rint(volume) if np.issubdtype(dtype, np.integer) else volume
    image = nib.Nifti1Image(values.transpose().astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"synthetic"
    return image


def _image_name(subject: str, domain: str) -> str:
    return f"{subject}_desc-drawn_{alphanumeric(domain)}.nii.gz"


def _label_name(subject: str) -> str:
    return f"{subject}_desc-drawn_dseg.nii.gz"


def _mask_name(subject: str) -> str:
    return f"{subject}_desc-drawn_mask.nii.gz"


def _pool(
    generator: Generator,
    found: Sequence[tuple[Row, np.ndarray | None, np.ndarray]],
    cohort: str,
    problem: str,
    names: Pseudonyms,
) -> LabelPool:
    """The labels of images [D, H, W], those of slices one by one in 2D, with something in them."""
    size = size_for(generator.method, generator.experiment.sampling.size)
    offers = list(_offers(found, size))
    if not offers:
        raise InputError(problem, expected="a label with something in it, to draw from")
    labels, rows, affines = zip(*offers)
    return LabelPool(stacked(labels), tuple(under_pseudonym(row, names) for row in rows), affines, cohort)


def _offers(
    found: Sequence[tuple[Row, np.ndarray | None, np.ndarray]], size: Sequence[int]
) -> Iterator[tuple[np.ndarray, Row, np.ndarray]]:
    for row, label, affine in found:
        for _, part in labels_in(label, size) if label is not None else ():
            yield part, row, affine
