"""Classification as the downstream task: which whole images show a lesion, scored by the area under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import ClassVar

from ganatomy.contracts import InputError
from ganatomy.downstream.task import DownstreamTask, Seeds, Standing
from ganatomy.experiment import Score
from ganatomy.measures import roc
from ganatomy.measures.reader_studies import areas
from ganatomy.measures.verdicts import Judged, of_predictions


class Classification(DownstreamTask):
    """Rows ``probability``, one a subject; the area is a matter of all patients together."""

    score: ClassVar[str] = "val/auc"
    measure: ClassVar[str] = "AUC"
    achieved: ClassVar[str] = "told lesions from normals apart"
    model: ClassVar[str] = "classifier"
    legend: ClassVar[str] = (
        "AUC: area under the ROC curve in which every patient counts once in a class, mean over trainings."
    )
    judged_by: ClassVar[str] = "probability"
    trained_by: ClassVar[str] = "ganatomy.training.classification:CLASSIFIERS"

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
        """Nothing: no patient has an area of its own."""
        return Standing()

    def judged(self, *configurations: Seeds) -> tuple[Judged, ...]:
        """By areas, on the images that all of them saw."""
        found = [roc.predictions(several) for several in configurations]
        shared = [name for name in found[0].in_order() if all(name in one.subjects for one in found)]
        if not shared:
            raise InputError("no image was seen by all trainings that are compared", expected="one at least")
        return tuple(of_predictions(one.of(shared)) for one in found)

    def operating_point(self, rows: Callable[[str], Seeds]) -> dict[str, float]:
        """Sensitivity and specificity on test patients where the threshold, of the mean probability over seeds, is the
        best on validation patients."""
        held, seen = (roc.predictions(rows(split)) for split in ("test", "val"))
        chosen = roc.operating_point(seen.probabilities.mean(axis=0), seen.truth)
        return dict(vars(roc.at_threshold(held.probabilities.mean(axis=0), held.truth, chosen.threshold)))


def patients_area(found: roc.Predictions) -> float:
    """Area under the ROC curve, mean over trainings, in which a patient counts once in a class; NaN without both."""
    if found.truth.all() or not found.truth.any():
        return math.nan
    return float(areas(found.probabilities, found.truth, found.patients).means.mean())


CLASSIFICATION = Classification()
