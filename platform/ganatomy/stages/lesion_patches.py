"""Patches around lesions and where others have none: a store of them to train on, and whole images made with them.

Images without a lesion are parted by patient before anything is cut: some train the generator as its negatives, the
others receive the lesions that it makes, so that it never translates what it learnt from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ganatomy.contracts import UNLABELLED, Corners, Images, InputError, Method, Patches
from ganatomy.experiment import Experiment, Labels, Sampling, State
from ganatomy.images.imaging import in_plane
from ganatomy.measures.roc import LESION, NORMAL
from ganatomy.stores.amounts import drawn_patients
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store
from ganatomy.stores.writing import Item
from ganatomy.training.classification import class_of
from ganatomy.training.pools import labelled_patients, real_images

AT_ONCE = 16
SHOWN = 3
"""Validation images without a lesion whose patches are cut, for the pictures of the training."""


def rules_of(experiment: Experiment) -> Patches:
    """How the experiment's method cuts patches. Raises InputError for a method that does not work on any."""
    return experiment.method_class().patches(experiment.method_config())


def patch_experiment(experiment: Experiment) -> Experiment:
    """The experiment as the loop that trains on patches sees it: a sample is a whole patch, of whoever was cut."""
    side = rules_of(experiment).side
    return replace(experiment, sampling=Sampling(2, (side, side), foreground=0.0), labels=Labels())


def role_in(experiment: Experiment, state: State) -> str:
    """The method's role that is played by images in ``state``. InputError where none is."""
    for role in experiment.method_class().roles:
        if experiment.state(role) == state:
            return role
    raise InputError(
        f"domains = {dict(experiment.domains)}: no role is played by images in state {state}",
        expected="one role in state lesion and one in state healthy",
        remedy="--domains H=DOMAIN:healthy --domains L=DOMAIN:lesion",
    )


@dataclass(frozen=True)
class Parting:
    """Who does what. Images are named by their place in the store: what is drawn by name is then the same under any
    key of its pseudonyms.

    boxes: lesion image -> its box.  windows: lesion image -> the windows to cut around it.
    cuts: (image without a lesion, window to cut of it), which train the generator to know no lesion.
    sources: images without a lesion that receive some, all of patients who did not train it.
    sides: (height, width) of all."""

    records: Mapping[str, Record]
    boxes: Mapping[str, Corners]
    windows: Mapping[str, Sequence[Corners]]
    cuts: tuple[tuple[str, Corners], ...]
    sources: tuple[str, ...]

    @property
    def negatives(self) -> tuple[str, ...]:
        """Images without a lesion that the generator is trained on."""
        return tuple(sorted({name for name, _ in self.cuts}))

    @property
    def sides(self) -> dict[str, tuple[int, int]]:
        """Image -> (height, width)."""
        return _sides(self.records)


def part(store: Store, experiment: Experiment, *, taught: bool = True) -> Parting:
    """Part the training images of the target domain, those of the patients whose class may be seen.

    taught: whether the generator is trained on this cohort; where it is lent by another, nobody's patches are cut, and
    all patients without a lesion may receive some.
    InputError where no lesion has a box, or nobody without one is left to receive lesions.
    """
    rules, domain = rules_of(experiment), experiment.target_domain()
    patients = labelled_patients(store, experiment, experiment.target)
    images = [image for image in real_images(store, domain, "train") if image.patient in patients]
    records = _by_place(image for image in images if class_of(image))
    boxes = _boxes(store, records)
    normals = [name for name, image in records.items() if class_of(image) == NORMAL]
    ill = {records[name].patient for name in boxes}
    well = {records[name].patient for name in normals} - ill
    trains = drawn_patients(images, well, 1 - rules.source_share, experiment.seed) | ill if well else ill
    learns = [name for name in normals if records[name].patient in trains]
    windows = rules.of_lesions(boxes, sides := _sides(records), experiment.seed)
    cuts = rules.of_normals(windows, learns, sides, experiment.seed) if taught else []
    owners = {name: image.patient for name, image in records.items()}
    sources = rules.sources(normals, [*boxes, *(name for name, _ in cuts)], owners)
    return Parting(records, boxes, windows, tuple(cuts), tuple(sources))


def patch_items(store: Store, experiment: Experiment) -> Iterator[Item]:
    """Every patch that the method is trained on; and of validation patients those with a lesion, which tell whether it
    repeats lesions, and a few without. Nothing learns of these."""
    rules, parting = rules_of(experiment), part(store, experiment)
    yield from _cut(store, rules, parting.records, parting.windows, parting.cuts)
    shown = _by_place(real_images(store, experiment.target_domain(), "val"))
    boxes = _boxes(store, shown, required=False)
    normals = [name for name, image in shown.items() if class_of(image) == NORMAL][:SHOWN]
    if boxes and normals:
        windows = rules.of_lesions(boxes, sides := _sides(shown), experiment.seed)
        yield from _cut(store, rules, shown, windows, rules.of_normals(windows, normals, sides, experiment.seed))


