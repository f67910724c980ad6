"""What the store buys: patches for training from one cohort, against what a laboratory would write instead.

Four contenders deliver the same thing, [batch, 1, 32, 64, 64] patches with labels, half of them centred on a labelled
voxel, from the same gzipped NIfTI files and the same intensity window:

- nibabel: load, orient and normalise a volume whenever a patch of it is wanted (a plain Dataset);
- MONAI PersistentDataset: the deterministic transforms are cached on disc, one file a volume;
- MONAI CacheDataset: they are cached in the memory of the process;
- ganatomy: prepared once, memory-mapped.

Each measurement is a fresh process, as every trial and every worker of a sweep is; rounds alternate over contenders.

    python benchmarks/bench_store.py [--volumes 8] [--side 160] [--samples 96] [--rounds 3]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import monai.data
import monai.transforms as mt
import nibabel
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ganatomy.cohorts.cohort import Cohort, Domain, Row
from ganatomy.experiment import Sampling
from ganatomy.images.intensities import Intensity
from ganatomy.stores.preparation import prepare
from ganatomy.stores.sampling import Pool, Sampler
from ganatomy.stores.store import open_store

SIZE, BATCH, LOW, HIGH = (32, 64, 64), 4, -160.0, 240.0
KEYS = ("image", "label")
Batches = Iterator[torch.Tensor]
Delivered = tuple[float, float, float]  # seconds to the first batch, samples a second from then on, private MB


def make_cohort(folder: Path, volumes: int, side: int) -> Cohort:
    generator, rows = np.random.default_rng(0), []
    shape = (side, side, side // 2)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    for number in range(volumes):
        ball = (x - 0.2) ** 2 + y**2 + z**2 < generator.uniform(0.05, 0.15)
        body = np.where(x**2 + y**2 < 0.8, 40, -1000) + 120 * ball + generator.normal(0, 15, shape)
        for kind, voxels in (("image", body.astype(np.int16)), ("label", ball.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1, -1, 2, 1])), folder / f"{kind}{number}.nii.gz")
        files = [folder / f"{kind}{number}.nii.gz" for kind in KEYS]
        rows.append(Row(f"p{number}", f"s{number}", "ct", files[0], files[1], "train"))
    domains = {"ct": Domain("ct", "ct", Intensity("window", LOW, HIGH))}
    return Cohort(folder, "bench", domains, {1: "ball"}, rows=tuple(rows)).save()


# --- contenders: each yields batches for ever ---------------------------------------------------------------------


def by_nibabel(cohort: Cohort) -> Batches:
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(len(cohort.rows))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            patches = [_patch(cohort.rows[i], generator) for i in order[start : start + BATCH]]
            yield torch.stack([torch.from_numpy(image) for image, _ in patches])


def _patch(row: Row, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image, label = (nibabel.as_closest_canonical(nibabel.load(path)) for path in (row.image, row.label))
    volume = image.get_fdata(dtype=np.float32).transpose(2, 1, 0)
    mask = np.asarray(label.dataobj).transpose(2, 1, 0)
    volume = np.clip((volume - LOW) / (HIGH - LOW), 0, 1) * 2 - 1
    places = np.argwhere(mask) if generator.random() < 0.5 else None
    at = places[generator.integers(len(places))] if places is not None else generator.integers(0, mask.shape)
    corner = np.clip(at - np.array(SIZE) // 2, 0, np.array(mask.shape) - SIZE)
    piece = tuple(slice(c, c + s) for c, s in zip(corner, SIZE))
    return volume[piece][None].copy(), mask[piece].copy()


def by_monai(cohort: Cohort, cache: Path | None) -> Batches:
    steps = [
        mt.LoadImaged(KEYS), mt.EnsureChannelFirstd(KEYS), mt.Orientationd(KEYS, "RAS", labels=None),
        mt.ScaleIntensityRanged("image", LOW, HIGH, -1, 1, clip=True), mt.Transposed(KEYS, (0, 3, 2, 1)),
        mt.FgBgToIndicesd("label"),
        mt.RandCropByPosNegLabeld(
            KEYS, "label", SIZE, fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices"
        ),
    ]  # fmt: skip
    files = [{"image": str(row.image), "label": str(row.label)} for row in cohort.rows]
    if cache is None:
        data: torch.utils.data.Dataset = monai.data.CacheDataset(files, mt.Compose(steps), progress=False)
    else:
        data = monai.data.PersistentDataset(files, mt.Compose(steps), cache)
    while True:
        for batch in monai.data.DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=0):
            yield batch["image"].as_tensor()


def by_store(path: Path) -> Batches:
    store = open_store(path)
    sampler = Sampler({"A": Pool.of(store, store.records())}, Sampling(3, SIZE, 0.5), BATCH, seed=0)
    step = 0
    while True:
        yield sampler.batch(step)["A"].image
        step += 1


# --- measuring ---------------------------------------------------------------------------------------------------


def deliver(contender: Callable[[], Batches], samples: int) -> Delivered:
    before, start = _private_mb(), time.perf_counter()
    batches = contender()
    first = next(batches)
    opened = time.perf_counter()
    assert tuple(first.shape) == (BATCH, 1, *SIZE)
    assert -1 <= float(first.min()) < float(first.max()) <= 1
    for _ in range(samples // BATCH):
        next(batches)
    spent = time.perf_counter() - opened
    return opened - start, samples / spent, _private_mb() - before


def _private_mb() -> float:
    """Memory that no other process can share."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty")) / 1024


