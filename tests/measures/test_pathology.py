"""Healthiness and identity: cases by hand, MONAI, and what a wrong measure would reward."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.regression import compute_ms_ssim

from ganatomy.contracts import InputError
from ganatomy.measures.segmentation import mean_over_patients
from ganatomy.measures.synthesis.pathology import (
    WEIGHTS,
    PseudoHealthyCase,
    errors,
    healing_rows,
    healthiness,
    identity,
    identity_of_brain,
    ms_ssim,
    relative_healthiness,
    scales,
    summarise_pseudo_healthy,
)
from ganatomy.measures.synthesis.trivial import TRIVIAL


def area(count, size=200):
    """A mask [1, 1, size] of ``count`` voxels."""
    return (np.arange(size) < count)[None, None]


def volume(patient, found, lesion, visit=0, identity=0.5):
    """What is known of one volume."""
    return {"subject": f"{patient}-{visit}", "patient": patient, "role": "H", "synthesis/identity": identity,
            "areas": {"found": found, "lesion": lesion}}  # fmt: skip


def scene(seed=0, side=64, depth=1):
    """A random image [depth, side, side] in [-1, 1] with a black border, and a lesion mask in its first slice."""
    random = np.random.default_rng(seed)
    image = np.full((depth, side, side), -1.0)
    image[:, 8:-8, 8:-8] = np.kron(random.uniform(-0.8, 0.9, (depth, side // 8 - 2, side // 8 - 2)), np.ones((8, 8)))
    lesion = np.zeros(image.shape, np.uint8)
    lesion[0, 20:32, 24:36] = 2
    return image, lesion


# --- healthiness (T-D0) ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), min_size=1, max_size=8))
def test_the_rows_of_patients_have_the_healthiness_of_the_paper_for_their_mean(counts):
    rows = healing_rows(volume(f"p{n}", *one) for n, one in enumerate(counts))
    pooled = healthiness([area(found) for found, _ in counts], [area(lesion) for _, lesion in counts])
    assert mean_over_patients(rows)["synthesis/healthiness"] == pytest.approx(pooled)
    assert len(rows) == 2 * len(counts)


def test_a_patient_with_many_visits_counts_once_in_healthiness_and_identity():
    once = [volume("a", 10, 40, identity=0.9), volume("b", 60, 60, identity=0.3)]
    often = [volume("a", 10, 40, visit, identity=0.9) for visit in range(5)] + once[1:]
    assert mean_over_patients(healing_rows(often)) == pytest.approx(mean_over_patients(healing_rows(once)))
    assert mean_over_patients(healing_rows(once))["synthesis/healthiness"] == pytest.approx(1 - 70 / 100)
    assert "synthesis/healthiness" not in mean_over_patients(healing_rows([volume("a", 3, 0)]))


def test_nothing_found_is_healthy_as_much_as_before_is_not_and_twice_as_much_is_below_zero():
    truth = [area(30), area(10)]
    assert healthiness([area(0), area(0)], truth) == 1
    assert healthiness([area(10), area(30)], truth) == 0
    assert healthiness([area(40), area(40)], truth) == -1


def test_it_is_a_ratio_of_means_and_not_a_mean_of_ratios():
    assert healthiness([area(10), area(0)], [area(10), area(100)]) == pytest.approx(1 - 10 / 110)


@given(st.integers(0, 2**31), st.lists(st.integers(0, 100), min_size=1, max_size=4))
def test_it_counts_voxels_wherever_they_are(seed, counts):
    random, truth = np.random.default_rng(seed), [area(50)] * len(counts)
    shuffled = [random.permutation(area(count).ravel()) for count in counts]
    assert healthiness(shuffled, truth) == healthiness([area(count) for count in counts], truth)


def test_probabilities_count_from_a_half_on():
    assert healthiness([np.array([0.49, 0.5, 0.51, 0.0])], [np.ones(4)]) == 0.5


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4), st.integers(1, 100))
def test_an_unchanged_image_is_exactly_not_healthier_whatever_the_segmentor_misses(counts, truth):
    found = [area(count) for count in counts]
    assert relative_healthiness(found, found) == 0
    assert (healthiness(found, [area(truth)] * len(counts)) == 0) == (sum(counts) == truth * len(counts))


def test_without_pathology_there_is_no_healthiness_and_predictions_must_be_as_many_as_masks():
    assert math.isnan(healthiness([area(3)], [area(0)]))
    with pytest.raises(ValueError, match="2 predictions for 1 masks"):
        healthiness([area(1), area(1)], [area(1)])


# --- MS-SSIM (T-D1) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((208, 160), 4), ((64, 64), 3), ((32, 48), 2), ((176, 176), 5), ((175, 400), 4), ((21, 21), 1), ((11, 99), 1)],
)
def test_as_many_scales_as_the_window_fits_into(sides, expected):
    assert scales(sides) == expected
    ms_ssim(np.zeros(sides), np.ones(sides))  # and it can be computed with them


def test_an_image_smaller_than_the_window_is_refused():
    with pytest.raises(InputError, match="at least 11 pixels"):
        scales((64, 10))


@pytest.mark.parametrize("sides", [(64, 64), (176, 192), (40, 57)])
def test_it_is_that_of_monai_with_the_same_scales(sides):
    random = np.random.default_rng(0)
    first = random.uniform(0, 1, sides)
    second = np.clip(first + random.normal(0, 0.2, sides), 0, 1)
    weights = np.array(WEIGHTS[: scales(sides)])
    pair = (torch.tensor(image[None, None], dtype=torch.float32) for image in (second, first))
    expected = compute_ms_ssim(*pair, spatial_dims=2, weights=list(weights / weights.sum()))
    assert ms_ssim(first, second) == pytest.approx(float(expected), abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(11, 70))
def test_equal_images_score_exactly_one_and_order_does_not_matter(seed, side):
    random = np.random.default_rng(seed)
    first, second = random.uniform(0, 1, (2, side, side + 3))
    assert ms_ssim(first, first) == 1
    assert ms_ssim(first, second) == pytest.approx(ms_ssim(second, first), abs=1e-12)
    assert ms_ssim(first, second) < 1


def test_noise_costs_the_more_the_stronger_it_is():
    image, lesion = scene()
    noise = np.random.default_rng(1).normal(0, 1, image.shape)
    values = [identity(image + sigma * noise, image, lesion) for sigma in (0, 0.02, 0.05, 0.1, 0.3)]
    assert values[0] == 1
    assert all(before > after for before, after in pairwise(values))


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_what_changes_inside_the_lesion_is_no_change_of_identity(seed):
    image, lesion = scene()
    made = image.copy()
    made[lesion > 0] = np.random.default_rng(seed).uniform(-1, 1, int((lesion > 0).sum()))
    assert identity(made, image, lesion) == 1
    assert identity_of_brain(made, image, lesion) == 1
    made[0, 40, 40] += 0.5
    assert identity(made, image, lesion) < 1


def test_identity_of_the_brain_leaves_the_alike_background_out():
    """A small brain with a large black border: the same damage weighs more where only the brain counts."""
    image, lesion = scene(side=128)
    image[:, :40], image[:, -40:], image[:, :, :20], image[:, :, -40:] = -1, -1, -1, -1
    lesion[:] = 0
    lesion[0, 44:50, 60:66] = 1
    made = np.where(image > -1, image + np.random.default_rng(0).normal(0, 0.2, image.shape), image)
    assert identity_of_brain(made, image, lesion) < identity(made, image, lesion) < 1
    assert identity_of_brain(made, image, lesion, brain=image > -1) == identity_of_brain(made, image, lesion)


def test_only_slices_with_pathology_count():
    image, lesion = scene(depth=3)
    made = image.copy()
    made[1:] = np.random.default_rng(0).uniform(-1, 1, made[1:].shape)
    assert identity(made, image, lesion) == 1
    assert math.isnan(identity(made, image, np.zeros_like(lesion)))
    with pytest.raises(ValueError, match="of one shape"):
        identity(made, image, lesion[:2])


# --- summary -----------------------------------------------------------------------------------------------------


def test_neither_a_blank_nor_an_unchanged_image_wins_on_both():
    """Healthiness alone is won by an empty image; the identity beside it says so. An unchanged image the other way."""
    image, lesion = scene()
    found = lesion > 0
    blank = np.full_like(image, -1)
    empty = summarise_pseudo_healthy([PseudoHealthyCase(blank, image, lesion, np.zeros_like(found), found)])
    same = summarise_pseudo_healthy([PseudoHealthyCase(image, image, lesion, found, found)])
    assert empty["synthesis/healthiness"] == empty["synthesis/healthiness_relative"] == 1
    assert empty["synthesis/identity_of_brain"] < 0.5
    assert same["synthesis/healthiness"] == same["synthesis/healthiness_relative"] == 0
    assert same["synthesis/identity"] == same["synthesis/identity_of_brain"] == 1
    assert same["synthesis/identity_scales"] == 3


def test_healthiness_is_pooled_and_its_spread_is_that_of_volumes():
    image, lesion = scene()
    masks = ((area(10), area(10)), (area(0), area(100)))
    cases = [PseudoHealthyCase(image, image, lesion, found, before) for found, before in masks]
    pooled = summarise_pseudo_healthy(cases)
    count = int((lesion > 0).sum())
    assert pooled["synthesis/healthiness"] == pytest.approx(1 - 10 / (2 * count))
    assert pooled["synthesis/healthiness_relative"] == pytest.approx(1 - 10 / 110)
    assert pooled["synthesis/healthiness_sd"] == pytest.approx(np.std([1 - 10 / count, 1], ddof=1))
    assert "synthesis/healthiness_sd" not in summarise_pseudo_healthy(cases[:1])
    assert summarise_pseudo_healthy([]) == {}


# --- error against the truth, and what needs no training ----------------------------------------------------------


def test_errors_are_those_of_the_lesion_and_of_the_brain_around_it_by_hand():
    """Four voxels: air, brain, brain, lesion; in [-1, 1] an error of 0.2 is one of 0.1 in the paper's range."""
    source, twin = np.array([[[-1.0, 0.0, 0.4, 1.0]]]), np.array([[[-1.0, 0.0, 0.4, 0.2]]])
    lesion = np.array([[[0, 0, 0, 1]]])
    assert errors(twin, twin, lesion, source) == (0, 0)
    assert errors(source, twin, lesion, source) == pytest.approx((0.4, 0))
    made = np.array([[[1.0, 0.2, 0.4, 0.2]]])  # what is made of air is no error in the brain
    assert errors(made, twin, lesion, source) == pytest.approx((0, 0.05))
    assert math.isnan(errors(made, twin, 0 * lesion, source)[0])