def _cut(
    store: Store,
    rules: Patches,
    records: Mapping[str, Record],
    windows: Mapping[str, Sequence[Corners]],
    normals: Iterable[tuple[str, Corners]],
) -> Iterator[Item]:
    chosen = [(LESION, name, window) for name, some in windows.items() for window in some]
    chosen += [(NORMAL, name, window) for name, window in normals]
    for number, (name_of_class, name, window) in enumerate(chosen):
        record = records[name]
        patch = rules.cut(_image(store, record), window)
        if name_of_class == LESION or rules.worth(patch):
            yield Item(
                subject=f"{record.subject}-patch-{number}",
                patient=record.patient,
                domain=record.domain,
                split=record.split,
                image=patch.numpy(),
                lo=record.lo,
                hi=record.hi,
                parents=(record.subject,),
                attributes={"class": name_of_class, "window": list(window)},
            )


def film_places(store: Store, experiment: Experiment) -> tuple[Mapping[str, Record], list[tuple[str, Corners]]]:
    """Images by name, and (name, window) of each patch that a lesion is to be put into."""
    parting = part(store, experiment, taught=not experiment.transfer.generator)
    some = parting.windows, parting.sources, parting.sides
    return parting.records, rules_of(experiment).receiving(*some, experiment.seed + 1)


def film_items(
    method: Method, experiment: Experiment, store: Store, source: str, device: torch.device
) -> Iterator[Item]:
    """Whole images with a lesion: patches of the sources, translated and pasted back where they were cut.

    All sources receive some, wherever the method's rules say. Each has class lesion, the box of what was put in, and
    its own patient.  source: what to name as their maker.
    """
    rules, (records, found) = rules_of(experiment), film_places(store, experiment)
    places, number = iter(found), 0
    while some := list(islice(places, AT_ONCE)):
        images = [_image(store, records[name]) for name, _ in some]
        patches = [rules.cut(image, window) for image, (_, window) in zip(images, some)]
        translated = with_lesions(method, experiment, torch.stack(patches), device)
        for image, (name, window), patch, made in zip(images, some, patches, translated):
            if not rules.worth(patch):
                continue
            pasted, box = rules.paste(image, window, made)
            record = records[name]
            yield Item(
                subject=f"{record.subject}-lesion-{number}",
                patient=record.patient,
                domain=record.domain,
                split="train",
                image=pasted.clamp(-1, 1).numpy(),
                affine=record.affine,
                lo=record.lo,
                hi=record.hi,
                source=source,
                kind="translated",
                parents=(record.subject,),
                attributes={"class": LESION, "box": list(box), "window": list(window), "synthetic": True},
            )
            number += 1


def with_lesions(method: Method, experiment: Experiment, patches: Tensor, device: torch.device) -> Tensor:
    """Patches [N, 1, P, P] without a lesion, translated into ones with: the same shape, on the CPU."""
    healthy, lesion = role_in(experiment, "healthy"), role_in(experiment, "lesion")
    label = torch.full((len(patches), *patches.shape[2:]), UNLABELLED)
    for made in method.synthesize({healthy: Images(patches, label).to(device)}):
        if (made.role, made.kind) == (lesion, "translated"):
            return made.image.float().cpu()
    raise InputError(
        f"method {experiment.method.name} makes nothing of role {lesion}", expected=f"{healthy} translated"
    )


def _boxes(store: Store, records: Mapping[str, Record], required: bool = True) -> dict[str, Corners]:
    """Image -> box of its lesion, in whole pixels, for those that have one."""
    boxes: dict[str, Corners] = {}
    for name, record in records.items():
        box = record.attributes.get("box")
        if class_of(record) == LESION and box:
            x0, y0, x1, y1 = in_plane(box)
            boxes[name] = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
    if required and not boxes:
        raise InputError(f"cohort {store.name}: no training image of class lesion has a box",
                         expected="columns box_x0, box_y0, box_x1, box_y1", remedy="fill them in")  # fmt: skip
    return boxes


def _sides(records: Mapping[str, Record]) -> dict[str, tuple[int, int]]:
    return {name: record.shape[1:] for name, record in records.items()}


def _by_place(images: Iterable[Record]) -> dict[str, Record]:
    """Place in the store -> 2D image; as text that sorts like the places."""
    return {f"{image.index:09d}": _single(image) for image in images}


def _single(image: Record) -> Record:
    if image.shape[0] != 1:
        raise InputError(f"image of subject {image.subject} has {image.shape[0]} slices",
                         expected="2D images, for patches around boxes")  # fmt: skip
    return image


def _image(store: Store, record: Record) -> Tensor:
    return torch.from_numpy(np.array(store.image(record)))
