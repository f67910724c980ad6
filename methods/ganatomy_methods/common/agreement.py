"""Does a synthetic image show the lesion that it was made with? What Qu et al. 2019, section 2.8, filters by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def lesion_dice(found: Tensor, label: Tensor) -> Tensor:
    """[N]: Dice of each class that stands in found or label, background apart, averaged; 1 where there is none.

    found, label: class ids [N, *S].
    """
    scores = []
    for one, other in zip(found.flatten(1), label.flatten(1), strict=True):
        classes = [c for c in torch.cat([one, other]).unique().tolist() if c > 0]
        each = [2 * ((one == c) & (other == c)).sum() / ((one == c).sum() + (other == c).sum()) for c in classes]
        scores.append(torch.stack(each).mean() if each else torch.ones((), device=one.device))
    return torch.stack(scores)


def label_index_dice(found: Tensor, label: Tensor) -> Tensor:
    """[N]: (2 Σab + ε) / (Σa² + Σb² + ε) on class *ids* as if they were intensities, ε = 1e-5.

    No Dice of classes: to call a 4 a 3 costs less than to call it a 1. By all signs it is the score in the tables of
    Qu et al. 2019, so that only orderings of theirs can be compared with ``lesion_dice``.
    """
    one, other = found.flatten(1).double(), label.flatten(1).double()
    return (2 * (one * other).sum(1) + 1e-5) / ((one**2).sum(1) + (other**2).sum(1) + 1e-5)


@torch.no_grad()
def lesion_agreement(images: Mapping[str, Tensor], label: Tensor, judges: Mapping[str, nn.Module]) -> Tensor:
    """[N]: ``lesion_dice`` of what each modality's judge finds in its image, averaged over the modalities.

    images: modality -> [N, 1, *S].  label: [N, *S].  judges: modality -> segmentor, image to logits.
    """
    found = [lesion_dice(judges[name](image).argmax(dim=1), label) for name, image in images.items()]
    return torch.stack(found).mean(dim=0)


def kept(scores: Tensor, threshold: float) -> tuple[int, ...]:
    """Indices of the scores of at least ``threshold``."""
    return tuple((scores >= threshold).nonzero().flatten().tolist())
