"""The only training loop: precision, schedule, validation, checkpoint.

A method says what is minimised and by which networks, ``optimisation`` how a network takes one step; everything else
happens here, once, for every method and for the downstream models alike: devices, ranks, precision, learning-rate
schedules, moving averages, early stopping, validation, checkpoints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ganatomy.contracts import Batch, Images, InputError, Method, Phase
from ganatomy.core.standstill import moved, paused
from ganatomy.experiment import Training
from ganatomy.training.optimisation import Diverged, OptimisationStep, average_over_workers, choose_precision

Record = dict[str, float]
"""One line of a stage's history: metric name -> number, with ``step`` and ``time`` (Unix seconds)."""

Validate = Callable[[Method, int], Record]
"""What is told of a method at a step: metric name -> number."""


LOSS = "val/loss"
"""What ``training.waits_for = loss`` waits for, among the metrics of a validation."""

GUIDE, GUIDE_BAR = "guide/dice", "guide/bar"
"""What a phase with a bar waits for, among the metrics of a validation; and that bar, in the records of the phase."""


class Draws(Protocol):
    """Where batches come from: a pure function of the position, so that resuming needs no sampler state."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """This rank's share of the global batch of ``step``."""
        ...


class Reporter(Protocol):
    """Where a loop's reports and checkpoints go: a directory, or Ray Train."""

    def report(self, history: Sequence[Record], save: Callable[[Path], None]) -> None:
        """Persist a checkpoint, then publish ``history``, whose last record is new. Called by every rank together."""
        ...

    def latest(self) -> AbstractContextManager[Path | None]:
        """The newest complete checkpoint, if any."""
        ...


def rate_factor(step: int, phases: Sequence[Phase]) -> float:
    """Learning-rate factor at loop step ``step`` (0-based): 1 in constant phases, 1 - (i + 1)/(n + 1) at the i-th step
    of a decaying phase of n steps (the CycleGAN schedule counted in steps); 0 beyond the end, never negative."""
    for phase in phases:
        if step < phase.steps:
            return 1.0 - (step + 1) / (phase.steps + 1) if phase.decay else 1.0
        step -= phase.steps
    return 0.0


def phase_at(step: int, phases: Sequence[Phase]) -> Phase:
    """The phase that loop step ``step`` (0-based) belongs to."""
    return phases[_place(step, phases)[0]]


def _place(step: int, phases: Sequence[Phase]) -> tuple[int, int]:
    """The number of the phase that loop step ``step`` (0-based) belongs to, and how many it has with that one."""
    for number, phase in enumerate(phases):
        if step < phase.steps:
            return number, step + 1
        step -= phase.steps
    raise IndexError(step)


def rank_seed(seed: int, rank: int) -> int:
    """Seed of one worker's own random stream (pools, dropout); distinct streams for distinct (seed, rank)."""
    return (seed * 1_000_003 + rank * 7_919 + 17) % 2**63


def check_share(batch: int, workers: int, said: str = "budget.batch") -> None:
    """InputError, of what is ``said``, unless ``batch`` samples fall to ``workers`` in equal parts: the mean of their
    gradients would not be that of the batch, and a worker without a sample has none."""
    if batch % workers:
        raise InputError(
            f"{said} = {batch} for {workers} workers",
            expected=f"a multiple of {workers}",
            remedy="set budget.batch or --workers-per-trial",
        )


