"""What the configurations of a sweep are called, and which of their settings make a difference."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import from_text, plain
from ganatomy.core.plugins import nearest
from ganatomy.evidence.published import agrees
from ganatomy.experiment import SYNTHETIC_ARMS, Experiment
from ganatomy.search_space import SearchSpace, Values

LONG_REAL, STRONG_REAL = "long_real", "strong_real"
CONTROLS = (LONG_REAL, STRONG_REAL)
"""What synthetic data may be held against besides the arms of a space. ``long_real``: a training on real images of as
many updates as generator and downstream model took together, so that it has more downstream work than what it stands
beside.  ``strong_real``: real images under strong augmentation, with the same work."""


REAL_SHARE = "mixing.real"
"""Of the mixing, what concerns real images alone."""

AUGMENTATION = "downstream.augmentation"
"""Often another in one baseline alone: named among those that it sets apart."""


def relevant(experiment: Experiment) -> Experiment:
    """The experiment with everything that cannot matter to its arm at its default, so that equals look equal."""
    blank = Experiment(experiment.cohort, experiment.domains)
    if experiment.labels.fraction in (0, 1):  # all draws are the same
        labels = dataclasses.replace(experiment.labels, drawn=blank.labels.drawn)
        experiment = dataclasses.replace(experiment, labels=labels)
    if experiment.labels.fraction == 0:  # generators see all, and there is nothing real to mix with
        own = experiment.mixing
        amounts = dataclasses.replace(blank.mixing, source_patients=own.source_patients, distinct=own.distinct)
        mixing = own if experiment.arm == "joint" else amounts
        labels = dataclasses.replace(experiment.labels, gan_sees=blank.labels.gan_sees)
        experiment = dataclasses.replace(experiment, mixing=mixing, labels=labels)
    if experiment.arm == "joint":
        own = experiment.mixing
        mixing = dataclasses.replace(
            blank.mixing, ratio=own.ratio, composition=own.composition, source_patients=own.source_patients
        )
        return dataclasses.replace(experiment, mixing=mixing, drawing=blank.drawing, filter=blank.filter)
    if experiment.arm in SYNTHETIC_ARMS:
        return experiment
    taught = experiment.mixing.source_patients if experiment.arm == "source" else 0
    mixing = dataclasses.replace(blank.mixing, source_patients=taught, real=experiment.mixing.real)
    return dataclasses.replace(
        experiment, method=blank.method, mixing=mixing,
        drawing=blank.drawing, filter=blank.filter,
        transfer=blank.transfer,
        sampling=dataclasses.replace(experiment.sampling, middle_slices=0, central=False),
        labels=dataclasses.replace(experiment.labels, gan_sees=blank.labels.gan_sees),
        budget=dataclasses.replace(experiment.budget, generator_steps=blank.budget.generator_steps),
        training=dataclasses.replace(experiment.training, ema=blank.training.ema),
    )  # fmt: skip


def declared_family(
    space: SearchSpace,
    fixed: Mapping[str, str],
    listed: Sequence[Values],
    asked: Sequence[str] = (),
    controls: Sequence[Values] = (),
) -> dict[str, str]:
    """Configuration -> point, of the listed points with synthetic data: the comparisons that a sweep is run for.

    asked: NAME=VALUE, of which a point must have one; none for all. InputError for one that no such point has.
    controls: as ``control_points``: members where ``asked`` names them, and not else.
    """
    able = [(point, made) for point in listed if (made := space.experiment(point, fixed)).arm in SYNTHETIC_ARMS]
    if asked:
        longer = [point for point in controls if "budget.segmentor_steps" in point]  # others may be the baseline
        able += [(point, space.experiment(point, fixed)) for point in longer]
    wanted = [_asked(member, [experiment for _, experiment in able]) for member in asked]
    return {
        relevant(experiment).configuration(): " ".join(f"{key}={plain(v)}" for key, v in point.items() if key != "seed")
        for point, experiment in able
        if not wanted or any(agrees(experiment, values) for values in wanted)
    }


def control_points(
    names: Sequence[str],
    space: SearchSpace,
    fixed: Mapping[str, str],
    seeds: Sequence[int],
    generator_updates: Callable[[Experiment], int],
) -> list[dict[str, Any]]:
    """Points without synthetic data to stand beside those of the space, each with every seed: for each of ``names`` the
    control (``CONTROLS``) of every listed point with synthetic data, or where none is listed of the base.

    generator_updates: how many updates an experiment's generator takes. InputError for a name of no control.
    """
    for name in names:
        if name not in CONTROLS:
            raise InputError(f"--controls {name}", expected=nearest(name, CONTROLS))
    listed = space.listed(fixed, seeds)
    known = {relevant(space.experiment(point, fixed)).configuration() for point in listed}
    made: list[dict[str, Any]] = []
    candidates = [point for point in listed if space.experiment(point, fixed).arm in SYNTHETIC_ARMS] or [{}]
    for name in names:
        for point in candidates:
            values = _control(name, point, space.experiment(point, fixed), generator_updates)
            configuration = relevant(space.experiment(values, fixed)).configuration()
            if configuration not in known:
                made += [values] if "seed" in fixed else [{**values, "seed": seed} for seed in seeds]
            known.add(configuration)
    return made


def _control(
    name: str, point: Values, candidate: Experiment, generator_updates: Callable[[Experiment], int]
) -> dict[str, Any]:
    """The control of that name of a point: as the point is in all that concerns the downstream model alone."""
    shared = {key: plain(value) for key, value in point.items() if not _generators(key) and key not in ("arm", "seed")}
    arm = "real" if candidate.labels.fraction else "source"
    if name == STRONG_REAL:
        return {**shared, "arm": arm, "downstream.augmentation": "strong"}
    updates = candidate.budget.segmentor_steps + generator_updates(candidate)
    return {**shared, "arm": arm, "budget.segmentor_steps": updates}


def _asked(member: str, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """NAME=VALUE as a value by name; InputError where none of the experiments has it."""
    name, equals, text = (part.strip() for part in member.partition("="))
    values = {name: from_text(text)}
    if not equals or not any(agrees(experiment, values) for experiment in experiments):
        known = sorted({str(experiment.flat()[name]) for experiment in experiments if name in experiment.flat()})
        raise InputError(
            f"--compare {member}: no listed point with synthetic data has it",
            expected=" or ".join(f"{name}={value}" for value in known) or "NAME=VALUE of what the points vary",
            remedy="ganatomy sweep --space NAME --help shows the points",
        )
    return values


def names_of(experiments: Sequence[Experiment]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Configuration -> its name and the parameters that vary, among the arms for which they matter."""
    flat: dict[str, dict[str, Any]] = {}
    arms = {}
    for experiment in map(relevant, experiments):
        flat[experiment.configuration()] = experiment.flat()
        arms[experiment.configuration()] = experiment.arm
    everywhere = sorted({name for values in flat.values() for name in values} - {"seed", "arm"})
    synthetic = {key: values for key, values in flat.items() if arms[key] in SYNTHETIC_ARMS}

    def varies(name: str, among: Mapping[str, Mapping[str, Any]]) -> bool:
        return len({json.dumps(values.get(name)) for values in among.values()}) > 1

    blind = {key: values for key, values in flat.items() if key not in synthetic}
    varying: dict[str, tuple[str, ...]] = {}
    for group in (synthetic, blind):
        varying |= dict.fromkeys(group, tuple(name for name in everywhere if varies(name, group)))
    shared = [name for name in everywhere if varies(name, flat) and not _generators(name) and name != AUGMENTATION]
    last = [name.rsplit(".", 1)[-1] for name in {name for names in varying.values() for name in [*names, *shared]}]
    named = {}
    for key, values in flat.items():
        chosen = [name for name in everywhere if name in (*varying[key], *shared) and name in values]
        short = {name: name.rsplit(".", 1)[-1] for name in chosen}
        words = [f"{short[name] if last.count(short[name]) == 1 else name}={_word(values[name])}" for name in chosen]
        lead = [arms[key]] if len(set(arms.values())) > 1 or not words else []
        named[key] = (" · ".join([*lead, *words]), {name: values[name] for name in chosen})
    return named


def besides_synthetic(candidate: Experiment, baseline: Experiment) -> str:
    """What else than the arm and its synthetic images sets two configurations apart, in words; empty for nothing.

    A learning rate that only one of them was tried with, or more labels, may be what a difference comes of.
    """
    own, other = (relevant(experiment).flat() for experiment in (candidate, baseline))
    apart = [name for name in sorted({*own, *other}) if own.get(name) != other.get(name) and not _generators(name)]
    words = [f"{name} {_word(own.get(name))} against {_word(other.get(name))}" for name in apart
             if name not in ("arm", "seed")]  # fmt: skip
    return ", ".join(words)


def _generators(name: str) -> bool:
    return (name.startswith(("method", "mixing", "drawing", "filter", "transfer")) and name != REAL_SHARE) or name in (
        "labels.gan_sees", "budget.generator_steps", "training.ema", "sampling.middle_slices", "sampling.central",
    )  # fmt: skip


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)
