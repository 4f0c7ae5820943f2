"""Methods that share a run's forward passes: `--with VERB[:OPTION=VALUE,…]`, or options by verb from Python."""

from collections.abc import Mapping, Sequence
from typing import Any

from afterimage.errors import UsageError
from afterimage.registry import Method, method

from .settings import Asked, as_typed, divided, own_options, settings_of

Also = str | Sequence[str] | Mapping[str, Mapping[str, Any]]


def beside(also: Also | None, given: Mapping[str, Any]) -> list[tuple[Method, Asked]]:
    """Return the methods that run along, each with its options and those settings of the run that bear on it.

    Raises `UsageError` for methods and options that do not exist, and for methods named twice.
    """
    if not also:
        return []
    asked = also if isinstance(also, Mapping) else _read([also] if isinstance(also, str) else also)
    return [(method(verb), _asked(method(verb), options, given)) for verb, options in asked.items()]


def _read(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read `saliency,patches:layer=layer3,top=5`: what has an equals sign belongs to the verb before it."""
    found: dict[str, dict[str, str]] = {}
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        verb, colon, pair = ("", "", piece) if "=" in piece.partition(":")[0] else piece.partition(":")
        if verb:
            if verb in found:
                raise UsageError(f"with: expected each method once, got {verb} twice")
            found[verb] = {}
        if colon or not verb:
            name, equals, value = pair.partition("=")
            if not found or not equals or not name or not value:
                raise UsageError(f"with: expected VERB[:OPTION=VALUE,…], got {', '.join(texts)!r}")
            found[next(reversed(found))][name.replace("-", "_")] = value
    return found


def _asked(found: Method, options: Mapping[str, Any], given: Mapping[str, Any]) -> Asked:
    own = {option.name: option for option in own_options(found)}
    settings = {option.name: option for option in settings_of(found)}
    shared = {name: value for name, value in given.items() if name in settings and name != "name"}
    if shared.get("keep") not in (None, *settings["keep"].choices):
        shared["keep"] = "none"
    typed = {name: as_typed(own[name], value) if name in own else value for name, value in options.items()}
    return divided(found, {**shared, **typed})
