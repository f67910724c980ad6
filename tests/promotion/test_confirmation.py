"""Confirmation: what was picked, and nothing else, is trained again under seeds that chose nothing; that judges."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import tiny
from evidence.sweeps import driven

from ganatomy import cli
from ganatomy.api.sweeping import Sweep
from ganatomy.contracts import InputError
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.account import account
from ganatomy.evidence.confirmed import came_to, lost_of, picked_in, trainings_of
from ganatomy.evidence.results import (
    SweepPlan,
    outstanding,
    read_plan,
    read_results,
    sweep_directory,
    sweeps,
    write_result,
)
from ganatomy.experiment import Score, TrialResult
from ganatomy.measures.families import reading_level
from ganatomy.promotion.confirmation import planned
from ganatomy.promotion.promotion import outlook, promote
from ganatomy.sweeps.request import SweepRequest
from ganatomy.sweeps.resuming import run_again

PATIENTS = [f"p{number}" for number in range(8)]
ARMS = {
    "real": {"arm": "real"},
    "offline": {"arm": "offline", "mixing.ratio": 1.0},
    "twice": {"arm": "offline", "mixing.ratio": 2.0},
}


def trial(name, arm, seed, dice, status="finished", **more):
    scores = tuple(
        Score(patient, patient, "dice", "square", dice + 0.01 * number) for number, patient in enumerate(PATIENTS)
    )
    experiment = replace(tiny.EXPERIMENT.with_values({**ARMS[arm], **more}), seed=seed)
    mean = dice + 0.01 * (len(PATIENTS) - 1) / 2
    return TrialResult(name, experiment, status, scores=scores if status == "finished" else (),
                       summary={"val/dice": mean}, device_seconds=10.0 if arm == "real" else 30.0)  # fmt: skip


def write_sweep(workspace, *trials, name="found", **more):
    directory = workspace / "sweeps" / name
    for one in trials:
        write_result(directory / "trials" / one.trial, one)
    plan = SweepPlan(name, "tiny", tiny.EXPERIMENT, "", "cohort", "digest", trials=len(trials), seeds=(0, 1), **more)
    plan.save(directory)
    return plan


@pytest.fixture
def found(tmp_path, empty_database):
    """A sweep of three configurations, two seeds each: twice is the best, by luck of one training."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    scores = {("real", 0): 0.50, ("real", 1): 0.52, ("offline", 0): 0.55, ("offline", 1): 0.56,
              ("twice", 0): 0.54, ("twice", 1): 0.66}  # fmt: skip
    write_sweep(tmp_path, *(trial(f"{arm}-{seed}", arm, seed, dice) for (arm, seed), dice in scores.items()))
    return tmp_path


def trained_again(workspace, plan, candidate, baseline):
    """The trials of a confirmation with these scores; None for one that failed."""
    for arm, scores in (("twice", candidate), ("real", baseline)):
        for seed, dice in zip(plan.seeds, scores, strict=True):
            one = trial(f"again-{arm}-{seed}", arm, seed, dice or 0.0, "finished" if dice else "failed")
            directory = workspace / "sweeps" / plan.name
            write_result(directory / "trials" / one.trial, one)
            (directory / "trials" / one.trial / "concluded").touch()


def test_a_control_with_more_work_is_neither_the_baseline_nor_trained_again(tmp_path, empty_database):
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    longer = {"budget.segmentor_steps": 50}
    plan = write_sweep(tmp_path, trial("a", "real", 0, 0.5), trial("b", "offline", 0, 0.6),
                       trial("c", "real", 0, 0.9, **longer), controls=({"arm": "real", **longer, "seed": 0},),
                       )  # fmt: skip
    again = planned(tmp_path, plan.name, trainings=3)
    assert again.pick["baseline"].budget == tiny.EXPERIMENT.budget
    assert (again.controls, again.trials) == ((), 6)


