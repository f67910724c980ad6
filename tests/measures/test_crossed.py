"""Patients and trainings crossed: against textbook analyses, a published reader study, and what must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ganatomy.measures.crossed import Contrast, Side, contrast, paired, scores_of


def drawn(rng, n=12, r=4, *, luck=0.03, own=0.02, rest=0.03, shift=0.0, hard=None, studies=()):
    """Scores [..., n, r] of one configuration."""
    hard = 0.1 * rng.standard_normal((*studies, n, 1)) if hard is None else hard
    return (
        0.7 + shift + hard + own * rng.standard_normal((*studies, n, 1)) + luck * rng.standard_normal((*studies, 1, r))
        + rest * rng.standard_normal((*studies, n, r))
    )  # fmt: skip


def pair(seed=0, n=12, r=(4, 5), **given):
    rng = np.random.default_rng(seed)
    hard = 0.1 * rng.standard_normal((n, 1))
    return drawn(rng, n, r[0], hard=hard, **given), drawn(rng, n, r[1], hard=hard)


# --- the analysis of variance ------------------------------------------------------------------------------------

TABLE = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
"""Shrout & Fleiss, Psychological Bulletin 86, 1979, table 2: six targets, four judges. Published mean squares (table
3): targets 11.24 on 5, judges 32.49 on 3, residual 1.02 on 15 degrees of freedom."""

TARGETS, JUDGES, RESIDUAL = 11.24, 32.49, 1.02


def test_mean_squares_are_those_of_a_published_two_way_table():
    side = scores_of(TABLE)
    one = contrast(side)
    assert 6 * float(side.luck) == pytest.approx(JUDGES, abs=0.005)
    assert 6 * float(side.residual) == pytest.approx(RESIDUAL, abs=0.005)
    assert 24 * float(one.patients) == pytest.approx(TARGETS, abs=0.005)


def test_error_and_freedom_of_a_published_two_way_table_by_hand():
    """Variance of a grand mean: (targets + judges - residual) / (6 · 4); Satterthwaite over the three."""
    one = contrast(scores_of(TABLE))
    squares, freedom = np.array([TARGETS, JUDGES, -RESIDUAL]), np.array([5, 3, 15])
    assert float(one.error) == pytest.approx(math.sqrt(squares.sum() / 24), rel=1e-3)
    assert float(one.freedom) == pytest.approx(squares.sum() ** 2 / (squares**2 / freedom).sum(), rel=1e-3)


def test_variances_of_two_sides_add_up_from_their_own_tables():
    """By loops, from sums of squares: nothing of the implementation's matrices."""
    a, b = pair()
    n, differences = len(a), a.mean(1) - b.mean(1)
    variance = differences.var(ddof=1) / n
    spread = variance**2 / (n - 1)
    for scores in (a, b):
        r = scores.shape[1]
        rest = sum(
            (scores[i, t] - scores[i].mean() - scores[:, t].mean() + scores.mean()) ** 2
            for i in range(n)
            for t in range(r)
        )
        e, v = (
            rest / ((n - 1) * (r - 1)) / n,
            sum((scores[:, t].mean() - scores.mean()) ** 2 for t in range(r)) / (r - 1),
        )
        assert v > e  # else this table does not test the luck
        variance += (v - e) / r
        spread += (v / r) ** 2 / (r - 1) + (e / r) ** 2 / ((n - 1) * (r - 1))
    found = contrast(scores_of(a), scores_of(b))
    assert float(found.estimate) == pytest.approx(a.mean() - b.mean())
    assert float(found.error) == pytest.approx(math.sqrt(variance))
    assert float(found.freedom) == pytest.approx(variance**2 / spread)


def test_without_luck_it_is_the_paired_t_test_of_patients():
    """Trainings that differ by less than the residual explains."""
    rng = np.random.default_rng(3)
    rest = rng.standard_normal((2, 14, 3))
    rest -= rest.mean(axis=1, keepdims=True)
    a, b = 0.05 * rest + 0.04 * rng.standard_normal((2, 14, 1))
    found = contrast(scores_of(a), scores_of(b))
    theirs = stats.ttest_rel(a.mean(1), b.mean(1), alternative="greater")
    assert float(found.freedom) == pytest.approx(theirs.df)
    assert float(found.estimate / found.error) == pytest.approx(theirs.statistic)
    assert float(found.p_more()) >= theirs.pvalue - 1e-12  # Hall's transformation is only ever the more careful


