"""A store of a dozen patients and experiments on it whose every stage takes a fraction of a second."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Mixing, Sampling
from ganatomy.stages.stages import Stages
from ganatomy.stores.store import Store
from ganatomy.stores.writing import Item, write_store
from ganatomy.training import tasks
from ganatomy.training.distributed import read_history
from ganatomy.training.loop import Record

SHAPE = (2, 16, 16)
SPLITS = {"train": 4, "val": 2, "test": 2}
UNET = Downstream(Choice("unet", {"width": 4, "norm": "instance"}), learning_rate=2e-3)


def case(domain: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image [2, 16, 16] in [-1, 1] with one bright square (ct) or dark square (mr), and the square as label 1."""
    rng = np.random.default_rng([number, len(domain), ord(domain[0])])
    label = np.zeros(SHAPE, np.uint8)
    y, x, side = rng.integers(1, 8), rng.integers(1, 8), rng.integers(5, 8)
    label[:, y : y + side, x : x + side] = 1
    inside, outside = (0.7, -0.6) if domain == "ct" else (-0.7, 0.3)
    image = np.where(label == 1, inside, outside) + rng.normal(0, 0.05, SHAPE)
    return np.clip(image, -1, 1).astype(np.float32), label


def items(*, splits: dict[str, int] = SPLITS, relabel=lambda domain, patient, label: label) -> list[Item]:
    """Patients ct-train-0, …: every one in one domain. relabel: may change or remove (None) a label."""
    made = []
    for domain in ("ct", "mr"):
        for number, (split, place) in enumerate((split, i) for split, count in splits.items() for i in range(count)):
            image, label = case(domain, number)
            patient = f"{domain}-{split}-{place}"
            label = relabel(domain, patient, label)
            made.append(Item(f"{patient}-scan", patient, domain, split, image, label, lo=0.0, hi=100.0 + number))
    return made


def make_store(path: Path, digest: str = "tiny", **choices) -> Store:
    return write_store(
        path, name="tiny", labels={1: "square"}, domains={"ct": {}, "mr": {}}, digest=digest, items=items(**choices)
    )


EXPERIMENT = Experiment(
    cohort="tiny",
    domains={"A": "ct", "B": "mr"},
    arm="real",
    method=Choice("shape_consistent", {"width": 0.0625, "discriminator_layers": 1, "pool_size": 4}),
    mixing=Mixing(pretrain=0.0),
    downstream=UNET,
    sampling=Sampling(ndim=2, size=(16, 16), foreground=0.5),
    budget=Budget(segmentor_steps=6, generator_steps=4, batch=2, validations=2),
)


def experiment(**values) -> Experiment:
    """The tiny experiment with dotted values set, ``__`` standing for the dot."""
    return EXPERIMENT.with_values({name.replace("__", "."): value for name, value in values.items()})


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


def _dot(rows, labels, **options) -> bytes:
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    return png.getvalue()


def draw_dots() -> None:
    """A dot for every picture of a stage: drawing takes longer than all the rest, and has tests of its own."""
    tasks.sheet = _dot


def history(stages: Stages, kind: str) -> list[Record]:
    """Records of the stage of this kind that ``stages`` has run, or runs now."""
    stage = stages.fit() if kind == "fit" else stages.model()
    return read_history(stage.directory)
