"""The brain phantom is a known truth: what is claimed of it is measured here, on the pictures and on the files."""

from __future__ import annotations

import csv
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ganatomy.cohorts.cohort import prepare_image
from ganatomy.cohorts.reading import read_cohort
from ganatomy.cohorts.roles import cast_roles, choose_domains
from ganatomy.contracts import InputError
from ganatomy.experiment import Choice, Experiment
from ganatomy.images.imaging import load_image
from ganatomy.phantoms import parts
from ganatomy.phantoms.brains import CONTRASTS, LESION, NESTED, TISSUES, brain_case, make_brain_cohort
from ganatomy.stores.preparation import prepare

SHAPE = (6, 48, 40)
ALL = tuple(CONTRASTS)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), case=st.integers(0, 10_000), push=st.sampled_from([0.0, 0.4]),
       shape=st.sampled_from([SHAPE, (20, 32, 32), (2, 16, 20)]))  # fmt: skip
def test_any_brain_is_stripped_and_has_a_lesion_in_some_slices_and_not_in_others(seed, case, push, shape):
    brain = brain_case(seed, case, shape, mass_effect=push)
    image, outside = brain.images["flair"], brain.tissue == 0
    assert image.shape == brain.label.shape == shape
    assert (image[outside] == 0).all()
    assert 0.3 < outside.mean() < 0.9
    assert 0 <= image.min() < image.max() <= 1
    assert brain.jacobian > 0
    crossed = np.flatnonzero(brain.label.any(axis=(1, 2)))
    assert 1 <= len(crossed) < shape[0]
    assert len(crossed) == crossed[-1] - crossed[0] + 1
    assert not (outside & (brain.label > 0)).any()
    again = brain_case(seed, case, shape, mass_effect=push)
    assert np.array_equal(image, again.images["flair"])


def test_without_its_lesion_a_brain_differs_only_within_the_blur_of_the_lesion():
    for case in range(6):
        brain = brain_case(1, case, SHAPE, contrasts=ALL)
        reach = ndimage.binary_dilation(brain.label > 0, np.ones((1, 5, 5)))  # 4 SDs of the point spread, in plane
        for contrast in ALL:
            changed = brain.images[contrast] != brain.twins[contrast]
            assert changed.any()
            assert not (changed & ~reach).any()
        healthy = ~(brain.label > 0).any(axis=(1, 2))
        assert np.array_equal(brain.images["t1"][healthy], brain.twins["t1"][healthy])


def test_mass_effect_moves_what_is_beside_the_lesion_and_nothing_far_from_it():
    still, pushed = (brain_case(0, 2, (8, 64, 64), mass_effect=m) for m in (0.0, 0.5))
    differs = still.images["flair"] != pushed.images["flair"]
    assert (differs & (ndimage.distance_transform_edt(still.label == 0) > 3)).any()
    healthy = ~(still.label > 0).any(axis=(1, 2))
    assert not differs[healthy].any()


def test_a_lesion_of_little_contrast_is_as_bright_as_grey_matter_and_no_threshold_takes_it_out():
    """What a threshold that spares 95 % of grey matter leaves of lesions: nothing to see, or most of them."""
    for contrast, most in ((1.0, (0.0, 0.2)), (0.4, (0.5, 1.0))):
        brains = [brain_case(0, case, (8, 64, 64), lesion_contrast=contrast) for case in range(8)]
        spared = []
        for brain in brains:
            image, lesion = brain.images["flair"], brain.label > 0
            spared.append((image[lesion] < np.percentile(image[brain.tissue == 2], 95)).mean())
        assert most[0] <= np.mean(spared) <= most[1]
    with_twin = brains[0]
    assert (with_twin.images["flair"][with_twin.label > 0] > with_twin.twins["flair"][with_twin.label > 0]).mean() > 0.6


