"""The demo: the whole journey of a user on a phantom, from NIfTI to NIfTI, on this machine alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ganatomy.api.sweeping import load_sweep
from ganatomy.cohorts.claims import alone_in
from ganatomy.cohorts.cohort import Cohort, prepare_image
from ganatomy.cohorts.pseudonyms import pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.commands.sweep import Sweep
from ganatomy.evidence.panels import Column, sheet, write_png
from ganatomy.evidence.results import sweeps
from ganatomy.generation.translated import generate
from ganatomy.generators.generator import load_generator
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.promotion.promotion import Promotion

NAME, SWEEP, SPACE = "phantom-ct-mr", "phantom", "phantom_demo"
PATIENTS = {"ct": (24, 4, 4), "mr": (24, 8, 12)}
"""Domain -> patients in (train, val, test). The space withholds the labels of most MR patients: synthetic MR, labelled
by the CT that it was made from, has something to give."""
SHAPE = (8, 48, 48)
SHOWN = 3


@dataclass(frozen=True)
class Demo:
    """What the demo left. promotion: the verdict.  synthetic: the cohort of generated MR.  panel: a picture of some."""

    promotion: Promotion
    synthetic: Cohort
    panel: Path


def run_demo(workspace: Path, *, settings: Sequence[str] = (), quiet: bool = False) -> Demo | None:
    """Phantom, sweep, table, confirmation, gates, promotion, generation, panel; goes on where it was cut short.

    settings: NAME=VALUE to fix parameters of the sweep, such as a smaller budget.  quiet: of what goes on nothing is
    said, only what came of it. None when the sweep did not end.
    """
    say: Callable[[str], None] = (lambda sentence: None) if quiet else partial(print, flush=True)
    with alone_in(workspace):
        _chapter(say, 1, "a CT/MR phantom whose truth is known: many labelled CT, few labelled MR")
        cohort = _phantom(workspace / "phantom")
        _chapter(say, 2, "a sweep over arm, shape weight and real/synthetic ratio; one trial trains on two workers")
        if _sweep(workspace, cohort, settings) != 0:
            return None
        _chapter(say, 3, "its pick, trained again beside the best without synthetic data: a search picks luck, too")
        sweep = load_sweep(SWEEP, workspace)
        print(sweep.confirm(address="local", say=say).text())
        _chapter(say, 4, "the gates, on test patients that nothing has looked at before")
        promotion = sweep.promote(NAME, say=say)
        for gate in promotion.verdict.gates:
            print(f"  {'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.sentence}")
        print(promotion.verdict.sentence)
        _chapter(say, 5, "synthetic MR of the CT patients, with their labels")
        synthetic = _generate(promotion, cohort, workspace / "synthetic")
        panel = write_png(workspace / "panel.png", _picture(cohort, synthetic))
        return Demo(promotion, synthetic, panel)


def _chapter(say: Callable[[str], None], number: int, title: str) -> None:
    say(f"\n{number}. {title}")


def _phantom(folder: Path) -> Cohort:
    if (folder / "cohort.yaml").is_file():
        return read_cohort(folder)
    cohort = make_cohort(folder, patients=PATIENTS, shape=SHAPE, name="phantom")
    print(f"{len(cohort.rows)} volumes in {folder}")
    return cohort


def _sweep(workspace: Path, cohort: Cohort, settings: Sequence[str]) -> int:
    # Always a Ray of its own: a demo must neither wait for nor disturb a cluster that happens to run here.
    if SWEEP in sweeps(workspace):
        return Sweep(resume=SWEEP, workspace=workspace, address="local").run()
    sweep = Sweep(
        space=SPACE,
        cohort=cohort.path,
        source="ct",
        target="mr",
        name=SWEEP,
        set=tuple(settings),
        workspace=workspace,
        address="local",
    )
    return sweep.run()


def _generate(promotion: Promotion, cohort: Cohort, out: Path) -> Cohort:
    generator = load_generator(promotion.bundle)
    # A second demo may promote another generator: its images take the place of those of the first.
    results = generate(generator, cohort, out, splits=("test",), overwrite=True)
    print(f"{len(results)} volumes in {out}, each with a file that says what made it")
    return read_cohort(out)


def _picture(cohort: Cohort, synthetic: Cohort) -> bytes:
    """CT, the MR made of it, and real MR of other patients, under the labels that they carry."""
    names, made_of = pseudonyms_of(cohort.path), {row.parents[0]: row for row in synthetic.rows_of("mr")}
    pairs = [(ct, made_of[names(ct.subject)]) for ct in cohort.rows_of("ct", "test") if names(ct.subject) in made_of]
    subjects = {}
    for (ct, made), mr in list(zip(pairs, cohort.rows_of("mr", "test")))[:SHOWN]:
        source, fake, real = prepare_image(ct, cohort), prepare_image(made, synthetic), prepare_image(mr, cohort)
        subjects[made.patient] = [
            Column("real CT", source.image, source.label),
            Column("synthetic MR of it", fake.image),
            Column("with the CT's labels", fake.image, fake.label),
            Column("real MR, another patient", real.image, real.label),
        ]
    return sheet(subjects, cohort.labels, title="phantom: what the generator makes")
