"""Every method goes all the way: a tiny sweep, `ganatomy promote`, a real registry, and `ganatomy generate` in a fresh
process, which knows nothing but the name of the model."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import radiographs
import tiny
from PIL import Image

from ganatomy import cli
from ganatomy.cohorts.cohort import Cohort, Row
from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import Budget, Choice, Downstream, Drawing, Experiment, Mixing, Sampling
from ganatomy.generation.outputs import file_digest, split_suffix
from ganatomy.generators.generator import load_generator
from ganatomy.generators.registry import Registry
from ganatomy.phantoms.bones import make_bone_cohort
from ganatomy.phantoms.brains import make_brain_cohort
from ganatomy.promotion import examination as room
from ganatomy.search_space import SearchSpace
from ganatomy.stores.layout import Record
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import Store
from ganatomy.sweeps.trial import run_trial
from ganatomy.tracking.runs import Tracking
from promotion.squares import make_cohort

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
    return make_brain_cohort(folder, patients=(3, 3, 5), shape=(5, 32, 32), contrasts=CONTRASTS, lesion_slices=2)


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
    "paired_translation": Case(
        brains,
        of(replace(BRAINS, domains={"A": "t1", "B": "t2"}, target="B"), "paired_translation", **SMALL),
    ),
    "diffusion": Case(
        brains,
        of(replace(DRAWN, domains={"B": "flair"}, target="B"), "diffusion", width=0.125, residual_blocks=1,
           sampling_steps=4),
        ("--cohort", "{cohort}", "--count", "2"),
    ),
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
        # Whoever uses what needed force hears that it did; a gate may let so small a network pass on some processors.
        assert (REASON in done.stderr) == any(not gate["passed"] for gate in self.verdict["gates"])
        return out


DRAWN_BY = {"multimodal_mr": set(CONTRASTS), "diffusion": {"flair"}}
"""Methods that draw from noise -> the domains that they draw."""

LONG = ("shape_consistent", "cyclegan", "conditional_gan", "paired_translation", "diffusion")
"""These go a way that another one here goes too, and are promoted in quicker tests elsewhere."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.beyond_ci] if name in LONG else []) for name in CASES
    ],
)
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


def sidecar(row: Row) -> dict[str, Any]:
    return json.loads(row.image.with_name(split_suffix(row.image)[0] + ".json").read_text())


def test_the_gates_judge_what_this_generator_makes_by_what_it_learnt_from(promoted):
    gates = {gate["name"]: gate for gate in promoted.verdict["gates"]}
    generator, training = load_generator(promoted.bundle), promoted.store.records(split="train")
    trained = set(generator.fingerprint["patients"])
    assert trained <= {record.patient for record in training}
    if promoted.name != "unit_lesion":  # half of those without a lesion were kept from it
        domains = {generator.domain(role).name for role in generator.method.roles}
        seen = [record for record in training if record.domain in domains]
        assert trained == {record.patient for record in seen}
        assert sum(generator.fingerprint["images"].values()) == len(seen)  # each once, whatever roles it plays
    assert gates["lineage"]["passed"]
    assert gates["lineage"]["figures"]["parents"] >= len(trained)
    assert gates["integrity"]["passed"]
    drawn = room.INTEGRITY_VOLUMES if generator.method.draws_from_noise else 0
    translated = room.INTEGRITY_VOLUMES if generator.routes else 0
    assert gates["integrity"]["figures"]["volumes"] == translated + drawn > 0
    memory = gates["memorisation"]["figures"]
    assert memory["synthetic_images"] > 0
    assert memory["real_patients"] == len(
        {r.patient for r in promoted.store.records(split="val") if judges(promoted, r)}
    )
    assert memory.get("domains", 1) == (len(generator.method.roles) if generator.method.draws_from_noise else 1)


