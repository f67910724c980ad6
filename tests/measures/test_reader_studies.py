"""Areas of several trainings and their covariances: against pairs counted one by one, and leaving patients out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from ganatomy.measures.crossed import contrast
from ganatomy.measures.reader_studies import areas, interval


def ratings(seed=0, trainings=3, lesions=15, normals=21, levels=0):
    """Probabilities [trainings, images] that agree about hard images; in so many steps where there are ``levels``."""
    rng = np.random.default_rng(seed)
    truth = np.arange(lesions + normals) < lesions
    logits = 1.2 * truth + rng.standard_normal(len(truth)) + 0.7 * rng.standard_normal((trainings, len(truth)))
    said = 1 / (1 + np.exp(-logits))
    return (np.round(said * levels) / levels if levels else said), truth


def covariance(side):
    pulls = side.pulls.sum(axis=-3)
    return pulls @ pulls.T


@pytest.mark.parametrize("levels", [0, 4])
def test_areas_are_the_shares_of_pairs(levels):
    said, truth = ratings(levels=levels)
    side = areas(said, truth)
    assert side.means == pytest.approx([roc_auc_score(truth, one) for one in said])
    by_hand = [
        np.mean([(x > y) + 0.5 * (x == y) for x, y in itertools.product(one[truth], one[~truth])]) for one in said
    ]
    assert side.means == pytest.approx(by_hand)


def test_covariances_are_delongs():
    """From the definition: components by loops, their sample covariances over lesions and over normals."""
    said, truth = ratings(levels=6)
    lesions = np.array([[np.mean((x > one[~truth]) + 0.5 * (x == one[~truth])) for x in one[truth]] for one in said])
    normals = np.array([[np.mean((one[truth] > y) + 0.5 * (one[truth] == y)) for y in one[~truth]] for one in said])
    expected = np.cov(lesions) / lesions.shape[1] + np.cov(normals) / normals.shape[1]
    assert covariance(areas(said, truth)) == pytest.approx(expected)


def test_covariances_are_near_those_of_leaving_out_one_patient_at_a_time():
    said, truth = ratings(lesions=30, normals=40)
    keep = ~np.eye(len(truth), dtype=bool)
    left = np.array([areas(said[:, row], truth[row]).means for row in keep])
    n = len(truth)
    jackknife = (n - 1) ** 2 / n * np.cov(left.T)
    assert covariance(areas(said, truth)) == pytest.approx(jackknife, rel=0.06)


def test_a_patient_counts_once_however_many_images_there_are():
    """Every image twice under its patient's name changes nothing; as patients of their own they look like evidence."""
    said, truth = ratings()
    once = areas(said, truth)
    names = list(range(len(truth)))
    twice = areas(np.tile(said, 2), np.tile(truth, 2), names * 2)
    assert twice.means == pytest.approx(once.means)
    assert covariance(twice) == pytest.approx(covariance(once))
    assert twice.freedom.tolist() == once.freedom.tolist() == [14, 20]
    assert np.trace(covariance(areas(np.tile(said, 2), np.tile(truth, 2)))) < 0.6 * np.trace(covariance(once))
    many = [0] * 5 + names[5:]  # the first five lesions are one patient's
    weighted = roc_auc_score(truth, said[0], sample_weight=np.r_[np.full(5, 0.2), np.ones(len(truth) - 5)])
    assert areas(said, truth, many).means[0] == pytest.approx(weighted)


def test_patients_with_both_classes_pull_as_one():
    """Bilateral images: one resampled patient brings both. Against leaving patients out."""
    rng = np.random.default_rng(4)
    n = 60
    truth = np.repeat([True, False], n)
    shared = rng.standard_normal(n)
    said = 1.0 * truth + np.tile(shared, 2) + 0.5 * rng.standard_normal((2, 2 * n))
    names = np.tile(np.arange(n), 2)
    left = np.array([areas(said[:, names != out], truth[names != out]).means for out in range(n)])
    assert covariance(areas(said, truth, names)) == pytest.approx((n - 1) ** 2 / n * np.cov(left.T), rel=0.08)
    assert np.trace(covariance(areas(said, truth, names))) < 0.6 * np.trace(covariance(areas(said, truth)))


def test_many_studies_at_once_are_the_same_one_by_one():
    drawn = [ratings(seed)[0] for seed in range(4)]
    truth = ratings()[1]
    together = areas(np.stack(drawn), truth)
    for index, said in enumerate(drawn):
        assert together.means[index] == pytest.approx(areas(said, truth).means)
        assert together.pulls[index] == pytest.approx(areas(said, truth).pulls)


def test_level_of_a_difference_of_areas_is_kept():
    """Both sides from one distribution, luck of 4 points: 12 and 12 patients, 3 against 4 trainings."""
    rng = np.random.default_rng(6)
    truth = np.arange(24) < 12
    hard = rng.standard_normal((2000, 1, 24))

    def side(trainings):
        apart = 1.2 + 0.2 * rng.standard_normal((2000, trainings, 1))
        return areas(apart * truth + hard + 0.7 * rng.standard_normal((2000, trainings, 24)), truth)

    found = contrast(side(3), side(4))
    assert np.mean(found.p_more() < 0.025) < 0.032
    assert np.mean(found.p_less() < 0.025) < 0.032
    assert np.mean(found.error**2) == pytest.approx(np.var(found.estimate), rel=0.35)


def test_the_interval_of_an_area_without_luck_is_delongs_and_near_that_of_resampled_patients():
    """The same training three times: nothing but patients varies. DeLong's by the definition, on the logit's scale."""
    said, truth = ratings(seed=3, trainings=1, lesions=50, normals=100)
    low, high = interval(areas(np.repeat(said, 3, axis=0), truth))
    more, less = said[0][truth], said[0][~truth]
    lesions = np.array([np.mean((x > less) + 0.5 * (x == less)) for x in more])
    normals = np.array([np.mean((more > y) + 0.5 * (more == y)) for y in less])
    error = np.sqrt(lesions.var(ddof=1) / 50 + normals.var(ddof=1) / 100)
    area = roc_auc_score(truth, said[0])
    logit, reach = np.log(area / (1 - area)), stats.norm.isf(0.025) * error / (area * (1 - area))
    delong = 1 / (1 + np.exp(-np.array([logit - reach, logit + reach])))
    assert (low, high) == pytest.approx(tuple(delong), abs=0.002)  # t for the normal
    rng, drawn = np.random.default_rng(0), []
    for _ in range(500):
        taken = np.r_[rng.integers(0, 50, 50), rng.integers(50, 150, 100)]
        drawn.append(roc_auc_score(truth[taken], said[0][taken]))
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)


def test_the_luck_of_training_widens_the_interval_and_one_training_has_none():
    said, truth = ratings(trainings=3)
    logits = np.log(said / (1 - said))
    lucky = areas(np.stack([logits[0], logits[0] - 1.5 * truth, logits[0] + 1.5 * truth]), truth)
    narrow = np.diff(interval(areas(np.repeat(said[:1], 3, axis=0), truth)))[0]
    low, high = interval(lucky)
    assert high - low > 1.5 * narrow
    assert 0 <= low < high <= 1
    assert np.isnan(interval(areas(said[:1], truth))).all()
    assert np.isnan(interval(areas(np.repeat([truth * 1.0], 3, axis=0), truth))).all()  # perfect: nothing varies


def test_one_class_has_no_area():
    with pytest.raises(ValueError, match="images without"):
        areas(np.full((3, 4), 0.5), np.ones(4, bool))
