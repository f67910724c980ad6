"""Training samples: unpaired batches, 3D patches, 2D axial slices, and the mixing of real and synthetic images.

A batch is a pure function of (step, rank, world): nothing is remembered between steps, so a resumed run, or the same
run on another number of workers, sees exactly the same samples. Only the crop is copied out of the mapped store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ganatomy.contracts import UNLABELLED, Batch, Images, InputError
from ganatomy.experiment import Mixing, Sampling, State
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store

OUTSIDE = -1.0
"""Image value beyond the edge of a volume: the bottom of the intensity range. The label there is background."""


@dataclass(frozen=True)
class Entry:
    """One image in a pool. labelled: its label may be seen; False withholds a label that exists.

    slices: the only ones that 2D samples are taken from; None, any that shows something.
    centred: samples may be centred on its labelled voxels, where its label may be seen.
    """

    store: Store
    record: Record
    labelled: bool
    slices: tuple[int, ...] | None = None
    centred: bool = True


@dataclass(frozen=True)
class Pool:
    """The images that may play one role. Pools add up: ``Pool.of(...) + Pool.of(...)``."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, store: Store, records: Iterable[Record], patients: Collection[str] | None = None) -> Pool:
        """A pool of ``records`` of ``store``. patients: those whose labels may be seen; None, all of them."""
        return cls(
            tuple(
                Entry(store, record, record.labelled and (patients is None or record.patient in patients))
                for record in records
            )
        )

    def in_state(self, state: State, ndim: int) -> Pool:
        """The part of the pool in that state: slices in 2D, whole images in 3D. ``""`` is all of it.

        That a slice is in a state is a weak label, which a pool may use even where the label itself is withheld.
        """
        if not state:
            return self
        slices = [(entry, slices_in(entry.record, state)) for entry in self.entries]
        if ndim == 2:
            return Pool(tuple(replace(entry, slices=some) for entry, some in slices if some))
        lesion = {entry.record: bool(slices_in(entry.record, "lesion")) for entry in self.entries}
        return Pool(tuple(entry for entry, some in slices if some and lesion[entry.record] == (state == "lesion")))

    def from_anywhere(self) -> Pool:
        """The same images, of which no sample is centred on what is labelled."""
        return Pool(tuple(replace(entry, centred=False) for entry in self.entries))

    def __add__(self, other: Pool) -> Pool:
        return Pool(self.entries + other.entries)

    def __len__(self) -> int:
        return len(self.entries)


def slices_in(record: Record, state: State) -> tuple[int, ...]:
    """The slices of an image that are in ``state``, among those that show something.

    By its label where it has one: ``lesion`` where anything is labelled. Without a label the class of the whole image
    (``attributes["class"]``) speaks for all slices: a class that is called like a state, or ``normal``.
    """
    shown = range(*record.content)
    if record.labelled:
        with_label = set(record.labelled_slices)
        return tuple(k for k in shown if (k in with_label) == (state == "lesion"))
    return tuple(shown) if state == state_of(str(record.attributes.get("class") or "")) else ()


def state_of(klass: str) -> str:
    """The state that an image-level class speaks of: it may be called ``normal`` where we say ``healthy``."""
    return {"normal": "healthy"}.get(klass, klass)


@dataclass(frozen=True)
class Mixture:
    """Real and synthetic images of one role, in the amounts and the order of ``mixing`` over ``total_steps`` steps.

    unlabelled: there is no real one, since none has a label, and synthetic ones alone are no mistake.

    All orders spend the same number of samples of each kind in total when ``pretrain`` is 0 (it concerns ``mixed``
    only: its leading part of the steps is real alone). A ratio that does not divide the batch is kept exactly in the
    long run: batches then differ by one sample in a fixed pattern.
    """

    real: Pool
    synthetic: Pool | None
    mixing: Mixing
    total_steps: int
    unlabelled: bool = False

    def __len__(self) -> int:
        return len(self.real) or (len(self.synthetic or ()) if self.unlabelled else 0)

    def composition(self, step: int, batch: int) -> tuple[int, int]:
        """(real, synthetic) images in the batch of ``step``; they sum to ``batch``."""
        synthetic = self.synthetic_before(step + 1, batch) - self.synthetic_before(step, batch)
        return batch - synthetic, synthetic

    def synthetic_before(self, step: int, batch: int) -> int:
        """Synthetic samples in all steps before ``step``. A closed form, so that a step needs no history."""
        if self.synthetic is None or not len(self.synthetic):
            return 0
        if not len(self.real):
            return step * batch
        return synthetic_samples(self.mixing, self.total_steps, step, batch)


