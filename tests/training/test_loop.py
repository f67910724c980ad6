"""The training loop: what learns and what does not, the schedule, refusing bad steps, and resuming bit for bit."""

import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from ganatomy.contracts import Adam, Images, Method, Phase, Task
from ganatomy.experiment import Training
from ganatomy.training.distributed import DirectoryReporter, read_history
from ganatomy.training.loop import Loop, phase_at, rate_factor
from ganatomy.training.optimisation import MAX_NON_FINITE, Diverged, OptimisationStep
from ganatomy_methods.common.buffers import ReplayPool

TASK = Task(ndim=2, classes=2, segmentor=lambda: nn.Conv2d(1, 2, 1))


@dataclass(frozen=True)
class Config:
    learning_rate: float = 1e-2
    poison_at: int = -1


class Duel(Method):
    """A generator, its adversary, dropout and a pool: everything a checkpoint must hold, in two small layers."""

    Config = Config
    roles = ("A",)
    generators = ("G",)

    def downstream_networks(self):
        return ("D",)

    def __init__(self, config, task):
        super().__init__(config, task)
        self.G = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 1, 3, padding=1))
        self.D = nn.Conv2d(1, 1, 3, padding=1)
        self.pool = ReplayPool(4, stream=0)

    def optimisers(self):
        return {"G": Adam(self.config.learning_rate), "D": Adam(self.config.learning_rate)}

    def phases(self, generator_steps, segmentor_steps):
        return Phase("constant", generator_steps), Phase("decay", segmentor_steps, decay=True)

    def step(self, batch, update):
        x = batch["A"].image
        with update("G") as minimise:
            fake = self.G(x)
            loss = ((self.D(fake) - 1) ** 2).mean() + (fake - x).abs().mean()
            minimise(loss)
        with update("D") as minimise:
            judged = (self.D(self.pool(fake)) ** 2).mean() + ((self.D(x) - 1) ** 2).mean()
            minimise(judged)
        return {"G": loss, "D": judged}

    def synthesize(self, batch):
        return []


class Noise:
    """Batches that are a function of the step and the sample's place in the global batch."""

    def __init__(self, size=4, poison=frozenset()):
        self.size, self.poison = size, poison

    def batch(self, step, rank=0, world=1):
        samples = []
        for i in range(rank, self.size, world):
            generator = torch.Generator().manual_seed(1000 * step + i)
            samples.append(torch.rand(1, 8, 8, generator=generator) * 2 - 1)
        image = torch.stack(samples)
        if step in self.poison:
            image = image * math.nan
        return {"A": Images(image, torch.zeros(len(image), 8, 8, dtype=torch.int64))}


class Forgetful:
    """Reports nowhere, starts from nothing."""

    def report(self, history, save):
        pass

    @contextmanager
    def latest(self):
        yield None


