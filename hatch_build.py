"""The commit that a wheel or a source archive is built from is written into it, for ``ganatomy --version``."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "platform/ganatomy"


class CommitHook(BuildHookInterface):
    """Adds one small file beside the package. A checkout keeps none: there git is asked."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; ``version`` is that of the target: ``standard`` or ``editable``."""
        here = runpy.run_path(str(Path(self.root) / PACKAGE / "core" / "installation.py"))
        name, commit = here["COMMIT"], here["commit"]()
        if version == "editable" or commit == here["UNKNOWN"] or (Path(self.root) / PACKAGE / name).exists():
            return
        self.written = Path(self.directory) / name
        self.written.parent.mkdir(parents=True, exist_ok=True)
        self.written.write_text(commit + "\n")
        place = PACKAGE if self.target_name == "sdist" else Path(PACKAGE).name
        build_data["force_include"][str(self.written)] = f"{place}/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the archive is there: it has the file now."""
        if written := getattr(self, "written", None):
            written.unlink()
