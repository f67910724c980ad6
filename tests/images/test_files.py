"""Image files that lie: each is refused in one line, in a process that could not hold what it claims."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
import threading
import time

import nibabel
import numpy as np
import pytest
from cohorts.scans import write, write_registered
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganatomy.contracts import InputError
from ganatomy.images.files import MAX_IMAGE, read_grid, room_for
from ganatomy.images.imaging import Native, load_image, prepare
from ganatomy.images.intensities import Intensity

CONFINED = """
import resource, sys
from pathlib import Path
import ganatomy.cli, ganatomy.commands.cohort, ganatomy.cohorts.inspection, ganatomy.images.imaging
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + {room} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
READ = """
for path in sys.argv[1:]:
    try:
        ganatomy.images.imaging.load_image(Path(path))
    except ganatomy.images.imaging.InputError as error:
        print(error)
"""


def confined(script, *arguments, room=300):
    """What ``script`` prints in a process that may take ``room`` MiB beyond what its imports took."""
    command = [sys.executable, "-c", CONFINED.format(room=room) + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def header_of(shape, dtype=np.uint8, offset=352):
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header["magic"], header["vox_offset"] = b"n+1", offset
    return header.binaryblock + b"\0" * 4


def claims(path, shape=(1000, 1000, 1000), voxels=b"", **header):
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(header_of(shape, **header) + voxels)
    return path


def hostile(folder):
    """Files that claim or hold a gigabyte and more, by what their refusal says."""
    zeros = gzip.compress(b"\0" * 2**20, 9, mtime=0)
    bomb = folder / "bomb.nii.gz"  # members of one gzip: 2 MiB on disc that unpack to 2 GiB
    bomb.write_bytes(gzip.compress(header_of((1000, 1000, 2000)), mtime=0) + zeros * 2048)
    extension = folder / "extension.nii.gz"  # an extension of 1 GB before the voxels, and it is there
    start = header_of((4, 4, 4), offset=1_000_000_000)[:348] + b"\1\0\0\0" + struct.pack("<ii", 999_999_648, 6)
    extension.write_bytes(gzip.compress(start, mtime=0) + zeros * 960)
    pair = folder / "pair.hdr.gz"  # the same in a header of its own, which has no end but the file's
    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 4, 4), np.uint8), np.eye(4)), folder / "pair.img.gz")
    start = gzip.decompress(pair.read_bytes())[:348] + b"\1\0\0\0" + struct.pack("<ii", 2**30, 6)
    pair.write_bytes(gzip.compress(start, mtime=0) + zeros * 1024)
    picture = folder / "picture.png"
    Image.new("1", (20000, 10000)).save(picture)
    return {
        claims(folder / "large.nii"): "GANATOMY_MAX_IMAGE_GB",
        claims(folder / "large.nii.gz"): "GANATOMY_MAX_IMAGE_GB",
        claims(folder / "short.nii", (700, 700, 700)): "too short",
        claims(folder / "short.nii.gz", (700, 700, 700)): "too short",
        bomb: "GANATOMY_MAX_IMAGE_GB",
        extension: "mend its header",
        pair: "holds more than",
        picture: "more pixels than a picture is read with",
    }


def test_a_header_is_never_believed_further_than_memory_goes(tmp_path):
    lying = hostile(tmp_path)
    assert max(path.stat().st_size for path in lying) < 4 * 2**20
    ran = confined(READ, *lying)
    assert ran.returncode == 0, ran.stderr
    for (path, said), line in zip(lying.items(), ran.stdout.splitlines(), strict=True):
        assert path.name in line
        assert said in line
        assert len(line) < 600


def test_the_process_of_these_tests_could_not_hold_what_is_claimed():
    assert "MemoryError" in confined("bytearray(1000**3)").stderr


def test_one_lying_file_is_quarantined_and_the_rest_imported(tmp_path):
    folder = write_registered(tmp_path / "in")
    claims(folder / "p0" / "t1.nii.gz")
    claims(folder / "p1" / "t1.nii.gz", (700, 700, 700))
    options = [str(folder), "--layout", "folders", "--image", "{domain}={patient}/{domain}.nii.gz"]
    options += ["--domains", "t1", "flair", "--out", str(tmp_path / "out")]
    main = "sys.exit(ganatomy.cli.main(sys.argv[1:]))"
    ran = confined(main, "cohort", "import", *options, room=600)
    assert ran.returncode == 0, ran.stderr
    assert "18 images of 10 patients; 2 quarantined" in ran.stdout
    ran = confined(main, "cohort", "check", tmp_path / "out", "--json", room=600)
    assert ran.returncode == 0, ran.stderr
    reasons = [finding["reason"] for finding in json.loads(ran.stdout)["findings"]
               if finding["severity"] == "quarantine"]  # fmt: skip
    assert ["GiB" in reason or "too short" in reason for reason in reasons] == [True, True]


