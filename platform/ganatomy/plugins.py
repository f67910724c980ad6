"""Plugins: the one place where names become things.

Methods, networks and search spaces are found by entry-point name or by dotted path ``package.module:Name``, so that
those of another package work exactly as ours do.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any, Literal

from ganatomy.contracts import InputError


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase naming what ``name`` was probably meant to be, then everything known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(known) or 'none'}"


def available(group: Literal["methods", "networks", "spaces"]) -> dict[str, str]:
    """Name -> dotted path of everything installed in the entry-point group ``ganatomy.<group>``."""
    return dict(_installed(group, tuple(sys.path)))


@functools.cache
def _installed(group: str, path: tuple[str, ...]) -> dict[str, str]:
    """Remembered, because looking reads the files of every package installed on ``path``."""
    return {point.name: point.value for point in entry_points(group=f"ganatomy.{group}")}


def resolve(group: Literal["methods", "networks", "spaces"], name: str) -> Any:
    """The object called ``name``: an entry-point name of ``group``, or a dotted path ``package.module:Name``."""
    known = available(group)
    module, colon, attribute = known.get(name, name).partition(":")
    if not colon:
        raise InputError(
            f"unknown {group[:-1]} {name!r}", expected=nearest(name, known), remedy="or package.module:Name"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{group[:-1]} {name!r} cannot be imported: {error}", remedy="install its package here"
        ) from error
