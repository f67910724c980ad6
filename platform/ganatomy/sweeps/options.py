"""What a sweep can be told, from a command line or from Python, apart from what is done with it: nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ganatomy.core.installation import default_workspace


@dataclass(frozen=True, kw_only=True)
class Options:
    """Names, defaults and meaning are those of the command's options."""

    workspace: Path = field(default_factory=default_workspace)
    """Folder of sweeps, stores, stages and the embedded MLflow store (or set GANATOMY_WORKSPACE); on a cluster, one
    that every node sees."""
    space: str = ""
    """Name of an installed search space, or package.module:NAME of your own."""
    cohort: Path | None = None
    """Folder of a cohort (see `ganatomy cohort import`)."""
    full: bool = False
    """The study at the paper's size: its networks, images and schedules, where the space runs smaller by default."""
    trials: int = 0
    """How many trials; 0: the space's listed points, each with every seed. With --resume, more than it began with."""
    seeds: tuple[int, ...] = ()
    """Seeds of the replicates of each listed point; the space's own if not given. Sampled points use the first."""
    set: tuple[str, ...] = ()
    """NAME=VALUE, …: fix parameters instead of sampling them, e.g. method.shape_weight=0.5 budget.batch=8. Of a space's
    listed points those remain that have the value; where none has it, all get it."""
    compare: tuple[str, ...] = ()
    """NAME=VALUE, …: declare which of the listed points with synthetic data are to be compared with the best training
    without it, e.g. arm=joint: those that have one of the values; all of them if not given. The fewer, the more each
    can show. What is sampled is searched, never compared."""
    controls: tuple[Literal["long_real", "strong_real"], ...] = ()
    """Run controls beside the space, with the same seeds, on top of --trials. long_real: training on real images for as
    many updates as generator and downstream model took together, of each listed point (where none is listed, of the
    base); it has more downstream work, and no verdict unless --compare names it. strong_real: real
    images under strong augmentation, one more candidate for the baseline."""
    objectives: tuple[Literal["utility", "cost", "fidelity"], ...] = ()
    """What the sampler looks for; utility, the score, alone if not given. cost: device seconds, the fewer the better.
    fidelity: healthiness times identity of pseudo-healthy images, else the mean S-score; 0 without synthetic images.
    Of several it seeks what no other beats in all; what is picked and judged is so by utility all the same."""
    source: str = ""
    """Domain that images are translated from; by default the one with more labelled training patients."""
    target: str = ""
    """Domain that the downstream model works in; by default the other one, or the only one."""
    domains: tuple[str, ...] = ()
    """ROLE=DOMAIN …: which domain plays which role of the method, where --source and --target do not say it;
    DOMAIN:lesion and DOMAIN:healthy are its slices with and without anything labelled."""
    workers_per_trial: int = 1
    """Ray Train workers that train one trial together."""
    cpus_per_worker: float = 1.0
    """CPUs of one worker."""
    gpus_per_worker: float = 0.0
    """GPUs of one worker; a fraction lets several trials share one."""
    concurrent: int = 0
    """Trials at the same time; 0: as many as fit."""
    scheduler: Literal["auto", "asha", "none"] = "auto"
    """ASHA stops unpromising trials early; auto: only where points are sampled, so that ablations are complete."""
    seed: int = 0
    """Seed of Optuna's sampler."""
    name: str = ""
    """Name of the sweep; COHORT-SPACE[-full] if not given, with a number if that is taken."""
    resume: str = ""
    """Name of a sweep to go on with (`latest`: the newest that has something left to do), interrupted, or ended and to
    have more --trials; finished trials are not repeated. What would make it another sweep is refused beside it."""
    retry_failed: bool = False
    """With --resume: run all trials again that failed, as they were to run, under the same seeds: after a fault of the
    machine, such as a full disc. A training that diverged is a finding, and so is a synthetic set that was
    refused: neither is run again."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, else an SQLite store in the workspace."""
    address: str = ""
    """Ray cluster to run on; RAY_ADDRESS, else a running one on this machine, else one of its own."""
    nodes: int = 0
    """Wait, at most ten minutes, until so many nodes have joined the cluster."""
    store_cache: str = ""
    """Folder on each node's own disc that the prepared cohort is copied to before it is read, once; a node's own
    GANATOMY_STORE_CACHE if not given, else it is read where it lies."""
    store_url: str = ""
    """Also put the prepared cohort there (s3://BUCKET/FOLDER), for such copies to come from; GANATOMY_STORE_URL."""
    standstill_s: float | None = None
    """End a process that computes and takes no step for so many seconds (1800 if not given, or what a resumed
    sweep began with); what it did is taken up from its last checkpoint. 0: never."""
    allow_dotted: tuple[str, ...] = ()
    """package.module:NAME …: code that a resumed sweep was begun with, and that is not installed under a name. What
    --space and --set say is allowed by being typed; what stands in a file is not."""
