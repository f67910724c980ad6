"""A phase with a bar: it ends where its guides are good enough, and its end is looked at."""

from __future__ import annotations

import pytest
import torch

from ganatomy.contracts import Phase
from ganatomy.experiment import Training
from ganatomy.training.distributed import DirectoryReporter, read_history
from ganatomy.training.loop import GUIDE, GUIDE_BAR, Loop
from ganatomy.training.tasks import guide_of
from training.test_loop import TASK, Config, Duel, Forgetful, Noise

BAR = 0.5


class Phased(Duel):
    """Keeps the phase of every step."""

    def step(self, batch, update):
        self.seen = [*getattr(self, "seen", ()), update.phase]
        return super().step(batch, update)


def loop_of(found, guide=8, after=4, reports=4):
    """found: step -> Dice of the guides."""
    torch.manual_seed(7)
    phases = Phase("guide", guide, may_stop=False, bar=BAR), Phase("after", after, decay=True)
    return Loop(Phased(Config(), TASK), Noise(), phases, training=Training(), batch=4, reports=reports, seed=0,
                validate=lambda method, step: {GUIDE: found(step)})  # fmt: skip


@pytest.mark.parametrize(("reached", "ends"), [(1, 2), (3, 4), (4, 4), (7, 8), (99, 8)])
def test_the_phase_ends_at_the_first_look_that_reaches_the_bar_and_at_the_latest_in_its_time(reached, ends):
    loop = loop_of(lambda step: BAR if step >= reached else 0.1)
    loop.run(Forgetful())
    assert loop.method.seen == ["guide"] * ends + ["after"] * 4
    assert loop.step == loop.total == ends + 4
    asked = [int(record["step"]) for record in loop.history if GUIDE_BAR in record]
    assert asked == [step for step in (2, 4, 6, 8) if step <= ends]
    assert guide_of(loop.history) == (BAR if ends < 8 or reached == 7 else 0.1, BAR)
    assert loop.history[-1]["progress"] == 1
    # What comes after decays over all of its own steps.
    assert loop.history[-1]["rate"] == pytest.approx(1 / 5)


def test_the_end_of_the_phase_is_looked_at_where_no_report_would_fall_on_it():
    loop = loop_of(lambda step: 0.0, guide=5, after=20, reports=2)
    loop.run(Forgetful())
    assert [int(record["step"]) for record in loop.history] == [3, 5, 13, 25]


def test_a_training_that_was_killed_after_the_bar_goes_on_with_the_next_phase(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = loop_of(lambda step: float(step))
    whole.run(DirectoryReporter(tmp_path / "whole", lambda: None))

    class Killed(Exception):
        pass

    def kill():
        raise Killed

    with pytest.raises(Killed):
        loop_of(lambda step: float(step)).run(DirectoryReporter(tmp_path / "parts", kill))
    assert [record["step"] for record in read_history(tmp_path / "parts")] == [2]
    resumed = loop_of(lambda step: 0.0)  # what is asked now no longer matters
    resumed.run(DirectoryReporter(tmp_path / "parts", lambda: None))
    assert resumed.method.seen == ["after"] * 4
    for name, value in whole.method.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(resumed.method.state_dict()[name], value), name


def test_without_a_bar_nothing_is_cut_short():
    loop = Loop(Duel(Config(), TASK), Noise(), (Phase("guide", 4), Phase("after", 4)), training=Training(), batch=4,
                reports=4, seed=0, validate=lambda method, step: {GUIDE: 1.0})  # fmt: skip
    loop.run(Forgetful())
    assert loop.step == 8
    assert guide_of(loop.history) is None
