"""Search space of the CycleGAN baseline at the paper's size: offline synthetic data without shape consistency."""

from __future__ import annotations

from dataclasses import replace

from ganatomy.experiment import Choice
from ganatomy.search_space import SearchSpace, Suggest
from ganatomy_search_spaces.downstream_networks import suggest_segmentor
from ganatomy_search_spaces.shape_consistent import BASE as SHAPE_CONSISTENT_BASE

BASE = replace(SHAPE_CONSISTENT_BASE, arm="offline", method=Choice("cyclegan"))


def sample(trial: Suggest) -> None:
    """Segmentor, generator, λ, identity loss, and how the images are used; real data only among the arms."""
    suggest_segmentor(trial)
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_categorical("method.generator", ["resnet", "unet_t1"])
    trial.suggest_float("method.cycle_weight", 1.0, 30.0, log=True)
    trial.suggest_categorical("method.identity_weight", [0.0, 0.5])
    trial.suggest_float("mixing.ratio", 0.25, 8.0, log=True)
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])
    trial.suggest_float("filter.min_dice", 0.0, 0.8)


SPACE = SearchSpace(
    name="cyclegan",
    description="real and offline arms with CycleGAN's two generators",
    base=BASE,
    sample=sample,
    points=(
        {"arm": "real"},
        {"arm": "real", "downstream.augmentation": "strong"},
        {"arm": "offline", "method.generator": "resnet"},
        {"arm": "offline", "method.generator": "unet_t1"},
    ),
    seeds=(0, 1, 2),
)
