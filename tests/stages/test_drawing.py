"""Drawn sets: whose labels are shown, what is refused, what the filter judges by; the multi-modal method through all
stages."""

from __future__ import annotations

import itertools
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch

from ganatomy.contracts import InputError, Method, Registered
from ganatomy.experiment import Budget, Choice, Drawing, Experiment, Mixing, Sampling
from ganatomy.images.imaging import fitted
from ganatomy.measures.segmentation import dice, patient_scores
from ganatomy.stages.drawing import Offers, centred, draw_one, drawn_subjects, labels_in, stacked
from ganatomy.stages.outcome import Outcome, outcome_of, reference_models
from ganatomy.stages.stages import SYNTHETIC, Stages
from ganatomy.stores.sampling import Pool
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import Item, write_store
from ganatomy.training import tasks as training
from ganatomy.training.distributed import read_history
from ganatomy.training.pools import check_method
from ganatomy.training.tasks import guide_of, load_networks, make_method

ROLES = ("T1", "T2", "T1c", "FLAIR")
SIDE = 16
SPLITS = {"train": 3, "val": 1, "test": 1}
SMALL = {"width": 0.05, "discriminator_layers": 1, "residual_blocks": 1, "filter_error": 1.0, "filter_tries": 2}
"""Algorithm 3 has its own tests; hardly trained networks would not pass it."""

EXPERIMENT = Experiment(
    cohort="brains",
    domains={role: role for role in ROLES},
    target="FLAIR",
    arm="offline",
    method=Choice("multimodal_mr", SMALL),
    mixing=Mixing(pretrain=0.0),
    drawing=Drawing(per_label=1.0, at_least=4),
    downstream=tiny.UNET,
    sampling=Sampling(ndim=2, size=(SIDE, SIDE), foreground=0.5),
    budget=Budget(segmentor_steps=4, generator_steps=3, batch=1, validations=1),
)


pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


