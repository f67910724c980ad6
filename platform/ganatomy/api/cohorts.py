"""Cohorts from Python, beside what reads, imports and checks them: phantoms, and whom a pseudonym stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ganatomy.cohorts.cohort import Cohort
from ganatomy.cohorts.inspection import who_is
from ganatomy.cohorts.pseudonyms import PSEUDONYM
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest

KINDS = ("heart", "brain", "bone")
"""What a phantom can be of."""


def who(cohort: Cohort | Path | str, pseudonyms: str | Sequence[str]) -> dict[str, str]:
    """Pseudonym -> the patient or examination of a cohort that it stands for, in words.

    pseudonyms: one or several; whatever stands around them, as in names of files, does not matter. Raises InputError
    for one that stands for nobody, and where the cohort's key is not there: whoever has not got it cannot.
    """
    if not pseudonyms:
        raise InputError("no pseudonym to look up", expected="one at least, such as p0123456789abcdef")
    found = read_cohort(cohort, require_files=False) if isinstance(cohort, Path | str) else cohort
    known, answers = who_is(found), {}
    for asked in [pseudonyms] if isinstance(pseudonyms, str) else pseudonyms:
        pseudonym = PSEUDONYM.search(asked)
        if pseudonym is None or pseudonym[0] not in known:
            raise InputError(f"{asked} stands for nobody in cohort {found.path}",
                             expected="a pseudonym under the key of this cohort")  # fmt: skip
        answers[pseudonym[0]] = known[pseudonym[0]]
    return answers


def phantom(
    out: Path | str,
    *,
    kind: Literal["heart", "brain", "bone"] = "heart",
    patients: Mapping[str, Sequence[int]] | Sequence[int] | None = None,
    **options: Any,
) -> Cohort:
    """Write a procedural cohort whose truth is known to the new folder ``out``, and return it.

    kind: hearts in CT and MR of different patients, brains with a lesion in registered MR contrasts, or radiographs of
    a long bone.  patients: how many in (train, val, test): of hearts ``{"ct": (20, 4, 4), "mr": (20, 8, 12)}``, of
    brains (20, 6, 6), of bones ``{"lesion": (24, 20, 40), "normal": (240, 100, 200)}``.
    options: ``shape`` (slices, rows, columns; of a bone (rows, columns)), ``seed``, ``oracle`` (another new folder for
    the true counterparts); of hearts ``pose_gap`` and ``swap_gap``, of brains ``contrasts``, ``lesion_slices``,
    ``nested``, ``mass_effect``, ``lesion_contrast`` and ``twins``, of bones ``part``, as ``ganatomy phantom --help``
    says.
    Raises InputError where ``out`` is taken, and for counts or options that make no cohort.
    """
    if kind == "brain":
        from ganatomy.phantoms.brains import make_brain_cohort

        return make_brain_cohort(out, patients=patients or (20, 6, 6), **options)  # type: ignore[arg-type]
    if kind == "bone":
        from ganatomy.phantoms.bones import make_bone_cohort

        usual = {"lesion": (24, 20, 40), "normal": (240, 100, 200)}
        return make_bone_cohort(out, patients=patients or usual, **options)  # type: ignore[arg-type]
    if kind != "heart":
        raise InputError(f"a phantom of a {kind}", expected=nearest(kind, KINDS))
    from ganatomy.phantoms.hearts import make_cohort

    return make_cohort(out, patients=patients or {"ct": (20, 4, 4), "mr": (20, 8, 12)}, **options)  # type: ignore[arg-type]
