"""A segmentor as the downstream model: what it is trained on, how it scores, judges and is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ganatomy.contracts import Method
from ganatomy.evidence.panels import Column
from ganatomy.experiment import Experiment, Sampling, Score
from ganatomy.measures.segmentation import case_scores
from ganatomy.stores.amounts import in_proportion
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Mixture, Pool, Sampler
from ganatomy.stores.store import Store
from ganatomy.training.downstream import ROLE, Segmentation, fresh_segmentor, multiple_of, score_records, segment
from ganatomy.training.inference import Passes, predict_volume
from ganatomy.training.models import DownstreamModels, Some
from ganatomy.training.pools import evaluation_images, seen_pool
from ganatomy.training.tasks import PANEL_SUBJECTS, grown


class Segmentors(DownstreamModels):
    """``downstream.segmentation``: parts of images, by their labels."""

    def annotated(self, image: Image) -> bool:
        """By a label."""
        return image.labelled

    def scored_images(self, store: Store, domain: str, split: str) -> list[Image]:
        """``evaluation_images``."""
        return evaluation_images(store, domain, split)

    def fresh(self, experiment: Experiment, classes: int) -> Segmentation:
        """A segmentor of so many classes, the background among them."""
        return fresh_segmentor(experiment, classes)

    def mixtures(self, store: Store, experiment: Experiment, role: str, synthetic: Some | None) -> dict[str, Mixture]:
        """All in one role."""
        real, made = seen_pool(store, experiment, role), None if synthetic is None else Pool.of(*synthetic)
        mixing, none = in_proportion(experiment.mixing, len(real), len(made or ())), experiment.labels.fraction == 0
        return {ROLE: Mixture(real, made, mixing, experiment.budget.segmentor_steps, unlabelled=none)}

    def sampler(self, mixtures: Mapping[str, Mixture], experiment: Experiment, method: Method) -> Sampler:
        """Of parts that are as large as a sample, and as its network takes them."""
        size = grown(experiment.sampling, method)
        return Sampler(mixtures, size, experiment.budget.batch, experiment.seed)

    def score(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> list[Score]:
        """``score_records``."""
        return score_records(network, store, images, sampling, device)

    def loss(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> float:
        """Cross-entropy, a mean over voxels and then over labelled images."""
        losses = []
        for image in images:
            if image.labelled:
                passes: Passes = {"multiple_of": multiple_of(network), "device": device}
                logits = predict_volume(network, store.image(image).copy(), sampling, **passes)
                truth = torch.from_numpy(store.label(image).astype(np.int64))
                losses.append(float(functional.cross_entropy(logits[None], truth[None])))
        return math.fsum(losses) / len(losses)

    def judge(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> dict[int, float]:
        """By Dice against the label that each is meant to carry; 0 where that shows nothing."""
        rows = {image.index: score_records(network, store, [image], sampling, device) for image in images}
        return {index: next(iter(case_scores(scores).values()), 0.0) for index, scores in rows.items()}

    def shown(
        self, network: nn.Module, real: Some, synthetic: Some | None, sampling: Sampling, device: torch.device
    ) -> dict[str, list[Column]]:
        """Real, expert label and prediction: a row a subject."""
        store, images = real
        rows: dict[str, list[Column]] = {}
        for image in images[:PANEL_SUBJECTS]:
            seen, truth = store.image(image), store.label(image)
            found = segment(network, seen, sampling, device)
            rows[image.subject] = [
                Column("real", seen),
                Column("label", seen, truth),
                Column("predicted", seen, found, truth),
            ]
        return rows


SEGMENTORS = Segmentors()
