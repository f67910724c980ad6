"""Every method goes all the way: a tiny sweep, `ganatomy promote`, a real registry, and `ganatomy generate` in a fresh
process, which knows nothing but the name of the model."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import radiographs
import tiny
from test_promotion import make_cohort

from ganatomy import cli
from ganatomy.cohort import Cohort, Row, read_cohort
from ganatomy.experiment import Budget, Choice, Downstream, Drawing, Experiment, Mixing, Sampling
from ganatomy.outputs import split_suffix
from ganatomy.phantom_bone import make_bone_cohort
from ganatomy.phantom_brain import make_brain_cohort
from ganatomy.preparation import prepare
from ganatomy.results import SweepPlan
from ganatomy.search_space import SearchSpace
from ganatomy.store import Store
from ganatomy.tracking import Tracking
from ganatomy.trial import run_trial

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")

REASON = "to see it work"
CONTRASTS = ("t1", "t2", "t1c", "flair")

BRAINS = Experiment(
    cohort="brains",
    domains={"P": "flair:lesion", "H": "flair:healthy"},
    target="H",
    arm="real",
    mixing=Mixing(pretrain=0.0),
    downstream=Downstream(Choice("unet", {"width": 4, "norm": "instance"}), learning_rate=2e-3),
    sampling=Sampling(ndim=2, size=(32, 32), foreground=0.5),
    budget=Budget(segmentor_steps=2, generator_steps=2, batch=2, validations=1),
)


def squares(folder: Path) -> Cohort:
    folder.parent.mkdir(exist_ok=True)
    return make_cohort(folder)


def brains(folder: Path) -> Cohort:
    return make_brain_cohort(folder, patients=(3, 2, 5), shape=(5, 32, 32), contrasts=CONTRASTS, lesion_slices=2)


def bones(folder: Path) -> Cohort:
    counts = {"lesion": (4, 3, 4), "normal": (8, 4, 6)}
    return make_bone_cohort(folder, patients=counts, shape=(48, 40))


@dataclass(frozen=True)
class Case:
    """A method and the cohort that it is tried on. asked: what `generate` is asked for, beside model and folder."""

    cohort: Callable[[Path], Cohort]
    experiment: Experiment
    asked: tuple[str, ...] = ("--cohort", "{cohort}", "--split", "test", "--workers", "1")


SMALL = {"width": 0.0625, "discriminator_layers": 1}
DRAWN = replace(
    BRAINS,
    domains={"T1": "t1", "T2": "t2", "T1c": "t1c", "FLAIR": "flair"},
    target="FLAIR",
    drawing=Drawing(per_label=1.0, at_least=4),
)


def of(base: Experiment, name: str, **settings: Any) -> Experiment:
    return replace(base, method=Choice(name, settings))


CASES = {
    "shape_consistent": Case(squares, of(tiny.EXPERIMENT, "shape_consistent", pool_size=4, **SMALL)),
    "cyclegan": Case(squares, of(tiny.EXPERIMENT, "cyclegan", generator="unet_t1", pool_size=4, **SMALL)),
    "pseudo_healthy": Case(
        brains, of(BRAINS, "pseudo_healthy", residual_blocks=1, segmentor_scales=2, use_reconstructed=True, **SMALL)
    ),
    "conditional_gan": Case(brains, of(BRAINS, "conditional_gan", residual_blocks=1, **SMALL)),
    "multimodal_mr": Case(
        brains,
        of(DRAWN, "multimodal_mr", width=0.05, discriminator_layers=1, residual_blocks=1, filter_error=1.0,
           filter_tries=2),
        ("--cohort", "{cohort}", "--count", "2"),
    ),
    "unit_lesion": Case(
        bones,
        of(radiographs.EXPERIMENT, "unit_lesion", patch_side=16, normals=2, crops=1, width=0.03125, residual_blocks=1,
           discriminator_layers=2),
        ("--cohort", "{cohort}", "--split", "test"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Promoted:
    """What a sweep and its promotion left."""

    name: str
    workspace: Path
    cohort: Cohort
    store: Store
    verdict: dict[str, Any]
    bundle: Path

    def generate(self, out: Path, *asked: str) -> Path:
        """`ganatomy generate` in a process of its own; the workspace holds nothing of the model but the registry."""
        shutil.rmtree(self.workspace / "generators", ignore_errors=True)
        command = [sys.executable, "-m", "ganatomy.cli", "generate", f"models:/{self.name}@champion", "--out", str(out),
                   "--workspace", str(self.workspace), *asked]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
        assert done.returncode == 0, done.stderr
        assert REASON in done.stderr  # whoever uses what was forced hears that it was
        return out


@pytest.fixture(scope="module", params=CASES)
def promoted(request, tmp_path_factory, empty_database) -> Promoted:
    name, case = request.param, CASES[request.param]
    workspace = tmp_path_factory.mktemp(name)
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    cohort = case.cohort(workspace / "cohort")
    store = prepare(cohort, workspace / "stores")
    space = SearchSpace("tiny", "", case.experiment, lambda suggest: None)
    plan = SweepPlan(name, "tiny", case.experiment, str(store.path), str(cohort.path), store.digest, trials=2,
                     run_id=Tracking(None, workspace).sweep_run(name))  # fmt: skip
    plan.save(workspace / "sweeps" / name)
    for arm in ("real", "offline"):
        run_trial({"arm": arm, "seed": 0}, plan, space, workspace, arm, lambda metrics: None)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        command = ["promote", name, "--name", name, "--force", REASON, "--json", "--workspace", str(workspace)]
        assert cli.main(command) == 0
    verdict = json.loads(said.getvalue())
    return Promoted(name, workspace, cohort, store, verdict, Path(verdict["bundle"]))


@pytest.fixture(scope="module")
def generated(promoted, tmp_path_factory) -> Cohort:
    """What the command made, as the cohort that it says it is."""
    out = tmp_path_factory.mktemp("made") / "out"
    return read_cohort(
        promoted.generate(out, *(part.format(cohort=promoted.cohort.path) for part in CASES[promoted.name].asked))
    )


def gates(promoted: Promoted) -> dict[str, dict[str, Any]]:
    return {gate["name"]: gate for gate in promoted.verdict["gates"]}


def test_every_gate_but_utility_judges_what_the_generator_makes(promoted):
    print(json.dumps(promoted.verdict, indent=1))
    found = gates(promoted)
    assert found["lineage"]["passed"]
    assert found["integrity"]["passed"]
    assert found["memorisation"]["figures"]["synthetic_images"] > 0
    assert found["memorisation"]["figures"]["real_patients"] > 0


def test_generated(promoted, generated):
    for row in generated.rows[:3]:
        print(row)
        print(sidecar(row))


def sidecar(row: Row) -> dict[str, Any]:
    return json.loads(row.image.with_name(split_suffix(row.image)[0] + ".json").read_text())
