"""The generators a laboratory has promoted: versions under a name, the alias ``champion``, and the way back.

MLflow's model registry holds them; which version is the champion, and what was it before, is decided here.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganatomy.contracts import InputError
from ganatomy.core.names import checked_name, copy_plain, plain_files, shortened
from ganatomy.core.plain_files import read_json
from ganatomy.core.plugins import nearest
from ganatomy.core.terminal import warn
from ganatomy.stores.staging import file_hash
from ganatomy.tracking.client import says
from ganatomy.tracking.models import create_version, fetch_model, log_model, withdraw_version
from ganatomy.tracking.runs import Tracking

CONTENT, DIGEST = "content", "digest"
"""Tags of every version: hash of all files of its bundle; the generator's own digest, which hashes its fingerprint."""

FINGERPRINT = "fingerprint.json"

CHAMPION, PREVIOUS = "champion", "previous"

VERDICT, PROMOTED, FORCED = "verdict", "promoted", "forced"
"""Tag of a version that the gates let through, or that somebody put past them; MLflow's own buttons set none."""

DESCRIBED = 4900
"""Characters of a version's description: some databases hold no more than 5000."""


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
        The same folder is registered once: again, after an interruption, this finds its version and goes on from there;
        of several processes at once the first makes it, and the others take theirs back and return the first one's.
        Raises InputError when the name cannot be one, or the folder is no generator's.
        """
        check_name(name)
        content = _content(bundle)
        found = self._same(name, content)
        number = found[0] if found else self._register(bundle, name, run_id, content, tags or {}, code)
        if promote:
            self.promote(name, number)
        return number

    def describe(self, name: str, number: int, text: str) -> None:
        """What MLflow shows of a version, in Markdown; of a long one the beginning."""
        kept = text if len(text) <= DESCRIBED else f"{text[:DESCRIBED]} …"
        self._ask(lambda: self._client.update_model_version(name, str(number), kept))

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
        check_name(name)
        found = self._known(name)
        if not found:
            known = [model.name for model in self._ask(self._client.search_registered_models)]
            raise InputError(f"no registered model {name!r}", expected=nearest(name, filter(str.isprintable, known)))
        return found

    def with_tags(self, name: str, tags: Mapping[str, str]) -> Version | None:
        """The newest version of ``name`` that carries these tags, if there is one."""
        check_name(name)
        carries = (version for version in reversed(self._known(name)) if tags.items() <= version.tags.items())
        return next(carries, None)

    def find(self, reference: str) -> Version:
        """The version that ``models:/NAME@ALIAS``, ``models:/NAME/NUMBER`` or ``models:/NAME`` (its champion) means.

        Raises InputError naming the nearest model, alias or version when there is none.
        """
        name, number, alias = parsed(reference)
        versions, wanted = self.versions(name), number or alias
        by_name = {str(version.number): version for version in versions} if number else {}
        by_alias = {} if number else {key: version for version in versions for key in version.aliases}
        if version := (by_name | by_alias).get(wanted):
            return version
        kind, remedy = (
            ("version", "") if number else ("alias", "promote a sweep, or name a version: models:/NAME/VERSION")
        )
        raise InputError(f"model {name!r} has no {kind} {wanted!r}", expected=nearest(wanted, by_name | by_alias),
                         remedy=remedy)  # fmt: skip

    def download(self, reference: str) -> Path:
        """The folder of the generator that ``reference`` means (see ``find``), fetched once into the workspace.

        Its files are compared with what was registered every time, and only copies that were made here are ever moved.
        Raises InputError where the version does not say what was registered, or what is there, here or at the tracking
        server, is something else.
        """
        version = self.find(reference)
        content, digest = _marks(version)
        # What goes into the name of a folder has been checked: the model's name by ``find``, the rest by ``_marks``.
        folder = self._tracking.workspace / "generators" / f"{version.name}-{version.number}-{content[:8]}"
        if not os.path.lexists(folder):
            self._fetch(version, content, folder)
        if folder.is_symlink() or not folder.is_dir() or _content(folder) != content:
            raise InputError(f"{folder} is not what was registered as {version.uri}", expected="it as it was fetched",
                             remedy="remove that folder, and it is fetched again")  # fmt: skip
        if file_hash(folder / FINGERPRINT) != digest:
            raise InputError(f"{version.uri} is not the generator that was promoted: its tag {DIGEST} is another's",
                             expected=digest, remedy="roll back, or promote again")  # fmt: skip
        return folder

    def _fetch(self, version: Version, content: str, folder: Path) -> None:
        """Download, copy what is a generator's, compare, and only then let the copy appear as ``folder``."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            there, own = Path(scratch) / "fetched", Path(scratch) / "own"
            there.mkdir()
            bundle = fetch_model(self._tracking, version.name, version.number, there)
            if _content(copy_plain(bundle, own, version.uri)) != content:
                raise InputError(f"{version.uri} is damaged: its files are not those that were registered",
                                 remedy="roll back, or promote again")  # fmt: skip
            try:
                own.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process fetched the same meanwhile
                    raise

    def _register(
        self, bundle: Path, name: str, run_id: str, content: str, tags: Mapping[str, Any], code: Path | None
    ) -> int:
        marks = {key: str(value) for key, value in tags.items()} | {CONTENT: content, DIGEST: _digest(bundle)}
        code = code or Path(__file__).with_name("pyfunc_model.py")
        model = log_model(self._tracking, bundle, code, _ndim(bundle), run_id, marks)
        try:
            self._ask(lambda: self._client.create_registered_model(name))
        except Exception as error:
            if not says(error, "RESOURCE_ALREADY_EXISTS"):
                raise
        number = create_version(self._tracking, name, model, run_id, marks)
        # MLflow keeps no name for a content: whoever registered it at the same moment has a version too. The lowest
        # number was there before any other was given out, so that all agree on it, and nobody waits for anybody.
        first = min([number, *self._same(name, content)])
        if first != number:
            withdraw_version(self._tracking, name, number, model)
        return first

    def _same(self, name: str, content: str) -> list[int]:
        """Numbers of the versions that hold these files, lowest first."""
        return [version.number for version in self._known(name) if version.tags.get(CONTENT) == content]

    def _known(self, name: str) -> list[Version]:
        found = self._ask(lambda: self._client.search_model_versions(f"name='{name}'"))
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


