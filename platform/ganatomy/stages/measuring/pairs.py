"""What a registered method makes of held-out patients, beside their own real images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import torch

from ganatomy.contracts import Method
from ganatomy.evidence.results import write_json
from ganatomy.experiment import Experiment, Score
from ganatomy.measures.synthesis.paired import PairedCase, measures_of, paired_rows
from ganatomy.stages.stages import SCORES, Stages
from ganatomy.stores.layout import Record
from ganatomy.stores.sampling import Entry
from ganatomy.stores.store import Store
from ganatomy.training.inference import synthesize_labelled
from ganatomy.training.pools import check_registered, held_out

HOUNSFIELD = "CT"
"""Modality whose native values are Hounsfield units."""


def paired_scores(stages: Stages, split: str) -> list[Score]:
    """Rows of MAE, PSNR and MS-SSIM on the patients of ``split`` that have an image in both domains; none for a method
    whose roles are not registered, or without such a patient."""
    if not stages.experiment.method_class().registered:
        return []
    fit = stages.fit()

    def work(directory: Any) -> None:
        found = list(score_pairs(stages.method(fit), stages.experiment, stages.store, split, stages.device()))
        write_json(directory / SCORES, {"rows": found})

    inputs = {"fit": fit.key, "store": stages.store.digest, "split": split, "target": stages.experiment.target}
    stage = stages.artefacts.compute("paired", inputs, stages.apart(work))
    return paired_rows(json.loads((stage.directory / SCORES).read_text())["rows"])


def score_pairs(
    method: Method, experiment: Experiment, store: Store, split: str, device: torch.device
) -> Iterator[dict[str, Any]]:
    """subject, patient, domain and ``measures_of`` each image of ``split`` that was translated into the target domain,
    labelled or not, by its pseudonym."""
    domain = experiment.target_domain()
    for role in (role for role in method.roles if experiment.domain(role) != domain):
        for entry in held_out(store, experiment, role, split).entries:
            if (truth := store.counterpart(entry.record, domain)) is None:
                continue
            check_registered([entry.record, truth])
            made = synthesize_labelled(method, store.image(entry.record), role, experiment.sampling, device=device)
            for (claimed, kind), one in made.items():
                if kind == "translated" and experiment.domain(claimed) == domain:
                    yield {
                        "subject": truth.subject,
                        "patient": truth.patient,
                        "domain": domain,
                        "measures": measures_of(_case(store, entry, truth, one.image)),
                    }


def _case(store: Store, entry: Entry, truth: Record, made: Any) -> PairedCase:
    shown = slice(None) if entry.slices is None else list(entry.slices)
    domain = store.domains[truth.domain]
    hounsfield = str(domain.get("modality", "")).upper() == HOUNSFIELD
    windowed = domain.get("intensity", {}).get("rule") == "window"  # by others -1 and 1 are other values in each image
    native = truth.hi - truth.lo if hounsfield and windowed else math.nan
    return PairedCase(made[shown], store.image(truth)[shown], store.image(entry.record)[shown], native)
