"""Films with a lesion pasted in: on their own grid, changed in one window, boxes in three places that agree."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import radiographs
from PIL import Image

from ganatomy.cli import main
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.commands.generate import Generate
from ganatomy.contracts import InputError
from ganatomy.generation.lesions import generate_lesion, generate_lesions
from ganatomy.generators.generator import save_generator
from ganatomy.phantoms.bones import make_bone_cohort
from ganatomy.stages.lesion_patches import part
from ganatomy.stages.stages import Stages
from ganatomy.stores.preparation import prepare

OFFLINE = radiographs.EXPERIMENT.with_values(
    {"method.patch_side": 16, "method.normals": 3, "arm": "offline", "budget.generator_steps": 2}
)
COUNTS = {"lesion": (4, 2, 2), "normal": (8, 3, 3)}
FILES = Pseudonyms(b"of files")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_bone_cohort(tmp_path_factory.mktemp("bones") / "c", patients=COUNTS, shape=(48, 40), seed=1)


@pytest.fixture(scope="module")
def bundle(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    store = prepare(cohort, folder / "stores")
    stages = Stages(folder / "workspace", store.path, OFFLINE)
    fit, parting = stages.fit(), part(store, OFFLINE)
    seen = [parting.records[name] for name in (*parting.boxes, *parting.negatives)]
    return save_generator(folder / "generator", stages.method(fit), OFFLINE, cohort=cohort, store=store,
                          stages=stages.keys, records=seen)  # fmt: skip


@pytest.fixture(scope="module")
def films(cohort, bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "films"
    done = generate_lesions(bundle, cohort, out)
    made = read_cohort(out)
    assert done == {"made": len(made.rows), "kept": 0}
    return made


def test_films_differ_from_their_source_in_one_window_alone(cohort, films):
    names = pseudonyms_of(cohort.path)
    sources = {names(row.subject): row for row in cohort.rows}
    for row in films.rows:
        before, after = (np.asarray(Image.open(one.image)).astype(int) for one in (sources[row.subject], row))
        assert before.shape == after.shape == (48, 40)
        said = json.loads(row.image.with_suffix(".json").read_text())
        x0, y0, x1, y1 = said["Window"]  # of the film as the networks see it: upside down
        inside = np.zeros(before.shape, bool)
        inside[48 - y1 : 48 - y0, x0:x1] = True
        assert (before[~inside] == after[~inside]).all()
        assert (before != after).any()
        a0, b0, a1, b1 = row.box
        changed = np.abs(after - before) > 0.1 * 255 / 2 + 1
        assert not np.delete(changed, np.s_[round(b0) : round(b1)], axis=0).any()
        assert not np.delete(changed, np.s_[round(a0) : round(a1)], axis=1).any()


def test_only_films_without_lesion_of_patients_who_trained_nothing_receive_one(cohort, bundle, films):
    names = pseudonyms_of(cohort.path)
    sources = {names(row.subject): row for row in cohort.rows}
    trained = bundle.fingerprint["patients"]
    for row in films.rows:
        source = sources[row.subject]
        assert (source.klass, row.klass, row.synthetic) == ("normal", "lesion", True)
        assert (row.patient, row.split, row.parents) == (names(source.patient), source.split, (row.subject,))
        assert row.patient not in trained
    assert {row.split for row in films.rows} == {"train", "val", "test"}
    assert len(films.rows) == 8 // 2 + 3 + 3  # half of the normal training patients were kept to receive


def test_table_coco_and_cohort_agree_on_boxes(films):
    with (films.path / "boxes.csv").open() as file:
        table = {row["image"]: row for row in csv.DictReader(file)}
    coco = json.loads((films.path / "annotations.coco.json").read_text())
    names = {image["id"]: image for image in coco["images"]}
    assert len(table) == len(coco["annotations"]) == len(films.rows)
    assert coco["categories"] == [{"id": 1, "name": "lesion"}]
    rows = {row.image.relative_to(films.path).as_posix(): row for row in films.rows}
    for annotation in coco["annotations"]:
        image = names[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        row, line = rows[image["file_name"]], table[image["file_name"]]
        assert (x, y, x + width, y + height) == pytest.approx(row.box)
        assert [float(line[key]) for key in ("x0", "y0", "x1", "y1")] == pytest.approx(row.box)
        assert annotation["area"] == width * height > 0
        assert x + width <= image["width"] == 40
        assert y + height <= image["height"] == 48


def test_provenance_names_nobody_and_a_second_run_keeps_all(cohort, bundle, films, tmp_path):
    for row in films.rows:
        said = json.loads(row.image.with_suffix(".json").read_text())
        assert said["GeneratorDigest"] == bundle.digest
        assert said["Sources"] == [f"{cohort.name}:{row.patient}"]
        assert said["Synthetic"] is True
    stamps = {row.image: row.image.stat().st_mtime_ns for row in films.rows}
    assert generate_lesions(bundle, cohort, films.path) == {"made": 0, "kept": len(films.rows)}
    assert stamps == {row.image: row.image.stat().st_mtime_ns for row in films.rows}
    with pytest.raises(InputError, match="is not what this generator makes"):
        generate_lesions(bundle, cohort, films.path, seed=1)


def test_from_the_command_line_with_a_bound(cohort, bundle, tmp_path, capsys):
    command = Generate(model=str(bundle.directory), cohort=cohort.path, out=tmp_path / "o", count=2, split=("test",),
                       workspace=tmp_path / "ws")  # fmt: skip
    assert command.run() == 0
    assert "2 films with a lesion made" in capsys.readouterr().out
    made = read_cohort(tmp_path / "o")
    assert [row.split for row in made.rows] == ["test", "test"]
    assert len(json.loads((tmp_path / "o" / "annotations.coco.json").read_text())["images"]) == 2


def test_a_bounded_number_of_films_are_of_training_patients_unless_told(cohort, bundle, tmp_path):
    """Splits by the alphabet began with those who are to judge."""
    for count in (2, 100):
        generate_lesions(bundle, cohort, tmp_path / str(count), count=count)
        made = read_cohort(tmp_path / str(count))
        assert [row.split for row in made.rows] == ["train"] * min(count, 8 // 2)
    generate_lesions(bundle, cohort, tmp_path / "told", count=100, splits=["val", "test"])
    assert {row.split for row in read_cohort(tmp_path / "told").rows} == {"val", "test"}


def test_a_cohort_without_boxes_is_refused(bundle, tmp_path):
    bare = make_bone_cohort(tmp_path / "c", patients={"lesion": (1, 0, 0), "normal": (2, 1, 1)}, shape=(48, 40))
    with pytest.raises(InputError, match="no film can be given a lesion"):
        generate_lesions(bundle, bare, tmp_path / "o", splits=["test"])


# --- one film --------------------------------------------------------------------------------------------------------


@pytest.fixture
def film(cohort):
    """One that shows no lesion, of nobody who trained the generator."""
    return next(row for row in cohort.rows if row.klass == "normal" and row.split == "test")


def test_one_film_changes_in_its_box_alone(bundle, film, tmp_path):
    row, made = generate_lesion(bundle, film.image, (10, 12, 30, 26.5), tmp_path / "o", FILES, patient="Jane", seed=1)
    assert made
    before, after = (np.asarray(Image.open(one)).astype(int) for one in (film.image, row.image))
    changed = np.argwhere(before != after)
    assert len(changed)
    assert (changed.min(0) >= [12, 10]).all()
    assert (changed.max(0) < [26.5, 30]).all()
    said = json.loads(row.image.with_suffix(".json").read_text())
    x0, y0, x1, y1 = said["Window"]
    assert x1 - x0 == y1 - y0 == 14  # the largest square of whole pixels
    assert said["Sources"] == [f"file:{FILES('Jane')}"]
    assert said["AskedBox"] == [10, 12, 30, 26.5]
    assert row.klass == "lesion"
    kept = generate_lesion(bundle, film.image, (10, 12, 30, 26.5), tmp_path / "o", FILES, patient="Jane", seed=1)
    assert kept == (row, False)
    with pytest.raises(InputError, match="is not what this generator makes"):
        generate_lesion(bundle, film.image, (10, 12, 30, 26), tmp_path / "o", FILES, patient="Jane", seed=1)


def test_films_one_by_one_make_one_cohort_with_all_their_boxes(bundle, cohort, tmp_path):
    for film in [row for row in cohort.rows if row.klass == "normal" and row.split == "test"][:2]:
        generate_lesion(bundle, film.image, (10, 12, 30, 32), tmp_path / "o", FILES)
    made = read_cohort(tmp_path / "o")
    assert len(made.rows) == 2
    assert len(json.loads((made.path / "annotations.coco.json").read_text())["annotations"]) == 2
    assert len(list(csv.DictReader((made.path / "boxes.csv").open()))) == 2


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((30, 12, 10, 26), "x0 < x1 up to 40"),
        ((10, 12, 41, 26), "x0 < x1 up to 40"),
        ((-1, 12, 30, 26), "x0 < x1 up to 40"),
        ((10, 12, 30, 49), "y0 < y1 up to 48"),
        ((10, 12, 13, 30), "too small"),
    ],
)
def test_a_box_that_cannot_be_is_refused_before_anything_is_written(bundle, film, tmp_path, box, said):
    with pytest.raises(InputError, match=said):
        generate_lesion(bundle, film.image, box, tmp_path / "o", FILES)
    assert not (tmp_path / "o").exists()


def test_nothing_is_put_where_there_is_nothing(bundle, film, tmp_path):
    Image.fromarray(np.pad(np.asarray(Image.open(film.image))[:, 20:], ((0, 0), (20, 0)))).save(tmp_path / "half.png")
    with pytest.raises(InputError, match="shows next to nothing"):
        generate_lesion(bundle, tmp_path / "half.png", (0, 12, 16, 28), tmp_path / "o", FILES)


def test_who_trained_the_generator_receives_nothing(bundle, cohort, film, tmp_path):
    names = pseudonyms_of(cohort.path)
    known = next(row for row in cohort.rows if names(row.patient) in bundle.fingerprint["patients"])
    with pytest.raises(InputError, match="trained on"):
        generate_lesion(bundle, film.image, (10, 12, 30, 26), tmp_path / "o", names, patient=known.patient)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--image", "{film}"], "--box X0 Y0 X1 Y1"),
        (["--image", "{film}", "--box", "1", "2", "20", "30", "--label", "{film}"], "its lesions have boxes"),
        (["--image", "{film}", "--box", "1", "2", "20", "30", "--count", "3"], "one lesion an image"),
        (["--image", "{film}", "--box", "1", "2", "20", "30", "--source", "lesion"], "puts lesions into films"),
        (["--image", "{film}", "--box", "1", "2", "20", "30", "--cohort", "."], "both --cohort and --image"),
        (["--cohort", ".", "--box", "1", "2", "20", "30"], "--box without --image"),
        (["--count", "3"], "neither --cohort nor --image"),
    ],
)
def test_what_makes_no_sense_is_one_line_with_what_to_do(bundle, film, tmp_path, capsys, asked, said):
    words = [word.format(film=film.image) for word in asked]
    command = ["generate", str(bundle.directory), *words, "--out", str(tmp_path / "o"), "--workspace", str(tmp_path)]
    assert main(command) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "o").exists()


def test_subjects_whose_names_differ_in_signs_alone_stay_apart(bundle, film, tmp_path):
    for name in ("a-1.png", "a1.png"):
        (tmp_path / name).write_bytes(film.image.read_bytes())
        generate_lesion(bundle, tmp_path / name, (10, 12, 30, 32), tmp_path / "o", FILES)
    assert len(read_cohort(tmp_path / "o").rows) == 2
