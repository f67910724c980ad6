"""Do the platform's verdicts keep their level? Sweeps in which the truth is known, judged by the platform's functions.

Every simulated sweep has some candidates with synthetic data and two arms without. It SELECTS the best of each by the
mean over validation patients and two search trainings, CONFIRMS them by fresh trainings on test patients, and is GATED
by ``crossed.contrast`` and ``verdicts.answers`` at the level of the test patients' first reading. All candidates have
the same true effect over the two arms. ``coverage`` is that of the gate's two-sided interval (94.5 %).

A score is: the patient's difficulty + what this configuration does to this patient + the training's luck, which all
patients share + the rest. ``shared``: which share of the luck's variance a training has in common with that of the same
seed on the other side, as where a seed draws the labelled patients. From ``verdicts.PAIRS`` trainings on, such two are
judged as pairs, as in confirmations. In skewed cells a few patients are hard, and the candidates help most patients a
little while they hurt a few much: the case in which a mean looks surer than it is.

    python benchmarks/bench_verdicts.py [--sweeps 400] [--json cells.json] [--seed 0]

``ten``, in null cells of four candidates: the share of cohorts in which any of ten null sweeps, read one after another
at the ledger's levels on the same test patients, with the same baseline arm trained anew, is promoted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganatomy.measures.crossed import Contrast, Side, contrast, scores_of
from ganatomy.measures.families import reading_level
from ganatomy.measures.reader_studies import areas
from ganatomy.measures.verdicts import answers, are_pairs

MEASURES, SHAPES = ("dice", "auc"), ("symmetric", "skewed")
LUCK, EFFECTS = ((0.0, 0.0), (3.0, 0.0), (3.0, 0.8), (6.0, 0.0), (6.0, 0.8)), (0.0, 1.0, 2.0, 3.0, 5.0)
"""Luck with the share of it that equal seeds have in common; true effects."""

CANDIDATES, TRAININGS, PATIENTS = (1, 4, 12, 40), (3, 5), (6, 12, 30)
BLIND = 2
VALIDATION_PATIENTS, SEARCH_TRAININGS = 12, 2
READINGS = 10

CONFIRMATIONS = 5
"""Every simulated search is confirmed so often, by other trainings on other test patients: less noise for the time."""

DIFFICULTY, OWN, REST = 10.0, 2.5, 3.0
"""Standard deviations of Dice in points: patients, what a configuration does to a patient, the rest of a training."""

BASE_AUC, LATENT = 0.80, (0.50, 0.15, 0.35)
"""Area of the arms without synthetic data; shares of the same three in the variance of a classifier's logit."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What a cell varies; luck and effect in points."""

    measure: str = "dice"
    shape: str = "symmetric"
    luck: float = 3.0
    candidates: int = 4
    trainings: int = 5
    patients: int = 12
    effect: float = 0.0
    shared: float = 0.0


@dataclass(frozen=True)
class Cell(Setting):
    """How many of its sweeps were promoted, how many intervals held the truth; ten: of ten null sweeps, any."""

    promoted: float = 0.0
    coverage: float = 0.0
    ten: float | None = None
    sweeps: int = field(default=0)


# --- truth -------------------------------------------------------------------------------------------------------


def spread(rng: np.random.Generator, shape: Sequence[int], skewed: bool) -> Floats:
    """Mean 0, variance 1: normal, or with a long tail downwards."""
    return 1 - rng.exponential(size=shape) if skewed else rng.standard_normal(shape)


@lru_cache
def margins(skewed: bool, candidate: bool) -> Floats:
    """Sorted draws of what is between a lesion's and a normal's logit beside their distance."""
    rng = np.random.default_rng(7)
    total = np.zeros(400_000)
    for share, bent in zip(LATENT, (skewed, skewed and candidate, False)):
        total += np.sqrt(share) * (spread(rng, total.shape, bent) + spread(rng, total.shape, bent))
    return np.sort(total)


def distance(area: Floats, skewed: bool, candidate: bool) -> Floats:
    """How far apart lesions and normals lie in logit where a classifier's area is this."""
    drawn = margins(skewed, candidate)
    return -np.interp(1 - area, np.linspace(0, 1, len(drawn)), drawn)


def lucky_area(area: float, luck: Floats) -> Floats:
    """The area of a training, kept off 0.5 and 1."""
    return np.clip(area + luck / 100, 0.52, 0.995)


def true_difference(setting: Setting) -> float:
    """In points. Of areas the mean over the luck that is possible."""
    if setting.measure == "dice":
        return setting.effect
    points, weights = np.polynomial.hermite_e.hermegauss(201)
    both = [
        100 * np.average(lucky_area(BASE_AUC + effect / 100, setting.luck * points), weights=weights)
        for effect in (setting.effect, 0.0)
    ]
    return float(both[0] - both[1])


