"""UNIT for lesions: a healthy patch becomes a patch with a lesion, and back, through one code shared by both.

Gupta et al., "Generative image translation for data augmentation of bone lesion pathology", MIDL 2019, which trains
the model of Liu et al., "Unsupervised image-to-image translation networks", NIPS 2017, on patches. Equation numbers
are those of Gupta et al. Patches, blending and selection: ganatomy_methods.unit_lesion.lesions.
Differences from the papers: docs/unit_lesion.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganatomy.contracts import UNLABELLED, Adam, Batch, Method, Phase, Synthetic, Task, Update
from ganatomy_methods.common.losses import l1
from ganatomy_methods.common.networks import CONV, InstanceNorm, ResidualBlock, normal02, require_multiple, scaled
from ganatomy_methods.common.settings import require_within
from ganatomy_methods.unit_lesion.lesions import BLEND_EXPONENT, MINIMUM_INTENSITY
from ganatomy_methods.unit_lesion.patches import LesionPatches


@dataclass(frozen=True)
class UnitLesionConfig:
    """Settings of UnitLesion; the defaults are the papers'.

    adversarial_weight: λ0; with 1 the paper saw texture change and no lesion.  kl_weight, reconstruction_weight: λ1 and
    λ2 of the autoencoders.  cycle_kl_weight, cycle_weight: λ3 and λ4 of the cycles.
    residual_blocks: of each encoder and each generator, besides the shared one.
    discriminator_layers: strided convolutions, each halving the side.  width: factor on all inner channels.
    learning_rate, weight_decay: of all networks.

    Of the patches (section 3.2): patch_side, pixels.  window: s, side of a window over the larger side of the box.
    crops: windows of each lesion.  normals: n, images without lesion for each with one.  minimum_intensity: darker
    normal patches are dropped.  source_share: of the patients without lesion, kept to receive lesions at least; whoever
    no training patch was cut of does too.
    positions: windows of each film that receives lesions.  candidates: at most so many of these windows, 0 for all.
    blend: n of the blending factor (section 3.3).
    """

    adversarial_weight: float = 10.0
    kl_weight: float = 0.1
    reconstruction_weight: float = 100.0
    cycle_kl_weight: float = 0.1
    cycle_weight: float = 100.0
    residual_blocks: int = 3
    discriminator_layers: int = 6
    width: float = 1.0
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    patch_side: int = 128
    window: float = 2.0
    crops: int = 2
    normals: int = 10
    minimum_intensity: float = MINIMUM_INTENSITY
    source_share: float = 0.5
    blend: float = BLEND_EXPONENT
    positions: int = 2
    candidates: int = 0

    def __post_init__(self) -> None:
        weights = ("adversarial_weight", "kl_weight", "reconstruction_weight", "cycle_kl_weight", "cycle_weight")
        others = ("residual_blocks", "learning_rate", "weight_decay")
        require_within(self, **dict.fromkeys((*weights, *others), (0, math.inf)))
        require_within(self, width=(0.01, math.inf), discriminator_layers=(1, 8), patch_side=(8, math.inf))
        require_within(self, window=(1, math.inf), crops=(1, math.inf), normals=(1, math.inf))
        require_within(self, positions=(1, math.inf), candidates=(0, math.inf))
        require_within(self, minimum_intensity=(0, 1), source_share=(0.01, 0.99), blend=(0.01, math.inf))


def kl_to_prior(mean: Tensor) -> Tensor:
    """½ mean μ²: the divergence KL(q(z|x) ‖ N(0, I)) of a posterior N(μ, I), per element of the code.

    mean: μ, [N, C, *S].  Source: first term of eq. 1; the posterior's variance is fixed at 1 (Liu et al. 2017).
    """
    return mean.square().mean() / 2


def bce_discriminator(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """-mean log D(real) - mean log (1 - D(fake)), with D = sigmoid(score); 2 log 2 for a D that cannot tell.

    real_score, fake_score: logits of any shape.  Source: eq. 2, which D maximises, with its sign turned.
    """
    real = F.binary_cross_entropy_with_logits(real_score, torch.ones_like(real_score))
    fake = F.binary_cross_entropy_with_logits(fake_score, torch.zeros_like(fake_score))
    return real + fake


def bce_generator(fake_score: Tensor) -> Tensor:
    """-mean log D(fake): the non-saturating form of eq. 2 for the generators (Goodfellow et al. 2014, section 3)."""
    return F.binary_cross_entropy_with_logits(fake_score, torch.ones_like(fake_score))


class Encoder(nn.Module):
    """What an encoder has of its own: [N, 1, *S] -> features [N, 256·width, *S/4]; sides multiples of 4, at least 8."""

    multiple_of = 4

    def __init__(self, ndim: int, width: float, blocks: int) -> None:
        super().__init__()
        self.ndim = ndim
        c64, c128, c256 = (scaled(channels, width) for channels in (64, 128, 256))
        # The first layer has no normalisation: it would take away the brightness that the code must carry.
        self.layers = nn.Sequential(
            CONV[ndim](1, c64, 7, 1, 3),
            nn.LeakyReLU(inplace=True),
            *_normalised(CONV[ndim](c64, c128, 3, 2, 1), c128),
            *_normalised(CONV[ndim](c128, c256, 3, 2, 1), c256),
            *(ResidualBlock(ndim, c256) for _ in range(blocks)),
        )
        normal02(self)

    def forward(self, image: Tensor) -> Tensor:
        """Features for the shared block. Raises InputError on sides that are not multiples of 4."""
        require_multiple(image, self.ndim, self.multiple_of, "the encoder of unit_lesion")
        return self.layers(image)


class Decoder(nn.Module):
    """What a generator has of its own: features [N, 256·width, *S/4] -> [N, 1, *S] in [-1, 1]."""

    def __init__(self, ndim: int, width: float, blocks: int) -> None:
        super().__init__()
        c64, c128, c256 = (scaled(channels, width) for channels in (64, 128, 256))
        self.layers = nn.Sequential(
            *(ResidualBlock(ndim, c256) for _ in range(blocks)),
            nn.Upsample(scale_factor=2),
            *_normalised(CONV[ndim](c256, c128, 3, 1, 1), c128),
            nn.Upsample(scale_factor=2),
            *_normalised(CONV[ndim](c128, c64, 3, 1, 1), c64),
            CONV[ndim](c64, 1, 1),
            nn.Tanh(),
        )
        normal02(self)

    def forward(self, features: Tensor) -> Tensor:
        """The image of the generator's domain."""
        return self.layers(features)


