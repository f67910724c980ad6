"""Search space of label-conditional diffusion at a full size, beside a GAN on the same slices: whose images help?"""

from __future__ import annotations

from dataclasses import replace

from ganatomy.experiment import Choice, Drawing, Training
from ganatomy.search_space import SearchSpace, Suggest
from ganatomy_search_spaces.downstream_networks import suggest_segmentor
from ganatomy_search_spaces.pseudo_healthy import BASE as PSEUDO_HEALTHY_BASE

# B, which diffusion draws, is the domain whose slices with and without a lesion are P and H of the conditional GAN.
BASE = replace(
    PSEUDO_HEALTHY_BASE,
    domains={"P": ":lesion", "H": ":healthy", "B": ""},
    target="B",
    method=Choice("diffusion"),
    drawing=Drawing(per_label=1.0),
    training=Training(ema=0.999),
)


def sample(trial: Suggest) -> None:
    """Segmentor, method, its rate, what diffusion predicts and in how many steps, and how the images are used; real
    data only among the arms."""
    suggest_segmentor(trial, norm="instance")
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_float("method.learning_rate", 1e-5, 5e-4, log=True)
    if trial.suggest_categorical("method", ["diffusion", "conditional_gan"]) == "diffusion":
        trial.suggest_categorical("method.predicts", ["epsilon", "v_prediction"])
        trial.suggest_categorical("method.sampling_steps", [20, 50, 100])
    trial.suggest_float("mixing.ratio", 0.25, 4.0, log=True)
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])


SPACE = SearchSpace(
    name="diffusion",
    description="images drawn by label-conditional diffusion against those of a conditional GAN",
    base=BASE,
    sample=sample,
    points=(
        {"arm": "real"},
        {"arm": "real", "downstream.augmentation": "strong"},
        {"arm": "offline", "method": "diffusion"},
        {"arm": "offline", "method": "conditional_gan"},
    ),
    seeds=(0, 1, 2),
)
