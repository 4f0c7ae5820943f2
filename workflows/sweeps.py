"""Sweeps: one or two options of a method, each with several values; every combination is a job of its own."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from afterimage.errors import UsageError, nearest
from afterimage.registry import Method

from .manifest import path_of
from .named import NamedPicture, read_named
from .settings import as_typed, own_options

MOST = 2
"""Options that are swept at a time: more have no place on a sheet."""
LONGEST = 80
"""Characters of a value in a job's name."""

Sweep = Sequence[str] | Mapping[str, Sequence[Any]]
"""`option=a,b,c` once or twice, or values by option."""


@dataclass(frozen=True)
class Axis:
    """One swept option: its values, how each is called, and, where pictures are swept, those of each value."""

    option: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    pictures: tuple[tuple[NamedPicture, ...], ...] = ()


def axes_of(method: Method, sweep: Sweep | None, max_pixels: int) -> list[Axis]:
    """Return what is swept. Raises `UsageError` for options that cannot be, and for values that they do not take."""
    if not sweep:
        return []
    if not method.makes_images:
        raise UsageError(f"sweep: {method.verb} makes maps; what makes pictures can be swept")
    pairs = list(sweep.items()) if isinstance(sweep, Mapping) else [_split(text) for text in sweep]
    names = [name for name, _ in pairs]
    if len(pairs) > MOST or len(set(names)) < len(names):
        raise UsageError(f"sweep: expected at most {MOST} options, each once, got {', '.join(names)}")
    return [_axis(method, name.replace("-", "_"), values, max_pixels) for name, values in pairs]


def combinations(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the values of each job by option, the last axis running fastest."""
    return [dict(zip((axis.option for axis in axes), one, strict=True)) for one in product(*(a.values for a in axes))]


def job_names(base: str, axes: Sequence[Axis]) -> list[str]:
    """Return the names of the jobs, in the order of `combinations`."""
    parts = [[f"{axis.option}={_plain(label)}" for label in axis.labels] for axis in axes]
    return [".".join((base, *one)) for one in product(*parts)]


def _split(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    found = [value.strip() for value in values.split(";" if ";" in values else ",")]
    if not equals or not name or not all(found):
        raise UsageError(f"sweep: expected OPTION=VALUE,VALUE,… (or ; where values have commas), got {text!r}")
    return name, found


def _axis(method: Method, name: str, values: Sequence[Any], max_pixels: int) -> Axis:
    options = {option.name: option for option in own_options(method)}
    chooses = "target" in method.inputs and not method.generates
    known = {*options, *method.named_pictures, *(["target"] if chooses else [])}
    if name not in known:
        raise UsageError(f"sweep: {method.verb} has no option {name!r}{nearest(name, known)}")
    pictures: tuple[tuple[NamedPicture, ...], ...] = ()
    if name in method.named_pictures:
        pictures = tuple(read_named(name, value, max_pixels) for value in values)
        labels = _titles(pictures)
    else:
        values = [as_typed(options[name], value) if name in options else value for value in values]
        labels = [str(value).removesuffix(".0") if isinstance(value, float) else str(value) for value in values]
    if len(values) < 2 or len(set(labels)) < len(labels):
        raise UsageError(f"sweep: expected two values of {name} at least, all different, got {', '.join(labels)}")
    return Axis(name, tuple(values), tuple(labels), pictures)


def _titles(pictures: Sequence[tuple[NamedPicture, ...]]) -> list[str]:
    """Return what to call each value: the files' names, or where those are alike the whole paths."""
    short = [" + ".join(_title(one, one.title.rpartition(".")[0] or one.title) for one in value) for value in pictures]
    if len(set(short)) == len(short):
        return short
    return [" + ".join(_title(one, path_of(one.uri).decode(errors="replace")) for one in value) for value in pictures]


def _title(picture: NamedPicture, name: str) -> str:
    return name if picture.weight is None else f"{name} {picture.weight:g}"


def _plain(label: str) -> str:
    """Return a value as a part of a folder's name: told apart by a digest where it had to be changed."""
    plain = re.sub(r"[^\w.,+=@~-]+", "_", label)[:LONGEST]
    return plain if plain == label else f"{plain}~{hashlib.sha256(label.encode()).hexdigest()[:6]}"
