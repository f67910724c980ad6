"""Table 4 of Cai et al. 2019: pancreas, a quarter of the target's labels: real data, synthetic data made beforehand,
joint training, each with three segmentors."""

from __future__ import annotations

from dataclasses import replace

from ganatomy.experiment import Budget, Downstream, Labels, Mixing, Sampling
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.cai2019_table3 import ARMS, DOMAINS, SHORT, arm_claims
from ganatomy_search_spaces.cai2019_table3 import sample as sample_arm
from ganatomy_search_spaces.shape_consistent import BASE as PAPER_BASE

SEGMENTORS = {"PSP-Net": "pspnet", "U-Net": "unet", "Refine-Net": "refinenet"}
FRACTION = 0.25

BASE = replace(SHORT, labels=replace(SHORT.labels, fraction=FRACTION))

# 40 training volumes a domain, an epoch of 40 steps: S 100 + 100 epochs, G and D 60 + 100 (sections 4.2 and 5.1).
FULL_BASE = replace(
    PAPER_BASE,
    labels=Labels(fraction=FRACTION),
    mixing=Mixing(ratio=1.0, composition="paper"),
    downstream=Downstream(),
    sampling=Sampling(ndim=3, size=(80, 64, 128), foreground=0.5),
    budget=Budget(segmentor_steps=8_000, generator_steps=6_400, batch=1, validations=20),
)


def sample(trial: Suggest) -> None:
    """Arm, shape weight, what generators see; segmentor with its width and normalisation."""
    sample_arm(trial)
    sample_segmentor(trial)


def sample_segmentor(trial: Suggest) -> None:
    """One of the paper's three, with its width and normalisation."""
    trial.suggest_categorical("downstream.network", list(SEGMENTORS.values()))
    trial.suggest_categorical("downstream.network.width", [8, 16, 32])
    trial.suggest_categorical("downstream.network.norm", ["none", "instance"])


def network(segmentor: str, width: int, norm: str) -> Values:
    """The segmentor that the paper calls so, as values of a point."""
    return {
        "downstream.network": SEGMENTORS[segmentor],
        "downstream.network.width": width,
        "downstream.network.norm": norm,
    }


def points(width: int, norm: str) -> tuple[Values, ...]:
    """Every arm with every segmentor."""
    return tuple({**arm, **network(name, width, norm)} for name in SEGMENTORS for arm in ARMS.values())


Printed = dict[str, dict[str, tuple[float, ...]]]
"""Segmentor -> arm -> mean, and where they are printed best and worst case."""


def table(where: str, role: str, printed: Printed, caveats: tuple[str, ...], of: PaperData) -> PaperTable:
    """Of one column: rows by segmentor and arm, and every order of them that is printed, in the domain of ``role``."""

    def point(arm: str, segmentor: str) -> Values:
        return {"target": role, **ARMS[arm], "downstream.network": SEGMENTORS[segmentor]}

    figures: list[PaperFigure] = []
    claims: list[PaperClaim] = []
    for segmentor, rows in printed.items():
        for arm, (mean, *cases) in rows.items():
            spread = f"({cases[1]:.3f} to {cases[0]:.3f})" if cases else ""
            figures.append(PaperFigure(f"{segmentor}, {arm}", point(arm, segmentor), mean, spread))
        means = {arm: mean for arm, (mean, *_) in rows.items()}
        claims += arm_claims(segmentor, role, means, {"downstream.network": SEGMENTORS[segmentor]})
    return PaperTable(where, tuple(figures), tuple(claims), caveats, of)


CLOSE = (
    "Ours is above ADA by 0.002 to 0.012 only, of 38 to 42 patients and one training each: no order to expect here. "
    "Table 5 has ADA above Ours for PSP-Net."
)
SILENT = (
    "Whether the generators saw the unlabelled 75 % is not said; here they do at phantom size, not at full size "
    "(labels.gan_sees)."
)


def _column(role: str, printed: Printed) -> PaperTable:
    said = f"Cai et al. 2019, Table 4, {DOMAINS[role]} columns: pancreas, 25 % of the real images, "
    data = PaperData("pancreas", DOMAINS, FULL_BASE.sampling.size, FRACTION, role)
    return table(said + "mean (worst to best case)", role, printed, (CLOSE, SILENT), data)


MRI = _column(
    "B",
    {
        "PSP-Net": {"R": (0.477, 0.667, 0.0), "ADA": (0.535, 0.671, 0.121), "Ours": (0.538, 0.661, 0.129)},
        "U-Net": {"R": (0.641, 0.785, 0.160), "ADA": (0.661, 0.803, 0.286), "Ours": (0.673, 0.822, 0.327)},
        "Refine-Net": {"R": (0.661, 0.815, 0.0111), "ADA": (0.700, 0.812, 0.276), "Ours": (0.704, 0.808, 0.314)},
    },
)
CT = _column(
    "A",
    {
        "PSP-Net": {"R": (0.600, 0.746, 0.211), "ADA": (0.613, 0.759, 0.197), "Ours": (0.615, 0.741, 0.144)},
        "U-Net": {"R": (0.758, 0.883, 0.184), "ADA": (0.768, 0.879, 0.221), "Ours": (0.772, 0.881, 0.230)},
        "Refine-Net": {"R": (0.778, 0.878, 0.114), "ADA": (0.782, 0.892, 0.337), "Ours": (0.788, 0.884, 0.267)},
    },
)

SPACE = SearchSpace(
    name="cai2019_table4",
    description="real, offline and joint arms x PSP-Net, U-Net, Refine-Net, pancreas, a quarter of the target's labels",
    base=BASE,
    sample=sample,
    points=points(width=8, norm="instance"),
    seeds=(0, 1, 2, 3, 4),
    full=FULL_BASE,
    full_points=points(width=16, norm="none"),
    published=(MRI, CT),
)
