"""What ``ganatomy audit`` lists of a generator and a synthetic set, and what it finds in them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from images.test_files import confined

from ganatomy import cli
from ganatomy.cohorts.cohort import Cohort, Row
from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.generation.audit import audit
from ganatomy.generation.translated import generate
from trust.marked import MARKER, write_picture, write_volume

AUDIT = """
from ganatomy.generation.audit import audit
for file, finding in audit(Path(sys.argv[1])).findings:
    print(file, finding)
"""


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
    elif what == "under a password":
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            archive.writestr("a.txt", "x")
        packed = bytearray((folder / "a.zip").read_bytes())
        packed[6] |= 1  # the mark of it, in front of the file and in the list at the end
        packed[packed.index(b"PK\x01\x02") + 8] |= 1
        (folder / "a.zip").write_bytes(packed)
    elif what == "cut off":
        (folder / "a.gz").write_bytes(gzip.compress(bytes(range(256)) * 9)[:-30])
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
    "under a password": "could not be looked at", "cut off": "could not be looked at",
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
