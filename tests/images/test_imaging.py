"""Imaging: intensities, orientation, spacing and the way back, on real files."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations
from PIL import Image
from scipy import ndimage

from ganatomy.contracts import InputError
from ganatomy.images.imaging import Native, load_image, load_native, prepare, spacing_of, to_native
from ganatomy.images.intensities import Intensity

WINDOW = Intensity("window", 0.0, 1.0)
AFFINE = np.array([[1.5, 0, 0, -20.0], [0, 2.0, 0, 7.0], [0, 0, 3.0, 100.0], [0, 0, 0, 1]])
ALL_ORIENTATIONS = [
    np.array(list(zip(axes, flips)))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def volume(shape=(5, 6, 7), seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def turned(array, affine, turn):
    return orientations.apply_orientation(array, turn), affine @ orientations.inv_ornt_aff(turn, array.shape)


# --- intensities -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(-500, 500), st.floats(0.1, 2000))
@settings(max_examples=50, deadline=None)
def test_window_inverts_to_the_clipped_image(seed, low, width):
    native = np.random.default_rng(seed).normal(0, 600, (3, 4, 5))
    rule = Intensity("window", low, low + width)
    image = rule.apply(native)
    assert image.dtype == np.float32
    assert image.min() >= -1
    assert image.max() <= 1
    np.testing.assert_allclose(rule.invert(image, *rule.range(native)), np.clip(native, low, low + width), atol=1e-3)


def test_percentiles_are_those_of_numpy_inside_the_mask():
    native = volume((20, 20, 20)) * 300 + 5
    native[:10] = -5000
    lo, hi = Intensity("percentile", 5, 95, "above_minimum").range(native)
    np.testing.assert_allclose((lo, hi), np.percentile(native[10:], (5, 95)))


@pytest.mark.parametrize("rule", ["zscore:-3:3", "percentile:1:99"])
def test_scanner_gain_and_offset_do_not_matter(rule):
    native = volume((8, 8, 8))
    first, second = (Intensity.parse(rule).apply(image) for image in (native, 37 * native + 1000))
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("rule", ["zscore:-4:4:above_minimum", "percentile:0.5:99.5:above_minimum"])
def test_background_sentinel_of_any_depth_is_the_same_background(rule):
    """The glioma set's -5000, or anything else: nothing of it bleeds into the tissue when the grid changes."""
    tissue = np.random.default_rng(3).normal(0, 500, (12, 12, 12)).astype(np.float32)
    inside = np.zeros(tissue.shape, bool)
    inside[3:9, 2:10, 4:11] = True
    prepared = [
        prepare(Native(np.where(inside, tissue, sentinel), np.eye(4)), Intensity.parse(rule), (0.7, 0.7, 0.7)).image
        for sentinel in (-5000, -32000)
    ]
    np.testing.assert_array_equal(*prepared)
    assert prepared[0][0, 0, 0] == -1


def test_file_mask_bounds_the_statistics_and_the_image():
    native, mask = volume() * 10, np.zeros((5, 6, 7))
    mask[1:4] = 1
    rule = Intensity("zscore", -2, 2, "file")
    inside = native[1:4].astype(np.float64)
    np.testing.assert_allclose(rule.range(native, mask)[0], inside.mean() - 2 * inside.std(), rtol=1e-5)
    assert (rule.apply(native, mask)[0] == -1).all()
    with pytest.raises(InputError, match="no mask file"):
        rule.apply(native)


@pytest.mark.parametrize("text", ["window:-160:240", "percentile", "zscore:-4:4:nonzero", "percentile:above_minimum"])
def test_rules_are_written_as_they_are_read(text):
    rule = Intensity.parse(text)
    assert Intensity.parse(rule.text()) == rule


@pytest.mark.parametrize(
    "text",
    [
        "windw:0:1",
        "window",
        "window:1",
        "window:5:1",
        "percentile:-1:99",
        "zscore:1:2",
        "zscore:-1:1:skull",
        "window:a:b",
    ],
)
def test_impossible_rules_are_refused(text):
    with pytest.raises(InputError):
        Intensity.parse(text)


