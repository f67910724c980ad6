"""Search space of pseudo-healthy synthesis at the paper's size: 208 x 160 slices with and without pathology."""

from __future__ import annotations

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Labels, Mixing, Sampling
from ganatomy.search_space import SearchSpace, Suggest
from ganatomy_search_spaces.downstream_networks import suggest_segmentor

BASE = Experiment(
    cohort="",
    domains={"P": ":lesion", "H": ":healthy"},
    # What a promoted generator makes by default. The downstream segmentor works on slices in either state.
    target="H",
    arm="offline",
    method=Choice("pseudo_healthy"),
    labels=Labels(gan_sees="all"),
    mixing=Mixing(ratio=1.0),
    downstream=Downstream(Choice("residual_unet"), augmentation="light"),
    # The paper's middle slices: beyond them the healthy ones show less brain than those with a lesion, and D sees that.
    sampling=Sampling(ndim=2, size=(208, 160), foreground=0.5, middle_slices=60, central=True),
    # 50 volumes of 60 slices and batches of 4: 80 epochs of G, R and S.
    budget=Budget(segmentor_steps=20_000, generator_steps=60_000, batch=4, validations=20),
)


def sample(trial: Suggest) -> None:
    """Segmentor, supervision, rate, λ1, λ2, Cycle H-H, R's map, how images are used; real data only among the arms."""
    suggest_segmentor(trial, norm="instance")
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    supervision = trial.suggest_categorical("method.supervision", ["paired", "unpaired", "mixed"])
    trial.suggest_float("method.learning_rate", 1e-5, 5e-4, log=True)
    trial.suggest_float("method.cycle_weight", 1.0, 30.0, log=True)
    λ2 = "adversarial_weight" if supervision == "paired" else "unpaired_adversarial_weight"
    trial.suggest_float(f"method.{λ2}", 0.3, 10.0, log=True)
    trial.suggest_categorical("method.healthy_cycle", [True, False])
    trial.suggest_categorical("method.mask_input", [True, False])
    trial.suggest_float("mixing.ratio", 0.25, 4.0, log=True)
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])


SPACE = SearchSpace(
    name="pseudo_healthy",
    description="supervision x rate x weights of pseudo-healthy synthesis, its images added to a lesion segmentor's",
    base=BASE,
    sample=sample,
    points=(
        {"arm": "real"},
        {"arm": "real", "downstream.augmentation": "strong"},
        {"arm": "offline", "method.supervision": "paired"},
        {"arm": "offline", "method.supervision": "unpaired"},
        {"arm": "offline", "method.supervision": "paired", "method.healthy_cycle": False},
    ),
    seeds=(0, 1, 2),
)
