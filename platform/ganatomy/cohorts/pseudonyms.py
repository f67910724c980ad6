"""Pseudonyms: names of patients and examinations as others may see them, keyed by a secret that stays with the cohort.

Whoever has no key can neither undo a pseudonym nor try names against it. The key is a file in the cohort's folder; a
cohort that is copied or moved as a whole takes it along. Nothing that is computed depends on it: it only names.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import NoReturn

from ganatomy.contracts import InputError
from ganatomy.core.durable import sync

KEY = ".pseudonym-key"
"""File of the secret: 32 random bytes in hexadecimal digits, which its owner alone may read."""

PSEUDONYM = re.compile(r"p[0-9a-f]{16}(?![0-9a-f])")
"""What one looks like."""

_BYTES = 32
_PATIENCE = 2.0  # seconds for another process to write the key that it has begun


class Pseudonyms:
    """Name -> pseudonym, under one key.

    identity: tells keys apart and says nothing of them; pseudonyms of two identities cannot be compared.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.identity = self._hash("which key", b"identity")

    def __call__(self, name: str) -> str:
        """``p`` and 16 hexadecimal digits."""
        return "p" + self._hash(name, b"name")

    def _hash(self, text: str, purpose: bytes) -> str:
        return hashlib.blake2b(text.encode(), digest_size=8, key=self._key, person=purpose).hexdigest()

    def __repr__(self) -> str:
        return f"Pseudonyms({self.identity})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the key of pseudonyms stays in the process that read it")


def pseudonyms_of(folder: Path | str) -> Pseudonyms:
    """The pseudonyms under the key in ``folder``, which is made there if there is none.

    Of several processes that make one at once, all get the same. InputError where it can neither be read nor made.
    """
    file = Path(folder) / KEY
    if not file.exists():
        _make(file)
    return Pseudonyms(_read(file))


def _make(file: Path) -> None:
    """Write a new key, unless somebody else has just begun to."""
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise InputError(
            f"{file} cannot be made: {error.strerror}",
            expected="a folder that can be written once, for the key of its patients' pseudonyms",
            remedy="run `ganatomy cohort check` as its owner, or copy the cohort to where you may write",
        ) from error
    with os.fdopen(handle, "w") as opened:
        opened.write(secrets.token_hex(_BYTES))
    sync(file)  # a key that is lost takes the meaning of all its pseudonyms along
    sync(file.parent)


def _read(file: Path) -> bytes:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            text = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(
                f"{file} cannot be read: {reason}",
                expected="the key of the patients' pseudonyms, readable by whoever prepares or generates",
                remedy="ask its owner, or work as the owner",
            ) from error
        if re.fullmatch(rf"[0-9a-f]{{{2 * _BYTES}}}", text):
            return bytes.fromhex(text)
        if time.monotonic() > deadline:
            raise InputError(
                f"{file} holds no key",
                expected=f"{2 * _BYTES} hexadecimal digits",
                remedy="put back the one that was there; without it the old pseudonyms mean nothing, and a new one is "
                "made when the file is gone",
            )
        time.sleep(0.02)
