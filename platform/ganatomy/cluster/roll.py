"""The nodes that work for a sweep while it runs: who joins, who leaves, and whose disc fills."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

from ganatomy.cluster.nodes import PATIENCE_S, Fault, Node, Say, alive, cramped, faults, got, name_of, send
from ganatomy.core import installation
from ganatomy.core.installation import Watch, look

HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head."""

WATCH_S = 5.0
"""How often the nodes of a sweep are asked how much room their discs have."""


def slots(nodes: Iterable[Node], cpus: float, gpus: float) -> int:
    """Workers that the nodes have room for at once, none spread over two nodes; each takes ``cpus`` and ``gpus``."""
    return sum(_slots(node["Resources"], cpus, gpus) for node in nodes)


def _slots(has: Mapping[str, float], cpus: float, gpus: float) -> int:
    fits = [math.inf]
    if cpus:
        fits.append(math.floor(has.get("CPU", 0.0) / cpus + 1e-9))
    if gpus:
        devices = has.get("GPU", 0.0)
        # A fraction never lies on two devices: of 0.4, two fit on each.
        fits.append(devices // gpus if gpus >= 1 else devices * math.floor(1 / gpus + 1e-9))
    return 0 if fits == [math.inf] else int(min(fits))


class Discs:
    """The room that nodes have on discs of their own, told by a process that stays on each of them."""

    def __init__(self) -> None:
        self._watches: dict[str, Any] = {}
        self._asked: dict[Any, Node] = {}
        self._last = -math.inf

    def filled(self) -> Iterator[tuple[Node, Fault]]:
        """Nodes that have answered, since this was last called, that their disc is full. Never waits."""
        ready = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0] if self._asked else []
        for reference in ready:
            node, room = self._asked.pop(reference), got(reference)
            if "error" in room:  # it has left, or somebody ended its watch
                self._watches.pop(node["NodeID"], None)
            else:
                yield from ((node, fault) for fault in [*cramped(name_of(node), room)][:1])

    def ask(self, nodes: Iterable[Node]) -> None:
        """Ask anew, if it is time to. An answer that does not come is not waited for."""
        if time.monotonic() - self._last > (PATIENCE_S if self._asked else WATCH_S):
            self._last = time.monotonic()
            self._asked = {self._watch(node).room.remote(): node for node in nodes}

    def forget(self, node: Node) -> None:
        """End the watch on a node."""
        if (watch := self._watches.pop(node["NodeID"], None)) is not None:
            ray.kill(watch)

    def _watch(self, node: Node) -> Any:
        if node["NodeID"] not in self._watches:
            ray.cloudpickle.register_pickle_by_value(installation)
            try:
                place = On(node["NodeID"], soft=False)
                watch = ray.remote(num_cpus=0)(Watch).options(scheduling_strategy=place).remote()
            finally:
                ray.cloudpickle.unregister_pickle_by_value(installation)
            self._watches[node["NodeID"]] = watch
        return self._watches[node["NodeID"]]


