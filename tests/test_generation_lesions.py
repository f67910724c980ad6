"""Films with a lesion pasted in: on their own grid, changed in one window, boxes in three places that agree."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import radiographs
from PIL import Image

from ganatomy.cohort import read_cohort
from ganatomy.contracts import InputError
from ganatomy.experiment import pseudonym
from ganatomy.generate_command import Generate
from ganatomy.generation_lesions import generate_lesions
from ganatomy.generator import save_generator
from ganatomy.lesion_patches import part
from ganatomy.phantom_bone import make_bone_cohort
from ganatomy.preparation import prepare
from ganatomy.stages import Stages

OFFLINE = radiographs.EXPERIMENT.with_values(
    {"method.patch_side": 16, "method.normals": 3, "arm": "offline", "budget.generator_steps": 2}
)
COUNTS = {"lesion": (4, 2, 2), "normal": (8, 3, 3)}


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
    sources = {row.subject: row for row in cohort.rows}
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
    sources = {row.subject: row for row in cohort.rows}
    trained = bundle.fingerprint["patients"]
    for row in films.rows:
        source = sources[row.subject]
        assert (source.klass, row.klass, row.synthetic) == ("normal", "lesion", True)
        assert (row.patient, row.split, row.parents) == (source.patient, source.split, (source.subject,))
        assert pseudonym(row.patient, cohort.name) not in trained
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
        assert said["Sources"] == [f"{cohort.name}:{pseudonym(row.patient, cohort.name)}"]
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


def test_a_cohort_without_boxes_is_refused(bundle, tmp_path):
    bare = make_bone_cohort(tmp_path / "c", patients={"lesion": (1, 0, 0), "normal": (2, 1, 1)}, shape=(48, 40))
    with pytest.raises(InputError, match="no film can be given a lesion"):
        generate_lesions(bundle, bare, tmp_path / "o", splits=["test"])
