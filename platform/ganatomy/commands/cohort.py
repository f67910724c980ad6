"""The commands of cohorts: ``ganatomy cohort import``, ``check`` and ``who``, and ``ganatomy phantom``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.table import Table
from tyro.conf import Positional, arg

from ganatomy.commands.console import DONE, UNDONE, Command, print_rows, progress, screen

if TYPE_CHECKING:
    from ganatomy.cohorts.inspection import Findings

_GENERAL = {item.name for item in fields(Command)}


@dataclass(frozen=True, kw_only=True)
class CohortImport(Command):
    """Make a cohort of the images in a folder: found, checked, split by patient. Nothing is copied or changed.

    One folder a patient, files named for their domain:
    $ ganatomy cohort import DIR --layout folders --image '{domain}={patient}/{domain}.nii.gz' --label '{patient}/label.nii.gz' --out my-cohort

    A BIDS, Medical Segmentation Decathlon or nnU-Net folder, or a table of files:
    $ ganatomy cohort import DIR --layout bids --out my-cohort
    $ ganatomy cohort import table.csv --layout table --columns patient=PatientID image=Path --out my-cohort

    CT in a window of Hounsfield units, MR by its percentiles, everything at 1 mm:
    $ ganatomy cohort import DIR ... --intensity ct=window:-150:250 mr=percentile:0.5:99.5 --spacing 1 1 1
    """  # noqa: E501 (a command that can be copied)

    directory: Positional[Path]
    """Folder that holds the images (or the table)."""
    layout: Literal["folders", "bids", "msd", "nnunet", "table"]
    """How the images lie in it."""
    out: Path
    """Folder of the new cohort."""
    image: Annotated[tuple[str, ...], arg(metavar="[DOMAIN=PATTERN ...]")] = ()
    """folders: patterns of image paths with {patient} and, where wanted, {subject}, {session}, {domain}, {class}, {split}, * and **."""  # noqa: E501
    label: Annotated[tuple[str, ...], arg(metavar="[PATTERN ...]")] = ()
    """folders, bids: patterns of label paths; DOMAIN=PATTERN for one domain."""
    mask: Annotated[tuple[str, ...], arg(metavar="[PATTERN ...]")] = ()
    """folders, bids: patterns of the masks that intensity rules with mask `file` use."""
    domains: Annotated[tuple[str, ...], arg(metavar="[DOMAIN ...]")] = ()
    """Take these domains only."""
    modality: Annotated[tuple[str, ...], arg(metavar="[DOMAIN=TEXT ...]")] = ()
    """Modality of a domain, such as flair=MR; its name by default."""
    intensity: Annotated[tuple[str, ...], arg(metavar="[[DOMAIN=]RULE[:LOW:HIGH][:MASK] ...]")] = ()
    """How intensities become [-1, 1]: window (HU), percentile, zscore; inside mask none, nonzero or file."""
    labels: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE[,VALUE] ...]")] = ()
    """Classes by the values that label files hold; several values can be one class, those of `background` are none."""
    columns: Annotated[tuple[str, ...], arg(metavar="[OURS=THEIRS ...]")] = ()
    """table: which of its columns is patient, domain, image, label, split."""
    patient: str = ""
    """msd, nnunet: regular expression whose first group is the patient in a case's name."""
    spacing: tuple[float, float, float] | None = None
    """Resample to this many mm (x y z); 0 keeps an axis."""
    size: tuple[int, int, int] | None = None
    """Then crop or pad to this many voxels (x y z); 0 keeps an axis."""
    splits: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Fractions of patients for train, val and test."""
    seed: int = 0
    """Draws the splits."""
    disjoint_domains: Literal["no", "train", "all"] = "no"
    """Hold a patient scanned in several domains to one of them: only in training, or in every split."""
    symmetric: tuple[str, ...] = ()
    """Axes (x: left and right, y, z) along which strong augmentation may mirror; none by default."""
    group_near_copies: bool = False
    """Patients who share nearly equal images, which are warned of, count as one for the split."""
    name: str = ""
    """Name of the cohort; that of the folder by default."""
    licence: str = ""
    """Licence of the images; every synthetic set made from them names it."""
    anatomy: str = ""
    """What they show, such as heart or humerus: a paper's figures are shown beside sweeps of the same."""
    overwrite: bool = False
    """Replace the cohort in --out."""

    def run(self) -> int:
        """Import, then say what was found."""
        from ganatomy.cohorts.importers import import_cohort

        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _GENERAL}
        with progress("reading images") as follow:
            cohort, findings = import_cohort(**options, progress=follow)
        _print_findings(findings)
        print(f"cohort {cohort.name} is in {cohort.path}; all of the check is in {cohort.path / 'check.json'}")
        return DONE


