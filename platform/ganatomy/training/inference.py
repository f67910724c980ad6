"""Networks over whole images of any size: padding to what a network takes, slice by slice in 2D, windows in 3D.

Everything here takes and gives images [D, H, W] (a 2D image is [1, H, W]) in [-1, 1] and holds no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ganatomy.contracts import UNLABELLED, Images, Method
from ganatomy.core.standstill import moved
from ganatomy.experiment import Sampling
from ganatomy.training.optimisation import Diverged

Network = Callable[[Tensor], Tensor]
"""Maps [N, C, *S] to [N, K, *S]; a module, or any function of modules."""

BACKGROUND = -1.0
"""Value outside the body, with which images are padded: what the sampler pads training samples with too."""

MAX_VOXELS = 2**21
"""Voxels that one forward pass may take unless told otherwise: 128^3, about 0.5 GiB for 64 feature maps in float32."""

OVERLAP = 0.5
"""Share by which sliding windows overlap."""


def padded(network: Network, multiple: int, at_least: Sequence[int] = (), value: float = BACKGROUND) -> Network:
    """``network`` for images of any size: [N, C, *S] -> [N, K, *S].

    The image is padded evenly on both sides with ``value`` until each side is a multiple of ``multiple`` and no
    smaller than the same side of ``at_least``, and the output is cropped back. The identity map stays the identity.
    """

    def forward(image: Tensor) -> Tensor:
        sides = image.shape[2:]
        wanted = _padded_sides(sides, multiple, at_least)
        before = [(want - side) // 2 for want, side in zip(wanted, sides)]
        margins = [(first, want - side - first) for first, want, side in zip(before, wanted, sides)]
        # functional.pad counts from the last axis backwards
        grown = functional.pad(image, [margin for pair in reversed(margins) for margin in pair], value=value)
        output = network(grown)
        inside = tuple(slice(first, first + side) for first, side in zip(before, sides))
        return output[(slice(None), slice(None), *inside)]

    return forward


class Passes(TypedDict, total=False):
    """How a network goes over a whole image. multiple_of: of which the sides that it takes are multiples (8).
    device: the one that it is on already (the CPU).  max_voxels: of one forward pass (``MAX_VOXELS``)."""

    multiple_of: int
    device: torch.device | str
    max_voxels: int


def predict_volume(
    network: Network, image: np.ndarray | Tensor, sampling: Sampling, **passes: Unpack[Passes]
) -> Tensor:
    """Logits of a whole image: [D, H, W] in [-1, 1] -> float32 [K, D, H, W] on the CPU.

    2D networks (``sampling.ndim``) see every axial slice at its full size, as many at once as ``max_voxels`` lets;
    3D networks see the whole image where it has no more than ``max_voxels``, else overlapping windows of
    ``sampling.size``, blended by a Gaussian. The network works in eval mode here and is left in the mode it was found
    in.
    """
    return _Way(network, sampling, Tensor.float, **passes).over(_one_channel(image))


def predict_labels(
    network: Network, image: np.ndarray | Tensor, sampling: Sampling, **passes: Unpack[Passes]
) -> np.ndarray:
    """Class ids of a whole image: [D, H, W] in [-1, 1] -> uint8 [D, H, W], the argmax of ``predict_volume``.

    Uses a fraction of its memory: the argmax is taken on ``device``, slices by slices. Raises Diverged for logits that
    are no numbers.
    """
    return _Way(network, sampling, _most_likely, **passes).over(_one_channel(image))[0].numpy()


def map_volume(
    network: Network, image: np.ndarray | Tensor, sampling: Sampling, **passes: Unpack[Passes]
) -> np.ndarray:
    """One image made from another: [D, H, W] -> float32 [D, H, W], both in [-1, 1]; sizes as in ``predict_volume``."""
    return predict_volume(network, image, sampling, **passes)[0].numpy()


def _one_channel(image: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(image, dtype=torch.float32)[None]


@dataclass(frozen=True)
class Made:
    """One image that a method made of a whole one.

    image: float32 [D, H, W] in [-1, 1].  label: what the method says that it shows, uint8 [D, H, W]; None where it says
    nothing else than the label of its source.  labelled: False where the method says that it knows of no label.
    maps: name -> float32 [D, H, W] in [0, 1], what else it says of the image.
    """

    image: np.ndarray
    label: np.ndarray | None = None
    labelled: bool = True
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)

    def label_of(self, source: np.ndarray | None, of: str = "", claimed: str = "") -> np.ndarray | None:
        """The label to keep beside the image, None where it is not known: the method's own word, or else that of its
        ``source``.

        of, claimed: states (``lesion``, ``healthy``) of the roles it was made of and is taken for. Where they differ,
        the image does not show what its source did: taken for healthy it shows nothing; else nobody knows what.
        """
        if not self.labelled:
            return None
        if self.label is not None:
            return self.label
        if claimed not in ("", of):
            return np.zeros(self.image.shape, np.uint8) if claimed == "healthy" else None
        return source


def synthesize_volume(
    method: Method,
    image: np.ndarray | Tensor,
    role: str,
    sampling: Sampling,
    *,
    label: np.ndarray | Tensor | None = None,
    device: torch.device | str = "cpu",
    max_voxels: int = MAX_VOXELS,
) -> dict[tuple[str, str], np.ndarray]:
    """All that ``method`` makes of one whole image of ``role``.

    image: [D, H, W] in [-1, 1].  label: class ids [D, H, W], for methods that look at them.
    Returns (role, kind) -> float32 [D, H, W] in [-1, 1], where role and kind are those of ``contracts.Synthetic``.
    """
    made = synthesize_labelled(method, image, role, sampling, label=label, device=device, max_voxels=max_voxels)
    return {key: item.image for key, item in made.items()}


def synthesize_labelled(
    method: Method,
    image: np.ndarray | Tensor,
    role: str,
    sampling: Sampling,
    *,
    label: np.ndarray | Tensor | None = None,
    device: torch.device | str = "cpu",
    max_voxels: int = MAX_VOXELS,
) -> dict[tuple[str, str], Made]:
    """As ``synthesize_volume``, each image with the label and the maps that ``contracts.Synthetic`` gives it.

    Where windows overlap, a voxel has the class that most of them say, weighed as their images are.
    """
    made: list[_Channels] = []

    def forward(stacked: Tensor) -> Tensor:
        labels = (
            stacked[:, 1].round().long() + 1 if label is not None else torch.full_like(stacked[:, 0], UNLABELLED).long()
        )
        synthetic = method.synthesize({role: Images(stacked[:, :1], labels)})
        channels = [stacked[:, :0]]  # nothing may be made of a role
        made.clear()
        for item in synthetic:
            said = [] if item.label is None else [_one_hot(item.label, method.task.classes).to(item.image)]
            channels += [item.image, *said, *(one.to(item.image) for one in item.maps.values())]
            made.append(_Channels((item.role, item.kind), sum(one.shape[1] for one in said), tuple(item.maps)))
        return torch.cat(channels, dim=1)

    channels = [torch.tensor(np.asarray(image, np.float32))]  # a copy: a mapped image may not be written to
    if label is not None:
        # Shifted by one, so that what pads the image (-1) pads the label with background.
        channels.append(torch.tensor(np.asarray(label, np.float32)) - 1)
    with evaluating(method):
        way = _Way(forward, sampling, _as_image, method.multiple_of, device, max_voxels)
        volume = way.over(torch.stack(channels))
    parts = volume.split([channels.count for channels in made]) if made else []
    return {channels.key: _made(part, channels) for part, channels in zip(parts, made)}


@dataclass(frozen=True)
class _Channels:
    """What the channels of one synthetic image are: the image, its label with one a class if any, then its maps."""

    key: tuple[str, str]
    said: int
    maps: tuple[str, ...]

    @property
    def count(self) -> int:
        return 1 + self.said + len(self.maps)


def _one_hot(label: Tensor, classes: int) -> Tensor:
    """[N, *S] -> [N, 1 + classes, *S], the first channel for ``UNLABELLED``."""
    return functional.one_hot(label - UNLABELLED, classes + 1).movedim(-1, 1)


def _made(part: Tensor, channels: _Channels) -> Made:
    image, said, rest = part.split([1, channels.said, len(channels.maps)])
    maps = {name: one.clamp(0, 1).numpy() for name, one in zip(channels.maps, rest)}
    if not len(said):
        return Made(image[0].numpy(), maps=maps)
    label = said.argmax(0) + UNLABELLED
    if bool((label == UNLABELLED).any()):
        return Made(image[0].numpy(), labelled=False, maps=maps)
    return Made(image[0].numpy(), label.to(torch.uint8).numpy(), maps=maps)


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """``network`` in eval mode without gradient; every module gets the mode back that it had."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode


