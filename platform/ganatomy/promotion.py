"""Promotion: the one reading of the test split, the gates, and the registry.

The candidate and what it must beat are chosen on validation patients alone. Then both are scored on test patients, the
verdict is written down whatever it is, and only what passes (or is forced, with a reason) becomes the champion.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganatomy import gate
from ganatomy.ablation import Ablation, ablation_table
from ganatomy.classification import class_of
from ganatomy.cohort import read_cohort
from ganatomy.contracts import InputError
from ganatomy.distributed import Workers
from ganatomy.drawing import Offers, fitted, size_for
from ganatomy.experiment import Experiment, TrialResult, plain, pseudonym
from ganatomy.gate import GateResult, Verdict
from ganatomy.generation_drawn import differences_when_drawn_elsewhere
from ganatomy.generator import Generator, difference_when_reloaded, save_generator, write_report
from ganatomy.inference import synthesize_volume
from ganatomy.lesion_patches import part, rules_of
from ganatomy.metrics import LESION, nearest_distances, patient_scores, predictions
from ganatomy.registry import Registry, check_name
from ganatomy.report import brief
from ganatomy.results import SweepPlan, read_plan, read_results, sweep_directory, write_json
from ganatomy.roc import Predictions, at_threshold, auc_difference, operating_point
from ganatomy.sampling import OUTSIDE, Pool
from ganatomy.stages import PATCHES, SYNTHETIC, Stages
from ganatomy.statistics import Effect, paired_bootstrap
from ganatomy.store import Record, Store, open_store
from ganatomy.tracking import Tracking
from ganatomy.training import generator_pool, label_pool

VERDICT = "verdict.json"
INTEGRITY_VOLUMES = 3


@dataclass(frozen=True)
class Promotion:
    """How a promotion ended. version: of the registered generator, None where none was registered.
    bundle: folder of the candidate's generator, kept whatever the verdict."""

    verdict: Verdict
    bundle: Path
    version: int | None = None


