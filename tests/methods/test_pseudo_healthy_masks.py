"""Pseudo-healthy synthesis: which masks are read in paired, unpaired and mixed training, and which never."""

import dataclasses

import pytest
import torch
from tiny import EXPERIMENT, make_store

from ganatomy.contracts import UNLABELLED, Images, InputError
from ganatomy.experiment import Choice
from ganatomy.training.optimisation import OptimisationStep
from ganatomy.training.tasks import FitGenerator
from ganatomy_methods.common.losses import lsgan_generator, soft_dice
from methods.inspected import Inspected
from methods.small_pseudo_healthy import SMALL, batch, make


class Poison:
    """Stands where nothing may look: whatever is done with it fails."""

    def __getattribute__(self, name):
        raise AssertionError("an aligned mask was read")

    def __gt__(self, other):
        raise AssertionError("an aligned mask was read")


def test_unpaired_training_never_reads_the_masks_of_its_images():
    """T-D3."""
    method, images = make(supervision="unpaired"), batch()
    images["P"] = Images(images["P"].image, Poison(), images["P"].subjects)
    images["H"] = Images(images["H"].image, Poison(), images["H"].subjects)
    update = OptimisationStep(method.networks(), method.optimisers())
    losses = [method.step(images, update) for _ in range(2)][-1]
    assert all(torch.isfinite(loss) for loss in losses.values())
    with pytest.raises(AssertionError, match="aligned mask"):
        make(supervision="paired").step(images, Inspected())


def test_paired_training_has_no_mask_discriminator_and_asks_for_no_other_masks():
    """T-D3."""
    method, images = make(), batch()
    assert set(method.networks()) == {"G", "R", "S", "D_x"}
    del images["masks"]
    method.step(images, Inspected())


def test_unpaired_training_without_other_masks_says_what_it_needs():
    images = batch()
    del images["masks"]
    with pytest.raises(InputError, match="no masks of other volumes"):
        make(supervision="unpaired").step(images, Inspected())


def test_a_mask_of_the_same_volume_is_left_out():
    """T-D3: what stands at the position of its own image counts as little as no mask at all."""
    method, images = make(supervision="unpaired"), batch()
    masks = images["masks"]

    def judged(subjects, label=masks.label):
        return method.step({**images, "masks": Images(masks.image, label, subjects)}, Inspected())["mask_discriminator"]

    unlabelled = masks.label.clone()
    unlabelled[1] = UNLABELLED
    garbage = masks.label.clone()
    garbage[1] = 1 - garbage[1]
    own = ("masks0", "P1")
    assert judged(own) == judged(("masks0", "masks1"), unlabelled)
    assert judged(own, garbage) == judged(own)
    assert judged(own) != judged(("masks0", "masks1"))


@pytest.mark.parametrize(("fraction", "limit"), [(1.0, "paired"), (0.0, "unpaired")])
def test_mixed_supervision_lies_between_paired_and_unpaired(fraction, limit):
    """With every mask there S learns as when paired, with none as when unpaired."""
    images = batch()
    if not fraction:
        images["P"] = Images(images["P"].image, torch.full_like(images["P"].label, UNLABELLED), images["P"].subjects)

    def gradient(supervision):
        method, update = make(supervision=supervision, adversarial_weight=2.0), Inspected()
        method.step(images, update)
        return torch.autograd.grad(update.objectives["G", "R", "S"], list(method.S.parameters()))

    for mine, reference in zip(gradient("mixed"), gradient(limit), strict=True):
        torch.testing.assert_close(mine, reference)


def test_each_image_of_a_mixed_batch_learns_from_one_source():
    images, method = batch(), make(supervision="mixed")
    images["P"].label[1] = UNLABELLED
    losses = method.step(images, Inspected())
    x_p = (images["P"].image + 1) / 2
    m_p = (images["P"].label[:1] > 0)[:, None].float()
    torch.testing.assert_close(losses["segmentation"], soft_dice(method.S(x_p[:1]), m_p, torch.ones(1)).detach() / 2)
    expected = lsgan_generator(method.D_m(method.S(x_p[1:]))) / 4
    torch.testing.assert_close(losses["adversarial_mask"], expected.detach())


def test_the_platform_draws_the_other_masks(tmp_path):
    """T-D3, in the loop itself: labelled images of P beside the images, in an order of their own."""
    choice = Choice("ganatomy_methods.pseudo_healthy:PseudoHealthy", {**SMALL, "supervision": "unpaired"})
    unpaired = dataclasses.replace(EXPERIMENT, arm="offline", method=choice, domains={"P": "ct", "H": "mr"}, target="P")
    store = make_store(tmp_path / "store")
    loop = FitGenerator(store.path, unpaired, tmp_path)(rank=0, world=1, device=torch.device("cpu"))
    drawn = [loop.draws.batch(step) for step in range(20)]
    pairs = [pair for given in drawn for pair in zip(given["masks"].subjects, given["P"].subjects, strict=True)]
    assert {mask for mask, _ in pairs} == {image for _, image in pairs}
    assert sum(mask != image for mask, image in pairs) > len(pairs) / 2
    assert all((given["masks"].label > 0).any() for given in drawn)
    update = OptimisationStep(loop.method.networks(), loop.method.optimisers())
    assert all(torch.isfinite(loss) for loss in loop.method.step(drawn[0], update).values())
