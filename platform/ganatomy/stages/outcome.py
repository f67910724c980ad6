"""Outcome: what the stages of an experiment came to, and what is measured on the images that they made.

Synthetic images are judged by segmentors that never saw one; what that takes is computed in stages, as everything is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ganatomy.core.plain_values import plain
from ganatomy.downstream.task import task_of
from ganatomy.evidence.results import write_json
from ganatomy.experiment import SYNTHETIC_ARMS, Experiment, Labels, Mixing, Score
from ganatomy.measures.segmentation import mean_over_patients, s_score_rows
from ganatomy.measures.synthesis.pathology import healing_rows
from ganatomy.stages.artefacts import Stage
from ganatomy.stages.measuring.healing import BESIDE, score_healing
from ganatomy.stages.measuring.pairs import paired_scores
from ganatomy.stages.stages import KEPT, SCORES, Stages, read_scores, score_rows
from ganatomy.stages.synthesis import score_synthesis
from ganatomy.stores.sampling import Mixture, synthetic_samples
from ganatomy.stores.store import open_store
from ganatomy.stores.supervision import real_alone, segmentor_update
from ganatomy.training.distributed import read_history
from ganatomy.training.downstream import score_label_indices
from ganatomy.training.models import models_of, scored_images
from ganatomy.training.pools import real_images
from ganatomy.training.tasks import guide_of, phases_of

REFERENCE_SEED = 2**32 - 1
"""Seed of the independent segmentors behind the S-score, so that none is ever an arm's own model."""


@dataclass(frozen=True)
class Outcome:
    """What a trial's stages came to. keys: stage kind -> key.  scores: rows of the downstream model, then of what is
    measured beside it, by the names that it has in ``summary``.  device_seconds: what this trial alone would have cost,
    stages shared with other trials included."""

    keys: Mapping[str, str]
    scores: tuple[Score, ...]
    summary: Mapping[str, float]
    device_seconds: float


def outcome_of(stages: Stages) -> Outcome:
    """All stages of the experiment's arm, scored on the validation split."""
    scores, task = stages.scores("val"), task_of(stages.experiment)
    summary, beside = task.summarise(scores), list[Score]()
    if stages.experiment.arm in SYNTHETIC_ARMS and task.segments:  # an S-score is a matter of labels
        beside += s_scores(stages, "val")
        numbers, rows = healthiness(stages, "val")
        summary |= numbers
        beside += rows
    if stages.experiment.arm in SYNTHETIC_ARMS:
        beside += paired_scores(stages, "val")
    if stages.experiment.method_class().draws_from_noise and task.segments:
        beside += label_index_scores(stages, "val")
    summary |= mean_over_patients(beside)
    keys, seconds = dict(stages.keys), sum(stages.artefacts.costs.values())
    return Outcome(keys, (*scores, *beside), summary | work_of(stages), seconds)


def work_of(stages: Stages) -> dict[str, float]:
    """What was spent, by name: ``work/updates`` of the downstream model, ``work/real_samples`` and
    ``work/synthetic_samples`` that it saw, ``work/synthetic_images`` that were made, ``work/kept_images`` of them that
    the filter kept and ``work/used_images`` that were mixed in; ``work/synthetic_shown`` and ``work/real_shown``, how
    often each of those was seen, and each real image that they stood among; ``generator/updates``,
    ``generator/samples``, ``generator/device_seconds`` of what made them; ``generator/guide_dice`` and
    ``generator/guide_bar``, what the guides reached in their phase, and what is asked of them.

    The samples of a joint arm's model are those of ``samples_seen``, those of the others what their batches held.
    """
    experiment, budget = stages.experiment, stages.experiment.budget
    taken = _steps(model := stages.model())
    spent: dict[str, float] = {}
    updates, real, made = samples_seen(experiment, stages.store.classes, taken)
    mixtures = _mixtures(stages) if experiment.arm != "joint" else []
    if mixtures:  # of several roles, perhaps, and with shares that go by the numbers of images
        real = sum(one.real_before(taken, budget.batch) for one in mixtures)
        made = sum(one.synthetic_before(taken, budget.batch) for one in mixtures)
    spent |= {"work/updates": updates, "work/real_samples": real, "work/synthetic_samples": made}
    if experiment.arm == "offline":
        spent |= {f"work/{name}": value for name, value in _shown(mixtures, taken, budget.batch).items()}
        chosen = json.loads((stages.filtered().directory / KEPT).read_text())
        spent |= {"work/synthetic_images": chosen["of"], "work/kept_images": len(chosen["kept"])}
    if experiment.arm in SYNTHETIC_ARMS:
        fit = model if experiment.arm == "joint" else stages.fit()
        steps, roles = _steps(fit), len(experiment.method_class().roles)
        spent |= {"generator/updates": steps, "generator/samples": steps * budget.batch * roles,
                  "generator/device_seconds": fit.record["device_seconds"]}  # fmt: skip
        if guide := guide_of(read_history(fit.directory)):
            spent |= dict(zip(("generator/guide_dice", "generator/guide_bar"), guide))
    return {name: float(value) for name, value in spent.items()}