class Discriminator(nn.Module):
    """Strided 3-voxel convolutions, 64 channels doubling up to 2048, then one logit a position; no normalisation.

    [N, 1, *S] -> [N, 1, *P]. Any side will do; P is S / 2^layers, rounded up.
    """

    def __init__(self, ndim: int, width: float, layers: int) -> None:
        super().__init__()
        channels = [1, *(scaled(64 * min(2**scale, 32), width) for scale in range(layers))]
        modules: list[nn.Module] = []
        for before, after in pairwise(channels):
            modules += [CONV[ndim](before, after, 3, 2, 1), nn.LeakyReLU(inplace=True)]
        self.layers = nn.Sequential(*modules, CONV[ndim](channels[-1], 1, 1))
        normal02(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits that the patch is real."""
        return self.layers(image)


def _normalised(convolution: nn.Module, channels: int) -> Iterable[nn.Module]:
    return convolution, InstanceNorm(channels), nn.ReLU(inplace=True)


def _shared_block(ndim: int, width: float) -> nn.Module:
    block = ResidualBlock(ndim, scaled(256, width))
    normal02(block)
    return block


class UnitLesion(Method):
    """Two variational autoencoders with one latent space, healthy (H) and lesion (L), and a discriminator for each.

    E_H and E_L end in the block ``E_shared``, G_H and G_L begin with the block ``G_shared``: the same objects, so that
    their parameters exist once and belong to no role. Roles H and L, unpaired: patches x [N, 1, *S] in [-1, 1]; labels
    are never looked at.
    """

    Config: ClassVar[type] = UnitLesionConfig
    roles: ClassVar[tuple[str, ...]] = ("H", "L")
    multiple_of: ClassVar[int] = 4
    generators: ClassVar[tuple[str, ...]] = ("E_H", "E_L", "E_shared", "G_shared", "G_H", "G_L")
    on_patches: ClassVar[bool] = True
    synthesis_settings: ClassVar[frozenset[str]] = frozenset({"blend", "positions", "candidates"})
    config: UnitLesionConfig

    def __init__(self, config: UnitLesionConfig, task: Task) -> None:
        super().__init__(config, task)
        parts = (task.ndim, config.width, config.residual_blocks)
        self.E_H = Encoder(*parts)
        self.E_L = Encoder(*parts)
        self.E_shared = _shared_block(task.ndim, config.width)
        self.G_shared = _shared_block(task.ndim, config.width)
        self.G_H = Decoder(*parts)
        self.G_L = Decoder(*parts)
        self.D_H = Discriminator(task.ndim, config.width, config.discriminator_layers)
        self.D_L = Discriminator(task.ndim, config.width, config.discriminator_layers)

    @classmethod
    def patches(cls, config: UnitLesionConfig) -> LesionPatches:
        """How patches are cut from whole images and put back."""
        return LesionPatches(
            config.patch_side,
            config.window,
            config.crops,
            config.normals,
            config.minimum_intensity,
            config.source_share,
            config.blend,
            config.positions,
            config.candidates,
        )

    def encoder(self, role: str) -> nn.Sequential:
        """The whole encoder of ``role``: patch [N, 1, *S] -> mean μ of its code, [N, 256·width, *S/4]."""
        return nn.Sequential(getattr(self, f"E_{role}"), self.E_shared)

    def generator(self, role: str) -> nn.Sequential:
        """The whole generator of ``role``: code [N, 256·width, *S/4] -> patch [N, 1, *S] in [-1, 1]."""
        return nn.Sequential(self.G_shared, getattr(self, f"G_{role}"))

    def sample(self, mean: Tensor) -> Tensor:
        """z ~ N(μ, I) in training mode, z = μ in evaluation mode."""
        return mean + torch.randn_like(mean) if self.training else mean

    def optimisers(self) -> dict[str, Adam]:
        """One setting for all: Adam with momentum 0.5 and weight decay."""
        adam = Adam(self.config.learning_rate, (0.5, 0.999), self.config.weight_decay)
        return dict.fromkeys(self.networks(), adam)

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """All steps alike, at a constant rate; there is no segmentor."""
        return tuple(phase for phase in (Phase("constant", generator_steps),) if phase.steps)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update D, then E and G (eq. 4). Returns the terms of eqs. 1-3 without their weights, H and L summed."""
        config, sample = self.config, self.sample
        E_H, E_L = self.encoder("H"), self.encoder("L")
        G_H, G_L = self.generator("H"), self.generator("L")
        D_H, D_L = self.D_H, self.D_L
        x_H, x_L = batch["H"].image, batch["L"].image

        with update("D_H", "D_L") as minimise:  # eq. 2, the discriminators' side; E and G fixed
            with torch.no_grad():
                fake_H, fake_L = G_H(sample(E_L(x_L))), G_L(sample(E_H(x_H)))
            discriminator = bce_discriminator(D_H(x_H), D_H(fake_H)) + bce_discriminator(D_L(x_L), D_L(fake_L))
            minimise(config.adversarial_weight * discriminator)

        with update(*self.generators) as minimise:  # D fixed
            mean_H, mean_L = E_H(x_H), E_L(x_L)
            z_H, z_L = sample(mean_H), sample(mean_L)
            x_HL, x_LH = G_L(z_H), G_H(z_L)  # the translations H → L and L → H
            mean_HL, mean_LH = E_L(x_HL), E_H(x_LH)
            kl = kl_to_prior(mean_H) + kl_to_prior(mean_L)
            reconstruction = l1(G_H(z_H), x_H) + l1(G_L(z_L), x_L)
            vae = config.kl_weight * kl + config.reconstruction_weight * reconstruction  # eq. 1
            adversarial = bce_generator(D_H(x_LH)) + bce_generator(D_L(x_HL))
            gan = config.adversarial_weight * adversarial  # eq. 2, the generators' side
            cycle_kl = kl + kl_to_prior(mean_HL) + kl_to_prior(mean_LH)
            cycle = l1(G_H(sample(mean_HL)), x_H) + l1(G_L(sample(mean_LH)), x_L)
            cc = config.cycle_kl_weight * cycle_kl + config.cycle_weight * cycle  # eq. 3
            minimise(vae + gan + cc)
        losses = {"kl": kl, "reconstruction": reconstruction, "adversarial": adversarial}
        losses |= {"cycle_kl": cycle_kl, "cycle": cycle, "discriminator": discriminator}
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """H → L: lesions on healthy patches; L → H: patches without their lesion. Of the mean code, without noise.

        They are unlabelled: the source's label is no longer true of them, and where a lesion came to be is not known.
        """
        made: list[Synthetic] = []
        for role, other in (("H", "L"), ("L", "H")):
            if role in batch:
                image = self.generator(other)(self.encoder(role)(batch[role].image)).float()
                label = torch.full_like(batch[role].label, UNLABELLED)
                made.append(Synthetic(image, role=other, source=role, label=label))
        return made
