"""Soft Dice as what a segmentor minimises: by hand, sample by sample, and where a structure is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ganatomy.contracts import UNLABELLED, InputError, cross_entropy
from ganatomy.experiment import Choice, Downstream, Experiment
from ganatomy.training.downstream import dice_cross_entropy, dice_loss


def surely(label, classes):
    """Logits of a segmentor that says ``label`` and has no doubt."""
    return 50.0 * torch.nn.functional.one_hot(label, classes).movedim(-1, 1).float()


def test_dice_by_hand_over_structures_and_samples():
    truth = torch.zeros(2, 2, 4, dtype=torch.long)
    truth[0, 0] = 1
    assert dice_loss(surely(truth, 3), truth).item() == pytest.approx(0, abs=1e-6)
    # Class 1 of the first sample: 1 - 1 / (4 + 4 + 1); class 2 is nowhere and costs nothing; likewise in the second,
    # of which all that is found is wrong: 1 - 1 / (4 + 1).
    found = torch.zeros_like(truth)
    found[0, 1] = found[1, 1] = 1
    assert dice_loss(surely(found, 3), truth).item() == pytest.approx((8 / 9 + 0 + 4 / 5 + 0) / 4, abs=1e-6)


def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_samples():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 2, 8, 8, dtype=torch.float32), torch.randint(0, 2, (2, 8, 8))
    alone = [dice_loss(logits[i : i + 1], truth[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(dice_loss(logits, truth), sum(alone) / 2)
    both = dice_cross_entropy(logits, truth)
    torch.testing.assert_close(both, cross_entropy(logits, truth) + dice_loss(logits, truth))
    truth[1] = UNLABELLED  # counts as a sample, and costs nothing
    torch.testing.assert_close(dice_loss(logits, truth), alone[0] / 2)


def test_settings_that_another_loss_does_not_go_with_are_refused():
    made = Experiment("", {"A": "a", "B": "b"}, arm="real", downstream=Downstream(loss="dice_cross_entropy"))
    for arm in ("real", "offline", "joint"):
        replace(made, arm=arm).validate()
    classifier = Downstream(Choice("drn_d_22"), task="classification", loss="dice_cross_entropy")
    with pytest.raises(InputError, match=r"downstream\.loss"):
        replace(made, downstream=classifier).validate()
    with pytest.raises(InputError, match=r"waits_for = loss with downstream\.loss = dice_cross_entropy"):
        replace(made, training=replace(made.training, waits_for="loss")).validate()


def test_experiments_of_before_keep_their_configuration():
    """No such setting is in the hash by which plans declare what they compare, unless it is another than before."""
    plain = Experiment("", {"A": "a", "B": "b"})
    values = plain.to_dict()
    del (
        values["downstream"]["loss"],
        values["labels"]["drawn"],
        values["sampling"]["middle_slices"],
        values["sampling"]["central"],
    )
    assert Experiment.from_dict(values).configuration() == plain.configuration()
    others = [{"downstream.loss": "dice_cross_entropy"}, {"sampling.middle_slices": 60}, {"sampling.central": True},
              {"labels.drawn": "once"}]  # fmt: skip
    assert len({plain.with_values(other).configuration() for other in ({}, *others)}) == 5
    with pytest.raises(InputError, match="middle_slices"):
        plain.with_values({"sampling.middle_slices": 60, "sampling.ndim": 3, "sampling.size": [8, 8, 8]}).validate()
