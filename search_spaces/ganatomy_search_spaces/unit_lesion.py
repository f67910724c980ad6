"""UNIT for lesions at the paper's size: 1024 x 512 radiographs, patches of 128, a dilated residual classifier."""

from __future__ import annotations

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Mixing, Sampling
from ganatomy.search_space import SearchSpace, Suggest
from ganatomy_search_spaces.downstream_networks import suggest_classifier

THRESHOLDS = (0.0, 0.5, 0.7, 0.85, 0.9, 0.95, 0.99)

BASE = Experiment(
    cohort="",
    domains={"H": ":healthy", "L": ":lesion"},
    target="L",
    arm="offline",
    method=Choice("unit_lesion"),
    # A synthetic lesion for every real one in every batch; normals are real, and as many as both together.
    mixing=Mixing(ratio=1.0, pretrain=0.0),
    # The paper augments in every row.
    downstream=Downstream(Choice("drn_d_22"), learning_rate=1e-4, task="classification", augmentation="light"),
    sampling=Sampling(ndim=2, size=(1024, 512), foreground=0.0),
    budget=Budget(segmentor_steps=20_000, generator_steps=100_000, batch=4, validations=10),
)


def sample(trial: Suggest) -> None:
    """Classifier, arm, what is translated, how it is blended in, and how sure the classifier of before must be."""
    suggest_classifier(trial)
    trial.suggest_categorical("downstream.augmentation", ["none", "light", "strong"])
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_categorical("method.adversarial_weight", [1.0, 10.0])
    trial.suggest_categorical("method.window", [1.0, 1.5, 2.0])
    trial.suggest_categorical("method.crops", [1, 2, 4])
    trial.suggest_categorical("method.normals", [7, 10])
    trial.suggest_categorical("method.blend", [1.0, 2.0, 3.0, 5.0])
    trial.suggest_categorical("filter.min_probability", list(THRESHOLDS))
    trial.suggest_categorical("filter.as_many_as", [0.0, THRESHOLDS[-2]])
    trial.suggest_categorical("mixing.ratio", [0.5, 1.0, 2.0, 4.0])


SPACE = SearchSpace(
    name="unit_lesion",
    description="arms x weights, windows, blending and pseudo-label threshold, at the size of Gupta et al. 2019",
    base=BASE,
    sample=sample,
    points=(
        {"arm": "real"},
        {"arm": "real", "downstream.augmentation": "strong"},
        *({"arm": "offline", "filter.min_probability": threshold} for threshold in (0.0, 0.9)),
    ),
    seeds=(0, 1, 2, 3, 4),
)