def test_what_was_picked_is_planned_anew_under_seeds_that_nothing_has_seen(found):
    said = []
    plan = planned(found, "found", trainings=4, say=said.append)
    assert (plan.name, plan.confirms, plan.seeds, plan.trials) == ("found-confirmation", "found", (2, 3, 4, 5), 8)
    assert plan.pick["candidate"].mixing.ratio == 2.0
    assert plan.pick["baseline"].arm == "real"
    assert [*plan.family.values()] == ["offline · ratio=2"]
    assert "4 trainings each of offline · ratio=2 and real, seeds 2 to 5" in said[0]
    assert "160 device seconds" in said[1]  # 4 x (30 + 10)
    assert read_plan(found / "sweeps" / plan.name) == plan
    space = plan.search_space()
    points = space.listed({}, plan.seeds)
    trained = [space.experiment(point, {}) for point in points]
    assert sorted((one.arm, one.seed) for one in trained) == sorted(
        (arm, seed) for arm in ("offline", "real") for seed in plan.seeds
    )
    assert all(replace(one, seed=0) in plan.pick.values() for one in trained)
    assert sweep_directory(found, "latest").name == "found"  # a confirmation is nobody's latest sweep


def test_begun_once_it_is_gone_on_with_and_neither_grows_nor_is_confirmed_itself(found):
    plan = planned(found, "found", trainings=3)
    assert planned(found, "found") == planned(found, "found", trainings=3) == plan
    with pytest.raises(InputError, match=r"begun with 3 trainings a side.*--trainings 3"):
        planned(found, "found", trainings=5)
    with pytest.raises(InputError, match="is a confirmation itself; expected the sweep: found"):
        planned(found, plan.name)
    with pytest.raises(InputError, match="2 trainings a side; expected 3 or more"):
        planned(found, "found", trainings=2)


def test_a_confirmation_is_resumed_and_given_no_more_trainings(found):
    plan = planned(found, "found", trainings=3)
    with pytest.raises(InputError, match=r"--trials 8 of found-confirmation, a confirmation by 6 trainings.*planned"):
        SweepRequest(resume=plan.name, workspace=found, trials=8).resumed({"trials"})
    assert SweepRequest(resume=plan.name, workspace=found).resumed() == plan


def test_a_pick_is_the_same_whichever_of_its_trials_stands_first(found):
    first = planned(found, "found", trainings=3)
    write_sweep(found, trial("a-first", "real", 0, 0.50, **{"mixing.ratio": 2.0}))  # no matter to a real training
    replace(read_plan(found / "sweeps" / "found"), trials=7).save(found / "sweeps" / "found")
    assert planned(found, "found") == first


def test_a_pick_that_has_changed_has_a_confirmation_of_its_own_with_other_seeds(found):
    first = planned(found, "found", trainings=3)
    write_sweep(found, *(trial(f"offline-{seed}", "offline", seed, 0.8) for seed in (0, 1)))
    replace(read_plan(found / "sweeps" / "found"), trials=6).save(found / "sweeps" / "found")
    second = planned(found, "found", trainings=3)
    assert second.name == "found-confirmation-2"
    assert second.pick["candidate"].mixing.ratio == 1.0
    assert not {*first.seeds} & {*second.seeds}


def test_seeds_that_another_sweep_over_the_cohort_has_shown_are_not_fresh(found):
    write_sweep(found, trial("a", "real", 0, 0.5), name="other")
    replace(read_plan(found / "sweeps" / "other"), seeds=tuple(range(7))).save(found / "sweeps" / "other")
    write_sweep(found, trial("a", "real", 0, 0.5), name="elsewhere")
    elsewhere = replace(read_plan(found / "sweeps" / "elsewhere"), seeds=(99,), cohort_digest="another")
    elsewhere.save(found / "sweeps" / "elsewhere")
    assert planned(found, "found", trainings=3).seeds == (7, 8, 9)


