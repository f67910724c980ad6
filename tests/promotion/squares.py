"""The laboratory of the promotion tests: a cohort of squares, and tiny sweeps over it whose outcome is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tiny
from mlflow import MlflowClient

from ganatomy.cohorts.cohort import Cohort, Domain, Row
from ganatomy.evidence.results import CONCLUDED, RESULT, SweepPlan, conclude, read_result
from ganatomy.images.intensities import Intensity
from ganatomy.promotion.confirmation import planned
from ganatomy.promotion.ledger import LEDGER
from ganatomy.search_space import SearchSpace
from ganatomy.stores.preparation import prepare
from ganatomy.sweeps.recording import Recording
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.runs import Tracking

SPACE = SearchSpace("tiny", "", tiny.EXPERIMENT, lambda suggest: None)
SPLITS = {"train": 4, "val": 3, "test": 12}
EQUAL = {"budget.segmentor_steps": 50, "budget.generator_steps": 4}
LITTLE = {**EQUAL, "downstream.learning_rate": 1e-8}
MUCH = {**EQUAL, "downstream.learning_rate": 0.01}

CYCLEGAN = {"method": "cyclegan", "method.generator": "unet_t1", "method.width": 0.0625,
            "method.discriminator_layers": 1}  # fmt: skip


def make_cohort(folder: Path) -> Cohort:
    """The tiny cases as NIfTI, already in [-1, 1]."""
    folder.mkdir()
    rows = []
    for item in tiny.items(splits=SPLITS):
        paths = folder / f"{item.patient}.nii.gz", folder / f"{item.patient}-label.nii.gz"
        for path, array in zip(paths, (item.image, item.label)):
            nibabel.save(nibabel.Nifti1Image(array.transpose(), np.diag([1.0, 1.0, 3.0, 1.0])), path)
        rows.append(Row(item.patient, item.subject, item.domain, *paths, split=item.split))
    domains = {name: Domain(name, intensity=Intensity("window", -1, 1)) for name in ("ct", "mr")}
    return Cohort(folder, "squares", domains, {1: "square"}, rows=tuple(rows)).save()


def sweeps_of_squares(workspace: Path) -> None:
    """Two sweeps and their confirmations, run without Ray. Of ``helps`` only the synthetic arm learns, of ``fails``
    only the real one, in the same number of updates: what the gates must say of each is known. ``real-only`` has
    nothing to compare."""
    cohort = make_cohort(workspace / "cohort")
    store = prepare(cohort, workspace / "stores")
    sweeps = {
        "helps": [{"arm": "real", **LITTLE}, {"arm": "offline", **MUCH, **CYCLEGAN}],
        "fails": [{"arm": "real", **MUCH}, {"arm": "offline", **LITTLE, **CYCLEGAN}],
        "real-only": [{"arm": "real", **LITTLE}],
    }
    tracking = Tracking(None, workspace)
    for name, points in sweeps.items():
        plan = SweepPlan(
            name, "tiny", tiny.EXPERIMENT, str(store.path), str(cohort.path), store.digest, trials=2 * len(points),
            seeds=(0, 1), run_id=tracking.sweep_run(name),
        )  # fmt: skip
        plan.save(workspace / "sweeps" / name)
        for number, (seed, point) in enumerate((seed, point) for seed in (0, 1) for point in points):
            run({**point, "seed": seed}, plan, SPACE, workspace, f"{name}-{number}")
    for name in ("helps", "fails"):
        confirm(workspace, name)


def confirm(workspace: Path, sweep: str, trainings: int = 3) -> SweepPlan:
    """What the sweep picked trained again, without Ray; on from where it was left."""
    plan = planned(workspace, sweep, trainings=trainings)
    space = plan.search_space()
    for number, values in enumerate(space.listed({}, plan.seeds)):
        trial = f"{plan.name}-{number}"
        if not (workspace / "sweeps" / plan.name / "trials" / trial / CONCLUDED).exists():
            run(values, plan, space, workspace, trial)
            conclude(workspace / "sweeps" / plan.name, trial)
    return plan


def run(values: dict[str, Any], plan: SweepPlan, space: SearchSpace, workspace: Path, trial: str) -> None:
    """One trial without Ray, with its run in MLflow."""
    run_trial(values, plan, space, workspace, trial, lambda metrics: None)
    directory = workspace / "sweeps" / plan.name
    result = read_result(directory / "trials" / trial / RESULT)
    Recording(plan, directory, Tracking(None, workspace), lambda sentence: None).end(result)


def readings(workspace, sweep) -> list:
    ledger = workspace / "cohort" / LEDGER
    lines = map(json.loads, ledger.read_text().splitlines()) if ledger.exists() else ()
    return [line for line in lines if line["kind"] == "reading" and line["sweep"] == sweep]


def scored_splits(workspace) -> dict[str, set[str]]:
    """Split -> keys of the models that were scored on it."""
    found: dict[str, set[str]] = {}
    for path in workspace.glob("stages/*/*/stage.json"):
        inputs = json.loads(path.read_text())["inputs"]
        if "split" in inputs:
            found.setdefault(inputs["split"], set()).add(inputs.get("model", inputs.get("fit")))
    return found


def mlflow_run(workspace, sweep):
    client = MlflowClient(Tracking(None, workspace).uri)
    return client, client.get_run(json.loads((workspace / "sweeps" / sweep / "sweep.json").read_text())["run_id"])
