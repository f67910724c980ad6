"""Experiment: everything needed to run one trial again, and what one trial left. Frozen, hashable, JSON in and out."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import assign, build, check, digest, flatten, plain
from ganatomy.core.plugins import nearest, resolve
from ganatomy.settings import Budget as Budget
from ganatomy.settings import Choice as Choice
from ganatomy.settings import Downstream as Downstream
from ganatomy.settings import Drawing as Drawing
from ganatomy.settings import Filter as Filter
from ganatomy.settings import Labels as Labels
from ganatomy.settings import Mixing as Mixing
from ganatomy.settings import Sampling as Sampling
from ganatomy.settings import Training as Training
from ganatomy.settings import Transfer as Transfer
from ganatomy.settings import as_before as as_before

if TYPE_CHECKING:
    from ganatomy.contracts import Method

State = Literal["", "lesion", "healthy"]
STATES: tuple[State, ...] = ("lesion", "healthy")

Arm = Literal["real", "source", "offline", "joint"]
ARMS: tuple[Arm, ...] = typing.get_args(Arm)
SYNTHETIC_ARMS: tuple[Arm, ...] = ("offline", "joint")
NEED_LABELS: tuple[Arm, ...] = ("real",)
"""Arms that learn from labels of the target domain alone. Without any, ``source`` stands in their place."""


@dataclass(frozen=True)
class Experiment:
    """Method + cohort + arm + mixing + filter + downstream + budget + seed.

    cohort: its name; what it holds is told by the store's digest.
    domains: role -> domain of the cohort, or a state of one: ``flair:lesion`` are the slices (in 3D, the images) of
    domain flair in which something is labelled, ``flair:healthy`` those in which nothing is.
    target: the role whose domain the downstream model works in, in whatever state.
    arm: ``real``, real images of the target; ``source``, real images of the source, and the model applied to the target
    as it is; ``offline``, real and synthetic images; ``joint``, trained with the generator.
    """

    cohort: str
    domains: Mapping[str, str]
    target: str = "B"
    arm: Arm = "joint"
    method: Choice = field(default_factory=lambda: Choice("shape_consistent"))
    labels: Labels = field(default_factory=Labels)
    mixing: Mixing = field(default_factory=Mixing)
    drawing: Drawing = field(default_factory=Drawing)
    filter: Filter = field(default_factory=Filter)
    transfer: Transfer = field(default_factory=Transfer)
    downstream: Downstream = field(default_factory=Downstream)
    sampling: Sampling = field(default_factory=Sampling)
    budget: Budget = field(default_factory=Budget)
    training: Training = field(default_factory=Training)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, ready for JSON."""
        return cast(dict[str, Any], plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Experiment:
        """Inverse of ``to_dict``. Unknown names and impossible values raise InputError with the nearest right name.

        What was written when arms had other terms is read as what comes nearest to it now.
        """
        return cast(Experiment, build(cls, _of_before(values), ""))

    def flat(self) -> dict[str, Any]:
        """Dotted name -> value, as logged and as accepted by ``with_values``: ``method``, ``method.shape_weight`` …"""
        return dict(flatten(self.to_dict()))

    def with_values(self, values: Mapping[str, Any]) -> Experiment:
        """A copy with dotted names set: ``{"method.shape_weight": 0.5, "arm": "joint"}``; text is read as JSON.

        The order does not matter: a thing is chosen (``method``) before it is configured (``method.shape_weight``).
        """
        nested = self.to_dict()
        for name in sorted(values, key=lambda name: name.count(".")):
            assign(nested, name, values[name])
        return Experiment.from_dict(nested)

    def digest(self) -> str:
        """Content hash of the whole Experiment."""
        return digest(self.to_dict())

    def configuration(self) -> str:
        """Content hash of everything but the seed: trials that share it are replicates."""
        parts = ("labels", "training", "downstream", "mixing", "filter", "transfer", "sampling")
        values = {**self.to_dict(), "seed": None, **{name: as_before(getattr(self, name)) for name in parts}}
        if (self.mixing.composition == "paper") == (self.arm == "joint"):  # what the ratio meant before it could be set
            del values["mixing"]["composition"]
        return digest(values)

    def lent(self) -> Experiment:
        """The experiment with its method as it is trained: where a generator is borrowed, as its lender has it."""
        if not (self.transfer.generator and self.transfer.settings):
            return self
        return replace(self, method=Choice(self.method.name, {**self.method.config, **self.transfer.settings}))

    def trained(self) -> Experiment:
        """The experiment whose networks are about to be given the weights that a training left: those that it started
        from are not looked for."""
        return replace(self, downstream=replace(self.downstream, weights="", frozen=()))

    def domain(self, role: str) -> str:
        """Name of the cohort's domain that plays ``role``, without the state."""
        return self.domains[role].partition(":")[0]

    def state(self, role: str) -> State:
        """The state that images must be in to play ``role``; "" for any."""
        return cast(State, self.domains[role].partition(":")[2])

    def target_domain(self) -> str:
        """Name of the domain that the downstream model works in."""
        return self.domain(self.target)

    def source(self) -> str:
        """The role that the target's images are made from: the first, by its name, of another domain. InputError where
        there is none."""
        others = [role for role in sorted(self.domains) if self.domain(role) != self.target_domain()]
        if not others:
            raise InputError(f"no source domain beside {self.target_domain()}", expected="a role of another domain",
                             remedy="choose a method that translates between domains, or arm=real")  # fmt: skip
        return others[0]

    def validate(self) -> Experiment:
        """Check what types cannot. Returns self; raises InputError naming the parameter, its value and the remedy."""
        check(self.target in self.domains, "target", self.target, f"one of {', '.join(self.domains)}")
        check(0 <= self.labels.fraction <= 1, "labels.fraction", self.labels.fraction, "a number in [0, 1]")
        check(self.mixing.ratio >= 0, "mixing.ratio", self.mixing.ratio, "a number >= 0")
        beside, amount = self.mixing.composition == "paper", self.mixing.ratio * self.budget.batch
        check(not beside or self.mixing.order == "mixed", "mixing.composition", "paper", "mixing.order = mixed with it")
        check(not beside or self.arm != "offline" or amount.is_integer(), "mixing.ratio", self.mixing.ratio,
              f"whole numbers beside {self.budget.batch} real images (mixing.composition = paper)")  # fmt: skip
        check(not beside or self.mixing.share == "ratio", "mixing.share", self.mixing.share,
              "ratio with mixing.composition = paper")  # fmt: skip
        check(0 <= self.mixing.pretrain <= 1, "mixing.pretrain", self.mixing.pretrain, "a number in [0, 1]")
        for name in ("distinct", "source_patients"):
            count = getattr(self.mixing, name)
            check(count >= 0, f"mixing.{name}", count, "a whole number, 0 for all")
        self._check_real()
        sources = [role for role in self.domains if self.domain(role) != self.target_domain()]
        count = self.mixing.source_patients
        check(bool(sources) or not count, "mixing.source_patients", count, "0 where every role is of the target domain")
        check(self.drawing.per_label >= 0, "drawing.per_label", self.drawing.per_label, "a number >= 0")
        check(self.drawing.at_least >= 1, "drawing.at_least", self.drawing.at_least, "a whole number >= 1")
        for name, threshold in vars(self.filter).items():
            check(0 <= threshold <= 1, f"filter.{name}", threshold, "a number in [0, 1]")
        check(self.sampling.ndim in (2, 3), "sampling.ndim", self.sampling.ndim, "2 or 3")
        sides = len(self.sampling.size)
        fits = sides == self.sampling.ndim and min(self.sampling.size) >= 1
        check(fits, "sampling.size", self.sampling.size, f"{self.sampling.ndim} sides of at least one voxel")
        middle = self.sampling.middle_slices
        check(middle >= 0 and (not middle or self.sampling.ndim == 2), "sampling.middle_slices", middle,
              "0, or in 2D a whole number above it")  # fmt: skip
        check(0 <= self.sampling.foreground <= 1, "sampling.foreground", self.sampling.foreground, "in [0, 1]")
        for name in ("segmentor_steps", "generator_steps", "batch", "validations"):
            check(getattr(self.budget, name) >= 1, f"budget.{name}", getattr(self.budget, name), "a whole number >= 1")
        check(0 <= self.training.ema < 1, "training.ema", self.training.ema, "a number in [0, 1)")
        for name in ("patience", "patience_epochs", "clip_norm"):
            check(getattr(self.training, name) >= 0, f"training.{name}", getattr(self.training, name), "0 or more")
        check(0 <= self.downstream.average < 1, "downstream.average", self.downstream.average, "a number in [0, 1)")
        rate = self.downstream.learning_rate
        check(rate > 0, "downstream.learning_rate", rate, "a number > 0")
        check(0 <= self.seed < 2**32, "seed", self.seed, "a whole number in [0, 2^32)")
        for role in self.domains:
            state = self.state(role)
            check(state in ("", *STATES), f"domains.{role}", self.domains[role],
                  f"DOMAIN:STATE; {nearest(state, STATES)}")  # fmt: skip
        method = self.method_class()
        missing = [role for role in method.roles if role not in self.domains]
        check(
            not missing, "domains", dict(self.domains), f"a domain for each role of {self.method.name}: {method.roles}"
        )
        if self.arm == "joint" and not method.trains_segmentors:
            raise InputError(f"arm=joint with method {self.method.name}", expected="a method that trains segmentors",
                             remedy="use arm=offline")  # fmt: skip
        if self.arm == "joint":
            check(not self.transfer.generator, "transfer.generator", self.transfer.generator,
                  "none: a joint model is trained on its own cohort")  # fmt: skip
        for name in self.transfer.settings:
            check(name not in method.synthesis_settings, f"transfer.settings.{name}", self.transfer.settings[name],
                  f"a setting that training depends on; what is made with it afterwards has method.{name}")  # fmt: skip
        build(method.Config, self.transfer.settings, "transfer.settings.")
        if self.arm == "source":
            self.source()
        if self.labels.fraction == 0:
            self._check_unlabelled()
        self._check_task()
        self.method_config()
        resolve("networks", self.downstream.network.name)
        return self

    def _check_real(self) -> None:
        """Refuse shares of real images, and of augmented ones, that nothing can be done with."""
        mixing, downstream = self.mixing, self.downstream
        check(0 < mixing.real <= 1, "mixing.real", mixing.real, "a share above 0, at most 1")
        alone = mixing.order == "synthetic_alone"
        check(not alone or self.arm != "offline" or mixing.ratio > 0, "mixing.ratio", mixing.ratio,
              "above 0 with mixing.order = synthetic_alone")  # fmt: skip
        usual = self.arm in ("real", "offline") and self.labels.fraction > 0 and self.downstream.asked().segments
        check(usual or mixing.real == 1, "mixing.real", mixing.real,
              "1 but in the real and offline arms of segmentors, with labels of the target")  # fmt: skip
        check(not alone or self.arm != "offline" or self.downstream.asked().segments, "mixing.order", mixing.order,
              "another with a task of classes: one that nothing is made of would have no image")  # fmt: skip
        check(0 < downstream.augmented <= 1, "downstream.augmented", downstream.augmented, "a share above 0, at most 1")
        check(downstream.augmented == 1 or downstream.augmentation != "none", "downstream.augmented",
              downstream.augmented, "1 with downstream.augmentation = none")  # fmt: skip

    def _check_unlabelled(self) -> None:
        """Refuse what cannot be done where no training image of the target domain has a label to be seen."""
        where, method = "with labels.fraction = 0", self.method_class()
        check(self.arm not in NEED_LABELS, "arm", self.arm, f"source, offline or joint {where}: there is nothing real "
              "to learn from")  # fmt: skip
        self.source()
        needs = method.on_patches or method.draws_from_noise or method.label_donors
        check(not (needs and self.arm in SYNTHETIC_ARMS), "method", self.method.name,
              f"one that translates labelled images of another domain {where}")  # fmt: skip
        check(self.mixing.ratio > 0 or self.arm == "source", "mixing.ratio", self.mixing.ratio, f"above 0 {where}")
        for name, threshold in vars(self.filter).items():
            check(not threshold or bool(self.transfer.judge) or self.arm != "offline", f"filter.{name}", threshold,
                  f"0 {where}, or transfer.judge: no model of real images is there to judge")  # fmt: skip

    def _check_task(self) -> None:
        """Refuse what the downstream task has no use for, thresholds on what it does not judge by among it."""
        task = self.downstream.asked()
        for name, threshold in vars(self.filter).items():
            unused = name.startswith("min_") and name != f"min_{task.judged_by}"
            check(not (unused and threshold), f"filter.{name}", threshold,
                  f"0 with downstream.task = {self.downstream.task}")  # fmt: skip
        task.check(self)

    def method_class(self) -> type[Method]:
        """The method's class, as its settings have it."""
        return self._named_class().configured(self.method_config())

    def method_config(self) -> Any:
        """The method's frozen Config with this experiment's settings over the paper's defaults."""
        return build(self._named_class().Config, self.method.config, "method.")

    def _named_class(self) -> type[Method]:
        return cast("type[Method]", resolve("methods", self.method.name))


def _of_before(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """An experiment from when ``classical`` was an arm: the real arm with ``light`` up to strength 1, ``strong`` above;
    all others were trained without. The ratio was the weight that the papers mean in the joint arm."""
    mixing = values.get("mixing")
    if not isinstance(mixing, Mapping) or "pretrain" not in mixing or "composition" in mixing:
        return values
    now = {name: value for name, value in values.items() if name != "augmentation"}
    now["mixing"] = {**mixing, "composition": "paper" if now.get("arm") == "joint" else "equal"}
    if now.get("arm") != "classical":
        return now
    strength = "light" if float(values.get("augmentation", 1)) <= 1 else "strong"
    return {**now, "arm": "real", "downstream": {**now.get("downstream", {}), "augmentation": strength}}


# --- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One row of evidence: a metric of one subject. Never only a mean.

    metric: ``dice``, ``hd95`` (mm) or what else the task scores.  label: name of the structure.  value: NaN where the
    subject lacks the structure.
    missed: the structure is there and the model found none of it (its hd95 is then the image diagonal).
    """

    subject: str
    patient: str
    metric: str
    label: str
    value: float
    missed: bool = False


@dataclass(frozen=True)
class TrialResult:
    """What one trial left behind. ``status``: finished, pruned, failed or running; ``error`` is one line.
    ``diverged``: whether it failed because its training did, which is a finding and no accident; ``refused``: because
    its synthetic set was, by those who judge it, which is one likewise, and none against synthetic data.

    stages: stage kind -> key.  scores: rows on the validation split, of the downstream model and of what is measured on
    synthetic images (``synthesis/identity`` …).  summary: metric name -> number, as logged.
    """

    trial: str
    experiment: Experiment
    status: Literal["finished", "pruned", "failed", "running"] = "running"
    error: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    summary: Mapping[str, float] = field(default_factory=dict)
    device_seconds: float = 0.0
    run_id: str = ""
    diverged: bool = False
    refused: bool = False

    @property
    def came_to(self) -> str:
        """``status``, or that it was done right and there is no result."""
        return NO_RESULT if self.refused else self.status


NO_RESULT = "no result"
"""What a trial came to whose synthetic set was refused."""


def replicates(trials: Iterable[TrialResult]) -> dict[int, TrialResult]:
    """Seed -> trial, by seed: the same experiment run twice is no second replicate, the first of them counts."""
    found: dict[int, TrialResult] = {}
    for trial in trials:
        found.setdefault(trial.experiment.seed, trial)
    return dict(sorted(found.items()))
