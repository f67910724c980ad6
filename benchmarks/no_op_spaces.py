"""Search spaces of trials that compute nothing, or next to nothing: what is left is what the platform itself takes.

SHARED: what is sampled are settings of a generator, which the arm `real` has no use for. Every trial is an Experiment
of its own, goes the whole way (values from Optuna, a run, parameters, history, pictures, scores, a result), and finds
its stages where the first trial left them. OWN: the segmentor's learning rate, so that every trial trains one for a few
steps, as a task on some node.
"""

from __future__ import annotations

from ganatomy.experiment import Budget, Choice, Downstream, Experiment, Sampling
from ganatomy.search_space import SearchSpace, Suggest

BASE = Experiment(
    cohort="",
    domains={"A": "", "B": ""},
    arm="real",
    method=Choice("shape_consistent"),
    downstream=Downstream(network=Choice("unet", {"width": 4})),
    sampling=Sampling(ndim=2, size=(16, 16)),
    budget=Budget(segmentor_steps=8, generator_steps=8, batch=1, validations=4),
)


def shared(trial: Suggest) -> None:
    """Five settings, as many as a space of ours samples at most."""
    trial.suggest_float("method.cycle_weight", 1.0, 30.0, log=True)
    trial.suggest_float("method.shape_weight", 0.1, 10.0, log=True)
    trial.suggest_categorical("method.use_reconstructed", [True, False])
    trial.suggest_float("mixing.ratio", 0.25, 8.0, log=True)
    trial.suggest_categorical("mixing.order", ["mixed", "synthetic_first", "real_first"])


def own(trial: Suggest) -> None:
    """A learning rate, of which no two are equal."""
    trial.suggest_float("downstream.learning_rate", 1e-5, 1e-2, log=True)


SHARED = SearchSpace(name="no_op", description="trials whose stages another has computed", base=BASE, sample=shared)
OWN = SearchSpace(name="next_to_no_op", description="trials of one stage of eight steps", base=BASE, sample=own)
