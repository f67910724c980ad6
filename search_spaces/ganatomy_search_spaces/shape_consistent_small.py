"""The cycle- and shape-consistent GAN on two cores: small networks, 64 x 64 patches of slices, arms x shape weight."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ganatomy.experiment import Labels, Sampling
from ganatomy.search_space import SearchSpace
from ganatomy_search_spaces.downstream_networks import with_segmentor
from ganatomy_search_spaces.phantom_demo import BASE as DEMO_BASE
from ganatomy_search_spaces.shape_consistent import BASE as FULL_BASE
from ganatomy_search_spaces.shape_consistent import sample_method

BASE = replace(DEMO_BASE, labels=Labels(), sampling=Sampling(ndim=2, size=(64, 64), foreground=0.5))

SPACE = SearchSpace(
    name="shape_consistent_small",
    description="arms x shape weight with small networks, for a laptop: what a first look at a small cohort can afford",
    base=BASE,
    # Narrow segmentors start to learn within so short a budget.
    sample=partial(with_segmentor, sample_method, width=8, norm="instance"),
    points=(
        {"arm": "real"},
        {"arm": "offline", "method.shape_weight": 1.0},
        {"arm": "joint", "method.shape_weight": 0.0},
        {"arm": "joint", "method.shape_weight": 1.0},
    ),
    seeds=(0, 1, 2),
    full=FULL_BASE,
    full_sample=partial(with_segmentor, sample_method),
)
