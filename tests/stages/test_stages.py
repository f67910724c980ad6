"""Stages of every arm: what each computes and leaves behind, how it is scored, and what is refused."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import Watched, experiment

from ganatomy.contracts import InputError
from ganatomy.experiment import ARMS, Sampling
from ganatomy.measures.segmentation import patient_scores
from ganatomy.stages.artefacts import key_of
from ganatomy.stages.outcome import Outcome, outcome_of, reference_models
from ganatomy.stages.stages import SYNTHETIC, Stages
from ganatomy.stores.sampling import Mixture, Pool, Sampler
from ganatomy.stores.store import open_store
from ganatomy.training.distributed import NETWORKS, read_history
from ganatomy.training.tasks import load_networks, make_method

TRAINED = ("fit", "downstream")

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A workspace whose finished stages later tests may find."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def outcomes(shared, store) -> dict[str, tuple[Watched, Outcome]]:
    """All four arms, run one after the other in one workspace."""
    done = {}
    for arm in ARMS:
        watched = Watched(shared, store, experiment(arm=arm))
        done[arm] = watched, outcome_of(watched.stages)
    return done


# --- arms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_scored_on_every_validation_patient(outcomes, store, arm):
    _, outcome = outcomes[arm]
    subjects = {record.subject for record in store.records("mr", "val")}
    scores = [row for row in outcome.scores if row.metric in ("dice", "hd95")]
    assert {row.subject for row in scores} == set(subjects)
    assert len(scores) == 2 * len(subjects)  # Dice and HD95 of the one structure
    assert 0 <= outcome.summary["val/dice"] <= 1
    assert outcome.device_seconds > 0
    assert outcome.keys.keys() >= {"evaluate"}


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_measured_on_synthetic_images_is_the_mean_over_patients_of_rows_that_are_kept(outcomes, store, arm):
    _, outcome = outcomes[arm]
    beside = [row for row in outcome.scores if row.metric.startswith("synthesis/")]
    assert {row.metric for row in beside} == {name for name in outcome.summary if name.startswith("synthesis/s_score")}
    assert {row.patient for row in beside} <= {record.patient for record in store.records(split="val")}
    for metric in {row.metric for row in beside}:
        own = patient_scores(outcome.scores, metric)
        assert len(own) == 2  # validation patients of either domain
        assert outcome.summary[metric] == pytest.approx(np.mean([*own.values()]))


@pytest.mark.parametrize("network", ["dynunet", "segresnet"])
def test_any_segmentor_by_name_is_trained_and_scored(tmp_path, store, network):
    values = {"downstream.network": network, "downstream.network.width": "4"}
    outcome = outcome_of(Stages(tmp_path, store.path, experiment(arm="real").with_values(values)))
    assert len({score.patient for score in outcome.scores}) == 2
    assert 0 <= outcome.summary["val/dice"] <= 1


def test_only_synthetic_arms_have_s_scores(outcomes):
    for arm, (_, outcome) in outcomes.items():
        named = {name for name in outcome.summary if name.startswith("synthesis/s_score/")}
        assert named == ({"synthesis/s_score/ct", "synthesis/s_score/mr"} if arm in ("offline", "joint") else set())
        assert {name.replace("s_score/", "s_score_reference/") for name in named} <= outcome.summary.keys()


def test_arms_compute_what_they_need(outcomes):
    needed = {arm: Counter(watched.computed) for arm, (watched, _) in outcomes.items()}
    assert needed["real"] == {"downstream": 1, "evaluate": 1}
    # Two references for the S-score besides the arm's own model.
    assert needed["offline"] == {"fit": 1, "synthesise": 1, "filter": 1, "downstream": 3, "evaluate": 1, "s_score": 1}
    # The joint arm's fit, and so its S-score, is the offline arm's: what differs is which segmentor is judged.
    assert needed["joint"] == {"evaluate": 1}


def test_a_finished_stage_keeps_its_record_and_no_checkpoint(outcomes, shared):
    for path in shared.glob("stages/*/*/stage.json"):
        record = json.loads(path.read_text())
        assert key_of(record["kind"], record["inputs"]) == record["key"] == path.parent.name
        assert not [*path.parent.glob("checkpoint*"), *path.parent.glob("*.tmp"), *path.parent.glob("lease*")]
        if record["kind"] in TRAINED:
            history = read_history(path.parent)
            assert record["device_seconds"] == history[-1]["budget/device_seconds"]
            assert history[-1]["progress"] == 1


def test_the_budget_of_segmentor_updates_is_the_same_in_every_arm(outcomes, shared):
    """methods.md: equal budgets. The joint fit spends as many segmentor steps as the downstream model of the others."""
    for _, outcome in outcomes.values():
        if "downstream" in outcome.keys:
            history = read_history(shared / "stages" / "downstream" / outcome.keys["downstream"])
            assert history[-1]["step"] == tiny.EXPERIMENT.budget.segmentor_steps


def test_a_second_time_nothing_is_computed(outcomes, shared, store):
    for arm, (before, outcome) in outcomes.items():
        again = Watched(shared, store, experiment(arm=arm))
        assert outcome_of(again.stages) == outcome
        assert again.computed == []
        assert again.records == before.records


# --- synthetic images --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic(outcomes):
    watched, _ = outcomes["offline"]
    return open_store(watched.stages.synthesised().directory / SYNTHETIC)


def test_synthetic_images_inherit_patient_split_label_and_geometry(synthetic, store):
    real = {record.subject: record for record in store.records(split="train")}
    made = synthetic.records()
    assert Counter(record.kind for record in made) == {"translated": 4, "reconstructed": 4}
    for record in made:
        (parent,) = (real[subject] for subject in record.parents)
        assert record.domain == "mr"
        assert parent.domain == ("ct" if record.kind == "translated" else "mr")
        assert (record.patient, record.split, record.affine) == (parent.patient, "train", parent.affine)
        assert np.array_equal(synthetic.label(record), store.label(parent))
        assert record.shape == parent.shape
        assert np.abs(synthetic.image(record)).max() <= 1
        assert not np.array_equal(synthetic.image(record), store.image(parent))


def test_no_synthetic_image_has_a_parent_outside_of_training(synthetic, store):
    held_out = {record.patient for split in ("val", "test") for record in store.records(split=split)}
    assert held_out
    assert not {record.patient for record in synthetic.records()} & held_out


def test_the_native_range_of_synthetic_images_is_the_usual_one_of_their_domain(synthetic, store):
    usual = np.median([record.hi for record in store.records("mr", "train")])
    assert {record.hi for record in synthetic.records()} == {usual}


def test_offline_images_are_the_same_in_every_epoch(synthetic, store):
    """methods.md T-B6: the synthetic set is a set, not a stream; joint's changes with the generator."""
    real = Pool.of(store, store.records("mr", "train"))
    mixture = Mixture(real, Pool.of(synthetic, synthetic.records()), tiny.EXPERIMENT.mixing, 100)
    sampler = Sampler({"images": mixture}, Sampling(2, (16, 16), 0.0), batch=4, seed=0)
    seen: dict[str, set[bytes]] = {}
    slices = {record.subject: {s.tobytes() for s in synthetic.image(record)} for record in synthetic.records()}
    for step in range(40):
        images = sampler.batch(step)["images"]
        assert sum(subject in slices for subject in images.subjects) == 2  # half real, half synthetic
        for subject, image in zip(images.subjects, images.image):
            if subject in slices:
                seen.setdefault(subject, set()).add(image[0].numpy().tobytes())
    assert seen == slices


