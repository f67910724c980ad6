"""Preparation: cohort -> store, once. Read, reoriented, resampled and normalised by the cohort's own rules.

Here names end: a store holds pseudonyms under the cohort's key, and no path. Its order is that of the names, so that
what is drawn by place is the same under any key.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ganatomy.cohorts.cohort import Cohort, Row, prepare_image
from ganatomy.cohorts.pseudonyms import Pseudonyms, pseudonyms_of
from ganatomy.contracts import InputError
from ganatomy.core.plain_values import digest as digest_of
from ganatomy.core.single_flight import single_flight
from ganatomy.core.terminal import QUIET, amount
from ganatomy.images.files import read_grid, room_for
from ganatomy.images.imaging import Prepared, box_in
from ganatomy.stores.store import Store
from ganatomy.stores.writing import Item, write_store

Progress = Callable[[int, int, str], None]
"""Called as (images done, images in all, subject of the last one)."""


def prepare(cohort: Cohort, root: Path | str, progress: Progress | None = None, workers: int = 2) -> Store:
    """The store of ``cohort`` under ``root``, made now if it is not there: ``root/<store_digest>``.

    The digest covers the images' bytes, the preparing rules and whose key makes the pseudonyms, so a change makes
    another store. Of several
    processes that prepare the same cohort at once one does and the others wait for it. An interrupted preparation
    leaves nothing that can be opened, and the next one clears what it left.

    progress: told after every image; by default a bar with rate and remaining time, on a terminal.
    workers: threads that read, resample and normalise. InputError for an image that cannot be used (names the file),
    when the disc cannot hold the store, when another version made it, or when there is no key and none can be made.
    """
    names = pseudonyms_of(cohort.path)
    digest = store_digest(cohort, names)
    path = Path(root) / digest
    if not cohort.rows:
        raise InputError(f"cohort {cohort.path} has no usable image", remedy="ganatomy cohort check")
    with single_flight(Path(root) / f".{digest}", done=path.exists, waiting=_say_once(cohort.name)) as still_mine:
        # still_mine need not be asked: a second maker would make the same bytes, and the first rename wins.
        if still_mine is None:
            return Store(path)
        for left in path.parent.glob(f".{digest}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        _check_space(cohort, path.parent)
        with _reporting(progress, len(cohort.rows)) as report:
            return write_store(
                path,
                name=cohort.name,
                labels=cohort.labels,
                domains=cohort.domains,
                digest=digest,
                items=_prepared_items(cohort, names, report, max(1, workers)),
                key=names.identity,
                symmetric=cohort.symmetric,
                twins=cohort.twins,
            )


def store_digest(cohort: Cohort, names: Pseudonyms) -> str:
    """Content hash (16 hex digits) of the store of ``cohort``: under another key its records are others."""
    return digest_of({"cohort": cohort.digest(), "key": names.identity})


def _prepared_items(cohort: Cohort, names: Pseudonyms, report: Progress, workers: int) -> Iterator[Item]:
    """Items in an order that, like the digest, does not depend on the order of the cohort's rows.

    Threads suffice: decompression and resampling release the interpreter lock; a killed process leaves no orphans.
    """
    rows = iter(sorted(cohort.rows, key=lambda row: (row.subject, row.domain)))
    ranks = {patient: place for place, patient in enumerate(cohort.patients())}
    with ThreadPoolExecutor(workers) as threads:
        ahead: deque[tuple[Row, Future[Prepared]]] = deque()  # bounded: some volumes are in memory, not the cohort
        try:
            for done in range(len(cohort.rows)):
                for row in islice(rows, workers + 1 - len(ahead)):
                    ahead.append((row, threads.submit(_prepared, row, cohort)))
                row, future = ahead.popleft()
                yield _item(row, future.result(), names, ranks[row.patient])
                report(done + 1, len(cohort.rows), row.subject)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _prepared(row: Row, cohort: Cohort) -> Prepared:
    with room_for(row.image, row.label, row.mask):
        return prepare_image(row, cohort)


def _item(row: Row, prepared: Prepared, names: Pseudonyms, rank: int) -> Item:
    box = box_in(prepared, row.box) if row.box else None
    attributes = {"class": row.klass, "box": box, "synthetic": row.synthetic}
    return Item(
        subject=names(row.subject),
        patient=names(row.patient),
        domain=row.domain,
        split=row.split,
        image=prepared.image,
        label=prepared.label,
        affine=prepared.affine,
        lo=float(prepared.lo),
        hi=float(prepared.hi),
        parents=tuple(map(names, row.parents)),
        rank=rank,
        attributes={key: value for key, value in attributes.items() if value},
    )


# --- disc space --------------------------------------------------------------------------------------------------


def _check_space(cohort: Cohort, folder: Path) -> None:
    needed = sum(_expected_bytes(row, cohort) for row in cohort.rows)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"no space for the store of cohort {cohort.name} in {folder}: {free / 1e9:.3g} GB free",
            expected=f"about {needed / 1e9:.3g} GB",
            remedy="free space, choose another folder, or set a coarser spacing or a smaller size in cohort.yaml",
        )


def _expected_bytes(row: Row, cohort: Cohort) -> int:
    """Voxels of the prepared image, from its header only, at 4 bytes an image and 1 a label voxel."""
    grid = read_grid(row.image)
    if grid is None:
        return 0  # preparing the image says what is wrong with it
    shape, zooms = (*grid.shape, 1, 1)[:3], grid.zooms
    spacing, size = cohort.spacing or (0.0, 0.0, 0.0), cohort.size or (0, 0, 0)
    sides = [wanted or math.ceil(n * mm / (to or mm)) for n, mm, to, wanted in zip(shape, zooms, spacing, size)]
    return math.prod(sides) * (5 if row.label is not None else 4)


# --- progress ----------------------------------------------------------------------------------------------------


def _say_once(name: str) -> Callable[[], None]:
    said: list[str] = []

    def waiting() -> None:
        if not said and sys.stderr.isatty() and amount() > QUIET:
            said.append(name)
            Console(stderr=True).print(f"waiting for another process that prepares cohort {name}")

    return waiting


@contextlib.contextmanager
def _reporting(progress: Progress | None, total: int) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    if not sys.stderr.isatty() or amount() == QUIET:
        yield lambda done, total, subject: None
        return
    rate = TextColumn("{task.fields[rate]:.1f} images/s")
    start = time.monotonic()
    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, rate=0.0)
        yield lambda done, total, subject: bar.update(task, completed=done, rate=done / (time.monotonic() - start))
