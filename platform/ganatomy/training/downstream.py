"""The models the synthetic data is for: their training as a method of its own, and their prediction on whole volumes.

Every arm trains the same network, with the same optimiser, schedule and number of updates; only the data differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ganatomy.contracts import (
    UNLABELLED,
    Adam,
    Batch,
    InputError,
    Method,
    Phase,
    Synthetic,
    Task,
    Update,
    cross_entropy,
)
from ganatomy.core.plain_values import check
from ganatomy.core.plugins import nearest, resolve
from ganatomy.experiment import Choice, Downstream, Experiment, Sampling, Score
from ganatomy.measures.segmentation import label_index_dice, label_index_mse, score_subject
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store
from ganatomy.training.inference import predict_labels

ROLE = "images"
"""The one role of a downstream model's batches."""

DECAY_FRACTION = 0.25
"""The last quarter of a segmentor's updates decays its learning rate, in every arm: 100 epochs of pre-training and 50
of joint training at the full rate, then 50 decaying (Cai et al. 2019, section 4.2)."""


def dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - (2 Σ p y + 1) / (Σ p² + Σ y² + 1) of each structure of each sample, and the mean of these; the background is
    no structure. The voxel that is added asks for an empty map where a structure is not there.

    logits: [N, C + 1, *S].  label: int64 [N, *S], 0..C or ``UNLABELLED``; a sample without labels has loss 0.
    Source: Milletari et al. 2016, eq. 3, per sample.
    """
    from monai.losses import DiceLoss  # takes seconds to import, and most trainings need none of it

    dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=1.0,
                    smooth_dr=1.0, reduction="none")  # fmt: skip
    known = (label != UNLABELLED).flatten(1).any(1)
    structures = dice(logits.float(), label.clamp(min=0)[:, None]).flatten(1).mean(1)
    return (structures * known).mean()


def dice_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """The sum of both. Source: the loss of nnU-Net (Isensee et al. 2021), which takes the Dice of a batch."""
    return cross_entropy(logits, label) + dice_loss(logits, label)


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice_cross_entropy": dice_cross_entropy,
}
"""``downstream.loss`` of segmentors."""


def build_segmentor(choice: Choice, ndim: int, classes: int) -> nn.Module:
    """A fresh segmentor: [N, 1, *S] in [-1, 1] -> logits [N, classes, *S]. ``choice`` names any entry of
    ``ganatomy.networks``; a dotted path to a constructor of the same signature works alike."""
    make = cast(Callable[..., nn.Module], resolve("networks", choice.name))
    return make(ndim=ndim, in_channels=1, classes=classes, **choice.config)


def task_of(experiment: Experiment, classes: int) -> Task:
    """What the experiment's method is told: the downstream network it may train online, and at which ratio."""
    network, ndim = experiment.downstream.network, experiment.sampling.ndim
    return Task(
        ndim=ndim,
        classes=classes,
        segmentor=lambda: begun(build_segmentor(network, ndim, classes), experiment.downstream),
        segmentor_rate=experiment.downstream.learning_rate,
        segmentor_loss=LOSSES[experiment.downstream.loss],
        synthetic_ratio=experiment.mixing.ratio if experiment.arm == "joint" else 1.0,
        segmentors=needs_segmentors(experiment),
        unlabelled=_unlabelled(experiment),
    )


def needs_segmentors(experiment: Experiment) -> bool:
    """Whether a fit trains segmentors: they are the arm's model, or teach the generators, or say when these stop or
    which of their weights are kept."""
    method, training = experiment.method_class(), experiment.training
    followed = bool(training.patience or training.patience_epochs) or training.keep == "best"
    asked = experiment.arm == "joint" or followed
    return method.trains_segmentors and (asked or method.needs_segmentors(experiment.method_config()))


def _unlabelled(experiment: Experiment) -> frozenset[str]:
    """Roles none of whose training images has a label that may be seen."""
    target = experiment.target_domain()
    return frozenset(role for role in experiment.domains if experiment.domain(role) == target
                     and experiment.labels.fraction == 0)  # fmt: skip


def fresh_segmentor(experiment: Experiment, classes: int) -> Segmentation:
    """A segmentor with freshly initialised weights, the same for the same seed in every arm."""
    torch.manual_seed(experiment.seed)
    return Segmentation(Segmentation.Config(), task_of(experiment, classes))


# --- weights to start from -----------------------------------------------------------------------------------------


def begun(network: nn.Module, downstream: Downstream) -> nn.Module:
    """``network`` with the weights of ``downstream.weights``, what is frozen unable to learn. InputError where they do
    not fit."""
    check_weights(network, downstream)
    if not downstream.weights:
        return network
    network.load_state_dict(load_file(downstream.weights), strict=False)
    for name, parameter in network.named_parameters():
        if name.startswith(downstream.frozen):
            parameter.requires_grad_(False)
    for name, module in network.named_modules():
        own = [f"{name}.{key}" for key in module.state_dict()]
        if name and own and all(key.startswith(downstream.frozen) for key in own):
            module.register_forward_pre_hook(_stays)
    return network


def _stays(module: nn.Module, given: Any) -> None:
    """What is frozen stays in evaluation mode, whatever the loop says: its batch statistics do not move."""
    if module.training:
        module.eval()


