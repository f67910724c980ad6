"""Synthesis by state: who donates a label to whom, and what the synthetic set of a pathology method holds."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from ganatomy.experiment import Budget, Choice, Experiment, Sampling
from ganatomy.stages.donors import INSIDE, TISSUE, Donors
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import SYNTHETIC, Stages
from ganatomy.stores.sampling import Pool
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import Item, write_store

SHAPE = (6, 16, 16)


def brain(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc with a brighter lesion in its slices 2 and 3, at a place of its own."""
    y, x = np.mgrid[:16, :16] - 7.5
    disc = np.hypot(y, x) < 7
    image = np.where(disc, 0.2, -1.0).astype(np.float32).repeat(SHAPE[0]).reshape(16, 16, -1).transpose(2, 0, 1).copy()
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 5 + number % 3 : 8 + number % 3, 6:9] = 1
    image[label > 0] = 0.9
    return image, label


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    items = []
    for number, split in enumerate(["train"] * 3 + ["val", "test"]):
        image, label = brain(number)
        items.append(Item(f"b{number}-scan", f"b{number}", "flair", split, image, label))
    path = tmp_path_factory.mktemp("brains") / "store"
    return write_store(path, name="brains", labels={1: "lesion"}, domains={"flair": {}}, digest="b", items=items)


def experiment(**values) -> Experiment:
    made = Experiment(
        cohort="brains",
        domains={"P": "flair:lesion", "H": "flair:healthy"},
        target="H",
        arm="offline",
        method=Choice(
            "pseudo_healthy", {"width": 0.0625, "residual_blocks": 1, "discriminator_layers": 1, "segmentor_scales": 2}
        ),
        downstream=tiny.UNET,
        sampling=Sampling(ndim=2, size=(16, 16)),
        budget=Budget(segmentor_steps=4, generator_steps=2, batch=2, validations=1),
    )
    return made.with_values({name.replace("__", "."): value for name, value in values.items()})


def test_a_label_comes_from_another_patient_and_lies_inside(store):
    records = store.records("flair", "train")
    donors = Donors(Pool.of(store, records).in_state("lesion", 2))
    image = store.image(records[0])[0:1]
    label = donors.label_for(records[0], image, 0)
    assert (label == donors.label_for(records[0], image, 0)).all()
    assert (image[label > 0] > TISSUE).mean() >= INSIDE
    assert any((label == store.label(other)[2:3]).all() for other in records[1:])
    assert not (label == store.label(records[0])[2:3]).all()
    alone = Donors(Pool.of(store, records[:1]).in_state("lesion", 2))
    assert alone.label_for(records[0], image, 0) is None
    assert donors.label_for(records[0], np.full((1, 16, 16), -1, np.float32), 0) is None, "no body, no lesion"


def test_the_synthetic_set_holds_both_states_with_the_labels_they_carry(store, tmp_path):
    stages = Stages(tmp_path, store.path, experiment())
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    kinds = {}
    for record in made.records():
        assert record.domain == "flair"
        assert record.split == "train"
        kinds.setdefault(record.subject.split("-", 2)[2].rsplit("-", 1)[0], []).append(record)
    assert {name: len(some) for name, some in kinds.items()} == {
        "P-translated": 6,  # pseudo-healthy: two slices of three patients
        "P-reconstructed": 6,
        "H-translated": 12,  # pseudo-pathological: the four others
    }
    assert not any(made.label(record).any() for record in kinds["P-translated"])
    assert all(made.label(record).any() for record in kinds["P-reconstructed"] + kinds["H-translated"])
    for record in kinds["P-reconstructed"]:
        source = next(r for r in store.records() if r.subject == record.parents[0])
        number = int(record.subject.rsplit("-", 1)[1])
        assert (made.label(record)[0] == store.label(source)[number]).all()
        assert record.affine[2][3] == pytest.approx(number)  # it lies where it was cut from


def test_the_arm_runs_to_its_scores(store, tmp_path):
    outcome = outcome_of(Stages(tmp_path, store.path, experiment()))
    assert {row.metric for row in outcome.scores} > {"dice", "hd95", "synthesis/s_score/flair"}
    assert "synthesis/s_score/flair" in outcome.summary


def test_the_state_is_part_of_the_key(store, tmp_path):
    """A generator of other slices is another generator."""
    first = Stages(tmp_path, store.path, experiment(budget__generator_steps=1))
    first.fit()
    other = Stages(tmp_path, store.path, experiment(budget__generator_steps=1, domains__H="flair"))
    other.fit()
    assert first.keys["fit"] != other.keys["fit"]
