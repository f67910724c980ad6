"""Table 2 of Qu et al. 2019, row by row, as points of its search space."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stages.test_drawing import EXPERIMENT, ROLES, write_brains

from ganatomy.evidence.configurations import relevant
from ganatomy.evidence.published import agrees
from ganatomy.evidence.work import planned_work, unequal_work
from ganatomy.stages.stages import Stages
from ganatomy.training.pools import seen_pool, segmentor_pool
from ganatomy_search_spaces.qu2019_table2 import FULL_BASE, POINTS, PUBLISHED, ROWS, SPACE

PAPER = """
1 1 0 0 - .915 | 31 .5 0 0 - .902 | 2 0 1 0 - .708 | 3 0 2 0 random .736 | 4 0 3 0 random .754
7 .1 1 0 synthetic .908 | 8 .1 2 0 synthetic .907 | 9 .1 3 0 synthetic .907
13 .2 .8 0 random .850 | 12 .5 .5 0 random .904 | 14 .8 .2 0 random .935
32 1 .2 0 random .921 | 33 1 .5 0 random .939 | 34 1 .8 0 random .916 | 15 1 1 0 random .913 | 18 1 2 0 random .901
19 1 3 0 random .897 | 35 1 0 .2 random .911 | 36 1 0 .5 random .927 | 37 1 0 .8 random .920 | 22 1 0 1 random .915
23 1 0 2 random .898 | 24 1 0 3 random .885 | 16 1 1 0 real .795 | 17 1 1 0 synthetic .940
"""
"""Number, real, synthetic and augmented images in units of all real ones, order, Dice; in the paper's own order."""


def printed():
    rows = [row.split() for line in PAPER.strip().splitlines() for row in line.split("|")]
    return [
        (int(n), float(real), float(made), float(more), order, float(value))
        for n, real, made, more, order, value in rows
    ]


def meant(number):
    """(real, synthetic, augmented, order) of our point, in updates and images."""
    one = SPACE.base.with_values(ROWS[number].point)
    mixing, share = one.mixing, one.downstream.augmented
    if one.arm == "real":
        light = one.downstream.augmentation == "light"
        return mixing.real, 0.0, share / (1 - share) if light else 0.0, "-"
    assert one.downstream.augmentation == "none"
    if mixing.order == "synthetic_alone":
        return 0.0, one.drawing.per_label, 0.0, "random"
    assert mixing.ratio * mixing.real == pytest.approx(one.drawing.per_label)  # as many in updates as there are
    order = {"mixed": "random", "synthetic_first": "synthetic", "real_first": "real"}[mixing.order]
    return mixing.real, one.drawing.per_label, 0.0, order


def test_all_rows_of_the_paper_are_there_with_its_figures():
    rows = printed()
    assert len(rows) == len(ROWS) == len({relevant(SPACE.base.with_values(figure.point)).configuration()
                                          for figure in ROWS.values()}) == 25  # fmt: skip
    for number, real, made, more, order, value in rows:
        assert ROWS[number].value == value
        ours = meant(number)
        assert ours[:3] == pytest.approx((real, made, more), abs=1e-3), number
        if made and real:
            assert ours[3] == order, number


def test_a_tenth_of_the_real_images_comes_first_and_has_its_like_to_be_compared_with():
    first = [SPACE.base.with_values(point) for point in POINTS[:5]]
    assert [one.mixing.real for one in first] == [1.0, 0.1, 0.1, 0.1, 0.1]
    assert [one.arm for one in first] == ["real", "real", "offline", "offline", "offline"]
    works = [planned_work(one) for one in first]
    assert unequal_work(works[2], works[0]) == "0.1 of the real patients against 1"
    assert unequal_work(works[2], works[1]) == ""
    alone = planned_work(SPACE.base.with_values(ROWS[2].point))
    assert unequal_work(alone, works[0]) == "0 of the real patients against 1"


def test_every_claim_is_of_rows_and_agrees_with_what_the_paper_prints():
    for claim in PUBLISHED.claims:
        more, less = (next(figure for figure in ROWS.values() if figure.point == point)
                      for point in (claim.more, claim.less))  # fmt: skip
        assert more.value > less.value, claim.says


def test_acceptance_is_the_papers_at_full_size_and_a_floor_at_the_small_one():
    assert (FULL_BASE.filter.min_dice, FULL_BASE.filter.set_mean) == (0.95, 0.98)
    assert SPACE.base.filter.min_dice == 0
    assert 0 < SPACE.base.filter.set_mean < SPACE.base.method.config["guide_bar"] + 1e-9
    assert all(agrees(SPACE.base.with_values(figure.point), figure.point) for figure in ROWS.values())


def test_the_segmentor_sees_a_share_of_the_patients_and_nobody_else_sees_fewer(tmp_path):
    store = write_brains(tmp_path / "store")
    domains = {role: role for role in ROLES}
    seen = {}
    for share in (0.1, 0.4, 0.7, 1.0):
        one = EXPERIMENT.with_values({"mixing.real": share})
        seen[share] = {entry.record.patient for entry in seen_pool(store, one, "FLAIR").entries}
        everybody = {entry.record.patient for entry in segmentor_pool(store, one, "FLAIR").entries}
        assert len(everybody) == 3
        assert len(seen_pool(store, one, "T1")) == 3  # only the target's
        fewer = replace(one, domains=domains)
        assert Stages(tmp_path, store.path, fewer).experiment.mixing.real == share
    assert [len(some) for some in seen.values()] == [1, 1, 2, 3]
    assert seen[0.1] <= seen[0.4] <= seen[0.7] <= seen[1.0]
