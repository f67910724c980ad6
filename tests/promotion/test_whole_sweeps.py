"""Whole sweeps of which the answer is known: search, confirmation and gate on phantoms, real trainings throughout."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from ganatomy.cohorts.cohort import Cohort
from ganatomy.cohorts.roles import cast_roles
from ganatomy.evidence.results import SweepPlan
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.promotion import examination, gate
from ganatomy.promotion.gate import GateResult
from ganatomy.promotion.promotion import promote
from ganatomy.search_space import SearchSpace
from ganatomy.stages import stages as stages_room
from ganatomy.stores.preparation import prepare
from ganatomy.stores.writing import Item
from ganatomy.tracking.runs import Tracking
from ganatomy_search_spaces.phantom_demo import BASE
from promotion.squares import confirm, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.beyond_ci,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("one_thread_and_no_pictures"),
]

SWEEPS = range(5)
TRAININGS = 8
PATIENTS = {"ct": (12, 2, 2), "mr": (12, 4, 20)}
SMALL = {"sampling.size": (32, 32), "budget.segmentor_steps": 250, "budget.generator_steps": 200, "mixing.ratio": 2.0,
         "method.width": 0.0625, "labels.fraction": 0.084, "budget.validations": 1}  # fmt: skip


def answer(workspace: Path, cohort: Cohort, empty_database: Path) -> GateResult:
    """What the gate of utility says after a sweep of two arms and its confirmation."""
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    store = prepare(cohort, workspace / "stores")
    base = cast_roles(BASE.with_values(SMALL), cohort, (), "ct", "mr")
    space = SearchSpace("whole", "", base, lambda suggest: None)
    plan = SweepPlan("whole", "whole", base, str(store.path), str(cohort.path), store.digest, trials=2,
                     run_id=Tracking(None, workspace).sweep_run("whole"))  # fmt: skip
    plan.save(workspace / "sweeps" / "whole")
    for arm in ("real", "offline"):
        run({"arm": arm, "seed": 0}, plan, space, workspace, arm)
    confirm(workspace, "whole", TRAININGS)
    return promote(workspace, "whole", "whole").verdict.gates[0]


@pytest.fixture(autouse=True)
def utility_alone(monkeypatch):
    """The other gates ask other questions."""
    passed = {name: GateResult(name, True, "Not asked here.") for name in gate.GATES[1:]}
    for name in gate.GATES[1:]:
        monkeypatch.setattr(examination.Bench, name, lambda *asked, name=name: passed[name])


def test_synthetic_data_that_helps_is_promoted_and_with_its_labels_shuffled_it_is_not(
    tmp_path, empty_database, monkeypatch
):
    """The shuffled set is made by the very same generators."""
    helps, shuffled = [], []
    for number in SWEEPS:
        workspace, again = tmp_path / f"helps-{number}", tmp_path / f"shuffled-{number}"
        cohort = make_cohort(workspace / "cohort", patients=PATIENTS, shape=(4, 32, 32), seed=number)
        helps.append(answer(workspace, cohort, empty_database))
        shutil.copytree(workspace / "cohort", again / "cohort", ignore=lambda folder, names: {"test-readings.jsonl"})
        shutil.copytree(workspace / "stages" / "fit", again / "stages" / "fit")
        with monkeypatch.context() as patch:
            patch.setattr(stages_room, "synthetic_items", shuffling(stages_room.synthetic_items))
            shuffled.append(answer(again, replace(cohort, path=again / "cohort").save(), empty_database))
        print(number, helps[-1].sentence, shuffled[-1].sentence, sep="\n")
    assert sum(one.passed for one in helps) >= 4, [one.sentence for one in helps]
    assert not any(one.passed for one in shuffled), [one.sentence for one in shuffled]


def test_what_is_made_of_a_domain_that_has_nothing_to_do_with_the_target_is_not_promoted(tmp_path, empty_database):
    """Images and structures of the source are noise. With hearts' labels on it, noise did help: they teach where
    hearts lie."""
    found = []
    for number in SWEEPS:
        workspace = tmp_path / f"unrelated-{number}"
        cohort = make_cohort(workspace / "cohort", patients=PATIENTS, shape=(4, 32, 32), seed=100 + number)
        for patient, row in enumerate(cohort.rows_of("ct")):
            rng = np.random.default_rng([number, patient])
            image, label = nibabel.load(row.image), nibabel.load(row.label)
            ranks = np.argsort(np.argsort(speckle(rng, label.shape).ravel())).reshape(label.shape)
            shown = np.sort(np.asarray(label.dataobj).ravel())[ranks]  # as much of each structure, wherever it falls
            nibabel.save(nibabel.Nifti1Image(shown, label.affine, dtype=shown.dtype), row.label)
            data = np.asarray(image.dataobj, np.float32)
            made = np.sort(data.ravel())[np.argsort(np.argsort(speckle(rng, data.shape).ravel()))].reshape(data.shape)
            nibabel.save(nibabel.Nifti1Image(made, image.affine, dtype=image.get_data_dtype()), row.image)
        found.append(answer(workspace, cohort, empty_database))
        print(number, found[-1].sentence)
    assert not any(one.passed for one in found), [one.sentence for one in found]


def speckle(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth noise."""
    return ndimage.gaussian_filter(rng.normal(size=shape), 2)


def shuffling(make: Callable[..., Iterator[Item]]) -> Callable[..., Iterator[Item]]:
    """Every image with its label's voxels shuffled. With the label of another patient it would still teach where hearts
    lie, which is the most of what so small a segmentor learns: such a set did help."""

    def shuffled(*asked: Any) -> Iterator[Item]:
        for number, item in enumerate(make(*asked)):
            label = np.random.default_rng(number).permutation(item.label.ravel()).reshape(item.label.shape)
            yield replace(item, label=label)

    return shuffled
