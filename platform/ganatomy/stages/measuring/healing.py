"""How healthy pseudo-healthy images are, how much the same person's, and how near the truth where somebody knows it;
with what needs no training beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganatomy.contracts import Method
from ganatomy.experiment import Experiment
from ganatomy.measures.segmentation import summarise
from ganatomy.measures.synthesis.pathology import PseudoHealthyCase, areas, summarise_pseudo_healthy
from ganatomy.measures.synthesis.trivial import TRIVIAL
from ganatomy.stages.synthesis import made_images
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store
from ganatomy.training.downstream import score_records, segment
from ganatomy.training.pools import evaluation_images, held_out
from ganatomy.training.tasks import make_method

BESIDE = (*TRIVIAL, "untrained")
"""What is measured beside every fit: what trivial rules make of an image, and the method before its first step."""

Of = tuple[Record, str]
"""An image, and the role that what was made of it is taken for."""


def score_healing(
    method: Method,
    experiment: Experiment,
    store: Store,
    judges: Mapping[str, nn.Module],
    split: str,
    device: torch.device,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """How healthy, and how much the same person, images of ``split`` are out of which a method took the lesion.

    That is whatever it makes of a role in state ``lesion`` with a label that is empty.  judges: domain -> f_pre,
    trained on real training images; that of the diseased domain looks for what is left, wherever healthy images come
    from, and without it there is identity alone. Where images have twins without the lesion, the error against them.
    Returns the numbers to log, of the method and of what is ``BESIDE`` it (``synthesis/beside/unchanged/identity`` and
    the like), and those of each volume by its pseudonym. Nothing of a method that makes no such image.
    """
    made = healed(method, experiment, store, split, device)
    if not made:
        return {}, []
    eyes = _Eyes(experiment, store, judges, split, device)
    judged = {key: eyes.judged(case, key[0]) for key, case in made.items()}
    rows = [
        {
            "subject": record.subject,
            "patient": record.patient,
            "role": claimed,
            "slices": len(case.made),
            **({"areas": found} if (found := areas(case)) else {}),
            **summarise_pseudo_healthy([case]),
        }
        for (record, claimed), case in judged.items()
    ]
    numbers = summarise_pseudo_healthy([*judged.values()])
    for name, cases in eyes.beside(judged):
        found_so = summarise_pseudo_healthy(cases)
        numbers |= {key.replace("synthesis/", f"synthesis/beside/{name}/"): value for key, value in found_so.items()}
    return numbers | eyes.reliability(judged), rows


def healed(
    method: Method, experiment: Experiment, store: Store, split: str, device: torch.device
) -> dict[Of, PseudoHealthyCase]:
    """What ``method`` made of the images of ``split`` with a lesion, in 2D of their slices with one."""
    parts: dict[Of, list[tuple[NDArray[Any], ...]]] = {}
    for role in (role for role in method.roles if experiment.state(role) == "lesion"):
        pool = held_out(store, experiment, role, split)
        twins = {entry.record: store.twin(entry.record) for entry in pool.entries}
        for made in made_images(method, experiment, store, role, pool, {}, device):
            given, twin = made.given, twins[made.given.record]
            emptied = made.kind == "translated" and made.label is not None and not made.label.any()
            if given.label is not None and emptied:
                if twin is not None and given.number is not None:
                    twin = twin[given.number : given.number + 1]
                part = (made.image, given.image, given.label, *(() if twin is None else (twin,)))
                parts.setdefault((given.record, made.claimed), []).append(part)
    cases = {}
    for key, stack in parts.items():
        image, source, lesion, *known = map(np.concatenate, zip(*stack))
        cases[key] = PseudoHealthyCase(image, source, lesion, twin=known[0] if known else None)
    return cases


@dataclass(frozen=True)
class _Eyes:
    """What is looked at by whom. judges: domain -> f_pre."""

    experiment: Experiment
    store: Store
    judges: Mapping[str, nn.Module]
    split: str
    device: torch.device

    def judged(self, case: PseudoHealthyCase, record: Record) -> PseudoHealthyCase:
        """The case with what f_pre finds in both of its images; what it found in the source already stays."""
        judge, sampling = self.judges.get(record.domain), self.experiment.sampling
        if judge is None:
            return case
        before = case.found_before
        if before is None:
            before = segment(judge, case.source, sampling, self.device)
        return replace(case, found=segment(judge, case.made, sampling, self.device), found_before=before)

    def beside(self, judged: Mapping[Of, PseudoHealthyCase]) -> Iterator[tuple[str, list[PseudoHealthyCase]]]:
        """Name -> cases of the same images, as something makes them that has learnt nothing."""
        for name, rule in TRIVIAL.items():
            ruled = [(replace(case, made=rule(case.source)), record) for (record, _), case in judged.items()]
            yield name, [self.judged(case, record) for case, record in ruled]
        with torch.random.fork_rng(devices=[]):
            fresh = make_method(self.experiment.trained(), self.store.classes).to(self.device)
        made = healed(fresh, self.experiment, self.store, self.split, self.device)
        known = [(replace(case, found_before=judged[key].found_before), key[0]) for key, case in made.items()]
        yield "untrained", [self.judged(case, record) for case, record in known]

    def reliability(self, judged: Mapping[Of, PseudoHealthyCase]) -> dict[str, float]:
        """``synthesis/f_pre``: the Dice of f_pre on real images, the least of the domains that it judged in."""
        found = []
        for domain in {record.domain for record, _ in judged} & self.judges.keys():
            images = evaluation_images(self.store, domain, self.split)
            rows = score_records(self.judges[domain], self.store, images, self.experiment.sampling, self.device)
            found.append(summarise(rows)["val/dice"])
        return {"synthesis/f_pre": min(found)} if found else {}
