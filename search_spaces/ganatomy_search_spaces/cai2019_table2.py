"""Table 2 of Cai et al. 2019: what the shape-consistency loss does to the shapes of synthetic images (S-score)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ganatomy.experiment import Budget, Downstream, Labels, Mixing, Sampling
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.downstream_networks import with_segmentor
from ganatomy_search_spaces.phantom_demo import BASE as DEMO_BASE
from ganatomy_search_spaces.shape_consistent import BASE as PAPER_BASE

WITHOUT: Values = {"arm": "joint", "method.shape_weight": 0.0}
WITH: Values = {"arm": "joint", "method.shape_weight": 1.0}
S_SCORE = "synthesis/s_score/"

# Half of 142 volumes a domain, less some for validation: an epoch of 60 steps; S 100 + 100 epochs, G and D 60 + 100.
# The crop of 86 × 112 × 112 voxels, padded to what the networks can halve three times.
FULL_BASE = replace(
    PAPER_BASE,
    mixing=Mixing(ratio=1.0, composition="paper"),
    downstream=Downstream(),
    sampling=Sampling(ndim=3, size=(88, 112, 112), foreground=0.5),
    budget=Budget(segmentor_steps=12_000, generator_steps=9_600, batch=1, validations=20),
)


def _sample_weight(trial: Suggest) -> None:
    """γ, on a logarithmic scale and 0; the real arm for what segmentors reach without."""
    if trial.suggest_categorical("arm", ["real", "joint"]) == "joint":
        trial.suggest_categorical("method.shape_weight", [0.0, 0.1, 0.3, 1.0, 3.0, 10.0])


def _figures(organ: str, **values: tuple[float, float]) -> tuple[PaperFigure, ...]:
    return tuple(
        PaperFigure(f"{organ}, G {said} SC, {modality}", point, value, metric=f"{S_SCORE}{{{role}}}")
        for (role, both), modality in zip(values.items(), ("CT", "MRI"), strict=True)
        for said, point, value in zip(("w/o", "w/"), (WITHOUT, WITH), both, strict=True)
    )


def _table(organ: str, caveats: tuple[str, ...], **values: tuple[float, float]) -> PaperTable:
    claims = tuple(
        PaperClaim(f"shape consistency raises the S-score of {modality}", WITH, WITHOUT, f"{S_SCORE}{{{role}}}")
        for role, modality in (("A", "CT"), ("B", "MRI"))
    )
    data = PaperData(organ, {"A": "CT", "B": "MRI"}, FULL_BASE.sampling.size)
    return PaperTable(f"Cai et al. 2019, Table 2, {organ}", _figures(organ, **values), claims, caveats, data)


HEART = _table(
    "heart",
    (
        "The paper's S-score is of one training; how good its independent segmentors are on real images is not said, "
        "and a weak one flattens every difference.",
        "Where both domains hold their organs alike, an unshaped generator has little reason to distort: on phantoms "
        "the effect needs a gap in pose between the domains.",
    ),
    A=(0.668, 0.692),
    B=(0.675, 0.696),
)  # fmt: skip
PANCREAS = _table("pancreas", (), A=(0.585, 0.623), B=(0.534, 0.594))

SPACE = SearchSpace(
    name="cai2019_table2",
    description="S-score of the generators with and without shape consistency",
    base=replace(DEMO_BASE, labels=Labels()),
    sample=partial(with_segmentor, _sample_weight, width=8, norm="instance"),
    points=({"arm": "real"}, WITHOUT, WITH),
    seeds=(0, 1, 2),
    full=FULL_BASE,
    full_sample=partial(with_segmentor, _sample_weight),
    published=(HEART, PANCREAS),
)
