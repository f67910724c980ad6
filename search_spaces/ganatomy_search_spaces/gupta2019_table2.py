"""Gupta et al. 2019, Table 2: how sure the classifier of before must be of a synthetic lesion, and the weight λ0.

At phantom size the rows are those that the table prints, and all without selection, at λ0 = 10: those at λ0 = 1, of
which the paper prints nothing, double what it takes. They are points at full size, and sampled at either.
"""

from __future__ import annotations

from dataclasses import replace

from ganatomy.experiment import Budget, Choice, Downstream, Sampling
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.downstream_networks import suggest_classifier
from ganatomy_search_spaces.unit_lesion import BASE as FULL_BASE

THRESHOLDS = (0.0, 0.7, 0.85, 0.9, 0.95)
WEIGHTS = (10.0, 1.0)

BASE = replace(
    FULL_BASE,
    method=Choice(
        "unit_lesion",
        {
            "width": 0.25,
            "residual_blocks": 1,
            "discriminator_layers": 4,
            "patch_side": 32,
            "normals": 5,
            "learning_rate": 2e-4,
        },
    ),
    downstream=Downstream(
        Choice("drn_d_22", {"width": 0.25}), learning_rate=1e-3, task="classification", augmentation="light"
    ),
    sampling=Sampling(ndim=2, size=(64, 64), foreground=0.0),
    budget=Budget(segmentor_steps=150, generator_steps=600, batch=4, validations=3),
)

FULL = FULL_BASE.with_values({"method.source_share": 0.75, "method.candidates": 4643})
"""As Table 1 counts: 536 patches without a lesion train, of as many of the 2295 films at most; 4643 are translated."""

REAL: Values = {"arm": "real"}


def _kept(threshold: float, weight: float = 10.0) -> Values:
    return {"arm": "offline", "filter.min_probability": threshold, "method.adversarial_weight": weight}


def sample(trial: Suggest) -> None:
    """Classifier; threshold and weight, with all that is kept or at equal counts."""
    suggest_classifier(trial)
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_categorical("filter.min_probability", list(THRESHOLDS))
    trial.suggest_categorical("method.adversarial_weight", list(WEIGHTS))
    trial.suggest_categorical("filter.as_many_as", [0.0, THRESHOLDS[-1]])


PUBLISHED = PaperTable(
    where="Gupta et al. 2019, Table 2, humerus",
    figures=(
        PaperFigure("baseline", REAL, 0.876, "(0.817-0.926)", "val/auc"),
        PaperFigure("t = 0.70", _kept(0.7), 0.882, "(0.829-0.928)", "val/auc"),
        PaperFigure("t = 0.85", _kept(0.85), 0.899, "(0.854-0.939)", "val/auc"),
        PaperFigure("t = 0.90", _kept(0.9), 0.924, "(0.889-0.955)", "val/auc"),
        PaperFigure("t = 0.95", _kept(0.95), 0.877, "(0.820-0.926)", "val/auc"),
    ),
    claims=(
        PaperClaim("synthetic lesions kept at t = 0.9 help", _kept(0.9), REAL, "val/auc"),
        PaperClaim("t = 0.9 is better than t = 0.7", _kept(0.9), _kept(0.7), "val/auc"),
        PaperClaim("t = 0.9 is better than t = 0.95", _kept(0.9), _kept(0.95), "val/auc"),
        PaperClaim("selection helps: t = 0.9 against all", _kept(0.9), _kept(0.0), "val/auc"),
    ),
    caveats=(
        "One count of synthetic images is printed for four thresholds; whether counts were equal is not said. Here a "
        "higher threshold keeps fewer; filter.as_many_as makes counts equal.",
        "With 50 lesions the interval of an area is about ±0.05: differences of 0.02 to 0.05 on one split are noise, "
        "and in small studies the best threshold moved from seed to seed.",
        "The paper prints areas of its test set; ours are of validation patients.",
        "That all synthetic lesions without selection do not help is said in the text, without a figure; so is that a "
        "weight of 1 changes texture and puts no lesion in.",
    ),
    of=PaperData("humerus", {"H": "radiograph", "L": "radiograph"}, FULL_BASE.sampling.size),
)

SPACE = SearchSpace(
    name="gupta2019_table2",
    description="pseudo-label threshold x adversarial weight (Gupta et al. 2019, Table 2), at phantom size",
    base=BASE,
    sample=sample,
    points=(REAL, *map(_kept, THRESHOLDS)),
    seeds=(0, 1, 2, 3, 4),
    full=FULL,
    full_points=(REAL, *(_kept(threshold, weight) for weight in WEIGHTS for threshold in THRESHOLDS)),
    published=(PUBLISHED,),
)
