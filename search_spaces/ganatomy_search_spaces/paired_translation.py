"""Search space of paired translation at a full size: plain regression, a conditional GAN, and real images alone."""

from __future__ import annotations

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Mixing, Sampling
from ganatomy.search_space import SearchSpace, Suggest
from ganatomy_search_spaces.downstream_networks import suggest_segmentor

BASE = Experiment(
    cohort="",
    domains={"A": "", "B": ""},
    arm="offline",
    method=Choice("paired_translation"),
    mixing=Mixing(ratio=1.0, pretrain=0.0),
    downstream=Downstream(Choice("unet", {"norm": "instance"}), learning_rate=1e-4, augmentation="light"),
    sampling=Sampling(ndim=2, size=(256, 256), foreground=0.0),
    budget=Budget(segmentor_steps=20_000, generator_steps=60_000, batch=4, validations=20),
)


def sample(trial: Suggest) -> None:
    """Segmentor, generator, weight of the adversarial loss, rate, and how the images are used; real data only among the
    arms."""
    suggest_segmentor(trial, norm="instance")
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_categorical("method.generator", ["unet", "resnet"])
    trial.suggest_categorical("method.adversarial_weight", [0.0, 0.003, 0.01, 0.03, 0.1])
    trial.suggest_float("method.learning_rate", 5e-5, 1e-3, log=True)
    trial.suggest_float("mixing.ratio", 0.25, 4.0, log=True)
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])


SPACE = SearchSpace(
    name="paired_translation",
    description="regression against a conditional GAN, where images of two domains are registered",
    base=BASE,
    sample=sample,
    points=(
        {"arm": "real"},
        {"arm": "real", "downstream.augmentation": "strong"},
        {"arm": "offline", "method.adversarial_weight": 0.0},
        {"arm": "offline", "method.adversarial_weight": 0.01},
    ),
    seeds=(0, 1, 2),
)
