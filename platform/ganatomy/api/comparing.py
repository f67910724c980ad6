"""Several sweeps over one cohort from Python, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ganatomy.api.sweeping import Sweep, load_sweep
from ganatomy.contracts import InputError
from ganatomy.core.installation import workspace_of
from ganatomy.core.plugins import allow
from ganatomy.core.terminal import tell
from ganatomy.evidence.ablation import Ablation
from ganatomy.exhibits.material import Material

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Sweeps:
    """Sweeps of one workspace and one cohort, compared; every question is answered by what their folders hold now.

    What stands here is of validation patients. A training that several have counts once.
    """

    workspace: Path
    names: tuple[str, ...]

    def material(self) -> Material:
        """What a report of them is made of: the results of all, and their table. Raises as ``compare``."""
        from ganatomy.reports.several import several

        return several(self.workspace, self.names, lambda why: tell(f"note: {why}"))

    def ablation(self) -> Ablation:
        """The table as an object: the configurations of all, against the best without synthetic data of any, as one
        family of what each sweep declared."""
        return self.material().table

    def table(self) -> pandas.DataFrame:
        """``ablation`` as one row a configuration, with the columns of ``Sweep.table``."""
        from ganatomy.api.frames import table_frame

        return table_frame(self.ablation())

    def scores(self) -> pandas.DataFrame:
        """The evidence under it, with the columns of ``Sweep.scores``; trials are called SWEEP/TRIAL."""
        from ganatomy.api.frames import scores_frame

        material = self.material()
        return scores_frame(material.table, material.results)

    def report(self, path: Path | str) -> Path:
        """Write their report to ``path`` (its folder is made), as its suffix says: .html, .md, .tex or .json; returns
        that. Raises as ``compare``, and InputError for another suffix and for what cannot be written."""
        from ganatomy.reports.record import write

        return write(self.material(), Path(path))

    def __str__(self) -> str:
        """The table as text, as ``ganatomy report`` prints it."""
        from ganatomy.reports.text import render_text

        return render_text(self.ablation())


def compare(names: Sequence[str], workspace: Path | str | None = None, *, allow_dotted: Sequence[str] = ()) -> Sweeps:
    """Sweeps of the workspace, two at least, to be compared as one.

    allow_dotted: ``package.module:NAME`` of what they were begun with and that is not installed under a name. Raises
    InputError where one is not there, named twice, has no finished trial or is a confirmation, and for sweeps over
    different cohorts, tasks or domains.
    """
    from ganatomy.reports.several import comparable

    if isinstance(names, str) or len(names) < 2:
        raise InputError(f"{names!r} to be compared", expected="the names of two sweeps at least")
    allow(*allow_dotted)
    swept = comparable(where := workspace_of(workspace), names)
    return Sweeps(where, tuple(one.name for one in swept))


def of_names(names: Sequence[str], workspace: Path | str | None, *, allow_dotted: Sequence[str] = ()) -> Sweep | Sweeps:
    """The sweep of that name, or those of several. Raises as ``load_sweep`` and ``compare``, and without a name."""
    if not names:
        raise InputError("a report of no sweep", expected="its name, latest, or the names of several over one cohort")
    if len(names) == 1:
        return load_sweep(names[0], workspace, allow_dotted=allow_dotted)
    return compare(names, workspace, allow_dotted=allow_dotted)
