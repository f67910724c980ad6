"""Stages: each computed once, by what it depends on and nothing else; shared, followed and killed for real."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import experiment

from ganatomy import artefacts as room
from ganatomy.artefacts import Artefacts, Stage, key_of
from ganatomy.contracts import UNLABELLED, InputError, labelled
from ganatomy.distributed import HISTORY, NETWORKS, read_history
from ganatomy.experiment import ARMS, Sampling, pseudonym
from ganatomy.outcome import Outcome, outcome_of, reference_models
from ganatomy.sampling import Mixture, Pool, Sampler
from ganatomy.single_flight import LeaseLost
from ganatomy.stages import SYNTHETIC, Stages
from ganatomy.store import open_store
from ganatomy.training import (
    FitGenerator,
    generator_pool,
    labelled_patients,
    load_networks,
    make_method,
    segmentor_pool,
)
from ganatomy_methods.shape_consistent import ShapeConsistent

TRAINED = ("fit", "downstream")


pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A workspace whose finished stages later tests may find."""
    return tmp_path_factory.mktemp("workspace")


class Watched:
    """Stages of an experiment, with all that they said and every record they followed."""

    def __init__(self, workspace, store, experiment):
        self.said, self.records = [], []
        self.stages = Stages(workspace, store.path, experiment, follow=self.follow, say=self.said.append)

    def follow(self, stage, record):
        self.records.append((stage.key, record))

    @property
    def computed(self):
        return [sentence.split()[1] for sentence in self.said if sentence.startswith("computing")]


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
    assert {row.subject for row in outcome.scores} == {pseudonym(subject, store.name) for subject in subjects}
    assert len(outcome.scores) == 2 * len(subjects)  # Dice and HD95 of the one structure
    assert 0 <= outcome.summary["val/dice"] <= 1
    assert outcome.device_seconds > 0
    assert outcome.keys.keys() >= {"evaluate"}


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
    assert needed["classical"] == {"downstream": 1, "evaluate": 1}
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


# --- keys --------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys_of(tmp_path, store, monkeypatch):
    """Kind -> key of the stages that an experiment would run, without running them."""

    def planned(self, kind, inputs, work, **_):
        self.keys[kind] = key_of(kind, inputs)
        return Stage(kind, self.keys[kind], tmp_path / kind)

    monkeypatch.setattr(Artefacts, "compute", planned)

    def keys_of(values, store=store):
        stages = Stages(tmp_path, store.path, experiment(**values))
        model = stages.model()
        references = {f"reference {role}": stage.key for role, stage in reference_models(stages).items()}
        return {**stages.keys, "model": model.key, **references}

    return keys_of


OFFLINE, JOINT, REAL = {"arm": "offline"}, {"arm": "joint"}, {"arm": "real"}
REFERENCES = {"reference ct", "reference mr"}


