"""JSON and YAML from anywhere: bounded in size and depth before they become values, and one line where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ganatomy.contracts import InputError

MOST_JSON, MOST_YAML = 32 * 2**20, 8 * 2**20
"""Bytes of a file: what describes 100,000 images stays below; YAML is read slowly and holds 10,000 findings."""

_DEPTH, _SCALAR, _VALUES = 32, 400, 200_000


def read_text(path: Path, most: int) -> str:
    """The text of a UTF-8 file of at most ``most`` bytes; no more is read. InputError beyond; OSError, ValueError."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} is larger than {most} bytes", expected="a description, not data", remedy="shorten it")
    return content.decode("utf-8")


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """What a JSON file of at most ``most`` bytes holds. Raises InputError beyond, or where it is nested too deeply;
    OSError and ValueError where it cannot be read or is no JSON."""
    try:
        return json.loads(read_text(path, most))
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply", expected="JSON as it was written") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: plain values only, without aliases, written out.

    Raises InputError where it is no YAML, larger than ``MOST_YAML``, nested deeper than 32, of more than 200,000
    values, or has an alias, an anchor or a key twice; OSError where it cannot be read.
    """
    try:
        return yaml.load(read_text(path, MOST_YAML), _Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}", expected="plain values") from error


class _Plain(yaml.SafeLoader):
    """YAML without what multiplies: aliases, depth, numbers of a megabyte, values of two bytes that take 600 each."""

    depth = values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem=f"anchor or alias {event.anchor!r}: write the value out",
                                       problem_mark=event.start_mark)  # fmt: skip
        if self.depth >= _DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_DEPTH}", problem_mark=event.start_mark)
        self.values += 1
        if self.values > _VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {_VALUES} values", problem_mark=event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if not node.tag.endswith(":str") and len(node.value) > _SCALAR:
            raise yaml.MarkedYAMLError(problem="a number or date that long", problem_mark=node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node
