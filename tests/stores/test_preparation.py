"""Preparation: once for all, by content, whole or not at all; shown on real files and real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from ganatomy.cohorts.cohort import Cohort, Domain, Row, prepare_image
from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.images.intensities import Intensity
from ganatomy.stores import preparation
from ganatomy.stores.layout import FORMAT
from ganatomy.stores.preparation import prepare, store_digest
from ganatomy.stores.store import open_store

INTENSITY = Intensity("window", -100.0, 300.0)


def make_cohort(folder: Path, patients: int = 3, shape=(12, 10, 6)) -> Cohort:
    """CT and MR volumes of 1 x 1 x 2 mm in LPS, as a scanner writes them; every second MR without a label."""
    rows = []
    for number in range(patients):
        generator = np.random.default_rng(number)
        for domain in ("ct", "mr"):
            affine = np.diag([-1.0, -1.0, 2.0, 1.0])
            image, label = folder / f"{domain}{number}.nii.gz", folder / f"{domain}{number}-label.nii.gz"
            voxels = generator.integers(-200, 400, shape).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(voxels, affine), image)
            nibabel.save(nibabel.Nifti1Image((voxels > 100).astype(np.uint8), affine), label)
            labelled = domain == "ct" or number % 2 == 0
            rows.append(Row(f"p{number}", f"s{number}", domain, image, label if labelled else None, "train"))
    domains = {"ct": Domain("ct", "ct", INTENSITY), "mr": Domain("mr", "mr", Intensity("percentile", 0.5, 99.5))}
    return Cohort(folder, "heart", domains, {1: "ventricle"}, rows=tuple(rows)).save()


@pytest.fixture
def cohort(tmp_path):
    (tmp_path / "cohort").mkdir()
    return make_cohort(tmp_path / "cohort")


def shown(root: Path) -> list[str]:
    """What of ``root`` is not hidden, so what anybody would take for a store."""
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def test_the_store_holds_every_image_as_prepared(cohort, tmp_path):
    told = []
    cohort = replace(cohort, spacing=(1.0, 1.0, 1.0))
    store = prepare(cohort, tmp_path / "stores", progress=lambda *news: told.append(news))
    names = pseudonyms_of(cohort.path)
    digest = store_digest(cohort, names)
    assert store.path == tmp_path / "stores" / digest
    assert (store.name, store.digest, store.key, store.labels) == ("heart", digest, names.identity, {1: "ventricle"})
    assert store.domains["ct"]["intensity"]["low"] == -100.0
    rows = {(names(row.subject), row.domain): row for row in cohort.rows}
    assert len(store) == len(rows)
    for record in store.records():
        row = rows[record.subject, record.domain]
        one = prepare_image(row, cohort)
        assert record.shape == (12, 10, 12)
        np.testing.assert_array_equal(store.image(record), one.image)
        np.testing.assert_allclose(record.affine, one.affine)
        assert (record.patient, record.split, record.lo, record.hi) == (names(row.patient), row.split, one.lo, one.hi)
        assert record.labelled == (row.label is not None)
        if record.labelled:
            np.testing.assert_array_equal(store.label(record), one.label)
    assert [(done, total) for done, total, _ in told] == [(i, 6) for i in range(1, 7)]


def test_it_is_done_once(cohort, tmp_path):
    told = []
    first = prepare(cohort, tmp_path / "stores")
    again = prepare(read_cohort(cohort.path), tmp_path / "stores", progress=lambda *news: told.append(news))
    assert told == []
    assert again.path == first.path


def test_the_order_of_the_rows_does_not_matter(cohort, tmp_path):
    one = prepare(cohort, tmp_path / "a")
    other = prepare(replace(cohort, rows=cohort.rows[::-1]), tmp_path / "b", workers=1)
    assert one.digest == other.digest
    files = {file.name: file.read_bytes() for file in one.path.iterdir()}
    assert files == {file.name: file.read_bytes() for file in other.path.iterdir()}


def test_a_changed_image_or_rule_is_another_store(cohort, tmp_path):
    root = tmp_path / "stores"
    before = prepare(cohort, root)
    old = np.array(before.image(before.records("ct")[0]))
    path = cohort.rows[0].image
    image = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj).copy()
    voxels[3, 3, 3] = 299 if voxels[3, 3, 3] != 299 else 298
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    changed = prepare(cohort, root)
    window = replace(cohort.domains["ct"], intensity=replace(INTENSITY, high=200.0))
    ruled = prepare(replace(cohort, domains={**cohort.domains, "ct": window}), root)
    assert shown(root) == sorted({before.digest, changed.digest, ruled.digest})
    assert len(shown(root)) == 3
    assert not np.array_equal(changed.image(changed.records("ct")[0]), old)
    np.testing.assert_array_equal(before.image(before.records("ct")[0]), old)  # the old one is as it was


def test_a_store_of_another_version_is_not_built_over(cohort, tmp_path):
    store = prepare(cohort, tmp_path)
    header = store.path / "store.json"
    header.write_text(header.read_text().replace(f'"format": {FORMAT}', '"format": 0'))
    with pytest.raises(InputError, match="another version"):
        prepare(cohort, tmp_path)


def test_a_bad_image_is_named_and_leaves_nothing(cohort, tmp_path):
    bad = cohort.rows[3].image
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(InputError, match=bad.name):
        prepare(cohort, tmp_path / "stores")
    assert shown(tmp_path / "stores") == []
    assert list((tmp_path / "stores").glob(".*.part")) == []


def test_an_empty_cohort_is_refused(cohort, tmp_path):
    with pytest.raises(InputError, match="no usable image"):
        prepare(replace(cohort, rows=()), tmp_path / "stores")


# --- disc space --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [{}, {"spacing": (1.5, 1.5, 1.5)}, {"spacing": (0.0, 2.0, 1.0), "size": (8, 0, 16)}])
def test_the_expected_size_is_that_of_the_arrays(cohort, tmp_path, rules):
    cohort = replace(cohort, **rules)
    store = prepare(cohort, tmp_path)
    real = sum(
        store.image(record).nbytes + (store.label(record).nbytes if record.labelled else 0)
        for record in store.records()
    )
    expected = sum(preparation._expected_bytes(row, cohort) for row in cohort.rows)
    assert real <= expected <= 1.3 * real


def test_the_expected_size_of_a_picture(tmp_path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "x.png")
    row = Row("p", "s", "ct", tmp_path / "x.png")
    assert preparation._expected_bytes(row, Cohort(tmp_path, "c", {})) == 48 * 4


def test_no_space_is_said_before_anything_is_read(cohort, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 1000, 1000))
    monkeypatch.setattr(preparation, "prepare_image", lambda row, cohort: pytest.fail("an image was read"))
    with pytest.raises(InputError, match="no space") as error:
        prepare(cohort, tmp_path / "stores")
    assert str(tmp_path / "stores") in error.value.what
    assert shown(tmp_path / "stores") == []


# --- real processes ----------------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from ganatomy.cohorts.reading import read_cohort
from ganatomy.stores.preparation import prepare, store_digest
from ganatomy.cohorts.pseudonyms import pseudonyms_of

def tell(done, total, subject):
    print("made", done, flush=True)
    time.sleep(float(sys.argv[3]))

store = prepare(read_cohort(sys.argv[1]), sys.argv[2], progress=tell)
print("sum", sum(float(store.image(record).sum()) for record in store.records()), flush=True)
"""


def start(cohort: Cohort, root: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(cohort.path), str(root), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_one_prepares_while_others_wait_and_a_killed_one_leaves_nothing(cohort, tmp_path):
    """Three processes want one store; the first is killed in the middle. One of the others makes it, both have it."""
    root = tmp_path / "stores"
    first = start(cohort, root, pause=600)
    assert first.stdout is not None
    assert first.stdout.readline() == "made 1\n"  # in the middle: one of six is written
    others = [start(cohort, root, pause=0.1) for _ in range(2)]
    (left,) = root.glob(".*.part")
    assert any(left.iterdir())
    first.send_signal(signal.SIGKILL)
    first.wait()
    with pytest.raises(InputError):
        open_store(left)
    said = [process.communicate(timeout=120)[0].splitlines() for process in others]
    assert [process.returncode for process in others] == [0, 0]
    assert sorted(sum(line.startswith("made") for line in lines) for lines in said) == [0, 6]
    assert said[0][-1] == said[1][-1]
    assert said[0][-1].startswith("sum")
    assert shown(root) == [store_digest(cohort, pseudonyms_of(cohort.path))]
    assert list(root.glob(".*.part")) == []
