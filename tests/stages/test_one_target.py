"""Diffusion and a GAN on states of one domain, in one space: both make images for the same downstream model."""

from __future__ import annotations

import numpy as np
import pytest

from ganatomy.core.plugins import resolve
from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Sampling
from ganatomy.phantoms.brains import brain_case
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import SYNTHETIC, Stages
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import Item, write_store
from ganatomy.training.pools import check_method

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")

SHAPE = (4, 32, 32)
SPLITS = ("train", "train", "val", "val")
SMALL = {"diffusion": {"width": 0.125, "residual_blocks": 1, "sampling_steps": 2},
         "conditional_gan": {"width": 0.0625, "residual_blocks": 1, "discriminator_layers": 1}}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    brains = [brain_case(0, number, SHAPE, lesion_slices=2) for number in range(len(SPLITS))]
    items = [
        Item(f"s{number}", f"p{number}", "flair", split, 2 * brain.images["flair"] - 1,
             (brain.label > 0).astype(np.uint8), lo=0.0, hi=1000.0)
        for number, (split, brain) in enumerate(zip(SPLITS, brains, strict=True))
    ]  # fmt: skip
    return write_store(tmp_path_factory.mktemp("brains") / "store", name="brains", labels={1: "lesion"},
                       domains={"flair": {}}, digest="brains", items=items)  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


def experiment(method: str, **values) -> Experiment:
    base = resolve("spaces", "diffusion").base.with_values({"cohort": "brains", **values})
    domains = {role: f"flair{state}" for role, state in base.domains.items()}
    return Experiment(**{**vars(base), "domains": domains, "method": Choice(method, SMALL[method]),
                         "downstream": Downstream(Choice("unet", {"width": 4, "norm": "instance"})),
                         "sampling": Sampling(2, (32, 32), 0.5),
                         "budget": Budget(segmentor_steps=2, generator_steps=2, batch=2, validations=1)})  # fmt: skip


@pytest.mark.parametrize("method", SMALL)
def test_its_images_are_of_the_target_and_teach_the_same_model(method, store, workspace):
    chosen = experiment(method).validate()
    check_method(store, chosen)
    stages = Stages(workspace, store.path, chosen)
    summary = outcome_of(stages).summary
    assert 0 <= summary["val/dice"] <= 1
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    assert {(record.domain, record.kind) for record in made.records()} == {
        ("flair", "drawn" if method == "diffusion" else "translated")
    }
    assert {record.patient for record in made.records()} <= {"p0", "p1"}
    for record in made.records():
        assert made.label(record).any() == (method == "diffusion")
    assert ("synthesis/healthiness" in summary) == (method == "conditional_gan")
    assert ("synthesis/s_score/flair" in summary) == (method == "diffusion")


def test_every_training_label_is_drawn_as_it_is(store, workspace):
    stages = Stages(workspace, store.path, experiment("diffusion", **{"drawing.at_least": 1, "drawing.per_label": 1.0}))
    made = open_store(stages.synthesised().directory / SYNTHETIC)
    real = [store.label(record)[k] for record in store.records("flair", "train") for k in record.labelled_slices]
    drawn = [made.label(record)[0] for record in made.records()]
    assert sorted(label.tobytes() for label in drawn) == sorted(label.tobytes() for label in real)


def test_the_number_of_steps_shares_the_training(store, workspace):
    few, more = (
        Stages(workspace, store.path, experiment("diffusion").with_values({"method.sampling_steps": steps}))
        for steps in (2, 4)
    )
    assert few.fit().key == more.fit().key
    assert few.synthesised().key != more.synthesised().key
