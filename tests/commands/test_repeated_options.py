"""An option that is given more than once: no value is lost in silence, whichever command it is of."""

from __future__ import annotations

import typing
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from command_line import error_line

from ganatomy import cli
from ganatomy.commands.console import parse
from ganatomy.commands.repeated_options import takes_many
from ganatomy.commands.sweep import Sweep

COMMANDS = {
    **{(name,): command for name, command in cli.SINGLE.items()},
    **{("cohort", name): command for name, command in cli.OF_COHORT.items()},
    (): Sweep,
}
OPTIONS = [(words, item.name) for words, command in COMMANDS.items() for item in fields(command)]


def hint(words, name):
    return typing.get_type_hints(COMMANDS[words])[name]


def one_value(kind) -> str:
    """A word that an option of this type takes."""
    inner = [part for part in typing.get_args(kind) if part not in (Ellipsis, type(None))]
    if typing.get_origin(kind) is typing.Literal:
        return str(inner[-1])
    return one_value(inner[0]) if inner else {int: "7", float: "7.5"}.get(kind, "word")


def parsed(words, *more):
    """The command, with what it cannot do without before and ``more`` after."""
    command = COMMANDS[words]
    needed = []
    for item in fields(command):
        if item.default is MISSING and item.default_factory is MISSING and f"--{item.name}" not in more:
            value = one_value(hint(words, item.name))
            positional = "Positional" in str(typing.get_type_hints(command, include_extras=True)[item.name]) or (
                typing.get_type_hints(command, include_extras=True)[item.name] != hint(words, item.name)
            )
            needed += [value] if positional else [f"--{item.name}", value]
    kind = cli._commands([*words]) if words else Sweep
    return parse(kind, program="x", description="", arguments=[*words, *needed, *more])


def is_positional(words, name) -> bool:
    return "Positional" in str(COMMANDS[words].__annotations__.get(name, ""))


@pytest.mark.parametrize(
    ("words", "name"), [(w, n) for w, n in OPTIONS if takes_many(hint(w, n)) and not is_positional(w, n)]
)
def test_every_list_option_of_every_command_appends(words, name):
    """Several values at once, again with one, and again with an equals sign, in between another option."""
    option, value = f"--{name.replace('_', '-')}", one_value(hint(words, name))
    given = [option, value, value, option, value, "--debug", f"{option}={value}"]
    assert len(getattr(parsed(words, *given), name)) == 4


@pytest.mark.parametrize(
    ("words", "name"),
    [(w, n) for w, n in OPTIONS if not takes_many(hint(w, n)) and hint(w, n) is not bool],
)
def test_every_option_with_one_value_is_refused_when_it_is_given_twice(words, name, capsys):
    option, kind = f"--{name.replace('_', '-')}", hint(words, name)
    if is_positional(words, name):
        pytest.skip("has no option to repeat")
    tuples = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is tuple]
    values = [one_value(tuples[0] if tuples else kind)] * (len(typing.get_args(tuples[0])) if tuples else 1)
    with pytest.raises(SystemExit) as end:
        parsed(words, option, *values, option, *values)
    assert end.value.code == 2
    line = error_line(capsys)
    assert f"{option} is given 2 times" in line


def test_values_keep_their_order_and_positional_words_their_place():
    command = parse(cli._commands([]), program="x", description="", arguments=[
        "cohort", "import", "--image=ct={patient}/a", "--image=mr={patient}/b", "DIR", "--layout", "folders",
        "--out", "q", "--intensity", "ct=window:-150:250", "--intensity", "mr=zscore", "--spacing", "1", "0", "1",
    ])  # fmt: skip
    assert command.directory == Path("DIR")
    assert command.image == ("ct={patient}/a", "mr={patient}/b")
    assert command.intensity == ("ct=window:-150:250", "mr=zscore")
    assert command.spacing == (1, 0, 1)


def test_what_is_given_once_is_left_as_it_is():
    sweep = parse(Sweep, program="x", description="", arguments=["--set", "a=1", "b=2", "--trials", "3", "--full"])
    assert (sweep.set, sweep.trials, sweep.full) == (("a=1", "b=2"), 3, True)
