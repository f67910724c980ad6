"""The demo's space: small networks on 64 x 64 slices of the phantom, few labelled targets, minutes on two cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Labels, Mixing, Sampling
from ganatomy.search_space import SearchSpace, Suggest

BASE = Experiment(
    cohort="",
    domains={"A": "", "B": ""},
    arm="joint",
    # RF 34 instead of 70: on 48 pixels the paper's discriminator would judge whole images, not patches.
    method=Choice(
        "shape_consistent",
        {
            "width": 0.125,
            "discriminator_layers": 2,
            "learning_rate": 5e-4,
            "use_reconstructed": False,
        },
    ),
    # Two labelled target patients of 24; the images of the others teach the generators only.
    labels=Labels(fraction=0.084, gan_sees="all"),
    mixing=Mixing(ratio=1.0),
    # Normalisation: without it the paper's U-Net hardly starts to learn within so short a budget.
    downstream=Downstream(Choice("unet", {"width": 8, "norm": "instance"}), learning_rate=1e-3, augmentation="light"),
    sampling=Sampling(ndim=2, size=(48, 48), foreground=0.5),
    budget=Budget(segmentor_steps=700, generator_steps=900, batch=2, validations=4),
)


def sample(trial: Suggest) -> None:
    """Arm, augmentation, shape weight and real/synthetic ratio."""
    arm = trial.suggest_categorical("arm", ["real", "offline", "joint"])
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if arm in ("offline", "joint"):
        trial.suggest_categorical("method.shape_weight", [0.0, 0.5, 1.0, 2.0])
        trial.suggest_categorical("mixing.ratio", [0.5, 1.0, 2.0])


def two_workers(values: Mapping[str, Any]) -> bool:
    """One trial shows that two workers train what one would."""
    return values.get("arm") == "joint" and values.get("method.shape_weight") == 0.0 and values.get("seed") == 0


SPACE = SearchSpace(
    name="phantom_demo",
    description="arm x shape weight x real/synthetic ratio, small enough for a laptop",
    base=BASE,
    sample=sample,
    points=(
        {"arm": "real"},
        {"arm": "joint", "method.shape_weight": 1.0, "mixing.ratio": 1.0},
        {"arm": "offline", "method.shape_weight": 1.0, "mixing.ratio": 1.0},
        {"arm": "offline", "method.shape_weight": 1.0, "mixing.ratio": 2.0},
        {"arm": "joint", "method.shape_weight": 0.0, "mixing.ratio": 1.0},
    ),
    two_workers=two_workers,
)