def judges(promoted: Promoted, record: Record) -> bool:
    """Whether a validation image is a yardstick: of the domain that is made, and with a lesion where lesions are."""
    domain = load_generator(promoted.bundle).experiment.target_domain()
    of_all = promoted.name == "multimodal_mr"
    return (of_all or record.domain == domain) and record.attributes.get("class", "lesion") != "normal"


def test_it_is_registered_with_its_verdict_and_a_card_that_speaks_of_it(promoted):
    (version,) = Registry(Tracking(None, promoted.workspace)).versions(promoted.name)
    assert version.tags["digest"] == load_generator(promoted.bundle).digest
    assert version.tags["method"] == promoted.name
    assert REASON in version.tags["judged"]
    card = (promoted.bundle / "MODEL_CARD.md").read_text()
    assert {"unit_lesion": "--box", **dict.fromkeys(DRAWN_BY, "--count")}.get(promoted.name, "--cohort") in card
    assert ("classifier" in card) == (promoted.name == "unit_lesion")


def test_generate_makes_it_in_a_fresh_process_with_provenance(promoted, generated):
    generator, names = load_generator(promoted.bundle), pseudonyms_of(promoted.cohort.path)
    sources = {names(row.subject): row for row in promoted.cohort.rows}
    assert generated.rows
    for row in generated.rows:
        said, parent = sidecar(row), sources[row.parents[0]]
        assert said["GeneratorDigest"] == generator.digest
        assert said["OutputDigest"] == file_digest(row.image)
        assert said["Sources"][0] == f"{promoted.cohort.name}:{names(parent.patient)}"
        assert said["Synthetic"] is row.synthetic is True
        assert (row.patient, row.split) == (names(parent.patient), parent.split)
        assert "Not for diagnosis" in said["Description"]
    assert {row.split for row in generated.rows} == {"train" if promoted.name in DRAWN_BY else "test"}


def test_the_images_come_with_what_the_next_user_needs(promoted, generated):
    """Boxes for lesions, labels for the rest; an empty label and a map where a lesion was taken out."""
    if promoted.name == "unit_lesion":
        coco = json.loads((generated.path / "annotations.coco.json").read_text())
        lines = list(csv.DictReader((generated.path / "boxes.csv").open()))
        assert len(coco["annotations"]) == len(lines) == len(generated.rows)
        assert all(row.box and row.klass == "lesion" for row in generated.rows)
        return
    for row in generated.rows:
        image, label = nibabel.load(row.image), nibabel.load(row.label)
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        healed = promoted.name in ("pseudo_healthy", "conditional_gan")
        assert np.asarray(label.dataobj).any() != healed
        assert bool(sidecar(row).get("Maps")) == (promoted.name == "pseudo_healthy")
    if promoted.name in DRAWN_BY:
        assert {row.domain for row in generated.rows} == DRAWN_BY[promoted.name]
        assert len(generated.rows) == 2 * len(DRAWN_BY[promoted.name])


@pytest.mark.parametrize("promoted", ["unit_lesion"], indirect=True)
def test_a_single_film_is_given_a_lesion_where_it_is_asked_for(promoted, tmp_path):
    film = next(row for row in promoted.cohort.rows if row.klass == "normal" and row.split == "test")
    box = ["12", "14", "28", "34"]
    made = read_cohort(promoted.generate(tmp_path / "one", "--image", str(film.image), "--box", *box, "--seed", "3"))
    (row,) = made.rows
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (film.image, row.image))
    changed = before != after
    assert changed.any()
    assert not np.delete(changed, np.s_[14:34], axis=0).any()
    assert not np.delete(changed, np.s_[12:28], axis=1).any()
    assert (row.box[0] >= 12) & (row.box[2] <= 28) & (row.box[1] >= 14) & (row.box[3] <= 34)
    assert sidecar(row)["AskedBox"] == [12, 14, 28, 34]
    (annotation,) = json.loads((made.path / "annotations.coco.json").read_text())["annotations"]
    assert annotation["bbox"] == [row.box[0], row.box[1], row.box[2] - row.box[0], row.box[3] - row.box[1]]
