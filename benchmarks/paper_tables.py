"""A paper's table on a phantom: makes the cohort that the study needs, sweeps it over several seeds, writes the page.

    python benchmarks/paper_tables.py cai2019_table4 [--seeds 0 1 2 3 4] [--workspace DIR] [--page docs/paper_tables.md]

Hours on two cores. The same command goes on where an earlier one was interrupted, and only writes the page anew where
all trials have finished. `--set budget.segmentor_steps=20 …` makes a quick look of it, and the page says so.
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
from ganatomy.evidence.results import SweepPlan, read_plan, read_results, sweep_directory, sweeps
from ganatomy.phantoms.bones import make_bone_cohort
from ganatomy.phantoms.brains import CONTRASTS, make_brain_cohort
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.reports.healing import HEADING, WHAT, healing_table, outdone
from ganatomy.reports.tabulated import brief, comparison_caveats, comparison_tables
from ganatomy.search_space import parse_settings
from ganatomy.stores.preparation import prepare
from ganatomy_search_spaces.gupta2019_table3 import LENDER

READINGS = ("appears here", "not shown here", "reversed here", "no verdict", "no result")


@dataclass(frozen=True)
class Study:
    """title: of its section.  phantom: writes its cohort to a new folder, under a ``name``.  shows: what that is, in a
    sentence.  domains: ROLE=DOMAIN where the cohort's names do not say it.  lends: likewise writes the cohort that
    generators and judges are borrowed from."""

    title: str
    phantom: Callable[..., Cohort]
    shows: str
    domains: tuple[str, ...] = ()
    lends: Callable[..., Cohort] | None = None


HUMERI = partial(make_bone_cohort, patients={"lesion": (24, 20, 0), "normal": (240, 100, 0)})
LENT = partial(HUMERI, name=LENDER, seed=1)  # of seed 0 they would share their noise with those who borrow
NESTED = partial(make_brain_cohort, patients=(12, 16, 0), shape=(8, 48, 48), contrasts=tuple(CONTRASTS), nested=True)
# The space was set on patients of seed 0.
SUBTLE = partial(make_brain_cohort, patients=(24, 16, 0), shape=(8, 32, 32), lesion_contrast=0.5, mass_effect=0.3,
                 twins=True, seed=1)  # fmt: skip

# Many validation patients: intervals are over them, and scoring one costs little beside training.
STUDIES = {
    "cai2019_table2": Study(
        "Cai et al. 2019, Table 2: shape consistency and S-score",
        partial(make_cohort, patients={"ct": (24, 16, 0), "mr": (24, 16, 0)}, shape=(8, 48, 48), pose_gap=0.25),
        "Hearts, 24 patients a domain to train on and 16 to validate; MR hearts are a quarter larger and shifted, so "
        "that distortion pays.",
    ),
    "cai2019_table4": Study(
        "Cai et al. 2019, Tables 3 and 4: three ways to use synthetic images, three segmentors",
        partial(make_cohort, patients={"ct": (24, 4, 0), "mr": (24, 16, 0)}, shape=(8, 48, 48)),
        "Hearts, 24 patients a domain to train on, 3 of the MR ones with labels; 16 MR patients to validate.",
        ("A=ct", "B=mr"),
    ),
    "gupta2019_table2": Study(
        "Gupta et al. 2019, Table 2: the threshold of pseudo-labels",
        HUMERI,
        "Radiographs of humeri, one a patient: 24 with a lesion and 240 without to train on, 20 and 100 to validate.",
    ),
    "gupta2019_table3_tibia": Study(
        "Gupta et al. 2019, Table 3: tibiae, with what humeri taught",
        partial(make_bone_cohort, part="tibia", patients={"lesion": (20, 20, 0), "normal": (240, 100, 0)}),
        "Radiographs of tibiae, one a patient: 20 with a lesion and 240 without to train on, 20 and 100 to validate; "
        "to borrow from, as many humeri as in Table 2.",
        lends=LENT,
    ),
    "gupta2019_table3_femur": Study(
        "Gupta et al. 2019, Table 3: femora, with what humeri taught",
        partial(make_bone_cohort, part="femur", patients={"lesion": (6, 20, 0), "normal": (240, 100, 0)}),
        "Radiographs of femora, one a patient: 6 with a lesion and 240 without to train on, 20 and 100 to validate; "
        "to borrow from, as many humeri as in Table 2.",
        lends=LENT,
    ),
    "xia2019_table1": Study(
        "Xia et al. 2019, Table 1: identity and healthiness of pseudo-healthy images",
        SUBTLE,
        "Brains in FLAIR with a lesion in half of their slices, half of it no brighter than grey matter, which pushes "
        "tissue aside; 24 patients to train on and 16 to validate, these with twins without the lesion.",
    ),
    "qu2019_table1": Study(
        "Qu et al. 2019, Table 1: who guides lesions",
        NESTED,
        "Brains with nested lesions in four registered contrasts, 12 patients to train on and 16 to validate.",
    ),
    "qu2019_table2": Study(
        "Qu et al. 2019, Table 2: amount and order of synthetic images",
        NESTED,
        "Brains with nested lesions in four registered contrasts, 12 patients to train on and 16 to validate.",
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
    if code := sweep.run():
        raise SystemExit(code)
    return read_plan(sweep_directory(workspace, name))


def lend(study: Study, workspace: Path) -> None:
    """Prepare the cohort that the study borrows from, where it does, in the workspace: its trials do the training."""
    if study.lends:
        folder = workspace / "phantom-lender"
        lender = read_cohort(folder) if (folder / "cohort.yaml").is_file() else study.lends(folder)
        prepare(lender, workspace / "stores")


# --- writing -----------------------------------------------------------------------------------------------------


def section(name: str, plan: SweepPlan, table: Ablation) -> str:
    """What the sweep came to, in Markdown."""
    study = STUDIES[name]
    parts = [f"## {study.title}", f"{study.shows} {_how(name, plan, table)}", table.conclusion, _rows(brief(table))]
    if (healing := healing_table(table)) is not None:
        parts += [f"### {HEADING}", WHAT, _bullets(outdone(table)), _table(*healing)]
    parts += [_bullets(table.caveats)]
    for published in table.published:
        parts += [f"### Beside it: {published.where}", INCOMPARABLE, headlines(published)]
        parts += [_table(headers, rows) for headers, rows in comparison_tables(published)]
        parts += [_bullets(comparison_caveats(published))]
    return "\n\n".join(part for part in parts if part) + "\n"


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
    if plan.fixed:
        settings = ", ".join(f"{key}={value}" for key, value in plan.fixed.items())
        text += f" **Not the study itself**: run with {settings}."
    return text


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
    parser.add_argument("--seeds", type=int, nargs="+", action="extend")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE")
    parser.add_argument("--workspace", type=Path, default=Path("workspace/paper-tables"))
    parser.add_argument("--page", type=Path, help="page whose section of this study is replaced")
    options = parser.parse_args()
    options.seeds = options.seeds or [0, 1, 2, 3, 4]
    workspace = options.workspace.absolute()

    def run() -> int:
        plan = swept(options.study, workspace, options.seeds, options.set)
        results = read_results(sweep_directory(workspace, plan.name))
        text = section(options.study, plan, ablation_table(results, published=plan.published(), declared=plan.family))
        print(f"\n{text}")
        if options.page:
            place(options.page, options.study, text)
        return 0

    return guarded(run, workspace=workspace, debug=False)


if __name__ == "__main__":
    sys.exit(main())
