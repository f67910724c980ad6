"""A paper's table on a phantom: makes the cohort that the study needs, sweeps it over several seeds, writes the page.

    python benchmarks/paper_tables.py cai2019_table4 [--seeds 0 1 2 3 4] [--workspace DIR] [--page docs/paper_tables.md]

How long it takes is said at the start. The same command goes on where an earlier one was interrupted, and only writes
the page anew where all trials have finished. `--set budget.segmentor_steps=20 …` makes a quick look of it, and the page
says so.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ganatomy.cohorts.cohort import Cohort
from ganatomy.cohorts.reading import read_cohort
from ganatomy.commands.sweep import Sweep
from ganatomy.contracts import InputError
from ganatomy.core.terminal import guarded
from ganatomy.evidence.ablation import Ablation, ablation_table
from ganatomy.evidence.published import INCOMPARABLE, Comparison
from ganatomy.evidence.results import SweepPlan, drivers, read_plan, read_results, sweep_directory, sweeps
from ganatomy.measures.statistics import counted
from ganatomy.measures.verdicts import MINIMUM_TRAININGS
from ganatomy.phantoms.bones import make_bone_cohort
from ganatomy.phantoms.brains import CONTRASTS, make_brain_cohort
from ganatomy.phantoms.crops import make_crop_cohort
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.reports.healing import HEADING, WHAT, healing_table, outdone
from ganatomy.reports.tabulated import TRAININGS, brief, comparison_caveats, comparison_tables
from ganatomy.search_space import load_space, parse_settings
from ganatomy.stores.preparation import prepare
from ganatomy_search_spaces.gupta2019_table3 import LENDER

FIVE, THREE = (0, 1, 2, 3, 4), (0, 1, 2)
"""Trainings a row: where one takes minutes, and where it takes longer."""

READINGS = ("appears here", "not shown here", "reversed here", "no verdict", "no result")


@dataclass(frozen=True)
class Study:
    """title: of its section.  phantom: writes its cohort to a new folder, under a ``name``.  shows: what that is, in a
    sentence.  domains: ROLE=DOMAIN where the cohort's names do not say it.  lends: likewise writes the cohort that
    generators and judges are borrowed from.  minutes: of one core, as estimated from short runs; None where nobody has.
    seeds: one a training of each row.  apart: what sets rows apart besides synthetic images, where the study varies it:
    these have no common baseline."""

    title: str
    phantom: Callable[..., Cohort]
    shows: str
    minutes: float | None
    domains: tuple[str, ...] = ()
    lends: Callable[..., Cohort] | None = None
    seeds: tuple[int, ...] = FIVE
    apart: str = ""


# Of half the usual contrast: at the whole, what learns from real films alone makes no mistake.
HUMERI = partial(make_bone_cohort, patients={"lesion": (24, 20, 0), "normal": (240, 100, 0)}, contrast=0.5)
LENT = partial(HUMERI, name=LENDER, seed=1)  # of seed 0 they would share their noise with those who borrow
NESTED = partial(make_brain_cohort, patients=(12, 16, 0), shape=(8, 48, 48), contrasts=tuple(CONTRASTS), nested=True)
# The space was set on patients of seed 0.
SUBTLE = partial(make_brain_cohort, patients=(24, 16, 0), shape=(8, 32, 32), lesion_contrast=0.5, mass_effect=0.3,
                 twins=True, seed=1)  # fmt: skip

HEARTS = partial(make_cohort, patients={"ct": (24, 4, 0), "mr": (24, 16, 0)}, shape=(8, 48, 48))
PANCREATA = partial(
    make_crop_cohort, anatomy="pancreas", patients={"ct": (24, 4, 0), "mr": (24, 16, 0)}, shape=(8, 48, 48)
)
MASSES = partial(
    make_crop_cohort, anatomy="breast", patients={"bcdr": (56, 4, 0), "inbreast": (56, 30, 0)}, shape=(1, 48, 48)
)
CT_TO_MR, TO_INBREAST = ("A=ct", "B=mr"), ("A=bcdr", "B=inbreast")

# Many validation patients: intervals are over them, and scoring one costs little beside training.
STUDIES = {
    "cai2019_table2": Study(
        "Cai et al. 2019, Table 2: shape consistency and S-score",
        partial(make_cohort, patients={"ct": (24, 16, 0), "mr": (24, 16, 0)}, shape=(8, 48, 48), pose_gap=0.25),
        "Hearts, 24 patients a domain to train on and 16 to validate; MR hearts are a quarter larger and shifted, so "
        "that distortion pays.",
        27,
    ),
    "cai2019_table3": Study(
        "Cai et al. 2019, Table 3: three ways to use synthetic images",
        HEARTS,
        "Hearts, 24 patients a domain to train on, 3 of the MR ones with labels; 16 MR patients to validate.",
        23,
        CT_TO_MR,
    ),
    "cai2019_table4": Study(
        "Cai et al. 2019, Table 4: three ways to use synthetic images, three segmentors",
        PANCREATA,
        "Pancreata, 24 patients a domain to train on, 6 of the MR ones with labels; 16 MR patients to validate.",
        33,
        CT_TO_MR,
    ),
    "cai2019_table5": Study(
        "Cai et al. 2019, Table 5: the same in mammograms of two archives",
        MASSES,
        "Masses, one an image, 56 of either archive to train on, 8 of INbreast with labels; 30 to validate.",
        33,
        TO_INBREAST,
    ),
    "cai2019_fig7": Study(
        "Cai et al. 2019, Figure 7, middle: how many real images there are",
        HEARTS,
        "Hearts, 24 patients a domain to train on, 3, 10 or 20 of the MR ones with labels; 16 MR patients to validate.",
        35,
        CT_TO_MR,
        apart="labels",
    ),
    "cai2019_fig7_right": Study(
        "Cai et al. 2019, Figure 7, right: how many synthetic images there are",
        partial(make_cohort, patients={"ct": (60, 4, 0), "mr": (3, 16, 0)}, shape=(8, 48, 48)),
        "Hearts, 60 CT and 3 MR patients to train on, all with labels; 16 MR patients to validate.",
        30,
        CT_TO_MR,
    ),
    "cai2019_fig8": Study(
        "Cai et al. 2019, Figure 8: how many synthetic images, three segmentors",
        partial(MASSES, patients={"bcdr": (64, 4, 0), "inbreast": (8, 30, 0)}),
        "Masses, one an image, 64 of BCDR and 8 of INbreast to train on, all with labels; 30 of INbreast to validate.",
        38,
        TO_INBREAST,
    ),
    "cai2019_fig9": Study(
        "Cai et al. 2019, Figure 9: the gap between synthetic and real images",
        HEARTS,
        "Hearts, 24 patients a domain to train on; 3 of the MR ones with labels, to which 3 or 20 patients are added, "
        "real ones or those that synthetic images are made of; 16 MR patients to validate.",
        27,
        CT_TO_MR,
        apart="labels",
    ),
    "gupta2019_table2": Study(
        "Gupta et al. 2019, Table 2: the threshold of pseudo-labels",
        HUMERI,
        "Radiographs of humeri, lesions at half the usual contrast, one a patient: 24 with a lesion and "
        "240 without to train on, 20 and 100 to validate.",
        30,
    ),
    "gupta2019_table3_tibia": Study(
        "Gupta et al. 2019, Table 3: tibiae, with what humeri taught",
        partial(
            make_bone_cohort, part="tibia", patients={"lesion": (20, 20, 0), "normal": (240, 100, 0)}, contrast=0.5
        ),
        "Radiographs of tibiae, lesions at half the usual contrast, one a patient: 20 with a lesion and "
        "240 without to train on, 20 and 100 to validate; "
        "to borrow from, as many humeri as in Table 2.",
        35,
        lends=LENT,
    ),
    "gupta2019_table3_femur": Study(
        "Gupta et al. 2019, Table 3: femora, with what humeri taught",
        partial(make_bone_cohort, part="femur", patients={"lesion": (6, 20, 0), "normal": (240, 100, 0)}, contrast=0.5),
        "Radiographs of femora, lesions at half the usual contrast, one a patient: 6 with a lesion and "
        "240 without to train on, 20 and 100 to validate; "
        "to borrow from, as many humeri as in Table 2.",
        22,
        lends=LENT,
    ),
    "xia2019_table1": Study(
        "Xia et al. 2019, Table 1: identity and healthiness of pseudo-healthy images",
        SUBTLE,
        "Brains in FLAIR with a lesion in half of their slices, half of it no brighter than the brightest twentieth of "
        "grey matter, which pushes tissue aside; 24 patients to train on and 16 to validate, these with twins without "
        "the lesion.",
        None,
    ),
    "qu2019_table1": Study(
        "Qu et al. 2019, Table 1: who guides lesions",
        NESTED,
        "Brains with nested lesions in four registered contrasts, 12 patients to train on and 16 to validate.",
        None,
        seeds=THREE,
    ),
    "qu2019_table2": Study(
        "Qu et al. 2019, Table 2: amount and order of synthetic images",
        NESTED,
        "Brains with nested lesions in four registered contrasts, 12 patients to train on and 16 to validate.",
        None,
        seeds=THREE,
    ),
}


# --- running -----------------------------------------------------------------------------------------------------


def swept(name: str, workspace: Path, seeds: Sequence[int], settings: Sequence[str]) -> SweepPlan:
    """The finished sweep of the study: run, gone on with, or found. InputError where it has other settings."""
    study, folder = STUDIES[name], workspace / f"phantom-{name}"
    if name not in sweeps(workspace):
        if not (folder / "cohort.yaml").is_file():
            study.phantom(folder, name=f"phantom-{name}")
        lend(study, workspace)
        sweep = Sweep(
            space=name, cohort=folder, name=name, seeds=tuple(seeds), set=tuple(settings), domains=study.domains,
            workspace=workspace, address="local",
        )  # fmt: skip
    else:
        plan = read_plan(sweep_directory(workspace, name))
        if (plan.seeds, dict(plan.fixed)) != (tuple(seeds), parse_settings(settings)):
            raise InputError(f"{workspace} holds {name} with seeds {plan.seeds} and settings {dict(plan.fixed)}",
                             expected="the same again", remedy="another --workspace")  # fmt: skip
        sweep = Sweep(resume=name, workspace=workspace, address="local")
    print(outlook(name, workspace, seeds, settings), flush=True)
    if code := sweep.run():
        raise SystemExit(code)
    return read_plan(sweep_directory(workspace, name))


def outlook(name: str, workspace: Path, seeds: Sequence[int], settings: Sequence[str]) -> str:
    """How many trials there are, how many are done, and how long the rest takes; the sweep says what comes of that."""
    study, rows = STUDIES[name], load_space(name).points
    trials, done = len(rows) * len(seeds), 0
    if name in sweeps(workspace):
        directory = sweep_directory(workspace, name)
        trials = read_plan(directory).trials
        done = sum(result.status != "running" for result in read_results(directory))
    said = f"{name}: {done} of {trials} trials done; "
    if settings or study.minutes is None:
        return said + "how long they take has not been estimated"
    whole = study.minutes * len(seeds) / len(study.seeds)
    return f"{said}about {whole * (trials - done) / trials:.0f} of {whole:.0f} minutes of one core left"


def lend(study: Study, workspace: Path) -> None:
    """Prepare the cohort that the study borrows from, where it does, in the workspace: its trials do the training."""
    if study.lends:
        folder = workspace / "phantom-lender"
        lender = read_cohort(folder) if (folder / "cohort.yaml").is_file() else study.lends(folder)
        prepare(lender, workspace / "stores")


# --- writing -----------------------------------------------------------------------------------------------------


def section(name: str, plan: SweepPlan, table: Ablation, commits: Sequence[str] = ()) -> str:
    """What the sweep came to, in Markdown. commits: of the code that drove it."""
    study = STUDIES[name]
    how = _how(name, plan, table) + (f" At commit {', '.join(commits)}." if commits else "")
    parts = [f"## {study.title}", f"{study.shows} {how}", *_found(study, table)]
    if (healing := healing_table(table)) is not None:
        parts += [f"### {HEADING}", WHAT, _bullets(outdone(table)), _table(*healing)]
    for published in table.published:
        parts += [f"### Beside it: {published.where}", INCOMPARABLE, headlines(published)]
        parts += [_table(headers, rows) for headers, rows in comparison_tables(published)]
        parts += [_bullets(comparison_caveats(published))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _found(study: Study, table: Ablation) -> list[str]:
    """Rows with what sets them apart from their baseline; without, where the study's rows have none in common."""
    rows = brief(table)
    if not study.apart:
        return [table.conclusion, _rows(rows), _bullets(table.caveats)]
    said = (
        f"Rows differ in {study.apart} too, so that none is the baseline of all: the claims below say what is compared."
    )
    kept = ("configuration", TRAININGS, table.measure, "device s")
    return [said, _rows([{name: row[name] for name in kept} for row in rows])]


