"""Plugins: the one place where names become things.

Methods, networks, search spaces and downstream tasks are found by entry-point name, so that those of another package
work exactly as ours do. A dotted path ``package.module:Name`` imports whatever it says: it is followed where whoever
runs the command has allowed this one, and never because a bundle, a plan or a registry says so.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any, Literal

from ganatomy.contracts import InputError

Group = Literal["methods", "networks", "spaces", "tasks"]

ALLOWED = "GANATOMY_ALLOW_DOTTED"
"""Environment variable: the dotted paths that may be followed, with spaces between. It is how a command tells the
processes that it starts, here and on other nodes."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase naming what ``name`` was probably meant to be, then everything known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(known) or 'none'}"


def available(group: Group) -> dict[str, str]:
    """Name -> dotted path of everything installed in the entry-point group ``ganatomy.<group>``."""
    return dict(_installed(group, tuple(sys.path)))


@functools.cache
def _installed(group: str, path: tuple[str, ...]) -> dict[str, str]:
    """Remembered, because looking reads the files of every package installed on ``path``."""
    return {point.name: point.value for point in entry_points(group=f"ganatomy.{group}")}


def allow(*names: str) -> None:
    """Let this process, and those that it starts, follow these dotted paths; names without a colon need no leave."""
    dotted = [name for name in names if ":" in name and not set(name) & set(" \t\n")]
    os.environ[ALLOWED] = " ".join(dict.fromkeys([*allowed(), *dotted]))


def allowed() -> tuple[str, ...]:
    """The dotted paths that may be followed here, beside those of installed entry points."""
    return tuple(os.environ.get(ALLOWED, "").split())


def resolve(group: Group, name: str) -> Any:
    """The object called ``name``: an entry-point name of ``group``, or a dotted path ``package.module:Name`` that is an
    installed entry point's, or was allowed.

    Raises InputError, before anything is imported, for an unknown name and for any other dotted path.
    """
    known = available(group)
    dotted = known.get(name, name)
    _, colon, attribute = dotted.partition(":")
    if not colon:
        raise InputError(
            f"unknown {group[:-1]} {name!r}", expected=nearest(name, known), remedy="or package.module:Name"
        )
    if dotted not in known.values() and dotted not in allowed():
        raise InputError(
            f"{group[:-1]} {name!r} is a dotted path that nobody allowed here",
            expected=f"the name of an installed one: {nearest(attribute.lower(), known)}",
            remedy=f"if you trust that code, --allow-dotted {name}",
        )
    return at_path(dotted, f"{group[:-1]} {name!r}")


def at_path(dotted: str, what: str) -> Any:
    """The object at ``package.module:Name``, of which code that was resolved says so: nobody is asked for leave.

    what: what it is, in words, for the InputError where it cannot be imported.
    """
    module, _, attribute = dotted.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be imported: {error}", remedy="install its package here") from error
