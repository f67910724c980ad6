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

from ganatomy.contracts import UNLABELLED, Batch, Drawn, Images, InputError
from ganatomy.experiment import Experiment, Mixing, Sampling, State
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store

OUTSIDE = -1.0
"""Image value beyond the edge of a volume: the bottom of the intensity range. The label there is background."""


@dataclass(frozen=True)
class Entry:
    """One image in a pool. labelled: its label may be seen; False withholds a label that exists.

    slices: the only ones that 2D samples are taken from; None, any that shows something.
    centred: samples may be centred on its labelled voxels, where its label may be seen.
    central: they are the middle of their plane, or of the image in 3D.
    like: the image of the same examination that its samples are cut with, at the same place; None, by itself.
    """

    store: Store
    record: Record
    labelled: bool
    slices: tuple[int, ...] | None = None
    centred: bool = True
    central: bool = False
    like: Entry | None = None


@dataclass(frozen=True)
class Pool:
    """The images that may play one role. Pools add up: ``Pool.of(...) + Pool.of(...)``.

    stream: name of its draws, the role's where it is empty: pools of one stream, whose images belong together place by
    place, are drawn together.
    """

    entries: tuple[Entry, ...] = ()
    stream: str = ""

    @classmethod
    def of(cls, store: Store, records: Iterable[Record], patients: Collection[str] | None = None) -> Pool:
        """A pool of ``records`` of ``store``. patients: those whose labels may be seen; None, all of them."""
        return cls(
            tuple(
                Entry(store, record, record.labelled and (patients is None or record.patient in patients))
                for record in records
            )
        )

    def in_state(self, state: State, ndim: int, middle: int = 0) -> Pool:
        """The part of the pool in that state, ``""`` for any: slices in 2D, whole images in 3D.

        middle: in 2D, so many of the slices that an image shows, about their middle, and no others; 0 for all.
        That a slice is in a state is a weak label, which a pool may use even where the label itself is withheld.
        """
        if not state and not middle:
            return self
        slices = [
            (entry, middle_of(slices_in(entry.record, state) if state else range(*entry.record.content), entry, middle))
            for entry in self.entries
        ]
        if ndim == 2:
            return Pool(tuple(replace(entry, slices=some) for entry, some in slices if some))
        lesion = {entry.record: bool(slices_in(entry.record, "lesion")) for entry in self.entries}
        return Pool(tuple(entry for entry, some in slices if some and lesion[entry.record] == (state == "lesion")))

    def playing(self, role: str, experiment: Experiment) -> Pool:
        """The part of the pool that may play ``role``: in its state and, where that is asked for, of the middle."""
        sampling = experiment.sampling
        return self.in_state(experiment.state(role), sampling.ndim, sampling.middle_slices)

    def from_anywhere(self) -> Pool:
        """The same images, of which no sample is centred on what is labelled."""
        return replace(self, entries=tuple(replace(entry, centred=False) for entry in self.entries))

    def drawn_with(self, leader: Pool, stream: str) -> Pool:
        """The same images, drawn and cut with those of ``leader``, place by place."""
        entries = zip(self.entries, leader.entries, strict=True)
        return Pool(tuple(replace(entry, like=first) for entry, first in entries), stream)

    def from_the_middle(self) -> Pool:
        """The same images, of which every sample is the middle."""
        return Pool(tuple(replace(entry, central=True) for entry in self.entries))

    def __add__(self, other: Pool) -> Pool:
        return Pool(self.entries + other.entries)

    def __len__(self) -> int:
        return len(self.entries)


