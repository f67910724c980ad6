"""Patches and blending of Gupta et al. 2019, as properties of pure functions."""

import math
import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy_methods.unit_lesion.lesions import (
    Box,
    blend,
    blending_factor,
    changed_box,
    cut,
    disjoint_sources,
    lesion_window,
    normal_windows,
    paste,
    same_place,
    shows_tissue,
    source_windows,
)

EXPONENTS = (1.0, 2.0, 3.0, 5.0)
SIDES = st.integers(4, 60)


@st.composite
def lesions(draw):
    """(box, (height, width) of its image)."""
    height, width = draw(SIDES), draw(SIDES)
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Box(x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))), (height, width)


def image(height=40, width=30, seed=0):
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# --- patches -----------------------------------------------------------------------------------------------------


@given(lesions(), st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.integers())
def test_a_window_is_a_square_around_the_lesion_unless_the_image_is_smaller(case, factor, seed):
    """T-C2."""
    lesion, sides = case
    window = lesion_window(lesion, sides, factor, random.Random(seed))
    side = math.ceil(factor * max(lesion.sides))
    assert window.contains(lesion)
    assert Box(0, 0, sides[1], sides[0]).contains(window)
    assert window.sides == (min(side, sides[0]), min(side, sides[1]))


def test_factor_one_is_the_bounding_square():
    lesion = Box(10, 12, 16, 18)
    assert lesion_window(lesion, (40, 40), 1, random.Random(0)) == lesion


def test_the_lesion_is_anywhere_in_its_window():
    """Each of the offsets that keep a 4-pixel lesion within its 8-pixel window is drawn, and no other."""
    lesion, draws = Box(20, 20, 24, 24), random.Random(0)
    windows = [lesion_window(lesion, (60, 60), 2, draws) for _ in range(300)]
    assert {20 - window.x0 for window in windows} == set(range(5))
    assert {20 - window.y0 for window in windows} == set(range(5))


@pytest.mark.parametrize(
    ("lesion", "factor", "complaint"), [(Box(1, 1, 5, 5), 0.9, "factor"), (Box(1, 1, 50, 5), 2, "beyond")]
)
def test_windows_that_cannot_hold_the_lesion_are_refused(lesion, factor, complaint):
    with pytest.raises(InputError, match=complaint):
        lesion_window(lesion, (40, 40), factor, random.Random(0))


@pytest.mark.parametrize("corners", [(3, 3, 3, 5), (5, 1, 2, 4), (-1, 0, 4, 4)])
def test_empty_boxes_are_refused(corners):
    with pytest.raises(InputError, match="box"):
        Box(*corners)


def test_corners_between_pixels_are_rounded_outwards():
    assert Box.around((1.2, 2.0, 4.1, 5.9)) == Box(1, 2, 5, 6)


def test_a_box_beyond_the_image_is_refused():
    with pytest.raises(InputError, match="beyond an image of 30 x 40"):
        Box(10, 10, 31, 20).of(image())


@given(lesions(), SIDES, SIDES)
def test_the_same_place_in_another_image(case, height, width):
    window, sides = case
    assert same_place(window, sides, sides) == window
    moved = same_place(window, sides, (height, width))
    assert Box(0, 0, width, height).contains(moved)
    assert moved.sides == (min(window.sides[0], height), min(window.sides[1], width))


def test_normal_windows_are_the_lesions_windows_in_n_other_images():
    windows = {"a": [Box(2, 3, 10, 11), Box(4, 4, 12, 12)], "b": [Box(20, 20, 28, 28)]}
    normals = [f"n{i}" for i in range(20)]
    sides = {**dict.fromkeys(["a", "b", *normals], (40, 40)), "n3": (80, 60)}
    crops = normal_windows(windows, normals, sides, 7, random.Random(1))
    assert len(crops) == 7 * 2 + 7 * 1
    for lesion_image in windows:
        chosen = [crop for crop in crops if crop.lesion_image == lesion_image]
        assert len({crop.image for crop in chosen}) == 7
        for crop in chosen:
            assert crop.window in windows[lesion_image] or crop.image == "n3"
    assert crops == normal_windows(windows, normals, sides, 7, random.Random(1))
    assert len(normal_windows(windows, normals[:3], sides, 7, random.Random(1))) == 3 * 3
    with pytest.raises(InputError, match="0 non-lesion images"):
        normal_windows(windows, [], sides, 7, random.Random(1))


def test_every_source_has_as_many_windows_as_were_asked_for_whatever_the_lesions():
    """T-C2: candidates follow the left-over images. One more position, or image, moves none of the others."""
    windows = {"a": [Box(2, 3, 10, 11), Box(4, 4, 12, 12)], "b": [Box(20, 20, 28, 28)]}
    sources = [f"n{i}" for i in range(50)]
    sides = {**dict.fromkeys(["a", "b", *sources], (40, 40)), "n3": (80, 60)}
    crops = source_windows(windows, sources, sides, 2, 1)
    assert len(crops) == 2 * 50
    assert len(set(crops)) == 2 * 50  # another window at the second position
    assert {crop.image for crop in crops[:50]} == set(sources)  # all have one before any has two
    assert [crop.image for crop in crops[50:]] == [crop.image for crop in crops[:50]]
    assert all(crop.window in windows[crop.lesion_image] or crop.image == "n3" for crop in crops)
    assert crops == source_windows(windows, sources, sides, 2, 1)
    assert crops == source_windows(windows, sources, sides, 3, 1)[:100]
    assert [crop for crop in crops if crop.image != "n7"] == source_windows(
        windows, [name for name in sources if name != "n7"], sides, 2, 1
    )
    assert len(source_windows(windows, sources, sides, 9, 1)) == 3 * 50  # no window twice
    with pytest.raises(InputError, match="0 of 3 windows"):
        source_windows(windows, sources, sides, 0, 1)


