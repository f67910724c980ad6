"""What discriminators are shown: one rule in all roles, so that neither content nor position tells the roles apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from tiny import EXPERIMENT, experiment

from ganatomy.contracts import labelled
from ganatomy.experiment import Choice, Labels, Sampling
from ganatomy.stores.writing import Item, write_store
from ganatomy.training.tasks import FitGenerator

SHAPE = (4, 24, 24)
CROP = Sampling(ndim=2, size=(8, 8), foreground=0.5)
SMALL = {"width": 0.0625, "discriminator_layers": 1, "residual_blocks": 1, "segmentor_scales": 2}


def _lesion(number: int) -> np.ndarray:
    """A square in the upper left of the first two slices."""
    label = np.zeros(SHAPE, np.uint8)
    label[:2, 2 + number : 7 + number, 3:8] = 1
    return label


def _store(path, domains, picture):
    made = [
        Item(f"{domain}-{split}-{i}", f"{domain}-{split}-{i}", domain, split, picture(_lesion(i)), _lesion(i))
        for domain in domains
        for split in ("train", "val")
        for i in range(4)
    ]
    return write_store(
        path, name="d", labels={1: "l"}, domains={domain: {} for domain in domains}, digest="d", items=made
    )


def _drawn(store, chosen, directory, steps=1500):
    """Key of the batch -> images [N, 8, 8]."""
    draws = FitGenerator(store.path, chosen, directory)(rank=0, world=1, device=torch.device("cpu")).draws
    batches = [draws.batch(step) for step in range(steps)]
    return {key: torch.cat([batch[key].image[:, 0] for batch in batches]).numpy() for key in batches[0]}


@pytest.mark.parametrize("sees", ["subset", "all"])
@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_withheld_label_does_not_change_what_the_two_domains_hold(tmp_path, fraction, sees):
    """Images show their labels, whose share in the samples can so be measured also where they are withheld."""
    store = _store(tmp_path / "s", ("ct", "mr"), lambda label: 2.0 * label.astype(np.float32) - 1)
    chosen = experiment(labels__fraction=fraction, labels__gan_sees=sees, sampling=vars(CROP), arm="joint",
                        budget__segmentor_steps=1500, method__pretrain_fraction=1.0)  # fmt: skip
    held = {key: (images > 0).mean(axis=(1, 2)) for key, images in _drawn(store, chosen, tmp_path).items()}
    apart = held["A"].mean() - held["B"].mean()
    # Patients differ in where their lesion is, not in how large: what is left is the draw, of 3000 samples each.
    assert abs(apart) < 4 * np.sqrt(sum(held[role].var() / len(held[role]) for role in "AB"))
    for role in "AB":  # supervision is centred, in both; where nothing is withheld of what is there, so is all
        centred = held[labelled(role)].mean() / held[role].mean()
        assert centred > 1.5 if sees == "all" else centred == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("method", ["pseudo_healthy", "cyclegan"])
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_where_a_crop_lay_does_not_tell_a_lesion_from_a_healthy_slice(tmp_path, method, fraction):
    """Images show where their pixels lie, so that a crop's first one is its place."""
    place = np.broadcast_to(np.linspace(-1, 1, SHAPE[1] * SHAPE[2], dtype=np.float32).reshape(SHAPE[1:]), SHAPE)
    store = _store(tmp_path / "s", ("flair",), lambda label: place.copy())
    roles = ("P", "H") if method == "pseudo_healthy" else ("A", "B")
    config = {name: SMALL[name] for name in SMALL if name != "segmentor_scales" or method == "pseudo_healthy"}
    mixed = {"supervision": "mixed"} if method == "pseudo_healthy" else {}
    chosen = replace(
        EXPERIMENT, domains={roles[0]: "flair:lesion", roles[1]: "flair:healthy"}, target=roles[0], arm="offline",
        labels=Labels(fraction, "all"), sampling=CROP, method=Choice(method, {**config, **mixed}),
    )  # fmt: skip
    drawn = _drawn(store, chosen, tmp_path)
    areas = {key: _area(drawn[roles[1]][:, 0, 0], images[:, 0, 0]) for key, images in drawn.items()}
    assert set(areas) >= set(roles)
    assert all(abs(area - 0.5) < 0.03 for area in areas.values())  # four standard errors, of half of 3000 each


def _area(first: np.ndarray, second: np.ndarray) -> float:
    """Area under the ROC curve of the best score that half of the places give, on the other half."""
    places, where = np.unique(np.concatenate([first, second]), return_inverse=True)
    one, other = where[: len(first)], where[len(first) :]
    counts = [np.bincount(some[::2], minlength=len(places)) + 1 for some in (one, other)]
    score = counts[1] / counts[0]
    ranks = rankdata(np.concatenate([score[one[1::2]], score[other[1::2]]]))
    n, m = len(one[1::2]), len(other[1::2])
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))
