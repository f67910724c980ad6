"""Structure maps, masks, the filter of contours, fusion and placement against Qu et al. 2019 (T-E1 to T-E7)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ganatomy_methods.multimodal_mr import structure as maps

BETAS = (0.03, 0.07, 0.12, 0.2)


def ellipse(sides=(64, 64), radii=(0.36, 0.28), centre=(0.0, 0.0)):
    """1 inside an ellipse about the centre of the image, radii and offsets as shares of its sides. [1, 1, H, W]."""
    axes = [(torch.arange(side) - (side - 1) / 2) / side for side in sides]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
    return inside.float()[None, None]


def ring(sides=(64, 64), gap=0):
    """The outline of an ellipse, one pixel wide, from which ``gap`` columns at the top are taken out."""
    brain = ellipse(sides)[0, 0].bool().numpy()
    outline = torch.tensor(brain & ~ndimage.binary_erosion(brain)).float()
    middle = sides[1] // 2
    outline[: sides[0] // 2, middle - gap // 2 : middle + (gap + 1) // 2] *= float(gap == 0)
    return outline[None, None]


def picture(seed, sides=(24, 24)):
    """Smooth noise in 256 grey values: sums and differences of those are exact."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=sides), 1.5)
    grey = np.round((noise - noise.min()) / np.ptp(noise) * 255) / 256
    return torch.tensor(grey, dtype=torch.float64)[None, None]


def regions(free):
    """How many 4-connected regions there are."""
    return ndimage.label(free[0, 0].numpy())[1]


# --- Algorithm 1 -------------------------------------------------------------------------------------------------


def test_the_structure_of_an_ellipse_is_a_closed_ring():
    f = maps.structure_map(0.8 * ellipse(), 0.12)
    assert set(f.unique().tolist()) == {0.0, 1.0}
    assert regions(f == 0) >= 2
    assert f[0, 0, 0, 0] == f[0, 0, 32, 32] == 0


@given(seed=st.integers(0, 10_000), beta=st.sampled_from(BETAS))
@settings(max_examples=25, deadline=None)
def test_inverted_scaled_and_transposed_images_have_the_same_structure(seed, beta):
    x = picture(seed)
    f = maps.structure_map(x, beta)
    assert torch.equal(maps.structure_map(1 - x, beta), f)
    assert torch.equal(maps.structure_map(0.25 * x + 0.125, beta), f)
    assert torch.equal(maps.structure_map(x.mT, beta), f.mT)


def test_without_normalisation_beta_depends_on_the_scale():
    x = picture(0)
    bright, dark = (maps.structure_map(image, 0.12, normalise=False) for image in (x, 0.25 * x))
    assert bright.sum() > dark.sum()


def test_a_higher_beta_keeps_fewer_pixels_and_all_of_them_before():
    x = picture(3)
    kept = [maps.structure_map(x, beta) for beta in BETAS]
    assert all((less <= more).all() for more, less in pairwise(kept))
    assert kept[-1].sum() < kept[0].sum()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_image_has_no_structure(value):
    x = torch.full((1, 1, 16, 16), value, requires_grad=True)
    assert maps.structure_map(x, 0.07).sum() == 0
    soft = maps.soft_structure_map(x, 0.07)
    soft.sum().backward()
    assert soft.max() < 0.1
    assert torch.isfinite(x.grad).all()


def test_samples_do_not_see_each_other():
    one, other = picture(1), 0.1 * picture(2)
    both = maps.structure_map(torch.cat([one, other]), 0.07)
    assert torch.equal(both, torch.cat([maps.structure_map(one, 0.07), maps.structure_map(other, 0.07)]))


def test_the_derivatives_are_those_of_scipy():
    x = picture(5)
    gradient = maps.sobel(x)[0].numpy()
    for axis in range(2):
        np.testing.assert_allclose(gradient[axis], ndimage.sobel(x[0, 0].numpy(), axis, mode="mirror"), atol=1e-12)


def test_the_soft_map_is_the_hard_one_at_the_limit_and_has_a_gradient_before():
    x = picture(4).requires_grad_()
    hard = maps.structure_map(x, 0.12)
    assert not hard.requires_grad
    torch.testing.assert_close(maps.soft_structure_map(x, 0.12, tau=1e-6).detach(), hard, atol=1e-3, rtol=0)
    maps.soft_structure_map(x, 0.12).sum().backward()
    assert x.grad.abs().max() > 0


def test_a_lesion_leaves_no_structure_and_no_lesion_leaves_all():
    f = maps.structure_map(picture(6), 0.03)
    label = torch.zeros(1, 24, 24, dtype=torch.int64)
    assert torch.equal(maps.without_lesion(f, label), f)
    assert torch.equal(maps.without_lesion(f, label - 1), f)  # unlabelled
    label[:, 5:15, 5:15] = 3
    assert f[:, :, 5:15, 5:15].sum() > 0
    assert maps.without_lesion(f, label)[:, 0][label > 0].sum() == 0
    assert torch.equal(maps.without_lesion(f, label)[:, 0][label == 0], f[:, 0][label == 0])