def test_no_contrast_is_refused_with_a_remedy():
    sparse = np.zeros((10, 10, 10))
    sparse[0, 0, 0] = 1
    with pytest.raises(InputError, match="no contrast") as caught:
        Intensity().range(sparse)
    assert caught.value.remedy
    with pytest.raises(InputError, match="no contrast"):
        prepare(Native(volume(), np.eye(4)), Intensity("window", 500, 900))


# --- geometry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn", ALL_ORIENTATIONS, ids=lambda turn: "".join(f"{int(a)}{'+' if f > 0 else '-'}" for a, f in turn)
)
def test_all_48_orientations_of_a_volume_prepare_alike_and_go_back_intact(turn):
    image, label = volume(), (volume(seed=1) * 4).astype(np.uint8)
    reference = prepare(Native(image, AFFINE, label), WINDOW)
    np.testing.assert_array_equal(reference.label, label.transpose(2, 1, 0))
    (other, affine), (other_label, _) = turned(image, AFFINE, turn), turned(label, AFFINE, turn)
    prepared = prepare(Native(other, affine, other_label), WINDOW)
    np.testing.assert_array_equal(prepared.image, reference.image)
    np.testing.assert_array_equal(prepared.label, reference.label)
    np.testing.assert_allclose(prepared.affine, reference.affine, atol=1e-9)
    np.testing.assert_array_equal(to_native(prepared.label, prepared, 0), other_label)
    np.testing.assert_allclose(to_native(prepared.image, prepared), other * 2 - 1, atol=1e-6)


@given(
    st.sampled_from(ALL_ORIENTATIONS),
    st.tuples(*[st.floats(0.5, 1.0)] * 3),
    st.tuples(*[st.sampled_from([0, 4, 9, 16])] * 3),
)
@settings(max_examples=40, deadline=None)
def test_a_voxel_stays_where_it_is_in_the_world(turn, spacing, size):
    """A function linear in world mm is reproduced by linear interpolation, so any grid must show its values."""
    shape = (9, 8, 7)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    slope = np.array([0.011, -0.007, 0.005])
    image = (grid @ AFFINE[:3, :3].T + AFFINE[:3, 3]) @ slope
    rule = Intensity("window", float(image.min()) - 1, float(image.max()) + 1)
    native, affine = turned(image, AFFINE, turn)
    prepared = prepare(Native(native, affine), rule, tuple(np.array(spacing) * spacing_of(AFFINE)), size)
    sides = prepared.image.shape[::-1]
    assert all(side in (wanted, side) if wanted == 0 else side == wanted for side, wanted in zip(sides, size))
    here = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), -1)
    world = here @ prepared.affine[:3, :3].T + prepared.affine[:3, 3]
    back = (world - AFFINE[:3, 3]) / np.diag(AFFINE)[:3]
    inside = ((back >= 0) & (back <= np.array(shape) - 1)).all(-1)
    shown = rule.invert(prepared.image.transpose(2, 1, 0), prepared.lo, prepared.hi)
    np.testing.assert_allclose(shown[inside], (world @ slope)[inside], atol=2e-5)
    assert nibabel.aff2axcodes(prepared.affine) == ("R", "A", "S")


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7, 3.0])
def test_resampling_is_that_of_scipy(factor):
    image = volume((13, 11, 9))
    prepared = prepare(Native(image, np.eye(4)), WINDOW, (factor, 1, 0))
    new = prepared.image.shape[2]
    offset = (13 - 1) / 2 - factor * (new - 1) / 2
    smooth = (
        ndimage.gaussian_filter1d(image * 2 - 1, (factor - 1) / 2, axis=0, mode="nearest")
        if factor > 1
        else image * 2 - 1
    )
    expected = ndimage.affine_transform(
        smooth, np.diag([factor, 1, 1]), (offset, 0, 0), (new, 11, 9), order=1, mode="nearest"
    )
    np.testing.assert_allclose(prepared.image.transpose(2, 1, 0), expected, atol=1e-5)
    np.testing.assert_allclose(spacing_of(prepared.affine), (factor, 1, 1))