def test_trivial_rules_are_what_they_are_called_in_the_papers_range():
    image = np.array([-1.0, 0.0, 0.5, 1.0], np.float32)  # 0, 0.5, 0.75, 1
    made = {name: (rule(image) + 1) / 2 for name, rule in TRIVIAL.items()}
    assert made["unchanged"] == pytest.approx([0, 0.5, 0.75, 1])
    assert made["darker"] == pytest.approx([0, 0.25, 0.375, 0.5])
    assert made["clipped"] == pytest.approx([0, 0.5, 0.6, 0.6])


def test_a_volume_with_a_twin_has_its_errors_among_its_numbers_and_rows():
    lesion = np.zeros((1, 16, 16), np.uint8)
    lesion[0, 4:8, 4:8] = 1
    source = np.where(lesion, 0.8, 0.0)
    numbers = summarise_pseudo_healthy([PseudoHealthyCase(source, source, lesion, twin=0 * source)])
    assert numbers["synthesis/error_inside"] == pytest.approx(0.4)
    assert numbers["synthesis/error_outside"] == 0
    (row,) = [
        row
        for row in healing_rows([{"subject": "s", "patient": "p", "role": "H", **numbers}])
        if row.metric == "synthesis/error_inside"
    ]
    assert row.value == pytest.approx(0.4)
    assert not any("error" in name for name in summarise_pseudo_healthy([PseudoHealthyCase(source, source, lesion)]))