# --- a published reader study ------------------------------------------------------------------------------------

SPIN_ECHO = [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066]
CINE = [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169]
ERROR, COV1, COV2, COV3 = 0.0008022883, 0.0003466137, 0.0003440748, 0.0002390284


def readers_as_published() -> tuple[Side, Side]:
    """Sides with the published areas, and pulls whose products are the published covariances."""
    same, other = np.full((5, 5), COV2), np.full((5, 5), COV3)
    np.fill_diagonal(same, ERROR)
    np.fill_diagonal(other, COV1)
    pulls = np.linalg.cholesky(np.block([[same, other], [other, same]]))
    freedom = np.array([1e9])  # the published analysis takes the covariances as known
    return (
        Side(np.array(SPIN_ECHO), pulls[None, :5], freedom),
        Side(np.array(CINE), pulls[None, 5:], freedom),
    )


def test_a_published_reader_study_comes_out():
    """Van Dyke's: 5 readers, 2 modalities, 114 patients (Radiology 189, 1993), as analysed by Obuchowski and Rockette's
    method with Hillis's degrees of freedom in the guide of MRMCaov (Smith & Hillis, SPIE 11316, 2020)."""
    found = contrast(paired(*readers_as_published()))
    assert float(found.estimate) == pytest.approx(-0.04380032, abs=1e-8)
    assert float(found.error) == pytest.approx(0.02074862, abs=1e-8)
    assert (float(found.estimate) / float(found.error)) ** 2 == pytest.approx(4.456319, abs=1e-5)
    # Hillis: the mean square of readers within tests alone is uncertain; the residual's share is ours to add.
    hillis = float(found.error) ** 4 / ((float(found.luck[0]) / 5) ** 2 / 4)
    assert hillis == pytest.approx(15.25967, abs=1e-4)
    assert float(found.freedom) == pytest.approx(hillis, rel=1e-6)


@pytest.mark.parametrize(("which", "error", "cov2", "hillis"), [
    (0, 0.03317360, 0.0004839618, 12.74465), (1, 0.02156637, 0.0002041879, 12.71019),
])  # fmt: skip
def test_a_published_single_modality_comes_out(which, error, cov2, hillis):
    """The same guide, readers of one modality alone: what two independent sides are put together from."""
    areas = np.array([SPIN_ECHO, CINE][which])
    same = np.full((5, 5), cov2)
    np.fill_diagonal(same, 2 * cov2)  # cancels: less than the readers differ by
    found = contrast(Side(areas, np.linalg.cholesky(same)[None], np.array([1e9])))
    assert float(found.error) == pytest.approx(error, abs=1e-7)
    assert float(found.error) ** 4 / ((float(found.luck[0]) / 5) ** 2 / 4) == pytest.approx(hillis, abs=1e-3)


# --- what must always hold ---------------------------------------------------------------------------------------

tables = st.tuples(st.integers(0, 10**6), st.integers(3, 20), st.integers(2, 6), st.integers(2, 6), st.booleans())


def of(values) -> Contrast:
    seed, n, r, s, skewed = values
    rng = np.random.default_rng(seed)
    hard = rng.standard_normal((n, 1))
    odd = rng.exponential(size=(n, 1)) if skewed else 0.0
    return contrast(
        scores_of(hard - odd + rng.standard_normal((n, r)) + rng.standard_normal(r)),
        scores_of(hard + rng.standard_normal((n, s)) + rng.standard_normal(s)),
    )


@settings(deadline=None, max_examples=80)
@given(tables, st.floats(1e-4, 0.4), st.floats(-2, 2))
def test_interval_and_test_never_contradict_each_other(values, alpha, least):
    found = of(values)
    low, high = float(found.low(alpha)), float(found.high(alpha))
    assert low <= float(found.estimate) <= high
    for p, apart in ((float(found.p_more(least)), low - least), (float(found.p_less(least)), least - high)):
        if abs(apart) > 1e-9:
            assert (p < alpha) == (apart > 0)
    assert float(found.p_more(low)) == pytest.approx(alpha, abs=1e-7)
    assert float(found.p_less(high)) == pytest.approx(alpha, abs=1e-7)
    assert float(found.low(alpha / 2)) <= low


