"""Pseudo-healthy synthesis: what an image would look like without its pathology, and where the pathology was.

Xia, Chartsias & Tsaftaris, "Adversarial pseudo healthy synthesis needs pathology factorization", MIDL 2019.
The paper numbers no equations; its losses are named as there (section 3.4). Differences: docs/pseudo_healthy.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ganatomy.contracts import UNLABELLED, Adam, Batch, Images, InputError, Method, Phase, Synthetic, Task, Update
from ganatomy_methods.common.adversarial import constant_then_decay, critique, discrimination, persuasion, shares
from ganatomy_methods.common.losses import l1, soft_dice, weighted_least_squares
from ganatomy_methods.common.networks import scaled
from ganatomy_methods.common.pathology import PathologyDiscriminator, PathologyGenerator, ResidualUNet
from ganatomy_methods.common.settings import require_within

MASKS = "masks"
"""Key of the batch under which real pathology masks stand that belong to other volumes."""


@dataclass(frozen=True)
class PseudoHealthyConfig:
    """Settings of PseudoHealthy; the defaults are the paper's where it says anything.

    supervision: what S learns from. ``paired``: the masks of the pathological images. ``unpaired``: a discriminator
    D_m, shown the masks of other volumes; those of the images are never read. ``mixed``: the mask where an image has
    one, D_m where it has none (``labels.fraction`` sets how many have).
    cycle_weight: λ1.  adversarial_weight: λ2 when paired; unpaired_adversarial_weight: λ2 otherwise.
    mask_weight: λ3, of the Dice loss and of D_m alike.
    healthy_cycle: Cycle H-H; without it only Cycle P-H is trained.  mask_input: R sees the map; without it, R must find
    in the healthy image where the pathology was, as a CycleGAN does.
    use_reconstructed: reconstructions too are synthetic images.
    width: factor on the channels of all networks.  residual_blocks: of G and R.  long_skips: see PathologyGenerator.
    discriminator_layers, final_activation, discriminator_first_norm: see PathologyDiscriminator.
    segmentor_scales, segmentor_norm: poolings and normalisation of S.
    adversarial: the game of GAN1 and GAN2: ``lsgan``, the paper's, or ``wgan_gp``, that of the authors' journal
    version.  gradient_penalty: weight of its penalty.  discriminator_updates: of D_x and D_m, on each batch.
    learning_rate: of all networks; not in the paper.
    """

    supervision: Literal["paired", "unpaired", "mixed"] = "paired"
    cycle_weight: float = 10.0
    adversarial_weight: float = 1.0
    unpaired_adversarial_weight: float = 2.0
    mask_weight: float = 10.0
    healthy_cycle: bool = True
    mask_input: bool = True
    use_reconstructed: bool = True
    width: float = 1.0
    residual_blocks: int = 6
    long_skips: bool = False
    discriminator_layers: int = 4
    final_activation: Literal["none", "sigmoid"] = "none"
    discriminator_first_norm: bool = True
    adversarial: Literal["lsgan", "wgan_gp"] = "lsgan"
    gradient_penalty: float = 10.0
    discriminator_updates: int = 1
    segmentor_scales: int = 4
    segmentor_norm: Literal["none", "instance"] = "instance"
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        weights = ("cycle_weight", "adversarial_weight", "unpaired_adversarial_weight", "mask_weight")
        more = ("gradient_penalty", "residual_blocks", "learning_rate")
        require_within(self, **dict.fromkeys((*weights, *more), (0, math.inf)))
        require_within(self, width=(0.01, math.inf), discriminator_layers=(1, 4), segmentor_scales=(1, 4))
        require_within(self, discriminator_updates=(1, math.inf))
        if self.adversarial == "wgan_gp" and self.final_activation == "sigmoid":
            raise InputError("method.final_activation = 'sigmoid' with method.adversarial = 'wgan_gp'",
                             expected="none: a critic's scores have no bounds",
                             remedy="--set method.final_activation=none")  # fmt: skip


class PseudoHealthy(Method):
    """Networks G: P -> H, S: P -> map, R: (H, map) -> P, D_x of healthy images and, unless all is paired, D_m of masks.

    Roles P, pathological, and H, healthy: images [N, 1, *S] in [-1, 1], unpaired. A label > 0 in P is pathology; an
    unlabelled image of P takes no part in the Dice loss. Labels of H are not looked at in training; in ``synthesize``,
    a label > 0 in H is pathology that R shall draw.

    The paper's images lie in [0, 1]. They do inside this class: ``_unit`` and ``_signed`` are the border.
    """

    Config: ClassVar[type] = PseudoHealthyConfig
    roles: ClassVar[tuple[str, ...]] = ("P", "H")
    second_draws: ClassVar[Mapping[str, str]] = {MASKS: "P"}
    label_donors: ClassVar[Mapping[str, str]] = {"H": "P"}
    generators: ClassVar[tuple[str, ...]] = ("G", "S", "R")
    multiple_of: ClassVar[int] = 16
    config: PseudoHealthyConfig

    def __init__(self, config: PseudoHealthyConfig, task: Task) -> None:
        super().__init__(config, task)
        ndim, width = task.ndim, config.width
        blocks, skips = config.residual_blocks, config.long_skips
        self.G = PathologyGenerator(ndim, width, blocks, long_skips=skips)
        self.R = PathologyGenerator(ndim, width, blocks, channels=2 if config.mask_input else 1, long_skips=skips)
        unet = ResidualUNet(ndim, 1, 1, scaled(32, width), config.segmentor_norm, config.segmentor_scales)
        self.S = nn.Sequential(unet, nn.Sigmoid())
        layers, first_norm = config.discriminator_layers, config.discriminator_first_norm
        judge = (ndim, width, layers, config.final_activation, first_norm)
        self.D_x = PathologyDiscriminator(*judge)
        if config.supervision != "paired":
            self.D_m = PathologyDiscriminator(*judge)

    def optimisers(self) -> dict[str, Adam]:
        """Adam with momentum 0.5 for each network; the paper gives no optimiser."""
        return {name: Adam(self.config.learning_rate, (0.5, 0.999)) for name in self.networks()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """Half of the generators' steps at constant rate, half decaying; S learns with G and R, not downstream."""
        return constant_then_decay(generator_steps)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update G, R and S, then D_x and D_m. Returns the terms of each objective."""
        config, D_x = self.config, self.D_x
        x_p, x_h = _unit(batch["P"].image), _unit(batch["H"].image)
        paired = config.supervision == "paired"
        losses: dict[str, Tensor] = {}

        with update("G", "R", "S") as minimise:  # L_paired, L_unpaired
            # Cycle P-H
            fake_h, map_p = self.G(x_p), self.S(x_p)
            losses["cycle_pathological"] = l1(self._reconstruct(fake_h, map_p), x_p)
            fakes = [fake_h]
            if config.healthy_cycle:  # Cycle H-H
                same_h = self._reconstruct(x_h, torch.zeros_like(x_h))
                losses["cycle_healthy"] = l1(self.G(same_h), x_h)
                # The mean absolute error and not Dice, which is the same for every map when the mask is empty.
                losses["cycle_mask"] = self.S(same_h).mean()
                fakes.append(same_h)
            cycle = torch.stack(list(losses.values())).sum()  # L_CC
            everyone = x_p.new_ones(len(x_p))
            adversarial = _sum(persuasion(config.adversarial, D_x(fake), everyone) for fake in fakes) / 2  # L_GAN1
            mask_terms = self._mask_terms(batch, map_p)  # L_Seg, L_GAN2
            λ2 = config.adversarial_weight if paired else config.unpaired_adversarial_weight
            minimise(config.cycle_weight * cycle + λ2 * adversarial + config.mask_weight * _sum(mask_terms.values()))
        losses |= {"adversarial": adversarial, **mask_terms}

        for _ in range(config.discriminator_updates):
            with update("D_x", *(() if paired else ("D_m",))) as minimise:
                # L_GAN1, the other side: the real images count once for each of the fakes
                told = [self._discrimination(batch["H"], x_h, fake.detach()) for fake in fakes]
                judgements = {"discriminator": _sum(told)}
                if not paired:
                    judgements["mask_discriminator"] = self._mask_discrimination(batch, map_p.detach())  # L_GAN2
                minimise(_sum(judgements.values()))
        return {name: loss.detach() for name, loss in (losses | judgements).items()}

    def _reconstruct(self, healthy: Tensor, mask: Tensor) -> Tensor:
        """R(x, m), or R(x) in the ablation without the mask."""
        return self.R(torch.cat([healthy, mask], dim=1) if self.config.mask_input else healthy)

    def _mask_terms(self, batch: Batch, map_p: Tensor) -> dict[str, Tensor]:
        """What teaches S the shape of pathology: L_Seg for images with a mask, L_GAN2 for those without."""
        paired, terms = self._paired(batch["P"]), {}
        if self.config.supervision != "unpaired":
            terms["segmentation"] = soft_dice(map_p, _mask(batch["P"].label, map_p), paired)
        if self.config.supervision != "paired":
            terms["adversarial_mask"] = persuasion(self.config.adversarial, self.D_m(map_p), 1 - paired) / 2
        return terms

    def _discrimination(self, healthy: Images, x_h: Tensor, fake: Tensor) -> Tensor:
        """½ (D_x(x_h) - 1)² + ½ D_x(x̃)², or the critic's side of the other game."""
        if self.config.adversarial == "lsgan":
            return discrimination(self.D_x, x_h, fake)
        everyone = x_h.new_ones(len(x_h))
        return critique(self.D_x, x_h, fake, shares(healthy), (everyone, everyone), self.config.gradient_penalty)

    def _mask_discrimination(self, batch: Batch, map_p: Tensor) -> Tensor:
        """½ (D_m(m) - 1)² + ½ D_m(S(x_p))², m the masks of other volumes; or the critic's side of the other game."""
        masks = self._masks(batch)
        real = _mask(masks.label, map_p)
        foreign = (_labelled(masks.label) * _other_subjects(masks, batch["P"])).to(map_p)
        unpaired = 1 - self._paired(batch["P"])
        if self.config.adversarial == "wgan_gp":
            return critique(self.D_m, real, map_p, shares(masks), (foreign, unpaired), self.config.gradient_penalty)
        real_score, fake_score = self.D_m(torch.cat([real, map_p])).split([len(real), len(map_p)])
        real_term = weighted_least_squares(real_score, 1, foreign)
        return (real_term + weighted_least_squares(fake_score, 0, unpaired)) / 2

    def _paired(self, pathological: Images) -> Tensor:
        """[N], 1 for the images whose own mask may be read. In unpaired mode that is none, and none is read."""
        if self.config.supervision == "unpaired":
            return pathological.image.new_zeros(len(pathological))
        return _labelled(pathological.label).to(pathological.image)

    @staticmethod
    def _masks(batch: Batch) -> Images:
        if MASKS not in batch:
            raise InputError(
                "the batch holds no masks of other volumes",
                expected=f"labelled pathological images under {MASKS!r}",
                remedy="draw them, or set method.supervision=paired",
            )
        return batch[MASKS]

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """P: the pseudo-healthy image G(x_p) with its map S(x_p) as ``maps["pathology"]`` and an empty label, and with
        ``use_reconstructed`` the pathological image R(G(x_p), S(x_p)) from both.

        H: a pseudo-pathological image R(x_h, m), m the pathology that the label of x_h asks for. Where it asks for
        none, R(x_h, 0) of Cycle H-H.
        """
        made: list[Synthetic] = []
        if "P" in batch:
            x_p = _unit(batch["P"].image)
            fake_h, map_p = self.G(x_p), self.S(x_p)
            empty = torch.zeros_like(x_p[:, 0], dtype=torch.long)
            maps = {"pathology": map_p.float()}
            made.append(Synthetic(_signed(fake_h), role="H", source="P", label=empty, maps=maps))
            if self.config.use_reconstructed:
                rec_p = self._reconstruct(fake_h, map_p)
                made.append(Synthetic(_signed(rec_p), role="P", source="P", kind="reconstructed", maps=maps))
        if "H" in batch:
            x_h = _unit(batch["H"].image)
            fake_p = self._reconstruct(x_h, _mask(batch["H"].label, x_h))
            made.append(Synthetic(_signed(fake_p), role="P", source="H"))
        return made

    @torch.no_grad()
    def hidden_information(self, image: Tensor) -> Tensor:
        """Per image, |R(G(x), [S(x) >= ½]) - x| over |R(G(x), S(x)) - x|: a diagnostic of what a soft map smuggles.

        image: x_p, [N, 1, *S] in [-1, 1].  Returns [N]: 1 where a map as plain as a drawn mask serves R as well; large
        where R lives on fine print in the map. NaN where the reconstruction is exact both ways.
        """
        x_p = _unit(image)
        fake_h, map_p = self.G(x_p), self.S(x_p)
        soft, plain = (
            (self._reconstruct(fake_h, mask) - x_p).abs().flatten(1).mean(1)
            for mask in (map_p, (map_p >= 0.5).to(map_p))
        )
        return plain / soft


def _unit(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], the paper's range: its background is 0, and its networks end in a sigmoid."""
    return (image + 1) / 2


def _signed(image: Tensor) -> Tensor:
    return image.float() * 2 - 1


def _mask(label: Tensor, like: Tensor) -> Tensor:
    """Labels [N, *S] -> pathology masks [N, 1, *S] of 0 and 1; the mask of an unlabelled image is empty."""
    return (label > 0).unsqueeze(1).to(like)


def _labelled(label: Tensor) -> Tensor:
    """[N], true where an image has a label."""
    return label.flatten(1)[:, 0] != UNLABELLED


def _other_subjects(masks: Images, images: Images) -> Tensor:
    """[N], false where the mask at a position belongs to the volume of the image there: an aligned pair by accident."""
    different = [mask != image for mask, image in zip(masks.subjects, images.subjects, strict=False)]
    return torch.tensor(different or [True] * len(masks), device=masks.label.device)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
