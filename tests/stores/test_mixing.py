"""Mixing real and synthetic images: every order spends the same, and a mixture keeps its ratio."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganatomy.contracts import UNLABELLED
from ganatomy.experiment import Mixing
from ganatomy.stores.sampling import Mixture, Pool, Sampler
from stores.addressed_volumes import FLAT, addressed, five, make_store, same


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    store = five(tmp_path_factory.mktemp("sampling") / "s")
    return Pool.of(store, store.records())


@given(half=st.integers(1, 16), step=st.integers(0, 10**6))
def test_half_and_half_is_exact_in_every_batch_of_an_even_number(pool, half, step):
    """T-B6."""
    mixture = Mixture(pool, pool, Mixing(1.0, "mixed", 0.0), 10**6 + 1)
    assert mixture.composition(step, 2 * half) == (half, half)


@given(batch=st.integers(1, 9), ratio=st.integers(0, 4), step=st.integers(0, 10**6))
def test_the_papers_composition_sets_synthetic_images_beside_as_many_real_ones_as_without(pool, batch, ratio, step):
    mixture = Mixture(pool, pool, Mixing(float(ratio), "mixed", 0.0, "paper"), 10**6 + 1)
    assert mixture.composition(step, batch) == (batch, ratio * batch)
    assert mixture.real_before(step, batch) == step * batch


def test_half_and_half_of_one_alternates(pool):
    mixture = Mixture(pool, pool, Mixing(1.0, "mixed", 0.0), 100)
    assert [mixture.composition(step, 1) for step in range(4)] == [(1, 0), (0, 1)] * 2


ratios = st.fractions(0, 8, max_denominator=20)


@given(ratio=ratios, batch=st.integers(1, 9), total=st.integers(1, 300))
def test_all_orders_spend_the_same(pool, ratio, batch, total):
    """T-E12: the total of steps and the samples of each kind are equal; the phases are proportional to the ratio."""
    spent = {}
    for order in ("mixed", "synthetic_first", "real_first"):
        mixture = Mixture(pool, pool, Mixing(float(ratio), order, 0.0), total)
        plan = [mixture.composition(step, batch) for step in range(total)]
        assert all(real >= 0 and synthetic >= 0 and real + synthetic == batch for real, synthetic in plan)
        spent[order] = sum(real for real, _ in plan), sum(synthetic for _, synthetic in plan)
        if order == "synthetic_first":
            reals = [real for real, _ in plan]
            assert reals == sorted(reals)  # none before the switch, all after it
            assert sum(0 < real < batch for real in reals) <= 1
        elif order == "real_first":
            assert [real for real, _ in plan] == sorted((real for real, _ in plan), reverse=True)
    assert len(set(spent.values())) == 1
    share = Fraction(ratio) / (1 + ratio)
    assert abs(spent["mixed"][1] - share * total * batch) < 1


@given(ratio=ratios.filter(bool), batch=st.integers(1, 9), step=st.integers(0, 299))
def test_synthetic_images_alone_are_alone(pool, ratio, batch, step):
    mixture = Mixture(pool, pool, Mixing(float(ratio), "synthetic_alone"), 300)
    assert mixture.composition(step, batch) == (0, batch)
    without = Mixture(pool, None, Mixing(float(ratio), "synthetic_alone"), 300)
    assert without.composition(step, batch) == (batch, 0)


@given(ratio=ratios, batch=st.integers(1, 9), start=st.integers(0, 1000), length=st.integers(1, 200))
def test_mixed_keeps_its_ratio_in_every_stretch(pool, ratio, batch, start, length):
    """T-E12: interleaved, so that any stretch has the ratio to within one sample, and batches differ by at most one."""
    mixture = Mixture(pool, pool, Mixing(float(ratio), "mixed", 0.0), 10**6)
    plan = [mixture.composition(step, batch)[1] for step in range(start, start + length)]
    assert max(plan) - min(plan) <= 1
    assert abs(sum(plan) - Fraction(ratio) / (1 + ratio) * batch * length) < 1


@given(pretrain=st.floats(0, 1), total=st.integers(1, 100), half=st.integers(1, 3))
def test_pretraining_is_real_only(pool, pretrain, total, half):
    batch = 2 * half
    mixture = Mixture(pool, pool, Mixing(1.0, "mixed", pretrain), total)
    before = int(pretrain * total)
    assert [mixture.composition(step, batch) for step in range(before)] == [(batch, 0)] * before
    after = [mixture.composition(step, batch) for step in range(before, total)]
    assert after == [(half, half)] * (total - before)


def test_without_synthetic_images_a_mixture_is_its_real_pool(pool):
    for synthetic in (None, Pool()):
        mixture = Mixture(pool, synthetic, Mixing(3.0, "synthetic_first"), 10)
        one, other = Sampler({"A": mixture}, FLAT, 4, seed=0), Sampler({"A": pool}, FLAT, 4, seed=0)
        assert all(same(one.batch(step)["A"], other.batch(step)["A"]) for step in range(10))
    nothing = Mixture(pool, pool, Mixing(0.0, "mixed", 0.0), 10)
    assert all(nothing.composition(step, 4) == (4, 0) for step in range(10))


@pytest.mark.parametrize("composition", ["equal", "paper"])
def test_where_nothing_real_is_labelled_an_update_is_synthetic_whatever_is_mixed(pool, composition):
    mixture = Mixture(Pool(), pool, Mixing(2.0, pretrain=0.5, composition=composition), 10, unlabelled=True)
    assert [mixture.composition(step, 4) for step in range(10)] == [(0, 4)] * 10
    assert len(Sampler({"A": mixture}, FLAT, 4, seed=0).batch(0)["A"]) == 4


@pytest.mark.parametrize("order", ["mixed", "synthetic_first", "real_first"])
def test_the_samples_are_those_of_the_composition(tmp_path, pool, order):
    """And each side goes through its own images evenly, whatever the other does."""
    made = make_store(tmp_path / "s", [addressed(number=number)[0] for number in range(5, 8)])
    mixture = Mixture(pool, Pool.of(made, made.records()), Mixing(0.5, order, 0.0), 45)
    sampler = Sampler({"A": mixture}, FLAT, 3, seed=0)
    real, synthetic = Counter(), Counter()
    for step in range(45):
        images = sampler.batch(step)["A"]
        is_made = (images.label == UNLABELLED).flatten(1).all(1).tolist()
        assert (is_made.count(False), is_made.count(True)) == mixture.composition(step, 3)
        for subject, flag in zip(images.subjects, is_made, strict=True):
            (synthetic if flag else real)[subject] += 1
    assert set(real.values()) == {18}  # 90 samples of 5 images
    assert set(synthetic.values()) == {15}  # 45 of 3
