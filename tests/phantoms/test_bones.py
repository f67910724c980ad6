"""Bone phantoms: a twin differs in the box alone, a lesion is seen where its box says, files give the films back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ganatomy.cohorts.cohort import prepare_image
from ganatomy.cohorts.inspection import check_cohort
from ganatomy.cohorts.reading import read_cohort
from ganatomy.commands.cohort import Phantom
from ganatomy.contracts import InputError
from ganatomy.phantoms.bones import PARTS, bone_film, make_bone_cohort

SHAPE = (64, 64)
BLUR = 4  # pixels that the point spread (0.6, cut at four deviations) reaches beyond the box, rounded up


def pairs(part="humerus", count=12, shape=SHAPE):
    for case in range(count):
        yield tuple(bone_film(1, case, part, shape, lesion=lesion) for lesion in (True, False))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", [(64, 64), (96, 48)])
def test_the_twin_differs_inside_the_blur_of_the_box_alone(part, shape):
    for film, twin in pairs(part, 6, shape):
        assert film.image.shape == shape
        assert np.abs(film.image).max() <= 1
        assert twin.box is None
        x0, y0, x1, y1 = film.box
        outside = np.ones(shape, bool)
        outside[max(0, y0 - BLUR) : y1 + BLUR, max(0, x0 - BLUR) : x1 + BLUR] = False
        assert (film.image[outside] == twin.image[outside]).all()


def test_a_lesion_is_dark_with_a_bright_rim_and_fills_its_box():
    for film, twin in pairs():
        x0, y0, x1, y1 = film.box
        change = (film.image - twin.image)[y0:y1, x0:x1]
        assert 5 <= max(change.shape) <= 15
        h, w = (side // 2 for side in change.shape)
        assert change[h, w] < -0.3  # the middle
        edges = (change[0].max(), change[-1].max(), change[:, 0].max(), change[:, -1].max())
        assert min(edges) > 0.05  # the rim touches every side of the box


def test_contrast_is_of_the_lesion_alone():
    whole, half, none = (bone_film(1, 0, "tibia", SHAPE, lesion=lesion, contrast=contrast).image
                         for lesion, contrast in ((True, 1.0), (True, 0.5), (False, 0.5)))  # fmt: skip
    unclipped = (np.abs(whole) < 1) & (np.abs(half) < 1) & (np.abs(none) < 1)
    np.testing.assert_allclose((half - none)[unclipped], 0.5 * (whole - none)[unclipped], atol=1e-6)
    assert np.abs(half - none).max() > 0.1
    with pytest.raises(InputError, match="contrast 0"):
        bone_film(1, 0, "tibia", SHAPE, lesion=True, contrast=0)


def test_lesions_lie_in_bone():
    for film, twin in pairs(count=20):
        x0, y0, x1, y1 = film.box
        inside = twin.image[y0:y1, x0:x1]
        assert inside.mean() > twin.image.mean()  # bone is brighter than what is around it


def test_tilt_and_number_tell_the_parts_apart():
    humerus, femur = (np.stack([twin.image for _, twin in pairs(part, 30)]) for part in ("humerus", "femur"))
    assert humerus.std(axis=0).mean() < femur.std(axis=0).mean()  # a shaft that lies anyhow varies more everywhere


def test_same_seed_same_film_other_seed_another():
    first, again = (bone_film(3, 0, "tibia", SHAPE, lesion=True) for _ in range(2))
    other = bone_film(4, 0, "tibia", SHAPE, lesion=True)
    assert first.box == again.box
    assert (first.image == again.image).all()
    assert np.abs(first.image - other.image).mean() > 0.05


COUNTS = {"lesion": (3, 1, 2), "normal": (5, 2, 2)}


def test_cohort_on_disk(tmp_path):
    made = make_bone_cohort(tmp_path / "c", patients=COUNTS, seed=2, oracle=tmp_path / "o")
    assert made.name == "humerus-phantom"
    assert {(split, klass): sum(row.split == split and row.klass == klass for row in made.rows)
            for split in ("train", "val", "test") for klass in COUNTS} == {
        ("train", "lesion"): 3, ("val", "lesion"): 1, ("test", "lesion"): 2,
        ("train", "normal"): 5, ("val", "normal"): 2, ("test", "normal"): 2,
    }  # fmt: skip
    assert len({row.patient for row in made.rows}) == 15
    assert all((row.box is not None) == (row.klass == "lesion") for row in made.rows)
    row = made.rows[0]
    film = bone_film(2, 0, "humerus", SHAPE, lesion=True)
    assert row.box == film.box
    prepared = prepare_image(row, made).image[0]
    np.testing.assert_allclose(np.flip(prepared, 0), film.image, atol=0.005)  # upwards inside, downwards in the file
    lesions = sorted(row.image.name for row in made.rows if row.klass == "lesion")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == lesions
    twin = np.asarray(Image.open(tmp_path / "o" / row.image.name)).astype(float)
    assert np.abs(twin - np.asarray(Image.open(row.image))).max() > 30


def test_nonsense_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'tibia'"):
        make_bone_cohort(tmp_path / "c", part="tibiae")
    with pytest.raises(InputError, match="sides of at least 32"):
        bone_film(0, 0, "tibia", (16, 64), lesion=True)
    with pytest.raises(InputError, match="class lesion"):
        make_bone_cohort(tmp_path / "c", patients={"lesion": (0, 1, 1), "normal": (1, 1, 1)})
    with pytest.raises(InputError, match="separate folders"):
        make_bone_cohort(tmp_path / "c", patients=COUNTS, oracle=tmp_path / "c" / "o")
    assert not (tmp_path / "c").exists()


def test_from_the_command_line(tmp_path, capsys):
    command = Phantom(out=tmp_path / "c", kind="bone", part="femur", lesions=(2, 1, 1), normals=(3, 1, 1),
                      shape=(1, 48, 64), oracle=tmp_path / "o")  # fmt: skip
    assert command.run() == 0
    assert "4 with a lesion and 5 without" in capsys.readouterr().out
    made = read_cohort(tmp_path / "c")
    assert len(made.rows) == 9
    assert np.asarray(Image.open(made.rows[0].image)).shape == (48, 64)


def test_boxes_that_cannot_be_are_set_aside(tmp_path):
    made = make_bone_cohort(tmp_path / "c", patients=COUNTS)
    table = (made.path / "images.csv").read_text().splitlines()
    header = table[0].split(",")
    lines = [line.split(",") for line in table[1:]]
    first, second, third = (next(i for i, line in enumerate(lines) if line[0] == name)
                            for name in ("p0000", "p0001", "p0006"))  # fmt: skip
    lines[first][header.index("box_x1")] = "65"  # beyond a film of 64
    lines[second][header.index("box_y0")] = lines[second][header.index("box_y1")]  # empty
    for name, value in zip(("box_x0", "box_y0", "box_x1", "box_y1"), "1234"):
        lines[third][header.index(name)] = value  # of a film without lesion
    (made.path / "images.csv").write_text("\n".join([table[0], *(",".join(line) for line in lines)]) + "\n")
    kept, findings = check_cohort(made.path)
    assert {row.subject for row in made.rows} - {row.subject for row in kept.rows} == {"p0000", "p0001", "p0006"}
    reasons = "; ".join(finding.reason for finding in findings.of("quarantine"))
    assert "64 x 64 voxels has box" in reasons
    assert "of class normal and has a box" in reasons
