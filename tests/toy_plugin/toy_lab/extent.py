"""A downstream task of the laboratory's own: how much of a slice is labelled, as one number an image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from ganatomy.downstream.task import Column, DownstreamTask, Seeds, Standing, judged_alike
from ganatomy.experiment import Score
from ganatomy.measures.segmentation import case_scores, patient_scores
from ganatomy.measures.statistics import averaged
from ganatomy.measures.verdicts import Judged

AGREEMENT = "agreement"
"""Metric of the rows: 1 minus the difference between the share of an image that is labelled and what is said of it."""


class Extent(DownstreamTask):
    """One row a subject; what a patient scored is the patient's own."""

    score: ClassVar[str] = "val/agreement"
    measure: ClassVar[str] = "agreement"
    achieved: ClassVar[str] = "agreed with the true extent"
    model: ClassVar[str] = "measurer of extents"
    legend: ClassVar[str] = "agreement, error: means over patients, then trainings, of shares of an image."
    judged_by: ClassVar[str] = "probability"
    trained_by: ClassVar[str] = "toy_lab.extent_models:MEASURERS"
    columns: ClassVar[tuple[Column, ...]] = (Column("error %", "error", ".1f"), Column("worst", "worst"))

    def summarise(self, scores: Iterable[Score], split: str = "val") -> dict[str, float]:
        """``val/agreement``: the mean over patients."""
        cases = patient_scores(scores, AGREEMENT)
        return {f"{split}/{AGREEMENT}": sum(cases.values()) / len(cases)} if cases else {}

    def standing(self, several: Seeds) -> Standing:
        """Agreement by patient, the worst one, and the error in per cent."""
        worst = min((value, subject) for scores in several for subject, value in case_scores(scores, AGREEMENT).items())
        mean = averaged([self.summarise(scores) for scores in several])[self.score]
        patients = averaged([patient_scores(scores, AGREEMENT) for scores in several])
        return Standing(patients, worst=worst[0], worst_subject=worst[1], further={"error": 100 * (1 - mean)})

    def judged(self, *configurations: Seeds) -> tuple[Judged, ...]:
        """By each patient's agreement."""
        own = [[patient_scores(scores, AGREEMENT) for scores in several] for several in configurations]
        return judged_alike(own, self.measure)


EXTENT = Extent()
