"""Search space of the toy method: what a laboratory would ablate of it."""

from __future__ import annotations

from ganatomy.experiment import Choice, Experiment
from ganatomy.search_space import SearchSpace, Suggest

BASE = Experiment(cohort="", domains={"A": "", "B": ""}, arm="offline", method=Choice("toy_moments"))


def sample(trial: Suggest) -> None:
    """Arm, and with synthetic data the weight and how much of it."""
    if trial.suggest_categorical("arm", ["real", "offline"]) == "offline":
        trial.suggest_float("method.spread_weight", 0.1, 10.0, log=True)
        trial.suggest_float("mixing.ratio", 0.25, 4.0, log=True)


SPACE = SearchSpace(
    name="toy_moments",
    description="real data alone against translations by mean and spread",
    base=BASE,
    sample=sample,
    points=({"arm": "real"}, {"arm": "offline"}),
)
