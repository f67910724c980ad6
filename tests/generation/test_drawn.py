"""Generation from noise: a valid cohort of registered images, resumable, traceable, and the same in a fresh process."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from stages.test_drawing import EXPERIMENT, ROLES, SIDE, SPLITS, brain

from ganatomy.cli import main
from ganatomy.cohorts.cohort import Cohort, Domain, Row, prepare_image
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import TrialResult
from ganatomy.generation.drawn import (
    generate_drawn,
    pool_of_cohort,
    pool_of_files,
)
from ganatomy.generators.generator import load_generator, save_generator
from ganatomy.generators.reloading import differences_when_drawn_elsewhere
from ganatomy.images.intensities import Intensity
from ganatomy.promotion import examination
from ganatomy.promotion.examination import Bench
from ganatomy.stages.stages import Stages
from ganatomy.stores.preparation import prepare
from ganatomy.training.distributed import Workers
from ganatomy.training.tasks import make_method

NAMES = Pseudonyms(b"of files")
LABELS = {1: "oedema", 2: "core"}
AFFINE = np.array([[2.0, 0, 0, -10], [0, 1.5, 0, 4], [0, 0, 3.0, 7], [0, 0, 0, 1]])


pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    """The brains as files; background 0, as of skulls stripped. Labels are stored as 10 and 20."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number, split in enumerate(split for split, count in SPLITS.items() for _ in range(count)):
        for contrast, role in enumerate(ROLES):
            image, label = brain(number, contrast)
            native = np.where(image > -1, 500 * (image + 1.2), 0).astype(np.float32)
            paths = folder / f"p{number}-{role}.nii.gz", folder / f"p{number}-label.nii.gz"
            nibabel.save(nibabel.Nifti1Image(native.transpose(), AFFINE), paths[0])
            nibabel.save(nibabel.Nifti1Image((10 * label).transpose(), AFFINE), paths[1])
            rows.append(Row(f"p{number}", f"p{number}-scan", role, *paths, split=split))
    domains = {role: Domain(role, "MR", Intensity("percentile", 0, 100, "nonzero")) for role in ROLES}
    made = Cohort(
        folder, "brains", domains, LABELS, licence="of nobody", rows=tuple(rows), label_values={10: 1, 20: 2, 0: 0}
    )
    return made.save()


@pytest.fixture(scope="module")
def bundle(cohort, tmp_path_factory):
    """A generator that has learnt nothing; its numbers are as good as any."""
    workspace = tmp_path_factory.mktemp("workspace")
    store = prepare(cohort, workspace / "stores")
    method = make_method(EXPERIMENT, store.classes)
    return save_generator(workspace / "bundle", method, EXPERIMENT, cohort=cohort, store=store, stages={}).directory


@pytest.fixture(scope="module")
def generator(bundle):
    return load_generator(bundle)


@pytest.fixture(scope="module")
def pool(generator, cohort):
    return pool_of_cohort(generator, cohort)


@pytest.fixture(scope="module")
def drawn(generator, pool, cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "synthetic"
    return generate_drawn(generator, pool, out, 3, seed=5, source=cohort), out


def contents(out) -> dict[str, bytes]:
    """The files of all subjects."""
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.glob("sub-*/*"))}


def test_what_is_drawn_is_a_cohort_of_registered_images_and_one_label(drawn, generator):
    results, out = drawn
    made = read_cohort(out)
    assert {row.subject for row in made.rows} == {f"drawn-{result.number:04d}" for result in results}
    assert len(made.rows) == 3 * len(ROLES)
    assert all(row.synthetic and row.split == "train" for row in made.rows)
    assert made.licence == "of nobody"
    for result in results:
        images = [nibabel.load(row.image) for row in result.rows]
        label = nibabel.load(result.rows[0].label)
        assert {row.label for row in result.rows} == {result.rows[0].label}
        for image in images:
            assert image.shape == label.shape == (SIDE, SIDE, 1)
            assert np.array_equal(image.affine, label.affine)
            assert nibabel.affines.voxel_sizes(image.affine).tolist() == [2.0, 1.5, 3.0]
        assert set(np.unique(label.dataobj)) <= {0, 1, 2}
        assert np.asarray(label.dataobj).any()


