"""The ``ganatomy`` command: one frozen dataclass a command, its fields the options, its docstring the help.

Nothing heavy is imported at the top, so that ``ganatomy --help`` answers at once: torch, Ray and MLflow are loaded by
the command that needs them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from ganatomy.cohort_commands import CohortCheck, CohortImport, Phantom
from ganatomy.console import DONE, UNDONE, Command, described, parse, print_rows, progress

if TYPE_CHECKING:
    from ganatomy.cohort import Cohort
    from ganatomy.generation import Job, Result


# --- evidence ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Print the ablation table of a sweep: every configuration with its interval, test, misses and cost.

    $ ganatomy report latest
    $ ganatomy report my-cohort-shape_consistent --html report.html
    $ ganatomy report latest --json > table.json

    Validation patients only. A sweep that is still running is reported as far as it has come.
    """

    sweep: Positional[str]
    """Name of the sweep, or latest."""
    json: bool = False
    """Print JSON."""
    html: Path | None = None
    """Also write one self-contained page with figures."""

    def run(self) -> int:
        """Print, and write the page."""
        from ganatomy.ablation import ablation_table
        from ganatomy.report import render_text, to_json, write_html
        from ganatomy.results import read_plan, read_results, sweep_directory

        directory = sweep_directory(self.workspace.absolute(), self.sweep)
        plan = read_plan(directory)
        table = ablation_table(read_results(directory))
        print(to_json(table) if self.json else render_text(table))
        if self.html is not None:
            facts = {"cohort": plan.cohort, "digest": plan.cohort_digest, "search space": plan.space}
            page = write_html(table, self.html, title=f"Sweep {plan.name}", facts=facts)
            print(f"written: {page}", file=sys.stderr)
        return DONE


@dataclass(frozen=True, kw_only=True)
class UI(Command):
    """Open the MLflow UI on the right store: every sweep with its trials below it, the ablations side by side.

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
        import subprocess

        from ganatomy.contracts import InputError
        from ganatomy.tracking_store import ui_command

        command = ui_command(self.tracking_uri or None, self.workspace, self.port)
        if "--port" in command:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    remedy = f"ganatomy ui --port {self.port + 1}"
                    raise InputError(f"port {self.port} is taken", expected="a free port", remedy=remedy)
            print(f"MLflow UI: http://127.0.0.1:{self.port} (in a few seconds; Ctrl-C ends it)", flush=True)
        try:
            return subprocess.run(command).returncode
        except KeyboardInterrupt:
            return DONE


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Say what is wrong with this machine, cluster, store or tracking server, and what to do about it.

    $ ganatomy doctor
    $ RAY_ADDRESS=head:6379 ganatomy doctor --tracking-uri http://mlflow.lab:5000 --json

    Ends with 1 when something fails; a warning alone ends with 0.
    """

    tracking_uri: str = ""
    """MLflow server or store to ask; MLFLOW_TRACKING_URI, else the one embedded in the workspace."""
    address: str = ""
    """Ray cluster to ask; RAY_ADDRESS, else none."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the examination."""
        from ganatomy.doctor import examine

        checks = examine(self.workspace, tracking_uri=self.tracking_uri, address=self.address)
        sound = all(check.status != "fail" for check in checks)
        if self.json:
            print(json.dumps({"sound": sound, "checks": [asdict(check) for check in checks]}, indent=2))
        else:
            rows = [(check.status, check.name, check.found, check.remedy) for check in checks]
            print_rows(rows)
        return DONE if sound else UNDONE


