"""Joining a Ray cluster, or starting one, by whoever spreads work: sweeps and generation."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import ray

from ganatomy.contracts import InputError
from ganatomy.core.plugins import ALLOWED, allowed
from ganatomy.core.terminal import heed_termination
from ganatomy.images.files import MAX_IMAGE
from ganatomy.training.distributed import TRAIN_ENVIRONMENT

_ours = False  # whether it was ``start_ray`` that connected this process


def start_ray(address: str = "", environment: Mapping[str, str] | None = None) -> None:
    """Join the cluster at ``address``, at RAY_ADDRESS or running on this machine, or start one of its own; or use the
    Ray that this process is connected to already, whoever connected it.

    environment: variables of its workers, beside those that Train needs and what this process is allowed to import.
    InputError where nobody answers there, or where the workers of the Ray that is connected lack these variables.
    """
    global _ours
    _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
    told = {**variables(), **(environment or {})}
    if ray.is_initialized():
        _check_told(told)
        return
    # Failed trials are told by SweepProgress, in one line each.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ.update(TRAIN_ENVIRONMENT)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with verbose=0: Tune itself prints nothing
    # A trial that failed before its first validation has no score, and must not end the sweep.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    keep_token_private()
    ray.init(
        address=address or None,
        # One core can play two workers; a cluster that we join says itself what it has.
        num_cpus=max(2, os.cpu_count() or 1) if address == "local" else None,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": told},
    )
    keep_token_private()
    _ours = True
    heed_termination()


def leave_ray() -> None:
    """End, or leave, the Ray that ``start_ray`` started or joined here; one that was there before stays."""
    global _ours
    if _ours:
        _ours = False
        ray.shutdown()


def connected() -> str:
    """Address ``HOST:PORT`` of the cluster that this process is connected to; "" where it is to none."""
    return str(ray.get_runtime_context().gcs_address) if ray.is_initialized() else ""


def variables() -> dict[str, str]:
    """The environment of all workers: what Train needs, what this process may import, how large an image may be."""
    bound = {MAX_IMAGE: os.environ[MAX_IMAGE]} if MAX_IMAGE in os.environ else {}
    return {**TRAIN_ENVIRONMENT, **bound, ALLOWED: " ".join(allowed())}


def _check_told(wanted: Mapping[str, str]) -> None:
    """InputError where the workers of the Ray that this process is connected to do not have these variables."""
    told = ray.get_runtime_context().runtime_env.env_vars()
    lacking = [name for name, value in wanted.items() if value and told.get(name) != value]
    if lacking:
        raise InputError(
            f"this process is connected to a Ray whose workers do not know {', '.join(lacking)}",
            expected="a process that is connected to none: it joins the cluster by itself",
            remedy="ray.shutdown() first, or a process of its own with --address of that cluster",
        )


def keep_token_private() -> None:
    """Ray makes the token, with which anybody can run code as this user, for all users of the machine to read."""
    folder = Path.home() / ".ray"
    with contextlib.suppress(OSError):  # no home to write in, or somebody else's
        folder.mkdir(mode=0o700, exist_ok=True)  # so that the token is nobody else's from its first byte
        (folder / "auth_token").chmod(0o600)


def _check_reachable(address: str) -> None:
    """InputError where nobody listens at ``HOST:PORT``: Ray itself would try for long, and say it in many lines."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return  # local, auto, or a client's address, which Ray must judge
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at {address}: {error.strerror or error}",
            expected="the address of a running one",
            remedy="start it (ray up cluster.yaml), correct --address or RAY_ADDRESS, or --address local",
        ) from error
