"""Figure 9 of Cai et al. 2019: the gap between synthetic and real hearts. To 14 % of the real images are added as many
more again, or 85 % more: real ones (R+R), synthetic ones made beforehand (ADA), synthetic ones made online (Ours)."""

from __future__ import annotations

from functools import partial

from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.cai2019_table3 import ARMS, DOMAINS, FRACTION, SHORT
from ganatomy_search_spaces.cai2019_table3 import FULL_BASE as HEARTS
from ganatomy_search_spaces.downstream_networks import with_segmentor

ADDED = (3, 20)
"""Patients that are added, of 24 of either domain: 14 % and 85 %."""
AT_FULL_SIZE = (8, 51)
"""Likewise of 60."""
SHARES = (0.14, 0.85)
WITH_REAL = (0.26, 0.97)
"""Of the target's labels, once those are added: 6 and 23 of 24; of 60, 16 and 58."""

ALONE: Values = {"arm": "real", "labels.fraction": FRACTION}


def _more_real(fraction: float) -> Values:
    return {"arm": "real", "labels.fraction": fraction}


def _made(arm: str, amount: int) -> Values:
    return {**ARMS[arm], "mixing.source_patients": amount}


def _sample(amounts: tuple[int, ...], trial: Suggest) -> None:
    """How many labels the real arm has; in the others of how many patients images are made."""
    if trial.suggest_categorical("arm", ["real", "offline", "joint"]) == "real":
        trial.suggest_categorical("labels.fraction", [FRACTION, *WITH_REAL])
    else:
        trial.suggest_categorical("method.shape_weight", [0.0, 1.0])
        trial.suggest_categorical("mixing.source_patients", list(amounts))


def _points(amounts: tuple[int, ...]) -> tuple[Values, ...]:
    real = [_more_real(fraction) for fraction in WITH_REAL]
    return (ALONE, *real, *(_made(arm, amount) for amount in amounts for arm in ("ADA", "Ours")))


def _table(amounts: tuple[int, ...]) -> PaperTable:
    claims = []
    for amount, share, fraction in zip(amounts, SHARES, WITH_REAL, strict=True):
        said = f"{100 * share:g} % added"
        claims += [
            PaperClaim(f"{said}: real above ADA (there is a gap)", _more_real(fraction), _made("ADA", amount)),
            PaperClaim(f"{said}: Ours above ADA (it is less)", _made("Ours", amount), _made("ADA", amount)),
            PaperClaim(f"{said}: real above Ours (some is left)", _more_real(fraction), _made("Ours", amount)),
        ]
    return PaperTable(
        "Cai et al. 2019, Figure 9: heart, MRI, 14 % of the real images and what is added to them",
        (PaperFigure("14 % real, nothing added (caption)", ALONE, 0.703),),
        tuple(claims),
        (
            "The paper prints that Ours takes away 61 % of ADA's gap where 14 % are added, 20.9 % where 85 % are. A "
            "share of a difference that may be nothing has no interval here: it is (Ours - ADA) / (real - ADA) of the "
            "rows.",
            'The text has these percentages "given" 14 % and 85 % of real data; the caption varies what is added to '
            "14 %. The caption is followed.",
            "Fewer source patients also teach the generators here, in both arms alike.",
        ),
        PaperData("heart", DOMAINS, HEARTS.sampling.size, None, "B"),
    )


SPACE = SearchSpace(
    name="cai2019_fig9",
    description="more real, offline or online synthetic data beside 14 % of the labels (Cai et al. 2019, Figure 9)",
    base=SHORT,
    sample=partial(with_segmentor, partial(_sample, ADDED), width=8, norm="instance"),
    points=_points(ADDED),
    seeds=(0, 1, 2, 3, 4),
    full=HEARTS,
    full_points=_points(AT_FULL_SIZE),
    full_sample=partial(with_segmentor, partial(_sample, AT_FULL_SIZE)),
    published=(_table(ADDED),),
    full_published=(_table(AT_FULL_SIZE),),
)
