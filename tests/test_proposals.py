"""What a sweep's trials try is on record, and a sweep that was killed at any moment goes on with exactly that."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState
from test_tuning import plan_of

from ganatomy.contracts import InputError
from ganatomy.experiment import TrialResult
from ganatomy.plugins import resolve
from ganatomy.proposals import ASKED, TRIAL, Proposals, read_asked
from ganatomy.results import conclude, write_result

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
        trials = proposals.optuna._ot_study.get_trials(deepcopy=False)
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


def test_a_sweep_without_a_record_is_refused_with_the_remedy(directory):
    (directory / "trials").mkdir()
    with pytest.raises(InputError, match="begin anew"):
        Proposals(PLAN, directory)