def test_what_cannot_be_confirmed_is_refused_in_a_line(found):
    replace(read_plan(found / "sweeps" / "found"), trials=8).save(found / "sweeps" / "found")
    with pytest.raises(InputError, match=r"2 of 8 trials outstanding.*--as-it-stands REASON"):
        planned(found, "found")
    assert planned(found, "found", trainings=3, as_it_stands="the cluster is gone").trials == 6
    write_sweep(found, trial("a", "real", 0, 0.5), name="alone")
    with pytest.raises(InputError, match="no finished trial of arm offline or joint"):
        planned(found, "alone")
    work = {"budget.segmentor_steps": 50}
    write_sweep(found, trial("a", "real", 0, 0.5), trial("b", "offline", 0, 0.9, **work), name="unequal")
    with pytest.raises(InputError, match=r"unequal work downstream: 50 updates against 6; expected the same updates"):
        planned(found, "unequal")
    with pytest.raises(InputError, match=r"no sweep 'fund' in workspace .*did you mean 'found'"):
        planned(found, "fund")


def test_before_and_after_show_what_the_luck_of_the_search_was_worth(found):
    plan = planned(found, "found", trainings=3)
    picked = picked_in(found / "sweeps" / "found", read_plan(found / "sweeps" / "found"))
    trained_again(found, plan, (0.53, 0.55, 0.54), (0.51, 0.50, 0.52))
    result = came_to(found, plan, picked)
    assert result.before == (pytest.approx((0.575, 0.695)), pytest.approx((0.535, 0.555)))
    assert result.after == (pytest.approx((0.565, 0.585, 0.575)), pytest.approx((0.545, 0.535, 0.555)))
    assert result.finding.estimate == pytest.approx(0.03)
    assert result.finding.trainings == (3, 3)
    assert "offline · ratio=2: Dice 0.635 (2 trainings, 0.575 to 0.695) when it was chosen, 0.575" in result.text()
    assert (
        "the difference was +9.0 Dice points when it was chosen. Trained again, on the patients that it was chosen by: "
        in result.text()
    )
    assert "+3.0 Dice points" in result.text()
    assert json.dumps(result.to_dict())


def since(workspace, plan):
    return account(workspace, plan, read_results(workspace / "sweeps" / plan.name)).aftermath


def test_a_verdict_on_another_pick_says_of_which_and_a_damaged_one_stops_no_report(found):
    plan, verdict = read_plan(found / "sweeps" / "found"), found / "sweeps" / "found" / "verdict.json"
    said = {"candidate": "offline · ratio=2", "baseline": "real", "sentence": "Promoted.", "gates": []}
    verdict.write_text(json.dumps(said))
    assert since(found, plan) == ("Promoted.",)
    write_sweep(found, *(trial(f"offline-{seed}", "offline", seed, 0.8) for seed in (0, 1)))
    assert since(found, plan) == ("Before that offline · ratio=2 was judged against real:", "Promoted.")
    for damaged in ("{}", "[]", "{"):
        verdict.write_text(damaged)
        assert since(found, plan) == (f"What its promotion came to cannot be told: {verdict} is damaged",)


def test_a_candidate_that_lost_a_training_has_no_verdict_and_a_baseline_that_did_has_one(found):
    plan = planned(found, "found", trainings=4)
    picked = picked_in(found / "sweeps" / "found", read_plan(found / "sweeps" / "found"))
    trained_again(found, plan, (0.9, None, 0.91, 0.92), (0.5, 0.51, 0.52, 0.53))
    lost = came_to(found, plan, picked)
    assert (lost.failed, lost_of(found, plan)) == ((1, 0), (1, 0))
    assert lost.finding.answer == "no verdict"
    assert "1 training of the candidate came to no end, and may have been the worst" in lost.text()
    assert "1 training of 8 came to no end" in lost.text()
    trained_again(found, plan, (0.9, 0.89, 0.91, 0.92), (0.5, None, 0.52, 0.53))
    kept = came_to(found, plan, picked)
    assert kept.failed == (0, 1)
    assert kept.finding.answer == "helps"
    assert [len(side) for side in trainings_of(found, plan)] == [4, 3]


def test_a_baseline_that_lost_a_training_bars_the_verdict_of_harm_alone(found):
    plan = planned(found, "found", trainings=4)
    picked = picked_in(found / "sweeps" / "found", read_plan(found / "sweeps" / "found"))
    trained_again(found, plan, (0.5, 0.51, 0.52, 0.53), (0.9, None, 0.91, 0.92))
    harmed = came_to(found, plan, picked)
    assert harmed.finding.answer == "no verdict"
    assert "1 training of the baseline came to no end, and may have been the worst" in harmed.text()


