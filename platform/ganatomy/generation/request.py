"""What a generation is asked for: checked, made here or spread over Ray, and what became of it.

``ganatomy generate`` and ``ganatomy.generate(...)`` in Python are this, spelt in two ways. Nothing heavy is imported
before it is needed: the command's help is made of these fields.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ganatomy.core.installation import default_workspace

if TYPE_CHECKING:
    from ganatomy.cohorts.cohort import Cohort
    from ganatomy.cohorts.pseudonyms import Pseudonyms
    from ganatomy.generation.jobs import Job
    from ganatomy.generation.translated import Result
    from ganatomy.generators.generator import Generator

Following = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""What follows the work: of a title makes what is told (done, total)."""


@dataclass(frozen=True)
class Generated:
    """What a generation left.

    out: the folder, itself a cohort.  made, kept: images, films or subjects that are new, or were there already.
    failed: why each image that could not be made was not, one line each.  short: subjects that failed the generator's
    own checks.  who: file that was given by itself -> the pseudonym that it goes by.  summary: all of it, in one line.
    """

    out: Path
    made: int
    kept: int
    summary: str
    failed: tuple[str, ...] = ()
    short: int = 0
    who: Mapping[Path, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether everything that was asked for is there."""
        return not (self.failed or self.short)

    def cohort(self) -> Cohort:
        """What is in the folder now, from this and earlier runs."""
        from ganatomy.cohorts.reading import read_cohort

        return read_cohort(self.out)


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """Names, defaults and meaning are those of the command's options."""

    workspace: Path = field(default_factory=default_workspace)
    """Folder of the sweeps, stores and the embedded MLflow store (or set GANATOMY_WORKSPACE)."""
    model: str
    """models:/NAME@champion, models:/NAME/VERSION, or the folder of a generator."""
    out: Path
    """Folder of the synthetic cohort."""
    cohort: Path | None = None
    """Folder of the cohort whose images are translated."""
    image: Path | None = None
    """One image instead of a cohort."""
    label: Path | None = None
    """Label of --image: carried over, or what is to be drawn into the image."""
    box: tuple[float, float, float, float] | None = None
    """Where a lesion may lie in --image, in its pixels from the top left: nothing outside changes. It is put into the
    largest square within; where that leaves a choice, --seed makes it."""
    patient: str = ""
    """Patient of --image; by default the name of the file. On record, and in the names of files, goes a pseudonym."""
    key_of: Path | None = None
    """Cohort whose key pseudonyms of --image and --labels are under; that of the workspace by default. Where it taught
    a generator of lesions, its patients are known by it and receive none."""
    keep_names: bool = False
    """Name patients and examinations in the table of --out as --cohort does, to join both: for a set that stays in the
    laboratory. Names of files and sidecars are by pseudonym all the same."""
    split: tuple[Literal["train", "val", "test"], ...] = ()
    """Only images of these splits of the cohort."""
    count: int = 0
    """At most so many films with a lesion; or so many subjects drawn from noise, by a generator that can, with labels
    of --cohort or of --labels: in this process, without Ray. Films and labels are of training patients, unless --split
    says otherwise."""
    labels: tuple[Path, ...] = ()
    """Label files, or folders of them, to draw from instead of those of a cohort."""
    seed: int = 0
    """Of what --count draws, or of where lesions go: another seed, other subjects or places."""
    source: str = ""
    """Domain, state or role to translate from, where the generator knows several ways."""
    target: str = ""
    """Domain, state or role to translate to; by default the one it was promoted for."""
    workers: int = 0
    """Images at the same time, on Ray; 0: as many as there are CPUs or GPUs; 1: in this process, without Ray."""
    address: str = ""
    """Ray cluster to run on; RAY_ADDRESS, else this machine."""
    overwrite: bool = False
    """Replace files that are in the way."""
    allow_dotted: tuple[str, ...] = ()
    """package.module:NAME …: the generator's method, where it is not installed under a name: this command may import
    it. What it says is run: only where you trust whoever wrote it."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, else the one embedded in the workspace."""

    def carried_out(self, following: Following = lambda title: nullcontext(lambda done, total: None)) -> Generated:
        """Make what the generator is for: films with a lesion, subjects drawn from noise, or translated images.

        following: of a title, what is told of the progress. What is to be heeded, and what could not be made, is said
        on standard error. InputError where nothing can be made, and for files of others in the way.
        """
        from ganatomy.cohorts.claims import alone_in
        from ganatomy.contracts import InputError
        from ganatomy.core.plugins import allow
        from ganatomy.core.terminal import detail
        from ganatomy.generators.generator import load_generator
        from ganatomy.generators.registry import bundle_of

        allow(*self.allow_dotted)
        if self.keep_names and self.cohort is None:
            raise InputError("--keep-names without --cohort", expected="a cohort whose table names the patients",
                             remedy="leave it out: who is who is said on this screen")  # fmt: skip
        if not (self.count or self.labels):
            self._check_one_source()  # before anything is fetched
        generator = load_generator(bundle_of(self.model, self.workspace, self.tracking_uri))
        detail(f"generator: {generator.directory}, by {generator.experiment.method.name}")
        with alone_in(self.out):
            return self._made(generator, following)

    def _made(self, generator: Generator, following: Following) -> Generated:
        from ganatomy.contracts import InputError

        if generator.method.on_patches:
            self._check_for_lesions(generator)
            generator = _to_gpu(generator)
            return self._paste_one(generator) if self.image is not None else self._paste(generator, following)
        if self.box is not None:
            raise InputError(f"--box for a generator by {generator.experiment.method.name}",
                             expected="one that puts lesions into films", remedy="leave --box out")  # fmt: skip
        draws = self.count or self.labels
        return self._draw(generator, following) if draws else self._translate(generator, following)

    def _check_one_source(self) -> None:
        from ganatomy.contracts import InputError

        if (self.cohort is None) == (self.image is None):
            given = "both --cohort and --image" if self.cohort else "neither --cohort nor --image"
            raise InputError(given, expected="one of them", remedy="--cohort DIR, or --image FILE")

    def _translate(self, generator: Generator, following: Following) -> Generated:
        """Plan, make, and write the cohort of what was made."""
        from ganatomy.core.terminal import detail
        from ganatomy.generation.jobs import plan_generation
        from ganatomy.generation.translated import finish_generation

        source = self._source()
        jobs = plan_generation(
            generator,
            source,
            self.out,
            source_role=self.source or None,
            target_role=self.target or None,
            splits=self.split or None,
            label=self.label,
            patient=self.patient,
            names=self._names() if isinstance(source, Path) else None,
            overwrite=self.overwrite,
        )
        _warn(generator, jobs[0].target)
        with following("generating") as follow:
            results = self._results(generator.directory, jobs, follow)
        failed = [result for result in results if result.status == "failed"]
        for result in failed:
            print(f"error: {result.error}", file=sys.stderr)
        for result in results:
            if result.row is not None:
                detail(f"{result.status} {result.row.image}")
        cohort = None if isinstance(source, Path) else source
        made = finish_generation(generator, results, self.out, cohort, self.keep_names)
        count = {status: sum(result.status == status for result in results) for status in ("made", "kept", "failed")}
        return Generated(
            made.path,
            count["made"],
            count["kept"],
            f"{made.path}: " + ", ".join(f"{number} {status}" for status, number in count.items()),
            failed=tuple(result.error for result in failed),
            who={source: jobs[0].row.subject} if isinstance(source, Path) else {},
        )

    def _paste(self, generator: Generator, following: Following) -> Generated:
        """Lesions into films that show none."""
        from ganatomy.cohorts.pseudonyms import pseudonyms_of
        from ganatomy.cohorts.reading import read_cohort
        from ganatomy.generation.lesions import generate_lesions

        cohort = read_cohort(self.cohort or "")
        _warn(generator)
        taught = self._taught(generator, pseudonyms_of(cohort.path))
        with following("generating") as follow:
            done = generate_lesions(
                generator, cohort, self.out, splits=self.split or None, count=self.count, seed=self.seed,
                overwrite=self.overwrite, keep_names=self.keep_names, taught=taught, progress=follow,
            )  # fmt: skip
        said = f"{self.out}: {done['made']} films with a lesion made, {done['kept']} kept; their boxes are in boxes.csv"
        return Generated(self.out, done["made"], done["kept"], said)

    def _paste_one(self, generator: Generator) -> Generated:
        """A lesion into one film, where --box says."""
        from ganatomy.generation.lesions import generate_lesion

        image, names = self.image or Path(), self._names()
        _warn(generator)
        taught = self._taught(generator, names)
        row, made = generate_lesion(
            generator, image, self.box or (), self.out, names, patient=self.patient, seed=self.seed,
            overwrite=self.overwrite, taught=taught,
        )  # fmt: skip
        corners = " ".join(f"{value:g}" for value in row.box or ())
        said = f"{row.image}: {'made' if made else 'kept'}; the lesion's box, also in boxes.csv: {corners}"
        return Generated(self.out, int(made), int(not made), said, who={image: row.subject})

    def _check_for_lesions(self, generator: Generator) -> None:
        """Refuse what makes no sense for a generator that puts lesions into films."""
        from ganatomy.contracts import InputError
        from ganatomy.stages.lesion_patches import role_in

        method = generator.experiment.method.name
        if self.label is not None or self.labels:
            raise InputError(f"a label for {method}", expected="none: its lesions have boxes", remedy="leave it out")
        wanted = role_in(generator.experiment, "healthy"), role_in(generator.experiment, "lesion")
        if generator.route(self.source or None, self.target or None) != wanted:
            raise InputError(f"--source {self.source or '-'} --target {self.target or '-'} for {method}",
                             expected="neither: it puts lesions into films without any")  # fmt: skip
        if self.image is None and self.box is not None:
            raise InputError("--box without --image", remedy="--image FILE; films of a cohort have places of their own")
        self._check_one_source()
        if self.image is not None and self.box is None:
            raise InputError(f"{self.image} without a place for a lesion", expected="where it may lie",
                             remedy="--box X0 Y0 X1 Y1, in pixels of the image from its top left")  # fmt: skip
        if self.image is not None and self.count > 1:
            raise InputError(f"--count {self.count} of one image", expected="one lesion an image",
                             remedy="another --seed into another --out")  # fmt: skip

    def _draw(self, generator: Generator, following: Following) -> Generated:
        """Subjects from noise."""
        from ganatomy.cohorts.reading import read_cohort
        from ganatomy.contracts import InputError
        from ganatomy.generation.drawn import generate_drawn, pool_of_cohort, pool_of_files

        if self.count < 1 or self.seed < 0:
            raise InputError(f"--count {self.count} --seed {self.seed}", expected="a count >= 1 and a seed >= 0")
        if (self.cohort is None) == (not self.labels) or self.image is not None:
            raise InputError(
                "--count without one source of labels", expected="one of them", remedy="--cohort DIR, or --labels FILES"
            )
        generator = _to_gpu(generator)
        cohort = read_cohort(self.cohort) if self.cohort is not None else None
        if cohort is None:
            pool = pool_of_files(generator, self.labels, self._names())
        else:
            pool = pool_of_cohort(generator, cohort, self.split or ("train",))
        _warn(generator)
        with following("drawing") as follow:
            results = generate_drawn(
                generator, pool, self.out, self.count, seed=self.seed, overwrite=self.overwrite, source=cohort,
                keep_names=self.keep_names, progress=follow,
            )  # fmt: skip
        made = sum(result.status == "made" for result in results)
        short = f", {self.count - len(results)} failed the generator's own checks" if len(results) < self.count else ""
        return Generated(
            self.out,
            made,
            len(results) - made,
            f"{self.out}: {made} made, {len(results) - made} kept{short}",
            short=max(0, self.count - len(results)),
            who={row.image: row.subject for row in pool.rows} if cohort is None else {},
        )

    def _names(self) -> Pseudonyms:
        """Of files, which have no cohort whose key they could be under."""
        from ganatomy.cohorts.pseudonyms import pseudonyms_of
        from ganatomy.contracts import InputError

        if self.key_of is None:
            self.workspace.mkdir(parents=True, exist_ok=True)
            return pseudonyms_of(self.workspace)
        if not (self.key_of / "cohort.yaml").is_file():
            raise InputError(f"--key-of {self.key_of} is not a cohort", expected="a folder with cohort.yaml")
        return pseudonyms_of(self.key_of)

    def _taught(self, generator: Generator, names: Pseudonyms) -> Pseudonyms | None:
        """The key of the cohort that taught the generator: one of those at hand, or of this workspace's sweeps."""
        from ganatomy.cohorts.pseudonyms import KEY, pseudonyms_of
        from ganatomy.evidence.results import read_plan, sweeps
        from ganatomy.generation.lesions import who_trained

        plans = (read_plan(self.workspace / "sweeps" / name) for name in sweeps(self.workspace))
        folders = [self.key_of, *(Path(plan.cohort) for plan in plans)]
        keys = [pseudonyms_of(folder) for folder in folders if folder is not None and (folder / KEY).is_file()]
        found = who_trained(generator, names, *keys)
        if found is None:
            print("warning: the generator's patients have pseudonyms under another key: nobody can tell whether these "
                  "trained it; say --key-of the cohort that did", file=sys.stderr)  # fmt: skip
        return found

    def _source(self) -> Cohort | Path:
        from ganatomy.cohorts.reading import read_cohort

        return read_cohort(self.cohort) if self.cohort is not None else Path(self.image or "")

    def _results(self, bundle: Path, jobs: Sequence[Job], follow: Callable[[int, int], None]) -> list[Result]:
        import torch

        from ganatomy.generation.translated import run_job

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.workers == 1 or (len(jobs) == 1 and not self.address):
            made: Iterator[Result] = (run_job(bundle, job, device=device) for job in jobs)
        else:
            made = _on_ray(bundle, jobs, self.workers, self.address)
        results = []
        for result in made:
            results.append(result)
            follow(len(results), len(jobs))
        return results


def _warn(generator: Generator, target: str | None = None) -> None:
    from ganatomy.core.names import on_one_line

    if caution := generator.caution(target):  # which quotes the bundle
        print(f"warning: {on_one_line(caution)}", file=sys.stderr)


def _to_gpu(generator: Generator) -> Generator:
    """The generator where this process is to use it: on a GPU if there is one."""
    import torch

    from ganatomy.generators.generator import load_generator

    return load_generator(generator.directory, "cuda") if torch.cuda.is_available() else generator


def _on_ray(bundle: Path, jobs: Sequence[Job], workers: int, address: str) -> Iterator[Result]:
    """Results as they come, at most ``workers`` jobs at a time; each takes a GPU where there is any, else a CPU."""
    import ray

    from ganatomy.cluster.joining import connected, leave_ray, start_ray, variables
    from ganatomy.generation.translated import run_job

    here = connected()
    if not here or address not in ("", here):
        start_ray(address)
    try:
        gpus = ray.cluster_resources().get("GPU", 0)
        told = {"env_vars": variables()}  # whoever started Ray may not have
        remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, runtime_env=told)(run_job)
        free = workers or int(gpus or ray.cluster_resources().get("CPU", 1))
        waiting = list(reversed(jobs))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < free:
                running.append(remote.remote(str(bundle), waiting.pop(), device="cuda" if gpus else "cpu"))
            [ready], running = ray.wait(running)
            yield ray.get(ready)
    finally:
        leave_ray()
