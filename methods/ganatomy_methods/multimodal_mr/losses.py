"""Terms that several of the method's losses share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ganatomy.contracts import UNLABELLED
from ganatomy_methods.multimodal_mr.settings import ClassLoss, GuideLoss


def square(values: Tensor) -> Tensor:
    """Mean square."""
    return (values**2).mean()


def total(terms: Iterable[Tensor]) -> Tensor:
    """Their sum, 0 of none: two modalities have no triples to sum over."""
    return sum(terms, torch.zeros(()))


def category_loss(said: Tensor, modality: int, by: ClassLoss) -> Tensor:
    """How far D_M's word is from ``modality``. said: [N, 1 or K, *P]."""
    if by == "regression":
        return F.mse_loss(said, torch.full_like(said, modality))
    return F.cross_entropy(said, torch.full_like(said[:, 0], modality, dtype=torch.int64))


def lesion_loss(logits: Tensor, label: Tensor, weights: Tensor, by: GuideLoss = "squared") -> Tensor:
    """loss_sv,l (section 2.7): squared difference of label and probabilities, by class, each times its weight; or the
    voxel-mean cross-entropy, without weights. A sample without a label counts as 0.

    logits: [N, classes, H, W].  label: [N, H, W].  weights: [classes].
    """
    known = (label != UNLABELLED).flatten(1).any(dim=1)
    if by == "cross_entropy":
        off = F.cross_entropy(logits, label.clamp_min(0), reduction="none").mean(dim=(1, 2))
    else:
        truth = F.one_hot(label.clamp_min(0), len(weights)).movedim(-1, 1)
        difference = ((logits.softmax(dim=1) - truth) ** 2).mean(dim=(2, 3))
        off = (difference * weights.to(difference)).sum(dim=1)
    return (off * known).mean()
