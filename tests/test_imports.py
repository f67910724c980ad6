"""Imports follow use: what a process has loaded when it does its work, asked of fresh processes. Never by time."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from ganatomy.contracts import Method
from ganatomy.evidence.results import SweepPlan, write_result
from ganatomy.experiment import TrialResult
from ganatomy.sweeps.tuning import trainable
from ganatomy_methods.shape_consistent import ShapeConsistentConfig
from ganatomy_search_spaces.shape_consistent import SPACE

HEAVY = ("mlflow", "torch", "scipy.stats", "ray", "monai", "pyarrow", "pandas", "matplotlib", "optuna")

AT_THE_END = f"""
import atexit, sys
atexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules], flush=True))
"""

COMMAND = (
    AT_THE_END
    + """
from ganatomy.cli import main
sys.exit(main(sys.argv[1:]))
"""
)

TRIAL = (
    f"HEAVY = {HEAVY}"
    + """
import sys
from pathlib import Path

import tiny
from ganatomy.evidence.results import SweepPlan
from ganatomy.search_space import SearchSpace
from ganatomy.sweeps.trial import run_trial
from ganatomy.training.loop import Loop

assert "mlflow" not in sys.modules, "the test's own pieces load it"
def step(self, *given):
    print([name for name in HEAVY if name in sys.modules], flush=True)
    sys.exit()

Loop._one_step = step
workspace = Path(sys.argv[1])
store = tiny.make_store(workspace / "store")
plan = SweepPlan("sweep", "tiny", tiny.EXPERIMENT, str(store.path), "mine", store.digest, trials=1)
space = SearchSpace("tiny", "", tiny.EXPERIMENT, lambda suggest: None)
run_trial({"arm": "offline"}, plan, space, workspace, "t1", print)
"""
)


def loaded(program: str, *arguments: str | Path) -> set[str]:
    """What of ``HEAVY`` the last line of what ``program`` prints lists."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_a_process_that_trains_has_neither_mlflow_nor_scipy_stats(tmp_path):
    """Before its first step; what scores a segmentation (MONAI) loads what it likes, when there is one to be scored."""
    assert not loaded(TRIAL, tmp_path) & {"mlflow", "scipy.stats", "matplotlib", "monai", "optuna"}


def test_what_tune_sends_to_a_trials_process_loads_neither_of_them(tmp_path):
    """It is pickled: what else stands in the room of the driver must not come along."""
    plan = SweepPlan("sweep", "shape_consistent", SPACE.base, "", "mine", "", trials=1)
    (tmp_path / "sent").write_bytes(ray.cloudpickle.dumps(trainable(plan, tmp_path)))
    unpack = AT_THE_END + "import ray.cloudpickle; ray.cloudpickle.loads(open(sys.argv[1], 'rb').read())"
    found = loaded(unpack, tmp_path / "sent")
    assert {"torch", "ray"} <= found
    assert not found & {"mlflow", "scipy.stats", "monai", "optuna"}


@pytest.mark.parametrize("arguments", [("--help",), ("report", "--help"), ("cohort", "check", "--help")], ids=" ".join)
def test_help_loads_nothing_heavy(arguments):
    assert loaded(COMMAND, *arguments) == set()


def test_a_report_is_written_without_torch(tmp_path):
    directory = tmp_path / "sweeps" / "ct-mr"
    base = SPACE.base.with_values({"domains.A": "ct", "domains.B": "mr", "cohort": "mine"})
    SweepPlan("ct-mr", "shape_consistent", base, "", "mine", "", trials=1).save(directory)
    result = TrialResult("0", base.with_values({"arm": "real"}), "finished", summary={"val/dice": 0.5})
    write_result(directory / "trials" / "0", result)
    found = loaded(COMMAND, "report", "ct-mr", "--workspace", tmp_path, "--html", tmp_path / "page.html")
    assert not found & {"torch", "mlflow", "ray", "monai"}


def test_a_table_is_checked_without_torch(tmp_path):
    assert loaded(COMMAND, "cohort", "check", phantom(tmp_path)) <= {"pandas", "pyarrow"}


def phantom(folder: Path) -> Path:
    sizes = ("2", "1", "1")
    assert "torch" not in loaded(
        COMMAND, "phantom", "--out", folder / "hearts", "--ct", *sizes, "--mr", *sizes, "--shape", "2", "16", "16"
    )
    return folder / "hearts"


def test_the_contracts_give_a_method_on_first_use():
    program = AT_THE_END + "import ganatomy.contracts; print(ganatomy.contracts.InputError)"
    assert loaded(program) == set()
    assert "torch" in loaded(program + "; ganatomy.contracts.Method")
    assert Method.__name__ == "Method"


def test_a_space_says_what_its_paper_does():
    """As a figure: to ask the method would load torch."""
    assert f"(paper: {ShapeConsistentConfig().shape_weight:g})" in SPACE.description
