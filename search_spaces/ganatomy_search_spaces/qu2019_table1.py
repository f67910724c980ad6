"""Qu et al. 2019, Table 1: who guides lesions (a segmentor, one encoder and four decoders, four segmentors), by
whether segmentors of real images find in drawn ones the lesions that were asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ganatomy.experiment import Filter
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable, SearchSpace, Suggest, Values
from ganatomy_search_spaces.downstream_networks import with_segmentor
from ganatomy_search_spaces.multimodal_mr import RATIOS
from ganatomy_search_spaces.qu2019_table2 import BASE as TABLE2
from ganatomy_search_spaces.qu2019_table2 import FULL_BASE as FULL_TABLE2

# All images are looked at as they are drawn: nothing is filtered, so nothing is refused.
BASE = replace(TABLE2, filter=Filter(), downstream=replace(TABLE2.downstream, augmentation="light"))
FULL_BASE = replace(FULL_TABLE2, filter=Filter())

GUIDES: dict[str, Values] = {
    "1SEG": {"arm": "offline", "method.guidance": "1seg"},
    "1ECL+4DCL": {"arm": "offline", "method.guidance": "1enc4dec"},
    "4SEG": {"arm": "offline", "method.guidance": "4seg"},
}
FOUND = "synthesis/s_score/*"
"""Dice of a modality's own segmentor on drawn images, mean over the modalities."""
ON_REAL = "synthesis/s_score_reference/*"


def _sample_guide(trial: Suggest) -> None:
    """Who guides lesions, and how much is drawn."""
    if trial.suggest_categorical("arm", ["real", "offline"]) != "offline":
        return
    trial.suggest_categorical("method.guidance", ["1seg", "1enc4dec", "4seg"])
    trial.suggest_categorical("mixing.ratio", list(RATIOS))


PUBLISHED = PaperTable(
    where="Qu et al. 2019, Table 1, brain tumours in four contrasts",
    figures=(
        # Those segmentors know nothing of any guide: one configuration speaks for all.
        PaperFigure("real images", GUIDES["4SEG"], 0.915, metric=ON_REAL),
        *(
            PaperFigure(f"{guide}, synthetic images", GUIDES[guide], value, metric=FOUND)
            for guide, value in (("1SEG", 0.741), ("1ECL+4DCL", 0.808), ("4SEG", 0.838))
        ),
    ),
    claims=tuple(
        PaperClaim(f"lesions are found more often with {more} than with {less}", GUIDES[more], GUIDES[less], FOUND)
        for more, less in (("4SEG", "1ECL+4DCL"), ("1ECL+4DCL", "1SEG"), ("4SEG", "1SEG"))
    ),
    caveats=(
        "The paper's Dice is by all signs computed on class numbers as if they were intensities, slice by slice, with "
        "1 where both are empty. Ours is the usual one, by class; the paper's MSE has no counterpart.",
        "The paper's test slices stand in its training list: its 0.915 on real images is not of unseen patients.",
        "The paper measures with four segmentors trained on real images, the design of its 4SEG; whether they are the "
        "ones that guided is not said. Here those that measure played no part in any training.",
        "The paper keeps the best of four runs; ours are means over seeds, of brains drawn with validation labels.",
        "Both are of images that no segmentation filter has seen: what is kept for training can be better than that.",
    ),
    of=PaperData("brain", {role: role for role in BASE.domains}, FULL_BASE.sampling.size),
)

SPACE = SearchSpace(
    name="qu2019_table1",
    description="three guides of lesions (Qu et al. 2019, Table 1), beside real data only, at phantom size",
    base=BASE,
    sample=partial(with_segmentor, _sample_guide, width=8, norm="instance"),
    points=({"arm": "real"}, *GUIDES.values()),
    seeds=(0, 1, 2, 3),
    full=FULL_BASE,
    full_sample=partial(with_segmentor, _sample_guide, norm="instance"),
    published=(PUBLISHED,),
)
