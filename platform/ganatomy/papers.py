"""What papers print, as a search space names it: figures, the effects claimed of them, and what data they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]
"""Dotted parameter name -> value."""


@dataclass(frozen=True)
class PaperFigure:
    """A number that a paper prints.

    name: what it calls the row.  point: values that our configuration of it has.  value: in the metric's own unit (Dice
    in [0, 1]).  spread: as printed, such as ``± 0.03``.  metric: its name in a trial's summary; ``{B}`` in it stands
    for the domain that plays role B, and ``synthesis/s_score/*`` for the mean of all whose names begin so.
    """

    name: str
    point: Values
    value: float
    spread: str = ""
    metric: str = "val/dice"


@dataclass(frozen=True)
class PaperClaim:
    """An effect that a paper reports: the configuration with the values ``more`` has a greater ``metric`` than the one
    with the values ``less``."""

    says: str
    more: Values
    less: Values
    metric: str = "val/dice"


@dataclass(frozen=True)
class PaperData:
    """What a table's figures are of; a sweep that they are shown beside is of the like.

    anatomy: as in ``Cohort``.  modalities: role -> name or modality of the domain that plays it (``MRI`` is ``mr``).
    size: voxels of a training sample, of a whole image where whole ones are seen.  fraction: of the target's labels;
    None where the points say it, as it varies between them.  target: role of the domain that the downstream model works
    in; "" where that is the same whatever the table.
    """

    anatomy: str
    modalities: Mapping[str, str]
    size: tuple[int, ...]
    fraction: float | None = 1.0
    target: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper, to be shown beside a sweep of the same study.

    where: paper, table, data.  of: what its figures are of; None binds it to nothing.
    caveats: in sentences, what is inconsistent or missing in it, and which of its orders are not to be expected here.
    """

    where: str
    figures: tuple[PaperFigure, ...]
    claims: tuple[PaperClaim, ...] = ()
    caveats: tuple[str, ...] = ()
    of: PaperData | None = None
