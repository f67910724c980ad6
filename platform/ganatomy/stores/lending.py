"""Which of the prepared cohorts of a workspace another one borrows a generator or a judge from."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest
from ganatomy.experiment import Experiment
from ganatomy.stores.staging import HEADER
from ganatomy.stores.store import open_store


def check_lenders(stores: Path, experiments: Iterable[Experiment]) -> None:
    """Raise InputError for a ``transfer`` from a cohort of which the folder ``stores`` holds no store, or several."""
    for name in sorted({name for one in experiments for name in (one.transfer.generator, one.transfer.judge) if name}):
        lending_store(stores, name)


def lending_store(stores: Path, name: str) -> Path:
    """The store in the folder ``stores`` whose digest is ``name``, or that of the cohort of that name.

    InputError where there is none, or several of that name: a cohort that was changed and prepared anew has another
    store, and which of them is meant only a digest says. What is borrowed would else change under a sweep that goes on.
    """
    there = {path.name: path for path in sorted(stores.iterdir()) if (path / HEADER).exists()}
    if name in there:
        return there[name]
    known = {path: open_store(path).name for path in there.values()}
    named = sorted((path for path in known if known[path] == name), key=_written, reverse=True)
    if not named:
        raise InputError(
            f"transfer from cohort {name!r}, of which there is no store in {stores}",
            expected=nearest(name, known.values()),
            remedy="run a sweep on that cohort in this workspace first",
        )
    if len(named) > 1:
        raise InputError(
            f"transfer from cohort {name!r}, of which {stores} holds {len(named)} stores",
            expected=f"one of {'; '.join(map(_described, named))}",
            remedy="name it by its digest: transfer.generator=DIGEST, transfer.judge=DIGEST",
        )
    return named[0]


def _written(path: Path) -> float:
    return (path / HEADER).stat().st_mtime


def _described(path: Path) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(_written(path)))
    return f"{path.name} ({len(open_store(path))} images, of {when})"
