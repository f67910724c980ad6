"""Generation with boxes: a lesion into films that show none, on their own grid, with a box, a table and COCO JSON.

Where a lesion may lie in the films of a cohort is learnt from its own boxes, of films of the same split: what a
training film is given never comes from a test patient. Of a single film whoever asks says it. Films of patients who
trained the generator receive nothing.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganatomy.cohorts.cohort import Cohort, Row, prepare_image
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.contracts import Corners, InputError, Patches
from ganatomy.core.durable import put_in_place
from ganatomy.core.tables import absolute, write_atomically, write_json
from ganatomy.generation.jobs import row_of_file, rows_before, under_pseudonym
from ganatomy.generation.outputs import alphanumeric, file_digest, like_source, read_sidecar, stored_mask
from ganatomy.generation.translated import maker, write_cohort
from ganatomy.generators.generator import Generator
from ganatomy.images.files import RASTER
from ganatomy.images.imaging import Prepared, box_in, box_out, in_plane, load_image, to_native
from ganatomy.measures.roc import LESION
from ganatomy.stages.lesion_patches import with_lesions
from ganatomy.training.inference import evaluating

BOXES, COCO = "boxes.csv", "annotations.coco.json"
NO_LESION = ("normal", "healthy")


LEAST_SIDE = 4
"""Pixels of the smallest window: the border of one stays as it is."""


@dataclass(frozen=True)
class Placed:
    """A film that is to receive a lesion, and where. window: in pixels of the prepared film.

    asked: the box, in pixels of the file, that somebody wants it in.
    """

    row: Row
    window: Corners
    asked: tuple[float, ...] | None = None


def generate_lesions(
    generator: Generator,
    cohort: Cohort,
    out: Path | str,
    *,
    splits: Sequence[str] | None = None,
    count: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    keep_names: bool = False,
    taught: Pseudonyms | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Literal["made", "kept"], int]:
    """Films with a lesion pasted in, one for each film that may receive one, as a cohort in ``out``.

    Each is an image of the kind of its source (PNG, or NIfTI) that differs from it in one window only, with class
    ``lesion``, its box in the table and a sidecar. ``boxes.csv`` and ``annotations.coco.json`` list the boxes of all
    films in the folder, in pixels of their files. Files, sidecars and tables name people by pseudonym.
    keep_names: the cohort's table names them as ``cohort`` does.  taught: the key of the cohort that taught the
    generator, where it is another one; without it nobody can tell who trained it (see ``who_trained``).
    splits: only these; by default those of all, or, where there is a count, of training patients and of those whom
    nobody has given a split.  count: at most so many films, 0 for all.  seed: of where lesions go.
    What an earlier run finished is kept. InputError where nothing can be made, and for files of others in the way.
    """
    out = absolute(out)
    done: dict[Literal["made", "kept"], int] = {"made": 0, "kept": 0}
    before, names = rows_before(out), pseudonyms_of(cohort.path)
    key = who_trained(generator, names, taught)
    rows: list[Row] = []
    with evaluating(generator.method):
        for split in splits if splits is not None else _usual_splits(cohort, count):
            left = count - len(rows) if count else len(cohort.rows)
            for placed in _places(generator, cohort, key, split, seed, left):
                shown = replace(placed, row=under_pseudonym(placed.row, names))
                row, made = _film(generator, cohort.name, shown, out, seed, overwrite)
                done["made" if made else "kept"] += 1
                rows.append(row)
                progress(len(rows), count or len(rows))
    if not rows:
        raise InputError(
            f"cohort {cohort.name}: no film can be given a lesion",
            expected="in one split a film of class lesion with a box, and one of class normal",
            remedy="fill in classes and boxes, or choose another --split",
        )
    write_cohort(generator, rows, out, cohort, keep_names)
    _write_boxes({row.image: row for row in [*before, *rows]}.values(), out)
    return done


def _usual_splits(cohort: Cohort, count: int) -> list[str]:
    """Of a bounded number of films none goes to a patient who is to judge, unless somebody says so."""
    return sorted({row.split for row in cohort.rows if not count or row.split in ("train", "")})


def generate_lesion(
    generator: Generator,
    image: Path,
    box: Sequence[float],
    out: Path | str,
    names: Pseudonyms,
    *,
    patient: str = "",
    seed: int = 0,
    overwrite: bool = False,
    taught: Pseudonyms | None = None,
) -> tuple[Row, bool]:
    """One film with a lesion put into ``box``, as a cohort in ``out`` like those of ``generate_lesions``.

    box: (x0, y0, x1, y1) in pixels of the file; nothing outside it changes. The lesion is put into the largest square
    that it holds, at a place drawn by ``seed`` where that leaves a choice.
    names: whose key its pseudonyms are under.  patient: whose film it is; only a pseudonym goes on record.
    taught: as in ``generate_lesions``.
    Returns its row, and whether it was made now (or found as an earlier run left it). InputError for a box that is not
    in the image, too small or too dark, and for a patient who trained the generator.
    """
    out = absolute(out)
    before = rows_before(out)
    row = under_pseudonym(row_of_file(image, generator.experiment.target_domain(), patient=patient), names)
    if patient and _trained(generator, patient, who_trained(generator, names, taught)):
        raise InputError(f"patient {patient} is one that the generator was trained on", expected="somebody else's film")
    with evaluating(generator.method):
        placed = Placed(row, _window_in(generator, row, box, seed), tuple(map(float, box)))
        made_row, made = _film(generator, "", placed, out, seed, overwrite)
    write_cohort(generator, [made_row], out, None)
    _write_boxes({one.image: one for one in [*before, made_row]}.values(), out)
    return made_row, made


# --- where ---------------------------------------------------------------------------------------------------------


def _places(
    generator: Generator, cohort: Cohort, key: Pseudonyms | None, split: str, seed: int, most: int
) -> Iterator[Placed]:
    """Films of one split that may receive a lesion, each with the window of some lesion of that split."""
    rules, domain = _rules(generator), generator.experiment.target_domain()
    rows = {row.subject: row for row in cohort.rows_of(domain, split) if not row.synthetic}
    lesions = {name: row for name, row in rows.items() if row.klass == LESION and row.box}
    normals = [name for name, row in rows.items() if row.klass in NO_LESION]
    if not lesions or not normals or most < 1:
        return
    grid = {name: _prepared(generator, row) for name, row in lesions.items()}
    boxes = {name: _whole(box_in(grid[name], rows[name].box or ())) for name in lesions}
    sides = {name: prepared.image.shape[1:] for name, prepared in grid.items()}
    windows = rules.of_lesions(boxes, sides, seed)
    sides |= {name: _prepared(generator, rows[name]).image.shape[1:] for name in normals}
    receivers = [name for name in normals if not _trained(generator, rows[name].patient, key)]
    if not receivers:
        return
    given: set[str] = set()
    for name, window in rules.receiving(windows, receivers, sides, seed):
        if name not in given and len(given) < most:
            image = torch.from_numpy(_prepared(generator, rows[name]).image.copy())
            if rules.worth(rules.cut(image, window)):
                given.add(name)
                yield Placed(rows[name], window)


def who_trained(generator: Generator, *keys: Pseudonyms | None) -> Pseudonyms | None:
    """Of these keys the one that the generator's record of its patients is under; None where it is another.

    Under another key the same person has another pseudonym: then nobody can tell, and no film is held back."""
    known = generator.fingerprint["cohort"].get("key")
    return next((key for key in keys if key is not None and key.identity == known), None)


def _trained(generator: Generator, patient: str, key: Pseudonyms | None) -> bool:
    return key is not None and key(patient) in generator.fingerprint["patients"]


def _window_in(generator: Generator, row: Row, box: Sequence[float], seed: int) -> Corners:
    """A square within the part of the prepared film that ``box`` of the file is."""
    prepared, rules = _prepared(generator, row), _rules(generator)
    if prepared.image.shape[0] != 1:
        raise InputError(f"{row.image} has {prepared.image.shape[0]} slices", expected="a 2D image")
    width, height = prepared.native_shape[:2]
    x0, y0, x1, y1 = box
    told = f"box {' '.join(f'{value:g}' for value in box)} of {row.image}"
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(
            told, expected=f"x0 < x1 up to {width} and y0 < y1 up to {height}, in pixels of the file", remedy="--box"
        )
    x0, y0, x1, y1 = box_in(prepared, box)
    left, top, right, bottom = math.ceil(x0), math.ceil(y0), math.floor(x1), math.floor(y1)
    side = min(right - left, bottom - top)
    if side < LEAST_SIDE:
        raise InputError(f"{told} is too small", expected=f"{LEAST_SIDE} pixels a side, as the generator sees them")
    draws = random.Random(f"{seed} {file_digest(row.image)}")  # of what it shows: its name is another under another key
    left, top = draws.randint(left, right - side), draws.randint(top, bottom - side)
    window = (left, top, left + side, top + side)
    if not rules.worth(rules.cut(torch.from_numpy(prepared.image.copy()), window)):
        raise InputError(f"{told} shows next to nothing", expected="a part of the body", remedy="another --box")
    return window


def _rules(generator: Generator) -> Patches:
    return generator.experiment.method_class().patches(generator.experiment.method_config())


def _prepared(generator: Generator, row: Row) -> Prepared:
    return prepare_image(row, generator.rules)


def _whole(box: Sequence[float]) -> Corners:
    x0, y0, x1, y1 = in_plane(box)
    return int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1))


# --- one film ------------------------------------------------------------------------------------------------------


def _film(generator: Generator, cohort: str, placed: Placed, out: Path, seed: int, overwrite: bool) -> tuple[Row, bool]:
    """Its row, and whether it was made now (or found as an earlier run left it). cohort: its name, "" for a file."""
    row, name = placed.row, f"sub-{placed.row.subject}"
    place = out / name / f"{name}_desc-lesion_{alphanumeric(row.domain)}{_ending(row.image)}"
    sidecar = place.with_name(place.name.removesuffix(_ending(row.image)) + ".json")
    known: dict[str, Any] = {
        "Synthetic": True,
        "Description": "A film with a synthetic lesion pasted in. Not for diagnosis.",
        "GeneratorDigest": generator.digest,
        "Sources": [f"{cohort or 'file'}:{row.patient}"],
        "SourceDigest": file_digest(row.image),
        "Split": row.split,
        "Seed": seed,
        "Window": list(placed.window),
        "AskedBox": placed.asked and list(placed.asked),
    }
    found = read_sidecar(sidecar)
    ours = all(found.get(key) == value for key, value in known.items())
    masked = row.mask is None or _mask(place).exists()
    if ours and masked and place.exists() and file_digest(place) == found.get("OutputDigest"):
        return _row(row, place, found["Box"]), False
    if place.exists() and not overwrite:
        raise InputError(f"{place} exists and is not what this generator makes of {row.image}",
                         expected="an empty place, or what the same generation left",
                         remedy="--overwrite, or another --out")  # fmt: skip
    prepared = _prepared(generator, row)
    volume, box = _with_lesion(generator, prepared, placed.window)
    place.parent.mkdir(parents=True, exist_ok=True)
    if row.mask is not None:
        nib.save(stored_mask(row.mask, prepared.native_affine), _mask(place))
    _save(volume, row, prepared, place)
    made = {
        **known,
        "Box": box_out(prepared, box),
        "OutputDigest": file_digest(place),
        "GeneratedBy": [maker(generator)],
    }
    write_json(sidecar, made)
    return _row(row, place, made["Box"]), True


def _with_lesion(generator: Generator, prepared: Prepared, window: Corners) -> tuple[np.ndarray, Corners]:
    """The film's own native values but for the window [x, y, z], and the box of the lesion in the prepared film."""
    rules, before = _rules(generator), torch.from_numpy(prepared.image.copy())
    patch = rules.cut(before, window)
    made: Tensor = with_lesions(generator.method, generator.experiment, patch[None], generator.device)[0]
    after, box = rules.paste(before, window, made)
    change = (after.clamp(-1, 1) - before).numpy() * (prepared.hi - prepared.lo) / 2
    return to_native(change, prepared, fill=0.0), box