# --- Algorithm 2 -------------------------------------------------------------------------------------------------


def test_without_margin_the_mask_is_the_background():
    x = picture(7) * ellipse((24, 24)).double()
    assert torch.equal(maps.outside_mask(x, 0), 1 - (x > 0).double())


@pytest.mark.parametrize("sides", [(64, 64), (48, 32), (33, 40)])
def test_an_even_margin_enlarges_the_brain_about_itself(sides):
    x = ellipse(sides)
    brains = [1 - maps.outside_mask(x, margin) for margin in (0, 2, 4, 6, 8)]
    for smaller, larger in pairwise(brains):
        assert larger.shape == x.shape
        assert (larger >= smaller).all()
    assert brains[-1].sum() > brains[0].sum()
    assert brains[-1][0, 0, 0, 0] == 0


@given(side=st.integers(8, 512))
def test_the_margin_is_even_and_grows_with_the_image(side):
    margin = maps.even_margin((side, side // 2))
    assert margin % 2 == 0
    assert 5 * side / 184 <= margin < 5 * side / 184 + 2
    assert maps.even_margin((side, side), 0) == 0


# --- Algorithm 3 -------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.3))
@settings(max_examples=25, deadline=None)
def test_contours_are_filled_as_scipy_fills_holes(seed, share):
    f = torch.tensor(np.random.default_rng(seed).random((2, 1, 20, 28)) < share).float()
    filled = [ndimage.binary_fill_holes(ndimage.binary_dilation(one[0].numpy(), np.ones((3, 3)))) for one in f.bool()]
    expected = 1 - torch.tensor(np.stack(filled))[:, None].float()
    # scipy counts a hole at the border as filled only if it is enclosed; so do we: what touches the border is outside.
    assert torch.equal(maps.contour_mask(f), expected)


def test_a_closed_ring_is_accepted_and_an_open_one_rejected():
    threshold = maps.error_threshold((64, 64))
    outside = maps.outside_mask(ellipse(), maps.even_margin((64, 64)))
    assert float(maps.contour_error(ring(), outside)) <= threshold
    assert float(maps.contour_error(ring(gap=8), outside)) > threshold


def test_at_the_papers_size_its_own_threshold_tells_them_apart():
    sides = (184, 144)
    assert maps.error_threshold(sides) == 0.05
    outside = maps.outside_mask(ellipse(sides), maps.even_margin(sides))
    assert float(maps.contour_error(ring(sides), outside)) <= 0.05
    assert float(maps.contour_error(ring(sides, gap=8), outside)) > 0.05


def draws_of(*gaps):
    outside = maps.outside_mask(ellipse(), 2)
    remaining = list(gaps)
    return lambda: (ring(gap=remaining.pop(0)), outside)


def test_drawing_stops_at_the_first_good_map():
    """T-E4. As printed, the loop would stop at the first bad one and go on while they are good."""
    drawn = maps.draw_closed(draws_of(8, 10, 0, 0, 8), maps.error_threshold((64, 64)))
    assert drawn.tries == 3
    assert torch.equal(drawn.structure, ring())
    assert maps.draw_closed(draws_of(0, 8), maps.error_threshold((64, 64))).tries == 1


def test_drawing_gives_up_with_the_best_there_was():
    half = ring()
    half[..., :20] = 0  # leaks, and has fewer pixels that count
    maps_drawn = [half, ring(gap=8), half]
    drawn = maps.draw_closed(lambda: (maps_drawn.pop(0), maps.outside_mask(ellipse(), 2)), 0.05, tries=3)
    assert drawn.tries == 3
    assert torch.equal(drawn.structure, ring(gap=8))


# --- fusion ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), classes=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_a_fusion_map_holds_structure_and_label_and_nothing_else(seed, classes):
    random = torch.Generator().manual_seed(seed)
    f = torch.randint(0, 2, (2, 1, 8, 8), generator=random).double()
    label = torch.randint(0, classes, (2, 8, 8), generator=random)
    fusion = maps.fuse(f, label, classes)
    assert fusion.shape == (2, classes, 8, 8)
    values = torch.tensor([0.0, 0.2, 0.8, 1.0], dtype=torch.float64)
    assert (fusion[..., None] - values).abs().amin(dim=-1).max() < 1e-12
    torch.testing.assert_close((fusion - 0.8 * f).sum(dim=1), torch.full((2, 8, 8), 0.2, dtype=torch.float64))
    structure, lesion = maps.unfuse(fusion)
    torch.testing.assert_close(structure, f)
    assert torch.equal(lesion, label)


def test_an_unlabelled_sample_is_fused_as_background():
    f, label = ring(), torch.full((1, 64, 64), -1)
    assert torch.equal(maps.fuse(f, label, 3), maps.fuse(f, torch.zeros_like(label), 3))


def test_condition_planes_are_constant_and_one_of_k():
    code = torch.randn(3, 5, 4, 6)
    conditioned = maps.condition(code, [2, 0, 2], 4)
    assert torch.equal(conditioned[:, :5], code)
    planes = conditioned[:, 5:]
    assert planes.shape == (3, 4, 4, 6)
    assert torch.equal(planes, planes[:, :, :1, :1].expand_as(planes))
    assert torch.equal(planes[..., 0, 0], torch.eye(4)[[2, 0, 2]])


# --- labels ------------------------------------------------------------------------------------------------------


def blob(row, column, size=4, side=64):
    label = torch.zeros(side, side, dtype=torch.int64)
    label[row : row + size, column : column + size] = 2
    label[row + 1 : row + size - 1, column + 1 : column + size - 1] = 4
    return label


def test_a_label_fits_exactly_when_it_lies_inside_the_brain():
    outside = maps.outside_mask(ellipse(), 0)[0, 0]
    for row, column in ((30, 30), (0, 0), (30, 12), (30, 60), (9, 30)):
        label = blob(row, column)
        assert maps.fits(label, outside) == (float((outside * label).sum()) == 0)
    assert maps.fits(blob(30, 30), outside)
    assert not maps.fits(blob(0, 0), outside)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_varied_label_is_one_of_the_same_classes_and_hardly_larger(seed):
    label = blob(28, 28, size=9)
    moved = maps.varied(label, torch.Generator().manual_seed(seed))
    assert moved.shape == label.shape
    assert set(moved.unique().tolist()) <= {0, 2, 4}
    assert 0.5 * 81 < int((moved > 0).sum()) <= 1.25 * 81
    assert torch.equal(moved, maps.varied(label, torch.Generator().manual_seed(seed)))


def changes(kind, side=184, pixel=1.0):
    """From a pixel of the result to that of the label, in homogeneous coordinates about the centre."""
    return [maps._change(kind, pixel, side, torch.Generator().manual_seed(seed)) for seed in range(60)]


def test_the_changes_of_a_label_are_those_of_the_programs():
    """Any rotation; a flip; a shift by 2 to 5 pixels either way; smaller, never larger, by 2 to 7 pixels of 184."""
    for turn in changes(0):
        torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
        assert torch.linalg.det(turn) > 0
    assert len({round(float(turn[0, 0]), 1) for turn in changes(0)}) > 10
    assert {tuple(flip.diagonal().tolist()) for flip in changes(1)} == {(-1, 1, 1), (1, -1, 1)}
    shifts = torch.cat([shift[:2, 2] for shift in changes(2)])
    assert set(shifts.abs().tolist()) == {2, 3, 4, 5}
    assert (shifts > 0).any()
    assert (shifts < 0).any()
    for smaller in changes(3):
        assert 184 / (184 - 2) - 1e-9 <= smaller[0, 0] == smaller[1, 1] <= 184 / (184 - 7) + 1e-9
    assert max(float(shift[:2, 2].abs().max()) for shift in changes(2, 64, 64 / 184)) == 2


def test_a_label_undergoes_two_different_changes(monkeypatch):
    asked = []
    plain = maps._change
    monkeypatch.setattr(maps, "_change", lambda kind, *rest: asked.append(kind) or plain(kind, *rest))
    for seed in range(40):
        maps.varied(blob(28, 28), torch.Generator().manual_seed(seed))
    pairs = [frozenset(pair) for pair in zip(asked[::2], asked[1::2], strict=True)]
    assert len(pairs) == 40
    assert {len(pair) for pair in pairs} == {2}
    assert len(set(pairs)) == 6


def test_small_images_may_err_up_to_three_times_as_much():
    assert [maps.error_threshold((side, side // 2)) for side in (400, 184, 92, 32)] == [0.05, 0.05, 0.1, 0.05 * 3]


def test_labels_vary_and_leave_their_original_alone():
    label = blob(20, 34, size=9)
    before = label.clone()
    made = {maps.varied(label, torch.Generator().manual_seed(seed)).numpy().tobytes() for seed in range(20)}
    assert len(made) > 15
    assert torch.equal(label, before)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_placed_label_lies_inside_the_brain(seed):
    outside = maps.outside_mask(ellipse(), 0)[0, 0]
    pool = torch.stack([blob(30, 20), blob(12, 30), torch.zeros(64, 64, dtype=torch.int64)])
    placed = maps.place(pool, outside, torch.Generator().manual_seed(seed))
    assert placed.whole
    assert maps.fits(placed.label, outside)
    assert (placed.label > 0).any()
    assert placed.donor in (0, 1)


def test_what_can_be_placed_nowhere_is_cut_off_and_reported():
    outside = torch.ones(64, 64)
    outside[31:33, 31:33] = 0
    placed = maps.place(blob(24, 24, 16)[None], outside, torch.Generator().manual_seed(0), tries=5)
    assert not placed.whole
    assert maps.fits(placed.label, outside)


def test_a_pool_without_lesions_gives_none():
    placed = maps.place(torch.full((2, 64, 64), -1), torch.zeros(64, 64), torch.Generator())
    assert placed.whole
    assert placed.label.sum() == 0
