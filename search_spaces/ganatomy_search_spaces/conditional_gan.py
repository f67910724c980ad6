"""Search space of the conditional GAN at the paper's size: the weaker baseline of pseudo-healthy synthesis."""

from __future__ import annotations

from dataclasses import replace

from ganatomy.experiment import Choice
from ganatomy.search_space import SearchSpace, Suggest
from ganatomy_search_spaces.downstream_networks import suggest_segmentor
from ganatomy_search_spaces.pseudo_healthy import BASE as PSEUDO_HEALTHY_BASE

BASE = replace(PSEUDO_HEALTHY_BASE, method=Choice("conditional_gan"))


def sample(trial: Suggest) -> None:
    """Segmentor, rate, and how the healthy images are used; real data only among the arms."""
    suggest_segmentor(trial, norm="instance")
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_float("method.learning_rate", 1e-5, 5e-4, log=True)
    trial.suggest_float("mixing.ratio", 0.25, 4.0, log=True)
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])


SPACE = SearchSpace(
    name="conditional_gan",
    description="rate x use of healthy images by an adversarial loss alone",
    base=BASE,
    sample=sample,
    points=({"arm": "real"}, {"arm": "real", "downstream.augmentation": "strong"}, {"arm": "offline"}),
    seeds=(0, 1, 2),
)
