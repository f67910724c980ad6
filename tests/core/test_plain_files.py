"""YAML, JSON and tables from a stranger: bounded before they become values, and one short line where they are not."""

from __future__ import annotations

import json

import pytest
import yaml
from command_line import error_line, make_phantom

from ganatomy import cli
from ganatomy.cohorts.layouts import read_json as read_object
from ganatomy.cohorts.reading import read_cohort
from ganatomy.contracts import InputError
from ganatomy.core import plain_files
from ganatomy.core.plain_files import MOST_YAML, read_json, read_yaml
from ganatomy.core.tables import MAX_ROWS, read_table
from ganatomy.core.terminal import one_line
from ganatomy.generation.outputs import read_sidecar
from ganatomy.generators.generator import load_generator

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh")
)
DEEP = 100_000


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("cohort") / "phantom")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "anchor or alias 'a'"),
        ("a: *b", "anchor or alias 'b'"),
        ("a: " + "[" * DEEP, "nested deeper than 32"),
        ("a: " + "- " * DEEP, "nested deeper|not allowed"),
        ("spacing: [1, 1, 1]\nspacing: [2, 2, 2]", "key 'spacing' stands twice"),
        ("a: " + "9" * 5000, "that long"),
        ("a: " + "1" + ":59" * 100_000, "that long"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("#" * (MOST_YAML + 1), "larger than"),
        ("a: 2024-99-99", "not YAML"),
    ],
)
def test_yaml_that_multiplies_or_does_not_end_is_one_short_line(cohort, capsys, text, said):
    file = cohort / "cohort.yaml"
    sound = file.read_text()
    file.write_text(text)
    try:
        with pytest.raises(InputError, match=said):
            read_yaml(file)
        assert cli.main(["cohort", "check", str(cohort)]) == 2
    finally:
        file.write_text(sound)
    line = error_line(capsys)
    assert str(file) in line
    assert len(line) < 1500


def test_yaml_of_many_values_is_refused_before_they_take_three_hundred_times_their_bytes(cohort, monkeypatch):
    monkeypatch.setattr(plain_files, "_VALUES", 1000)
    (cohort / "many.yaml").write_text("a: [" + "1," * 990 + "]")
    assert len(read_yaml(cohort / "many.yaml")["a"]) == 990
    (cohort / "many.yaml").write_text("a: [" + "1," * 1000 + "]")
    with pytest.raises(InputError, match="more than 1000 values"):
        read_yaml(cohort / "many.yaml")


def test_plain_yaml_is_what_it_was(cohort):
    file = cohort / "cohort.yaml"
    assert read_yaml(file) == yaml.safe_load(file.read_text())


def test_a_value_is_named_and_not_printed_whole(cohort, capsys):
    file = cohort / "cohort.yaml"
    sound = file.read_text()
    file.write_text(sound + f"\nspacing: {json.dumps(['x' * 50_000] * 20)}\n")
    try:
        assert cli.main(["cohort", "check", str(cohort)]) == 2
    finally:
        file.write_text(sound)
    assert len(error_line(capsys)) < 2000


def test_no_message_is_longer_than_a_screen():
    long = "x" * 10**6
    assert len(one_line(InputError(long, expected=long, remedy=long))) < 3100
    assert len(one_line(ValueError(long))) < 3100
    short = InputError("a = 1", expected="2", remedy="write 2")
    assert str(short) == "a = 1; expected 2; remedy: write 2"


def test_json_nested_beyond_reason_is_refused_by_all_that_read_it(tmp_path):
    deep = "[" * DEEP + "]" * DEEP
    for name in ("dataset.json", "config.json", "fingerprint.json"):
        (tmp_path / name).write_text(deep)
    with pytest.raises(InputError, match="nested too deeply"):
        read_object(tmp_path / "dataset.json")
    with pytest.raises(InputError, match="nested too deeply"):
        load_generator(tmp_path)
    assert read_sidecar(tmp_path / "dataset.json") == {}


def test_json_is_read_no_further_than_its_bound(tmp_path):
    file = tmp_path / "large.json"
    with file.open("wb") as sparse:
        sparse.truncate(10**12)  # claims a terabyte; no more than the bound is read of it
    with pytest.raises(InputError, match="larger than"):
        read_json(file)


def test_a_table_has_a_bound_of_rows_that_the_message_names(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"patient": [f"p{number}" for number in range(12)]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        monkeypatch.setenv(MAX_ROWS, "12")
        assert [row["patient"] for _, row in read_table(tmp_path / name)] == list(frame["patient"])
        monkeypatch.setenv(MAX_ROWS, "11")
        with pytest.raises(InputError, match=rf"too many rows.*set {MAX_ROWS} higher"):
            read_table(tmp_path / name)
    monkeypatch.setenv(MAX_ROWS, "many")
    with pytest.raises(InputError, match=f"{MAX_ROWS} = 'many'"):
        read_table(tmp_path / "t.csv")


def test_short_rows_under_a_wide_heading_count_as_cells(tmp_path, monkeypatch):
    monkeypatch.setenv(MAX_ROWS, "100")
    (tmp_path / "wide.csv").write_text(",".join(f"c{number}" for number in range(1000)) + "\n" + "1\n" * 50)
    with pytest.raises(InputError, match="of 1000 columns"):
        read_table(tmp_path / "wide.csv")


def test_a_field_without_an_end_and_a_file_without_an_end_are_one_line(tmp_path):
    (tmp_path / "field.csv").write_text('patient\n"' + "x" * 10**6)
    with pytest.raises(InputError, match="field larger than field limit"):
        read_table(tmp_path / "field.csv")
    with (tmp_path / "sparse.csv").open("wb") as sparse:
        sparse.truncate(10**12)
    with pytest.raises(InputError, match="a table of at most"):
        read_table(tmp_path / "sparse.csv")


def test_a_text_that_a_parquet_file_stores_once_counts_as_often_as_it_stands_there(tmp_path):
    """500 bytes of a file were 8 GB of memory, of which there was no end but the machine's."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    once = pyarrow.array([0] * 20_000, pyarrow.int32())
    for text in (pyarrow.array(["x" * 200_000]), pyarrow.array([b"x" * 200_000], pyarrow.binary(200_000))):
        parquet.write_table(pyarrow.table({"patient": pyarrow.DictionaryArray.from_arrays(once, text)}),
                            tmp_path / "t.parquet", compression="zstd")  # fmt: skip
        assert (tmp_path / "t.parquet").stat().st_size < 5000
        with pytest.raises(InputError, match="4000000000 bytes; expected a table of at most"):
            read_table(tmp_path / "t.parquet")


def test_a_parquet_file_says_what_a_csv_file_would_and_lists_in_it_are_left_out(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"patient": ["a", None], "n": [1, 2], "f": [1.5, None], "b": [True, False], "lists": [[1], [2, 3]],
               "kind": pyarrow.array(["u", "u"]).dictionary_encode(),
               "k": pyarrow.array([7, 7]).dictionary_encode()}  # fmt: skip
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    (first, second) = (values for _, values in read_table(tmp_path / "t.parquet"))
    assert first == {"patient": "a", "n": "1", "f": "1.5", "b": "True", "kind": "u", "k": "7"}
    assert (second["patient"], second["f"], second["kind"]) == ("", "", "u")


def test_a_long_table_ends_a_check_with_one_line(cohort, capsys, monkeypatch):
    rows = len(read_cohort(cohort).rows)
    monkeypatch.setenv(MAX_ROWS, str(rows - 1))
    assert cli.main(["cohort", "check", str(cohort)]) == 2
    assert "too many rows" in error_line(capsys)
