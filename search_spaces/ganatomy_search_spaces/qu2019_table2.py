"""Qu et al. 2019, Table 2: how much synthetic data, and in which order, at the same number of steps throughout."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ganatomy.experiment import Budget, Choice, Downstream, Drawing, Filter, Sampling
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.downstream_networks import with_segmentor
from ganatomy_search_spaces.multimodal_mr import BASE as PAPER_BASE
from ganatomy_search_spaces.multimodal_mr import RATIOS

DRAWING = Drawing(per_label=1.0, at_least=1)
"""A set of synthetic images as large as a row says, in the unit of the labels that they show."""

# Rows are without augmentation, but for those that are about it.
FULL_BASE = replace(PAPER_BASE, drawing=DRAWING, downstream=replace(PAPER_BASE.downstream, augmentation="none"))

BASE = replace(
    PAPER_BASE,
    method=Choice(
        "multimodal_mr",
        {
            "width": 0.125,
            "residual_blocks": 1,
            "discriminator_layers": 2,
            "learning_rate": 1e-3,
            # With the default weights all maps drawn at this size are nearly one map (docs/multimodal_mr.md).
            "map_code_adversarial": 10.0,
            "map_normal": 10.0,
            "edge_density": 0.3,
            # Four channels, and the paper's weights on rare classes, find no lesion in as many steps.
            "guide_width": 0.25,
            "guide_loss": "cross_entropy",
            "guide_share": 4.0,
            "guide_bar": 0.3,
        },
    ),
    drawing=DRAWING,
    filter=Filter(set_mean=0.1),
    downstream=Downstream(Choice("unet", {"width": 8, "norm": "instance"}), learning_rate=1e-3),
    # Whole brains, as of the phantom of 48 x 48: structure maps of crops are open, and fail Algorithm 3.
    sampling=Sampling(ndim=2, size=(48, 48), foreground=0.0),
    budget=Budget(segmentor_steps=1000, generator_steps=400, batch=1, validations=2),
)

REALS = (0.1, 0.2, 0.5, 0.8, 1.0)
AUGMENTED = tuple(round(ratio / (1 + ratio), 4) for ratio in RATIOS)
"""Shares of the samples that are augmented where the paper has so many augmented images for each real one."""


def _offline(order: str, real: float, synthetic: float) -> Values:
    """So many real and synthetic images, in the paper's unit: all real ones."""
    return {
        "arm": "offline",
        "mixing.order": order,
        "mixing.real": real,
        "mixing.ratio": round(synthetic / real, 4),
        "drawing.per_label": synthetic,
    }


def _real(share: float = 1.0, augmented: float = 1.0) -> Values:
    strength = {"downstream.augmentation": "light", "downstream.augmented": augmented}
    return {"arm": "real", "mixing.real": share, **(strength if augmented < 1 else {"downstream.augmentation": "none"})}


def _row(number: int, name: str, point: Values, value: float) -> tuple[int, PaperFigure]:
    return number, PaperFigure(f"{number}: {name}", point, value, metric="val/label_index_dice")


REAL, TENTH = _real(), _real(0.1)
ROWS: dict[int, PaperFigure] = dict(
    (
        _row(1, "real 1x", REAL, 0.915),
        *(
            _row(number, f"real 0.1x, after synthetic {made:g}x", _offline("synthetic_first", 0.1, made), value)
            for number, made, value in ((7, 1.0, 0.908), (8, 2.0, 0.907), (9, 3.0, 0.907))
        ),
        _row(31, "real 0.5x", _real(0.5), 0.902),
        *(
            _row(number, f"real 1x + synthetic {synthetic:g}x, random order", _offline("mixed", 1.0, synthetic), value)
            for number, synthetic, value in zip(
                (32, 33, 34, 15, 18, 19), RATIOS, (0.921, 0.939, 0.916, 0.913, 0.901, 0.897), strict=True
            )
        ),
        _row(16, "real 1x + synthetic 1x, real first", _offline("real_first", 1.0, 1.0), 0.795),
        _row(17, "real 1x + synthetic 1x, synthetic first", _offline("synthetic_first", 1.0, 1.0), 0.940),
        *(
            _row(number, f"synthetic {synthetic:g}x", _offline("synthetic_alone", 1.0, synthetic), value)
            for number, synthetic, value in ((2, 1.0, 0.708), (3, 2.0, 0.736), (4, 3.0, 0.754))
        ),
        *(
            _row(number, f"real {real:g}x + synthetic {1 - real:g}x, random order",
                 _offline("mixed", real, round(1 - real, 4)), value)
            for number, real, value in ((13, 0.2, 0.850), (12, 0.5, 0.904), (14, 0.8, 0.935))
        ),
        *(
            _row(number, f"real 1x + augmented {ratio:g}x", _real(1.0, share), value)
            for number, ratio, share, value in zip(
                (35, 36, 37, 22, 23, 24), RATIOS, AUGMENTED, (0.911, 0.927, 0.920, 0.915, 0.898, 0.885), strict=True
            )
        ),
    )
)  # fmt: skip
"""The paper's number of a row -> its figure, those that matter first: a tenth of the real images."""

