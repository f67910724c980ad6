"""The record of a sweep: what its report says, that one broken exhibit costs itself alone, and where it is written."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version

import pytest
import tiny
from evidence.sweeps import BASE, LOST, experiment, sweep, trial
from exhibits.materials import material
from promotion.test_confirmation import trained_again, write_sweep
from promotion.test_confirmation import trial as picked_trial

from ganatomy.api.sweeping import Sweep
from ganatomy.contracts import InputError
from ganatomy.core.durable import append_line
from ganatomy.evidence.ablation import Ablation, Unfinished, ablation_table
from ganatomy.evidence.confirmed import picked_in
from ganatomy.evidence.results import DRIVEN_BY, SweepPlan, keep_software, write_result
from ganatomy.exhibits.exhibit import Exhibit
from ganatomy.experiment import TrialResult
from ganatomy.promotion.confirmation import plan_of
from ganatomy.reports.findings import MOST_DRAWN, drawn, effects
from ganatomy.reports.record import SECTIONS, compose, record, write, write_as
from ganatomy.reports.tabulated import nothing_of


def headings(report):
    return [exhibit.heading for exhibit in report.exhibits]


def exhibit_of(report, heading):
    (only,) = [exhibit for exhibit in report.exhibits if exhibit.heading == heading]
    return only


# --- the answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lift", "noise", "reading", "said"), [
    (0.1, 0.005, "helps", "Helps: +"), (-0.1, 0.005, "harms", "Harms: -"), (0.01, 0.05, "undecided", "Undecided: "),
])  # fmt: skip
def test_the_answer_is_one_sentence_with_its_reading(lift, noise, reading, said):
    results = [trial(f"{arm}{seed}", experiment(arm=arm, seed=seed), more, noise=noise)
               for arm, more in (("real", 0.0), ("joint", lift)) for seed in range(3)]  # fmt: skip
    made = material(results)
    report = compose(made, sections=())
    finding = made.table.row(made.table.candidate).finding
    assert report.reading == reading
    assert report.answer.startswith(said)
    assert "12 validation patients" in report.answer
    assert f"{100 * finding.low:+.1f} to {100 * finding.high:+.1f}" in report.answer
    shown = f"could have shown an effect of ≥\u00a0{100 * finding.least_shown:.1f} points"
    assert (shown in report.answer) == (reading == "undecided")


@pytest.mark.parametrize(("results", "said"), [
    ([], "No answer: no trial has ended yet."),
    ([replace(LOST[0], status="running", error="")], "No answer: no trial has ended yet."),
    ([LOST[0], replace(LOST[0], trial="x4")], "No answer: both trials failed; why stands below."),
    ([LOST[0]], "No answer: its only trial failed; why stands below."),
    (LOST, "No answer: no trial has finished; what became of them stands below."),
    (sweep()[:2], "No comparison: no trial with synthetic data has finished."),
])  # fmt: skip
def test_where_there_is_no_answer_the_report_says_why(results, said):
    report = compose(material(results, trials=4))
    assert (report.answer, report.reading) == (said, "")
    shown = exhibit_of(report, "Trials not in the table")
    lost = [one for one in results if one.status != "finished"]
    assert [row[0] for grid in shown.grids for row in grid.rows] == [one.trial for one in lost]


@pytest.fixture
def found(tmp_path):
    """A sweep of three configurations, two seeds each: twice is the best, by luck of one training."""
    scores = {("real", 0): 0.50, ("real", 1): 0.52, ("offline", 0): 0.55, ("offline", 1): 0.56,
              ("twice", 0): 0.54, ("twice", 1): 0.66}  # fmt: skip
    write_sweep(tmp_path, *(picked_trial(f"{arm}-{seed}", arm, seed, dice) for (arm, seed), dice in scores.items()))
    return tmp_path


def test_fresh_trainings_answer_in_the_place_of_the_search_and_are_shown_beside_it(found):
    searched, directory = Sweep(found, "found").plan, found / "sweeps" / "found"
    plan = plan_of(searched, picked_in(directory, searched), 3, {0, 1})
    plan.save(found / "sweeps" / plan.name)
    trained_again(found, plan, (0.53, 0.55, 0.54), (0.51, 0.50, 0.52))
    made = Sweep(found, "found").material()
    report = compose(made)
    again = exhibit_of(report, "The winner, before and after confirmation")
    assert report.answer.startswith("Helps: +3.0 Dice points, offline · ratio=2 against real")
    assert "trained again under seeds that chose nothing" in report.answer
    assert again.grids[0].rows == (("offline · ratio=2", "0.635 (2 trainings)", "0.575 (3 trainings)", "0"),
                                   ("real", "0.545 (2 trainings)", "0.545 (3 trainings)", "0"))  # fmt: skip
    assert len(again.pictures) == 1
    assert not any("ganatomy confirm" in sentence for sentence in report.sentences)  # no advice to do what was done


def test_test_patients_answer_in_the_place_of_all_others_and_each_gate_stands_there(found):
    figures = {"answer": "undecided", "difference": 0.04, "low": 0.01, "high": 0.07, "least": 0.02, "level": 0.96,
               "patients": 9, "trainings": 5, "baseline_trainings": 5, "least_shown": 0.031}  # fmt: skip
    gates = [
        {"name": "utility", "passed": False, "sentence": "not shown to help by more than 2.0", "figures": figures},
        {"name": "lineage", "passed": True, "sentence": "no patient is shared", "figures": {"shared": ""}},
    ]
    verdict = {"candidate": "offline · ratio=2", "baseline": "real", "sentence": "Not promoted.", "gates": gates}
    path = found / "sweeps" / "found" / "verdict.json"
    path.write_text(json.dumps(verdict))
    report = compose(Sweep(found, "found").material())
    assert report.reading == "undecided"
    # An interval that lies above zero and is no proof is told with what it had to exceed.
    assert "on 9 test patients" in report.answer
    assert "96.0% interval +1.0 to +7.0; 5 trainings against 5; to help it had to exceed +2.0" in report.answer
    shown = exhibit_of(report, "Gates")
    assert [row[:2] for row in shown.grids[0].rows] == [("utility", "FAILED"), ("lineage", "passed")]
    assert ("utility", "difference", "+4.0 Dice points") in shown.grids[1].rows
    assert "Not promoted." in shown.sentences
    assert "trained again" not in report.answer  # nothing was
    path.write_text(json.dumps({**verdict, "confirmation": 1}))
    assert "trained again under seeds that chose nothing" in compose(Sweep(found, "found").material()).answer
    gates[0]["figures"] = {"answer": "helps"}  # as another version might have written it
    path.write_text(json.dumps(verdict))
    assert "9 test patients" not in compose(Sweep(found, "found").material()).answer
    path.write_text("{")
    assert "verdict.json of sweep found is damaged" in " ".join(compose(Sweep(found, "found").material()).sentences)


# --- what it is made of ------------------------------------------------------------------------------------------


def test_an_exhibit_that_fails_costs_itself_alone_and_its_place_is_told(tmp_path):
    def learning_curves(given):
        raise KeyError("C")

    def cases(given):
        raise InputError(f"{given.workspace}/stages/x is damaged", expected="a history")

    said = []
    report = compose(
        material(sweep(), tmp_path, tell=said.append),
        sections=(learning_curves, lambda given: None, cases, lambda given: Exhibit("Kept")),
    )
    assert headings(report) == ["Kept"]
    assert "Left out, learning curves: KeyError: 'C'." in report.sentences
    assert "Left out, cases: x is damaged; expected a history." in report.sentences
    assert said[1] == f"the report lacks cases: InputError: {tmp_path}/stages/x is damaged; expected a history"


def test_every_training_is_a_dot_those_of_the_baseline_too():
    from ganatomy.exhibits.trainings import reached

    results = sweep()
    made = material(results)
    for row in made.table.rows:
        assert len(reached(made)[row.configuration]) == 3
        assert sum(reached(made)[row.configuration]) / 3 == pytest.approx(row.dice)
    alone = material(results[:1])
    row = alone.table.rows[0]
    assert reached(alone) == {row.configuration: (pytest.approx(row.dice),)}


def test_what_makes_a_difference_uncertain_is_split_and_the_detectable_effect_is_told():
    made = material(sweep())
    (grid,) = exhibit_of(compose(made), "What makes it uncertain").grids
    row = made.table.row(made.table.candidate)
    (shown,) = [cells for cells in grid.rows if cells[0] == row.name]
    parts = row.finding.parts
    assert shown[1:3] == ("12", "3 / 3")
    assert shown[4] == f"{100 * parts.training[0]:.1f} / {100 * parts.training[1]:.1f}"
    assert shown[-2:] == (f"{100 * row.finding.least_shown:.1f}", f"{100 * row.finding.least_shown_doubled:.1f}")


def test_patients_and_images_are_counted_by_domain_and_split(tmp_path):
    store = tiny.make_store(tmp_path / "stores" / "tiny")
    report = compose(material([], tmp_path, store=str(store.path)))
    shown = exhibit_of(report, "Cohort and splits")
    (grid,) = shown.grids
    assert grid.headers == ("domain", "split", "patients", "images", "labelled")
    counts = {row[:2]: row[2:] for row in grid.rows}
    assert len(counts) == len(grid.rows) == 9
    for domain in ("ct", "mr"):
        for split in ("train", "val", "test"):
            records = store.records(domain, split)
            patients, labelled = {one.patient for one in records}, [one for one in records if one.labelled]
            assert counts[domain, split] == tuple(map(str, map(len, (patients, records, labelled))))
    assert all(str(tmp_path) not in sentence for sentence in shown.sentences)


def test_the_legend_explains_what_is_shown_and_nothing_else():
    terms = dict(compose(material(sweep())).legend)
    assert {"Δ", "p", "reading", "trainings", "device s", "S-score"} <= terms.keys()
    assert "healthy" not in terms
    assert "control" not in terms


# --- the commands ------------------------------------------------------------------------------------------------


def test_the_command_that_is_shown_plans_the_same_sweep(tmp_path):
    import shlex

    from ganatomy.commands.console import parse
    from ganatomy.commands.sweep import Sweep as SweepCommand
    from ganatomy.reports.origins import rerun

    plan = SweepPlan("x", "phantom_demo", BASE, "", str(tmp_path / "my cohort"), "d", trials=9, full=True,
                     seeds=(0, 4), fixed={"budget.batch": "8", "method.loss": "a b"}, workers=2, gpus=0.5,
                     scheduler="asha", sampler_seed=7, family={}, compare=("arm=joint",),
                     controls=({"arm": "real", "budget.segmentor_steps": 9, "seed": 0},
                               {"arm": "real", "downstream.augmentation": "strong", "seed": 0}))  # fmt: skip
    command = rerun(plan)
    assert max(map(len, command.splitlines())) <= 100
    words = shlex.split(command.replace("\\\n", " "))
    asked = parse(SweepCommand, program="ganatomy sweep", description="", arguments=words[2:])
    assert (asked.space, str(asked.cohort), asked.full, asked.trials) == ("phantom_demo", "my cohort", True, 7)
    assert (asked.seeds, asked.set) == ((0, 4), ("budget.batch=8", "method.loss=a b"))
    assert (asked.compare, asked.controls) == (("arm=joint",), ("long_real", "strong_real"))
    assert (asked.workers_per_trial, asked.gpus_per_worker, asked.scheduler, asked.seed) == (2, 0.5, "asha", 7)
    assert asked.domains == ("A=ct", "B=mr")


# --- where it is written -----------------------------------------------------------------------------------------


def kept(workspace, results, **plan):
    directory = workspace / "sweeps" / "ct-mr"
    for one in results:
        write_result(directory / "trials" / one.trial, one)
    SweepPlan("ct-mr", "shape_consistent", BASE, "", "phantom", "0123", trials=max(1, len(results)), **plan).save(
        directory
    )
    return Sweep(workspace, "ct-mr")


def test_the_suffix_says_what_is_written_and_figures_lie_beside(tmp_path):
    made = kept(tmp_path, sweep())
    out = tmp_path / "out"
    for name in ("a.md", "a.json"):
        assert made.report(out / name) == out / name
    report = compose(made.material())
    for name, kind in (("a.html", ".html"), ("a v1.2_x.tex", ".tex")):
        assert write_as(report, out / name, kind) == out / name
    assert {path.name for path in out.iterdir()} == {"a.html", "a.md", "a-figures", "a v1.2_x.tex",
                                                     "a-v1-2-x-figures", "a.json"}  # fmt: skip
    figures = {path.name for path in (out / "a-figures").iterdir()}
    assert {"01.png", "02.png", "03.png"} <= figures
    assert all(f"(a-figures/{name})" in (out / "a.md").read_text() for name in figures)
    assert all(f"{{a-v1-2-x-figures/{name}}}" in (out / "a v1.2_x.tex").read_text() for name in figures)
    assert json.loads((out / "a.json").read_text())["conclusion"] == made.ablation().conclusion


@pytest.mark.parametrize(("name", "said"), [
    ("report.pdf", r"report .*report.pdf: no format ends in .pdf; expected a file that ends in .html, .md"),
    ("report", "no format ends in nothing"),
    ("folder.html", r"report .*folder.html is a folder; expected a file; remedy: .*folder.html/report.html"),
    ("file/report.html", r"file/report.html cannot be written: (Not a directory|File exists)"),
    ("/proc/report.html", r"/proc/report.html cannot be written: \w+"),  # there nobody may, whoever runs this
])  # fmt: skip
def test_what_cannot_be_written_is_refused_in_one_line(tmp_path, name, said):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=said) as caught:
        write(material(sweep()[:2]), tmp_path / name)
    assert "\n" not in str(caught.value)


class Kept:
    """A tracking server's place for artefacts: what it was given, by run."""

    uri, experiment_id = "http://server:5000", "7"

    def __init__(self):
        self.artefacts = []

    def log_artifact(self, run_id, source, folder=""):
        self.artefacts.append((run_id, source.name))