def samples_seen(experiment: Experiment, classes: int, taken: int) -> tuple[int, int, int]:
    """(updates, real samples, synthetic samples) of the downstream model in the first ``taken`` steps of the loop that
    trains it, in the joint arm that of the whole method; by ``mixing.ratio``. Without labels of the target its real
    samples are the source's, until there are translations of them."""
    mixing, batch, total = experiment.mixing, experiment.budget.batch, experiment.budget.segmentor_steps
    updates, leading, beside = taken, None, mixing.composition == "paper"
    if experiment.arm == "joint":
        phases = phases_of(experiment, classes)
        updates, leading = segmentor_update(taken, phases)[0], real_alone(phases)
        mixing = replace(mixing, order="mixed")
    if experiment.arm not in SYNTHETIC_ARMS:
        return updates, updates * batch, 0
    if experiment.labels.fraction == 0:
        real = min(updates, leading or 0)
        return updates, real * batch, (updates - real) * batch
    if beside and experiment.arm == "joint":  # all that is made
        both = max(0, updates - (leading or 0)) if mixing.ratio else 0
        return updates, updates * batch, both * batch * max(phase.made for phase in phases)
    made = synthetic_samples(mixing, total, updates, batch, leading)
    return updates, updates * batch - (0 if beside else made), made


def _mixtures(stages: Stages) -> list[Mixture]:
    """What the batches of a model were drawn from that was not trained with the generator."""
    experiment = stages.experiment
    role, some = experiment.source() if experiment.arm == "source" else experiment.target, None
    if experiment.arm == "offline":
        path, indices = stages.mixed_in(stages.filtered())
        made, chosen = open_store(path), set(indices)
        some = made, [image for image in made.records() if image.index in chosen]
    return [*models_of(experiment).mixtures(stages.store, experiment, role, some).values()]


def _shown(mixtures: Iterable[Mixture], taken: int, batch: int) -> dict[str, float]:
    """Of the pools that the offline arm's model saw synthetic images in, in ``taken`` updates: ``used_images``, each
    shown ``synthetic_shown`` times, where a real one was shown ``real_shown`` times."""
    mixed = [one for one in mixtures if one.synthetic is not None and len(one.synthetic)]
    used, pool = sum(len(one.synthetic or ()) for one in mixed), sum(len(one.real) for one in mixed)
    synthetic = sum(one.synthetic_before(taken, batch) for one in mixed)
    real = sum(one.real_before(taken, batch) for one in mixed)
    return {"used_images": used, "synthetic_shown": synthetic / used, "real_shown": real / max(1, pool)}


def _steps(stage: Stage) -> int:
    history = read_history(stage.directory)
    return int(history[-1]["step"]) if history else 0


