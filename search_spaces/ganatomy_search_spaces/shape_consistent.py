"""Search space of the cycle- and shape-consistent GAN at the paper's size, and its ablation."""

from __future__ import annotations

from functools import partial

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Labels, Mixing, Sampling
from ganatomy.search_space import SearchSpace, Suggest, Values
from ganatomy_search_spaces.downstream_networks import with_segmentor

BASE = Experiment(
    cohort="",
    domains={"A": "", "B": ""},
    arm="joint",
    method=Choice("shape_consistent"),
    labels=Labels(fraction=1.0),
    mixing=Mixing(ratio=1.0),
    downstream=Downstream(augmentation="light"),
    sampling=Sampling(ndim=2, size=(256, 256), foreground=0.5),
    budget=Budget(segmentor_steps=20_000, generator_steps=16_000, batch=4, validations=20),
)


def sample_method(trial: Suggest) -> None:
    """λ and γ on logarithmic scales, γ = 0 (CycleGAN with this generator) among them; the discriminators; the amount of
    synthetic data."""
    arm = trial.suggest_categorical("arm", ["real", "offline", "joint"])
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if arm not in ("offline", "joint"):
        return
    trial.suggest_float("method.cycle_weight", 1.0, 30.0, log=True)
    trial.suggest_categorical("method.shape_weight", [0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
    trial.suggest_categorical("method.use_reconstructed", [True, False])
    trial.suggest_categorical("method.discriminator_layers", [2, 3])
    trial.suggest_categorical("method.final_activation", ["none", "sigmoid"])
    trial.suggest_float("mixing.ratio", 0.25, 8.0, log=True)
    if arm == "offline":
        trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])
        trial.suggest_float("filter.min_dice", 0.0, 0.8)


POINTS: tuple[Values, ...] = (
    {"arm": "real"},
    {"arm": "real", "downstream.augmentation": "strong"},
    *({"arm": "offline", "method.shape_weight": weight, "mixing.ratio": 1.0} for weight in (0.0, 1.0)),
    *({"arm": "joint", "method.shape_weight": weight, "mixing.ratio": 1.0} for weight in (0.0, 1.0)),
)

SPACE = SearchSpace(
    name="shape_consistent",
    description="arms x segmentor x shape weight (paper: 1) x synthetic data",
    base=BASE,
    sample=partial(with_segmentor, sample_method),
    points=POINTS,
    seeds=(0, 1, 2),
)
