"""What a sweep's trials try is on record, and a sweep that was killed at any moment goes on with exactly that; as many
run at once as there is room for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from ganatomy.contracts import InputError
from ganatomy.core.plugins import resolve
from ganatomy.evidence.results import SweepPlan, conclude, write_result
from ganatomy.experiment import TrialResult
from ganatomy.sweeps import tuning
from ganatomy.sweeps.proposals import ASKED, TRIAL, Proposals, read_asked, study_of
from ganatomy.sweeps.tuning import AsManyAsFit


def plan_of(**values) -> SweepPlan:
    base = resolve("spaces", "phantom_demo").base
    needed = {"name": "x", "space": "phantom_demo", "base": base, "store": "", "cohort": "", "cohort_digest": ""}
    return SweepPlan(**{**needed, "trials": 9, **values})


SPACE = "shape_consistent_small"
BASE = resolve("spaces", SPACE).base
PLAN = plan_of(space=SPACE, base=BASE, fixed={"arm": "offline"}, seeds=(0, 1), trials=14)
"""Most of its points are sampled, of numbers that never come twice."""

LISTED = PLAN.search_space().listed(PLAN.fixed, PLAN.seeds)
SCORE = PLAN.score


@pytest.fixture
def directory(tmp_path):
    PLAN.save(tmp_path)
    return tmp_path


def end(proposals: Proposals, trial: str, name: str, status: str = "finished", score: float = 0.5) -> None:
    folder = proposals.directory / "trials" / name
    write_result(folder, TrialResult(name, BASE, status, summary={SCORE: score}))
    conclude(proposals.directory, name)
    proposals.on_trial_complete(trial, {SCORE: score})


def ask(proposals: Proposals, count: int, session: str) -> dict[str, dict]:
    """Tune's name for a trial -> values."""
    return {trial: proposals.suggest(trial) for trial in (f"{session}-{number}" for number in range(count))}


def test_a_killed_sweep_goes_on_with_the_trials_that_had_not_ended_and_then_with_others(directory):
    first = Proposals(PLAN, directory)
    asked = ask(first, 9, "first")
    assert {trial: values[TRIAL] for trial, values in asked.items()} == {trial: trial for trial in asked}
    ended = ["first-0", "first-3", "first-7"]
    for trial in ended:
        end(first, trial, trial)
    again = Proposals(PLAN, directory)
    assert again.left == 14 - len(ended)
    resumed = list(ask(again, again.left, "second").values())
    assert resumed[:6] == [values for trial, values in asked.items() if trial not in ended]
    whole = [*asked.values(), *resumed[6:]]
    assert [*read_asked(directory)] == [values[TRIAL] for values in whole]
    assert len({repr({**values, TRIAL: ""}) for values in whole}) == 14, "something is tried twice"
    third = Proposals(PLAN, directory)
    assert third.left == 11
    assert ask(third, 11, "third")["third-0"] == asked["first-1"]


def test_what_is_listed_is_asked_once_however_early_the_sweep_was_killed(directory):
    ask(Proposals(PLAN, directory), 1, "first")
    assert len(LISTED) > 1
    asked = list(ask(Proposals(PLAN, directory), len(LISTED), "second").values())
    for point, values in zip(LISTED, asked, strict=True):
        assert values.items() >= point.items()


def test_optuna_knows_what_came_of_the_trials_before(directory):
    first = Proposals(PLAN, directory)
    ask(first, 4, "first")
    end(first, "first-0", "first-0", score=0.25)
    end(first, "first-1", "first-1", "failed", score=0.75)
    for proposals in (first, Proposals(PLAN, directory)):
        trials = proposals.study.get_trials(deepcopy=False)
        asked = [trial for trial in trials if trial.params]
        assert [trial.state for trial in asked[:3]] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
        assert [trial.value for trial in asked[:2]] == [0.25, None], "what failed came to nothing"


def test_a_record_that_was_being_written_is_of_a_trial_that_never_began(directory):
    ask(Proposals(PLAN, directory), 2, "first")
    whole = (directory / ASKED).read_text()
    with (directory / ASKED).open("a") as file:
        file.write('{"trial": "first-2", "val')
    again = Proposals(PLAN, directory)
    assert (directory / ASKED).read_text() == whole
    assert [values[TRIAL] for values in ask(again, 3, "second").values()] == ["first-0", "first-1", "second-2"]


def test_trials_that_are_not_on_record_are_refused_with_the_remedy(directory):
    (directory / "trials" / "older").mkdir(parents=True)
    with pytest.raises(InputError, match="older among them") as refused:
        Proposals(PLAN, directory)
    assert "begin anew" in str(refused.value)


def test_a_trial_that_was_concluded_without_a_result_runs_again(directory):
    ask(Proposals(PLAN, directory), 1, "first")
    (directory / "trials" / "first-0").mkdir(parents=True)
    conclude(directory, "first-0")
    assert [name for name, _ in Proposals(PLAN, directory).again] == ["first-0"]


