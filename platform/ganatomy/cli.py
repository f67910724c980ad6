"""The ``ganatomy`` command: one frozen dataclass a command, its fields the options, its docstring the help.

Nothing heavy is imported at the top, so that ``ganatomy --help`` answers at once: torch, Ray and MLflow are loaded by
the command that needs them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, subcommand

from ganatomy.commands.audit import Audit
from ganatomy.commands.cohort import CohortCheck, CohortImport, CohortWho, Phantom
from ganatomy.commands.console import DONE, UNDONE, Command, code_of, described, parse, print_rows
from ganatomy.commands.generate import Generate
from ganatomy.commands.promote import Confirm, Promote, Rollback
from ganatomy.commands.sweep_options import SweepOptions


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """See all of it on a phantom, in minutes: sweep, table, confirmation, gates, promotion, synthetic NIfTI, a picture.

    $ ganatomy demo --workspace demo

    The same command goes on where it was interrupted.
    """

    set: tuple[str, ...] = ()
    """NAME=VALUE ...: fix parameters of the sweep, such as budget.segmentor_steps=100."""

    def run(self) -> int:
        """Run it, then say what to look at."""
        from ganatomy.commands.demo import NAME, run_demo

        demo = run_demo(self.workspace.absolute(), settings=self.set, quiet=self.quiet)
        if demo is None:
            return UNDONE
        if demo.promotion.version is not None:
            print(f"\nmodels:/{NAME}@champion is version {demo.promotion.version}")
        else:
            print(f"\nnothing was promoted; the best candidate is in {demo.promotion.bundle}")
        print(f"look at   {demo.panel}")
        print(f"browse    ganatomy ui --workspace {self.workspace}")
        return DONE


# --- evidence ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Print the ablation table of a sweep: every configuration with its interval, test, misses and cost.

    $ ganatomy report latest
    $ ganatomy report my-cohort-shape_consistent my-cohort-cyclegan
    $ ganatomy report my-cohort-shape_consistent --html report.html
    $ ganatomy report latest --markdown report.md --latex report.tex
    $ ganatomy report latest --json > table.json

    Validation patients only. A sweep that is still running is reported as far as it has come. Several sweeps over one
    cohort are compared in one table: one baseline, one family of all that they declared, a training of several once.
    """

    sweeps: Positional[tuple[str, ...]]
    """Name of the sweep, or latest; or the names of several over one cohort."""
    json: bool = False
    """Print JSON."""
    html: Path | None = None
    """Also write the whole report: one self-contained page, for a browser."""
    markdown: Path | None = None
    """Also write it as Markdown, its figures in a folder beside."""
    latex: Path | None = None
    """Also write it as LaTeX, its figures in a folder beside."""
    allow_dotted: tuple[str, ...] = ()
    """package.module:NAME of the sweep's search space, where it is not installed under a name: what papers say of its
    points is shown then."""

    def run(self) -> int:
        """Print, and write the page."""
        from ganatomy.api.comparing import of_names
        from ganatomy.core.terminal import tell
        from ganatomy.reports.record import check_place, compose, write_as
        from ganatomy.reports.tabulated import to_json
        from ganatomy.reports.text import render_text

        asked = [(self.html, ".html"), (self.markdown, ".md"), (self.latex, ".tex")]
        files = [(path, kind) for path, kind in asked if path is not None]
        for path, _ in files:
            check_place(path)
        material = of_names(self.sweeps, self.workspace, allow_dotted=self.allow_dotted).material()
        print(to_json(material.table) if self.json else render_text(material.table))
        if files:
            report = compose(material)
            for path, kind in files:
                tell(f"written: {write_as(report, path, kind)}")
        return DONE


