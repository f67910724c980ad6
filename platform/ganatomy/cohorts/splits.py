"""Who trains and who is held out: by patient, seeded, the same whatever the order of the table."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from ganatomy.cohorts.cohort import SPLITS, Row
from ganatomy.contracts import InputError


def split_patients(
    rows: Sequence[Row],
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> tuple[Row, ...]:
    """The rows with a split each, by patient, in the fractions (train, val, test) within every set of domains.

    A patient that has a split keeps it. A split with a fraction above 0 gets at least one patient of each set that has
    as many patients as there are such splits. Patients without any label, where others of the same domains have one,
    go to training: nothing could be scored on them. The draw depends on the seed and the patient's name alone, so the
    order of the rows does not matter.

    groups: patient -> name of the group that must not be divided; it is drawn as one patient is. Who is given a split
    takes the others of the group along; where several are given, each keeps its own.
    """
    if groups:
        units = [
            dataclasses.replace(row, patient=groups.get(row.patient, row.patient)) for row in together(rows, groups)
        ]
        given = {row.patient: row.split for row in rows if row.split}
        of = {row.patient: row.split for row in split_patients(units, fractions, seed)}
        return tuple(
            dataclasses.replace(row, split=given.get(row.patient) or of[unit.patient]) for row, unit in zip(rows, units)
        )
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise InputError(
            f"split fractions {tuple(fractions)}", expected="train, val, test >= 0 that sum to 1, train > 0"
        )
    given = {row.patient: row.split for row in rows if row.split}
    labelled = {row.patient for row in rows if row.label is not None}
    seen: dict[str, set[str]] = {}
    for row in rows:
        seen.setdefault(row.patient, set()).add(row.domain)
    strata: dict[tuple[str, ...], list[str]] = {}
    for patient, domains in seen.items():
        strata.setdefault(tuple(sorted(domains)), []).append(patient)
    assigned = dict(given)
    for patients in strata.values():
        scored = [patient for patient in patients if patient in labelled] or patients
        assigned.update({patient: "train" for patient in patients if patient not in scored and patient not in given})
        drawn = sorted((patient for patient in scored if patient not in given), key=lambda name: _draw(seed, name))
        places = [split for split, count in zip(SPLITS, _apportion(len(drawn), fractions)) for _ in range(count)]
        assigned.update(zip(drawn, places))
    return tuple(dataclasses.replace(row, split=assigned[row.patient]) for row in rows)


def _apportion(count: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that sum to ``count`` in the given fractions (largest remainder), none of them 0 if avoidable."""
    wanted = [index for index, fraction in enumerate(fractions) if fraction > 0]
    if count <= len(wanted):
        return [int(index in wanted[:count]) for index in range(len(fractions))]
    quotas = [count * fraction for fraction in fractions]
    counts = [int(quota + 1e-9) for quota in quotas]
    by_remainder = sorted(wanted, key=lambda index: counts[index] - quotas[index])
    for index in by_remainder[: count - sum(counts)]:
        counts[index] += 1
    for index in wanted:
        if counts[index] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[index] += 1
    return counts


def together(rows: Sequence[Row], groups: Mapping[str, str]) -> tuple[Row, ...]:
    """The rows with every group of patients in one split: the first of train, val and test that any of it is in.

    Training comes first: a held-out patient of whom a training image shows nearly the same is no judge of it.
    """
    first: dict[str, str] = {}
    for split in reversed(SPLITS):
        first |= {groups[row.patient]: split for row in rows if row.patient in groups and row.split == split}
    return tuple(
        dataclasses.replace(row, split=first.get(groups[row.patient], row.split)) if row.patient in groups else row
        for row in rows
    )


def hold_to_one_domain(rows: Sequence[Row], seed: int = 0, splits: Sequence[str] = ("train",)) -> tuple[Row, ...]:
    """The rows without those that show a patient of ``splits`` in a second domain; domains end as even as they can.

    Registered sets then serve unpaired methods honestly: no anatomy is seen in both domains. Each patient is given to
    that of its own domains which has the fewest patients so far; patients with one domain count first.
    """
    seen: dict[str, set[str]] = {}
    for row in rows:
        if row.split in splits:
            seen.setdefault(row.patient, set()).add(row.domain)
    counts = dict.fromkeys(sorted({row.domain for row in rows}), 0)
    held: dict[str, str] = {}
    for patient in sorted(seen, key=lambda name: (len(seen[name]), _draw(seed, name))):
        choice = min(seen[patient], key=lambda domain: (counts[domain], _draw(seed, domain)))
        counts[choice] += 1
        held[patient] = choice
    return tuple(row for row in rows if held.get(row.patient, row.domain) == row.domain)


def _draw(seed: int, name: str) -> str:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest()
