"""Where the picture of each item goes: paths below OUT/<job>/images, as bytes, that mirror the items' keys.

A key's folders are kept and its suffix becomes that of the picture's format, `.png` unless told; where two would be
alike, the key's suffix stays before it. What cannot be had so (a name too long, or one that is a folder too) becomes
`STEM~DIGEST.png` at the top. No name made here ends in `~g1.png`: what a retry makes anew is called so.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from urllib.parse import unquote_to_bytes

from .manifest import SUFFIXES

LONGEST = 255
"""Bytes of a file's name."""
OURS = re.compile(rb"~(g[0-9]+|[0-9a-f]{16})$")


def picture_names(
    parts: Iterable[Sequence[str]], end_of: Callable[[bytes], bytes] = lambda path: b".png"
) -> dict[str, bytes]:
    """Return each key's path; `parts` are the manifest's keys in the order in which they came.

    Earlier ones keep theirs whatever comes later. Paths are relative, without `..`, and none is a folder of another.
    `end_of` tells the ending of the picture made of the file at a path.
    """
    names: dict[str, bytes] = {}
    files: set[bytes] = set()
    folders: set[bytes] = set()
    for keys in parts:
        whole = {key: _path(key) for key in keys}
        short = {key: _stem(path) + end_of(path) for key, path in whole.items()}
        alike = Counter(short.values())
        for path in whole.values():
            folders.update(folder for folder in _folders(path) if folder not in files)
        for key, path in whole.items():
            end = end_of(path)
            wishes = [path + end] if alike[short[key]] > 1 else [short[key], path + end]
            free = (wish for wish in wishes if _allowed(wish, end) and not _taken(wish, files, folders))
            names[key] = next(free, None) or _at_the_top(key, path, end)
            files.add(names[key])
    return names


def anew(path: bytes, generation: int) -> bytes:
    """Return the path of a picture that differs from the one committed at `path`, made by a retry."""
    stem, _, end = path.rpartition(b".")
    return _short(stem, b"~g%d.%s" % (generation, end))


def _path(key: str) -> bytes:
    """Return a key's path, decoded; a part of it never leads elsewhere."""
    parts = [unquote_to_bytes(part) for part in key.split("/")]
    return b"/".join(b"_" if part in (b"", b".", b"..") else re.sub(rb"[/\0]", b"_", part) for part in parts)


def _stem(path: bytes) -> bytes:
    suffix = next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), b"")
    stem = path[: len(path) - len(suffix)]
    return path if stem == b"" or stem.endswith(b"/") else stem  # a name that is nothing but its suffix


def _folders(path: bytes) -> Iterator[bytes]:
    """Yield the folders that lead to a path, the outermost first."""
    parts = path.split(b"/")
    return (b"/".join(parts[:depth]) for depth in range(1, len(parts)))


def _taken(path: bytes, files: set[bytes], folders: set[bytes]) -> bool:
    return path in files or path in folders or any(folder in files for folder in _folders(path))


def _allowed(path: bytes, end: bytes) -> bool:
    name = path.rpartition(b"/")[2]
    return len(name) <= LONGEST and not OURS.search(name.removesuffix(end))


def _at_the_top(key: str, path: bytes, end: bytes) -> bytes:
    return _short(_stem(path).rpartition(b"/")[2], b"~%s%s" % (_digest(key.encode()), end))


def _short(stem: bytes, end: bytes) -> bytes:
    """Return stem and end; where they are too long, the stem's name is cut and told apart by its digest."""
    folder, slash, name = stem.rpartition(b"/")
    if len(name) + len(end) > LONGEST:
        end = b"~%s%s" % (_digest(name), end)
        cut = name[: LONGEST - len(end)]
        name = cut.decode(errors="ignore").encode() or cut  # not within a character
    return folder + slash + name + end


def _digest(name: bytes) -> bytes:
    return hashlib.sha256(name).hexdigest()[:16].encode()
