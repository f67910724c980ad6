"""The page of the papers' tables: each section in its place, and saying what it is and which effects appear."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ganatomy.cohorts.roles import cast_roles
from ganatomy.commands.sweep import Sweep
from ganatomy.core.plugins import allow, at_path
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.configurations import relevant
from ganatomy.evidence.published import agrees
from ganatomy.evidence.results import SweepPlan, write_result
from ganatomy.experiment import Score, TrialResult
from ganatomy.stores.amounts import label_subset
from ganatomy.stores.store import open_store

HOUSE = Path(__file__).parents[2]
PAGE = HOUSE / "docs" / "paper_tables.md"
SPACES = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["entry-points"]["ganatomy.spaces"]
"""Name -> dotted path of the spaces of the house, as they are entered; an environment may be of before."""


def space_of(name):
    return at_path(SPACES[name], f"space {name}")


@pytest.fixture(scope="module")
def paper_tables(benchmark_script):
    return benchmark_script("paper_tables")


def results(base):
    """U-Net: ours above R by far, ADA below it."""
    found = []
    for arm, weight, value in (("real", 1.0, 0.6), ("offline", 0.0, 0.5), ("joint", 1.0, 0.8)):
        for seed in range(3):
            made = base.with_values({"arm": arm, "method.shape_weight": weight, "seed": seed})
            scores = tuple(Score(f"s{n}", f"p{n}", "dice", "lv", value + 0.01 * (n + seed)) for n in range(12))
            summary = {"val/dice": value}
            found.append(TrialResult(f"{arm}{seed}", made, "finished", scores=scores, summary=summary))
    return found


@pytest.fixture
def plan():
    base = space_of("cai2019_table3").base.with_values({"domains": {"A": "ct", "B": "mr"}})
    allow(SPACES["cai2019_table3"])
    return SweepPlan("t", SPACES["cai2019_table3"], base, "store", "cohort", "0", trials=3, fixed={"budget.batch": "1"},
                     anatomy="heart", modalities={"ct": "CT", "mr": "MR"})  # fmt: skip


def test_a_section_says_how_it_was_made_and_which_effects_appear(paper_tables, plan):
    table = ablation_table(results(plan.base), published=plan.published())
    text = paper_tables.section("cai2019_table3", plan, table)
    assert "**Not the study itself**: run with budget.batch=1" in text
    assert "**Appears here**: U-Net: Ours above R; U-Net: Ours above ADA." in text
    assert "**Reversed here**: U-Net: ADA above R." in text
    assert "| U-Net, Ours | val/dice | – | 0.800 ± 0.000 (3 trainings) |" in text  # images are smaller here
    assert "88 x 112 x 112 voxels, ours of 48 x 48" in text
    assert "pancreas" not in text
    assert "magnitudes cannot" in text
    assert table.conclusion in text


def test_a_section_takes_its_own_place_and_leaves_the_others(paper_tables, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Tables\n\nWords.\n")
    for name, text in (("a", "first\n"), ("b", "second\n"), ("a", "third\n")):
        paper_tables.place(page, name, text)
    assert page.read_text() == (
        "# Tables\n\nWords.\n\n<!-- a -->\nthird\n<!-- end of a -->\n\n<!-- b -->\nsecond\n<!-- end of b -->\n"
    )
    assert list(tmp_path.iterdir()) == [page]


def test_the_page_of_the_house_takes_the_section_of_every_study_and_keeps_its_own_words(paper_tables, tmp_path):
    page = tmp_path / "page.md"
    words = PAGE.read_text(encoding="utf-8")
    page.write_text(words, encoding="utf-8")
    for text in ("first", "second"):
        for name in paper_tables.STUDIES:
            paper_tables.place(page, name, f"{text} of {name}\n")
    made = page.read_text(encoding="utf-8")
    for name in paper_tables.STUDIES:
        assert made.count(f"<!-- {name} -->\nsecond of {name}\n<!-- end of {name} -->") == 1
    assert "first of" not in made
    assert outside_of_sections(made) == outside_of_sections(words)


def outside_of_sections(page):
    return re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", page, flags=re.DOTALL).rstrip()


def few(phantom):
    """One patient to train on and one to validate, of each kind."""
    patients = phantom.keywords["patients"]
    return dict.fromkeys(patients, (1, 1, 0)) if isinstance(patients, dict) else (1, 1, 0)


def test_who_borrows_finds_the_lender_in_its_workspace_by_the_name_that_its_points_say(paper_tables, tmp_path):
    for name, study in paper_tables.STUDIES.items():
        asked = {value for point in space_of(name).points for key, value in point.items()
                 if key.startswith("transfer.") and value}  # fmt: skip
        assert bool(asked) == bool(study.lends), name
        if not asked:
            continue
        small = replace(study, lends=partial(study.lends, patients=few(study.lends)))
        for _ in range(2):  # of an interrupted run the second finds what the first made
            paper_tables.lend(small, tmp_path)
        (store,) = (path.parent for path in (tmp_path / "stores").glob("*/store.json"))
        assert {open_store(store).name} == asked
        borrower = study.phantom(tmp_path / name, patients=few(study.phantom))
        assert open_store(store).domains.keys() == borrower.domains.keys()


def test_every_study_is_a_space_with_a_published_table_and_a_phantom_for_its_roles(paper_tables, tmp_path):
    assert paper_tables.STUDIES.keys() == {name for name in SPACES if "20" in name}
    for name, study in paper_tables.STUDIES.items():
        space = space_of(name)
        assert space.published
        cohort = study.phantom(tmp_path / name, name=name, patients=few(study.phantom))
        cast = replace(space, base=cast_roles(space.base, cohort, study.domains))
        modalities = {domain.name: domain.modality for domain in cohort.domains.values()}
        allow(SPACES[name])
        plan = SweepPlan("t", SPACES[name], cast.base, "", "", "0", 1, anatomy=cohort.anatomy, modalities=modalities)
        assert plan.published()
        assert all(cast.base.domain(role) in cohort.domains for role in cast.base.domains)
        assert [cast.experiment(values, {}).validate() for values in cast.listed({}, (0,))]


SMALL = {
    "make_cohort": (2, 16, 16),
    "make_crop_cohort": (1, 32, 32),
    "make_bone_cohort": (32, 32),
    "make_brain_cohort": (4, 32, 32),
}


@pytest.mark.parametrize("name", sorted(name for name in SPACES if name.startswith(("cai2019", "gupta2019"))))
def test_every_study_can_be_planned_on_its_phantom_and_its_rows_differ(paper_tables, workspace, name):
    """In smaller images; with as many patients to train on where amounts of them are drawn, else of few."""
    study, patients = paper_tables.STUDIES[name], None
    if any("mixing.source_patients" in point for point in space_of(name).points):
        patients = {domain: (train, 1, 0) for domain, (train, *_) in study.phantom.keywords["patients"].items()}
    shape = SMALL[study.phantom.func.__name__]
    study.phantom(workspace / "phantom", shape=shape, patients=patients or few(study.phantom))
    if study.lends:
        few_lent = partial(study.lends, patients=few(study.lends))
        paper_tables.lend(replace(study, lends=few_lent), workspace)
    sweep = Sweep(space=SPACES[name], cohort=workspace / "phantom", name=name, seeds=study.seeds,
                  domains=study.domains, workspace=workspace)  # fmt: skip
    plan = sweep.planned()
    space = plan.search_space()
    made = [relevant(space.experiment(values, {})) for values in space.listed({}, study.seeds)]
    assert len({one.configuration() for one in made}) == len(space.points)
    assert plan.trials == len(made) == len(space.points) * len(study.seeds)
    assert len(study.seeds) in (3, 5)
    for table in plan.published():
        for claim in table.claims:
            sides = [[one for one in made if agrees(one, point)] for point in (claim.more, claim.less)]
            assert [len(side) for side in sides] == [len(study.seeds)] * 2, claim.says


def test_what_is_left_of_a_study_is_said_before_it_goes_on(paper_tables, tmp_path, monkeypatch):
    allow(SPACES["cai2019_table3"])
    monkeypatch.setattr(paper_tables, "load_space", space_of)
    whole = paper_tables.STUDIES["cai2019_table3"].minutes
    said = paper_tables.outlook("cai2019_table3", tmp_path, (0, 1, 2, 3, 4), ())
    assert said == f"cai2019_table3: 0 of 15 trials done; about {whole:.0f} of {whole:.0f} minutes of one core left"
    folder = tmp_path / "sweeps" / "cai2019_table3"
    base = space_of("cai2019_table3").base
    SweepPlan("cai2019_table3", "", base, "", "", "0", trials=15).save(folder)
    for number, status in enumerate(("finished", "finished", "failed", "running")):
        write_result(folder / "trials" / str(number), TrialResult(str(number), base, status))
    said = paper_tables.outlook("cai2019_table3", tmp_path, (0, 1, 2, 3, 4), ())
    assert (
        said == f"cai2019_table3: 3 of 15 trials done; about {whole * 0.8:.0f} of {whole:.0f} minutes of one core left"
    )
    assert "not been estimated" in paper_tables.outlook("cai2019_table3", tmp_path, (0,), ("budget.batch=1",))


def test_rows_of_unlike_labels_have_no_baseline_in_common(paper_tables):
    base = space_of("cai2019_fig7").base.with_values({"domains": {"A": "ct", "B": "mr"}})
    table = ablation_table([one for share in (0.14, 0.85)
                            for one in results(base.with_values({"labels.fraction": share}))])  # fmt: skip
    said = "\n".join(paper_tables._found(paper_tables.STUDIES["cai2019_fig7"], table))
    assert "Rows differ in labels too" in said
    assert "helps" not in said
    assert said.count("fraction=0.14") == said.count("fraction=0.85") == 3


def test_a_section_says_of_how_many_trainings_it_is_and_what_so_few_leave_open(paper_tables):
    assert paper_tables._undecidable(5) == ""
    assert "stays open" in paper_tables._undecidable(3)
    assert "too few" in paper_tables._undecidable(2)


def test_figure_9_adds_as_many_real_patients_as_synthetic_images_are_made_of(paper_tables):
    """By the rule that draws labelled patients, on as many as its phantom has."""
    (trained, *_) = paper_tables.STUDIES["cai2019_fig9"].phantom.keywords["patients"]["mr"]
    points = space_of("cai2019_fig9").points
    alone, *more = (len(label_subset(range(trained), point["labels.fraction"], 0))
                    for point in points if point["arm"] == "real")  # fmt: skip
    amounts = sorted({point["mixing.source_patients"] for point in points if point["arm"] != "real"})
    assert [count - alone for count in more] == amounts


def test_a_picture_of_lesions_shows_the_slice_with_most_of_one_beside_the_truth_and_what_needs_no_training(
    benchmark_script,
):
    from ganatomy.measures.synthesis.pathology import PseudoHealthyCase

    source = np.arange(3.0)[:, None, None] * np.ones((3, 16, 16)) / 4
    lesion = np.zeros(source.shape, np.uint8)
    lesion[1, :2], lesion[2, :8] = 1, 2
    case = PseudoHealthyCase(source - 0.25, source, lesion, twin=source - 0.5)
    columns = benchmark_script("pseudo_healthy_picture").columns_of(case, {"paired": case})
    assert {column.title: float(column.image.mean()) for column in columns} == pytest.approx(
        {"real": 0.5, "without the lesion": 0.0, "darker": -0.25, "clipped": 0.2, "paired": 0.25}
    )
    assert set(np.unique(columns[0].label)) == {0, 1}