@pytest.mark.parametrize(("values", "change", "changed"), [
    (OFFLINE, {"mixing__ratio": 2.0}, {"downstream", "model"}),
    (OFFLINE, {"mixing__order": "real_first"}, {"downstream", "model"}),
    (OFFLINE, {"filter__min_dice": 0.3}, {"filter", "downstream", "model"}),
    (OFFLINE, {"method__shape_weight": 0.0}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"method": "cyclegan", "method__width": 0.1}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"training__ema": 0.9}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"budget__generator_steps": 5}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"method__shape_weight": 1.0}, set()),  # the default, spelled out
    (JOINT, {"mixing__ratio": 2.0}, {"fit", "model"}),
    (JOINT, {"filter__min_dice": 0.3, "mixing__order": "real_first"}, set()),
    (REAL, {"method__shape_weight": 0.0, "mixing__ratio": 9.0, "filter__min_dice": 0.5}, set()),
    (REAL, {"method": "cyclegan", "budget__generator_steps": 99, "training__ema": 0.5}, set()),
    (REAL, {"labels__gan_sees": "all", "labels__fraction": 1.0}, set()),
    (REAL, {"labels__fraction": 0.5}, {"downstream", "model"}),
    (REAL, {"seed": 1}, {"downstream", "model"}),
    (REAL, {"arm": "classical"}, {"downstream", "model"}),
    (REAL, {"target": "A"}, {"downstream", "model", *REFERENCES}),
    (REAL, {"downstream__learning_rate": 1e-3}, {"downstream", "model", *REFERENCES}),
    (REAL, {"downstream__network": "pspnet"}, {"downstream", "model", *REFERENCES}),
    (REAL, {"budget__segmentor_steps": 7}, {"downstream", "model", *REFERENCES}),
    (REAL, {"budget__batch": 1}, {"downstream", "model", *REFERENCES}),
    (REAL, {"sampling__foreground": 0.0}, {"downstream", "model", *REFERENCES}),
    (REAL, {"training__patience": 2}, {"downstream", "model", *REFERENCES}),
    (OFFLINE, {"labels__fraction": 0.5}, {"fit", "synthesise", "filter", "downstream", "model"}),
    (OFFLINE, {"seed": 1}, {"fit", "synthesise", "filter", "downstream", "model"}),
    ({**OFFLINE, "labels__fraction": 0.5}, {"labels__gan_sees": "all"},
     {"fit", "synthesise", "filter", "downstream", "model"}),
    ({**REAL, "labels__fraction": 0.5}, {"labels__gan_sees": "all"}, set()),
])  # fmt: skip
def test_a_parameter_changes_the_keys_of_what_depends_on_it_and_no_others(keys_of, values, change, changed):
    before, after = keys_of(values), keys_of({**values, **change})
    assert {kind for kind in before | after if before.get(kind) != after.get(kind)} == changed


def test_another_cohort_changes_every_key(keys_of, tmp_path):
    other = tiny.make_store(tmp_path / "other", digest="another")
    before, after = keys_of(OFFLINE), keys_of(OFFLINE, other)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_a_method_without_segmentors_does_not_depend_on_their_budget(keys_of):
    cyclegan = {**OFFLINE, "method": "cyclegan"}
    before, after = keys_of(cyclegan), keys_of({**cyclegan, "budget__segmentor_steps": 7, "mixing__ratio": 3.0})
    assert before["fit"] == after["fit"]
    assert before["downstream"] != after["downstream"]


def test_the_judge_of_the_filter_is_the_real_arms_own_model(tmp_path, store):
    real = Watched(tmp_path, store, experiment(arm="real"))
    outcome_of(real.stages)
    filtered = Watched(tmp_path, store, experiment(arm="offline", filter__min_dice=0.001))
    kept = filtered.stages.filtered()
    assert kept.record["inputs"]["judge"] == real.stages.model().key
    assert "downstream" not in filtered.computed
    chosen = json.loads((kept.directory / "kept.json").read_text())
    assert chosen["kept"] == [int(index) for index, dice in chosen["dice"].items() if dice >= 0.001]
    assert {key for key, _ in filtered.records} == {filtered.stages.keys["fit"]}  # the judge is no progress of ours


# --- one computes, others follow ----------------------------------------------------------------------------------

RUN = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import tiny
from ganatomy.outcome import outcome_of
from ganatomy.stages import Stages
tiny.draw_dots()
workspace, store, values = Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
def follow(stage, record):
    print(json.dumps(["follow", stage.key, record]), flush=True)
def say(sentence):
    print(json.dumps(["say", sentence]), flush=True)
