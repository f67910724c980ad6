"""What one file carries besides what it is for: names, headers, metadata, paths, code that runs when it is read."""

from __future__ import annotations

import gzip
import io
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from PIL import Image

from ganatomy.cohorts.pseudonyms import KEY
from ganatomy.contracts import InputError
from ganatomy.images.files import RASTER, open_volume

PIECE = 1 << 22

_NOT_UNPACKED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError)
"""What gzip and zipfile raise of damaged bytes; the last of those under a password, or packed in a way unknown here."""

LEAST_NAME, LEAST_INSIDE = 4, 6
"""Letters of the shortest name that is looked for as a word of its own, and of the shortest that is looked for inside
other bytes: a shorter one would be found by chance."""

_PATHS = re.compile(
    r"""(?:^|[\s"'=(\[,;>])("""
    r"""(?:file://)?/[\w.@+~-]+(?:/[\w.@+~ -]+)+"""
    r"""|[A-Za-z]:\\\\?[\w.@+~ -]+\\[\w.@+~ \\-]+"""  # JSON writes a backslash twice
    r"""|\\\\[\w.-]+\\[\w.\\ -]+)""",
    re.MULTILINE,
)
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})(?<!\\u[dD][89a-fA-F]..)")
"""A letter as JSON and YAML may write it; halves of one are left as they are."""
_GRID = {"sizeof_hdr", "dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter", "xyzt_units",
         "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
         "srow_x", "srow_y", "srow_z", "magic", "eol_check"}  # fmt: skip
_OURS = {"descrip": b"synthetic", "regular": b"r"}
_PLAIN = {"dpi", "gamma", "srgb", "jfif", "jfif_version", "jfif_unit", "jfif_density", "compression", "transparency",
          "interlace", "aspect", "progressive", "progression", "background"}  # fmt: skip
"""What Pillow tells of an image that names nobody."""


@dataclass(frozen=True)
class Carried:
    """What is in a file. file: relative to the folder.  bytes: its size.  kind: of file, in words.  holds: what else is
    to be known of it.  findings: what should not be there, in words."""

    file: str
    bytes: int
    kind: str
    holds: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


class Names:
    """Names to look for. short: how many are too short to be told from chance."""

    def __init__(self, names: Iterable[str]) -> None:
        known = {name for name in names if name}
        self.short = sum(len(name) < LEAST_NAME for name in known)
        inside = [name for name in known if len(name) >= LEAST_INSIDE]
        words = [name for name in known if LEAST_NAME <= len(name) < LEAST_INSIDE]
        self._longest = max((4 * len(name) for name in known), default=0)
        self._inside = _any([form for name in inside for form in _forms(name)])
        self._words = _any([name.encode() for name in words], rb"(?<![A-Za-z0-9])", rb"(?![A-Za-z0-9])")

    def in_text(self, text: str) -> set[str]:
        """Those that stand in ``text``."""
        found = {match.decode() for match in self._words.findall(text.encode())} if self._words else set()
        return found | self.in_bytes([text.encode()])

    def in_bytes(self, pieces: Iterable[bytes]) -> set[str]:
        """Those whose letters stand anywhere in a stream of bytes, in UTF-8 or UTF-16."""
        found: set[bytes] = set()
        before = b""
        for piece in pieces if self._inside else ():
            both = before + piece
            found.update(self._inside.findall(both))  # type: ignore[union-attr]
            before = both[-self._longest :]
        return {_decoded(match) for match in found}


