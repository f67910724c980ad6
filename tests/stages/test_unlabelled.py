"""``labels.fraction = 0``: no training patient of the target domain is labelled, those who judge are."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from tiny import experiment

from ganatomy.contracts import InputError
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import SYNTHETIC, Stages
from ganatomy.stores.store import open_store
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.pools import check_labels, generator_pool, segmentor_pool

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


def _unlabelled(domain, patient, label):
    return None if domain == "mr" and "-train-" in patient else label


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("store") / "store", digest="unlabelled", relabel=_unlabelled)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


def chosen(arm, **values):
    return experiment(arm=arm, labels__fraction=0.0, **values)


@pytest.mark.parametrize("sees", ["subset", "all"])
def test_generators_see_every_image_and_no_label_of_the_target(store, sees):
    pools = {role: generator_pool(store, chosen("offline", labels__gan_sees=sees), role) for role in "AB"}
    assert [len(pools[role]) for role in "AB"] == [len(store.records(name, "train")) for name in ("ct", "mr")]
    assert not any(entry.labelled for entry in pools["B"].entries)
    assert len(segmentor_pool(store, chosen("offline"), "B")) == 0


@pytest.mark.parametrize("arm", ["source", "offline", "joint"])
def test_every_arm_that_needs_no_label_is_trained_and_scored_on_the_target(workspace, store, arm):
    outcome = outcome_of(Stages(workspace, store.path, chosen(arm)))
    assert 0 <= outcome.summary["val/dice"] <= 1
    assert {score.patient for score in outcome.scores if score.metric == "dice"} == {"mr-val-0", "mr-val-1"}
    seen = outcome.summary["work/real_samples"], outcome.summary["work/synthetic_samples"]
    if arm == "source":
        assert seen == (12, 0)
    if arm == "offline":
        assert seen == (0, 12)
    if arm == "joint":  # half of the updates are a pre-training on the source's images
        assert seen == (6, 6)
    if arm != "source":  # a segmentor that judges images of mr would have to learn from labels of mr
        assert {name for name in outcome.summary if name.startswith("synthesis/s_score/")} <= {"synthesis/s_score/ct"}


def test_offline_learns_from_translated_source_images_alone(workspace, store):
    made = open_store(Stages(workspace, store.path, chosen("offline")).synthesised().directory / SYNTHETIC)
    assert {image.patient for image in made.records()} == {image.patient for image in store.records("ct", "train")}
    assert {image.domain for image in made.records()} == {"mr"}


def test_the_source_arm_is_the_model_of_the_source_domain_as_it_is(tmp_path, store):
    there = Stages(tmp_path / "a", store.path, chosen("source")).model()
    here = Stages(tmp_path / "b", store.path, experiment(arm="real", target="A")).model()
    assert (there.directory / NETWORKS).read_bytes() == (here.directory / NETWORKS).read_bytes()


@pytest.mark.parametrize("arm", ["source", "offline", "joint"])
def test_labels_of_target_patients_who_train_reach_nothing(tmp_path, workspace, store, arm):
    def poison(domain, patient, label):
        return label if _unlabelled(domain, patient, label) is not None else 1 - label

    poisoned = tiny.make_store(tmp_path / "poisoned", digest="poisoned", relabel=poison)
    weights = [
        (Stages(place, one.path, chosen(arm)).model().directory / NETWORKS).read_bytes()
        for place, one in ((workspace, store), (tmp_path, poisoned))
    ]
    assert weights[0] == weights[1]


def test_a_segmentor_without_labels_of_its_own_learns_from_translations(tmp_path, store):
    """Beyond the pre-training on the source's images, which leaves it as the source's own would be."""
    stages = Stages(tmp_path, store.path, chosen("joint", method__pretrain_fraction=0.5))
    method = stages.method(stages.fit())
    pairs = list(zip(method.S_A.parameters(), method.S_B.parameters()))
    assert any(not np.array_equal(one.detach(), other.detach()) for one, other in pairs)


def test_a_source_without_labels_is_refused(tmp_path):
    nothing = tiny.make_store(tmp_path / "s", relabel=lambda domain, who, label: label if "-val-" in who else None)
    for arm in ("source", "offline", "joint"):
        with pytest.raises(InputError, match="no labelled training image of the source domain 'ct'"):
            check_labels(nothing, chosen(arm))
    with pytest.raises(InputError, match="no labelled training image of domain 'mr'"):
        check_labels(nothing, experiment(arm="real"))
