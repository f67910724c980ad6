"""What a sweep was: declared before it began, of which cohort, with what software, by which commands."""

from __future__ import annotations

import datetime
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from ganatomy.core.installation import UNKNOWN, release, software
from ganatomy.core.standstill import USUAL_S
from ganatomy.evidence.configurations import LONG_REAL, STRONG_REAL
from ganatomy.evidence.results import SweepPlan, drivers
from ganatomy.exhibits.exhibit import Exhibit, Grid
from ganatomy.exhibits.material import Material
from ganatomy.measures.statistics import counted
from ganatomy.stores.store import Store

SPLITS = ("train", "val", "test")


def facts(material: Material) -> tuple[tuple[str, str], ...]:
    """What a sweep is of, in few words. Pages are given away and stand in MLflow: where a cohort lies is nobody's
    business there."""
    plan = material.plan
    said = {"cohort": Path(plan.cohort).name, "digest": plan.cohort_digest}
    if not material.sweeps:
        said |= {"search space": plan.space, "size": "the paper's" if plan.full else ""}
    said["trials"] = f"{plan.trials}"
    said["written"] = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d} by ganatomy {release()}"
    return tuple((name, value) for name, value in said.items() if value)


def declaration(material: Material) -> Exhibit:
    """Endpoint and family as the plan declares them."""
    plan = material.plan
    heading = "Declared before it began"
    if plan.family is None:
        return Exhibit(heading, ("Nothing: the sweep was planned by a version that declared nothing.",))
    endpoint = f"Endpoint: {plan.endpoint or plan.score}, on validation patients. Compared with: {plan.rule}."
    if not plan.family:
        return Exhibit(heading, (endpoint, "Family: no comparison. What is sampled is searched."))
    named = {row.configuration: row.name for row in material.table.rows}
    rows = tuple((named.get(key, "(none has finished)"), point) for key, point in plan.family.items())
    family = f"Family: {counted(len(rows), 'comparison')}, whose intervals hold together."
    return Exhibit(heading, (endpoint, family), (Grid(("configuration", "point"), rows),))


def cohort(material: Material) -> Exhibit:
    """Patients and images by domain and split, as they were prepared. InputError where the store cannot be read."""
    store, name = Store(Path(material.plan.store)), Path(material.plan.cohort).name
    people = {record.patient for record in store.records()}
    labels = ", ".join(f"{number} {label}" for number, label in sorted(store.labels.items())) or "none"
    said = (
        f"Cohort {name}, digest {material.plan.cohort_digest}: {counted(len(people), 'patient')}, "
        f"{counted(len(store), 'image')}. Labels: {labels}.",
        "Splits go by patient: no patient is in two of them. Training patients train, validation patients choose and "
        "are what this report is of, test patients are read by a promotion alone.",
    )
    headers = ("domain", "split", "patients", "images", "labelled")
    return Exhibit("Cohort and splits", said, (Grid(headers, tuple(_counts(store))),))


def _counts(store: Store) -> Iterator[tuple[str, ...]]:
    """A row a domain and split; of all domains together where there are several."""
    for domain in [*store.domains, *([None] if len(store.domains) > 1 else [])]:
        for split in SPLITS:
            records = store.records(domain, split)
            of = len({one.patient for one in records}), len(records), sum(one.labelled for one in records)
            yield (domain or "all", split, *map(str, of))


def versions(material: Material) -> Exhibit:
    """Versions and commit of what ran the sweep and of what wrote the report, and the commands that make it again."""
    plan, heading = material.plan, "Versions and commands"
    written = f"ganatomy report {shlex.join(material.sweeps or (plan.name,))} --html report.html"
    if material.sweeps:
        said = "Versions of what wrote this report. Beneath: what wrote it; what runs a sweep again stands in its own."
        return Exhibit(heading, (said,), (_side_by_side({"wrote this report": software()}),), commands=(written,))
    said = (
        "Beneath: what runs the sweep again, where --cohort takes the folder of the cohort, and what wrote this report."
    )
    ran = drivers(material.workspace / "sweeps" / plan.name)
    columns = {"ran the sweep" if not at else f"went on with it ({at})": one for at, one in enumerate(ran)}
    grid = _side_by_side({**columns, "wrote this report": software()})
    missing = () if ran else ("What ran the sweep was not yet written down then.",)
    again = confirming(plan) if plan.confirms else rerun(plan)
    return Exhibit(heading, (*missing, said), (grid,), commands=(again, written))


def _side_by_side(columns: Mapping[str, Mapping[str, str]]) -> Grid:
    """Name -> version, a column each."""
    names = dict.fromkeys(name for versions in columns.values() for name in versions)
    rows = tuple((name, *(versions.get(name, UNKNOWN) for versions in columns.values())) for name in names)
    return Grid(("what", *columns), rows)


def confirming(plan: SweepPlan) -> str:
    """The command that runs the confirmation ``plan`` again."""
    return f"ganatomy confirm {shlex.quote(plan.confirms)} --trainings {len(plan.seeds)}"


def rerun(plan: SweepPlan) -> str:
    """The command that plans the same sweep again, with the cohort's name where its folder is to stand. Where trials
    run, and how many at a time, is left to whoever runs it."""
    words = ["ganatomy sweep", f"--space {shlex.quote(plan.space)}", f"--cohort {shlex.quote(Path(plan.cohort).name)}"]
    words += ["--full"] * plan.full
    listed = plan.trials - len(plan.controls)
    words += [f"--trials {listed}", f"--seeds {' '.join(map(str, plan.seeds))}"]
    if plan.fixed:
        words.append("--set " + " ".join(shlex.quote(f"{name}={value}") for name, value in plan.fixed.items()))
    if plan.compare:
        words.append("--compare " + " ".join(map(shlex.quote, plan.compare)))
    if plan.objectives:
        words.append(f"--objectives {' '.join(plan.objectives)}")
    if named := _controls(plan):
        words.append(f"--controls {' '.join(named)}")
    if plan.base.domains:
        cast = " ".join(shlex.quote(f"{role}={domain}") for role, domain in plan.base.domains.items())
        words.append(f"--domains {cast}")
    words += [f"--workers-per-trial {plan.workers}"] * (plan.workers != 1)
    words += [f"--cpus-per-worker {plan.cpus:g}"] * (plan.cpus != 1)
    words += [f"--gpus-per-worker {plan.gpus:g}"] * bool(plan.gpus)
    words += [f"--scheduler {plan.scheduler}", f"--seed {plan.sampler_seed}"]
    words += [f"--standstill-s {plan.standstill_s:g}"] * (plan.standstill_s != USUAL_S)
    return _wrapped(words)


def _controls(plan: SweepPlan) -> list[str]:
    """The names of the controls that a plan has, by what they are."""
    strong = any(
        control.get("downstream.augmentation") == "strong" or control.get("arm") == "classical"  # as it was called
        for control in plan.controls
    )
    longer = any("budget.segmentor_steps" in control for control in plan.controls)
    return [*([LONG_REAL] if longer else []), *([STRONG_REAL] if strong else [])]


def _wrapped(words: list[str], width: int = 90) -> str:
    """A command over as many lines as it takes, each but the last ended by a backslash; no option is torn apart."""
    lines = [""]
    for word in words:
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return " \\\n".join([lines[0], *(textwrap.indent(line, "    ") for line in lines[1:])])