def promote(
    workspace: Path,
    sweep: str,
    name: str,
    *,
    force: str | None = None,
    uri: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Promotion:
    """Judge the best synthetic configuration of a sweep on test patients, and register its generator if it passes.

    name: of the registered model.  force: a reason to promote whatever the gates say; recorded.
    Raises InputError where there is nothing to judge. "Not shown to help" is a result, not an error.
    """
    check_name(name)  # what can be refused is refused before the test split is read for nothing
    if force is not None and not force.strip():
        raise InputError("a forced promotion without a reason", expected="why it is promoted whatever the gates say")
    directory = sweep_directory(workspace, sweep)
    plan, results = read_plan(directory), [r for r in read_results(directory) if r.status == "finished"]
    tracking = Tracking(uri or plan.tracking_uri or None, workspace)
    table, bench = ablation_table(results), _Bench(workspace, plan, say)
    candidate, baseline = choose(table, results, plan.name)
    names = [table.row(configuration).name for configuration in (table.candidate, table.baseline)]
    say(f"candidate: {names[0]}; it must beat: {names[1]}")

    _record_reading(directory, names)
    effect = bench.effect(candidate, baseline)
    best = max(candidate, key=lambda result: result.summary[plan.score])
    generator, stages = bench.bundle(best, directory / "generators" / best.trial)
    verdict = gate.judge(
        [
            gate.utility(effect, candidate=names[0], baseline=names[1], measure=plan.measure),
            bench.memorisation(stages),
            bench.lineage(generator, stages),
            bench.integrity(generator, stages),
        ],
        forced=force,
        candidate=names[0],
        baseline=names[1],
    )
    report = {"verdict": verdict.to_dict(), "table": brief(table), "sweep": plan.name}
    if plan.measure == "AUC":
        pair = zip(("candidate", "baseline"), (candidate, baseline), strict=True)
        report["operating_points"] = {kind: bench.operating_point(group) for kind, group in pair}
    write_report(generator.directory, report)
    write_json(directory / VERDICT, verdict.to_dict())
    version = _register(tracking, generator, name, best, verdict) if verdict.promoted else None
    _record(tracking, plan, verdict, name, version)
    return Promotion(verdict, generator.directory, version)


def choose(table: Ablation, results: Sequence[TrialResult], sweep: str) -> tuple[list[TrialResult], list[TrialResult]]:
    """Trials of (candidate, baseline): the configuration with synthetic data, and the one without, that validate best
    over their seeds. InputError where the sweep finished no trial of one of the two kinds."""
    for configuration, kind in ((table.candidate, "offline or joint"), (table.baseline, "real or classical")):
        if not configuration:
            raise InputError(
                f"sweep {sweep!r} has no finished trial of arm {kind}",
                expected="at least one with and one without synthetic data",
                remedy="run more trials, or a space that has both",
            )
    by_trial = {result.trial: result for result in results}
    candidate, baseline = (
        [by_trial[trial] for trial in table.row(configuration).trials]
        for configuration in (table.candidate, table.baseline)
    )
    return candidate, baseline


class _Bench:
    """Where candidates are examined: the sweep's store, its stages and their networks."""

    def __init__(self, workspace: Path, plan: SweepPlan, say: Callable[[str], None]) -> None:
        self.workspace, self.plan, self.say = workspace, plan, say
        self.store: Store = open_store(plan.store)

    def stages(self, result: TrialResult) -> Stages:
        workers = Workers(cpus=self.plan.cpus, gpus=self.plan.gpus)
        return Stages(self.workspace, Path(self.plan.store), result.experiment, workers, say=self.say, may_train=False)

    def effect(self, candidate: Sequence[TrialResult], baseline: Sequence[TrialResult]) -> Effect:
        """Candidate minus baseline, paired over test patients, each averaged over seeds first."""
        if self.plan.measure == "AUC":
            return auc_difference(*(self._predictions(group, "test") for group in (candidate, baseline)))[0]
        first, second = (self._per_patient(group) for group in (candidate, baseline))
        patients = sorted(first.keys() & second.keys())
        return paired_bootstrap([first[p] for p in patients], [second[p] for p in patients])

    def _per_patient(self, group: Sequence[TrialResult]) -> dict[str, float]:
        values: dict[str, list[float]] = defaultdict(list)
        for result in group:
            for patient, score in patient_scores(self.stages(result).scores("test")).items():
                values[patient].append(score)
        return {patient: float(np.mean(scores)) for patient, scores in values.items()}

    def _predictions(self, group: Sequence[TrialResult], split: str) -> Predictions:
        return predictions(self.stages(result).scores(split) for result in group)

    def operating_point(self, group: Sequence[TrialResult]) -> dict[str, float]:
        """Sensitivity and specificity on test patients where the threshold, of the mean probability over seeds, is the
        best on validation patients."""
        held, seen = (self._predictions(group, split) for split in ("test", "val"))
        chosen = operating_point(seen.probabilities.mean(axis=0), seen.truth)
        return vars(at_threshold(held.probabilities.mean(axis=0), held.truth, chosen.threshold))

    def bundle(self, result: TrialResult, directory: Path) -> tuple[Generator, Stages]:
        """The generator of the candidate's best seed, as the folder that would be registered."""
        if elsewhere := result.experiment.transfer.generator:
            raise InputError(
                f"trial {result.trial} has its generator from cohort {elsewhere}",
                expected="a generator trained on the cohort of the sweep",
                remedy="promote it from a sweep on that cohort, whose patients it may repeat",
            )
        stages = self.stages(result)
        fit = stages.fit()
        generator = save_generator(
            directory,
            stages.method(fit),
            result.experiment,
            cohort=read_cohort(self.plan.cohort),
            store=self.store,
            stages=result.stages,
            records=self._seen(result.experiment),
        )
        return generator, stages

    def _seen(self, experiment: Experiment) -> list[Record]:
        """The images that the fit learnt from."""
        if experiment.method_class().on_patches:
            parting = part(self.store, experiment)
            return [parting.records[name] for name in (*parting.boxes, *parting.negatives)]
        roles = experiment.method_class().roles
        return [entry.record for role in roles for entry in generator_pool(self.store, experiment, role).entries]

    def memorisation(self, stages: Stages) -> GateResult:
        """Are synthetic images closer to the real training images than real images that nobody trained on are?

        The yardstick is the validation split: training images compared with each other would make innocent
        generators fail where patients are few.
        """
        made = open_store(stages.synthesised().directory / SYNTHETIC)
        if stages.experiment.method_class().on_patches:
            return self._copied_lesions(stages, made)
        synthetic = [record for record in made.records() if record.kind in ("translated", "drawn")]
        like = _slice_of(synthetic)
        trained = generator_pool(self.store, stages.experiment, stages.experiment.target)
        fresh = Pool.of(self.store, self.store.records(stages.experiment.target_domain(), "val"))
        (references, patients), (images, others) = _shown(trained, like), _shown(fresh, like)
        owners = [record.patient for record in synthetic]
        # What is drawn shows a label of its patient but nobody's anatomy: it may resemble no training patient at all.
        apart = ["" if record.kind == "drawn" else record.patient for record in synthetic]
        return gate.memorisation(
            nearest_distances([made.image(record) for record in synthetic], apart, references, patients),
            owners,
            nearest_distances(images, others, references, patients),
            others,
        )

    def _copied_lesions(self, stages: Stages, made: Store) -> GateResult:
        """The same of the patches with a lesion: a whole film is nearly all real, a copied lesion would drown in it."""
        patches, rules = open_store(stages.patches().directory / PATCHES), rules_of(stages.experiment)
        known, fresh = ([record for record in patches.records(split=split) if class_of(record) == LESION]
                        for split in ("train", "val"))  # fmt: skip
        films = made.records()
        pasted = [rules.cut(torch.from_numpy(made.image(film).copy()), film.attributes["window"]) for film in films]
        references, patients = [patches.image(record) for record in known], [record.patient for record in known]
        owners, others = [film.patient for film in films], [record.patient for record in fresh]
        return gate.memorisation(
            nearest_distances([patch.numpy() for patch in pasted], owners, references, patients),
            owners,
            nearest_distances([patches.image(record) for record in fresh], others, references, patients),
            others,
        )

    def lineage(self, generator: Generator, stages: Stages) -> GateResult:
        """All it learnt from, and all whose images were turned into synthetic ones, against the test split."""
        synthetic = open_store(stages.synthesised().directory / SYNTHETIC)
        cohort = generator.fingerprint["cohort"]["name"]  # a store may have been prepared under another name
        parents = set(generator.fingerprint["patients"])
        parents |= {pseudonym(record.patient, cohort) for record in synthetic.records()}
        return gate.lineage(parents, {pseudonym(record.patient, cohort) for record in self.store.records(split="test")})

    def integrity(self, generator: Generator, stages: Stages) -> GateResult:
        """What the folder to be registered makes, here and in a fresh process, against the networks judged."""
        if generator.method.draws_from_noise:
            return gate.integrity(self._drawn_again(generator, stages))
        role, _ = generator.route()
        domain = stages.experiment.domain(role)
        shown = (self.store.records(domain, "val") or self.store.records(domain, "train"))[:INTEGRITY_VOLUMES]
        method, sampling = stages.method(stages.fit()), stages.experiment.sampling
        differences = {}
        for record in shown:
            image = self.store.image(record)
            judged = synthesize_volume(method, image, role, sampling, device=generator.device)
            kept = generator.synthesize(image, role)
            drift = max(float(np.abs(judged[made, "translated"] - volume).max()) for made, volume in kept.items())
            name = pseudonym(record.subject, self.store.name)
            differences[name] = max(drift, difference_when_reloaded(generator, image, role))
        return gate.integrity(differences)

    def _drawn_again(self, generator: Generator, stages: Stages) -> dict[str, float]:
        """Subject -> how far what the bundle draws by its number is from what the networks judged draw."""
        experiment, method = stages.experiment, stages.method(stages.fit())
        pool = label_pool(self.store, experiment, experiment.target)
        labels = Offers.of(pool, size_for(method, experiment.sampling.size)).labels
        numbers = range(INTEGRITY_VOLUMES)
        return differences_when_drawn_elsewhere(generator, method, labels, numbers, experiment.seed)


def _slice_of(synthetic: Sequence[Record]) -> tuple[int, ...] | None:
    """[1, H, W] where all synthetic images are slices of that shape; None where they are whole images."""
    shapes = {record.shape for record in synthetic}
    return next(iter(shapes)) if len(shapes) == 1 and all(shape[0] == 1 for shape in shapes) else None


def _shown(pool: Pool, like: tuple[int, ...] | None) -> tuple[list[np.ndarray], list[str]]:
    """The images of a pool and whose they are.

    like: [1, H, W] of what they are to be compared with; each slice that shows something is then an image of that size.
    """
    images: list[np.ndarray] = []
    patients: list[str] = []
    for entry in pool.entries:
        parts = [entry.store.image(entry.record)]
        if like is not None:
            numbers = entry.slices or range(*entry.record.content)
            parts = [fitted(parts[0][number : number + 1], like, OUTSIDE) for number in numbers]
        images += parts
        patients += [entry.record.patient] * len(parts)
    return images, patients


# --- writing down ------------------------------------------------------------------------------------------------


def _record_reading(directory: Path, names: Sequence[str]) -> None:
    """The test split is read from here on; whoever reads it again can see that it was."""
    path = directory / "test-readings.json"
    readings = json.loads(path.read_text()) if path.exists() else []
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(path, [*readings, {"time": now, "configurations": list(names)}])


def _register(tracking: Tracking, generator: Generator, name: str, best: TrialResult, verdict: Verdict) -> int:
    tags = {
        "method": best.experiment.method.name,
        "domain_pair": "-".join(best.experiment.domains.values()),
        "verdict": verdict.sentence,
        "digest": generator.digest,
    }
    return Registry(tracking).register_generator(generator.directory, name, best.run_id, tags, promote=True)


def _record(tracking: Tracking, plan: SweepPlan, verdict: Verdict, name: str, version: int | None) -> None:
    """Into MLflow, promoted or not: the verdict, each gate with its figures, and that the test split was read."""
    figures = {
        f"gate/{result.name}/{key}": float(value)
        for result in verdict.gates
        for key, value in result.figures.items()
        if isinstance(value, int | float) and value is not None
    }
    tracking.log_metrics(plan.run_id, {**figures, "gate/promoted": float(verdict.promoted)})
    tracking.log_text(plan.run_id, VERDICT, json.dumps(verdict.to_dict(), indent=1))
    tags: Mapping[str, Any] = {
        "verdict": verdict.sentence,
        "candidate": verdict.candidate,
        "baseline": verdict.baseline,
        "registered_model": f"{name} version {version}" if version is not None else "none",
        "test_read": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    tracking.terminate(plan.run_id, "FINISHED", plain(tags))
