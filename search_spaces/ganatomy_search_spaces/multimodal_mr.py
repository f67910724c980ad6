"""Search space of registered multi-modal MR from noise at the paper's size: 184 x 144, four contrasts."""

from __future__ import annotations

from ganatomy.experiment import Budget, Choice, Downstream, Drawing, Experiment, Filter, Mixing, Sampling
from ganatomy.search_space import SearchSpace, Suggest
from ganatomy_search_spaces.downstream_networks import suggest_segmentor

DENSITY = 0.25
"""Edges for each pixel of brain at 184 x 144."""

BASE = Experiment(
    cohort="",
    domains={"T1": "", "T2": "", "T1c": "", "FLAIR": ""},
    target="FLAIR",
    arm="offline",
    method=Choice("multimodal_mr", {"edge_density": DENSITY}),
    # Every segmentor update, in whatever order, counts towards the same total: no leading part of real images.
    mixing=Mixing(ratio=0.5, pretrain=0.0),
    drawing=Drawing(per_label=3.0),
    # Section 2.8: each image, then the set of them.
    filter=Filter(min_dice=0.95, set_mean=0.98),
    downstream=Downstream(Choice("unet", {"norm": "instance"}), learning_rate=1e-4, augmentation="light"),
    sampling=Sampling(ndim=2, size=(184, 144), foreground=0.0),
    # The paper's 100 epochs of 15070 slices are 1.5 million steps: this is what a study of many trials can afford.
    budget=Budget(segmentor_steps=100_000, generator_steps=100_000, batch=1, validations=20),
)

RATIOS = (0.2, 0.5, 0.8, 1.0, 2.0, 3.0)
"""The paper's amounts of synthetic images per real one."""


def sample(trial: Suggest) -> None:
    """Segmentor; how structure is found and filled, who guides lesions, what is kept, and how it is mixed in."""
    suggest_segmentor(trial, norm="instance")
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_float("method.edge_density", 0.1, 0.4, log=True)
    trial.suggest_float("method.margin", 1.0, 9.0)
    trial.suggest_categorical("method.guidance", ["1seg", "1enc4dec", "4seg"])
    trial.suggest_categorical("filter.min_dice", [0.0, 0.3, 0.5, 0.7, 0.9, 0.95])
    trial.suggest_categorical("filter.set_mean", [0.0, 0.5, 0.98])
    trial.suggest_categorical("mixing.ratio", list(RATIOS))
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])


SPACE = SearchSpace(
    name="multimodal_mr",
    description="structure thresholds, lesion guide, filter, order and amount of four contrasts drawn from noise",
    base=BASE,
    sample=sample,
    points=(
        {"arm": "real"},
        {"arm": "real", "downstream.augmentation": "strong"},
        *({"arm": "offline", "method.guidance": guidance} for guidance in ("1seg", "1enc4dec", "4seg")),
    ),
    seeds=(0, 1, 2, 3),
)
