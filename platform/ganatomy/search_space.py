"""Search space: a base Experiment and a define-by-run function over it that Optuna samples.

A parameter is any dotted name of the Experiment (``method.shape_weight``, ``mixing.ratio``, ``arm``). A space may also
list ``points``: an ablation, each of them run once a seed before anything is sampled.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import from_text, plain
from ganatomy.core.plugins import Group, allow, resolve
from ganatomy.experiment import NEED_LABELS, Experiment
from ganatomy.papers import PaperClaim as PaperClaim
from ganatomy.papers import PaperData as PaperData
from ganatomy.papers import PaperFigure as PaperFigure
from ganatomy.papers import PaperTable as PaperTable
from ganatomy.papers import Values as Values


class Suggest(Protocol):
    """The part of ``optuna.Trial`` that a space may use."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high]."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of ``choices``."""
        ...


def never(values: Values) -> bool:
    """No trial of a space asks for two workers unless the space says so."""
    return False


@dataclass(frozen=True)
class SearchSpace:
    """What a sweep varies.

    base: the Experiment that everything not sampled comes from; its cohort and domains are filled in by the sweep.
    sample: suggests values by dotted name; what it suggests may depend on what it suggested before.
    points: listed values to run first, each with every seed; a sweep without a number of trials runs these alone.
    seeds: of the replicates.  two_workers: says of a trial's values whether the trial is to run on two workers although
    the sweep asks for one (a demonstration that both give the same).
    full: what ``base`` is at the paper's size; None where there is but one size.  full_points: the points at that size,
    where those of ``points`` say something of the small one (the width of a network); full_sample: likewise of
    ``sample``; by default the same.
    published: what the papers say of these points; a report shows it beside what the sweep found.  full_published:
    likewise of ``full_points``, where these are others.
    """

    name: str
    description: str
    base: Experiment
    sample: Callable[[Suggest], None]
    points: tuple[Values, ...] = ()
    seeds: tuple[int, ...] = (0,)
    two_workers: Callable[[Values], bool] = never
    full: Experiment | None = None
    full_points: tuple[Values, ...] = ()
    full_sample: Callable[[Suggest], None] | None = None
    published: tuple[PaperTable, ...] = ()
    full_published: tuple[PaperTable, ...] = ()

    def named(self) -> set[str]:
        """Methods, networks and tasks that its code tells trials to use: in its bases, its points, and what it lets the
        sampler choose from on the way to them."""
        said: list[Values] = [base.flat() for base in (self.base, self.full) if base is not None]
        for points, sample in ((self.points, self.sample), (self.full_points, self.full_sample or self.sample)):
            for point in points or ({},):
                sample(offered := Offered(point))
                said += [point, *({name: one} for name, some in offered.choices.items() for one in some)]
        return {name for values in said for _, name in named_in(values)}

    def at_full_size(self) -> SearchSpace:
        """The same study at the paper's size. InputError where the space has none."""
        if self.full is None:
            raise InputError(f"space {self.name} has no full size", expected="a space that has one beside its own",
                             remedy="leave --full out")  # fmt: skip
        return replace(
            self, base=self.full, points=self.full_points or self.points, sample=self.full_sample or self.sample,
            published=self.full_published or self.published,
            full=None, full_points=(), full_sample=None, full_published=(),
        )  # fmt: skip

    def listed(self, fixed: Values, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """The ablation as explicit points that agree with ``fixed``, once each, a point's replicates side by side: what
        runs at the same time then shares no stage and waits for nobody.

        A value that none of the points has takes the place of theirs. Not so with an arm: what else a point says means
        something in its own arm only. Without labels of the target, ``source`` stands for arms that need them.
        What a point leaves out stays as in the base, and is said: else Optuna would choose it, anew for each replicate.
        """
        chosen: list[dict[str, Any]] = []
        narrowing = [
            (name, value)
            for name, value in fixed.items()
            if name == "arm" or any(name in point and _agree(point[name], value) for point in self.points)
        ]
        points = [{name: _open(name, value, fixed) for name, value in point.items()} for point in self.points]
        agreeing = [point for point in points if all(_agree(point.get(n, v), v) for n, v in narrowing)]
        whole = [self._whole(point, fixed) for point in agreeing]
        for point in whole:
            for seed in seeds:
                free = {name: value for name, value in {**point, "seed": seed}.items() if name not in fixed}
                if free not in chosen:
                    chosen.append(free)
        return chosen

    def _whole(self, point: Values, fixed: Values) -> dict[str, Any]:
        """``point`` and, as in the base, all else that the space would suggest with it."""
        experiment = self.base.with_values({**point, **fixed})
        settings = {f"method.{name}": value for name, value in plain(experiment.method_config()).items()}
        stated = Stated(self.name, {**settings, **experiment.flat(), **point})
        self.sample(Fixing(stated, fixed))
        return {**stated.asked, **point}

    def described(self) -> str:
        """The study in lines: its listed points, what is sampled besides, and all that can be fixed with its value."""
        base = self.base
        settings = {f"method.{name}": value for name, value in plain(base.method_config()).items()}
        values = {**base.flat(), **settings}
        fixable = [f"{n}={v}" for n, v in sorted(values.items()) if n != "cohort" and not n.startswith("domains.")]
        roles = ", ".join(role + (f" ({state[1:]})" if state else "") for role, state in base.domains.items())
        points = [" ".join(f"{name}={value}" for name, value in point.items()) for point in self.points]
        parts = {
            self.name: [self.description],
            "roles": [f"{roles}; the downstream model works in the domain of {base.target}"],
            f"points, each with seeds {', '.join(map(str, self.seeds))}": points or ["none: give --trials"],
            "sampled with --trials": [f"{name}: {offer}" for name, offer in self._offers().items()],
            "fixed with --set NAME=VALUE": textwrap.wrap(", ".join(fixable), 116, break_on_hyphens=False),
        }
        if self.full is not None:
            size = " x ".join(map(str, self.full.sampling.size))
            parts["--full"] = [f"the paper's networks and schedules on {size}"]
        return "\n\n".join("\n".join([f"{head}:", *(f"  {line}" for line in some)]) for head, some in parts.items())

    def _offers(self) -> dict[str, str]:
        """Name -> what the sampler chooses from, on the way to every listed point and one choice away from it."""
        heard = Offered({})
        for point in self.points or ({},):
            start = Offered(point)
            self.sample(start)
            for other in ({}, *({name: choice} for name, choices in start.choices.items() for choice in choices)):
                heard.values = {**point, **other}
                self.sample(heard)
        return heard.offers

    def varied(self, fixed: Values) -> list[str]:
        """Names that its points or its samples give values, and that are not ``fixed``; in order of the alphabet."""
        named = {*self._offers(), *(name for point in self.points for name in point)}
        return sorted(named - set(fixed))

    def on_two(self, values: Values, fixed: Values) -> bool:
        """``two_workers`` of a trial, whose ``fixed`` values are text as they were typed."""
        return self.two_workers({**values, **{name: _read(value) for name, value in fixed.items()}})

    def sampler(self, fixed: Values, seeds: Sequence[int]) -> Sampler:
        """The define-by-run function that Optuna calls for each trial."""
        unjudged = dict.fromkeys(("filter.min_dice", "filter.min_probability"), 0.0) if _unlabelled(fixed) else {}
        return Sampler(self.sample, {**unjudged, **fixed}, tuple(seeds))

    def experiment(self, values: Values, fixed: Values) -> Experiment:
        """The trial's Experiment: base, then what is fixed, then what was sampled. InputError as in ``with_values``."""
        return self.base.with_values({**fixed, **values})

    def check_fixed(self, fixed: Values) -> None:
        """Refuse ``--set`` of a parameter that neither the base nor any listed arm of the space knows."""
        for point in self.points or ({},):
            try:
                self.base.with_values({**point, **fixed})
                return
            except InputError as error:
                last = error
        raise last


SIDE = "side"
"""Parameter of a space of given experiments: which of them a trial is."""


@dataclass(frozen=True)
class GivenSpace(SearchSpace):
    """A space of nothing but the experiments ``these``, by name, each with every seed."""

    these: Mapping[str, Experiment] = field(default_factory=dict)

    def listed(self, fixed: Values, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """All there is."""
        return [{SIDE: name, "seed": seed} for name in self.these for seed in seeds]

    def experiment(self, values: Values, fixed: Values) -> Experiment:
        """The one that is named."""
        return replace(self.these[values[SIDE]], seed=int(values["seed"]))


def space_of(these: Mapping[str, Experiment], name: str) -> SearchSpace:
    """A ``GivenSpace`` called ``name``."""
    offered = OnlyThese(tuple(these))
    return GivenSpace(name, "nothing but what is given", next(iter(these.values())), offered, these=these)


@dataclass(frozen=True)
class OnlyThese:
    """Offers names of experiments. A value, as ``Sampler`` is."""

    names: tuple[str, ...]

    def __call__(self, suggest: Suggest) -> None:
        """Suggest which."""
        suggest.suggest_categorical(SIDE, list(self.names))


@dataclass(frozen=True)
class Sampler:
    """Suggests the seed, then everything that a space samples and that was not fixed. Ray captures what was suggested.

    A value, not a closure: Ray pickles it with the searcher's state, for a resumed sweep.
    """

    sample: Callable[[Suggest], None]
    fixed: Values
    seeds: tuple[int, ...]

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Returns constants besides what was suggested: none."""
        free = Fixing(trial, self.fixed)
        free.suggest_categorical("seed", list(self.seeds))
        self.sample(free)
        return {}


@dataclass(frozen=True)
class Fixing:
    """An Optuna trial in which some parameters have been decided on the command line."""

    trial: Any
    fixed: Values

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """As ``optuna.Trial``, unless fixed."""
        if name not in self.fixed:
            return float(self.trial.suggest_float(name, low, high, log=log))
        return float(_read(self.fixed[name]))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """As ``optuna.Trial``, unless fixed."""
        return int(_read(self.fixed[name]) if name in self.fixed else self.trial.suggest_int(name, low, high))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As ``optuna.Trial``, unless fixed."""
        if name not in self.fixed:
            if name == "arm":
                choices = [*dict.fromkeys(_open(name, choice, self.fixed) for choice in choices)]
            return self.trial.suggest_categorical(name, choices)
        value = self.fixed[name]
        return next((choice for choice in choices if _agree(choice, value)), _read(value))


class Stated:
    """An Optuna trial whose values are known beforehand; ``asked`` are those that were asked for."""

    def __init__(self, space: str, values: Values) -> None:
        self.space, self.values = space, values
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The stated value, or the only choice. InputError where nothing is stated and there are several."""
        if name not in self.values and len(choices) != 1:
            raise InputError(f"space {self.space}: a listed point leaves {name} open", expected=f"{name} in its base")
        self.asked[name] = self.values[name] if name in self.values else choices[0]
        return self.asked[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> Any:
        """The stated value."""
        return self.suggest_categorical(name, ())

    def suggest_int(self, name: str, low: int, high: int) -> Any:
        """The stated value."""
        return self.suggest_categorical(name, ())


class Offered:
    """An Optuna trial that takes ``values`` where they say something, else the first it is offered; it remembers what
    it was ``offers``-ed, in words, and all ``choices``."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self.offers: dict[str, str] = {}
        self.choices: dict[str, Sequence[Any]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        self.offers[name], self.choices[name] = ", ".join(str(plain(choice)) for choice in choices), choices
        return self.values.get(name, choices[0])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The lower end."""
        self.offers[name] = f"{low:g} to {high:g}" + (", logarithmic" if log else "")
        return float(self.values.get(name, low))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The lower end."""
        return int(self.suggest_float(name, low, high))


THINGS: Mapping[str, Group] = {"method": "methods", "downstream.network": "networks", "downstream.task": "tasks"}
"""Parameters whose values are names of things to import, and what kind of things."""


def named_in(values: Values) -> set[tuple[Group, str]]:
    """The methods, networks and tasks that values by dotted name speak of, each with its kind."""
    return {(kind, values[parameter]) for parameter, kind in THINGS.items() if isinstance(values.get(parameter), str)}


def load_space(name: str) -> SearchSpace:
    """The search space called ``name``, by entry point or by an allowed dotted path; what its code names is allowed.

    Raises InputError for anything else.
    """
    space = resolve("spaces", name)
    if not isinstance(space, SearchSpace):
        raise InputError(f"--space {name} is a {type(space).__name__}", expected="a SearchSpace")
    allow(*space.named())
    return space


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """``["method.shape_weight=0.5", …]`` -> values as text; InputError for anything without a name and a value."""
    fixed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {setting}", expected="NAME=VALUE", remedy="e.g. --set method.shape_weight=0.5")
        fixed[name.strip()] = value.strip()
    return fixed


def _agree(value: Any, given: Any) -> bool:
    """Whether a value given as text on the command line is this one."""
    return plain(value) in (given, _read(given))


def _unlabelled(fixed: Values) -> bool:
    return bool(_read(fixed.get("labels.fraction")) == 0)


def _open(name: str, value: Any, fixed: Values) -> Any:
    """The value, or what stands for an arm that needs labels where there are none."""
    return "source" if name == "arm" and value in NEED_LABELS and _unlabelled(fixed) else value


def _read(given: Any) -> Any:
    return from_text(given) if isinstance(given, str) else given
