"""Amounts as an axis, in the stages: source patients, distinct images, shares by counts; what is shown how often."""

from __future__ import annotations

import json

import pytest
import tiny
from tiny import experiment

from ganatomy.contracts import InputError
from ganatomy.core.plain_values import digest
from ganatomy.evidence.ablation import relevant
from ganatomy.experiment import as_before
from ganatomy.stages.amounts import check_amounts
from ganatomy.stages.outcome import outcome_of, reference_models
from ganatomy.stages.stages import SYNTHETIC, Stages
from ganatomy.stores.store import open_store
from ganatomy.training.pools import generator_pool

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny.make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


def stages(workspace, store, **values):
    return Stages(workspace, store.path, experiment(**{"arm": "offline", **values}))


def made(one):
    return open_store(one.synthesised().directory / SYNTHETIC).records()


def test_generators_see_and_translate_so_many_source_patients(store, workspace):
    everyone = stages(workspace, store)
    one = stages(workspace, store, mixing__source_patients=1)
    pools = [{entry.record.patient for entry in generator_pool(store, run.experiment, "A").entries}
             for run in (one, everyone)]  # fmt: skip
    assert len(pools[0]) == 1
    assert pools[0] < pools[1]
    assert one.fit().key != everyone.fit().key
    ct = {record.patient for record in store.records("ct")}
    assert {record.patient for record in made(one)} & ct == pools[0]
    assert len(made(one)) < len(made(everyone))
    # What it is measured by, and what is trained without synthetic images, sees whom it saw before.
    assert {d: s.key for d, s in reference_models(one).items()} == {
        d: s.key for d, s in reference_models(everyone).items()
    }
    real = [stages(workspace, store, arm="real", mixing__source_patients=count) for count in (0, 1)]
    assert len({run.model().key for run in real}) == 1
    assert len({relevant(run.experiment).configuration() for run in real}) == 1
    joint = [relevant(experiment(arm="joint", mixing__source_patients=count)).configuration() for count in (0, 1)]
    assert len(set(joint)) == 2


def test_a_configuration_from_before_amounts_could_be_set_has_the_hash_that_it_had(store, workspace):
    """Plans of then declare what they compare by it; a study of other amounts is another one."""
    one = stages(workspace, store).experiment
    before = one.to_dict() | {"seed": None}
    before |= {
        name: as_before(getattr(one, name))
        for name in ("labels", "training", "downstream", "filter", "transfer", "sampling")
    }
    before["mixing"] = {name: before["mixing"][name] for name in ("ratio", "order", "pretrain")}
    assert one.configuration() == digest(before)
    for values in ({"mixing.distinct": 1}, {"mixing.source_patients": 1}, {"mixing.share": "counts"}):
        assert one.with_values(values).configuration() != one.configuration()


def test_so_many_distinct_images_are_mixed_in_and_it_is_counted_how_often_each_is_shown(store, workspace):
    """By counts a synthetic image is shown as often as a real one, whatever is kept; by ratio the fewer the oftener."""
    shown = {}
    for share in ("ratio", "counts"):
        for distinct in (1, 2):
            values = {"mixing__distinct": distinct, "mixing__share": share, "mixing__pretrain": 0.0,
                      "budget__segmentor_steps": 24, "budget__generator_steps": 16}  # fmt: skip
            run = stages(workspace, store, **values)
            path, indices = run.mixed_in(run.filtered())
            work = outcome_of(run).summary
            assert (work["work/used_images"], len(indices)) == (distinct, distinct)
            assert work["work/kept_images"] == len(open_store(path)) > 2
            assert work["work/synthetic_samples"] == pytest.approx(distinct * work["work/synthetic_shown"])
            shown[share, distinct] = indices, work["work/synthetic_shown"], work["work/real_shown"]
    assert set(shown["ratio", 1][0]) < set(shown["ratio", 2][0]) == set(shown["counts", 2][0])
    assert shown["ratio", 1][1] == 2 * shown["ratio", 2][1] == 24
    for distinct in (1, 2):
        _, synthetic, real = shown["counts", distinct]
        assert synthetic == pytest.approx(real, rel=0.1)


def test_more_than_there_is_is_refused_before_anything_is_spent(store, tmp_path):
    for values, said in (
        ({"mixing__source_patients": 99}, r"source_patients = 99 of \d labelled training patients of domain ct"),
        ({"mixing__distinct": 999}, r"distinct = 999 of at most \d+ synthetic images that shape_consistent makes"),
    ):
        with pytest.raises(InputError, match=said):
            check_amounts(store, [experiment(arm="offline", **values)])
        check_amounts(store, [experiment(arm="real", **values)])  # which has no part in it
    check_amounts(store, [experiment(arm="offline", mixing__source_patients=1, mixing__distinct=1)])


def test_what_a_filter_leaves_is_known_after_it_and_then_nobody_is_trained(store, workspace):
    run = stages(workspace, store)
    found = json.loads((run.filtered().directory / "kept.json").read_text())
    asked = stages(workspace, store, mixing__distinct=found["of"] + 1)
    check_amounts(store, [asked.experiment])
    with pytest.raises(InputError, match=rf"mixing\.distinct = {found['of'] + 1}, and {found['of']} of {found['of']} "):
        asked.model()
    assert "downstream" not in asked.keys


@pytest.mark.parametrize(("values", "said"), [
    ({"mixing__distinct": -1}, r"mixing\.distinct = -1"),
    ({"mixing__source_patients": -1}, r"mixing\.source_patients = -1"),
    ({"mixing__share": "count"}, r"did you mean 'counts'"),
    ({"mixing__share": "counts", "mixing__composition": "paper"}, r"ratio with mixing\.composition = paper"),
    ({"mixing__source_patients": 1, "domains": {"A": "mr", "B": "mr"}}, "every role is of the target domain"),
])  # fmt: skip
def test_amounts_that_cannot_be_are_refused(values, said):
    with pytest.raises(InputError, match=said):
        experiment(**values).validate()
