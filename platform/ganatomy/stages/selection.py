"""Which synthetic images are kept: how sure a downstream model trained on real images alone is of what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ganatomy.contracts import InputError
from ganatomy.experiment import Experiment, Filter
from ganatomy.stores.store import Store
from ganatomy.training.models import models_of


class SetRefused(InputError):
    """Those who judge a synthetic set do not find in it what it is meant to show. Nothing is trained on it: there is no
    result under this seed, neither for synthetic data nor against."""


def judged(judge: nn.Module | None, synthetic: Store, experiment: Experiment, device: torch.device) -> dict[int, float]:
    """Index of a synthetic image -> how surely it is what it is meant to be, in [0, 1]; 1 where nobody judges."""
    images = synthetic.records()
    if judge is None:
        return {image.index: 1.0 for image in images}
    return models_of(experiment).judge(judge, synthetic, images, experiment.sampling, device)


def kept_images(found: Mapping[int, float], rule: Filter, judgement: str, seed: int) -> list[int]:
    """The images that reach the rule's threshold; of more than ``rule.as_many_as`` lets through, so many at random.

    found: image -> what it reaches in [0, 1].  judgement: what the task judges by.  Kept sets are nested in the
    threshold where there is no bound. SetRefused where none is left, or those that are reach less than
    ``rule.set_mean`` on average; InputError where what one reaches is no number of [0, 1].
    """
    for index, score in found.items():
        if not 0 <= score <= 1:  # NaN too, which would otherwise count as too low
            raise InputError(f"{judgement} of synthetic image {index} = {score}", expected="a number in [0, 1]",
                             remedy="look at the losses of the model that judges: did it diverge?")  # fmt: skip
    threshold = getattr(rule, f"min_{judgement}")
    kept = [index for index, score in found.items() if score >= threshold]
    bound = sum(score >= rule.as_many_as for score in found.values()) if rule.as_many_as else len(kept)
    if not kept or not bound:
        asked = f"min_{judgement} = {threshold:g}" if not kept else f"as_many_as = {rule.as_many_as:g}"
        raise SetRefused(
            f"filter.{asked} keeps none of {len(found)} synthetic images (best {max(found.values(), default=0.0):.2f})",
            expected="a threshold that some image reaches",
            remedy=f"lower filter.{asked.split()[0]} or train the generator longer",
        )
    if bound < len(kept):
        chosen = np.random.default_rng(seed).permutation(len(kept))[:bound]  # not the best: the same at every t
        kept = [kept[i] for i in sorted(chosen)]
    mean = math.fsum(found[index] for index in kept) / len(kept)
    if mean < rule.set_mean:
        raise SetRefused(
            f"filter.set_mean = {rule.set_mean:g}: the {len(kept)} synthetic images kept of {len(found)} reach a "
            f"{judgement} of {mean:.2f} on average, so the set is refused: no result under this seed",
            expected="a set in which its judge finds what it is meant to show",
            remedy="train guides and generators longer, raise filter.min_" + judgement + ", or lower filter.set_mean",
        )
    return kept