def _save(change: np.ndarray, row: Row, prepared: Prepared, place: Path) -> None:
    """The source's own values, changed; rounded and clipped where it stores whole numbers."""
    source, affine = load_image(row.image, row.channel)
    values = np.asarray(source, np.float64) + change
    beside = place.with_name(f".{place.name}")
    if _ending(row.image) == ".png":
        deep = source.max() > 255
        pixels = np.rint(values[..., 0].T).clip(0, 65535 if deep else 255).astype(np.uint16 if deep else np.uint8)
        Image.fromarray(pixels).save(beside, format="PNG")
    else:
        beside = place.with_name(f".part-{place.name}")  # nibabel goes by the ending
        nib.save(like_source(row.image, values, affine, (prepared.lo, prepared.hi)), beside)
    put_in_place(beside, place)


def _ending(source: Path) -> str:
    return ".png" if source.suffix.lower() in RASTER else ".nii.gz"


def _row(row: Row, place: Path, box: Sequence[float]) -> Row:
    """The film inherits patient, subject and split, so that it can never carry a test patient into training."""
    return replace(
        row, image=place, label=None, klass=LESION, box=tuple(box), channel=None, synthetic=True,
        mask=_mask(place) if row.mask else None, parents=(row.subject,),
    )  # fmt: skip


