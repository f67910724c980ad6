"""MAE, PSNR and MS-SSIM inside the body: what MONAI says where the body is all there is, and nothing of what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ganatomy.contracts import TISSUE, body
from ganatomy.measures.synthesis.paired import (
    PairedCase,
    mean_absolute_error,
    measures_of,
    paired_rows,
    peak_signal_to_noise,
    structural_similarity,
)
from ganatomy.measures.synthesis.pathology import WEIGHTS, scales

SIDES = (2, 104, 100)


def pair(seed=0, shape=SIDES, noise=0.2):
    rng = np.random.default_rng(seed)
    real = rng.uniform(-0.5, 0.5, shape).astype(np.float32)
    return np.clip(real + rng.normal(0, noise, shape), -1, 1).astype(np.float32), real


def tensors(*volumes):
    """Each axial slice as an image of its own, in [0, 1]."""
    return [torch.from_numpy((volume[:, None].astype(np.float64) + 1) / 2) for volume in volumes]


def test_where_all_is_body_the_numbers_are_monais():
    from monai.metrics import MAEMetric, MultiScaleSSIMMetric, PSNRMetric

    made, real = pair()
    everywhere = np.ones(SIDES, bool)
    whole = [torch.from_numpy(volume[None, None].astype(np.float64)) for volume in (made, real)]
    assert mean_absolute_error(made, real, everywhere) == pytest.approx(float(MAEMetric()(*whole)))
    assert peak_signal_to_noise(made, real, everywhere) == pytest.approx(float(PSNRMetric(max_val=2.0)(*whole)))
    some = np.array(WEIGHTS[: scales(SIDES[1:])])
    monais = MultiScaleSSIMMetric(2, data_range=1.0, weights=tuple(some / some.sum()))(*tensors(made, real))
    assert structural_similarity(made, real, everywhere) == pytest.approx(float(monais.mean()), abs=1e-4)


def test_what_lies_outside_of_the_body_does_not_count():
    made, real = pair()
    inside = np.zeros(SIDES, bool)
    inside[1:, 20:60, 20:60] = True
    other = np.where(inside, made, 0.9).astype(np.float32)
    for measure in (mean_absolute_error, peak_signal_to_noise):
        assert measure(made, real, inside) == measure(other, real, inside)
        assert measure(made, real, inside) != measure(made, real, ~inside)
    assert mean_absolute_error(made, real, inside) == pytest.approx(np.abs(made - real)[inside].mean(), rel=1e-5)
    # Windows reach 5 voxels out of it, more at coarser scales: what is farther cannot matter.
    far = made.copy()
    far[0], far[:, 88:] = 0.9, 0.9
    assert structural_similarity(far[:, :, :64], real[:, :, :64], inside[:, :, :64]) == pytest.approx(
        structural_similarity(made[:, :, :64], real[:, :, :64], inside[:, :, :64]), abs=0.02
    )


@pytest.mark.parametrize("closer", [0.05, 0.1])
def test_less_noise_is_nearer_in_all_three(closer):
    found = [measures_of(PairedCase(*pair(noise=noise), pair()[1])) for noise in (closer, 0.4)]
    assert found[0]["mae"] < found[1]["mae"]
    assert found[0]["psnr"] > found[1]["psnr"]
    assert found[0]["ms_ssim"] > found[1]["ms_ssim"]


def test_hounsfield_units_are_the_range_of_the_window():
    made, real = pair()
    (low, high), inside = (-1000.0, 1400.0), np.ones(SIDES, bool)
    found = measures_of(PairedCase(made, real, real, native=high - low))
    native = [(volume + 1) / 2 * (high - low) + low for volume in (made, real)]
    assert found["mae_hu"] == pytest.approx(np.abs(native[0] - native[1])[inside].mean(), rel=1e-4)
    assert "mae_hu" not in measures_of(PairedCase(made, real, real))


def test_nothing_is_said_of_equal_images_noise_or_of_no_body():
    _, real = pair()
    assert measures_of(PairedCase(real, real, real)) == {"mae": 0.0, "ms_ssim": 1.0}
    air = np.full(SIDES, -1, np.float32)
    assert measures_of(PairedCase(real, air, air)) == {}
    assert math.isnan(peak_signal_to_noise(real, real, np.zeros(SIDES, bool)))
    small = pair(shape=(2, 16, 8))
    assert measures_of(PairedCase(*small, small[1])).keys() == {"mae", "psnr"}  # no window of MS-SSIM fits


def test_rows_are_one_a_volume_and_measure():
    volumes = [{"subject": "s", "patient": "p", "domain": "ct", "measures": {"mae": 0.1, "psnr": 20.0}}]
    assert [(row.metric, row.label, row.value) for row in paired_rows(volumes)] == [
        ("synthesis/mae", "ct", 0.1),
        ("synthesis/psnr", "ct", 20.0),
    ]


# --- the body ----------------------------------------------------------------------------------------------------


def test_the_body_holds_its_dark_hollows_and_no_air():
    rows, columns = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(rows, columns)
    ring = torch.from_numpy(np.where((radius > 10) & (radius < 24), 0.0, -1.0))[None, None]
    found = body(ring)[0, 0].numpy()
    assert np.array_equal(found, radius < 24)
    assert not body(torch.full((1, 1, 8, 8), TISSUE)).any()


def test_the_body_is_what_either_image_shows_whatever_their_order():
    first, second = torch.full((2, 1, 1, 16, 16), -1.0)
    first[..., 4:8, 4:8], second[..., 6:12, 6:12] = 0.5, -0.5
    both = body(first, second)
    assert torch.equal(both, body(second, first))
    assert both[..., 4:8, 4:8].all()
    assert both[..., 6:12, 6:12].all()
    assert not both[..., 12:, :].any()


def test_the_body_of_a_volume_is_that_of_its_axial_slices():
    volume = torch.from_numpy(np.random.default_rng(0).uniform(-1.5, 0.2, (4, 20, 24)))
    assert torch.equal(body(volume), torch.stack([body(part) for part in volume]))