def synthetic_samples(mixing: Mixing, total_steps: int, step: int, batch: int) -> int:
    """Synthetic samples in all of ``total_steps`` steps before ``step``, where there are synthetic images."""
    if mixing.order == "mixed":
        return _share(mixing, max(0, step - int(mixing.pretrain * total_steps)), batch)
    synthetic = _share(mixing, total_steps, batch)
    if mixing.order == "synthetic_first":
        return min(step * batch, synthetic)
    return max(0, step * batch - (total_steps * batch - synthetic))


def _share(mixing: Mixing, steps: int, batch: int) -> int:
    """Synthetic samples among the first ``steps`` mixed batches. One to one means exactly floor(batch / 2) real in
    every batch (the paper's half and half); one sample a batch cannot be halved and alternates."""
    if mixing.ratio == 1 and batch > 1:
        return steps * (batch - batch // 2)
    ratio = Fraction(mixing.ratio).limit_denominator(1_000_000)
    return int(steps * batch * ratio / (1 + ratio))


@dataclass(frozen=True)
class Augmentation:
    """Ordinary augmentation, the ``classical`` arm. No flips: a body has a left and a right.

    rotation: degrees about each axis, either way.  scale: relative size, 1 -/+ this.  translation: fraction of a
    side.  gamma: exponent of the contrast curve, exp of -/+ this.  noise: largest standard deviation, the image's range
    being 2.
    """

    rotation: float = 10.0
    scale: float = 0.1
    translation: float = 0.05
    gamma: float = 0.3
    noise: float = 0.05

    @classmethod
    def of(cls, strength: float) -> Augmentation:
        """The default, all of it so many times as strong."""
        return cls(**{name: strength * value for name, value in vars(cls()).items()})


class Sampler:
    """Batches for the roles of a method.

    pools: role -> the images that may play it.  batch: samples a step over all workers together.
    augment: transform every sample (image and label together), True for the default ``Augmentation``.
    whole: a sample is the whole image brought to ``sampling.size``, without its label, and not a part of it.
    InputError when a role has no image.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool | Mixture],
        sampling: Sampling,
        batch: int,
        seed: int,
        augment: bool | Augmentation = False,
        whole: bool = False,
    ) -> None:
        self.pools, self.sampling, self.size, self.seed = dict(pools), sampling, batch, seed
        self.augmentation = Augmentation() if augment is True else augment or None
        self.whole = whole
        self._orders: dict[tuple[str, int], NDArray[np.int64]] = {}
        for role, pool in self.pools.items():
            if not len(pool):
                raise InputError(
                    f"no training image for role {role}", expected="at least one", remedy="check the splits"
                )

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """What worker ``rank`` of ``world`` sees at ``step``: samples rank, rank + world, ... of the step's batch."""
        return {role: self._images(role, pool, step, rank, world) for role, pool in self.pools.items()}

    def _images(self, role: str, pool: Pool | Mixture, step: int, rank: int, world: int) -> Images:
        drawn = self._drawn(role, pool, step)[rank::world]
        size = tuple(self.sampling.size)
        image = np.empty((len(drawn), 1, *size), np.float32)
        label = np.empty((len(drawn), *size), np.int64)
        for i, (stream, entry, g) in enumerate(drawn):
            self._fill(image[i, 0], label[i], entry, generator_of(self.seed, stream, g))
        subjects = tuple(entry.record.subject for _, entry, _ in drawn)
        return Images(torch.from_numpy(image), torch.from_numpy(label), subjects)

    def _drawn(self, role: str, pool: Pool | Mixture, step: int) -> list[tuple[str, Entry, int]]:
        """The step's samples over all workers: (stream, image, its number in the stream), which name its randomness."""
        if isinstance(pool, Pool):
            return self._stretch(role, pool, step * self.size, self.size)
        synthetic = pool.synthetic_before(step, self.size)
        n_real, n_synthetic = pool.composition(step, self.size)
        drawn = self._stretch(role, pool.real, step * self.size - synthetic, n_real)
        if pool.synthetic is not None and n_synthetic:
            drawn += self._stretch(f"{role}/synthetic", pool.synthetic, synthetic, n_synthetic)
        return drawn

    def _stretch(self, stream: str, pool: Pool, start: int, count: int) -> list[tuple[str, Entry, int]]:
        """Samples start .. start + count of an endless sequence: every epoch is a new permutation of the pool."""
        n = len(pool)
        return [(stream, pool.entries[self._order(stream, g // n, n)[g % n]], g) for g in range(start, start + count)]

    def _order(self, stream: str, epoch: int, n: int) -> NDArray[np.int64]:
        order = self._orders.get((stream, epoch))
        if order is None:
            if len(self._orders) > 64:  # only the present epoch of each stream is ever asked again
                self._orders.clear()
            order = self._orders[stream, epoch] = generator_of(self.seed, f"{stream}/order", epoch).permutation(n)
        return order

    def _fill(
        self, image: NDArray[np.float32], label: NDArray[np.int64], entry: Entry, generator: np.random.Generator
    ) -> None:
        """Write one sample into image [*S] and label [*S]."""
        volume = entry.store.image(entry.record)
        mask = entry.store.label(entry.record) if entry.labelled and not self.whole else None
        corner = (0, 0, 0) if self.whole else self._corner(entry, generator)
        if self.whole:
            volume = resized(volume, self.sampling)
        if self.sampling.ndim == 2:
            volume, mask, corner = volume[corner[0]], None if mask is None else mask[corner[0]], corner[1:]
        if self.augmentation is None:
            _crop(volume, corner, image, OUTSIDE)
            if mask is not None:
                _crop(mask, corner, label, 0)
        else:
            spacing = np.asarray(entry.store.spacing(entry.record)[-image.ndim :])
            if self.whole:
                spacing = spacing * entry.record.shape[-image.ndim :] / image.shape
            matrix, offset = _view(corner, image.shape, spacing, self.augmentation, generator)
            _look(volume, matrix, offset, image, OUTSIDE)
            if mask is not None:
                _look(mask, matrix, offset, label, 0)
            _recolour(image, self.augmentation, generator)
        if mask is None:
            label.fill(UNLABELLED)

    def _corner(self, entry: Entry, generator: np.random.Generator) -> tuple[int, ...]:
        """First voxel (d, h, w) of the sample in its volume: around a labelled voxel or anywhere, inside where it fits,
        centred where the volume is smaller (then negative). In 2D the sample is one slice thick."""
        sides = (1, *self.sampling.size) if self.sampling.ndim == 2 else self.sampling.size
        shape = entry.record.shape
        u = generator.random(5)
        around = entry.labelled and entry.centred and u[0] < self.sampling.foreground
        centres = entry.store.foreground(entry.record) if around and _may_hold_label(entry) else ()
        if len(centres):
            at = [int(c) - side // 2 for c, side in zip(centres[int(u[1] * len(centres))], sides)]
        else:
            at = [int(v * (n - side + 1)) for v, n, side in zip(u[2:], shape, sides)]
            if self.sampling.ndim == 2:
                slices = entry.slices or range(*entry.record.content)  # a constant slice teaches nothing
                at[0] = slices[int(u[2] * len(slices))]
        return tuple((n - side) // 2 if n <= side else min(max(c, 0), n - side) for c, n, side in zip(at, shape, sides))


def resized(volume: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float32]:
    """A whole image [D, H, W] at ``sampling.size``, in 2D [1, H, W]; the image itself where it has that size.

    Linear, averaging where it shrinks (in 2D). InputError for an image of several slices in 2D.
    """
    size = tuple(sampling.size)
    if sampling.ndim == 2 and len(volume) != 1:
        raise InputError(f"an image of {len(volume)} slices, of which one is to be looked at as a whole",
                         expected="2D images", remedy="set sampling.ndim = 3")  # fmt: skip
    if volume.shape[-sampling.ndim :] == size:
        return volume
    given = torch.from_numpy(volume.copy())[None]
    if sampling.ndim == 2:
        found = torch.nn.functional.interpolate(given, size, mode="bilinear", align_corners=False, antialias=True)
        return found[0].clamp(-1, 1).numpy()
    return torch.nn.functional.interpolate(given[None], size, mode="trilinear", align_corners=False)[0, 0].numpy()


def _may_hold_label(entry: Entry) -> bool:
    """Whether the slices that samples are taken from are all, or those with a label."""
    return entry.slices is None or entry.slices[0] in entry.record.labelled_slices


def generator_of(seed: int, stream: str, counter: int) -> np.random.Generator:
    """Randomness of one sample, addressed by name instead of drawn from a sequence (Philox is made for that)."""
    return np.random.Generator(np.random.Philox(key=_key(seed, stream), counter=[0, 0, counter, 0]))


_KEYS: dict[tuple[int, str], int] = {}


def _key(seed: int, stream: str) -> int:
    key = _KEYS.get((seed, stream))
    if key is None:
        text = f"{seed}/{stream}".encode()
        key = _KEYS[seed, stream] = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return key


def _crop(source: NDArray[Any], corner: tuple[int, ...], out: NDArray[Any], outside: float) -> None:
    """Copy ``source`` from ``corner`` on into ``out``; what lies beyond the source becomes ``outside``."""
    into, taken, inside = [], [], True
    for start, side, n in zip(corner, out.shape, source.shape):
        low, high = max(start, 0), min(start + side, n)
        into.append(slice(low - start, high - start))
        taken.append(slice(low, high))
        inside = inside and high - low == side
    if not inside:
        out.fill(outside)
    out[tuple(into)] = source[tuple(taken)]


def _view(
    corner: tuple[int, ...],
    sides: tuple[int, ...],
    spacing: NDArray[np.float64],
    amount: Augmentation,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(matrix, offset): voxel o of the sample shows point matrix @ o + offset of the volume, in voxels.

    The crop's centre, moved a little, is seen under a rotation in millimetres (voxels may be anisotropic) and a scale.
    """
    n, middle = len(sides), (np.asarray(sides) - 1) / 2
    rotation = np.eye(n)
    for first in range(n):
        for second in range(first + 1, n):
            angle = np.deg2rad(generator.uniform(-amount.rotation, amount.rotation))
            turn = np.eye(n)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            rotation = rotation @ turn
    scale = generator.uniform(1 - amount.scale, 1 + amount.scale)
    matrix = rotation * spacing[None, :] / spacing[:, None] / scale
    shift = generator.uniform(-amount.translation, amount.translation, n) * np.asarray(sides)
    return matrix, np.asarray(corner) + middle + shift - matrix @ middle


def _look(
    source: NDArray[Any], matrix: NDArray[np.float64], offset: NDArray[np.float64], out: NDArray[Any], outside: float
) -> None:
    """Fill ``out`` with the view (matrix, offset) of ``source``: linear for images, nearest for class ids.

    Only the box that the view can reach is copied out of the volume. Taken from the volume and not from the crop, so
    that tissue beside the crop turns in where it exists.
    """
    sides = np.asarray(out.shape)
    low = np.floor(offset + np.minimum(matrix, 0) @ (sides - 1)).astype(int) - 1
    high = np.ceil(offset + np.maximum(matrix, 0) @ (sides - 1)).astype(int) + 2
    low, high = np.clip(low, 0, source.shape), np.clip(high, 0, source.shape)
    if (high <= low).any():
        out.fill(outside)
        return
    box = source[tuple(slice(a, b) for a, b in zip(low, high))]
    order = 0 if np.issubdtype(out.dtype, np.integer) else 1
    ndimage.affine_transform(box, matrix, offset - low, out.shape, out, order=order, cval=outside)


def _recolour(image: NDArray[np.float32], amount: Augmentation, generator: np.random.Generator) -> None:
    """Contrast curve and noise, in place: ((x + 1) / 2) ** exponent on [0, 1]."""
    exponent = np.float32(np.exp(generator.uniform(-amount.gamma, amount.gamma)))
    deviation = np.float32(generator.uniform(0, amount.noise))
    unit = np.clip((image + 1) / 2, 0, 1) ** exponent
    noise = generator.standard_normal(image.shape, dtype=np.float32) * deviation
    np.clip(unit * 2 - 1 + noise, -1, 1, out=image)