def test_a_confirmation_is_a_sweep_whose_table_judges_the_one_comparison(found):
    plan = planned(found, "found", trainings=3)
    trained_again(found, plan, (0.9, 0.91, 0.92), (0.5, 0.51, 0.52))
    table = ablation_table(read_results(found / "sweeps" / plan.name), declared=plan.family)
    assert table.row(table.candidate).reading == "helps"


def test_what_is_not_confirmed_is_not_promoted_and_nothing_is_read(laboratory):
    workspace = laboratory
    unconfirmed = outlook(workspace, "helps")
    assert not unconfirmed.confirmed
    assert "it is not confirmed yet: both would be trained again first" in unconfirmed.text()
    with pytest.raises(InputError, match=r"'helps' picked is not confirmed.*remedy: ganatomy confirm helps"):
        promote(workspace, "helps", "squares")
    plan = planned(workspace, "helps", trainings=3)
    said = outlook(workspace, "helps").text()
    assert "helps-confirmation would be ended first, 6 trainings of it outstanding" in said
    with pytest.raises(InputError, match="'helps-confirmation' has 6 trainings outstanding"):
        promote(workspace, "helps", "squares")
    with pytest.raises(InputError, match="is a confirmation; expected the sweep that it confirms: helps"):
        promote(workspace, plan.name, "squares")
    assert not (workspace / "cohort" / "test-readings.jsonl").exists()


def test_while_its_confirmation_runs_nothing_is_promoted_by_any_door(laboratory, capsys):
    plan = planned(laboratory, "helps", trainings=3)
    trained_again(laboratory, plan, (0.9, 0.91, 0.92), (0.5, 0.51, 0.52))
    shutil.rmtree(laboratory / "sweeps" / plan.name / "trials" / f"again-real-{plan.seeds[2]}")
    says = f"Sweep {plan.name} is running: 5 of 6 trainings have ended, none is training, one is waiting"
    sweep = Sweep(laboratory, "helps")
    doors = [
        lambda: promote(laboratory, "helps", "squares"),
        lambda: promote(laboratory, "helps", "squares", force="a demonstration"),
        lambda: sweep.promote("squares"),
        lambda: sweep.promote("squares", force="a demonstration"),
        lambda: sweep.confirm(),
        lambda: sweep.confirm(retry_failed=True),
        lambda: sweep.outlook(),
        lambda: planned(laboratory, "helps"),
    ]
    with driven(laboratory, plan.name):
        for door in doors:
            with pytest.raises(InputError, match=says):
                door()
        for command in (
            ["promote", "helps", "--name", "squares"],
            ["promote", "helps", "--dry-run"],
            ["confirm", "helps"],
        ):
            assert cli.main([*command, "--workspace", str(laboratory)]) == 2
            [line] = capsys.readouterr().err.strip().splitlines()
            assert line.startswith(f"error: {says}")
            assert "--resume" not in line
    with driven(laboratory, "helps"):  # all its trials have ended
        assert not outlook(laboratory, "helps").confirmed
    assert not (laboratory / "cohort" / "test-readings.jsonl").exists()


def test_nothing_is_planned_where_nothing_failed_that_could_be_trained_again(found):
    with pytest.raises(InputError, match="'found' has no confirmation, so that nothing of it failed"):
        Sweep(found, "found").confirm(retry_failed=True)
    assert sweeps(found) == ["found"]
    plan = planned(found, "found", trainings=3)
    trained_again(found, plan, (0.53, 0.55, 0.54), (0.51, 0.50, 0.52))
    with pytest.raises(InputError, match="'found-confirmation' has no failed trial to run again"):
        Sweep(found, "found").confirm(retry_failed=True)


