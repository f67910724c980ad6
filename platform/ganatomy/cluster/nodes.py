"""The nodes of a cluster: asked what they have and see before a sweep starts, and again whenever one joins it.

``python -m ganatomy.cluster.nodes ADDRESS INQUIRY`` asks from a process of its own, which is how `ganatomy doctor`
does it: Ray ends a process that asks an address where nobody answers.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

from ganatomy.contracts import InputError
from ganatomy.core import installation
from ganatomy.core.installation import MISSING, look
from ganatomy.core.plugins import available

DISTRIBUTIONS = ("ganatomy", "torch", "ray", "mlflow", "monai", "numpy")

PATIENCE_S = 90.0
"""How long nodes may take to answer: each has to start a process first, on a slow disc after a reboot."""

QUIET_S = 5.0
"""Whom we wait for is said after so long."""

JOINING_S = 600.0
"""How long nodes may take to join: a launcher that just started them may be installing the package."""

LEAST_ROOM = 100e6
"""Bytes that a node's own disc must have left: where Ray cannot write, the processes that it starts die at once."""

UP = "bring every node up to date (ray up cluster.yaml)"

Say = Callable[[str], None]
Node = Mapping[str, Any]
"""A node as ``ray.nodes()`` tells of it."""


@dataclass(frozen=True)
class Fault:
    """Why a node cannot take part. ``what`` names it; ``remedy`` is what to do."""

    what: str
    remedy: str


def packages_of(*dotted: str) -> list[str]:
    """The platform, every package that plugs into it here, and those of ``package.module:Name`` paths."""
    groups = [available(group) for group in ("methods", "networks", "spaces", "tasks")]
    paths = [*(value for group in groups for value in group.values()), *(path for path in dotted if ":" in path)]
    return sorted({"ganatomy", *(path.partition(":")[0].partition(".")[0] for path in paths)})


def alive() -> list[Node]:
    """The nodes of the cluster that we joined."""
    return [node for node in ray.nodes() if node["Alive"]]


def name_of(node: Node) -> str:
    """A node as people know it: its address, and its name where that is another."""
    address, host = node["NodeManagerAddress"], node.get("NodeManagerHostname", "")
    return address if host in ("", address) else f"{address} ({host})"


# --- asking ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def inquiry(
    packages: Sequence[str], *, workspace: Path | None = None, cohort: Path | None = None, store: Path | None = None
) -> Iterator[dict[str, Any]]:
    """The question for ``look``. While it is open, a file that only the right workspace can show lies in it."""
    files: dict[str, str] = {}
    if cohort is not None:
        files[f"cohort {cohort}"] = str(cohort / "cohort.yaml")
    if store is not None:
        files[f"store {store}"] = str(store / "store.json")
    folder = None if workspace is None else workspace / f".asked-{secrets.token_hex(8)}"
    try:
        if folder is not None:
            folder.mkdir(parents=True)
            (folder / "token").write_text(secrets.token_hex(16))
            files[f"workspace {workspace}"] = str(folder / "token")
        yield {
            "distributions": DISTRIBUTIONS,
            "packages": list(packages),
            "files": files,
            "folder": str(folder) if folder else "",
        }
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def send(nodes: Iterable[Node], question: Mapping[str, Any]) -> dict[Any, Node]:
    """Ask without waiting: the reference of each answer -> its node."""
    ray.cloudpickle.register_pickle_by_value(installation)  # a node without the package, or with another, answers too
    try:
        remote = ray.remote(num_cpus=0, max_retries=0)(look)
        return {
            remote.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote(dict(question)): node
            for node in nodes
        }
    finally:
        ray.cloudpickle.unregister_pickle_by_value(installation)


def ask(
    nodes: Iterable[Node], question: Mapping[str, Any], say: Say, patience: float = PATIENCE_S
) -> list[tuple[str, dict[str, Any]]]:
    """Nodes with their answers; ``{"error": why}`` of one that gave none within ``patience`` seconds."""
    asked = send(nodes, question)
    waiting, began, said = list(asked), time.monotonic(), False
    while waiting and time.monotonic() - began < patience:
        waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)[1]
        if waiting and not said and time.monotonic() - began > QUIET_S:
            said = True
            say(f"waiting for {', '.join(name_of(asked[one]) for one in waiting)} to say what is installed there")
    late = {"error": f"has not answered for {patience:.0f} s"}
    return [(name_of(node), late if one in waiting else got(one)) for one, node in asked.items()]


def got(reference: Any) -> dict[str, Any]:
    """A node's answer that has come; ``{"error": why}`` where it could give none."""
    try:
        answer: dict[str, Any] = ray.get(reference)
        return answer
    except ray.exceptions.RayError as error:
        return {"error": f"cannot answer: {' '.join(str(error).split())[:200]}"}