def make_loop(steps=6, reports=6, training=None, draws=None, validate=None, phases=None, seed=0, average=0.0):
    torch.manual_seed(7)
    method = Duel(Config(), TASK)
    return Loop(
        method,
        draws or Noise(),
        phases or (Phase("constant", steps // 2), Phase("decay", steps - steps // 2, decay=True)),
        training=training or Training(),
        batch=4,
        reports=reports,
        seed=seed,
        validate=validate,
        average=average,
    )


def weights(loop):
    return {name: value.clone() for name, value in loop.method.state_dict().items() if isinstance(value, torch.Tensor)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def step_of(method, **options):
    return OptimisationStep(method.networks(), method.optimisers(), **options)


# --- update ------------------------------------------------------------------------------------------------------


def test_only_the_named_network_learns_and_gradient_flows_through_the_others():
    method = Duel(Config(), TASK)
    update = step_of(method)
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in method.networks().items()}
    x = torch.rand(2, 1, 8, 8)
    with update("G") as minimise:
        assert not any(p.requires_grad for p in method.D.parameters())
        minimise((method.D(method.G(x)) ** 2).mean())
    assert all(p.grad is None for p in method.D.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.G.parameters())
    changed = {
        name: any(not torch.equal(a, b) for a, b in zip(before[name], net.parameters(), strict=True))
        for name, net in method.networks().items()
    }
    assert changed == {"G": True, "D": False}
    assert all(p.requires_grad for p in method.parameters())


def test_an_update_needs_exactly_one_minimise():
    method = Duel(Config(), TASK)
    update = step_of(method)
    with pytest.raises(RuntimeError, match="without minimise"), update("G"):
        pass
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(RuntimeError, match="twice"), update("G") as minimise:
        minimise(method.G(x).mean())
        minimise(method.G(x).mean())


def test_clipping_bounds_the_joint_norm_of_all_named_networks():
    method = Duel(Config(), TASK)
    update = step_of(method, clip_norm=1e-3)
    with update("G", "D") as minimise:
        minimise(100 * (method.D(method.G(torch.rand(2, 1, 8, 8))) ** 2).mean())
    norm = torch.sqrt(sum((p.grad**2).sum() for p in method.parameters()))
    assert float(norm) == pytest.approx(1e-3, rel=1e-4)


def test_one_adam_a_network_equals_one_adam_over_all():
    torch.manual_seed(0)
    method, twin = Duel(Config(), TASK), Duel(Config(), TASK)
    twin.load_state_dict(method.state_dict())
    method.eval(), twin.eval()
    together = torch.optim.Adam(twin.parameters(), lr=1e-2, betas=(0.5, 0.999))
    update = step_of(method)
    for k in range(3):
        x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(k))
        with update("G", "D") as minimise:
            minimise((method.D(method.G(x)) ** 2).mean())
        together.zero_grad()
        (twin.D(twin.G(x)) ** 2).mean().backward()
        together.step()
    for ours, theirs in zip(method.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_a_non_finite_step_is_refused_and_training_goes_on():
    loop = make_loop(steps=4, draws=Noise(poison={1}))
    loop._one_step()
    kept = weights(loop)
    loop._one_step()
    assert same(
        {k: v for k, v in weights(loop).items() if "pool" not in k}, {k: v for k, v in kept.items() if "pool" not in k}
    )
    loop.method.pool = ReplayPool(0, stream=0)  # the poisoned fake must not come back from the pool in this test
    loop._one_step()
    assert not same(weights(loop), kept)


def test_endless_non_finite_steps_are_called_divergence():
    loop = make_loop(steps=100, draws=Noise(poison=set(range(100))))
    with pytest.raises(Diverged, match=rf"by step {MAX_NON_FINITE} of 100.*lower the learning rate.*another seed"):
        loop.run(Forgetful())
    assert loop.step <= MAX_NON_FINITE + 1


@pytest.mark.parametrize("validated", [math.nan, math.inf])
def test_a_validation_that_is_no_number_is_divergence_at_that_step(validated):
    seen = []

    def validate(method, step):
        seen.append(step)
        return {"val/dice": validated if step == 4 else 0.5, "val/hd95": math.nan}

    loop = make_loop(steps=6, reports=3, validate=validate)
    with pytest.raises(Diverged, match=r"diverged by step 4 of 6: val/dice = (nan|inf)"):
        loop.run(Forgetful())
    assert seen == [2, 4]


@pytest.mark.parametrize(("poison", "error"), [
    (set(range(6)), "by step 6 of 6: no update of G could be taken"),
    ({0, 1, 2, 4, 5}, ""),  # one was taken, and what it left is a model
])  # fmt: skip
def test_a_training_too_short_to_lose_patience_must_have_learnt_something(poison, error):
    loop = make_loop(steps=6, draws=Noise(poison=poison))
    loop.method.pool = ReplayPool(0, stream=0)
    if not error:
        loop.run(Forgetful())
        return
    with pytest.raises(Diverged, match=error):
        loop.run(Forgetful())


def test_weights_that_are_no_numbers_are_no_model():
    loop = make_loop()
    loop.run(Forgetful())
    loop.update.check_taken()
    with torch.no_grad():
        loop.method.D.bias.fill_(math.inf)
    with pytest.raises(Diverged, match="weights of D are no numbers"):
        loop.update.check_taken()


# --- schedule (T-A4) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_decay"), [(100, 100), (3, 7), (0, 5)])
def test_rate_is_cyclegans_schedule_counted_in_steps(n, n_decay):
    phases = (Phase("constant", n), Phase("decay", n_decay, decay=True))
    for e in range(n + n_decay):
        assert rate_factor(e, phases) == pytest.approx(1 - max(0, e + 1 - n) / (n_decay + 1))
    assert rate_factor(n + n_decay, phases) == 0.0
    assert all(rate_factor(e, phases) >= 0 for e in range(2 * (n + n_decay)))


def test_phases_follow_each_other():
    phases = (Phase("one", 2), Phase("two", 3))
    assert [phase_at(step, phases).name for step in range(5)] == ["one", "one", "two", "two", "two"]


def test_each_network_keeps_its_own_base_rate():
    update = OptimisationStep({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}, {"a": Adam(1e-2), "b": Adam(1e-3)})
    update.set_rate(0.5)
    assert update.optimisers["a"].param_groups[0]["lr"] == pytest.approx(5e-3)
    assert update.optimisers["b"].param_groups[0]["lr"] == pytest.approx(5e-4)


# --- determinism and resuming (T-A7) -----------------------------------------------------------------------------


class Killed(Exception):
    pass


class Dying(DirectoryReporter):
    """Dies right after the checkpoint of a given step is complete."""

    def __init__(self, directory, at):
        super().__init__(directory, lambda: None)
        self.at = at

    def report(self, history, save):
        super().report(history, save)
        if history[-1]["step"] == self.at:
            raise Killed


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, ema):
    training = Training(ema=ema)
    straight = make_loop(training=training)
    broken = tmp_path / "broken"
    for folder in (tmp_path / "straight", broken):
        folder.mkdir()
    straight.run(DirectoryReporter(tmp_path / "straight", lambda: None))
    with pytest.raises(Killed):
        make_loop(training=training).run(Dying(broken, at=3))
    torch.rand(17)  # whatever the process did meanwhile
    resumed = make_loop(training=training)
    resumed.run(DirectoryReporter(broken, lambda: None))
    assert same(weights(resumed), weights(straight))
    assert same(resumed.final_weights(), straight.final_weights())
    for name, optimiser in resumed.update.optimisers.items():
        other = straight.update.optimisers[name].state_dict()["state"]
        for key, state in optimiser.state_dict()["state"].items():
            assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(other[key][k])) for k in state)
    losses = [
        [(r["train/G"], r["train/D"]) for r in read_history(tmp_path / which)] for which in ("straight", "broken")
    ]
    assert losses[0] == losses[1]


