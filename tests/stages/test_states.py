"""Stages of methods whose roles are states of one domain: what they add to a segmentor's training, how it is judged."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ganatomy.contracts import InputError, Synthetic
from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Mixing, Sampling
from ganatomy.measures.segmentation import patient_scores
from ganatomy.measures.synthesis.pathology import healing_rows
from ganatomy.phantoms.brains import Brain, brain_case
from ganatomy.stages.measuring.healing import BESIDE, score_healing
from ganatomy.stages.outcome import outcome_of, reference_models
from ganatomy.stages.stages import SCORES, SYNTHETIC, Stages
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import Item, write_store
from ganatomy.training.pools import check_method

SHAPE = (5, 32, 32)
SPLITS = ("train", "train", "train", "val", "val")
SMALL = {"width": 0.0625, "discriminator_layers": 1}
METHODS = {
    "pseudo_healthy": {**SMALL, "residual_blocks": 1, "segmentor_scales": 2},
    "conditional_gan": {**SMALL, "residual_blocks": 1},
    "cyclegan": {**SMALL, "residual_blocks": 1, "pool_size": 2},
}


pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    items = [_ill(number, split) for number, split in enumerate(SPLITS)]
    return write_store(tmp_path_factory.mktemp("brains") / "store", name="brains", labels={1: "lesion"},
                       domains={"flair": {}}, digest="brains", items=items)  # fmt: skip


def _brain(number: int) -> Brain:
    return brain_case(0, number, SHAPE, lesion_slices=2)


def _ill(number: int, split: str) -> Item:
    brain = _brain(number)
    image, label = 2 * brain.images["flair"] - 1, (brain.label > 0).astype(np.uint8)
    return Item(f"s{number}", f"p{number}", "flair", split, image, label, lo=0.0, hi=1000.0)


def experiment(method: str, **values) -> Experiment:
    base = Experiment(
        cohort="brains",
        domains={"P": "flair:lesion", "H": "flair:healthy", "A": "flair:lesion", "B": "flair:healthy"},
        target="H",
        arm="offline",
        method=Choice(method, METHODS[method]),
        mixing=Mixing(pretrain=0.0),
        downstream=Downstream(Choice("unet", {"width": 4, "norm": "instance"}), learning_rate=2e-3),
        sampling=Sampling(ndim=2, size=(32, 32), foreground=0.5),
        budget=Budget(segmentor_steps=3, generator_steps=3, batch=2, validations=1),
    )
    return base.with_values({name.replace("__", "."): value for name, value in values.items()})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.mark.parametrize("method", METHODS)
def test_offline_arm_teaches_a_lesion_segmentor_and_the_images_are_judged(method, store, workspace):
    stages = Stages(workspace, store.path, experiment(method))
    outcome = outcome_of(stages)
    summary = outcome.summary
    assert 0 <= summary["val/dice"] <= 1
    assert summary["synthesis/healthiness"] <= 1
    assert summary["synthesis/identity_scales"] == 2
    assert -1 <= summary["synthesis/identity_of_brain"] <= summary["synthesis/identity"] <= 1
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    healthy = [record for record in made.records() if not made.label(record).any()]
    assert {record.patient for record in made.records()} <= {"p0", "p1", "p2"}
    assert len(healthy) >= 6  # of three training patients with two slices each
    (stage,) = [stage for stage in stages.artefacts.finished.values() if stage.kind == "healthiness"]
    rows = json.loads((stage.directory / SCORES).read_text())["rows"]
    assert [row["slices"] for row in rows] == [2, 2]  # of two validation patients
    assert {row["patient"] for row in rows} == {"p3", "p4"}  # as the store calls them
    # Its numbers are those of the paper, over volumes; of one volume a patient they are the means of the rows.
    pooled = json.loads((stage.directory / SCORES).read_text())["summary"]
    for metric in ("synthesis/healthiness", "synthesis/identity", "synthesis/identity_of_brain"):
        own = patient_scores(outcome.scores, metric)
        assert own.keys() == {"p3", "p4"}
        assert np.mean([*own.values()]) == pytest.approx(pooled[metric]) == pytest.approx(summary[metric])


def test_what_is_drawn_into_healthy_slices_is_another_patients_lesion(store, workspace):
    stages = Stages(workspace, store.path, experiment("pseudo_healthy"))
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    shapes = {
        record.patient: {cut.tobytes() for cut in store.label(record) if cut.any()} for record in store.records("flair")
    }
    drawn = [record for record in made.records() if "-H-translated" in record.subject]
    assert drawn
    for record in drawn:
        label = made.label(record)
        givers = {patient for patient, cuts in shapes.items() if label[0].tobytes() in cuts}
        assert givers
        assert record.patient not in givers
        assert givers <= {"p0", "p1", "p2"}  # nobody's who is held out


def test_an_image_taken_for_another_state_never_teaches_its_sources_label(store, workspace):
    """CycleGAN looks at no label: healthy images made of lesions teach that there is none, others are left out."""
    stages = Stages(workspace, store.path, experiment("cyclegan", method__use_reconstructed=False))
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    assert len(made)
    assert all("-A-translated" in record.subject for record in made.records())
    assert not any(made.label(record).any() for record in made.records())


class Bright(nn.Module):
    """A segmentor that takes for a lesion what is brighter than 0.5."""

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), image - 0.5], dim=1)


@pytest.mark.parametrize("paint", ["nothing", "black"])
def test_neither_a_black_nor_an_unchanged_image_wins_on_both(store, workspace, monkeypatch, paint):
    stages = Stages(workspace, store.path, experiment("conditional_gan"))
    method = stages.method(stages.fit())

    def synthesize(batch):
        image = batch["P"].image if paint == "nothing" else torch.full_like(batch["P"].image, -1)
        return [Synthetic(image, "H", "P", label=torch.zeros_like(image[:, 0]).long())] if "P" in batch else []

    monkeypatch.setattr(method, "synthesize", synthesize)
    summary, rows = score_healing(method, stages.experiment, store, {"flair": Bright()}, "val", torch.device("cpu"))
    assert [row["slices"] for row in rows] == [2, 2]
    assert {row["subject"] for row in rows}.issubset({"s3", "s4"})
    if paint == "nothing":
        assert summary["synthesis/healthiness_relative"] == 0
        assert summary["synthesis/identity"] == 1
    else:
        assert summary["synthesis/healthiness"] == 1
        assert summary["synthesis/identity_of_brain"] < 0.2


def test_beside_every_fit_stands_what_needs_no_training_and_the_error_where_the_truth_is_known(store, tmp_path):
    twins = [replace(_ill(number, split), domain="truth", label=None, image=2 * _brain(number).twins["flair"] - 1)
             for number, split in enumerate(SPLITS) if split == "val"]  # fmt: skip
    items = [_ill(number, split) for number, split in enumerate(SPLITS)]
    known = write_store(tmp_path / "store", name="brains", labels={1: "lesion"}, domains={"flair": {}, "truth": {}},
                        digest="with twins", items=[*items, *twins], twins={"flair": "truth"})  # fmt: skip
    stages = Stages(tmp_path / "workspace", known.path, experiment("pseudo_healthy"))
    method, device = stages.method(stages.fit()), torch.device("cpu")
    state = torch.get_rng_state()
    numbers, rows = score_healing(method, stages.experiment, known, {"flair": Bright()}, "val", device)
    assert torch.equal(torch.get_rng_state(), state)
    of = {name: {what: numbers[f"synthesis/beside/{name}/{what}"] for what in
                 ("healthiness", "healthiness_relative", "identity", "error_inside", "error_outside")}
          for name in BESIDE}  # fmt: skip
    assert set(of) == {"unchanged", "darker", "clipped", "untrained"}
    assert (of["unchanged"]["healthiness_relative"], of["unchanged"]["identity"]) == (0, 1)
    assert of["unchanged"]["error_outside"] < 0.005 < 0.05 < of["unchanged"]["error_inside"]  # no mass effect here
    assert of["darker"]["healthiness"] == of["clipped"]["healthiness"] == 1  # none of them as bright as 0.75
    assert of["clipped"]["identity"] > 0.95  # and hardly anything else is: the easy phantom is gamed
    assert of["untrained"]["identity"] < 0.5
    assert 0 <= numbers["synthesis/f_pre"] <= 1
    assert {row.metric for row in healing_rows(rows)} >= {"synthesis/error_inside", "synthesis/error_outside"}
    blind, _ = score_healing(method, stages.experiment, store, {"flair": Bright()}, "val", device)
    assert blind == {name: value for name, value in numbers.items() if "error" not in name}


@pytest.mark.parametrize("downstream", [Downstream(), Downstream(augmentation="strong")])
def test_f_pre_is_trained_by_dice_and_augmented_and_the_arms_are_not(store, tmp_path, downstream):
    made = replace(experiment("conditional_gan"), downstream=replace(downstream, network=Choice("unet", {"width": 4})))
    stages = Stages(tmp_path / "workspace", store.path, made)
    told = reference_models(stages)["flair"].record["inputs"]["segmentor"]
    assert (told["loss"], told["augmentation"]) == (
        "dice_cross_entropy",
        "light" if downstream.augmentation == "none" else "strong",
    )
    own = stages.downstream("H").record["inputs"]["segmentor"]
    assert (own["loss"], own["augmentation"]) == ("cross_entropy", downstream.augmentation)


def test_a_cohort_that_lacks_what_a_method_needs_is_told_so(tmp_path):
    def cohort(name, labels, splits):
        items = [replace(_ill(number, split), label=label) for number, (split, label) in enumerate(zip(splits, labels))]
        return write_store(tmp_path / name, name="brains", labels={1: "lesion"}, domains={"flair": {}}, digest=name,
                           items=items)  # fmt: skip

    every, none, some = (np.ones(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8), _ill(0, "train").label)
    splits = ("train", "train", "val")
    paired = experiment("pseudo_healthy")
    for name, labels, words in (("ill", (every,) * 3, r"no image for role H \(flair:healthy\)"),
                                ("well", (none,) * 3, r"no image for role P \(flair:lesion\)"),
                                ("one", (some, none, none), "one patient for role P")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            check_method(cohort(name, labels, splits), paired)
        check_method(open_store(tmp_path / name), replace(paired, arm="real"))
    check_method(cohort("both", (some, some, none), splits), paired)


# --- healthy people as a domain of their own -----------------------------------------------------------------------


def with_controls(folder, *, labels):
    """The brains, those with a lesion in domain flair, and others without one, whose labels are empty or not there."""

    def control(number: int, split: str) -> Item:
        brain = brain_case(0, 10 + number, SHAPE, lesion_slices=2)
        image, label = 2 * brain.twins["flair"] - 1, np.zeros(SHAPE, np.uint8) if labels else None
        return Item(f"c{number}", f"c{number}", "controls", split, image, label, lo=0.0, hi=1000.0,
                    attributes={"class": "normal"})  # fmt: skip

    items = [_ill(number, split) for number, split in enumerate(SPLITS)]
    items += [control(number, split) for number, split in enumerate(SPLITS)]
    return write_store(folder / "store", name="brains", labels={1: "lesion"},
                       domains={"flair": {}, "controls": {}}, digest=f"controls {labels}", items=items)  # fmt: skip


@pytest.mark.parametrize("labels", [False, True])
def test_healthiness_and_identity_are_measured_where_the_healthy_are_a_domain_of_their_own(tmp_path, labels):
    """f_pre is that of the diseased domain: nobody can learn of controls what a lesion is."""
    domains = {"P": "flair:lesion", "H": "controls:healthy"}
    made = experiment("pseudo_healthy", domains=domains, target="P")
    outcome = outcome_of(Stages(tmp_path / "workspace", with_controls(tmp_path, labels=labels).path, made))
    for metric in ("synthesis/healthiness", "synthesis/identity", "synthesis/identity_of_brain"):
        own = patient_scores(outcome.scores, metric)
        assert own.keys() == {"p3", "p4"}
        assert np.mean([*own.values()]) == pytest.approx(outcome.summary[metric])
    assert not any("controls" in name for name in outcome.summary)


def test_identity_needs_nobody_who_finds_lesions(store, workspace):
    stages = Stages(workspace, store.path, experiment("conditional_gan"))
    method, device = stages.method(stages.fit()), torch.device("cpu")
    summary, rows = score_healing(method, stages.experiment, store, {}, "val", device)
    judged, _ = score_healing(
        method, stages.experiment, store, {"flair": stages.network(stages.model())}, "val", device
    )
    assert summary == {
        name: value for name, value in judged.items() if not ("healthiness" in name or name == "synthesis/f_pre")
    }
    assert {row.metric for row in healing_rows(rows)} == {"synthesis/identity", "synthesis/identity_of_brain"}
