"""Amounts that a cohort cannot give, refused before anything is trained; what a filter keeps, only it can tell."""

from __future__ import annotations

from collections.abc import Iterable

from ganatomy.contracts import InputError
from ganatomy.experiment import SYNTHETIC_ARMS, Experiment
from ganatomy.stages.drawing import Offers
from ganatomy.stages.lesion_patches import film_places
from ganatomy.stores.store import Store
from ganatomy.training.pools import generator_pool, label_pool

KINDS = 2
"""An image is translated, and perhaps reconstructed: see ``contracts.Synthetic``."""


def check_amounts(store: Store, experiments: Iterable[Experiment]) -> None:
    """Raise InputError for more source patients, or more distinct synthetic images, than the cohort can give."""
    for experiment in experiments:
        mixing = experiment.mixing
        if experiment.arm in SYNTHETIC_ARMS and mixing.source_patients:
            for role in experiment.method_class().roles:
                generator_pool(store, experiment, role)
        most = _most(store, experiment) if experiment.arm == "offline" and mixing.distinct else mixing.distinct
        if mixing.distinct > most:
            raise InputError(f"mixing.distinct = {mixing.distinct} of at most {most} synthetic images that "
                             f"{experiment.method.name} makes of cohort {store.name}", expected=f"at most {most}",
                             remedy="a smaller number; drawing.per_label where images are drawn")  # fmt: skip


def _most(store: Store, experiment: Experiment) -> int:
    """No more synthetic images of the target than these can be made."""
    method = experiment.method_class()
    if method.on_patches:
        return len(film_places(store, experiment)[1])
    if method.draws_from_noise:
        pool = label_pool(store, experiment, experiment.target)
        return Offers.of(pool, experiment.sampling.size).count(experiment.drawing)
    given = [entry.slices for role in method.roles for entry in generator_pool(store, experiment, role).entries]
    into = sum(experiment.domain(role) == experiment.target_domain() for role in method.roles)
    return KINDS * into * sum(len(slices) if slices is not None else 1 for slices in given)
