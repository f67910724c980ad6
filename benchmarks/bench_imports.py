"""What starting costs: CPU seconds of a fresh process, and as a ratio to one that does nothing but `import torch`.

- first step: a trial's process, from Tune's pickled function to its first training step (`real` arm, tiny store);
- report: `ganatomy report` of a sweep of one trial;
- check: `ganatomy cohort check` of a phantom;
- help: `ganatomy --help`.

Seconds depend on the machine and on who else is at work there: `import torch` is measured again beside each of them,
and the ratio is to be read where nobody else is. A first step holds what torch itself loads when it makes an optimiser
(torch._dynamo), which is more than `import torch` takes.

    python benchmarks/bench_imports.py [--times 3]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ray.cloudpickle

from ganatomy.commands.sweep import Sweep
from ganatomy.evidence.results import write_result
from ganatomy.experiment import TrialResult
from ganatomy.phantoms.hearts import make_cohort
from ganatomy.sweeps.proposals import TRIAL
from ganatomy.sweeps.tuning import trainable

FIRST_STEP = f"""
import sys
import ray.cloudpickle
trial = ray.cloudpickle.loads(open(sys.argv[1], "rb").read())
from ganatomy.training.loop import Loop
Loop._one_step = lambda self: sys.exit()
trial({{"{TRIAL}": sys.argv[2], "arm": "real", "seed": int(sys.argv[2])}})
"""


def cpu_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepared(folder: Path) -> dict[str, list[str]]:
    make_cohort(folder / "phantom", patients={"ct": (4, 2, 2), "mr": (4, 2, 5)}, shape=(2, 16, 16))
    sweep = Sweep(space="phantom_demo", cohort=folder / "phantom", source="ct", target="mr", trials=1, workspace=folder,
                  tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", set=("sampling.size=[16,16]",))  # fmt: skip
    plan = sweep.planned()
    sent = folder / "sent"
    sent.write_bytes(ray.cloudpickle.dumps(trainable(replace(plan, apart=False), folder)))  # it trains itself
    done = TrialResult("done", plan.base, "finished", summary={"val/dice": 0.5})
    write_result(folder / "sweeps" / plan.name / "trials" / "done", done)
    command = ["-m", "ganatomy.cli"]
    return {
        "first step": ["-c", FIRST_STEP, str(sent)],
        "report": [*command, "report", plan.name, "--workspace", str(folder)],
        "check": [*command, "cohort", "check", str(folder / "phantom")],
        "help": [*command, "--help"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in prepared(Path(folder)).items():
            pairs = [
                (
                    cpu_seconds([*arguments, str(number)] if name == "first step" else arguments),
                    cpu_seconds(["-c", "import torch"]),
                )
                for number in range(times)
            ]
            seconds, torch = (statistics.median(column) for column in zip(*pairs))
            print(f"{name}: {seconds:.2f} CPU s, {seconds / torch:.2f} of import torch ({torch:.2f})", flush=True)


if __name__ == "__main__":
    main()