@settings(deadline=None, max_examples=40)
@given(tables)
def test_sides_mirror_and_units_scale(values):
    seed, n, r, s, _ = values
    a, b = pair(seed, n, (r, s))
    found, mirrored, percent = (
        contrast(scores_of(x), scores_of(y)) for x, y in ((a, b), (b, a), (100 * a + 3, 100 * b + 3))
    )
    assert float(mirrored.low()) == pytest.approx(-float(found.high()))
    assert float(percent.low()) == pytest.approx(100 * float(found.low()))
    assert float(percent.p_more()) == pytest.approx(float(found.p_more()))
    order = np.random.default_rng(seed).permutation(n)
    again = contrast(scores_of(a[order]), scores_of(b[order][:, ::-1]))
    assert float(again.low()) == pytest.approx(float(found.low()))


def test_many_studies_at_once_are_the_same_one_by_one():
    rng = np.random.default_rng(5)
    a, b = drawn(rng, studies=(3, 2)), drawn(rng, studies=(3, 2), r=3)
    together = contrast(scores_of(a), scores_of(b))
    for index in np.ndindex(3, 2):
        alone = contrast(scores_of(a[index]), scores_of(b[index]))
        for name in ("estimate", "error", "freedom", "skewness", "patient"):
            assert getattr(together, name)[index] == pytest.approx(float(getattr(alone, name)))
        assert together.low(0.01)[index] == pytest.approx(float(alone.low(0.01)))
        assert together.least_shown(times=2)[index] == pytest.approx(float(alone.least_shown(times=2)))


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.1])
def test_where_nothing_varies_nothing_is_shown(shift):
    a = np.full((8, 3), 0.7)
    found = contrast(scores_of(a + shift), scores_of(a))
    assert (float(found.low()), float(found.high())) == (-math.inf, math.inf)
    assert float(found.p_more()) == float(found.p_less()) == 1.0


def test_more_patients_do_not_make_luck_smaller():
    """What was wrong with averaging the seeds: with luck 3 points, no number of patients shows half a point."""
    a, b = pair(n=400, r=(3, 3))
    found = contrast(scores_of(a), scores_of(b))
    assert float(found.error) > 0.5 * math.sqrt(sum(float(part) for part in found.training) / 3)
    assert float(found.least_shown(times=2)) > 0.9 * float(found.least_shown()) > 0.03
    assert float(found.least_shown(trainings=(6, 6))) < 0.75 * float(found.least_shown())


def test_parts_are_those_that_the_scores_were_drawn_with():
    rng = np.random.default_rng(8)
    hard = 0.1 * rng.standard_normal((300, 20, 1))
    a = drawn(rng, 20, 5, hard=hard, studies=(300,))
    b = drawn(rng, 20, 4, hard=hard, luck=0.01, studies=(300,))
    found = contrast(scores_of(a), scores_of(b))
    assert float(np.mean(found.luck[0] - found.residual[0])) == pytest.approx(0.03**2, rel=0.15)
    assert float(np.mean(found.luck[1] - found.residual[1])) == pytest.approx(0.01**2, rel=0.15)
    assert float(np.mean(20 * found.residual[0])) == pytest.approx(0.03**2, rel=0.05)
    assert float(np.mean(20 * found.patient)) == pytest.approx(2 * 0.02**2, rel=0.15)
    assert float(np.mean(found.error**2)) == pytest.approx(float(np.var(found.estimate)), rel=0.25)


def test_the_smallest_effect_is_shown_as_often_as_it_says():
    rng = np.random.default_rng(9)
    hard = 0.1 * rng.standard_normal((4000, 15, 1))
    a = drawn(rng, 15, 5, hard=hard, studies=(4000,))
    b = drawn(rng, 15, 5, hard=hard, studies=(4000,))
    found = contrast(scores_of(a), scores_of(b))
    least = float(np.median(found.least_shown(0.025, 0.8)))
    assert np.mean(found.low(0.025) + least > 0) == pytest.approx(0.8, abs=0.06)


