"""Who may see what: which patients' images and labels generators, discriminators and downstream models learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ganatomy.contracts import InputError, Method, Phase, labelled
from ganatomy.experiment import SYNTHETIC_ARMS, Experiment
from ganatomy.measures.statistics import counted
from ganatomy.stores.amounts import drawn_patients, some_patients
from ganatomy.stores.layout import Record as Image
from ganatomy.stores.sampling import Mixture, Pool
from ganatomy.stores.store import Store
from ganatomy.stores.supervision import real_alone
from ganatomy.training.downstream import ROLE, task_of
from ganatomy.training.models import models_of

APART_MM = 0.1
"""Grids of registered images lie no farther apart."""


def real_images(store: Store, domain: str, split: str) -> list[Image]:
    """Images of real patients: a cohort may hold synthetic ones too, which no arm may take for real."""
    return [image for image in store.records(domain, split) if not image.attributes.get("synthetic")]


def labelled_patients(store: Store, experiment: Experiment, role: str) -> frozenset[str]:
    """Training patients whose labels the pipeline may see: the label fraction applies to the target domain alone."""
    domain = experiment.domain(role)
    if domain == experiment.target_domain() and experiment.labels.fraction == 0:
        return frozenset()
    annotated = models_of(experiment).annotated
    images = [image for image in real_images(store, domain, "train") if annotated(image)]
    if domain != experiment.target_domain():
        return frozenset(image.patient for image in images) & source_patients(store, experiment, role)
    patients = {image.patient for image in images}
    if not patients:
        raise InputError(
            f"cohort {store.name}: no labelled training image of domain {domain!r}",
            expected="at least one labelled patient in split train",
            remedy="choose another target domain, or label some",
        )
    seed = experiment.seed if experiment.labels.drawn == "each" else 0
    return drawn_patients(images, patients, experiment.labels.fraction, seed)


def source_patients(store: Store, experiment: Experiment, role: str) -> frozenset[str]:
    """Training patients of the domain of ``role``, no target's, who take part: of those with labels where there are
    any, as many as ``mixing.source_patients`` says. InputError where there are fewer."""
    domain, count = experiment.domain(role), experiment.mixing.source_patients
    images = real_images(store, domain, "train")
    known = [image for image in images if models_of(experiment).annotated(image)] if count else []
    said = f"{'labelled ' if known else ''}training patients of domain {domain} of cohort {store.name}"
    return some_patients(known or images, count, experiment.seed, said)


def check_labels(store: Store, experiment: Experiment) -> None:
    """InputError where a training would find no label that it needs: of the target, or of the source in its place."""
    labelled_patients(store, experiment, experiment.target)
    if experiment.arm == "source" or experiment.labels.fraction == 0:
        role = experiment.source()
        if not labelled_patients(store, experiment, role):
            raise InputError(
                f"cohort {store.name}: no labelled training image of the source domain {experiment.domain(role)!r}",
                expected="at least one labelled patient in split train",
                remedy="swap source and target, or label some",
            )


def check_method(store: Store, experiment: Experiment) -> None:
    """InputError where the cohort lacks what the method's generators learn from or draw by: images of each role, in a
    registered method of one examination each; something labelled, and by two patients, where images are drawn of
    labels; two patients where labels go from one to another."""
    method, name = experiment.method_class(), experiment.method.name
    if experiment.arm not in SYNTHETIC_ARMS or experiment.transfer.generator or method.on_patches:
        return
    pools = generator_pools(store, experiment, method)
    if method.registered:  # what is measured on validation patients is looked at long after
        theirs = {image.subject: image for image in real_images(store, experiment.target_domain(), "val")}
        for image in (image for role in method.roles for image in real_images(store, experiment.domain(role), "val")):
            check_registered([image, theirs.get(image.subject, image)])
    if method.draws_from_noise:
        _check_drawn(store, experiment, method.roles)
    for role in {*method.second_draws.values(), *method.label_donors.values()}:
        entries = pools[role].entries + label_pool(store, experiment, role).entries
        if len({entry.record.patient for entry in entries}) == 1:
            raise InputError(
                f"cohort {store.name}: one patient for role {role} ({experiment.domains[role]}) in split train",
                expected=f"two or more: {name} shows the labels of one with images of another",
                remedy="import more patients, or split the cohort anew",
            )


def _check_drawn(store: Store, experiment: Experiment, roles: Sequence[str]) -> None:
    """InputError where a method that draws images of labels would find nothing labelled in one of its roles, or the
    labels of one patient alone."""
    patients: set[str] = set()
    for role in roles:
        entries = label_pool(store, experiment, role).entries
        if not any(entry.record.labelled_slices for entry in entries):
            raise InputError(
                f"cohort {store.name}: nothing is labelled in any {experiment.domain(role)} image of split train, role "
                f"{role} of {experiment.method.name}",
                expected="something labelled in every role: the method draws images of labels",
                remedy="label some, raise labels.fraction, or take a method that translates: cyclegan",
            )
        patients |= {entry.record.patient for entry in entries}
    if len(patients) < 2:
        raise InputError(
            f"cohort {store.name}: {counted(len(patients), 'labelled patient')} in split train",
            expected=f"two or more: {experiment.method.name} draws by labels, and would draw that patient",
            remedy="split the cohort anew, or label more",
        )


def generator_pools(store: Store, experiment: Experiment, method: type[Method] | Method) -> dict[str, Pool]:
    """All that generators and discriminators are shown: the ``generator_pool`` of every role, and second draws; of a
    method whose roles are registered, the examinations that have an image in each.

    One rule for all: samples are centred on labelled voxels in every role, or in none. Where some role has images that
    it cannot be done with, a discriminator would tell the roles apart by where samples lie and what they hold, and
    teach the generators to take structures out.
    """
    pools = {role: generator_pool(store, experiment, role) for role in method.roles}
    alike = len({experiment.state(role) for role in pools}) == 1 and all(map(_may_be_centred, pools.values()))
    pools |= {key: label_pool(store, experiment, role) for key, role in method.second_draws.items()}
    if experiment.sampling.central:
        pools = {key: pool.from_the_middle() for key, pool in pools.items()}
    elif not alike:
        pools = {key: pool.from_anywhere() for key, pool in pools.items()}
    return _registered(pools, store, experiment) if method.registered else pools


def _registered(pools: Mapping[str, Pool], store: Store, experiment: Experiment) -> dict[str, Pool]:
    """The examinations that are in every one of ``pools``, in one order, drawn and cut together.

    InputError where there is none, or where the images of one have different grids."""
    found = [{entry.record.subject: entry for entry in pool.entries} for pool in pools.values()]
    first, leader = next(iter(pools)), [one for one in found[0] if all(one in others for others in found)]
    if not leader:
        raise InputError(
            f"cohort {store.name}: no examination with an image that may be seen in each of "
            f"{', '.join(experiment.domain(role) for role in pools)}, in split train",
            expected=f"registered images, which {experiment.method.name} learns from: rows of one subject",
            remedy="import them under one {patient}, without --disjoint-domains; or take an unpaired method: cyclegan",
        )
    for subject in leader:
        check_registered([entries[subject].record for entries in found])
    one = Pool(tuple(found[0][subject] for subject in leader), first)
    rest = zip(list(pools)[1:], found[1:])
    alike = {role: Pool(tuple(mine[who] for who in leader)).drawn_with(one, first) for role, mine in rest}
    return {first: one, **alike}


def check_registered(images: Sequence[Image]) -> None:
    """InputError unless the images of one examination have one grid, as they have where they are registered."""
    first = images[0]
    for other in images[1:]:
        if other.shape != first.shape or not np.allclose(other.affine, first.affine, rtol=0, atol=APART_MM):
            raise InputError(
                f"subject {first.subject}: the grids of its {first.domain} and {other.domain} images differ",
                expected="registered images, resampled to one grid",
                remedy="resample one to the other and import them anew, or take an unpaired method: cyclegan",
            )


def _may_be_centred(pool: Pool) -> bool:
    """Whether the labels of all its images may be seen, and show something."""
    return all(entry.labelled for entry in pool.entries) and any(entry.record.labelled_slices for entry in pool.entries)


def generator_pool(store: Store, experiment: Experiment, role: str) -> Pool:
    """The images that a generator learns ``role`` from, in its state; labels only of ``labelled_patients``."""
    images = real_images(store, experiment.domain(role), "train")
    patients = labelled_patients(store, experiment, role)
    fewer = experiment.labels.gan_sees == "subset" and experiment.labels.fraction > 0
    if experiment.domain(role) == experiment.target_domain():
        seen = patients if fewer else None
    else:
        seen = source_patients(store, experiment, role)
    images = [image for image in images if seen is None or image.patient in seen]
    pool = Pool.of(store, images, patients).playing(role, experiment)
    if not len(pool):
        raise InputError(
            f"cohort {store.name}: no image for role {role} ({experiment.domains[role]}) in split train",
            expected="at least one" + (", or a slice of one, in that state" if experiment.state(role) else ""),
            remedy="choose another domain, or split the cohort anew",
        )
    return pool


def label_pool(store: Store, experiment: Experiment, role: str) -> Pool:
    """The images whose labels may be seen and that are in the state of ``role``: where its labels are drawn from."""
    return segmentor_pool(store, experiment, role).playing(role, experiment)


def segmentor_pool(store: Store, experiment: Experiment, role: str) -> Pool:
    """The real labelled images that a segmentor of the domain of ``role`` learns from, in whatever state."""
    patients = labelled_patients(store, experiment, role)
    images = real_images(store, experiment.domain(role), "train")
    return Pool.of(store, [image for image in images if image.labelled and image.patient in patients])


def seen_pool(store: Store, experiment: Experiment, role: str) -> Pool:
    """Of ``segmentor_pool``, what the downstream model sees: of the target, the images of ``mixing.real`` of its
    patients."""
    pool, share = segmentor_pool(store, experiment, role), experiment.mixing.real
    if share == 1 or role != experiment.target:
        return pool
    images = [entry.record for entry in pool.entries]
    seed = experiment.seed if experiment.labels.drawn == "each" else 0
    chosen = drawn_patients(images, {image.patient for image in images}, share, seed)
    return Pool(tuple(entry for entry in pool.entries if entry.record.patient in chosen))


def supervision(
    store: Store, experiment: Experiment, roles: Sequence[str], phases: Sequence[Phase]
) -> dict[str, Mixture]:
    """What the segmentors that a method trains see of real images, by the key of its batches: those of the target what
    the real arm's model sees, in the same order, and as many of them as the offline arm's. Where the target has no
    label, those of the source are what the source arm's model sees, and there are none of the target."""
    told, total = task_of(experiment, store.classes), sum(phase.steps for phase in phases if phase.segmentors)
    mixing = replace(experiment.mixing, ratio=told.synthetic_ratio, order="mixed")
    model = experiment.target if experiment.labels.fraction else experiment.source()
    found = {}
    for role in roles:
        if pool := segmentor_pool(store, experiment, role):
            stream = ROLE if role == model else ""
            online, leading = mixing.composition == "equal", real_alone(phases)
            found[labelled(role)] = Mixture(pool, None, mixing, total, stream=stream, leading=leading, online=online)
    return found


def held_out(store: Store, experiment: Experiment, role: str, split: str) -> Pool:
    """The images of ``split`` that may play ``role``."""
    images = real_images(store, experiment.domain(role), split)
    return Pool.of(store, images).playing(role, experiment)


def evaluation_images(store: Store, domain: str, split: str) -> list[Image]:
    """The labelled images of one split; InputError when they hold nothing to score."""
    images = [image for image in real_images(store, domain, split) if image.labelled]
    if not images:
        raise InputError(
            f"cohort {store.name}: no labelled {domain} image in split {split}",
            expected=f"at least one labelled patient in split {split}",
            remedy="split the cohort anew (ganatomy cohort import --split …)",
        )
    if not any(len(store.foreground(image)) for image in images):
        raise InputError(
            f"cohort {store.name}: no structure is labelled in any {domain} image of split {split}",
            expected="at least one, or there is nothing to score",
            remedy="split the cohort anew, or correct the labels",
        )
    return images
