"""Importers: folders become the cohorts that patterns describe; bad input; real sets too, where they are present."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from cohorts.scans import write, write_registered
from ganatomy.cohorts.cohort import prepare_image
from ganatomy.cohorts.importers import import_cohort
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError

DATA = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = {"image": ["{domain}={patient}/{domain}.nii.gz"], "label": ["{patient}/label.nii.gz"]}


@pytest.fixture
def registered(tmp_path):
    return write_registered(tmp_path / "in")


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


def test_a_name_that_cannot_be_one_is_refused_and_one_that_nobody_chose_is_made_fit(registered, tmp_path):
    for name in ("../../x", "a\nb", "<i>x</i>"):
        with pytest.raises(InputError, match="--name"):
            import_cohort(registered, "folders", tmp_path / "out", **FOLDERS, name=name)
    assert not (tmp_path / "out").exists()
    odd = registered.rename(tmp_path / "50% of <all>")
    assert import_cohort(odd, "folders", tmp_path / "out", **FOLDERS)[0].name == "50- of -all-"


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


@pytest.mark.parametrize("name", ["images.parquet", "check.json"])
def test_a_file_of_somebody_where_the_cohort_would_write_is_left_alone(registered, tmp_path, name):
    """The table that is imported may itself lie in ``--out``."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"somebody's work")
    with pytest.raises(InputError, match=f"{name} exists"):
        import_cohort(registered, "folders", out, **FOLDERS)
    assert [file.name for file in out.iterdir()] == [name]
    assert (out / name).read_bytes() == b"somebody's work"


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
