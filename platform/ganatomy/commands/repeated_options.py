"""Options that are given more than once: lists append, whatever has one value is refused.

argparse, and with it tyro, silently keeps the last.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

_LISTS = (list, set, frozenset, dict, abc.Sequence, abc.Set, abc.Mapping)


def once_each(kind: Any, arguments: Sequence[str]) -> list[str]:
    """The arguments with each option at most once: ``--set a=1 b=2 --set c=3`` as ``--set a=1 b=2 c=3``, at the end.

    kind: what is parsed into, a dataclass or subcommands. Ends the program with 2 where an option that has one value is
    given twice.
    """
    options = _options(_chosen(kind, arguments))
    words, given = _taken_apart(arguments, options)
    kept = list(words)
    for name, places in given.items():
        if len(places) < 2 or options[name] is bool:
            continue
        values = [words[place][1:] for place in places]
        if not takes_many(options[name]):
            shown = ", ".join(" ".join(one) for one in values)
            print(f"{name} is given {len(places)} times ({shown}); once is expected", file=sys.stderr)
            raise SystemExit(2)
        for place in places:
            kept[place] = []
        kept.append([name, *(value for one in values for value in one)])
    return [word for part in kept for word in part] if kept != words else list(arguments)


def typed_in(kind: Any, arguments: Sequence[str]) -> set[str]:
    """Names of the fields that the arguments give a value, be it the default."""
    options = _options(_chosen(kind, arguments))
    switches = {f"--no-{name.removeprefix('--')}": name for name, hint in options.items() if hint is bool}
    _, given = _taken_apart(arguments, options | dict.fromkeys(switches, bool))
    return {switches.get(option, option).removeprefix("--").replace("-", "_") for option in given}


def takes_many(hint: Any) -> bool:
    """Whether an option of this type takes any number of values."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return takes_many(inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(takes_many(part) for part in inner)
    return (origin is tuple and Ellipsis in inner) or (origin or hint) in _LISTS


def _chosen(kind: Any, arguments: Sequence[str]) -> Any:
    """The dataclass that the arguments spell, through the names of subcommands; None where they name none."""
    if typing.get_origin(kind) is typing.Annotated:
        return _chosen(typing.get_args(kind)[0], arguments)
    if is_dataclass(kind):
        return kind
    named = {
        mark.name: typing.get_args(part)[0]
        for part in typing.get_args(kind)
        for mark in getattr(part, "__metadata__", ())
        if hasattr(mark, "name")
    }
    for place, word in enumerate(arguments):
        if word in named:
            return _chosen(named[word], arguments[place + 1 :])
    return None


def _options(command: Any) -> dict[str, Any]:
    """``--option`` -> type of its value."""
    if command is None:
        return {}
    hints = typing.get_type_hints(command)
    return {f"--{item.name.replace('_', '-')}": hints[item.name] for item in fields(command)}


def _taken_apart(arguments: Sequence[str], options: Mapping[str, Any]) -> tuple[list[list[str]], dict[str, list[int]]]:
    """Groups of words that belong together, each option with its values; and option -> the groups that it begins."""
    groups: list[list[str]] = []
    given: dict[str, list[int]] = {}
    room = 0  # how many values the last option still takes
    for word in arguments:
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name in options:
            given.setdefault(name, []).append(len(groups))
            groups.append([name, value] if equals else [name])
            room = 0 if equals else _room(options[name])
        elif room and not re.match(r"-(?![0-9.])", word):
            groups[-1].append(word)
            room -= 1
        else:
            groups.append([word])
            room = 0
    return groups, given


def _room(hint: Any) -> int:
    if takes_many(hint):
        return sys.maxsize
    sizes = [len(typing.get_args(part)) for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is tuple]
    return 0 if hint is bool else max(sizes, default=1)
