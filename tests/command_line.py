"""The command as tests give it: in this process or in one of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from ganatomy import cli

GANATOMY = [sys.executable, "-m", "ganatomy.cli"]


def error_line(capsys, kind: str = "error") -> str:
    """The one line on standard error."""
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"{kind}: ")
    return line


def make_phantom(out: Path) -> Path:
    """Eight patients of 4 x 32 x 32 voxels, made by the command itself."""
    counts = ["--ct", "2", "1", "1", "--mr", "2", "1", "1"]
    assert cli.main(["phantom", "--out", str(out), "--shape", "4", "32", "32", *counts]) == 0
    return out
