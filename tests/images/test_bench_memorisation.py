"""The benchmark of copies, in short, on patients who share an outline and nothing else; and on real ones if at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

DATA = Path(__file__).parents[3] / "shared" / "data" / "acdc-ed-es"


@pytest.fixture(scope="module")
def bench(benchmark_script):
    benchmark_script("alterations")  # which the other imports
    return benchmark_script("bench_memorisation")


def speckled(seed):
    """[1, 48, 48]: a disc that all share, with a texture that is one's own."""
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=x.shape), 1.5)
    return ((x**2 + y**2 < 0.8) * (3 + texture / texture.std()))[None].astype(np.float32)


def some(named, *names):
    return {name: named[name] for name in names}


def test_copies_are_caught_and_honest_sets_are_not(bench):
    patients = {f"p{seed:02d}": [speckled(seed)] for seed in range(72)}
    copies = some(bench.COPIES, "mirrored left to right", "turned by 10°", "inverted", "half, in another patient")
    cells = bench.measured("speckle", patients, 6, 0, copies, some(bench.HONEST, "real", "noise of 10 %"), draws=40)
    assert max(cell.honest for cell in cells if cell.honest is not None) <= 0.1
    assert min(cell.set for cell in cells if cell.set is not None) >= 0.95
    assert min(cell.one for cell in cells if cell.one is not None and "half" not in cell.what) >= 0.95
    assert "| inverted | 100 | 100 |" in bench.table(cells)


def test_own_targets_are_told_from_translations(bench):
    source = {f"p{seed:02d}": [speckled(4 * seed + at) for at in range(bench.SLICES)] for seed in range(20)}
    rng = np.random.default_rng(0)
    target = {
        name: [one + 0.5 * ndimage.gaussian_filter(rng.normal(size=one.shape), [0, 2, 2]) for one in images]
        for name, images in source.items()
    }
    shares = [cell.set for cell in bench.own_targets(source, target, 0, draws=40)]
    assert shares[0] <= 0.1
    assert shares[-1] == 1


def test_real_hearts(bench):
    if not DATA.is_dir():
        pytest.skip("the cohort acdc-ed-es is not at hand")
    hearts = bench.slices(DATA, "ed")
    patients = {name: hearts[name][1:2] for name in sorted(hearts)[:60]}
    copies = some(bench.COPIES, "mirrored left to right", "gamma 2")
    cells = bench.measured("hearts", patients, 4, 0, copies, some(bench.HONEST, "real"), draws=40)
    assert cells[0].honest <= 0.1
    assert min(cell.set for cell in cells[1:]) >= 0.95
