"""Generator: the promoted artefact. Weights, settings, what it was trained on, evidence and a card; nothing pickled.

A bundle is a folder: ``weights.safetensors`` (the networks that synthesis needs), ``config.json`` (experiment, rules by
which images were prepared, native intensity ranges), ``fingerprint.json`` (hashes of both, and of the training data),
``report.json`` and ``MODEL_CARD.md`` (evidence, for people). It is enough to generate with no setting repeated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ganatomy.cohorts.cohort import Cohort, Domain
from ganatomy.contracts import InputError, Method
from ganatomy.core.names import checked_name
from ganatomy.core.plain_files import read_json
from ganatomy.core.tables import write_atomically, write_json
from ganatomy.experiment import Experiment, Sampling
from ganatomy.generators import contents
from ganatomy.generators.contents import CONFIG, FORMAT, WEIGHTS, content_hash
from ganatomy.generators.layouts import Volumes, each_image
from ganatomy.generators.model_card import model_card
from ganatomy.images.intensities import Intensity
from ganatomy.stores.layout import Record
from ganatomy.stores.store import Store
from ganatomy.training.downstream import task_of
from ganatomy.training.inference import MAX_VOXELS, Made, synthesize_labelled

FINGERPRINT = "fingerprint.json"
REPORT, CARD = "report.json", "MODEL_CARD.md"

_USUAL_BYTES, _MANIFOLD = 2**30, 32
"""Bytes of networks that are built whatever the file of weights has; and how many times that file beyond: it lacks the
discriminators and segmentors of the training."""


@dataclass(frozen=True)
class Generator:
    """A loaded bundle.

    digest: content hash of weights, settings and training data, not of report and card (those are written later).
    rules: a cohort without rows: domains, labels, spacing and orientation that images are prepared by.
    ranges: role -> native intensities (low, high) that -1 and +1 stand for in what is made of that role.
    routes: role -> roles that can be made from it.  fingerprint: as in ``fingerprint.json``.
    """

    directory: Path
    digest: str
    method: Method
    experiment: Experiment
    rules: Cohort
    ranges: Mapping[str, tuple[float, float]]
    routes: Mapping[str, tuple[str, ...]]
    fingerprint: Mapping[str, Any]
    device: torch.device

    def __call__(
        self, images: Volumes, source: str = "", target: str = "", *, label: np.ndarray | torch.Tensor | None = None
    ) -> Volumes:
        """What it makes of images as networks see them: numpy or torch in, the same out (kind, shape, type, device).

        images: floats in [-1, 1]: [D, H, W], [1, D, H, W] or [N, 1, D, H, W], and of a 2D generator also [H, W] and
        [N, 1, H, W]; sides of any size. ``ganatomy.dataset`` and ``prepare_image`` give such; files on their own grid,
        in native values, are ``ganatomy.generate``'s.  source, target: a role, domain or state; by default what leads
        to the domain that it was promoted for.  label: class ids, likewise, for methods that look at them.
        Deterministic. Raises InputError for other shapes and values, and where it makes nothing of images.
        """
        role, made = self._translating(source, target, label is not None)
        ndim = self.sampling.ndim
        return each_image(images, label, ndim, lambda image, labels: self.synthesize(image, role, labels)[made])

    def _translating(self, source: str, target: str, labelled: bool) -> tuple[str, str]:
        if self.method.on_patches or self.method.draws_from_noise:
            does = "puts lesions into films" if self.method.on_patches else "draws from noise and labels"
            raise InputError(f"the generator ({self.experiment.method.name}) {does}", expected="one that translates",
                             remedy="ganatomy.generate, with a cohort")  # fmt: skip
        role, made = self.route(source or None, target or None)
        if role in self.method.label_donors and not labelled:
            raise InputError(f"images of {role} without a label", expected="one to draw into each", remedy="label=…")
        return role, made

    def caution(self, target: str | None = None) -> str:
        """What whoever uses its images must hear: that it did not pass a gate, or was never judged; "" where it did.

        target: the role of the images, where they may be of another domain than those that were judged.
        """
        verdict = _read_json(self.directory / REPORT).get("verdict") or {}
        failed = [gate["name"] for gate in verdict.get("gates", ()) if not gate.get("passed")]
        if not verdict:
            return "no gate has judged this generator: nothing is shown about its images"
        said, judged = [], self.experiment.target_domain()
        if failed:
            forced = f", promoted by force ({verdict['forced']})" if verdict.get("forced") else ""
            said.append(f"this generator did not pass {', '.join(failed)}{forced}")
        if target is not None and (other := self.domain(target).name) != judged:
            said.append(f"the gates looked at the {judged} images that this generator makes, not at {other}")
        return "; ".join(said)

    def domain(self, role: str) -> Domain:
        """The domain that plays ``role``."""
        return self.rules.domains[self.experiment.domain(role)]

    @property
    def sampling(self) -> Sampling:
        """How its networks are given an image: as the experiment says, or whole patches, by a method that works on
        those."""
        if not self.method.on_patches:
            return self.experiment.sampling
        side = self.experiment.method_class().patches(self.experiment.method_config()).side
        return Sampling(2, (side, side), foreground=0.0)

    def role(self, name: str) -> str:
        """The role called ``name``, or played by the domain, or the state of one, called ``name``.

        Raises InputError where there is none, and where a domain plays several roles.
        """
        domains = self.experiment.domains
        exact = [role for role in self.method.roles if name in (role, domains[role])]
        loose = [r for r in self.method.roles if name in (self.experiment.domain(r), self.experiment.state(r))]
        found = exact[:1] or loose
        if len(found) == 1:
            return found[0]
        problem = "several roles of domain" if found else "no role or domain"
        known = ", ".join(f"{role} ({domains[role]})" for role in self.method.roles)
        raise InputError(f"the generator has {problem} {name!r}", expected=f"one of {known}")

    def route(self, source: str | None = None, target: str | None = None) -> tuple[str, str]:
        """(source role, target role) by role or domain. Left out: the experiment's target, and what leads there."""
        sources = [self.role(source)] if source else list(self.routes)
        ways = [(role, made) for role in sources for made in self.routes.get(role, ())]
        wanted = self.role(target) if target else self.experiment.target
        chosen = [way for way in ways if way[1] == wanted] or (ways if not target else [])
        if chosen:
            return chosen[0]
        if not self.routes:
            raise InputError(f"this generator, by {self.experiment.method.name}, translates no image",
                             expected="a number of images to draw", remedy="ganatomy generate … --count N")  # fmt: skip
        known = ", ".join(f"{role} to {made}" for role, all_made in self.routes.items() for made in all_made)
        raise InputError(
            f"the generator cannot make {target or 'anything'} from {source or 'anything'}", expected=known
        )

    def make(
        self,
        image: np.ndarray | torch.Tensor,
        source_role: str,
        label: np.ndarray | None = None,
        max_voxels: int = MAX_VOXELS,
    ) -> dict[str, Made]:
        """All translations of one whole image of any size, with what the method says of them, by role.

        image: [D, H, W] in [-1, 1], of ``source_role``.  label: its class ids, for methods that look at them.
        """
        made = synthesize_labelled(
            self.method,
            image,
            source_role,
            self.sampling,
            label=label,
            device=self.device,
            max_voxels=max_voxels,
        )
        return {role: item for (role, kind), item in made.items() if kind == "translated"}

    def synthesize(
        self,
        image: np.ndarray | torch.Tensor,
        source_role: str,
        label: np.ndarray | None = None,
        max_voxels: int = MAX_VOXELS,
    ) -> dict[str, np.ndarray]:
        """The images alone of ``make``: role -> float32 [D, H, W] in [-1, 1]."""
        return {role: item.image for role, item in self.make(image, source_role, label, max_voxels).items()}


