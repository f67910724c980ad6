"""Pseudonyms: keyed by a secret of the cohort, without which nobody undoes them, and on which nothing that is computed
depends."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import radiographs
import tiny
import torch
from stores.object_server import serve

from cohorts.scans import write_registered
from ganatomy import cli
from ganatomy.cohorts.cohort import Cohort, Domain, Row
from ganatomy.cohorts.importers import import_cohort
from ganatomy.cohorts.pseudonyms import KEY, Pseudonyms, pseudonyms_of
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.images.intensities import Intensity
from ganatomy.measures.roc import replicates
from ganatomy.measures.verdicts import NO_VERDICT, compare, of_predictions
from ganatomy.phantoms.bones import make_bone_cohort
from ganatomy.stages.lesion_patches import film_items, part, patch_items
from ganatomy.stages.outcome import outcome_of
from ganatomy.stages.stages import Stages
from ganatomy.stages.synthesis import synthetic_items
from ganatomy.stores.preparation import prepare
from ganatomy.stores.store import publish_store
from ganatomy.stores.writing import write_store
from ganatomy.training.distributed import NETWORKS
from ganatomy.training.pools import labelled_patients
from ganatomy.training.tasks import make_method

pytestmark = pytest.mark.usefixtures("one_thread_and_no_pictures")

KEYS = ("00" * 32, "5f" * 32)
NAMES = {f"{domain}-{split}-{place}": f"MRN47{number:02d}{hash_like}" for number, (domain, split, place, hash_like) in
         enumerate((d, s, p, w) for d in ("ct", "mr") for s, n in tiny.SPLITS.items() for p, w in
                   zip(range(n), ("Zoe", "Amy", "Kim", "Bob")))}  # fmt: skip


def squares(folder: Path, key: str) -> Cohort:
    """The tiny cases as files, of patients whose names do not sort as they come, under a key."""
    folder.mkdir()
    rows = []
    for item in tiny.items():
        name = NAMES[item.patient]
        paths = folder / f"{name}.nii.gz", folder / f"{name}-label.nii.gz"
        for path, array in zip(paths, (item.image, item.label)):
            nibabel.save(nibabel.Nifti1Image(array.transpose(), np.diag([1.0, 1.0, 3.0, 1.0])), path)
        rows.append(Row(name, f"{name} visit 1", item.domain, *paths, split=item.split, session="1970-01-01"))
    domains = {name: Domain(name, intensity=Intensity("window", -1, 1)) for name in ("ct", "mr")}
    (folder / KEY).write_text(key)
    return Cohort(folder, "squares", domains, {1: "square"}, rows=tuple(rows)).save()


# --- the key -----------------------------------------------------------------------------------------------------


def test_a_pseudonym_is_a_long_keyed_hash():
    one, other = Pseudonyms(b"one"), Pseudonyms(b"other")
    names = [f"MRN{number}" for number in range(1000)]
    assert len({one(name) for name in names} | {other(name) for name in names}) == 2000
    assert one("Jane") == Pseudonyms(b"one")("Jane")
    assert all(len(one(name)) == 17 for name in names)  # 64 bits
    assert one.identity not in (other.identity, one("which key")[1:])


def test_import_makes_a_key_that_its_owner_alone_may_read(tmp_path):
    options = {"image": ["{domain}={patient}/{domain}.nii.gz"], "label": ["{patient}/label.nii.gz"]}
    source = write_registered(tmp_path / "in")
    made = [import_cohort(source, "folders", tmp_path / name, **options)[0] for name in ("a", "b")]
    keys = [cohort.path / KEY for cohort in made]
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    assert len(bytes.fromhex(keys[0].read_text())) == 32
    assert keys[0].read_text() != keys[1].read_text()
    before = keys[0].read_text()
    import_cohort(source, "folders", tmp_path / "a", **options, overwrite=True)
    assert keys[0].read_text() == before


def test_a_copied_cohort_takes_its_pseudonyms_along(tmp_path):
    cohort = squares(tmp_path / "here", KEYS[0])
    there = shutil.copytree(cohort.path, tmp_path / "there")
    assert prepare(read_cohort(there), tmp_path / "b").records() == prepare(cohort, tmp_path / "a").records()


def test_processes_that_make_a_key_at_once_agree(tmp_path):
    program = (
        "import sys; from ganatomy.cohorts.pseudonyms import pseudonyms_of; input(); "
        "print(pseudonyms_of(sys.argv[1]).identity)"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True) for _ in range(4)]  # fmt: skip
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    said = {process.communicate(timeout=120)[0] for process in running}
    assert said == {f"{pseudonyms_of(tmp_path).identity}\n"}


def test_a_key_that_cannot_be_made_or_read_is_one_line_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"pseudonym-key cannot be made.*remedy: run `ganatomy cohort check`"):
        pseudonyms_of(tmp_path / "absent")
    (tmp_path / KEY).write_text("no key")
    with pytest.raises(InputError, match=r"holds no key.*remedy: put back the one that was there"):
        pseudonyms_of(tmp_path)
    (tmp_path / KEY).write_bytes(os.urandom(64) + b"\xff")
    with pytest.raises(InputError, match="cannot be read"):
        pseudonyms_of(tmp_path)


def test_the_key_cannot_be_sent_anywhere_or_shown(tmp_path):
    names = pseudonyms_of(tmp_path)
    with pytest.raises(TypeError, match="stays in the process"):
        pickle.dumps(names)
    assert (tmp_path / KEY).read_text() not in repr(names) + names.identity


# --- where names end ---------------------------------------------------------------------------------------------


def all_bytes(folder: Path) -> bytes:
    return b"\0".join(
        str(path.relative_to(folder)).encode() + b"\0" + (path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    )


def test_a_store_holds_neither_names_nor_paths_nor_the_key_and_a_bucket_no_more(tmp_path):
    cohort = squares(tmp_path / "cohort", KEYS[1])
    store = prepare(cohort, tmp_path / "stores")
    names = pseudonyms_of(cohort.path)
    assert {record.patient for record in store.records()} == set(map(names, NAMES.values()))
    assert {record.subject for record in store.records()} == {names(f"{name} visit 1") for name in NAMES.values()}
    server = serve()
    try:
        options = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        publish_store(store.path, f"s3://key:secret@bucket/stores?{options}")
        uploaded = b"\0".join(name.encode() + b"\0" + content for name, content in server.objects.items())
    finally:
        server.shutdown()
        server.server_close()
    assert store.records()[0].patient.encode() in uploaded
    for held in (all_bytes(tmp_path / "stores"), uploaded):
        for secret in (b"MRN47", b"visit", b"1970", str(tmp_path).encode(), KEYS[1].encode(), bytes.fromhex(KEYS[1])):
            assert secret not in held


def test_what_a_diverged_generator_left_is_told_by_pseudonym(tmp_path):
    cohort = squares(tmp_path / "cohort", KEYS[0])
    store, experiment = prepare(cohort, tmp_path / "stores"), tiny.experiment(arm="offline")
    method = make_method(experiment, store.classes).eval()
    for parameter in method.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(InputError, match=r"has values in \[nan") as error:
        write_store(tmp_path / "made", name="m", labels=store.labels, domains=store.domains, digest="d",
                    items=synthetic_items(method, experiment, store, "fit", torch.device("cpu")))  # fmt: skip
    assert "MRN" not in str(error.value)
    assert any(record.subject in str(error.value) for record in store.records())


def test_everything_that_a_trial_leaves_is_without_names(tmp_path):
    cohort = squares(tmp_path / "cohort", KEYS[0])
    store = prepare(cohort, tmp_path / "stores")
    outcome = outcome_of(Stages(tmp_path / "workspace", store.path, tiny.experiment(arm="offline")))
    assert {row.patient for row in outcome.scores} <= {record.patient for record in store.records(split="val")}
    assert outcome.scores
    assert b"MRN47" not in all_bytes(tmp_path / "workspace")


# --- nothing that is computed depends on the key -----------------------------------------------------------------


def test_two_keys_draw_train_and_score_alike(tmp_path):
    experiment = tiny.experiment(arm="offline", labels__fraction=0.5, labels__gan_sees="all")
    stores, drawn, networks, scores, orders = [], [], [], [], []
    for key in KEYS:
        cohort = squares(tmp_path / f"cohort-{key[:2]}", key)
        names = pseudonyms_of(cohort.path)
        own = {names(name): name for name in NAMES.values()}
        store = prepare(cohort, tmp_path / f"stores-{key[:2]}")
        stages = Stages(tmp_path / f"workspace-{key[:2]}", store.path, experiment)
        rows = stages.scores("val")
        stores.append(
            [(own[record.patient], record.domain, store.image(record).tobytes()) for record in store.records()]
        )
        drawn.append({own[patient] for patient in labelled_patients(store, experiment, experiment.target)})
        networks.append([(stage.directory / NETWORKS).read_bytes() for stage in (stages.fit(), stages.model())])
        scores.append([(own[row.patient], row.metric, row.value) for row in rows])
        orders.append([own[name] for name in sorted(own)])
    assert orders[0] != orders[1]  # else this would show nothing
    assert stores[0] == stores[1]
    assert [name for name, _, _ in stores[0]] == sorted(name for name, _, _ in stores[0])  # the order of the names
    assert drawn[0] == drawn[1]
    assert networks[0] == networks[1]
    assert scores[0] == scores[1]


def test_two_keys_cut_the_same_patches_and_give_the_same_films_a_lesion(tmp_path):
    cohort = make_bone_cohort(tmp_path / "c", patients={"lesion": (3, 1, 0), "normal": (6, 2, 0)}, shape=(48, 32))
    experiment = radiographs.EXPERIMENT.with_values({"method.patch_side": 16, "arm": "offline"})
    sources, patches, films = [], [], []
    for key in KEYS:
        (cohort.path / KEY).write_text(key)
        store = prepare(cohort, tmp_path / f"stores-{key[:2]}")
        method = make_method(experiment, store.classes).eval()
        sources.append(part(store, experiment).sources)
        patches.append([(item.attributes, item.image.tobytes()) for item in patch_items(store, experiment)])
        made = film_items(method, experiment, store, "fit", torch.device("cpu"))
        films.append([(item.attributes, item.image.tobytes()) for item in made])
    assert sources[0] == sources[1]
    assert patches[0] == patches[1]
    assert films[0] == films[1]


def test_label_fractions_are_drawn_in_the_order_of_the_names_as_ever(tmp_path):
    """Of names whose examinations sort otherwise: p1 comes before p10, but p10_s before p1_s."""
    cohort = squares(tmp_path / "cohort", KEYS[0])
    called = {name: f"p{number}" for number, name in enumerate(sorted(NAMES.values()), start=1)}
    rows = [replace(row, patient=called[row.patient], subject=f"{called[row.patient]}_s") for row in cohort.rows]
    store = prepare(replace(cohort, rows=tuple(rows)).save(), tmp_path / "stores")
    names = pseudonyms_of(cohort.path)
    ranks = {record.patient: record.rank for record in store.records()}
    assert sorted(ranks, key=ranks.__getitem__) == [names(name) for name in sorted(called.values())]
    assert [record.rank for record in store.records()] != sorted(record.rank for record in store.records())


def test_intervals_are_those_of_the_rows_under_any_names():
    rng = np.random.default_rng(0)
    values = [{f"s{n}": (f"p{n // 2}", n % 3 == 0, float(p)) for n, p in enumerate(rng.random(24))} for _ in range(2)]
    found = []
    for key in (b"one", b"other"):
        names = Pseudonyms(key)
        renamed = [{names(s): (names(p), *rest) for s, (p, *rest) in one.items()} for one in values]
        found.append(compare(*(of_predictions(replicates([one] * 3)) for one in renamed)))
    assert (found[0].low, found[0].high, found[0].p) == (found[1].low, found[1].high, found[1].p)
    assert found[0].answer != NO_VERDICT


# --- who is who --------------------------------------------------------------------------------------------------


def test_whoever_has_the_cohort_is_told_whom_a_pseudonym_stands_for(tmp_path, capsys):
    cohort = squares(tmp_path / "cohort", KEYS[0])
    names, name = pseudonyms_of(cohort.path), NAMES["ct-val-1"]
    asked = [names(name), f"sub-{names(f'{name} visit 1')}_desc-fromct_mr.nii.gz"]
    assert cli.main(["cohort", "who", str(cohort.path), *asked]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{names(name)} is patient {name}",
        f"{names(f'{name} visit 1')} is examination {name} visit 1 of patient {name}",
    ]
    assert cli.main(["cohort", "who", str(cohort.path), Pseudonyms(b"another")(name)]) == 2
    assert "stands for nobody" in capsys.readouterr().err
    assert cli.main(["cohort", "who", str(cohort.path)]) == 2
    assert "no pseudonym to look up" in capsys.readouterr().err
    (cohort.path / KEY).unlink()
    assert cli.main(["cohort", "who", str(cohort.path), names(name)]) == 2
    assert "has no key" in capsys.readouterr().err
    assert not (cohort.path / KEY).exists()