def test_a_half_written_synthetic_set_is_swept_away(tmp_path, store):
    key = Watched(tmp_path / "elsewhere", store, experiment(arm="offline")).stages.synthesised().key
    watched = Watched(tmp_path, store, experiment(arm="offline"))
    folder = tmp_path / "stages" / "synthesise" / key
    (folder / f".{SYNTHETIC}.1-dead.part").mkdir(parents=True)
    assert watched.stages.synthesised().directory == folder
    assert not list(folder.glob("*.part")) + list(folder.glob(".*.part"))


# --- S-score -----------------------------------------------------------------------------------------------------


def test_references_are_nobodys_own_model_and_nobody_changes_them(outcomes, shared, store):
    own = {outcome.keys.get("downstream") for _, outcome in outcomes.values()}
    own |= {outcome.keys.get("fit") for _, outcome in outcomes.values()}
    references = reference_models(outcomes["joint"][0].stages)
    assert references.keys() == {"ct", "mr"}
    assert not {stage.key for stage in references.values()} & own
    weights = {role: (stage.directory / NETWORKS).read_bytes() for role, stage in references.items()}
    times = {role: (stage.directory / NETWORKS).stat().st_mtime_ns for role, stage in references.items()}

    other = Watched(shared, store, experiment(arm="joint", method__shape_weight=0.0, seed=5, labels__fraction=0.5))
    outcome_of(other.stages)
    assert {role: stage.key for role, stage in reference_models(other.stages).items()} == {
        role: stage.key for role, stage in references.items()
    }
    for role, stage in references.items():
        assert (stage.directory / NETWORKS).read_bytes() == weights[role]
        assert (stage.directory / NETWORKS).stat().st_mtime_ns == times[role]
        assert stage.record["inputs"]["labels"]["fraction"] == 1.0
        assert stage.record["inputs"]["kept"] is None