def headlines(published: Comparison) -> str:
    """Which of the paper's effects appear at this size, and which do not."""
    said = []
    for reading in READINGS:
        claims = [finding.says for finding in published.findings if finding.reading == reading]
        said += (
            [f"- **{reading.capitalize()}**: {'; '.join(claims) or 'none'}."]
            if claims or not reading.startswith("no ")
            else []
        )
    return "\n".join(said)


def place(page: Path, name: str, text: str) -> None:
    """Put ``text`` between the page's marks of the study, at its end where it has none; written whole or not at all."""
    opening, closing = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before = page.read_text(encoding="utf-8")
    head, mark, rest = before.partition(opening)
    tail = rest.partition(closing)[2] if mark else "\n"
    beside = page.with_suffix(".tmp")
    beside.write_text(f"{head if mark else before + chr(10)}{opening}\n{text}{closing}{tail}", encoding="utf-8")
    beside.replace(page)


def _how(name: str, plan: SweepPlan, table: Ablation) -> str:
    seconds = sum(row.device_seconds * len(row.seeds) for row in table.rows)
    command = f"`python benchmarks/paper_tables.py {name} --seeds {' '.join(map(str, plan.seeds))}`"
    text = f"{command}: {seconds / 3600:.1f} device hours, what trials share counted once for each of them."
    text += f" {counted(len(plan.seeds), 'training')} a row{_undecidable(len(plan.seeds))}."
    if plan.fixed:
        settings = ", ".join(f"{key}={value}" for key, value in plan.fixed.items())
        text += f" **Not the study itself**: run with {settings}."
    return text