def bundle_of(model: str, workspace: Path, tracking_uri: str = "") -> Path:
    """The folder of a generator: ``model`` itself where it is one, else what ``models:/…`` means, fetched into the
    workspace (see ``Registry.download``). Raises InputError."""
    if not model.startswith("models:/") and Path(model).is_dir():
        return Path(model).absolute()
    parsed(model)  # before a store is opened, or made
    registry = Registry(Tracking(tracking_uri or None, workspace.absolute(), experiment=""))
    bundle = registry.download(model)
    if why := unjudged(registry.find(model)):
        warn(f"warning: {why}")
    return bundle


def unjudged(version: Version) -> str:
    """Why a version should not be what an alias of it says: in MLflow's UI anybody can give it one. "" for one that
    was promoted, by the gates or by force."""
    if VERDICT in version.tags or not version.aliases:
        return ""
    return f"{version.uri} is called {version.aliases[0]}, and no gate has judged it: that was not `ganatomy promote`"


def parsed(reference: str) -> tuple[str, str, str]:
    """(name, number, alias) of ``models:/NAME/NUMBER`` or ``models:/NAME@ALIAS``; the champion where neither is told.

    Raises InputError for anything else, and where no model can be called so; asks nobody.
    """
    if not reference.startswith("models:/"):
        raise InputError(f"model {shortened(reference)}", expected=f"models:/NAME@{CHAMPION} or models:/NAME/VERSION")
    name, _, alias = reference.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    check_name(name)
    return name, number, alias or CHAMPION


def check_name(name: str) -> None:
    """Raise InputError where no registered model can be called ``name``."""
    checked_name(name, "model name")


def _marks(version: Version) -> tuple[str, str]:
    """(content, digest) that a version was registered with: without them nobody can tell whether it is still the same.

    Raises InputError where one is missing or is no hash.
    """
    found = [version.tags.get(tag, "") for tag in (CONTENT, DIGEST)]
    for tag, value in zip((CONTENT, DIGEST), found, strict=True):
        if not re.fullmatch("[0-9a-f]{32}", value):
            raise InputError(f"{version.uri} does not say what was registered: its tag {tag} is {shortened(value)}",
                             expected="32 hexadecimal digits", remedy="promote its sweep again")  # fmt: skip
    return found[0], found[1]


def _content(bundle: Path) -> str:
    """Content hash of the files of a folder (names and bytes). InputError for links among them."""
    total = hashlib.blake2b(digest_size=16)
    for path in plain_files(bundle, f"generator {bundle}"):
        total.update(f"{path.relative_to(bundle).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _digest(bundle: Path) -> str:
    """What a loaded generator calls its digest. InputError where the folder has no fingerprint."""
    try:
        return file_hash(bundle / FINGERPRINT)
    except OSError as error:
        raise InputError(f"{bundle} is not a generator: {FINGERPRINT} cannot be read ({error.strerror})") from error


def _ndim(bundle: Path) -> int:
    """2 or 3: the dimension that the generator in ``bundle`` works in."""
    config = bundle / "config.json"
    try:
        return int(read_json(config)["experiment"]["sampling"]["ndim"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{bundle} is not a generator: {config.name} cannot be read ({error})") from error
