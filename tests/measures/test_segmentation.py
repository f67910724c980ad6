"""Dice, HD95 and friends against hand-computed cases, MONAI, scipy, and the properties that a wrong metric breaks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from ganatomy.experiment import Score
from ganatomy.measures import segmentation

LABELS = {1: "ventricle", 2: "myocardium"}
maps = arrays(np.uint8, (3, 6, 5), elements=st.integers(0, 2))


def ball(shape, centre, radius):
    grid = np.indices(shape)
    return sum((axis - at) ** 2 for axis, at in zip(grid, centre)) <= radius**2


# --- Dice --------------------------------------------------------------------------------------------------------


def test_dice_of_a_case_computed_by_hand():
    truth = np.array([[[1, 1, 2, 0], [1, 2, 2, 0]]])
    predicted = np.array([[[1, 2, 2, 0], [1, 1, 2, 2]]])
    # label 1: P = 3, T = 3, both = 2 -> 4/6; label 2: P = 4, T = 3, both = 2 -> 4/7
    assert segmentation.dice_per_label(predicted, truth, LABELS) == pytest.approx(
        {"ventricle": 4 / 6, "myocardium": 4 / 7}
    )


@given(maps)
def test_a_perfect_map_scores_one_and_absent_structures_do_not_count(truth):
    for index, name in LABELS.items():
        value = segmentation.dice_per_label(truth, truth, LABELS)[name]
        assert value == 1 if (truth == index).any() else math.isnan(value)


@settings(deadline=None)  # the first example imports MONAI
@given(maps, maps)
def test_dice_equals_monai_where_something_is_there(predicted, truth):
    from monai.metrics import compute_dice

    def one_hot(array):
        return torch.stack([torch.from_numpy(array == index) for index in (0, 1, 2)])[None].float()

    theirs = compute_dice(one_hot(predicted), one_hot(truth), include_background=False)[0]
    for value, (index, name) in zip(theirs, LABELS.items()):
        if (truth == index).any():
            assert segmentation.dice_per_label(predicted, truth, LABELS)[name] == pytest.approx(float(value), abs=1e-6)


@given(maps, maps)
def test_relabelling_permutes_and_symmetry_holds(predicted, truth):
    swap = np.array([0, 2, 1])
    plain = segmentation.dice_per_label(predicted, truth, LABELS)
    swapped = segmentation.dice_per_label(swap[predicted], swap[truth], LABELS)
    back = segmentation.dice_per_label(truth, predicted, LABELS)
    np.testing.assert_equal([plain["ventricle"], plain["myocardium"]], [swapped["myocardium"], swapped["ventricle"]])
    np.testing.assert_equal(plain, back)


def test_background_never_counts():
    truth = np.zeros((1, 50, 50), np.uint8)
    truth[0, :2, :2] = 1
    predicted = np.zeros_like(truth)
    predicted[0, 40:42, 40:42] = 1  # 2492 of 2500 voxels agree, none that matters
    assert segmentation.dice_per_label(predicted, truth, {1: "lesion"}) == {"lesion": 0.0}


def test_a_structure_claimed_where_none_is_scores_zero_not_nan():
    truth, predicted = np.zeros((1, 4, 4), np.uint8), np.ones((1, 4, 4), np.uint8)
    rows = segmentation.score_subject(predicted, truth, (1, 1, 1), {1: "lesion"}, "s", "p")
    assert rows[0].value == 0
    assert not rows[0].missed
    assert rows[1].value == pytest.approx(math.hypot(3, 3))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        segmentation.dice(np.ones((1, 4, 4), bool), np.ones((4, 4), bool))


def test_the_two_dice_scores_are_not_the_same():
    """X32, by hand: a 4 called 3 everywhere is no agreement of classes, yet 0.96 of indices."""
    truth, found, empty = (np.full((1, 4, 4), index) for index in (4, 3, 0))
    assert segmentation.dice_per_label(found, truth, {4: "core"}) == {"core": 0}
    assert segmentation.label_index_dice(found, truth) == pytest.approx(24 / 25)
    assert segmentation.label_index_mse(found, truth) == 1
    assert segmentation.label_index_dice(truth, truth) == segmentation.label_index_dice(empty, empty) == 1
    assert segmentation.label_index_dice(truth, empty) == pytest.approx(0, abs=1e-6)
    both = (np.concatenate([some, empty]) for some in (found, truth))
    assert segmentation.label_index_dice(*both) == pytest.approx((24 / 25 + 1) / 2), (
        "slice by slice, empty ones among them"
    )


# --- HD95 --------------------------------------------------------------------------------------------------------


def surface_distances(first, second, spacing):
    """Directed surface-to-surface distances by scipy alone."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    return ndimage.distance_transform_edt(~edges[1], sampling=spacing)[edges[0]]


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 6), st.integers(-3, 3), st.floats(0.5, 3), st.floats(0.5, 3))
def test_hd95_equals_scipy_for_structures_that_are_found(radius, shift, thick, thin):
    truth = ball((20, 22, 24), (9, 10, 11), radius)
    predicted = ball((20, 22, 24), (9 + shift, 11, 10), radius - 1)
    spacing = (thick, thin, 1.0)
    both = (surface_distances(predicted, truth, spacing), surface_distances(truth, predicted, spacing))
    expected = max(np.percentile(one, 95) for one in both)
    assert segmentation.hd95(predicted, truth, spacing) == pytest.approx(expected, rel=1e-5)