def _undecidable(trainings: int) -> str:
    """What so few leave open."""
    if trainings >= len(FIVE):
        return ""
    if trainings < MINIMUM_TRAININGS:
        return ": too few for any verdict"
    return ": only effects that are large beside the luck of a training are decided, and the rest stays open"


def _rows(rows: Sequence[dict[str, str]]) -> str:
    return _table(list(rows[0]), [list(row.values()) for row in rows]) if rows else ""


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", action="extend", help="by default those of the study, 5 or 3")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE")
    parser.add_argument("--workspace", type=Path, default=Path("workspace/paper-tables"))
    parser.add_argument("--page", type=Path, help="page whose section of this study is replaced")
    options = parser.parse_args()
    options.seeds = options.seeds or [*STUDIES[options.study].seeds]
    workspace = options.workspace.absolute()

    def run() -> int:
        plan = swept(options.study, workspace, options.seeds, options.set)
        results = read_results(sweep_directory(workspace, plan.name))
        commits = [told["commit"] for told in drivers(sweep_directory(workspace, plan.name)) if told.get("commit")]
        table = ablation_table(results, published=plan.published(), declared=plan.family)
        text = section(options.study, plan, table, [*dict.fromkeys(commits)])
        print(f"\n{text}")
        if options.page:
            place(options.page, options.study, text)
        return 0

    return guarded(run, workspace=workspace, debug=False)


if __name__ == "__main__":
    sys.exit(main())
