"""Qu et al. 2019, Table 2: how much synthetic data, and in which order, at the same number of steps throughout."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ganatomy.experiment import Budget, Choice, Downstream, Drawing, Sampling
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.downstream_networks import with_segmentor
from ganatomy_search_spaces.multimodal_mr import BASE as PAPER_BASE
from ganatomy_search_spaces.multimodal_mr import RATIOS

ALONE = 1000.0
"""Synthetic images alone, but for one real sample in a thousand."""

# The rows of the paper that have a counterpart here are those without augmentation.
FULL_BASE = replace(PAPER_BASE, downstream=replace(PAPER_BASE.downstream, augmentation="none"))

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
        },
    ),
    drawing=Drawing(per_label=3.0),
    downstream=Downstream(Choice("unet", {"width": 8, "norm": "instance"}), learning_rate=1e-3, augmentation="light"),
    # Whole brains, as of the phantom of 48 x 48: structure maps of crops are open, and fail Algorithm 3.
    sampling=Sampling(ndim=2, size=(48, 48), foreground=0.0),
    budget=Budget(segmentor_steps=2400, generator_steps=1500, batch=1, validations=4),
)


def _offline(order: str, ratio: float) -> Values:
    return {"arm": "offline", "mixing.order": order, "mixing.ratio": ratio}


REAL: Values = {"arm": "real"}
POINTS: tuple[Values, ...] = (
    REAL,
    *(_offline("mixed", ratio) for ratio in (*RATIOS, ALONE)),
    _offline("real_first", 1.0),
    _offline("synthetic_first", 1.0),
)


def _sample_mixing(trial: Suggest) -> None:
    """Amount and order."""
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])
    trial.suggest_categorical("mixing.ratio", [*RATIOS, ALONE])


def _figure(name: str, point: Values, value: float) -> PaperFigure:
    return PaperFigure(name, point, value, metric="val/label_index_dice")


PUBLISHED = PaperTable(
    where="Qu et al. 2019, Table 2, brain tumours in four contrasts",
    figures=(
        _figure("real 1x", REAL, 0.915),
        _figure("synthetic 1x", _offline("mixed", ALONE), 0.708),
        *(
            _figure(f"real 1x + synthetic {ratio:g}x, random order", _offline("mixed", ratio), value)
            for ratio, value in zip(RATIOS, (0.921, 0.939, 0.926, 0.913, 0.901, 0.897), strict=True)
        ),
        _figure("real 1x + synthetic 1x, real first", _offline("real_first", 1.0), 0.795),
        _figure("real 1x + synthetic 1x, synthetic first", _offline("synthetic_first", 1.0), 0.940),
    ),
    claims=(
        PaperClaim(
            "synthetic first is better than random order", _offline("synthetic_first", 1.0), _offline("mixed", 1.0)
        ),
        PaperClaim("random order is better than real first", _offline("mixed", 1.0), _offline("real_first", 1.0)),
        PaperClaim("half as many synthetic as real help", _offline("mixed", 0.5), REAL),
        PaperClaim("half as many are better than three times as many", _offline("mixed", 0.5), _offline("mixed", 3.0)),
        PaperClaim("real images are better than synthetic ones alone", REAL, _offline("mixed", ALONE)),
    ),
    caveats=(
        "By all signs the paper's Dice is computed on class numbers as if they were intensities, slice by slice, with "
        "1 where both are empty (label_index_dice): no usual Dice. The claims are judged by the usual one.",
        "The published programs take their test slices from the training list, and 15070 slices are all 274 volumes: "
        "the split that the paper describes is not the one it used.",
        "The paper keeps the best of four runs on the test set; ours are means over seeds on validation patients.",
        "Rows with a tenth of the real data, or with ordinary augmentation, have no counterpart here.",
    ),
    of=PaperData("brain", {role: role for role in BASE.domains}, FULL_BASE.sampling.size),
)

SPACE = SearchSpace(
    name="qu2019_table2",
    description="amount and order of synthetic data at equal steps (Qu et al. 2019, Table 2), at phantom size",
    base=BASE,
    sample=partial(with_segmentor, _sample_mixing, width=8, norm="instance"),
    points=POINTS,
    seeds=(0, 1, 2, 3),
    full=FULL_BASE,
    full_sample=partial(with_segmentor, _sample_mixing, norm="instance"),
    published=(PUBLISHED,),
)
