"""What is given away names nobody: headers are built fresh, files and sidecars go by pseudonym, and an audit tells."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ganatomy import cli
from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.generation.outputs import like_source, stored_mask
from ganatomy.generation.translated import generate
from trust.marked import GRID, MARKER, assert_names_nobody, write_volume

# --- headers -----------------------------------------------------------------------------------------------------


def test_no_byte_of_a_source_but_its_grid_and_labels_is_in_what_is_made(generator, source, tmp_path):
    out = tmp_path / "out"
    results = generate(generator, source, out)
    assert [result.status for result in results] == ["made"] * 6, [result.error for result in results]
    assert_names_nobody(out, str(tmp_path))
    names, made = pseudonyms_of(source.path), {row.subject: row for row in read_cohort(out).rows}
    for row in source.rows:
        one = made[names(row.subject)]
        assert (one.patient, one.split) == (names(row.patient), row.split)
        assert all(file.is_relative_to(out) for file in (one.image, one.label, one.mask))
        for before, after in ((row.label, one.label), (row.mask, one.mask)):
            values = (
                np.asarray(Image.open(before)).T[..., None] if before.suffix == ".png" else nib.load(before).dataobj
            )
            np.testing.assert_array_equal(np.asarray(nib.load(after).dataobj), np.asarray(values))
    again = generate(generator, source, out)
    assert [result.status for result in again] == ["kept"] * 6


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 2), (0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("shape", [(9, 14, 7), (9, 14, 7, 1), (9, 14, 1)])
def test_a_header_is_built_fresh_and_its_grid_is_that_of_the_source(tmp_path, kind, codes, shape):
    path = write_volume(tmp_path / "scan.nii", np.zeros(shape, np.int16), kind, codes)
    nib.save(like_source(path, np.ones(shape[:3]), np.eye(4), dtype=np.uint8), tmp_path / "made.nii")
    before, after = nib.load(path), nib.load(tmp_path / "made.nii")
    assert type(after) is type(before)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    kept = ["pixdim", "xyzt_units", "qform_code", "sform_code", "dim", "magic"]
    kept += ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"] if codes[0] else []
    kept += ["srow_x", "srow_y", "srow_z"] if codes[1] else []
    for name in kept:
        np.testing.assert_array_equal(after.header[name], before.header[name], err_msg=name)
    blank = type(after.header)()
    stored = {"descrip", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", *kept}
    for name in set(after.header) - stored:
        np.testing.assert_array_equal(after.header[name], blank[name], err_msg=name)
    assert not after.header.extensions
    assert MARKER[:8].encode() not in (tmp_path / "made.nii").read_bytes()


def test_steps_along_axes_that_a_file_has_not_are_not_taken_over(tmp_path):
    path = write_volume(tmp_path / "scan.nii", np.zeros((9, 14, 7), np.int16))
    image = nib.load(path)
    image.header["pixdim"][5:] = (47.0, 11.0, 234.0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "odd.nii")
    made = like_source(tmp_path / "odd.nii", np.zeros((9, 14, 7)), np.eye(4))
    assert made.header["pixdim"][5:].tolist() == [1, 1, 1]


def test_a_mask_of_fractions_masks_what_it_masked(tmp_path):
    """Wherever it is not 0, however little it says."""
    values = np.zeros((9, 14, 7), np.float32)
    values[2:5] = 0.25
    made = stored_mask(write_volume(tmp_path / "mask.nii", values), GRID)
    np.testing.assert_array_equal(np.asarray(made.dataobj), values != 0)
    assert made.get_data_dtype() == np.uint8


def test_labels_keep_values_that_need_many_bits(tmp_path, generator, source):
    top = 40_000
    wide = replace(source, rows=source.rows[:1], labels={1: "lv", 2: "rv"}, label_values={top: 1, 12_000: 2})
    ids = np.asarray(nib.load(wide.rows[0].label).dataobj)
    write_volume(wide.rows[0].label, np.choose(ids, [0, top, 12_000]).astype(np.int32))
    (result,) = generate(generator, wide, tmp_path / "wide")
    label = nib.load(result.row.label)
    assert label.get_data_dtype() == np.int32
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.choose(ids, [0, top, 12_000]))


# --- names -------------------------------------------------------------------------------------------------------


def test_a_table_may_keep_the_names_for_the_laboratory_and_the_files_do_not(generator, source, tmp_path):
    out = tmp_path / "out"
    generate(generator, source, out, keep_names=True)
    made = {row.subject: row for row in read_cohort(out).rows}
    for row in source.rows:
        one = made[row.subject]
        assert (one.patient, one.session, one.split, one.parents) == (
            row.patient,
            row.session,
            row.split,
            (row.subject,),
        )
    (out / "images.csv").rename(tmp_path / "table.csv")
    (out / "cohort.yaml").rename(tmp_path / "cohort.yaml")
    assert_names_nobody(out)
    (tmp_path / "table.csv").rename(out / "images.csv")
    (tmp_path / "cohort.yaml").rename(out / "cohort.yaml")
    assert [result.status for result in generate(generator, source, out)] == ["kept"] * 6  # and by pseudonym again
    assert_names_nobody(out)


def test_a_file_is_known_by_a_pseudonym_of_the_workspace_that_the_screen_alone_tells(
    unmasked, source, tmp_path, capsys
):
    file = source.rows[0].image
    command = ["generate", str(unmasked.directory), "--image", str(file), "--label", str(source.rows[0].label),
               "--out", str(tmp_path / "out"), "--workers", "1", "--workspace", str(tmp_path / "w")]  # fmt: skip
    capsys.readouterr()
    for said in ("1 made", "0 made, 1 kept"):
        assert cli.main(command) == 0
        assert said in (told := capsys.readouterr().out)
        name = pseudonyms_of(tmp_path / "w")(file.name.removesuffix(".nii.gz"))
        assert f"{file} is {name}" in told.splitlines()
        assert_names_nobody(tmp_path / "out", str(tmp_path))
        assert [path.name for path in (tmp_path / "out").glob("sub-*")] == [f"sub-{name}"]
    command += ["--key-of", str(source.path)]
    command[command.index("--out") + 1] = str(tmp_path / "other")
    assert cli.main(command) == 0
    assert pseudonyms_of(source.path)(file.name.removesuffix(".nii.gz")) in capsys.readouterr().out
