"""Inspection: each fault is set aside with file, reason and remedy, and the rest goes on."""

from __future__ import annotations

import dataclasses
import json
import re

import nibabel
import numpy as np
import pytest

from ganatomy.cohorts.cohort import Cohort, Domain, Finding, Row
from ganatomy.cohorts.inspection import check, check_cohort
from ganatomy.cohorts.reading import read_cohort
from ganatomy.images.intensities import Intensity

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def save(path, voxels, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def voxels(seed):
    return np.random.default_rng(seed).integers(0, 200, (6, 5, 4)).astype(np.int16)


def label(value=1):
    filled = np.zeros((6, 5, 4), np.uint8)
    filled[1:3] = value
    return filled


@pytest.fixture
def cohort(tmp_path):
    """Three patients in each of two domains."""
    rows = []
    for number in range(6):
        image = save(tmp_path / f"p{number}.nii.gz", voxels(number))
        mine = save(tmp_path / f"p{number}-label.nii.gz", label())
        rows.append(
            Row(
                f"p{number}",
                f"p{number}",
                "mr" if number % 2 else "ct",
                image,
                mine,
                ("train", "val", "test")[number // 2],
            )
        )
    return Cohort(tmp_path, "c", {"ct": Domain("ct"), "mr": Domain("mr")}, {1: "heart"}, rows=tuple(rows)).save()


def broken(path):
    path.write_bytes(path.read_bytes()[:60])


def not_a_number(path):
    save(path, np.where(voxels(0) > 190, np.nan, voxels(0)).astype(np.float32))


FAULTS = {
    "unreadable": (broken, "p0", "cannot be read"),
    "gone": (lambda path: path.unlink(), "p0", "cannot be read"),
    "label gone": (lambda path: path.unlink(), "p0-label", "p0-label.nii.gz cannot be read"),
    "nan": (not_a_number, "p0", r"\d+ voxels that are NaN or Inf"),
    "inf": (lambda path: save(path, np.where(voxels(0) > 190, np.inf, 1).astype(np.float32)), "p0", "NaN or Inf"),
    "constant": (lambda path: save(path, np.full((6, 5, 4), 7, np.int16)), "p0", "no contrast"),
    "shape": (lambda path: save(path, label()[1:]), "p0-label", r"\(6, 5, 4\).*\(5, 5, 4\)"),
    "shifted": (
        lambda path: save(path, label(), AFFINE + np.eye(4, k=3) * 0.5),
        "p0-label",
        "affines that differ by up to 0.5 mm",
    ),
    "flipped": (lambda path: save(path, label(), np.abs(AFFINE)), "p0-label", "affines that differ"),
    "undeclared": (lambda path: save(path, label(4)), "p0-label", r"undeclared values 4.*expected 0 and 1"),
    "fractional": (lambda path: save(path, label().astype(np.float32) / 2), "p0-label", "no class ids: 0.5"),
    "negative": (lambda path: save(path, -label().astype(np.int16)), "p0-label", "no class ids: -1"),
    "4D": (lambda path: save(path, np.stack([voxels(0)] * 2, -1)), "p0", "shape"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_quarantined_and_mended_ones_return(cohort, fault):
    break_it, name, reason = FAULTS[fault]
    path = cohort.path / f"{name}.nii.gz"
    whole = path.read_bytes()
    break_it(path)
    after, findings = check_cohort(cohort.path)
    (finding,) = findings.of("quarantine")
    assert finding.file == str(cohort.rows[0].image)

    assert re.search(reason, finding.reason), finding.reason
    assert finding.remedy
    assert after.rows == cohort.rows[1:]
    assert read_cohort(cohort.path) == after
    assert json.loads((cohort.path / "check.json").read_text())["fingerprint"]["quarantined"] == 1
    path.write_bytes(whole)
    mended, findings = check_cohort(cohort.path)
    assert not findings.of("quarantine")
    assert set(mended.rows) == set(cohort.rows)
    assert mended.digest() == cohort.digest()


def test_a_sound_cohort_is_left_as_it_is(cohort):
    before = {file.name: file.stat().st_mtime_ns for file in cohort.path.iterdir()}
    told = []
    after, findings = check_cohort(cohort.path, lambda *news: told.append(news))
    assert after == cohort
    assert findings.findings == ()
    assert told == [(done, 6) for done in range(1, 7)]
    assert {name: (cohort.path / name).stat().st_mtime_ns for name in before} == before


def test_rounded_headers_are_the_same_grid(cohort):
    save(cohort.rows[0].label, label(), AFFINE + np.eye(4, k=3) * 0.01)
    assert check(cohort).findings == ()


def test_copies_under_another_name_are_found(cohort):
    cohort.rows[5].image.write_bytes(cohort.rows[0].image.read_bytes())
    (finding,) = check(cohort).of("quarantine")
    assert finding.file == str(cohort.rows[5].image)
    assert "copy of" in finding.reason
    assert "p0" in finding.reason


def test_a_domain_without_a_usable_image_is_refused_by_name(cohort):
    for row in cohort.rows[::2]:
        broken(row.image)
    findings = check(cohort)
    (refusal,) = findings.of("refuse")
    assert "domain ct has no usable image" in refusal.reason
    assert len(findings.of("quarantine")) == 3


def test_an_intensity_rule_that_shows_nothing_is_a_fault_of_every_image(cohort):
    blind = dataclasses.replace(
        cohort, domains={**cohort.domains, "ct": Domain("ct", "", Intensity("window", 900, 901))}
    )
    assert len(check(blind).of("quarantine")) == 3


def test_warnings_say_what_a_user_would_stumble_over(cohort):
    rows = [
        dataclasses.replace(row, split="train", label=None if row.domain == "mr" else row.label) for row in cohort.rows
    ]
    rows[1] = dataclasses.replace(rows[1], patient="p0", subject="p0")
    save(rows[2].image, voxels(2), np.diag([1, 1, 3.0, 1]))
    save(rows[2].label, label(), np.diag([1, 1, 3.0, 1]))
    spoken = dataclasses.replace(cohort, rows=tuple(rows), labels={1: "heart", 2: "lung"})
    said = " ".join(finding.reason for finding in check(spoken).of("warn"))
    for part in ("ct has no patient in val, test", "mr has no labels", "lung occurs in no image of domain ct",
                 "spacings differ", "1 training patients stand in several domains"):  # fmt: skip
        assert part in said
    one = dataclasses.replace(cohort, rows=cohort.rows_of("ct"), domains={"ct": cohort.domains["ct"]})
    assert "the cohort has one domain" in " ".join(finding.reason for finding in check(one).findings)


def test_the_fingerprint_measures(cohort):
    ct = check(cohort).fingerprint["domains"]["ct"]
    assert (ct["images"], ct["labelled"], ct["patients"]) == (3, 3, {"train": 1, "val": 1, "test": 1})
    assert ct["shape"]["median"] == [6, 5, 4]
    assert ct["spacing"]["max"] == [1, 1, 2]
    assert ct["orientation"] == ["LPS"]
    assert ct["labels"]["heart"] == {"images": 3, "ml": {"min": 0.08, "median": 0.08, "max": 0.08}}
    medians = [np.median(voxels(number)) for number in (0, 2, 4)]
    assert ct["intensity"]["50%"]["median"] == np.median(medians)


def test_a_mended_image_never_brings_a_training_patient_into_a_second_domain(cohort):
    known = Row("p0", "p0", "mr", save(cohort.path / "known.nii.gz", voxels(8)))
    new = Row("new", "new", "mr", save(cohort.path / "new.nii.gz", voxels(9)))
    aside = dataclasses.replace(cohort, disjoint_domains=True, set_aside=(known, new))
    (finding,) = check(aside).of("quarantine")
    assert finding.file == str(known.image)
    assert finding.reason.endswith("(disjoint_domains)")
    faults = tuple(Finding(str(row.image), "quarantine", "it was broken") for row in (known, new))
    dataclasses.replace(aside, quarantined=faults).save()
    after, _ = check_cohort(cohort.path)
    assert {row.patient: row.split for row in after.rows_of("mr")} == {
        "p1": "train",
        "p3": "val",
        "p5": "test",
        "new": "train",
    }
    assert after.set_aside == (known,)
