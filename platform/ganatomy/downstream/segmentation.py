"""Segmentation as the downstream task: every voxel its class, scored by the Dice of each structure of each patient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from ganatomy.contracts import InputError
from ganatomy.downstream.task import Column, DownstreamTask, Seeds, Standing, judged_alike
from ganatomy.experiment import SYNTHETIC_ARMS, Experiment, Score
from ganatomy.measures.segmentation import case_scores, label_scores, patient_scores, summarise
from ganatomy.measures.statistics import averaged
from ganatomy.measures.verdicts import Judged


class Segmentation(DownstreamTask):
    """Rows ``dice`` and ``hd95``, one a subject and structure; what a patient scored is the patient's own."""

    score: ClassVar[str] = "val/dice"
    measure: ClassVar[str] = "Dice"
    achieved: ClassVar[str] = "overlapped with the reference outlines"
    model: ClassVar[str] = "segmentor"
    legend: ClassVar[str] = (
        "Dice, HD95: means over patients, then trainings. missed: structures a training. S-score: by domain, / what "
        "its segmentor reaches on real images. healthy: h, share of the lesion gone, and id, identity outside of it."
    )
    judged_by: ClassVar[str] = "dice"
    trained_by: ClassVar[str] = "ganatomy.training.segmentation:SEGMENTORS"
    segments: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column("HD95 mm", "hd95", ".1f"), Column("missed", "missed", ".3g"), Column("worst", "worst"),
    )  # fmt: skip
    by_structure: ClassVar[bool] = True

    def check(self, experiment: Experiment) -> None:
        """What is pasted into whole images has no label that a segmentor could learn from."""
        super().check(experiment)
        if experiment.method_class().on_patches and experiment.arm in SYNTHETIC_ARMS:
            raise InputError(
                f"downstream.task = segmentation with method {experiment.method.name}",
                expected="classification: its images have a class and a box, and no label",
                remedy="--set downstream.task=classification, and a classifier as downstream.network",
            )
        if experiment.downstream.loss != "cross_entropy" and experiment.training.waits_for == "loss":
            raise InputError(f"training.waits_for = loss with downstream.loss = {experiment.downstream.loss}",
                             expected="score, or cross_entropy", remedy="--set training.waits_for=score")  # fmt: skip

    def summarise(self, scores: Iterable[Score], split: str = "val") -> dict[str, float]:
        """``val/dice``, of each label too, ``val/hd95``, ``val/missed``, ``val/worst`` and ``val/best``."""
        return summarise(scores, split)

    def standing(self, several: Seeds) -> Standing:
        """Dice by patient and by structure, HD95, misses, and the worst case."""
        means = averaged([summarise(scores) for scores in several])
        cases = [(value, subject) for scores in several for subject, value in case_scores(scores).items()]
        worst, subject = min(cases, key=lambda case: case[0])
        return Standing(
            patients=averaged([patient_scores(scores) for scores in several]),
            labels=averaged([label_scores(scores) for scores in several]),
            hd95=means.get("val/hd95", math.nan),
            missed=means["val/missed"],
            worst=worst,
            worst_subject=subject,
        )

    def judged(self, *configurations: Seeds) -> tuple[Judged, ...]:
        """By each patient's Dice."""
        own = [[patient_scores(scores) for scores in several] for several in configurations]
        return judged_alike(own, self.measure)


SEGMENTATION = Segmentation()
