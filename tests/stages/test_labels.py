"""Labels in stages: who is taught by which, what is withheld, and what synthetic images claim to show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from tiny import experiment

from ganatomy.contracts import UNLABELLED, InputError, labelled
from ganatomy.stages.stages import SYNTHETIC, Stages
from ganatomy.stores.store import open_store
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.pools import generator_pool, labelled_patients, segmentor_pool
from ganatomy.training.tasks import FitGenerator
from ganatomy_methods.shape_consistent import ShapeConsistent

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.mark.parametrize("gan_sees", ["subset", "all"])
def test_who_is_in_which_pool(store, gan_sees):
    chosen = experiment(labels__fraction=0.5, labels__gan_sees=gan_sees)
    patients = labelled_patients(store, chosen, "B")
    everyone = {image.patient for image in store.records("mr", "train")}
    assert len(patients) == len(everyone) / 2
    pools = {role: generator_pool(store, chosen, role) for role in "AB"}
    assert {entry.record.patient for entry in pools["B"].entries} == (everyone if gan_sees == "all" else patients)
    assert {entry.record.patient for entry in pools["B"].entries if entry.labelled} == patients
    assert {entry.record.patient for entry in segmentor_pool(store, chosen, "B").entries} == patients
    for pool in (pools["A"], segmentor_pool(store, chosen, "A")):  # only the target's labels are scarce
        assert len(pool) == len(store.records("ct", "train"))
        assert all(entry.labelled for entry in pool.entries)
    for entry in [*pools["A"].entries, *pools["B"].entries]:
        assert entry.record.split == "train"


def test_segmentors_get_as_many_labels_a_step_beside_unlabelled_images_as_without_them(tmp_path, store):
    def batches(chosen):
        loop = FitGenerator(store.path, chosen, tmp_path)(rank=0, world=1, device=torch.device("cpu"))
        return [loop.draws.batch(step) for step in range(loop.total)]

    chosen = experiment(arm="joint", labels__fraction=0.5, labels__gan_sees="all")
    seen = labelled_patients(store, chosen, "B")
    patient_of = {image.subject: image.patient for image in store.records("mr", "train")}
    pairs = list(zip(batches(chosen), batches(experiment(arm="joint")), strict=True))
    for few, everything in pairs:
        assert {key: (len(few[key]), few[key].vacant) for key in few} == {
            key: (len(images), images.vacant) for key, images in everything.items()
        }
        if own := few.get(labelled("B")):
            assert len(own) + len(own.vacant) == len(few["B"]) == chosen.budget.batch
            assert (own.label != UNLABELLED).all()
            assert {patient_of[subject] for subject in own.subjects} <= seen
    assert sum(labelled("B") in few for few, _ in pairs) == chosen.budget.segmentor_steps


def _says_its_own(label_of):
    """``synthesize`` of a method, with the labels that ``label_of`` makes of those of the batch."""
    honest = ShapeConsistent.synthesize

    def synthesize(self, batch):
        made = honest(self, batch)
        return [replace(item, label=label_of(batch[item.source].label)) for item in made]

    return synthesize


def test_synthetic_images_carry_the_label_that_their_method_gives_them(tmp_path, store, monkeypatch):
    monkeypatch.setattr(ShapeConsistent, "synthesize", _says_its_own(lambda label: 1 - label))
    stages = Stages(tmp_path, store.path, experiment(arm="offline"))
    synthetic = open_store(stages.synthesised().directory / SYNTHETIC)
    sources = {image.subject: image for image in store.records(split="train")}
    assert len(synthetic)
    for image in synthetic.records():
        (parent,) = image.parents
        np.testing.assert_array_equal(synthetic.label(image), 1 - store.label(sources[parent]))


def test_images_whose_label_their_method_does_not_know_teach_no_segmentor(tmp_path, store, monkeypatch):
    monkeypatch.setattr(ShapeConsistent, "synthesize", _says_its_own(lambda label: torch.full_like(label, UNLABELLED)))
    with pytest.raises(InputError, match="knows what its images show"):
        Stages(tmp_path, store.path, experiment(arm="offline")).synthesised()


def test_smaller_fractions_are_subsets_and_one_is_always_left(store):
    chosen = [labelled_patients(store, experiment(labels__fraction=fraction), "B") for fraction in (0.01, 0.5, 1.0)]
    assert len(chosen[0]) == 1
    assert chosen[0] < chosen[1] < chosen[2]


def test_trainings_draw_patients_of_their_own_or_all_have_the_same(store):
    def drawn(**values):
        chosen = [experiment(labels__fraction=0.5, seed=seed, **values) for seed in range(8)]
        return {labelled_patients(store, one, "B") for one in chosen}

    assert len(drawn()) > 1
    assert drawn(labels__drawn="once") < drawn()
    assert len(drawn(labels__drawn="once")) == 1


@pytest.mark.parametrize("arm", ["real", "offline", "joint"])
def test_withheld_labels_reach_nothing_that_an_arm_trains(tmp_path, store, arm):
    """Poison them: whatever the arm trains comes out the same to the last bit."""
    chosen = experiment(arm=arm, labels__fraction=0.5, labels__gan_sees="all")
    seen = labelled_patients(store, chosen, "B")

    def poison(domain, patient, label):
        return label if domain == "ct" or "-train-" not in patient or patient in seen else 1 - label

    poisoned = tiny.make_store(tmp_path / "poisoned", digest="poisoned", relabel=poison)
    weights = [_networks(tmp_path / one.digest, one, chosen) for one in (store, poisoned)]
    assert weights[0] == weights[1]
    everything = replace(chosen, labels=replace(chosen.labels, fraction=1.0))
    assert _networks(tmp_path / store.digest, store, everything) != _networks(
        tmp_path / "poisoned-all", poisoned, everything
    )


def _networks(workspace, store, chosen):
    stage = Stages(workspace, store.path, chosen).model()
    return (stage.directory / NETWORKS).read_bytes()
