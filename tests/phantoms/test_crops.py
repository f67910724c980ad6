"""Crops around one organ: both domains see the same structure and see it otherwise; files give it back."""

from __future__ import annotations

import numpy as np
import pytest

from ganatomy.cohorts.cohort import prepare_image
from ganatomy.cohorts.inspection import check_cohort
from ganatomy.contracts import InputError
from ganatomy.phantoms.crops import KINDS, crop_case, make_crop_cohort

SHAPES = {"pancreas": (4, 48, 48), "breast": (1, 48, 48)}
PATIENTS = (2, 1, 1)


def cases(anatomy, domain, count=12):
    return [crop_case(3, case, anatomy, domain, SHAPES[anatomy]) for case in range(count)]


@pytest.mark.parametrize("anatomy", KINDS)
def test_a_case_has_one_structure_whichever_domain_sees_it_and_no_two_are_alike(anatomy):
    first, second = (cases(anatomy, domain) for domain in KINDS[anatomy].looks)
    for one, other in zip(first, second):
        assert (one.label == other.label).all()
        assert np.abs(one.image - other.image).mean() > 0.1
        assert one.image.shape == one.label.shape == SHAPES[anatomy]
        assert np.abs(one.image).max() <= 1
        assert 0.02 < one.label.mean() < 0.3
    assert len({one.label.tobytes() for one in first}) == len(first)
    again = crop_case(3, 0, anatomy, next(iter(KINDS[anatomy].looks)), SHAPES[anatomy])
    assert (again.image == first[0].image).all()


@pytest.mark.parametrize("anatomy", KINDS)
def test_no_threshold_finds_the_structure_although_it_differs_from_what_is_around_it(anatomy):
    """Else nothing need be learnt; and a domain whose structure is invisible could not be."""
    for domain in KINDS[anatomy].looks:
        image, label = (np.stack([getattr(one, name) for one in cases(anatomy, domain)]) for name in ("image", "label"))
        inside, outside = image[label == 1], image[label == 0]
        assert abs(inside.mean() - outside.mean()) > 0.15
        sign = np.sign(inside.mean() - outside.mean())
        best = max(dice(sign * image >= threshold, label) for threshold in np.linspace(-1, 1, 41))
        assert best < 0.75


def dice(found, label):
    return 2 * (found & (label == 1)).sum() / (found.sum() + label.sum())


@pytest.mark.parametrize("anatomy", KINDS)
def test_the_cohort_is_sound_and_its_files_hold_the_case(anatomy, tmp_path):
    looks = KINDS[anatomy].looks
    cohort = make_crop_cohort(tmp_path / "c", anatomy=anatomy, patients=dict.fromkeys(looks, PATIENTS),
                              shape=SHAPES[anatomy], seed=3)  # fmt: skip
    assert (cohort.anatomy, cohort.labels) == (anatomy, {1: KINDS[anatomy].label})
    assert {domain.name: domain.modality for domain in cohort.domains.values()} == {
        name: look.modality for name, look in looks.items()
    }
    assert not check_cohort(tmp_path / "c")[1].findings
    for case, row in enumerate(cohort.rows):
        expected = crop_case(3, case, anatomy, row.domain, SHAPES[anatomy])
        prepared = prepare_image(row, cohort)
        assert np.abs(prepared.image - expected.image).max() <= 0.002
        assert (prepared.label == expected.label).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"anatomy": "liver"}, "unknown crop 'liver'"),
        ({"patients": {"pet": PATIENTS}}, "unknown domain 'pet' of pancreas"),
        ({"patients": {"ct": (0, 1, 1)}}, "patients of ct"),
        ({"shape": (1, 16, 16)}, "a crop of shape"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(wrong, said, tmp_path):
    asked = {"anatomy": "pancreas", "patients": {"ct": PATIENTS}, "shape": (2, 32, 32), **wrong}
    with pytest.raises(InputError, match=said):
        make_crop_cohort(tmp_path / "c", **asked)
    assert not list(tmp_path.iterdir())
