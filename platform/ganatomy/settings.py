"""The settings that an Experiment is made of, a part each: frozen, JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import from_text, plain
from ganatomy.core.plugins import resolve


@dataclass(frozen=True)
class Choice:
    """A thing by name with its settings; settings left out keep the thing's own defaults (the paper's values)."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """How many labelled patients of the target domain there are.

    fraction: of its training patients, in [0, 1]; at least one of every class is kept, classes stay in their shares,
    subsets of one seed are nested. 0 is nobody: the target's training patients are unlabelled, those that a model is
    validated and tested on are not.
    drawn: ``each`` training draws patients of its own: what labels of so many are worth, whoever they are, and its luck
    is a part of every interval. ``once``, all trainings have the same: what the labels of these are worth.
    gan_sees: ``subset``, the whole pipeline sees only those patients; ``all``, generators and discriminators also see
    the unlabelled rest. Where nobody is labelled they see all in either case.
    """

    fraction: float = 1.0
    gan_sees: Literal["subset", "all"] = "subset"
    drawn: Literal["each", "once"] = "each"


@dataclass(frozen=True)
class Mixing:
    """How real and synthetic images meet in the segmentor's training.

    ratio: synthetic samples per real one in the updates of the downstream model, in every arm.  order: ``mixed``, every
    batch holds both; ``synthetic_first`` / ``real_first``, one after the other; ``synthetic_alone``, no real one at all
    (offline arm).  pretrain: leading fraction of the
    segmentor's budget spent on real images only (offline arm, ``mixed``).
    composition: ``equal``, an update sees ``budget.batch`` samples in every arm, in that proportion over consecutive
    updates. ``paper``, it sees as many real ones as without synthetic ones, and beside them ``ratio`` times as many
    made beforehand, or all that is made online, weighing ``ratio`` (Cai et al. 2019).
    share: what synthetic images have of it: as the ``ratio`` says; or, by ``counts``, each image as much as a real one.
    distinct: how many of the images that a filter keeps are mixed in, 0 for all (offline arm).  source_patients: how
    many training patients of the domains that are no target there are to learn from and to make images of, those with
    labels where there are any; 0 for all. Sets of one seed are nested, in both.
    real: share of the labelled patients whose real images the downstream model sees (real and offline arms), at least
    one. Generators, the labels that they draw and whoever judges a set see those of all: where there are no more labels
    than that, it is ``labels.fraction`` that says so.
    """

    ratio: float = 1.0
    order: Literal["mixed", "synthetic_first", "real_first", "synthetic_alone"] = "mixed"
    pretrain: float = 0.5
    composition: Literal["equal", "paper"] = "equal"
    share: Literal["ratio", "counts"] = "ratio"
    distinct: int = 0
    source_patients: int = 0
    real: float = 1.0


@dataclass(frozen=True)
class Drawing:
    """How many images a method that draws from noise makes for its synthetic set; no other method takes notice.

    per_label: for each label that it may see (in 2D, of a slice) of the target.  at_least: however few those are.
    """

    per_label: float = 1.0
    at_least: int = 64


@dataclass(frozen=True)
class Filter:
    """Which synthetic images are kept (offline arm), in the eyes of a downstream model trained on real images only.

    min_dice: a segmentor reaches this Dice against the label they are meant to carry.  min_probability: a classifier
    gives them the class they are meant to be of with this probability. 0 keeps all.
    as_many_as: keep no more than this threshold, a higher one, would, drawn at random, so that a sweep over thresholds
    compares equal counts; 0 sets no bound.
    set_mean: what is kept reaches this on average, or the set is refused and the trial has no result; 0 refuses none.
    """

    min_dice: float = 0.0
    min_probability: float = 0.0
    as_many_as: float = 0.0
    set_mean: float = 0.0


@dataclass(frozen=True)
class Transfer:
    """What is learnt from another cohort, prepared in the same workspace, because this one is too small.

    generator: cohort that the method is trained on (TL_G of Gupta et al. 2019).  judge: cohort that the filter's
    downstream model is trained on (TL_PL). By name, or by the digest of its store; "" for this one. Domains go by the
    same names there.
    settings: of the method, where they are others while a borrowed generator is trained: ``transfer.settings.window``.
    """

    generator: str = ""
    judge: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        read = {name: from_text(value) if isinstance(value, str) else value for name, value in self.settings.items()}
        object.__setattr__(self, "settings", read)


@dataclass(frozen=True)
class Downstream:
    """The model the synthetic data is for.

    network: any entry of ``ganatomy.networks`` (or a dotted path).  task: any of ``ganatomy.tasks``, such as
    ``segmentation``, by labels; or ``classification``, which images show a lesion: whole images, brought to
    ``sampling.size``, by their class.
    augmentation: what is done to the training samples of every arm, real and synthetic alike: nothing, a little
    geometry and intensity, or nnU-Net's list. What generators and discriminators see is left as it is.
    loss: what teaches segmentors: the papers' cross-entropy, or beside it the Dice of every structure, as in nnU-Net.
    average: decay of an exponential moving average of its weights, 0 off: that is what is validated, scored and kept,
    in every arm.
    augmented: share of the samples that it is done to; the others are seen as they are.
    weights: a safetensors file that every one of these networks starts from, in every arm; "", none. What it lacks
    starts at random.  frozen: beginnings of the names of its tensors that never change, such as ``stages.0``.
    """

    network: Choice = field(default_factory=lambda: Choice("unet"))
    learning_rate: float = 2e-4
    task: str = "segmentation"
    augmentation: Literal["none", "light", "strong"] = "none"
    loss: Literal["cross_entropy", "dice_cross_entropy"] = "cross_entropy"
    average: float = 0.0
    weights: str = ""
    frozen: tuple[str, ...] = ()
    augmented: float = 1.0

    def asked(self) -> Any:
        """The task, a ``ganatomy.downstream.task.DownstreamTask``: here alone its name becomes that object. InputError
        where there is none."""
        found = resolve("tasks", self.task)
        if not callable(getattr(found, "summarise", None)):
            raise InputError(f"downstream.task = {self.task} is a {type(found).__name__}", expected="a DownstreamTask")
        return found

    @property
    def score(self) -> str:
        """Name of the number that experiments are ranked by, on real validation patients of the target domain."""
        return str(self.asked().score)


@dataclass(frozen=True)
class Sampling:
    """What a training sample is: a 2D axial slice (or patch of one) or a 3D patch.

    size: (H, W) or (D, H, W) voxels.  foreground: probability that a sample is centred on a labelled voxel.
    Of what generators and discriminators are shown, and what is made of: middle_slices: in 2D, so many slices of an
    image, about the middle of those that show something, 0 for all (Xia et al. 2019: 60).  central: a sample is the
    middle of its plane (in 3D, of the image), and not any part of it.
    """

    ndim: Literal[2, 3] = 2
    size: tuple[int, ...] = (64, 64)
    foreground: float = 0.5
    middle_slices: int = 0
    central: bool = False


@dataclass(frozen=True)
class Budget:
    """What every arm may spend. One step is one update at ``batch`` samples (over all workers together)."""

    segmentor_steps: int = 2000
    generator_steps: int = 1600
    batch: int = 1
    validations: int = 8


@dataclass(frozen=True)
class Training:
    """The loop's own settings, the same for every method. Off by default where the papers have none.

    ema: the same as ``downstream.average``, of the generators' weights, 0 off.  clip_norm: gradient norm bound,
    0 off.  precision: ``auto`` is bf16 on hardware that has it, else fp32.

    patience_epochs: stop once nothing has been better for so many epochs, 0 off. In every arm an epoch is as many
    updates as the downstream model takes to go through its real training samples. It is looked at when the loop
    validates: ``budget.validations`` says how finely.  patience: the same, counted in validations.
    waits_for: what is to get better on validation patients: the ``score`` of the downstream task, or its ``loss``,
    where that is cross-entropy.
    keep: the weights of the ``last`` update, or those that validated ``best`` by that.
    """

    ema: float = 0.0
    patience: int = 0
    patience_epochs: float = 0.0
    waits_for: Literal["score", "loss"] = "score"
    keep: Literal["last", "best"] = "last"
    clip_norm: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"


LATER: Mapping[str, Any] = {
    "patience_epochs": 0.0, "waits_for": "score", "keep": "last", "weights": "", "frozen": [], "augmentation": "none",
    "share": "ratio", "distinct": 0, "source_patients": 0, "settings": {}, "average": 0.0,
    "loss": "cross_entropy", "drawn": "each", "middle_slices": 0, "central": False,
    "set_mean": 0.0, "real": 1.0, "augmented": 1.0,
}  # fmt: skip
"""Settings that earlier versions had not, with what these did."""


def as_before(part: Any) -> dict[str, Any]:
    """The plain values of a part of an Experiment, without what ``LATER`` names where it has that value: plans of
    earlier versions declare what they compare by a hash of the rest."""
    return {name: value for name, value in plain(part).items() if name not in LATER or value != LATER[name]}
