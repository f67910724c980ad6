"""A generator from Python: called on images in any layout, and asked for files as the command asks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from command_line import make_phantom

import ganatomy
from ganatomy import cli
from ganatomy.cohorts.reading import read_cohort
from ganatomy.experiment import Choice, Experiment, Sampling
from ganatomy.generators.generator import Generator, load_generator, save_generator
from ganatomy.generators.registry import Registry
from ganatomy.stores.preparation import prepare
from ganatomy.tracking.runs import Tracking
from ganatomy.training.downstream import task_of

SIDES = {2: (32, 32), 3: (8, 16, 16)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("cohort") / "phantom")


@pytest.fixture(scope="module")
def generators(cohort, tmp_path_factory) -> dict[int, Generator]:
    """A small untrained generator of CT and MR by dimension."""
    folder = tmp_path_factory.mktemp("bundles")
    store = prepare(read_cohort(cohort), folder / "stores", workers=1)
    made = {}
    for ndim, size in SIDES.items():
        experiment = Experiment(
            str(cohort),
            {"A": "ct", "B": "mr"},
            arm="offline",
            method=Choice("cyclegan", {"width": 0.0625, "residual_blocks": 1}),
            sampling=Sampling(ndim=ndim, size=size),
        )
        method = experiment.method_class()(experiment.method_config(), task_of(experiment, store.classes))
        bundle = folder / f"bundle{ndim}"
        made[ndim] = save_generator(bundle, method, experiment, cohort=read_cohort(cohort), store=store, stages={})
    return made


def volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(-1, 1, shape).astype(np.float32)


# --- called ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ndim", "shape"),
    [
        (2, (20, 28)),
        (2, (3, 20, 28)),
        (2, (1, 3, 20, 28)),
        (2, (3, 1, 20, 28)),
        (2, (2, 1, 3, 20, 28)),
        (3, (8, 20, 28)),
        (3, (1, 8, 20, 28)),
        (3, (2, 1, 8, 20, 28)),
    ],
)
def test_an_image_of_any_layout_comes_back_as_it_was_given(generators, ndim, shape):
    generator, given = generators[ndim], volume(*shape)
    made = generator(given)
    assert made.shape == given.shape
    assert made.dtype == given.dtype
    one_by_one = [
        generator.synthesize(image, "A")["B"]
        for image in given.reshape(-1, *((1, *shape[-2:]) if shape[1] == 1 and len(shape) == 4 else shape[-3:]))
    ] if len(shape) > 2 else [generator.synthesize(given[None], "A")["B"]]  # fmt: skip
    np.testing.assert_array_equal(made.ravel(), np.stack(one_by_one).ravel())

    tensor = generator(torch.from_numpy(given).double())
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor.numpy().astype(np.float32), made)
    assert np.array_equal(given, volume(*shape))  # what was given is as it was


def test_a_tensor_keeps_its_affine_and_a_way_can_be_named(generators, cohort):
    generator = generators[2]
    item = ganatomy.dataset(cohort, "train", domain="mr")[0]
    back = generator(item["image"], "mr", "ct")
    assert torch.equal(back.affine, item["image"].affine)
    there = generator.synthesize(item["image"][0].numpy(), "B")["A"]
    np.testing.assert_array_equal(back[0].numpy(), there)


@pytest.mark.parametrize(
    ("ndim", "given", "says"),
    [
        (2, np.full((4, 8, 8), 300.0), r"values from 300 to 300; expected floats in \[-1, 1\]"),
        (2, np.zeros((4, 8, 8), np.int16), "type int16"),
        (2, np.full((4, 8, 8), np.nan, np.float32), "values from nan to nan"),
        (2, np.zeros((2, 4, 8, 8), np.float32), r"shape \(2, 4, 8, 8\)"),
        (2, np.zeros((0, 8, 8), np.float32), r"shape \(0, 8, 8\)"),
        (3, np.zeros((8, 8), np.float32), r"shape \(8, 8\)"),
        (3, np.zeros((2, 1, 8, 8), np.float32), r"shape \(2, 1, 8, 8\)"),
    ],
)
def test_what_is_no_image_for_a_network_is_refused(generators, ndim, given, says):
    with pytest.raises(ganatomy.InputError, match=says):
        generators[ndim](given)


def test_an_unknown_way_and_a_label_of_another_shape_are_refused(generators):
    with pytest.raises(ganatomy.InputError, match="no role or domain 'pet'"):
        generators[2](volume(4, 8, 8), "pet")
    with pytest.raises(ganatomy.InputError, match="labels of shape"):
        generators[2](volume(4, 8, 8), label=np.zeros((4, 8, 9), np.uint8))


# --- loaded and asked for files ----------------------------------------------------------------------------------


def test_files_are_those_of_the_command_and_what_is_there_is_kept(generators, cohort, tmp_path, capsys):
    bundle = generators[2].directory
    generated = ganatomy.generate(generators[2], read_cohort(cohort), tmp_path / "python", split="train")
    assert (generated.made, generated.kept, generated.failed, generated.whole) == (2, 0, (), True)
    assert "no gate has judged" in capsys.readouterr().err
    assert generated.summary == f"{tmp_path / 'python'}: 2 made, 0 kept, 0 failed"
    options = ["--cohort", str(cohort), "--split", "train", "--workers", "1"]
    assert cli.main(["generate", str(bundle), "--out", str(tmp_path / "typed"), *options]) == 0
    typed = read_cohort(tmp_path / "typed")
    for here, there in zip(generated.cohort().rows, typed.rows, strict=True):
        assert replace(here, image=there.image, label=there.label) == there
        assert np.array_equal(nibabel.load(here.image).dataobj, nibabel.load(there.image).dataobj)
    again = ganatomy.generate(bundle, cohort, tmp_path / "python", split=["train"])
    assert (again.made, again.kept) == (0, 2)


def test_a_single_file_and_what_could_not_be_made(generators, cohort, tmp_path, capsys):
    image = read_cohort(cohort).rows_of("ct", "test")[0].image
    generated = ganatomy.generate(generators[2], image, tmp_path / "out", workspace=tmp_path / "w", patient="Ada")
    [(file, pseudonym)] = generated.who.items()
    assert file == image
    assert pseudonym in str(generated.cohort().rows[0].image)
    assert "Ada" not in "".join(str(path) for path in (tmp_path / "out").rglob("*"))
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    with pytest.raises(ganatomy.InputError, match="nothing was made"):
        ganatomy.generate(generators[2], broken, tmp_path / "none", workspace=tmp_path / "w")
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"images": None}, "neither --cohort nor --image"),
        ({"images": None, "count": 3}, "--count without one source of labels"),
        ({"keep_names": True, "images": "scan.nii.gz"}, "scan.nii.gz"),
        ({"box": (0, 0, 4, 4)}, "--box for a generator by cyclegan"),
    ],
)
def test_what_cannot_be_generated_is_refused_as_the_command_does(generators, cohort, tmp_path, given, says):
    options = {"images": cohort, **given}
    with pytest.raises(ganatomy.InputError, match=says):
        ganatomy.generate(generators[2], out=tmp_path / "out", workspace=tmp_path, **options)
    assert not (tmp_path / "out" / "cohort.yaml").exists()


def test_the_champion_by_its_name_and_back(generators, cohort, workspace, tmp_path, capsys):
    tracking = Tracking(None, workspace)
    run = tracking.sweep_run("sweep")
    for generator in generators.values():
        Registry(tracking).register_generator(generator.directory, "ct-mr", run)
    champion = ganatomy.load_generator("models:/ct-mr@champion", workspace=workspace)
    assert champion.digest == generators[3].digest
    assert "warning: no gate has judged" in capsys.readouterr().err
    assert ganatomy.rollback("ct-mr", workspace=workspace) == 1
    assert ganatomy.load_generator("models:/ct-mr", workspace=workspace).digest == generators[2].digest
    assert not ganatomy.audit("models:/ct-mr@champion", cohort, workspace=workspace).findings
    with pytest.raises(ganatomy.InputError, match=r"no registered model 'ct-rm'.*did you mean 'ct-mr'"):
        ganatomy.load_generator("models:/ct-rm", workspace=workspace)


@pytest.mark.slow
def test_a_ray_of_the_caller_is_used_and_left(generators, cohort, tmp_path, ray_cluster):
    """Its workers were never told what ours are: generation tells them."""
    here = ganatomy.generate(generators[2], cohort, tmp_path / "here")
    there = ganatomy.generate(generators[2], cohort, tmp_path / "there", workers=2)
    assert here.made == there.made == 4
    assert ray_cluster.is_initialized()
    assert "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S" in os.environ
    for one, other in zip(here.cohort().rows, there.cohort().rows, strict=True):
        first, second = (np.asarray(nibabel.load(row.image).dataobj) for row in (one, other))
        np.testing.assert_allclose(first, second, atol=1)


def test_loading_again_gives_the_same(generators):
    again = load_generator(generators[2].directory)
    np.testing.assert_array_equal(again(volume(4, 8, 8)), generators[2](volume(4, 8, 8)))
