"""A store of small radiographs with classes and boxes, and an experiment that tells them apart in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Mixing, Sampling
from ganatomy.phantoms.bones import DOMAIN, bone_film
from ganatomy.stores.store import Store
from ganatomy.stores.writing import Item, write_store

SHAPE = (48, 32)
COUNTS = {"lesion": (6, 4, 4), "normal": (14, 8, 8)}


def items(counts=COUNTS, shape=SHAPE, part="humerus", seed=0) -> list[Item]:
    made, case = [], 0
    for klass, numbers in counts.items():
        for split, number in zip(("train", "val", "test"), numbers):
            for _ in range(number):
                film = bone_film(seed, case, part, shape, lesion=klass == "lesion")
                name = f"{klass}-{split}-{case:03d}"
                attributes = {"class": klass, **({"box": list(film.box)} if film.box else {})}
                made.append(Item(f"{name}-film", name, DOMAIN, split, film.image[None], attributes=attributes))
                case += 1
    return made


def make_store(path: Path, digest: str = "films", **choices) -> Store:
    return write_store(path, name="films", labels={}, domains={DOMAIN: {}}, digest=digest, items=items(**choices))


EXPERIMENT = Experiment(
    cohort="films",
    domains={"H": f"{DOMAIN}:healthy", "L": f"{DOMAIN}:lesion"},
    target="L",
    arm="real",
    method=Choice("unit_lesion", {"width": 0.03125, "residual_blocks": 1, "discriminator_layers": 2}),
    mixing=Mixing(pretrain=0.0),
    downstream=Downstream(Choice("drn_d_22", {"width": 0.125}), learning_rate=3e-3, task="classification"),
    sampling=Sampling(ndim=2, size=(24, 16), foreground=0.0),
    budget=Budget(segmentor_steps=4, generator_steps=4, batch=2, validations=2),
)


def experiment(**values) -> Experiment:
    """The experiment with dotted values set, ``__`` standing for the dot."""
    return EXPERIMENT.with_values({name.replace("__", "."): value for name, value in values.items()})


def brightest(store: Store) -> np.ndarray:
    return np.array([store.image(record).max() for record in store.records()])
