"""Names and paths that come from outside: what can be one, and what it may lead to.

A name becomes a folder, an identifier of MLflow, a word on a page and on a command line; a path that a tracking server,
a bundle, a table or a plan names is somebody else's word. Both are judged here, before they are used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import unicodedata
from pathlib import Path

from ganatomy.contracts import InputError

LONGEST = 120
"""Bytes of a name, in UTF-8: with what is put before and behind it, it must remain the name of a file."""

SIGNS = " -_.+,=()"
"""What a name may hold beside letters, marks and digits, of whatever language."""

RULE = f"letters, digits, spaces and {' '.join(SIGNS.strip())}, at most {LONGEST} bytes, no '..', no . or - in front"


def checked_name(name: str, what: str, *, also: str = "", remedy: str = "") -> str:
    """``name``, where it can stand in a path, an MLflow identifier and a page; InputError where it cannot.

    what: what is called so, for the error.  also: further signs that are right here.
    """
    if not isinstance(name, str) or not _is_name(name, SIGNS + also):
        raise InputError(f"{what} {shortened(name)}", expected=RULE, remedy=remedy)
    return name


def _is_name(text: str, signs: str) -> bool:
    if not all(letter in signs or unicodedata.category(letter)[0] in "LMN" for letter in text):
        return False
    bounded = 0 < len(text.encode()) <= LONGEST
    return bounded and text[0] not in ".- " and text[-1] not in ". " and ".." not in text


def fitted_name(text: str) -> str:
    """``text``, which was not meant as a name (the name of a folder, a title), as one: what cannot stand in it is cut
    or becomes a dash. A name stays as it is."""
    fit = "".join(letter if _is_name(letter, SIGNS[1:]) or letter in " .-" else "-" for letter in text)
    while ".." in fit:
        fit = fit.replace("..", ".")
    fit = fit.encode()[:LONGEST].decode(errors="ignore").lstrip(".- ").rstrip(". ")
    return fit or "unnamed"


def on_one_line(text: str) -> str:
    """A text of whoever wrote it as a line of a terminal: no line break, and nothing that moves a cursor."""
    return "".join(letter for letter in " ".join(text.split()) if not _controls(letter))


def is_one_line(text: str) -> bool:
    """Whether a text is what ``on_one_line`` leaves as it is, but for the kinds of its spaces."""
    return not any(_controls(letter) for letter in text)


def _controls(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def shortened(value: object) -> str:
    """A value in quotes as an error may show it: nothing in it moves a cursor, and of a long one only the beginning."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def confined(path: Path | str, folder: Path, what: str, *, remedy: str = "") -> Path:
    """Where ``path`` leads from ``folder``, links followed: a place in that folder, or InputError.

    what: who says the path, for the error.
    """
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a ring of links, a NUL
        root = folder.resolve()
        place = (root / path).resolve()
        if place.is_relative_to(root):
            return place
    raise InputError(
        f"{what} names the path {shortened(str(path))}, which leads out of where it belongs",
        expected=f"a path within {folder}",
        remedy=remedy,
    )


def plain_files(folder: Path, what: str) -> list[Path]:
    """All files below ``folder``, sorted. InputError for a link, or for anything else that is no file and no folder:
    what has come from elsewhere must not reach beyond itself.

    what: what lies in the folder, for the error.
    """
    found: list[Path] = []
    ahead = [folder]
    while ahead:
        for entry in os.scandir(ahead.pop()):
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                named = shortened(str(Path(entry.path).relative_to(folder)))
                raise InputError(f"{what} holds {named}, which is no file", expected="files and folders, no links")
            (ahead if entry.is_dir() else found).append(Path(entry.path))
    return sorted(found)


def copy_plain(source: Path, to: Path, what: str) -> Path:
    """Copy a folder of plain files (see ``plain_files``) into the new folder ``to``; returns that."""
    files = plain_files(source, what)
    to.mkdir()
    for file in files:
        place = to / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place, follow_symlinks=False)
    return to
