"""How healthy pseudo-healthy images are, how much the same person's, and how near the truth where somebody knows it;
with what needs no training beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganatomy.contracts import Method
from ganatomy.experiment import Experiment
from ganatomy.measures.pathology import PseudoHealthyCase, areas, summarise_pseudo_healthy
from ganatomy.measures.segmentation import summarise
from ganatomy.measures.trivial import TRIVIAL
from ganatomy.stages.synthesis import held_out, made_images
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store
from ganatomy.training.downstream import score_records, segment
from ganatomy.training.pools import evaluation_images
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
    judged = {key: _judged(case, key[0], judges, experiment, device) for key, case in made.items()}
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
    for name, cases in _beside(judged, experiment, store, judges, split, device):
        found_so = summarise_pseudo_healthy(cases)
        numbers |= {key.replace("synthesis/", f"synthesis/beside/{name}/"): value for key, value in found_so.items()}
    return numbers | _reliability(made, experiment, store, judges, split, device), rows


def healed(
    method: Method, experiment: Experiment, store: Store, split: str, device: torch.device
) -> dict[Of, PseudoHealthyCase]:
    """What ``method`` made of the images of ``split`` with a lesion, in 2D of their slices with one."""
    parts: dict[Of, list[tuple[NDArray[Any], ...]]] = {}
    for role in (role for role in method.roles if experiment.state(role) == "lesion"):
        for made in made_images(method, experiment, store, role, held_out(store, experiment, role, split), {}, device):
            given = made.given
            emptied = made.kind == "translated" and made.label is not None and not made.label.any()
            if given.label is not None and emptied:
                twin = store.twin(given.record)
                if twin is not None and given.number is not None:
                    twin = twin[given.number : given.number + 1]
                part = (made.image, given.image, given.label, *(() if twin is None else (twin,)))
                parts.setdefault((given.record, made.claimed), []).append(part)
    cases = {}
    for key, stack in parts.items():
        image, source, lesion, *known = map(np.concatenate, zip(*stack))
        cases[key] = PseudoHealthyCase(image, source, lesion, twin=known[0] if known else None)
    return cases


def _judged(
    case: PseudoHealthyCase,
    record: Record,
    judges: Mapping[str, nn.Module],
    experiment: Experiment,
    device: torch.device,
) -> PseudoHealthyCase:
    """The case with what f_pre finds in both of its images; what it found in the source already stays."""
    judge = judges.get(record.domain)
    if judge is None:
        return case
    before = case.found_before
    if before is None:
        before = segment(judge, case.source, experiment.sampling, device)
    return replace(case, found=segment(judge, case.made, experiment.sampling, device), found_before=before)


def _beside(
    judged: Mapping[Of, PseudoHealthyCase],
    experiment: Experiment,
    store: Store,
    judges: Mapping[str, nn.Module],
    split: str,
    device: torch.device,
) -> Iterator[tuple[str, list[PseudoHealthyCase]]]:
    """Name -> cases of the same images, as something makes them that has learnt nothing."""
    for name, rule in TRIVIAL.items():
        yield (
            name,
            [
                _judged(replace(case, made=rule(case.source)), record, judges, experiment, device)
                for (record, _), case in judged.items()
            ],
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        fresh = make_method(experiment.trained(), store.classes).to(device)
    made = healed(fresh, experiment, store, split, device)
    yield (
        "untrained",
        [
            _judged(replace(case, found_before=judged[key].found_before), key[0], judges, experiment, device)
            for key, case in made.items()
        ],
    )


def _reliability(
    made: Mapping[Of, PseudoHealthyCase],
    experiment: Experiment,
    store: Store,
    judges: Mapping[str, nn.Module],
    split: str,
    device: torch.device,
) -> dict[str, float]:
    """``synthesis/f_pre``: the Dice of f_pre on real images, the least of the domains that it judged in."""
    found = []
    for domain in {record.domain for record, _ in made} & judges.keys():
        rows = score_records(
            judges[domain], store, evaluation_images(store, domain, split), experiment.sampling, device
        )
        found.append(summarise(rows)["val/dice"])
    return {"synthesis/f_pre": min(found)} if found else {}
