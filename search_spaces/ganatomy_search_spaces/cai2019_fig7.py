"""Figure 7 of Cai et al. 2019, on hearts: R, ADA and Ours over the share of real images that have labels (left and
middle), and ADA and Ours over the amount of synthetic ones when all real ones have (right).

What is read off a plot is no figure here; where the text or Table 3 prints a number, it stands.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ganatomy.experiment import Labels
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces import cai2019_table3 as table3
from ganatomy_search_spaces.cai2019_table3 import ARMS, DOMAINS, FULL_BASE, SHORT
from ganatomy_search_spaces.downstream_networks import with_segmentor

FRACTIONS = (0.14, 0.42, 0.85)
"""Of 24 patients 3, 10 and 20. The plot has more of them between; its ends are what its text speaks of."""
AMOUNTS = (4, 14, 60)
"""Source patients, of 60: 14 are the 23 % that the text speaks of."""
AT_FULL_SIZE = (281, 969, 4212)
"""Likewise of the 4212 CT volumes of the paper's second set."""

BASE = replace(SHORT, labels=replace(SHORT.labels, fraction=1.0))
ALL_LABELLED = replace(FULL_BASE, labels=Labels())


def _labelled(arm: str, fraction: float) -> Values:
    return {**ARMS[arm], "labels.fraction": fraction}


def _sample_fraction(trial: Suggest) -> None:
    """As Table 3, and how many labels there are: rows of different shares are compared by nobody but the figure."""
    table3.sample(trial)
    trial.suggest_categorical("labels.fraction", list(FRACTIONS))


def _fraction_claims(fraction: float) -> tuple[PaperClaim, ...]:
    pairs = (("Ours", "ADA"), ("Ours", "R"))
    return tuple(
        PaperClaim(f"{100 * fraction:g} %: {high} above {low}", _labelled(high, fraction), _labelled(low, fraction))
        for high, low in pairs
    )


MIDDLE = PaperTable(
    "Cai et al. 2019, Figure 7, middle: heart, MRI, by the share of real images",
    tuple(
        PaperFigure(f"14 %, {arm} (printed in Table 3)", _labelled(arm, 0.14), value)
        for arm, value in (("R", 0.703), ("ADA", 0.710), ("Ours", 0.732))
    ),
    tuple(claim for fraction in FRACTIONS for claim in _fraction_claims(fraction)),
    (
        "Claimed in the text: Ours is above ADA at every share, and gains less the more real images there are. The "
        "second is a difference of differences, which is not tested here: it is read from the rows.",
        "Other values are in a plot, from which nothing was read off.",
    ),
    PaperData("heart", DOMAINS, FULL_BASE.sampling.size, None, "B"),
)

FRACTIONS_SPACE = SearchSpace(
    name="cai2019_fig7",
    description="real, offline and joint arms x share of the target's labels (Figure 7, left and middle)",
    base=BASE,
    sample=partial(with_segmentor, _sample_fraction, width=8, norm="instance"),
    points=tuple(_labelled(arm, fraction) for fraction in FRACTIONS for arm in ARMS),
    seeds=(0, 1, 2, 3, 4),
    full=ALL_LABELLED,
    full_sample=partial(with_segmentor, _sample_fraction),
    published=(MIDDLE,),
)


def _made(arm: str, amount: int) -> Values:
    return {**ARMS[arm], "mixing.source_patients": amount}


def _sample_amount(amounts: tuple[int, ...], trial: Suggest) -> None:
    """Arm, shape weight, how many patients synthetic images are made of."""
    if trial.suggest_categorical("arm", ["real", "offline", "joint"]) != "real":
        trial.suggest_categorical("method.shape_weight", [0.0, 1.0])
        trial.suggest_categorical("mixing.source_patients", list(amounts))


def _points(amounts: tuple[int, ...]) -> tuple[Values, ...]:
    return (ARMS["R"], *(_made(arm, amount) for amount in amounts for arm in ("ADA", "Ours")))


def _right(amounts: tuple[int, ...]) -> PaperTable:
    few, some, many = amounts
    claims = [
        *(PaperClaim(f"{n} source patients: Ours above ADA", _made("Ours", n), _made("ADA", n)) for n in amounts),
        PaperClaim(f"Ours of {some} above ADA of all {many}", _made("Ours", some), _made("ADA", many)),
        PaperClaim(f"more helps Ours: {many} above {few}", _made("Ours", many), _made("Ours", few)),
        PaperClaim(f"Ours of all {many} above R", _made("Ours", many), ARMS["R"]),
    ]
    return PaperTable(
        "Cai et al. 2019, Figure 7, right: heart, MRI, by the amount of synthetic images",
        (),
        tuple(claims),
        (
            "The text says that Ours reaches with 23 % of the synthetic images what ADA reaches with all. That two are "
            "equal no such interval shows: where the fourth claim is not reversed, it does not speak against it.",
            "The paper varies how many images are made. Here fewer source patients also teach the generators, in both "
            "arms alike: online, an amount is nothing else.",
        ),
        PaperData("heart", DOMAINS, FULL_BASE.sampling.size, 1.0, "B"),
    )


AMOUNTS_SPACE = SearchSpace(
    name="cai2019_fig7_right",
    description="offline and joint arms x amount of synthetic data, all real images labelled (Figure 7, right)",
    base=BASE,
    sample=partial(with_segmentor, partial(_sample_amount, AMOUNTS), width=8, norm="instance"),
    points=_points(AMOUNTS),
    seeds=(0, 1, 2, 3, 4),
    full=ALL_LABELLED,
    full_points=_points(AT_FULL_SIZE),
    full_sample=partial(with_segmentor, partial(_sample_amount, AT_FULL_SIZE)),
    published=(_right(AMOUNTS),),
    full_published=(_right(AT_FULL_SIZE),),
)
