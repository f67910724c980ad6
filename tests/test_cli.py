"""The command: it answers at once, says what is wrong in one line, and does what its help says, on real files."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import GANATOMY, error_line

from ganatomy import __version__, cli
from ganatomy.contracts import InputError
from ganatomy.core.terminal import guarded, tell, warn
from ganatomy.evidence.results import SweepPlan, write_result
from ganatomy.experiment import Experiment, Score, TrialResult

HOUSE = Path(__file__).resolve().parent.parent
COMMANDS = [*cli.SINGLE, *(f"cohort {name}" for name in cli.OF_COHORT)]


# --- asking it ---------------------------------------------------------------------------------------------------


def test_the_installed_command_answers():
    done = subprocess.run([Path(sys.executable).with_name("ganatomy")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*cli.SINGLE, "cohort"))


def test_help_loads_nothing_heavy():
    program = "import sys; from ganatomy.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(eval(done.stderr))
    assert "ganatomy.cli" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "optuna", "monai", "nibabel", "scipy", "matplotlib"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_teaches_by_example(command, capsys):
    assert cli.main([*command.split(), "--help"]) == 0
    assert f"$ ganatomy {command} " in capsys.readouterr().out.replace("RAY_ADDRESS=head:6379 ", "") + " "


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reprot"], "report"),
        (["report", "latest", "--jsno"], "--json"),
        (["cohort", "import", "somewhere", "--layout", "bidz", "--out", "x"], "bids"),
        (["phantom"], "--out"),
        (["phantom", "--out", "x", "--ct", "many", "few", "none"], "--ct"),
    ],
)
def test_a_wrong_option_is_one_line_that_knows_the_right_one(arguments, said, capsys):
    assert cli.main(arguments) == 2
    assert said in error_line(capsys)


def test_it_says_its_version_and_commit(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(rf"ganatomy {re.escape(__version__)} \(commit \S+\)\n", capsys.readouterr().out)
    declared = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == declared


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_is_told_what_completes(shell, capsys, tmp_path):
    assert cli.main(["--tyro-print-completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*cli.SINGLE, *cli.OF_COHORT, "--standstill-s"))
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_a_shell_for_which_there_is_no_completion_is_said_so(capsys):
    assert cli.main(["--tyro-print-completion", "tcsh"]) == 2
    assert "bash or zsh" in error_line(capsys)


# --- the same sweep, from either door ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--space", "phantom_demo", "--help"],
        ["--space", "phantom_dmeo", "--help"],
        [],
        ["--spcae", "x"],
        ["--space", "a", "--space", "b"],
        ["--resume", "nothing", "--workspace", "nowhere"],
        ["--space", "phantom_demo", "--cohort", "nowhere", "--workers-per-trial", "0"],
        ["--space", "phantom_demo", "--cohort", "nowhere", "--set", "a=1", "--set", "b=2"],
    ],
)
def test_ganatomy_sweep_answers_as_sweep_py_does(arguments, capsys, tmp_path, monkeypatch):
    from ganatomy.commands import sweep

    monkeypatch.chdir(tmp_path)
    code = sweep.main(arguments)
    theirs = capsys.readouterr()
    assert cli.main(["sweep", *arguments]) == code
    ours = capsys.readouterr()
    assert ours.err == theirs.err.replace("sweep.py --help", "ganatomy sweep --help")
    assert ours.out.partition("\n")[2] == theirs.out.partition("\n")[2]  # but for how it was called
    assert code == (0 if "--help" in arguments and "phantom_dmeo" not in arguments else 2)


# --- how much is said --------------------------------------------------------------------------------------------


def test_more_and_less_is_said_before_or_behind_the_command(sweep, tmp_path, capsys):
    command = ["report", "ct-mr", "--workspace", str(sweep), "--html", str(tmp_path / "page.html")]
    results, said = {}, {}
    for flag in ("", "-v", "--verbose", "-q", "--quiet"):
        for words in ([*command, *[flag] * bool(flag)], [*[flag] * bool(flag), *command]):
            assert cli.main(words) == 0
            results[flag, words[0]], said[flag, words[0]] = capsys.readouterr()
    assert len(set(results.values())) == 1  # a result is not a matter of how much is said
    for (flag, _), text in said.items():
        assert ("written: " in text) == (flag not in ("-q", "--quiet"))
        assert (f"2 of 2 trials are in {sweep / 'sweeps' / 'ct-mr'}" in text) == (flag in ("-v", "--verbose"))
    assert not said["-q", "-q"]
    assert re.search(r"^ganatomy \S+ \(commit \S+\); workspace ", said["-v", "-v"])


def test_more_and_less_at_once_is_refused(sweep, capsys):
    assert cli.main(["report", "ct-mr", "--workspace", str(sweep), "-v", "-q"]) == 2
    assert "both --verbose and --quiet" in capsys.readouterr().err


def test_errors_and_warnings_are_said_however_little_is_asked_for(tmp_path, capsys):
    assert cli.main(["-q", "cohort", "check", str(tmp_path / "nothing")]) == 2
    assert "remedy: " in error_line(capsys)

    def run() -> int:
        tell("node 7 has joined")
        warn("node 7 has no room; remedy: free some")
        return 0

    assert guarded(run, workspace=tmp_path, quiet=True) == 0
    assert capsys.readouterr().err == "node 7 has no room; remedy: free some\n"


# --- errors ------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line_with_its_remedy(tmp_path, capsys):
    assert cli.main(["cohort", "check", str(tmp_path / "nothing")]) == 2
    line = error_line(capsys)
    assert str(tmp_path / "nothing") in line
    assert "remedy: ganatomy cohort import" in line


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert cli.main(["cohort", "check", str(tmp_path / "nothing"), "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_what_nobody_expected_is_one_line_and_a_log(tmp_path, capsys):
    def fail() -> int:
        raise RuntimeError("two\nlines")

    assert guarded(fail, workspace=tmp_path) == 1
    line = error_line(capsys)
    assert "RuntimeError: two lines" in line
    log = Path(line.rpartition("details: ")[2])
    assert log.parent == tmp_path
    assert "raise RuntimeError" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600  # it may name patients, and lie in everybody's temporary folder


def test_a_full_disc_is_named_as_such(tmp_path, capsys):
    def fail() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "store"))

    assert guarded(fail, workspace=tmp_path) == 1
    line = error_line(capsys)
    assert "no disc space left" in line
    assert str(tmp_path / "store") in line


def test_bad_input_in_a_worker_still_speaks_for_itself(tmp_path, capsys):
    import pickle

    error = pickle.loads(pickle.dumps(InputError("a", expected="b", remedy="c")))

    def fail() -> int:
        raise error

    assert guarded(fail, workspace=tmp_path) == 2
    assert error_line(capsys) == "error: a; expected b; remedy: c"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_130_and_leaves_nothing_half_made(tmp_path, sent):
    """Ctrl-C, or what a batch system sends, in the middle of writing a cohort, sent to a real process.

    Ctrl-C reaches only what was not started in the background, whatever these tests themselves were started by.
    """
    out = tmp_path / "out"
    command = [*GANATOMY, "phantom", "--out", str(out), "--ct", "400", "1", "1", "--mr", "400", "1", "1"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL if sent == signal.SIGINT else signal.SIG_IGN),
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.startswith("interrupted")
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# --- evidence ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tmp_path) -> Path:
    """A workspace with a finished sweep of two arms, as ``sweep.py`` leaves it."""
    base = Experiment("cohort", {"A": "ct", "B": "mr"})
    folder = tmp_path / "sweeps" / "ct-mr"
    SweepPlan("ct-mr", "shape_consistent", base, "stores/x", "cohort", "0123", trials=2).save(folder)
    for number, (arm, value) in enumerate((("real", 0.6), ("joint", 0.7))):
        scores = tuple(Score(f"s{n}", f"p{n}", "dice", "lv", value + 0.01 * n) for n in range(8))
        summary = {"val/dice": value}
        result = TrialResult(str(number), replace(base, arm=arm), "finished", scores=scores, summary=summary)
        write_result(folder / "trials" / str(number), result)
    return tmp_path


def test_a_report_is_a_table_or_json_or_a_page(sweep, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert cli.main(["report", "latest", "--workspace", str(sweep), "--html", str(page)]) == 0
    assert "joint" in capsys.readouterr().out
    assert page.read_text().lstrip().lower().startswith("<!doctype html")
    assert cli.main(["report", "ct-mr", "--workspace", str(sweep), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert sorted(round(row["dice"], 3) for row in rows) == [0.635, 0.735]


def test_an_unknown_sweep_is_answered_with_the_nearest(sweep, capsys, monkeypatch):
    monkeypatch.setenv("GANATOMY_WORKSPACE", str(sweep))
    assert cli.main(["report", "ct-rm"]) == 2
    assert "did you mean 'ct-mr'?" in error_line(capsys)
    assert cli.main(["promote", "ct-rm", "--name", "x"]) == 2
    assert "did you mean 'ct-mr'?" in error_line(capsys)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("sweep.json", {"name": "../../x"}, "is the plan of sweep '../../x'"),
        ("sweep.json", {"run_id": "../../x"}, "run_id '../../x'"),
        ("trials/0/result.json", {"trial": "../../x"}, "trial '../../x'"),
        ("trials/0/result.json", {"run_id": "/tmp/x"}, "run_id '/tmp/x'"),
        ("trials/0/result.json", {"stages": {"fit": "../x"}}, "fit '../x'"),
    ],
)
def test_a_name_in_a_plan_or_a_result_that_leads_elsewhere_is_refused(sweep, capsys, file, changes, says):
    path = sweep / "sweeps" / "ct-mr" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for command in (["report", "ct-mr"], ["promote", "ct-mr", "--name", "x"]):
        assert cli.main([*command, "--workspace", str(sweep)]) == 2
        line = error_line(capsys)
        assert str(path) in line
        assert says in line


@pytest.mark.parametrize("name", ["a\nb", "<b>x</b>", "%2e%2e", "../../x"])
def test_a_model_is_called_by_a_name_in_every_command(sweep, capsys, name):
    there = ["--workspace", str(sweep)]
    for command in (
        ["promote", "ct-mr", "--name", name],
        ["rollback", name],
        ["generate", f"models:/{name}@champion", "--image", "x", "--out", str(sweep / "out")],
    ):
        assert cli.main([*command, *there]) == 2
        line = error_line(capsys)
        assert "model name" in line
        assert line.isprintable()
    assert not (sweep / "mlflow.db").exists()


def test_the_ui_does_not_take_a_port_from_another(workspace, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["ui", "--workspace", str(workspace), "--port", str(port)]) == 2
    assert f"port {port} is taken" in error_line(capsys)


def test_there_is_no_ui_of_a_workspace_that_nobody_wrote_to(tmp_path, capsys):
    assert cli.main(["ui", "--workspace", str(tmp_path / "nowhere")]) == 2
    assert "has no MLflow store" in error_line(capsys)
    assert not (tmp_path / "nowhere").exists()


def test_doctor_prints_what_it_found(tmp_path, capsys, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["doctor", "--workspace", str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sound"] is True
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--workspace", str(tmp_path / "file" / "workspace")]) == 1
    said = capsys.readouterr().out
    assert "fail" in said
    assert "remedy:" in said
