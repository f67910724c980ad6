"""The sweep command: what a person types, over ``ganatomy.sweeps.request``.

``ganatomy sweep``, ``python sweep.py`` and ``ray submit cluster.yaml sweep.py`` are this module's ``main``.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from ganatomy.commands.console import code_of, described, parse
from ganatomy.commands.repeated_options import typed_in
from ganatomy.commands.sweep_options import SweepOptions
from ganatomy.contracts import InputError
from ganatomy.core.plugins import available
from ganatomy.core.terminal import BAD_INPUT, guarded, one_line
from ganatomy.sweeps.request import SweepRequest, named_space


@dataclass(frozen=True, kw_only=True)
class Sweep(SweepOptions, SweepRequest):
    """What the command is told, and what is done with it."""

    def run(self, typed: Collection[str] = ()) -> int:
        """Run or resume; 0 when all trials came to an end, 1 when none finished, 130 when interrupted.

        typed: names of the options that the user gave.
        """
        return self.carried_out(typed)[1]


def _help(given: Sequence[str]) -> str:
    """What the command is for, and what it can be given here; of a space that is named, what it varies."""
    spaces = ", ".join(sorted(available("spaces")))
    text = f"{described(SweepOptions, whole=True)}\n\nInstalled spaces: {spaces}."
    words = " ".join(given).replace("--space=", "--space ").split()
    if not {"-h", "--help"} & set(words) or "--space" not in words[:-1]:
        return f"{text} What one varies: --space NAME --help."
    return f"{text}\n\n{named_space(words[words.index('--space') + 1], '--full' in words).described()}"


def main(arguments: Sequence[str] | None = None, *, program: str = "sweep.py") -> int:
    """Entry of sweep.py, and of ``ganatomy sweep``. Returns the exit code.

    program: what the user called it by.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(Sweep, program=program, description=_help(given), arguments=given)
    except InputError as error:  # a space that is not there
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except SystemExit as end:
        return code_of(end)
    return guarded(
        partial(options.run, typed_in(Sweep, given)),
        workspace=options.workspace,
        debug=options.debug,
        verbose=options.verbose,
        quiet=options.quiet,
    )


if __name__ == "__main__":
    sys.exit(main())
