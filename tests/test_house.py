"""The arrows and habits of the house, kept by tests so that nobody has to remember them."""

from __future__ import annotations

import ast
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

HOUSE = Path(__file__).resolve().parent.parent
ROOTS = {
    "platform": "ganatomy",
    "methods": "ganatomy_methods",
    "search_spaces": "ganatomy_search_spaces",
}
MODULES = [path for root in ROOTS for path in sorted((HOUSE / root).rglob("*.py"))]
WRITTEN = {".py", ".md", ".toml", ".yaml", ".yml", ".lock", ".json", ".sh", ""}
TEXTS = [
    path
    for place in (*ROOTS, "tests", "docs", "benchmarks", "clusters", ".ci", ".")
    for path in sorted((HOUSE / place).glob("*" if place == "." else "**/*"))
    if path.is_file() and path.suffix in WRITTEN
]


def name_of(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


# --- arrows ------------------------------------------------------------------------------------------------------


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    """What `make imports` says of the three source roots below ``house``."""
    program = (
        f"import sys; sys.path[:0] = {[str(house / root) for root in ROOTS]}; "
        "from importlinter.cli import lint_imports_command as run; run()"
    )
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, capture_output=True, text=True, cwd=house)


def test_the_arrows_hold():
    done = lint_imports(HOUSE)
    assert done.returncode == 0, done.stdout + done.stderr


PURE, ALONE = "A method is pure PyTorch", "A method knows no other method"
BREACHES = [
    ("platform/ganatomy/contracts/errors.py", "import ganatomy.training.loop", "The arrows of the platform"),
    ("platform/ganatomy/attic.py", "pass", "The arrows of the platform"),
    ("platform/ganatomy/core/names.py", "import ganatomy", "The arrows of the platform"),
    ("platform/ganatomy/promotion/gate.py", "import ganatomy.api.sweeping", "The arrows of the platform"),
    ("platform/ganatomy/core/names.py", "import ganatomy.core.terminal", "No circle in any package"),
    ("platform/ganatomy/phantoms/bones.py", "import ganatomy.phantoms.hearts", "A phantom knows no other"),
    ("platform/ganatomy/training/loop.py", "import ganatomy_methods.cyclegan", "The platform knows no method by name"),
    ("platform/ganatomy/training/loop.py", "import mlflow", "MLflow stays with tracking"),
    ("platform/ganatomy/measures/segmentation.py", "import pyarrow", "Arrow in the rooms of the store"),
    ("platform/ganatomy/training/loop.py", "from ray import train", "Ray where work is spread"),
    ("methods/ganatomy_methods/cyclegan.py", "import ray", PURE),
    ("methods/ganatomy_methods/cyclegan.py", "import mlflow", PURE),
    ("methods/ganatomy_methods/cyclegan.py", "from optuna import trial", PURE),
    ("methods/ganatomy_methods/cyclegan.py", "from ganatomy.stores import store", PURE),
    ("methods/ganatomy_methods/common/losses.py", "import nibabel", PURE),
    ("methods/ganatomy_methods/cyclegan.py", "import ganatomy_methods.shape_consistent", ALONE),
    ("methods/ganatomy_methods/common/losses.py", "import ganatomy_methods.cyclegan", ALONE),
    ("methods/ganatomy_methods/unit_lesion/lesions.py", "import ganatomy_methods.cyclegan", ALONE),
]


