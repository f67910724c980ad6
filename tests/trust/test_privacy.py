"""What is given away names nobody: headers are built fresh, files and sidecars go by pseudonym, and an audit tells."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from generators.test_generator import Affine, cohort, experiment, store
from images.test_files import confined
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from ganatomy import cli
from ganatomy.cohorts.cohort import Cohort, Row
from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import Task
from ganatomy.generation.audit import audit
from ganatomy.generation.outputs import like_source, stored_mask
from ganatomy.generation.translated import generate
from ganatomy.generators.generator import Generator, save_generator

MARKER = "MRN4711234"
AUDIT = """
from ganatomy.generation.audit import audit
for file, finding in audit(Path(sys.argv[1])).findings:
    print(file, finding)
"""
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


# --- headers -----------------------------------------------------------------------------------------------------


def test_no_byte_of_a_source_but_its_grid_and_labels_is_in_what_is_made(generator, source, tmp_path):
    out = tmp_path / "out"
    results = generate(generator, source, out)
    assert [result.status for result in results] == ["made"] * 6, [result.error for result in results]
    assert_names_nobody(out, str(tmp_path))
    names, made = pseudonyms_of(source.path), {row.subject: row for row in read_cohort(out).rows}
    for row in source.rows:
        one = made[names(row.subject)]
        assert (one.patient, one.split) == (names(row.patient), row.split)
        assert all(file.is_relative_to(out) for file in (one.image, one.label, one.mask))
        for before, after in ((row.label, one.label), (row.mask, one.mask)):
            values = (
                np.asarray(Image.open(before)).T[..., None] if before.suffix == ".png" else nib.load(before).dataobj
            )
            np.testing.assert_array_equal(np.asarray(nib.load(after).dataobj), np.asarray(values))
    again = generate(generator, source, out)
    assert [result.status for result in again] == ["kept"] * 6


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 2), (0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("shape", [(9, 14, 7), (9, 14, 7, 1), (9, 14, 1)])
def test_a_header_is_built_fresh_and_its_grid_is_that_of_the_source(tmp_path, kind, codes, shape):
    path = write_volume(tmp_path / "scan.nii", np.zeros(shape, np.int16), kind, codes)
    nib.save(like_source(path, np.ones(shape[:3]), np.eye(4), dtype=np.uint8), tmp_path / "made.nii")
    before, after = nib.load(path), nib.load(tmp_path / "made.nii")
    assert type(after) is type(before)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    kept = ["pixdim", "xyzt_units", "qform_code", "sform_code", "dim", "magic"]
    kept += ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"] if codes[0] else []
    kept += ["srow_x", "srow_y", "srow_z"] if codes[1] else []
    for name in kept:
        np.testing.assert_array_equal(after.header[name], before.header[name], err_msg=name)
    blank = type(after.header)()
    stored = {"descrip", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", *kept}
    for name in set(after.header) - stored:
        np.testing.assert_array_equal(after.header[name], blank[name], err_msg=name)
    assert not after.header.extensions
    assert MARKER[:8].encode() not in (tmp_path / "made.nii").read_bytes()


def test_steps_along_axes_that_a_file_has_not_are_not_taken_over(tmp_path):
    path = write_volume(tmp_path / "scan.nii", np.zeros((9, 14, 7), np.int16))
    image = nib.load(path)
    image.header["pixdim"][5:] = (47.0, 11.0, 234.0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "odd.nii")
    made = like_source(tmp_path / "odd.nii", np.zeros((9, 14, 7)), np.eye(4))
    assert made.header["pixdim"][5:].tolist() == [1, 1, 1]


def test_a_mask_of_fractions_masks_what_it_masked(tmp_path):
    """Wherever it is not 0, however little it says."""
    values = np.zeros((9, 14, 7), np.float32)
    values[2:5] = 0.25
    made = stored_mask(write_volume(tmp_path / "mask.nii", values), GRID)
    np.testing.assert_array_equal(np.asarray(made.dataobj), values != 0)
    assert made.get_data_dtype() == np.uint8


def test_labels_keep_values_that_need_many_bits(tmp_path, generator, source):
    top = 40_000
    wide = replace(source, rows=source.rows[:1], labels={1: "lv", 2: "rv"}, label_values={top: 1, 12_000: 2})
    ids = np.asarray(nib.load(wide.rows[0].label).dataobj)
    write_volume(wide.rows[0].label, np.choose(ids, [0, top, 12_000]).astype(np.int32))
    (result,) = generate(generator, wide, tmp_path / "wide")
    label = nib.load(result.row.label)
    assert label.get_data_dtype() == np.int32
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.choose(ids, [0, top, 12_000]))


# --- names -------------------------------------------------------------------------------------------------------


def test_a_table_may_keep_the_names_for_the_laboratory_and_the_files_do_not(generator, source, tmp_path):
    out = tmp_path / "out"
    generate(generator, source, out, keep_names=True)
    made = {row.subject: row for row in read_cohort(out).rows}
    for row in source.rows:
        one = made[row.subject]
        assert (one.patient, one.session, one.split, one.parents) == (
            row.patient,
            row.session,
            row.split,
            (row.subject,),
        )
    (out / "images.csv").rename(tmp_path / "table.csv")
    (out / "cohort.yaml").rename(tmp_path / "cohort.yaml")
    assert_names_nobody(out)
    (tmp_path / "table.csv").rename(out / "images.csv")
    (tmp_path / "cohort.yaml").rename(out / "cohort.yaml")
    assert [result.status for result in generate(generator, source, out)] == ["kept"] * 6  # and by pseudonym again
    assert_names_nobody(out)


def test_a_file_is_known_by_a_pseudonym_of_the_workspace_that_the_screen_alone_tells(
    unmasked, source, tmp_path, capsys
):
    file = source.rows[0].image
    command = ["generate", str(unmasked.directory), "--image", str(file), "--label", str(source.rows[0].label),
               "--out", str(tmp_path / "out"), "--workers", "1", "--workspace", str(tmp_path / "w")]  # fmt: skip
    capsys.readouterr()
    for said in ("1 made", "0 made, 1 kept"):
        assert cli.main(command) == 0
        assert said in (told := capsys.readouterr().out)
        name = pseudonyms_of(tmp_path / "w")(file.name.removesuffix(".nii.gz"))
        assert f"{file} is {name}" in told.splitlines()
        assert_names_nobody(tmp_path / "out", str(tmp_path))
        assert [path.name for path in (tmp_path / "out").glob("sub-*")] == [f"sub-{name}"]
    command += ["--key-of", str(source.path)]
    command[command.index("--out") + 1] = str(tmp_path / "other")
    assert cli.main(command) == 0
    assert pseudonyms_of(source.path)(file.name.removesuffix(".nii.gz")) in capsys.readouterr().out


# --- audit -------------------------------------------------------------------------------------------------------


def test_a_generator_and_a_set_of_ours_carry_nothing_that_they_should_not(generator, source, tmp_path, capsys):
    generate(generator, source, tmp_path / "out")
    for folder in (generator.directory, tmp_path / "out"):
        listed = tmp_path / f"{folder.name}.json"
        command = ["audit", str(folder), "--cohort", str(source.path), "--json", str(listed)]
        assert cli.main(command) == 0, capsys.readouterr().out
        told, said = capsys.readouterr().out, json.loads(listed.read_text())
        assert said["findings"] == []
        assert {one["file"] for one in said["files"]} == {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        assert all(name.startswith("p") for name in said["patients"])
        assert all(Path(one["file"]).name in told for one in said["files"])
        assert "CC BY 4.0" in told
        assert str(tmp_path) not in listed.read_text()
    assert "2 of split test, 2 of split train, 2 of split val" in told
    assert "SourceDigest" in told


def plant(folder: Path, what: str) -> None:
    """One thing that should not be there."""
    image = next(iter(sorted(folder.rglob("*_mr.nii.gz"))))
    if what == "header text":
        volume = nib.load(image)
        volume.header["db_name"] = b"ward 7"
        nib.save(volume, image)
    elif what == "extension":
        volume = nib.load(image)
        volume.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"ward 7"))
        nib.save(volume, image)
    elif what == "behind the voxels":
        image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes()) + b"ward 7"))
    elif what == "name inside":
        image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes())[:-20] + f"{MARKER}-one".encode().ljust(20)))
    elif what == "name in UTF-16":
        (folder / "note.bin").write_bytes(b"\0\0\0" + f"{MARKER}-one".encode("utf-16-le"))
    elif what == "name in JSON":
        (folder / "note.json").write_text(json.dumps({"from": "Jürgen"}))
    elif what == "name in Latin-1":
        (folder / "note.bin").write_bytes(b"\0\0\0" + "Jürgen".encode("latin-1"))
    elif what == "objects in arrays":
        np.savez_compressed(folder / "a.npz", a=np.zeros(9), b=np.array([{}], object))
    elif what == "arrays that cannot be read":
        (folder / "a.npy").write_bytes(b"\x93NUMPY\x01\0")
    elif what == "a header without an end":
        header = nib.Nifti1Header()
        header["magic"], header["vox_offset"] = b"n+1", 3e9
        (folder / "a.nii").write_bytes(header.binaryblock + b"\0" * 4)
    elif what == "name of a file":
        (folder / f"{MARKER}-one.txt").write_text("")
    elif what == "gzip header":
        packed = io.BytesIO()
        with gzip.GzipFile("ward7.nii", "wb", fileobj=packed) as file:
            file.write(gzip.decompress(image.read_bytes()))
        image.write_bytes(packed.getvalue())
    elif what == "path":
        (folder / "note.json").write_text(json.dumps({"made": "/home/somebody/scans/one.nii"}))
    elif what == "windows path":
        (folder / "note.json").write_text(json.dumps({"made": r"C:\scans\one.nii"}))
    elif what == "metadata":
        write_picture(folder / "film.png", np.zeros((4, 4), np.uint8))
    elif what == "pickle":
        (folder / "weights.bin").write_bytes(pickle.dumps({"a": list(range(100))}))
    elif what == "key":
        pseudonyms_of(folder)
    elif what == "DICOM":
        (folder / "one").write_bytes(b"\0" * 128 + b"DICM")
    elif what == "link":
        (folder / "there").symlink_to("/etc/hostname")
    elif what == "named table":
        table = folder / "images.csv"
        table.write_text(table.read_text().replace("\np", "\nJane ", 1))
    elif what == "table that leads elsewhere":
        table = folder / "images.csv"
        table.write_text(table.read_text().replace("sub-", "../elsewhere/sub-", 1))


FOUND = {
    "header text": "db_name = 'ward 7'", "extension": "header extension", "behind the voxels": "6 bytes behind",
    "name inside": f"name '{MARKER}-one'", "name in UTF-16": f"name '{MARKER}-one'",
    "name in JSON": "name 'Jürgen'", "name in Latin-1": "name 'Jürgen'",
    "objects in arrays": "a pickle inside", "arrays that cannot be read": "arrays that cannot be read",
    "a header without an end": "voxels from byte 3e+09 on", "name of a file": "in the file's name",
    "gzip header": "ward7", "path": "absolute path", "windows path": "absolute path, C:",
    "metadata": "metadata 'PatientID'", "pickle": "pickle", "key": "undoes pseudonyms", "DICOM": "DICOM",
    "link": "a link to /etc", "named table": "named otherwise", "table that leads elsewhere": "outside of the folder",
}  # fmt: skip


@pytest.fixture(scope="module")
def clean(generator, tmp_path_factory) -> tuple[Path, Path]:
    """A set that is clean, and the cohort that it is of."""
    folder = tmp_path_factory.mktemp("clean")
    image = np.random.default_rng(0).uniform(-200, 200, (8, 9, 6)).astype(np.int16)
    row = Row("Jürgen", f"{MARKER}-one", "ct", write_volume(folder / "ct.nii", image), None, "train",
              mask=write_volume(folder / "mask.nii", np.ones((8, 9, 6), np.uint8)))  # fmt: skip
    made = Cohort(folder / "c", "heart", generator.rules.domains, generator.rules.labels, rows=(row,)).save()
    generate(generator, made, folder / "out")
    return folder / "out", made.path


@pytest.mark.parametrize("what", FOUND)
def test_what_should_not_be_there_is_found(clean, tmp_path, capsys, what):
    folder = shutil.copytree(clean[0], tmp_path / "set")
    assert cli.main(["audit", str(folder), "--cohort", str(clean[1])]) == 0, capsys.readouterr().out
    plant(folder, what)
    assert cli.main(["audit", str(folder), "--cohort", str(clean[1])]) == 1
    found = audit(folder, read_cohort(clean[1])).findings
    assert any(FOUND[what] in finding for _, finding in found), found


def test_an_audit_takes_no_more_memory_than_a_file_has_bytes(clean, tmp_path):
    """Arrays and headers that unpack to 1 GiB, in a process that has 300 MiB."""
    folder = shutil.copytree(clean[0], tmp_path / "set")
    np.savez_compressed(folder / "a.npz", a=np.zeros(2**30, np.uint8))
    header = nib.Nifti1Header()
    header.set_data_shape((2, 2, 2))
    header["magic"], header["vox_offset"] = b"n+1", 2.0**30
    with gzip.open(folder / "a.nii.gz", "wb") as file:
        file.write(header.binaryblock + b"\1\0\0\0" + struct.pack("<ii", 2**30 - 352, 6))
        for _ in range(1024):
            file.write(bytes(2**20))
    done = confined(AUDIT, folder)
    assert done.returncode == 0, done.stderr
    assert "voxels from byte 1.07374e+09 on" in done.stdout


def test_an_audit_without_the_cohort_says_that_no_name_was_looked_for(clean, capsys):
    assert cli.main(["audit", str(clean[0])]) == 0
    assert "no name was looked for" in capsys.readouterr().out
    assert cli.main(["audit", str(clean[0] / "none")]) == 2