# --- a simulated sweep -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ward:
    """Patients of many sweeps at once: difficulty [sweeps, patients], and for areas who has a lesion [patients]."""

    difficulty: Floats
    lesion: NDArray[np.bool_]

    @classmethod
    def drawn(cls, rng: np.random.Generator, setting: Setting, sweeps: int, patients: int) -> Ward:
        skewed = setting.shape == "skewed"
        return cls(spread(rng, (sweeps, patients), skewed), np.arange(patients) < patients // 2)

    def own(self, rng: np.random.Generator, setting: Setting, configurations: int, candidate: bool) -> Floats:
        """What each configuration does to each patient: [sweeps, configurations, patients]."""
        sweeps, patients = self.difficulty.shape
        return spread(rng, (sweeps, configurations, patients), candidate and setting.shape == "skewed")


def judged(rng: np.random.Generator, setting: Setting, ward: Ward, own: Floats, candidate: bool, seeds: Floats) -> Side:
    """The side of fresh trainings: leading axes [sweeps, configurations]; figures in points.

    seeds: [sweeps, 1, trainings], what each seed gives to whatever is trained under it, of variance 1.
    """
    effect = setting.effect if candidate else 0.0
    shape = (*own.shape[:2], seeds.shape[-1])
    luck = np.sqrt(setting.shared) * seeds + np.sqrt(1 - setting.shared) * rng.standard_normal(shape)
    luck = setting.luck * luck[..., None]
    rest = rng.standard_normal((*shape, own.shape[-1]))
    if setting.measure == "dice":
        shared = DIFFICULTY * ward.difficulty[:, None] + OWN * own
        scores = 70 + effect + shared[:, :, None] + luck + REST * rest
        return scores_of(np.swapaxes(scores, -1, -2))
    hard, mine, left = (np.sqrt(share) for share in LATENT)
    worse = np.where(ward.lesion, 1.0, -1.0)  # a hard lesion looks normal, a hard normal like a lesion
    shared = worse * (hard * ward.difficulty[:, None] + mine * own)
    area = lucky_area(BASE_AUC + effect / 100, luck)
    logits = distance(area, setting.shape == "skewed", candidate) * ward.lesion + shared[:, :, None] + left * rest
    side = areas(logits, ward.lesion)
    return Side(100 * side.means, 100 * side.pulls, side.freedom)


def seeds_for(rng: np.random.Generator, ward: Ward, trainings: int) -> Floats:
    """What so many seeds give to what is trained under them, in each sweep."""
    return rng.standard_normal((len(ward.difficulty), 1, trainings))


def searched(rng: np.random.Generator, setting: Setting, ward: Ward) -> NDArray[np.intp]:
    """Which configuration validation prefers, of the candidates and of the arms without: [2, sweeps]."""
    best, seeds = [], seeds_for(rng, ward, SEARCH_TRAININGS)
    for count, candidate in ((setting.candidates, True), (BLIND, False)):
        own = ward.own(rng, setting, count, candidate)
        side = judged(rng, setting, ward, own, candidate, seeds)
        best.append(side.means.mean(axis=-1).argmax(axis=-1))
    return np.stack(best)


def confirmed(rng: np.random.Generator, setting: Setting, sweeps: int) -> Contrast:
    """Select, then train again and read the test patients: [sweeps × confirmations]."""
    validation = Ward.drawn(rng, setting, sweeps, VALIDATION_PATIENTS)
    chosen = np.repeat(searched(rng, setting, validation), CONFIRMATIONS, axis=1)
    test = Ward.drawn(rng, setting, sweeps * CONFIRMATIONS, setting.patients)
    return fresh(rng, setting, test, chosen, test.own(rng, setting, BLIND, False))


def fresh(rng: np.random.Generator, setting: Setting, test: Ward, chosen: NDArray[np.intp], blind: Floats) -> Contrast:
    """Fresh trainings of the chosen candidate and of the chosen arm without."""
    rows = np.arange(len(blind))
    every, seeds = test.own(rng, setting, setting.candidates, True), seeds_for(rng, test, setting.trainings)
    sides = []
    for own, candidate, choice in ((every, True, chosen[0]), (blind, False, chosen[1])):
        picked = own[rows, choice][:, None]
        side = judged(rng, setting, test, picked, candidate, seeds)
        sides.append(Side(side.means[:, 0], side.pulls[:, 0], side.freedom))
    same = range(setting.trainings)
    return contrast(*sides, pairs=are_pairs(same, same))


def ten_readings(rng: np.random.Generator, setting: Setting, cohorts: int) -> float:
    """Share of cohorts in which any of ten null sweeps is promoted: the same patients, baseline and ledger."""
    validation = Ward.drawn(rng, setting, cohorts, VALIDATION_PATIENTS)
    test = Ward.drawn(rng, setting, cohorts * CONFIRMATIONS, setting.patients)
    blind = test.own(rng, setting, BLIND, False)
    any_promoted = np.zeros(cohorts * CONFIRMATIONS, bool)
    for reading in range(1, READINGS + 1):
        chosen = np.repeat(searched(rng, setting, validation), CONFIRMATIONS, axis=1)
        any_promoted |= answers(fresh(rng, setting, test, chosen, blind), reading_level(reading)) > 0
    return float(any_promoted.mean())


def measured(setting: Setting, sweeps: int, seed: int, *, ten: bool = False) -> Cell:
    """One cell of the table."""
    rng = np.random.default_rng([seed, *str(setting).encode()])
    found, alpha, truth = confirmed(rng, setting, sweeps), reading_level(1), true_difference(setting)
    covered = (found.low(alpha) <= truth) & (truth <= found.high(alpha))
    any_of_ten = ten_readings(rng, setting, sweeps) if ten else None
    promoted = float((answers(found, alpha) > 0).mean())
    return Cell(**asdict(setting), promoted=promoted, coverage=float(covered.mean()), ten=any_of_ten, sweeps=sweeps)


def grid() -> Iterator[Setting]:
    """All cells that the table has."""
    for measure, shape, (luck, shared), *rest in product(
        MEASURES, SHAPES, LUCK, CANDIDATES, TRAININGS, PATIENTS, EFFECTS
    ):
        yield Setting(measure, shape, luck, *rest, shared=shared)


# --- telling -----------------------------------------------------------------------------------------------------


def table(cells: Sequence[Cell], column: str, value: str) -> str:
    """Markdown, in percent: means of ``value``, a row for each case, a column for each value of ``column``."""
    names = ("measure", "shape", "patients", "trainings", "luck", "shared")
    found: dict[tuple, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        found[tuple(getattr(cell, name) for name in names)][getattr(cell, column)].append(getattr(cell, value))
    columns = sorted({key for row in found.values() for key in row})
    head = [*names, *(f"{column} {key:g}" for key in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in sorted(found):
        case = [part if isinstance(part, str) else f"{part:g}" for part in row]
        shares = [f"{100 * float(np.mean(found[row][key])):.1f}" for key in columns]
        lines.append("| " + " | ".join([*case, *shares]) + " |")
    return "\n".join(lines)


def summary(cells: Sequence[Cell]) -> dict[str, float]:
    """What verdicts promise: the level in null cells, coverage in all."""
    null = [cell for cell in cells if cell.effect == 0]
    ten = [cell.ten for cell in null if cell.ten is not None]
    return {
        "null cells": len(null),
        "false promotions, worst cell": max(cell.promoted for cell in null),
        "false promotions, mean": float(np.mean([cell.promoted for cell in null])),
        "coverage, worst cell": min(cell.coverage for cell in cells),
        "coverage, mean": float(np.mean([cell.coverage for cell in cells])),
        "ten null sweeps, worst cell": max(ten, default=float("nan")),
        "ten null sweeps, mean": float(np.mean(ten)) if ten else float("nan"),
    }


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2000, help="simulated sweeps a cell")
    parser.add_argument("--json", type=Path, help="write the cells here")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(None if arguments is None else list(arguments))
    began = time.perf_counter()
    settings, cells = list(grid()), []
    for number, setting in enumerate(settings, start=1):
        cells.append(
            measured(setting, options.sweeps, options.seed, ten=not setting.effect and setting.candidates == 4)
        )
        if number % 36 == 0 and number < len(settings):
            spent = time.perf_counter() - began
            print(f"{number}/{len(settings)} cells, {number / spent:.1f} a second, "
                  f"{spent / number * (len(settings) - number):.0f} s to go", file=sys.stderr)  # fmt: skip
    print(f"{len(cells)} cells of {options.sweeps} sweeps, {time.perf_counter() - began:.0f} s\n")
    for name, value in summary(cells).items():
        print(f"{name}: {value:.4g}")
    print("\n## False promotions (%), by candidates\n")
    print(table([cell for cell in cells if cell.effect == 0], "candidates", "promoted"))
    print("\n## Coverage (%), by true effect in points, mean over candidates\n")
    print(table(cells, "effect", "coverage"))
    print("\n## Promoted (%), by true effect in points, mean over candidates\n")
    print(table(cells, "effect", "promoted"))
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")


if __name__ == "__main__":
    main()
