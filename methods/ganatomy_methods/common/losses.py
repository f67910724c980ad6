"""Losses, one function an equation. Each is a mean over samples of per-sample means.

That form is what lets N workers that average their gradients equal one worker on the N batches together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def lsgan_generator(fake_score: Tensor) -> Tensor:
    """mean (D(fake) - 1)²: how far the discriminator is from taking the images for real ones.

    fake_score: D's patch map of current fakes, any shape; D in the graph.
    Source: least squares GAN (Mao et al. 2017), as in Cai et al. 2019, eq. 7, generator's side. Eq. 7 as printed swaps
    the targets of real and fake; only this direction is a game when both sides minimise.
    """
    return F.mse_loss(fake_score, torch.ones_like(fake_score))


def lsgan_discriminator(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """½ mean (D(real) - 1)² + ½ mean D(fake)²: 0 exactly when D says 1 to every real patch and 0 to every fake one.

    real_score, fake_score: D's patch maps; the fakes are detached (drawn from a replay pool).
    Source: Cai et al. 2019, eq. 7, discriminator's side, in the direction of ``lsgan_generator``.
    """
    real = F.mse_loss(real_score, torch.ones_like(real_score))
    fake = F.mse_loss(fake_score, torch.zeros_like(fake_score))
    return (real + fake) / 2


def l1(image: Tensor, reference: Tensor) -> Tensor:
    """mean |image - reference| over samples and voxels, both of one shape. Source: a term of eq. 2, Cai et al. 2019."""
    return F.l1_loss(image, reference)


def l1_where(image: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """mean over samples of the mean of |image - reference| over the voxels of ``mask``; 0 for a sample without any.

    All [N, 1, *S], the mask boolean.
    """
    inside = mask.to(image).flatten(1)
    apart = (image - reference).abs().flatten(1)
    return ((apart * inside).sum(1) / inside.sum(1).clamp_min(1)).mean()


def soft_dice(probability: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """1 - (2 Σ p m + 1) / (Σ p² + Σ m² + 1) of each sample, times its weight, averaged over all samples.

    probability, mask: [N, 1, *S] in [0, 1].  weight: [N]; 0 leaves a sample out of the sum but not of the count.
    One voxel is added to both sides, so that an empty mask asks for an empty map instead of giving the constant 1.
    Source: Milletari et al. 2016, eq. 3, per sample.
    """
    probability, mask = probability.flatten(1), mask.flatten(1)
    overlap = 2 * (probability * mask).sum(1) + 1
    total = (probability**2).sum(1) + (mask**2).sum(1) + 1
    return (weight * (1 - overlap / total)).mean()


def weighted_least_squares(score: Tensor, target: float, weight: Tensor) -> Tensor:
    """mean over samples of weight · mean (D(x) - target)²: least squares in which some samples do not count.

    score: patch maps [N, 1, *P].  weight: [N].
    """
    return (weight * per_sample((score - target) ** 2)).mean()


def per_sample(values: Tensor) -> Tensor:
    """[N, ...] -> [N]: the mean of each sample."""
    return values.flatten(1).mean(1)
