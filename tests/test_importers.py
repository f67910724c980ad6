"""Importers: every layout becomes the cohort it describes; real sets too, where they are present."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas
import pytest
from PIL import Image

from ganatomy.cohort import prepare_image, read_cohort
from ganatomy.contracts import InputError
from ganatomy.imaging import load_native
from ganatomy.importers import import_cohort
from ganatomy.layouts import Pattern

DATA = Path(__file__).parents[2] / "shared" / "data"
FOLDERS = {"image": ["{domain}={patient}/{domain}.nii.gz"], "label": ["{patient}/label.nii.gz"]}


def write(path, seed=0, label=None, shape=(6, 5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if label is None:
        voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(np.int16)
    else:
        voxels = np.zeros(shape, np.uint8)
        for number, value in enumerate(label):
            voxels[number + 1] = value
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return path


@pytest.fixture
def registered(tmp_path):
    """Ten patients in t1 and flair on one grid, one label file for both, and a file that is neither."""
    for number in range(10):
        folder = tmp_path / "in" / f"p{number}"
        write(folder / "t1.nii.gz", 2 * number)
        write(folder / "flair.nii.gz", 2 * number + 1)
        write(folder / "label.nii.gz", label=(1, 2, 4))
    (tmp_path / "in" / "README.txt").write_text("about")
    return tmp_path / "in"


# --- folders -----------------------------------------------------------------------------------------------------


def test_registered_domains_share_a_label_and_part_for_training(registered, tmp_path):
    cohort, findings = import_cohort(
        registered,
        "folders",
        tmp_path / "out",
        **FOLDERS,
        labels=["whole=1,2,4"],
        disjoint_domains="train",
        name="brain",
    )
    assert findings.findings == ()
    assert read_cohort(tmp_path / "out") == cohort
    assert (cohort.name, dict(cohort.labels), sorted(cohort.domains)) == ("brain", {1: "whole"}, ["flair", "t1"])
    t1, flair = (set(cohort.patients("train", domain)) for domain in ("t1", "flair"))
    assert len(t1) == len(flair) == 3
    assert not t1 & flair
    for split in ("val", "test"):
        assert len(cohort.patients(split)) == 2
        assert cohort.patients(split, "t1") == cohort.patients(split, "flair")
    assert all(row.label == registered / row.patient / "label.nii.gz" for row in cohort.rows)
    assert prepare_image(cohort.rows[0], cohort).label.max() == 1


def test_disjoint_all_parts_the_held_out_patients_too(registered, tmp_path):
    cohort, _ = import_cohort(registered, "folders", tmp_path / "out", **FOLDERS, disjoint_domains="all")
    assert not set(cohort.patients(domain="t1")) & set(cohort.patients(domain="flair"))
    assert all(cohort.patients(split, domain) for split in ("train", "val", "test") for domain in cohort.domains)


def test_the_same_seed_imports_the_same_cohort(registered, tmp_path):
    def imported(out, seed):
        return import_cohort(registered, "folders", tmp_path / out, **FOLDERS, seed=seed)[0]

    first = imported("1", 0)
    assert first.digest() == imported("2", 0).digest()
    assert first.digest() != imported("3", 1).digest()


def test_undeclared_labels_are_found_and_declared_ones_keep_their_order(registered, tmp_path):
    found, _ = import_cohort(registered, "folders", tmp_path / "1", **FOLDERS)
    assert dict(found.labels) == {1: "label_1", 2: "label_2", 3: "label_4"}
    assert set(np.unique(prepare_image(found.rows[0], found).label)) == {0, 1, 2, 3}
    some, _ = import_cohort(
        registered, "folders", tmp_path / "2", **FOLDERS, labels=["core=4", "rim=2", "background=1"]
    )
    assert dict(some.labels) == {1: "core", 2: "rim"}
    label = prepare_image(some.rows[0], some).label.transpose(2, 1, 0)[::-1]
    assert [label[plane].max() for plane in (1, 2, 3)] == [0, 2, 1]


def test_faults_are_quarantined_and_the_rest_goes_on(registered, tmp_path):
    (registered / "p3" / "t1.nii.gz").write_bytes(b"no image")
    write(registered / "p5" / "label.nii.gz", label=(9,))
    cohort, findings = import_cohort(registered, "folders", tmp_path / "out", **FOLDERS, labels=["a=1", "b=2", "c=4"])
    faulty = {Path(finding.file).relative_to(registered).as_posix() for finding in findings.of("quarantine")}
    assert faulty == {"p3/t1.nii.gz", "p5/t1.nii.gz", "p5/flair.nii.gz"}
    assert len(cohort.rows) == 17
    assert all(row.split for row in cohort.rows)
    assert len(read_cohort(tmp_path / "out").set_aside) == 3


def test_patterns_capture_domain_session_split_and_class(tmp_path):
    for number, (patient, session, part, kind) in enumerate(
        [("a_1", "m0", "train", "ill"), ("a_1", "m6", "train", "ill"), ("b_2", "m0", "test", "well")]
    ):
        write(tmp_path / "in" / part / kind / f"{patient}_{session}_ct.nii.gz", number)
        write(tmp_path / "in" / "seg" / f"{patient}_{session}.nii.gz", label=(1,))
    cohort, _ = import_cohort(
        tmp_path / "in", "folders", tmp_path / "out", splits=(0.5, 0, 0.5),
        image=["ct={split}/{class}/{patient}_{session:m\\d}_ct.nii.gz"], label=["seg/{patient}_{session:m\\d}.nii.gz"],
    )  # fmt: skip
    rows = {row.subject: row for row in cohort.rows}
    assert sorted(rows) == ["a_1_m0", "a_1_m6", "b_2_m0"]
    assert (rows["a_1_m6"].patient, rows["a_1_m6"].split, rows["a_1_m6"].klass) == ("a_1", "train", "ill")
    assert rows["b_2_m0"].label == tmp_path / "in" / "seg" / "b_2_m0.nii.gz"


def test_the_label_that_says_most_wins_and_a_tie_is_refused(registered, tmp_path):
    for number in range(10):
        write(registered / f"p{number}" / "t1-label.nii.gz", label=(2,))
    both = {"image": FOLDERS["image"], "label": ["{patient}/label.nii.gz", "t1={patient}/t1-label.nii.gz"]}
    cohort, _ = import_cohort(registered, "folders", tmp_path / "1", **both)
    assert {row.label.name for row in cohort.rows_of("t1")} == {"t1-label.nii.gz"}
    assert {row.label.name for row in cohort.rows_of("flair")} == {"label.nii.gz"}
    with pytest.raises(InputError, match="several labels"):
        import_cohort(registered, "folders", tmp_path / "2", image=FOLDERS["image"], label=["{patient}/*label.nii.gz"])


def test_mask_files_bound_the_intensities(registered, tmp_path):
    for number in range(10):
        write(registered / f"p{number}" / "brain.nii.gz", label=(1, 1))
    cohort, _ = import_cohort(
        registered,
        "folders",
        tmp_path / "out",
        **FOLDERS,
        mask=["{patient}/brain.nii.gz"],
        intensity=["zscore:-3:3:file"],
    )
    image = prepare_image(cohort.rows[0], cohort).image.transpose(2, 1, 0)[::-1]
    assert (image[0] == -1).all()
    assert image[1].std() > 0.1
    assert read_cohort(tmp_path / "out") == cohort


def test_a_link_that_leads_back_up_is_no_trap(registered, tmp_path):
    (registered / "p0" / "up").symlink_to(registered, target_is_directory=True)
    cohort, _ = import_cohort(registered, "folders", tmp_path / "out", **FOLDERS)
    assert len(cohort.rows) == 20


def test_labels_that_belong_to_no_image_are_an_error_not_an_unlabelled_cohort(registered, tmp_path):
    with pytest.raises(InputError, match=r"no label belongs to an image: p0/label.nii.gz says patient p0/label"):
        import_cohort(
            registered, "folders", tmp_path / "out", image=FOLDERS["image"], label=["{patient:.*label}.nii.gz"]
        )


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_2d_pictures_are_cohorts_too(tmp_path, suffix):
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 10)).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"p{number}_xray.{suffix}")
        Image.fromarray(np.where(pixels > 128, 255, 0).astype(np.uint8)).save(tmp_path / "in" / f"p{number}_mask.png")
    cohort, findings = import_cohort(
        tmp_path / "in", "folders", tmp_path / "out",
        image=[f"xray={{patient}}_xray.{suffix}"], label=["{patient}_mask.png"], labels=["lesion=255"],
    )  # fmt: skip
    assert not findings.of("quarantine")
    prepared = prepare_image(cohort.rows[0], cohort)
    assert prepared.image.shape == (1, 8, 10)
    assert set(np.unique(prepared.label)) == {0, 1}


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


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "folder"}, "unknown --layout 'folder'; did you mean 'folders'"),
        ({"image": []}, "without --image"),
        (
            {"image": ["{domain}={patient}/{domain}.nii"]},
            "no file matches .*expected paths such as README.txt, p0/flair.nii.gz",
        ),
        ({"image": ["t1={subject}/t1.nii.gz"]}, "names no patient"),
        ({"image": ["{patient}/t1.nii.gz"]}, "names no domain"),
        ({"image": ["t1={patien}/t1.nii.gz"]}, "unknown placeholder {patien}.*did you mean 'patient'"),
        ({"image": ["t1={patient:(}/t1.nii.gz"]}, "regular expression"),
        ({"domains": ["t1", "flare"]}, "no image of domain 'flare'; did you mean 'flair'"),
        ({"intensity": ["flare=percentile"]}, "--intensity for unknown domain 'flare'"),
        ({"intensity": ["percntile"]}, "did you mean 'percentile'"),
        ({"modality": ["t1"]}, "--modality 't1'; expected DOMAIN=TEXT"),
        ({"labels": ["a"]}, "--labels 'a'; expected NAME=VALUE"),
        ({"labels": ["a=one"]}, "whole numbers"),
        ({"labels": ["a=1,2", "b=2"]}, "label value 2 for 'b'"),
        ({"labels": ["a=0"]}, "label value 0"),
        ({"spacing": [1, 1]}, "--spacing 1 1"),
        ({"size": [8, 8, 2.5]}, "--size 8 8 2.5"),
        ({"splits": [0.5, 0.5, 0.5]}, "split fractions"),
        ({"disjoint_domains": "some"}, "--disjoint-domains 'some'"),
        ({"columns": ["a=b"]}, "--columns with --layout folders"),
        ({"layout": "msd"}, "--image with --layout msd"),
        ({"layout": "msd", "image": [], "label": []}, "dataset.json cannot be read"),
        ({"layout": "bids", "image": [], "label": []}, "no BIDS image"),
        ({"layout": "table", "image": [], "label": []}, "holds 0 tables"),
        ({"intensity": ["t1=window:900:999"]}, "no image of domain t1 can be used: .*no contrast"),
    ],
)
def test_bad_options_are_one_clear_line_and_leave_nothing(registered, tmp_path, options, says):
    given = {"layout": "folders", **FOLDERS, **options}
    with pytest.raises(InputError, match=says) as caught:
        import_cohort(registered, given.pop("layout"), tmp_path / "out", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_existing_cohort_is_replaced_only_when_asked(registered, tmp_path):
    out = tmp_path / "out"
    import_cohort(registered, "folders", out, **FOLDERS)
    before = (out / "cohort.yaml").read_text()
    with pytest.raises(InputError, match="exists"):
        import_cohort(registered, "folders", out, **FOLDERS, name="other")
    assert (out / "cohort.yaml").read_text() == before
    assert import_cohort(registered, "folders", out, **FOLDERS, name="other", overwrite=True)[0] == read_cohort(out)


def test_msd_and_nnunet_are_told_apart(tmp_path):
    msd(tmp_path, {"0": "CT"}, [])
    with pytest.raises(InputError, match=r"no 'channel_names'.*try the other --layout"):
        import_cohort(tmp_path, "nnunet", tmp_path / "out")


# --- real sets ---------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not DATA.is_dir(), reason="the real sets (../shared/data) are not on this machine")


@real
def test_glioma_flair_t1c(tmp_path):
    cohort, findings = import_cohort(
        DATA / "glioma-brats2015-flair-t1c", "folders", tmp_path / "glioma",
        image=["{domain}={patient}/{domain}.nii.gz"], label=["{patient}/tumour.nii.gz"], domains=["flair", "t1c"],
        labels=["tumour=1,2,3,4"], intensity=["percentile:0.5:99.5:above_minimum"], size=(160, 192, 0),
        disjoint_domains="train",
    )  # fmt: skip
    assert findings.findings == ()
    assert len(cohort.patients()) == 6
    assert not set(cohort.patients("train", "flair")) & set(cohort.patients("train", "t1c"))
    assert all(cohort.patients(split, domain) for split in ("train", "val", "test") for domain in cohort.domains)
    row = cohort.rows[0]
    prepared = prepare_image(row, cohort)
    stored = np.asarray(nibabel.load(row.image).dataobj)
    assert prepared.image.shape == (stored.shape[2], 192, 160)
    background = stored[::-1, ::-1] == -5000  # LPS -> RAS
    left, low = (-((side - wanted) // 2) for side, wanted in zip(stored.shape, (160, 192)))
    assert min(left, low) >= 0
    seen = prepared.image.transpose(2, 1, 0)
    inside = seen[left : left + stored.shape[0], low : low + stored.shape[1]]
    assert (inside[background] == -1).all()
    tissue = inside[~background]
    assert 0.2 < tissue.std() < 0.6  # the sentinel does not squeeze the tissue into a corner of the range
    tumour = np.asarray(nibabel.load(row.label).dataobj) > 0
    assert prepared.label.sum() == tumour.sum()


@real
def test_ms_t1_flair(tmp_path):
    cohort, findings = import_cohort(
        DATA / "ms-lesion-mni-4mod", "folders", tmp_path / "ms",
        image=["{domain}={patient}/{domain}.nii.gz"], label=["{patient}/lesion.nii.gz"], domains=["t1", "flair"],
        labels=["lesion=1"], intensity=["zscore:-4:4:nonzero"], splits=(2 / 3, 1 / 3, 0), disjoint_domains="train",
    )  # fmt: skip
    assert not findings.of("quarantine")
    assert [len(cohort.patients(split)) for split in ("train", "val", "test")] == [2, 1, 0]
    assert [len(cohort.patients("train", domain)) for domain in ("t1", "flair")] == [1, 1]
    assert prepare_image(cohort.rows[0], cohort).label.max() == 1


@real
def test_abdomen_ct_mr(tmp_path):
    cohort, findings = import_cohort(
        DATA / "abdomen-ct-mr", "folders", tmp_path / "abdomen",
        image=[r"ct={patient:\w+_ct\d?}.nii.gz", "mr={patient:totalseg_mr}.nii.gz"], label=["{patient}_organs.nii.gz"],
        intensity=["ct=window:-160:240", "mr=percentile:0.5:99.5"], spacing=(3, 3, 3),
        labels=["spleen=1", "right_kidney=2", "left_kidney=3", "gallbladder=4", "liver=5", "stomach=6", "pancreas=7"],
    )  # fmt: skip
    assert not findings.of("quarantine")
    assert cohort.patients(domain="ct") == ("chaos_ct3", "totalseg_ct")
    assert cohort.patients(domain="mr") == ("totalseg_mr",)
    assert cohort.classes == 8
    (chaos,) = [row for row in cohort.rows if row.label is None]
    prepared = prepare_image(chaos, cohort)
    np.testing.assert_allclose(np.sqrt((prepared.affine[:3, :3] ** 2).sum(0)), 3)
    assert (prepared.lo, prepared.hi) == (-160, 240)
    centre = [prepared.affine @ [*(np.array(prepared.image.shape[::-1]) - 1) / 2.0, 1]]
    native = nibabel.load(chaos.image)
    np.testing.assert_allclose(centre, [native.affine @ [*(np.array(native.shape) - 1) / 2.0, 1]], atol=1e-3)


@real
def test_mammograms_pair_two_films_into_one_patient(tmp_path):
    """A table made from the set's own list: consecutive odd and even films are the two breasts of one woman."""
    folder = DATA / "mias-mammo-lesions" / "crops256_lesion"
    lines = ["patient,subject,domain,image,class"]
    for file in sorted(folder.glob("*.png"))[:12]:
        film = int(file.name[3:6])
        lines.append(f"w{(film + 1) // 2:03d},{file.stem},lesion,{file},lesion")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    cohort, findings = import_cohort(tmp_path / "list.csv", "table", tmp_path / "out")
    assert len(cohort.rows) + len(findings.of("quarantine")) == 12
    assert prepare_image(cohort.rows[0], cohort).image.shape == (1, 256, 256)
    assert len(cohort.patients()) < 12
