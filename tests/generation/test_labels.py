"""What is written beside a made image: the label that it shows and not that of its source, and the maps it comes with.

The method here takes pathology (bright voxels) out, and draws it in where it is asked to, exactly and knowingly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganatomy.cohorts.cohort import Cohort, Domain, Row, prepare_image
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import UNLABELLED, Adam, Batch, InputError, Method, Phase, Synthetic, Task, Update
from ganatomy.core.plugins import allow
from ganatomy.experiment import Choice, Experiment, Sampling
from ganatomy.generation.jobs import plan_generation
from ganatomy.generation.translated import generate, run_job
from ganatomy.generators.generator import Generator, save_generator
from ganatomy.images.intensities import Intensity
from ganatomy.stores.writing import Item, write_store

FLAIR = Domain("flair", "MR", Intensity("window", 0, 1000))
TISSUE, LESION = 400, 900
STORED = {1: 4, 2: 7}
"""Class id -> the value that the label files hold."""


@dataclass(frozen=True)
class HealingConfig:
    known: bool = True


class Healing(Method):
    """G and R are exact, and so have nothing to learn. Class 1 is pathology."""

    Config = HealingConfig
    roles = ("P", "H")
    label_donors = {"H": "P"}  # noqa: RUF012
    generators = ("G",)
    multiple_of = 4

    def __init__(self, config: HealingConfig, task: Task) -> None:
        super().__init__(config, task)
        self.G = nn.Conv2d(1, 1, 1) if task.ndim == 2 else nn.Conv3d(1, 1, 1)

    def optimisers(self) -> dict[str, Adam]:
        return {"G": Adam()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        return (Phase("only", generator_steps),)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        return {}

    def synthesize(self, batch: Batch) -> list[Synthetic]:
        made = []
        if "P" in batch:
            image = batch["P"].image
            lesion = image > 0.5
            healed = torch.where(lesion, torch.full_like(image, -0.2), image)
            label = torch.full_like(image[:, 0], 0 if self.config.known else UNLABELLED).long()
            made.append(Synthetic(healed, "H", "P", label=label, maps={"pathology": lesion.float()}))
        if "H" in batch:
            asked = (batch["H"].label > 0).unsqueeze(1)
            made.append(
                Synthetic(torch.where(asked, torch.full_like(batch["H"].image, 0.8), batch["H"].image), "P", "H")
            )
        return made


allow(f"{__name__}:Healing")  # as whoever types it does


def experiment(ndim: int = 2, **config) -> Experiment:
    return Experiment(
        cohort="brains", domains={"P": "flair:lesion", "H": "flair:healthy"}, target="H", arm="offline",
        method=Choice(f"{__name__}:Healing", config), sampling=Sampling(ndim=ndim, size=(16,) * ndim),
    )  # fmt: skip


def rules(path: Path) -> Cohort:
    return Cohort(path, "brains", {"flair": FLAIR}, {1: "lesion", 2: "scar"}, licence="CC0",
                  label_values={value: klass for klass, value in STORED.items()})  # fmt: skip


def bundle(folder: Path, ndim: int = 2, **config) -> Generator:
    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    items = [Item("a", "a", "flair", "train", image, np.ones((1, 8, 8), np.uint8), lo=0, hi=1000)]
    store = write_store(folder / "store", name="brains", labels={1: "lesion", 2: "scar"},
                        domains={"flair": {"modality": "MR"}}, digest="d", items=items)  # fmt: skip
    method = Healing(HealingConfig(**config), Task(ndim, 3, nn.Identity))
    return save_generator(
        folder / "bundle", method, experiment(ndim, **config), cohort=rules(folder), store=store, stages={}
    )


GRID = np.array([[-1.5, 0, 0, 7], [0, 0, 2.0, -3], [0, 3.0, 0, 11], [0, 0, 0, 1.0]])
"""Stored right to left, with slices along the second axis."""


def write_brain(folder: Path, name: str, split: str, lesion: tuple[slice, slice, slice] | None, side: int = 12) -> Row:
    """A body of even tissue, [x, slice, y]; pathology in the box ``lesion``."""
    volume, label = np.zeros((side, 6, side), np.int16), np.zeros((side, 6, side), np.int16)
    volume[2:-2, :, 2:-2] = TISSUE
    if lesion:
        volume[lesion], label[lesion] = LESION, STORED[1]
    for what, voxels in (("flair", volume), ("seg", label)):
        nib.save(nib.Nifti1Image(voxels, GRID), folder / f"{name}_{what}.nii")
    return Row(name, name, "flair", folder / f"{name}_flair.nii", folder / f"{name}_seg.nii", split)


@pytest.fixture
def brains(tmp_path: Path) -> Cohort:
    folder = tmp_path / "in"
    folder.mkdir()
    low, high = (slice(3, 6), slice(0, 3), slice(4, 8)), (slice(5, 9), slice(3, 6), slice(3, 6))
    rows = [
        write_brain(folder, "low", "train", low),
        write_brain(folder, "high", "train", high),
        write_brain(folder, "tested", "test", low),
        write_brain(folder, "other", "test", high, side=14),
    ]
    return replace(rules(folder), rows=tuple(rows)).save()


def test_what_leads_to_the_target_is_made_by_default_and_states_are_told_apart(tmp_path: Path) -> None:
    generator = bundle(tmp_path)
    assert generator.route() == ("P", "H")
    assert generator.route("flair:healthy") == generator.route("healthy") == generator.route("H") == ("H", "P")
    assert generator.route(None, "lesion") == ("H", "P")
    with pytest.raises(InputError, match=r"several roles of domain 'flair'.*flair:lesion"):
        generator.route("flair")


def test_a_healed_brain_has_the_empty_label_that_the_method_gave_it_and_a_map(brains, tmp_path) -> None:
    generator, out = bundle(tmp_path), tmp_path / "out"
    results = generate(generator, brains, out)
    assert [result.status for result in results] == ["made"] * 4
    made = read_cohort(out)
    names, by_subject = pseudonyms_of(brains.path), {row.subject: row for row in made.rows}
    for source in brains.rows:
        row = by_subject[names(source.subject)]
        image, before = nib.load(row.image), nib.load(source.image)
        truth = nib.load(source.label).get_fdata() > 0
        assert image.get_fdata().max() == TISSUE
        np.testing.assert_array_equal(image.get_fdata()[~truth], before.get_fdata()[~truth])
        np.testing.assert_array_equal(image.affine, GRID)
        assert row.label != source.label
        assert not nib.load(row.label).get_fdata().any()
        map_file = row.image.with_name(f"sub-{row.subject}_label-pathology_desc-fromflairlesion_probseg.nii.gz")
        said = nib.load(map_file)
        np.testing.assert_array_equal(said.get_fdata(), truth)
        np.testing.assert_array_equal(said.affine, GRID)
        assert prepare_image(row, made).label.sum() == 0
        assert (row.split, row.patient, row.parents) == (source.split, names(source.patient), (row.subject,))
    sidecar = json.loads(results[0].job.sidecar.read_text())
    assert sidecar["LabelSource"].startswith("given by the method")
    assert sidecar["Maps"]["pathology"]["File"].endswith("label-pathology_desc-fromflairlesion_probseg.nii.gz")
    assert (sidecar["SourceRole"], sidecar["Role"], sidecar["IntensityRange"]) == ("P", "H", [0, 1000])


def test_no_label_is_written_where_the_method_knows_of_none(brains, tmp_path) -> None:
    generator = bundle(tmp_path, known=False)
    (result, *_) = generate(generator, brains, tmp_path / "out")
    assert result.row.label is None
    assert json.loads(result.job.sidecar.read_text())["LabelSource"] == "none"
    assert not list((tmp_path / "out").rglob("*_dseg*"))
    assert [result.status for result in generate(generator, brains, tmp_path / "out")] == ["kept"] * 4


def test_pathology_is_drawn_into_healthy_slices_as_another_patient_of_the_split_has_it(brains, tmp_path) -> None:
    generator, out = bundle(tmp_path), tmp_path / "out"
    results = generate(generator, brains, out, source_role="H")
    assert [result.status for result in results] == ["made"] * 4, [result.error for result in results]
    made, partner = read_cohort(out), {"low": "high", "high": "low", "tested": "other", "other": "tested"}
    names, by_name = pseudonyms_of(brains.path), {row.subject: row for row in brains.rows}
    own_name = {names(name): name for name in by_name}
    for row in made.rows:
        source = by_name[own_name[row.subject]]
        donor = by_name[partner[source.subject]]
        assert row.parents == (row.subject, names(donor.subject))
        assert donor.split == row.split
        drawn, image = nib.load(row.label).get_fdata(), nib.load(row.image).get_fdata()
        own = nib.load(source.label).get_fdata() > 0
        with_own = own.any(axis=(0, 2))  # these slices show the patient's own pathology: none of them is used
        assert not drawn[:, with_own].any()
        assert not image[:, with_own].any()
        assert set(np.unique(drawn)) == {0, STORED[1]}
        np.testing.assert_array_equal(image == LESION, drawn > 0)
        assert (drawn > 0).sum() == (nib.load(donor.label).get_fdata() > 0).sum()
        sidecar = json.loads(
            next(result.job.sidecar for result in results if result.row.subject == row.subject).read_text()
        )
        assert sidecar["LabelSource"] == "of another patient, drawn in"
        assert sidecar["Sources"] == [f"brains:{who}" for who in (row.patient, names(donor.patient))]
    again = generate(generator, brains, out, source_role="H")
    assert [(result.status, result.row.parents) for result in again] == [
        ("kept", result.row.parents) for result in results
    ]


def test_whole_images_take_whole_labels_and_only_healthy_ones_do(brains, tmp_path) -> None:
    healthy = write_brain(tmp_path / "in", "sound", "train", None)
    cohort = replace(brains, rows=(*brains.rows, healthy)).save()
    names = pseudonyms_of(cohort.path)
    own_name = {names(row.subject): row.subject for row in cohort.rows}
    done = generate(bundle(tmp_path, 3), cohort, tmp_path / "out", source_role="H")
    results = {own_name[result.job.row.subject]: result for result in done}
    assert {name: result.status for name, result in results.items() if result.status == "made"} == {"sound": "made"}
    assert "nothing in state healthy" in results["low"].error
    row = results["sound"].row
    donor = next(one for one in cohort.rows if one.subject == own_name[row.parents[1]])
    np.testing.assert_array_equal(nib.load(row.label).get_fdata(), nib.load(donor.label).get_fdata())


def test_labels_to_draw_are_asked_for_in_one_line(brains, tmp_path) -> None:
    generator = bundle(tmp_path)
    alone = replace(brains, rows=brains.rows[:1])
    with pytest.raises(InputError, match=r"no label to draw into low.*another patient in split train"):
        plan_generation(generator, alone, tmp_path / "out", source_role="H")
    with pytest.raises(InputError, match=r"no label to draw into it.*--label"):
        plan_generation(generator, brains.rows[0].image, tmp_path / "out", source_role="H", names=Pseudonyms(b"key"))
    with pytest.raises(InputError, match=r"has labels .*expected those that the generator draws"):
        plan_generation(generator, replace(brains, labels={1: "cyst"}), tmp_path / "out", source_role="H")


def test_a_file_is_drawn_into_as_its_label_asks(brains, tmp_path) -> None:
    healthy = write_brain(tmp_path, "sound", "", None)
    (result,) = generate(bundle(tmp_path), healthy.image, tmp_path / "out", source_role="H", label=brains.rows[0].label,
                         names=Pseudonyms(b"key"))  # fmt: skip
    asked = nib.load(brains.rows[0].label).get_fdata() > 0
    np.testing.assert_array_equal(nib.load(result.row.image).get_fdata() == LESION, asked)
    drawn, given = (nib.load(file) for file in (result.row.label, brains.rows[0].label))
    np.testing.assert_array_equal(np.asarray(drawn.dataobj), np.asarray(given.dataobj))


def test_labels_and_maps_are_kept_refused_and_repaired_like_the_image(brains, tmp_path) -> None:
    generator, out = bundle(tmp_path), tmp_path / "out"
    results = generate(generator, brains, out)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("sub-*") if path.is_file()}
    assert [result.status for result in generate(generator, brains, out)] == ["kept"] * 4
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    first, second, third, _ = (result.job for result in results)
    first.image.unlink()  # as if stopped before the last rename
    second.beside("probseg", label="pathology").write_bytes(b"somebody's work")
    third.image.unlink()
    third.beside("dseg").write_bytes(b"somebody's work")
    found = generate(generator, brains, out)
    assert [result.status for result in found] == ["made", "failed", "failed", "kept"]
    assert "_dseg.nii.gz exists" in found[2].error
    generate(generator, brains, out, overwrite=True)
    assert {path: content for path, (_, content) in before.items()} == {path: path.read_bytes() for path in before}


def test_a_changed_label_of_the_source_is_noticed(brains, tmp_path) -> None:
    generator, out = bundle(tmp_path), tmp_path / "out"
    job = plan_generation(generator, brains, out)[0]
    assert run_job(generator.directory, job).status == "made"
    label = nib.load(brains.rows[0].label)
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.int16), label.affine), brains.rows[0].label)
    assert run_job(generator.directory, job).status == "failed"


def test_two_ways_do_not_share_a_folder(brains, tmp_path) -> None:
    generator, out = bundle(tmp_path), tmp_path / "out"
    generate(generator, brains, out)
    with pytest.raises(InputError, match=r"already there for subject p[0-9a-f]{16}; .*another --out"):
        plan_generation(generator, brains, out, source_role="H")
