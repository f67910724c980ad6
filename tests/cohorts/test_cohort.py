"""Cohort: what is written comes back, what would mislead is refused, splits go by patient."""

from __future__ import annotations

import dataclasses
import shutil

import nibabel
import numpy as np
import pandas
import pytest
import yaml

from ganatomy.cohorts.cohort import Cohort, Domain, Finding, Row, prepare_image
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.images.intensities import Intensity


def write(path, seed=0, shape=(4, 5, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return path


@pytest.fixture
def cohort(tmp_path):
    folder = tmp_path / "cohort"
    rows = []
    for number, split in enumerate(("train", "train", "val", "test")):
        image = write(folder / f"p{number}.nii.gz", number)
        rows.append(Row(f"p{number}", f"p{number}", "ct" if number % 2 else "mr", image, image, split))
    rows[0] = dataclasses.replace(
        rows[0], session="a", box=(1, 2, 3, 4.5), klass="ill", synthetic=True, parents=("x", "y")
    )
    rows[1] = dataclasses.replace(rows[1], box=(1, 2, 3, 4, 5, 6), label=None, mask=rows[1].image)
    domains = {"ct": Domain("ct", "CT", Intensity("window", -100, 200)), "mr": Domain("mr", "MR")}
    return Cohort(
        folder, "heart", domains, {1: "a", 2: "b"}, (1, 0, 2.5), (0, 8, 8), licence="CC0", rows=tuple(rows)
    ).save()


def edited(cohort, **changes):
    file = cohort.path / "cohort.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))
    return cohort.path


def with_line(cohort, number, text):
    lines = (cohort.path / "images.csv").read_text().splitlines()
    lines[number - 1 :] = [text, *lines[number:]] if number <= len(lines) else [text]
    (cohort.path / "images.csv").write_text("\n".join(lines) + "\n")
    return cohort.path


def test_a_cohort_comes_back_as_it_was_saved(cohort):
    assert read_cohort(cohort.path) == cohort
    assert read_cohort(str(cohort.path / "cohort.yaml")) == cohort
    assert cohort.classes == 3
    assert cohort.patients("train") == ("p0", "p1")
    assert [row.patient for row in cohort.rows_of("mr", "val")] == ["p2"]


def test_its_folder_can_move(cohort, tmp_path):
    digest = cohort.digest()
    moved = read_cohort(shutil.move(cohort.path, tmp_path / "elsewhere"))
    assert moved.rows[0].image == tmp_path / "elsewhere" / "p0.nii.gz"
    assert moved.digest() == digest
    assert str(tmp_path) not in (moved.path / "images.csv").read_text()


def test_parquet_tables_are_read(cohort):
    table = pandas.read_csv(cohort.path / "images.csv", dtype=str).astype({"box_x0": float})
    table.to_parquet(cohort.path / "images.parquet")
    (cohort.path / "images.csv").unlink()
    read = read_cohort(cohort.path)
    assert read == cohort
    before = (cohort.path / "images.parquet").read_bytes()
    read.save()
    assert not (cohort.path / "images.parquet").exists()  # one table, never two that may disagree
    assert (cohort.path / "images.parquet.replaced").read_bytes() == before  # it may have held more than we read
    assert read_cohort(cohort.path) == cohort


def test_quarantined_images_stay_in_the_table_and_out_of_the_rows(cohort):
    fault = Finding(str(cohort.rows[3].image), "quarantine", "why", "what now")
    set_aside = dataclasses.replace(
        cohort, rows=cohort.rows[:3], set_aside=cohort.rows[3:], quarantined=(fault,)
    ).save()
    read = read_cohort(cohort.path)
    assert read == set_aside
    assert "p3.nii.gz" in (cohort.path / "images.csv").read_text()
    assert read.digest() != cohort.digest()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("p0,extra,ct,p1.nii.gz,,val", "patient 'p0' is in split 'val', and in 'train' at .*line 2"),
        ("p9,p9,cd,p1.nii.gz,,val", "unknown domain 'cd'; did you mean 'ct'"),
        ("p9,p9,ct,p1.nii.gz,,vall", "unknown split 'vall'; did you mean 'val'"),
        ("p9,p9,ct,gone.nii.gz,,val", "gone.nii.gz does not exist"),
        ("p9,p9,ct,p0.nii.gz,gone.nii,val", "(label .*gone.nii does not exist|stands here)"),
        ("p1,p1,ct,p3.nii.gz,,train", "subject 'p1' in domain 'ct' stands here and at"),
        ("p9,p9,ct,p3.nii.gz,,test", "image .*p3.nii.gz stands here and at"),
        ("p9,p9,ct,,,test", "column 'image' is empty"),
        (",p9,ct,p3.nii.gz,,test", "column 'patient' is empty"),
        ("p9,p9,ct,../p3.nii.gz,,test", "image '../p3.nii.gz' leaves the cohort's folder.*remedy: write /"),
        ("p9,p9,ct,p3.nii.gz,x/../../l.nii,test", "label 'x/../../l.nii' leaves the cohort's folder"),
        ("p\x1b[2J9,p9,ct,p3.nii.gz,,test", r"patient 'p\\x1b\[2J9'; expected one line"),
    ],
)
def test_bad_rows_are_refused_by_file_and_line(cohort, line, says):
    plain = dataclasses.replace(cohort, rows=tuple(Row(*dataclasses.astuple(row)[:6]) for row in cohort.rows)).save()
    with pytest.raises(InputError, match=rf"images.csv, line 6: .*{says}"):
        read_cohort(with_line(plain, 6, line))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"spacin": [1, 1, 1]}, "unknown key 'spacin'; did you mean 'spacing'"),
        ({"spacing": [1, 1]}, "three numbers"),
        ({"size": "big"}, "three numbers"),
        ({"orientation": "LPS"}, "RAS"),
        ({"labels": {1: "a", 3: "b"}}, "without gaps"),
        ({"labels": ["a"]}, "whole numbers"),
        ({"domains": {}}, "domains"),
        ({"domains": {"ct": {"intensity": {"rule": "windw", "low": 1, "high": 2}}}}, "did you mean 'window'"),
        ({"domains": {"ct": {"modalty": "CT"}}}, "did you mean 'modality'"),
        ({"format": 99}, "format 99"),
        ({"name": "../../x"}, r"cohort.yaml: name '../../x'"),
        ({"name": "a\nb"}, r"cohort.yaml: name 'a\\nb'"),
        ({"name": "<b>"}, r"cohort.yaml: name '<b>'"),
        ({"domains": {"../ct": {}}}, r"cohort.yaml: domain '../ct'"),
        ({"quarantined": [{"reason": "why"}]}, "a list of file, reason, remedy"),
    ],
)
def test_bad_settings_are_refused_with_the_nearest_right_name(cohort, changes, says):
    with pytest.raises(InputError, match=says):
        read_cohort(edited(cohort, **changes))