def test_hd95_of_a_slice_is_that_of_the_flat_image_and_of_a_shift_is_the_shift_in_mm():
    flat = ball((32, 32), (16, 14), 7)
    moved = np.roll(flat, 4, axis=1)
    both = (surface_distances(flat, moved, (1.5, 0.5)), surface_distances(moved, flat, (1.5, 0.5)))
    expected = max(np.percentile(one, 95) for one in both)
    assert segmentation.hd95(flat[None], moved[None], (7.0, 1.5, 0.5)) == pytest.approx(expected, rel=1e-5)
    point = np.zeros((1, 9, 9), bool)
    point[0, 4, 2] = True
    assert segmentation.hd95(point, np.roll(point, 4, axis=2), (7, 1.5, 0.5)) == pytest.approx(4 * 0.5)


def test_a_miss_is_worse_than_anything_that_was_found():
    spacing = (2.0, 1.0, 1.0)
    truth, farthest = np.zeros((4, 8, 8), bool), np.zeros((4, 8, 8), bool)
    truth[0, 0, 0] = farthest[-1, -1, -1] = True
    nothing = np.zeros_like(truth)
    assert segmentation.hd95(nothing, truth, spacing) >= segmentation.hd95(farthest, truth, spacing) - 1e-5
    rows = segmentation.score_subject(nothing.astype(int), truth.astype(int), spacing, {1: "lesion"}, "s", "p")
    assert [(row.metric, row.missed) for row in rows] == [("dice", True), ("hd95", True)]
    assert rows[0].value == 0
    assert rows[1].value == pytest.approx(segmentation.diagonal((4, 8, 8), spacing))


def test_monai_would_have_rewarded_the_miss():
    """Why HD95 is wrapped: a missed structure is not finite to MONAI, and a mean over the rest drops it."""
    from monai.metrics import compute_hausdorff_distance

    truth = torch.from_numpy(ball((12, 12), (6, 6), 3))[None, None]
    assert not math.isfinite(float(compute_hausdorff_distance(torch.zeros_like(truth), truth, include_background=True)))


# --- summaries ---------------------------------------------------------------------------------------------------


def rows():
    return [
        Score("s1", "p1", "dice", "ventricle", 0.8), Score("s1", "p1", "dice", "myocardium", math.nan),
        Score("s2", "p1", "dice", "ventricle", 0.6), Score("s2", "p1", "dice", "myocardium", 0.0, True),
        Score("s3", "p2", "dice", "ventricle", 1.0), Score("s3", "p2", "dice", "myocardium", 0.5),
        Score("s1", "p1", "hd95", "ventricle", 2.0), Score("s2", "p1", "hd95", "ventricle", 4.0),
        Score("s2", "p1", "hd95", "myocardium", 90.0, True), Score("s3", "p2", "hd95", "ventricle", 1.0),
    ]  # fmt: skip


def test_summary_means_over_structures_then_over_subjects_then_over_patients():
    assert segmentation.case_scores(rows()) == pytest.approx({"s1": 0.8, "s2": 0.3, "s3": 0.75})
    assert segmentation.patient_scores(rows()) == pytest.approx({"p1": 0.55, "p2": 0.75})
    assert segmentation.summarise(rows()) == pytest.approx({
        "val/dice": (0.55 + 0.75) / 2, "val/worst": 0.3, "val/best": 0.8,
        "val/dice/ventricle": (0.7 + 1.0) / 2, "val/dice/myocardium": 0.25,
        "val/hd95": ((2 + 47) / 2 + 1) / 2, "val/missed": 1,
    })  # fmt: skip


