"""Settings of the registered multi-modal synthesis of Qu et al. 2019."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal, TypeVar, cast

from ganatomy.contracts import InputError, Method
from ganatomy_methods.common.settings import require_within
from ganatomy_methods.multimodal_mr.networks import Guidance

M = TypeVar("M", bound=Method)

ClassLoss = Literal["regression", "cross_entropy"]
GuideLoss = Literal["squared", "cross_entropy"]


@dataclass(frozen=True)
class MultimodalMRConfig:
    """Settings of MultimodalMR; the defaults are the paper's or, where it is silent, its authors' programs'.

    contrasts: the modalities, two or more, by the names of their roles; none, T1, T2, T1c and FLAIR.
    guidance: who finds the lesion in each modality (section 2.7).  guide_share: updates that it has before stage 1, at
    most, for each of a stage's.  guide_bar: its Dice on validation patients that is enough.  guide_loss: what it learns
    by, the paper's or the voxel-mean cross-entropy; generators learn by the paper's in either case.  guide_width: its
    own ``width``, 0 for that.  class_loss: the discriminator says the number of the
    modality, as printed, or one of K.  class_on_fakes: it learns the modality of synthetic images too, as printed.
    initialisation: of the generators; see ``mean_filter``.  width: factor on all channels and on the side of the dense
    code.
    structure_beta, image_beta: β of Algorithm 1 in the two stages.  edge_density: in their place, pixels of structure
    for each of the brain, in both stages and in what is drawn; 0, by β.  tau: width of its soft threshold.
    margin: pixels, in 184, by which Algorithm 2 enlarges the brain.
    filter_error, filter_tries: of Algorithm 3.  placement_tries: labels tried for one brain.
    use_reconstructed: ``synthesize`` also renders the structure and label of an image in its own modality again.
    lesion_weights: of each class, background first; the last holds for all further ones.
    The other weights are those of the terms named in ``structure_losses``, ``generation_losses``, ``real_losses``.
    """

    contrasts: tuple[str, ...] = ()
    guidance: Guidance = "4seg"
    guide_share: float = 1.0
    guide_bar: float = 0.7
    guide_loss: GuideLoss = "squared"
    guide_width: float = 0.0
    class_loss: ClassLoss = "regression"
    class_on_fakes: bool = False
    initialisation: Literal["normal", "mean_filter"] = "normal"
    width: float = 1.0
    residual_blocks: int = 2
    discriminator_layers: int = 3
    structure_beta: float = 0.07
    image_beta: float = 0.12
    edge_density: float = 0.0
    tau: float = 0.02
    margin: float = 5.0
    filter_error: float = 0.05
    filter_tries: int = 50
    placement_tries: int = 100
    use_reconstructed: bool = True
    input_dropout: float = 0.1
    learning_rate: float = 1e-4
    # stage 1
    map_code_adversarial: float = 0.1
    map_adversarial: float = 100.0
    map_normal: float = 0.1
    map_reconstruction: float = 50.0
    map_outside: float = 5.0
    mask: float = 25.0
    mask_outside: float = 5.0
    # stage 2, from structure and label
    adversarial: float = 70.0
    category: float = 100.0
    code_adversarial: float = 4.0
    structure: float = 15.0
    structure_pairs: float = 5.0
    lesion: float = 1.0
    lesion_weights: tuple[float, ...] = (2.5, 25.0, 125.0, 125.0, 125.0)
    registration: float = 20.0
    registration_pairs: float = 5.0
    semantic: float = 1.0
    semantic_pairs: float = 0.2
    outside: float = 1.5
    outside_translated: float = 1.0
    # stage 2, from real images
    assist_adversarial: float = 10.0
    assist_category: float = 100.0
    reconstruction: float = 5.0
    cycle: float = 10.0
    cycle_consistency: float = 2.0
    code_consistency: float = 5.0
    code_pairs: float = 1.0
    outside_real: float = 0.5
    # the discriminator's own
    discriminator_real: float = 100.0

    def __post_init__(self) -> None:
        if not self.lesion_weights:
            raise InputError("method.lesion_weights is empty", expected="a weight for each class, background first")
        if self.contrasts and not len({*filter(None, self.contrasts)}) == len(self.contrasts) >= 2:
            raise InputError(f"method.contrasts = {list(self.contrasts)}", expected="two names or more, none twice")
        numbers = [item.name for item in fields(self) if type(item.default) in (int, float)]
        require_within(self, **dict.fromkeys(numbers, (0, math.inf)))
        require_within(
            self,
            width=(0.01, math.inf),
            discriminator_layers=(1, 6),
            input_dropout=(0, 0.99),
            guide_bar=(0, 1),
            edge_density=(0, 0.9),
        )
        require_within(self, filter_tries=(1, math.inf), placement_tries=(1, math.inf), tau=(1e-6, math.inf))


@cache
def of_contrasts(method: type[M], contrasts: tuple[str, ...]) -> type[M]:
    """``method`` with ``contrasts`` as its roles; the same class for the same ones."""
    own = {"roles": contrasts, "__module__": method.__module__, "__doc__": method.__doc__}
    return cast("type[M]", type(method.__name__, (method,), own))