@pytest.mark.parametrize(("file", "line", "rule"), BREACHES)
def test_a_breach_is_noticed(tmp_path, file, line, rule):
    """Each arrow is really guarded: its rule fails on a copy of the house that breaks it, inside a function even."""
    for root in ROOTS:
        shutil.copytree(HOUSE / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOUSE / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write(f"\n\ndef breach() -> None:\n    {line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{rule} BROKEN" in done.stdout


def test_the_sweep_starts_only_what_its_command_offers():
    """sweep.py is copied alone to a cluster's head: it knows ganatomy.commands.sweep and the standard library."""
    outside = {
        module for module in imports_of(HOUSE / "sweep.py") if module.split(".")[0] not in sys.stdlib_module_names
    }
    assert outside
    assert {".".join(module.split(".")[:3]) for module in outside} == {"ganatomy.commands.sweep"}


# --- the folder called platform ----------------------------------------------------------------------------------


def test_nothing_stands_directly_in_a_source_root():
    """A module there would be importable under a name of its own; in platform/ it would shadow the standard library."""
    for root, package in ROOTS.items():
        assert [path.name for path in (HOUSE / root).glob("*.py")] == []
        assert (HOUSE / root / package / "__init__.py").is_file()
        assert (HOUSE / root / package / "py.typed").is_file()


def test_platform_is_the_standard_librarys():
    assert Path(platform.__file__).parent == Path(sysconfig.get_path("stdlib"))
    program = "import platform; print(platform.__file__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=HOUSE)
    assert Path(done.stdout.strip()).parent == Path(sysconfig.get_path("stdlib"))


# --- habits ------------------------------------------------------------------------------------------------------


def test_no_file_knows_the_machine_it_was_written_on():
    absolute = re.compile(r"(?<![\w.~/$}:-])/(?:home/(?!somebody/)|(?:Users|root|work|mnt|scratch)/)\w")
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if absolute.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_is_named_for_what_is_in_it(path):
    assert path.stem not in {"utils", "util", "helpers", "helper", "misc", "common_utils", "manager", "managers"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (HOUSE / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_of_a_page_exists(page):
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (HOUSE / page).read_text(), re.MULTILINE))
    assert named
    assert named <= make_targets()


def test_the_readme_sets_up_with_two_commands():
    readme = (HOUSE / "README.md").read_text()
    assert re.search(r"^make demo\b", readme, re.MULTILINE)
    assert re.search(r"^make test\b", readme, re.MULTILINE)


def test_every_ganatomy_command_of_the_pages_is_understood():
    """Each `ganatomy WORD` that a reader is told to type is a command that answers --help."""
    from ganatomy.cli import main

    pages = [HOUSE / "README.md", HOUSE / "CONTRIBUTING.md", *sorted((HOUSE / "docs").glob("*.md"))]
    lines = re.findall(r"^(?:\$ )?ganatomy ((?:cohort )?[a-z]+)", "\n".join(p.read_text() for p in pages), re.MULTILINE)
    assert lines
    for words in sorted(set(lines)):
        assert main([*words.split(), "--help"]) == 0, words


def test_every_file_that_a_page_leads_to_is_there():
    pages = [HOUSE / "README.md", HOUSE / "CONTRIBUTING.md", *sorted((HOUSE / "docs").glob("*.md"))]
    named = [
        (page, page.parent / link) for page in pages for link in re.findall(r"\]\(([^)#:\s]+)[)#]", page.read_text())
    ]
    named += [
        (page, HOUSE / path)
        for page in pages
        for path in re.findall(r"`((?:tests|platform|methods|benchmarks|clusters)/[\w./-]+\.\w+)", page.read_text())
    ]
    assert len(named) > 50
    assert not [f"{page.name}: {path}" for page, path in named if not path.exists()]


def parts_of(page: Path) -> set[str]:
    """What a link can name of a page: its headings, small, without punctuation, spaces as dashes."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)  # comments of commands are none
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_part_of_a_page_that_a_link_names_is_there():
    pages = [HOUSE / "README.md", HOUSE / "CONTRIBUTING.md", *sorted((HOUSE / "docs").glob("*.md"))]
    named = [
        (page, page.parent / file if file else page, part)
        for page in pages
        for file, part in re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", page.read_text())
    ]
    assert len(named) > 10
    assert not [f"{page.name}: {file.name}#{part}" for page, file, part in named if part not in parts_of(file)]


def test_the_words_of_a_sweep_are_in_the_glossary_and_the_readme_leads_there():
    assert "(docs/glossary.md)" in (HOUSE / "README.md").read_text()
    defined = re.findall(r"^\| ([^|]+) \|", (HOUSE / "docs" / "glossary.md").read_text(), re.MULTILINE)
    words = {word.strip() for cell in defined for word in cell.split(",")}
    for word in ("arm", "downstream model", "stage", "store", "S-score", "missed", "device seconds", "reading",
                 "mixing", "filter", "trial", "sweep", "gate", "champion", "training", "family", "level",
                 "configuration", "baseline", "undecided", "smallest detectable effect", "confirmation", "reading *n*",
                 "healthiness", "identity", "Pareto set", "fidelity"):  # fmt: skip
        assert word in words


def test_the_package_says_whose_it_is_and_how_to_cite_it():
    """The fields that the format of CITATION.cff asks for, the five papers, and no two versions or licences."""
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((HOUSE / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["type"] == "software"
    assert cited["authors"][0]["name"]
    papers = cited["references"]
    assert {paper["authors"][0]["family-names"] for paper in papers} == {"Cai", "Zhang", "Gupta", "Xia", "Qu"}
    assert all({"type", "title", "authors", "year"} <= paper.keys() for paper in papers)
    assert "END OF TERMS AND CONDITIONS" in (HOUSE / "LICENSE").read_text()
    assert re.search(r"^## \[(Unreleased|\d+\.\d+\.\d+)\]", (HOUSE / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_paper_is_cited_in_full_in_the_page_of_its_method():
    pages = {"Cai": "shape_consistent", "Zhang": "shape_consistent", "Gupta": "unit_lesion", "Xia": "pseudo_healthy",
             "Qu": "multimodal_mr"}  # fmt: skip
    for paper in yaml.safe_load((HOUSE / "CITATION.cff").read_text())["references"]:
        names = [author["family-names"] for author in paper["authors"]]
        page = (HOUSE / "docs" / f"{pages[names[0]]}.md").read_text().partition("\n## ")[0]
        text = " ".join(page.split())
        known = [paper["doi"]] if "doi" in paper else [one["value"] for one in paper.get("identifiers", [])]
        assert all(f". {name}" in text for name in names)
        assert all(word in text for word in (paper["title"], str(paper["year"]), *known))


def locked() -> dict[str, list[str]]:
    """Each pin of the lock -> the hashes of its files."""
    text = (HOUSE / "requirements.lock").read_text().replace(" \\\n", "")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", pin) for pin, *_ in lines)
    return {pin: hashes for pin, *hashes in lines}


def test_every_file_of_the_lock_is_known_by_its_hash_but_torchs():
    """torch's differ from index to index; what builds the package is locked too, as it is built without isolation."""
    for pin, hashes in locked().items():
        assert bool(hashes) != pin.startswith("torch==")
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", text) for text in hashes)
    built_by = tomllib.loads((HOUSE / "pyproject.toml").read_text())["build-system"]["requires"]
    names = {pin.partition("==")[0] for pin in locked()}
    assert {*built_by, "setuptools"} <= names
    installs = re.findall(r"\$\(PIP\) install (.*)", (HOUSE / "Makefile").read_text())
    assert ["--require-hashes" in line for line in installs] == [True, False, False]
    assert all("--no-deps" in line for line in (installs[0], installs[2]))
    assert "torch==" in installs[1]


def test_the_lock_pins_everything_exactly_and_agrees_with_the_ranges():
    from packaging.requirements import Requirement

    pinned = {Requirement(pin).name.lower().replace("_", "-"): pin.partition("==")[2] for pin in locked()}
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["dev"], *extras["server"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), text


def test_every_entry_point_leads_somewhere():
    from ganatomy.core.plugins import available, resolve

    for group in ("methods", "networks", "spaces", "tasks"):
        named = available(group)
        assert named
        for name in named:
            assert resolve(group, name) is not None