def middle_of(slices: Iterable[int], entry: Entry, count: int) -> tuple[int, ...]:
    """Those of ``slices`` that are among the ``count`` middle ones of what the image shows; all where that is 0."""
    first, after = entry.record.content
    start = first + max(0, (after - first - count) // 2) if count else first
    return tuple(k for k in slices if not count or start <= k < start + count)


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

    stream: name of the draws of real images, the role's where it is empty: mixtures of one stream draw alike.
    leading: how many steps are real alone, where ``mixing.pretrain`` does not say it.  online: its synthetic images are
    made while it trains: a batch holds the real ones, and leaves their places vacant.
    """

    real: Pool
    synthetic: Pool | None
    mixing: Mixing
    total_steps: int
    unlabelled: bool = False
    stream: str = ""
    leading: int | None = None
    online: bool = False

    def __len__(self) -> int:
        return len(self.real) or (len(self.synthetic or ()) if self.unlabelled else 0)

    def composition(self, step: int, batch: int) -> tuple[int, int]:
        """(real, synthetic) images in the batch of ``step``: they sum to ``batch``, or the real ones alone do where the
        composition is the paper's."""
        synthetic = self.synthetic_before(step + 1, batch) - self.synthetic_before(step, batch)
        return self.real_before(step + 1, batch) - self.real_before(step, batch), synthetic

    def synthetic_before(self, step: int, batch: int) -> int:
        """Synthetic samples in all steps before ``step``. A closed form, so that a step needs no history."""
        if not self.online and (self.synthetic is None or not len(self.synthetic)):
            return 0
        if not len(self.real):
            return step * batch
        return synthetic_samples(self.mixing, self.total_steps, step, batch, self.leading)

    def real_before(self, step: int, batch: int) -> int:
        """Real samples in all steps before ``step``."""
        if not len(self.real):
            return 0
        beside = self.mixing.composition == "paper"
        return step * batch - (0 if beside else self.synthetic_before(step, batch))


def synthetic_samples(mixing: Mixing, total_steps: int, step: int, batch: int, leading: int | None = None) -> int:
    """Synthetic samples in all of ``total_steps`` steps before ``step``, where there are synthetic images."""
    if mixing.order == "synthetic_alone":
        return step * batch
    if mixing.order == "mixed":
        alone = int(mixing.pretrain * total_steps) if leading is None else leading
        return _share(mixing, max(0, step - alone), batch)
    synthetic = _share(mixing, total_steps, batch)
    if mixing.order == "synthetic_first":
        return min(step * batch, synthetic)
    return max(0, step * batch - (total_steps * batch - synthetic))


def _share(mixing: Mixing, steps: int, batch: int) -> int:
    """Synthetic samples among the first ``steps`` mixed batches: ``ratio`` for each real one, exactly so in any stretch
    to within a sample. One to one is half and half where the batch is even, and by turns where it is one."""
    ratio = Fraction(mixing.ratio).limit_denominator(1_000_000)
    return int(steps * batch * (ratio if mixing.composition == "paper" else ratio / (1 + ratio)))


class Sampler:
    """Batches for the roles of a method.

    pools: role -> the images that may play it.  batch: samples a step over all workers together.
    whole: a sample is the whole image brought to ``sampling.size``, without its label, and not a part of it.
    InputError when a role has no image.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool | Mixture],
        sampling: Sampling,
        batch: int,
        seed: int,
        whole: bool = False,
    ) -> None:
        self.pools, self.sampling, self.size, self.seed = dict(pools), sampling, batch, seed
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
        everything = self._drawn(role, pool, step)
        if isinstance(pool, Mixture) and pool.mixing.composition == "paper" and len(everything) % world:
            raise InputError(f"{len(everything)} samples in an update for {world} workers", expected="as many for each",
                             remedy="set budget.batch, mixing.ratio or --workers-per-trial")  # fmt: skip
        drawn = everything[rank::world]
        size = tuple(self.sampling.size)
        image = np.empty((len(drawn), 1, *size), np.float32)
        label = np.empty((len(drawn), *size), np.int64)
        for i, (stream, entry, g) in enumerate(drawn):
            self._fill(image[i, 0], label[i], entry, generator_of(self.seed, stream, g))
        subjects = tuple(entry.record.subject for _, entry, _ in drawn)
        of_each = tuple(self._told(stream, entry, g) for stream, entry, g in drawn)
        vacant = None
        if isinstance(pool, Mixture) and pool.online:
            first = pool.synthetic_before(step, self.size) - len(everything)
            vacant = tuple(first + place for place in range(rank, self.size, world) if place >= len(everything))
        return Images(torch.from_numpy(image), torch.from_numpy(label), subjects, of_each, vacant)

    def _told(self, stream: str, entry: Entry, g: int) -> Drawn:
        ndim = self.sampling.ndim
        number = generator_of(self.seed, f"{stream}/drawn", g).integers(2**64, dtype=np.uint64)
        spacing = np.asarray(entry.store.spacing(entry.record)[-ndim:])
        if self.whole:
            spacing = spacing * entry.record.shape[-ndim:] / np.asarray(self.sampling.size)
        return Drawn(int(number), tuple(spacing.tolist()))

    def _drawn(self, role: str, pool: Pool | Mixture, step: int) -> list[tuple[str, Entry, int]]:
        """The step's samples over all workers: (stream, image, its number in the stream), which name its randomness."""
        if isinstance(pool, Pool):
            return self._stretch(pool.stream or role, pool, step * self.size, self.size)
        synthetic = pool.synthetic_before(step, self.size)
        n_real, n_synthetic = pool.composition(step, self.size)
        drawn = self._stretch(pool.stream or role, pool.real, pool.real_before(step, self.size), n_real)
        if not pool.online and pool.synthetic is not None and n_synthetic:
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
        corner = (0, 0, 0) if self.whole else self._corner(entry.like or entry, generator)
        if self.whole:
            volume = resized(volume, self.sampling)
        if self.sampling.ndim == 2:
            volume, mask, corner = volume[corner[0]], None if mask is None else mask[corner[0]], corner[1:]
        _crop(volume, corner, image, OUTSIDE)
        if mask is not None:
            _crop(mask, corner, label, 0)
        if mask is None:
            label.fill(UNLABELLED)

    def _corner(self, entry: Entry, generator: np.random.Generator) -> tuple[int, ...]:
        """First voxel (d, h, w) of the sample in its volume: around a labelled voxel or anywhere, inside where it fits,
        centred where the volume is smaller (then negative). In 2D the sample is one slice thick."""
        sides = (1, *self.sampling.size) if self.sampling.ndim == 2 else self.sampling.size
        shape = entry.record.shape
        u = generator.random(5)
        around = entry.labelled and entry.centred and u[0] < self.sampling.foreground
        centres = _centres(entry) if around else ()
        if entry.central:
            at = [(n - side) // 2 for n, side in zip(shape, sides)]
        elif len(centres):
            at = [int(c) - side // 2 for c, side in zip(centres[int(u[1] * len(centres))], sides)]
        else:
            at = [int(v * (n - side + 1)) for v, n, side in zip(u[2:], shape, sides)]
        if self.sampling.ndim == 2 and (entry.central or not len(centres)):
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


def _centres(entry: Entry) -> NDArray[Any]:
    """Labelled voxels (z, y, x) of the slices that samples are taken from, [n, 3]."""
    found = np.asarray(entry.store.foreground(entry.record))
    return found if entry.slices is None or not len(found) else found[np.isin(found[:, 0], entry.slices)]


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
