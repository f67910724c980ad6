"""Randomness inside a training step: a function of the seed, the step and the sample, and of nothing else; and what is
drawn after it."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor, nn


class SampleDraws(nn.Module):
    """Random streams, one for each sample of a batch, afresh at each call.

    What a sample draws does not depend on the samples beside it or on the worker that has it, so that the gradients of
    N workers are those of one worker on the N batches together, noise included. The number of calls, the only state,
    travels in the ``state_dict``. ``stream`` keeps several of one method apart.
    """

    calls: Tensor

    def __init__(self, stream: int = 0) -> None:
        super().__init__()
        self.stream, self.base = stream, 0
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def seed(self, seed: int, rank: int) -> None:
        """Take the run's seed; the rank plays no part, for a sample may come to any."""
        self.base = seed

    def forward(self, images: Tensor) -> list[torch.Generator]:
        """A generator on the CPU for each of ``images`` [N, …]; equal images draw alike."""
        # Whole numbers add up to the same in any order, so a sample's number is the same in every batch.
        bits = images.detach().float().contiguous().view(torch.int32).long().flatten(1).sum(dim=1)
        step = int(self.calls)
        self.calls += 1
        return [self._generator(f"{self.base}/{self.stream}/{step}/{content}") for content in bits.tolist()]

    @staticmethod
    def _generator(name: str) -> torch.Generator:
        number = int.from_bytes(blake2b(name.encode(), digest_size=7).digest())
        return torch.Generator().manual_seed(number)


def normal(randoms: list[torch.Generator], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal [N, *shape] with the type and device of ``like``, sample n from randoms[n]."""
    return torch.stack([torch.randn(shape, generator=random) for random in randoms]).to(like)


def dropped(image: Tensor, rate: float, randoms: list[torch.Generator]) -> Tensor:
    """Dropout of ``rate`` on [N, …], sample n by randoms[n]."""
    if not rate:
        return image
    kept = torch.stack([torch.rand(image.shape[1:], generator=random) >= rate for random in randoms])
    return image * kept.to(image) / (1 - rate)
