"""How much downstream work a configuration was planned to do: only what did the same can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ganatomy.experiment import SYNTHETIC_ARMS, Experiment, TrialResult

Planned = tuple[float, ...]
"""Updates of the downstream model, samples in the batch of each, validations of patience before it stops, epochs of
it, the share of the real patients that it sees (``mixing.real``), and for each sample of the batch so many synthetic
ones beside it (``mixing.composition = paper``)."""


def planned_work(experiment: Experiment) -> Planned:
    """Of the experiment's downstream model."""
    budget, training = experiment.budget, experiment.training
    paper = experiment.mixing.composition == "paper" and experiment.arm in SYNTHETIC_ARMS
    beside = experiment.mixing.ratio if paper else 0
    alone = experiment.mixing.order == "synthetic_alone" and experiment.arm == "offline"
    real = 0 if alone else experiment.mixing.real
    return budget.segmentor_steps, budget.batch, training.patience, training.patience_epochs, real, beside


def unequal_work(planned: Planned, baseline: Planned) -> str:
    """What of the downstream work that was planned differs, in words; empty where it is equal."""
    words = (
        "updates",
        "in a batch",
        "validations of patience",
        "epochs of patience",
        "of the real patients",
        "synthetic beside each",
    )
    odd = [f"{own:g} {word} against {base:g}" for own, base, word in zip(planned, baseline, words) if own != base]
    return ", ".join(odd)


def more_work(planned: Planned, baseline: Planned) -> bool:
    """Whether more samples are seen than by the baseline."""
    return planned[0] * planned[1] > baseline[0] * baseline[1]


def worst_guide(trials: Iterable[TrialResult]) -> dict[str, float]:
    """``generator/guide_dice`` of the training whose guide finds least; empty where none has a guide. A mean would hide
    the one behind others, which stop at their bar."""
    found = [trial.summary["generator/guide_dice"] for trial in trials if "generator/guide_dice" in trial.summary]
    return {"generator/guide_dice": min(found)} if found else {}


def weak_guides(works: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence on the rows whose guides stayed below their bar on validation patients, none where there are none.

    works: name of a row -> what was spent for it, as ``stages.outcome.work_of`` names it."""
    found = {name: (work["generator/guide_dice"], work["generator/guide_bar"]) for name, work in works.items()
             if work.get("generator/guide_dice", 1.0) < work.get("generator/guide_bar", 0.0)}  # fmt: skip
    said = ", ".join(f"{name} {dice:.2f} of {bar:g}" for name, (dice, bar) in found.items())
    return [f"Guides that find few lesions themselves (Dice on validation patients, of what is asked): {said}. "
            "Generators learn no more of lesions than their guides know."] * bool(found)  # fmt: skip