# --- comparing ---------------------------------------------------------------------------------------------------


def faults(
    here: Mapping[str, Any], answers: Iterable[tuple[str, Mapping[str, Any]]], question: Mapping[str, Any]
) -> list[Fault]:
    """What keeps nodes from taking part, given our own answer to the same question."""
    return [fault for node, answer in answers for fault in _faults_of(node, here, answer, question)]


def _faults_of(
    node: str, here: Mapping[str, Any], there: Mapping[str, Any], question: Mapping[str, Any]
) -> Iterator[Fault]:
    if "error" in there:
        yield Fault(f"node {node} {there['error']}", "look at it with `ray status`, or take it out of the cluster")
        return
    for name, ours in here["versions"].items():
        theirs = there["versions"].get(name, MISSING)
        # A CPU build here and a CUDA build there are one release.
        if theirs.partition("+")[0] != ours.partition("+")[0]:
            yield Fault(f"{name} is {theirs} on node {node}, {ours} here", UP)
    for package, digest in here["sources"].items():
        theirs = there["sources"].get(package, MISSING)
        if theirs != digest and there["versions"].get(package) != MISSING:
            state = "is missing on" if theirs == MISSING else "has other sources on"
            yield Fault(f"package {package} {state} node {node}", UP)
    yield from cramped(node, there["room"])
    for what, digest in here["files"].items():
        theirs = there["files"][what]
        if theirs == digest:
            continue
        sees = "sees another" if _is_hash(theirs) else "does not see the"
        reason = "" if _is_hash(theirs) else f" ({theirs})"
        yield Fault(f"node {node} {sees} {what}{reason}", "mount the folder that all nodes share under the same path")
    if question["folder"] and not _appears(Path(question["folder"]) / there["wrote"]):
        reason = "" if len(there["wrote"]) == 32 else f" ({there['wrote']})"
        where = Path(question["folder"]).parent
        yield Fault(f"node {node} cannot write to the workspace {where}{reason}", "mend its permissions on that node")


def cramped(node: str, room: Mapping[str, int]) -> Iterator[Fault]:
    """The folders (name -> bytes left) of a node that nothing more fits into."""
    for folder, free in room.items():
        if free < LEAST_ROOM:
            yield Fault(f"node {node} has {free / 1e6:.0f} MB left in {folder}", "free some space there")


def _is_hash(answer: str) -> bool:
    return len(answer) == 16 and set(answer) <= set("0123456789abcdef")


def _appears(path: Path) -> bool:
    until = time.monotonic() + installation.APPEARING_S
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def check_nodes(question: Mapping[str, Any], say: Say) -> list[Node]:
    """The nodes now alive, all of which agree with us. InputError naming the first that differs, or does not see what
    we see, before anything is spent."""
    nodes = alive()
    found = faults(look(question), ask(nodes, question, say), question)
    if found:
        more = f" (and {len(found) - 1} more such faults: ganatomy doctor --cluster)" if len(found) > 1 else ""
        raise InputError(f"{found[0].what}{more}", remedy=found[0].remedy)
    return nodes


def await_nodes(count: int, say: Say, patience: float = JOINING_S) -> None:
    """Wait until ``count`` nodes have joined. InputError where they do not within ``patience`` seconds."""
    began, said = time.monotonic(), -1
    while (have := len(alive())) < count:
        if time.monotonic() - began > patience:
            raise InputError(
                f"{have} of {count} nodes have joined the cluster within {patience:.0f} s",
                remedy="see why with `ray monitor cluster.yaml`, or ask for fewer --nodes",
            )
        if have != said:
            say(f"waiting for {count - have} of {count} nodes to join, at most {patience:.0f} s")
            said = have
        time.sleep(1.0)


# --- from outside ------------------------------------------------------------------------------------------------


def examine(address: str, workspace: Path | None, cohort: Path | None) -> dict[str, Any]:
    """Ask the cluster at ``address``: its resources, the number of its nodes, and what is wrong with them."""
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    with inquiry(packages_of(), workspace=workspace, cohort=cohort) as question:
        nodes = alive()
        found = faults(look(question), ask(nodes, question, lambda sentence: None, 40.0), question)
    told = [{"what": fault.what, "remedy": fault.remedy} for fault in found]
    return {"nodes": [name_of(node) for node in nodes], "resources": ray.cluster_resources(), "faults": told}


if __name__ == "__main__":
    _address, _workspace, _cohort = sys.argv[1:4]
    print(json.dumps(examine(_address, Path(_workspace) if _workspace else None, Path(_cohort) if _cohort else None)))