class Loop:
    """Trains ``method`` through ``phases`` on the batches of ``draws``.

    validate: called with the method in evaluation mode at every report, returns metrics (``val/…``); rank 0 only.
    score: the one of them that patience waits for, unless it waits for the loss.
    epoch: updates of an epoch, for ``training.patience_epochs``.
    average: decay of the moving average of the downstream networks' weights; ``training`` has that of the generators'.
    reports: how many times, evenly spread, the loop validates, checkpoints and reports; as often in a phase with a bar.
    seed: of the workers' random streams; the networks were initialised by whoever made the method, alike on each rank.
    """

    def __init__(
        self,
        method: Method,
        draws: Draws,
        phases: Sequence[Phase],
        *,
        training: Training,
        batch: int,
        reports: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        validate: Validate | None = None,
        score: str = "val/dice",
        epoch: int = 1,
        average: float = 0.0,
    ) -> None:
        check_share(batch, world)
        self.device = torch.device(device)
        self.method, self.draws = method.to(self.device), draws
        self.phases = tuple(phase for phase in phases if phase.steps > 0)
        self.total = sum(phase.steps for phase in self.phases)
        self.training, self.batch = training, batch
        self.rank, self.world, self.validate, self.score = rank, world, validate, score
        self.waited, self.epoch = LOSS if training.waits_for == "loss" else score, epoch
        self.reports, self.interval = reports, max(1, math.ceil(self.total / reports))
        self.update = OptimisationStep(
            method.networks(),
            method.optimisers(),
            clip_norm=training.clip_norm,
            autocast=choose_precision(training.precision, self.device),
            device=self.device,
        )
        self.step = 0
        self.history: list[Record] = []
        self.device_seconds = 0.0
        self.stopped = False
        self.decays = {
            **(dict.fromkeys(method.generators, training.ema) if training.ema else {}),
            **(dict.fromkeys(method.downstream_networks(), average) if average else {}),
        }
        self.average = _snapshot(method, tuple(self.decays))
        self.best: dict[str, Tensor] = {}
        torch.manual_seed(rank_seed(seed, rank))
        for module in method.modules():
            if callable(seeding := getattr(module, "seed", None)):
                seeding(seed, rank)

    # --- running -------------------------------------------------------------------------------------------------

    def run(self, reporter: Reporter) -> Method:
        """Train to the end of the schedule (or the early stop), from the reporter's newest checkpoint if it has one.

        Raises Diverged, saying at which step, where losses, weights or the validation are no numbers.
        """
        with reporter.latest() as checkpoint:
            if checkpoint is not None:
                self.load(checkpoint)
        try:
            self._train(reporter)
            self.update.check_taken()
        except Diverged as error:
            raise error.within(f"the training diverged by step {self.step} of {self.total}") from None
        return self.method.eval()

    def _train(self, reporter: Reporter) -> None:
        self.method.train()
        losses: dict[str, list[Tensor]] = {}
        taken, began, spent = 0, time.perf_counter(), self._clock()
        while self.step < self.total and not self.stopped:
            for name, loss in self._one_step().items():
                losses.setdefault(name, []).append(loss.detach().float())
            taken += 1
            if self._due():
                elapsed = time.perf_counter() - began
                self.device_seconds += (self._clock() - spent) * self.world
                # A loss of one phase is averaged over the steps that had it.
                self._record({name: torch.stack(some).mean() for name, some in losses.items()}, taken / elapsed)
                reporter.report(self.history, self.save)
                losses, taken, began, spent = {}, 0, time.perf_counter(), self._clock()

    def _due(self) -> bool:
        """Whether there is a report now. A phase with a bar has as many of its own, one at its end."""
        number, taken = _place(self.step - 1, self.phases)
        if (phase := self.phases[number]).bar:
            return taken % max(1, math.ceil(phase.steps / self.reports)) == 0 or taken == phase.steps
        return self.step % self.interval == 0 or self.step == self.total

    def _clock(self) -> float:
        """Seconds that the device works for this training: on a CPU those that this thread computes, whatever else the
        machine does meanwhile. A GPU has no such clock, and is shared only where fractions of one are asked for."""
        if self.device.type != "cpu":
            return time.perf_counter()
        return time.thread_time()

    def _one_step(self) -> dict[str, Tensor]:
        self.update.phase = phase_at(self.step, self.phases).name
        self.update.set_rate(rate_factor(self.step, self.phases))
        batch = {
            role: images.to(self.device) for role, images in self.draws.batch(self.step, self.rank, self.world).items()
        }
        losses = self.method.step(cast(Mapping[str, Images], batch), self.update)
        self._follow_average()
        self.step += 1
        moved()
        return losses

    def _record(self, losses: dict[str, Tensor], steps_per_second: float) -> None:
        average_over_workers(list(losses.values()))
        record: Record = {
            "step": self.step,
            "time": time.time(),
            "progress": self.step / self.total,
            "rate": rate_factor(self.step - 1, self.phases),
            **{f"train/{name}": float(loss) for name, loss in losses.items()},
            "speed/samples_per_second": steps_per_second * self.batch,
            "budget/device_seconds": self.device_seconds,
        }
        if self.validate is not None and self.rank == 0:
            self.method.eval()
            with self.averaged(), torch.random.fork_rng(devices=[]):
                record.update(self.validate(self.method, self.step))
            self.method.train()
            for name in {self.score, self.waited}:
                if not math.isfinite(reached := record.get(name, 0.0)):
                    raise Diverged(f"{name} = {reached}")
        number, taken = _place(self.step - 1, self.phases)
        if bar := self.phases[number].bar:
            record[GUIDE_BAR] = bar
            # Beyond its bar the rest of a phase would teach nothing that is asked.
            if self._agree(record.get(GUIDE, -math.inf) >= bar):
                self._last([*(one.steps for one in self.phases[:number]), taken])
                record["progress"] = self.step / self.total
        self.history.append(record)
        if self.training.keep == "best" and self._merits() and self._best()[0] == self.step:
            self.best = {name: value.clone() for name, value in self._weights().items()}
        self.stopped = self._agree(self._out_of_patience())

    def _last(self, steps: Sequence[int]) -> None:
        """Have the first phases last so many steps."""
        shorter = (replace(one, steps=count) for one, count in zip(self.phases, steps))
        self.phases = (*shorter, *self.phases[len(steps) :])
        self.total = sum(one.steps for one in self.phases)

    def _out_of_patience(self) -> bool:
        merits, training = self._merits(), self.training
        if not merits:
            return False
        best, _ = self._best()
        since = sum(step > best for step, _ in merits)
        late = training.patience > 0 and since >= training.patience
        epochs = (self.step - best) / self.epoch
        return late or (training.patience_epochs > 0 and epochs >= training.patience_epochs)

    def _merits(self) -> list[tuple[int, float]]:
        """Step and what patience waits for, more being better, of the validations that count."""
        sign = -1.0 if self.waited == LOSS else 1.0
        return [
            (int(record["step"]), sign * record[self.waited])
            for record in self.history
            if self.waited in record and phase_at(int(record["step"]) - 1, self.phases).may_stop
        ]

    def _best(self) -> tuple[int, float]:
        """The first of the best of them."""
        return max(self._merits(), key=lambda merit: merit[1])

    def _agree(self, verdict: bool) -> bool:
        """Rank 0's verdict on every rank: only rank 0 validates, and all must stop together."""
        if self.world == 1:
            return verdict
        shared = torch.tensor([float(verdict)], device=self.device)
        with paused():  # rank 0 validates, and is watched while it does
            dist.broadcast(shared, src=0)
        return bool(shared.item())

    # --- moving average ------------------------------------------------------------------------------------------

    def _follow_average(self) -> None:
        for network, decay in self.decays.items():
            current = _snapshot(self.method, (network,), copy=False)
            # The first weights, drawn at random, must be no part of what a short training, or a late phase, comes to.
            taken = int(next(iter(self.update.optimisers[network].state.values()), {"step": 0})["step"])
            weight = 1.0 - min(decay, taken / (9 + taken))
            torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), weight)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, networks hold their moving averages, those that have one."""
        if not self.average:
            yield
            return
        kept = _snapshot(self.method, tuple(self.decays))
        self.method.load_state_dict(self.average, strict=False)
        try:
            yield
        finally:
            self.method.load_state_dict(kept, strict=False)

    def final_weights(self) -> dict[str, Tensor]:
        """What is kept of the training: every network's weights on the CPU, averaged where that is asked for; of the
        best validation, where that is asked for and there was one."""
        return self.best or self._weights()

    def _weights(self) -> dict[str, Tensor]:
        weights = {
            f"{name}.{key}": value.detach().cpu().contiguous()
            for name, network in self.method.networks().items()
            for key, value in network.state_dict().items()
        }
        return {**weights, **{name: value.cpu().contiguous() for name, value in self.average.items()}}

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write this rank's part of a checkpoint into ``directory``; rank 0 also writes what all ranks share.

        Everything is in it: networks, optimisers, moving averages, position, history; and per rank the random
        streams and the replay pools. The sampler needs nothing: a batch is a function of the position.
        """
        networks = tuple(f"{name}." for name in self.method.networks())
        state = self.method.state_dict()
        own = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "pools": {name: value for name, value in state.items() if not name.startswith(networks)},
        }
        _write(own, directory / f"rank-{self.rank}.pt")
        if self.rank == 0:
            shared = {
                "networks": {name: value for name, value in state.items() if name.startswith(networks)},
                "optimisers": {name: optimiser.state_dict() for name, optimiser in self.update.optimisers.items()},
                "average": self.average,
                "best": self.best,
                "step": self.step,
                "phases": [phase.steps for phase in self.phases],
                "history": self.history,
                "device_seconds": self.device_seconds,
                "non_finite": self.update.non_finite,
                "stopped": self.stopped,
                "world": self.world,
            }
            _write(shared, directory / "shared.pt")

    def load(self, directory: Path) -> None:
        """Take up where the checkpoint in ``directory`` left off; bit for bit on the CPU with the same worker count.

        With another number of workers, ranks beyond the saved ones start with fresh pools and random streams.
        """
        # On the CPU first: optimisers move what belongs on the device, and leave their step counts off it, where each
        # would cost a synchronisation at every step.
        shared = torch.load(directory / "shared.pt", map_location="cpu", weights_only=True)
        part = directory / f"rank-{self.rank}.pt"
        own: dict[str, Any] = {"pools": {}, "torch": None, "cuda": None}
        if part.exists():
            own = torch.load(part, map_location="cpu", weights_only=True)
        self.method.load_state_dict({**shared["networks"], **own["pools"]}, strict=part.exists())
        for name, state in shared["optimisers"].items():
            self.update.optimisers[name].load_state_dict(state)
        self.average = {name: value.to(self.device) for name, value in shared["average"].items()}
        self.best = dict(shared.get("best", {}))
        self.step, self.history = shared["step"], shared["history"]
        self._last(shared.get("phases", ()))
        self.device_seconds, self.stopped = shared["device_seconds"], shared["stopped"]
        self.update.non_finite = shared["non_finite"] or {}
        if own["torch"] is not None:
            torch.set_rng_state(own["torch"])
        if own["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)


def _snapshot(method: Method, names: Sequence[str], *, copy: bool = True) -> dict[str, Tensor]:
    """Floating-point weights and buffers of the named networks, under the method's own state-dict names."""
    networks = method.networks()
    return {
        f"{name}.{key}": value.detach().clone() if copy else value.detach()
        for name in names
        if name in networks
        for key, value in networks[name].state_dict().items()
        if value.is_floating_point()
    }


def _write(state: Any, path: Path) -> None:
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(path)
