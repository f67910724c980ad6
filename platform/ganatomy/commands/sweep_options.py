"""What the sweep command is told, apart from what it does: help and a shell's completion need nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from ganatomy.commands.console import Command
from ganatomy.sweeps.options import Options


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options, Command):
    """Run all trials of a search space on a cohort, on this machine or on the Ray cluster this runs on.

    $ ganatomy sweep --space shape_consistent --cohort my-cohort --trials 40
    $ ganatomy sweep --space shape_consistent --cohort my-cohort --set method.shape_weight=0.5 --seeds 0 1 2
    $ ganatomy sweep --resume my-cohort-shape_consistent
    $ ray submit cluster.yaml sweep.py --space shape_consistent --cohort /data/my-cohort --trials 400

    Stages that trials share are computed once. Neither Ctrl-C nor a kill loses anything: --resume goes on.
    """
