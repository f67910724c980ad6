"""What a sweep leaves in its folder: its plan, and one ``result.json`` a trial; read without Ray or MLflow."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ganatomy.contracts import InputError
from ganatomy.core.durable import append_line
from ganatomy.core.installation import software
from ganatomy.core.names import checked_name, on_one_line, shortened
from ganatomy.core.plain_files import MOST_JSON, read_json, read_text
from ganatomy.core.plain_values import plain
from ganatomy.core.plugins import nearest, resolve
from ganatomy.core.standstill import USUAL_S
from ganatomy.core.tables import absolute, write_atomically
from ganatomy.downstream.task import DownstreamTask, task_of
from ganatomy.experiment import Experiment, Score, TrialResult
from ganatomy.measures.objectives import check_objectives
from ganatomy.search_space import PaperTable, SearchSpace, load_space, named_in, space_of
from ganatomy.tracking.embedded import SQLITE, address, found_in, inner, recorded

T = TypeVar("T")

PLAN = "sweep.json"
RESULT = "result.json"
CONCLUDED = "concluded"
RETRIED = "retried.jsonl"
TRACEBACK = "traceback.txt"
"""In a trial's folder: that it has come to its end; when it was put back, and why; what it failed by, and where."""

DRIVEN_BY = "software.jsonl"
"""In a sweep's folder: a line a driver whose software is not that of the driver before it, name -> version."""

BASELINE = "the best training without synthetic data"
"""What candidates are compared with: chosen as they are, on validation patients."""

TERMS = 1
"""What arms have in common, by number: raised when a word of an experiment means other work than it did."""

LATEST = "latest"
"""What the newest sweep of a workspace may be called by."""


