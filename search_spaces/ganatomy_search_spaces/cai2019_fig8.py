"""Figure 8 of Cai et al. 2019: three segmentors of masses in INbreast, all of whose training images are labelled, with
none and with up to eight times as many synthetic ones, trained together with the generator.

The caption has BCDR where the text has INbreast; the text is followed. Once as many, the plot's first step, is thinned
out: the claims are of three and of eight times.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ganatomy.experiment import Labels
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces import cai2019_table5 as table5
from ganatomy_search_spaces.cai2019_table3 import ARMS, SHORT
from ganatomy_search_spaces.cai2019_table4 import SEGMENTORS, network, sample_segmentor

AMOUNTS = (24, 64)
"""Source patients: three and eight times 8 real ones."""
AT_FULL_SIZE = (174, 464)
"""Likewise of 58."""

BASE = replace(SHORT, labels=Labels())
FULL_BASE = replace(table5.FULL_BASE, labels=Labels())


def _sample(amounts: tuple[int, ...], trial: Suggest) -> None:
    """Arm, shape weight, how many patients synthetic images are made of; segmentor, its width and normalisation."""
    if trial.suggest_categorical("arm", ["real", "offline", "joint"]) != "real":
        trial.suggest_categorical("method.shape_weight", [0.0, 1.0])
        trial.suggest_categorical("mixing.source_patients", list(amounts))
    sample_segmentor(trial)


def _rows(amounts: tuple[int, ...]) -> tuple[Values, ...]:
    return (ARMS["R"], *({**ARMS["Ours"], "mixing.source_patients": amount} for amount in amounts))


def _points(amounts: tuple[int, ...], width: int, norm: str) -> tuple[Values, ...]:
    return tuple({**row, **network(name, width, norm)} for name in SEGMENTORS for row in _rows(amounts))


def _table(amounts: tuple[int, ...]) -> PaperTable:
    claims = []
    for name, segmentor in SEGMENTORS.items():
        real, three, eight = ({**row, "downstream.network": segmentor} for row in _rows(amounts))
        claims += [
            PaperClaim(f"{name}: three times as many above none", three, real),
            PaperClaim(f"{name}: eight times as many above none", eight, real),
        ]
    refine = [{**row, "downstream.network": SEGMENTORS["Refine-Net"]} for row in _rows(amounts)]
    return PaperTable(
        "Cai et al. 2019, Figure 8: mass, INbreast, by the amount of synthetic images",
        (
            PaperFigure("Refine-Net, no synthetic images (text)", refine[0], 0.804),
            PaperFigure("Refine-Net, eight times as many (text: the best)", refine[2], 0.848),
        ),
        tuple(claims),
        (
            "The text says that most is gained by three times as many. How much eight times add to that is read from "
            "the rows; that it is little, no test shows.",
            "0.848 is what the Refine-Net is improved to; at which amount is not said.",
        ),
        PaperData("breast", table5.ARCHIVES, table5.SIZE, 1.0, "B"),
    )


SPACE = SearchSpace(
    name="cai2019_fig8",
    description="amount of synthetic data x PSP-Net, U-Net, Refine-Net, masses in mammograms (Cai et al., Figure 8)",
    base=BASE,
    sample=partial(_sample, AMOUNTS),
    points=_points(AMOUNTS, 8, "instance"),
    seeds=(0, 1, 2, 3, 4),
    full=FULL_BASE,
    full_points=_points(AT_FULL_SIZE, 32, "none"),
    full_sample=partial(_sample, AT_FULL_SIZE),
    published=(_table(AMOUNTS),),
    full_published=(_table(AT_FULL_SIZE),),
)
