"""What the driver asks of MLflow: to find or make a run, to end it, to keep what belongs to it.

It asks again while the server is away, for ``patience`` seconds; what needs no answer is written down, and sent when it
can be.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from ganatomy.contracts import InputError
from ganatomy.core.names import checked_name
from ganatomy.core.tables import absolute
from ganatomy.tracking.client import at_once, brisk, client_of, forget_places, is_away, says, unusable
from ganatomy.tracking.embedded import MARK, artifacts_of, settle
from ganatomy.tracking.outbox import Entry, Outbox, now
from ganatomy.tracking.sending import as_key, as_params, chunks, sender
from ganatomy.tracking.server import is_served, shown, store_uri

# isort: split
# Last: MLflow reads the environment, which ``client`` sets, when it is imported.
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Run
from mlflow.exceptions import MlflowException

T = TypeVar("T")
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracking:
    """The runs of one MLflow experiment: sweeps, and the trials below them.

    experiment: its name, made if it is not there; "" for whoever asks for the registry alone, and for no run.
    uri: an MLflow server or database; None: MLFLOW_TRACKING_URI, else the SQLite store in ``workspace``, made here if
    it is not there, with its artifacts beside it; of a workspace that was copied or moved, the copy's own.
    patience: seconds that a call waits for a server that went away.
    wait: have that patience here too, as is right in the midst of a sweep; otherwise a store that cannot be used now
    is an InputError within about ten seconds, as is right at its start.
    say: told, in a sentence, that and for how long a server that is away is waited for.
    """

    def __init__(
        self,
        uri: str | None,
        workspace: Path,
        experiment: str = "ganatomy",
        *,
        patience: float = 300.0,
        wait: bool = False,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.workspace = absolute(workspace)
        self.uri, self.experiment = store_uri(uri, self.workspace), experiment
        if settle(self.uri, self.workspace):
            forget_places()
        self.outbox = self.workspace / "outbox"
        self._patience, self._say = patience, say
        self._unsaid: set[Path] = set()
        try:
            with contextlib.nullcontext() if wait else brisk():
                opening = functools.partial(self._open, experiment)
                self.experiment_id = self.ask(opening) if wait else at_once(opening)
        except InputError:
            raise
        except Exception as error:
            raise unusable(self.uri, error) from error

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client for this store."""
        return client_of(self.uri)

    def ask(self, call: Callable[[], T]) -> T:
        """The answer of ``call``, asked again while the server is away. Asking twice must do no harm.

        Raises InputError when the server stays away, and MlflowException when it says no.
        """
        deadline, pause, said = time.monotonic() + self._patience, 0.25, False
        while True:
            try:
                return at_once(call)
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() >= deadline:
                    raise self._gone() from error
            if not said:
                self._say(f"waiting for the tracking server {shown(self.uri)}, at most {self._patience:.0f} s")
                said = True
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _gone(self) -> InputError:
        if not self._patience:
            return InputError(f"tracking server {shown(self.uri)} is away", remedy="start it again")
        return InputError(
            f"tracking server {shown(self.uri)} has been away for {self._patience:.0f} s",
            remedy="start it again, and the sweep anew: what was computed is found again",
        )

    def asking_once(self) -> Tracking:
        """The same, for whoever asks again of itself: a call fails at once while the server is away."""
        other = copy.copy(self)
        other._patience, other._unsaid = 0.0, set()
        return other

    def probe(self) -> dict[str, Any]:
        """For a look from outside: the store, its experiment, and the seconds one question takes."""
        start = time.monotonic()
        runs = self.ask(lambda: self.client.search_runs([self.experiment_id], max_results=1))
        seconds = round(time.monotonic() - start, 3)
        return {"uri": shown(self.uri), "experiment_id": self.experiment_id, "empty": not runs, "seconds": seconds}

    # Runs.

    def sweep_run(self, name: str, tags: Mapping[str, Any] | None = None) -> str:
        """Id of the run of this workspace's sweep ``name``; made, with ``tags``, unless it is there."""
        identity = {"kind": "sweep", "sweep": name, "workspace": self._mark()}
        return self._find_or_create(identity, name, tags or {}).info.run_id

    def trial_run(
        self,
        sweep_run_id: str,
        trial_id: str,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        """Id of the run of one trial below its sweep's; made, with ``params`` and ``tags``, unless it is there.

        A run that had ended is running again afterwards. Parameters already there are kept.
        """
        identity = {"kind": "trial", "mlflow.parentRunId": sweep_run_id, "trial_id": trial_id}
        run = self._find_or_create(identity, name, tags or {})
        missing = {name: value for name, value in (params or {}).items() if as_key(name) not in run.data.params}
        for chunk in chunks(as_params(missing), 100):
            self.ask(functools.partial(self.client.log_batch, run.info.run_id, params=chunk))
        return run.info.run_id

    def terminate(self, run_id: str, status: Status, tags: Mapping[str, Any] | None = None) -> None:
        """End a run. Never waits for an absent server: what could not be said now is sent by ``drain_all``."""
        if tags:
            self.tag(run_id, tags)
        self._report(run_id, Entry("status", now(), {"status": status}))

    def go_on(self, run_id: str) -> None:
        """A run that may have ended is running again. As ``terminate``, never waits."""
        self._report(run_id, Entry("status", now(), {"status": "RUNNING"}))

    def tag(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Tags of a run, in the place of earlier ones of the same names. As ``terminate``, never waits."""
        self._report(run_id, Entry("tags", now(), {name: str(value) for name, value in tags.items()}))

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Metrics of a run that has no journal of its own (a sweep's). As ``terminate``, never waits."""
        self._report(run_id, Entry("metrics", now(), {name: float(value) for name, value in values.items()}, step))

    def note(self, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, Any], *, send: bool = True) -> bool:
        """Metrics and tags of one of many runs. Returns whether they are there: where they are not, or are not to be
        sent, they are written down, and sent by ``drain_all``; a server that is away is then not asked for each run."""
        outbox = self._outbox(run_id)
        if metrics:
            outbox.append(Entry("metrics", now(), {name: float(value) for name, value in metrics.items()}))
        outbox.append(Entry("tags", now(), {name: str(value) for name, value in tags.items()}))
        if send:
            return self._drain(outbox)
        self._unsaid.add(outbox.directory)
        return False

    def log_artifact(self, run_id: str, source: Path, folder: str = "") -> None:
        """A file or directory as artifact in ``folder``. As ``terminate``, never waits."""
        self._report(run_id, Entry("artifact", now(), path=folder), {source.name: source})

    def log_text(self, run_id: str, path: str, text: str) -> None:
        """A text artifact (HTML, JSON, …) at ``path``. As ``terminate``, never waits."""
        folder, _, name = path.rpartition("/")
        self._report(run_id, Entry("artifact", now(), path=folder), {name: text.encode()})

    def log_dataset(
        self,
        run_id: str,
        name: str,
        digest: str,
        *,
        profile: Mapping[str, Any] | None = None,
        context: str = "training",
    ) -> None:
        """The cohort a run saw, by name and content hash (at most 36 characters); where it lies is nobody's business.

        profile: counts to show beside it (images, patients, domains …).
        """
        source = json.dumps({"cohort": name, "digest": digest})
        data = Dataset(name, digest, "cohort", source, profile=json.dumps(dict(profile or {})))
        given = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self.ask(lambda: self.client.log_inputs(run_id, [given]))

    def pictures(self, run_id: str) -> dict[str, int]:
        """Name of each logged picture of a run -> the last step that it was logged at."""
        last: dict[str, int] = {}
        for item in self.ask(lambda: self.client.list_artifacts(run_id, "images")):
            name, _, rest = item.path.rpartition("/")[2].partition("+step+")
            if rest:
                last[name] = max(last.get(name, 0), int(rest.partition("+")[0]))
        return last

    def drain_all(self, directory: Path | None = None, timeout: float = 60.0) -> list[Path]:
        """Send what dead processes left in the journals in ``directory``, and what this workspace still has to say.

        Returns the journals that still hold something after ``timeout`` seconds (server away, or drained by another).
        """
        return self._empty(Outbox.below(self.outbox) + (Outbox.below(Path(directory)) if directory else []), timeout)

    def drain(self, directory: Path, timeout: float = 60.0) -> list[Path]:
        """``drain_all`` for a trial's end: what is left in ``directory``, and what we ourselves could not say before.

        The workspace keeps a folder of each run that ever had something to say; it is not looked through here.
        """
        return self._empty([*sorted(self._unsaid), *Outbox.below(Path(directory))], timeout)

    # How.

    def _empty(self, found: list[Path], timeout: float) -> list[Path]:
        deadline = time.monotonic() + timeout
        while True:
            left: list[Path] = []
            for place in found:  # one that cannot be sent may mean that none can: not each of them waits for the server
                if (left and time.monotonic() > deadline) or not self._drain(Outbox.reopen(place)):
                    left.append(place)
            if not left or time.monotonic() > deadline:
                return left
            found = left
            time.sleep(0.5)

    def _mark(self) -> str:
        """What tells this workspace's sweeps from those of another that have the same name on the same server."""
        place = self.workspace / MARK
        if not place.exists():
            self.workspace.mkdir(parents=True, exist_ok=True)
            beside = place.with_name(f".{uuid.uuid4().hex}")
            beside.write_text(uuid.uuid4().hex)
            with contextlib.suppress(FileExistsError):  # of two processes the first gives the mark
                os.link(beside, place)
            beside.unlink()
        return place.read_text()

    def _open(self, name: str) -> str:
        if not name:
            self.client.search_experiments(max_results=1)  # that the store can be used at all
            return ""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = None if is_served(self.uri) else artifacts_of(self.uri, self.workspace).as_uri()
            try:
                return self.client.create_experiment(name, place)
            except MlflowException as error:
                if not says(error, "RESOURCE_ALREADY_EXISTS"):
                    raise
                found = self.client.get_experiment_by_name(name)  # another process was first
        if found.lifecycle_stage != "active":
            raise InputError(f"experiment {name!r} of {shown(self.uri)} was deleted",
                             remedy=f"mlflow experiments restore --experiment-id {found.experiment_id}")  # fmt: skip
        return found.experiment_id

    def _search(self, tags: Mapping[str, str]) -> list[Run]:
        """Runs that carry all of ``tags``, oldest first."""
        wanted = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())
        order = ["attributes.start_time ASC"]
        return list(self.ask(lambda: self.client.search_runs([self.experiment_id], wanted, order_by=order)))

    def _find_or_create(self, identity: Mapping[str, str], name: str, tags: Mapping[str, Any]) -> Run:
        def attempt() -> Run:  # looks first, every time: the answer to a creation may be lost after the run was made
            if found := self._search(identity):
                return found[0]
            everything = {key: str(value)[:8000] for key, value in tags.items()} | dict(identity)
            return self.client.create_run(self.experiment_id, run_name=name, tags=everything)

        run = self.ask(attempt)
        if run.info.status != "RUNNING":
            run_id = run.info.run_id
            self._drain(self._outbox(run_id))  # an old ending must not arrive after the new beginning
            self.ask(lambda: self.client.update_run(run_id, status="RUNNING"))
        return run

    def _report(self, run_id: str, entry: Entry, files: Mapping[str, bytes | Path] | None = None) -> None:
        outbox = self._outbox(run_id)
        outbox.append(entry, files)
        self._drain(outbox)

    def _outbox(self, run_id: str) -> Outbox:
        """What this workspace has to say of a run. InputError where an id, a server's or a plan's, can be no folder."""
        return Outbox(self.outbox / checked_name(run_id, "run id"), run_id)

    def _drain(self, outbox: Outbox) -> bool:
        try:
            sent = outbox.drain(sender(self.uri, outbox.run))
        except (MlflowException, OSError):
            sent = False
        (self._unsaid.discard if sent else self._unsaid.add)(outbox.directory)
        return sent


def _quoted(text: str) -> str:
    if "'" in text and '"' in text:
        raise InputError(f"name {text!r}", expected="a name without both kinds of quotes")
    return f'"{text}"' if "'" in text else f"'{text}'"
