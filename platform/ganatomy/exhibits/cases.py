"""Images to look at: best, median and worst validation patients of the candidate, and synthetic ones.

Models are read from the stages that a sweep left, and applied to a few images; nothing is trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from ganatomy.contracts import InputError
from ganatomy.core.names import on_one_line
from ganatomy.downstream.task import task_of
from ganatomy.evidence.ablation import Row
from ganatomy.evidence.panels import Column, sheet
from ganatomy.exhibits.exhibit import Exhibit, Picture
from ganatomy.exhibits.material import Material
from ganatomy.exhibits.trainings import model_folder, stage_folder, trainings_of
from ganatomy.experiment import Experiment, TrialResult
from ganatomy.measures.segmentation import case_scores

if TYPE_CHECKING:
    from ganatomy.stages.stages import Stages
    from ganatomy.stores.layout import Record
    from ganatomy.stores.store import Store

LARGEST = 2**22
"""Voxels of a volume beyond which a three-dimensional model is not run for a picture: it would take minutes."""

SHOWN = ("best", "median", "worst")

LAST_SEEN = "What the candidate's downstream model makes of images, as its training showed it last"
LAST_MADE = "Images as the candidate's generator made them at its last validation"

UNREADABLE = (InputError, OSError, KeyError, ValueError, RuntimeError, SafetensorError)
"""What a stage that was removed, cut short or made by another version comes to: a picture less, never a page less."""


@dataclass(frozen=True)
class Model:
    """A trained downstream model: of which side, its training, and the network."""

    side: str
    training: TrialResult
    stages: Stages
    network: Any

    def found(self, image: NDArray[np.float32], cut: int) -> NDArray[np.uint8]:
        """What it makes of an image [D, H, W]; a model of slices is shown the one at ``cut`` alone."""
        from ganatomy.training.downstream import segment

        sampling, device = self.training.experiment.sampling, self.stages.device()
        if sampling.ndim == 3:
            return segment(self.network, image, sampling, device)
        whole = np.zeros(image.shape, np.uint8)
        whole[cut : cut + 1] = segment(self.network, image[cut : cut + 1], sampling, device)
        return whole


def cases(material: Material) -> Exhibit | None:
    """Best, median and worst patients with what candidate and baseline make of them; synthetic images."""
    table = material.table
    if not table.candidate:
        return None
    row = table.row(table.candidate)
    pictures = []
    for draw in (_patients, _synthetic):
        try:
            pictures += draw(material, row)
        except UNREADABLE as error:
            material.tell(f"some images are not shown: {on_one_line(str(error))}")
    return Exhibit("Cases", _sentences(material, row), pictures=tuple(pictures)) if pictures else None


def middle(material: Material, row: Row) -> TrialResult:
    """The training of a row that stands in the middle of its trainings by score: neither its luckiest nor its worst."""
    several = trainings_of(material, row)
    task = task_of(several[0].experiment)
    ordered = sorted(several, key=lambda one: task.summarise(one.scores)[task.score])
    return ordered[(len(ordered) - 1) // 2]


def ranked(scores: Mapping[str, float]) -> dict[str, str]:
    """``SHOWN`` -> whose score it is; of fewer than three, best and worst, or the only one."""
    ordered = sorted(scores, key=lambda name: (-scores[name], name))
    places = {"best": 0, "median": (len(ordered) - 1) // 2, "worst": len(ordered) - 1}
    chosen: dict[str, str] = {}
    for what in ("best", "worst", "median"):
        if ordered and ordered[places[what]] not in chosen.values():
            chosen[what] = ordered[places[what]]
    return {what: chosen[what] for what in SHOWN if what in chosen}


def _sentences(material: Material, row: Row) -> tuple[str, ...]:
    several = len(trainings_of(material, row)) > 2
    which = ": of its training in the middle, neither its luckiest nor its worst" if several else ""
    said = f"Of the candidate, {row.name}{which}. "
    if row.patients:
        said += f"Patients are ranked by their mean {material.table.measure} over all its trainings. "
    return (said + "Whoever is shown has a pseudonym.",)


# --- patients ----------------------------------------------------------------------------------------------------


def _patients(material: Material, row: Row) -> list[Picture]:
    """One sheet, a row a patient; the last picture that training left, where a model is none of structures."""
    training = middle(material, row)
    if not task_of(training.experiment).segments or not row.patients:
        return _left(material, training, LAST_SEEN)
    models = [*_models(material)]
    if not models:
        return _left(material, training, LAST_SEEN)
    store = models[0].stages.store
    records = {one.subject: one for one in store.records(training.experiment.target_domain(), "val")}
    largest = max((math.prod(record.shape) for record in records.values()), default=0)
    if largest > LARGEST and any(model.training.experiment.sampling.ndim == 3 for model in models):
        material.tell(f"no model is run for pictures of volumes of {largest} voxels: that would take minutes")
        return _left(material, training, LAST_SEEN)
    subjects = {
        f"{what} {patient}": columns
        for what, patient in ranked(row.patients).items()
        if (columns := _columns(store, records, models, patient, row, what))
    }
    if not subjects:
        return []
    first = next(iter(records.values()))
    png = sheet(subjects, store.labels, spacing=store.spacing(first))
    caption = (
        "Best, median and worst validation patient of the candidate, by the axial cut that shows most: image, label, "
        "and what candidate and baseline make of it (white: the label's outline), with the Dice of the whole image"
    )
    return [Picture(caption, png)]


def _models(material: Material) -> Iterator[Model]:
    """Candidate's and baseline's models in the middle, of those that are still there."""
    table = material.table
    for side, key in (("candidate", table.candidate), ("baseline", table.baseline)):
        if not key:
            continue
        training = middle(material, table.row(key))
        try:
            yield _model(material, side, training)
        except UNREADABLE as error:
            material.tell(f"what the {side} makes of patients is not shown: {on_one_line(str(error))}")


def _model(material: Material, side: str, training: TrialResult) -> Model:
    from ganatomy.stages.artefacts import Stage
    from ganatomy.stages.stages import Stages

    folder = model_folder(material, training)
    if folder is None:
        raise InputError(f"the model of trial {training.trial} is no longer in the workspace")
    stages = Stages(material.workspace, Path(material.plan.store), training.experiment, may_train=False)
    return Model(side, training, stages, stages.network(Stage(folder.parent.name, folder.name, folder)))


def _columns(
    store: Store, records: Mapping[str, Record], models: Sequence[Model], patient: str, row: Row, what: str
) -> list[Column]:
    """Image, label and predictions of the patient's subject that is the best or worst of his; none where the store
    knows none."""
    own = {subject: dice for subject, dice in case_scores(models[0].training.scores).items()
           if subject in records and records[subject].patient == patient}  # fmt: skip
    if not own:
        return []
    record = records[(max if what == "best" else min)(own, key=lambda name: own[name])]
    image, truth = store.image(record), store.label(record)
    cut = int(np.argmax(np.count_nonzero(truth > 0, axis=(1, 2))))
    columns = [Column("image", image), Column("label", image, truth)]
    for model in models:
        dice = case_scores(model.training.scores).get(record.subject, math.nan)
        columns.append(Column(model.side, image, model.found(image, cut), truth, caption=f"Dice {dice:.3f}"))
    return columns


# --- synthetic images --------------------------------------------------------------------------------------------


def _synthetic(material: Material, row: Row) -> list[Picture]:
    """Synthetic images of the candidate with their labels; where they were made within training, what that showed."""
    from ganatomy.stages.stages import KEPT, SYNTHETIC
    from ganatomy.stores.store import open_store

    training = middle(material, row)
    if not task_of(training.experiment).segments:  # what its training showed last has them
        return []
    made, chosen = (stage_folder(material, training, kind) for kind in ("synthesise", "filter"))
    if training.experiment.arm == "joint" or made is None or chosen is None:
        return _left(material, training, LAST_MADE, "fit")
    kept = json.loads((chosen / KEPT).read_text())
    store, said = open_store(made / SYNTHETIC), dict[str, float]()
    if any(vars(training.experiment.filter).values()):  # else nobody judged them
        said = kept.get(task_of(training.experiment).judged_by) or {}
    images = {image.index: image for image in store.records() if image.index in set(kept["kept"])}
    shown = _spread(images, {int(index): value for index, value in said.items()})
    subjects, cohort = {}, open_store(material.plan.store)
    for what, index in shown.items():
        source = source_of(images[index], training.experiment, cohort.records())
        columns = _made(store, images[index], cohort, source)
        if str(index) in said:
            columns[-1] = replace(columns[-1], caption=f"judged {said[str(index)]:.2f}")
        subjects[what] = columns
    if not subjects:
        return []
    caption = (
        f"Synthetic images that the candidate was trained on ({len(images)} kept of {kept['of']}"
        f"{', by the judgement of the filter' if said else ''}): what each was made of, the image, and the label that "
        "it should show"
    )
    spacing = store.spacing(next(iter(images.values())))
    return [Picture(caption, sheet(subjects, store.labels, spacing=spacing))]


def _spread(images: Mapping[int, Any], said: Mapping[int, float]) -> dict[str, int]:
    """Name of a row -> index: best, median and worst of the kept images by the filter's judgement; else the first, the
    middle and the last."""
    if any(index in said for index in images):
        named = {str(index): said.get(index, 0.0) for index in images}
        return {what: int(index) for what, index in ranked(named).items()}
    order = sorted(images)
    places = dict.fromkeys([0, len(order) // 2, len(order) - 1]) if order else {}
    return {f"number {order[place]}": order[place] for place in places}


def source_of(image: Record, experiment: Experiment, cohort: Iterable[Record]) -> Record | None:
    """The image of the cohort that a synthetic one was made of; None for one that was drawn, or made of another
    cohort's. A subject may have an image in each domain: what was translated came from another than its own."""
    if image.kind == "drawn":
        return None
    others = {experiment.domain(role) for role in experiment.method_class().roles} - {image.domain}
    domains = others if image.kind == "translated" and others else {image.domain}
    found = [record for record in cohort if record.subject in image.parents and record.domain in domains]
    return found[0] if len(found) == 1 else None


def _made(store: Store, image: Record, cohort: Store, source: Record | None) -> list[Column]:
    columns, whole = [], store.image(image)
    if source is not None and source.shape == image.shape:  # not where slices were made one by one
        columns.append(Column("made of", cohort.image(source)))
    columns.append(Column("synthetic", whole))
    if image.labelled:
        columns.append(Column("its label", whole, store.label(image)))
    return columns


def _left(material: Material, training: TrialResult, caption: str, kind: str = "downstream") -> list[Picture]:
    """The last picture that a stage of that kind left."""
    from ganatomy.training.tasks import PANELS

    folder = stage_folder(material, training, kind)
    pictures = sorted((folder / PANELS).glob("*.png")) if folder else []
    return [Picture(caption, pictures[-1].read_bytes())] if pictures else []
