"""Shares of a style network's styles, as text: `starry-night`, or several as `starry-night=0.3,the-scream=0.7`."""

import math
from collections.abc import Iterable, Sequence

from ...errors import UsageError, nearest
from ..network import folded

Shares = list[tuple[str, float]]


def shares_of(styles: Sequence[str], text: str | None) -> list[float]:
    """Return each style's share, which add up to 1; None is the first style alone.

    Names match regardless of case, hyphens and underscores. Raises UsageError for a style that is not there.
    """
    if text is None:
        return [1.0, *[0.0] * (len(styles) - 1)]
    shares = placed(styles, parsed(text))
    total = sum(shares)
    return [share / total for share in shares]


def placed(styles: Sequence[str], named: Iterable[tuple[str, float]]) -> list[float]:
    """Return each style's share as given by name; see `shares_of`."""
    places = {folded(style): place for place, style in enumerate(styles)}
    shares = [0.0] * len(styles)
    for name, share in named:
        if folded(name) not in places:
            raise UsageError(f"style: the network paints {', '.join(styles)}, not {name!r}{nearest(name, styles)}")
        shares[places[folded(name)]] += share
    return shares


def parsed(text: str | None) -> Shares:
    """Return names and shares in a text; without a number each has 1. Raises UsageError for what is no such text."""
    found = []
    for part in () if text is None else text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        share = _share(number) if equals else 1.0
        if not name or not math.isfinite(share) or share < 0:
            raise UsageError(f"style: expected NAME, or NAME=SHARE,NAME=SHARE with shares of 0 or more, got {text!r}")
        found.append((name, share))
    if text is not None and not sum(share for _, share in found) > 0:
        raise UsageError(f"style: expected a share above 0, got {text!r}")
    return found


def _share(number: str) -> float:
    try:
        return float(number)
    except ValueError:
        return math.nan