@pytest.mark.parametrize("results", [[], [LOST[0]], sweep()])
def test_the_record_lies_in_the_sweeps_folder_and_on_its_run_whatever_became_of_it(tmp_path, results):
    made = kept(tmp_path, results, run_id="0f")
    server = Kept()
    record(made.material(), server)
    assert server.artefacts == [("0f", "report.html"), ("0f", "report"), ("0f", "ablation.json")]
    folder = made.directory
    assert {"report.html", "report", "ablation.json"} <= {path.name for path in folder.iterdir()}
    assert {"report.md", "report.tex"} <= {path.name for path in (folder / "report").iterdir()}
    assert "http://server:5000/#/experiments/7/runs?" in (folder / "report.html").read_text()


def test_all_sections_stand_in_the_order_of_the_page():
    report = compose(material([*sweep(), *LOST]))
    assert headings(report) == [
        "Configurations", "Effects", "Every training", "What makes it uncertain", "Every patient",
        "Dice of each structure, and the worst case", "Structures", "Patients, worst first",
        "Response to what was varied", "Utility against cost", "What it is had at: the Pareto set",
        "Trials not in the table",
        "Declared before it began", "Versions and commands",
    ]  # fmt: skip
    assert len(SECTIONS) > len(headings(report))


def test_a_trial_that_failed_says_why():
    failed = TrialResult("x", experiment(arm="joint", seed=9), "failed", "KeyError: 'C'\nat line 3")
    (grid,) = exhibit_of(compose(material([*sweep(), failed])), "Trials not in the table").grids
    assert grid.rows == (("x", "joint · ratio=1", "failed", "KeyError: 'C'"),)


