"""Levels over readings, and limits that hold together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ganatomy.measures.crossed import Side, contrast, scores_of
from ganatomy.measures.families import WHOLE, family, reading_level


def test_all_readings_that_there_will_ever_be_stay_within_the_whole():
    levels = [reading_level(n) for n in range(1, 20_000)]
    assert WHOLE - 1e-5 < sum(levels) < WHOLE
    assert levels[1] == pytest.approx(levels[0] / 4)
    assert reading_level(1, 0.05) == pytest.approx(0.0304, abs=1e-4)
    with pytest.raises(ValueError, match="counted from 1"):
        reading_level(0)


def sides(seed, count=3, n=12, r=4, luck=3.0, shared=0.0):
    rng = np.random.default_rng(seed)
    hard, alike = 8 * rng.standard_normal((n, 1)), rng.standard_normal((n, 1))

    def one():
        own = 2.5 * (np.sqrt(shared) * alike + np.sqrt(1 - shared) * rng.standard_normal((n, 1)))
        return scores_of(hard + own + luck * rng.standard_normal((1, r)) + 3 * rng.standard_normal((n, r)))

    return [one() for _ in range(count)], scores_of(
        hard + luck * rng.standard_normal((1, r)) + 3 * rng.standard_normal((n, r))
    )


def test_a_family_of_one_is_judged_at_its_own_level():
    (side,), baseline = sides(0, 1)
    found = family([side], baseline, 0.04)
    assert (found.each, found.comparisons) == (0.04, 1.0)
    assert float(found.contrasts[0].low(0.04)) == float(contrast(side, baseline).low(0.04))
    with pytest.raises(ValueError, match="one comparison"):
        family([], baseline)


def test_level_of_each_lies_between_bonferronis_and_the_familys_and_is_always_the_same():
    for seed in range(5):
        several, baseline = sides(seed, 4)
        found = family(several, baseline, 0.05, draws=20_000)
        assert 0.05 / 4 <= found.each <= 0.05
        assert found.comparisons == pytest.approx(0.05 / found.each)
        assert found.each == family(several, baseline, 0.05, draws=20_000).each


def test_what_candidates_have_in_common_counts_once_and_their_own_luck_each_time():
    common, blind = sides(1, 1, n=200, r=20, luck=0.0)
    lucky, other = sides(1, 1, n=200, r=20, luck=3.0)
    assert family(common * 4, blind, 0.05).comparisons < 1.6
    assert family(lucky * 4, other, 0.05).comparisons > 2.5


def test_dunnetts_limits_come_out_where_everything_is_known():
    """Three treatments and a control, equal numbers, no end of freedom: published 5 % one-sided point 2.06."""
    # Dunnett, Biometrics 20, 1964, table for one-sided comparisons, p = 3, infinite degrees of freedom.
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((4000, 4)))
    pulls = [np.repeat(column[None, None, :], 2, axis=1) for column in basis.T]
    made = [Side(np.zeros(2), pull, np.array([1e9])) for pull in pulls]
    found = family(made[:3], made[3], 0.05, draws=400_000)
    assert stats.norm.isf(found.each) == pytest.approx(2.06, abs=0.01)


def test_all_limits_of_a_family_hold_together():
    """300 families of three at 5 %: about 15 may fail, were 45 to if each were judged at 5 % by itself."""
    wrong = alone = 0
    for seed in range(300):
        several, baseline = sides(seed)
        found = family(several, baseline, 0.05, draws=2000)
        wrong += any(float(one.low(found.each)) > 0 for one in found.contrasts)
        alone += any(float(one.low(0.05)) > 0 for one in found.contrasts)
    assert wrong <= 24
    assert alone > wrong