def _forms(name: str) -> set[bytes]:
    """A name as programmes write it; in Latin-1 where that knows its letters, as headers of scanners do."""
    older = {name.encode("latin-1")} if all(ord(letter) < 256 for letter in name) else set()
    return older | {name.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")}


def _any(words: list[bytes], before: bytes = b"", after: bytes = b"") -> re.Pattern[bytes] | None:
    if not words:
        return None
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(before + b"(?:" + b"|".join(map(re.escape, longest_first)) + b")" + after)


def _decoded(name: bytes) -> str:
    code = "utf-16-le" if name[1::2].count(0) * 2 == len(name) else "utf-16-be" if name[::2].count(0) else "utf-8"
    try:
        return name.decode(code)
    except UnicodeDecodeError:
        return name.decode("latin-1")


def carried(path: Path, root: Path, names: Names) -> Carried:
    """What the file ``path`` of the folder ``root`` carries."""
    file = path.relative_to(root).as_posix()
    if path.is_symlink():
        return Carried(file, 0, "link", (), (f"a link to {path.readlink()}, which does not come along",))
    found = [f"the name {name!r} of the cohort, in the file's name" for name in sorted(names.in_text(file))]
    kind, holds, said = _looked_into(path)
    found += said
    if path.name == KEY:
        found.append("a key that undoes pseudonyms")
    known = names.in_bytes(_stored(path)) | names.in_bytes(_unpacked(path, found.append))
    if (text := _text(path)) is not None:
        known |= names.in_text(text) | names.in_text(_ESCAPED.sub(lambda found: chr(int(found[1], 16)), text))
        found += [f"an absolute path, {match}" for match in dict.fromkeys(_PATHS.findall(text))]
    found += [f"the name {name!r} of the cohort" for name in sorted(known)]
    return Carried(file, path.stat().st_size, kind, tuple(holds), tuple(dict.fromkeys(found)))


# --- bytes -------------------------------------------------------------------------------------------------------


def _stored(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _unpacked(path: Path, tell: Callable[[str], None] = lambda finding: None) -> Iterator[bytes]:
    """The bytes inside a compressed file, piece by piece; nothing of any other file. ``tell`` hears where some of them
    could not be had, so that nobody has looked at them."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    yield entry.filename.encode()
                    with archive.open(entry) as file:
                        while piece := file.read(PIECE):
                            yield piece
        elif _start(path)[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                while piece := file.read(PIECE):
                    yield piece
    except _NOT_UNPACKED as error:
        tell(f"compressed bytes that could not be looked at: {error}")


def _start(path: Path, count: int = 512) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _text(path: Path) -> str | None:
    """What a text file says; None of a file that is none."""
    if b"\0" in _start(path, 8192):
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


# --- kinds -------------------------------------------------------------------------------------------------------


def _looked_into(path: Path) -> tuple[str, list[str], list[str]]:
    """(kind, what it holds, what should not be there)."""
    name, start = path.name.lower(), _start(path)
    if start[128:132] == b"DICM":
        return "DICOM", [], ["a DICOM file, which names its patient"]
    if name.endswith((".nii", ".nii.gz", ".hdr", ".img")):
        return _nifti(path)
    if path.suffix.lower() in RASTER:
        return _raster(path)
    if path.suffix == ".safetensors":
        return "weights (safetensors)", [], []
    if name.endswith((".npy", ".npz")):
        return "arrays (numpy)", [], _objects(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = archive.namelist()
        runs = any(entry.endswith((".pkl", ".pickle")) for entry in inner)
        return "archive (zip)", [f"{len(inner)} files"], ["a pickle inside, which can run code"] if runs else []
    if name.endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt")) or _pickled(path, start):
        return "pickle", [], ["a pickle, which can run code when it is read"]
    kinds = {".json": "JSON", ".csv": "table (CSV)", ".tsv": "table (TSV)", ".parquet": "table (Parquet)",
             ".yaml": "YAML", ".yml": "YAML", ".md": "text (Markdown)", ".arrow": "Arrow", ".py": "Python code",
             ".html": "HTML", ".txt": "text"}  # fmt: skip
    return kinds.get(path.suffix.lower()) or ("text" if _text(path) is not None else "other"), [], []


def _pickled(path: Path, start: bytes) -> bool:
    if start[:1] != b"\x80" or len(start) < 2 or start[1] > 5:
        return False
    with path.open("rb") as file:
        try:
            for number, _ in enumerate(pickletools.genops(file)):
                if number > 20:
                    return True
        except Exception:  # whatever the bytes of something else look like to it
            return False
    return True


def _objects(path: Path) -> list[str]:
    """By the headers alone: the arrays themselves may be a thousand times as large as their file."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                held = [_holds_objects(file) for name in archive.namelist() for file in [archive.open(name)]]
        else:
            with path.open("rb") as file:
                held = [_holds_objects(file)]
    except (*_NOT_UNPACKED, ValueError):  # no header of an array
        return ["arrays that cannot be read, or a pickle, which can run code when it is read"]
    return ["a pickle inside, which can run code when it is read"] if any(held) else []


def _holds_objects(file: Any) -> bool:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return bool(read(file)[2].hasobject)


def _nifti(path: Path) -> tuple[str, list[str], list[str]]:
    """A volume's header: every field that says more than where its voxels lie and how they are stored."""
    try:
        image: Any = open_volume(path)
    except (OSError, ImageFileError, EOFError, zlib.error, ValueError, InputError) as error:
        return "volume", [], [f"an image that cannot be read: {str(error).splitlines()[0]}"]
    header = image.header
    if not isinstance(image, nibabel.Nifti1Pair):
        return type(image).__name__, [], [f"a header of {type(image).__name__}, of which nothing was looked at"]
    holds = ["x".join(map(str, image.shape)), str(image.get_data_dtype())]
    blank, found = type(header)(), []
    for field in sorted(set(header) - _GRID):
        value = np.asarray(header[field])
        if value.tobytes() == np.asarray(blank[field]).tobytes() or not value.tobytes().strip(b"\0"):
            continue
        text = value.tobytes().rstrip(b"\0") if value.dtype.kind == "S" else str(value.tolist()).encode()
        if text == _OURS.get(field):
            holds.append(f"{field} {text.decode()!r}")
        else:
            found.append(f"header field {field} = {text.decode('utf-8', 'replace')!r}")
    found += [f"a header extension of {extension.get_sizeondisk()} bytes" for extension in header.extensions]
    beyond = sum(map(len, _unpacked(path) if path.suffix == ".gz" else _stored(path)))
    end = int(image.dataobj.offset) + int(np.prod(image.shape, dtype=np.int64)) * image.get_data_dtype().itemsize
    if path.suffix != ".img" and path.suffix != ".hdr" and beyond > end:
        found.append(f"{beyond - end} bytes behind the voxels")
    found += _gzip_name(path)
    return "NIfTI-2" if isinstance(header, nibabel.Nifti2Header) else "NIfTI-1", holds, found


def _gzip_name(path: Path) -> list[str]:
    """The name that a gzip file remembers, where it is not the file's own."""
    start = _start(path, 4096)
    if start[:2] != b"\x1f\x8b" or not start[3] & 8 or start[3] & 4:
        return []
    name = start[10:].split(b"\0")[0].decode("latin-1")
    return [] if name in (path.name, path.name.removesuffix(".gz")) else [f"the name {name!r} in the gzip header"]


def _raster(path: Path) -> tuple[str, list[str], list[str]]:
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()  # PNG may have text behind its pixels
            info, size, kind = dict(image.info), image.size, image.format or "image"
            exif = len(image.getexif())
    except Exception as error:  # decoders raise whatever they like on a damaged file
        return "image", [], [f"an image that cannot be read: {error}"]
    found = [f"metadata {key!r}" for key in info if key not in _PLAIN]
    if exif and "exif" not in info:
        found.append(f"{exif} EXIF tags")
    return kind, ["x".join(map(str, size))], found
