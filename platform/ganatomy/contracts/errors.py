"""How an error speaks to a user."""

from __future__ import annotations

from typing import Any


class InputError(Exception):
    """Something the user gave cannot be used. Rendered as one line; a traceback is shown only under ``--debug``.

    what: the thing that is wrong, with the file or the option it stands in, and its value.
    expected: what would have been right.
    remedy: what to do now.
    """

    def __init__(self, what: str, *, expected: str = "", remedy: str = "") -> None:
        self.what, self.expected, self.remedy = shortened(what), shortened(expected), shortened(remedy)
        super().__init__(self.what, self.expected, self.remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        return _input_error, (type(self), self.what, self.expected, self.remedy)

    def __str__(self) -> str:
        parts = [self.what.rstrip(".")]
        if self.expected:
            asked = self.expected.rstrip(".")
            parts.append(asked if asked.startswith("did you mean") else f"expected {asked}")
        if self.remedy:
            parts.append(f"remedy: {self.remedy.rstrip('.')}")
        return "; ".join(parts)


def shortened(text: str, most: int = 1000) -> str:
    """``text``, its middle left out beyond ``most`` characters: a message names a value, it does not hold a file."""
    return text if len(text) <= most else f"{text[: most * 7 // 10]} … {text[-most * 3 // 10 + 3 :]}"


def _input_error(kind: type[InputError], what: str, expected: str, remedy: str) -> InputError:
    """Rebuild an InputError that crossed a process border (its arguments are keyword-only)."""
    return kind(what, expected=expected, remedy=remedy)
