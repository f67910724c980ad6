"""Table 4 of Cai et al. 2019 (and Table 3, its U-Net on hearts): real data, synthetic data made beforehand, joint
training, each with three segmentors, when few images of the target domain are labelled."""

from __future__ import annotations

from dataclasses import replace

from ganatomy.experiment import Budget, Downstream, Labels, Mixing, Sampling
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.phantom_demo import BASE as DEMO_BASE
from ganatomy_search_spaces.shape_consistent import BASE as PAPER_BASE

ARMS: dict[str, Values] = {
    "R": {"arm": "real"},
    "ADA": {"arm": "offline", "method.shape_weight": 0.0},
    "Ours": {"arm": "joint", "method.shape_weight": 1.0},
}
DOMAINS = {"A": "CT", "B": "MRI"}
SEGMENTORS = {"PSP-Net": "pspnet", "U-Net": "unet", "Refine-Net": "refinenet"}

# The fraction of Table 3, hearts: 3 of 24 patients.
BASE = replace(DEMO_BASE, labels=replace(DEMO_BASE.labels, fraction=0.14))

# 40 training volumes a domain, an epoch of 40 steps: S 100 + 100 epochs, G and D 60 + 100 (sections 4.2 and 5.1).
FULL_BASE = replace(
    PAPER_BASE,
    labels=Labels(fraction=0.25),
    mixing=Mixing(ratio=1.0, composition="paper"),
    downstream=Downstream(),
    sampling=Sampling(ndim=3, size=(80, 64, 128), foreground=0.5),
    budget=Budget(segmentor_steps=8_000, generator_steps=6_400, batch=1, validations=20),
)


def sample(trial: Suggest) -> None:
    """Arm, shape weight, what generators see; segmentor with its width and normalisation."""
    if trial.suggest_categorical("arm", ["real", "offline", "joint"]) != "real":
        trial.suggest_categorical("method.shape_weight", [0.0, 1.0])
        trial.suggest_categorical("labels.gan_sees", ["subset", "all"])
    trial.suggest_categorical("downstream.network", list(SEGMENTORS.values()))
    trial.suggest_categorical("downstream.network.width", [8, 16])
    trial.suggest_categorical("downstream.network.norm", ["none", "instance"])


def points(width: int, norm: str) -> tuple[Values, ...]:
    """Every arm with every segmentor."""
    network = {"downstream.network.width": width, "downstream.network.norm": norm}
    return tuple(
        {**arm, "downstream.network": name, **network} for name in SEGMENTORS.values() for arm in ARMS.values()
    )


def _point(arm: str, segmentor: str) -> Values:
    return {"target": "B", **ARMS[arm], "downstream.network": SEGMENTORS[segmentor]}


def _figure(segmentor: str, arm: str, mean: float, best: float, worst: float) -> PaperFigure:
    return PaperFigure(f"{segmentor}, {arm}", _point(arm, segmentor), mean, f"({worst:.3f} to {best:.3f})")


def _claims(segmentor: str) -> tuple[PaperClaim, ...]:
    pairs = (("Ours", "R"), ("ADA", "R"), ("Ours", "ADA"))
    return tuple(
        PaperClaim(f"{segmentor}: {more} above {less}", _point(more, segmentor), _point(less, segmentor))
        for more, less in pairs
    )


TABLE_4 = PaperTable(
    "Cai et al. 2019, Table 4, MRI columns: pancreas, 25 % of the real images, mean (worst to best case)",
    (
        _figure("PSP-Net", "R", 0.477, 0.667, 0.0),
        _figure("PSP-Net", "ADA", 0.535, 0.671, 0.121),
        _figure("PSP-Net", "Ours", 0.538, 0.661, 0.129),
        _figure("U-Net", "R", 0.641, 0.785, 0.160),
        _figure("U-Net", "ADA", 0.661, 0.803, 0.286),
        _figure("U-Net", "Ours", 0.673, 0.822, 0.327),
        _figure("Refine-Net", "R", 0.661, 0.815, 0.0111),
        _figure("Refine-Net", "ADA", 0.700, 0.812, 0.276),
        _figure("Refine-Net", "Ours", 0.704, 0.808, 0.314),
    ),
    tuple(claim for segmentor in SEGMENTORS for claim in _claims(segmentor)),
    (
        "Ours is above ADA by 0.003 to 0.012 only in these columns, of 38 patients and one training each: no order to "
        "expect here. Table 5 has ADA above Ours for PSP-Net.",
        "The paper's figures are means over test patients of one split; ours are of validation patients over seeds.",
        "Whether the generators saw the unlabelled 75 % is not said; here they do at phantom size, not at full size "
        "(labels.gan_sees).",
    ),
    PaperData("pancreas", DOMAINS, FULL_BASE.sampling.size, fraction=0.25),
)

TABLE_3 = PaperTable(
    "Cai et al. 2019, Table 3, MRI column: heart, 14 % of the real images, U-Net",
    tuple(
        PaperFigure(f"U-Net, {arm}", _point(arm, "U-Net"), value)
        for arm, value in (("R", 0.703), ("ADA", 0.710), ("Ours", 0.732))
    ),
    _claims("U-Net"),
    ("For CT the paper has R 0.678, ADA 0.660, Ours 0.744: there, images made beforehand did harm.",),
    PaperData("heart", DOMAINS, (88, 112, 112), fraction=0.14),
)

SPACE = SearchSpace(
    name="cai2019_table4",
    description="real, offline and joint arms x PSP-Net, U-Net, Refine-Net, few labels in the target domain",
    base=BASE,
    sample=sample,
    points=points(width=8, norm="instance"),
    seeds=(0, 1, 2),
    full=FULL_BASE,
    full_points=points(width=16, norm="none"),
    published=(TABLE_3, TABLE_4),
)
