"""A generator, or the judge of its films, from another cohort of the same workspace."""

from __future__ import annotations

import os

import numpy as np
import pytest
import radiographs

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import digest
from ganatomy.evidence.ablation import relevant
from ganatomy.experiment import as_before
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import Stages
from ganatomy.stores.lending import check_lenders, lending_store
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import write_store

OFFLINE = radiographs.EXPERIMENT.with_values(
    {"method.patch_side": 16, "method.normals": 2, "method.crops": 1, "arm": "offline", "filter.min_probability": 0.001}
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    for part, counts in (("humerus", radiographs.COUNTS), ("femur", {"lesion": (3, 2, 2), "normal": (6, 3, 3)})):
        items = radiographs.items(counts=counts, part=part)
        write_store(folder / "stores" / f"digest-{part}", name=f"{part}-phantom", labels={}, domains={"xray": {}},
                    digest=f"digest-{part}", items=items)  # fmt: skip
    return folder


def stages(workspace, part, **transfer):
    said: list[str] = []
    experiment = OFFLINE.with_values({f"transfer.{name}": value for name, value in transfer.items()})
    made = Stages(workspace, workspace / "stores" / f"digest-{part}", experiment, say=said.append)
    return made, said


def computed(said):
    return sorted(line.split()[1] for line in said if line.startswith("computing"))


def test_generator_and_judge_of_another_cohort_are_its_own_stages(workspace):
    humerus, _ = stages(workspace, "humerus")
    own = outcome_of(humerus)
    femur, _ = stages(workspace, "femur")
    alone = outcome_of(femur)
    both, said = stages(workspace, "femur", generator="humerus-phantom", judge="humerus-phantom")
    outcome = outcome_of(both)
    assert outcome.keys["fit"] == own.keys["fit"] != alone.keys["fit"]
    assert outcome.keys["judge"] == humerus._judge().key
    assert computed(said) == ["downstream", "evaluate", "filter", "synthesise"]  # nothing of the humerus anew
    assert len({run.keys["filter"] for run in (own, alone, outcome)}) == 3
    patients = {record.patient for record in both.store.records(split="train")}
    assert {row.patient for row in outcome.scores} == {row.patient for row in alone.scores}
    made = open_store(workspace / "stages" / "synthesise" / outcome.keys["synthesise"] / "synthetic")
    assert {record.patient for record in made.records()} <= patients  # femurs, by a generator that saw humeri
    by_digest, said = stages(workspace, "femur", generator="digest-humerus")
    assert by_digest.fit().key == own.keys["fit"]


def test_a_lent_generator_is_trained_with_settings_of_its_own(workspace):
    """Gupta's humerus has windows of s = 2, the tibia that borrows s = 1: its generator is the one that the humerus
    trains with s = 2, and the films that it is given are cut with s = 1."""
    borrower = {"generator": "humerus-phantom", "settings.window": "2"}
    lent, _ = stages(workspace, "femur", **borrower)
    lent.experiment = lent.experiment.with_values({"method.window": 1.0})
    humerus, _ = stages(workspace, "humerus")
    assert humerus.experiment.method_config().window == lent.experiment.lent().method_config().window == 2.0
    assert lent.fit().key == humerus.fit().key
    films = {window: stages(workspace, "femur", **borrower)[0] for window in (1.0, 2.0)}
    keys, sides = set(), []
    for window, one in films.items():
        one.experiment = one.experiment.with_values({"method.window": window})
        made = one.synthesised()
        keys.add(made.key)
        records = open_store(made.directory / "synthetic").records()
        x0, _, x1, _ = np.transpose([record.attributes["window"] for record in records])
        sides.append(np.mean(x1 - x0))
    assert len(keys) == 2
    assert sides[1] == pytest.approx(2 * sides[0], rel=0.1)


def test_settings_of_a_lender_are_of_its_training(workspace):
    with pytest.raises(InputError, match=r"transfer\.settings\.windw.*did you mean"):
        OFFLINE.with_values({"transfer.settings.windw": 2}).validate()
    with pytest.raises(InputError, match=r"transfer\.settings\.blend = 'feather'"):
        OFFLINE.with_values({"transfer.settings.blend": "feather"}).validate()
    bare = OFFLINE.to_dict()
    del bare["transfer"]["settings"]  # plans from before these could be set name what they declare by this
    bare["mixing"] = {name: bare["mixing"][name] for name in ("ratio", "order", "pretrain")}
    bare |= {
        "training": as_before(OFFLINE.training),
        "downstream": as_before(OFFLINE.downstream),
        "sampling": as_before(OFFLINE.sampling),
        "labels": as_before(OFFLINE.labels),
        "filter": as_before(OFFLINE.filter),
    }
    assert OFFLINE.configuration() == digest({**bare, "seed": None})


def test_of_two_stores_of_one_name_a_digest_says_which(workspace, tmp_path):
    """What was prepared again has another digest; the largest of them was taken, old or new."""
    for name in ("digest-a", "digest-b"):
        write_store(tmp_path / "stores" / name, name="humerus-phantom", labels={}, domains={"xray": {}}, digest=name,
                    items=radiographs.items(counts={"lesion": (1, 0, 0), "normal": (1, 0, 0)}))  # fmt: skip
    os.utime(tmp_path / "stores" / "digest-b" / "store.json", (0, 0))
    borrowing = OFFLINE.with_values({"transfer.judge": "humerus-phantom"})
    with pytest.raises(InputError, match=r"holds 2 stores.*digest-a \(2 images, of .*digest-b \(2 images, of 1970"):
        check_lenders(tmp_path / "stores", [borrowing])
    check_lenders(tmp_path / "stores", [OFFLINE, borrowing.with_values({"transfer.judge": "digest-b"})])
    assert lending_store(tmp_path / "stores", "digest-b").name == "digest-b"


def test_what_is_not_there_is_named(workspace):
    lost, _ = stages(workspace, "femur", generator="humerus")
    with pytest.raises(InputError, match="did you mean 'humerus-phantom'"):
        lost.fit()
    joint = OFFLINE.with_values({"transfer.generator": "x", "arm": "joint", "method": "shape_consistent",
                                 "domains": {"A": "xray", "B": "xray", "L": "xray"}, "filter.min_probability": 0,
                                 "downstream.task": "segmentation"})  # fmt: skip
    with pytest.raises(InputError, match=r"transfer\.generator"):
        joint.validate()


def test_transfer_makes_no_difference_to_real_images_alone():
    real = OFFLINE.with_values({"arm": "real"})
    assert relevant(real.with_values({"transfer.generator": "humerus-phantom"})) == relevant(real)
