"""Registered MR of several modalities with lesions, from noise and lesion labels.

Qu et al., "Synthesis of registered multimodal medical images with lesions" (draft of 2019, in Chinese: "registered
multi-modal brain MRI synthesis based on conditional generative adversarial networks"). Section numbers are the
draft's. It gives no weights and no layers: docs/multimodal_mr.md says where ours come from and what else differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import permutations
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganatomy.contracts import (
    Adam,
    Batch,
    InputError,
    Method,
    Phase,
    Synthetic,
    Task,
    Update,
)
from ganatomy_methods.common.draws import SampleDraws, dropped, normal
from ganatomy_methods.common.losses import lsgan_discriminator, lsgan_generator
from ganatomy_methods.common.segmentors import UNet
from ganatomy_methods.multimodal_mr import networks
from ganatomy_methods.multimodal_mr import structure as maps
from ganatomy_methods.multimodal_mr.draws import RegisteredBrains
from ganatomy_methods.multimodal_mr.losses import category_loss, lesion_loss, square, total
from ganatomy_methods.multimodal_mr.settings import GuideLoss, MultimodalMRConfig, of_contrasts

Losses = dict[str, Tensor]


class MultimodalMR(Method):
    """Stage 1: EC_f, DC_f make structure maps of noise, MASK their masks; D_f, FD_f judge maps and codes.

    Stage 2: EC_R codes a fusion map of structure and label, EC_M a real image, DC_M renders a code in any modality;
    D_M judges images and tells modalities, FD_R the codes; ``guide`` finds lesions and learns from real images only,
    before everything else and then beside stage 2.

    Each role is a modality, unpaired with the others: images [N, 1, H, W] in [-1, 1], labels 0..C. Inside, images are
    the paper's, in [0, 1]: ``unit`` and ``signed`` stand at the border. ``config.contrasts`` names others.
    """

    Config: ClassVar[type] = MultimodalMRConfig
    roles: ClassVar[tuple[str, ...]] = ("T1", "T2", "T1c", "FLAIR")
    ndims: ClassVar[frozenset[int]] = frozenset({2})
    generators: ClassVar[tuple[str, ...]] = ("DC_f", "MASK", "EC_R", "DC_M")
    draws_from_noise: ClassVar[bool] = True
    config: MultimodalMRConfig

    def __init__(self, config: MultimodalMRConfig, task: Task) -> None:
        super().__init__(config, task)
        self.roles = config.contrasts or type(self).roles  # type: ignore[misc]
        if task.classes < 2:
            raise InputError("a cohort without labels", expected="lesion labels, which this method draws lesions from")
        width, blocks, layers = config.width, config.residual_blocks, config.discriminator_layers
        self.EC_f = networks.StructureEncoder(width)
        self.DC_f = networks.StructureDecoder(width)
        self.MASK = UNet(2, 1, 1, width=networks.scaled(32, width), norm="instance")
        self.D_f = networks.Judge(1, width, layers)
        self.FD_f = networks.Judge(1, width, 2, kernel=3, normalised=False)
        self.EC_R = networks.CodeEncoder(task.classes, width, blocks)
        self.EC_M = networks.CodeEncoder(1, width, blocks)
        self.DC_M = networks.CodeDecoder(len(self.roles), width, blocks)
        kinds = len(self.roles) if config.class_loss == "cross_entropy" else 1
        self.D_M = networks.Judge(1, width, layers, (1, kinds))
        self.FD_R = networks.Judge(networks.scaled(512, width), width, 1, kernel=3, normalised=False)
        self.guide = networks.LesionGuide(config.guidance, len(self.roles), task.classes, config.guide_width or width)
        self.draws = SampleDraws()
        if config.initialisation == "mean_filter":
            for name in ("EC_f", "DC_f", "MASK", "EC_R", "EC_M", "DC_M"):
                networks.mean_filter(getattr(self, name))

    @classmethod
    def configured(cls, config: MultimodalMRConfig) -> type[MultimodalMR]:
        """With the contrasts that are asked for as its roles."""
        return cls if config.contrasts in ((), cls.roles) else of_contrasts(cls, config.contrasts)

    def optimisers(self) -> dict[str, Adam]:
        """Section 3.4: Adam with momentum 0.5 for each network."""
        return {name: Adam(self.config.learning_rate, (0.5, 0.999)) for name in self.networks()}

    def guides(self) -> dict[str, nn.Module]:
        """What finds the lesion in each modality."""
        return {role: networks.OneGuide(self.guide, k) for k, role in enumerate(self.roles)}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """First the guide, until it is good enough to guide; then noise to structure, then structure to images: each
        stage has the generators' budget, at constant rate.

        The stages share no network, so that every generator has exactly ``generator_steps`` updates.
        """
        alone = round(self.config.guide_share * generator_steps)
        phases = (
            Phase("guide", alone, may_stop=False, bar=self.config.guide_bar),
            Phase("structure", generator_steps, may_stop=False),
            Phase("images", generator_steps),
        )
        return tuple(phase for phase in phases if phase.steps)

    def step(self, batch: Batch, update: Update) -> Losses:
        """One step of the phase. Structure maps come from the images of one modality, each in its turn."""
        source = self.roles[int(self.draws.calls) % len(self.roles)]
        randoms = self.draws(batch[source].image)
        if update.phase == "guide":
            return self._step_guide(batch, update, randoms)
        step = self._step_structure if update.phase == "structure" else self._step_images
        return step(batch, update, source, randoms)

    def _step_guide(self, batch: Batch, update: Update, randoms: list[torch.Generator]) -> Losses:
        """Section 2.7: real images and their labels, nothing else."""
        given = [batch[role] for role in self.roles]
        with update("guide") as minimise:
            seen = [dropped(maps.unit(images.image), self.config.input_dropout, randoms) for images in given]
            loss = self._lesion(seen, [images.label for images in given], self.config.guide_loss)
            minimise(loss)
        return {"lesion_real": loss.detach()}

    # --- stage 1: noise to structure (section 2.3) ---------------------------------------------------------------

    def _step_structure(self, batch: Batch, update: Update, source: str, randoms: list[torch.Generator]) -> Losses:
        x = maps.unit(batch[source].image)
        mask = maps.outside_mask(x, maps.even_margin(x.shape[2:], self.config.margin))
        f = self._structure(x, batch[source].label, mask, self.config.structure_beta)
        noise, code_g = normal(randoms, (2, networks.code_side(self.config.width) ** 2), x).unbind(dim=1)
        with update("EC_f", "DC_f", "MASK") as minimise:
            losses, code, f_g = self.structure_losses(f, mask, noise, code_g)
            minimise(self._weighted(losses))
        with update("D_f", "FD_f") as minimise:
            maps_loss = lsgan_discriminator(self.D_f(f)[0], self.D_f(f_g.detach())[0])
            code_loss = lsgan_discriminator(self._judge_code(code_g), self._judge_code(code.detach()))
            minimise(maps_loss + code_loss)
        losses |= {"map_discriminator": maps_loss, "map_code_discriminator": code_loss}
        return {name: loss.detach() for name, loss in losses.items()}

    def _structure(self, x: Tensor, label: Tensor, outside: Tensor, beta: float) -> Tensor:
        """Algorithm 1 without the lesion, by density where that is asked for, else by ``beta``."""
        if self.config.edge_density:
            return maps.dense_map(x, outside, self.config.edge_density, label)
        return maps.without_lesion(maps.structure_map(x, beta), label)

    def _soft_structure(self, x: Tensor, label: Tensor, outside: Tensor) -> Tensor:
        """The same of images that are made, with a gradient."""
        density, beta = self.config.edge_density, self.config.image_beta
        by = maps.beta_for(x, outside, density, label) if density else beta
        return maps.without_lesion(maps.soft_structure_map(x, by, self.config.tau), label)

    def _judge_code(self, code: Tensor) -> Tensor:
        side = networks.code_side(self.config.width)
        return self.FD_f(code.view(-1, 1, side, side))[0]

    def structure_losses(self, f: Tensor, mask: Tensor, noise: Tensor, code_g: Tensor) -> tuple[Losses, Tensor, Tensor]:
        """Terms of stage 1 by the names of their weights; the code of ``f`` and the map f_g made of ``code_g``.

        f, mask: [N, 1, H, W], 0 or 1.  noise, code_g: standard normal [N, L].
        """
        mean, log_variance = self.EC_f(f)
        deviation = torch.exp(0.5 * log_variance)
        code = mean + deviation * noise
        f_r, f_g = self.DC_f(code, f.shape[2:]), self.DC_f(code_g, f.shape[2:])
        mask_r, mask_g = torch.sigmoid(self.MASK(f)), torch.sigmoid(self.MASK(f_g))
        losses = {
            "map_code_adversarial": lsgan_generator(self._judge_code(code)),
            "map_adversarial": lsgan_generator(self.D_f(f_g)[0]),
            "map_normal": (mean.mean(dim=1) ** 2 + (deviation.mean(dim=1) - 1) ** 2).mean(),
            "map_reconstruction": F.mse_loss(f_r, f),
            "map_outside": square(f_r * mask),
            "mask": F.mse_loss(mask_r, mask),
            "mask_outside": square(f * mask_r) + square(f_r * mask_r) + square(f_g * mask_g),
        }
        return losses, code, f_g

    # --- stage 2: structure and label to images (sections 2.4 to 2.7) --------------------------------------------

    def _step_images(self, batch: Batch, update: Update, source: str, randoms: list[torch.Generator]) -> Losses:
        real = [maps.unit(batch[role].image) for role in self.roles]
        x = real[self.roles.index(source)]
        margin = maps.even_margin(x.shape[2:], self.config.margin)
        masks = [maps.outside_mask(image, margin) for image in real]
        mask = masks[self.roles.index(source)]
        label = self._labels(batch, source, mask, randoms)
        f = maps.without_lesion(self._structure(x, batch[source].label, mask, self.config.image_beta), label)

        with update("EC_R", "EC_M", "DC_M") as minimise:
            losses, code_g, x_g = self.generation_losses(f, label, mask)
            from_real, codes, x_t = self.real_losses(real, masks)
            losses |= from_real
            minimise(self._weighted(losses))
        with update("D_M", "FD_R") as minimise:
            judged = self.discriminator_losses(real, [x.detach() for x in x_g], {k: x.detach() for k, x in x_t.items()})
            code_loss = lsgan_discriminator(self.FD_R(torch.cat(codes).detach())[0], self.FD_R(code_g.detach())[0])
            minimise(torch.stack(list(judged.values())).sum() + code_loss)
        losses |= judged | {"code_discriminator": code_loss}
        losses |= self._step_guide(batch, update, randoms)
        return {name: loss.detach() for name, loss in losses.items()}

    def _labels(self, batch: Batch, source: str, mask: Tensor, randoms: list[torch.Generator]) -> Tensor:
        """For each structure a label of another modality's image, so of another subject, inside its brain."""
        donors = [batch[role].label for role in self.roles if role != source]
        tries = self.config.placement_tries
        placed = []
        for n, random in enumerate(randoms):
            pool = torch.stack([labels[n % len(labels)] for labels in donors]).cpu()
            placed.append(maps.place(pool, mask[n, 0].cpu(), random, tries).label)
        return torch.stack(placed).to(mask.device)

    def generation_losses(self, f: Tensor, label: Tensor, mask: Tensor) -> tuple[Losses, Tensor, list[Tensor]]:
        """Terms of sections 2.6 and 2.7 by the names of their weights; the code of the fusion map and all x_g,i.

        f, mask: [N, 1, H, W].  label: [N, H, W].
        """
        K = len(self.roles)
        code_g = self.EC_R(maps.fuse(f, label, self.task.classes))
        x_g = self._render([code_g] * K, range(K))
        code_of = self._encode(x_g)
        pairs = list(permutations(range(K), 2))
        x_gt = dict(zip(pairs, self._render([code_of[i] for i, _ in pairs], [j for _, j in pairs])))  # i -> j
        score, kind = self._judge(x_g)
        f_g = [self._soft_structure(x, label, mask) for x in x_g]
        losses = {
            "adversarial": total(lsgan_generator(d) for d in score),
            "category": total(category_loss(c, i, self.config.class_loss) for i, c in enumerate(kind)),
            "code_adversarial": lsgan_generator(self.FD_R(code_g)[0]),
            "structure": total(F.mse_loss(f_i, f) for f_i in f_g),
            "structure_pairs": total(F.mse_loss(f_g[i], f_g[j]) for i, j in pairs),
            "lesion": self._lesion(x_g, [label] * K),
            "registration": self.registration(x_g, x_gt),
            "registration_pairs": total(F.mse_loss(x_gt[j, i], x_gt[k, i]) for i, j, k in permutations(range(K), 3)),
            "semantic": total(F.mse_loss(code, code_g) for code in code_of),
            "semantic_pairs": total(F.mse_loss(code_of[i], code_of[j]) for i, j in pairs),
            "outside": total(square(x * mask) for x in x_g),
            "outside_translated": total(square(x * mask) for x in x_gt.values()),
        }
        return losses, code_g, x_g

    @staticmethod
    def registration(x_g: Sequence[Tensor], x_gt: Mapping[tuple[int, int], Tensor]) -> Tensor:
        """loss_trans: every modality against its translations from the others, x_gt[from, to]."""
        return total(F.mse_loss(translated, x_g[to]) for (_, to), translated in x_gt.items())

    def real_losses(
        self, real: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[Losses, list[Tensor], dict[tuple[int, int], Tensor]]:
        """Terms of section 2.4 by the names of their weights; the codes and the translations x_t[from, to].

        real, masks: one [N, 1, H, W] for each modality, each of its own subjects: no term compares two of them.
        """
        K = len(self.roles)
        pairs = list(permutations(range(K), 2))
        codes = self._encode(real)
        x_r = self._render(codes, range(K))
        x_t = dict(zip(pairs, self._render([codes[i] for i, _ in pairs], [j for _, j in pairs])))
        code_t = dict(zip(pairs, self._encode(list(x_t.values()))))
        x_cr = dict(zip(pairs, self._render(list(code_t.values()), [i for i, _ in pairs])))  # i -> j -> i
        score, kind = self._judge(list(x_t.values()))
        losses = {
            "assist_adversarial": total(lsgan_generator(d) for d in score),
            "assist_category": total(category_loss(c, j, self.config.class_loss) for c, (_, j) in zip(kind, pairs)),
            "reconstruction": total(F.mse_loss(x_r[i], real[i]) for i in range(K)),
            "cycle": total(F.mse_loss(x_cr[i, j], real[i]) for i, j in pairs),
            "cycle_consistency": total(F.mse_loss(x_cr[i, j], x_cr[i, k]) for i, j, k in permutations(range(K), 3)),
            "code_consistency": total(F.mse_loss(code_t[i, j], codes[i]) for i, j in pairs),
            "code_pairs": total(F.mse_loss(code_t[i, j], code_t[i, k]) for i, j, k in permutations(range(K), 3)),
            "outside_real": total(square(x_t[i, j] * masks[i]) for i, j in pairs)
            + total(square(x_r[i] * masks[i]) for i in range(K)),
        }
        return losses, codes, x_t

    def discriminator_losses(
        self, real: Sequence[Tensor], x_g: Sequence[Tensor], x_t: Mapping[tuple[int, int], Tensor]
    ) -> Losses:
        """D_M's terms, weighted: real to 1, synthetic to 0, and the modality of the real ones."""
        config, K = self.config, len(self.roles)
        score, kind = self._judge([*real, *x_g, *x_t.values()])
        wanted = [*range(K), *range(K), *(j for _, j in x_t)]
        told = len(score) if config.class_on_fakes else K
        false = [F.mse_loss(d, torch.zeros_like(d)) for d in score]
        return {
            "discriminator_real": config.discriminator_real * total(lsgan_generator(d) for d in score[:K]),
            "discriminator_generated": config.adversarial * total(false[K : 2 * K]),
            "discriminator_translated": config.assist_adversarial * total(false[2 * K :]),
            "discriminator_category": config.category
            * total(category_loss(c, i, self.config.class_loss) for c, i in zip(kind[:told], wanted)),
        }

    def _weighted(self, losses: Losses) -> Tensor:
        return total(getattr(self.config, name) * loss for name, loss in losses.items())

    def _encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        return list(self.EC_M(torch.cat(list(images))).split([len(image) for image in images]))

    def _render(self, codes: Sequence[Tensor], modalities: Iterable[int]) -> list[Tensor]:
        """DC_M on each code with the condition of its modality, all at once."""
        K = len(self.roles)
        wanted = [i for code, i in zip(codes, modalities) for _ in range(len(code))]
        images = self.DC_M(maps.condition(torch.cat(list(codes)), wanted, K))
        return list(images.split([len(code) for code in codes]))

    def _judge(self, images: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """D_M's scores and modalities of each."""
        counts = [len(image) for image in images]
        score, kind = self.D_M(torch.cat(list(images)))
        return list(score.split(counts)), list(kind.split(counts))

    def _lesion(self, images: Sequence[Tensor], labels: Sequence[Tensor], by: GuideLoss = "squared") -> Tensor:
        """What the guide finds in each modality against its labels."""
        weights, classes = self.config.lesion_weights, self.task.classes
        of_class = torch.tensor([weights[min(c, len(weights) - 1)] for c in range(classes)])
        return total(lesion_loss(logits, label, of_class, by) for logits, label in zip(self.guide(images), labels))

    # --- making images -------------------------------------------------------------------------------------------

    def _rendered(self, f: Tensor, label: Tensor) -> list[Tensor]:
        """Images in [-1, 1] of a structure and a label, in the order of the roles."""
        code = self.EC_R(maps.fuse(f, label, self.task.classes))
        K = len(self.roles)
        return [maps.signed(x).float().clamp(-1, 1) for x in self._render([code] * K, range(K))]

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """The structure and the label of every image rendered in the other modalities, and again in its own."""
        made: list[Synthetic] = []
        for source in (role for role in self.roles if role in batch):
            images = batch[source]
            x = maps.unit(images.image)
            mask = maps.outside_mask(x, maps.even_margin(x.shape[2:], self.config.margin))
            f = self._structure(x, images.label, mask, self.config.image_beta)
            for role, image in zip(self.roles, self._rendered(f, images.label)):
                if role != source:
                    made.append(Synthetic(image, role=role, source=source))
                elif self.config.use_reconstructed:
                    made.append(Synthetic(image, role=role, source=source, kind="reconstructed"))
        return made

    @torch.no_grad()
    def draw(self, labels: Tensor, numbers: Sequence[int], seed: int) -> RegisteredBrains:
        """Brains from noise, each with a varied label of the pool ``labels`` [M, H, W], M >= 1 (section 2.8).

        Raises InputError on sides that are not multiples of 8, an empty pool or no numbers.
        """
        sides = tuple(labels.shape[1:])
        if not numbers or labels.dim() != 3 or not len(labels) or any(side % self.multiple_of for side in sides):
            raise InputError(f"{len(numbers)} images from labels of shape {tuple(labels.shape)}",
                             expected="[M, H, W] with M >= 1, H and W multiples of 8, and a count >= 1")  # fmt: skip
        pool, tries = labels.cpu(), self.config.placement_tries
        threshold = maps.error_threshold(sides, self.config.filter_error)
        drawn, placed = [], []
        for i in numbers:
            random = torch.Generator().manual_seed((seed * 1_000_003 + i) % 2**63)
            noise_to_structure = partial(self._noise_to_structure, sides, random)
            drawn.append(maps.draw_closed(noise_to_structure, threshold, self.config.filter_tries))
            placed.append(maps.place(pool, drawn[-1].outside[0, 0].cpu(), random, tries))
        structure = torch.cat([brain.structure for brain in drawn])
        label = torch.stack([lesion.label for lesion in placed]).to(structure.device)
        # One by one: in a batch, sums of another order would make a brain depend on its neighbours.
        images = [self._rendered(f[None], y[None]) for f, y in zip(maps.without_lesion(structure, label), label)]
        outside = torch.cat([brain.outside for brain in drawn]) > 0.5
        closed, whole = tuple(brain.error <= threshold for brain in drawn), tuple(lesion.whole for lesion in placed)
        return RegisteredBrains(
            images={
                role: torch.cat([image[k] for image in images]).masked_fill(outside, -1)
                for k, role in enumerate(self.roles)
            },
            label=label,
            outside=outside[:, 0],
            donors=tuple(lesion.donor for lesion in placed),
            accepted=tuple(both == (True, True) for both in zip(closed, whole)),
            figures={
                "structure_error": tuple(brain.error for brain in drawn),
                "structure_tries": tuple(brain.tries for brain in drawn),
            },
            structure=structure,
            closed=closed,
            whole=whole,
        )

    def _noise_to_structure(self, sides: tuple[int, ...], random: torch.Generator) -> tuple[Tensor, Tensor]:
        weight = next(self.DC_f.parameters())
        code = torch.randn(1, networks.code_side(self.config.width) ** 2, generator=random).to(weight)
        likely = self.DC_f(code, sides)
        structure = (likely > 0.5).to(weight)
        outside = self._outside(structure)
        if density := self.config.edge_density:  # the brain is that of a map as dense as those of the training
            outside = self._outside(maps.densest(likely, outside, density))
            structure = maps.densest(likely, outside, density)
        return structure, outside

    def _outside(self, structure: Tensor) -> Tensor:
        return (torch.sigmoid(self.MASK(structure)) > 0.5).to(structure.dtype)
