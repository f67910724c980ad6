"""Layouts: patterns of paths, BIDS, MSD, nnU-Net and tables become the cohorts that they describe."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pandas
import pytest
from PIL import Image

from cohorts.scans import write, write_registered
from ganatomy.cohorts.importers import import_cohort
from ganatomy.cohorts.layouts import Pattern
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.images.imaging import load_native


@pytest.fixture
def registered(tmp_path):
    return write_registered(tmp_path / "in")


# --- patterns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "said"),
    [
        ("{domain}={patient}/{domain}.nii.gz", "p/ct.nii.gz", {"patient": "p", "domain": "ct"}),
        ("ct={patient}/x.nii", "p/x.nii", {"patient": "p", "domain": "ct"}),
        ("ct={patient}/x.nii", "p/q/x.nii", None),
        ("ct=**/{patient}/x.nii", "a/b/p/x.nii", {"patient": "p", "domain": "ct"}),
        ("{patient}_{patient}.nii", "a_b.nii", None),
        (r"{patient:p\d{2}}_*.nii", "p07_any.nii", {"patient": "p07"}),
        ("{patient}.nii.gz", "p_nii_gz", None),
    ],
)
def test_patterns_match_whole_paths(pattern, path, said):
    assert Pattern.parse(pattern).captured(path) == said


def test_named_domains_settle_where_a_name_ends():
    pattern = Pattern.parse("{patient}_{domain}.nii", ["t1", "t1_gd"])
    assert pattern.captured("a_b_t1_gd.nii") == {"patient": "a_b", "domain": "t1_gd"}
    assert pattern.captured("a_b_t2.nii") is None


# --- BIDS, MSD, nnU-Net, tables ----------------------------------------------------------------------------------


def test_bids(tmp_path):
    root = tmp_path / "in"
    for number, patient in enumerate(("01", "02", "03")):
        for session in ("a", "b"):
            stem = f"sub-{patient}_ses-{session}"
            folder = root / f"sub-{patient}" / f"ses-{session}"
            seed = number * 10 + (session == "b") * 5
            write(folder / "anat" / f"{stem}_T1w.nii.gz", seed)
            write(folder / "anat" / f"{stem}_run-1_FLAIR.nii.gz", seed + 1)
            write(folder / "anat" / f"{stem}_run-2_FLAIR.nii.gz", seed + 2)
            write(folder / "anat" / f"{stem}_ce-gad_T1w.nii.gz", seed + 3)
            write(folder / "func" / f"{stem}_task-rest_bold.nii.gz", seed + 4)
            write(root / "derivatives" / "manual" / f"sub-{patient}" / f"{stem}_space-T1w_dseg.nii.gz", label=(1, 3))
    (root / "dataset_description.json").write_text(json.dumps({"Name": "set", "License": "CC0", "BIDSVersion": "1.9"}))
    (root / "derivatives" / "manual" / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tgrey\n3\twhite\n")
    cohort, findings = import_cohort(root, "bids", tmp_path / "out")
    assert not findings.of("quarantine")
    assert sorted(cohort.domains) == ["FLAIR", "T1w", "T1w_ce-gad"]
    assert (cohort.name, cohort.licence, dict(cohort.labels)) == ("set", "CC0", {1: "grey", 2: "white"})
    assert cohort.patients() == ("01", "02", "03")
    assert {row.subject for row in cohort.rows_of("T1w")} == {f"{p}_{s}" for p in ("01", "02", "03") for s in "ab"}
    assert {row.subject for row in cohort.rows_of("FLAIR") if row.patient == "01"} == {
        f"01_{session}_run-{run}" for session in "ab" for run in (1, 2)
    }
    assert all(f"ses-{row.session}" in row.label.name and f"sub-{row.patient}" in row.label.name for row in cohort.rows)
    assert {row.patient: row.split for row in cohort.rows}.keys() == set(cohort.patients())
    some, _ = import_cohort(
        root, "bids", tmp_path / "some", domains=["T1w"],
        label=["derivatives/*/sub-{patient}/*ses-{session}*_dseg.nii.gz"],
    )  # fmt: skip
    assert [row.label for row in some.rows] == [row.label for row in cohort.rows_of("T1w")]


def msd(root, modality, training, **more):
    about = {"name": "Heart", "licence": "CC-BY-SA 4.0", "modality": modality, "training": training, **more}
    about["labels"] = {"0": "background", "1": "liver", "2": "tumour"}
    (root / "dataset.json").write_text(json.dumps(about))


def test_msd_of_one_modality(tmp_path):
    for number in range(6):
        write(tmp_path / "in" / "imagesTr" / f"liver_{number}.nii.gz", number)
        write(tmp_path / "in" / "labelsTr" / f"liver_{number}.nii.gz", label=(1, 2))
    write(tmp_path / "in" / "imagesTs" / "liver_9.nii.gz", 9)
    training = [{"image": f"./imagesTr/liver_{n}.nii.gz", "label": f"./labelsTr/liver_{n}.nii.gz"} for n in range(6)]
    msd(tmp_path / "in", {"0": "CT"}, training, test=["./imagesTs/liver_9.nii.gz"])
    cohort, _ = import_cohort(tmp_path / "in", "msd", tmp_path / "out", intensity=["CT=window:-160:240"])
    assert (cohort.name, cohort.licence, dict(cohort.labels)) == ("Heart", "CC-BY-SA 4.0", {1: "liver", 2: "tumour"})
    assert cohort.domains["CT"].intensity.text() == "window:-160:240:none"
    assert len(cohort.rows) == 7
    (test,) = [row for row in cohort.rows if row.label is None]
    assert (test.patient, test.split) == ("liver_9", "train")  # nothing can be scored on it
    assert test.image == tmp_path / "in" / "imagesTs" / "liver_9.nii.gz"


def test_msd_of_several_modalities_in_4d_files(tmp_path):
    for number in range(6):
        write(tmp_path / "in" / "imagesTr" / f"b_{number}.nii.gz", number, shape=(6, 5, 4, 2))
        write(tmp_path / "in" / "labelsTr" / f"b_{number}.nii.gz", label=(1, 2))
    msd(tmp_path / "in", {"0": "FLAIR", "1": "T1 gd"},
        [{"image": f"./imagesTr/b_{n}.nii.gz", "label": f"./labelsTr/b_{n}.nii.gz"} for n in range(6)])  # fmt: skip
    cohort, findings = import_cohort(tmp_path / "in", "msd", tmp_path / "out", disjoint_domains="train")
    assert not findings.of("quarantine")
    assert sorted(cohort.domains) == ["FLAIR", "T1_gd"]
    assert read_cohort(tmp_path / "out") == cohort
    row = cohort.rows_of("T1_gd")[0]
    stored = np.asarray(nibabel.load(row.image).dataobj)[..., 1]
    np.testing.assert_array_equal(load_native(row.image, row.label, None, row.channel).volume, stored)


@pytest.mark.parametrize("ending", [".nii.gz", ".png"])
def test_nnunet(tmp_path, ending):
    root = tmp_path / "in"
    for part, numbers in (("Tr", range(6)), ("Ts", (7, 8))):
        for number in numbers:
            for channel in range(2):
                image = root / f"images{part}" / f"case_{number}_{channel:04d}{ending}"
                image.parent.mkdir(parents=True, exist_ok=True)
                if ending == ".png":
                    pixels = np.random.default_rng(10 * number + channel).integers(0, 255, (6, 5))
                    Image.fromarray(pixels.astype(np.uint8)).save(image)
                else:
                    write(image, 10 * number + channel)
            label = root / f"labels{part}" / f"case_{number}{ending}"
            label.parent.mkdir(parents=True, exist_ok=True)
            if part == "Tr" or number == 7:
                if ending == ".png":
                    Image.fromarray(np.arange(30).reshape(6, 5).astype(np.uint8) % 4).save(label)
                else:
                    write(label, label=(1, 2, 3))
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    about = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": labels, "numTraining": 6, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(about))
    cohort, findings = import_cohort(root, "nnunet", tmp_path / "out", patient=r"case_(\d)")
    assert not findings.of("quarantine")
    assert dict(cohort.labels) == {1: "whole", 2: "core", 3: "enhancing"}
    assert sorted(cohort.domains) == ["ADC", "T2"]
    assert cohort.patients() == ("0", "1", "2", "3", "4", "5", "7", "8")
    assert {row.patient: row.label is not None for row in cohort.rows} == {
        str(n): n != 8 for n in (0, 1, 2, 3, 4, 5, 7, 8)
    }


def test_nnunet_listed_files_and_a_missing_label(tmp_path):
    root = tmp_path / "in"
    listed = {}
    for number in range(4):
        write(root / "any" / f"{number}.nii.gz", number)
        write(root / "any" / f"{number}-seg.nii.gz", label=(1,))
        listed[f"c{number}"] = {"images": [f"any/{number}.nii.gz"], "label": f"any/{number}-seg.nii.gz"}
    (root / "any" / "2-seg.nii.gz").unlink()
    about = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "liver": 1},
        "file_ending": ".nii.gz",
        "dataset": listed,
    }
    (root / "dataset.json").write_text(json.dumps(about))
    cohort, findings = import_cohort(root, "nnunet", tmp_path / "out")
    assert cohort.patients() == ("c0", "c1", "c3")
    assert "2-seg.nii.gz cannot be read" in findings.of("quarantine")[0].reason


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables(registered, tmp_path, kind):
    table = pandas.DataFrame(
        [
            {"PatientID": f"p{n}", "domain": "t1", "path": f"p{n}/t1.nii.gz", "label": f"p{n}/label.nii.gz",
             "split": "test" if n < 2 else "train", "box_x0": 1.0, "box_y0": 2.0,
             "box_x1": 3.0, "box_y1": 4.0, "site": "x"}
            for n in range(10)
        ]
    )  # fmt: skip
    file = registered / f"list.{kind}"
    table.to_parquet(file) if kind == "parquet" else table.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
    columns = ["patient=PatientID", "image=path"]
    cohort, _ = import_cohort(file, "table", tmp_path / "out", columns=columns)
    assert cohort.patients("test") == ("p0", "p1")
    assert cohort.rows[0].box == (1, 2, 3, 4)
    assert read_cohort(tmp_path / "out") == cohort
    again, _ = import_cohort(registered, "table", tmp_path / "2", columns=columns)
    assert again.digest() == cohort.digest()


def test_a_leaking_table_is_refused_by_line(registered, tmp_path):
    (registered / "images.csv").write_text(
        "patient,subject,domain,image,label,split\np1,p1,t1,p1/t1.nii.gz,,train\np1,p1b,t1,p2/t1.nii.gz,,test\n"
    )
    with pytest.raises(
        InputError, match=r"images\.csv, line 3: patient 'p1' is in split 'test', and in 'train' at .*line 2"
    ):
        import_cohort(registered, "table", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_msd_and_nnunet_are_told_apart(tmp_path):
    msd(tmp_path, {"0": "CT"}, [])
    with pytest.raises(InputError, match=r"no 'channel_names'.*try the other --layout"):
        import_cohort(tmp_path, "nnunet", tmp_path / "out")