def test_a_drawn_cohort_prepares_to_what_was_drawn(drawn, generator, pool):
    """Values go out by the range of the training images and come back by the rule; background stays background."""
    results, out = drawn
    made = read_cohort(out)
    for result in results:
        subject = generator.method.draw(pool.labels, (result.number,), 5)
        for row in result.rows:
            prepared = prepare_image(row, made)
            image, outside = subject.images[row.domain][0, 0].numpy(), subject.outside[0].numpy()
            assert np.array_equal(prepared.label[0], subject.label[0].numpy())
            assert (prepared.image[0][outside] == -1).all()
            inside = prepared.image[0][~outside], image[~outside]
            if np.ptp(inside[1]) > 0.01:
                assert np.corrcoef(*inside)[0, 1] > 0.99


def test_sidecars_say_what_drew_it_and_from_whose_label_without_names(drawn, generator, pool, cohort):
    results, _ = drawn
    names = pseudonyms_of(cohort.path)
    own = {names(patient): patient for patient in cohort.patients()}
    for result in results:
        for row in result.rows:
            text = row.image.with_name(row.image.name.replace(".nii.gz", ".json")).read_text()
            said = json.loads(text)
            assert said["GeneratorDigest"] == generator.digest
            assert (said["Seed"], said["Number"]) == (5, result.number)
            assert said["Checks"].keys() == {"structure_error", "structure_tries"}
            assert pool.rows[said["LabelNumber"]].subject == row.parents[0]
            assert said["Sources"] == [f"brains:{row.patient}"]
            assert own[row.patient] not in text.split('"')
            classes = set(np.unique(nibabel.load(row.label).dataobj)) - {0}
            assert classes == {1 + int(own[row.patient][1:]) % 2}  # a lesion's class tells whose it is
    assert {row.split for row in pool.rows} == {"train"}


def test_a_second_run_keeps_what_is_there_mends_what_is_not_and_goes_on(drawn, generator, pool, cohort):
    results, out = drawn
    before = contents(out)
    results[1].rows[0].image.unlink()
    with pytest.raises(InputError, match="exists and is not what"):
        generate_drawn(generator, pool, out, 3, seed=5, source=cohort)
    again = generate_drawn(generator, pool, out, 3, seed=5, source=cohort, overwrite=True)
    assert [result.status for result in again] == ["kept", "made", "kept"]
    assert contents(out) == before
    more = generate_drawn(generator, pool, out, 4, seed=5, source=cohort)
    assert [result.status for result in more] == ["kept", "kept", "kept", "made"]
    assert len(read_cohort(out).rows) == 4 * len(ROLES)
    assert not list(out.glob(".part-*"))
    grown = contents(out)
    assert all(grown[name] == content for name, content in before.items())


@pytest.mark.parametrize("change", ["seed", "labels"])
def test_what_another_seed_or_other_labels_drew_is_not_overwritten(drawn, generator, pool, change):
    _, out = drawn
    before = contents(out)
    with pytest.raises(InputError, match="exists and is not what"):
        if change == "seed":
            generate_drawn(generator, pool, out, 1, seed=6)
        else:
            generate_drawn(generator, replace(pool, labels=pool.labels.flip(1)), out, 1, seed=5)
    assert contents(out) == before


def test_labels_may_come_from_files_alone(generator, cohort, tmp_path):
    files = sorted({row.label for row in cohort.rows_of(split="test")})
    held = pool_of_files(generator, files, NAMES)
    assert {row.subject for row in held.rows} == {NAMES(file.name.removesuffix(".nii.gz")) for file in files}
    (result,) = generate_drawn(generator, held, tmp_path / "out", 1)
    assert result.rows[0].parents == (held.rows[0].subject,)
    folder = tmp_path / "labels"
    folder.mkdir()
    shutil.copy(files[0], folder)
    assert torch.equal(pool_of_files(generator, [folder], NAMES).labels, held.labels)
    with pytest.raises(InputError, match="no label in"):
        pool_of_files(generator, [tmp_path / "out"], NAMES)
    with pytest.raises(InputError, match="does not exist"):
        pool_of_files(generator, [tmp_path / "absent.nii.gz"], NAMES)