def _padded_sides(sides: Sequence[int], multiple: int, at_least: Sequence[int]) -> list[int]:
    smallest = at_least or [1] * len(sides)
    return [math.ceil(max(side, least) / multiple) * multiple for side, least in zip(sides, smallest)]


def _most_likely(logits: Tensor) -> Tensor:
    # -inf rules a class out; the argmax of anything else that is no number is some class, and the wrong answer.
    if not bool((logits < math.inf).all()):
        raise Diverged("what a segmentor says of an image is no number")
    return logits.argmax(dim=1, keepdim=True).to(torch.uint8)


def _as_image(output: Tensor) -> Tensor:
    return output.float().clamp(-1, 1)


@dataclass(frozen=True)
class _Way:
    """How a network goes over volumes: as ``Passes`` says, then ``finish``, on the device still, over what it gave."""

    network: Network
    sampling: Sampling
    finish: Network
    multiple_of: int = 8
    device: torch.device | str = "cpu"
    max_voxels: int = MAX_VOXELS

    def over(self, volume: Tensor) -> Tensor:
        """[C, D, H, W] -> finish(network(…)) [K, D, H, W] on the CPU."""
        with evaluating(self.network):
            step, sides = _counted(self.network), self.sampling.size
            # Smaller images are padded up to the size that the network was trained on: there its statistics hold.
            whole = padded(step, self.multiple_of, at_least=sides)
            if self.sampling.ndim == 2:
                return self._by_slices(whole, volume)
            if math.prod(_padded_sides(volume.shape[1:], self.multiple_of, sides)) <= self.max_voxels:
                return self.finish(whole(volume[None].to(self.device)))[0].cpu()
            return self._by_windows(step, volume)

    def _by_slices(self, network: Network, volume: Tensor) -> Tensor:
        """Every axial slice through a 2D network, in chunks of as many as ``max_voxels`` lets (at least one)."""
        area = math.prod(_padded_sides(volume.shape[2:], self.multiple_of, self.sampling.size))
        chunks = volume.transpose(0, 1).split(max(1, self.max_voxels // area))
        done = [self.finish(network(chunk.to(self.device))).cpu() for chunk in chunks]
        return torch.cat(done).transpose(0, 1).contiguous()

    def _by_windows(self, network: Network, volume: Tensor) -> Tensor:
        """Overlapping windows of the training size through a 3D network, stitched on the CPU."""
        # Imported where it is used: MONAI takes seconds to import, and most processes that import us need no windows.
        from monai.inferers import sliding_window_inference

        window = _padded_sides(self.sampling.size, self.multiple_of, ())
        stitched = sliding_window_inference(
            volume[None],
            roi_size=window,
            sw_batch_size=max(1, self.max_voxels // math.prod(window)),
            # A copy, because MONAI weighs what comes back in place, and a network may give back what it was given.
            predictor=lambda patch: network(patch.clone()),
            overlap=OVERLAP,
            mode="gaussian",
            cval=BACKGROUND,
            sw_device=self.device,
            device="cpu",
        )
        return self.finish(stitched)[0]


def _counted(network: Network) -> Network:
    """``network``, of which each pass is a step of the work."""

    def forward(image: Tensor) -> Tensor:
        output = network(image)
        moved()
        return output

    return forward