def test_parts_of_the_lesion_are_nested_and_bright_as_the_tables_say():
    brain = brain_case(0, 0, (8, 64, 64), contrasts=ALL)
    core, rim = brain.label == 2, brain.label == 3
    beside = ndimage.binary_dilation(core, [[[0, 1, 0], [1, 1, 1], [0, 1, 0]]]) & ~core
    assert core.any()
    assert rim[beside].mean() > 0.7  # less than a pixel wide where the lesion tapers
    brains = [brain_case(0, case, (8, 64, 64), contrasts=ALL) for case in range(4)]
    of = {
        contrast: {
            name: np.mean([brain.images[contrast][brain.tissue == index].mean() for brain in brains])
            for index, name in enumerate(TISSUES)
        }
        for contrast in ALL
    }
    assert of["flair"]["oedema"] > of["flair"]["gm"] > of["flair"]["csf"]
    assert of["t1"]["wm"] > of["t1"]["gm"] > of["t1"]["core"]
    assert of["t2"]["csf"] > of["t2"]["gm"] > of["t2"]["wm"]
    assert of["t1c"]["rim"] > of["t1c"]["oedema"] > of["t1c"]["core"]


def test_contrasts_are_registered_independent_in_noise_and_alike_whichever_are_asked_for():
    brain = brain_case(3, 1, SHAPE, contrasts=ALL)
    alone = brain_case(3, 1, SHAPE, contrasts=("t2",))
    assert np.array_equal(brain.images["t2"], alone.images["t2"])
    stripped = {contrast: image > 0 for contrast, image in brain.images.items()}
    assert all(np.mean(stripped["flair"] != other) < 0.01 for other in stripped.values())
    brain = brain_case(3, 1, (8, 64, 64), contrasts=ALL)
    deep = ndimage.binary_erosion(brain.tissue == 3, np.ones((1, 7, 7)))  # white matter that meets nothing else
    fine = [(brain.twins[c] - ndimage.gaussian_filter(brain.twins[c], (0, 1, 1)))[deep] for c in ALL]
    assert np.abs(np.corrcoef(fine) - np.eye(len(ALL))).max() < 0.2
    assert deep.sum() > 500


def test_the_lesion_has_a_stream_of_its_own(monkeypatch):
    before = brain_case(0, 0, SHAPE)
    original = parts.stream
    monkeypatch.setattr("ganatomy.phantoms.brains.stream", lambda s, c, n: original(s + (n == "lesion"), c, n))
    after = brain_case(0, 0, SHAPE)
    assert np.array_equal(before.twins["flair"], after.twins["flair"])
    assert not np.array_equal(before.label, after.label)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brain")
    cohort = make_brain_cohort(folder / "cohort", patients=(3, 1, 2), shape=SHAPE, contrasts=("flair", "t1"),
                               lesion_slices=2, seed=4, oracle=folder / "oracle")  # fmt: skip
    return cohort, folder


def test_cohort_holds_registered_contrasts_that_share_a_label(made):
    cohort, _ = made
    assert len(cohort.rows) == 12
    assert cohort.labels == LESION
    for number in range(6):
        flair, t1 = [row for row in cohort.rows if row.patient == f"p{number:03d}"]
        assert (flair.domain, t1.domain) == ("flair", "t1")
        assert (flair.label, flair.split) == (t1.label, t1.split)
        one, other = nibabel.load(flair.image), nibabel.load(t1.image)
        assert np.array_equal(one.affine, other.affine)
        assert one.shape == other.shape
        assert (np.asarray(one.dataobj) == 0).mean() > 0.3  # what is outside the brain is stored as exactly nothing
    assert [len(cohort.patients(split)) for split in ("train", "val", "test")] == [3, 1, 2]


def test_what_a_network_sees_of_the_files_is_the_phantom(made):
    cohort, _ = made
    for row in cohort.rows:
        truth = brain_case(4, int(row.patient[1:]), SHAPE, contrasts=("flair", "t1"), lesion_slices=2)
        seen = prepare_image(row, cohort)
        assert np.array_equal(seen.label, truth.label > 0)
        assert (seen.label.any(axis=(1, 2))).sum() == 2
        outside = truth.tissue == 0
        assert (seen.image[outside] == -1).all()
        assert np.corrcoef(seen.image[~outside], truth.images[row.domain][~outside])[0, 1] > 0.99


