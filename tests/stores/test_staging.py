"""A node's own copy of a store: made once by whoever asks first, checked, replaced when it is damaged."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import make_store

from ganatomy.contracts import InputError
from ganatomy.core.installation import CACHE
from ganatomy.stores import staging
from ganatomy.stores.staging import file_hash
from ganatomy.stores.store import URL, Store, open_store, publish_store
from ganatomy.training.distributed import with_room
from stores.object_server import serve


@pytest.fixture
def store(tmp_path) -> Store:
    return make_store(tmp_path / "shared" / "stores" / "0123456789abcdef", digest="0123456789abcdef")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "local"))
    monkeypatch.delenv(URL, raising=False)
    return tmp_path / "local"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if not path.name.startswith(".")]


def same(one: Store, other: Store) -> bool:
    pairs = zip(one.records(), other.records(), strict=True)
    return all(np.array_equal(one.image(a), other.image(b)) for a, b in pairs)


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_store_is_read_from_the_nodes_own_disc_and_shipped_by_its_origin(store, cache, monkeypatch):
    here = open_store(store.path)
    [copy] = copies(cache)
    assert here.path == copy
    assert same(here, store)
    monkeypatch.delenv(CACHE)  # a node without one reads the original
    assert pickle.loads(pickle.dumps(here)).path == store.path


PROGRAM = """
import sys, time
from pathlib import Path
from ganatomy.stores import staging
from ganatomy.stores.store import open_store
made, copy = Path(sys.argv[2]), staging._copy

def slowly(*arguments):
    with made.open("a") as file:
        file.write("copied\\n")
    time.sleep(1.0)
    copy(*arguments)