@given(st.tuples(*[st.integers(3, 9)] * 3), st.tuples(*[st.integers(0, 12)] * 3), st.sampled_from(ALL_ORIENTATIONS))
@settings(max_examples=60, deadline=None)
def test_crop_and_pad_lose_only_what_was_cropped(shape, size, turn):
    image, label = volume(shape), np.ones(shape, np.uint8)
    native, affine = turned(image, AFFINE, turn)
    prepared = prepare(Native(native, affine, orientations.apply_orientation(label, turn)), WINDOW, size=size)
    assert prepared.image.shape == tuple(want or have for want, have in zip(size, shape))[::-1]
    kept = to_native(prepared.label, prepared, 0).astype(bool)
    assert kept.shape == native.shape
    assert kept.sum() == np.prod([min(want or have, have) for want, have in zip(size, shape)])
    restored = to_native(prepared.image, prepared)
    np.testing.assert_allclose(restored[kept], (native * 2 - 1)[kept], atol=1e-6)
    assert (restored[~kept] == -1).all()
    assert ((prepared.image == -1) | (prepared.label == 1)).all()


def test_resampled_label_returns_with_its_volume():
    label = np.zeros((20, 20, 20), np.uint8)
    label[4:16, 6:15, 3:18] = 2
    prepared = prepare(Native(volume((20, 20, 20)), np.diag([2, 2, 2, 1.0]), label), WINDOW, (1, 1, 1))
    assert prepared.label.sum() == 8 * label.sum()
    np.testing.assert_array_equal(to_native(prepared.label, prepared, 0), label)


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "img", "mgz", "mgh"])
def test_every_volume_format_reads_the_same(tmp_path, ending):
    voxels = (volume((4, 5, 6)) * 100).astype(np.int16)
    kind = {"img": nibabel.Nifti1Pair, "mgz": nibabel.MGHImage, "mgh": nibabel.MGHImage}.get(
        ending, nibabel.Nifti1Image
    )
    nibabel.save(kind(voxels, AFFINE), tmp_path / f"x.{ending}")
    read, affine = load_image(tmp_path / f"x.{ending}")
    np.testing.assert_array_equal(read, voxels)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize(
    ("ending", "kind"), [("png", "uint8"), ("png", "uint16"), ("tif", "uint16"), ("tiff", "float32")]
)
def test_2d_images_stand_upright_and_go_back(tmp_path, ending, kind):
    pixels = (np.arange(12).reshape(3, 4) * 20).astype(kind)
    Image.fromarray(pixels).save(tmp_path / f"x.{ending}")
    native = load_native(tmp_path / f"x.{ending}")
    assert native.volume.shape == (4, 3, 1)
    prepared = prepare(native, Intensity("window", 0, 220))
    assert prepared.image.shape == (1, 3, 4)
    np.testing.assert_allclose(prepared.image[0, ::-1], pixels / 110.0 - 1, atol=1e-6)  # rows run downwards in a file
    np.testing.assert_allclose(to_native(prepared.image, prepared)[:, :, 0].T, pixels / 110.0 - 1, atol=1e-6)


def test_colours_stacks_palettes_and_channels(tmp_path):
    Image.fromarray(np.full((3, 4, 3), 90, np.uint8)).save(tmp_path / "colour.jpg")
    assert np.ptp(load_image(tmp_path / "colour.jpg")[0]) <= 1
    with pytest.raises(InputError, match="in colour"):
        load_image(tmp_path / "colour.jpg", as_label=True)
    pages = [Image.fromarray(np.full((3, 4), page, np.uint8)) for page in range(5)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(load_image(tmp_path / "stack.tif")[0][0, 0], range(5))
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(load_image(tmp_path / "palette.png", as_label=True)[0][:, :, 0].T, [[0, 1], [2, 1]])
    nibabel.save(nibabel.Nifti1Image(volume((3, 3, 3, 2)), np.eye(4)), tmp_path / "4d.nii")
    np.testing.assert_array_equal(load_image(tmp_path / "4d.nii", 1)[0], volume((3, 3, 3, 2))[..., 1])
    for channel in (None, 2):
        with pytest.raises(InputError, match=r"4d\.nii"):
            load_image(tmp_path / "4d.nii", channel)


def test_unreadable_files_are_named_whatever_is_wrong_with_them(tmp_path):
    nibabel.save(nibabel.Nifti1Image(volume((30, 30, 30)), np.eye(4)), tmp_path / "whole.nii.gz")
    data = (tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.nii").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "odd.xyz").write_bytes(data)
    for name in ("cut.nii.gz", "text.nii", "empty.png", "odd.xyz", "missing.nii.gz"):
        with pytest.raises(InputError, match=name) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert caught.value.remedy