def test_a_name_that_tune_gives_twice_is_not_taken_for_the_trial_that_has_it(directory):
    ask(Proposals(PLAN, directory), 1, "tune")
    again = Proposals(PLAN, directory)
    for number in (7, 0):
        values = again.suggest(f"tune-{number}")
    assert values[TRIAL] not in ("tune-0", "tune-7")
    assert len(read_asked(directory)) == 2


CONTROLS = tuple({"arm": "real", "budget.segmentor_steps": 2300, "seed": seed} for seed in (0, 1))


def test_controls_are_asked_once_and_optuna_neither_proposes_nor_hears_of_them(tmp_path):
    plan = replace(PLAN, controls=CONTROLS, trials=PLAN.trials + len(CONTROLS))
    plan.save(tmp_path)
    first = Proposals(plan, tmp_path)
    asked = ask(first, 5, "first")
    end(first, "first-0", "first-0", score=0.99)
    end(first, "first-2", "first-2")
    again = Proposals(plan, tmp_path)
    assert again.left == plan.trials - 2
    whole = [*asked.values(), *list(ask(again, again.left, "second").values())[3:]]
    tried = [{name: value for name, value in values.items() if name != TRIAL} for values in whole]
    assert tried[:2] == list(CONTROLS)
    assert sum(values in CONTROLS for values in tried) == len(CONTROLS)
    assert tried[2 : 2 + len(LISTED)] == LISTED
    assert len(tried) == plan.trials
    known = [trial for trial in again.study.get_trials(deepcopy=False) if trial.params]
    assert len(known) == PLAN.trials
    assert [trial.value for trial in known if trial.state == TrialState.COMPLETE] == [0.5]


def test_the_ten_thousandth_trial_can_be_proposed():
    study_of(PLAN, [{}] * 10_000)


class Own:
    """A laboratory's own space, of whatever can be chosen from."""

    name, description, base, points, seeds = "own", "", BASE, (), (0,)

    def __init__(self, choices):
        self.choices = choices

    def listed(self, fixed, seeds):
        return []

    def sampler(self, fixed, seeds):
        def sample(trial):
            trial.suggest_categorical("what", self.choices)
            trial.suggest_int("number", 0, 10**6)

        return sample


@pytest.mark.parametrize("choices", [
    ((64, 64), (32, (1, 2))),
    ([64, 64], [32]),
    (np.int64(3), np.float32(0.5)),
    (None, True, "a word"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_can_be_chosen_from_comes_back_as_what_it_was(directory, monkeypatch, choices):
    monkeypatch.setattr(type(PLAN), "search_space", lambda plan: Own(choices))
    asked = ask(Proposals(PLAN, directory), 6, "first")
    assert list(ask(Proposals(PLAN, directory), 6, "second").values()) == list(asked.values())
    assert all(type(values["what"]) in map(type, choices) for values in asked.values())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_put_on_record_is_refused(directory, monkeypatch):
    monkeypatch.setattr(type(PLAN), "search_space", lambda plan: Own((Path("a"), Path("b"))))
    with pytest.raises(InputError, match="cannot be put on record"):
        Proposals(PLAN, directory).suggest("first")


# --- how many at once --------------------------------------------------------------------------------------------


class Points(Searcher):
    """As many points as are asked for."""

    def suggest(self, trial_id):
        return {}

    def on_trial_complete(self, trial_id, result=None, error=False):
        pass


@pytest.mark.parametrize(("values", "together"), [
    ({"apart": True}, (3, 7, 5)),  # one more than fits: it waits for another's stage, holding nothing
    ({"apart": True, "workers": 2}, (1, 3, 2)),
    ({"apart": True, "workers": 2, "concurrent": 50}, (1, 3, 2)),
    ({"apart": True, "workers": 2, "concurrent": 2}, (1, 2, 2)),
    ({"cpus": 2.0}, (1, 3, 2)),
])  # fmt: skip
def test_as_many_trials_run_as_the_nodes_have_room_for_now(monkeypatch, values, together):
    """Nodes join and leave; whatever --concurrent says, no trial waits for workers that others hold."""
    present = [{"Resources": {"CPU": 2.0}}]
    monkeypatch.setattr(tuning.roll, "working", lambda: present)
    limiter = AsManyAsFit(Points(metric="x", mode="max"), plan_of(**values))
    live: list[str] = []
    for count, expected in zip((1, 3, 2), together):
        present[:] = [{"Resources": {"CPU": 2.0}}] * count
        while len(live) > expected:
            limiter.on_trial_complete(live.pop())
        while (limiter.suggest(trial := f"trial-{time.monotonic_ns()}")) is not None:
            live.append(trial)
        assert len(live) == expected


def test_workers_that_fit_no_node_are_refused_although_the_cluster_is_large(monkeypatch):
    monkeypatch.setattr(tuning.roll, "working", lambda: [{"Resources": {"CPU": 3.0}}] * 4)
    assert tuning.fitting(plan_of(cpus=3.0)) == 4
    with pytest.raises(InputError, match="room for 0 workers of 4 CPUs"):
        tuning.fitting(plan_of(cpus=4.0))
