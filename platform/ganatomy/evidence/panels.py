"""Pictures to look at: real, synthetic, reconstructed and segmented images side by side, as PNG.

Arrays are [D, H, W] in RAS+ read backwards (z, y, x); a 2D image is [1, H, W]. Shown as radiologists look at them: the
patient's right on the left, front up in axial cuts, head up in the others.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ganatomy.core.durable import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

BACKGROUND, INK, FAINT = "#0d1015", "#f2f4f7", "#8b95a5"
COLOURS = ("#56b4e9", "#e69f00", "#00c79a", "#f0e442", "#d55e00", "#cc79a7", "#7f8cff", "#c2c2c2")
"""Colours of structures in the order of their class ids: Okabe and Ito's, told apart by the colour-blind too."""

TILE, GAP, TITLE, SIDE, LEGEND = 2.35, 0.07, 0.34, 0.34, 0.42  # inches
DPI = 144

# Cut -> (axis it removes, letters at its left and right edge, letters at its top and bottom edge).
CUTS: dict[str, tuple[int, tuple[str, str], tuple[str, str]]] = {
    "axial": (0, ("R", "L"), ("A", "P")),
    "coronal": (1, ("R", "L"), ("S", "I")),
    "sagittal": (2, ("A", "P"), ("S", "I")),
}


@dataclass(frozen=True)
class Column:
    """One image of a panel.

    image: float [D, H, W] in [-1, 1].  label: integers [D, H, W], drawn over the image as tint and outline, or None.
    truth: integers [D, H, W], drawn as a thin white outline for comparison, or None.
    box: (x0, y0, x1, y1) in pixels of a 2D image, drawn as a frame, or None.  caption: a few words below it.
    """

    title: str
    image: NDArray[Any]
    label: NDArray[Any] | None = None
    truth: NDArray[Any] | None = None
    box: Sequence[float] | None = None
    caption: str = ""


def panel(
    columns: Sequence[Column],
    labels: Mapping[int, str],
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    title: str = "",
    at: Sequence[int] | None = None,
) -> bytes:
    """One subject: a row for a 2D image, three orthogonal cuts for a volume. Returns a PNG.

    columns: images on one grid.  labels: class id -> name.  spacing: mm, order (D, H, W).  at: the voxel (k, j, i) the
    cuts go through; by default where most of the labelled structures lies, else the middle.
    """
    at = _interesting(columns) if at is None else at
    if columns[0].image.shape[0] == 1:
        return _draw([("", columns, "axial", at)], labels, spacing, title, letters=False)
    rows = [(name, columns, name, at) for name in CUTS]
    return _draw(rows, labels, spacing, title, letters=True)


def sheet(
    subjects: Mapping[str, Sequence[Column]],
    labels: Mapping[int, str],
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    title: str = "",
) -> bytes:
    """Several subjects, a row each, by their most telling axial cut. Titles are those of the first. Returns a PNG."""
    rows = [(name, columns, "axial", _interesting(columns)) for name, columns in subjects.items()]
    deep = any(columns[0].image.shape[0] > 1 for columns in subjects.values())
    return _draw(rows, labels, spacing, title, letters=deep)


