"""A name is fit for a path, an identifier, a page and a command line, or it is none; a path stays where it belongs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganatomy.contracts import InputError
from ganatomy.core.names import checked_name, confined, copy_plain, fitted_name, is_one_line, on_one_line, plain_files

NAMES = ["ct-mr", "my-cohort-shape_consistent-2", "COHORT-SPACE-full", "phantom_demo", "0", "Herz (2019)", "größe_µm",
         "脑 MRI", "कोहोर्ट", "v1.2+a=b,c", "x" * 120]  # fmt: skip
NO_NAMES = ["", " ", ".", "..", "../../x", "/etc", "a/b", "a\\b", ".hidden", "-rf", "a..b", "a\nb", "a\tb",
            "a\x1b[2Jb", "a\x00", "%2e%2e", "<b>x</b>", "a&b", "it's", 'a"b', "a:b", "a@champion", "a ", " a", "a.",
            "a\u202eb", "x" * 121, "a\n", "a\u2028b", "a`b", "a$b", "a;b", "a|b", "a*b", "a?b", "a#b", "~a",
            "\ud800"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_any_language_is_taken_as_it_is(name):
    assert checked_name(name, "name") == fitted_name(name) == name


@pytest.mark.parametrize("name", [*NO_NAMES, None, 3])
def test_what_is_no_name_is_refused_in_one_printable_line(name):
    with pytest.raises(InputError, match=r"^sweep name ") as refusal:
        checked_name(name, "sweep name", remedy="--name")
    assert str(refusal.value).isprintable()
    assert "remedy: --name" in str(refusal.value)


@given(st.text())
def test_whatever_a_folder_is_called_a_name_is_made_of_it(text):
    assert checked_name(fitted_name(text), "name")


@given(st.text(min_size=1))
def test_a_name_stays_in_its_folder_and_is_one_line(text):
    """Nothing that is taken for a name leads anywhere else, or breaks a line or a page."""
    try:
        name = checked_name(text, "name")
    except InputError:
        return
    assert Path(os.path.normpath(Path("/sweeps") / name)).parent == Path("/sweeps")
    assert not re.search(r"[\x00-\x1f/\\\\<>&%\"']", name)
    assert is_one_line(name)


def test_a_line_of_a_terminal_holds_nothing_that_moves_its_cursor():
    assert on_one_line("forced\n\x1b[31mok\x1b[0m\u2028山田\u3000太郎") == "forced [31mok[0m 山田 太郎"
    assert is_one_line("山田\u3000太郎")
    assert not is_one_line("a\rb")


@pytest.mark.parametrize("path", ["..", "../x", "/etc/passwd", "a/../../x", "link", "link/x", "ring", "a\0b"])
def test_a_path_that_leads_out_of_its_folder_is_refused(tmp_path, path):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (folder / "ring").symlink_to(folder / "ring")
    with pytest.raises(InputError, match=r"the MLmodel names the path .* leads out") as refusal:
        confined(path, folder, "the MLmodel")
    assert str(refusal.value).isprintable()


def test_a_path_within_its_folder_is_where_it_leads(tmp_path):
    (tmp_path / "here").symlink_to(tmp_path / "a")
    assert confined("a/b", tmp_path, "it") == tmp_path.resolve() / "a" / "b"
    assert confined("here/b", tmp_path, "it") == tmp_path.resolve() / "a" / "b"
    assert confined(".", tmp_path, "it") == tmp_path.resolve()


def test_links_and_pipes_among_files_from_elsewhere_are_refused_and_not_followed(tmp_path):
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "c").write_text("c")
    (folder / "a").write_text("a")
    assert [path.relative_to(folder).as_posix() for path in plain_files(folder, "it")] == ["a", "b/c"]
    copied = copy_plain(folder, tmp_path / "copy", "it")
    assert (copied / "b" / "c").read_text() == "c"
    secret.write_text("secret")
    for make in (lambda place: place.symlink_to(secret), lambda place: place.symlink_to(tmp_path), os.mkfifo):
        make(folder / "b" / "more")
        with pytest.raises(InputError, match="b/more"):
            copy_plain(folder, tmp_path / "another", "it")
        assert not (tmp_path / "another").exists()
        (folder / "b" / "more").unlink()
