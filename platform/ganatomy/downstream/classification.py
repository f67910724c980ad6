"""Classification as the downstream task: which whole images show a lesion, scored by the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from ganatomy.downstream.task import DownstreamTask, Seeds, Standing
from ganatomy.experiment import Score
from ganatomy.measures import roc
from ganatomy.measures.statistics import Effect


class Classification(DownstreamTask):
    """Rows ``probability``, one a subject; the area is a matter of all patients together."""

    score: ClassVar[str] = "val/auc"
    measure: ClassVar[str] = "AUC"
    achieved: ClassVar[str] = "told lesions from normals apart"
    model: ClassVar[str] = "classifier"
    legend: ClassVar[str] = (
        "AUC: mean over seeds. Δ: AUC points against the baseline, on the same resampled patients, 95 % bootstrap "
        "interval. p: from the same resamples, Holm-corrected."
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
        return {f"{split}/auc": found.auc, f"{split}/sensitivity": point.sensitivity,
                f"{split}/specificity": point.specificity}  # fmt: skip

    def standing(self, several: Seeds) -> Standing:
        """Nothing: no patient has an area of its own."""
        return Standing()

    def difference(self, more: Seeds, less: Seeds) -> tuple[Effect, float]:
        """Of areas, all on the same resampled patients, replicates averaged first."""
        return roc.auc_difference(roc.predictions(more), roc.predictions(less))

    def operating_point(self, rows: Callable[[str], Seeds]) -> dict[str, float]:
        """Sensitivity and specificity on test patients where the threshold, of the mean probability over seeds, is the
        best on validation patients."""
        held, seen = (roc.predictions(rows(split)) for split in ("test", "val"))
        chosen = roc.operating_point(seen.probabilities.mean(axis=0), seen.truth)
        return dict(vars(roc.at_threshold(held.probabilities.mean(axis=0), held.truth, chosen.threshold)))


CLASSIFICATION = Classification()
