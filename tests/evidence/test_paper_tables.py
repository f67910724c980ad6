"""The page of the papers' tables: each section in its place, and saying what it is and which effects appear."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ganatomy.cohorts.roles import cast_roles
from ganatomy.core.plugins import available, resolve
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import Score, TrialResult
from ganatomy.stores.store import open_store

PAGE = Path(__file__).parents[2] / "docs" / "paper_tables.md"


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
    base = resolve("spaces", "cai2019_table4").base.with_values({"domains": {"A": "ct", "B": "mr"}})
    return SweepPlan("t", "cai2019_table4", base, "store", "cohort", "0", trials=3, fixed={"budget.batch": "1"},
                     anatomy="heart", modalities={"ct": "CT", "mr": "MR"})  # fmt: skip


def test_a_section_says_how_it_was_made_and_which_effects_appear(paper_tables, plan):
    table = ablation_table(results(plan.base), published=plan.published())
    text = paper_tables.section("cai2019_table4", plan, table)
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
        asked = {value for point in resolve("spaces", name).points for key, value in point.items()
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
    assert paper_tables.STUDIES.keys() <= available("spaces").keys()
    for name, study in paper_tables.STUDIES.items():
        space = resolve("spaces", name)
        assert space.published
        cohort = study.phantom(tmp_path / name, name=name, patients=few(study.phantom))
        cast = replace(space, base=cast_roles(space.base, cohort, study.domains))
        modalities = {domain.name: domain.modality for domain in cohort.domains.values()}
        plan = SweepPlan("t", name, cast.base, "", "", "0", 1, anatomy=cohort.anatomy, modalities=modalities)
        assert plan.published()
        assert all(cast.base.domain(role) in cohort.domains for role in cast.base.domains)
        assert [cast.experiment(values, {}).validate() for values in cast.listed({}, (0,))]


def test_a_picture_of_lesions_shows_the_slice_with_most_of_one_beside_the_truth_and_what_needs_no_training(
    benchmark_script,
):
    from ganatomy.measures.pathology import PseudoHealthyCase

    source = np.arange(3.0)[:, None, None] * np.ones((3, 16, 16)) / 4
    lesion = np.zeros(source.shape, np.uint8)
    lesion[1, :2], lesion[2, :8] = 1, 2
    case = PseudoHealthyCase(source - 0.25, source, lesion, twin=source - 0.5)
    columns = benchmark_script("pseudo_healthy_picture").columns_of(case, {"paired": case})
    assert {column.title: float(column.image.mean()) for column in columns} == pytest.approx(
        {"real": 0.5, "without the lesion": 0.0, "darker": -0.25, "clipped": 0.2, "paired": 0.25}
    )
    assert set(np.unique(columns[0].label)) == {0, 1}
