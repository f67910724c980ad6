"""The generators a laboratory has promoted: versions under a name, the alias ``champion``, and the way back.

MLflow's model registry holds them; which version is the champion, and what was it before, is decided here.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.plain_files import read_json
from ganatomy.plugins import nearest
from ganatomy.tracking import Tracking
from ganatomy.tracking_client import says
from ganatomy.tracking_models import create_version, fetch_model, log_model

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class Version:
    """One registered generator. number: from 1.  created: ms since the epoch.  aliases: names that point at it now."""

    name: str
    number: int
    run_id: str
    created: int
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """What MLflow calls it."""
        return f"models:/{self.name}/{self.number}"


class Registry:
    """The registered generators of the store that ``tracking`` talks to."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._client = tracking.client

    def register_generator(
        self,
        bundle: Path,
        name: str,
        run_id: str,
        tags: Mapping[str, Any] | None = None,
        promote: bool = True,
        *,
        code: Path | None = None,
    ) -> int:
        """Register the folder of a generator as the next version of ``name``; returns the version.

        promote: move ``champion`` to it, and ``previous`` to the champion before. run_id: the run that made it.
        The same folder is registered once: again, after an interruption, this finds its version and goes on from there.
        Raises InputError when the name cannot be one, or the folder is no generator's.
        """
        check_name(name)
        content = _content(bundle)
        found = [version for version in self._known(name) if version.tags.get("content") == content]
        number = found[-1].number if found else self._register(bundle, name, run_id, content, tags or {}, code)
        if promote:
            self.promote(name, number)
        return number

    def promote(self, name: str, number: int) -> None:
        """Make version ``number`` the champion, and the champion before it ``previous``."""
        champion = self._aliases(name).get(CHAMPION)
        if champion == number:
            return
        if champion is not None:
            self._point(name, PREVIOUS, champion)  # first: interrupted here, the champion is still the old one
        self._point(name, CHAMPION, number)

    def rollback(self, name: str) -> int:
        """Make ``previous`` the champion again, and the champion ``previous`` (so a second rollback undoes the first).

        Returns the version that is the champion now. Raises InputError when there is nothing to go back to.
        """
        self.versions(name)
        aliases = self._aliases(name)
        champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if previous is None or previous == champion:
            raise InputError(f"model {name!r} has no previous champion", remedy="see its versions in `ganatomy ui`")
        self._point(name, CHAMPION, previous)
        if champion is not None:
            self._point(name, PREVIOUS, champion)
        return previous

    def versions(self, name: str) -> list[Version]:
        """All versions of ``name``, oldest first. Raises InputError with the nearest name when there is none."""
        found = self._known(name)
        if not found:
            known = [model.name for model in self._ask(self._client.search_registered_models)]
            raise InputError(f"no registered model {name!r}", expected=nearest(name, known))
        return found

    def find(self, reference: str) -> Version:
        """The version that ``models:/NAME@ALIAS``, ``models:/NAME/NUMBER`` or ``models:/NAME`` (its champion) means.

        Raises InputError naming the nearest model, alias or version when there is none.
        """
        if not reference.startswith("models:/"):
            raise InputError(f"model {reference!r}", expected=f"models:/NAME@{CHAMPION} or models:/NAME/VERSION")
        name, at, alias = reference.removeprefix("models:/").partition("@")
        name, slash, number = name.partition("/")
        versions = self.versions(name)
        wanted = number if slash else alias if at else CHAMPION
        by_name = {str(version.number): version for version in versions} if slash else {}
        by_alias = {} if slash else {key: version for version in versions for key in version.aliases}
        if version := (by_name | by_alias).get(wanted):
            return version
        kind, remedy = (
            ("version", "") if slash else ("alias", "promote a sweep, or name a version: models:/NAME/VERSION")
        )
        raise InputError(f"model {name!r} has no {kind} {wanted!r}", expected=nearest(wanted, by_name | by_alias),
                         remedy=remedy)  # fmt: skip

    def download(self, reference: str) -> Path:
        """The folder of the generator that ``reference`` means (see ``find``), fetched once into the workspace."""
        version = self.find(reference)
        content = version.tags.get("content", "")
        folder = self._tracking.workspace / "generators" / f"{version.name}-{version.number}-{content[:8]}"
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            bundle = fetch_model(self._tracking, version.name, version.number, Path(scratch))
            if content and _content(bundle) != content:
                raise InputError(f"{version.uri} is damaged: its files are not those that were registered",
                                 remedy="roll back, or promote again")  # fmt: skip
            try:
                bundle.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process fetched the same meanwhile
                    raise
        return folder

    def _register(
        self, bundle: Path, name: str, run_id: str, content: str, tags: Mapping[str, Any], code: Path | None
    ) -> int:
        marks = {key: str(value) for key, value in tags.items()} | {"content": content}
        code = code or Path(__file__).with_name("pyfunc_model.py")
        model = log_model(self._tracking, bundle, code, _ndim(bundle), run_id, marks)
        try:
            self._ask(lambda: self._client.create_registered_model(name))
        except Exception as error:
            if not says(error, "RESOURCE_ALREADY_EXISTS"):
                raise
        return create_version(self._tracking, name, model, run_id, marks)

    def _known(self, name: str) -> list[Version]:
        quote = '"' if "'" in name else "'"
        found = self._ask(lambda: self._client.search_model_versions(f"name={quote}{name}{quote}"))
        aliases = self._aliases(name) if found else {}
        return sorted(
            (
                Version(
                    name,
                    number := int(item.version),
                    item.run_id or "",
                    item.creation_timestamp,
                    dict(item.tags),
                    tuple(alias for alias, version in aliases.items() if version == number),
                )
                for item in found
            ),
            key=lambda version: version.number,
        )

    def _aliases(self, name: str) -> dict[str, int]:
        aliases = self._ask(lambda: self._client.get_registered_model(name)).aliases
        return {alias: int(number) for alias, number in aliases.items()}

    def _point(self, name: str, alias: str, number: int) -> None:
        self._ask(lambda: self._client.set_registered_model_alias(name, alias, str(number)))

    def _ask(self, call: Callable[[], Any]) -> Any:
        return self._tracking.ask(call)


def check_name(name: str) -> None:
    """Raise InputError where no registered model can be called ``name``."""
    if not name.strip() or set(name) & set("/:@'\"") or name.strip(".") != name:
        raise InputError(f"model name {name!r}", expected="a name without / : @ or quotes")


def _content(bundle: Path) -> str:
    """Content hash of the files of a folder (names and bytes)."""
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(bundle).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _ndim(bundle: Path) -> int:
    """2 or 3: the dimension that the generator in ``bundle`` works in."""
    config = bundle / "config.json"
    try:
        return int(read_json(config)["experiment"]["sampling"]["ndim"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{bundle} is not a generator: {config.name} cannot be read ({error})") from error
