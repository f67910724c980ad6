"""Sweeps from Python: begun, resumed, looked at, promoted."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from ganatomy.contracts import InputError
from ganatomy.core.installation import workspace_of
from ganatomy.core.plugins import allow
from ganatomy.core.terminal import INTERRUPTED, detail, signals_as_before, tell
from ganatomy.evidence.ablation import Ablation
from ganatomy.evidence.confirmed import Confirmed, came_to, picked_in
from ganatomy.evidence.results import SweepPlan, read_plan, read_results, sweep_directory, sweeps
from ganatomy.evidence.state import SweepState, state_of

if TYPE_CHECKING:
    import pandas

    from ganatomy.cohorts.cohort import Cohort
    from ganatomy.exhibits.material import Material
    from ganatomy.promotion.promotion import Outlook, Promotion
    from ganatomy.sweeps.request import SweepRequest


class Where(TypedDict, total=False):
    """Where trainings run, and how many at a time, as ``sweep`` takes it."""

    concurrent: int
    standstill_s: float
    address: str
    nodes: int
    store_cache: str
    store_url: str


@dataclass(frozen=True)
class Sweep:
    """A sweep in a workspace, running, interrupted or ended; every question is answered by what its folder holds now.

    What stands here is of validation patients; ``promote`` alone reads the test split.
    """

    workspace: Path
    name: str

    @property
    def directory(self) -> Path:
        """Its folder."""
        return self.workspace / "sweeps" / self.name

    @property
    def plan(self) -> SweepPlan:
        """What was planned: space, cohort, trials, seeds, resources. InputError where another version wrote it."""
        return read_plan(self.directory)

    @property
    def state(self) -> SweepState:
        """How far it is: what has ended, and how; whether it is running; in words, ``.sentence``."""
        return state_of(self.directory, self.plan)

    def ablation(self) -> Ablation:
        """The ablation table as an object: rows, conclusion, caveats, the figures of papers beside it, and what has
        come of the sweep since (``.aftermath``): its confirmation, and its promotion."""
        return self.material().table

    def material(self) -> Material:
        """What its report is made of, read once: plan, results, and the table of ``ablation``."""
        from ganatomy.reports.record import material_of

        found = material_of(self.workspace, self.plan, lambda why: tell(f"note: {why}"))
        detail(f"{len(found.results)} of {found.plan.trials} trials are in {self.directory}")
        return found

    def table(self) -> pandas.DataFrame:
        """The ablation table, one row a configuration, the best first.

        name, arm, ``parameters.…`` (what varies), seeds (how many); the score (``dice``, or ``auc`` of classifiers, in
        [0, 1]), mean over patients, then trainings, and what else is known of it (``labels.…``, hd95 in mm, missed,
        worst, ``s_scores.…``, device_seconds); its difference to the baseline over both, from ``low`` to ``high`` with
        95 % for all rows together, p corrected likewise, ``least_shown``, the effect that such a study shows four times
        out of five; reading: helps, harms, undecided, no verdict (the ``reason`` says why), searched; declared, whether
        it was to be compared; baseline and candidate, of which one row each is. What is not known is NaN.
        Trials that failed are not in it: see ``trials``.
        """
        from ganatomy.api.frames import table_frame

        return table_frame(self.ablation())

    def scores(self) -> pandas.DataFrame:
        """The evidence under the table, one row a trial, subject, metric and structure, of all finished trials.

        name (of the configuration, as in ``table``), configuration, arm, seed, trial, patient, subject (pseudonyms),
        metric (``dice``, 0 to 1; ``hd95``, mm; a classifier's probability; ``synthesis/…`` of synthetic images), label
        (the structure), value (NaN where the subject lacks it), missed (it is there, and nothing of it was found).
        """
        from ganatomy.api.frames import scores_frame

        return scores_frame(self.ablation(), read_results(self.directory))

    def trials(self) -> pandas.DataFrame:
        """One row a trial that has begun: trial, name, arm, seed, status (finished, pruned, failed, running), error
        (one line), device_seconds, run_id (in MLflow), and what it logged last, ``summary.…``."""
        from ganatomy.api.frames import trials_frame

        return trials_frame(self.ablation(), read_results(self.directory))

    def report(self, path: Path | str) -> Path:
        """Write the report to ``path`` (its folder is made); returns that.

        What it is written as is told by its suffix: ``.html``, one self-contained page with figures; ``.md`` and
        ``.tex``, with their figures in a folder beside; ``.json``, the table alone. InputError for another suffix, and
        where it cannot be written.
        """
        from ganatomy.reports.record import check_place, kind_of, write

        check_place(Path(path))
        kind_of(Path(path))
        return write(self.material(), Path(path))

    def resume(
        self,
        *,
        trials: int | None = None,
        concurrent: int | None = None,
        standstill_s: float | None = None,
        retry_failed: bool = False,
        address: str = "",
        nodes: int = 0,
        store_cache: str = "",
        store_url: str = "",
        allow_dotted: Sequence[str] = (),
    ) -> Sweep:
        """Go on with it, interrupted, or ended and to have more ``trials``; finished trials are not repeated.

        What is not given is as the sweep began. retry_failed: run failed trials again under the same seeds, but those
        that diverged. allow_dotted: code that it was begun with. Returns itself; raises as ``sweep`` does.
        """
        from ganatomy.sweeps.request import SweepRequest

        anew = {"trials": trials, "concurrent": concurrent, "standstill_s": standstill_s}
        given: dict[str, Any] = {name: value for name, value in anew.items() if value is not None}
        request = SweepRequest(
            resume=self.name,
            retry_failed=retry_failed,
            workspace=self.workspace,
            address=address,
            nodes=nodes,
            store_cache=store_cache,
            store_url=store_url,
            allow_dotted=tuple(allow_dotted),
            **given,
        )
        return _carried_out(request, given)

    def confirm(
        self,
        *,
        trainings: int | None = None,
        as_it_stands: str | None = None,
        retry_failed: bool = False,
        allow_dotted: Sequence[str] = (),
        say: Callable[[str], None] = tell,
        **where: Unpack[Where],
    ) -> Confirmed:
        """Train what it picked, and the best without synthetic data, again under fresh seeds: the evidence for a
        verdict, which the scores of a search are not. Goes on where an earlier call was cut short.

        trainings: of each of the two; 5 if not given, 3 at least.  as_it_stands: a reason to confirm a sweep that will
        never be finished.  retry_failed, where: as ``resume`` takes them (``address``, ``concurrent``, …).
        Returns scores before and after, and what the fresh trainings show on validation patients (``.finding``).
        InputError where trials are outstanding, nothing is to be confirmed, or it was begun with other ``trainings``.
        """
        from ganatomy.promotion.confirmation import planned
        from ganatomy.reports.record import record
        from ganatomy.tracking.runs import Tracking

        allow(*allow_dotted)
        again = planned(self.workspace, self.name, trainings=trainings, as_it_stands=as_it_stands,
                        begun=retry_failed, say=say)  # fmt: skip
        plan, fresh = self.plan, Sweep(self.workspace, again.name)
        if retry_failed or fresh.state.left:
            fresh.resume(retry_failed=retry_failed, allow_dotted=allow_dotted, **where)
        record(self.material(), Tracking(plan.tracking_uri or None, self.workspace, plan.experiment))
        return came_to(self.workspace, again, picked_in(self.directory, plan))

    def promote(
        self,
        name: str,
        *,
        least: float = 0.0,
        trainings: int | None = None,
        force: str | None = None,
        as_it_stands: str | None = None,
        tracking_uri: str = "",
        allow_dotted: Sequence[str] = (),
        say: Callable[[str], None] = tell,
        **where: Unpack[Where],
    ) -> Promotion:
        """Let what it picked through the gates; if it passes, a generator of it becomes ``models:/NAME@champion``.

        What was picked is confirmed first, where it is not yet (``confirm``, which takes ``trainings`` and ``where``).
        Then the test split is read, and that is recorded beside the cohort: the level that it is judged at is the
        stricter the oftener these patients were read before. least: the effect that it must exceed, in points.
        force: a reason to promote whatever the gates say; nothing is trained again then. as_it_stands: a reason to
        judge a sweep that will never be finished. Both are recorded. tracking_uri: MLflow server or store; that of the
        sweep by default.  say: hears what goes on.
        Returns the verdict (``.verdict``, gate by gate), the generator's folder (``.bundle``) and, where it was
        promoted, ``.version``. "Not shown to help" is a result, no error. Raises InputError where there is nothing to
        judge, where trials are outstanding, and where the reading cannot be recorded in the cohort's folder.
        """
        from ganatomy.promotion.confirmation import planned
        from ganatomy.promotion.promotion import check_request, outlook, promote

        allow(*allow_dotted)
        check_request(name, least / 100, force)
        if force is not None and trainings is not None:
            raise InputError("a number of trainings for a forced promotion", expected="none: nothing is trained again",
                             remedy="leave --trainings out, or ganatomy confirm it first")  # fmt: skip
        if force is None and not outlook(self.workspace, self.name, as_it_stands=as_it_stands).confirmed:
            self.confirm(trainings=trainings, as_it_stands=as_it_stands, allow_dotted=allow_dotted, say=say, **where)
        elif trainings is not None:  # of another number than was planned nothing is judged
            planned(self.workspace, self.name, trainings=trainings, as_it_stands=as_it_stands)
        uri = tracking_uri or None
        return promote(
            self.workspace, self.name, name, least=least / 100, force=force, as_it_stands=as_it_stands, uri=uri, say=say
        )

    def outlook(
        self, *, as_it_stands: str | None = None, allow_dotted: Sequence[str] = (), say: Callable[[str], None] = tell
    ) -> Outlook:
        """What ``promote`` would read of test patients: whom (``.candidate`` against ``.baseline``), on how many
        patients (``.judges``), which reading of them it would be (``.number``), the one-sided level of that
        (``.level``), the readings before it (``.earlier``), and whether it is ``.confirmed``, so that nothing would be
        trained first. Nothing is read or written. Raises as ``promote``."""
        from ganatomy.promotion.promotion import outlook

        allow(*allow_dotted)
        return outlook(self.workspace, self.name, as_it_stands=as_it_stands, say=say)

    def __str__(self) -> str:
        """The table as text, as ``ganatomy report`` prints it."""
        from ganatomy.reports.text import render_text

        return render_text(self.ablation())


# --- begun and found ---------------------------------------------------------------------------------------------


def sweep(
    space: str,
    cohort: Cohort | Path | str,
    *,
    trials: int = 0,
    workspace: Path | str | None = None,
    full: bool = False,
    seeds: Sequence[int] = (),
    set: Mapping[str, Any] | Sequence[str] = (),
    compare: Mapping[str, Any] | Sequence[str] = (),
    controls: Sequence[Literal["long_real", "strong_real"]] = (),
    objectives: Sequence[Literal["utility", "cost", "fidelity"]] = (),
    source: str = "",
    target: str = "",
    domains: Mapping[str, str] | Sequence[str] = (),
    workers_per_trial: int = 1,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    concurrent: int = 0,
    scheduler: Literal["auto", "asha", "none"] = "auto",
    seed: int = 0,
    name: str = "",
    tracking_uri: str = "",
    address: str = "",
    nodes: int = 0,
    store_cache: str = "",
    store_url: str = "",
    standstill_s: float | None = None,
    allow_dotted: Sequence[str] = (),
) -> Sweep:
    """Run all trials of a search space on a cohort; returns when they have ended. The words are those of the command.

    space: name of an installed search space, or ``package.module:NAME`` of your own (a module that other processes can
    import, no notebook's cell).  cohort: as ``read_cohort`` gives it, or its folder.
    trials: how many; 0: the space's listed points, each with every one of ``seeds`` (the space's own if not given).
    workspace: folder of sweeps, stores, stages and the embedded MLflow store; GANATOMY_WORKSPACE, else ./workspace.
    full: at the paper's size.  set: fixed parameters, ``{"budget.batch": 8}``, or texts ``"budget.batch=8"``.
    compare: which listed points are declared to be compared, likewise, by what one must have; all by default.
    controls: run beside the space: longer real training, real images under strong augmentation.
    objectives: what the sampler looks for, utility alone if not given; what is picked is so by utility all the same.
    source, target: domains that images are translated from, and that the downstream model works in; domains:
    ``{"P": "flair:lesion"}``, role -> domain, where these two do not say it.
    workers_per_trial, cpus_per_worker, gpus_per_worker: of one trial, of one worker; a fraction of a GPU is shared.
    concurrent: trials at the same time; 0: as many as fit.  scheduler: ASHA stops unpromising trials early; auto: only
    where points are sampled.  seed: of Optuna's sampler.  name: COHORT-SPACE[-full] if not given, numbered if taken.
    tracking_uri: MLflow server or store; MLFLOW_TRACKING_URI, else one in the workspace.
    address: Ray cluster ("local": one of its own); the one that this process is connected to, RAY_ADDRESS, one running
    on this machine, else one of its own. A Ray that was there before is there afterwards.  nodes: wait for so many.
    store_cache, store_url, standstill_s, allow_dotted: as ``ganatomy sweep --help`` says.

    Progress is told on standard error. A trial that fails ends no sweep: see ``Sweep.trials``. Ctrl-C is a
    KeyboardInterrupt, and loses nothing: ``load_sweep(NAME).resume()``. Raises InputError, before anything is spent,
    for what cannot be run.
    """
    from ganatomy.sweeps.request import SweepRequest

    request = SweepRequest(
        space=space,
        cohort=_folder(cohort),
        workspace=workspace_of(workspace),
        full=full,
        trials=trials,
        seeds=tuple(seeds),
        set=_pairs(set),
        compare=_pairs(compare),
        controls=tuple(controls),
        objectives=tuple(objectives),
        source=source,
        target=target,
        domains=_pairs(domains),
        workers_per_trial=workers_per_trial,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        concurrent=concurrent,
        scheduler=scheduler,
        seed=seed,
        name=name,
        tracking_uri=tracking_uri,
        address=address,
        nodes=nodes,
        store_cache=store_cache,
        store_url=store_url,
        standstill_s=standstill_s,
        allow_dotted=tuple(allow_dotted),
    )
    return _carried_out(request)


def load_sweep(name: str = "latest", workspace: Path | str | None = None, *, allow_dotted: Sequence[str] = ()) -> Sweep:
    """A sweep of the workspace, by name; ``latest`` is the newest. It may be running still.

    allow_dotted: ``package.module:NAME`` of its search space, where that is not installed under a name. Raises
    InputError with the nearest name where there is none.
    """
    allow(*allow_dotted)
    directory = sweep_directory(workspace_of(workspace), name)
    return Sweep(directory.parents[1], directory.name)


def list_sweeps(workspace: Path | str | None = None) -> list[str]:
    """Names of all sweeps of the workspace, the newest last."""
    return sweeps(workspace_of(workspace))


# --- how ---------------------------------------------------------------------------------------------------------


def _carried_out(request: SweepRequest, typed: Collection[str] = ()) -> Sweep:
    """Here, or where this process is connected to a Ray of somebody's own, in a process that joins the same cluster:
    what the workers of a sweep must be told is told when a process connects, and cannot be told later."""
    from ganatomy.api.apart import carried_out_apart
    from ganatomy.cluster.joining import connected

    workspace = request.workspace.absolute()
    if there := connected():
        name, code = carried_out_apart(request, typed, there)
    else:
        with signals_as_before():
            plan, code = request.carried_out(typed, show=lambda table: None)
        name = plan.name
    if code == INTERRUPTED:
        raise KeyboardInterrupt(*[f"load_sweep({name!r}).resume() goes on with it"] * bool(name))
    return Sweep(workspace, name)


def _folder(cohort: Cohort | Path | str) -> Path:
    """Where a cohort lies: other processes read it there, so what was changed since must have been saved."""
    if isinstance(cohort, Path | str):
        return Path(cohort)
    from ganatomy.cohorts.reading import read_cohort

    if read_cohort(cohort.path) != cohort:
        raise InputError(
            f"cohort {cohort.name} is not what {cohort.path} holds",
            expected="a cohort as it was read, or saved",
            remedy="cohort.save(PATH), and pass what it returns",
        )
    return cohort.path


def _pairs(given: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """NAME=VALUE texts, as they are typed."""
    if isinstance(given, str):
        raise InputError(f"{given!r} is one text", expected="a mapping {NAME: VALUE}, or a list of texts NAME=VALUE")
    if not isinstance(given, Mapping):
        return tuple(given)
    return tuple(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items())
