"""A sweep in a process of its own, which joins the cluster that the caller is connected to, and leaves that alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import plain
from ganatomy.core.terminal import INTERRUPTED, heed_termination, signals_as_before
from ganatomy.sweeps.request import SweepRequest

_PATHS = ("workspace", "cohort")
_LISTS = ("seeds", "set", "compare", "controls", "objectives", "domains", "allow_dotted")


def carried_out_apart(request: SweepRequest, typed: Collection[str], address: str) -> tuple[str, int]:
    """Name of the sweep, and its exit code, as ``SweepRequest.carried_out`` gives them; what it says is said here.

    address: of the cluster, where the request names no other. Raises what the process raised: InputError, or else
    RuntimeError with its last line. A KeyboardInterrupt here interrupts the sweep there, in order.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answer = Path(scratch) / "asked.json", Path(scratch) / "answer.json"
        values: dict[str, Any] = {item.name: getattr(request, item.name) for item in fields(request)}
        values["address"] = request.address or address
        values |= {name: str(values[name].absolute()) for name in _PATHS if values[name] is not None}
        asked.write_text(json.dumps({"request": plain(values), "typed": sorted(typed)}))
        command = [sys.executable, "-m", "ganatomy.api.apart", str(asked), str(answer)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        with signals_as_before():
            last = _followed(command, environment)
        found = json.loads(answer.read_text()) if answer.exists() else {"failed": last}
    if "refused" in found:
        raise InputError(found["refused"][0], expected=found["refused"][1], remedy=found["refused"][2])
    if "failed" in found:
        raise RuntimeError(f"the sweep's process ended: {found['failed']}")
    return str(found["name"]), int(found["code"])


def _followed(command: list[str], environment: dict[str, str]) -> str:
    """Run it, with all that it says on our standard error; returns the last line."""
    last = "it said nothing"
    heed_termination()
    # A session of its own: Ctrl-C at a terminal reaches it through us alone, once.
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while True:
            try:
                for line in process.stdout:
                    last = line.strip() or last
                    print(line, end="", file=sys.stderr, flush=True)
                process.wait()
                return last
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)


def main(asked: Path, answer: Path) -> None:
    """Carry out what ``asked`` says, and write what came of it to ``answer``."""
    said = json.loads(asked.read_text())
    values = said["request"]
    values |= {name: Path(values[name]) for name in _PATHS if values[name] is not None}
    values |= {name: tuple(values[name]) for name in _LISTS}
    try:
        plan, code = SweepRequest(**values).carried_out(said["typed"], show=lambda table: None)
        found: dict[str, Any] = {"name": plan.name, "code": code}
    except KeyboardInterrupt:  # before there was a plan
        found = {"name": "", "code": INTERRUPTED}
    except InputError as error:
        found = {"refused": [error.what, error.expected, error.remedy]}
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