def save_generator(
    directory: Path | str,
    method: Method,
    experiment: Experiment,
    *,
    cohort: Cohort,
    store: Store,
    stages: Mapping[str, str],
    records: Iterable[Record] | None = None,
    report: Mapping[str, Any] | None = None,
    taught_on: Store | None = None,
) -> Generator:
    """Write the bundle of a trained ``method`` and load it again. The folder appears complete or not at all.

    cohort: whose preparation rules, labels and licence it keeps (no path, no row).  store: the prepared cohort.
    records: the images of ``store`` that the fit saw; all training images of the experiment's domains by default.
    stages: stage kind -> key.  report: the evidence, see ``write_report``.  taught_on: the store that ``records`` are
    of, where the generator is borrowed from another cohort; ``store`` is the one whose images it is to be used on.
    Raises InputError when ``directory`` holds anything but the same generator.
    """
    directory = Path(directory)
    roles = {role: experiment.domain(role) for role in method.roles}
    if records is None:
        records = [record for domain in roles.values() for record in store.records(domain=domain, split="train")]
    records = list(records)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", suffix=".part", dir=directory.parent) as holder:
        part = Path(holder) / "bundle"
        part.mkdir()
        (part / WEIGHTS).write_bytes(save(contents.weights(method)))  # its own save_file would shut everybody else out
        usual = records if taught_on is None else store.records(split="train")
        write_json(part / CONFIG, contents.configuration(method, experiment, cohort, store, usual, roles))
        name, source = (cohort.name, store) if taught_on is None else (taught_on.name, taught_on)
        write_json(part / FINGERPRINT, contents.fingerprint(part, name, source, records, stages))
        write_report(part, report or {})
        if directory.exists():
            return _same_or_refuse(directory, part)
        part.rename(directory)
    return load_generator(directory)


