"""Replay pools: what a discriminator has seen before."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn


class ReplayPool(nn.Module):
    """A history of generated images, so that a discriminator does not forget earlier fakes (Shrivastava et al. 2017).

    Per image: while the pool is not full the image is stored and returned; afterwards, with probability ½ it is
    returned as it is, otherwise a random stored image is returned and the new one takes its place. ``size`` 0 is the
    identity. Stored and returned images carry no graph.

    It has no parameters; images and random state travel in the ``state_dict``, as tensors only.
    ``stream`` keeps the draws of several pools of one method apart.
    """

    def __init__(self, size: int = 50, stream: int = 0) -> None:
        super().__init__()
        self.size, self.stream = size, stream
        self.images: list[Tensor] = []
        self.random = torch.Generator()
        self.seed(0, 0)

    def seed(self, seed: int, rank: int) -> None:
        """Restart the draws: one sequence for each (seed, rank, stream)."""
        name = f"{seed}/{rank}/{self.stream}".encode()
        self.random.manual_seed(int.from_bytes(blake2b(name, digest_size=7).digest()))

    def forward(self, images: Tensor) -> Tensor:
        """Images for the discriminator, [N, …] like ``images``, detached."""
        images = images.detach()
        if self.size == 0:
            return images
        return torch.stack([self._exchange(image) for image in images])

    def _exchange(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image.clone())  # a view would keep the whole batch alive
            return image
        if torch.rand((), generator=self.random) < 0.5:
            return image
        slot = int(torch.randint(self.size, (), generator=self.random))
        stored, self.images[slot] = self.images[slot], image.clone()
        return stored.to(image)

    def get_extra_state(self) -> dict[str, Any]:
        """Stored images and random state, for ``state_dict``."""
        return {"images": list(self.images), "random": self.random.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``get_extra_state``; a smaller pool keeps the first images."""
        self.images = [image.clone() for image in state["images"]][: self.size]
        self.random.set_state(state["random"].cpu())
