"""What segmentors see that a method trains: at each of their updates what the models of the other arms see at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ganatomy.contracts import Batch, Phase
from ganatomy.stores.sampling import Sampler


@dataclass(frozen=True)
class Supervised:
    """Batches of a method that trains segmentors.

    draws: of its roles, by the step of the loop.  real: of the segmentors' real images, by their own updates: a phase
    that trains generators alone takes none of them.
    """

    draws: Sampler
    real: Sampler
    phases: Sequence[Phase]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """This rank's share of the batch of ``step``."""
        own = self.draws.batch(step, rank, world)
        update, learning = segmentor_update(step, self.phases)
        return {**own, **self.real.batch(update, rank, world)} if learning else own


def segmentor_update(step: int, phases: Sequence[Phase]) -> tuple[int, bool]:
    """(updates of the segmentors before the loop's step ``step``, whether it is one itself)."""
    before = 0
    for phase in phases:
        if step < phase.steps:
            return before + (step if phase.segmentors else 0), phase.segmentors
        step -= phase.steps
        before += phase.steps if phase.segmentors else 0
    return before, False


def real_alone(phases: Sequence[Phase]) -> int:
    """How many of the segmentors' updates come before any image is made for them."""
    updates = 0
    for phase in phases:
        if phase.made:
            break
        updates += phase.steps if phase.segmentors else 0
    return updates
