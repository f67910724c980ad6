"""What goes between the platform and a method: images, what is made of them, a schedule, a step. Needs no torch until
there are images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_APART = 0x9E3779B97F4A7C15  # 2^64 by the golden ratio: multiples of it lie far apart

UNLABELLED = -1
"""Class id that fills the label of an image without one; losses on labels give such an image weight zero."""


@dataclass(frozen=True)
class Drawn:
    """How a sample came about. number: below 2^64, its own; what is random about it is a function of that.
    spacing: of its voxels in millimetres, in the order of its sides."""

    number: int
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Images:
    """The part of a batch that plays one role.

    image: float32 [N, 1, *S] with S = (H, W) or (D, H, W); values in [-1, 1].
    label: int64 [N, *S], class ids 0..C with 0 the background, or ``UNLABELLED`` throughout for an image without one.
    subjects: N pseudonymous ids, for provenance; never shown to a network.
    drawn: of each, how it came about; empty where nobody says.
    vacant: of real images that a segmentor sees in an update: the numbers of the synthetic ones that are to stand
    beside them (see ``Task.seen``); None where that is nobody's affair.
    """

    image: Tensor
    label: Tensor
    subjects: tuple[str, ...] = ()
    drawn: tuple[Drawn, ...] = ()
    vacant: tuple[int, ...] | None = None

    def to(self, device: torch.device | str) -> Images:
        """The same images on ``device``."""
        image, label = (part.to(device, non_blocking=True) for part in (self.image, self.label))
        return replace(self, image=image, label=label)

    def made(self, image: Tensor, kind: int = 1) -> Images:
        """What was made of these: ``image`` [N, 1, *S], with their labels. kind: a number for each way of making, so
        that chance does something else to each."""
        drawn = tuple(replace(one, number=(one.number + kind * _APART) % 2**64) for one in self.drawn)
        return replace(self, image=image, drawn=drawn, vacant=None)

    def none(self) -> Images:
        """None of these: where they leave places vacant, all are."""
        places = None if self.vacant is None else tuple(range(len(self) + len(self.vacant)))
        return Images(self.image[:0], self.label[:0], vacant=places)

    def __len__(self) -> int:
        return self.image.shape[0]


def as_they_are(images: Images) -> Images:
    """No augmentation."""
    return images


Batch = Mapping[str, Images]
"""Role -> images. Roles are the method's own names for what it is given (``"A"``, ``"B"``); unpaired across roles,
unless the method is ``registered``."""


def labelled(role: str) -> str:
    """Key of the labelled images of ``role`` in a batch that has some apart from what generators see of that role: at
    the updates of segmentors that a method trains, where anybody of that role is labelled.

    A supervised update uses ``batch.get(labelled(role), batch[role])``, so that it sees as many labels in a step as it
    would without the unlabelled images beside them.
    """
    return f"{role} labelled"


@dataclass(frozen=True)
class Synthetic:
    """Images a method made from one role, to be taken for images of another.

    image: float32 [N, 1, *S] in [-1, 1].  role: the role (so the domain) they claim to belong to.
    source: the role they were made from; they carry its labels, its patients and its split.
    kind: ``translated`` (made from another domain) or ``reconstructed`` (through another domain and back). In what is
    kept of a method that draws there is a third kind, ``drawn``: see ``Registered``.
    label: int64 [N, *S], where the images do not show what the label of their source says (a lesion was taken out or
    put in), ``UNLABELLED`` throughout where what they show is not known; None, they show it.
    maps: name -> float32 [N, 1, *S] in [0, 1], what else the method says of these images.
    """

    image: Tensor
    role: str
    source: str
    kind: Literal["translated", "reconstructed"] = "translated"
    label: Tensor | None = None
    maps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Registered:
    """What a method drew from noise and labels: n subjects in every role, all images of one geometry.

    images: role -> float32 [n, 1, *S] in [-1, 1].  label: int64 [n, *S], what all of them show.
    outside: bool [n, *S], where they show nothing; None where the method does not say.
    donors: for each the index of the given label that its own was made of; it carries that label's patient and split.
    accepted: by the method's own checks; what is not is for nobody's use.
    figures: name -> a number for each, for its provenance.
    """

    images: Mapping[str, Tensor]
    label: Tensor
    outside: Tensor | None
    donors: tuple[int, ...]
    accepted: tuple[bool, ...]
    figures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Voxel-mean multi-class cross-entropy; a sample without labels counts as a sample, with loss 0.

    logits: [N, C + 1, *S].  label: int64 [N, *S], 0..C or ``UNLABELLED``.  Source: Cai et al. 2019, eq. 4.
    """
    from torch.nn import functional

    # Divided by all voxels, not by the labelled ones: an unlabelled sample must not make the others weigh more, or the
    # loss of a batch would not be the mean of the losses of its samples.
    return functional.cross_entropy(logits, label, ignore_index=UNLABELLED, reduction="sum") / label.numel()


