"""Images, a generator and a cohort that are full of a patient's name, wherever a file has room for it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from generators.test_generator import Affine, cohort, experiment, store
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from ganatomy.cohorts.cohort import Cohort, Row
from ganatomy.contracts import Task
from ganatomy.generators.generator import Generator, save_generator

MARKER = "MRN4711234"
FREE = {"descrip": 80, "aux_file": 24, "intent_name": 16, "data_type": 10, "db_name": 18, "unused_str": 15}
GRID = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 2.0, 11], [0, 0, 0, 1]])


def fill(header, seed: int = 0) -> None:
    """The marker wherever a header has room for it, and numbers that could stand for something where it has not."""
    for name, room in FREE.items():
        if name in header:
            header[name] = MARKER.encode()[:room]
    for name in ("extents", "session_error", "glmax", "glmin", "dim_info", "slice_code", "slice_duration", "toffset",
                 "cal_max", "cal_min", "intent_code", "intent_p1", "intent_p2", "intent_p3", "slice_start",
                 "slice_end"):  # fmt: skip
        if name in header:
            header[name] = 3
    if "regular" in header:
        header["regular"] = b"M"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", MARKER.encode()))


def write_volume(path: Path, values: np.ndarray, kind=nib.Nifti1Image, codes=(1, 2)) -> Path:
    image = kind(values, GRID)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(GRID, codes[0])
    image.set_sform(GRID, codes[1])
    fill(image.header)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    """With the marker in everything that an image of that kind can say beside its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x010E] = MARKER  # ImageDescription
    text = PngInfo()
    text.add_text("PatientID", MARKER)
    text.add_itxt("Comment", MARKER)
    more = {"pnginfo": text} if path.suffix == ".png" else {"comment": MARKER} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, exif=exif, **more)
    return path


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Generator:
    """Domain mr has its masks in files: they go along."""
    folder = tmp_path_factory.mktemp("bundle")
    rules = cohort(folder, spacing=None)
    masked = {name: replace(one, intensity=replace(one.intensity, mask="file")) for name, one in rules.domains.items()}
    method = Affine(Affine.Config(), Task(2, 3, nn.Identity)).set()
    return save_generator(folder / "generator", method, experiment(), cohort=replace(rules, domains=masked),
                          store=store(folder / "store"), stages={"fit": "abc"})  # fmt: skip


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory) -> Generator:
    """Of single files, which have no masks beside them."""
    folder = tmp_path_factory.mktemp("unmasked")
    method = Affine(Affine.Config(), Task(2, 3, nn.Identity)).set()
    return save_generator(folder / "generator", method, experiment(), cohort=cohort(folder, spacing=None),
                          store=store(folder / "store"), stages={})  # fmt: skip


@pytest.fixture
def source(tmp_path: Path, generator) -> Cohort:
    """A patient each of NIfTI-1, NIfTI-2, [X, Y, Z, 1] and of pictures; labels and masks like the images."""
    shapes = {
        "one": (9, 14, 7),
        "two": (8, 9, 6),
        "four": (7, 8, 5, 1),
        "png": (11, 13),
        "jpg": (12, 10),
        "tiff": (9, 9),
    }
    rng, rows = np.random.default_rng(0), []
    for number, (name, shape) in enumerate(shapes.items()):
        who, where = f"{MARKER}-{name}", tmp_path / "in" / MARKER
        image = rng.uniform(-200, 200, shape).astype(np.int16)
        label, mask = rng.integers(0, 3, shape), np.ones(shape, np.uint8)
        mask.reshape(-1)[:5] = 0
        if len(shape) > 2:
            kind = nib.Nifti2Image if name == "two" else nib.Nifti1Image
            files = [
                write_volume(where / f"{who}_{what}.nii.gz", values, kind)
                for what, values in (
                    ("ct", image),
                    ("seg", label.astype(np.int32 if name == "one" else np.uint8)),
                    ("mask", mask),
                )
            ]
        else:
            pixels = ((image + 200) / 2).astype(np.uint8)
            files = [write_picture(where / f"{who}_ct.{name}", pixels)]
            files += [write_picture(where / f"{who}_{what}.png", values.astype(np.uint8)) for what, values in
                      (("seg", label), ("mask", mask))]  # fmt: skip
        split = ("train", "val", "test")[number % 3]
        rows.append(Row(who, f"{who} first", "ct", files[0], files[1], split, session="1970-02-03", mask=files[2]))
    made = Cohort(tmp_path / "cohort", "heart", generator.rules.domains, generator.rules.labels, licence="CC BY 4.0",
                  rows=tuple(rows))  # fmt: skip
    return made.save()


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of all that lies there, as stored and unpacked."""
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        yield path.relative_to(folder).as_posix(), content
        if path.name.endswith(".gz"):
            yield path.name, gzip.decompress(content)


def assert_names_nobody(folder: Path, *more: str) -> None:
    assert any(folder.iterdir())
    for name, content in everything(folder):
        for secret in (MARKER, MARKER[:8], "1970", *more):
            assert secret not in name, name
            assert secret.encode() not in content, name
