"""Generation over real files: their grid comes back exactly, everything made can be traced, nothing is overwritten."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from generators.test_generator import Affine, cohort, experiment, store
from torch import nn

from ganatomy.cohorts.cohort import Cohort, Domain, Row, prepare_image
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError, Task
from ganatomy.generation.jobs import plan_generation
from ganatomy.generation.translated import finish_generation, generate, run_job
from ganatomy.generators.generator import Generator, save_generator
from ganatomy.images.intensities import Intensity

FILES = Pseudonyms(b"of files")


def affine(*, orientation: str = "RAS", angle: float = 0.0, spacing=(2.0, 2.0, 2.0)) -> np.ndarray:
    """Voxel to RAS mm of a scan stored in ``orientation``, tilted by ``angle`` about x, somewhere off the origin."""
    turn = nib.orientations.axcodes2ornt(orientation)
    permuted = np.zeros((4, 4))
    for axis, (target, flip) in enumerate(turn):
        permuted[int(target), axis] = flip * spacing[axis]
    permuted[3, 3] = 1
    cosine, sine = np.cos(angle), np.sin(angle)
    tilt = np.array([[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1.0]])
    result = tilt @ permuted
    result[:3, 3] = (-31.7, 12.25, 40.125)
    return result


def write(path: Path, shape=(9, 14, 7), dtype=np.int16, grid=None, seed=0, **fields) -> Path:
    values = np.random.default_rng(seed).uniform(-200, 300, shape).astype(dtype)
    image = nib.Nifti1Image(values, affine() if grid is None else grid)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Jane Doe, born 1970"
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 2)
    for name, value in fields.items():
        image.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[int, Generator]:
    made, folder = {}, tmp_path_factory.mktemp("bundles")
    prepared = store(folder / "store")
    for ndim in (2, 3):
        method = Affine(Affine.Config(), Task(ndim, 3, nn.Identity)).set()
        rules = cohort(folder, spacing=None, size=(8, 8, 4))
        made[ndim] = save_generator(
            folder / f"bundle{ndim}", method, experiment(ndim), cohort=rules, store=prepared, stages={}
        )
    return made


@pytest.fixture
def generator(bundles) -> Generator:
    return bundles[2]


@pytest.fixture
def source(tmp_path: Path) -> Cohort:
    """Two labelled CT patients (one of them tested on), one unlabelled, one MR; different grids."""
    grids = [affine(), affine(orientation="LAS", angle=0.3), affine(orientation="PSR")]
    rows = []
    for number, (grid, split) in enumerate(zip(grids, ("train", "test", "train"))):
        image = write(tmp_path / f"in/p{number}_ct.nii.gz", (9, 14 + number, 7), grid=grid, seed=number)
        label = None
        if number < 2:
            ids = np.random.default_rng(9).integers(0, 3, (9, 14 + number, 7)).astype(np.uint8)
            label = tmp_path / f"in/p{number}_seg.nii.gz"
            nib.save(nib.Nifti1Image(ids, grid), label)
        rows.append(Row(f"Jane Doe {number}", f"scan_{number}", "ct", image, label, split, session="1" * (number == 0)))
    rows.append(Row("Joe", "joe", "mr", write(tmp_path / "in/joe.nii"), None, "train"))
    return replace(cohort(tmp_path / "in", spacing=None), rows=tuple(rows)).save()


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("max_voxels", [10**6, 700])
@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((9, 14, 7), affine()),
        ((21, 10, 33), affine(orientation="LAS", angle=0.4, spacing=(0.7, 1.3, 3))),
        ((5, 6, 17), affine(orientation="PSR", angle=-0.2)),
        ((12, 9, 1), affine(orientation="LPS")),
        ((8, 9, 10, 1), affine(orientation="SLA", angle=0.1)),
    ],
    ids=["odd", "oblique LAS", "PSR", "one slice", "4D"],
)
def test_grid_of_the_file_comes_back_exactly_with_the_right_voxels(
    bundles, tmp_path: Path, ndim, max_voxels, shape, grid
) -> None:
    path = write(tmp_path / "scan.nii.gz", shape, grid=grid)
    (result,) = generate(bundles[ndim], path, tmp_path / "out", names=FILES, max_voxels=max_voxels)
    assert result.status == "made", result.error
    before, after = nib.load(path), nib.load(result.row.image)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    for name in ("pixdim", "xyzt_units", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b"):
        np.testing.assert_array_equal(after.header[name], before.header[name], err_msg=name)
    # the toy negates [-1, 1]: CT window -160..240 becomes the median MR range 20..1000 upside down
    scaled = np.clip((before.get_fdata() + 160) / 200 - 1, -1, 1)
    assert after.get_data_dtype() == np.int16
    np.testing.assert_allclose(after.get_fdata(), (1 - scaled) * 490 + 20, atol=0.51)


def test_resampled_images_come_back_to_their_own_grid(tmp_path: Path) -> None:
    """A smooth image through a generator that works at another spacing: same grid, nearly the same values."""
    method = Affine(Affine.Config(), Task(2, 3, nn.Identity)).set()
    made = save_generator(
        tmp_path / "bundle", method, experiment(), cohort=cohort(tmp_path, spacing=(1.5, 1.5, 2.0)),
        store=store(tmp_path / "store"), stages={},
    )  # fmt: skip
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in (24, 30, 8)], indexing="ij")
    smooth = 40 + 80 * axes[0] - 60 * axes[1] + 30 * axes[2]
    path = tmp_path / "smooth.nii.gz"
    nib.save(nib.Nifti1Image(smooth.astype(np.float32), affine(orientation="LPS", angle=0.2)), path)
    (result,) = generate(made, path, tmp_path / "out", names=FILES)
    after = nib.load(result.row.image)
    assert after.shape == smooth.shape
    assert after.get_data_dtype() == np.float32
    np.testing.assert_array_equal(after.affine, nib.load(path).affine)
    expected = (1 - (np.clip((smooth + 160) / 200 - 1, -1, 1))) * 490 + 20
    np.testing.assert_allclose(after.get_fdata()[2:-2, 2:-2], expected[2:-2, 2:-2], atol=5)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float32, np.float32), (np.uint8, np.float32), (np.int32, np.int32)]
)
def test_stored_type_is_the_sources_where_that_can_hold_it(generator, tmp_path: Path, dtype, expected) -> None:
    path = write(tmp_path / "scan.nii", dtype=dtype)
    (result,) = generate(generator, path, tmp_path / "out", names=FILES)
    assert nib.load(result.row.image).get_data_dtype() == expected  # 20..1000 does not fit 8 bits


def test_png_becomes_nifti(generator, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 200, (11, 17)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slice.png")
    (result,) = generate(generator, tmp_path / "slice.png", tmp_path / "out", names=FILES)
    made = nib.load(result.row.image)
    assert made.shape == (17, 11, 1)
    assert nib.aff2axcodes(made.affine) == ("R", "P", "S")
    assert made.header.get_xyzt_units()[0] == "mm"


def test_result_is_a_cohort_whose_rows_inherit_and_whose_labels_are_the_same(generator, source, tmp_path) -> None:
    results = generate(generator, source, tmp_path / "out")
    assert [result.status for result in results] == ["made"] * 3
    made, names = read_cohort(tmp_path / "out"), pseudonyms_of(source.path)
    assert {(row.patient, row.subject, row.split, row.domain, row.synthetic, row.parents) for row in made.rows} == {
        (names(f"Jane Doe {n}"), names(f"scan_{n}"), split, "mr", True, (names(f"scan_{n}"),))
        for n, split in enumerate(("train", "test", "train"))
    }
    assert made.labels == source.labels
    assert made.domains == {"mr": source.domains["mr"]}
    by_subject = {row.subject: row for row in made.rows}
    for row in source.rows_of("ct"):
        label = by_subject[names(row.subject)].label
        assert (label is None) == (row.label is None)
        if row.label:
            before, after = nib.load(row.label), nib.load(label)
            np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
            np.testing.assert_array_equal(after.affine, before.affine)
            assert after.get_data_dtype() == np.uint8
    for row in made.rows:
        prepared = prepare_image(row, made)  # image and label fit each other, and have contrast
        assert prepared.image.min() < -0.99
        assert prepared.image.max() > 0.99
    assert json.loads((tmp_path / "out/dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert not list((tmp_path / "out").rglob(".part-*"))


def test_sidecar_traces_without_telling_names(generator, source, tmp_path) -> None:
    results = generate(generator, source, tmp_path / "out")
    job = results[1].job
    sidecar = json.loads(job.sidecar.read_text())
    assert sidecar["GeneratorDigest"] == generator.digest
    assert sidecar["Sources"] == [f"heart:{pseudonyms_of(source.path)('Jane Doe 1')}"]
    assert (sidecar["SourceDomain"], sidecar["Domain"], sidecar["SourceRole"], sidecar["Role"]) == (
        "ct",
        "mr",
        "A",
        "B",
    )
    assert (sidecar["Seed"], sidecar["Split"], sidecar["IntensityRange"]) == (7, "test", [20.0, 1000.0])
    assert sidecar["LabelSource"].startswith("carried over")
    assert json.loads(results[2].job.sidecar.read_text())["LabelSource"] == "none"
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix == ".json" or path.name.endswith("_mr.nii.gz"):
            content = bytes(nib.load(path).header.binaryblock) if path.suffix == ".gz" else path.read_bytes()
            for secret in (b"Jane", b"1970", str(tmp_path).encode()):
                assert secret not in content, path


def test_header_extensions_are_not_carried_over(generator, tmp_path: Path) -> None:
    image = nib.load(write(tmp_path / "plain.nii"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "scan.nii")
    assert b"Jane Doe" in (tmp_path / "scan.nii").read_bytes()
    (result,) = generate(generator, tmp_path / "scan.nii", tmp_path / "out", names=FILES)
    assert not nib.load(result.row.image).header.extensions


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.nii.gz")}


def test_second_run_keeps_what_is_finished_and_repairs_what_is_not(generator, source, tmp_path) -> None:
    out = tmp_path / "out"
    first = generate(generator, source, out)
    before = contents(out)
    assert [result.status for result in generate(generator, source, out)] == ["kept"] * 3
    assert contents(out) == before
    first[0].job.image.unlink()  # as if stopped between the sidecar and the image
    assert [result.status for result in generate(generator, source, out)] == ["made", "kept", "kept"]
    first[1].job.label.unlink()  # somebody's doing: said, and mended only when asked to
    assert [result.status for result in generate(generator, source, out)] == ["kept", "failed", "kept"]
    assert [result.status for result in generate(generator, source, out, overwrite=True)] == ["kept", "made", "kept"]
    assert {name: content for name, (_, content) in contents(out).items()} == {
        name: content for name, (_, content) in before.items()
    }


def test_an_interruption_leaves_nothing_that_looks_finished(generator, source, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    job = plan_generation(generator, source, out)[0]

    def interrupt(image, path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(nib, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_job(generator.directory, job)
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert run_job(generator.directory, job).status == "made"


def test_a_full_disc_is_said_and_leaves_nothing(generator, source, tmp_path, monkeypatch) -> None:
    def full(image, path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    job = plan_generation(generator, source, tmp_path / "out")[0]
    with monkeypatch.context() as patched:
        patched.setattr(nib, "save", full)
        result = run_job(generator.directory, job)
    assert (result.status, result.row) == ("failed", None)
    assert "No space left" in result.error
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_nothing_is_overwritten_silently(generator, source, tmp_path) -> None:
    out = tmp_path / "out"
    jobs = plan_generation(generator, source, out)
    jobs[0].image.parent.mkdir(parents=True)
    jobs[0].image.write_bytes(b"somebody's work")
    with pytest.raises(InputError, match=r"not made by a generator.*--overwrite"):
        plan_generation(generator, source, out)
    result = run_job(generator.directory, jobs[0])
    assert result.status == "failed"
    assert "--overwrite" in result.error
    assert jobs[0].image.read_bytes() == b"somebody's work"
    (first, *_) = plan_generation(generator, source, out, overwrite=True)
    assert run_job(generator.directory, first).status == "made"


@pytest.mark.parametrize("kind", ["label", "sidecar"])
def test_files_beside_the_image_are_not_overwritten_either(generator, source, tmp_path, kind) -> None:
    job = plan_generation(generator, source, tmp_path / "out")[0]
    foreign = getattr(job, kind)
    foreign.parent.mkdir(parents=True)
    foreign.write_text("somebody's work")
    result = run_job(generator.directory, job)
    assert result.status == "failed"
    assert str(foreign) in result.error
    assert foreign.read_text() == "somebody's work"
    assert run_job(generator.directory, replace(job, overwrite=True)).status == "made"


@pytest.mark.parametrize("name", ["dataset_description.json", "images.csv", "boxes.csv", "annotations.coco.json"])
def test_the_folder_of_another_data_set_is_refused_as_it_is(generator, source, tmp_path, name) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"Name": "somebody\'s BIDS data set"}')
    with pytest.raises(InputError, match=f"{name} is somebody else's"):
        generate(generator, source, out, overwrite=True)
    assert [file.name for file in out.iterdir()] == [name]
    assert "somebody's" in (out / name).read_text()


def test_a_changed_source_or_generator_is_refused(bundles, generator, source, tmp_path) -> None:
    out = tmp_path / "out"
    generate(generator, source, out)
    with pytest.raises(InputError, match=f"made by generator {generator.digest}"):
        plan_generation(bundles[3], source, out)
    write(source.rows[0].image, (9, 14, 7), seed=77)
    statuses = [run_job(generator.directory, job).status for job in plan_generation(generator, source, out)]
    assert statuses == ["failed", "kept", "kept"]


def test_one_bad_image_does_not_stop_the_others(generator, source, tmp_path) -> None:
    source.rows[1].image.write_bytes(b"not an image")
    results = generate(generator, source, tmp_path / "out")
    assert [result.status for result in results] == ["made", "failed", "made"]
    assert str(source.rows[1].image) in results[1].error
    assert len(read_cohort(tmp_path / "out").rows) == 2


def test_files_gather_in_one_folder_and_the_cohort_grows(generator, tmp_path) -> None:
    for name in ("first", "second"):
        generate(generator, write(tmp_path / f"{name}.nii.gz", seed=len(name)), tmp_path / "out", names=FILES)
    assert {row.subject for row in read_cohort(tmp_path / "out").rows} == {FILES("first"), FILES("second")}


def test_skull_stripped_background_stays_empty(tmp_path: Path) -> None:
    domains = {
        "ct": Domain("ct", "FLAIR", Intensity("percentile", 1, 99, "nonzero")),
        "mr": Domain("mr", "T1c", Intensity("percentile", 1, 99, "nonzero")),
    }
    method = Affine(Affine.Config(), Task(2, 3, nn.Identity)).set()
    made = save_generator(
        tmp_path / "bundle", method, experiment(), cohort=cohort(tmp_path, domains=domains, spacing=None),
        store=store(tmp_path / "store"), stages={},
    )  # fmt: skip
    brain = np.zeros((20, 18, 6), np.int16)
    brain[4:15, 5:12, 1:5] = np.random.default_rng(0).integers(100, 900, (11, 7, 4))
    nib.save(nib.Nifti1Image(brain, affine(orientation="LPS")), tmp_path / "flair.nii.gz")
    (result,) = generate(made, tmp_path / "flair.nii.gz", tmp_path / "out", names=FILES)
    after = nib.load(result.row.image).get_fdata()
    np.testing.assert_array_equal(after != 0, brain != 0)
    assert after[brain != 0].min() == 20
    assert after.max() == 1000


def test_bad_requests_are_one_clear_line(generator, source, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="does not exist"):
        plan_generation(generator, tmp_path / "none.nii", out, names=FILES)
    with pytest.raises(InputError, match="no role or domain 'pet'"):
        plan_generation(generator, source, out, source_role="pet")
    with pytest.raises(InputError, match=r"no real image of domain 'ct' in split val.*ct, mr"):
        plan_generation(generator, source, out, splits=["val"])
    with pytest.raises(InputError, match="real images"):
        plan_generation(generator, source, source.path)
    with pytest.raises(InputError, match="nothing was made"):
        finish_generation(generator, [], out, None)
    assert not out.exists()
