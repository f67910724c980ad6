"""The sweep command: what a sweep is given, checked and written down as its plan before anything is spent.

``python sweep.py`` and ``ray submit cluster.yaml sweep.py`` are this module's ``main``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import ray

from ganatomy.cluster import nodes, roll
from ganatomy.cluster.joining import start_ray
from ganatomy.cohorts.claims import alone_in, assert_reserved, numbered, reserved
from ganatomy.cohorts.reading import read_cohort
from ganatomy.cohorts.roles import cast_roles
from ganatomy.commands.console import described, parse
from ganatomy.commands.repeated_options import typed_in
from ganatomy.contracts import InputError
from ganatomy.core.installation import CACHE, SOURCES, demanded
from ganatomy.core.names import checked_name
from ganatomy.core.plugins import allow, available
from ganatomy.core.standstill import STANDSTILL, USUAL_S
from ganatomy.core.terminal import BAD_INPUT, guarded, one_line
from ganatomy.evidence.results import LATEST, PLAN, SweepPlan, read_plan, sweep_directory
from ganatomy.experiment import Experiment
from ganatomy.search_space import SearchSpace, load_space, named_in, parse_settings
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import URL, Store, publish_store
from ganatomy.sweeps.proposals import read_asked
from ganatomy.sweeps.tuning import fitting, run_sweep
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.server import refuse_password
from ganatomy.training.loop import check_share
from ganatomy.training.models import scored_images
from ganatomy.training.tasks import labelled_patients

OF_A_RUN = frozenset(
    ("resume", "trials", "concurrent", "standstill_s", "address", "nodes", "workspace", "store_cache", "store_url",
     "allow_dotted", "debug")
)  # fmt: skip
"""Options that a resumed sweep may be given anew; the rest is what it is."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Run all trials of a search space on a cohort, on this machine or on the Ray cluster this runs on.

    $ python sweep.py --space shape_consistent --cohort my-cohort --trials 40
    $ python sweep.py --space shape_consistent --cohort my-cohort --set method.shape_weight=0.5 --seeds 0 1 2
    $ python sweep.py --resume my-cohort-shape_consistent
    $ ray submit cluster.yaml sweep.py --space shape_consistent --cohort /data/my-cohort --trials 400

    Stages that trials share are computed once. Neither Ctrl-C nor a kill loses anything: --resume goes on.
    """

    space: str = ""
    """Name of an installed search space, or package.module:NAME of your own."""
    cohort: Path | None = None
    """Folder of a cohort (see `ganatomy cohort import`)."""
    full: bool = False
    """The study at the paper's size: its networks, images and schedules, where the space runs smaller by default."""
    trials: int = 0
    """How many trials; 0: the space's listed points, each with every seed. With --resume, more than it began with."""
    seeds: tuple[int, ...] = ()
    """Seeds of the replicates of each listed point; the space's own if not given. Sampled points use the first."""
    set: tuple[str, ...] = ()
    """NAME=VALUE, …: fix parameters instead of sampling them, e.g. method.shape_weight=0.5 budget.batch=8. Of a space's
    listed points those remain that have the value; where none has it, all get it."""
    source: str = ""
    """Domain that images are translated from; by default the one with more labelled training patients."""
    target: str = ""
    """Domain that the downstream model works in; by default the other one, or the only one."""
    domains: tuple[str, ...] = ()
    """ROLE=DOMAIN …: which domain plays which role of the method, where --source and --target do not say it;
    DOMAIN:lesion and DOMAIN:healthy are its slices with and without anything labelled."""
    workers_per_trial: int = 1
    """Ray Train workers that train one trial together."""
    cpus_per_worker: float = 1.0
    """CPUs of one worker."""
    gpus_per_worker: float = 0.0
    """GPUs of one worker; a fraction lets several trials share one."""
    concurrent: int = 0
    """Trials at the same time; 0: as many as fit."""
    scheduler: Literal["auto", "asha", "none"] = "auto"
    """ASHA stops unpromising trials early; auto: only where points are sampled, so that ablations are complete."""
    seed: int = 0
    """Seed of Optuna's sampler."""
    name: str = ""
    """Name of the sweep; COHORT-SPACE[-full] if not given, with a number if that is taken."""
    resume: str = ""
    """Name of a sweep to go on with (`latest`: the newest), interrupted, or ended and to have more --trials; finished
    trials are not repeated. What would make it another sweep is refused beside it."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, else an SQLite store in the workspace."""
    address: str = ""
    """Ray cluster to run on; RAY_ADDRESS, else a running one on this machine, else one of its own."""
    nodes: int = 0
    """Wait, at most ten minutes, until so many nodes have joined the cluster."""
    workspace: Path = field(default_factory=lambda: Path(os.environ.get("GANATOMY_WORKSPACE") or "workspace"))
    """Folder of sweeps, stores, stages and the embedded MLflow store; on a cluster, one that every node sees."""
    store_cache: str = ""
    """Folder on each node's own disc that the prepared cohort is copied to before it is read, once; a node's own
    GANATOMY_STORE_CACHE if not given, else it is read where it lies."""
    store_url: str = ""
    """Also put the prepared cohort there (s3://BUCKET/FOLDER), for such copies to come from; GANATOMY_STORE_URL."""
    standstill_s: float | None = None
    """End a process that computes and takes no step for so many seconds (1800 if not given, or what a resumed
    sweep began with); what it did is taken up from its last checkpoint. 0: never."""
    allow_dotted: tuple[str, ...] = ()
    """package.module:NAME …: code that a resumed sweep was begun with, and that is not installed under a name. What
    --space and --set say is allowed by being typed; what stands in a file is not."""
    debug: bool = False
    """Show tracebacks."""

    def run(self, typed: Collection[str] = ()) -> int:
        """Run or resume; 0 when all trials came to an end, 1 when none finished, 130 when interrupted.

        typed: names of the options that the user gave.
        """
        with contextlib.ExitStack() as running:
            settled = partial(self._settled, running)
            plan = self.resumed(typed) if self.resume else self.planned(settled)
            directory = self.workspace.absolute() / "sweeps" / plan.name
            running.enter_context(alone_in(directory))
            if self.resume:
                plan = settled(plan)
                if plan.trials > (begun := read_plan(directory)).trials:
                    replace(begun, trials=plan.trials).save(directory)
            return run_sweep(plan, self.workspace.absolute())

    def resumed(self, typed: Collection[str] = ()) -> SweepPlan:
        """The plan of the sweep to go on with, of more trials where ``--trials`` says so.

        InputError for an option that would make it another sweep.
        """
        self._refuse()
        allow(*self.allow_dotted)
        directory = sweep_directory(self.workspace.absolute(), self.resume)
        if fixed := [f"--{name.replace('_', '-')}" for name in sorted(set(typed) - OF_A_RUN)]:
            raise InputError(f"{', '.join(fixed)} cannot be changed in a sweep that has begun",
                             expected="what is of this run: --trials, --concurrent, --standstill-s, where it runs",
                             remedy="leave it out, or begin a new sweep: it finds the stages they share")  # fmt: skip
        plan = read_plan(directory)
        if "trials" in typed and self.trials < plan.trials:
            raise InputError(f"--trials {self.trials} of a sweep of {plan.trials}", expected="as many, or more")
        read_asked(directory)  # what it cannot go on with is said before anything is started
        plan.check_named()
        for sentence in plan.elsewhere(self.workspace.absolute()):
            _say(sentence)
        return replace(
            plan,
            trials=max(plan.trials, self.trials),
            concurrent=self.concurrent if "concurrent" in typed else plan.concurrent,
            standstill_s=plan.standstill_s if self.standstill_s is None else self.standstill_s,
        )

    def _settled(self, running: contextlib.ExitStack, plan: SweepPlan) -> SweepPlan:
        """Join the cluster; the plan as it can run there. InputError where it has no room, or a node is not like us.

        running: joining the cluster, and what it takes to follow its nodes, is undone with it.
        """
        packages = _packages(plan)
        places = {name: place for name, place in ((CACHE, self.store_cache), (URL, self.store_url)) if place}
        running.callback(ray.shutdown)
        start_ray(self.address, {SOURCES: demanded(packages), STANDSTILL: f"{plan.standstill_s:g}", **places})
        nodes.await_nodes(self.nodes, _say)
        question = running.enter_context(
            nodes.inquiry(
                packages,
                workspace=self.workspace.absolute(),
                cohort=None if self.resume else Path(plan.cohort),
                store=None if self.store_url or os.environ.get(URL) else Path(plan.store),
            )
        )
        agreed = nodes.alive()
        if len(agreed) > 1:
            agreed = nodes.check_nodes(question, _say)
            # Drivers stay on the head node, and work whose node dies is done again elsewhere.
            plan = replace(plan, apart=True)
        running.enter_context(roll.roll_called(question, _say, agreed))
        fitting(plan)
        return plan

    def planned(self, settled: Callable[[SweepPlan], SweepPlan] = lambda plan: plan) -> SweepPlan:
        """Check everything that can be checked before anything is spent, prepare the cohort, and write the plan.

        settled: fits the plan to the cluster before it is written or recorded; raises where nothing can run it.
        """
        if not self.space or self.cohort is None:
            raise InputError("nothing to run", expected="--space NAME --cohort DIR, or --resume SWEEP")
        self._refuse()
        fixed = parse_settings(self.set)
        allow(*self.allow_dotted, *(name for _, name in named_in(fixed)))
        space = _space(self.space, self.full)
        cohort = read_cohort(self.cohort)
        usual = f"{cohort.name}-{space.name}" + "-full" * self.full
        name = checked_name(self.name or usual, "sweep name", remedy="--name")
        if name == LATEST:  # promote, report and --resume would take another for it
            raise InputError("a sweep called latest", expected="any other name: it is what the newest is called")
        base = cast_roles(space.base, cohort, self.domains, self.source, self.target)
        space = replace(space, base=base)
        space.check_fixed(fixed)
        seeds = self.seeds or space.seeds
        listed = space.listed(fixed, seeds)
        experiments = [space.experiment(point, fixed).validate() for point in listed or [{}]]
        for experiment in experiments:
            check_share(experiment.budget.batch, self.workers_per_trial)
        if not (self.trials or listed):
            raise InputError(f"space {self.space} lists no points", expected="--trials N")
        workspace = self.workspace.absolute()
        with _reserved_name(workspace, name, given=bool(self.name)) as name:
            tracking = Tracking(self.tracking_uri or None, workspace)
            store = prepare(cohort, workspace / "stores")
            if url := self.store_url or os.environ.get(URL):
                publish_store(store.path, url)
            for experiment in experiments:  # labels without which every trial would fail, one after the other
                labelled_patients(store, experiment, experiment.target)
                scored_images(store, experiment, "val")
            _tell_labels(store, experiments)
            plan = SweepPlan(
                name=name,
                space=self.space,
                full=self.full,
                base=base,
                store=str(store.path),
                cohort=str(self.cohort.absolute()),
                cohort_digest=store.digest,
                trials=self.trials or len(listed),
                seeds=seeds,
                fixed=fixed,
                workers=self.workers_per_trial,
                cpus=self.cpus_per_worker,
                gpus=self.gpus_per_worker,
                apart=self.workers_per_trial > 1 or any(space.on_two(point, fixed) for point in listed),
                concurrent=self.concurrent,
                scheduler=self._scheduler(len(listed)),
                sampler_seed=self.seed,
                standstill_s=USUAL_S if self.standstill_s is None else self.standstill_s,
                tracking_uri=tracking.uri,
            )
            plan = settled(plan)
            run_id = tracking.sweep_run(plan.name, {"space": plan.space, "cohort": f"{cohort.name} {store.digest}"})
            patients = {domain: len(cohort.patients(domain=domain)) for domain in cohort.domains}
            tracking.log_dataset(
                run_id, cohort.name, store.digest, profile={"patients": patients, "images": len(store)}
            )
            plan = replace(plan, run_id=run_id)
            assert_reserved(workspace / "sweeps" / name)
            plan.save(workspace / "sweeps" / name)
            return plan

    def _refuse(self) -> None:
        """InputError for what no sweep can be given, before anything is read or started."""
        refuse_password(self.tracking_uri, "tracking store")
        refuse_password(self.store_url, "--store-url")
        least = {"trials": 0, "workers_per_trial": 1, "cpus_per_worker": 0.01, "gpus_per_worker": 0, "concurrent": 0,
                 "standstill_s": 0}  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise InputError(f"--{name.replace('_', '-')} {value}", expected=f"{low} or more")

    def _scheduler(self, listed: int) -> str:
        if self.scheduler == "auto":
            return "asha" if self.trials > listed else "none"
        return self.scheduler