@pytest.mark.parametrize(("mean", "kept"), [(0.149, False), (0.15, True), (0.151, True), (0.0, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_patches_without_tissue_are_dropped(mean, kept, dtype):
    """T-C2: the mean of the intensity in [0, 1], not of the stored [-1, 1]."""
    assert shows_tissue(torch.full((1, 9, 9), 2 * mean - 1, dtype=dtype)) == kept


def test_images_that_taught_the_generator_receive_no_lesion():
    """T-C3: by patient, so that the other side of the same person is left out too."""
    patients = {"1L": 1, "1R": 1, "2L": 2, "3L": 3, "3R": 3}
    assert disjoint_sources(list(patients), ["1L"], patients) == ["2L", "3L", "3R"]
    assert disjoint_sources(list(patients), [], patients) == list(patients)
    with pytest.raises(InputError, match="share a patient"):
        disjoint_sources(["1L", "1R"], ["1R"], patients)


# --- blending ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("sides", [(33, 33), (32, 32), (17, 24)])
def test_the_blending_factor_is_a_symmetric_hill(exponent, sides):
    """T-C1."""
    alpha = blending_factor(sides, exponent)
    assert alpha.shape == sides
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
        assert (edge == 0).all()
    torch.testing.assert_close(alpha, alpha.flip(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(alpha, alpha.flip(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(alpha.T, blending_factor(sides[::-1], exponent), rtol=0, atol=1e-12)
    corner = alpha[sides[0] // 2 :, sides[1] // 2 :]  # from the middle outwards, along rows, columns and the diagonal
    assert (corner.diff(dim=0) <= 1e-12).all()
    assert (corner.diff(dim=1) <= 1e-12).all()
    assert (corner.diagonal().diff() <= 1e-12).all()


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_middle_of_an_odd_patch_is_all_translated(exponent):
    assert blending_factor((33, 33), exponent)[16, 16] == 1


def test_a_larger_exponent_keeps_more_of_the_translation():
    hills = [blending_factor((31, 31), exponent) for exponent in EXPONENTS]
    for lower, higher in pairwise(hills):
        assert (higher >= lower - 1e-12).all()
        assert (higher > lower + 1e-3).any()


def test_the_factor_is_the_papers_at_a_point():
    """Nine pixels: the third from the edge lies at -0.5; cos(0.125 π/2) for n = 3, squared on the diagonal."""
    assert blending_factor((9, 9), 3.0)[2, 2].item() == pytest.approx(math.cos(math.pi / 16) ** 2)


@pytest.mark.parametrize("exponent", [0.0, -1.0, math.nan])
def test_exponents_without_a_border_are_refused(exponent):
    with pytest.raises(InputError, match="blend exponent"):
        blending_factor((8, 8), exponent)


@pytest.mark.parametrize("window", [Box(3, 5, 20, 22), Box(0, 0, 30, 40), Box(1, 2, 9, 6)])
def test_only_the_inside_of_the_window_changes(window):
    """T-C1, exact: border and surroundings are those of the image, whatever the patch's size."""
    full, kept = image(), image()
    pasted = paste(full, window, torch.ones(1, 16, 16))
    assert torch.equal(full, kept)
    outside = torch.ones_like(full, dtype=torch.bool)
    outside[..., window.y0 + 1 : window.y1 - 1, window.x0 + 1 : window.x1 - 1] = False
    assert torch.equal(pasted.image[outside], full[outside])
    assert (pasted.image[~outside] > full[~outside]).all()
    assert pasted.box == window
    assert pasted.image.dtype == full.dtype


def test_blending_with_itself_changes_nothing():
    full = image()
    torch.testing.assert_close(blend(full, full), full, rtol=0, atol=1e-6)


def test_cut_and_pasted_again_the_image_is_the_same():
    full, window = image(), Box(3, 5, 20, 22)
    patch = cut(full, window, 17)
    assert torch.equal(patch, window.of(full))
    torch.testing.assert_close(paste(full, window, patch).image, full, rtol=0, atol=1e-6)
    patch.zero_()
    assert torch.equal(full, image()), "a patch is no view of its image"


def test_a_patch_is_brought_to_the_size_of_the_network():
    full = torch.full((1, 40, 30), 0.25)
    small = cut(full, Box(3, 5, 20, 30), 8)
    torch.testing.assert_close(small, torch.full((1, 8, 8), 0.25))


def test_the_change_is_found():
    before, window = image(), Box(5, 8, 21, 24)
    after = before.clone()
    after[:, 12:15, 9:17] += 0.5
    assert changed_box(before, after) == Box(9, 12, 17, 15)
    assert changed_box(before, before) is None
    pasted = paste(before, window, torch.full((1, 16, 16), 3.0))
    assert window.contains(changed_box(before, pasted.image))