def test_a_training_that_failed_bars_no_verdict_for_ever(found):
    """Put back, it is outstanding: nothing is judged before it has ended, whatever comes of it."""
    plan = planned(found, "found", trainings=4)
    trained_again(found, plan, (0.9, None, 0.91, 0.92), (0.5, 0.51, 0.52, 0.53))
    picked = picked_in(found / "sweeps" / "found", read_plan(found / "sweeps" / "found"))
    assert came_to(found, plan, picked).finding.answer == "no verdict"
    run_again(found / "sweeps" / plan.name, plan)
    assert outstanding(found / "sweeps" / plan.name, plan) == 1
    assert any("1 of 8 trainings outstanding" in line for line in since(found, read_plan(found / "sweeps" / "found")))
    trained_again(found, plan, (0.9, 0.89, 0.91, 0.92), (0.5, 0.51, 0.52, 0.53))
    result = came_to(found, plan, picked)
    assert (result.failed, result.finding.answer) == ((0, 0), "helps")
    assert "1 of them failed before, and was run again" in Sweep(found, plan.name).state.sentence


def test_who_confirmed_until_it_pleased_is_judged_by_the_level_of_so_many_readings(laboratory):
    assert outlook(laboratory, "helps").level == reading_level(1)
    first = planned(laboratory, "helps", trainings=3)
    replace(first, name="x-confirmation", cohort_digest="another", confirms="x").save(
        laboratory / "sweeps" / "x-confirmation"
    )
    assert outlook(laboratory, "helps").level == reading_level(1)
    write_sweep(laboratory, trial("c", "offline", 0, 0.8), name="more")
    shutil.copytree(laboratory / "sweeps" / "more" / "trials" / "c", laboratory / "sweeps" / "helps" / "trials" / "c")
    replace(read_plan(laboratory / "sweeps" / "helps"), trials=3).save(laboratory / "sweeps" / "helps")
    for _ in range(2):  # as it would be, then as it is
        said = outlook(laboratory, "helps")
        assert (said.number, said.confirmation, said.level) == (1, 2, reading_level(2))
        assert "of domain mr, by confirmation 2 over this cohort, judged at a one-sided level of 0.68%" in said.text()
        planned(laboratory, "helps", trainings=3)


def test_what_would_be_refused_for_its_work_is_refused_by_the_dry_run_too(laboratory):
    more = trial("c", "offline", 0, 0.8, **{"budget.segmentor_steps": 50})
    write_result(laboratory / "sweeps" / "helps" / "trials" / "c", more)
    with pytest.raises(InputError, match="unequal work downstream: 50 updates against 6"):
        outlook(laboratory, "helps")


def test_a_forced_promotion_plans_no_trainings(found):
    with pytest.raises(InputError, match=r"trainings for a forced promotion; expected none.*leave --trainings out"):
        Sweep(found, "found").promote("squares", force="a demonstration", trainings=5)
    assert sweeps(found) == ["found"]


def test_networks_that_are_gone_are_missed_before_the_test_patients_are_read(laboratory):
    plan = planned(laboratory, "helps", trainings=3)
    trained_again(laboratory, plan, (0.9, 0.91, 0.92), (0.5, 0.51, 0.52))
    assert outlook(laboratory, "helps").confirmed
    with pytest.raises(InputError, match=r"the networks of fit \w+ are not in .*stages"):
        promote(laboratory, "helps", "squares")
    assert not (laboratory / "cohort" / "test-readings.jsonl").exists()


@pytest.fixture
def laboratory(tmp_path, empty_database):
    """The sweep of squares that helps, not confirmed; of scores that were written by hand."""
    from ganatomy.stores.preparation import prepare
    from promotion.squares import make_cohort

    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    cohort = make_cohort(tmp_path / "cohort")
    store = prepare(cohort, tmp_path / "stores")
    plan = write_sweep(tmp_path, trial("a", "real", 0, 0.3), trial("b", "twice", 0, 0.5), name="helps")
    replace(plan, store=str(store.path), cohort=str(cohort.path), cohort_digest=store.digest).save(
        tmp_path / "sweeps" / "helps"
    )
    return tmp_path


@pytest.mark.parametrize("least", [-1.0, float("nan")])
def test_a_least_effect_below_nothing_is_refused(tmp_path, least):
    with pytest.raises(InputError, match="a least effect of"):
        promote(tmp_path, "x", "squares", least=least)
