"""What a candidate for promotion is examined by: test scores, its training images, its ancestors, its reloaded bundle.

A generator may be borrowed from another cohort (``transfer.generator``). Then ``Stages.taught`` is where it learnt:
what it may repeat are the images there, and a held-out patient who stands there as well is no judge of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from ganatomy.cohorts.cohort import Cohort
from ganatomy.cohorts.pseudonyms import KEY, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError, Method
from ganatomy.core.plain_values import plain
from ganatomy.evidence.confirmed import judged_without, seeds_of
from ganatomy.evidence.results import SweepPlan, read_plan, sweeps
from ganatomy.experiment import Experiment, Score, TrialResult
from ganatomy.generators.generator import Generator, save_generator
from ganatomy.generators.reloading import (
    Example,
    differences_when_drawn_elsewhere,
    differences_when_reloaded,
)
from ganatomy.measures.roc import LESION, NORMAL
from ganatomy.measures.verdicts import Finding, measured
from ganatomy.promotion import gate, memorisation
from ganatomy.promotion.gate import GateResult
from ganatomy.stages.drawing import Offers, size_for
from ganatomy.stages.lesion_patches import part, role_in
from ganatomy.stages.stages import PATCHES, SYNTHETIC, Stages
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store, open_store
from ganatomy.training.classification import class_of
from ganatomy.training.distributed import Workers
from ganatomy.training.pools import generator_pool, generator_pools, held_out, label_pool, segmentor_pool

INTEGRITY_VOLUMES = 3


class Bench:
    """Where candidates are examined: the sweep's store, its stages and their networks."""

    def __init__(self, workspace: Path, plan: SweepPlan, say: Callable[[str], None]) -> None:
        self.workspace, self.plan, self.say = workspace, plan, say
        self.store: Store = open_store(plan.store)

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort of the sweep, as it stands now. InputError where it is gone."""
        try:
            return read_cohort(self.plan.cohort)
        except InputError as error:
            raise InputError(
                f"the cohort of sweep {self.plan.name} cannot be read: {error}",
                remedy="put it back where it was, or write where it is now into sweep.json of the sweep, as cohort",
            ) from error

    def check_rules(self) -> None:
        """InputError where the cohort says now that images are prepared otherwise than those of the store were: a
        generator would be handed over with rules that it was neither trained nor judged by."""
        _check_rules(self.cohort, self.store)

    def stages(self, result: TrialResult) -> Stages:
        """The trial's, which may train nothing."""
        workers = Workers(cpus=self.plan.cpus, gpus=self.plan.gpus)
        return Stages(self.workspace, Path(self.plan.store), result.experiment, workers, say=self.say, may_train=False)

    def check_trained(self, results: Sequence[TrialResult]) -> None:
        """InputError where the networks of a training that is to judge are not there any more, or are called otherwise
        by this version: said before the test patients are read for nothing."""
        for result in results:
            self.stages(result).model()

    # --- utility -------------------------------------------------------------------------------------------------

    def finding(
        self,
        candidate: Sequence[TrialResult],
        baseline: Sequence[TrialResult],
        alpha: float,
        least: float,
        barred: str = "",
        lost: tuple[int, int] = (0, 0),
    ) -> Finding:
        """What the trainings of both show on test patients, at a one-sided ``alpha``. least: the effect that must be
        exceeded to help.  barred: why there is no verdict.  lost: trainings of either that came to no end."""
        more, less = self.plan.task.judged(*(self._scores(group, "test") for group in (candidate, baseline)))
        if barred:
            return measured(more, less, barred, alpha=alpha)
        seeds = seeds_of(candidate), seeds_of(baseline)
        return judged_without(lost, more, less, alpha=alpha, least=least, seeds=seeds)

    def _scores(self, group: Sequence[TrialResult], split: str) -> list[list[Score]]:
        return [self.stages(result).scores(split) for result in group]

    def operating_point(self, group: Sequence[TrialResult]) -> dict[str, float]:
        """What the task chooses on validation patients, such as a threshold, as it turns out on test patients; empty
        where it chooses nothing."""
        return self.plan.task.operating_point(partial(self._scores, group))

    # --- the generator -------------------------------------------------------------------------------------------

    def bundle(self, result: TrialResult, directory: Path) -> tuple[Generator, Stages]:
        """The generator of a training of the candidate, as the folder that would be registered.

        It prepares images as the cohort of the sweep does, where its utility is measured; who taught it is recorded of
        the cohort that it was trained on.
        """
        stages = self.stages(result)
        taught, fit = stages.taught(), stages.fit()
        cohort, borrowed = self.cohort, taught is not stages
        generator = save_generator(
            directory,
            stages.method(fit),
            result.experiment,
            cohort=self._with_licence_of(taught.store, cohort) if borrowed else cohort,
            store=self.store,
            stages=result.stages,
            records=_learnt_from(taught.store, taught.experiment),
            taught_on=taught.store if borrowed else None,
        )
        return generator, stages

    def _with_licence_of(self, taught: Store, cohort: Cohort) -> Cohort:
        """``cohort`` with the licence of the images that the generator was trained on, too."""
        folders = self._folders_of(taught)
        licences = [read_cohort(folder, require_files=False).licence for folder in folders if Path(folder).is_dir()]
        theirs = licences[0] if licences else f"that of cohort {taught.name}, which is not recorded here"
        return replace(cohort, licence="; ".join(dict.fromkeys(filter(None, (cohort.licence, theirs)))))

    # --- memorisation --------------------------------------------------------------------------------------------

    def memorisation(self, stages: Stages) -> GateResult:
        """Are synthetic images copies of training images, as far as can be seen? See ``memorisation.examine``."""
        return memorisation.examine(stages, self._as_taught(stages) or {})

    # --- lineage and integrity -----------------------------------------------------------------------------------

    def lineage(self, generator: Generator, stages: Stages) -> GateResult:
        """All it learnt from, and all whose images were turned into synthetic ones, against the test split.

        Of a borrowed generator the first stand in another cohort, under pseudonyms of its own key: who is called the
        same there is taken for the same person. Where that key is not to be had nobody can tell, and it is not passed.
        """
        known = self._as_taught(stages)
        if known is None:
            return gate.unknown_lineage(stages.taught().store.name)
        synthetic = open_store(stages.synthesised().directory / SYNTHETIC)
        parents, judges = (
            {known.get(record.patient, record.patient) for record in records}
            for records in (synthetic.records(), self.store.records(split="test"))
        )
        return gate.lineage(parents | set(generator.fingerprint["patients"]), judges)

    def _as_taught(self, stages: Stages) -> Mapping[str, str] | None:
        """A patient's pseudonym here -> the same person's under the key of the cohort that taught the generator.

        Empty where both have one key; None where the other key is not to be had.
        """
        taught = stages.taught().store
        if taught.key == self.store.key:
            return {}
        folders = [Path(folder) for folder in self._folders_of(taught) if (Path(folder) / KEY).is_file()]
        theirs = next((names for names in map(pseudonyms_of, folders) if names.identity == taught.key), None)
        if theirs is None:
            return None
        ours = pseudonyms_of(self.cohort.path)
        return {ours(name): theirs(name) for name in self.cohort.patients()}

    def _folders_of(self, store: Store) -> list[str]:
        """Of the cohorts that ``store`` was prepared from, by the sweeps of the workspace."""
        plans = (read_plan(self.workspace / "sweeps" / name) for name in sweeps(self.workspace))
        return list(dict.fromkeys(plan.cohort for plan in plans if plan.cohort_digest == store.digest))

    def integrity(self, generator: Generator, stages: Stages) -> GateResult:
        """What the folder to be registered makes, here and in a fresh process, against the networks judged.

        Every way that it knows from one role to another is gone, as far as ``INTEGRITY_VOLUMES`` images reach.
        """
        judged, found = stages.method(stages.fit()), {}
        if generator.method.draws_from_noise:
            labels, seed = self._labels(stages.experiment, judged), stages.experiment.seed
            found = differences_when_drawn_elsewhere(generator, judged, labels, range(INTEGRITY_VOLUMES), seed)
        examples = dict(islice(self._examples(generator, stages), INTEGRITY_VOLUMES))
        return gate.integrity({**found, **differences_when_reloaded(generator, judged, examples)})

    def _examples(self, generator: Generator, stages: Stages) -> Iterator[tuple[str, Example]]:
        """Real images by their pseudonym, of every role in turn, first of the one that it is promoted for."""
        if not generator.routes:  # it draws, and translates nothing
            return
        first, _ = generator.route()
        roles = [first, *(role for role in generator.routes if role != first)]
        pools = {role: pool for role in roles if (pool := self._offered(stages, role))}
        if not pools:
            return
        for number, role in zip(range(max(map(len, pools.values())) * len(pools)), cycle(pools)):
            store, record = pools[role][number // len(pools) % len(pools[role])]
            label = store.label(record) if record.labelled else None
            yield f"{record.subject} as {role}", Example(role, store.image(record), label)

    def _offered(self, stages: Stages, role: str) -> list[tuple[Store, Record]]:
        """Validation images of a role, else training images; patches of a method that works on those."""
        experiment = stages.experiment
        if experiment.method_class().on_patches:
            patches = open_store(stages.patches().directory / PATCHES)
            wanted = NORMAL if role == role_in(experiment, "healthy") else LESION
            return [(patches, record) for record in patches.records() if class_of(record) == wanted]
        for split in ("val", "train"):
            if entries := held_out(self.store, experiment, role, split).entries:
                return [(entry.store, entry.record) for entry in entries]
        return []

    def _labels(self, experiment: Experiment, method: Method) -> torch.Tensor:
        """Those that the synthetic set was drawn of, int64 [M, *S]."""
        pool = label_pool(self.store, experiment, experiment.target)
        return Offers.of(pool, size_for(method, experiment.sampling.size)).labels


def _check_rules(cohort: Cohort, store: Store) -> None:
    """InputError where ``store`` was not prepared by the rules of ``cohort``, as far as a store tells of them."""
    changed = [name for name, domain in cohort.domains.items() if store.domains.get(name) != plain(domain)]
    wanted = cohort.spacing or (0.0, 0.0, 0.0)
    steps = {tuple(reversed(store.spacing(record))) for record in store.records()}
    if not all(np.allclose(step, np.where(wanted, wanted, step), rtol=1e-3) for step in steps):
        changed.append("spacing")
    if dict(cohort.labels) != store.labels:
        changed.append("labels")
    if changed:
        raise InputError(
            f"{cohort.path / 'cohort.yaml'} was changed after the sweep: {', '.join(changed)}",
            expected="the rules by which its images were prepared, which the generator is to keep",
            remedy="put them back, or sweep anew",
        )


# --- who was seen ------------------------------------------------------------------------------------------------


def _learnt_from(store: Store, experiment: Experiment) -> list[Record]:
    """The images that a fit learnt from, each once, whatever roles it plays."""
    method = experiment.method_class()
    if method.on_patches:
        parting = part(store, experiment)
        return [parting.records[name] for name in (*parting.boxes, *parting.negatives)]
    pools = [generator_pool(store, experiment, role) for role in method.roles]
    if method.registered:
        pools = [*generator_pools(store, experiment, method).values()]
    if method.trains_segmentors:
        pools += [segmentor_pool(store, experiment, role) for role in method.roles]
    found = {entry.record.index: entry.record for pool in pools for entry in pool.entries}
    return [found[index] for index in sorted(found)]
