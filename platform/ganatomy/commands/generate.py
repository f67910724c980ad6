"""``ganatomy generate``: synthetic images of a cohort or a file, here or spread over Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ganatomy.commands.console import DONE, UNDONE, Command, progress

if TYPE_CHECKING:
    from ganatomy.cohorts.cohort import Cohort
    from ganatomy.cohorts.pseudonyms import Pseudonyms
    from ganatomy.generation.jobs import Job
    from ganatomy.generation.translated import Result
    from ganatomy.generators.generator import Generator


@dataclass(frozen=True, kw_only=True)
class Generate(Command):
    """Make synthetic NIfTI of real images, on their own grid, with labels, maps and a provenance sidecar each.

    $ ganatomy generate models:/ct-mr@champion --cohort my-cohort --out synthetic
    $ ganatomy generate models:/ct-mr@champion --image scan.nii.gz --label seg.nii.gz --out synthetic
    $ ganatomy generate models:/mr-from-noise@champion --count 200 --cohort my-cohort --out synthetic

    A method that puts lesions into films without any; their boxes come with them, as a table and as COCO JSON. In a
    cohort they go where lesions of its own lie, in a single film where --box says:
    $ ganatomy generate models:/lesions@champion --cohort my-films --count 50 --out with-boxes
    $ ganatomy generate models:/lesions@champion --image film.png --box 400 310 520 430 --out with-a-lesion

    A method that works with states of one domain, such as slices with and without a lesion, the other way round:
    $ ganatomy generate models:/healthy@champion --cohort my-cohort --source healthy --out with-lesions

    The result is itself a cohort, which names patients by pseudonym; `ganatomy cohort who` undoes that for whoever has
    the cohort. The same command goes on where it was interrupted; files of others are left alone.
    """

    model: Positional[str]
    """models:/NAME@champion, models:/NAME/VERSION, or the folder of a generator."""
    out: Path
    """Folder of the synthetic cohort."""
    cohort: Path | None = None
    """Folder of the cohort whose images are translated."""
    image: Path | None = None
    """One image instead of a cohort."""
    label: Path | None = None
    """Label of --image: carried over, or what is to be drawn into the image."""
    box: Annotated[tuple[float, float, float, float] | None, arg(metavar="X0 Y0 X1 Y1")] = None
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
    of --cohort (of training patients, unless --split says otherwise) or of --labels: in this process, without Ray."""
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

    def run(self) -> int:
        """Make what the generator is for: films with a lesion, subjects drawn from noise, or translated images."""
        from ganatomy.cohorts.claims import alone_in
        from ganatomy.contracts import InputError
        from ganatomy.core.plugins import allow
        from ganatomy.core.terminal import detail
        from ganatomy.generators.generator import load_generator

        allow(*self.allow_dotted)
        if self.keep_names and self.cohort is None:
            raise InputError("--keep-names without --cohort", expected="a cohort whose table names the patients",
                             remedy="leave it out: who is who is said on this screen")  # fmt: skip
        if not (self.count or self.labels):
            self._check_one_source()  # before anything is fetched
        generator = load_generator(self._bundle())
        detail(f"generator: {generator.directory}, by {generator.experiment.method.name}")
        with alone_in(self.out):
            return self._made(generator)

    def _made(self, generator: Generator) -> int:
        from ganatomy.contracts import InputError

        if generator.method.on_patches:
            self._check_for_lesions(generator)
            return self._paste(_to_gpu(generator)) if self.image is None else self._paste_one(_to_gpu(generator))
        if self.box is not None:
            raise InputError(f"--box for a generator by {generator.experiment.method.name}",
                             expected="one that puts lesions into films", remedy="leave --box out")  # fmt: skip
        return self._draw(generator) if self.count or self.labels else self._translate(generator)

    def _check_one_source(self) -> None:
        from ganatomy.contracts import InputError

        if (self.cohort is None) == (self.image is None):
            given = "both --cohort and --image" if self.cohort else "neither --cohort nor --image"
            raise InputError(given, expected="one of them", remedy="--cohort DIR, or --image FILE")

    def _translate(self, generator: Generator) -> int:
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
        with progress("generating") as follow:
            results = self._results(generator.directory, jobs, follow)
        failed = [result for result in results if result.status == "failed"]
        for result in failed:
            print(f"error: {result.error}", file=sys.stderr)
        for result in results:
            if result.row is not None:
                detail(f"{result.status} {result.row.image}")
        cohort = None if isinstance(source, Path) else source
        made = finish_generation(generator, results, self.out, cohort, self.keep_names)
        if isinstance(source, Path):
            _say_who({source: jobs[0].row.subject})
        count = {status: sum(result.status == status for result in results) for status in ("made", "kept", "failed")}
        print(f"{made.path}: " + ", ".join(f"{number} {status}" for status, number in count.items()))
        return UNDONE if failed else DONE

    def _paste(self, generator: Generator) -> int:
        """Lesions into films that show none."""
        from ganatomy.cohorts.pseudonyms import pseudonyms_of
        from ganatomy.cohorts.reading import read_cohort
        from ganatomy.generation.lesions import generate_lesions

        cohort = read_cohort(self.cohort or "")
        _warn(generator)
        taught = self._taught(generator, pseudonyms_of(cohort.path))
        with progress("generating") as follow:
            done = generate_lesions(
                generator, cohort, self.out, splits=self.split or None, count=self.count, seed=self.seed,
                overwrite=self.overwrite, keep_names=self.keep_names, taught=taught, progress=follow,
            )  # fmt: skip
        print(f"{self.out}: {done['made']} films with a lesion made, {done['kept']} kept; their boxes are in boxes.csv")
        return DONE

    def _paste_one(self, generator: Generator) -> int:
        """A lesion into one film, where --box says."""
        from ganatomy.generation.lesions import generate_lesion

        image, names = self.image or Path(), self._names()
        _warn(generator)
        taught = self._taught(generator, names)
        row, made = generate_lesion(
            generator, image, self.box or (), self.out, names, patient=self.patient, seed=self.seed,
            overwrite=self.overwrite, taught=taught,
        )  # fmt: skip
        _say_who({image: row.subject})
        corners = " ".join(f"{value:g}" for value in row.box or ())
        print(f"{row.image}: {'made' if made else 'kept'}; the lesion's box, also in boxes.csv: {corners}")
        return DONE

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

    def _draw(self, generator: Generator) -> int:
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
            _say_who({row.image: row.subject for row in pool.rows})
        else:
            pool = pool_of_cohort(generator, cohort, self.split or ("train",))
        _warn(generator)
        with progress("drawing") as follow:
            results = generate_drawn(
                generator, pool, self.out, self.count, seed=self.seed, overwrite=self.overwrite, source=cohort,
                keep_names=self.keep_names, progress=follow,
            )  # fmt: skip
        made = sum(result.status == "made" for result in results)
        short = f", {self.count - len(results)} failed the generator's own checks" if len(results) < self.count else ""
        print(f"{self.out}: {made} made, {len(results) - made} kept{short}")
        return UNDONE if short else DONE

    def _bundle(self) -> Path:
        if not self.model.startswith("models:/") and Path(self.model).is_dir():
            return Path(self.model).absolute()
        from ganatomy.generators.registry import Registry, parsed
        from ganatomy.tracking.runs import Tracking

        parsed(self.model)  # before a store is opened, or made
        return Registry(Tracking(self.tracking_uri or None, self.workspace.absolute())).download(self.model)

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


def _say_who(files: Mapping[Path, str]) -> None:
    """Which file became which pseudonym: on this screen only, which is the user's own."""
    for file, pseudonym in files.items():
        print(f"{file} is {pseudonym}")


def _to_gpu(generator: Generator) -> Generator:
    """The generator where this process is to use it: on a GPU if there is one."""
    import torch

    from ganatomy.generators.generator import load_generator

    return load_generator(generator.directory, "cuda") if torch.cuda.is_available() else generator


def _on_ray(bundle: Path, jobs: Sequence[Job], workers: int, address: str) -> Iterator[Result]:
    """Results as they come, at most ``workers`` jobs at a time; each takes a GPU where there is any, else a CPU."""
    import ray

    from ganatomy.cluster.joining import start_ray
    from ganatomy.generation.translated import run_job

    start_ray(address)
    try:
        gpus = ray.cluster_resources().get("GPU", 0)
        remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(run_job)
        free = workers or int(gpus or ray.cluster_resources().get("CPU", 1))
        waiting = list(reversed(jobs))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < free:
                running.append(remote.remote(str(bundle), waiting.pop(), device="cuda" if gpus else "cpu"))
            [ready], running = ray.wait(running)
            yield ray.get(ready)
    finally:
        ray.shutdown()