@dataclass(frozen=True, kw_only=True)
class CohortCheck(Command):
    """Check a cohort's files: geometry, labels, leakage, fingerprint; say what is quarantined and why.

    $ ganatomy cohort check my-cohort

    An image that was mended since is taken back. Ends with 1 when the cohort cannot serve.
    """

    cohort: Positional[Path]
    """Folder of the cohort."""
    group_near_copies: bool = False
    """Move patients who share nearly equal images to one split: to training where any of them trains."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Check and print."""
        from ganatomy.cohorts.inspection import check_cohort
        from ganatomy.core.plain_values import plain

        with progress("reading images") as follow:
            _, findings = check_cohort(self.cohort, follow, group_near_copies=self.group_near_copies)
        if self.json:
            print(json.dumps(plain(findings), indent=2, ensure_ascii=False))
        else:
            _print_findings(findings)
        return UNDONE if findings.of("refuse") else DONE


@dataclass(frozen=True, kw_only=True)
class CohortWho(Command):
    """Say which patient or examination of a cohort a pseudonym stands for.

    $ ganatomy cohort who my-cohort p0123456789abcdef

    By the key in the cohort's folder and its table: whoever has not got both cannot.
    """

    cohort: Positional[Path]
    """Folder of the cohort."""
    pseudonyms: Positional[tuple[str, ...]]
    """What to look up; whatever stands around a pseudonym, as in names of files, does not matter."""

    def run(self) -> int:
        """One line each."""
        from ganatomy.api.cohorts import who

        for pseudonym, stands_for in who(self.cohort, self.pseudonyms).items():
            print(f"{pseudonym} is {stands_for}")
        return DONE


