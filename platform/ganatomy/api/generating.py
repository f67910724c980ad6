"""Generators from Python: loaded, asked for images of cohorts and files, rolled back, looked through."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ganatomy.core.installation import workspace_of
from ganatomy.core.plugins import allow
from ganatomy.core.terminal import tell, warn
from ganatomy.generation.request import Generated, GenerationRequest

if TYPE_CHECKING:
    import torch

    from ganatomy.cohorts.cohort import Cohort
    from ganatomy.generation.audit import Audit
    from ganatomy.generators.generator import Generator

QUIET_S = 5.0
"""A line of progress at most this often."""


def load_generator(
    model: Path | str,
    *,
    workspace: Path | str | None = None,
    device: torch.device | str = "cpu",
    tracking_uri: str = "",
    allow_dotted: Sequence[str] = (),
) -> Generator:
    """A generator, ready to be called on images: see ``Generator.__call__``.

    model: ``models:/NAME@champion``, ``models:/NAME/VERSION``, or the folder of a generator.
    workspace: where its store of models is, and where it is fetched to; GANATOMY_WORKSPACE, else ./workspace.
    tracking_uri: MLflow server or store; MLFLOW_TRACKING_URI, else the one embedded in the workspace.
    allow_dotted: ``package.module:NAME`` of its method, where that is not installed under a name: what it says is run.
    What must be heeded of it (it did not pass a gate) is said on standard error. Raises InputError where there is none,
    or where it is not what was registered.
    """
    from ganatomy.core.names import on_one_line
    from ganatomy.generators.generator import load_generator as load
    from ganatomy.generators.registry import bundle_of

    allow(*allow_dotted)
    generator = load(bundle_of(str(model), workspace_of(workspace), tracking_uri), device)
    if caution := generator.caution():
        warn(f"warning: {on_one_line(caution)}")
    return generator


def generate(
    generator: Generator | Path | str,
    images: Cohort | Path | str | None,
    out: Path | str,
    *,
    workspace: Path | str | None = None,
    label: Path | str | None = None,
    box: tuple[float, float, float, float] | None = None,
    patient: str = "",
    key_of: Path | str | None = None,
    keep_names: bool = False,
    split: Sequence[Literal["train", "val", "test"]] | str = (),
    count: int = 0,
    labels: Sequence[Path | str] = (),
    seed: int = 0,
    source: str = "",
    target: str = "",
    workers: int = 1,
    address: str = "",
    overwrite: bool = False,
    allow_dotted: Sequence[str] = (),
    tracking_uri: str = "",
) -> Generated:
    """Synthetic images of a cohort or of one file, on their own grid, with labels, maps and a provenance sidecar each.

    generator: as ``load_generator`` gives it, or what that takes.  images: a cohort, its folder, or one image file
    (then ``label``, ``box`` and ``patient`` may be told); None where ``labels`` are drawn from.  out: folder of the
    synthetic cohort, which names patients by pseudonym; keep_names: as ``images`` does, in its table.
    split: only these, or one.  count: at most so many films with a lesion, or so many subjects drawn from noise, by a
    generator that can; ``seed`` draws them.  source, target: a domain, state or role, where the generator knows
    several ways.  box: (x0, y0, x1, y1) in pixels from the top left.
    key_of: cohort whose key pseudonyms of a single file are under; that of the workspace by default.
    workers: 1: in this process, without Ray; more: images at the same time on Ray at ``address``; 0: as many as fit.

    What an earlier call finished is kept, files of others are left alone unless ``overwrite``. Progress, warnings and
    what could not be made are said on standard error. Raises InputError where nothing can be made.
    """
    folder, image = _source(images)
    request = GenerationRequest(
        model=str(getattr(generator, "directory", generator)),
        out=Path(out),
        workspace=workspace_of(workspace),
        cohort=folder,
        image=image,
        label=_path(label),
        box=box,
        patient=patient,
        key_of=_path(key_of),
        keep_names=keep_names,
        split=(split,) if isinstance(split, str) else tuple(split),  # type: ignore[arg-type]
        count=count,
        labels=tuple(Path(path) for path in labels),
        seed=seed,
        source=source,
        target=target,
        workers=workers,
        address=address,
        overwrite=overwrite,
        allow_dotted=tuple(allow_dotted),
        tracking_uri=tracking_uri,
    )
    return request.carried_out(_following)


def rollback(name: str, *, workspace: Path | str | None = None, tracking_uri: str = "") -> int:
    """Make the champion of ``name`` before this one the champion again; returns its version. A second rollback undoes
    the first. Raises InputError where there is no model of that name, or nothing to go back to."""
    from ganatomy.generators.registry import Registry, check_name
    from ganatomy.tracking.runs import Tracking

    check_name(name)  # before a store is opened, or made
    return Registry(Tracking(tracking_uri or None, workspace_of(workspace), experiment="")).rollback(name)


def audit(
    folder: Path | str,
    cohort: Cohort | Path | str | None = None,
    *,
    workspace: Path | str | None = None,
    tracking_uri: str = "",
) -> Audit:
    """All that a generator or a synthetic set carries, and (``.findings``) what of it should not leave the laboratory.

    folder: a folder, or ``models:/NAME@champion`` or ``models:/NAME/VERSION``.  cohort: whose patients' and
    examinations' names are looked for, in all bytes, also in compressed ones. What names do not show (anatomy, faces)
    is not seen. Raises InputError for a folder that is not there or holds nothing.
    """
    from ganatomy.cohorts.reading import read_cohort
    from ganatomy.generation.audit import audit as look_through
    from ganatomy.generators.registry import bundle_of

    place = Path(folder)
    if str(folder).startswith("models:/"):
        place = bundle_of(str(folder), workspace_of(workspace), tracking_uri)
    named = read_cohort(cohort, require_files=False) if isinstance(cohort, Path | str) else cohort
    return look_through(place, named)


# --- how ---------------------------------------------------------------------------------------------------------


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def _source(images: Cohort | Path | str | None) -> tuple[Path | None, Path | None]:
    """(folder of a cohort, image file) of what is given: one of them."""
    if images is None:
        return None, None
    if not isinstance(images, Path | str):
        return images.path, None
    path = Path(images)
    return (None, path) if path.is_file() and path.name != "cohort.yaml" else (path, None)


@contextlib.contextmanager
def _following(title: str) -> Iterator[Callable[[int, int], None]]:
    """Progress in lines, as a notebook and a log can show it: not too many, and none of what is done at once."""
    said = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > QUIET_S:
            said = time.monotonic()
            tell(f"{title}: {done} of {total}")

    yield told
