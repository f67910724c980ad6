"""The store: what goes in comes out, shared and unchanged; what is not whole cannot be opened."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.stores import writing as store_writing
from ganatomy.stores.store import open_store
from ganatomy.stores.writing import FOREGROUND_VOXELS, Item, write_store

LABELS = {1: "ventricle", 2: "wall"}
DOMAINS = {"ct": {"modality": "ct"}, "mr": {"modality": "mr"}}


def item(shape=(4, 6, 5), seed=0, labelled=True, **fields):
    generator = np.random.default_rng(seed)
    image = generator.uniform(-1, 1, shape).astype(np.float32)
    label = generator.integers(0, 3, shape).astype(np.uint8) if labelled else None
    return Item(**{"subject": f"s{seed}", "patient": f"p{seed}", "domain": "ct", "split": "train",
                   "image": image, "label": label, **fields})  # fmt: skip


def write(path: Path, items, digest="d1"):
    return write_store(path, name="heart", labels=LABELS, domains=DOMAINS, digest=digest, items=items)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.tuples(*[st.integers(1, 7)] * 3), st.booleans(), st.sampled_from(["ct", "mr"])), max_size=8)
)
def test_everything_comes_out_as_it_went_in(tmp_path_factory, images):
    """Any mixture of shapes, labelled or not, in the order given."""
    items = [
        item(shape, seed, labelled, domain=domain, lo=seed - 0.5, hi=seed + 900.0, source="a.nii",
             kind="translated", parents=("s8", "s9"), split="val", attributes={"box": [1, 2], "class": "ill"},
             affine=np.diag([2, 3, 4, 1]))
        for seed, (shape, labelled, domain) in enumerate(images)
    ]  # fmt: skip
    written = write(tmp_path_factory.mktemp("store") / "s", items)
    store = open_store(written.path)
    assert (store.name, store.digest, store.labels, store.domains) == ("heart", "d1", LABELS, DOMAINS)
    assert len(store) == len(items)
    for index, (record, one) in enumerate(zip(store.records(), items, strict=True)):
        np.testing.assert_array_equal(store.image(record), one.image)
        assert store.image(record).dtype == np.float32
        assert record.labelled == (one.label is not None)
        if one.label is not None:
            np.testing.assert_array_equal(store.label(record), one.label)
            assert store.label(record).dtype == np.uint8
        assert (record.index, record.shape) == (index, one.image.shape)
        np.testing.assert_array_equal(record.affine, one.affine)
        assert store.spacing(record) == (4, 3, 2)
        for name in ("subject", "patient", "domain", "split", "lo", "hi", "source", "kind", "parents", "attributes"):
            assert getattr(record, name) == getattr(one, name), name
    assert [record.index for record in store.records("mr")] == [i for i, it in enumerate(items) if it.domain == "mr"]
    assert store.records(split="train") == []


def test_arrays_are_the_mapped_file_itself(tmp_path):
    """No copy: the address of every array lies in a mapping of the shard, so that processes share its pages."""
    store = write(tmp_path / "s", [item((8, 32, 32), 0), item((8, 32, 32), 1), item((3, 5, 7), 2, labelled=False)])
    shards = {str(path) for path in store.path.glob("volumes-*.arrow")}
    for record in store.records():
        for array in [store.image(record)] + ([store.label(record)] if record.labelled else []):
            mapped = [
                line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.split()[-1] in shards
            ]
            spans = [tuple(int(part, 16) for part in line[0].split("-")) for line in mapped]
            assert any(low <= array.ctypes.data and array.ctypes.data + array.nbytes <= high for low, high in spans)
            assert all(line[1][1] == "-" or line[1][3] == "s" for line in mapped)  # never a private writable copy
            with pytest.raises(ValueError, match="read-only"):
                array[0, 0, 0] = 0


def test_any_arrow_reader_reads_the_shards(tmp_path):
    items = [item((4, 6, 5), seed) for seed in range(3)]
    store = write(tmp_path / "s", items)
    with pa.ipc.open_file(str(store.path / "volumes-0000.arrow")) as reader:
        column = reader.read_all().column("image")
    assert column.type == pa.fixed_shape_tensor(pa.float32(), (4, 6, 5))
    tensors = column.combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(tensors, [one.image for one in items])


def test_more_shapes_than_files_may_be_open(tmp_path):
    shapes = [(1 + i % 40, 2, 2) for i in range(100)]
    items = [item(shape, seed) for seed, shape in enumerate(shapes)]
    store = write(tmp_path / "s", items)
    for record, one in zip(store.records(), items, strict=True):
        np.testing.assert_array_equal(store.image(record), one.image)


def test_foreground_is_labelled_and_balanced(tmp_path):
    label = np.zeros((20, 40, 40), np.uint8)
    label[5:15, 5:35, 5:35] = 1
    label[9, 10, 10:17] = 2  # seven voxels against nine thousand
    store = write(tmp_path / "s", [item(label.shape, label=label)])
    (record,) = store.records()
    voxels = store.foreground(record)
    classes = label[tuple(voxels.T)]
    assert voxels.dtype == np.int32
    assert 0 < len(voxels) <= FOREGROUND_VOXELS
    assert (classes == 1).sum() == (classes == 2).sum() == FOREGROUND_VOXELS // 2
    assert len({tuple(voxel) for voxel in voxels[classes == 2]}) == 7  # every voxel of the small one is there
    assert len({tuple(voxel) for voxel in voxels[classes == 1]}) == FOREGROUND_VOXELS // 2


def test_foreground_of_a_small_or_absent_label(tmp_path):
    small = np.zeros((4, 6, 5), np.uint8)
    small[1, 2, 3] = 2
    items = [item(label=small), item(label=np.zeros_like(small), seed=1), item(labelled=False, seed=2)]
    store = write(tmp_path / "s", items)
    one, none, unlabelled = store.records()
    assert store.foreground(one).tolist() == [[1, 2, 3]]
    assert store.foreground(none).shape == store.foreground(unlabelled).shape == (0, 3)


def test_content_is_the_range_of_slices_that_show_anything(tmp_path):
    image = np.full((10, 4, 4), -1, np.float32)
    image[3:7, 1, 1] = 0.5
    items = [item(image.shape, image=image), item((1, 4, 4), 1), item((2, 2, 2), 2, image=np.zeros((2, 2, 2)))]
    store = write(tmp_path / "s", items)
    assert [record.content for record in store.records()] == [(3, 7), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": np.full((4, 6, 5), np.nan)}, "finite"),
        ({"image": np.full((4, 6, 5), 1.5)}, r"\[-1, 1\]"),
        ({"image": np.zeros((6, 5))}, r"\[D, H, W\]"),
        ({"image": np.zeros((0, 6, 5))}, r"\[D, H, W\]"),
        ({"label": np.zeros((4, 6, 4), np.uint8)}, "shape"),
        ({"label": np.full((4, 6, 5), 3, np.uint8)}, "class ids"),
        ({"label": np.full((4, 6, 5), 257)}, "class ids"),
        ({"label": np.full((4, 6, 5), 0.5)}, "class ids"),
        ({"domain": "us"}, "domain"),
    ],
)
def test_an_item_that_does_not_fit_is_refused_by_name(tmp_path, fields, words):
    with pytest.raises(InputError, match=words) as error:
        write(tmp_path / "s", [item(), item(seed=1, **fields)])
    assert "s1" in error.value.what
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def items():
        yield item()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s", items())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disc_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_writing, "sync", full)
    with pytest.raises(InputError, match="disc full"):
        write(tmp_path / "s", [item()])
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_equal_stores_stays_and_another_is_refused(tmp_path):
    first = write(tmp_path / "s", [item()])
    inode = (first.path / "store.json").stat().st_ino
    assert len(write(tmp_path / "s", [item()])) == 1
    assert (first.path / "store.json").stat().st_ino == inode
    with pytest.raises(InputError, match="another store"):
        write(tmp_path / "s", [item(seed=5)], digest="d2")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_of_another_version_is_refused_with_a_remedy(tmp_path):
    store = write(tmp_path / "s", [item()])
    header = json.loads((store.path / "store.json").read_text())
    (store.path / "store.json").write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(InputError, match=r"another version.*99") as error:
        open_store(store.path)
    assert "delete" in error.value.remedy


def test_what_is_not_a_whole_store_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="no store"):
        open_store(tmp_path / "nowhere")
    for number, file in enumerate(["volumes-0000.arrow", "records.arrow", "store.json"]):
        store = write(tmp_path / str(number), [item()])
        (store.path / file).write_bytes((store.path / file).read_bytes()[:-9])
        with pytest.raises(InputError, match=file):
            open_store(store.path)
    store = write(tmp_path / "gone", [item()])
    (store.path / "volumes-0000.arrow").unlink()
    with pytest.raises(InputError, match="missing"):
        open_store(store.path)


def test_a_store_travels_by_its_path(tmp_path):
    store = write(tmp_path / "s", [item((20, 64, 64))])
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    arrived = pickle.loads(sent)
    assert arrived.records() == store.records()
    np.testing.assert_array_equal(arrived.image(arrived.records()[0]), store.image(store.records()[0]))


def test_what_does_not_exist_is_named(tmp_path):
    store = write(tmp_path / "s", [item(labelled=False)])
    (record,) = store.records()
    with pytest.raises(InputError, match="has no label"):
        store.label(record)
    with pytest.raises(InputError, match="unknown domain 'us'"):
        store.records("us")


def test_classes_leave_room_for_every_id(tmp_path):
    assert write(tmp_path / "a", [item()]).classes == 3
    bare = write_store(tmp_path / "b", name="b", labels={}, domains=DOMAINS, digest="b", items=[item(labelled=False)])
    assert bare.classes == 1
    gap = write_store(tmp_path / "c", name="c", labels={4: "x"}, domains=DOMAINS, digest="c", items=[])
    assert gap.classes == 5


@pytest.mark.parametrize("value", [0, 256])
def test_a_class_id_that_does_not_fit_a_byte_is_refused(tmp_path, value):
    with pytest.raises(InputError, match=r"1\.\.255"):
        write_store(tmp_path / "s", name="s", labels={value: "x"}, domains=DOMAINS, digest="d", items=[])


def test_slightly_overshooting_images_are_clipped(tmp_path):
    store = write(tmp_path / "s", [item(image=np.full((4, 6, 5), 1.0005))])
    assert store.image(store.records()[0]).max() == 1


def test_records_are_values(tmp_path):
    (record,) = write(tmp_path / "s", [item(attributes={"a": [1]})]).records()
    assert record in {record}
    assert replace(record, index=7) != record