def s_scores(stages: Stages, split: str) -> list[Score]:
    """Rows of the S-score of every domain that images were synthesised into, and of the reference segmentor's own Dice
    on real images, without which it means little (Zhang et al. 2018, section 5.2)."""
    fit, references = stages.fit(), reference_models(stages)

    def work(directory: Path) -> None:
        judges = {domain: stages.network(stage) for domain, stage in references.items()}
        found = score_synthesis(stages.method(fit), stages.experiment, stages.store, judges, split, stages.device())
        write_json(directory / SCORES, plain(found))

    keys = {domain: stage.key for domain, stage in references.items()}
    stage = stages.artefacts.compute(
        "s_score", {"fit": fit.key, "split": split, "references": keys}, stages.apart(work)
    )
    found = json.loads((stage.directory / SCORES).read_text())
    return [
        row
        for domain, rows in found.items()
        for row in s_score_rows(score_rows(rows["synthetic"]), score_rows(rows["real"]), domain)
    ]


def healthiness(stages: Stages, split: str) -> tuple[dict[str, float], list[Score]]:
    """How healthy pseudo-healthy images are and how much they still are the same person's, never one without the
    other (Xia et al. 2019, section 4.2), as numbers to log and as rows; empty for a method that takes no lesion out.
    Beside them what needs no training reaches, and where there are twins the error against these.

    f_pre is the reference segmentor of the S-score in the diseased domain: it saw real training images only. Where
    nobody's lesions are labelled there is none, and identity is measured alone."""
    experiment = stages.experiment
    if all(experiment.state(role) != "lesion" for role in experiment.method_class().roles):
        return {}, []
    fit, references = stages.fit(), reference_models(stages)

    def work(directory: Path) -> None:
        judges = {domain: stages.network(stage) for domain, stage in references.items()}
        numbers, rows = score_healing(stages.method(fit), experiment, stages.store, judges, split, stages.device())
        write_json(directory / SCORES, {"summary": numbers, "rows": rows})

    keys = {domain: stage.key for domain, stage in references.items()}
    inputs = {"fit": fit.key, "split": split, "references": keys, "beside": BESIDE}
    stage = stages.artefacts.compute("healthiness", inputs, stages.apart(work))
    found = json.loads((stage.directory / SCORES).read_text())
    return dict(found["summary"]), healing_rows(found["rows"])


def label_index_scores(stages: Stages, split: str) -> list[Score]:
    """Rows ``<split>/label_index_dice`` and ``<split>/label_index_mse`` of the arm's model: what Qu et al. 2019 call
    Dice and MSE, beside the usual Dice and never for it."""
    model = stages.model()
    images = scored_images(stages.store, stages.experiment, split)

    def work(directory: Path) -> None:
        rows = score_label_indices(
            stages.network(model), stages.store, images, stages.experiment.sampling, stages.device()
        )
        write_json(directory / SCORES, plain(rows))

    stage = stages.artefacts.compute("label_indices", {"model": model.key, "split": split}, stages.apart(work))
    return [replace(row, metric=f"{split}/{row.metric}") for row in read_scores(stage.directory)]


def reference_models(stages: Stages) -> dict[str, Stage]:
    """Domain -> an independent segmentor: real images only, every label there is, its own seed. Of a domain in which
    nothing is labelled, such as that of healthy people, there is none.

    Where a method takes lesions out it is f_pre too: trained by Dice, as in Xia et al. 2019, beside cross-entropy, and
    with augmentation of geometry and intensity even where the arms have none, for what G makes is of other intensities
    than real images are."""
    downstream, training = stages.experiment.downstream, stages.experiment.training
    if "lesion" in map(stages.experiment.state, stages.experiment.method_class().roles):
        augmented = "light" if downstream.augmentation == "none" else downstream.augmentation
        downstream = replace(downstream, loss="dice_cross_entropy", augmentation=augmented)
        training = replace(training, waits_for="score")  # its loss is no cross-entropy
    free = replace(stages.experiment, arm="real", labels=Labels(), mixing=Mixing(), seed=REFERENCE_SEED,
                   downstream=downstream, training=training)  # fmt: skip
    real_only = Stages(stages.workspace, stages.store_path, free, stages.workers, say=stages.say)
    roles = {stages.experiment.domain(role): role for role in stages.experiment.method_class().roles}
    return {
        domain: real_only.downstream(role)
        for domain, role in roles.items()
        if all(any(i.labelled_slices for i in real_images(stages.store, domain, split)) for split in ("train", "val"))
    }