@dataclass(frozen=True)
class SweepPlan:
    """Everything needed to run, resume and judge a sweep.

    space: name of the search space.  full: whether at its full size.  base: its Experiment, at that size, with this
    cohort's domains filled in.  fixed: parameters set on the command line.  store: folder of the prepared cohort.
    workers, cpus, gpus: per trial and per worker.  apart: trial drivers hold no resources; what they compute asks Ray
    for them.  standstill_s: seconds without a step after which a process is ended, 0 for never.
    tracking_uri, experiment, run_id: where it is recorded; earlier plans had one experiment for all cohorts.
    endpoint, family: what it is judged by, declared before it starts: the score, and the configurations (-> their
    points, for a reader) that are compared with ``rule``, the baseline; None in earlier plans, which declared nothing.
    confirms: name of the sweep whose pick is trained again, and nothing else; pick: that, candidate and baseline.
    controls: values of trials that are run besides what the space lists or samples, each with its seed.
    compare: as the family was asked for, NAME=VALUE; empty where it is all that the space lists.
    objectives: names of ``measures.objectives`` that the sampler looks for; none in earlier plans: utility alone.
    terms: ``TERMS`` when it was planned, 0 in earlier plans, which can be read and not gone on with.
    anatomy, modalities: of the cohort and of its domains; unsaid in earlier plans.
    """

    name: str
    space: str
    base: Experiment
    store: str
    cohort: str
    cohort_digest: str
    trials: int
    full: bool = False
    seeds: tuple[int, ...] = (0,)
    fixed: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    apart: bool = False
    concurrent: int = 0
    scheduler: str = "none"
    sampler_seed: int = 0
    standstill_s: float = USUAL_S
    tracking_uri: str = ""
    experiment: str = "ganatomy"
    run_id: str = ""
    endpoint: str = ""
    family: Mapping[str, str] | None = None
    rule: str = BASELINE
    confirms: str = ""
    pick: Mapping[str, Experiment] = field(default_factory=dict)
    controls: tuple[Mapping[str, Any], ...] = ()
    compare: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    terms: int = TERMS
    anatomy: str = ""
    modalities: Mapping[str, str] = field(default_factory=dict)

    @property
    def validations(self) -> int:
        """How often a trial validates while it trains."""
        return self._fixed("budget.validations").budget.validations

    @property
    def task(self) -> DownstreamTask:
        """The downstream task of its trials: one a sweep."""
        return task_of(self._fixed("downstream.task"))

    @property
    def score(self) -> str:
        """Name of the number that its trials are ranked by."""
        return self.task.score

    @property
    def measure(self) -> str:
        """What that number is, to a reader."""
        return self.task.measure

    def _fixed(self, name: str) -> Experiment:
        return self.base.with_values({name: self.fixed[name]} if name in self.fixed else {})

    def search_space(self) -> SearchSpace:
        """The space that is swept: at its size, with its domains. InputError where it is no longer installed, or a
        dotted path that is not allowed."""
        if self.confirms:
            return space_of(self.pick, self.space)
        space = load_space(self.space)
        return replace(space.at_full_size() if self.full else space, base=self.base)

    def check_named(self) -> None:
        """Raise InputError where what the plan itself names, whoever wrote it, cannot be had or is not allowed."""
        self.search_space()
        picked = (named_in(experiment.flat()) for experiment in self.pick.values())
        for kind, name in named_in(self.base.flat()).union(named_in(self.fixed), *picked):
            resolve(kind, name)

    def published(self, tell: Callable[[str], None] = lambda why: None) -> tuple[PaperTable, ...]:
        """What papers say of the sweep's points, of organ and modalities like its cohort's; ``tell`` hears why others
        are left out, or all, where its space cannot be had."""
        try:
            tables = self.search_space().published
        except InputError as error:
            tell(f"nothing that papers say of its points is shown: {on_one_line(str(error))}")
            return ()
        unlike = {table.where: self._unlike(table) for table in tables}
        for where, why in unlike.items():
            if why:
                tell(f"{where}: not shown beside this sweep: {why}")
        return tuple(table for table in tables if not unlike[table.where])

    def _unlike(self, table: PaperTable) -> str:
        """What the table is of and this sweep's cohort is not, in words."""
        if table.of is None:
            return ""
        ours, theirs = self.anatomy, table.of.anatomy
        if ours.casefold() != theirs.casefold():
            return f"that is of the {theirs}, and this of " + (
                f"the {ours}" if ours else "what cohort.yaml leaves unsaid"
            )
        for role, said in table.of.modalities.items():
            if role not in self.base.domains:
                return f"{role} is one of its roles, and none here"
            domain = self.base.domain(role)
            if not {_modality(said)} & {_modality(domain), _modality(self.modalities.get(domain, ""))}:
                return f"{role} is {said} there, and {domain} here"
        if table.of.target and table.of.target != self.base.target:
            return (
                f"the model there works in {table.of.modalities[table.of.target]}, here in {self.base.target_domain()}"
            )
        return ""

    def save(self, directory: Path) -> None:
        """Write ``sweep.json``, atomically; what lies in the workspace by its place there."""
        directory.mkdir(parents=True, exist_ok=True)
        workspace = absolute(directory).parents[1]
        store, cohort = (inner(Path(path), workspace) if path else "" for path in (self.store, self.cohort))
        kept = replace(self, store=store, cohort=cohort, tracking_uri=recorded(self.tracking_uri, workspace))
        write_json(directory / PLAN, plain(kept))

    def elsewhere(self, workspace: Path) -> list[str]:
        """What of the sweep is a file outside ``workspace``, a sentence each: a copy of the workspace shares it."""
        files = {"runs are recorded in": self.tracking_uri.removeprefix(SQLITE), "the prepared cohort is": self.store}
        return [f"{said} {path}, which is not in workspace {workspace}" for said, path in files.items()
                if path.startswith("/") and not Path(path).is_relative_to(absolute(workspace))]  # fmt: skip


def _modality(name: str) -> str:
    """A modality's name, in one spelling."""
    return {"mri": "mr"}.get(name.casefold(), name.casefold())


def sweeps(workspace: Path) -> list[str]:
    """Names of all sweeps of a workspace, the newest last."""
    plans = sorted((workspace / "sweeps").glob(f"*/{PLAN}"), key=lambda path: path.stat().st_mtime)
    return [path.parent.name for path in plans]


