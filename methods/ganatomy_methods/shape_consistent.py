"""Cycle- and shape-consistent GAN: translation and segmentation of two domains, trained together.

Zhang et al., "Translating and segmenting multimodal medical volumes with cycle- and shape-consistency generative
adversarial network", CVPR 2018; extended to 2D and 3D and three segmentors in Cai et al., Medical Image Analysis 2019.
Equation numbers are those of Cai et al. 2019. Differences from the paper: docs/shape_consistent.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ganatomy.contracts import (
    Adam,
    Batch,
    Images,
    InputError,
    Method,
    Phase,
    Synthetic,
    Task,
    Update,
    cross_entropy,
    labelled,
)
from ganatomy_methods.common.adversarial import both_ways, discrimination
from ganatomy_methods.common.buffers import ReplayPool
from ganatomy_methods.common.losses import l1, lsgan_generator
from ganatomy_methods.common.networks import PatchDiscriminator, UNetGenerator
from ganatomy_methods.common.settings import require_within


@dataclass(frozen=True)
class ShapeConsistentConfig:
    """Settings of ShapeConsistent; the defaults are the paper's.

    cycle_weight, shape_weight: λ and γ of eq. 6; with γ = 0 generators know nothing of the segmentors.
    use_reconstructed: reconstructions too are synthetic images (stated by Zhang et al. 2018, only hinted in 2019).
    width: factor on the channels of generators and discriminators.
    discriminator_layers, final_activation: see PatchDiscriminator.  pool_size: past fakes kept per domain, 0 for none.
    learning_rate: of generators and discriminators; the segmentors' is the task's, the same in every arm.
    pretrain_fraction: of the segmentors' updates, spent on real images only before the joint phases.
    from_scratch: no pre-training at all ("similar results", section 4.2).
    """

    cycle_weight: float = 10.0
    shape_weight: float = 1.0
    use_reconstructed: bool = True
    width: float = 1.0
    discriminator_layers: int = 3
    final_activation: Literal["none", "sigmoid"] = "none"
    pool_size: int = 50
    learning_rate: float = 2e-4
    pretrain_fraction: float = 0.5
    from_scratch: bool = False

    def __post_init__(self) -> None:
        weights = ("cycle_weight", "shape_weight", "pool_size", "learning_rate")
        require_within(self, **dict.fromkeys(weights, (0, math.inf)))
        require_within(self, width=(0.01, math.inf), discriminator_layers=(1, 6), pretrain_fraction=(0, 1))


class ShapeConsistent(Method):
    """Networks G_A: B -> A, G_B: A -> B, and for each domain a discriminator D and a segmentor S.

    Roles A and B, unpaired: images x [N, 1, *S] in [-1, 1] with labels y [N, *S]; an unlabelled image takes part in
    the adversarial and cycle terms only.

    A domain without any label (``task.unlabelled``) has no segmentor that real images could teach. Its S begins as that
    of the other domain, whose images it is pre-trained on, and then learns from translations of those alone; it teaches
    no generator. The other domain's S judges what came back instead: reconstructions carry their own image's label.
    """

    Config: ClassVar[type] = ShapeConsistentConfig
    trains_segmentors: ClassVar[bool] = True
    config: ShapeConsistentConfig

    def __init__(self, config: ShapeConsistentConfig, task: Task) -> None:
        super().__init__(config, task)
        self.G_A = UNetGenerator(task.ndim, config.width)
        self.G_B = UNetGenerator(task.ndim, config.width)
        judge = (task.ndim, config.width, config.discriminator_layers, config.final_activation)
        self.D_A = PatchDiscriminator(*judge)
        self.D_B = PatchDiscriminator(*judge)
        if task.segmentors:
            self.S_A = task.segmentor()
            self.S_B = task.segmentor()
        self.pool_A = ReplayPool(config.pool_size, stream=0)
        self.pool_B = ReplayPool(config.pool_size, stream=1)

    @classmethod
    def needs_segmentors(cls, config: ShapeConsistentConfig) -> bool:
        """Not with γ = 0, which leaves a CycleGAN."""
        return bool(config.shape_weight)

    def optimisers(self) -> dict[str, Adam]:
        """Adam for each network; momentum 0.5 for the adversaries as in CycleGAN, Adam's own for the segmentors."""
        adversary = Adam(self.config.learning_rate, (0.5, 0.999))
        segmentor = Adam(self.task.segmentor_rate, (0.9, 0.999))
        return {name: segmentor if name.startswith("S_") else adversary for name in self.networks()}

    def phases(self, generator_steps: int, segmentor_steps: int) -> tuple[Phase, ...]:
        """Section 4.2: pre-train S, pre-train G and D (γ = 0), train all jointly, then jointly with decaying rates.

        S gets ``pretrain_fraction`` of its updates beforehand, the rest are the joint ones; G and D are pre-trained
        with what the joint phases leave of theirs. Where there is no S, the rest is as with it.
        Raises InputError if the joint phases need more than they have.
        """
        pretrain = 0 if self.config.from_scratch else round(self.config.pretrain_fraction * segmentor_steps)
        joint = segmentor_steps - pretrain
        alone = generator_steps - joint
        if alone < 0 or (alone > 0 and self.config.from_scratch):
            raise InputError(
                f"generator_steps = {generator_steps} does not fit {joint} joint steps of generators and segmentors",
                expected=f"{joint}" + ("" if self.config.from_scratch else " or more"),
                remedy="set budget.generator_steps, budget.segmentor_steps or method.pretrain_fraction",
            )
        decay = joint // 2
        made = (2 if self.config.use_reconstructed else 1) * self.segments
        phases = (
            Phase("pretrain_segmentors", pretrain * self.segments, may_stop=False, segmentors=True),
            Phase("pretrain_generators", alone, may_stop=False),
            Phase("joint", joint - decay, segmentors=self.segments, made=made),
            Phase("decay", decay, decay=True, segmentors=self.segments, made=made),
        )
        return tuple(phase for phase in phases if phase.steps)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update G, then D, then S, as far as the phase trains them. Returns the terms of each objective."""
        if update.phase == "pretrain_segmentors":
            return self._step_segmentors(batch, update, {})
        config = self.config
        G_A, G_B, D_A, D_B = self.G_A, self.G_B, self.D_A, self.D_B
        x_A, y_A, x_B, y_B = batch["A"].image, batch["A"].label, batch["B"].image, batch["B"].label
        losses: dict[str, Tensor] = {}

        with update("G_A", "G_B") as minimise:  # eq. 6; D and S fixed
            fake_A, fake_B = G_A(x_B), G_B(x_A)
            rec_A, rec_B = G_A(fake_B), G_B(fake_A)
            adversarial = lsgan_generator(D_A(fake_A)) + lsgan_generator(D_B(fake_B))  # eq. 7
            cycle = l1(rec_A, x_A) + l1(rec_B, x_B)  # eq. 2
            objective = adversarial + config.cycle_weight * cycle
            if config.shape_weight and update.phase != "pretrain_generators":
                if self.task.unlabelled:
                    shape = self._shape_of_reconstructions(batch, {"A": rec_A, "B": rec_B})
                else:
                    shape = cross_entropy(self.S_A(fake_A), y_B) + cross_entropy(self.S_B(fake_B), y_A)  # eq. 5
                objective = objective + config.shape_weight * shape
                losses["shape"] = shape.detach()
            minimise(objective)
        losses |= {"adversarial": adversarial.detach(), "cycle": cycle.detach()}

        with update("D_A", "D_B") as minimise:  # eq. 7, the other side; G fixed
            discrimination_A = discrimination(D_A, x_A, self.pool_A(fake_A))
            discrimination_B = discrimination(D_B, x_B, self.pool_B(fake_B))
            minimise(discrimination_A + discrimination_B)
        losses["discriminator"] = (discrimination_A + discrimination_B).detach()

        if update.phase == "pretrain_generators" or not self.segments:
            return losses
        if not self.task.synthetic_ratio:
            return losses | self._step_segmentors(batch, update, {})
        # What claims to be of A and of B; a translation carries the label of what it was made from.
        synthetic = {"A": [batch["B"].made(fake_A.detach())], "B": [batch["A"].made(fake_B.detach())]}
        if config.use_reconstructed:
            synthetic["A"].append(batch["A"].made(rec_A.detach(), kind=2))
            synthetic["B"].append(batch["B"].made(rec_B.detach(), kind=2))
        return losses | self._step_segmentors(batch, update, synthetic)

    def _shape_of_reconstructions(self, batch: Batch, rec: dict[str, Tensor]) -> Tensor:
        """Eq. 5 where one domain has no label: no expert taught its segmentor, and its images have none.
        What is left is whether images of the labelled domain keep their shape there and back."""
        taught = [role for role in self.roles if role not in self.task.unlabelled]
        return torch.stack([cross_entropy(self.segmentor(role)(rec[role]), batch[role].label) for role in taught]).sum()

    def _step_segmentors(self, batch: Batch, update: Update, synthetic: dict[str, list[Images]]) -> dict[str, Tensor]:
        """S learns real and synthetic images together (section 3.5; Zhang et al. 2018, section 3.5); G is fixed.

        How many of either, and what each kind weighs, is the task's to say.
        """
        losses: dict[str, Tensor] = {}
        name = "segmentation_real"
        with update("S_A", "S_B") as minimise:
            real: list[Tensor] = []
            fake: list[Tensor] = []
            for role, S in (("A", self.S_A), ("B", self.S_B)):
                supervised, taught = self._supervision(batch, role, joint=bool(synthetic))
                seen = self.task.seen(supervised, synthetic.get(role, []))
                logits = S(torch.cat([part.image for part, _ in seen])).split([len(part) for part, _ in seen])
                terms = [
                    weight * self.task.segmentor_loss(found, part.label)
                    for found, (part, weight) in zip(logits, seen, strict=True)
                ]
                real.extend(terms[:taught])
                fake.extend(terms[taught:])
                if synthetic and taught and len(seen) == 1:  # synthetic images took the places of real ones
                    name = "segmentation_mixed"
            objective = torch.stack([*real, *fake]).sum()
            losses[name] = torch.stack(real).sum().detach()
            if fake:
                losses["segmentation_synthetic"] = torch.stack(fake).sum().detach()
            minimise(objective)
        return losses

    def _supervision(self, batch: Batch, role: str, *, joint: bool) -> tuple[Images, bool]:
        """(real images for the segmentor of ``role``, whether it learns from any): those of its own domain; where that
        has no label, the other's until there are translations of them."""
        if role not in self.task.unlabelled:
            return batch.get(labelled(role), batch[role]), True
        other = "B" if role == "A" else "A"
        images = batch.get(labelled(other), batch[other])
        return (images.none(), False) if joint else (images, True)

    @torch.no_grad()
    def synthesize(self, batch: Batch) -> list[Synthetic]:
        """Translations of the roles present and, with ``use_reconstructed``, their reconstructions."""
        return both_ways(batch, self.G_A, self.G_B, reconstructed=self.config.use_reconstructed)
