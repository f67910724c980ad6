"""Table 5 of Cai et al. 2019: masses in the mammograms of two archives, 14 % of INbreast or 48 % of BCDR with labels,
three ways to use synthetic data, three segmentors. One sweep is of one column: BCDR's is
``--target bcdr --set labels.fraction=0.48``."""

from __future__ import annotations

from dataclasses import replace

from ganatomy.experiment import Budget, Downstream, Labels, Mixing, Sampling
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Values
from ganatomy_search_spaces.cai2019_table3 import ARMS, SHORT
from ganatomy_search_spaces.cai2019_table4 import SEGMENTORS, points, sample, table
from ganatomy_search_spaces.shape_consistent import BASE as PAPER_BASE

ARCHIVES = {"A": "BCDR", "B": "INbreast"}
SIZE = (256, 256)

# 58 lesions a domain, an epoch of 58 steps: S 100 + 100 epochs, G and D 60 + 100 (sections 4.2 and 5.1). Slices of one
# voxel cannot pass the 3D networks: 2D ones.
FULL_BASE = replace(
    PAPER_BASE,
    labels=Labels(fraction=0.14),
    mixing=Mixing(ratio=1.0, composition="paper"),
    downstream=Downstream(),
    sampling=Sampling(ndim=2, size=SIZE, foreground=0.5),
    budget=Budget(segmentor_steps=11_600, generator_steps=9_280, batch=1, validations=20),
)

BCDR = table(
    "Cai et al. 2019, Table 5, BCDR column: mass, 48 % of the real images",
    "A",
    {
        "PSP-Net": {"R": (0.543,), "ADA": (0.632,), "Ours": (0.628,)},
        "U-Net": {"R": (0.622,), "ADA": (0.682,), "Ours": (0.683,)},
        "Refine-Net": {"R": (0.726,), "ADA": (0.749,), "Ours": (0.750,)},
    },
    ("ADA and Ours differ by 0.001 to 0.004, in 58 masses and one training each: no order to expect of them.",),
    PaperData("breast", ARCHIVES, SIZE, 0.48, "A"),
)


def _inbreast(arm: str, segmentor: str) -> Values:
    return {"target": "B", **ARMS[arm], "downstream.network": SEGMENTORS[segmentor]}


INBREAST = PaperTable(
    "Cai et al. 2019, Table 5, INbreast column: mass, 14 % of the real images",
    (PaperFigure("Refine-Net, Ours", _inbreast("Ours", "Refine-Net"), 0.811),),
    tuple(
        PaperClaim(f"{name}: {arm} above R", _inbreast(arm, name), _inbreast("R", name))
        for name in SEGMENTORS
        for arm in ("Ours", "ADA")
    ),
    (
        "The text says that synthetic data improve INbreast for every segmentor, for the U-Net by 10 points with Ours. "
        "The column's other figures could not be read with certainty, and are left out.",
    ),
    PaperData("breast", ARCHIVES, SIZE, 0.14, "B"),
)

SPACE = SearchSpace(
    name="cai2019_table5",
    description="real, offline and joint arms x PSP-Net, U-Net, Refine-Net, masses in mammograms of two archives",
    base=SHORT,
    sample=sample,
    points=points(width=8, norm="instance"),
    seeds=(0, 1, 2, 3, 4),
    full=FULL_BASE,
    full_points=points(width=32, norm="none"),
    published=(INBREAST, BCDR),
)
