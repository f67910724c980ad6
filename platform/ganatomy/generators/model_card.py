"""The card of a generator: what it is for, what it was trained on, what was shown, and what it must not be used for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ganatomy.downstream.task import task_named


def model_card(
    config: Mapping[str, Any], fingerprint: Mapping[str, Any], report: Mapping[str, Any], digest: str
) -> str:
    """Markdown from a bundle's own files and its digest; every statement in it can be traced to one of them."""
    sections = {
        "Intended use": _use(config),
        "Data": _data(config, fingerprint),
        "Evidence": _evidence(report),
        "Limits": _limits(config),
        "Provenance": _provenance(config, fingerprint, digest),
        "Licence": _licence(config),
    }
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return f"# Generator: {_routes(config)}\n\n**Synthetic images for research. Not for diagnosis.**\n\n{body}\n"


def _domain(config: Mapping[str, Any], role: str) -> str:
    return str(config["experiment"]["domains"][role])


def _routes(config: Mapping[str, Any]) -> str:
    pairs = [(source, made) for source, all_made in config["routes"].items() for made in all_made]
    return ", ".join(f"{_domain(config, source)} to {_domain(config, made)}" for source, made in pairs)


def _use(config: Mapping[str, Any]) -> Iterator[str]:
    experiment = config["experiment"]
    target = _domain(config, experiment["target"])
    way = config.get("way", "translates")
    labels = ", ".join(config["labels"].values()) or "none"
    yield from _WAYS[way].format(routes=_routes(config), labels=labels).split("\n")
    network, task = experiment["downstream"]["network"]["name"], experiment["downstream"]["task"]
    yield f"The images are meant as additional training data for a {network} {task_named(task).model}"
    yield f"that works on {target}. They show no real patient's {target} and are not for diagnosis, treatment planning"
    yield "or any decision about a person."
    yield ""
    yield f"    ganatomy generate models:/NAME@champion {_ASKED[way]} --out FOLDER"


_WAYS = {
    "translates": "Makes images from real images ({routes}), each with the label that it shows: that of its source\n"
    "where anatomy is kept (classes: {labels}), else the method's own.",
    "draws": "Draws registered images of all its domains from noise and variations of real labels\n"
    "(classes: {labels}); it also translates real images ({routes}).",
    "pastes": "Puts lesions into films that show none: a patch is translated ({routes}) and blended back. Each film\n"
    "differs from its source in one window, and comes with the box of its lesion.",
}
"""What a generator does, by the ``way`` in its settings."""

_ASKED = {
    "translates": "--cohort COHORT",
    "draws": "--count 100 --cohort COHORT",
    "pastes": "--cohort FILMS   # or --image FILM --box X0 Y0 X1 Y1",
}


def _data(config: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> Iterator[str]:
    cohort, splits = fingerprint["cohort"], Counter(fingerprint["patients"].values())
    patients = ", ".join(f"{count} of split {split or 'undeclared'}" for split, count in sorted(splits.items()))
    yield f"Trained on cohort `{cohort['name']}` (content {cohort['digest']}); patients: {patients}."
    if (judged := config["experiment"]["cohort"]) != cohort["name"]:
        yield f"Borrowed from it: images are prepared, and its use was judged, as and on cohort `{judged}`."
    yield ""
    for name, values in config["domains"].items():
        rule = values["intensity"]
        images = fingerprint["images"].get(name, 0)
        yield (
            f"- `{name}` ({values['modality']}): {images} images; intensity rule {rule['rule']}"
            f" {rule['low']:g} to {rule['high']:g}"
        )
    grid, sampling = config["grid"], config["experiment"]["sampling"]
    spacing = " x ".join(f"{side:g}" for side in grid["spacing"]) + " mm" if grid["spacing"] else "as scanned"
    size = " x ".join(map(str, sampling["size"]))
    yield f"- orientation {grid['orientation']}, spacing {spacing}; seen by the networks in {sampling['ndim']}D, {size}"


def _evidence(report: Mapping[str, Any]) -> Iterator[str]:
    verdict = report.get("verdict")
    if not verdict:
        yield "No verdict is recorded: nothing has been shown about the benefit of these images."
    else:
        yield from _verdict(verdict)
    if trained := report.get("trainings"):
        yield ""
        yield from _trainings(trained)
    if table := report.get("table"):
        yield ""
        yield from _table(table)


def _verdict(verdict: Mapping[str, Any]) -> Iterator[str]:
    yield f"**{verdict.get('sentence') or ('Promoted.' if verdict.get('promoted') else 'Not promoted.')}**"
    yield ""
    for gate in verdict.get("gates", ()):
        yield f"- {gate['name']}: {'passed' if gate['passed'] else 'not passed'}. {gate.get('sentence', '')}".rstrip()


def _trainings(trained: Mapping[str, Any]) -> Iterator[str]:
    registered = str(trained["registered_seed"])
    shown = [f"{score:.3f} (seed {seed}{', this one' if seed == registered else ''})"
             for seed, score in trained["by_seed"].items()]  # fmt: skip
    yield f"This generator is of the training in the middle of {len(shown)} of the same configuration, by the"
    yield f"{trained['score']} of the downstream models trained with their images: {', '.join(shown)}."


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    columns = list(rows[0])
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _limits(config: Mapping[str, Any]) -> Iterator[str]:
    yield "- It can invent, move or remove structures, above all pathology that it rarely saw in training."
    yield "- The evidence holds for the cohort above; other scanners, protocols, ages and diseases were not looked at."
    yield "- Made images belong to their source's patient and split: never train on what was made from a test patient."
    if any(values["intensity"]["rule"] != "window" for values in config["domains"].values()):
        yield "- Intensities of domains without a fixed window are mapped to the typical range of the training images;"
        yield "  they are not quantitative."


def _provenance(config: Mapping[str, Any], fingerprint: Mapping[str, Any], digest: str) -> Iterator[str]:
    experiment = config["experiment"]
    yield f"- generator `{digest}`, ganatomy {fingerprint['ganatomy']}"
    yield (
        f"- method `{experiment['method']['name']}`, arm `{experiment['arm']}`, seed {experiment['seed']},"
        f" {experiment['budget']['generator_steps']} generator steps"
    )
    for kind, key in sorted(fingerprint["stages"].items()):
        yield f"- stage {kind}: `{key}`"


def _licence(config: Mapping[str, Any]) -> Iterator[str]:
    licence = config["licence"] or "not declared; ask whoever holds the images before sharing anything made from them"
    yield f"The training images' licence: {licence}. It may bind the weights and what they make."