@dataclass(frozen=True)
class Task:
    """What a method must know of the experiment around it.

    ndim: 2 or 3.  classes: C + 1, the number of segmentation logits (1 when the cohort has no labels).
    segmentor: makes one fresh downstream segmentor, [N, 1, *S] -> logits [N, classes, *S]; the same network that the
    other arms train, so that arms differ in data only.  segmentor_rate: Adam's learning rate for it, in every arm.
    segmentor_loss: what teaches it, in every arm: logits [N, C + 1, *S], int64 labels [N, *S] -> mean over samples of
    per-sample losses, 0 for one without labels.
    synthetic_ratio: weight of synthetic against real terms when a method trains its segmentors online.
    augment: what every update of a segmentor does to its samples first, real and synthetic; to nobody else's.
    segmentors: whether a method that trains segmentors is to have and train them. False where only generators are asked
    for, and ``Method.needs_segmentors`` says that these learn the same without.
    unlabelled: roles none of whose training images has a label: nothing real teaches a segmentor of theirs.
    """

    ndim: int
    classes: int
    segmentor: Callable[[], nn.Module]
    segmentor_rate: float = 2e-4
    segmentor_loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    synthetic_ratio: float = 1.0
    augment: Callable[[Images], Images] = as_they_are
    segmentors: bool = True
    unlabelled: frozenset[str] = frozenset()

    def seen(self, real: Images, made: Sequence[Images]) -> list[tuple[Images, float]]:
        """What one update of a segmentor sees, augmented: parts, each with the weight of the mean of its losses.

        real: the batch's images for it, none where it is not to learn from any (``Images.none``).  made: what was made
        at this step for the same domain, one batch for each way of making. Where the real images leave places vacant,
        the parts are one, of as many samples as any other arm sees in an update; elsewhere all that was made stands
        beside all that is real, weighed by ``synthetic_ratio``.
        """
        if real.vacant is None:
            parts = [(real, 1.0)] if len(real) else []
            parts += [(one, self.synthetic_ratio) for one in made]
        else:
            parts = [(_filled(real, made), 1.0)]
        return [(self.augment(part), weight) for part, weight in parts]


def _filled(real: Images, made: Sequence[Images]) -> Images:
    """``real`` with its vacant places taken by what was made, the ways of making by turns: where one has no label,
    another's turn comes first. Which is taken depends on the place and its number, not on who works with whom."""
    import torch

    taken = []
    for place, number in enumerate(real.vacant or (), start=len(real)):
        turns = [made[(number + turn) % len(made)] for turn in range(len(made))]
        labelled = (one for one in turns if bool((one.label[place] != UNLABELLED).any()))
        taken.append((next(labelled, turns[0]), place))
    if not taken:
        return real
    image = torch.cat([real.image, *(one.image[place][None] for one, place in taken)])
    label = torch.cat([real.label, *(one.label[place][None] for one, place in taken)])
    subjects = (*real.subjects, *("".join(one.subjects[place : place + 1]) for one, place in taken))
    drawn = (*real.drawn, *(told for one, place in taken for told in one.drawn[place : place + 1]))
    return Images(image, label, subjects, drawn)


