"""Which of the parameters that a sweep varied its scores depend on: Optuna's own measure of importance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ganatomy.core.plain_values import plain
from ganatomy.evidence.configurations import relevant
from ganatomy.evidence.figures import FAINT, INK, canvas, png_of
from ganatomy.exhibits.exhibit import Exhibit, Grid, Picture
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.trainings import reached, spans_decades, trainings_of
from ganatomy.experiment import Experiment

LEAST_TRAININGS, LEAST_PARAMETERS = 10, 2
"""Of fewer trainings, or with less that varied, nothing is said."""

MOST_TRAININGS = 300
"""Of more, so many at most, evenly from the best to the worst configuration: a forest of thousands takes minutes, and
the report is written again after each promotion."""

LUCK = "seed (luck of training)"
"""The seed among the parameters: what they are to be held against."""

Values = dict[str, Any]


def importance(material: Material) -> Exhibit | None:
    """Shares of what the scores of trainings with synthetic data vary by, parameter by parameter."""
    table, scores = material.table, reached(material)
    rows = [row for row in table.rows if row.synthetic]
    names = {name for row in rows for name in row.parameters}
    trained = [pair for row in rows for pair in zip(trainings_of(material, row), scores[row.configuration])]
    chosen = trained[:: math.ceil(len(trained) / MOST_TRAININGS) or 1]
    points, values = [_values(training.experiment, names) for training, _ in chosen], [score for _, score in chosen]
    varied = _varied(points)
    enough = len(values) >= LEAST_TRAININGS and len(set(varied) - {LUCK}) >= LEAST_PARAMETERS
    if not enough or max(values) == min(values):
        return None
    shares = shares_of([{name: point[name] for name in varied} for point in points], values)
    grid = Grid(("parameter", "share of the variance"), tuple((n, f"{100 * s:.0f} %") for n, s in shares.items()))
    caption = "Share of the variance of the score that each parameter alone accounts for, in Optuna's fANOVA"
    return Exhibit(
        "Parameter importance",
        _sentences(len(values), len(trained), shares),
        (grid,),
        (Picture(caption, _draw(shares)),),
    )


def shares_of(points: Sequence[Values], scores: Sequence[float]) -> dict[str, float]:
    """Parameter -> share of the scores' variance that it accounts for alone, greatest first; always the same numbers.

    points: of each training, the same parameters.  Computed by Optuna's functional analysis of variance on a random
    forest (Hutter et al. 2014); what several parameters do together is in no share, so that they sum up to 1 or less.
    """
    import optuna  # seconds to import, and a page with few trainings needs none of it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution([point[name] for point in points]) for name in points[0]}
    study = optuna.create_study(direction="maximize")
    for point, score in zip(points, scores):
        study.add_trial(optuna.trial.create_trial(params=point, distributions=distributions, value=score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = evaluator.evaluate(study)
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _distribution(values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, float) for value in values):
        return FloatDistribution(min(values), max(values), log=spans_decades(values))
    return CategoricalDistribution(sorted(set(values)))


def _values(experiment: Experiment, names: set[str]) -> Values:
    """Of a training, by name: numbers as floats, all else as text; ``arm`` and seed among them."""
    flat = relevant(experiment).flat()
    settings = {f"method.{name}": value for name, value in plain(experiment.method_config()).items()}
    known = {**settings, **flat}
    chosen = {name: known[name] for name in (*names, "arm") if name in known}
    return {**{name: _plain(value) for name, value in chosen.items()}, LUCK: str(experiment.seed)}


def _plain(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)


def _varied(points: Sequence[Values]) -> list[str]:
    """Names that every training has, of one kind, and with more than one value."""
    shared = [name for name in (points[0] if points else {}) if all(name in point for point in points)]
    alike = [name for name in shared if len({type(point[name]) for point in points}) == 1]
    return sorted(name for name in alike if len({point[name] for point in points}) > 1)


def _sentences(count: int, whole: int, shares: Mapping[str, float]) -> tuple[str, ...]:
    some = f"{count} of " if count < whole else ""
    said = (
        f"Of {some}{whole} trainings with synthetic data. A share says how much of what their scores vary by a random "
        "forest puts down to a parameter alone, over the values that were tried: it has no sign and no interval, is no "
        "effect and no recommendation, and knows nothing of what was fixed. Parameters that were varied together share "
        "it as chance has it."
    )
    if LUCK not in shares:
        return (said,)
    return said, "The seed stands among them as a measure: what is no longer than its bar is not told from luck."


def _draw(shares: Mapping[str, float]) -> bytes:
    figure, (axes,) = canvas(8.6, 0.8 + 0.3 * len(shares))
    names, values = list(shares), [100 * share for share in shares.values()]
    axes.barh(range(len(names)), values, height=0.62, color=[FAINT if name == LUCK else INK for name in names])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the variance of the score, %")
    return png_of(figure)