def sweep_directory(workspace: Path, name: str) -> Path:
    """Folder of the sweep ``name`` (``latest``: the newest); InputError with the nearest name if there is none."""
    known = sweeps(workspace)
    chosen = _latest(workspace, known) if name == LATEST and known else name
    if chosen not in known:
        raise InputError(
            f"no sweep {name!r} in workspace {workspace}",
            expected=nearest(name, known),
            remedy="--workspace DIR if it lies elsewhere, or run ganatomy sweep first",
        )
    return workspace / "sweeps" / chosen


def _latest(workspace: Path, known: list[str]) -> str:
    """The newest sweep that is not the confirmation of another."""
    plans = ((name, read_json(workspace / "sweeps" / name / PLAN)) for name in reversed(known))
    return next((name for name, plan in plans if not (isinstance(plan, dict) and plan.get("confirms"))), known[-1])


def read_plan(directory: Path) -> SweepPlan:
    """The plan of the sweep in ``directory``; InputError where another version wrote it, or where it is another's."""
    try:
        values = read_json(directory / PLAN)
        values["base"] = Experiment.from_dict(values["base"])
        values["seeds"] = tuple(values["seeds"])
        values.setdefault("terms", 0)
        values["pick"] = {side: Experiment.from_dict(picked) for side, picked in values.get("pick", {}).items()}
        values |= {name: tuple(values.get(name, ())) for name in ("controls", "compare", "objectives")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {on_one_line(str(error))}"
        raise InputError(f"{directory / PLAN} is damaged: {why}", remedy="run it anew") from error
    try:
        plan = SweepPlan(**values)
    except TypeError as error:
        raise InputError(f"{directory / PLAN} was written by another version: {error}", remedy="run it anew") from error
    if plan.name != directory.name:  # whatever it is called would be written to
        raise InputError(f"{directory / PLAN} is the plan of sweep {shortened(plan.name)}",
                         expected=f"that of {directory.name!r}", remedy="give the folder its name again")  # fmt: skip
    _named(directory / PLAN, "objectives", lambda: check_objectives(plan.objectives, "none", segments=True))
    if plan.run_id:
        checked_name(plan.run_id, f"{directory / PLAN}: run_id")
    return _at_home(plan, absolute(directory).parents[1], directory / PLAN)


def _at_home(plan: SweepPlan, workspace: Path, file: Path) -> SweepPlan:
    """``plan`` with the places of ``workspace``, which may be a copy, or have been moved.

    Earlier versions wrote absolute ones: what lay in the workspace that the sweep began in is looked for in this one.
    """
    for what, value in (("store", plan.store), ("cohort", plan.cohort), ("tracking_uri", plan.tracking_uri),
                        ("experiment", plan.experiment)):  # fmt: skip
        if not isinstance(value, str):
            raise InputError(f"{file}: {what} is {shortened(str(value))}", expected="text")
    prepared = Path(plan.store)
    began = prepared.parents[1] if prepared.is_absolute() and len(prepared.parts) > 3 else workspace
    if plan.tracking_uri == f"{SQLITE}{began / 'mlflow.db'}":
        uri = f"{SQLITE}{workspace / 'mlflow.db'}"
    else:
        uri = _named(file, "tracking_uri", lambda: address(workspace, plan.tracking_uri))
    store, cohort = (
        str(_named(file, what, partial(_place, said, began, workspace))) if said else ""
        for what, said in (("store", plan.store), ("cohort", plan.cohort))
    )
    return replace(plan, store=store, cohort=cohort, tracking_uri=uri)


def _place(said: str, began: Path, workspace: Path) -> Path:
    """Where what was ``said`` lies now: in ``workspace`` if it says so, or has what lay in ``began``."""
    path = found_in(workspace, said)
    here = workspace / path.relative_to(began) if path.is_relative_to(began) else path
    return here if here.exists() else path


def _named(file: Path, what: str, find: Callable[[], T]) -> T:
    """What ``find`` finds; an InputError of it names the plan's ``file``, and what of it."""
    try:
        return find()
    except InputError as error:
        raise InputError(f"{file}: {what}: {error}") from error


def write_result(directory: Path, result: TrialResult) -> None:
    """Write the ``result.json`` of one trial, atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / RESULT, plain(result))


def read_result(path: Path) -> TrialResult:
    """Inverse of ``write_result``. InputError where a name in it, which is to be part of a path, can be none."""
    values = read_json(path)
    values["experiment"] = Experiment.from_dict(values["experiment"])
    values["scores"] = tuple(Score(**row) for row in values["scores"])
    values.setdefault("diverged", "the training diverged" in values.get("error", ""))  # as earlier versions said it
    result = TrialResult(**values)
    for what, name in {"trial": result.trial, "run_id": result.run_id, **dict(result.stages)}.items():
        if name:
            checked_name(name, f"{path}: {what}")
    return result


def read_results(directory: Path) -> list[TrialResult]:
    """Results of all trials of the sweep in ``directory`` that have one, by trial id."""
    return [read_result(path) for path in sorted((directory / "trials").glob(f"*/{RESULT}"))]


def read_status(directory: Path, trial: str) -> str:
    """How far a trial of the sweep in ``directory`` is; ``running`` while it has no result."""
    path = directory / "trials" / trial / RESULT
    return read_result(path).status if path.exists() else "running"


def conclude(directory: Path, trial: str) -> None:
    """Note that a trial of the sweep in ``directory`` has come to its end, everywhere: it is never begun again."""
    (directory / "trials" / trial / CONCLUDED).touch()


def is_concluded(directory: Path, trial: str) -> bool:
    """A trial of the sweep in ``directory`` has come to its end."""
    return (directory / "trials" / trial / CONCLUDED).exists()


def outstanding(directory: Path, plan: SweepPlan) -> int:
    """How many trials of the sweep in ``directory`` have yet to come to their end, as ``--resume`` counts them: one
    that failed has ended once the sweep has noted it, until then it is tried again."""
    return max(0, plan.trials - sum(has_ended(directory, result) for result in read_results(directory)))


def has_ended(directory: Path, result: TrialResult) -> bool:
    """A trial of the sweep in ``directory`` is not to be run any more, as ``outstanding`` counts."""
    return result.status in ("finished", "pruned") or is_concluded(directory, result.trial)


def retriable(directory: Path) -> tuple[list[TrialResult], list[TrialResult]]:
    """The trials of the sweep in ``directory`` that have ended as failed: those that may be run again, and those whose
    training diverged or whose synthetic set was refused, which is what there is to find under such a seed."""
    failed = [one for one in read_results(directory) if one.status == "failed" and has_ended(directory, one)]
    findings = [one for one in failed if one.diverged or one.refused]
    return [one for one in failed if one not in findings], findings


def put_back(directory: Path, result: TrialResult) -> None:
    """Have a failed trial of the sweep in ``directory`` run again, as it was to run; that it failed stays on record."""
    folder = directory / "trials" / result.trial
    append_line(folder / RETRIED, json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                                              "error": result.error}))  # fmt: skip
    (folder / CONCLUDED).unlink(missing_ok=True)


def is_retried(directory: Path, trial: str) -> bool:
    """A trial of the sweep in ``directory`` has failed before, and was put back."""
    return (directory / "trials" / trial / RETRIED).exists()


def write_json(path: Path, value: Any) -> None:
    """Write beside, then rename. NaN is written as such (Python reads it back)."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False))


def keep_software(directory: Path) -> None:
    """Write down that the sweep in ``directory`` is driven from here on by what is installed here."""
    here = software()
    if [here] != drivers(directory)[-1:]:
        append_line(directory / DRIVEN_BY, json.dumps(here))


def drivers(directory: Path) -> list[dict[str, str]]:
    """What drove a sweep, name -> version, the first driver first, each that differs from the one before; none where
    it was not yet written down. A line that a driver was killed at is passed over."""
    path, found = directory / DRIVEN_BY, []
    for line in read_text(path, MOST_JSON).splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, AttributeError):
            found.append({str(name): str(value) for name, value in json.loads(line).items()})
    return found
