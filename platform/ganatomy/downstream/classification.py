"""Classification as the downstream task: which whole images show a lesion, scored by the area under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import ClassVar

from ganatomy.contracts import InputError
from ganatomy.downstream.task import Column, DownstreamTask, Seeds, Standing
from ganatomy.experiment import Score
from ganatomy.measures import roc
from ganatomy.measures.reader_studies import areas, interval
from ganatomy.measures.verdicts import Judged, of_predictions


class Classification(DownstreamTask):
    """Rows ``probability``, one a subject; the area is a matter of all patients together."""

    score: ClassVar[str] = "val/auc"
    measure: ClassVar[str] = "AUC"
    achieved: ClassVar[str] = "told lesions from normals apart"
    model: ClassVar[str] = "classifier"
    legend: ClassVar[str] = (
        "AUC: area under the ROC curve in which every patient counts once in a class, mean over trainings; its "
        "interval is over patients and trainings, from two of these on, and of this row alone. kept: synthetic images "
        "after the filter. sens., spec.: shares of lesions and of normals that are called so from OP on, the threshold "
        "nearest to the upper left corner; chosen on these very patients, so that a promotion, which reads test "
        "patients at it, finds less. Means over trainings."
    )
    judged_by: ClassVar[str] = "probability"
    trained_by: ClassVar[str] = "ganatomy.training.classification:CLASSIFIERS"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("AUC 95 %", "low", to="high"), Column("kept", "work/kept_images", ".0f"),
        Column("sens.", "sensitivity"), Column("spec.", "specificity"), Column("OP", "threshold"),
    )  # fmt: skip

    def summarise(self, scores: Iterable[Score], split: str = "val") -> dict[str, float]:
        """``val/auc`` and, at the operating point that fits the rows best, ``val/sensitivity`` and
        ``val/specificity``."""
        scores = [score for score in scores if score.metric == roc.PROBABILITY]
        if not scores:
            return {}
        found = roc.predictions([scores])
        point = roc.operating_point(found.probabilities[0], found.truth)
        return {f"{split}/auc": patients_area(found), f"{split}/sensitivity": point.sensitivity,
                f"{split}/specificity": point.specificity}  # fmt: skip

    def standing(self, several: Seeds) -> Standing:
        """Interval of the area and operating point; no patient has an area of its own."""
        found = roc.predictions(several)
        return Standing(further=_figures(found, found))

    def judged(self, *configurations: Seeds) -> tuple[Judged, ...]:
        """By areas, on the images that all of them saw."""
        found = [roc.predictions(several) for several in configurations]
        shared = [name for name in found[0].in_order() if all(name in one.subjects for one in found)]
        if not shared:
            raise InputError("no image was seen by all trainings that are compared", expected="one at least")
        return tuple(of_predictions(one.of(shared)) for one in found)

    def operating_point(self, rows: Callable[[str], Seeds]) -> dict[str, float]:
        """Of test patients the area with its interval, and sensitivity and specificity where every training's threshold
        is its best on validation patients: means over trainings."""
        held, seen = (roc.predictions(rows(split)) for split in ("test", "val"))
        return {"auc": patients_area(held), **_figures(seen, held)}


def patients_area(found: roc.Predictions) -> float:
    """Area under the ROC curve, mean over trainings, in which a patient counts once in a class; NaN without both."""
    if found.truth.all() or not found.truth.any():
        return math.nan
    return float(areas(found.probabilities, found.truth, found.patients).means.mean())


def _figures(seen: roc.Predictions, held: roc.Predictions) -> dict[str, float]:
    """``low`` and ``high``, of the area of ``held``; ``threshold``, as chosen on ``seen``, and what it comes to."""
    point = vars(roc.chosen_apart(seen, held))
    if held.truth.all() or not held.truth.any():
        return point
    low, high = interval(areas(held.probabilities, held.truth, held.patients))
    return {"low": low, "high": high, **point}


CLASSIFICATION = Classification()