def write_report(directory: Path | str, report: Mapping[str, Any]) -> None:
    """Put the evidence into a bundle, and write its card anew. Leaves the generator's digest as it is.

    report: plain values. The card knows ``verdict`` {promoted, gates: [{name, passed, sentence}], forced} and ``table``
    (rows of one key set); whatever else is there stays in ``report.json``.
    """
    directory = Path(directory)
    config, fingerprint = _read_json(directory / CONFIG), _read_json(directory / FINGERPRINT)
    write_json(directory / REPORT, report)
    card = model_card(
        config, fingerprint, _read_json(directory / REPORT), content_hash((directory / FINGERPRINT).read_bytes())
    )
    write_atomically(directory / CARD, card)


def load_generator(directory: Path | str, device: torch.device | str = "cpu") -> Generator:
    """Read a bundle, and check that it is whole. The random streams of the caller are left as they were.

    Raises InputError when files are missing, damaged or of another version, or the method's package is not installed.
    That it is whole says nothing of who made it: ``Registry.download`` compares it with what was registered; a folder
    from elsewhere is worth as much trust as whoever handed it over. What it names is looked up among what is installed,
    and a dotted path is followed only where it was allowed here (``plugins.allow``).
    """
    directory = Path(directory)
    fingerprint = _read_json(directory / FINGERPRINT)
    _check_whole(directory, fingerprint)
    config = _read_json(directory / CONFIG)
    try:
        return _from_config(directory, fingerprint, config, device)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{directory / CONFIG} describes no generator: {type(error).__name__}: {error}",
                         expected="what save_generator writes", remedy="promote it again") from error  # fmt: skip