def test_twins_lie_apart_on_the_grids_of_the_patients(made):
    cohort, folder = made
    with (folder / "oracle" / "oracle.csv").open() as file:
        entries = {(entry["patient"], entry["domain"]): entry["image"] for entry in csv.DictReader(file)}
    assert set(entries) == {(row.patient, row.domain) for row in cohort.rows}
    for row in cohort.rows:
        twin, affine = load_image(folder / "oracle" / entries[row.patient, row.domain])
        image, own = load_image(row.image)
        label, _ = load_image(row.label)
        assert np.allclose(affine, own)
        assert (twin != image)[label > 0].mean() > 0.9
        assert np.array_equal(twin[~ndimage.binary_dilation(label > 0, iterations=4)],
                              image[~ndimage.binary_dilation(label > 0, iterations=4)])  # fmt: skip
    assert not list((folder / "cohort").rglob("*oracle*"))


def test_twins_in_the_cohort_are_of_held_out_patients_and_play_no_role(tmp_path):
    options = {"patients": (2, 1, 1), "shape": SHAPE, "mass_effect": 0.3, "lesion_contrast": 0.4, "seed": 3}
    cohort = make_brain_cohort(tmp_path / "c", twins=True, **options)
    assert cohort.twins == {"flair": "flair_twin"}
    assert cohort.shown == ("flair",)
    assert cohort.patients(domain="flair_twin") == ("p002", "p003")
    assert all(row.label is None for row in cohort.rows_of("flair_twin"))
    assert read_cohort(cohort.path) == cohort
    store = prepare(cohort, tmp_path / "stores")
    for record in store.records("flair"):
        known = store.twin(record)
        assert (known is None) == (record.split == "train")
        if known is not None:
            label, image = store.label(record) > 0, store.image(record)
            far = ~ndimage.binary_dilation(label, iterations=14)
            assert np.abs(known - image)[far].max() < 0.01  # in the range of the image, not in its own
            assert np.abs(known - image)[label].mean() > 0.1
    plain = make_brain_cohort(tmp_path / "plain", **options)
    assert prepare(plain, tmp_path / "stores").twin(store.records("flair")[2]) is None
    base = Experiment("", {"P": ":lesion", "H": ":healthy"}, target="H", method=Choice("pseudo_healthy"))
    assert cast_roles(base, cohort).domains == {"P": "flair:lesion", "H": "flair:healthy"}
    with pytest.raises(InputError, match="the truth, for measures alone"):
        cast_roles(base, cohort, ["P=flair_twin:lesion"])
    with pytest.raises(InputError, match="has one domain"):
        choose_domains(cohort, "", "")


@pytest.mark.parametrize(("twins", "words"), [({"flair": "flare"}, "unknown domain 'flare'"),
                                              ({"flair": "flair"}, "is a twin and has one")])  # fmt: skip
def test_twins_that_are_no_domains_are_refused(tmp_path, twins, words):
    cohort = make_brain_cohort(tmp_path / "c", patients=(1, 0, 0), shape=SHAPE)
    with pytest.raises(InputError, match=words):
        replace(cohort, twins=twins).save()


def test_nested_classes_are_named_and_stored(tmp_path):
    cohort = make_brain_cohort(tmp_path / "c", patients=(2, 0, 0), shape=SHAPE, nested=True)
    assert cohort.labels == NESTED
    found = set(np.unique(np.concatenate([load_image(row.label)[0].ravel() for row in cohort.rows])))
    assert found == {0, *NESTED}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"contrasts": ("flare",)}, "did you mean 'flair'"),
        ({"contrasts": ()}, "without contrasts"),
        ({"patients": (0, 1, 1)}, "train >= 1"),
        ({"lesion_slices": 6}, "1 to 5"),
        ({"mass_effect": 2.0}, "mass_effect"),
        ({"lesion_contrast": 0.0}, "lesion_contrast"),
        ({"shape": (1, 64, 64)}, "at least 2 slices"),
        ({"seed": -1}, "seed -1"),
        ({"oracle": "cohort/oracle"}, "two separate folders"),
    ],
)
def test_nonsense_is_refused_and_leaves_nothing(tmp_path, monkeypatch, wrong, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        make_brain_cohort("cohort", **{"patients": (1, 0, 0), "shape": SHAPE, **wrong})
    assert not list(tmp_path.iterdir())
