"""Classifiers: both classes equally often, whole images, only what may learn learns, rows that AUC can be told from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import radiographs
import tiny
import torch
from reports.materials import page_of
from torch import nn

from ganatomy.contracts import InputError
from ganatomy.downstream.classification import CLASSIFICATION
from ganatomy.evidence.ablation import ablation_table
from ganatomy.experiment import Sampling, Score, TrialResult
from ganatomy.measures.roc import predictions
from ganatomy.reports.text import render_text
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import Stages
from ganatomy.stores.sampling import resized
from ganatomy.stores.writing import Item, write_store
from ganatomy.training import tasks
from ganatomy.training.classification import (
    CLASSIFIERS,
    class_of,
    classified_images,
    lesion_probabilities,
    make_classification,
    score_classes,
)
from ganatomy.training.distributed import DirectoryReporter
from ganatomy.training.optimisation import Diverged
from ganatomy.training.tasks import TrainDownstream

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return radiographs.make_store(tmp_path_factory.mktemp("store") / "films")


class Darkest(nn.Module):
    """p(lesion) rises with the darkest voxel's darkness: no learning, but an answer that depends on the image."""

    def forward(self, image):
        dark = -image.flatten(1).min(dim=1).values
        return torch.stack([torch.zeros_like(dark), dark], dim=1)


def test_class_by_column_or_by_label(tmp_path):
    image, label = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4), np.zeros((1, 4, 4), np.uint8)
    marked = label.copy()
    marked[0, 1, 1] = 1
    given = [("a", None, "lesion"), ("b", None, "normal"), ("c", None, "healthy"), ("d", None, ""), ("e", label, ""),
             ("f", marked, "")]  # fmt: skip
    made = write_store(tmp_path / "s", name="s", labels={1: "l"}, domains={"x": {}}, digest="d", items=[
        Item(name, name, "x", "train", image, mask, attributes={"class": said} if said else {})
        for name, mask, said in given])  # fmt: skip
    assert [class_of(record) for record in made.records()] == ["lesion", "normal", "normal", "", "normal", "lesion"]


def test_a_batch_holds_as_many_of_either_class_each_a_whole_film(store, tmp_path):
    experiment = radiographs.experiment()
    build = TrainDownstream(store.path, experiment, tmp_path, "L")
    loop = build(rank=0, world=1, device=CPU)
    batch = loop.draws.batch(0)
    assert {name: images.image.shape for name, images in batch.items()} == {
        "lesion": (2, 1, 24, 16), "normal": (2, 1, 24, 16),
    }  # fmt: skip
    films = {record.subject: store.image(record) for record in store.records(split="train")}
    for name, images in batch.items():
        for image, subject in zip(images.image, images.subjects):
            assert subject.startswith(f"{name}-train")
            np.testing.assert_array_equal(image.numpy(), resized(films[subject], experiment.sampling))


@pytest.mark.parametrize("seed", range(8))
def test_a_small_label_fraction_leaves_films_of_both_classes(store, seed):
    few = radiographs.experiment(labels__fraction=0.01, seed=seed)
    mixtures = CLASSIFIERS.mixtures(store, few, "L", None)
    assert {name: len({e.record.patient for e in mixture.real.entries}) for name, mixture in mixtures.items()} == {
        "lesion": 1, "normal": 1,
    }  # fmt: skip


def test_resizing_keeps_the_picture_and_refuses_several_slices(store):
    film = store.image(store.records()[0])
    small = resized(film, Sampling(2, (24, 16)))
    np.testing.assert_allclose(small.mean(), film.mean(), atol=0.02)
    assert np.corrcoef(small.ravel(), film.reshape(24, 2, 16, 2).mean((1, 3)).ravel())[0, 1] > 0.98
    assert resized(film, Sampling(2, (48, 32))) is film
    assert resized(np.repeat(film, 4, 0), Sampling(3, (4, 24, 16))).shape == (4, 24, 16)
    with pytest.raises(InputError, match="2 slices"):
        resized(np.repeat(film, 2, 0), Sampling(2, (24, 16)))


