"""Does the gate of memorisation find copies however they were altered, and does it leave honest images alone?

Patients of a real cohort are parted in halves: the images of one half are what a generator was trained on. A set of
"synthetic" images is then made of images of the others, which cannot be copies, as they are and changed as generators
change images; and of altered copies of training images: ONE among honest ones, or the whole SET. The rest of the others
are the yardstick, as validation patients are in a sweep. Who is the yardstick is drawn anew for each set. What is
counted is how often ``gate.memorisation``, with all it is given at promotion, does not pass.

    python benchmarks/bench_memorisation.py DATA [--json cells.json] [--copies 40] [--bench LGG] [--seed 0]

DATA holds tcga-lgg-3contrast, acdc-ed-es and msd-hippocampus. OWN TARGETS: T1 of LGG patients, blurred
a little, stands for a translation into T1 with contrast that remembers nobody; then what is made of training patients
is mixed with what it should have been.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch
from alterations import COPIES, HONEST, Alteration, Image, blurred, unit
from numpy.typing import NDArray
from PIL import Image as Picture

from ganatomy.images.copies import Album, Match
from ganatomy.measures.segmentation import nearest_distances
from ganatomy.promotion import gate
from ganatomy.promotion.resemblance import Own, Resemblance

Patients = Mapping[str, Sequence[Image]]

SLICES, VOLUMES = 4, 120  # of a patient; in all
YARDSTICK, AMONG, WHOLE = 0.4, 40, 20
"""Part of the other patients who are the yardstick; honest images beside one copy; copies in a set of them."""

DRAWS = 200
"""Sets that are drawn for each figure."""


@dataclass(frozen=True)
class Cell:
    """Shares of sets that were not passed: with one copy among honest images, of copies alone; or of honest images."""

    bench: str
    what: str
    one: float | None = None
    set: float | None = None
    honest: float | None = None
    images: int = field(default=0)


@dataclass(frozen=True)
class Scored:
    """Images with what the gate knows of each: distance to the nearest training image, best match; and whose it is."""

    distances: NDArray[np.float64]
    matches: Sequence[Match]
    patients: NDArray[np.str_]
    axes: int

    def of(self, places: Sequence[int] | NDArray[np.intp]) -> Scored:
        return Scored(
            self.distances[places], [self.matches[place] for place in places], self.patients[places], self.axes
        )

    def __add__(self, other: Scored) -> Scored:
        return Scored(
            np.concatenate([self.distances, other.distances]),
            [*self.matches, *other.matches],
            np.concatenate([self.patients, other.patients]),
            self.axes,
        )


class Progress:
    """Says on standard error how far it is, at what rate and when it will be done."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began, self.told = total, 0, time.perf_counter(), 0.0

    def step(self) -> None:
        self.done += 1
        spent = time.perf_counter() - self.began
        if spent - self.told > 10 or self.done == self.total:
            self.told, rate = spent, self.done / spent
            left = (self.total - self.done) / rate
            print(f"{self.done}/{self.total} images, {rate:.1f} a second, {left:.0f} s left", file=sys.stderr)


# --- images ------------------------------------------------------------------------------------------------------


