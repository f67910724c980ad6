"""A paper's figures beside ours: which trials they belong to, what they come to, and when a claim is said to appear."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from reports.materials import page_of
from scipy import stats

from ganatomy.core.plugins import allow, available, resolve
from ganatomy.downstream.classification import CLASSIFICATION
from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.published import INCOMPARABLE
from ganatomy.evidence.results import SweepPlan
from ganatomy.experiment import Experiment, Score, TrialResult
from ganatomy.measures.segmentation import mean_over_patients
from ganatomy.measures.verdicts import compare, of_scores
from ganatomy.reports.tabulated import to_json
from ganatomy.reports.text import render_text
from ganatomy.search_space import PaperClaim, PaperData, PaperFigure, PaperTable

BASE = Experiment("cohort", {"A": "ct", "B": "mr"})
REAL, JOINT = {"arm": "real"}, {"arm": "joint", "method.shape_weight": 1.0}
WITHOUT = {"arm": "joint", "method.shape_weight": 0.0}
S_SCORE = "synthesis/s_score/{B}"
TABLE = PaperTable(
    "Somebody et al. 2019, Table 9, hearts",
    (
        PaperFigure("U-Net, real", REAL, 0.641, "(0.160 to 0.785)"),
        PaperFigure("U-Net, ours", JOINT, 0.673),
        PaperFigure("PSP-Net, ours", {**JOINT, "downstream.network": "pspnet"}, 0.538),
        PaperFigure("w/ shape consistency", JOINT, 0.696, metric=S_SCORE),
        PaperFigure("w/o shape consistency", WITHOUT, 0.675, metric=S_SCORE),
    ),
    (
        PaperClaim("ours above real", JOINT, REAL),
        PaperClaim("real above ours", REAL, JOINT),
        PaperClaim("shape consistency raises the S-score", JOINT, WITHOUT, S_SCORE),
    ),
    ("Most gaps of this table are below 1.2 points.",),
)


def trial(point, value, seed=0, s_score=math.nan, status="finished"):
    made = BASE.with_values({**point, "seed": seed})
    scores = tuple(Score(f"s{n}", f"p{n}", "dice", "lv", value + 0.01 * n + 0.001 * (n % 3) * seed) for n in range(12))
    summary = {"val/dice": value, "synthesis/s_score/mr": s_score}
    return TrialResult(f"{sorted(point)}{seed}", made, status, scores=scores, summary=summary)


def sweep():
    results = []
    for seed, wobble in enumerate((0.0, 0.01, 0.02)):
        results += [
            trial(REAL, 0.5 + wobble, seed), trial({"arm": "joint"}, 0.6 + wobble, seed, s_score=0.8 + wobble),
            trial(WITHOUT, 0.55, seed, s_score=0.7),
        ]  # fmt: skip
    return results


def shown(results, table=TABLE):
    return ablation_table(results, published=[table]).published[0]


def test_a_figure_stands_beside_the_mean_over_the_seeds_of_its_configuration():
    found = {(figure.name, figure.metric): figure for figure in shown(sweep()).figures}
    real = found["U-Net, real", "val/dice"]
    assert (real.paper, real.spread, real.seeds) == (0.641, "(0.160 to 0.785)", 3)
    assert (real.ours, real.deviation) == pytest.approx((0.51, 0.01))
    # The base leaves the shape weight at its default, which is what the paper's row says; {B} is the target's domain.
    assert found["w/ shape consistency", "synthesis/s_score/mr"].ours == pytest.approx(0.81)


def test_what_the_sweep_lacks_is_counted_and_what_has_no_result_is_left_blank():
    results = [replace(result, status="failed", summary={}, scores=()) for result in sweep()[:1]] + sweep()[1:3]
    printed = shown(results)
    assert printed.absent == 1
    assert {figure.name: figure.seeds for figure in printed.figures}["U-Net, real"] == 0
    assert "PSP-Net" not in "".join(figure.name for figure in printed.figures)
    assert next(finding for finding in printed.findings if finding.says == "ours above real").found is None
    text = render_text(ablation_table(results, published=[TABLE]))
    assert "1 more of the table's figures" in text
    assert "no result" in text


def test_a_claim_about_a_set_that_was_refused_has_no_result():
    """The trainings of other seeds are the luckier ones."""
    claim = next(finding for finding in shown(sweep()).findings if finding.says == "ours above real")
    assert claim.reading == "appears here"
    ours = next(result.experiment for result in sweep() if result.experiment.arm == "joint")
    lost = TrialResult("x", replace(ours, seed=99), "failed", "refused", refused=True)
    claim = next(finding for finding in shown([*sweep(), lost]).findings if finding.says == "ours above real")
    assert (claim.reading, claim.found) == ("no result", None)


def test_a_claim_rests_on_patients_and_trainings_and_has_no_verdict_where_no_patient_has_a_figure():
    findings = {finding.says: finding for finding in shown(sweep()).findings}
    ours = findings["ours above real"]
    assert (ours.units, ours.found.patients, ours.paper) == ("12 patients", 12, pytest.approx(0.032))
    assert ours.reading == "appears here"
    assert findings["real above ours"].reading == "reversed here"
    assert findings["real above ours"].found.estimate == pytest.approx(-ours.found.estimate)
    shape = findings["shape consistency raises the S-score"]
    assert (shape.units, shape.reading, shape.paper) == ("3 trainings", "no verdict", pytest.approx(0.021))
    assert shape.found.estimate == pytest.approx(0.11)
    assert math.isinf(shape.found.low)


def synthesis_rows(result, metric, value):
    rows = tuple(Score(f"s{n}", f"p{n}", metric, "", value + 0.01 * (n % 5)) for n in range(12))
    return replace(result, scores=(*result.scores, *rows))


def test_a_claim_about_synthetic_images_is_tested_on_its_rows_over_patients():
    results = [synthesis_rows(result, "synthesis/s_score/mr", result.summary["synthesis/s_score/mr"])
               if "joint" in str(result.experiment.arm) else result for result in sweep()]  # fmt: skip
    shape = next(f for f in shown(results).findings if f.says == "shape consistency raises the S-score")
    assert (shape.units, shape.reading) == ("12 patients", "appears here")
    assert shape.found.estimate == pytest.approx(0.11)


def test_a_claim_about_identity_is_judged_as_the_analysis_judges_its_rows():
    """By the score of each patient under each training, as everything else: a luck that all patients share is luck."""
    metric, luck = "synthesis/identity", {"joint": (0.05, -0.05, 0.0), "offline": (-0.02, 0.03, 0.01)}
    rows = {(arm, seed): {f"p{n}": 0.8 + 0.1 * (arm == "joint") + 0.01 * math.sin(n * (seed + 2)) + by
                          for n in range(8)} for arm in luck for seed, by in enumerate(luck[arm])}  # fmt: skip
    results = []
    for (arm, seed), own in rows.items():
        result = trial({"arm": arm}, 0.5, seed)
        scores = tuple(Score(f"{who}-scan", who, metric, "H", value) for who, value in own.items())
        mean = sum(own.values()) / len(own)
        results.append(replace(result, trial=f"{arm}{seed}", scores=(*result.scores, *scores), summary={metric: mean}))
    table = PaperTable("t", (), (PaperClaim("more", {"arm": "joint"}, {"arm": "offline"}, metric),))
    found = shown(results, table).findings[0]
    more, less = (of_scores([rows[arm, seed] for seed in range(3)], metric) for arm in ("joint", "offline"))
    assert found.found == compare(more, less)
    assert (found.units, found.reading) == ("8 patients", "not shown here")
    # A t-test on patients alone, trainings averaged first, would call it certain.
    alone = [np.mean([[*rows[arm, seed].values()] for seed in range(3)], axis=0) for arm in ("joint", "offline")]
    assert stats.ttest_rel(*alone).pvalue < 1e-6 < 0.05 < found.found.p


@pytest.mark.parametrize("sizes", [(8, 8), (6, 14)])
def test_a_claim_about_several_domains_is_about_the_mean_of_their_means(sizes):
    """However many patients each has: the difference is the one between the figures that stand in the table."""

    def of(arm, seed):
        result, lift = trial({"arm": arm}, 0.5, seed), {"joint": (0.1, 0.3), "offline": (0.0, 0.0)}[arm]
        rows = [Score(f"{domain}{n}", f"{domain}{n}", f"s/{domain}", "lv", 0.5 + up + 0.01 * math.sin(n + seed))
                for domain, up, size in zip(("ct", "mr"), lift, sizes) for n in range(size)]  # fmt: skip
        summary = mean_over_patients(rows)
        return replace(result, trial=f"{arm}{seed}", scores=(*result.scores, *rows), summary=summary)

    results = [of(arm, seed) for arm in ("joint", "offline") for seed in range(3)]
    points = ({"arm": "joint"}, {"arm": "offline"})
    figures = tuple(PaperFigure(point["arm"], point, 0.8, metric="s/*") for point in points)
    printed = shown(results, PaperTable("t", figures, (PaperClaim("more", *points, "s/*"),)))
    finding = printed.findings[0].found
    assert finding.estimate == pytest.approx(printed.figures[0].ours - printed.figures[1].ours)
    assert finding.estimate == pytest.approx(0.2, abs=0.01)
    assert finding.patients == sum(sizes)


def test_claims_are_one_family_however_they_are_grouped():
    """The two about Dice have other baselines: half of the level each, as Bonferroni has it."""
    findings = {finding.says: finding for finding in shown(sweep()).findings}
    ours = findings["ours above real"].found
    alone = shown(sweep(), replace(TABLE, claims=TABLE.claims[:1])).findings[0].found
    assert ours.low < alone.low < alone.high < ours.high
    assert ours.family == alone.family == 0.025
    assert ours.comparisons == pytest.approx(3)
    assert ours.p_helps == pytest.approx(min(1.0, 3 * alone.p_helps))


def test_a_figure_of_all_domains_together_is_the_mean_of_theirs_in_each_trial():
    results = [
        replace(result, summary={"s/ct": 0.5 + seed, "s/mr": 0.7 + seed, "s_not/mr": 9.0, "s": 9.0} if seed < 2 else {})
        for seed, result in enumerate(trial(JOINT, 0.5, seed) for seed in range(3))
    ]
    table = PaperTable("t", (PaperFigure("both", JOINT, 0.8, metric="s/*"),), (PaperClaim("c", JOINT, JOINT, "s/*"),))
    printed = shown(results, table)
    assert (printed.figures[0].metric, printed.figures[0].seeds) == ("s/*", 2)
    assert printed.figures[0].ours == pytest.approx((0.6 + 1.6) / 2)
    assert printed.findings[0].units == "2 trainings"


def test_an_effect_that_chance_explains_is_not_shown_and_one_training_has_no_verdict():
    flat = replace(TABLE, claims=TABLE.claims[:1])
    results = [trial(point, 0.5 + 0.01 * seed, seed) for point in (REAL, {"arm": "joint"}) for seed in range(3)]
    assert shown(results, flat).findings[0].reading == "not shown here"
    assert shown(sweep()[:3], flat).findings[0].reading == "no verdict"


def test_a_claim_about_classifiers_is_judged_by_their_patients():
    def classifier(arm, separation, seed):
        scores = tuple(
            Score(f"s{n}", f"p{n}", "probability", "lesion" if n % 2 else "normal", 0.5 + separation * (n % 2) + noise)
            for n, noise in enumerate(0.1 * math.sin(7 * k + seed) for k in range(40))
        )
        made = BASE.with_values({"arm": arm, "downstream.task": "classification", "seed": seed})
        area = CLASSIFICATION.summarise(scores)["val/auc"]
        return TrialResult(f"{arm}{seed}", made, "finished", scores=scores, summary={"val/auc": area})

    results = [classifier(arm, by, seed) for arm, by in (("real", 0.0), ("offline", 0.2)) for seed in range(3)]
    table = PaperTable("t", (), (PaperClaim("helps", {"arm": "offline"}, REAL, "val/auc"),))
    finding = shown(results, table).findings[0]
    less, more = CLASSIFICATION.judged(*([one.scores for one in some] for some in (results[:3], results[3:])))
    assert finding.found == compare(more, less)
    assert (finding.units, finding.reading) == ("40 patients", "appears here")


def test_of_several_configurations_that_agree_the_one_begun_first_counts():
    """Listed points run before anything is sampled: what was sampled later does not take the place of a listed one."""
    sampled = trial({"arm": "joint", "method.cycle_weight": 3.0}, 0.9)
    found = shown([*sweep(), sampled]).figures
    assert next(figure for figure in found if figure.name == "U-Net, ours").ours == pytest.approx(0.61)


def test_the_table_is_shown_in_text_json_and_html_with_its_warning():
    results = sweep()
    table = ablation_table(results, published=[TABLE])
    text, page = render_text(table), page_of(results, table=table)
    values = json.loads(to_json(table), parse_constant=pytest.fail)["published"][0]
    assert max(map(len, text.splitlines())) <= 120
    assert values["warning"] == INCOMPARABLE
    assert values["findings"][0]["reading"] == "appears here"
    assert values["figures"][0]["paper"] == 0.641
    flat = " ".join(text.split())
    for said in (TABLE.where, TABLE.caveats[0], INCOMPARABLE):
        assert said in flat
        assert said in page.replace("&#x27;", "'")
    for word in ("0.641", "0.510", "+0.032", "appears here", "no verdict"):
        assert word in text
        assert word in page
    assert "paper" not in render_text(ablation_table(sweep()))


PUBLISHED = [name for name, path in sorted(available("spaces").items())
             if path.startswith("ganatomy_search_spaces") and resolve("spaces", name).published]  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_figure_of_an_installed_space_belongs_to_one_of_its_points(name, full):
    """A figure whose point is misspelt would never be shown, and nobody would miss it."""
    from ganatomy.evidence.published import agrees

    space = resolve("spaces", name)
    if full and space.full is None:
        pytest.skip("one size only")
    space = space.at_full_size() if full else space
    domains = {role: f"{role}{state}" for role, state in space.base.domains.items()}
    space = replace(space, base=replace(space.base, domains=domains))
    for table in space.published:
        target = table.of.target or space.base.target
        own = replace(space, base=replace(space.base, target=target))
        listed = [own.experiment(values, {}) for values in own.listed({}, (0,))]
        points = [figure.point for figure in table.figures]
        points += [point for claim in table.claims for point in (claim.more, claim.less)]
        for point in points:
            assert sum(agrees(experiment, point) for experiment in listed) == 1, point
        for figure in table.figures:
            assert figure.metric.format(**domains)


# --- in the right rows --------------------------------------------------------------------------------------------

DATA = PaperData("heart", {"A": "CT", "B": "MRI"}, size=(64, 64), fraction=0.14)
BOUND = replace(TABLE, of=DATA)


def of(experiment, results):
    return [replace(one, experiment=one.experiment.with_values(experiment)) for one in results]


def plan_of(space="cai2019_table2", domains=("ct", "mr"), anatomy="heart", target="B"):
    base = resolve("spaces", space).base.with_values({"domains": dict(zip("AB", domains)), "target": target})
    return SweepPlan("s", space, base, "", "", "0", 1, anatomy=anatomy, modalities={"ct": "CT", "mr": "MR"})


def test_a_table_is_shown_beside_sweeps_of_its_organ_and_modalities_and_it_is_said_why_another_is_not():
    told = []
    assert [table.of.anatomy for table in plan_of().published(told.append)] == ["heart"]
    assert len(told) == 1
    assert "pancreas" in told[0]
    assert "this of the heart" in told[0]
    assert plan_of(domains=("mr", "ct")).published(told.append) == ()
    assert "A is CT there, and mr here" in told[1]
    assert plan_of(anatomy="").published(told.append) == ()
    assert "cohort.yaml leaves unsaid" in told[-1]


def test_a_table_of_one_column_is_shown_beside_sweeps_whose_model_works_in_its_domain():
    allow(path := "ganatomy_search_spaces.cai2019_table4:SPACE")
    for target, other in (("B", "ct"), ("A", "mr")):
        told = []
        (shown_one,) = plan_of(path, anatomy="pancreas", target=target).published(told.append)
        assert shown_one.of.target == target
        (why,) = told
        assert f"the model there works in {'CT' if other == 'ct' else 'MRI'}, here in" in why


def test_a_table_whose_points_say_the_fraction_is_shown_beside_all_of_them():
    points = {share: {**REAL, "labels.fraction": share} for share in (0.14, 0.85)}
    results = [trial(point, 0.5 + share, seed) for share, point in points.items() for seed in range(3)]
    claim = PaperClaim("more labels, more Dice", points[0.85], points[0.14])
    table = PaperTable("t", (), (claim,), of=replace(DATA, fraction=None))
    assert shown(results, table).findings[0].reading == "appears here"
    assert shown(results, replace(table, of=DATA)).findings == ()


def test_at_full_size_stand_what_papers_say_of_the_points_there():
    space = replace(resolve("spaces", "cai2019_table2"), published=(TABLE,), full_published=(BOUND,))
    assert (space.published, space.at_full_size().published) == ((TABLE,), (BOUND,))
    assert replace(space, full_published=()).at_full_size().published == (TABLE,)


def test_a_table_of_four_contrasts_is_not_shown_beside_a_sweep_of_two():
    told, space = [], resolve("spaces", "qu2019_table2")
    two = replace(space.base, cohort="c", domains={"T1": "t1", "FLAIR": "flair"})
    plan = SweepPlan("s", "qu2019_table2", two, "", "c", "digest", 1, anatomy="brain")
    assert plan.published(told.append) == ()
    assert "T2 is one of its roles, and none here" in told[0]


def test_a_figure_stands_beside_what_has_its_fraction_of_labels_and_its_size():
    alike = shown(of({"labels.fraction": 0.14}, sweep()), BOUND)
    assert alike == shown(sweep())  # as if it were bound to nothing
    other = shown(of({"labels.fraction": 0.25}, sweep()), BOUND)
    assert (other.figures, other.findings) == ((), ())
    assert "of 14 % of the labels, ours of 25 %" in other.caveats[0]
    some = of({"labels.fraction": 0.25}, sweep()[:3]) + of({"labels.fraction": 0.14}, sweep()[3:])
    assert {figure.seeds for figure in shown(some, BOUND).figures} == {2}


def test_beside_images_of_another_size_stand_the_effects_that_a_paper_claims_and_none_of_its_figures():
    alike, small = (shown(of({"labels.fraction": 0.14}, sweep()), replace(BOUND, of=replace(DATA, size=size)))
                    for size in ((64, 64), (88, 112, 112)))  # fmt: skip
    assert all(math.isnan(figure.paper) and not figure.spread for figure in small.figures)
    assert [figure.ours for figure in small.figures] == [figure.ours for figure in alike.figures]
    assert [finding.found for finding in small.findings] == [finding.found for finding in alike.findings]
    assert all(math.isnan(finding.paper) for finding in small.findings)
    assert "88 x 112 x 112 voxels, ours of 64 x 64" in small.caveats[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_table_of_an_installed_space_says_what_it_is_of(name):
    space = resolve("spaces", name)
    for table in space.published:
        assert table.of is not None
        assert table.of.modalities.keys() == space.base.domains.keys()
        assert table.of.target in ("", *space.base.domains)
        shares = {point.get("labels.fraction", space.base.labels.fraction) for point in space.points}
        assert (table.of.fraction is None) == (len(shares) > 1)  # else rows of other labels would be left out
