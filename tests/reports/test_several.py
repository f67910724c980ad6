"""Several sweeps over one cohort as one table: one baseline, one family, each training once; what makes no table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evidence.sweeps import BASE, LOST, experiment, sweep, trial

import ganatomy
from ganatomy import cli
from ganatomy.contracts import InputError
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.configurations import relevant
from ganatomy.evidence.results import SweepPlan, conclude, write_result
from ganatomy.reports.several import AFTERWARDS, several

SEEDS = (0, 1, 2)


def written(workspace: Path, name: str, results, **values) -> SweepPlan:
    """A sweep on disc that left these results; its family is what it tried with synthetic data."""
    made = [one.experiment for one in results if one.experiment.arm in ("joint", "offline")]
    family = {relevant(one).configuration(): one.arm for one in made}
    plan = {"space": "phantom_demo", "base": BASE, "store": "", "cohort": "/data/hearts", "cohort_digest": "d1",
            "trials": len(results), "seeds": SEEDS, "family": family, **values}  # fmt: skip
    plan = SweepPlan(name, **plan)
    plan.save(workspace / "sweeps" / name)
    for result in results:
        write_result(workspace / "sweeps" / name / "trials" / result.trial, result)
        conclude(workspace / "sweeps" / name, result.trial)
    return plan


def configured(arm: str, lift: float, seeds=SEEDS, mark: str = "", **values):
    """Trials of one configuration; their scores depend on its name and the seed alone."""
    return [trial(f"{arm[0]}{mark}{seed}", experiment(arm=arm, seed=seed, **values), lift) for seed in seeds]


ONE = [*configured("real", 0.0), *configured("joint", 0.05, mixing__ratio=0.5)]
OTHER = [
    *configured("real", 0.0),
    *configured("real", 0.02, mark="s", downstream__augmentation="strong"),
    *configured("offline", 0.09, mixing__ratio=2.0),
]


def test_configurations_of_all_are_rows_against_the_best_baseline_of_any_as_one_family(tmp_path):
    written(tmp_path, "one", ONE)
    written(tmp_path, "other", OTHER)
    material = several(tmp_path, ["one", "other"])
    table = material.table
    assert [row.name for row in table.rows] == [
        "offline · ratio=2",
        "joint · ratio=0.5",
        "real · augmentation=strong",
        "real · augmentation=none",
    ]
    assert table.row(table.baseline).name == "real · augmentation=strong"
    once = [*ONE, *OTHER[3:]]
    alone = ablation_table(once, declared=material.plan.family)
    assert {row.name: row.finding for row in table.rows} == {row.name: row.finding for row in alone.rows}
    by_name = {row.name: row for row in table.rows}
    assert by_name["joint · ratio=0.5"].reading == "helps"
    # Two comparisons are judged together: each at a stricter level than it would be in its own sweep.
    assert by_name["joint · ratio=0.5"].finding.alpha < 0.025
    assert len(material.plan.family) == 2
    assert AFTERWARDS in table.caveats


def test_a_training_that_both_have_counts_once_and_further_seeds_are_further_trainings(tmp_path):
    written(tmp_path, "one", ONE)
    written(
        tmp_path, "other", [*configured("real", 0.0, (2, 3)), *configured("joint", 0.05, (3, 4), mixing__ratio=0.5)]
    )
    material = several(tmp_path, ["one", "other"])
    by_name = {row.name: row for row in material.table.rows}
    assert by_name["real"].trials == ("one/r0", "one/r1", "one/r2", "other/r3")
    assert by_name["joint"].seeds == (0, 1, 2, 3, 4)
    assert len({one.trial for one in material.results}) == len(material.results) == 9
    assert any(said.startswith("1 training of the same configuration and seed") for said in material.table.caveats)


def test_what_failed_in_one_and_ended_in_the_other_came_to_its_end(tmp_path):
    lost = replace(ONE[3], status="failed", error="out of memory", scores=())
    written(tmp_path, "one", [*ONE[:3], lost, *ONE[4:]])
    written(tmp_path, "other", ONE)
    table = several(tmp_path, ["one", "other"]).table
    assert not table.unfinished
    assert table.answer == "helps"
    written(tmp_path, "third", [*OTHER, LOST[0]])
    assert [one.trial for one in several(tmp_path, ["other", "third"]).table.unfinished] == ["third/x1"]


def test_rows_of_other_work_are_no_members_of_the_family_and_the_table_says_why(tmp_path):
    written(tmp_path, "one", ONE)
    longer = configured("joint", 0.3, mark="l", mixing__ratio=0.5, budget__segmentor_steps=9000)
    written(tmp_path, "longer", [*longer, *configured("real", 0.25, mark="l", budget__segmentor_steps=9000)])
    table = several(tmp_path, ["one", "longer"]).table
    odd = [row for row in table.rows if row.synthetic and row.planned[0] != table.row(table.baseline).planned[0]]
    assert len(odd) == 1
    assert odd[0].reading == "no verdict"
    assert any("unequal work downstream" in said and odd[0].name in said for said in table.caveats)


def test_rows_that_would_be_called_the_same_are_called_by_their_sweep(tmp_path):
    written(tmp_path, "one", [*ONE[:3], *configured("joint", 0.05, mixing__ratio=0.33331)])
    written(tmp_path, "other", configured("joint", 0.05, mark="o", mixing__ratio=0.33332))
    names = {row.name for row in several(tmp_path, ["one", "other"]).table.rows}
    assert names == {"real", "joint · ratio=0.3333 [one]", "joint · ratio=0.3333 [other]"}


def test_what_differs_besides_synthetic_data_is_said(tmp_path):
    written(tmp_path, "one", ONE)
    few = {"mark": "f", "labels__fraction": 0.1}
    written(tmp_path, "few", [*configured("real", -0.1, **few), *configured("joint", 0.05, mixing__ratio=0.5, **few)])
    said = [one for one in several(tmp_path, ["one", "few"]).table.caveats if "by more than synthetic data" in one]
    assert len(said) == 1
    assert "labels.fraction 0.1 against 1" in said[0]


def test_verdicts_of_the_sweeps_are_listed_as_they_were_said(tmp_path):
    written(tmp_path, "one", ONE)
    written(tmp_path, "other", OTHER, trials=len(OTHER) + 3)
    verdict = {"candidate": "joint", "baseline": "real", "sentence": "Helps on 12 test patients.",
               "gates": [{"name": "utility", "passed": True, "sentence": "It helps."}]}  # fmt: skip
    (tmp_path / "sweeps" / "one" / "verdict.json").write_text(json.dumps(verdict))
    table = several(tmp_path, ["one", "other"]).table
    assert "one: Helps on 12 test patients." in table.aftermath
    assert "one: passed, utility: It helps." in table.aftermath
    assert not [said for said in table.aftermath if said.startswith("other: ")]
    assert any("3 of 12 trials are outstanding" in said for said in table.caveats)


# --- what cannot be compared, and the two doors ------------------------------------------------------------------


def refused(workspace: Path, *names: str) -> str:
    with pytest.raises(InputError) as error:
        ganatomy.compare(names, workspace)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_sweeps_that_make_no_table_are_refused_in_one_line_that_names_them(tmp_path):
    written(tmp_path, "one", ONE)
    written(tmp_path, "elsewhere", ONE, cohort="/data/brains", cohort_digest="d2")
    written(tmp_path, "nothing", LOST)
    written(tmp_path, "one-confirmation", ONE, confirms="one", pick={"candidate": BASE, "baseline": BASE})
    turned = [replace(one, experiment=replace(one.experiment, target="A")) for one in ONE]
    written(tmp_path, "turned", turned)
    asked = [replace(one, experiment=one.experiment.with_values({"downstream.task": "classification"})) for one in ONE]
    written(tmp_path, "classified", asked)
    said = refused(tmp_path, "one", "elsewhere")
    assert "'one' over hearts d1; 'elsewhere' over brains d2" in said
    assert "/data" not in said
    assert "'one' is named 2 times" in refused(tmp_path, "one", "one")
    assert "'turned' is named 2 times" in refused(tmp_path, "turned", "one", "turned")
    assert "'nothing' has no finished trial" in refused(tmp_path, "one", "nothing")
    assert "confirmation of 'one'" in refused(tmp_path, "one", "one-confirmation")
    assert "'one', mr; 'turned', ct" in refused(tmp_path, "one", "turned")
    assert "of different tasks" in refused(tmp_path, "one", "classified")
    assert "no sweep 'oen'" in refused(tmp_path, "one", "oen")
    assert "two sweeps at least" in refused(tmp_path, "one")


def test_the_command_and_python_show_the_same(tmp_path, capsys):
    written(tmp_path, "one", ONE)
    written(tmp_path, "other", OTHER)
    page = tmp_path / "both.html"
    usual = ["--workspace", str(tmp_path)]
    assert cli.main(["report", "one", "other", "--html", str(page), *usual]) == 0
    both = ganatomy.compare(["one", "other"], tmp_path)
    assert capsys.readouterr().out.rstrip("\n") == str(both)
    assert "Sweeps one and other" in page.read_text()
    assert "ganatomy report one other --html" in page.read_text()
    assert "ganatomy sweep --space" not in page.read_text()
    assert "/data" not in page.read_text()
    frame = both.table()
    assert list(frame["name"]) == [row.name for row in both.ablation().rows]
    assert set(both.scores()["trial"]) == {trial for row in both.ablation().rows for trial in row.trials}
    assert cli.main(["report", "one", *usual]) == 0
    assert cli.main(["report", "one", "one", *usual]) == 2
    assert cli.main(["report", *usual]) == 2
    assert "a report of no sweep" in capsys.readouterr().err


def test_sweeps_of_the_whole_arsenal_at_once(tmp_path):
    written(tmp_path, "all", sweep())
    written(tmp_path, "again", sweep())
    assert [row.finding for row in several(tmp_path, ["all", "again"]).table.rows] == [
        row.finding for row in ablation_table(sweep()).rows
    ]
