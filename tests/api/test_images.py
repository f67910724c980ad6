"""A cohort as a torch Dataset: what networks are trained on, in MONAI's hands."""

from __future__ import annotations

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, RandSpatialCropd, Spacingd
from PIL import Image

import ganatomy
from ganatomy.cohorts.cohort import Cohort, Domain, Row
from ganatomy.cohorts.pseudonyms import pseudonyms_of

SHAPE = (4, 32, 32)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    patients = {"ct": (3, 1, 1), "mr": (2, 1, 1)}
    return ganatomy.phantom(tmp_path_factory.mktemp("cohort") / "phantom", patients=patients, shape=SHAPE)


def test_an_item_is_the_image_as_networks_see_it_with_its_label(cohort):
    images = ganatomy.dataset(cohort, "train")
    assert len(images) == 5
    for row, item in zip(cohort.rows_of(split="train"), images, strict=True):
        prepared = ganatomy.prepare_image(row, cohort)
        assert item["image"].dtype == torch.float32
        assert item["label"].dtype == torch.int64
        assert torch.equal(item["image"].as_tensor(), torch.from_numpy(prepared.image)[None])
        assert torch.equal(item["label"].as_tensor(), torch.from_numpy(prepared.label).long()[None])
        assert {name: item[name] for name in ("patient", "subject", "domain", "split", "synthetic")} == {
            "patient": row.patient, "subject": row.subject, "domain": row.domain, "split": "train", "synthetic": False,
        }  # fmt: skip


def test_the_affine_leads_to_the_place_in_the_file(cohort):
    """The brightest voxel of the item and of the file lie at one place in mm, however the file is stored."""
    for row, item in zip(cohort.rows, ganatomy.dataset(cohort), strict=True):
        file = nibabel.load(row.label)
        stored = np.asarray(file.dataobj)
        structure = stored.max()
        there = np.argwhere(stored == structure).mean(axis=0)
        here = np.argwhere(item["label"][0].numpy() == item["label"].max().item()).mean(axis=0)
        in_file = file.affine @ [*there, 1]
        in_item = item["image"].affine.numpy() @ [*here, 1]
        np.testing.assert_allclose(in_item, in_file, atol=1e-3)


@pytest.mark.parametrize("loader", [DataLoader, torch.utils.data.DataLoader])
@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_and_loaders_of_monai_and_torch_take_it(cohort, loader, workers):
    crop = RandSpatialCropd(["image", "label"], (4, 24, 24), random_size=False)
    spaced = Spacingd(["image", "label"], pixdim=(3.0, 3.0, 3.0), mode=("bilinear", "nearest"))
    images = ganatomy.dataset(cohort, "train", transform=Compose([crop, spaced]))
    batch = next(iter(loader(images, batch_size=2, num_workers=workers)))
    assert batch["image"].shape == batch["label"].shape
    assert batch["image"].shape[:2] == (2, 1)
    plain = ganatomy.dataset(cohort, "train")[0]["image"]
    assert isinstance(plain, MetaTensor)
    step = 24 * plain.pixdim[-1].item() / 3.0
    assert abs(batch["image"].shape[-1] - step) <= 1.5
    assert batch["domain"] == ["ct", "ct"]


def test_of_images_without_labels_and_of_those_that_have_them(cohort):
    first, *others = cohort.rows_of("ct", "train")
    mixed = replace(cohort, rows=(replace(first, label=None), *others))
    images = ganatomy.dataset(mixed, "train", domain="ct")
    assert set(images[0]["label"].unique().tolist()) == {-1}
    assert images[1]["label"].min() == 0
    assert len(ganatomy.dataset(mixed, "train", domain="ct", labelled=True)) == len(others)
    bare = replace(cohort, rows=(replace(first, label=None),))
    assert "label" not in ganatomy.dataset(bare)[0]


def test_a_film_has_no_slices(tmp_path):
    film = np.random.default_rng(0).integers(0, 255, (24, 16)).astype(np.uint8)
    Image.fromarray(film).save(tmp_path / "film.png")
    row = Row("p1", "p1", "xray", tmp_path / "film.png", split="train", klass="normal")
    cohort = Cohort(tmp_path / "films", "films", {"xray": Domain("xray")}, rows=(row,)).save()
    item = ganatomy.dataset(cohort.path, "train")[0]
    assert item["image"].shape == (1, 24, 16)
    assert item["class"] == "normal"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"domain": "pet"}, "unknown domain 'pet'"),
    ],
)
def test_what_is_not_there_is_said(cohort, given, says):
    with pytest.raises(ganatomy.InputError, match=says):
        ganatomy.dataset(cohort, **given)


def test_nothing_left_is_said(cohort):
    bare = replace(cohort, rows=tuple(replace(row, label=None) for row in cohort.rows))
    with pytest.raises(ganatomy.InputError, match="no image that is train, ct, labelled"):
        ganatomy.dataset(bare, "train", domain="ct", labelled=True)


def test_whoever_has_the_cohort_knows_whom_a_pseudonym_stands_for(cohort):
    names = pseudonyms_of(cohort.path)
    patient = cohort.rows[0].patient
    assert ganatomy.who(cohort, f"sub-{names(patient)}_ct.nii.gz") == {names(patient): f"patient {patient}"}
    with pytest.raises(ganatomy.InputError, match="stands for nobody"):
        ganatomy.who(cohort.path, ["p0123456789abcdef"])


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("brain", {"patients": (1, 1, 1), "shape": (4, 32, 32)}),
        ("bone", {"patients": {"lesion": (1, 1, 1), "normal": (1, 1, 1)}, "shape": (64, 32)}),
    ],
)
def test_phantoms_of_every_kind(tmp_path, kind, given):
    cohort = ganatomy.phantom(tmp_path / kind, kind=kind, **given)
    assert ganatomy.read_cohort(tmp_path / kind) == cohort
    with pytest.raises(ganatomy.InputError, match="did you mean 'heart'"):
        ganatomy.phantom(tmp_path / "x", kind="haert")