def test_what_cannot_be_compared_is_refused():
    a, b = pair()
    with pytest.raises(ValueError, match="same patients"):
        contrast(scores_of(a), scores_of(b[:-1]))
    with pytest.raises(ValueError, match="one training"):
        contrast(scores_of(a), scores_of(b[:, :1]))
    with pytest.raises(ValueError, match="as many trainings a side"):
        paired(scores_of(a), scores_of(b))


def test_of_pairs_what_both_owe_to_the_seed_drops_out():
    a, b = pair()
    b = b[:, : a.shape[1]]
    a = a[:, : b.shape[1]]
    seeds = 0.3 * np.random.default_rng(12).standard_normal(a.shape[1])
    plain = contrast(scores_of(a), scores_of(b), pairs=True)
    lucky = contrast(scores_of(a + seeds), scores_of(b + seeds), pairs=True)
    assert (float(lucky.low()), float(lucky.high())) == pytest.approx((float(plain.low()), float(plain.high())))
    assert lucky.trainings == (a.shape[1],)
    apart = contrast(scores_of(a + seeds), scores_of(b + seeds))
    assert float(apart.error) > 2 * float(lucky.error)


def test_pairs_are_the_analysis_of_their_differences_with_a_more_careful_freedom():
    a, b = pair()
    r = min(a.shape[1], b.shape[1])
    found = contrast(scores_of(a[:, :r]), scores_of(b[:, :r]), pairs=True)
    plain = contrast(scores_of(a[:, :r] - b[:, :r]))
    assert float(found.estimate) == pytest.approx(float(plain.estimate))
    assert float(found.error) == pytest.approx(float(plain.error))
    assert float(found.luck[0]) == pytest.approx(float(plain.luck[0]))
    assert float(found.freedom) < float(plain.freedom)


def test_one_table_twice_varies_in_nothing():
    """Whatever rounding leaves of a difference of equal scores is no measure of certainty."""
    a, _ = pair()
    found = contrast(scores_of(a), scores_of(a + 1e-17), pairs=True)
    assert float(found.error) == 0
    assert float(found.p_more()) == 1


# --- whether the level is kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_level_of_pairs_is_kept_far_out_in_the_tails(share):
    """At the level of a fifth reading, by 30 patients, of whom the luck of five trainings is nearly all."""
    rng, level = np.random.default_rng(11), 0.0011
    seeds = 0.06 * np.sqrt(share) * rng.standard_normal((40_000, 1, 5))
    own = 0.06 * np.sqrt(1 - share)
    hard = 0.1 * rng.standard_normal((40_000, 30, 1))
    a, b = (drawn(rng, 30, 5, hard=hard, luck=own, studies=(40_000,)) + seeds for _ in range(2))
    found = contrast(scores_of(a), scores_of(b), pairs=True)
    assert np.mean(found.p_more() < level) < 1.6 * level
    assert np.mean(found.p_more() < 0.0274) < 0.036


@pytest.mark.parametrize("candidate_luck", [0.0, 0.03, 0.06])
def test_level_is_kept_where_the_sides_differ_in_luck_and_numbers(candidate_luck):
    rng = np.random.default_rng(10)
    hard = 0.1 * rng.standard_normal((6000, 12, 1))
    a = drawn(rng, 12, 3, hard=hard, luck=candidate_luck, studies=(6000,))
    b = drawn(rng, 12, 5, hard=hard, luck=0.03, studies=(6000,))
    found = contrast(scores_of(a), scores_of(b))
    assert np.mean(found.p_more() < 0.025) < 0.036
    assert np.mean(found.p_less() < 0.025) < 0.036


def test_a_few_patients_who_lose_much_do_not_pass_for_a_help():
    """Most gain a little, a few lose much, on average nothing. In 40,000 studies t alone was wrong in 5.5 % instead of
    3.0 %, transformed in 4.1 %."""
    rng = np.random.default_rng(11)
    own = 0.035 * (1 - rng.exponential(size=(40_000, 12, 1)))
    a = own + 0.03 * rng.standard_normal((40_000, 12, 5))
    b = 0.03 * rng.standard_normal((40_000, 12, 5))
    found = contrast(scores_of(a), scores_of(b))
    plain = stats.t.sf(found.estimate / found.error, found.freedom)
    assert np.mean(plain < 0.0304) > 0.05
    assert np.mean(found.p_more() < 0.0304) < 0.045
