"""What a sweep is asked to be: checked, and written down as its plan, before anything is spent; then run.

``ganatomy sweep`` and ``ganatomy.sweep(...)`` in Python are this, spelt in two ways.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ganatomy.cluster import nodes, roll
from ganatomy.cluster.joining import leave_ray, start_ray
from ganatomy.cohorts.claims import assert_reserved, numbered, reserved
from ganatomy.cohorts.reading import read_cohort
from ganatomy.cohorts.roles import cast_roles, tie_of, with_roles
from ganatomy.contracts import InputError
from ganatomy.core.installation import CACHE, SOURCES, demanded
from ganatomy.core.names import checked_name
from ganatomy.core.plugins import allow, available
from ganatomy.core.standstill import STANDSTILL, USUAL_S
from ganatomy.core.terminal import detail, tell, warn
from ganatomy.downstream.task import task_of
from ganatomy.evidence.configurations import control_points, declared_family
from ganatomy.evidence.results import LATEST, PLAN, SweepPlan, read_plan
from ganatomy.experiment import Experiment
from ganatomy.measures.objectives import check_objectives
from ganatomy.measures.statistics import counted
from ganatomy.measures.verdicts import MINIMUM_TRAININGS
from ganatomy.search_space import SearchSpace, load_space, named_in, parse_settings
from ganatomy.stages.amounts import check_amounts
from ganatomy.stores.lending import check_lenders
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import URL, Store, publish_store
from ganatomy.sweeps.options import Options
from ganatomy.sweeps.proposals import read_asked
from ganatomy.sweeps.resuming import check_retriable, check_terms, driving, run_again, to_resume
from ganatomy.sweeps.showing import present, sweep_tags
from ganatomy.sweeps.tuning import fitting, run_sweep
from ganatomy.tracking.runs import Tracking
from ganatomy.tracking.server import refuse_password
from ganatomy.training.loop import check_share
from ganatomy.training.models import check_start, scored_images
from ganatomy.training.pools import check_labels, check_method, labelled_patients
from ganatomy.training.tasks import generator_updates

OF_A_RUN = frozenset(
    ("resume", "retry_failed", "trials", "concurrent", "standstill_s", "address", "nodes", "workspace", "store_cache",
     "store_url", "allow_dotted", "debug", "verbose", "quiet")
)  # fmt: skip
"""Options that a resumed sweep may be given anew; the rest is what it is."""


@dataclass(frozen=True, kw_only=True)
class SweepRequest(Options):
    """What a sweep is given, and what is done with it."""

    def carried_out(self, typed: Collection[str] = (), show: Callable[[str], object] = print) -> tuple[SweepPlan, int]:
        """The plan, run or resumed to its end, and an exit code: 0 when all trials came to an end, 1 when none
        finished, 130 when interrupted. Raises InputError, before anything is spent, for what cannot be run.

        typed: names of the options that the user gave.  show: is given the ablation table in the end.
        """
        with contextlib.ExitStack() as running:
            settled = partial(self._settled, running)
            plan = self.resumed(typed) if self.resume else self.planned(settled)
            directory = self.workspace.absolute() / "sweeps" / plan.name
            running.enter_context(driving(directory, plan))
            if self.resume:
                plan = settled(plan)
                if self.retry_failed:
                    run_again(directory, plan)
                if plan.trials > (begun := read_plan(directory)).trials:
                    replace(begun, trials=plan.trials).save(directory)
            detail(f"plan: {directory / PLAN}; cohort: {plan.cohort}; store: {plan.store}; runs: {plan.tracking_uri}")
            return plan, run_sweep(plan, self.workspace.absolute(), show)

    def resumed(self, typed: Collection[str] = ()) -> SweepPlan:
        """The plan of the sweep to go on with, of more trials where ``--trials`` says so.

        InputError for an option that would make it another sweep.
        """
        self._refuse()
        allow(*self.allow_dotted)
        directory = to_resume(self.workspace.absolute(), self.resume, self.trials, retry=self.retry_failed)
        if fixed := [f"--{name.replace('_', '-')}" for name in sorted(set(typed) - OF_A_RUN)]:
            raise InputError(f"{', '.join(fixed)} cannot be changed in a sweep that has begun",
                             expected="what is of this run: --trials, --concurrent, --standstill-s, where it runs",
                             remedy="leave it out, or begin a new sweep: it finds the stages they share")  # fmt: skip
        plan = read_plan(directory)
        check_terms(plan)
        if "trials" in typed and self.trials < plan.trials:
            raise InputError(f"--trials {self.trials} of a sweep of {plan.trials}", expected="as many, or more")
        if plan.confirms and self.trials > plan.trials:
            raise InputError(f"--trials {self.trials} of {plan.name}, a confirmation by {plan.trials} trainings",
                             expected="those that were planned: what may be added to is added to until it pleases",
                             remedy="leave it out")  # fmt: skip
        if self.retry_failed:
            check_retriable(directory, plan)
        read_asked(directory)  # what it cannot go on with is said before anything is started
        plan.check_named()
        for sentence in plan.elsewhere(self.workspace.absolute()):
            tell(sentence)
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
        running.callback(leave_ray)
        start_ray(self.address, {SOURCES: demanded(packages), STANDSTILL: f"{plan.standstill_s:g}", **places})
        nodes.await_nodes(self.nodes, tell)
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
            agreed = nodes.check_nodes(question, tell)
            # Drivers stay on the head node, and work whose node dies is done again elsewhere.
            plan = replace(plan, apart=True)
        running.enter_context(roll.roll_called(question, warn, agreed))
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
        space = named_space(self.space, self.full)
        cohort = read_cohort(self.cohort)
        usual = f"{cohort.name}-{space.name}" + "-full" * self.full
        name = checked_name(self.name or usual, "sweep name", remedy="--name")
        if name == LATEST:  # promote, report and --resume would take another for it
            raise InputError("a sweep called latest", expected="any other name: it is what the newest is called")
        base = cast_roles(with_roles(space.base, fixed), cohort, self.domains, self.source, self.target)
        space = replace(space, base=base)
        space.check_fixed(fixed)
        seeds = self.seeds or space.seeds
        listed, classes = space.listed(fixed, seeds), max(cohort.labels, default=0) + 1
        experiments = [space.experiment(point, fixed).validate() for point in listed or [{}]]
        controls = control_points(self.controls, space, fixed, seeds, lambda one: generator_updates(one, classes))
        experiments += [space.experiment(point, fixed).validate() for point in controls]
        for experiment in experiments:
            check_share(experiment.budget.batch, self.workers_per_trial)
            if experiment.arm == "offline" and experiment.mixing.composition == "paper":
                beside = int(experiment.budget.batch * experiment.mixing.ratio)
                check_share(beside, self.workers_per_trial, "budget.batch x mixing.ratio")
        if not (self.trials or listed):
            raise InputError(f"space {self.space} lists no points", expected="--trials N")
        check_objectives(self.objectives, self.scheduler, segments=task_of(experiments[0]).segments)
        family = declared_family(space, fixed, listed, self.compare, controls)
        workspace = self.workspace.absolute()
        with _reserved_name(workspace, name, given=bool(self.name)) as name:
            Tracking(self.tracking_uri or None, workspace, experiment="")  # what cannot be recorded is not begun
            store = prepare(cohort, workspace / "stores")
            tracking = Tracking(self.tracking_uri or None, workspace, f"{cohort.name} {store.digest[:8]}")
            if url := self.store_url or os.environ.get(URL):
                publish_store(store.path, url)
            check_lenders(store.path.parent, experiments)
            check_amounts(store, experiments)
            for experiment in experiments:  # labels without which every trial would fail, one after the other
                check_labels(store, experiment)
                check_method(store, experiment)
                scored_images(store, experiment, "val")
                check_start(experiment, store.classes)
            if not (self.source or self.target or self.domains) and (tie := tie_of(base, cohort)):
                tell(tie)
            _tell_labels(store, experiments)
            plan = SweepPlan(
                name=name,
                space=self.space,
                full=self.full,
                base=base,
                store=str(store.path),
                cohort=str(self.cohort.absolute()),
                cohort_digest=store.digest,
                trials=(self.trials or len(listed)) + len(controls),
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
                experiment=tracking.experiment,
                endpoint=experiments[0].downstream.score,
                family=family,
                controls=tuple(controls),
                compare=self.compare,
                objectives=self.objectives,
                anatomy=cohort.anatomy,
                modalities={domain.name: domain.modality for domain in cohort.domains.values()},
            )
            _tell_family(plan)
            plan = settled(plan)
            tags = {"space": plan.space, "cohort": f"{cohort.name} {store.digest}", **sweep_tags(plan)}
            run_id = tracking.sweep_run(plan.name, tags)
            patients = {domain: len(cohort.patients(domain=domain)) for domain in cohort.domains}
            tracking.log_dataset(
                run_id, cohort.name, store.digest, profile={"patients": patients, "images": len(store)}
            )
            plan = replace(plan, run_id=run_id)
            present(plan, tracking)
            assert_reserved(workspace / "sweeps" / name)
            plan.save(workspace / "sweeps" / name)
            return plan

    def _refuse(self) -> None:
        """InputError for what no sweep can be given, before anything is read or started."""
        if self.retry_failed and not self.resume:
            raise InputError("--retry-failed of a sweep that has yet to begin", expected="--resume NAME beside it")
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
            return "asha" if self.trials > listed and len(self.objectives) < 2 else "none"
        return self.scheduler


def _tell_family(plan: SweepPlan) -> None:
    """Say what is declared, and what so few trainings cannot say."""
    points = list((plan.family or {}).values())
    if not points:
        tell("declared: no comparison; what is sampled is searched")
        return
    tell(f"declared: {plan.endpoint} of {counted(len(points), 'configuration')} against {plan.rule}")
    for point in points:
        detail(f"declared: {point}")
    for control in plan.controls:
        detail(f"control: {' '.join(f'{name}={value}' for name, value in control.items())}")
    if len(plan.seeds) < MINIMUM_TRAININGS:
        tell(f"with {counted(len(plan.seeds), 'training')} of each the table gives no verdict: it takes "
             f"{MINIMUM_TRAININGS} (--seeds); what is picked has one when it is confirmed")  # fmt: skip


def _tell_labels(store: Store, experiments: Sequence[Experiment]) -> None:
    """Say how many patients a label fraction comes to: of few, a small one is rounded up to one."""
    told = set()
    for experiment in experiments:
        if experiment.labels.fraction == 0:
            told.add(f"no label of a training patient of {experiment.target_domain()} is used (labels.fraction 0); arm "
                     "source stands where a point of the space says real")  # fmt: skip
        elif experiment.labels.fraction < 1:
            domain, target = experiment.target_domain(), experiment.target
            used = len(labelled_patients(store, experiment, target))
            everyone = replace(experiment, labels=replace(experiment.labels, fraction=1.0))
            known = len(labelled_patients(store, everyone, target))
            told.add(f"labels of {used} of {known} training patients of {domain} are used "
                     f"(labels.fraction {experiment.labels.fraction:g})")  # fmt: skip
    for sentence in sorted(told):
        tell(sentence)


def _packages(plan: SweepPlan) -> list[str]:
    """The packages whose sources decide what the sweep computes."""
    named = [name for one in (plan.base, *plan.pick.values())
             for name in (one.method.name, one.downstream.network.name, one.downstream.task)]  # fmt: skip
    return nodes.packages_of(available("spaces").get(plan.space, plan.space), *dict.fromkeys(named))


@contextlib.contextmanager
def _reserved_name(workspace: Path, name: str, *, given: bool) -> Iterator[str]:
    """A name that no other sweep has, or gets meanwhile; free again where no plan is written."""
    names = iter([name]) if given else numbered(name)
    with reserved(workspace / "sweeps", names, lambda folder: (folder / PLAN).exists()) as free:
        if free is None:
            remedy = f"choose another --name, or --resume {name}"
            raise InputError(f"sweep {name!r} exists in {workspace}, or is being planned", remedy=remedy)
        yield free


def named_space(name: str, full: bool) -> SearchSpace:
    """The space that somebody typed."""
    allow(name)
    space = load_space(name)
    return space.at_full_size() if full else space
