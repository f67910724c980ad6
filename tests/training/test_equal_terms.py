"""Arms on equal terms: the same first weights, the same real images in the same order, as many samples an update."""

from __future__ import annotations

import contextlib

import pytest
import tiny
import torch

from ganatomy.contracts import labelled
from ganatomy.experiment import Experiment
from ganatomy.training.downstream import ROLE
from ganatomy.training.loop import Loop
from ganatomy.training.tasks import FitGenerator, TrainDownstream

CPU = torch.device("cpu")


def course(path, store, arm, **values):
    """What an arm trains, of 12 updates of its downstream model, the first half of them on real images alone."""
    given = {"budget__segmentor_steps": 12, "budget__generator_steps": 9, "mixing__pretrain": 0.5, "arm": arm, **values}
    chosen = tiny.experiment(**given)
    if arm == "joint":
        return FitGenerator(store.path, chosen, path).course(store, CPU), chosen
    made = (
        (store.path, tuple(image.index for image in store.records("mr", "train"))) if arm == "offline" else (None, ())
    )
    role = "A" if arm == "source" else "B"
    return TrainDownstream(store.path, chosen, path, role, *made, scored="B").course(store, CPU), chosen


def real_images(made, chosen: Experiment):
    """(real images, synthetic ones wanted) of each update of the target's segmentor; offline, real come first."""
    total = sum(phase.steps for phase in made.phases)
    batches = [made.draws.batch(step) for step in range(total)]
    if chosen.arm == "joint":
        seen = [batch[labelled("B")] for batch in batches if labelled("B") in batch]
        return [(images, images.vacant or ()) for images in seen]
    counts = [batch[ROLE] for batch in batches]
    if chosen.arm == "real":
        return [(images, ()) for images in counts]
    mixture = made.draws.pools[ROLE]
    return [(images, range(mixture.composition(step, chosen.budget.batch)[1])) for step, images in enumerate(counts)]


def first_weights(made, chosen):
    network = made.method.segmentor("B") if chosen.arm == "joint" else made.method.get_submodule("S")
    return network.state_dict()


def test_arms_of_one_seed_start_from_the_same_segmentor(tmp_path):
    store = tiny.make_store(tmp_path / "s")
    real, offline, joint = (first_weights(*course(tmp_path, store, arm)) for arm in ("real", "offline", "joint"))
    assert real.keys() == offline.keys() == joint.keys()
    assert all(torch.equal(real[name], offline[name]) and torch.equal(real[name], joint[name]) for name in real)
    other = first_weights(*course(tmp_path, store, "joint", seed=1))
    assert any(not torch.equal(real[name], other[name]) for name in real)


def test_arms_of_one_seed_see_the_same_real_images_in_the_same_order(tmp_path):
    """Where an arm sees synthetic ones too, it is behind in them and never ahead; the place of each is the same."""
    store = tiny.make_store(tmp_path / "s")
    streams, counts = {}, {}
    for arm in ("real", "offline", "joint"):
        seen = real_images(*course(tmp_path, store, arm))
        assert len(seen) == 12
        counts[arm] = [len(synthetic) for _, synthetic in seen]
        parts = [images.image[: 2 - len(synthetic)] for images, synthetic in seen]
        numbers = [images.drawn[: 2 - len(synthetic)] for images, synthetic in seen]
        streams[arm] = torch.cat(parts), [one for some in numbers for one in some]
    assert counts["real"] == [0] * 12
    assert counts["offline"] == counts["joint"] == [0] * 6 + [1] * 6
    for arm in ("offline", "joint"):
        images, numbers = streams[arm]
        assert len(images) == 18
        assert torch.equal(images, streams["real"][0][:18])
        assert numbers == streams["real"][1][:18]  # and so is what augmentation does to them


def test_one_sample_an_update_is_real_and_synthetic_by_turns_in_both_arms(tmp_path):
    store = tiny.make_store(tmp_path / "s")
    for arm in ("offline", "joint"):
        seen = real_images(*course(tmp_path, store, arm, budget__batch=1))
        assert [len(synthetic) for _, synthetic in seen] == [0] * 6 + [0, 1] * 3


class Nowhere:
    """Keeps nothing."""

    def report(self, history, save):
        return None

    def latest(self):
        return contextlib.nullcontext(None)


def trained(made, steps):
    """The target's segmentor after the first phase."""
    chosen = made[1]
    phases = made[0].phases[:1]
    loop = Loop(made[0].method, made[0].draws, phases, training=chosen.training, batch=chosen.budget.batch, reports=1,
                seed=chosen.seed)  # fmt: skip
    assert loop.total == steps
    loop.run(Nowhere())
    return first_weights(*made)


def test_pretraining_in_the_joint_arm_is_the_real_arms_training(tmp_path):
    """The same weights after the same updates, with augmentation too: only the data made later can set them apart."""
    store = tiny.make_store(tmp_path / "s")
    for augmentation in ("none", "light"):
        values = {"downstream__augmentation": augmentation}
        joint = trained(course(tmp_path, store, "joint", **values), 6)
        made, chosen = course(tmp_path, store, "real", budget__segmentor_steps=8, **values)  # 6 before the decay
        real = trained((made, chosen), 6)
        for name, value in real.items():
            torch.testing.assert_close(joint[name], value, rtol=1e-4, atol=1e-6)


def test_without_labels_of_the_target_the_joint_arm_begins_as_the_source_arm(tmp_path):
    """Until there are translations: then it sees as many of these in an update, and no real image."""
    store = tiny.make_store(tmp_path / "s")
    for augmentation in ("none", "light"):
        values = {"labels__fraction": 0.0, "downstream__augmentation": augmentation}
        joint = trained(course(tmp_path, store, "joint", **values), 6)
        made, chosen = course(tmp_path, store, "source", budget__segmentor_steps=8, **values)
        source = trained((made, chosen), 6)
        for name, value in source.items():
            torch.testing.assert_close(joint[name], value, rtol=1e-4, atol=1e-6)
    made, chosen = course(tmp_path, store, "joint", labels__fraction=0.0)
    total = sum(phase.steps for phase in made.phases)
    batches = [made.draws.batch(step) for step in range(total)]
    assert not any(labelled("B") in batch for batch in batches)
    own = [batch[labelled("A")] for batch in batches if labelled("A") in batch]
    assert [len(images.none().vacant) for images in own] == [2] * 12


@pytest.mark.parametrize("arm", ["real", "offline", "joint"])
def test_the_loss_that_is_chosen_teaches_the_segmentor_of_every_arm(tmp_path, arm):
    store, losses = tiny.make_store(tmp_path / "s"), {}
    for name in ("cross_entropy", "dice_cross_entropy"):
        made, chosen = course(tmp_path, store, arm, downstream__loss=name)
        loop = Loop(made.method, made.draws, made.phases, training=chosen.training, batch=chosen.budget.batch,
                    reports=1, seed=0)  # fmt: skip
        told = loop._one_step()
        (losses[name],) = (float(loss.detach()) for said, loss in told.items() if said.startswith("segmentation"))
    assert losses["dice_cross_entropy"] > losses["cross_entropy"] + 0.1
