"""``ganatomy confirm``, ``promote``, ``rollback``: what a sweep picked is trained again, judged, handed over."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ganatomy.commands.console import DONE, UNDONE, Command, print_rows


@dataclass(frozen=True, kw_only=True)
class Saying(Command):
    """A command that says what goes on beside what it prints."""

    json: bool = False
    """Print what came of it as JSON."""

    def _say(self, sentence: str) -> None:
        if not self.quiet:
            print(sentence, file=sys.stderr if self.json else sys.stdout, flush=True)


@dataclass(frozen=True, kw_only=True)
class Confirm(Saying):
    """Train what a sweep picked, and the best without synthetic data, again under seeds that chose nothing.

    $ ganatomy confirm my-cohort-shape_consistent
    $ ganatomy confirm latest --trainings 8

    The best of several owes a part of its score to luck; only these trainings are evidence. The same command goes on
    where it was interrupted. ganatomy promote does it by itself, if it has not been done.
    """

    sweep: Positional[str]
    """Name of the sweep, or latest."""
    trainings: int | None = None
    """Of each of the two; 5 if not given, 3 at least."""
    as_it_stands: Annotated[str | None, arg(metavar="REASON")] = None
    """Confirm a sweep with trials outstanding that will never be finished, for this reason."""
    retry_failed: bool = False
    """Train all those again that failed, as planned, under the same seeds: after a fault of the machine, such as a full
    disc. A training that diverged is a finding, as is a refused set: neither is repeated."""
    address: str = ""
    """Ray cluster; RAY_ADDRESS, else one on this machine, else one of its own (local: always)."""
    allow_dotted: tuple[str, ...] = ()
    """package.module:NAME …: what the sweep is made of and not installed under a name."""

    def run(self) -> int:
        """Train, then print before and after."""
        from ganatomy.api.sweeping import load_sweep

        sweep = load_sweep(self.sweep, self.workspace, allow_dotted=self.allow_dotted)
        confirmed = sweep.confirm(
            trainings=self.trainings,
            as_it_stands=self.as_it_stands,
            retry_failed=self.retry_failed,
            allow_dotted=self.allow_dotted,
            address=self.address,
            say=self._say,
        )
        print(json.dumps(confirmed.to_dict(), indent=2, ensure_ascii=False) if self.json else confirmed.text())
        return DONE if confirmed.finding is not None else UNDONE


@dataclass(frozen=True, kw_only=True)
class Promote(Saying):
    """Let what a sweep picked through the gates; if it passes, a generator of it becomes NAME@champion.

    $ ganatomy promote my-cohort-shape_consistent --name ct-mr

    It is confirmed first, if it is not yet (ganatomy confirm). Then the test patients are read, and that is recorded
    beside the cohort: reading n of them is judged at a level of 6/(π² n²) of the whole, and one by the n-th
    confirmation over the cohort likewise. "Not shown to help" is a result: it ends with 0, nothing promoted.
    """

    sweep: Positional[str]
    """Name of the sweep, or latest."""
    name: str = ""
    """Name of the registered model."""
    dry_run: bool = False
    """Say what would be read, which reading it would be and at which level; read nothing, train nothing."""
    least: float = 0.0
    """Points that it must help by more than: the least effect that matters."""
    trainings: int | None = None
    """Of each of the two, where they are trained again; 5 if not given, 3 at least."""
    address: str = ""
    """Ray cluster to train on; RAY_ADDRESS, else one on this machine, else one of its own (local: always)."""
    force: Annotated[str | None, arg(metavar="REASON")] = None
    """Promote whatever the gates say, for this reason, which is recorded."""
    allow_dotted: tuple[str, ...] = ()
    """package.module:NAME …: methods and networks of the sweep that are not installed under a name, which this command
    may import."""
    as_it_stands: Annotated[str | None, arg(metavar="REASON")] = None
    """Judge a sweep with trials outstanding that will never be finished, for this reason, which is recorded."""
    tracking_uri: str = ""
    """MLflow server or store; that of the sweep by default."""

    def run(self) -> int:
        """Judge, then print the verdict."""
        from ganatomy.api.sweeping import load_sweep
        from ganatomy.contracts import InputError

        sweep = load_sweep(self.sweep, self.workspace, allow_dotted=self.allow_dotted)
        if self.dry_run:
            outlook = sweep.outlook(as_it_stands=self.as_it_stands, say=self._say)
            print(json.dumps(outlook.to_dict(), indent=2, ensure_ascii=False) if self.json else outlook.text())
            return DONE
        if not self.name:
            raise InputError("no name to register the model by", expected="--name NAME, or --dry-run")
        promotion = sweep.promote(
            self.name,
            least=self.least,
            trainings=self.trainings,
            address=self.address,
            force=self.force,
            as_it_stands=self.as_it_stands,
            tracking_uri=self.tracking_uri,
            allow_dotted=self.allow_dotted,
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
        from ganatomy.api.generating import rollback

        number = rollback(self.name, workspace=self.workspace, tracking_uri=self.tracking_uri)
        print(f"models:/{self.name}@champion is version {number}")
        return DONE
