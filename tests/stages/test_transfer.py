"""A generator, or the judge of its films, from another cohort of the same workspace."""

from __future__ import annotations

import pytest
import radiographs

from ganatomy.contracts import InputError
from ganatomy.evidence.ablation import relevant
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import Stages
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