@dataclass(frozen=True, kw_only=True)
class Phantom(Command):
    """Write a procedural cohort of images whose truth is known: to try things, to test, to teach.

    Hearts, of which some patients have a CT and the others an MR:
    $ ganatomy phantom --out phantom --ct 20 4 4 --mr 20 8 12
    $ ganatomy phantom --out hard --pose-gap 1 --oracle hard-truth

    Brains with a lesion in some of their slices, in registered MR contrasts:
    $ ganatomy phantom --kind brain --out brains --patients 20 6 6 --contrasts flair t1 --oracle brains-truth
    $ ganatomy phantom --kind brain --out subtle --lesion-contrast 0.4 --mass-effect 0.3 --twins

    Radiographs of a long bone, some with a lesion in a known box:
    $ ganatomy phantom --kind bone --out bones --part femur --lesions 6 20 40 --normals 200 100 200
    """

    out: Path
    """New folder of the cohort."""
    kind: Literal["heart", "brain", "bone"] = "heart"
    """What is imaged."""
    ct: tuple[int, int, int] = (20, 4, 4)
    """heart: patients with a CT: train, val, test."""
    mr: tuple[int, int, int] = (20, 8, 12)
    """heart: patients with an MR: train, val, test."""
    patients: tuple[int, int, int] = (20, 6, 6)
    """brain: patients: train, val, test."""
    contrasts: Annotated[tuple[str, ...], arg(metavar="[CONTRAST ...]")] = ("flair",)
    """brain: which of flair, t1, t2 and t1c each patient has."""
    lesion_slices: int | None = None
    """brain: slices that the lesion crosses; half of them by default."""
    nested: bool = False
    """brain: oedema, core and rim of the lesion are classes of their own."""
    mass_effect: float = 0.0
    """brain: 0 to 0.5; how far tissue is pushed away at the edge of the lesion, as a fraction of its radius."""
    lesion_contrast: float = 1.0
    """brain: above 0, to 1; how far a lesion's values lie from white matter's. At 0.4 some grey matter is as bright."""
    twins: bool = False
    """brain: validation and test patients without their lesions too, in the cohort, for measures alone."""
    part: str = "humerus"
    """bone: humerus, tibia or femur."""
    lesions: tuple[int, int, int] = (24, 20, 40)
    """bone: patients with a lesion: train, val, test."""
    normals: tuple[int, int, int] = (240, 100, 200)
    """bone: patients without."""
    shape: tuple[int, int, int] = (12, 64, 64)
    """Voxels of a volume: slices, rows, columns; a bone's radiograph has no slices."""
    pose_gap: float = 0.0
    """heart: g >= 0; hearts of MR patients are larger by 1 + g and shifted, so that distortion is rewarded."""
    swap_gap: float = 0.0
    """heart: 0 to 1; how far MR exchanges the brightness of left and right chambers."""
    oracle: Path | None = None
    """Another new folder for the true counterparts, in the other domain or without lesion; for evaluation only."""
    seed: int = 0
    """Draws everything."""

    def run(self) -> int:
        """Write it."""
        if self.kind == "brain":
            return self._run_brain()
        if self.kind == "bone":
            return self._run_bone()
        from ganatomy.phantoms.hearts import make_cohort

        make_cohort(
            self.out,
            patients={"ct": self.ct, "mr": self.mr},
            shape=self.shape,
            pose_gap=self.pose_gap,
            swap_gap=self.swap_gap,
            seed=self.seed,
            oracle=self.oracle,
        )
        print(f"{self.out}: {sum(self.ct)} CT and {sum(self.mr)} MR patients")
        return DONE

    def _run_brain(self) -> int:
        from ganatomy.phantoms.brains import make_brain_cohort

        make_brain_cohort(
            self.out,
            patients=self.patients,
            shape=self.shape,
            contrasts=self.contrasts,
            lesion_slices=self.lesion_slices,
            nested=self.nested,
            mass_effect=self.mass_effect,
            lesion_contrast=self.lesion_contrast,
            twins=self.twins,
            seed=self.seed,
            oracle=self.oracle,
        )
        print(f"{self.out}: {sum(self.patients)} patients, each with {', '.join(self.contrasts)}")
        return DONE

    def _run_bone(self) -> int:
        from ganatomy.phantoms.bones import make_bone_cohort

        patients = {"lesion": self.lesions, "normal": self.normals}
        make_bone_cohort(
            self.out, part=self.part, patients=patients, shape=self.shape[1:], seed=self.seed, oracle=self.oracle
        )
        print(f"{self.out}: radiographs, {sum(self.lesions)} with a lesion and {sum(self.normals)} without")
        return DONE


def _print_findings(findings: Findings) -> None:
    """What is wrong, then the domains in a table."""
    print_rows([(item.severity, item.file, item.reason, item.remedy) for item in findings.findings])
    found = findings.fingerprint
    table = Table(box=None, pad_edge=False)
    for heading in ("domain", "images", "labelled", "train/val/test", "voxels", "mm", "labels in"):
        table.add_column(heading)
    for name, domain in found["domains"].items():
        patients = "/".join(str(number) for number in domain["patients"].values())
        grid = [" x ".join(f"{n:g}" for n in domain[key].get("median", [])) for key in ("shape", "spacing")]
        labels = ", ".join(f"{label} {facts['images']}" for label, facts in domain["labels"].items())
        table.add_row(name, str(domain["images"]), str(domain["labelled"]), patients, *grid, labels)
    screen().print(table)
    print(f"{found['images']} images of {found['patients']} patients; {found['quarantined']} quarantined")
