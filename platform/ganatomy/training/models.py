"""DownstreamModels: the half of a downstream task that trains models and applies them to images.

``downstream.task.DownstreamTask`` is the other half, which names this one; nothing below a stage asks which task it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from ganatomy.contracts import InputError, Method
from ganatomy.core.plugins import at_path
from ganatomy.downstream.task import task_of
from ganatomy.evidence.panels import Column
from ganatomy.experiment import Experiment, Sampling, Score
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Mixture, Sampler
from ganatomy.stores.store import Store
from ganatomy.training.downstream import check_weights

Some = tuple[Store, Sequence[Image]]
"""Images and the store that they lie in."""


class DownstreamModels(ABC):
    """How models of one downstream task are trained, applied and shown. Holds no state: one object serves all.

    What the arms have in common is not its business: which patients may be seen, the budget, the loop, the checkpoints.
    """

    @abstractmethod
    def annotated(self, image: Image) -> bool:
        """Whether an image says what the task asks of it."""

    @abstractmethod
    def scored_images(self, store: Store, domain: str, split: str) -> list[Image]:
        """The real images of a domain that models are scored on; InputError when they hold nothing to score."""

    @abstractmethod
    def fresh(self, experiment: Experiment, classes: int) -> Method:
        """A model with freshly initialised weights, the same for the same seed, as a Method whose network is ``S``."""

    @abstractmethod
    def mixtures(
        self, store: Store, experiment: Experiment, role: str, synthetic: Some | None
    ) -> Mapping[str, Mixture]:
        """Role of the model's batches -> the images that may play it: the labelled real ones of the domain of ``role``
        in ``store`` and, if given, the kept synthetic ones."""

    @abstractmethod
    def sampler(self, mixtures: Mapping[str, Mixture], experiment: Experiment, method: Method) -> Sampler:
        """What draws the batches, which are augmented afterwards."""

    @abstractmethod
    def score(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> list[Score]:
        """Rows of evidence on images that say what is asked. Subjects and patients appear by the store's pseudonyms."""

    def loss(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> float:
        """What its training minimises, on whole images that say what is asked: for ``training.waits_for = loss``.
        InputError for a task that has no such thing."""
        raise InputError("training.waits_for = 'loss' with a downstream task that has no loss on whole images",
                         expected="score", remedy="--set training.waits_for=score")  # fmt: skip

    @abstractmethod
    def judge(
        self, network: nn.Module, store: Store, images: Iterable[Image], sampling: Sampling, device: torch.device
    ) -> dict[int, float]:
        """Index of a synthetic image -> how surely it is, to a model trained on real ones, what it is meant to be, in
        [0, 1]."""

    @abstractmethod
    def shown(
        self, network: nn.Module, real: Some, synthetic: Some | None, sampling: Sampling, device: torch.device
    ) -> dict[str, list[Column]]:
        """Rows of a picture: a few of the real validation images and, if given, of the kept synthetic ones, with what
        the network makes of them. synthetic: their parents lie in the store of the real ones."""


def models_of(experiment: Experiment) -> DownstreamModels:
    """How models of the experiment's downstream task are trained. InputError where the task names nothing of that."""
    task = task_of(experiment)
    found = at_path(task.trained_by, f"task {experiment.downstream.task!r}")
    if not isinstance(found, DownstreamModels):
        raise InputError(f"{task.trained_by} of task {experiment.downstream.task} is a {type(found).__name__}",
                         expected="a DownstreamModels")  # fmt: skip
    return found


def check_start(experiment: Experiment, classes: int) -> None:
    """InputError where the weights that downstream models are to start from do not fit them. classes: of the store."""
    if experiment.downstream.weights or experiment.downstream.frozen:
        with torch.random.fork_rng(devices=[]):
            fresh = models_of(experiment).fresh(experiment.trained(), classes)
        check_weights(fresh.get_submodule("S"), experiment.downstream)


def scored_images(store: Store, experiment: Experiment, split: str) -> list[Image]:
    """The images of the target domain that the downstream model is scored on; InputError when there are none."""
    return models_of(experiment).scored_images(store, experiment.target_domain(), split)