outcome = outcome_of(Stages(workspace, store, tiny.experiment(**values), follow=follow, say=say))
print(json.dumps(["done", outcome.summary, outcome.device_seconds]), flush=True)
"""


def start(workspace, store, **values) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(workspace), str(store.path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, json.dumps(values)], stdout=subprocess.PIPE, text=True, env=environment)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_two_processes_compute_each_stage_once_and_all_see_the_same(tmp_path, store):
    values = {"arm": "offline", "budget__segmentor_steps": 12, "budget__generator_steps": 8, "budget__validations": 4}
    processes = [start(tmp_path, store, **values) for _ in range(2)]
    said = [lines(process.communicate(timeout=300)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    computed = Counter(line[1] for one in said for line in one if line[0] == "say" and line[1].startswith("computing"))
    assert len(computed) == 8
    assert set(computed.values()) == {1}

    late = Watched(tmp_path, store, experiment(**values))
    outcome = outcome_of(late.stages)
    assert late.computed == []
    followed = [[(key, record) for kind, key, *record in one if kind == "follow"] for one in said for _ in (0,)]
    expected = [(key, [record]) for key, record in late.records]
    assert followed == [expected, expected]
    assert {key for key, _ in late.records} == {outcome.keys["fit"], outcome.keys["downstream"]}
    for one in said:
        assert one[-1] == ["done", dict(outcome.summary), outcome.device_seconds]


def test_a_killed_stage_goes_on_bit_for_bit(tmp_path, store):
    values = {"arm": "joint", "budget__segmentor_steps": 20, "budget__generator_steps": 20, "budget__validations": 8}
    process = start(tmp_path / "killed", store, **values)
    for line in process.stdout:
        if json.loads(line)[0] == "follow" and json.loads(line)[2]["step"] >= 8:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "killed" / "stages" / "fit").iterdir()
    assert not (folder / NETWORKS).exists()

    resumed, whole = (Watched(tmp_path / name, store, experiment(**values)) for name in ("killed", "whole"))
    ends = [one.stages.fit() for one in (resumed, whole)]
    assert ends[0].key == ends[1].key
    assert (ends[0].directory / NETWORKS).read_bytes() == (ends[1].directory / NETWORKS).read_bytes()
    assert [untimed(record) for _, record in resumed.records] == [untimed(record) for _, record in whole.records]
    assert len((ends[0].directory / HISTORY).read_text().splitlines()) == 8


def untimed(record):
    """All of a record that does not depend on the clock."""
    return {name: value for name, value in record.items() if not name.startswith(("time", "speed/", "budget/"))}


def test_who_was_replaced_while_suspended_takes_the_others_result(tmp_path, store, monkeypatch):
    """The first time its lease is asked for it is lost, and another's result lies there."""
    other = Watched(tmp_path / "other", store, experiment())
    theirs = other.stages.model()
    really, lost = room.single_flight, []

    def flight(directory, done, waiting):
        flying = really(directory, done, waiting)
        if not lost:
            lost.append(directory)
            enter = flying.__enter__

            def entered():
                assert enter() is not None

                def still_mine():
                    (directory / "stage.json").write_bytes((theirs.directory / "stage.json").read_bytes())
                    raise LeaseLost("another took over")

                return still_mine

            monkeypatch.setattr(flying, "__enter__", entered, raising=False)
            return _Flying(entered, flying.__exit__)
        return flying

    monkeypatch.setattr(room, "single_flight", flight)
    mine = Watched(tmp_path / "mine", store, experiment())
    stage = mine.stages.model()
    assert lost
    assert stage.record == theirs.record
    assert len(mine.computed) == 1


class _Flying:
    def __init__(self, enter, leave):
        self.enter, self.leave = enter, leave

    def __enter__(self):
        return self.enter()

    def __exit__(self, *error):
        return self.leave(*error)


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gan_sees", ["subset", "all"])
def test_who_is_in_which_pool(store, gan_sees):
    chosen = experiment(labels__fraction=0.5, labels__gan_sees=gan_sees)
    patients = labelled_patients(store, chosen, "B")
    everyone = {image.patient for image in store.records("mr", "train")}
    assert len(patients) == len(everyone) / 2
    pools = {role: generator_pool(store, chosen, role) for role in "AB"}
    assert {entry.record.patient for entry in pools["B"].entries} == (everyone if gan_sees == "all" else patients)
    assert {entry.record.patient for entry in pools["B"].entries if entry.labelled} == patients
    assert {entry.record.patient for entry in segmentor_pool(store, chosen, "B").entries} == patients
    for pool in (pools["A"], segmentor_pool(store, chosen, "A")):  # only the target's labels are scarce
        assert len(pool) == len(store.records("ct", "train"))
        assert all(entry.labelled for entry in pool.entries)
    for entry in [*pools["A"].entries, *pools["B"].entries]:
        assert entry.record.split == "train"