def in_fresh_process(contender: Callable[[], Batches], samples: int) -> Delivered:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(deliver, (contender, samples))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("volumes", 8), ("side", 160), ("samples", 96), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cohort = make_cohort(root, asked.volumes, asked.side)
        start = time.perf_counter()
        store = prepare(cohort, root / "stores")
        prepared = time.perf_counter() - start
        (root / "monai").mkdir()
        persistent = partial(by_monai, cohort, root / "monai")
        start = time.perf_counter()
        in_fresh_process(persistent, asked.volumes)
        cached = time.perf_counter() - start
        contenders: dict[str, tuple[float, Callable[[], Batches]]] = {
            "nibabel": (0.0, partial(by_nibabel, cohort)),
            "MONAI PersistentDataset": (cached, persistent),
            "MONAI CacheDataset": (0.0, partial(by_monai, cohort, None)),
            "ganatomy": (prepared, partial(by_store, store.path)),
        }
        runs: dict[str, list[Delivered]] = {name: [] for name in contenders}
        for _ in range(asked.rounds):
            for name, (_, contender) in contenders.items():
                runs[name].append(in_fresh_process(contender, asked.samples))
    _show(asked, {name: once for name, (once, _) in contenders.items()}, runs)


def _show(asked: argparse.Namespace, once: dict[str, float], runs: dict[str, list[Delivered]]) -> None:
    title = (
        f"{asked.volumes} volumes of {asked.side} x {asked.side} x {asked.side // 2}; median of {asked.rounds} rounds"
    )
    table = Table("", "once [s]", "first batch of a process [s]", "samples/s", "(range)", "private MB", title=title)
    table.add_column("ganatomy is faster by")
    ours = [rate for _, rate, _ in runs["ganatomy"]]
    for name, delivered in runs.items():
        first, rates, memory = zip(*delivered)
        ratio = statistics.median(our / their for our, their in zip(ours, rates))
        cells = f"{once[name]:.2f}", f"{statistics.median(first):.3f}", f"{statistics.median(rates):.1f}"
        spread = f"{min(rates):.1f} - {max(rates):.1f}"
        table.add_row(name, *cells, spread, f"{statistics.median(memory):.0f}", f"{ratio:.1f} x")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
