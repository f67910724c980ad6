"""Two at once, with real processes: a name is one sweep's, a folder one writer's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ganatomy.cohorts.claims import IN_USE, RESERVED, alone_in, reserved
from ganatomy.contracts import InputError
from ganatomy.evidence.results import read_plan, sweeps
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.tracking.runs import Tracking

TOGETHER = """
import os, sys, time
from pathlib import Path

def together(folder, count):
    # What is imported before is imported once. What comes after is done by so many processes, all let go at once.
    (wait, go), children = os.pipe(), []
    for number in range(count):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(go)
            said = os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT)
            os.dup2(said, 1), os.dup2(said, 2)
            os.read(wait, 1)  # comes back when nobody holds the other end
            return
        Path(folder, str(number)).touch()
    os.close(go)
    for child in children: print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.flush()
    os._exit(0)
"""


def race(folder: Path, count: int, program: str, *words: str) -> list[tuple[int, str]]:
    """(exit code, what was printed) of so many processes that run at once what follows ``together``."""
    folder.mkdir(exist_ok=True)
    code = TOGETHER + textwrap.dedent(program)
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    command = [sys.executable, "-c", code, str(folder), str(count), *words]
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, check=True, timeout=300)
    said = [(folder / str(number)).read_text() for number in range(count)]
    return list(zip(map(int, done.stdout.split()), said, strict=True))


# --- names -------------------------------------------------------------------------------------------------------

PLAN = """
    from ganatomy.commands.sweep import Sweep
    from ganatomy.contracts import InputError
    together(sys.argv[1], int(sys.argv[2]))
    try:
        plan = Sweep(space="phantom_demo", cohort=Path(sys.argv[3]), workspace=Path(sys.argv[4]), name=sys.argv[5],
                     tracking_uri=sys.argv[6], set=("labels.fraction=0.5",), seeds=(0,)).planned()
    except InputError as error:
        print("refused", str(error).replace(chr(10), " "))
    else:
        print("planned", plan.name, plan.run_id)
"""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "phantom"
    make_cohort(folder, patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    return folder


def outcomes(raced: list[tuple[int, str]]) -> list[list[str]]:
    """The last line of each, in words; none may have failed in any other way."""
    assert {code for code, _ in raced} == {0}, raced
    return sorted(text.splitlines()[-1].split() for _, text in raced)


@pytest.mark.slow
def test_four_sweeps_begun_at_once_in_a_fresh_workspace_get_four_names_and_four_runs(phantom, tmp_path):
    workspace = tmp_path / "workspace"
    done = outcomes(race(tmp_path / "start", 4, PLAN, str(phantom), str(workspace), "", ""))
    names = ["phantom-phantom_demo", *(f"phantom-phantom_demo-{number}" for number in (2, 3, 4))]
    assert [line[:2] for line in done] == [["planned", name] for name in names]
    assert sorted(sweeps(workspace)) == names
    plans = [read_plan(workspace / "sweeps" / name) for name in names]
    assert [plan.name for plan in plans] == names
    assert [plan.run_id for plan in plans] == [line[2] for line in done]
    assert len({plan.run_id for plan in plans}) == 4
    assert not list((workspace / "sweeps").rglob(RESERVED))


def test_of_four_sweeps_begun_at_once_under_one_name_one_has_it(phantom, workspace, tmp_path):
    done = outcomes(race(tmp_path / "start", 4, PLAN, str(phantom), str(workspace), "mine", ""))
    assert [line[0] for line in done] == ["planned", "refused", "refused", "refused"]
    assert all("'mine' exists" in " ".join(line) and "--resume mine" in " ".join(line) for line in done[1:])
    plan = read_plan(workspace / "sweeps" / "mine")
    tracking = Tracking(None, workspace, plan.experiment)
    runs = tracking.client.search_runs([tracking.experiment_id])
    assert [run.info.run_id for run in runs] == [plan.run_id]  # those refused wrote nothing there


def is_there(folder: Path) -> bool:
    return (folder / "done").exists()


def test_a_reservation_is_taken_back_when_planning_fails(tmp_path):
    with pytest.raises(InputError), reserved(tmp_path, iter(["a"]), is_there) as name:
        raise InputError("no room")
    assert name == "a"
    assert not list(tmp_path.iterdir())


def test_a_name_is_free_again_when_who_reserved_it_was_killed_before_it_wrote_a_plan(tmp_path):
    program = """
        import os, signal
        from ganatomy.cohorts.claims import reserved
        together(sys.argv[1], int(sys.argv[2]))
        with reserved(Path(sys.argv[3]), iter(["a"]), lambda folder: False):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    [(code, _)] = race(tmp_path / "start", 1, program, str(tmp_path / "sweeps"))
    assert code == -9
    assert (tmp_path / "sweeps" / "a" / RESERVED).exists()
    assert sweeps(tmp_path) == []  # nobody takes it for a sweep
    take = """
        import os
        from ganatomy.cohorts.claims import reserved
        together(sys.argv[1], int(sys.argv[2]))
        with reserved(Path(sys.argv[3]), iter(["a"]), lambda folder: (folder / "done").exists()) as name:
            if name: time.sleep(1); (Path(sys.argv[3]) / name / "done").write_text(str(os.getpid()))
            print(name)
    """
    raced = race(tmp_path / "again", 4, take, str(tmp_path / "sweeps"))
    assert sorted(text.strip() for _, text in raced) == ["None", "None", "None", "a"]
    assert is_there(tmp_path / "sweeps" / "a")


