"""Whom a candidate serves worst: patients by pseudonym, those with a structure that was wholly missed first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ganatomy.downstream.task import task_named
from ganatomy.exhibits.exhibit import Exhibit, Grid
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.trainings import trainings_of
from ganatomy.experiment import TrialResult
from ganatomy.measures.statistics import counted

MOST = 40
"""Patients that are shown."""

Misses = Mapping[str, Counter[str]]
"""Patient -> structure -> in how many trainings no voxel of it was found, in any of the patient's images."""


def patients(material: Material) -> Exhibit | None:
    """A row a validation patient: baseline, candidate, Δ in points, and what either missed."""
    table = material.table
    if not (table.candidate and table.baseline):
        return None
    candidate, baseline = table.row(table.candidate), table.row(table.baseline)
    pairs = {name: (candidate.patients[name], baseline.patients[name])
             for name in candidate.patients if name in baseline.patients}  # fmt: skip
    if not pairs:
        return None
    sides = [trainings_of(material, row) for row in (candidate, baseline)]
    missed = [misses_of(side) for side in sides]
    order = worst_first(pairs, missed[0])
    segments = task_named(table.task).segments
    headers = ("patient", "baseline", "candidate", "Δ points", "candidate missed", "baseline missed")
    rows = []
    for name in order[:MOST]:
        more, less = pairs[name]
        own = [_missed(some[name], len(side)) for some, side in zip(missed, sides)]
        rows.append((name, f"{less:.3f}", f"{more:.3f}", f"{100 * (more - less):+.1f}", *own)[: 6 if segments else 4])
    grid = Grid(headers[: 6 if segments else 4], tuple(rows))
    return Exhibit("Patients, worst first", _sentences(material, pairs, missed), (grid,))


def misses_of(trainings: Sequence[TrialResult]) -> Misses:
    """What was missed, patient by patient. All patients are there; one of whom nothing was missed has none."""
    found: dict[str, Counter[str]] = {score.patient: Counter() for one in trainings for score in one.scores}
    for training in trainings:
        for patient, structure in {(s.patient, s.label) for s in training.scores if s.metric == "dice" and s.missed}:
            found[patient][structure] += 1
    return found


def worst_first(pairs: Mapping[str, tuple[float, float]], missed: Misses) -> list[str]:
    """Patients by how much of them the candidate missed, most first, then by its score, lowest first."""
    return sorted(pairs, key=lambda name: (-missed[name].total(), pairs[name][0], name))


def _missed(structures: Counter[str], trainings: int) -> str:
    """``myocardium (2 of 3), aorta (1 of 3)``."""
    return ", ".join(f"{name} ({times} of {trainings})" for name, times in structures.most_common()) or "–"


def _sentences(
    material: Material, pairs: Mapping[str, tuple[float, float]], missed: Sequence[Misses]
) -> tuple[str, ...]:
    measure = material.table.measure
    lost = sum(more < less for more, less in pairs.values())
    said = [
        f"{measure} of every validation patient, mean over trainings, by the pseudonym that ganatomy cohort who "
        "undoes for whoever has the cohort. A single patient's Δ is in part luck of training, and no verdict."
    ]
    said.append(f"{lost} of {counted(len(pairs), 'patient')} scored less than under the baseline.")
    counts = [sum(bool(some[name].total()) for name in pairs) for some in missed]
    if any(counts):
        said.append(
            f"A structure was wholly missed, in one training at least, in {counted(counts[0], 'patient')} by the "
            f"candidate and in {counts[1]} by the baseline; a miss counts as Dice 0."
        )
    if len(pairs) > MOST:
        said.append(f"The {MOST} worst are shown; {len(pairs) - MOST} more stand in the results of the trials.")
    return tuple(said)