@pytest.mark.parametrize("status", ["training", "cut short", "running"])
def test_a_trial_that_is_at_work_has_not_ended(status):
    begun = Unfinished("t", "joint", status, "")
    assert nothing_of(Ablation((), "", "", (begun,))) == "No answer: no trial has ended yet."
    failed = Unfinished("u", "real", "failed", "")
    assert nothing_of(Ablation((), "", "", (begun, failed))).startswith("No answer: no trial has finished")


def test_of_very_many_configurations_a_figure_has_the_first_and_says_how_many_are_left():
    table = ablation_table(sweep())
    row = table.row(table.candidate)
    more = [replace(row, configuration=f"c{number}", name=f"n{number}", declared=False) for number in range(3000)]
    large = replace(table, rows=(*more, *table.rows))
    made = material(sweep(), table=large)
    assert {row.configuration for row in table.rows if row.declared} | {table.baseline} <= {
        row.configuration for row in drawn(large)
    }
    shown = effects(made)
    assert shown.sentences[0].startswith(f"{len(large.rows) - MOST_DRAWN} rows of the table are not drawn")
    assert shown.pictures[0].png.startswith(b"\x89PNG")


def test_the_report_names_what_ran_the_sweep_beside_what_wrote_it(tmp_path):
    made = replace(material(sweep()), workspace=tmp_path)
    folder = tmp_path / "sweeps" / made.plan.name
    folder.mkdir(parents=True, exist_ok=True)
    early = "What ran the sweep was not yet written down then."
    assert early in exhibit_of(compose(made), "Versions and commands").sentences
    append_line(folder / DRIVEN_BY, json.dumps({"torch": "1.0", "numpy": "1.9"}))
    append_line(folder / DRIVEN_BY, '{"torch": "2')  # a driver was killed at this
    keep_software(folder)
    keep_software(folder)  # resumed with what was there before
    shown = exhibit_of(compose(made), "Versions and commands")
    assert early not in shown.sentences
    (grid,) = shown.grids
    assert grid.headers == ("what", "ran the sweep", "went on with it (1)", "wrote this report")
    assert ("torch", "1.0", version("torch"), version("torch")) in grid.rows
    assert ("scipy", "unknown", version("scipy"), version("scipy")) in grid.rows
