"""Errors with one clear line: what was expected, what came, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """What was asked for cannot be done as asked; the command line exits with 2."""


class RefusedError(RuntimeError):
    """The output folder holds another run's results; the command line exits with 4."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ``"; nearest: a, b"`` for the known names that resemble `name`, or nothing."""
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = [lowered[match] for match in get_close_matches(name.lower(), lowered, count, cutoff=0.5)]
    close += [candidate for candidate in names if name.lower() in candidate.lower() and candidate not in close]
    return f"; nearest: {', '.join(close[:count])}" if close else ""