def test_a_living_reservation_holds_and_what_is_there_is_never_taken(tmp_path):
    with reserved(tmp_path, iter(["a"]), is_there) as first, reserved(tmp_path, iter(["a"]), is_there) as second:
        assert (first, second) == ("a", None)
        (tmp_path / "a" / "done").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "of somebody").touch()
    for name in "ab":
        with reserved(tmp_path, iter([name]), is_there) as found:
            assert found is None


# --- folders -----------------------------------------------------------------------------------------------------


def test_of_four_imports_into_one_folder_at_once_one_is_made(phantom, tmp_path):
    program = """
        from ganatomy import cli
        together(sys.argv[1], int(sys.argv[2]))
        sys.exit(cli.main(["cohort", "import", sys.argv[3], "--layout", "table", "--out", sys.argv[4]]))
    """
    raced = race(tmp_path / "start", 4, program, str(phantom / "images.csv"), str(tmp_path / "out"))
    assert sorted(code for code, _ in raced) == [0, 2, 2, 2], raced
    for text in (text.strip() for code, text in raced if code):
        assert text.startswith("error: ")
        assert len(text.splitlines()) == 1
        assert "written by another process" in text or "exists" in text
    assert (tmp_path / "out" / "cohort.yaml").exists()
    assert not (tmp_path / "out" / IN_USE).exists()


def test_a_folder_in_use_is_refused_and_one_left_by_the_dead_is_not(tmp_path):
    with alone_in(tmp_path / "out"):
        with pytest.raises(InputError, match="written by another process"), alone_in(tmp_path / "out"):
            pass
        (tmp_path / "out" / "kept").touch()
    program = """
        import os, signal
        from ganatomy.cohorts.claims import alone_in
        together(sys.argv[1], int(sys.argv[2]))
        with alone_in(Path(sys.argv[3])): os.kill(os.getpid(), signal.SIGKILL)
    """
    [(code, _)] = race(tmp_path / "start", 1, program, str(tmp_path / "out"))
    assert code == -9
    assert (tmp_path / "out" / IN_USE).exists()
    with alone_in(tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]


def test_a_writer_on_another_host_is_alive_while_it_gives_signs_of_life(tmp_path):
    """Its process cannot be looked for from here."""
    note = tmp_path / IN_USE
    note.write_text(json.dumps({"token": "t", "place": "elsewhere", "pid": 1, "born": "1"}))
    sign = "import os, sys, time\ntime.sleep(1.5)\nos.utime(sys.argv[1])"
    beat = subprocess.Popen([sys.executable, "-c", sign, note])
    with pytest.raises(InputError, match="written by another process"), alone_in(tmp_path):
        pass
    assert beat.wait() == 0
    long_ago = time.time() - 3600
    os.utime(note, (long_ago, long_ago))
    with alone_in(tmp_path):
        pass


# --- MLflow ------------------------------------------------------------------------------------------------------


def test_four_processes_record_one_cohort_in_one_store_at_once(workspace, tmp_path):
    """Its row is looked for and then made: between the two another process makes it, and the database refuses."""
    program = """
        from ganatomy.tracking.runs import Tracking
        together(sys.argv[1], int(sys.argv[2]))
        tracking = Tracking(None, Path(sys.argv[3]))
        run = tracking.sweep_run("both")
        Path(sys.argv[1], f"ready-{os.getpid()}").touch()
        while len(list(Path(sys.argv[1]).glob("ready-*"))) < int(sys.argv[2]): time.sleep(0.01)
        for number in range(25): tracking.log_dataset(run, "cohort", f"digest{number}")
    """
    raced = race(tmp_path / "start", 4, program, str(workspace))
    assert raced == [(0, "")] * 4
    tracking = Tracking(None, workspace)
    runs = tracking.client.search_runs([tracking.experiment_id])
    assert {len(run.inputs.dataset_inputs) for run in runs} == {25}