def check_weights(network: nn.Module, downstream: Downstream) -> None:
    """InputError, one line, unless every tensor of ``downstream.weights`` is one of ``network``, of that shape, and
    what is frozen is there and leaves something to learn. Looks at the file's header alone."""
    path, frozen = downstream.weights, downstream.frozen
    if not path:
        check(not frozen, "downstream.frozen", list(frozen), "nothing without downstream.weights")
        return
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = _shapes(path)
    for name, shape in found.items():
        if name not in wanted:
            raise InputError(f"downstream.weights = {path}: tensor {name} is none of the network's",
                             expected=nearest(name, wanted), remedy="rename it, or leave it out")  # fmt: skip
        if shape != wanted[name]:
            raise InputError(
                f"downstream.weights = {path}: tensor {name} has shape {list(shape)}",
                expected=str(list(wanted[name])),
                remedy="give it that shape, or leave it out",
            )
    names = [name for name, _ in network.named_parameters()]
    for prefix in frozen:
        if not any(name.startswith(prefix) for name in names):
            raise InputError(f"downstream.frozen: no parameter is called {prefix}…", expected=nearest(prefix, names))
    lacking = [name for name in wanted if name.startswith(frozen) and name not in found] if frozen else []
    if lacking:
        raise InputError(f"downstream.frozen: {lacking[0]} is not in {path}, and would stay as it was drawn",
                         expected="weights for all that is frozen")  # fmt: skip
    if frozen and all(name.startswith(frozen) for name in names):
        raise InputError(f"downstream.frozen = {list(frozen)} leaves nothing to learn", expected="fewer names")


def weights_digest(path: str) -> str:
    """Hash of the content of a file of weights, wherever it lies."""
    _shapes(path)
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _shapes(path: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a safetensors file. InputError for anything else: a pickle is never opened."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        why = "there is no such file" if not Path(path).is_file() else f"it is no safetensors file ({error})"
        raise InputError(f"downstream.weights = {path}: {why}", expected="what safetensors.torch.save_file wrote",
                         remedy="see docs/networks.md") from error  # fmt: skip


class Alone(Method):
    """A downstream network S trained alone, which makes no images: left to say are its roles, optimiser and step.

    Its updates are those of every arm: at a constant rate, then decaying over the last quarter.
    """

    generators: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__(config, task)
        self.S = task.segmentor()

    def downstream_networks(self) -> tuple[str, ...]:
        """S."""
        return ("S",)

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """Constant, then linear decay over the last quarter."""
        decay = round(segmentor_steps * DECAY_FRACTION)
        return Phase("constant", segmentor_steps - decay), Phase("decay", decay, decay=True)

    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """No images."""
        return []


class Segmentation(Alone):
    """A segmentor S, trained by the task's loss on whatever its batches hold."""

    @dataclass(frozen=True)
    class Config:
        """Nothing of its own: network, rate and loss are the task's, as for a method that trains segmentors."""

    roles: ClassVar[tuple[str, ...]] = (ROLE,)

    def optimisers(self) -> dict[str, Adam]:
        """Adam with the usual betas: no adversary here."""
        return {"S": Adam(self.task.segmentor_rate, betas=(0.9, 0.999))}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of S on the batch."""
        images = batch[ROLE]
        with update("S") as minimise:
            loss = self.task.segmentor_loss(self.S(images.image), images.label)
            minimise(loss)
        return {"segmentation": loss}


def segment(
    network: nn.Module, image: NDArray[np.float32], sampling: Sampling, device: torch.device
) -> NDArray[np.uint8]:
    """Predicted class ids of one whole volume: [D, H, W] in [-1, 1] -> uint8 [D, H, W]."""
    return predict_labels(network, image.copy(), sampling, multiple_of=multiple_of(network), device=device)


def multiple_of(network: nn.Module, otherwise: int = Method.multiple_of) -> int:
    """What the sides of a network's images must be multiples of: its attribute ``multiple_of``, where it has one."""
    return int(getattr(network, "multiple_of", otherwise))


def score_records(
    network: nn.Module, store: Store, records: Iterable[Record], sampling: Sampling, device: torch.device
) -> list[Score]:
    """Dice and HD95 of every labelled record, one row a subject, metric and structure; misses are rows, not gaps.

    Subjects and patients appear as the store knows them, by pseudonyms: scores leave the workspace, for MLflow and
    reports.
    """
    rows: list[Score] = []
    for record in records:
        if record.labelled:
            found, truth = segment(network, store.image(record), sampling, device), store.label(record)
            who = record.subject, record.patient
            rows += score_subject(found, truth, store.spacing(record), store.labels, *who)
    return rows


def score_label_indices(
    network: nn.Module, store: Store, records: Iterable[Record], sampling: Sampling, device: torch.device
) -> list[Score]:
    """Rows ``label_index_dice`` and ``label_index_mse`` of every labelled record: scores on class ids, by slices, that
    no other metric here can be compared with."""
    rows: list[Score] = []
    for record in records:
        if record.labelled:
            found, truth = segment(network, store.image(record), sampling, device), store.label(record)
            who = record.subject, record.patient
            for measure in (label_index_dice, label_index_mse):
                rows.append(Score(*who, measure.__name__, "class ids", measure(found, truth)))
    return rows