def test_a_subject_without_any_structure_is_no_case_and_nothing_is_logged_as_nan():
    lonely = [Score("s", "p", "dice", "lesion", math.nan), Score("s", "p", "hd95", "lesion", math.nan)]
    assert segmentation.summarise(lonely, "test") == {"test/missed": 0}
    assert segmentation.summarise([]) == {}


def test_s_score_falls_with_every_voxel_that_a_shape_is_moved_by():
    """T-B5: an oracle segmentor on an exact renderer scores 1; rolling the output costs, monotonically."""
    truth = ball((1, 48, 48), (0, 24, 24), 9).astype(int)

    def score(shift):
        moved = segmentation.score_subject(np.roll(truth, shift, 2), truth, (1, 1, 1), {1: "ventricle"}, "s", "p")
        same = segmentation.score_subject(truth, truth, (1, 1, 1), {1: "ventricle"}, "s", "p")
        return segmentation.mean_over_patients(segmentation.s_score_rows(moved, same, "ct"))

    values = [score(shift)["synthesis/s_score/ct"] for shift in range(9)]
    assert values[0] == 1
    assert all(later < earlier for earlier, later in pairwise(values))
    assert score(5)["synthesis/s_score_reference/ct"] == 1


# --- image distances ---------------------------------------------------------------------------------------------


def test_l1_and_psnr_of_a_known_offset():
    truth = np.linspace(-1, 0.9, 64, dtype=np.float32).reshape(1, 8, 8)
    assert segmentation.l1(truth + 0.1, truth) == pytest.approx(0.1, rel=1e-5)
    assert segmentation.psnr(truth + 0.1, truth) == pytest.approx(10 * math.log10(4 / 0.01), rel=1e-5)
    assert segmentation.psnr(truth, truth) == math.inf


@pytest.mark.parametrize("shape", [(1, 24, 24), (8, 14, 13), (12, 12, 12)])
def test_ssim_is_one_for_equal_images_symmetric_and_falls_with_noise(shape):
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5).clip(-1, 1).astype(np.float32)
    noise = rng.normal(size=shape).astype(np.float32)
    values = [segmentation.ssim(truth + level * noise, truth) for level in (0, 0.05, 0.2, 0.5)]
    assert values[0] == pytest.approx(1, abs=1e-5)
    assert all(later < earlier for earlier, later in pairwise(values))
    assert segmentation.ssim(truth + noise, truth) == pytest.approx(segmentation.ssim(truth, truth + noise), abs=1e-6)


def test_ssim_says_which_sides_are_too_short():
    with pytest.raises(ValueError, match="3 voxels"):
        segmentation.ssim(np.zeros((1, 2, 9), np.float32), np.zeros((1, 2, 9), np.float32))


# --- nearest neighbours ------------------------------------------------------------------------------------------


def test_a_copy_is_found_however_its_brightness_and_contrast_were_changed():
    rng = np.random.default_rng(1)
    real = [rng.normal(size=(6, 20, 18)) for _ in range(5)]
    patients = [f"p{index}" for index in range(5)]
    found = segmentation.nearest_distances(
        [0.4 * real[3] + 0.2, rng.normal(size=(6, 20, 18))], ["a", "b"], real, patients
    )
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] > 1


def test_the_same_patient_never_counts_as_a_neighbour():
    rng = np.random.default_rng(2)
    real = [rng.normal(size=(1, 16, 16)) for _ in range(3)]
    patients = ["p0", "p0", "p1"]
    distances = segmentation.nearest_distances(real, patients, real, patients)
    correlation = np.corrcoef([image.ravel() for image in real])
    assert distances[2] == pytest.approx(min(math.sqrt(2 - 2 * correlation[2, other]) for other in (0, 1)))
    assert distances[0] == pytest.approx(math.sqrt(2 - 2 * correlation[0, 2]))
    assert np.isnan(segmentation.nearest_distances(real[:2], ["p0", "p0"], real[:2], ["p0", "p0"])).all()


def test_images_of_different_sizes_meet_on_one_grid():
    rng = np.random.default_rng(3)
    coarse = rng.normal(size=(1, 8, 8))
    fine = np.kron(coarse, np.ones((1, 4, 4)))
    assert segmentation.nearest_distances([fine], ["a"], [coarse], ["b"])[0] == pytest.approx(0, abs=1e-6)
    assert segmentation.nearest_distances([], [], [coarse], ["b"]).shape == (0,)
