"""One optimisation step of some of a method's networks: freezing, precision, averaging over workers, clipping, and the
guard against steps that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganatomy.contracts import Adam, InputError

MAX_NON_FINITE = 20
"""Consecutive refused steps of the same networks after which training is called diverged."""

REMEDY = (
    "lower the learning rate (downstream.learning_rate, or the method's), set training.clip_norm, or take another seed"
)


class Diverged(InputError):
    """A training came to losses, weights or predictions that are no numbers. It leaves no model, and nothing that may
    be scored as a bad one."""

    def __init__(self, what: str, *, expected: str = "", remedy: str = "") -> None:
        super().__init__(what, expected=expected, remedy=remedy or REMEDY)

    def within(self, place: str) -> Diverged:
        """The same, saying first where; it was raised where this was."""
        other = Diverged(f"{place}: {self.what}", expected=self.expected, remedy=self.remedy)
        other.__notes__ = list(getattr(self, "__notes__", ()))
        return other.with_traceback(self.__traceback__)


class OptimisationStep:
    """The loop's ``contracts.Update``: freezing, precision, averaging, clipping, guarding and stepping."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        settings: Mapping[str, Adam],
        *,
        clip_norm: float = 0.0,
        autocast: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        missing = set(networks) - set(settings)
        if missing:
            raise InputError(f"no optimiser settings for {', '.join(sorted(missing))}", expected="one Adam per network")
        self.phase = ""
        self.device = device or torch.device("cpu")
        self.clip_norm, self.autocast = clip_norm, autocast
        self.non_finite: dict[str, int] = {}
        self.parameters = {  # what was frozen before the training began stays so
            name: [parameter for parameter in network.parameters() if parameter.requires_grad]
            for name, network in networks.items()
        }
        self.optimisers = {
            name: torch.optim.Adam(
                self.parameters[name], lr=adam.lr, betas=adam.betas, weight_decay=adam.weight_decay, foreach=True
            )
            for name, adam in settings.items()
        }
        self.base_rates = {name: adam.lr for name, adam in settings.items()}

    @contextmanager
    def __call__(self, *networks: str) -> Iterator[Callable[[Tensor], None]]:
        """Open the step of ``networks``: they alone learn; ``minimise(loss)`` must be called exactly once inside."""
        for name, parameters in self.parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(name in networks)
        for name in networks:
            self.optimisers[name].zero_grad(set_to_none=True)
        calls = 0

        def minimise(loss: Tensor) -> None:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise RuntimeError(f"minimise was called twice in update{networks}: sum the losses instead")
            self._minimise(loss, networks)

        try:
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                yield minimise
            if calls == 0:
                raise RuntimeError(f"update{networks} ended without minimise(loss)")
        finally:
            for parameters in self.parameters.values():
                for parameter in parameters:
                    parameter.requires_grad_(True)

    def set_rate(self, factor: float) -> None:
        """Scale every network's learning rate to ``factor`` times its own base rate."""
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.base_rates[name] * factor

    def check_taken(self) -> None:
        """Raise Diverged where what is left of a network is no training: weights that are no numbers, or not one update
        that was taken, as in a training shorter than the patience with refused ones."""
        for name, parameters in self.parameters.items():
            finite = [torch.isfinite(parameter).all() for parameter in parameters]
            if finite and not bool(torch.stack(finite).all()):
                raise Diverged(f"weights of {name} are no numbers")
        for group, refused in self.non_finite.items():
            if refused and not any(self.optimisers[name].state for name in group.split(", ")):
                raise Diverged(f"no update of {group} could be taken: all their gradients are no numbers")

    def _minimise(self, loss: Tensor, networks: Sequence[str]) -> None:
        with torch.autocast(self.device.type, enabled=False):
            loss.float().backward()
        gradients = [p.grad for name in networks for p in self.parameters[name] if p.grad is not None]
        average_over_workers(gradients)
        norm, group = torch.nn.utils.get_total_norm(gradients), ", ".join(networks)
        # The averaged gradient is the same on every worker, so all of them take or refuse the step together.
        if not bool(torch.isfinite(norm)):
            self.non_finite[group] = self.non_finite.get(group, 0) + 1
            if self.non_finite[group] > MAX_NON_FINITE:
                raise Diverged(
                    f"{self.non_finite[group]} updates of {group} in a row had gradients that are no numbers "
                    f"(loss {float(loss.detach()):g}, phase {self.phase!r})"
                )
            return
        self.non_finite[group] = 0
        if self.clip_norm > 0 and norm > self.clip_norm:
            torch._foreach_mul_(gradients, self.clip_norm / norm)
        for name in networks:
            self.optimisers[name].step()


def choose_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type: bf16 where asked for, or (``auto``) where a GPU does it in hardware; None is plain fp32."""
    if precision == "bf16":
        return torch.bfloat16
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return None


def average_over_workers(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all workers, in place and in one message; nothing to do for one worker."""
    if not tensors or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for tensor in tensors:
        tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
        offset += tensor.numel()
