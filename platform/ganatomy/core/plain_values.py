"""Plain values: frozen dataclasses as what JSON knows, and back again, from JSON or from text typed on a command line.

What is not known or does not fit is an InputError that names the parameter, its value and what was expected.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, cast

from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def digest(value: Any) -> str:
    """Content hash (16 hex digits) of plain values, independent of key order."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raise InputError naming the parameter, its ``value`` and what was ``expected``, unless it ``holds``."""
    if not holds:
        raise InputError(f"{name} = {value!r}", expected=expected, remedy=f"--set {name}=…")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted name -> value of nested plain values; a thing by name with its settings (``Choice``) is ``thing`` and
    ``thing.setting``."""
    for key, value in values.items():
        if isinstance(value, Mapping) and set(value) == {"name", "config"}:
            yield prefix + key, value["name"]
            yield from flatten(value["config"], f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def assign(nested: dict[str, Any], name: str, value: Any) -> None:
    """Set one dotted ``name``, as ``flatten`` gives them, in nested plain values. Another thing drops the settings of
    the one before. InputError for a name that leads nowhere."""
    *parents, last = name.split(".")
    at, free = nested, False  # free: inside a Choice's config, whose types only the thing it configures knows
    for key in parents:
        if not isinstance(at.get(key), dict):
            raise InputError(f"unknown parameter {name!r}", expected=nearest(name, dict(flatten(nested))))
        at, free = (at[key]["config"], True) if set(at[key]) == {"name", "config"} else (at[key], False)
    if free and isinstance(value, str):
        value = from_text(value)
    if isinstance(at.get(last), dict) and set(at[last]) == {"name", "config"}:
        at[last] = at[last] if at[last]["name"] == value else {"name": value, "config": {}}
    else:
        at[last] = value


def build(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    """An instance of the dataclass ``kind`` from plain values, checked by the types of its fields."""
    hints = typing.get_type_hints(kind)
    names = {item.name for item in dataclasses.fields(kind)}
    for name in values:
        if name not in names:
            expected = nearest(f"{prefix}{name}", (prefix + other for other in names))
            raise InputError(f"unknown parameter {prefix}{name!s}", expected=expected)
    return kind(**{name: _coerce(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _coerce(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if isinstance(value, cast(type, hint)):
            return value
        inner = ", ".join(f"{name}.{item.name}" for item in dataclasses.fields(hint))
        check(isinstance(value, Mapping), name, value, f"one of its parameters: {inner}")
        return build(cast(type, hint), value, f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, str) and hint is not str and origin is not Literal:
        value = from_text(value)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _coerce(next(kind for kind in arguments if kind is not type(None)), value, name)
    if origin is Literal:
        if value not in arguments and isinstance(value, str):
            value = from_text(value)
        check(value in arguments, name, value, nearest(str(value), map(str, arguments)))
        return next(known for known in arguments if known == value)  # 2, though it was written 2.0
    if origin is tuple and isinstance(value, list | tuple):
        inner = arguments[0]
        return tuple(_coerce(inner, item, name) for item in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        check(math.isfinite(value), name, value, _SAID[float])
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    wanted = origin or hint
    if isinstance(wanted, type):
        fits = isinstance(value, wanted) and not (wanted in (int, float) and isinstance(value, bool))
        check(fits, name, value, _SAID.get(wanted, wanted.__name__))
    return value


_SAID: dict[type, str] = {
    int: "a whole number", float: "a finite number", bool: "true or false", tuple: "a list such as [64, 64]",
}  # fmt: skip


def from_text(text: str) -> Any:
    """What a value typed on the command line means: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