def test_the_bound_is_a_setting_that_the_message_names(tmp_path, monkeypatch):
    path = write(tmp_path / "image.nii.gz", shape=(64, 64, 32))  # 0.5 MiB as held
    monkeypatch.setenv(MAX_IMAGE, "0.0004")
    with pytest.raises(InputError, match=rf"64 x 64 x 32 voxels.*set {MAX_IMAGE} higher"):
        load_image(path)
    monkeypatch.setenv(MAX_IMAGE, "0.0005")
    assert load_image(path)[0].shape == (64, 64, 32)
    for wrong in ("many", "0", "-1", "inf", "nan"):
        monkeypatch.setenv(MAX_IMAGE, wrong)
        with pytest.raises(InputError, match=rf"{MAX_IMAGE} = '{wrong}'"):
            load_image(path)


def test_a_spacing_that_would_make_a_huge_image_is_refused():
    native = Native(np.random.default_rng(0).random((8, 8, 8)).astype(np.float32), np.eye(4))
    with pytest.raises(InputError, match="prepared to this spacing and size"):
        prepare(native, Intensity("window", 0, 1), spacing=(0.001, 0.001, 0.001))


def test_pages_of_a_tiff_count_together(tmp_path, monkeypatch):
    pages = [Image.new("L", (64, 64), number) for number in range(32)]
    pages[0].save(tmp_path / "stack.tiff", save_all=True, append_images=pages[1:])
    assert load_image(tmp_path / "stack.tiff")[0].shape == (64, 64, 32)
    monkeypatch.setenv(MAX_IMAGE, "0.0004")
    with pytest.raises(InputError, match="64 x 64 x 32 voxels"):
        load_image(tmp_path / "stack.tiff")


def test_a_gzip_is_read_to_its_checksum(tmp_path):
    path = write(tmp_path / "image.nii.gz", shape=(64, 64, 64))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert np.asanyarray(nibabel.load(path).dataobj).size  # nibabel stops at the last voxel
    with pytest.raises(InputError, match="CRC check failed"):
        load_image(path)


@given(
    st.sampled_from([".nii", ".nii.gz", ".nii.bz2", ".img", ".img.gz", ".mgz", ".mgh"]),
    st.sampled_from([np.uint8, np.int16, np.float32]),
    st.lists(st.integers(1, 5), min_size=3, max_size=3),
    st.integers(0, 99),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_good_files_read_as_nibabel_reads_them(tmp_path_factory, ending, dtype, shape, seed, scaled):
    path = tmp_path_factory.mktemp("good") / f"image{ending}"
    voxels = (np.random.default_rng(seed).random(shape) * 200).astype(dtype)
    kind = nibabel.MGHImage if ".mg" in ending else nibabel.Nifti1Pair if ".img" in ending else nibabel.Nifti1Image
    image = kind(voxels, np.diag([2.0, 1.0, 3.0, 1.0]))
    if scaled and kind is not nibabel.MGHImage:
        image.header.set_slope_inter(0.37, -12)
    nibabel.save(image, path)
    expected = np.asarray(np.asanyarray(nibabel.load(path).dataobj), np.float32)
    read, affine = load_image(path)
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(affine, nibabel.load(path).affine)
    grid = read_grid(path)
    assert grid is not None
    assert (grid.shape, grid.zooms) == (tuple(shape), (2, 1, 3))


def test_images_held_at_once_are_no_more_than_one_may_take(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{number}.nii", shape=(32, 32, 32)) for number in range(8)]  # 128 KiB each as held
    monkeypatch.setenv(MAX_IMAGE, str(300 / 2**20))  # two fit, three do not
    at_once, most, lock = [0], [0], threading.Lock()

    def hold(path):
        with room_for(path, None):
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            time.sleep(0.05)
            with lock:
                at_once[0] -= 1

    threads = [threading.Thread(target=hold, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [2]


def test_an_image_that_is_large_on_its_way_to_a_small_grid_alone_is_refused(monkeypatch):
    monkeypatch.setenv(MAX_IMAGE, "0.01")
    flat = Native(np.random.default_rng(0).random((2, 300, 300), np.float32), np.eye(4))
    with pytest.raises(InputError, match=rf"on its way to another grid.*300 x 300 x 300 voxels.*set {MAX_IMAGE}"):
        prepare(flat, Intensity(), size=(300, 2, 2))
    assert prepare(flat, Intensity(), size=(20, 20, 2)).image.shape == (2, 20, 20)
