"""How extents are measured: a network of two numbers, the mean of sigmoid(gain * x + offset) over the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ganatomy.contracts import Adam, Batch, Method, Update
from ganatomy.evidence.panels import Column
from ganatomy.experiment import Experiment, Sampling, Score
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Mixture, Pool, Sampler
from ganatomy.stores.store import Store
from ganatomy.training.downstream import Alone, task_of
from ganatomy.training.models import DownstreamModels, Some
from ganatomy.training.pools import evaluation_images, segmentor_pool
from toy_lab.extent import AGREEMENT


class Share(nn.Module):
    """[N, 1, *S] -> [N]."""

    def __init__(self, ndim: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.map = {2: nn.Conv2d, 3: nn.Conv3d}[ndim](in_channels, 1, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.map(image).sigmoid().flatten(1).mean(dim=1)


class Measurer(Alone):
    """Trained by the squared difference to the share of the sample that is labelled."""

    @dataclass(frozen=True)
    class Config:
        """Nothing of its own."""

    roles: ClassVar[tuple[str, ...]] = ("images",)

    def optimisers(self) -> dict[str, Adam]:
        return {"S": Adam(self.task.segmentor_rate)}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        images = batch["images"]
        with update("S") as minimise:
            loss = functional.mse_loss(self.S(images.image), (images.label > 0).float().flatten(1).mean(dim=1))
            minimise(loss)
        return {"extent": loss.detach()}


class Measurers(DownstreamModels):
    """Slices, by their labels."""

    def annotated(self, image: Image) -> bool:
        return image.labelled

    def scored_images(self, store: Store, domain: str, split: str) -> list[Image]:
        return evaluation_images(store, domain, split)

    def fresh(self, experiment: Experiment, classes: int) -> Measurer:
        torch.manual_seed(experiment.seed)
        return Measurer(Measurer.Config(), task_of(experiment, classes))

    def mixtures(self, store: Store, experiment: Experiment, role: str, synthetic: Some | None) -> dict[str, Mixture]:
        real, made = segmentor_pool(store, experiment, role), None if synthetic is None else Pool.of(*synthetic)
        return {"images": Mixture(real, made, experiment.mixing, experiment.budget.segmentor_steps)}

    def sampler(self, mixtures: Mapping[str, Mixture], experiment: Experiment, method: Method) -> Sampler:
        return Sampler(mixtures, experiment.sampling, experiment.budget.batch, experiment.seed)

    def score(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> list[Score]:
        found = [(image, self._agreement(network, store, image, device)) for image in images]
        return [Score(image.subject, image.patient, AGREEMENT, "extent", value) for image, value in found]

    def judge(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> dict[int, float]:
        return {image.index: self._agreement(network, store, image, device) for image in images}

    def shown(
        self, network: nn.Module, real: Some, synthetic: Some | None, sampling: Sampling, device: torch.device
    ) -> dict[str, list[Column]]:
        store, images = real
        return {image.subject: [Column("real", store.image(image), store.label(image))] for image in images[:2]}

    def _agreement(self, network: nn.Module, store: Store, image: Image, device: torch.device) -> float:
        with torch.no_grad():
            said = float(network(torch.from_numpy(np.array(store.image(image)))[:, None].to(device)).mean())
        return 1 - abs(said - float((store.label(image) > 0).mean()))


MEASURERS = Measurers()