@dataclass(frozen=True, kw_only=True)
class UI(Command):
    """Open the MLflow UI on the right store, and say where in it the newest sweep is: table, charts, report.

    $ ganatomy ui
    $ ganatomy ui --workspace demo --port 5001
    """

    port: int = 5000
    """Port on this machine."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, else the one embedded in the workspace."""

    def run(self) -> int:
        """Serve until Ctrl-C."""
        import socket

        from ganatomy.contracts import InputError
        from ganatomy.sweeps.showing import newest
        from ganatomy.tracking.server import serve, store_uri, ui_command

        named = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not named and not (self.workspace / "mlflow.db").exists():
            raise InputError(
                f"workspace {self.workspace} has no MLflow store",
                expected="one that a sweep has written to",
                remedy="--workspace DIR, or run ganatomy sweep first",
            )
        command = ui_command(self.tracking_uri or None, self.workspace, self.port)
        if "--port" in command:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    remedy = f"ganatomy ui --port {self.port + 1}"
                    raise InputError(f"port {self.port} is taken", expected="a free port", remedy=remedy)
            print(f"MLflow UI: http://127.0.0.1:{self.port} (in a few seconds; Ctrl-C ends it)", flush=True)
        uri = store_uri(self.tracking_uri or None, self.workspace)
        if found := newest(self.workspace.absolute(), uri, self.port):
            name, there = found
            for what, link in (("table", there.table), ("charts", there.charts), ("report", there.report)):
                print(f"sweep {name}: {what} {link}", flush=True)
            command = command if "--port" in command else [*command[:-1], there.table]
        return serve(command, uri)


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Say what is wrong with this machine, cluster, store or tracking server, and what to do about it.

    $ ganatomy doctor
    $ ganatomy doctor --cluster --cohort /data/my-cohort --workspace /data/workspace
    $ RAY_ADDRESS=head:6379 ganatomy doctor --tracking-uri http://mlflow.lab:5000 --json

    Ends with 1 when something fails; a warning alone ends with 0.
    """

    tracking_uri: str = ""
    """MLflow server or store to ask; MLFLOW_TRACKING_URI, else the one embedded in the workspace."""
    address: str = ""
    """Ray cluster to ask; RAY_ADDRESS, else none."""
    cluster: bool = False
    """Ask the cluster that this machine belongs to: has every node the same, does it see the workspace and --cohort."""
    cohort: Path | None = None
    """Folder of a cohort that every node of the cluster is to see."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the examination."""
        import os

        from ganatomy.commands.doctor import examine
        from ganatomy.tracking.server import refuse_password

        refuse_password(self.tracking_uri, "tracking store")
        address = self.address or os.environ.get("RAY_ADDRESS", "") or ("auto" if self.cluster else "")
        checks = examine(self.workspace, tracking_uri=self.tracking_uri, address=address, cohort=self.cohort)
        sound = all(check.status != "fail" for check in checks)
        if self.json:
            print(json.dumps({"sound": sound, "checks": [asdict(check) for check in checks]}, indent=2))
        else:
            rows = [(check.status, check.name, check.found, check.remedy) for check in checks]
            print_rows(rows)
        return DONE if sound else UNDONE


# --- main --------------------------------------------------------------------------------------------------------

DESCRIPTION = """Does synthetic data help my task on real, held-out patients? Which method's, how much, at what cost?

$ ganatomy cohort import DIR --layout bids --out my-cohort              real images in
$ ganatomy sweep --space shape_consistent --cohort my-cohort            trials on this machine or a cluster
$ ganatomy report latest                                                the ablation table
$ ganatomy confirm latest                                               what it picked, trained again
$ ganatomy promote latest --name ct-mr                                  the gates, then the registry
$ ganatomy generate models:/ct-mr@champion --cohort my-cohort --out synthetic

Every command takes -v to say more of what goes on, -q to say less. ganatomy --version: version and commit.
"""
COHORT = "Real images in (import), what is wrong with them (check), whom a pseudonym stands for (who)."
SINGLE = {
    "demo": Demo,
    "sweep": SweepOptions,
    "report": Report,
    "ui": UI,
    "confirm": Confirm,
    "promote": Promote,
    "rollback": Rollback,
    "generate": Generate,
    "audit": Audit,
    "phantom": Phantom,
    "doctor": Doctor,
}
FLAGS = {"-v", "--verbose", "-q", "--quiet", "--debug"}
"""Options of every command that take no value."""
OF_COHORT = {"import": CohortImport, "check": CohortCheck, "who": CohortWho}


def _commands(arguments: Sequence[str]) -> Any:
    """Everything the command line can be, as the type that tyro parses into."""

    def named(name: str, command: type) -> Any:
        return Annotated[command, subcommand(name, description=described(command, whole=name in arguments))]

    cohort = reduce(or_, [named(name, command) for name, command in OF_COHORT.items()])
    parts = [named(name, command) for name, command in SINGLE.items()]
    return reduce(or_, parts, Annotated[cohort, subcommand("cohort", description=COHORT)])


def _with_flags_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with what stands before the command, and may as well stand behind, behind it."""
    first = next((place for place, word in enumerate(arguments) if word not in FLAGS), len(arguments))
    return [*arguments[first:], *arguments[:first]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the ``ganatomy`` command. Returns the exit code; never raises for what a user can cause."""
    arguments = _with_flags_last(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if arguments[0] == "--version":
        from ganatomy.core.installation import release

        print(f"ganatomy {release()}")
        return DONE
    if arguments[0] == "sweep":
        from ganatomy.commands.sweep import main as sweep

        return sweep(arguments[1:], program="ganatomy sweep")
    try:
        command = parse(_commands(arguments), program="ganatomy", description=DESCRIPTION, arguments=arguments)
    except SystemExit as end:
        return code_of(end)
    from ganatomy.core.terminal import guarded

    how = {name: getattr(command, name) for name in ("workspace", "debug", "verbose", "quiet")}
    return guarded(command.run, **how)


if __name__ == "__main__":
    sys.exit(main())
