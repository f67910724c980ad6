"""When a training stops, by what, counted in epochs, and which weights are left of it."""

from __future__ import annotations

import numpy as np
import pytest
import radiographs
import tiny
import torch
from sklearn.metrics import log_loss
from torch.nn import functional

from ganatomy.contracts import InputError, Phase
from ganatomy.downstream.classification import CLASSIFICATION
from ganatomy.experiment import Experiment, Training
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import Stages
from ganatomy.training.classification import CLASSIFIERS, make_classification
from ganatomy.training.distributed import DirectoryReporter
from ganatomy.training.downstream import segment
from ganatomy.training.loop import Loop
from ganatomy.training.models import DownstreamModels, models_of
from ganatomy.training.segmentation import SEGMENTORS
from ganatomy.training.tasks import epoch_updates
from training.test_loop import TASK, Config, Duel, Forgetful, Noise

CPU = torch.device("cpu")


def loop_of(training, metrics, epoch=1, steps=10, first=0):
    """A training that validates at every update, where ``metrics`` says what is found."""
    torch.manual_seed(7)
    phases = (Phase("alone", first, may_stop=False), Phase("constant", steps - first))
    return Loop(Duel(Config(), TASK), Noise(), phases, training=training, batch=4, reports=steps, seed=0, epoch=epoch,
                validate=lambda method, step: metrics(step))  # fmt: skip


@pytest.mark.parametrize(("epochs", "epoch", "stopped"), [(1, 3, 5), (1.5, 2, 5), (2, 3, 8), (0, 3, 10), (0.1, 3, 3)])
def test_it_stops_once_nothing_was_better_for_so_many_epochs(epochs, epoch, stopped):
    scores = [0.1, 0.3, 0.3, 0.2, 0.3, 0.2, 0.1, 0.1, 0.0, 0.0]
    loop = loop_of(Training(patience_epochs=epochs), lambda step: {"val/dice": scores[step - 1]}, epoch)
    loop.run(Forgetful())
    assert loop.step == stopped


def test_it_waits_for_the_loss_where_that_is_asked_for():
    """Zhang et al. 2018: once the loss no longer falls, whatever the score does."""
    losses = [0.9, 0.5, 0.6, 0.5, 0.4, 0.7, 0.6, 0.5, 0.4, 0.1]
    loop = loop_of(Training(patience_epochs=3, waits_for="loss"),
                   lambda step: {"val/dice": 0.1 * step, "val/loss": losses[step - 1]})  # fmt: skip
    loop.run(Forgetful())
    assert loop.step == 8


def test_what_is_pre_trained_does_not_count():
    loop = loop_of(Training(patience_epochs=2), lambda step: {"val/dice": 1.0 - 0.1 * step}, first=5)
    loop.run(Forgetful())
    assert loop.step == 8  # the best that counts is at 6


def test_the_best_weights_are_kept_where_that_is_asked_for_also_by_a_training_taken_up_again(tmp_path):
    scores = [0.1, 0.4, 0.3, 0.4, 0.2, 0.1]
    seen = {}

    def validate(step):
        seen[step] = {name: value.clone() for name, value in loop._weights().items()}
        return {"val/dice": scores[step - 1]}

    loop = loop_of(Training(keep="best"), validate, steps=6)
    loop.run(DirectoryReporter(tmp_path, lambda: None))
    assert all(torch.equal(value, seen[2][name]) for name, value in loop.final_weights().items())
    assert not torch.equal(seen[2]["G.0.weight"], seen[6]["G.0.weight"])
    again = loop_of(Training(keep="best"), validate, steps=6)
    again.run(DirectoryReporter(tmp_path, lambda: None))  # ended already: it comes from the checkpoint
    assert all(torch.equal(value, seen[2][name]) for name, value in again.final_weights().items())
    last = loop_of(Training(), lambda step: {"val/dice": scores[step - 1]}, steps=6)
    last.run(Forgetful())
    assert all(torch.equal(value, seen[6][name]) for name, value in last.final_weights().items())


