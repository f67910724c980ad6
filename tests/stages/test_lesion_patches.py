"""Patches: who trains receives nothing, lesions are where their boxes say, pasting touches its window alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import radiographs
import torch
from scipy import ndimage

from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.contracts import InputError
from ganatomy.experiment import Labels
from ganatomy.phantoms.bones import bone_film, make_bone_cohort
from ganatomy.stages.amounts import check_amounts
from ganatomy.stages.lesion_patches import film_items, part, patch_items, role_in, rules_of
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import PATCHES, SYNTHETIC, Stages
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import Item, write_store
from ganatomy.training.tasks import make_method

SMALL = {"method.patch_side": 16, "method.crops": 2, "method.normals": 3, "arm": "offline"}
OFFLINE = radiographs.EXPERIMENT.with_values(SMALL)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return radiographs.make_store(tmp_path_factory.mktemp("store") / "films")


@pytest.fixture(scope="module")
def films(store):
    method = make_method(OFFLINE, store.classes).eval()
    return list(film_items(method, OFFLINE, store, "fit", CPU))


def test_more_films_than_can_be_made_are_refused_beforehand(store, films):
    for distinct in (1, len(films)):
        check_amounts(store, [OFFLINE.with_values({"mixing.distinct": distinct})])
    with pytest.raises(InputError, match="of at most 14 synthetic images that unit_lesion makes"):  # films x positions
        check_amounts(store, [OFFLINE.with_values({"mixing.distinct": 2 * 6 * 3 + 1})])


def test_who_trains_receives_nothing(store):
    parting = part(store, OFFLINE)
    owner = {name: record.patient for name, record in parting.records.items()}
    training = {owner[name] for name in (*parting.boxes, *parting.negatives)}
    assert len(parting.boxes) == 6
    assert not training & {owner[name] for name in parting.sources}
    assert len(parting.negatives) + len(parting.sources) == 14
    assert {item.patient for item in patch_items(store, OFFLINE) if item.split == "train"} <= training


def test_the_share_that_receives_lesions_is_the_one_asked_for(store):
    """Of fourteen patients without a lesion, where patches of all others are cut; a larger share of sources holds the
    smaller one."""
    everyone = {"method.normals": 14}
    shares = [{**everyone, "method.source_share": share} for share in (0.2, 0.5, 0.8)]
    sources = [set(part(store, OFFLINE.with_values(share)).sources) for share in shares]
    assert [len(some) for some in sources] == [3, 7, 11]
    assert sources[0] < sources[1] < sources[2]


def test_whoever_no_patch_was_cut_of_receives_lesions_too(tmp_path):
    """Gupta et al. 2019, section 4.1. Femora are few lesions and many normals: candidates follow these."""
    store = radiographs.make_store(tmp_path / "s", counts={"lesion": (2, 2, 2), "normal": (40, 2, 2)})
    few = OFFLINE.with_values({"method.minimum_intensity": 0.0})
    parting = part(store, few)
    assert len(parting.negatives) <= 2 * 3 < 20 < 40 - 6 <= len(parting.sources)
    assert len(parting.negatives) + len(parting.sources) == 40
    cut = {item.parents[0] for item in patch_items(store, few) if item.split == "train"}
    assert cut == {parting.records[name].subject for name in (*parting.boxes, *parting.negatives)}
    method = make_method(few, store.classes).eval()
    counted = [len(list(film_items(method, few.with_values({"method.positions": 1, "method.candidates": most}),
                                   store, "fit", CPU))) for most in (0, 7)]  # fmt: skip
    assert counted == [len(parting.sources), 7]


def test_a_generator_that_is_lent_lets_all_normal_patients_receive_lesions(store):
    lent = part(store, OFFLINE, taught=False)
    assert (len(lent.negatives), len(lent.sources)) == (0, 14)
    method = make_method(OFFLINE, store.classes).eval()
    made = film_items(method, OFFLINE.with_values({"transfer.generator": "femora"}), store, "fit", CPU)
    assert len({item.patient for item in made}) == 14


def test_a_dark_lesion_is_still_a_lesion(store):
    """Only patches without one are dropped for being dark."""
    dark = OFFLINE.with_values({"method.minimum_intensity": 1.0})
    classes = [item.attributes["class"] for item in patch_items(store, dark) if item.split == "train"]
    assert classes == ["lesion"] * 2 * 6


def test_a_patient_with_a_lesion_receives_none_on_the_other_side(tmp_path):
    """Two films of one person, as in mammography: one breast with a lesion, the other without."""
    items = radiographs.items()
    ill = next(item for item in items if item.attributes["class"] == "lesion")
    films = [item for item in items if (item.attributes["class"], item.split) == ("normal", "train")]
    others = [replace(film, patient=ill.patient) for film in films[:4]]
    made = write_store(tmp_path / "s", name="s", labels={}, domains={"xray": {}}, digest="d",
                       items=[*(item for item in items if item not in films[:4]), *others])  # fmt: skip
    parting = part(made, OFFLINE)
    receive = {parting.records[name].subject for name in parting.sources}
    assert receive
    assert not {film.subject for film in others} & receive


def test_patches_of_lesions_hold_the_lesion(store):
    items = list(patch_items(store, OFFLINE))
    parting = part(store, OFFLINE)
    boxes = {parting.records[name].subject: box for name, box in parting.boxes.items()}
    lesions = [item for item in items if item.attributes["class"] == "lesion" and item.split == "train"]
    assert len(lesions) == 2 * 6
    assert all(item.image.shape == (1, 16, 16) for item in items)
    for item in lesions:
        (parent,) = item.parents
        x0, y0, x1, y1 = item.attributes["window"]
        a0, b0, a1, b1 = boxes[parent]
        assert x0 <= a0 < a1 <= x1 <= 32
        assert y0 <= b0 < b1 <= y1 <= 48
        assert x1 - x0 == y1 - y0 == 2 * max(a1 - a0, b1 - b0)


def test_dark_patches_without_lesion_are_dropped(store):
    bright = OFFLINE.with_values({"method.minimum_intensity": 0.5})
    for experiment in (OFFLINE, bright):
        minimum = experiment.method_config().minimum_intensity
        means = [(item.image.mean() + 1) / 2 for item in patch_items(store, experiment)
                 if item.attributes["class"] == "normal"]  # fmt: skip
        assert means
        assert min(means) >= minimum - 1e-6
    counts = [len(list(patch_items(store, experiment))) for experiment in (OFFLINE, bright)]
    assert counts[1] < counts[0]


def test_a_pasted_lesion_changes_its_window_alone(store, films):
    sources = {record.subject: record for record in store.records()}
    assert len(films) == 2 * len(part(store, OFFLINE).sources)
    for item in films:
        (parent,) = item.parents
        before = store.image(sources[parent])
        x0, y0, x1, y1 = item.attributes["window"]
        outside = np.ones(before.shape, bool)
        outside[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = False  # nor its border
        np.testing.assert_array_equal(item.image[outside], before[outside])
        a0, b0, a1, b1 = item.attributes["box"]
        assert x0 <= a0 < a1 <= x1
        assert y0 <= b0 < b1 <= y1
        changed = np.abs(item.image - before)[0] > 0.1 + 1e-6
        assert not changed[:b0].any()
        assert not changed[b1:].any()
        assert not changed[:, :a0].any()
        assert not changed[:, a1:].any()
        assert (item.patient, item.split) == (sources[parent].patient, "train")
        assert sources[parent].attributes["class"] == "normal"
        assert (item.attributes["class"], item.attributes["synthetic"]) == ("lesion", True)


def test_labels_fraction_holds_for_patches_and_films(store):
    few = replace(OFFLINE, labels=Labels(fraction=0.6))
    some, everyone = ({item.patient for item in patch_items(store, e) if item.split == "train"} for e in (few, OFFLINE))
    assert len(part(store, few).records) == 12
    assert len(some) < len(everyone)


def test_what_cannot_be_is_said(store, tmp_path):
    with pytest.raises(InputError, match="works on no patches"):
        rules_of(OFFLINE.with_values({"method": "cyclegan"}))
    with pytest.raises(InputError, match="in state lesion"):
        role_in(OFFLINE.with_values({"domains": {"H": "xray:healthy", "L": "xray"}}), "lesion")
    plain = [replace(item, attributes={"class": item.attributes["class"]}) for item in radiographs.items()]
    boxless = write_store(tmp_path / "s", name="s", labels={}, domains={"xray": {}}, digest="d", items=plain)
    with pytest.raises(InputError, match="no training image of class lesion has a box"):
        part(boxless, OFFLINE)
    thick = [Item("a", "a", "xray", "train", np.random.default_rng(0).uniform(-1, 1, (3, 48, 32)),
                  attributes={"class": "lesion", "box": [1, 1, 9, 9]})]  # fmt: skip
    volume = write_store(tmp_path / "t", name="t", labels={}, domains={"xray": {}}, digest="t", items=thick)
    with pytest.raises(InputError, match="3 slices"):
        part(volume, OFFLINE)
    with pytest.raises(InputError, match=r"downstream\.task = segmentation with method unit_lesion"):
        OFFLINE.with_values({"downstream.task": "segmentation"}).validate()


# --- boxes of files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "size"), [(1, None), (2, (80, 100, 0))])
def test_boxes_follow_their_images_into_the_store(tmp_path, scale, size):
    """Files are upside down to the platform, and may be resampled and cropped: the box still holds the lesion."""
    cohort = make_bone_cohort(tmp_path / "c", patients={"lesion": (3, 0, 0), "normal": (1, 0, 0)}, seed=4)
    cohort = replace(cohort, spacing=(1 / scale, 1 / scale, 0.0), size=size)
    names = pseudonyms_of(cohort.path)
    rows = {names(row.subject): row for row in cohort.rows}
    for record in (store := prepare(cohort, tmp_path / "stores")).records():
        if record.attributes["class"] == "normal":
            assert "box" not in record.attributes
            continue
        twin = bone_film(4, int(rows[record.subject].subject[1:]), "humerus", (64, 64), lesion=False).image
        healthy = np.kron(np.flip(twin, 0), np.ones((scale, scale)))
        high, wide = store.image(record).shape[1:]
        top, left = (healthy.shape[0] - high) // 2, (healthy.shape[1] - wide) // 2
        healthy = ndimage.gaussian_filter(healthy, scale / 2)[top : top + high, left : left + wide]
        change = np.abs(ndimage.gaussian_filter(store.image(record)[0], scale / 2) - healthy)
        x0, y0, x1, y1 = map(round, record.attributes["box"])
        inside = np.zeros(change.shape, bool)
        inside[y0:y1, x0:x1] = True
        assert change[inside].mean() > 5 * change[~inside].mean()
        if size is None:  # nothing was cut off
            native = rows[record.subject].box
            assert (x1 - x0, y1 - y0) == (scale * (native[2] - native[0]), scale * (native[3] - native[1]))


# --- stages --------------------------------------------------------------------------------------------------------


def run(workspace, store, **values):
    said: list[str] = []
    experiment = OFFLINE.with_values({name.replace("__", "."): value for name, value in values.items()})
    outcome = outcome_of(Stages(workspace, store.path, experiment, say=said.append))
    return outcome, [line.split()[1] for line in said if line.startswith("computing")]


def test_a_sweep_over_thresholds_and_blends_trains_one_generator(store, tmp_path):
    first, computed = run(tmp_path, store)
    assert sorted(computed) == ["downstream", "evaluate", "filter", "fit", "patches", "synthesise"]
    assert 0 <= first.summary["val/auc"] <= 1
    patches = open_store(tmp_path / "stages" / "patches" / first.keys["patches"] / PATCHES)
    assert {record.attributes["class"] for record in patches.records(split="train")} == {"lesion", "normal"}

    _, computed = run(tmp_path, store, filter__min_probability=0.05)
    assert sorted(computed) == ["downstream", "downstream", "evaluate", "filter"]  # the judge, and the retrained one
    _, computed = run(tmp_path, store, method__blend=1.0)
    assert sorted(computed) == ["downstream", "evaluate", "filter", "synthesise"]
    _, computed = run(tmp_path, store, method__adversarial_weight=1.0)
    assert sorted(computed) == ["downstream", "evaluate", "filter", "fit", "synthesise"]
    _, computed = run(tmp_path, store, arm="real")
    assert computed == ["evaluate"]  # the judge was the real arm's own model


def test_kept_films_are_those_that_the_judge_takes_for_lesions(store, tmp_path):
    outcome, _ = run(tmp_path, store, filter__min_probability=0.02)
    folder = tmp_path / "stages" / "filter" / outcome.keys["filter"]
    chosen = json.loads((folder / "kept.json").read_text())
    made = open_store(tmp_path / "stages" / "synthesise" / outcome.keys["synthesise"] / SYNTHETIC)
    assert chosen["of"] == len(made)
    assert chosen["kept"] == [int(index) for index, p in chosen["probability"].items() if p >= 0.02]