@dataclass(frozen=True)
class Adam:
    """Optimiser settings of one network (Kingma & Ba). Decoupled per network, which for Adam changes nothing."""

    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Phase:
    """A stretch of training: ``steps`` loop steps, during which ``update.phase`` is ``name``.

    decay: the learning rate falls linearly towards 0 over the phase, 1 - (i + 1) / (steps + 1) at its i-th step;
    it is constant otherwise.  may_stop: its validations count towards early stopping (``Training.patience``); those of
    a pre-training, which say nothing of what comes after, do not.
    segmentors: whether segmentors that the method trains are updated.  made: in how many ways synthetic images are made
    for each of their updates; 0 where they see real ones alone.
    bar: mean Dice of the method's ``guides`` on validation patients at which the phase ends before its time, looked at
    as often as the loop reports; 0, none.
    """

    name: str
    steps: int
    decay: bool = False
    may_stop: bool = True
    segmentors: bool = False
    made: int = 0
    bar: float = 0.0


Corners = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, half open: x along W, y along H."""


class Patches(Protocol):
    """How a method that works on patches of 2D images cuts them, and puts a translated one back.

    Images are named by their subject; sides are (height, width). What is random is a function of ``seed``.
    """

    @property
    def side(self) -> int:
        """Of the square patches that the networks are given."""
        ...

    @property
    def source_share(self) -> float:
        """Least share, in (0, 1), of the patients without a lesion who are kept from training, to receive lesions
        later."""
        ...

    def of_lesions(
        self, boxes: Mapping[str, Corners], sides: Mapping[str, tuple[int, int]], seed: int
    ) -> dict[str, list[Corners]]:
        """Image with a lesion -> the windows to cut around its box."""
        ...

    def of_normals(
        self,
        windows: Mapping[str, Sequence[Corners]],
        normals: Sequence[str],
        sides: Mapping[str, tuple[int, int]],
        seed: int,
    ) -> list[tuple[str, Corners]]:
        """(image without a lesion, window to cut of it) for the windows of the lesions."""
        ...

    def receiving(
        self,
        windows: Mapping[str, Sequence[Corners]],
        sources: Sequence[str],
        sides: Mapping[str, tuple[int, int]],
        seed: int,
    ) -> list[tuple[str, Corners]]:
        """(image that may receive a lesion, window to put one into), each of ``sources`` at one window at least before
        any has a second; fewer where the method has a bound. windows: of the lesions."""
        ...

    def sources(self, negatives: Sequence[str], used: Sequence[str], patients: Mapping[str, str]) -> list[str]:
        """The negatives that may receive a lesion: none whose patient was among those ``used`` for training."""
        ...

    def cut(self, image: Tensor, window: Corners) -> Tensor:
        """The window of ``image`` [1, H, W] as a patch [1, side, side]."""
        ...

    def worth(self, patch: Tensor) -> bool:
        """Whether a patch without a lesion shows enough to learn from."""
        ...

    def paste(self, image: Tensor, window: Corners, patch: Tensor) -> tuple[Tensor, Corners]:
        """``image`` with the translated patch in its window, and the box of the lesion that is there now."""
        ...


class Update(Protocol):
    """One optimisation step of the named networks, everything else frozen.

    >>> with update("G_A", "G_B") as minimise:
    ...     minimise(loss)

    Inside the block only the named networks have ``requires_grad``: gradient flows *through* the others and into
    none of them. ``minimise`` may be called once; it differentiates, averages the gradients over all workers, clips,
    refuses non-finite steps and steps the optimisers. With N workers the averaged gradient is that of one worker on
    the N batches together, provided the loss is a mean over samples of per-sample losses.
    """

    phase: str
    """Name of the phase that this step belongs to."""

    def __call__(self, *networks: str) -> AbstractContextManager[Callable[[Tensor], None]]:
        """Open the step of ``networks`` (attribute names of the method)."""
        ...