def write_png(path: Path, png: bytes) -> Path:
    """Write ``png`` to ``path`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(png)
    return path


# --- drawing -----------------------------------------------------------------------------------------------------

Row = tuple[str, Sequence[Column], str, Sequence[int]]


def _draw(
    rows: Sequence[Row], labels: Mapping[int, str], spacing: Sequence[float], title: str, *, letters: bool
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here and below: what trains draws rarely or never
    from matplotlib.figure import Figure

    if not rows or not rows[0][1]:
        raise ValueError("a panel needs at least one image")
    sizes = [_extent(columns[0].image.shape, cut, spacing) for _, columns, cut, _ in rows]
    widest = max(width for width, _ in sizes)
    heights = [TILE * height / widest for _, height in sizes]
    side = SIDE if any(name for name, *_ in rows) else GAP
    top = TITLE + (TITLE if title else 0.0)
    count = max(len(columns) for _, columns, _, _ in rows)
    width = side + count * (TILE + GAP)
    key = _key(labels, compared=any(column.truth is not None for _, columns, _, _ in rows for column in columns))
    in_line = max(1, int((width - side) // 1.6))
    legend = LEGEND + 0.2 * ((len(key) - 1) // in_line) if key else GAP
    total = (width, top + sum(heights) + GAP * (len(rows) - 1) + legend)
    figure = Figure(figsize=total, dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)

    down = total[1] - top
    for index, (name, columns, cut, at) in enumerate(rows):
        down -= heights[index]
        for place, column in enumerate(columns):
            x = side + place * (TILE + GAP)
            axes = figure.add_axes((x / total[0], down / total[1], TILE / total[0], heights[index] / total[1]))
            _tile(axes, column, cut, at, spacing, labels)
            if letters and place == 0:
                _letters(axes, cut)
            if index == 0:
                axes.set_title(column.title, color=INK, fontsize=9.5, pad=6)
        if name:
            _text(figure, total, (side - 0.1, down + heights[index] / 2), name, FAINT, 8.5, rotation=90, ha="right")
        down -= GAP
    if title:
        _text(figure, total, (side, total[1] - 0.2), title, INK, 11, ha="left", weight="bold")
    _legend(figure, key, in_line, side / total[0])
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=BACKGROUND, metadata={"Software": None})
    return png.getvalue()


def _tile(
    axes: Any, column: Column, cut: str, at: Sequence[int], spacing: Sequence[float], labels: Mapping[int, str]
) -> None:
    from matplotlib.colors import to_rgb

    image = _cut(column.image, cut, at)
    width, height = _extent(column.image.shape, cut, spacing)
    place = {"extent": (0, width, height, 0), "aspect": "equal"}
    axes.set_facecolor("black")
    axes.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="bicubic", **place)
    if column.label is not None:
        shown = _cut(column.label, cut, at)
        tint = np.zeros((*shown.shape, 4))
        for index, colour in _colours(labels).items():
            tint[shown == index] = (*to_rgb(colour), 0.30)
        axes.imshow(tint, interpolation="nearest", **place)
        for index, colour in _colours(labels).items():
            _outline(axes, shown == index, (width, height), colour, 1.3)
    if column.truth is not None:
        shown = _cut(column.truth, cut, at)
        for index in labels:
            _outline(axes, shown == index, (width, height), "white", 0.6)
    if column.box is not None:
        _frame(axes, column.box, image.shape, (width, height))
    if column.caption:
        axes.text(0.5, 0.02, column.caption, transform=axes.transAxes, color=INK, fontsize=7.5, ha="center",
                  va="bottom", bbox={"facecolor": BACKGROUND, "alpha": 0.6, "pad": 1.5, "linewidth": 0})  # fmt: skip
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()


def _frame(axes: Any, box: Sequence[float], shape: Sequence[int], size: tuple[float, float]) -> None:
    """A box of the image [rows, columns], which is shown with both axes turned round."""
    from matplotlib.patches import Rectangle

    (rows, columns), (width, height), (x0, y0, x1, y1) = shape, size, box
    corner = ((columns - x1) * width / columns, (rows - y1) * height / rows)
    sides = ((x1 - x0) * width / columns, (y1 - y0) * height / rows)
    axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=COLOURS[1], linewidth=1.3))


def _outline(axes: Any, mask: NDArray[np.bool_], size: tuple[float, float], colour: str, width: float) -> None:
    if not mask.any():
        return
    framed = np.pad(mask.astype(float), 1)  # an outline must close where a structure leaves the image
    rows, columns = mask.shape
    x = (np.arange(-1, columns + 1) + 0.5) * size[0] / columns
    y = (np.arange(-1, rows + 1) + 0.5) * size[1] / rows
    axes.contour(x, y, framed, levels=[0.5], colors=[colour], linewidths=width)


def _letters(axes: Any, cut: str) -> None:
    _, (left, right), (up, down) = CUTS[cut]
    for x, y, letter in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.97, up), (0.5, 0.03, down)):
        axes.text(x, y, letter, transform=axes.transAxes, color=FAINT, fontsize=7,
                  ha="center" if x == 0.5 else ("left" if x < 0.5 else "right"),
                  va="center" if y == 0.5 else ("bottom" if y < 0.5 else "top"))  # fmt: skip


def _text(
    figure: Figure, total: tuple[float, float], at: tuple[float, float], text: str, colour: str, size: float, **how: Any
) -> None:
    figure.text(at[0] / total[0], at[1] / total[1], text, color=colour, fontsize=size, va="center", **how)


def _key(labels: Mapping[int, str], *, compared: bool) -> list[Patch]:
    """What the colours mean."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    key = [Patch(facecolor=(*to_rgb(colour), 0.55), edgecolor=colour, label=labels[index])
           for index, colour in _colours(labels).items()]  # fmt: skip
    if compared and key:
        key.append(Patch(facecolor="none", edgecolor="white", label="reference"))
    return key


def _legend(figure: Figure, key: Sequence[Patch], in_line: int, left: float) -> None:
    if not key:
        return
    legend = figure.legend(
        handles=key, loc="lower left", bbox_to_anchor=(left, 0.0), ncols=min(len(key), in_line), frameon=False,
        fontsize=8.5, handlelength=1.1, handleheight=0.9, columnspacing=1.4, borderpad=0.5, borderaxespad=0.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_color(INK)


def _colours(labels: Mapping[int, str]) -> dict[int, str]:
    return {index: COLOURS[place % len(COLOURS)] for place, index in enumerate(sorted(labels))}


# --- cutting -----------------------------------------------------------------------------------------------------


def _cut(array: NDArray[Any], cut: str, at: Sequence[int]) -> NDArray[Any]:
    """The plane through ``at`` as it is shown: rows downwards, the patient's right (or front) on the left.

    Index 0 is inferior, posterior and left in the three axes of the array, so both axes of every plane are turned
    round: up, front and the patient's right come first. In the sagittal cut that puts the front on the left.
    """
    axis = CUTS[cut][0]
    plane: NDArray[Any] = np.take(array, min(int(at[axis]), array.shape[axis] - 1), axis=axis)
    return plane[::-1, ::-1]


def _extent(shape: Sequence[int], cut: str, spacing: Sequence[float]) -> tuple[float, float]:
    """Width and height of a cut in mm."""
    height, width = (shape[axis] * float(spacing[axis]) for axis in range(3) if axis != CUTS[cut][0])
    return width, height


def _interesting(columns: Sequence[Column]) -> tuple[int, int, int]:
    """The voxel whose three planes hold most of the labelled structures, else the middle of the image."""
    for column in columns:
        mask = column.label if column.label is not None else column.truth
        if mask is not None and (mask > 0).any():
            counts = [np.count_nonzero(mask > 0, axis=tuple(set(range(3)) - {axis})) for axis in range(3)]
            k, j, i = (int(np.argmax(count)) for count in counts)
            return k, j, i
    depth, height, width = columns[0].image.shape
    return depth // 2, height // 2, width // 2