# --- generators --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Promote(Command):
    """Let the best generator of a sweep through the gates; if it passes, it becomes NAME@champion.

    $ ganatomy promote my-cohort-shape_consistent --name ct-mr

    Reads the test split, and records that it did. "Not shown to help" is a result: it ends with 0, nothing promoted.
    """

    sweep: Positional[str]
    """Name of the sweep, or latest."""
    name: str
    """Name of the registered model."""
    force: Annotated[str | None, arg(metavar="REASON")] = None
    """Promote whatever the gates say, for this reason, which is recorded."""
    tracking_uri: str = ""
    """MLflow server or store; that of the sweep by default."""
    json: bool = False
    """Print the verdict as JSON."""

    def run(self) -> int:
        """Judge, then print the verdict."""
        from ganatomy.promotion import promote

        promotion = promote(
            self.workspace.absolute(),
            self.sweep,
            self.name,
            force=self.force,
            uri=self.tracking_uri or None,
            say=self._say,
        )
        verdict = promotion.verdict
        if self.json:
            found = {**verdict.to_dict(), "version": promotion.version, "bundle": str(promotion.bundle)}
            print(json.dumps(found, indent=2, ensure_ascii=False))
            return DONE
        print_rows([("ok" if gate.passed else "fail", gate.name, gate.sentence, "") for gate in verdict.gates])
        print(verdict.sentence)
        if promotion.version is not None:
            print(f"models:/{self.name}@champion is version {promotion.version}")
        else:
            print(f"nothing was promoted; the candidate is in {promotion.bundle}")
        return DONE

    def _say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr if self.json else sys.stdout, flush=True)


@dataclass(frozen=True, kw_only=True)
class Rollback(Command):
    """Make the champion before this one the champion again. A second rollback undoes the first.

    $ ganatomy rollback ct-mr
    """

    name: Positional[str]
    """Name of the registered model."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, else the one embedded in the workspace."""

    def run(self) -> int:
        """Move the aliases."""
        from ganatomy.registry import Registry
        from ganatomy.tracking import Tracking

        number = Registry(Tracking(self.tracking_uri or None, self.workspace.absolute())).rollback(self.name)
        print(f"models:/{self.name}@champion is version {number}")
        return DONE


@dataclass(frozen=True, kw_only=True)
class Generate(Command):
    """Make synthetic NIfTI of real images, on their own grid, with labels and a provenance sidecar each.

    $ ganatomy generate models:/ct-mr@champion --cohort my-cohort --out synthetic
    $ ganatomy generate models:/ct-mr@champion --image scan.nii.gz --label seg.nii.gz --out synthetic

    The result is itself a cohort. The same command goes on where it was interrupted; files of others are left alone.
    """

    model: Positional[str]
    """models:/NAME@champion, models:/NAME/VERSION, or the folder of a generator."""
    out: Path
    """Folder of the synthetic cohort."""
    cohort: Path | None = None
    """Folder of the cohort whose images are translated."""
    image: Path | None = None
    """One image instead of a cohort."""
    label: Path | None = None
    """Label of --image, carried over."""
    patient: str = ""
    """Patient of --image; appears as a pseudonym only."""
    split: tuple[Literal["train", "val", "test"], ...] = ()
    """Only images of these splits of the cohort."""
    source: str = ""
    """Domain to translate from, where the generator knows several ways."""
    target: str = ""
    """Domain to translate to; by default the one it was promoted for."""
    workers: int = 0
    """Images at the same time, on Ray; 0: as many as there are CPUs or GPUs; 1: in this process, without Ray."""
    address: str = ""
    """Ray cluster to run on; RAY_ADDRESS, else this machine."""
    overwrite: bool = False
    """Replace files that are in the way."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, else the one embedded in the workspace."""

    def run(self) -> int:
        """Plan, make, and write the cohort of what was made."""
        from ganatomy.contracts import InputError
        from ganatomy.generation import finish_generation, plan_generation
        from ganatomy.generator import load_generator

        if (self.cohort is None) == (self.image is None):
            given = "both --cohort and --image" if self.cohort else "neither --cohort nor --image"
            raise InputError(given, expected="one of them", remedy="--cohort DIR, or --image FILE")
        bundle, source = self._bundle(), self._source()
        generator = load_generator(bundle)
        jobs = plan_generation(
            generator,
            source,
            self.out,
            source_role=self.source or None,
            target_role=self.target or None,
            splits=self.split or None,
            label=self.label,
            patient=self.patient,
            overwrite=self.overwrite,
        )
        with progress("generating") as follow:
            results = self._results(bundle, jobs, follow)
        failed = [result for result in results if result.status == "failed"]
        for result in failed:
            print(f"error: {result.error}", file=sys.stderr)
        made = finish_generation(generator, results, self.out, None if isinstance(source, Path) else source)
        count = {status: sum(result.status == status for result in results) for status in ("made", "kept", "failed")}
        print(f"{made.path}: " + ", ".join(f"{number} {status}" for status, number in count.items()))
        return UNDONE if failed else DONE

    def _bundle(self) -> Path:
        if not self.model.startswith("models:/") and Path(self.model).is_dir():
            return Path(self.model).absolute()
        from ganatomy.registry import Registry
        from ganatomy.tracking import Tracking

        return Registry(Tracking(self.tracking_uri or None, self.workspace.absolute())).download(self.model)

    def _source(self) -> Cohort | Path:
        from ganatomy.cohort import read_cohort

        return read_cohort(self.cohort) if self.cohort is not None else Path(self.image or "")

    def _results(self, bundle: Path, jobs: Sequence[Job], follow: Callable[[int, int], None]) -> list[Result]:
        import torch

        from ganatomy.generation import run_job

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.workers == 1 or (len(jobs) == 1 and not self.address):
            made: Iterator[Result] = (run_job(bundle, job, device=device) for job in jobs)
        else:
            made = _on_ray(bundle, jobs, self.workers, self.address)
        results = []
        for result in made:
            results.append(result)
            follow(len(results), len(jobs))
        return results


