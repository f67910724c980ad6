"""Stages: fit -> synthesise -> filter -> downstream -> evaluate, each computed once.

A stage's key is the hash of exactly what it depends on, so trials share what they have in common: a sweep over ratios
trains its generator once, the real-only baseline is trained once a seed. A finished stage is a folder with
``stage.json``; of several trials that want one at the same time, one computes it and the others follow its progress.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ganatomy.contracts import InputError, Method
from ganatomy.core.names import checked_name
from ganatomy.core.plain_values import plain
from ganatomy.core.plugins import resolve
from ganatomy.downstream.task import task_of
from ganatomy.evidence.results import write_json
from ganatomy.experiment import Experiment, Labels, Score, Transfer
from ganatomy.stages.artefacts import Artefacts, Follow, Grown, Stage, Work, code_digest, key_of
from ganatomy.stages.lesion_patches import film_items, patch_experiment, patch_items, rules_of
from ganatomy.stages.selection import judged, kept_images
from ganatomy.stages.synthesis import synthetic_items
from ganatomy.stores.amounts import distinct_images
from ganatomy.stores.lending import lending_store
from ganatomy.stores.store import Store, open_store
from ganatomy.stores.writing import write_store
from ganatomy.training.distributed import Workers, read_history, run_task, train
from ganatomy.training.downstream import task_of as told_of
from ganatomy.training.downstream import weights_digest
from ganatomy.training.loop import Record
from ganatomy.training.models import check_start, models_of, scored_images
from ganatomy.training.pools import check_labels
from ganatomy.training.tasks import FitGenerator, TrainDownstream, guide_of, load_networks, make_method

SCORES = "scores.json"
KEPT = "kept.json"
SYNTHETIC = "synthetic"
PATCHES = "patches"


@dataclass
class Stages:
    """Runs an Experiment's stages in a workspace.

    store: folder of the prepared cohort.  workers: how training stages are spread.  follow: see ``artefacts.Follow``.
    say: told, in a sentence, what is being computed or waited for.  may_train: False where only what was trained before
    may be judged; a missing fit or downstream model is then an InputError.
    """

    workspace: Path
    store_path: Path
    experiment: Experiment
    workers: Workers = field(default_factory=Workers)
    follow: Follow = field(default=lambda stage, record: None)
    say: Callable[[str], None] = field(default=lambda sentence: None)
    may_train: bool = True

    def __post_init__(self) -> None:
        self.experiment.validate()
        self.store: Store = open_store(self.store_path)
        for role in self.experiment.domains:  # an unknown domain is an InputError here, before anything is spent
            self.store.records(self.experiment.domain(role))
        if self.may_train:
            check_start(self.experiment, self.store.classes)
        self.artefacts = Artefacts(self.workspace / "stages", self.workers, self.say, self.may_train)
        self.keys = self.artefacts.keys

    # --- the arm's model -----------------------------------------------------------------------------------------

    def scores(self, split: str) -> list[Score]:
        """Rows of the arm's downstream model on real images of the target domain."""
        model, models = self.model(), models_of(self.experiment)
        images = scored_images(self.store, self.experiment, split)
        inputs = {"model": model.key, "split": split}

        def work(directory: Path) -> None:
            network, sampling = self.network(model), self.experiment.sampling
            write_json(directory / SCORES, plain(models.score(network, self.store, images, sampling, self.device())))

        stage = self.artefacts.compute("evaluate", inputs, self.apart(work))
        return read_scores(stage.directory)

    def model(self) -> Stage:
        """The stage that holds the arm's downstream model."""
        arm, target = self.experiment.arm, self.experiment.target
        if arm == "joint":
            return self.fit()
        if arm == "offline":
            return self.downstream(target, self.filtered())
        if arm == "source":
            check_labels(self.store, self.experiment)
            return self.downstream(self.experiment.source(), scored=target)
        return self.downstream(target)

    # --- the stages ----------------------------------------------------------------------------------------------

    def fit(self) -> Stage:
        """Train the method's networks, on the cohort that they are to come from."""
        if (taught := self.taught()) is not self:
            return self._borrowed("fit", taught.fit())
        experiment, store, data = self.experiment, self.store_path, self._data()
        method, budget = experiment.method_class(), plain(experiment.budget)
        if method.on_patches:
            patches = self.patches()
            store, data = patches.directory / PATCHES, {"patches": patches.key}
            experiment = patch_experiment(experiment)
        told = told_of(experiment, self.store.classes)
        inputs = {
            **data,
            "domains": experiment.domains,
            "method": {"name": experiment.method.name, **self._settings(trained=True)},
            "code": code_digest(method),
            "training": experiment.training,
            "budget": budget if method.trains_segmentors else {**budget, "segmentor_steps": None},
            "segmentor": self._segmentor_inputs() if told.segmentors else None,
            "ratio": told.synthetic_ratio,
            "composition": experiment.mixing.composition if told.segmentors else None,
            "seed": experiment.seed,
            **self._sources(),
        }

        def work(directory: Path, grown: Grown) -> None:
            train(FitGenerator(store, experiment, directory), directory, self.workers, grown)

        stage = self.artefacts.compute("fit", inputs, work, follow=self._forward, costs=True)
        if (guide := guide_of(read_history(stage.directory))) and guide[0] < guide[1]:
            self.say(f"warning: the guides of fit {stage.key} reach Dice {guide[0]:.2f} on validation patients, below "
                     f"{guide[1]:g}: what generators learn of lesions is no better")  # fmt: skip
        return stage

    def taught(self) -> Stages:
        """The stages whose fit is used: these, or those of the cohort that the generator is borrowed from."""
        name = self.experiment.transfer.generator
        return self._elsewhere(name) if name else self

    def patches(self) -> Stage:
        """Cut what a method on patches is trained on, by the lesions' boxes."""
        experiment, rules = self.experiment, rules_of(self.experiment)
        after = experiment.method_class().synthesis_settings
        inputs = {
            "store": self.store.digest,
            "domains": experiment.domains,
            "target": experiment.target,
            "labels": experiment.labels,
            **self._task_code(),
            "rules": {name: value for name, value in plain(rules).items() if name not in after},
            "code": code_digest(type(rules)),
            "seed": experiment.seed,
        }

        def work(directory: Path) -> None:
            _clear_partial(directory, PATCHES)
            write_store(
                directory / PATCHES,
                name=self.store.name,
                labels=self.store.labels,
                domains=self.store.domains,
                digest=key_of("patches", inputs),
                items=patch_items(self.store, experiment),
            )

        return self.artefacts.compute("patches", inputs, self.apart(work), costs=True)

    def synthesised(self) -> Stage:
        """Write the images that the fitted generators make for the target domain, once, with the labels they carry: the
        method's own where it gives some, else their source's. Images that it says have none are left out."""
        fit = self.fit()
        make = film_items if self.experiment.method_class().on_patches else synthetic_items

        def work(directory: Path) -> None:
            _clear_partial(directory, SYNTHETIC)
            made = write_store(
                directory / SYNTHETIC,
                name=f"{self.store.name}-synthetic",
                labels=self.store.labels,
                domains=self.store.domains,
                digest=fit.key,
                items=make(self.method(fit), self.experiment, self.store, fit.key, self.device()),
            )
            if not len(made):
                domain = self.experiment.target_domain()
                raise InputError(
                    f"cohort {self.store.name}: no labelled training image to make {domain} of",
                    expected="labelled training images of the domain that is translated, and a method that knows what "
                    "its images show",
                    remedy="label some, swap source and target, or choose another method",
                )

        # A fit may be another cohort's.
        own = {"store": self.store.digest, "labels": self.experiment.labels, **self._sources()}
        inputs = {"fit": fit.key, **own, "target": self.experiment.target, "settings": self._settings(trained=False)}
        if self.experiment.lent() != self.experiment:  # then those of the fit are not those that cut what it is given
            inputs["own"] = self._settings(trained=True)
        if self.experiment.method_class().draws_from_noise:
            inputs["drawing"] = plain(self.experiment.drawing)
        return self.artefacts.compute("synthesise", inputs, self.apart(work), costs=True)

    def filtered(self) -> Stage:
        """Choose the synthetic images to keep: those that a real-only downstream model takes for what they are meant
        to be, by their label or by their class."""
        rule = self.experiment.filter
        made = self.synthesised()
        if distinct := self.experiment.mixing.distinct:  # before anybody is trained to judge
            there = len(open_store(made.directory / SYNTHETIC))
            distinct_images(range(there), there, distinct, self.experiment.seed)
        judge = self._judge() if any(vars(rule).values()) else None

        def work(directory: Path) -> None:
            synthetic = open_store(made.directory / SYNTHETIC)
            network, said = self.network(judge) if judge else None, task_of(self.experiment).judged_by
            found = judged(network, synthetic, self.experiment, self.device())
            kept = kept_images(found, rule, said, self.experiment.seed)
            write_json(directory / KEPT, {"kept": kept, said: found, "of": len(found)})

        inputs = {"synthesise": made.key, **plain(rule), "judge": judge.key if judge else None}
        return self.artefacts.compute("filter", inputs, self.apart(work), costs=True)

    def downstream(self, role: str, kept: Stage | None = None, *, follow: bool = True, scored: str = "") -> Stage:
        """Train the downstream model of ``role`` on real images, and on the kept synthetic ones if given.

        scored: role whose validation images it is followed on, its own if ""."""
        experiment, data = self.experiment, self._data()
        inputs = {
            **data,
            "sampling": replace(experiment.sampling, middle_slices=0, central=False),  # of what generators are shown
            "labels": {**data["labels"], "gan_sees": None},
            "role": role,
            "domain": experiment.domain(role),
            "segmentor": self._segmentor_inputs(),
            "training": replace(experiment.training, ema=0.0),
            "kept": kept.key if kept else None,
            # With no label of the target there is nothing real to mix with.
            "mixing": _of_mixing(experiment) if kept and experiment.labels.fraction else None,
            "real": experiment.mixing.real if role == experiment.target else None,
            "seed": experiment.seed,
            "scored": scored or role,
            **(self._sources() if experiment.domain(role) != experiment.target_domain() else {}),
        }

        def work(directory: Path, grown: Grown) -> None:
            synthetic, indices = self.mixed_in(kept) if kept else (None, ())
            build = TrainDownstream(self.store_path, experiment, directory, role, synthetic, indices, scored)
            train(build, directory, self.workers, grown)

        return self.artefacts.compute("downstream", inputs, work, follow=self._forward if follow else None, costs=True)

    # --- what the stages load and make ---------------------------------------------------------------------------

    def network(self, model: Stage) -> nn.Module:
        """The trained downstream network that ``model`` (a downstream stage, or a joint fit) left, ready to predict."""
        if model.kind == "fit":
            return self.method(model).segmentor(self.experiment.target)
        fresh = models_of(self.experiment).fresh(self.experiment.trained(), self.store.classes)
        return load_networks(fresh, model.directory).get_submodule("S").to(self.device())

    def method(self, fit: Stage) -> Method:
        """The trained method that a fit left, in evaluation mode."""
        return load_networks(make_method(self.experiment.trained(), self.store.classes), fit.directory).to(
            self.device()
        )

    def _judge(self) -> Stage:
        """The downstream model trained on real images only: of this cohort, or of one that has more of them."""
        target, name = self.experiment.target, self.experiment.transfer.judge
        if not name and self.experiment.mixing.real == 1:
            return self.downstream(target, follow=False)
        if not name:  # who judges has seen all real images
            of_all = replace(self.experiment, mixing=replace(self.experiment.mixing, real=1.0))
            own = Stages(self.workspace, self.store_path, of_all, self.workers, say=self.say, may_train=self.may_train)
            return self._borrowed("judge", own.downstream(target, follow=False))
        return self._borrowed("judge", self._elsewhere(name).downstream(target, follow=False))

    def _elsewhere(self, name: str) -> Stages:
        """The stages of the same experiment, with the settings of who lends its generator, on another cohort of the
        workspace, all of it seen, nothing transferred."""
        path = lending_store(self.store_path.parent, name)
        mixing = replace(self.experiment.mixing, source_patients=0, real=1.0)
        alone = replace(self.experiment.lent(), transfer=Transfer(), labels=Labels(), mixing=mixing)
        return Stages(self.workspace, path, alone, self.workers, say=self.say, may_train=self.may_train)

    def _borrowed(self, kind: str, stage: Stage) -> Stage:
        """Another cohort's stage, whose cost is this trial's too."""
        self.keys[kind] = stage.key
        self.artefacts.costs[stage.key] = stage.record["device_seconds"]
        return stage

    def mixed_in(self, stage: Stage) -> tuple[Path, tuple[int, ...]]:
        """The synthetic set that a filter stage looked at, and the indices of the images it kept, or of as many of them
        as are asked for. InputError where it kept fewer."""
        key = checked_name(stage.record["inputs"]["synthesise"], f"{stage.directory}: key")
        made = self.workspace / "stages" / "synthesise" / key
        found = json.loads((stage.directory / KEPT).read_text())
        chosen = distinct_images(found["kept"], found["of"], self.experiment.mixing.distinct, self.experiment.seed)
        return made / SYNTHETIC, chosen

    # --- inputs of keys ------------------------------------------------------------------------------------------

    def _data(self) -> dict[str, Any]:
        """What every training stage depends on."""
        experiment, labels = self.experiment, plain(self.experiment.labels)
        if experiment.labels.fraction in (0, 1):
            labels["gan_sees"] = labels["drawn"] = None  # all or nothing is withheld, so both readings are the same
        return {
            "store": self.store.digest,
            "target": experiment.target,
            "labels": labels,
            "sampling": experiment.sampling,
            **self._task_code(),
        }

    def _sources(self) -> dict[str, int]:
        """How many patients of the source are used."""
        return {"source_patients": self.experiment.mixing.source_patients}

    def _task_code(self) -> dict[str, Any]:
        """What a task of somebody's own adds to keys. Of ours ``FORMAT`` speaks, as of all that is the platform's."""
        halves = [type(half) for half in (task_of(self.experiment), models_of(self.experiment))]
        theirs = [half for half in halves if half.__module__.partition(".")[0] != __name__.partition(".")[0]]
        return {"task": [code_digest(half) for half in theirs]} if theirs else {}

    def _settings(self, *, trained: bool) -> dict[str, Any]:
        """The method's settings that its training depends on, or those that matter only after it."""
        settings, after = plain(self.experiment.method_config()), self.experiment.method_class().synthesis_settings
        return {name: value for name, value in settings.items() if (name in after) != trained}

    def _segmentor_inputs(self) -> dict[str, Any]:
        downstream = self.experiment.downstream
        return {
            **plain(downstream),
            # What is in it counts, not where it lies.
            "weights": weights_digest(downstream.weights) if downstream.weights else "",
            "code": code_digest(resolve("networks", downstream.network.name)),
            "budget": {**plain(self.experiment.budget), "generator_steps": None},
        }

    # --- machinery -----------------------------------------------------------------------------------------------

    def _forward(self, stage: Stage, record: Record) -> None:
        """Hand on a record. A fit that joint and offline arms share scores its own segmentor: the offline arm's model
        is another, whose validation comes later."""
        if stage.kind == "fit" and self.experiment.arm != "joint":
            record = {name: value for name, value in record.items() if not name.startswith("val/")}
        self.follow(stage, record)

    def apart(self, work: Callable[[Path], None]) -> Work:
        """A stage that trains nothing, run where the trial's resources are."""
        return lambda directory, grown: run_task(partial(work, directory), self.workers, directory, grown)

    def device(self) -> torch.device:
        """Where the trial computes."""
        return self.workers.device()

    def __getstate__(self) -> dict[str, Any]:
        """Ships to another process without the callbacks, which belong to the trial's own."""
        return {**self.__dict__, "follow": _ignore, "say": _ignore}


def _of_mixing(experiment: Experiment) -> dict[str, Any]:
    """What of the mixing the downstream model depends on, beside the images."""
    return {name: value for name, value in vars(experiment.mixing).items() if name not in ("source_patients", "real")}


def _ignore(*_: Any) -> None:
    return None


def _clear_partial(directory: Path, store: str) -> None:
    """Remove what a process left that was killed while it wrote a store."""
    for left in directory.glob(f".{store}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def read_scores(directory: Path) -> list[Score]:
    """The rows that an evaluate stage left."""
    return score_rows(json.loads((directory / SCORES).read_text()))


def score_rows(values: Iterable[Mapping[str, Any]]) -> list[Score]:
    """Rows of evidence from their plain values."""
    return [Score(**row) for row in values]