def _from_config(
    directory: Path, fingerprint: Mapping[str, Any], config: Mapping[str, Any], device: torch.device | str
) -> Generator:
    experiment = Experiment.from_dict(config["experiment"])
    with torch.random.fork_rng(devices=[]):
        _check_room(experiment, config, directory)
        method = experiment.method_class()(
            experiment.lent().method_config(), task_of(experiment.trained(), config["classes"])
        )
    _load_weights(method, directory / WEIGHTS, config["networks"])
    # What is not in the bundle has random weights: using it by mistake must fail.
    for name in set(method.networks()) - set(config["networks"]):
        delattr(method, name)
    method.requires_grad_(False).eval().to(device)
    return Generator(
        directory,
        content_hash((directory / FINGERPRINT).read_bytes()),
        method,
        experiment,
        _rules(directory, config),
        {role: (low, high) for role, (low, high) in config["ranges"].items()},
        {role: tuple(made) for role, made in config["routes"].items()},
        fingerprint,
        torch.device(device),
    )


# --- reading one -------------------------------------------------------------------------------------------------


def _check_whole(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    if fingerprint.get("format") != FORMAT:
        raise InputError(f"generator {directory} has format {fingerprint.get('format')!r}", expected=f"format {FORMAT}",
                         remedy="use the version of ganatomy that wrote it, or promote again")  # fmt: skip
    for name, key in ((WEIGHTS, "weights"), (CONFIG, "config")):
        if not (directory / name).is_file() or content_hash((directory / name).read_bytes()) != fingerprint.get(key):
            raise InputError(f"generator {directory} is damaged: {name} is not what its fingerprint says",
                             expected="the files as they were saved", remedy="fetch it again")  # fmt: skip


def _check_room(experiment: Experiment, config: Mapping[str, Any], directory: Path) -> None:
    """InputError where the networks are far larger than the weights that are there: a page of settings can ask for more
    than the machine has. They are built without memory to be measured; what cannot be built so is not measured."""
    try:
        with torch.device("meta"):
            method = experiment.method_class()(
                experiment.lent().method_config(), task_of(experiment.trained(), config["classes"])
            )
    except RuntimeError:  # one of somebody's own that computes while it is built, which numbers without values refuse
        return
    needed = sum(value.numel() * value.element_size() for value in (*method.parameters(), *method.buffers()))
    file = (directory / WEIGHTS).stat().st_size
    if needed > max(_USUAL_BYTES, _MANIFOLD * file):
        asked = f"asks for networks of {needed / 2**30:.3g} GiB, and {WEIGHTS} has {file} bytes"
        raise InputError(f"{directory / CONFIG} {asked}",
                         expected="those that were saved", remedy="promote it again")  # fmt: skip


def _load_weights(method: Method, path: Path, names: Iterable[str]) -> None:
    networks = method.networks()
    try:
        tensors = load_file(path)
        for name in names:
            own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            networks[name].load_state_dict(own)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(f"weights in {path} do not fit {type(method).__name__}: {str(error).splitlines()[0]}",
                         expected="the method as it was when the generator was trained",
                         remedy="install the version of its package that trained it") from error  # fmt: skip


def _rules(directory: Path, config: Mapping[str, Any]) -> Cohort:
    """Preparation rules for whole images: the training cohort's, without its crop, so that nothing is lost."""
    grid = config["grid"]
    return Cohort(
        path=directory,
        name=config["experiment"]["cohort"],
        domains={
            name: Domain(checked_name(name, "domain", also="*"), values["modality"], Intensity(**values["intensity"]))
            for name, values in config["domains"].items()
        },
        labels={int(key): name for key, name in config["labels"].items()},
        label_values={int(key): value for key, value in config["label_values"].items()},
        spacing=tuple(grid["spacing"]) if grid["spacing"] else None,
        orientation=grid["orientation"],
        licence=config["licence"],
    )


def _same_or_refuse(directory: Path, part: Path) -> Generator:
    written = directory / FINGERPRINT
    if written.is_file() and written.read_bytes() == (part / FINGERPRINT).read_bytes():
        return load_generator(directory)
    raise InputError(f"{directory} exists and is not this generator", expected="a new folder",
                     remedy="choose another, or remove it")  # fmt: skip


# --- files -------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read: {error.__class__.__name__}", expected=f"a generator's folder with its {path.name}"
        ) from error
