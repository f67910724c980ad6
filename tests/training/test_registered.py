"""Registered roles are drawn together and cut alike; a cohort that has no pairs, or no labels, is told so."""

from __future__ import annotations

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from ganatomy.contracts import InputError
from ganatomy.experiment import Choice, Experiment, Sampling
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.stores.sampling import Pool, Sampler
from ganatomy.stores.writing import Item, write_store
from ganatomy.sweeps.request import SweepRequest
from ganatomy.training.pools import check_method, generator_pools

SHAPE = (4, 24, 20)
BASE = Experiment("pairs", {"A": "mr", "B": "ct"}, arm="offline", method=Choice("paired_translation"),
                  sampling=Sampling(2, (8, 8), 0.5))  # fmt: skip


def item(domain, number, subject="", shape=SHAPE, shift=0.0, labelled=True, split="train"):
    """Voxels say where they are and whose: the image of ct is the negative of that of mr."""
    place = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / np.prod(shape)
    image = 0.1 * number + 0.05 * place
    label = np.zeros(shape, np.uint8)
    label[1, 2 + number : 6, 3:9] = labelled
    affine = np.eye(4)
    affine[0, 3] = shift
    subject = subject or f"s{number}"
    return Item(subject, f"p{number}", domain, split, -image if domain == "ct" else image, label, affine=affine)


@pytest.fixture
def store_of(tmp_path):
    def store_of(*items):
        return write_store(tmp_path / "s", name="pairs", labels={1: "l"}, domains={"mr": {}, "ct": {}, "t2": {}},
                           digest="d", items=items)  # fmt: skip

    return store_of


@pytest.mark.parametrize("sampling", [Sampling(2, (8, 8), 0.5), Sampling(3, (2, 8, 8), 0.0), Sampling(2, (32, 8), 0.0)])
def test_each_sample_is_one_place_of_one_examination_in_both_roles(store_of, sampling):
    items = [item(domain, number) for domain in ("ct", "mr") for number in range(4)]
    store = store_of(*items, item("ct", 4), item("mr", 5))  # two who lack their other half
    chosen = replace(BASE, sampling=sampling)
    sampler = Sampler(generator_pools(store, chosen, chosen.method_class()), sampling, 3, seed=0)
    seen = set()
    for step in range(8):
        batch = sampler.batch(step)
        x_A, x_B = batch["A"].image, batch["B"].image
        inside = x_A != -1
        assert torch.equal(x_A[inside], -x_B[inside])
        assert batch["A"].subjects == batch["B"].subjects
        assert torch.equal(batch["A"].label, batch["B"].label)
        seen |= set(batch["A"].subjects)
        shares = [sampler.batch(step, rank, 3)["B"].image for rank in range(3)]
        assert torch.equal(torch.cat(shares), x_B)
    assert seen == {"s0", "s1", "s2", "s3"}


def test_other_methods_draw_each_role_by_itself(store_of):
    store = store_of(*[item(domain, number) for domain in ("ct", "mr") for number in range(4)])
    chosen = replace(BASE, method=Choice("cyclegan"))
    sampler = Sampler(generator_pools(store, chosen, chosen.method_class()), chosen.sampling, 4, seed=0)
    pairs = [sampler.batch(step) for step in range(8)]
    assert any(batch["A"].subjects != batch["B"].subjects for batch in pairs)


def test_images_that_belong_to_nobody_in_common_are_no_pairs(store_of):
    check_method(store := store_of(item("mr", 0), item("ct", 1)), replace(BASE, arm="real"))
    with pytest.raises(InputError, match=r"no examination with an image .* mr, ct.*registered.*cyclegan"):
        check_method(store, BASE)
    check_method(store, replace(BASE, method=Choice("cyclegan")))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("other", [{"shape": (4, 24, 24)}, {"shift": 2.0}])
def test_pairs_on_two_grids_are_not_registered(store_of, other, split):
    odd = item("mr", 1, split=split), item("ct", 1, split=split, **other)
    store = store_of(item("mr", 0), item("ct", 0), *odd)
    with pytest.raises(InputError, match="subject s1: the grids of its mr and ct images differ"):
        check_method(store, BASE)


def test_pairs_are_fewer_where_fewer_patients_may_be_seen(store_of):
    store = store_of(*[item(domain, number) for domain in ("ct", "mr") for number in range(4)])
    for fraction, sees, count in ((0.5, "subset", 2), (0.5, "all", 4), (0, "all", 4)):
        chosen = BASE.with_values({"labels.fraction": fraction, "labels.gan_sees": sees})
        pools = generator_pools(store, chosen, chosen.method_class())
        assert {len(pool) for pool in pools.values()} == {count}


def test_a_pool_is_cut_with_another_whose_images_are_as_many(store_of):
    store = store_of(item("mr", 0), item("ct", 0), item("ct", 1))
    lone, more = (Pool.of(store, store.records(domain)) for domain in ("mr", "ct"))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        more.drawn_with(lone, "A")


@pytest.mark.parametrize(("space", "says"), [
    ("paired_translation", "no examination with an image that may be seen in each of ct, mr"),
    ("diffusion", "nothing is labelled in any mr image of split train"),
])  # fmt: skip
def test_a_sweep_is_refused_with_its_plan_and_leaves_none(workspace, tmp_path, space, says):
    """Hearts of other patients in CT and in MR, of which nobody labelled the MR of the training patients."""
    cohort = make_cohort(tmp_path / "hearts", patients={"ct": (2, 1, 0), "mr": (2, 1, 0)}, shape=(2, 16, 16))
    if space == "diffusion":
        for row in cohort.rows_of("mr", "train"):
            label = nibabel.load(row.label)
            nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), row.label)
    request = SweepRequest(space=space, cohort=cohort.path, source="ct" if space == "paired_translation" else "",
                           target="mr", set=("method.width=0.0625",), workspace=workspace)  # fmt: skip
    with pytest.raises(InputError, match=says):
        request.planned()
    assert not list((workspace / "sweeps").glob("*/sweep.json"))
