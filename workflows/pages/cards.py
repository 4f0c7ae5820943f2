"""What a page shows of one input: its picture once, and each job's drawing, overlay and figures."""

import io
import unicodedata
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import simplejpeg
from markupsafe import Markup
from PIL import Image

from ..rows import COMMON, PICTURES

COLUMNS = (*(name for name, _ in COMMON if not name.startswith("crop_box")), *PICTURES)
SIDE = 160
"""Pixels: pictures up to this side are shown at a whole multiple of their own, larger ones as wide as the cards."""
LARGEST = 448
"""Pixels: pictures beyond this side, as ``--fit none`` stores them, are embedded smaller."""

FACTS = ("label", "prediction", "probability", "target", "target_probability")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """An embedded picture: its data: address and its size in pixels."""

    uri: Markup
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether its pixels are enlarged, and shown as squares."""
        return max(self.width, self.height) <= SIDE


@dataclass(frozen=True)
class Facts:
    """What a model said of an input, as text; `verdict` is right, wrong or, where the label is unknown, None."""

    label: str | None
    prediction: str | None
    probability: float | None
    target: str | None
    target_probability: float | None
    verdict: str | None

    @property
    def shown(self) -> tuple[str, ...]:
        """The facts to the digits that are shown, by which jobs agree or not."""
        return tuple(f"{value:.3f}" if isinstance(value, float) else str(value) for value in vars(self).values())


@dataclass(frozen=True)
class View:
    """What one job made of an input."""

    job: str
    status: str
    error: str | None
    facts: Facts
    drawing: Picture | None
    overlay: Picture | None


@dataclass(frozen=True)
class Card:
    """One input: its key for reading, its size in pixels, its picture and every job's view of it."""

    name: str
    size: tuple[int, int] | None
    image: Picture | None
    views: list[View]

    @property
    def pictures(self) -> list[Picture]:
        """All its pictures."""
        drawn = [picture for view in self.views for picture in (view.drawing, view.overlay)]
        return [picture for picture in (self.image, *drawn) if picture]

    @property
    def facts(self) -> Facts | None:
        """The facts of all jobs where they agree to the digits shown, else None."""
        facts = [view.facts for view in self.views if view.status == "ok"]
        return facts[0] if len({fact.shown for fact in facts}) == 1 else None

    @property
    def failure(self) -> View | None:
        """The first view where all jobs failed alike, else None."""
        alike = len({(view.status, view.error) for view in self.views}) == 1 and self.views[0].status != "ok"
        return self.views[0] if alike else None

    @property
    def label(self) -> str | None:
        """The input's label."""
        return next((view.facts.label for view in self.views if view.facts.label is not None), None)

    @property
    def verdict(self) -> str:
        """Wrong where any job is wrong, else failed where any failed, else right or unknown."""
        verdicts = {view.facts.verdict if view.status == "ok" else "failed" for view in self.views}
        return next(verdict for verdict in ("wrong", "failed", "right", None) if verdict in verdicts) or "unknown"


def card(rows: Iterable[tuple[str, frozenset[str], Row]]) -> Card:
    """Make the card of one input from its rows: the job's name, its model's categories and the stored row of each."""
    found = list(rows)
    image = next((made for _, _, row in found if (made := picture(row, "thumbnail"))), None)
    size = next(((row["width"], row["height"]) for _, _, row in found if row["width"]), None)
    return Card(readable(found[0][2]["key"]), size, image, [view(*one) for one in found])


def view(job: str, categories: frozenset[str], row: Row) -> View:
    """Return one job's view of an input."""
    ok = row["status"] == "ok"
    judged = ok and row["label"] in categories
    verdict = ("right" if row["label"] == row["prediction"] else "wrong") if judged else None
    facts = Facts(**{name: row[name] for name in FACTS}, verdict=verdict)
    return View(job, row["status"], row["error"], facts, picture(row, "drawing"), picture(row, "overlay"))


def picture(row: Row, name: str) -> Picture | None:
    """Return a stored picture with its size, or None where the row has none; made smaller where a page would swell."""
    stored = row.get(name)
    if stored is None:
        return None
    data = stored["bytes"]
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    if max(height, width) > LARGEST:
        data, height, width = reduced(data)
    return Picture(Markup(f"data:image/jpeg;base64,{b64encode(data).decode()}"), width, height)


def reduced(data: bytes) -> tuple[bytes, int, int]:
    """Return a JPEG whose longer side is `LARGEST`, its height and its width."""
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((LARGEST, LARGEST))
        smaller = io.BytesIO()
        image.save(smaller, "jpeg", quality=90)
        return smaller.getvalue(), image.height, image.width


def side(cards: Iterable[Card]) -> int | None:
    """Return the CSS pixels at which small pictures are shown, a whole multiple so that pixels stay even; else None."""
    pictures = [picture for card in cards for picture in card.pictures]
    largest = max((max(picture.width, picture.height) for picture in pictures), default=SIDE + 1)
    return largest * (SIDE // largest) if largest <= SIDE else None


def readable(key: str) -> str:
    """Return a percent-encoded key as text, or as it is where that text is not UTF-8 or has control characters."""
    try:
        text = unquote_to_bytes(key).decode("utf-8")
    except UnicodeDecodeError:
        return key
    return key if any(unicodedata.category(character) == "Cc" for character in text) else text