def test_rows_name_nobody_and_give_the_area_of_scikit_learn(store):
    sklearn = pytest.importorskip("sklearn.metrics")
    sampling, images = Sampling(2, (48, 32)), store.records(split="train")
    rows = score_classes(Darkest(), store, images, sampling, CPU)
    assert [row.subject for row in rows] == [image.subject for image in images]
    assert {row.metric for row in rows} == {"probability"}
    assert [row.label for row in rows] == [image.attributes["class"] for image in images]
    logits = np.array([-store.image(image).min() for image in images])
    np.testing.assert_allclose([row.value for row in rows], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    truth = [row.label == "lesion" for row in rows]
    summary = CLASSIFICATION.summarise(rows)
    assert summary.keys() == {"val/auc", "val/sensitivity", "val/specificity"}
    assert summary["val/auc"] == pytest.approx(sklearn.roc_auc_score(truth, [row.value for row in rows]))
    assert predictions([rows, rows]).probabilities.shape == (2, len(rows))


def test_many_images_are_predicted_as_one_by_one(store):
    network = make_classification(radiographs.experiment()).S
    sampling, images = radiographs.EXPERIMENT.sampling, store.records()
    together = [p for _, p in lesion_probabilities(network, store, images, sampling, CPU)]
    alone = [p for image in images for _, p in lesion_probabilities(network, store, [image], sampling, CPU)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_probability_that_is_no_number_is_no_row(store):
    class Lost(nn.Module):
        def forward(self, image):
            return torch.full((len(image), 2), torch.nan)

    with pytest.raises(Diverged, match="no number"):
        score_classes(Lost(), store, store.records(split="val"), Sampling(ndim=2, size=(16, 16)), CPU)


def test_frozen_stages_stay_as_they_were(store, tmp_path):
    base = radiographs.EXPERIMENT
    frozen = base.from_dict({**base.to_dict(), "downstream": {
        "network": {"name": "drn_d_22", "config": {"width": 0.125, "learning": 2}}, "learning_rate": 1e-2,
        "task": "classification"}})  # fmt: skip
    loop = TrainDownstream(store.path, frozen, tmp_path, "L")(rank=0, world=1, device=CPU)
    before = {name: value.clone() for name, value in loop.method.S.state_dict().items()}
    loop.run(DirectoryReporter(tmp_path, lambda: None))
    changed = {name.split(".")[1] for name, value in loop.method.S.state_dict().items()
               if not torch.equal(value, before[name]) and name.startswith("stages")}  # fmt: skip
    assert changed == {"7", "8"}
    assert not torch.equal(loop.method.S.head.weight, before["head.weight"])


@pytest.mark.parametrize("network", [
    {"name": "drn_d_22", "config": {"width": 0.125}},
    {"name": "densenet121", "config": {"features": 8, "growth": 4, "blocks": [2, 2]}},
])  # fmt: skip
def test_a_real_arm_from_store_to_scores_without_and_with_augmentation(store, tmp_path, network):
    base = radiographs.EXPERIMENT.to_dict()
    base["downstream"]["network"] = network
    for strength in ("none", "light", "strong"):
        base["downstream"]["augmentation"] = strength
        experiment = radiographs.EXPERIMENT.from_dict({**base, "arm": "real"})
        outcome = outcome_of(Stages(tmp_path / "workspace", store.path, experiment))
        assert {row.subject for row in outcome.scores} == {image.subject for image in store.records(split="val")}
        assert 0 <= outcome.summary["val/auc"] <= 1
        assert outcome.keys.keys() == {"downstream", "evaluate"}


def test_a_classifier_learns_what_there_is_to_learn(store, tmp_path):
    """Films brightened where they have a lesion: any classifier must find that out on patients it never saw."""
    easy = [
        Item(r.subject, r.patient, r.domain, r.split,
             np.clip(store.image(r) * 0.5 + (0.4 if class_of(r) == "lesion" else -0.4), -1, 1), attributes=r.attributes)
        for r in store.records()
    ]  # fmt: skip
    made = write_store(tmp_path / "s", name="easy", labels={}, domains=store.domains, digest="easy", items=easy)
    experiment = radiographs.experiment(budget__segmentor_steps=40, budget__batch=4)
    outcome = outcome_of(Stages(tmp_path / "workspace", made.path, experiment))
    assert outcome.summary["val/auc"] > 0.95


def test_no_synthetic_film_is_taken_for_a_real_one_in_any_split(store, tmp_path):
    """T-C3: neither trained on as real, nor scored, nor chosen by, though the cohort holds some."""
    synthetic = [
        replace(item, subject=f"made-{item.subject}", attributes={**item.attributes, "synthetic": True})
        for item in radiographs.items()
    ]
    both = write_store(tmp_path / "s", name="s", labels={}, domains={"xray": {}}, digest="both",
                       items=[*radiographs.items(), *synthetic])  # fmt: skip
    for split in ("train", "val", "test"):
        assert len(both.records("xray", split)) == 2 * len(store.records("xray", split))
        images = classified_images(both, "xray", split)
        assert {image.subject for image in images} == {image.subject for image in store.records("xray", split)}
    loop = TrainDownstream(both.path, radiographs.experiment(), tmp_path, "L")(rank=0, world=1, device=CPU)
    seen = {name for step in range(20) for images in loop.draws.batch(step).values() for name in images.subjects}
    assert seen == {image.subject for image in store.records("xray", "train")}


def test_pictures_show_real_and_synthetic_lesions_with_their_boxes(store, tmp_path, monkeypatch):
    lesions = [record for record in store.records(split="train") if record.attributes["class"] == "lesion"][:2]
    normal = next(record for record in store.records(split="train") if record.attributes["class"] == "normal")
    items = [
        Item(f"made-{n}", normal.patient, normal.domain, "train", np.array(store.image(record)),
             parents=(normal.subject,), attributes={**record.attributes, "synthetic": True})
        for n, record in enumerate(lesions)
    ]  # fmt: skip
    write_store(tmp_path / "made", name="films-synthetic", labels={}, domains=store.domains, digest="m", items=items)
    drawn = []
    monkeypatch.setattr(tasks, "sheet", lambda rows, labels, **how: drawn.append(rows) or tiny._dot(rows, labels))
    experiment = radiographs.experiment(arm="offline")
    build = TrainDownstream(store.path, experiment, tmp_path, "L", tmp_path / "made", (0, 1))
    build(rank=0, world=1, device=CPU).run(DirectoryReporter(tmp_path, lambda: None))
    assert list((tmp_path / "panels").glob("*.png"))
    rows = drawn[-1]
    assert list(rows) == ["real, lesion", "real, normal", "synthetic, lesion", "made of"]
    assert [column.box for column in rows["synthetic, lesion"]] == [tuple(r.attributes["box"]) for r in lesions]
    assert all(column.box and column.caption for column in rows["real, lesion"])
    assert not any(column.box for column in (*rows["real, normal"], *rows["made of"]))
    for column in rows["made of"]:
        np.testing.assert_array_equal(column.image, store.image(normal))
        assert column.caption.startswith(normal.subject)
    shown = {column.image.tobytes() for name in rows if name.startswith("real") for column in rows[name]}
    assert not shown & {store.image(record).tobytes() for record in store.records(split="test")}


def test_one_class_alone_is_refused(store, tmp_path):
    made = radiographs.make_store(tmp_path / "s", digest="none", counts={"lesion": (2, 0, 1), "normal": (2, 1, 1)})
    with pytest.raises(InputError, match="class 'lesion' in split val"):
        classified_images(made, "xray", "val")


def test_what_a_classifier_cannot_use_is_refused():
    for values, said in (({"arm": "joint", "method": "shape_consistent"}, "arm"),
                         ({"filter__min_dice": 0.5}, "filter.min_dice"),
                         ({"filter__min_probability": 1.5}, "filter.min_probability")):  # fmt: skip
        values = {**values, "domains": {"A": "xray", "B": "xray", "H": "xray", "L": "xray"}}
        with pytest.raises(InputError, match=said):
            radiographs.experiment(**values).validate()


# --- the table -----------------------------------------------------------------------------------------------------


def result(name, arm, seed, gain, lesions=12, normals=30):
    """A finished trial whose classifier sees ``gain`` of a lesion, on the same subjects as every other trial."""
    rng = np.random.default_rng([7, seed])
    rows = []
    for i in range(lesions + normals):
        p = 1 / (1 + np.exp(-(gain * (i < lesions) + rng.normal())))
        rows.append(Score(f"s{i}", f"p{i}", "probability", "lesion" if i < lesions else "normal", float(p)))
    experiment = radiographs.experiment(arm=arm, seed=seed)
    summary = CLASSIFICATION.summarise(rows)
    return TrialResult(name, experiment, "finished", scores=tuple(rows), summary=summary, device_seconds=1.0)


def test_a_table_of_classifiers_is_one_of_areas():
    results = [result(f"{arm}{seed}", arm, seed, gain)
               for arm, gain in (("real", 0.3), ("offline", 3.0)) for seed in range(4)]  # fmt: skip
    table = ablation_table(results)
    candidate, baseline = table.row(table.candidate), table.row(table.baseline)
    assert (candidate.arm, baseline.arm, candidate.seeds) == ("offline", "real", (0, 1, 2, 3))
    for row, some in ((baseline, results[:4]), (candidate, results[4:])):
        assert row.dice == pytest.approx(np.mean([trial.summary["val/auc"] for trial in some]))
    assert candidate.finding.estimate == pytest.approx(candidate.dice - baseline.dice)
    assert candidate.finding.patients == 42
    assert candidate.reading == "helps"
    assert "AUC points" in table.conclusion
    text = render_text(table)
    assert "AUC" in text
    assert "Dice" not in text
    assert "HD95" not in text
    page = page_of(results, base=results[0].experiment)
    assert "Dice" not in page


def test_two_like_classifiers_are_not_told_apart():
    table = ablation_table([result(f"{arm}{seed}", arm, seed + 3 * (arm == "real"), 1.0)
                            for arm in ("real", "offline") for seed in range(3)])  # fmt: skip
    assert table.row(table.candidate).reading == "undecided"


def test_a_patient_with_four_films_counts_once():
    films = [("p0", 4, True, 0.1), ("p1", 1, True, 0.9), ("p2", 2, False, 0.5), ("p3", 1, False, 0.3)]
    rows = [Score(f"{who}-{film}", who, "probability", "lesion" if shown else "normal", value)
            for who, number, shown, value in films for film in range(number)]  # fmt: skip
    assert CLASSIFICATION.summarise(rows)["val/auc"] == pytest.approx(0.5)
    (judged,) = CLASSIFICATION.judged([rows])
    assert judged.side.means == pytest.approx([0.5])