def test_work_is_counted_in_updates_samples_and_images(outcomes, shared):
    """Six updates of two images each in every arm, half of them synthetic where that is so from the first one on."""
    spent = {arm: outcome.summary for arm, (_, outcome) in outcomes.items()}
    for arm in ARMS:
        assert spent[arm]["work/updates"] == 6
        assert (spent[arm]["work/synthetic_samples"] > 0) == (arm in ("offline", "joint"))
        assert ("generator/updates" in spent[arm]) == (arm in ("offline", "joint"))
        assert spent[arm]["work/real_samples"] + spent[arm]["work/synthetic_samples"] == 12
    # The joint arm's method trains its segmentors on real images alone for the first half.
    assert [spent[arm]["work/synthetic_samples"] for arm in ("real", "source", "offline", "joint")] == [0, 0, 6, 3]
    offline = spent["offline"]
    kept = json.loads((shared / "stages" / "filter" / outcomes["offline"][1].keys["filter"] / "kept.json").read_text())
    assert (offline["work/kept_images"], offline["work/synthetic_images"]) == (len(kept["kept"]), kept["of"])
    assert offline["generator/samples"] == offline["generator/updates"] * 2 * 2
    assert offline["generator/device_seconds"] <= outcomes["offline"][1].device_seconds


def test_references_cost_the_trial_nothing(outcomes, shared):
    _, offline = outcomes["offline"]
    costs = [json.loads((shared / "stages" / kind / offline.keys[kind] / "stage.json").read_text())["device_seconds"]
             for kind in ("fit", "synthesise", "filter", "downstream")]  # fmt: skip
    assert offline.device_seconds == pytest.approx(math.fsum(costs))


def test_a_domain_without_labels_has_no_s_score(tmp_path):
    bare = tiny.make_store(tmp_path / "store", relabel=lambda domain, patient, label: label if domain == "mr" else None)
    outcome = outcome_of(Watched(tmp_path, bare, experiment(arm="joint")).stages)
    # Nothing labelled is translated into mr either: ct carries no labels to score it by.
    assert not {name for name in outcome.summary if name.startswith("synthesis/s_score/")}
    assert 0 <= outcome.summary["val/dice"] <= 1


# --- what cannot be done -----------------------------------------------------------------------------------------


def nothing(domain, patient, label):
    return None


def only_ct(domain, patient, label):
    return label if domain == "ct" else None


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("relabel", [nothing, only_ct])
def test_a_target_without_labels_is_refused(tmp_path, arm, relabel):
    bare = tiny.make_store(tmp_path / "store", relabel=relabel)
    with pytest.raises(InputError, match="no labelled"):
        outcome_of(Watched(tmp_path, bare, experiment(arm=arm)).stages)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(tmp_path, arm, split):
    bare = tiny.make_store(tmp_path / "store", splits={**tiny.SPLITS, split: 0})
    with pytest.raises(InputError, match=f"(?s)no .*image.*{split}|split {split}"):
        outcome_of(Watched(tmp_path, bare, experiment(arm=arm)).stages)


def test_an_empty_test_split_is_refused_when_it_is_read(outcomes, tmp_path):
    bare = tiny.make_store(tmp_path / "store", splits={**tiny.SPLITS, "test": 0})
    stages = Watched(tmp_path, bare, experiment()).stages
    outcome_of(stages)
    with pytest.raises(InputError, match="split test"):
        stages.scores("test")


def test_nothing_to_translate_is_refused(tmp_path):
    bare = tiny.make_store(tmp_path / "store", relabel=lambda domain, patient, label: label if domain == "mr" else None)
    with pytest.raises(InputError, match="no labelled training image to make mr of"):
        outcome_of(Watched(tmp_path, bare, experiment(arm="offline", method__use_reconstructed=False)).stages)


def test_a_filter_that_keeps_none_is_refused(shared, outcomes, store):
    with pytest.raises(InputError, match=r"filter\.min_dice = 1 keeps none of 8") as refused:
        outcome_of(Watched(shared, store, experiment(arm="offline", filter__min_dice=1.0)).stages)
    assert "best 0." in refused.value.what


def test_an_unknown_domain_is_refused_before_anything_is_spent(tmp_path, store):
    with pytest.raises(InputError, match="unknown domain 'pet'"):
        Watched(tmp_path, store, experiment(domains__A="pet"))
    assert not (tmp_path / "stages").exists()


def test_a_failed_stage_can_be_tried_again(tmp_path, store):
    watched = Watched(tmp_path, store, experiment())

    def fail(directory, published):
        raise OSError("no luck")

    with pytest.raises(OSError, match="no luck"):
        watched.stages.artefacts.compute("toy", {"x": 1}, fail)
    made = watched.stages.artefacts.compute("toy", {"x": 1}, lambda directory, published: time.sleep(0))
    assert made.finished()
    assert made.record["device_seconds"] >= 0


def test_networks_of_another_shape_are_refused(outcomes, shared, store):
    watched, _ = outcomes["joint"]
    fit = watched.stages.fit()
    with pytest.raises(InputError, match="does not fit CycleGAN"):
        load_networks(make_method(experiment(arm="offline", method="cyclegan", method__width=0.0625), 2), fit.directory)


def test_the_table_of_what_each_arm_sees_is_what_the_code_says(benchmark_script):
    page = (Path(__file__).parents[2] / "docs" / "arms.md").read_text()
    assert benchmark_script("arms_seen").table() in page
