"""``ganatomy audit``: all that a generator or a synthetic set carries, and what of it should not be given away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ganatomy.commands.console import DONE, UNDONE, Command, print_rows


@dataclass(frozen=True, kw_only=True)
class Audit(Command):
    """List all that a generator or a synthetic set carries; say what of it should not leave the laboratory.

    $ ganatomy audit models:/ct-mr@champion --cohort my-cohort
    $ ganatomy audit synthetic --cohort my-cohort --json audit.json

    Every file with its size and kind, what headers, images and sidecars hold, whose images had a part in it. Names of
    --cohort in any byte, absolute paths, header texts and extensions, metadata, keys and pickles are findings; with one
    the command ends with 1. What names do not show (anatomy, faces) it does not see.
    """

    folder: Positional[str]
    """models:/NAME@champion, models:/NAME/VERSION, or a folder."""
    cohort: Path | None = None
    """Cohort whose patients' and examinations' names are looked for, in all bytes, also in compressed ones."""
    json: Path | None = None
    """Write all of it to this file, as JSON."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, else the one embedded in the workspace."""

    def run(self) -> int:
        """Look, print, and say by the exit code whether anything was found."""
        from ganatomy.api.generating import audit
        from ganatomy.core.tables import write_atomically
        from ganatomy.generation.audit import written

        found = audit(self.folder, self.cohort, workspace=self.workspace, tracking_uri=self.tracking_uri)
        if self.json is not None:
            write_atomically(self.json.absolute(), written(found))
        print_rows([("ok", of, what, "") for of, what in found.facts])
        told = [(one, "; ".join([f"{_size(one.bytes)} {one.kind}", *one.holds])) for one in found.files]
        print_rows([("fail" if one.findings else "ok", one.file, text, "") for one, text in told])
        print_rows([("fail", file, finding, "") for file, finding in found.findings])
        print_rows([("warn", "not looked for", note, "") for note in found.notes])
        print(f"{found.folder}: {len(found.files)} files, {len(found.findings)} findings")
        return UNDONE if found.findings else DONE


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.3g} kB" if count < 1e6 else f"{count / 1e6:.3g} MB"