POINTS: tuple[Values, ...] = (REAL, TENTH, *(figure.point for figure in ROWS.values() if figure.point != REAL))
"""All rows, and what those with a tenth of the real images are to be compared with, which the paper has not."""


def _sample_mixing(trial: Suggest) -> None:
    """How many of the real patients, and beside them which amount in which order, or how much augmentation."""
    arm = trial.suggest_categorical("arm", ["real", "offline"])
    trial.suggest_categorical("mixing.real", list(REALS))
    if arm == "offline":
        orders = ["mixed", "synthetic_first", "real_first", "synthetic_alone"]
        trial.suggest_categorical("mixing.order", orders)
        trial.suggest_categorical("mixing.ratio", sorted({*RATIOS, 0.25, 4.0, 10.0, 20.0, 30.0}))
        trial.suggest_categorical("drawing.per_label", list(RATIOS))
    elif trial.suggest_categorical("downstream.augmentation", ["none", "light"]) == "light":
        trial.suggest_categorical("downstream.augmented", [*AUGMENTED, 1.0])


def _point(number: int) -> Values:
    return ROWS[number].point


PUBLISHED = PaperTable(
    where="Qu et al. 2019, Table 2, brain tumours in four contrasts",
    figures=tuple(ROWS.values()),
    claims=(
        PaperClaim("a tenth of the real images after as many synthetic ones as there are real: better than half of the "
                   "real ones", _point(7), _point(31)),
        PaperClaim("synthetic first is better than random order", _point(17), _point(15)),
        PaperClaim("random order is better than real first", _point(15), _point(16)),
        PaperClaim("half as many synthetic as real help", _point(33), REAL),
        PaperClaim("half as many are better than three times as many", _point(33), _point(19)),
        PaperClaim("half as many synthetic are better than half as many augmented", _point(33), _point(36)),
        PaperClaim("a fifth of synthetic in place of real ones is better than real ones alone", _point(14), REAL),
        PaperClaim("real images are better than synthetic ones alone", REAL, _point(2)),
    ),
    caveats=(
        "By all signs the paper's Dice is computed on class numbers as if they were intensities, slice by slice, with "
        "1 where both are empty (label_index_dice): no usual Dice. The claims are judged by the usual one.",
        "The published programs take their test slices from the training list, and 15070 slices are all 274 volumes: "
        "the split that the paper describes is not the one it used.",
        "The paper keeps the best of four runs on the test set; ours are means over seeds on validation patients.",
        "1x of synthetic images is one for each labelled slice of the target here, as all that is drawn shows a "
        "lesion. Shares of the real images go by patients: of twelve a tenth is one.",
        "As in the paper, what draws the synthetic images has learnt from all real ones, and from all their labels, "
        "also where the segmentor sees a tenth of them. What synthetic data does for whoever has no more than a tenth "
        "of the labels is another question: labels.fraction=0.1.",
        "Augmentation is done to a share of the samples as they are drawn, anew each time; the paper has a fixed set.",
    ),
    of=PaperData("brain", {role: role for role in BASE.domains}, FULL_BASE.sampling.size),
)  # fmt: skip

OF_A_TENTH = PaperTable(
    where="Not in the paper: a tenth of the real images, with synthetic ones and without",
    figures=(),
    claims=tuple(
        PaperClaim(f"{made}x synthetic images first help a tenth of the real ones", _point(number), TENTH)
        for number, made in ((7, 1), (8, 2), (9, 3))
    ),
    caveats=("The paper has no row of a tenth of the real images alone.",),
    of=PUBLISHED.of,
)
"""What its first rows are for."""

SPACE = SearchSpace(
    name="qu2019_table2",
    description="amount and order of synthetic data at equal steps (Qu et al. 2019, Table 2), at phantom size",
    base=BASE,
    sample=partial(with_segmentor, _sample_mixing, width=8, norm="instance"),
    points=POINTS,
    seeds=(0, 1, 2),
    full=FULL_BASE,
    full_sample=partial(with_segmentor, _sample_mixing, norm="instance"),
    published=(PUBLISHED, OF_A_TENTH),
)