def test_same_seed_same_losses_another_seed_others(tmp_path: Path):
    traces = []
    for k, seed in enumerate((0, 0, 1)):
        loop = make_loop(seed=seed)
        (tmp_path / str(k)).mkdir()
        loop.run(DirectoryReporter(tmp_path / str(k), lambda: None))
        traces.append([record["train/G"] for record in loop.history])
    assert traces[0] == traces[1] != traces[2]


def test_checkpoints_are_replaced_only_by_complete_ones(tmp_path: Path):
    loop = make_loop()
    reporter = DirectoryReporter(tmp_path, lambda: None)
    loop.run(reporter)
    complete = list(tmp_path.glob("checkpoint-*"))
    assert [path.name for path in complete] == ["checkpoint-000000006"]

    def fails(directory):
        (directory / "shared.pt").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        reporter.report([{"step": 7}], fails)
    assert sorted(path.name for path in tmp_path.glob("*checkpoint-*")) == ["checkpoint-000000006"]


# --- early stop, reports ---------------------------------------------------------------------------------------------


def test_early_stop_after_patience_validations_without_a_better_score():
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    loop = make_loop(training=Training(patience=3), validate=lambda method, step: {"val/dice": next(scores)})
    loop.run(Forgetful())
    assert [record["val/dice"] for record in loop.history] == [0.1, 0.3, 0.2, 0.3, 0.25]
    assert loop.step == 5


def test_reports_average_the_losses_since_the_last_one():
    every = make_loop(steps=6, reports=6)
    every.run(Forgetful())
    pairs = make_loop(steps=6, reports=3)
    pairs.run(Forgetful())
    single = [record["train/G"] for record in every.history]
    assert [record["step"] for record in pairs.history] == [2, 4, 6]
    assert [r["train/G"] for r in pairs.history] == pytest.approx([sum(single[i : i + 2]) / 2 for i in (0, 2, 4)])
    assert pairs.history[-1]["progress"] == 1.0
    assert pairs.history[-1]["budget/device_seconds"] > 0