def test_an_absolute_path_may_name_a_file_anywhere_and_a_name_is_made_of_any_folder(cohort, tmp_path):
    there = (tmp_path / "elsewhere").mkdir() or tmp_path / "elsewhere" / "moved.nii.gz"
    cohort.rows[0].image.rename(there)
    dataclasses.replace(
        cohort, rows=(dataclasses.replace(cohort.rows[0], image=there, label=there), *cohort.rows[1:])
    ).save()
    folder = cohort.path.rename(tmp_path / "study & more: 50%")
    settings = yaml.safe_load((folder / "cohort.yaml").read_text())
    (folder / "cohort.yaml").write_text(yaml.safe_dump({**settings, "name": ""}))
    again = read_cohort(folder)
    assert (again.name, again.rows[0].image) == ("study - more- 50-", there)


def test_intensity_rules_may_be_written_as_on_the_command_line(cohort):
    read = read_cohort(edited(cohort, domains={"ct": {"modality": "CT", "intensity": "window:-100:200"}, "mr": {}}))
    assert read.domains["ct"] == cohort.domains["ct"]
    assert read.domains["mr"].intensity == Intensity()


def test_what_is_no_cohort_is_said_to_be_none(tmp_path, cohort):
    with pytest.raises(InputError, match="no cohort"):
        read_cohort(tmp_path / "nothing")
    (cohort.path / "cohort.yaml").write_text("a: [1")
    with pytest.raises(InputError, match="not YAML"):
        read_cohort(cohort.path)
    (cohort.path / "cohort.yaml").unlink()
    (cohort.path / "images.csv").unlink()
    with pytest.raises(InputError, match="no cohort"):
        read_cohort(cohort.path)


def test_disjoint_domains_hold_for_training_patients_only(cohort):
    held = dataclasses.replace(cohort, disjoint_domains=True)
    other = write(cohort.path / "other.nii.gz", 9)
    second = Row("p2", "p2", "ct", other, split="val")
    dataclasses.replace(held, rows=(*cohort.rows, second)).save()
    second = dataclasses.replace(second, patient="p1", subject="p1", domain="mr", split="train")
    with pytest.raises(InputError, match="patient 'p1' trains domain 'mr', and 'ct' at row 2"):
        dataclasses.replace(held, rows=(*cohort.rows, second)).save()


def test_an_interrupted_save_leaves_the_old_cohort(cohort, monkeypatch):
    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    before = sorted(cohort.path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(cohort, name="other", rows=cohort.rows[:1]).save()
    assert sorted(cohort.path.iterdir()) == before
    assert read_cohort(cohort.path) == cohort


def test_digest_follows_content_and_rules_alone(cohort):
    digest = cohort.digest()
    assert dataclasses.replace(cohort, name="other", licence="", rows=cohort.rows[::-1]).digest() == digest
    changes = [
        {"spacing": (1, 1, 1)},
        {"size": None},
        {"labels": {1: "a"}},
        {"label_values": {7: 1}},
        {"domains": {**cohort.domains, "ct": Domain("ct", "CT", Intensity("window", -100, 201))}},
        {"rows": cohort.rows[:3]},
        {"rows": (dataclasses.replace(cohort.rows[0], label=None), *cohort.rows[1:])},
        {"rows": tuple(dataclasses.replace(row, split="train") for row in cohort.rows)},
    ]
    assert len({digest, *(dataclasses.replace(cohort, **change).digest() for change in changes)}) == len(changes) + 1
    write(cohort.rows[0].image, seed=77)
    assert cohort.digest() != digest
    write(cohort.rows[0].image, seed=0)
    assert cohort.digest() == digest


def test_digest_of_a_vanished_file_is_an_input_error(cohort):
    cohort.rows[0].image.unlink()
    with pytest.raises(InputError, match=r"p0\.nii\.gz"):
        cohort.digest()


def test_prepare_image_follows_the_rules_of_the_domain(cohort):
    prepared = prepare_image(dataclasses.replace(cohort.rows[3], label=None), cohort)
    assert prepared.image.shape == (8, 8, 4)
    assert (prepared.lo, prepared.hi) == (-100, 200)
    assert nibabel.aff2axcodes(prepared.affine) == ("R", "A", "S")
    narrow = dataclasses.replace(cohort, domains={"ct": Domain("ct", "", Intensity("window", 900, 901))})
    with pytest.raises(InputError, match=r"p3\.nii\.gz: no contrast"):
        prepare_image(dataclasses.replace(cohort.rows[3], label=None), narrow)