class Roll:
    """The nodes that work for a sweep. Nodes may leave; those that join are asked, in the background, and counted from
    when they agree with us. One that does not is told of, and kept busy, so that Ray places no trial on it. One whose
    disc fills is taken out of the cluster, when what runs there has ended.

    question: an open ``inquiry``.  agreed: nodes that have been asked before.
    """

    def __init__(self, question: Mapping[str, Any], say: Say, agreed: Iterable[Node], every: float = 2.0) -> None:
        self.question, self.say, self.every = question, say, every
        self._nodes = list(agreed)
        self._known = {node["NodeID"] for node in self._nodes}
        self._asked: dict[Any, Node] = {}
        self._silent: dict[Any, float] = {}
        self._held: list[Any] = []
        self._discs, self._head_is_full = Discs(), False
        self._looked = time.monotonic()

    def nodes(self) -> list[Node]:
        """The nodes that agree, looked at anew every few seconds."""
        if time.monotonic() - self._looked > self.every:
            self._looked = time.monotonic()
            self._follow(alive())
            for node, fault in self._discs.filled():
                self._part_with(node, fault)
            if len(self._nodes) > 1:
                self._discs.ask(self._nodes)
        return self._nodes

    def _follow(self, now: list[Node]) -> None:
        present = {node["NodeID"] for node in now}
        for node in self._nodes:
            if node["NodeID"] not in present:
                self.say(f"node {name_of(node)} has left; what it was doing is taken up elsewhere")
        self._nodes = [node for node in self._nodes if node["NodeID"] in present]
        fresh = [node for node in now if node["NodeID"] not in self._known]
        self._known |= present
        if fresh:
            asked = send(fresh, self.question)
            self._asked |= asked
            self._silent |= dict.fromkeys(asked, time.monotonic())
        ready = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0] if self._asked else []
        for reference in ready:
            node = self._asked.pop(reference)
            self._silent.pop(reference, None)
            if node["NodeID"] in present:
                self._judge(node, got(reference))
        for reference, since in list(self._silent.items()):
            if time.monotonic() - since > PATIENCE_S:
                del self._silent[reference]
                self.say(f"node {name_of(self._asked[reference])} has joined, but does not answer; it does not count")

    def _judge(self, node: Node, answer: Mapping[str, Any]) -> None:
        found = faults(look(self.question), [(name_of(node), answer)], self.question)
        if not found:
            self._nodes.append(node)
            self.say(f"node {name_of(node)} has joined")
        else:
            self.say(f"{found[0].what}; it gets no trials; remedy: {found[0].remedy}")
            self._held.append(_keep_busy(node))

    def _part_with(self, node: Node, fault: Fault) -> None:
        """Have a node whose disc is full take no more work; the head, where the sweep lives, can only be told of."""
        if HEAD in node["Resources"]:
            if not self._head_is_full:
                self._head_is_full = True
                self.say(f"{fault.what}, and no trial can start until there is room; remedy: {fault.remedy}")
            return
        if not _drain(node, fault.what):
            return  # it is asked, and told, again
        self._discs.forget(node)
        self._nodes = [other for other in self._nodes if other["NodeID"] != node["NodeID"]]
        self.say(f"{fault.what}; it leaves when what runs there has ended; remedy: {fault.remedy} and start Ray there "
                 "again (ray up cluster.yaml)")  # fmt: skip


_roll: Roll | None = None  # like Ray's own connection, one a process: Tune keeps what needs it in files of its own


@contextlib.contextmanager
def roll_called(question: Mapping[str, Any], say: Say, agreed: Iterable[Node]) -> Iterator[None]:
    """Follow who joins and leaves meanwhile, beginning with the nodes that have ``agreed``."""
    global _roll
    _roll = Roll(question, say, agreed)
    try:
        yield
    finally:
        _roll = None


def working() -> list[Node]:
    """The nodes that work for this process's sweep; without one, all that are alive."""
    return alive() if _roll is None else _roll.nodes()


def _keep_busy(node: Node) -> Any:
    """Take all that the node has, until the sweep ends."""

    def wait() -> None:  # local, so that it travels whole to a node that may lack this module
        import time

        while True:
            time.sleep(3600)

    has, place = node["Resources"], On(node["NodeID"], soft=False)
    everything = {"num_cpus": has.get("CPU", 0), "num_gpus": has.get("GPU", 0), "max_retries": 0}
    return ray.remote(**everything)(wait).options(scheduling_strategy=place).remote()


def _drain(node: Node, why: str) -> bool:
    """Have a node finish what it runs, take nothing new, and leave; whether it will. Ray has this for machines about to
    be taken away; Python reaches it where `ray drain-node` does."""
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    try:
        accepted, _ = ray._private.worker.global_worker.gcs_client.drain_node(node["NodeID"], reason, why, 0)
    except ray.exceptions.RayError:
        return False
    return bool(accepted)