def test_labels_of_held_out_patients_are_not_taken_unless_asked_for(generator, cohort):
    train = {row.patient for row in pool_of_cohort(generator, cohort).rows}
    names = pseudonyms_of(cohort.path)
    assert train == set(map(names, cohort.patients("train")))
    held = pool_of_cohort(generator, cohort, ("val",)).rows
    assert {row.patient for row in held} == set(map(names, cohort.patients("val")))
    with pytest.raises(InputError, match="labels"):
        pool_of_cohort(generator, replace(cohort, labels={1: "core", 2: "oedema"}))


def test_the_command_draws_and_says_what_is_wrong_in_one_line(bundle, cohort, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["generate", str(bundle), "--count", "2", "--cohort", str(cohort.path), "--out", out]) == 0
    assert "2 made, 0 kept" in capsys.readouterr().out
    assert main(["generate", str(bundle), "--count", "2", "--cohort", str(cohort.path), "--out", out]) == 0
    assert "0 made, 2 kept" in capsys.readouterr().out
    for wrong in (["--count", "2"], ["--count", "-1", "--cohort", out], ["--labels", out]):
        assert main(["generate", str(bundle), *wrong, "--out", out]) != 0
        assert capsys.readouterr().err.strip().count("\n") == 0


# --- promotion ---------------------------------------------------------------------------------------------------


def test_a_fresh_process_draws_the_same_and_other_networks_do_not(generator, pool):
    same = differences_when_drawn_elsewhere(generator, generator.method, pool.labels, (0, 7), 5)
    assert same == {"drawn-0000": 0.0, "drawn-0007": 0.0}
    other = make_method(replace(EXPERIMENT, seed=1), 3).eval()
    different = differences_when_drawn_elsewhere(generator, other, pool.labels, (0,), 5)
    assert different["drawn-0000"] > 1e-3


def test_the_gates_of_memorisation_lineage_and_integrity_judge_a_drawing_generator(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(examination, "INTEGRITY_VOLUMES", 1)
    store = prepare(cohort, tmp_path / "stores")
    stages = Stages(tmp_path, store.path, EXPERIMENT, Workers())
    stages.synthesised()
    plan = SweepPlan("s", "s", EXPERIMENT, str(store.path), str(cohort.path), store.digest, trials=1, seeds=(0,))
    bench = Bench(tmp_path, plan, lambda sentence: None)
    result = TrialResult("t", EXPERIMENT, "finished", stages=stages.keys)
    generator, judged = bench.bundle(result, tmp_path / "bundle")
    assert bench.integrity(generator, judged).passed
    assert bench.lineage(generator, judged).passed
    memory = bench.memorisation(judged)
    assert memory.figures["synthetic_images"] >= 1
    assert memory.figures["synthetic_patients"] >= 1
    assert memory.figures["copies"] == 0 or not memory.passed

    def copies(method, experiment, store, source, device):
        """The first training patient's own slice, under that patient's name."""
        record = store.records("FLAIR", "train")[0]
        item = next(iter(kept(method, experiment, store, source, device)))
        yield replace(item, image=store.image(record)[1:2], patient=record.patient, parents=(record.subject,))

    from ganatomy.stages import stages as room

    kept = room.synthetic_items
    monkeypatch.setattr(room, "synthetic_items", copies)
    thief = Stages(tmp_path, store.path, EXPERIMENT.with_values({"drawing.at_least": 1, "drawing.per_label": 0.0}))
    caught = bench.memorisation(thief)
    assert caught.figures["copies"] == 1
    assert not caught.passed
