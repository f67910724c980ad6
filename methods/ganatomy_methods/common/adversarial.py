"""What methods that translate after CycleGAN share: their schedule, the games with D, the images of both ways.

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017; Gulrajani et
al., "Improved training of Wasserstein GANs", NIPS 2017.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ganatomy.contracts import Batch, Images, Phase, Synthetic
from ganatomy_methods.common.losses import lsgan_discriminator, per_sample, weighted_least_squares

Game = Literal["lsgan", "wgan_gp"]
"""What D's scores mean: least squares, real 1 and made 0; or Wasserstein's critic, whose scores have no bounds."""


def constant_then_decay(steps: int) -> tuple[Phase, ...]:
    """Half of the steps at a constant rate, half decaying to 0 (100 + 100 epochs in the paper)."""
    decay = steps // 2
    phases = Phase("constant", steps - decay), Phase("decay", decay, decay=True)
    return tuple(phase for phase in phases if phase.steps)


def discrimination(D: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Least-squares objective of D, which sees real and fake images [N, 1, *S] in one batch; the fakes are detached."""
    real_score, fake_score = D(torch.cat([real, fake])).split([len(real), len(fake)])
    return lsgan_discriminator(real_score, fake_score)


def persuasion(game: Game, fake_score: Tensor, weight: Tensor) -> Tensor:
    """The generators' side of either game, a weighted mean over samples: (D(x̃) - 1)², or -D(x̃).

    fake_score: D's patch maps [N, 1, *P].  weight: [N].
    """
    if game == "lsgan":
        return weighted_least_squares(fake_score, 1, weight)
    return -(weight * per_sample(fake_score)).mean()


def critique(
    D: nn.Module, real: Tensor, fake: Tensor, share: Tensor, weights: tuple[Tensor, Tensor], penalty: float
) -> Tensor:
    """The critic's side of Wasserstein's game: mean D(x̃) - mean D(x) + λ mean (‖∇D(x̂)‖₂ - 1)², x̂ = ε x + (1 - ε) x̃.

    real, fake: x and x̃, [N, 1, *S], detached.  share: ε, [N], as ``shares`` gives it.  weights: [N] of the real and of
    the made; a pair counts by their product.  penalty: λ.
    The score of an image is the mean of its patch map. Source: Gulrajani et al. 2017, eq. 3.
    """
    real_score, fake_score = D(torch.cat([real, fake])).split([len(real), len(fake)])
    both = weights[0] * weights[1]  # of a score on one side alone, which no penalty holds, the critic would know no end
    apart = (both * (per_sample(fake_score) - per_sample(real_score))).mean()
    ε = share.reshape(-1, *(1,) * (real.dim() - 1))
    between = (ε * real + (1 - ε) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(per_sample(D(between)).sum(), between, create_graph=True)
    steepness = (slope.flatten(1).square().sum(1) + 1e-12).sqrt()  # a root of 0 has no slope of its own
    return apart + penalty * (both * (steepness - 1) ** 2).mean()


def shares(images: Images) -> Tensor:
    """[N] in [0, 1), uniform over samples: a function of how each was drawn, so that several workers, and a training
    that goes on, meet what one in one go would. ½ where nobody says how.
    """
    numbers = [one.number / 2**64 for one in images.drawn] or [0.5] * len(images)
    return images.image.new_tensor(numbers)


def both_ways(batch: Batch, G_A: nn.Module, G_B: nn.Module, *, reconstructed: bool) -> list[Synthetic]:
    """Translations of the roles A and B that are in ``batch``; with ``reconstructed``, those turned back as well.

    G_A makes images of A, G_B of B.
    """
    made: list[Synthetic] = []
    for role, other, there, back in (("A", "B", G_B, G_A), ("B", "A", G_A, G_B)):
        if role not in batch:
            continue
        fake = there(batch[role].image)
        made.append(Synthetic(fake.float(), role=other, source=role))
        if reconstructed:
            made.append(Synthetic(back(fake).float(), role=role, source=role, kind="reconstructed"))
    return made