def _on_ray(bundle: Path, jobs: Sequence[Job], workers: int, address: str) -> Iterator[Result]:
    """Results as they come, at most ``workers`` jobs at a time; each takes a GPU where there is any, else a CPU."""
    import ray

    from ganatomy.generation import run_job
    from ganatomy.tuning import start_ray

    start_ray(address)
    try:
        gpus = ray.cluster_resources().get("GPU", 0)
        remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(run_job)
        free = workers or int(gpus or ray.cluster_resources().get("CPU", 1))
        waiting = list(reversed(jobs))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < free:
                running.append(remote.remote(str(bundle), waiting.pop(), device="cuda" if gpus else "cpu"))
            [ready], running = ray.wait(running)
            yield ray.get(ready)
    finally:
        ray.shutdown()


# --- main --------------------------------------------------------------------------------------------------------

DESCRIPTION = """Does synthetic data help my task on real, held-out patients? Which method's, how much, at what cost?

$ ganatomy cohort import DIR --layout bids --out my-cohort              real images in
$ python sweep.py --space shape_consistent --cohort my-cohort           trials on this machine or a cluster
$ ganatomy report latest                                                the ablation table
$ ganatomy promote latest --name ct-mr                                  the gates, then the registry
$ ganatomy generate models:/ct-mr@champion --cohort my-cohort --out synthetic
"""
COHORT = "Real images in (import), and what is wrong with them (check)."
SINGLE = {
    "report": Report,
    "ui": UI,
    "promote": Promote,
    "rollback": Rollback,
    "generate": Generate,
    "phantom": Phantom,
    "doctor": Doctor,
}
OF_COHORT = {"import": CohortImport, "check": CohortCheck}


def _commands(arguments: Sequence[str]) -> Any:
    """Everything the command line can be, as the type that tyro parses into."""

    def named(name: str, command: type) -> Any:
        return Annotated[command, subcommand(name, description=described(command, whole=name in arguments))]

    cohort = reduce(or_, [named(name, command) for name, command in OF_COHORT.items()])
    parts = [named(name, command) for name, command in SINGLE.items()]
    return reduce(or_, parts, Annotated[cohort, subcommand("cohort", description=COHORT)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the ``ganatomy`` command. Returns the exit code; never raises for what a user can cause."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        command = parse(_commands(arguments), program="ganatomy", description=DESCRIPTION, arguments=arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else UNDONE
    from ganatomy.terminal import guarded  # it knows InputError, which stands beside torch

    return guarded(command.run, workspace=command.workspace, debug=command.debug)


if __name__ == "__main__":
    sys.exit(main())
