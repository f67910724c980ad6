"""What goes into a generator's bundle: weights, settings, native ranges, and a fingerprint of all that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ganatomy.cohorts.cohort import Cohort, Domain
from ganatomy.contracts import UNLABELLED, Images, InputError, Method
from ganatomy.core.plain_values import plain
from ganatomy.experiment import Experiment
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store
from ganatomy.training.inference import evaluating

FORMAT = 1
"""Version of the bundle's layout. A bundle of another version is refused, never half understood."""

WEIGHTS, CONFIG = "weights.safetensors", "config.json"


def content_hash(content: bytes) -> str:
    """32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def weights(method: Method) -> dict[str, torch.Tensor]:
    """The tensors of the networks that synthesis needs, each a copy, on the CPU."""
    networks = method.networks()
    return {
        # A copy each, because tensors that share memory are refused by the format.
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name in method.generators
        for key, value in networks[name].state_dict().items()
    }


def configuration(
    method: Method,
    experiment: Experiment,
    cohort: Cohort,
    store: Store,
    records: list[Record],
    roles: Mapping[str, str],
) -> dict[str, Any]:
    """What ``config.json`` holds. records: the images that native ranges are learnt from.  roles: role -> domain."""
    return {
        "format": FORMAT,
        # By its name: a path of the machine that trained is nobody else's business.
        "experiment": replace(experiment, cohort=cohort.name).to_dict(),
        "classes": store.classes,
        "networks": list(method.generators),
        "domains": {name: plain(cohort.domains[name]) for name in roles.values()},
        "labels": plain(cohort.labels),
        "label_values": plain(cohort.label_values),
        "grid": {"orientation": cohort.orientation, "spacing": cohort.spacing, "size": cohort.size},
        "licence": cohort.licence,
        "ranges": {role: _native_range(cohort.domains[name], records) for role, name in roles.items()},
        "routes": _routes(method),
        "way": "pastes" if method.on_patches else "draws" if method.draws_from_noise else "translates",
    }


def _native_range(domain: Domain, records: list[Record]) -> tuple[float, float]:
    """Native intensities that -1 and +1 stand for: exact for a window, else what is typical of the training images."""
    if domain.intensity.rule == "window":
        return domain.intensity.low, domain.intensity.high
    seen = [record for record in records if record.domain == domain.name]
    if not seen:
        raise InputError(f"no training image of domain {domain.name!r}", expected="one, to learn its range from")
    return float(median(record.lo for record in seen)), float(median(record.hi for record in seen))


def _routes(method: Method) -> dict[str, list[str]]:
    """Which roles the method makes from each role, found by asking it for a small empty image."""
    side = 2 * method.multiple_of
    weight = next(method.parameters())
    image = torch.full((1, 1, *[side] * method.task.ndim), -1.0, device=weight.device)
    label = torch.full(image[:, 0].shape, UNLABELLED, device=weight.device)
    routes = {}
    with evaluating(method):
        for role in method.roles:
            made = method.synthesize({role: Images(image, label)})
            routes[role] = sorted({item.role for item in made if item.kind == "translated"} - {role})
    return {role: made for role, made in routes.items() if made}


def fingerprint(
    part: Path, cohort: str, store: Store, records: list[Record], stages: Mapping[str, str]
) -> dict[str, Any]:
    """What ``fingerprint.json`` holds: hashes of the files in ``part``, and who taught the generator."""
    return {
        "format": FORMAT,
        "ganatomy": version("ganatomy"),
        "weights": content_hash((part / WEIGHTS).read_bytes()),
        "config": content_hash((part / CONFIG).read_bytes()),
        "cohort": {"name": cohort, "digest": store.digest, "key": store.key},
        "images": {
            domain: sum(record.domain == domain for record in records)
            for domain in sorted({record.domain for record in records})
        },
        "patients": {record.patient: record.split for record in records},
        "stages": dict(stages),
    }