def test_segmentors_get_as_many_labels_a_step_beside_unlabelled_images_as_without_them(tmp_path, store):
    chosen = experiment(arm="joint", labels__fraction=0.5, labels__gan_sees="all")
    loop = FitGenerator(store.path, chosen, tmp_path)(rank=0, world=1, device=torch.device("cpu"))
    seen = labelled_patients(store, chosen, "B")
    patient_of = {image.subject: image.patient for image in store.records("mr", "train")}
    for step in range(8):
        batch = loop.draws.batch(step)
        assert set(batch) == {"A", "B", labelled("B")}
        assert len(batch[labelled("B")]) == len(batch["B"]) == chosen.budget.batch
        assert (batch[labelled("B")].label != UNLABELLED).all()
        assert {patient_of[subject] for subject in batch[labelled("B")].subjects} <= seen
    everything_labelled = FitGenerator(store.path, experiment(arm="joint"), tmp_path)
    assert set(everything_labelled(rank=0, world=1, device=torch.device("cpu")).draws.batch(0)) == {"A", "B"}


def _says_its_own(label_of):
    """``synthesize`` of a method, with the labels that ``label_of`` makes of those of the batch."""
    honest = ShapeConsistent.synthesize

    def synthesize(self, batch):
        made = honest(self, batch)
        return [replace(item, label=label_of(batch[item.source].label)) for item in made]

    return synthesize


def test_synthetic_images_carry_the_label_that_their_method_gives_them(tmp_path, store, monkeypatch):
    monkeypatch.setattr(ShapeConsistent, "synthesize", _says_its_own(lambda label: 1 - label))
    stages = Stages(tmp_path, store.path, experiment(arm="offline"))
    synthetic = open_store(stages.synthesised().directory / SYNTHETIC)
    sources = {image.subject: image for image in store.records(split="train")}
    assert len(synthetic)
    for image in synthetic.records():
        (parent,) = image.parents
        np.testing.assert_array_equal(synthetic.label(image), 1 - store.label(sources[parent]))


def test_images_whose_label_their_method_does_not_know_teach_no_segmentor(tmp_path, store, monkeypatch):
    monkeypatch.setattr(ShapeConsistent, "synthesize", _says_its_own(lambda label: torch.full_like(label, UNLABELLED)))
    with pytest.raises(InputError, match="knows what its images show"):
        Stages(tmp_path, store.path, experiment(arm="offline")).synthesised()


def test_smaller_fractions_are_subsets_and_one_is_always_left(store):
    chosen = [labelled_patients(store, experiment(labels__fraction=fraction), "B") for fraction in (0.01, 0.5, 1.0)]
    assert len(chosen[0]) == 1
    assert chosen[0] < chosen[1] < chosen[2]


@pytest.mark.parametrize("arm", ["real", "offline", "joint"])
def test_withheld_labels_reach_nothing_that_an_arm_trains(tmp_path, store, arm):
    """Poison them: whatever the arm trains comes out the same to the last bit."""
    chosen = experiment(arm=arm, labels__fraction=0.5, labels__gan_sees="all")
    seen = labelled_patients(store, chosen, "B")

    def poison(domain, patient, label):
        return label if domain == "ct" or "-train-" not in patient or patient in seen else 1 - label

    poisoned = tiny.make_store(tmp_path / "poisoned", digest="poisoned", relabel=poison)
    weights = [_networks(tmp_path / one.digest, one, chosen) for one in (store, poisoned)]
    assert weights[0] == weights[1]
    everything = replace(chosen, labels=replace(chosen.labels, fraction=1.0))
    assert _networks(tmp_path / store.digest, store, everything) != _networks(
        tmp_path / "poisoned-all", poisoned, everything
    )


def _networks(workspace, store, chosen):
    stage = Stages(workspace, store.path, chosen).model()
    return (stage.directory / NETWORKS).read_bytes()


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
