"""Table 3 of Cai et al. 2019: hearts, 14 % of the target's labels, a U-Net on real data, with synthetic data made
beforehand, and trained together with the generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ganatomy.experiment import Labels
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.cai2019_table2 import FULL_BASE as HEARTS
from ganatomy_search_spaces.downstream_networks import with_segmentor
from ganatomy_search_spaces.phantom_demo import BASE as DEMO_BASE

ARMS: dict[str, Values] = {
    "R": {"arm": "real"},
    "ADA": {"arm": "offline", "method.shape_weight": 0.0},
    "Ours": {"arm": "joint", "method.shape_weight": 1.0},
}
"""Real data; and synthetic data made beforehand, of generators without shape consistency; trained together."""
DOMAINS = {"A": "CT", "B": "MRI"}
FRACTION = 0.14

BASE = replace(DEMO_BASE, labels=replace(DEMO_BASE.labels, fraction=FRACTION))
"""3 of 24 patients with labels; the images of the others teach the generators."""

SHORT = replace(BASE, budget=replace(BASE.budget, segmentor_steps=250, generator_steps=300))
"""Where there are more rows, so that five trainings of each fit into half an hour or so of one core."""

FULL_BASE = replace(HEARTS, labels=Labels(fraction=FRACTION))
"""Hearts as in Table 2, at the paper's size."""


def sample(trial: Suggest) -> None:
    """Arm, shape weight, what generators see."""
    if trial.suggest_categorical("arm", ["real", "offline", "joint"]) != "real":
        trial.suggest_categorical("method.shape_weight", [0.0, 1.0])
        trial.suggest_categorical("labels.gan_sees", ["subset", "all"])


def arm_claims(
    said: str, target: str, printed: Mapping[str, float], further: Values | None = None
) -> tuple[PaperClaim, ...]:
    """Of Ours and R, ADA and R, Ours and ADA, what is greater as ``printed``, of points with the ``further`` values."""
    point = {arm: {"target": target, **values, **(further or {})} for arm, values in ARMS.items()}
    ordered = [sorted(pair, key=lambda arm: -printed[arm]) for pair in (("Ours", "R"), ("ADA", "R"), ("Ours", "ADA"))]
    return tuple(PaperClaim(f"{said}: {high} above {low}", point[high], point[low]) for high, low in ordered)


def _table(role: str, values: tuple[float, float, float], *caveats: str) -> PaperTable:
    printed = dict(zip(ARMS, values, strict=True))
    return PaperTable(
        f"Cai et al. 2019, Table 3, {DOMAINS[role]} column: heart, 14 % of the real images, U-Net",
        tuple(PaperFigure(f"U-Net, {arm}", {"target": role, **ARMS[arm]}, value) for arm, value in printed.items()),
        arm_claims("U-Net", role, printed),
        caveats,
        PaperData("heart", DOMAINS, FULL_BASE.sampling.size, FRACTION, role),
    )


MRI = _table(
    "B",
    (0.703, 0.710, 0.732),
    "The paper's figures are means over test patients of one split and one training; ours are of validation patients.",
)
CT = _table("A", (0.678, 0.660, 0.744), "Images made beforehand did harm in this column: ADA is below R.")

SPACE = SearchSpace(
    name="cai2019_table3",
    description="real, offline and joint arms on hearts, 14 % of the target's labels (--target ct for CT)",
    base=BASE,
    sample=partial(with_segmentor, sample, width=8, norm="instance"),
    points=tuple(ARMS.values()),
    seeds=(0, 1, 2, 3, 4),
    full=FULL_BASE,
    full_sample=partial(with_segmentor, sample),
    published=(MRI, CT),
)
