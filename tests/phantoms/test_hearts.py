"""The phantom is a known truth: what is claimed of it is measured here, on the pictures and on the files."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy.cohorts.cohort import Cohort, prepare_image
from ganatomy.contracts import InputError
from ganatomy.images.imaging import load_image
from ganatomy.phantoms import hearts as phantom
from ganatomy.phantoms import parts
from ganatomy.phantoms.hearts import LABELS, TISSUES, cardiac_case, make_cohort

THIN = (4, 32, 32)
FULL = (12, 64, 64)
PATIENTS = {"ct": (3, 1, 1), "mr": (2, 1, 2)}


def same(first: phantom.Case, second: phantom.Case) -> bool:
    return np.array_equal(first.image, second.image) and np.array_equal(first.tissue, second.tissue)


# --- cases ---


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), case=st.integers(0, 10_000), domain=st.sampled_from(phantom.DOMAINS),
       gap=st.floats(0, 0.3), shape=st.sampled_from([THIN, (16, 16, 16), (3, 40, 32)]))  # fmt: skip
def test_any_case_is_a_fold_free_image_and_its_own_repetition(seed, case, domain, gap, shape):
    drawn = cardiac_case(seed, case, domain, shape, pose_gap=gap, swap_gap=gap)
    assert drawn.image.shape == drawn.label.shape == shape
    assert (drawn.image.dtype, drawn.label.dtype) == (np.float32, np.uint8)
    assert drawn.image.min() >= -1
    assert drawn.image.max() <= 1
    assert drawn.jacobian > 0
    assert set(np.unique(drawn.label)) <= {0, *LABELS}
    assert same(drawn, cardiac_case(seed, case, domain, shape, pose_gap=gap, swap_gap=gap))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), domain=st.sampled_from(phantom.DOMAINS), gap=st.floats(0, 0.3))
def test_the_heart_lies_inside_the_body(seed, domain, gap):
    """Under the ring of fat (two pixels at this size): it meets no air and not the border of the picture."""
    drawn = cardiac_case(seed, 0, domain, (2, 64, 64), pose_gap=gap)
    air = np.pad(drawn.tissue == TISSUES.index("air"), ((0, 0), (1, 1), (1, 1)), constant_values=True)
    heart = np.pad(drawn.label > 0, ((0, 0), (1, 1), (1, 1)))
    for axis in (1, 2):
        for step in (-1, 1):
            assert not (np.roll(air, step, axis) & heart).any()


def test_every_structure_is_there_in_every_slice_of_the_demo_slab_and_of_plausible_size():
    for case in range(6):
        label = cardiac_case(0, case, "mr", FULL).label
        counts = np.array([[(cut == name).sum() for name in LABELS] for cut in label])
        assert counts.min() >= 12, f"case {case}: smallest structure {counts.min()} pixels"
        assert 0.05 < (label > 0).mean() < 0.35


def test_seeds_and_cases_differ():
    reference = cardiac_case(0, 0, "ct", THIN)
    for other in (cardiac_case(0, 1, "ct", THIN), cardiac_case(1, 0, "ct", THIN)):
        assert not np.array_equal(reference.label, other.label)


def test_the_counterpart_has_the_same_anatomy_and_only_another_appearance():
    mine = cardiac_case(5, 3, "mr", THIN, pose_gap=0.25)
    other = cardiac_case(5, 3, "mr", THIN, pose_gap=0.25, appearance="ct")
    assert np.array_equal(mine.tissue, other.tissue)
    assert np.abs(mine.image - other.image).mean() > 0.2
    # With no gap the patient's home changes nothing at all.
    assert same(cardiac_case(5, 3, "mr", THIN), cardiac_case(5, 3, "ct", THIN, appearance="mr"))


def test_streams_are_independent_so_one_thing_can_be_changed_alone(monkeypatch):
    """Another realisation of one stream leaves what the other streams draw untouched, voxel by voxel."""
    before = cardiac_case(0, 0, "ct", THIN)
    original = phantom.stream

    def with_other(changed):
        def stream(seed, case, name):
            return original(seed + 1, case, name) if name == changed else original(seed, case, name)

        monkeypatch.setattr(phantom, "stream", stream)
        return cardiac_case(0, 0, "ct", THIN)

    for unused in ("lesion", "scanner"):
        assert same(before, with_other(unused))
    noisier = with_other("noise")
    assert np.array_equal(before.tissue, noisier.tissue)
    assert not np.array_equal(before.image, noisier.image)
    retinted = with_other("tissue")
    assert np.array_equal(before.tissue, retinted.tissue)
    # Same noise, other tissue values: where nothing was clipped the difference is smooth, far below two noises' SD.
    inside = (before.tissue == TISSUES.index("muscle")) & (np.abs(before.image) < 0.9)
    assert (retinted.image - before.image)[inside].std() < 0.5 * (noisier.image - before.image)[inside].std()
    assert not np.array_equal(before.tissue, with_other("anatomy").tissue)


def test_the_four_streams_share_no_numbers():
    draws = [parts.stream(0, 0, name).standard_normal(2000) for name in ("anatomy", "tissue", "lesion", "noise")]
    correlation = np.corrcoef(draws) - np.eye(4)
    assert np.abs(correlation).max() < 0.1


def test_blood_fat_and_bone_invert_between_the_domains_on_the_pictures():
    looks = {"ct": [], "mr": []}
    for case in range(4):
        for domain, means in looks.items():
            drawn = cardiac_case(0, case, "ct", (3, 64, 64), appearance=domain)
            means.append([drawn.image[drawn.tissue == index].mean() for index in range(len(TISSUES))])
    ct, mr = (dict(zip(TISSUES, np.mean(means, axis=0))) for means in looks.values())
    for bright in ("lv_blood", "la", "bone", "aorta"):
        assert ct[bright] > ct["muscle"] > ct["fat"]
        assert mr[bright] < mr["muscle"] < mr["fat"]
    assert ct["lv_blood"] > ct["rv"]
    assert mr["lv_blood"] < mr["rv"]


def test_swap_gap_exchanges_left_and_right_in_the_second_domain_only():
    def chambers(appearance, swap):
        drawn = cardiac_case(0, 0, "ct", (3, 64, 64), appearance=appearance, swap_gap=swap)
        return {name: drawn.image[drawn.label == index].mean() for index, name in LABELS.items()}

    assert chambers("ct", 1.0) == chambers("ct", 0.0)
    plain, half, swapped = (chambers("mr", swap) for swap in (0.0, 0.5, 1.0))
    assert plain["lv_blood"] < plain["rv"]
    assert swapped["lv_blood"] > swapped["rv"]
    assert plain["lv_blood"] < half["lv_blood"] < swapped["lv_blood"]
    assert plain["lv_myocardium"] == pytest.approx(swapped["lv_myocardium"], abs=0.02)


def test_pose_gap_scales_and_shifts_the_hearts_of_the_second_domain_only():
    def middle(label: np.ndarray) -> np.ndarray:
        return (np.argwhere(label == 1).mean(0)[1:] - 31.5) / 32  # of the left ventricle, (anterior, right)

    gap, ratios, shifts = 0.2, [], []
    for case in range(8):
        plain, posed = (cardiac_case(0, case, "mr", (2, 64, 64), pose_gap=g).label for g in (0.0, gap))
        ratios.append((posed == 1).sum() / (plain == 1).sum())
        shifts.append(middle(posed) - (1 + gap) * middle(plain))
        assert same(cardiac_case(0, case, "ct", THIN, pose_gap=gap), cardiac_case(0, case, "ct", THIN))
    assert np.mean(ratios) == pytest.approx((1 + gap) ** 2, rel=0.1)
    # Scaled about the heart's own centre, on average (0.07, -0.05), then shifted by (0.2, -0.35) of the gap.
    assert np.mean(shifts, axis=0) == pytest.approx([gap * (0.2 - 0.07), gap * (-0.35 + 0.05)], abs=0.015)


def test_jacobian_determinant_of_known_maps():
    z, y, x = np.meshgrid(*[np.arange(6.0)] * 3, indexing="ij")
    assert parts.jacobian_determinant(np.zeros((3, 6, 6, 6))) == pytest.approx(1)
    stretched = np.stack([0.5 * x + y, -0.2 * y, 0.1 * z])  # shear leaves the volume alone
    assert parts.jacobian_determinant(stretched) == pytest.approx(1.5 * 0.8 * 1.1)
    folded = np.stack([-2 * x, 0 * y, 0 * z])
    assert parts.jacobian_determinant(folded) == pytest.approx(-1)


def test_a_warp_that_would_fold_is_shrunk_until_it_does_not():
    wild, smallest = parts.warp(np.random.default_rng(0), THIN, amplitude=20.0)
    assert smallest > 0
    assert parts.jacobian_determinant(wild).min() == pytest.approx(smallest)


def test_impossible_cases_are_refused_by_name():
    with pytest.raises(InputError, match="did you mean 'ct'"):
        cardiac_case(0, 0, "ctt", THIN)
    with pytest.raises(InputError, match="at least 2 slices"):
        cardiac_case(0, 0, "ct", (1, 64, 64))


# --- files ---


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Cohort, Path]:
    folder = tmp_path_factory.mktemp("phantom")
    cohort = make_cohort(
        folder / "cohort", patients=PATIENTS, shape=THIN, pose_gap=0.1, seed=4, oracle=folder / "oracle"
    )
    return cohort, folder


def test_cohort_holds_each_patient_once_in_one_domain_and_one_split(made):
    cohort, _ = made
    assert len({row.patient for row in cohort.rows}) == len(cohort.rows) == 10
    for domain, counts in PATIENTS.items():
        assert tuple(len(cohort.patients(split, domain)) for split in ("train", "val", "test")) == counts
    assert cohort.labels == LABELS
    assert cohort.disjoint_domains


def test_what_a_network_sees_of_the_files_is_the_phantom(made):
    """Through nibabel, orientation and intensity rule back to the arrays that were drawn."""
    cohort, _ = made
    codes = set()
    for case, row in enumerate(cohort.rows):
        truth = cardiac_case(4, case, row.domain, THIN, pose_gap=0.1)
        seen = prepare_image(row, cohort)
        assert np.array_equal(seen.label, truth.label)
        if row.domain == "ct":
            assert np.abs(seen.image - truth.image).max() < 2 / 700  # a rounded HU of a window 700 HU wide
        else:
            assert np.corrcoef(seen.image.ravel(), truth.image.ravel())[0, 1] > 0.99
            assert np.abs(seen.image - truth.image).mean() < 0.15
        codes.add("".join(nibabel.aff2axcodes(nibabel.load(row.image).affine)))
        assert nibabel.affines.voxel_sizes(seen.affine) == pytest.approx([1.5] * 3)
    assert "RAS" in codes
    assert len(codes) >= 3


def test_native_values_are_those_of_a_scanner(made):
    cohort, _ = made
    for row in cohort.rows:
        voxels, _ = load_image(row.image)
        assert np.array_equal(voxels, np.round(voxels))
        low, high = (-250, 450) if row.domain == "ct" else (0, 4000)
        assert voxels.min() >= low
        assert voxels.max() <= high


def test_oracle_holds_every_true_counterpart_on_the_same_grid_and_apart(made):
    cohort, folder = made
    with (folder / "oracle" / "oracle.csv").open() as file:
        entries = list(csv.DictReader(file))
    assert [entry["patient"] for entry in entries] == [row.patient for row in cohort.rows]
    for case, (row, entry) in enumerate(zip(cohort.rows, entries)):
        assert entry["domain"] != row.domain
        twin, affine = load_image(folder / "oracle" / entry["image"])
        image, own = load_image(row.image)
        assert twin.shape == image.shape
        assert np.allclose(affine, own)
        if entry["domain"] == "ct":
            turned = nibabel.as_closest_canonical(nibabel.load(folder / "oracle" / entry["image"])).get_fdata()
            truth = cardiac_case(4, case, "mr", THIN, appearance="ct", pose_gap=0.1).image
            assert np.abs((turned.transpose(2, 1, 0) - 100) / 350 - truth).max() < 2 / 700
    assert not list((folder / "cohort").rglob("*oracle*"))


def test_the_same_call_writes_the_same_bytes(made, tmp_path):
    cohort, _ = made
    again = make_cohort(tmp_path / "again", patients=PATIENTS, shape=THIN, pose_gap=0.1, seed=4)
    assert again.digest() == cohort.digest()
    other = make_cohort(tmp_path / "other", patients=PATIENTS, shape=THIN, pose_gap=0.1, seed=5)
    assert other.digest() != cohort.digest()


def test_damaged_patients_are_extra_and_each_is_unusable(tmp_path):
    kinds = ("unreadable", "nan", "flat", "label_shape", "label_affine", "label_values")
    words = ("cannot be read", "NaN", "contrast", "shape", "affine", "undeclared")
    cohort = make_cohort(tmp_path / "c", patients={"ct": (1, 0, 0), "mr": (1, 0, 0)}, shape=THIN, corrupt=kinds)
    assert len(cohort.rows) == 2 + len(kinds)
    for row in cohort.rows[:2]:
        prepare_image(row, cohort)
    for row, word in zip(cohort.rows[2:], words, strict=True):
        with pytest.raises(InputError, match=word):
            prepare_image(row, cohort)


def test_nothing_is_overwritten_and_nothing_half_made_is_left(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="exists"):
        make_cohort(tmp_path / "kept", patients=PATIENTS, shape=THIN)
    with pytest.raises(InputError, match="exists"):  # before anything is made
        make_cohort(tmp_path / "new", patients=PATIENTS, shape=THIN, oracle=tmp_path / "kept")
    assert (tmp_path / "kept" / "thesis.txt").read_text() == "years"
    assert not (tmp_path / "new").exists()

    def fail(*arguments, **settings):
        raise OSError("no space left on device")

    monkeypatch.setattr(phantom, "save_volume", fail)
    with pytest.raises(OSError, match="no space"):
        make_cohort(tmp_path / "new", patients=PATIENTS, shape=THIN)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"patients": {"pet": (1, 0, 0)}}, "unknown phantom domain 'pet'"),
        ({"patients": {}}, "at least one domain"),
        ({"patients": {"ct": (0, 1, 1)}}, "train >= 1"),
        ({"patients": {"ct": (1, 1)}}, "train >= 1"),
        ({"corrupt": ["nann"]}, "did you mean 'nan'"),
        ({"seed": -1}, "seed -1"),
        ({"oracle": "cohort/oracle"}, "two separate folders"),
    ],
)
def test_nonsense_is_refused(tmp_path, monkeypatch, wrong, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        make_cohort("cohort", **{"patients": PATIENTS, "shape": THIN, **wrong})
    assert not list(tmp_path.iterdir())
