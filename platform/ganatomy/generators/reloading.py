"""What a bundle makes in a process that knows nothing but the package and a copy of it, against what was judged."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ganatomy.contracts import InputError, Method
from ganatomy.experiment import Sampling
from ganatomy.generators.generator import Generator
from ganatomy.training.inference import evaluating, synthesize_labelled

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Example:
    """An image that a generator is asked to translate. image: [D, H, W] in [-1, 1], of ``role``.  label: class ids."""

    role: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None = None


def differences_when_reloaded(
    generator: Generator, judged: Method, examples: Mapping[str, Example]
) -> dict[str, float]:
    """Example -> largest absolute difference between what ``judged`` makes of it and what the bundle does.

    Images, labels and maps alike. The bundle is used here, and in one fresh process that has a copy of it. Raises
    InputError when that process cannot load or use it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch)
        for number, example in enumerate(examples.values()):
            label = np.zeros(0) if example.label is None else example.label
            np.savez(there / f"given-{number}.npz", role=np.array(example.role), image=example.image, label=label)
        _run(_TRANSLATE, generator, there)
        found = {}
        for number, (name, example) in enumerate(examples.items()):
            others = translated_arrays(generator.method, generator.sampling, example, generator.device)
            wanted = translated_arrays(judged, generator.sampling, example, generator.device)
            with np.load(there / f"made-{number}.npz") as reloaded:
                found[name] = _largest(wanted, others, dict(reloaded))
        return found


def differences_when_drawn_elsewhere(
    generator: Generator, judged: Method, labels: torch.Tensor, numbers: Sequence[int], seed: int
) -> dict[str, float]:
    """The same of subjects drawn from noise. labels: int64 [M, *S] to draw from.  numbers: of the subjects."""
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch)
        np.save(there / "labels.npy", labels.numpy(), allow_pickle=False)
        _run(_DRAW, generator, there, str(seed), *map(str, numbers))
        found = {}
        for number in numbers:
            wanted = drawn_arrays(judged, labels, number, seed)
            with np.load(there / f"made-{number}.npz") as reloaded:
                others = drawn_arrays(generator.method, labels, number, seed)
                found[f"drawn-{number:04d}"] = _largest(wanted, others, dict(reloaded))
        return found


def translated_arrays(method: Method, sampling: Sampling, example: Example, device: torch.device) -> Arrays:
    """All that is translated from one image, with the labels and maps that the method gives."""
    made = synthesize_labelled(method, example.image, example.role, sampling, label=example.label, device=device)
    return {
        f"{role} {name}": np.asarray(array, np.float32)
        for (role, kind), item in made.items()
        if kind == "translated"
        for name, array in (("image", item.image), ("label", item.label), *item.maps.items())
        if array is not None
    }


def drawn_arrays(method: Method, labels: torch.Tensor, number: int, seed: int) -> Arrays:
    """Images by role, and ``label``, of one drawn subject, whether it passes the method's own checks or not."""
    with evaluating(method):
        drawn = method.draw(labels, (number,), seed)
    return {role: image.cpu().numpy() for role, image in drawn.images.items()} | {
        "label": drawn.label.cpu().numpy().astype(np.float32)
    }


def _largest(wanted: Arrays, *others: Arrays) -> float:
    """NaN where there is nothing to compare, or not the same things."""
    if not wanted or any(other.keys() != wanted.keys() for other in others):
        return float("nan")
    return max(float(np.abs(other[name] - array).max()) for other in others for name, array in wanted.items())


def _run(program: str, generator: Generator, there: Path, *arguments: str) -> None:
    shutil.copytree(generator.directory, there / "bundle")
    command = [sys.executable, "-c", program, str(there), str(generator.device), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=there)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"generator {generator.directory} cannot be used in a fresh process: {last}")


_TRANSLATE = """
import sys
from pathlib import Path
import numpy as np
from ganatomy.generators.generator import load_generator
from ganatomy.generators.reloading import Example, translated_arrays
there = Path(sys.argv[1])
generator = load_generator(there / "bundle", sys.argv[2])
for file in there.glob("given-*.npz"):
    given = np.load(file)
    example = Example(str(given["role"]), given["image"], given["label"] if given["label"].size else None)
    made = translated_arrays(generator.method, generator.sampling, example, generator.device)
    np.savez(there / file.name.replace("given", "made"), **made)
"""

_DRAW = """
import sys
from pathlib import Path
import numpy as np
import torch
from ganatomy.generators.generator import load_generator
from ganatomy.generators.reloading import drawn_arrays
there, device, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
method, labels = load_generator(there / "bundle", device).method, torch.from_numpy(np.load(there / "labels.npy"))
for number in map(int, sys.argv[4:]):
    np.savez(there / f"made-{number}.npz", **drawn_arrays(method, labels, number, seed))
"""
