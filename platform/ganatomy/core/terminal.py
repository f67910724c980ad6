"""What a command says meanwhile and how it ends: exit codes, and one clear line for any error; a traceback only where
it was asked for.

Results stand on standard output. What goes on is told on standard error: ``tell``, ``detail`` where ``-v`` asks for
more, and ``warn``, which ``-q`` leaves with results and errors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from ganatomy.contracts import InputError, shortened
from ganatomy.core.installation import release
from ganatomy.core.names import on_one_line

DONE, UNDONE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""The job is done; it could not be done; what was asked for is wrong; Ctrl-C."""

QUIET, USUAL, MORE = 0, 1, 2
_amount = USUAL
_told_to_end = False


def amount() -> int:
    """How much this process says: QUIET, USUAL or MORE."""
    return _amount


def tell(sentence: str) -> None:
    """Say what goes on, on standard error, unless ``-q`` was given."""
    if _amount > QUIET:
        warn(sentence)


def warn(sentence: str) -> None:
    """Say what is to be known however little was asked for: what is wrong, and what to do."""
    print(sentence, file=sys.stderr, flush=True)


def detail(sentence: str) -> None:
    """Say what only ``-v`` asks for."""
    if _amount >= MORE:
        tell(sentence)


def guarded(
    run: Callable[[], int], *, workspace: Path, debug: bool = False, verbose: bool = False, quiet: bool = False
) -> int:
    """Run a command, which says as much as it was told to, and return its exit code; never raises for anything that a
    user can cause."""
    global _amount
    _amount = MORE if verbose else QUIET if quiet else USUAL
    began = time.monotonic()
    code = _ended(run, workspace, debug, contradicting=verbose and quiet)
    detail(f"exit code {code} after {time.monotonic() - began:.1f} s")
    return code


def _ended(run: Callable[[], int], workspace: Path, debug: bool, *, contradicting: bool) -> int:
    heed_termination()
    try:
        if contradicting:
            raise InputError("both --verbose and --quiet", expected="one of them, or neither")
        if _amount >= MORE:
            detail(f"ganatomy {release()}; workspace {workspace.absolute()}")
        return int(run())
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; a sweep goes on with --resume, any other command when called "
              "again", file=sys.stderr)  # fmt: skip
        return INTERRUPTED
    except BrokenPipeError:  # `ganatomy report SWEEP | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error, None if debug else workspace)


def heed_termination() -> None:
    """Take SIGTERM, by which batch systems end a job, for a Ctrl-C. To be called again when Ray has set its own."""
    global _told_to_end
    if threading.current_thread() is threading.main_thread():
        _told_to_end = False
        signal.signal(signal.SIGTERM, _end)


def told_to_end() -> bool:
    """SIGTERM has come. A batch system sends it to all processes of a job: what fails from now on fails by that."""
    return _told_to_end


def _end(number: int, frame: object) -> None:
    global _told_to_end
    _told_to_end = True
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):  # as shells start what runs in the background
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)  # Tune has a handler of its own, which ends trials in order


@contextlib.contextmanager
def signals_as_before() -> Iterator[None]:
    """What runs inside heeds SIGTERM, as batch systems end a job; whoever called it from Python has its own handlers
    back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def one_line(error: BaseException) -> str:
    """An error as one line: an InputError speaks for itself, any other is named."""
    error = innermost(error)
    text = on_one_line(str(error))
    return text if isinstance(error, InputError) else shortened(f"{type(error).__name__}: {text}", 3000)


def innermost(error: BaseException) -> BaseException:
    """What a worker raised, where Ray hands it over in a wrapper of its own, whose text is a traceback."""
    while any(kind.__name__ == "RayTaskError" for kind in type(error).__mro__):  # known by its name: Ray is not loaded
        cause = getattr(error, "cause", None)
        if not isinstance(cause, BaseException):
            break
        error = cause
    return error


def whole_traceback(error: BaseException) -> str:
    """The traceback of an error, with what it came of; what a worker noted of its own (``note_elsewhere``) ends it."""
    return "".join(traceback.format_exception(error))


def note_elsewhere(error: BaseException, told: str) -> BaseException:
    """``error``, which was raised in another process, with the traceback that was ``told`` of it there: exceptions
    leave theirs behind when they travel. Who ran it where is left out."""
    plainly = re.sub(r"\x1b\[[0-9;]*m", "", told)
    error.add_note("\n".join(line for line in plainly.splitlines() if not line.startswith("ray::")))
    return error


def last_words(told: str) -> str:
    """What the error was that a traceback is of, as one line; any other text as one."""
    lines = told.rstrip().splitlines()
    frames = [number for number, line in enumerate(lines) if re.match(r'\s+File ".+", line \d+, in ', line)]
    after = [line for line in lines[frames[-1] + 1 :] if not line.startswith("    ")] if frames else lines
    return shortened(on_one_line(" ".join(after)), 3000)


def raised_at(told: str) -> str:
    """``FILE, line N, in FUNCTION``: where the error was raised that a traceback is of; often the line to look at."""
    frames = re.findall(r'File "(.+)", line (\d+), in (.+)', told)
    return "{}, line {}, in {}".format(*frames[-1]) if frames else ""


def _explain(error: Exception, workspace: Path | None) -> int:
    """One line on standard error; the rest goes into a file in ``workspace`` where the user did not cause it."""
    if isinstance(innermost(error), InputError):
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    log = _write_log(workspace) if workspace is not None else None
    print(f"error: {_plainly(error)}" + (f"; details: {log}" if log else ""), file=sys.stderr)
    return UNDONE


def _plainly(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no disc space left for {error.filename or 'a file'}; remedy: free some and run the same command again"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({one_line(error)}); remedy: smaller sampling.size or budget.batch, or fewer at once"
    return one_line(error)


def _write_log(workspace: Path) -> Path | None:
    """Write the traceback being handled into the workspace if there is one, else into the temporary folder."""
    name = f"ganatomy-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (workspace, Path(tempfile.gettempdir())):
        try:
            # It may name patients, and the temporary folder is everybody's: only its owner reads it.
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(traceback.format_exc())
            return folder / name
        except OSError:
            continue
    return None
