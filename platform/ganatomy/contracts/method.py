"""What a method is: networks, losses, one training step, how it synthesises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ganatomy.contracts.errors import InputError
from ganatomy.contracts.exchanged import Adam, Batch, Patches, Phase, Registered, Synthetic, Task, Update


class Method(nn.Module, ABC):
    """How synthetic images are made and trained: networks, losses, one training step, how it synthesises.

    A subclass sets its networks as attributes in ``__init__`` (their names are what ``update`` takes), and may hold
    replay pools as modules without parameters: both are in the checkpoint. It never touches files, devices, ranks
    or precision.
    """

    Config: ClassVar[type]
    """Frozen dataclass of plain values (numbers, strings, booleans, tuples); the paper's values are the defaults."""

    roles: ClassVar[tuple[str, ...]] = ("A", "B")
    """The roles a training batch must hold. The experiment says which domain of the cohort plays which."""

    second_draws: ClassVar[Mapping[str, str]] = {}
    """Key of a training batch -> role whose labelled images stand there, drawn a second time and independently."""

    label_donors: ClassVar[Mapping[str, str]] = {}
    """Role -> role whose labels its images are given when synthetic images are made of them, each that of another
    patient: what the method is asked to draw. Images of other roles come with labels of their own."""

    registered: ClassVar[bool] = False
    """True when the roles of a training batch belong together: at each place one examination in every role, all cut
    alike. Examinations that lack a role are then left out of training. False: roles are drawn each by itself."""

    on_patches: ClassVar[bool] = False
    """True when its images are patches around lesions, cut as ``patches`` says: the platform trains it on those, and
    what it makes are whole images with a lesion pasted in. False: whole images, or crops from anywhere."""

    synthesis_settings: ClassVar[frozenset[str]] = frozenset()
    """Names in Config that matter only after training: trials that differ in nothing else share their networks."""

    ndims: ClassVar[frozenset[int]] = frozenset({2, 3})
    multiple_of: ClassVar[int] = 8
    """Spatial sides that the networks take are multiples of this; the platform pads and crops around them."""

    generators: ClassVar[tuple[str, ...]] = ("G_A", "G_B")
    """The networks that ``synthesize`` and ``draw`` need: what a promoted generator holds, and what a moving average is
    kept of."""

    draws_from_noise: ClassVar[bool] = False
    """True when the method makes images of noise by ``draw``: its synthetic data is then drawn, not translated."""

    trains_segmentors: ClassVar[bool] = False
    """True when the method trains a segmentor ``S_<role>`` for each role: the ``joint`` arm is open to it. Where
    ``task.segmentors`` is False it has none."""

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__()
        if task.ndim not in self.ndims:
            raise InputError(
                f"{type(self).__name__} cannot work in {task.ndim}D",
                expected=f"ndim in {sorted(self.ndims)}",
                remedy="set sampling.ndim",
            )
        self.config = config
        self.task = task

    @classmethod
    def configured(cls, config: Any) -> type[Method]:
        """The method under ``config``: itself, or one with other ``roles`` where that names them."""
        return cls

    @classmethod
    def needs_segmentors(cls, config: Any) -> bool:
        """Whether, under ``config``, generators depend on the segmentors that the method trains. Where they do not, one
        training of generators serves every downstream network: they must then come out the same, to the last bit, with
        segmentors and without."""
        return cls.trains_segmentors

    @property
    def segments(self) -> bool:
        """Whether it has segmentors, and trains them."""
        return self.trains_segmentors and self.task.segmentors

    def downstream_networks(self) -> tuple[str, ...]:
        """Names of the networks that the synthetic data is for: the segmentors, where it trains them."""
        return tuple(f"S_{role}" for role in self.roles) if self.segments else ()

    @classmethod
    def patches(cls, config: Any) -> Patches:
        """How patches are cut and pasted under ``config``. Raises InputError for a method that works on none."""
        raise InputError(f"{cls.__name__} works on no patches", expected="a method with on_patches")

    def networks(self) -> dict[str, nn.Module]:
        """Name -> network: the children that have parameters."""
        return {name: child for name, child in self.named_children() if any(True for _ in child.parameters())}

    def segmentor(self, role: str) -> nn.Module:
        """The segmentor of the domain that plays ``role``. Raises InputError where the method trains none."""
        network = getattr(self, f"S_{role}", None)
        if network is None:
            raise InputError(
                f"{type(self).__name__} trains no segmentor for role {role!r}",
                expected="a method with trains_segmentors",
                remedy="use arm=offline with this method",
            )
        return network

    def guides(self) -> Mapping[str, nn.Module]:
        """Role -> what finds in its images the structures that generators are to draw: [N, 1, *S] in [-1, 1] -> logits
        [N, classes, *S]. A generator learns of them no more than they can find: their Dice on validation patients is
        logged, and said where it lies below the ``bar`` of the phase that they learn in. None where there are none."""
        return {}

    @abstractmethod
    def optimisers(self) -> dict[str, Adam]:
        """Optimiser settings of every network."""

    @abstractmethod
    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """The schedule: ``generator_steps`` updates of the generators, ``segmentor_steps`` of the segmentors (if any).

        Equal budgets across arms and methods hold because of this. Raises InputError if the two do not fit together.
        """

    @abstractmethod
    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One training step: the paper's equations in the paper's order. Returns named scalar losses."""

    @abstractmethod
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """Images made from the roles present in ``batch`` (any subset of ``roles``). Deterministic."""

    def draw(self, labels: Tensor, numbers: Sequence[int], seed: int) -> Registered:
        """Subjects made of noise, one for each of ``numbers``, each with a label made of one of ``labels``.

        labels: int64 [M, *S], M >= 1, sides multiples of ``multiple_of``. Subject i is a function of the weights, the
        labels, the seed and i: the same alone and among others, in any order, in any process.
        Raises InputError where the method draws nothing, or nothing of such labels.
        """
        raise InputError(
            f"{type(self).__name__} draws no images of noise",
            expected="a method with draws_from_noise",
            remedy="give it images to translate",
        )