def test_an_epoch_goes_once_through_the_real_samples_in_every_arm(tmp_path):
    films, slices = radiographs.make_store(tmp_path / "films"), tiny.make_store(tmp_path / "tiny")
    epochs = {"training.patience_epochs": 1.0}
    asked = radiographs.EXPERIMENT.with_values(epochs)  # 6 lesions and 14 normals, 2 of either an update
    assert epoch_updates(films, asked, "L") == 7
    assert epoch_updates(films, asked.with_values({"budget.batch": 4}), "L") == 4
    for arm in ("real", "offline", "joint"):
        asked = tiny.EXPERIMENT.with_values({**epochs, "arm": arm, "budget.batch": 1})
        assert epoch_updates(slices, asked, "B") == 4 * 2  # four patients, two slices each
        assert epoch_updates(slices, asked.with_values({"labels.fraction": 0.5}), "B") == 2 * 2
    assert epoch_updates(slices, tiny.EXPERIMENT, "B") == 1  # nobody counts in epochs


def test_losses_on_validation_are_those_of_scikit_learn_and_of_torch(tmp_path):
    store = radiographs.make_store(tmp_path / "films")
    network, sampling = make_classification(radiographs.EXPERIMENT).S, radiographs.EXPERIMENT.sampling
    images = CLASSIFIERS.scored_images(store, "xray", "val")
    rows = CLASSIFIERS.score(network, store, images, sampling, CPU)
    truth, said = [row.label == "lesion" for row in rows], [row.value for row in rows]
    balanced = [1 / truth.count(one) for one in truth]
    expected = log_loss(truth, said, sample_weight=balanced)
    assert CLASSIFIERS.loss(network, store, images, sampling, CPU) == pytest.approx(expected, rel=1e-5)

    slices = tiny.make_store(tmp_path / "tiny")
    segmentor = models_of(tiny.EXPERIMENT).fresh(tiny.EXPERIMENT, slices.classes).S.eval()
    images = SEGMENTORS.scored_images(slices, "mr", "val")
    by_hand = [
        functional.cross_entropy(segmentor(torch.tensor(np.array(slices.image(image)))[:, None]),
                                 torch.tensor(np.array(slices.label(image)).astype(np.int64))).item()
        for image in images
    ]  # fmt: skip
    found = SEGMENTORS.loss(segmentor, slices, images, tiny.EXPERIMENT.sampling, CPU)
    assert found == pytest.approx(np.mean(by_hand), rel=1e-4)
    assert segment(segmentor, slices.image(images[0]), tiny.EXPERIMENT.sampling, CPU).shape == (2, 16, 16)


def test_a_task_without_a_loss_says_so():
    class Other(type(CLASSIFIERS)):
        loss = DownstreamModels.loss

    with pytest.raises(InputError, match="has no loss on whole images"):
        Other().loss(None, None, [], radiographs.EXPERIMENT.sampling, CPU)


@pytest.mark.parametrize("waits", ["score", "loss"])
def test_the_work_on_record_is_what_was_done_before_it_stopped(tmp_path, waits):
    """Nothing is learnt at this rate: the first validation is the best, and an epoch later it stops."""
    store = radiographs.make_store(tmp_path / "films")
    asked = radiographs.EXPERIMENT.with_values({
        "training.patience_epochs": 0.5, "training.waits_for": waits, "downstream.learning_rate": 1e-30,
        "budget.segmentor_steps": 12, "budget.validations": 12, "training.keep": "best",
    })  # fmt: skip
    asked = asked.with_values({"downstream.network": "densenet121"}).with_values(
        {"downstream.network.features": 8, "downstream.network.growth": 4, "downstream.network.blocks": [1, 1]}
    )
    outcome = outcome_of(Stages(tmp_path / "w", store.path, asked))
    assert outcome.summary["work/updates"] < 12
    assert CLASSIFICATION.score in outcome.summary


def test_plans_of_before_keep_their_hashes_and_can_be_read():
    made = Experiment("c", {"A": "ct", "B": "mr"}, arm="real")
    assert made.configuration() == "dd52d41dadaa82a4"
    assert made.with_values({"training.patience": 3}).configuration() == "233403b97a2b6ff9"
    assert made.with_values({"training.patience_epochs": 3}).configuration() != "dd52d41dadaa82a4"
    old = made.to_dict()
    for name in ("patience_epochs", "waits_for", "keep"):
        del old["training"][name]
    assert Experiment.from_dict(old) == made
    for values in ({"training.patience_epochs": -1}, {"training.waits_for": "dice"}, {"training.keep": "first"}):
        with pytest.raises(InputError, match=r"training\."):
            made.with_values(values).validate()