def slices(folder: Path, domain: str) -> dict[str, list[Image]]:
    """Patient -> slices [1, H, W] of a domain."""
    with (folder / "table.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["domain"] == domain]
    found: dict[str, list[Image]] = {}
    for row in rows:
        picture = np.asarray(Picture.open(folder / row["image"]).convert("L"), np.float32)[None]
        found.setdefault(row["patient"], []).append(picture)
    return {patient: [images[at * len(images) // SLICES] for at in range(SLICES)] if len(images) > SLICES else images
            for patient, images in found.items()}  # fmt: skip


def volumes(folder: Path) -> dict[str, list[Image]]:
    """Patient -> its volume."""
    with (folder / "table.csv").open() as table:
        rows = list(csv.DictReader(table))[:VOLUMES]
    return {row["patient"]: [unit(np.asarray(nibabel.load(folder / row["image"]).dataobj, np.float32))] for row in rows}


# --- one bench ---------------------------------------------------------------------------------------------------


def measured(
    bench: str, patients: Patients, copies: int, seed: int,
    alterations: Mapping[str, Alteration] = COPIES, honest: Mapping[str, Alteration] = HONEST,
    draws: int = DRAWS, block: int = 1,
) -> list[Cell]:  # fmt: skip
    """The cells of one bench.

    copies: training images that each alteration is tried on.  block: patients who stand together in order of their
    names and are not parted, since they may be one person.
    """
    rng, ordered = np.random.default_rng(seed), sorted(patients)
    blocks = rng.permutation(range(0, len(ordered), block))
    names = [name for start in blocks for name in ordered[start : start + block]]
    trained, others = (
        [(name, image) for name in some for image in patients[name]]
        for some in (names[: len(names) // 2], names[len(names) // 2 :])
    )
    album = Album([image for _, image in trained], [name for name, _ in trained])
    chosen = [trained[at] for at in rng.permutation(len(trained))[:copies]]
    fewer = [others[at] for at in rng.permutation(len(others))[: max(AMONG, 2 * copies)]]
    progress = Progress(len(others) + (len(honest) - 1) * len(fewer) + len(alterations) * len(chosen))

    def scored(items: Sequence[tuple[str, Image]], alter: Alteration) -> Scored:
        altered, matches = [], []
        for _, image in items:
            altered.append(np.ascontiguousarray(alter(image, others[rng.integers(len(others))][1], rng), np.float32))
            matches.append(album.search(altered[-1]))
            progress.step()
        distances = nearest_distances(
            altered, [""] * len(altered), [image for _, image in trained], [name for name, _ in trained]
        )
        return Scored(distances, matches, np.array([name for name, _ in items]), album.axes)

    innocent = {kind: scored(others if kind == "real" else fewer, alter) for kind, alter in honest.items()}
    found = [
        Cell(
            bench,
            kind,
            honest=share(partial(innocent_set, rng, innocent, kind), draws),
            images=len(innocent[kind].matches),
        )
        for kind in innocent
    ]
    for name, alter in alterations.items() if chosen else ():
        guilty = scored(chosen, alter)
        found.append(Cell(
            bench, name,
            one=share(partial(one_among, rng, innocent, guilty), draws),
            set=share(partial(copies_alone, rng, innocent, guilty), draws),
            images=len(guilty.matches),
        ))  # fmt: skip
    return found


def share(draw: Callable[[], bool], draws: int) -> float:
    return float(np.mean([draw() for _ in range(draws)]))


def innocent_set(rng: np.random.Generator, innocent: Mapping[str, Scored], kind: str) -> bool:
    """Whether a set of honest images is stopped."""
    yardstick, rest = parted(rng, innocent["real"].patients)
    return stopped(among(rng, innocent[kind], rest, AMONG), within(innocent["real"], yardstick))


def one_among(rng: np.random.Generator, innocent: Mapping[str, Scored], guilty: Scored) -> bool:
    """Whether one copy among real images is found."""
    yardstick, rest = parted(rng, innocent["real"].patients)
    made = among(rng, innocent["real"], rest, AMONG) + guilty.of([rng.integers(len(guilty.matches))])
    return stopped(made, within(innocent["real"], yardstick))


def copies_alone(rng: np.random.Generator, innocent: Mapping[str, Scored], guilty: Scored) -> bool:
    """Whether a set of copies is found."""
    yardstick, _ = parted(rng, innocent["real"].patients)
    made = guilty.of(rng.permutation(len(guilty.matches))[:WHOLE])
    return stopped(made, within(innocent["real"], yardstick))


def parted(rng: np.random.Generator, patients: NDArray[np.str_]) -> tuple[set[str], set[str]]:
    """Those who are the yardstick, and the rest."""
    names = rng.permutation(np.unique(patients))
    count = round(YARDSTICK * len(names))
    return set(names[:count]), set(names[count:])


def within(scored: Scored, patients: set[str]) -> Scored:
    return scored.of([at for at, patient in enumerate(scored.patients) if patient in patients])


def among(rng: np.random.Generator, scored: Scored, patients: set[str], most: int) -> Scored:
    some = within(scored, patients)
    return some.of(rng.permutation(len(some.matches))[:most])


def stopped(made: Scored, real: Scored, own: Own | None = None) -> bool:
    """Whether the gate does not pass."""
    resemblance = Resemblance(made.matches, made.patients, real.matches, real.patients, axes=real.axes)
    return not gate.memorisation(
        made.distances, made.patients, real.distances, real.patients, resemblance=resemblance, own=own
    ).passed


# --- own targets -------------------------------------------------------------------------------------------------


def own_targets(source: Patients, target: Patients, seed: int, draws: int = DRAWS) -> list[Cell]:
    """A translation into which so much of the training patients' own targets is mixed."""
    rng = np.random.default_rng(seed)
    names = sorted(name for name in source.keys() & target.keys() if len(source[name]) == len(target[name]) == SLICES)
    pairs = {name: list(zip(source[name], target[name])) for name in names}

    def distances(given: float) -> dict[str, NDArray[np.float64]]:
        found = {}
        for name in names:
            made = [(1 - given) * blurred(0.01)(unit(one), one, rng) + given * unit(two) for one, two in pairs[name]]
            images = [two for _, two in pairs[name]]
            found[name] = np.array([nearest_distances([image], [name], [own], [name], own=True)[0]
                                    for image, own in zip(made, images)])  # fmt: skip
        return found

    usual = distances(0.0)

    def one_draw(remembered: Mapping[str, NDArray[np.float64]]) -> bool:
        order = [str(name) for name in rng.permutation(names)]
        taught, held_out = order[: len(order) // 2], order[len(order) // 2 : len(order) // 2 + len(order) // 5]
        own = Own(np.concatenate([remembered[name] for name in taught]), np.repeat(taught, SLICES),
                  np.concatenate([usual[name] for name in held_out]), np.repeat(held_out, SLICES))  # fmt: skip
        return bool(own.copies().any()) or own.closer(gate.SIGNIFICANT / 4)

    return [
        Cell("own targets", f"{given:.0%} of the own target", set=share(partial(one_draw, remembered), draws),
             images=len(names) * SLICES)
        for given in (0.0, 0.25, 0.5, 1.0)
        for remembered in [distances(given)]
    ]  # fmt: skip


# --- telling -----------------------------------------------------------------------------------------------------


def table(cells: Sequence[Cell]) -> str:
    """Markdown, in percent: a row for each alteration, the benches side by side."""
    benches = list(dict.fromkeys(cell.bench for cell in cells))
    head = ["", *(f"{bench}, {how}" for bench in benches for how in ("one", "set"))]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for what in dict.fromkeys(cell.what for cell in cells):
        shown = [what]
        for bench in benches:
            cell = next((one for one in cells if (one.bench, one.what) == (bench, what)), None)
            shown += [percent(cell and cell.one), percent(cell and cell.set)]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def honest_table(cells: Sequence[Cell]) -> str:
    benches = list(dict.fromkeys(cell.bench for cell in cells))
    lines = ["| | " + " | ".join(benches) + " |", "|---" + "|---:" * len(benches) + "|"]
    for what in dict.fromkeys(cell.what for cell in cells):
        values = [
            percent(cell.honest) for bench in benches for cell in cells if (cell.bench, cell.what) == (bench, what)
        ]
        lines.append("| " + " | ".join([what, *values]) + " |")
    return "\n".join(lines)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}" if value < 0.9995 else "100"


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the cohorts")
    parser.add_argument(
        "--copies", type=int, default=40, help="training images that each alteration is tried on (volumes: half)"
    )
    parser.add_argument("--bench", default="", help="only those whose name has this in it")
    parser.add_argument("--json", type=Path, help="write the cells here")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(1)
    began = time.perf_counter(), time.process_time()
    lgg = options.data / "tcga-lgg-3contrast"
    acdc, hippocampus = options.data / "acdc-ed-es", options.data / "msd-hippocampus"
    benches: dict[str, tuple[Callable[[], Patients], int]] = {
        "LGG (2D)": (lambda: slices(lgg, "flair"), 1),
        "ACDC (2D)": (lambda: slices(acdc, "ed"), 1),
        "hippocampus (3D)": (lambda: volumes(hippocampus), 10),  # left and right of one person follow each other
    }
    cells: list[Cell] = []
    for bench, (images, block) in benches.items():
        if options.bench not in bench:
            continue
        print(bench, file=sys.stderr)
        copies = options.copies // (2 if "3D" in bench else 1)
        cells += measured(bench, images(), copies, options.seed, block=block)
        print(
            bench,
            "\n",
            table([cell for cell in cells if cell.bench == bench and cell.one is not None]),
            file=sys.stderr,
        )
    own = own_targets(slices(lgg, "t1pre"), slices(lgg, "t1post"), options.seed) if options.bench in "LGG" else []
    spent = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"{spent[0]:.0f} s, of which {spent[1]:.0f} s were computed\n\n## Honest sets that are stopped (%)\n")
    print(honest_table([cell for cell in cells if cell.honest is not None]))
    print("\n## Copies that are caught (%)\n")
    print(table([cell for cell in cells if cell.one is not None]))
    print("\n## Translations of training patients that are stopped (%)\n")
    print("\n".join(f"{cell.what}: {percent(cell.set)}" for cell in own))
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) for cell in [*cells, *own]], indent=1) + "\n")


if __name__ == "__main__":
    main()