staging._copy = slowly
print(len(open_store(sys.argv[1])))
"""


def test_processes_at_once_copy_once(store, cache, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(store.path), str(tmp_path / "made")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in started] == [f"{len(store)}\n"] * 3
    assert (tmp_path / "made").read_text() == "copied\n"
    assert len(copies(cache)) == 1


def test_a_damaged_copy_is_replaced_and_who_reads_the_old_one_goes_on(store, cache):
    before = open_store(store.path)
    [copy] = copies(cache)
    volumes = copy / "volumes-0000.arrow"
    damage(volumes)
    after = open_store(store.path)
    assert same(after, store)
    assert volumes.read_bytes() == (store.path / volumes.name).read_bytes()
    assert copies(cache) == [copy]
    assert before.image(before.records()[0]).shape == store.image(store.records()[0]).shape
    (copy / "records.arrow").unlink()
    assert same(open_store(store.path), store)


def test_a_sound_copy_is_read_through_once_not_at_every_opening(store, cache, monkeypatch):
    read = []
    real = staging.file_hash
    monkeypatch.setattr(staging, "file_hash", lambda path: read.append(path) or real(path))
    open_store(store.path)
    once = len(read)
    for _ in range(3):
        open_store(store.path)
    assert len(read) == once > 0
    [copy] = copies(cache)
    os.utime(copy / "records.arrow")  # touched, not changed: looked at again, and kept
    inode = copy.stat().st_ino
    open_store(store.path)
    assert len(read) == 2 * once
    assert copy.stat().st_ino == inode


@pytest.mark.parametrize("part", ["hashes", "files", "digest"])
def test_a_description_that_names_files_elsewhere_is_refused_and_nothing_is_written(store, cache, tmp_path, part):
    header = json.loads((store.path / "store.json").read_text())
    secret = tmp_path / "shared" / "secret"
    secret.write_text("secret")
    named = "../../secret"
    header[part] = named if part == "digest" else {**header[part], named: file_hash(secret) if part == "hashes" else 6}
    (store.path / "store.json").write_text(json.dumps(header))
    with pytest.raises(InputError, match=r"'../../secret'"):
        open_store(store.path)
    with contextlib.suppress(InputError):
        publish_store(store.path, (tmp_path / "bucket").as_uri())
    assert {path for path in tmp_path.rglob("secret") if path.is_file()} == {secret}


def test_an_original_that_is_damaged_is_not_passed_on(store, cache):
    damage(store.path / "volumes-0000.arrow")
    with pytest.raises(InputError, match=r"volumes-0000\.arrow of store .* did not arrive as it was prepared"):
        open_store(store.path)
    assert copies(cache) == []


def test_another_store_of_the_same_digest_is_another_copy(store, cache, tmp_path):
    """Two synthetic sets of one fit differ in what stands in them, not in their digest."""
    other = make_store(tmp_path / "shared" / "x", digest=store.digest, splits={"train": 2, "val": 1, "test": 1})
    assert len(open_store(store.path)) != len(open_store(other.path))
    assert len(copies(cache)) == 2


def test_what_a_killed_copier_left_is_cleared(store, cache):
    open_store(store.path)
    [copy] = copies(cache)
    (copy / "records.arrow").unlink()
    left = cache / f".{copy.name}.1-dead"
    left.mkdir()
    (left / "volumes-0000.arrow").write_text("half")
    open_store(store.path)
    assert not left.exists()


def test_no_space_is_said_before_anything_is_copied(store, cache, monkeypatch):
    usage = staging.shutil.disk_usage(cache.parent)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(InputError, match="no space for a copy of store"):
        open_store(store.path)


def test_work_that_a_sweep_gave_out_reads_the_original_where_there_is_no_space(store, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging, "single_flight", full)
    with pytest.raises(InputError, match=f"no space left for a copy of store .* in {cache}"):
        open_store(store.path)
    assert with_room(lambda: open_store(store.path)).path == store.path


def test_a_store_without_hashes_has_its_remedy(store, cache):
    header = json.loads((store.path / "store.json").read_text())
    del header["hashes"]
    (store.path / "store.json").write_text(json.dumps(header))
    with pytest.raises(InputError, match="prepared anew"):
        open_store(store.path)


# --- from an address ---------------------------------------------------------------------------------------------


def test_a_published_store_needs_no_shared_folder(store, cache, tmp_path, monkeypatch):
    url = (tmp_path / "bucket").as_uri()
    publish_store(store.path, url)
    monkeypatch.setenv(URL, url)
    here = open_store(tmp_path / "not" / "mounted" / store.path.name)
    assert same(here, store)
    assert here.origin == str(tmp_path / "not" / "mounted" / store.path.name)


def test_publishing_twice_writes_once(store, tmp_path):
    url = (tmp_path / "bucket").as_uri()
    publish_store(store.path, url)
    files = [*(tmp_path / "bucket").rglob("*.*")]
    before = {file: file.stat().st_mtime_ns for file in files}
    publish_store(store.path, url)
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert len(files) == len([*store.path.iterdir()])


def test_what_is_not_published_comes_from_the_shared_folder(store, cache, tmp_path, monkeypatch):
    monkeypatch.setenv(URL, (tmp_path / "bucket").as_uri())
    assert same(open_store(store.path), store)
    other = make_store(tmp_path / "bucket" / "synthetic", digest="of-another-fit")
    mine = make_store(tmp_path / "stage" / "synthetic", digest="of-this-fit")
    assert open_store(mine.path).digest == mine.digest != other.digest


def test_an_address_that_cannot_be_read_is_named(store, cache, monkeypatch, tmp_path):
    monkeypatch.setenv(URL, "nonsense://bucket")
    with pytest.raises(InputError, match="GANATOMY_STORE_URL nonsense://bucket cannot be read"):
        open_store(store.path)
    with pytest.raises(InputError, match="mend --store-url"):
        publish_store(store.path, "nonsense://bucket")


@pytest.fixture
def bucket():
    server = serve()
    options = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
    yield server.objects, f"s3://key:secret@bucket/stores?{options}"
    server.shutdown()
    server.server_close()


def test_an_object_store_holds_what_nodes_fetch(store, cache, bucket, monkeypatch, tmp_path):
    objects, url = bucket
    publish_store(store.path, url)
    assert {name.rpartition("/")[2] for name in objects} == {file.name for file in store.path.iterdir()}
    assert all(objects[f"/bucket/stores/{store.path.name}/{file.name}"] == file.read_bytes()
               for file in store.path.iterdir())  # fmt: skip
    monkeypatch.setenv(URL, url)
    assert same(open_store(tmp_path / "not" / "mounted" / store.path.name), store)


def test_an_object_store_that_hands_out_damaged_files_is_not_believed_and_its_secret_not_told(
    store, cache, bucket, monkeypatch
):
    objects, url = bucket
    publish_store(store.path, url)
    monkeypatch.setenv(URL, url)
    name = f"/bucket/stores/{store.path.name}/records.arrow"
    objects[name] = objects[name][:-1] + b"?"
    with pytest.raises(InputError, match="did not arrive as it was prepared") as damaged:
        open_store(store.path)
    del objects[name]
    with pytest.raises(InputError, match=r"records\.arrow of store .* cannot be fetched") as lost:
        open_store(store.path)
    assert "secret" not in str(damaged.value) + str(lost.value)