def _tell_labels(store: Store, experiments: Sequence[Experiment]) -> None:
    """Say how many patients a label fraction comes to: of few, a small one is rounded up to one."""
    told = set()
    for experiment in experiments:
        if experiment.labels.fraction < 1:
            domain, target = experiment.target_domain(), experiment.target
            used = len(labelled_patients(store, experiment, target))
            everyone = replace(experiment, labels=replace(experiment.labels, fraction=1.0))
            known = len(labelled_patients(store, everyone, target))
            told.add(f"labels of {used} of {known} training patients of {domain} are used "
                     f"(labels.fraction {experiment.labels.fraction:g})")  # fmt: skip
    for sentence in sorted(told):
        _say(sentence)


def _packages(plan: SweepPlan) -> list[str]:
    """The packages whose sources decide what the sweep computes."""
    base = plan.base
    named = (base.method.name, base.downstream.network.name, base.downstream.task)
    return nodes.packages_of(available("spaces").get(plan.space, plan.space), *named)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _reserved_name(workspace: Path, name: str, *, given: bool) -> Iterator[str]:
    """A name that no other sweep has, or gets meanwhile; free again where no plan is written."""
    names = iter([name]) if given else numbered(name)
    with reserved(workspace / "sweeps", names, lambda folder: (folder / PLAN).exists()) as free:
        if free is None:
            remedy = f"choose another --name, or --resume {name}"
            raise InputError(f"sweep {name!r} exists in {workspace}, or is being planned", remedy=remedy)
        yield free


def _space(name: str, full: bool) -> SearchSpace:
    """The space that somebody typed."""
    allow(name)
    space = load_space(name)
    return space.at_full_size() if full else space


def _help(given: Sequence[str]) -> str:
    """What the command is for, and what it can be given here; of a space that is named, what it varies."""
    spaces = ", ".join(sorted(available("spaces")))
    text = f"{described(Sweep, whole=True)}\n\nInstalled spaces: {spaces}."
    words = " ".join(given).replace("--space=", "--space ").split()
    if not {"-h", "--help"} & set(words) or "--space" not in words[:-1]:
        return f"{text} What one varies: --space NAME --help."
    return f"{text}\n\n{_space(words[words.index('--space') + 1], '--full' in words).described()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of sweep.py. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(Sweep, program="sweep.py", description=_help(given), arguments=given)
    except InputError as error:  # a space that is not there
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else BAD_INPUT
    return guarded(partial(options.run, typed_in(Sweep, given)), workspace=options.workspace, debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