def _mask(place: Path) -> Path:
    """Where the film's mask goes, so that the table need not lead back to a file of the source."""
    return place.with_name(f"{place.name.split('.')[0]}_mask.nii.gz")


# --- boxes -----------------------------------------------------------------------------------------------------------


def _write_boxes(rows: Any, out: Path) -> None:
    """The boxes of every film in the folder, as a table and as COCO JSON, in pixels of the files."""
    films = sorted((row for row in rows if row.box), key=lambda row: row.image)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "class", "x0", "y0", "x1", "y1", "split"))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate(films, start=1):
        x0, y0, x1, y1 = in_plane(row.box)
        name = row.image.relative_to(out).as_posix()
        table.writerow((name, row.klass, *(f"{value:g}" for value in (x0, y0, x1, y1)), row.split))
        width, height = _size(row.image)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        area = (x1 - x0) * (y1 - y0)
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                            "area": area, "iscrowd": 0})  # fmt: skip
    write_atomically(out / BOXES, text.getvalue())
    info = {"description": "Synthetic lesions. Not for diagnosis."}
    write_json(out / COCO, {"info": info, "images": images, "annotations": annotations,
                            "categories": [{"id": 1, "name": LESION}]})  # fmt: skip


def _size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file, without reading its pixels where that is possible."""
    if path.suffix == ".png":
        with Image.open(path) as file:
            return file.size
    shape = cast(Any, nib.load(path)).shape
    return int(shape[0]), int(shape[1])