def brain(number: int, contrast: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc of three slices with a lesion of 2 x 2 in the middle one: class 1 + number % 2."""
    axis = np.linspace(-1, 1, SIDE)
    disc = axis[:, None] ** 2 + axis[None] ** 2 < 0.8
    label = np.zeros((3, SIDE, SIDE), np.uint8)
    row, column = np.random.default_rng(number).integers(6, 9, 2)
    label[1, row : row + 2, column : column + 2] = 1 + number % 2
    noise = np.random.default_rng([number, contrast]).normal(0, 0.03, label.shape)
    image = np.where(disc, 0.2 * contrast - 0.3 + 0.6 * (label > 0) + noise, -1)
    return image.clip(-1, 1).astype(np.float32), label


def write_brains(path, labelled=True):
    """Every patient has all four contrasts, registered."""
    items = []
    for number, split in enumerate(split for split, count in SPLITS.items() for _ in range(count)):
        for contrast, role in enumerate(ROLES):
            image, label = brain(number, contrast)
            items.append(Item(f"p{number}-scan", f"p{number}", role, split, image, label if labelled else None))
    return write_store(
        path, name="brains", labels={1: "oedema", 2: "core"}, domains={r: {} for r in ROLES}, digest="b", items=items
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_brains(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def offline(workspace, store) -> tuple[Stages, Outcome]:
    """The whole offline arm."""
    stages = Stages(workspace, store.path, EXPERIMENT)
    return stages, outcome_of(stages)


@pytest.fixture(scope="module")
def made(offline):
    stages, _ = offline
    return open_store(stages.synthesised().directory / SYNTHETIC)


class Painter(Method):
    """Draws its label: 0.5 in it, -1 elsewhere. Subjects with a number that 3 divides fail its checks."""

    roles = ("A", "B")
    draws_from_noise = True

    def __init__(self):
        torch.nn.Module.__init__(self)

    def optimisers(self):
        return {}

    def phases(self, generator_steps, segmentor_steps):
        return ()

    def step(self, batch, update):
        return {}

    def synthesize(self, batch):
        return []

    def draw(self, labels, numbers, seed):
        donors = tuple((number + seed) % len(labels) for number in numbers)
        label = labels[list(donors)]
        image = torch.where(label > 0, 0.5, -1.0)[:, None]
        accepted = tuple(number % 3 > 0 for number in numbers)
        return Registered({"A": image, "B": -image}, label, None, donors, accepted, {"number": numbers})


# --- which labels ------------------------------------------------------------------------------------------------


def test_labels_are_offered_by_slice_and_only_with_something_in_them():
    _, label = brain(0, 0)
    assert [number for number, _ in labels_in(label, (SIDE, SIDE))] == [1]
    ((number, whole),) = labels_in(label, (8, SIDE, SIDE))
    assert number is None
    assert whole.sum() == label.sum()
    corner = np.zeros((1, 16, 16), np.uint8)
    corner[0, 0, 0] = 1
    assert not list(labels_in(corner, (8, 8)))  # the crop leaves nothing of it


@pytest.mark.parametrize("shape", [(9, 20), (20, 9), (16, 16), (5, 5), (30, 31)])
def test_fitting_keeps_the_middle_where_it_is(shape):
    label = np.zeros(shape, np.uint8)
    label[shape[0] // 2, shape[1] // 2] = 1
    rows, columns = np.nonzero(fitted(label, (16, 16)))
    assert abs(int(rows[0]) - 8) <= 1
    assert abs(int(columns[0]) - 8) <= 1
    back = fitted(fitted(label, (40, 40)), shape)
    assert np.array_equal(back, label)


def test_labels_that_may_not_be_seen_are_not_offered(store):
    seen = Pool.of(store, store.records("FLAIR", "train"), {"p1"})
    offers = Offers.of(seen, (SIDE, SIDE))
    assert {record.patient for record in offers.records} == {"p1"}
    assert set(offers.labels.unique().tolist()) == {0, 2}
    with pytest.raises(InputError, match="no label to draw"):
        Offers.of(Pool.of(store, store.records("FLAIR", "train"), ()), (SIDE, SIDE))
    with pytest.raises(InputError, match="no label to draw"):
        Offers.of(seen.in_state("healthy", 2), (SIDE, SIDE))


def test_the_number_to_draw_follows_the_labels_and_has_a_floor(store):
    offers = Offers.of(Pool.of(store, store.records("FLAIR", "train")), (SIDE, SIDE))
    assert len(offers.labels) == 3
    assert offers.count(Drawing(2.5, 1)) == math.ceil(7.5)
    assert offers.count(Drawing(1.0, 64)) == 64


# --- what is drawn -----------------------------------------------------------------------------------------------


def test_what_fails_the_methods_checks_is_left_out_and_others_take_its_place():
    labels = stacked([brain(n, 0)[1][1] for n in range(4)])
    subjects = list(drawn_subjects(Painter(), labels, 4, seed=1))
    assert [subject.number for subject in subjects] == [1, 2, 4, 5]
    assert [subject.donor for subject in subjects] == [(n + 1) % 4 for n in (1, 2, 4, 5)]
    for subject in subjects:
        assert np.array_equal(subject.images["A"] > 0, subject.label > 0)
        assert subject.label.shape == subject.images["A"].shape == (1, SIDE, SIDE)
        assert subject.figures == {"number": subject.number}
    assert draw_one(Painter(), labels, 3, seed=1) is None


def test_drawing_ends_when_nothing_passes():
    labels = stacked([brain(0, 0)[1][1]])
    assert list(drawn_subjects(Painter(), labels, 5, seed=0, numbers=iter(range(0, 99, 3)))) == []


def test_what_was_drawn_lies_around_the_origin():
    affine = np.array([[-2.0, 0, 0, 31], [0, 3.0, 0, -7], [0, 0, 5.0, 9], [0, 0, 0, 1]])
    moved = centred(affine, (1, 9, 5))
    assert np.array_equal(moved[:3, :3], affine[:3, :3])
    assert np.allclose(moved @ [2, 4, 0, 1], [0, 0, 0, 1])


# --- what it is trained on ---------------------------------------------------------------------------------------


def test_modalities_are_drawn_independently_although_the_cohort_has_all_of_each_patient(store, tmp_path):
    """T-E8: registration of the source data is not used. Of two modalities in a step, chance alone makes one patient's
    (a third of the times, of three), and each modality has an order of its own."""
    loop = training.FitGenerator(store.path, EXPERIMENT, tmp_path)(rank=0, world=1, device=torch.device("cpu"))
    drawn = [loop.draws.batch(step) for step in range(60)]
    orders = {role: [given[role].subjects[0] for given in drawn] for role in ROLES}
    assert len({tuple(order) for order in orders.values()}) == len(ROLES)
    for one, other in itertools.combinations(ROLES, 2):
        together = np.mean([a == b for a, b in zip(orders[one], orders[other], strict=True)])
        assert 0.1 < together < 0.6, (one, other)


def test_what_guides_find_is_logged_and_said_where_it_is_less_than_asked(tmp_path, store):
    """Three updates teach a guide nothing: every modality's own Dice stands in the history, the trial is warned, and
    so is whoever reads its result."""
    said, records = [], []
    stages = Stages(
        tmp_path, store.path, EXPERIMENT, say=said.append, follow=lambda stage, record: records.append(record)
    )
    fit = stages.fit()
    history = read_history(fit.directory)
    assert {f"guide/dice/{role}" for role in ROLES} <= set(history[0])
    own = [history[0][f"guide/dice/{role}"] for role in ROLES]
    assert history[0]["guide/dice"] == pytest.approx(np.mean(own))
    assert [record["guide/dice"] for record in records] == [record["guide/dice"] for record in history]
    assert (guide_of(history) or ())[1] == 0.7
    assert sum(sentence.startswith("warning: the guides of fit") for sentence in said) == 1
    stages.artefacts.finished.clear()
    stages.fit()  # as another trial that finds it
    assert sum("below 0.7" in sentence for sentence in said) == 2
    good = Stages(tmp_path, store.path, EXPERIMENT.with_values({"method.guide_bar": 0.0}), say=said.append)
    assert guide_of(read_history(good.fit().directory)) is None
    assert sum("below" in sentence for sentence in said) == 2


# --- through the stages ------------------------------------------------------------------------------------------


def test_the_offline_arm_is_scored_and_its_synthetic_set_is_drawn(offline, made, store):
    _, outcome = offline
    assert 0 <= outcome.summary["val/dice"] <= 1
    assert len(made) >= 1
    assert {record.kind for record in made.records()} == {"drawn"}
    assert {record.domain for record in made.records()} == {"FLAIR"}
    assert {record.split for record in made.records()} == {"train"}
    for record in made.records():
        assert record.shape == (1, SIDE, SIDE)
        assert record.labelled_slices == (0,)
        assert record.attributes["structure_tries"] in (1, 2)
        assert record.attributes["structure_error"] <= 1


def test_drawn_images_carry_the_patient_whose_label_they_show(made, store):
    """The lesions' classes tell odd patients from even ones."""
    training_patients = {record.patient for record in store.records(split="train")}
    for record in made.records():
        assert record.patient in training_patients
        assert record.parents == (f"{record.patient}-scan",)
        assert set(np.unique(made.label(record))) == {0, 1 + int(record.patient[1:]) % 2}


def test_a_drawn_image_can_be_drawn_again_by_its_number(offline, made, store):
    stages, _ = offline
    method = stages.method(stages.fit())
    offers = Offers.of(Pool.of(store, store.records("FLAIR", "train")), (SIDE, SIDE))
    record = made.records()[-1]
    again = draw_one(method, offers.labels, record.attributes["number"], EXPERIMENT.seed)
    assert np.array_equal(again.images["FLAIR"], made.image(record))
    assert np.array_equal(again.label, made.label(record))


def test_every_modality_has_an_s_score_of_drawn_images(offline):
    _, outcome = offline
    assert outcome.summary["generator/guide_dice"] < outcome.summary["generator/guide_bar"] == 0.7
    for role in ROLES:
        assert 0 <= outcome.summary[f"synthesis/s_score/{role}"] <= 1
        assert 0 <= outcome.summary[f"synthesis/s_score_reference/{role}"] <= 1


def test_both_dice_scores_are_reported_under_names_of_their_own(offline, store):
    """Scores on class ids, slice by slice, written out here once more; empty slices count 1, as in the paper."""
    stages, outcome = offline
    network, expected = stages.network(stages.model()), []
    for record in store.records("FLAIR", "val"):
        found = training.segment(network, store.image(record), EXPERIMENT.sampling, torch.device("cpu"))
        for a, b in zip(found.astype(float), store.label(record).astype(float), strict=True):
            expected.append(2 * (a * b).sum() / ((a**2).sum() + (b**2).sum()) if a.any() or b.any() else 1.0)
    assert len(expected) == 3
    assert outcome.summary["val/label_index_dice"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert outcome.summary["val/label_index_mse"] >= 0
    assert outcome.summary["val/label_index_dice"] == np.mean([*patient_scores(
        outcome.scores, "val/label_index_dice").values()])  # fmt: skip


def test_how_much_is_drawn_changes_the_set_and_not_the_generator(workspace, store, offline, made):
    stages, _ = offline
    more = Stages(workspace, store.path, EXPERIMENT.with_values({"drawing.at_least": 6}))
    drawn = open_store(more.synthesised().directory / SYNTHETIC)
    assert more.fit().key == stages.fit().key
    assert len(drawn) > len(made)
    shared = {record.subject: record for record in drawn.records()}
    for record in made.records():  # a larger set begins with the smaller one
        assert np.array_equal(drawn.image(shared[record.subject]), made.image(record))


def test_the_filters_judge_is_neither_the_guide_nor_what_is_evaluated(workspace, store, offline):
    """T-E11: it learns from real images only, is no network of the method, and is neither the segmentor that is scored
    nor one of those behind the S-score."""
    stages, _ = offline
    filtered = Stages(workspace, store.path, EXPERIMENT.with_values({"filter.min_dice": 0.5}))
    with pytest.raises(InputError, match="keeps none"):  # four steps teach it nothing
        filtered.filtered()
    judge = filtered.downstream("FLAIR", follow=False)
    assert judge.kind == "downstream"  # the guide is trained in a fit
    assert judge.record["inputs"]["kept"] is None
    references = {stage.key for stage in reference_models(stages).values()}
    assert judge.key not in {stages.model().key, stages.fit().key, *references}
    assert stages.model().record["inputs"]["kept"] is not None


class Answers(torch.nn.Module):
    """A judge that knows the labels of a synthetic set, and leaves out the first ``image index`` quarters of each."""

    def __init__(self, made):
        super().__init__()
        self.known = {made.image(r).tobytes(): self.spoilt(made.label(r), r.index / 4) for r in made.records()}

    @staticmethod
    def spoilt(label, share):
        found = label.copy().reshape(-1)
        there = np.flatnonzero(found)
        found[there[: int(share * len(there))]] = 0
        return found.reshape(label.shape)

    def forward(self, image):
        found = torch.from_numpy(self.known[image.numpy().tobytes()]).long()
        return torch.nn.functional.one_hot(found, 3).movedim(-1, 1).float()


def test_the_filter_keeps_exactly_what_its_judge_finds(store, offline, made, monkeypatch):
    """T-E11: Dice of at least t against the label that was meant; what a higher t keeps a lower one keeps too."""
    judge = Answers(made)
    monkeypatch.setattr(Stages, "network", lambda self, stage: judge)
    truth = {
        record.index: dice(judge.known[made.image(record).tobytes()] > 0, made.label(record) > 0)
        for record in made.records()
    }
    assert len(set(truth.values())) > 1
    kept = []
    for threshold in sorted(set(truth.values()) - {0.0}):
        asked = EXPERIMENT.with_values({"filter.min_dice": threshold})
        stage = Stages(offline[0].workspace, store.path, asked).filtered()
        chosen = json.loads((stage.directory / "kept.json").read_text())
        assert chosen["dice"] == pytest.approx({str(index): value for index, value in truth.items()})
        kept.append(set(chosen["kept"]))
        assert kept[-1] == {index for index, value in truth.items() if value >= threshold}
    assert all(higher <= lower for lower, higher in pairwise(kept))


def test_what_a_cohort_lacks_is_said_before_anything_is_trained(tmp_path):
    """Lesions in every contrast, and a second patient to put one into; of the real arm nobody asks that."""

    def store_of(name, patients, bare=""):
        items = []
        for number in range(patients):
            for contrast, role in enumerate(ROLES):
                image, label = brain(number, contrast)
                empty = np.zeros_like(label) if role == bare else label
                items.append(Item(f"p{number}-scan", f"p{number}", role, "train", image, empty))
        return write_store(tmp_path / name, name=name, labels={1: "oedema", 2: "core"}, domains={r: {} for r in ROLES},
                           digest=name, items=items)  # fmt: skip

    check_method(store_of("enough", 2), EXPERIMENT)
    with pytest.raises(InputError, match=r"cohort bare: nothing is labelled in any T2 image .* role T2 of multi"):
        check_method(store_of("bare", 3, "T2"), EXPERIMENT)
    with pytest.raises(InputError, match="cohort alone: 1 labelled patient in split train; expected two or more"):
        check_method(store_of("alone", 1), EXPERIMENT)
    check_method(open_store(tmp_path / "alone"), EXPERIMENT.with_values({"arm": "real"}))
    three = EXPERIMENT.with_values({"method.contrasts": ["T1", "T1c", "FLAIR"]})
    check_method(open_store(tmp_path / "bare"), three)


def test_a_cohort_without_labels_is_refused(tmp_path):
    bare = write_brains(tmp_path / "store", labelled=False)
    with pytest.raises(InputError, match="no labelled"):
        outcome_of(Stages(tmp_path, bare.path, EXPERIMENT))


def test_a_generator_whose_every_draw_fails_says_so(tmp_path, store):
    never = EXPERIMENT.with_values({"method.filter_error": 0.0, "budget.generator_steps": 1, "drawing.at_least": 1})
    with pytest.raises(InputError, match="passed its own checks"):
        Stages(tmp_path, store.path, never).synthesised()
    assert load_networks(make_method(never, 3), next((tmp_path / "stages" / "fit").iterdir())).training is False
