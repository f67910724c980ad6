"""Panels: what is where, what colour it has, and that a file is whole or absent."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ganatomy.evidence import panels
from ganatomy.evidence.panels import Column

LABELS = {1: "ventricle", 2: "atrium"}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def volume(shape=(6, 16, 20)):
    return np.full(shape, -1.0, np.float32)


def near(image, colour, tolerance=40):
    return (np.abs(image - np.round(255 * np.array(to_rgb(colour)))) <= tolerance).all(-1)


def test_a_slice_gives_one_row_and_a_volume_three_cuts():
    flat = pixels(panels.panel([Column("real", volume((1, 16, 16)))], {}))
    deep = pixels(panels.panel([Column("real", volume((16, 16, 16)))], {}))
    wide = pixels(panels.panel([Column("real", volume((1, 16, 16)))] * 4, {}))
    assert deep.shape[0] > 2.5 * flat.shape[0]
    assert wide.shape[1] == pytest.approx(4 * flat.shape[1], rel=0.05)
    assert wide.shape[0] == flat.shape[0]


def test_the_patients_right_is_on_the_left_and_the_front_is_up():
    image = volume((1, 40, 40))
    image[0, 36:, 36:] = 1  # the far ends of y and x: front, right
    shown = pixels(panels.panel([Column("", image)], {}))
    bright = np.argwhere(shown.min(-1) > 250)
    assert len(bright)
    assert bright[:, 0].mean() < shown.shape[0] / 2
    assert bright[:, 1].mean() < shown.shape[1] / 3


def test_cuts_go_up_towards_the_head():
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert panels._cut(array, "coronal", (0, 1, 0))[0, 0] == array[1, 1, 3]  # superior, right
    assert panels._cut(array, "sagittal", (0, 0, 2))[0, 0] == array[1, 2, 2]  # superior, front


def test_spacing_stretches_the_thick_direction():
    assert panels._extent((10, 20, 30), "coronal", (4, 1, 1)) == (30, 40)
    thin = pixels(panels.panel([Column("", volume())], {}, spacing=(1, 1, 1)))
    thick = pixels(panels.panel([Column("", volume())], {}, spacing=(5, 1, 1)))
    assert thick.shape[0] > thin.shape[0]


def test_the_cut_goes_where_the_structures_are():
    label = np.zeros((8, 10, 12), np.uint8)
    label[6, 2:4, 9:11] = 1
    assert panels._interesting([Column("", volume((8, 10, 12))), Column("", volume((8, 10, 12)), label)]) == (6, 2, 9)
    assert panels._interesting([Column("", volume((8, 10, 12)))]) == (4, 5, 6)


def test_structures_keep_their_colour_whatever_else_is_shown():
    label = np.zeros((1, 24, 24), np.uint8)
    label[0, 4:12, 4:12] = 2
    shown = pixels(panels.panel([Column("seg", volume((1, 24, 24)), label)], LABELS))
    above_legend = shown[: int(shown.shape[0] * 0.85)]
    assert near(above_legend, panels.COLOURS[1]).sum() > 100  # the outline of class 2
    assert not near(above_legend, panels.COLOURS[0]).any()
    assert near(shown, panels.COLOURS[0], 60).any()  # the legend names both


def test_the_legend_grows_downwards_when_it_does_not_fit_on_one_line():
    few = pixels(panels.panel([Column("", volume((1, 16, 16)))], LABELS))
    many = pixels(
        panels.panel([Column("", volume((1, 16, 16)))], {index: f"structure {index}" for index in range(1, 9)})
    )
    assert many.shape[0] > few.shape[0]
    assert many.shape[1] == few.shape[1]


def test_a_box_is_framed_where_it_lies_and_a_caption_stands_below():
    image = volume((1, 40, 40))
    image[0, 30:36, 24:32] = 1  # front, right: up and left as shown
    plain, boxed, told = (
        pixels(panels.panel([Column("", image, box=box, caption=caption)], {}))
        for box, caption in ((None, ""), ((23, 29, 33, 37), ""), (None, "p = 0.5"))
    )
    frame = np.argwhere(near(boxed, panels.COLOURS[1]) & ~near(plain, panels.COLOURS[1]))
    bright = np.argwhere(plain.min(-1) > 200)
    assert (frame.min(0) <= bright.min(0)).all()
    assert (frame.max(0) >= bright.max(0)).all()
    assert (np.ptp(frame, axis=0) < 2 * np.ptp(bright, axis=0)).all()
    changed = np.argwhere((told != plain).any(-1))
    assert changed[:, 0].min() > 0.8 * plain.shape[0]


def test_a_sheet_holds_a_row_for_each_subject():
    columns = [Column("real", volume((1, 16, 16))), Column("synthetic", volume((1, 16, 16)))]
    one, two = (pixels(panels.sheet({f"s{i}": columns for i in range(n)}, {})) for n in (1, 2))
    assert two.shape[0] > 1.7 * one.shape[0]


def test_the_same_images_give_the_same_bytes():
    columns = [Column("real", volume())]
    assert panels.panel(columns, LABELS) == panels.panel(columns, LABELS)
    with pytest.raises(ValueError, match="at least one image"):
        panels.sheet({}, LABELS)


def test_a_png_is_written_whole_or_not_at_all(tmp_path):
    path = panels.write_png(tmp_path / "deep" / "panel.png", panels.panel([Column("real", volume())], LABELS))
    assert Image.open(path).format == "PNG"
    with pytest.raises(TypeError):
        panels.write_png(path, "no bytes")
    assert Image.open(path).format == "PNG"
    assert [item.name for item in path.parent.iterdir()] == ["panel.png"]
