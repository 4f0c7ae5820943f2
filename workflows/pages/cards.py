"""What a page shows of one input: its picture once, and each job's drawing, overlay and figures."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from afterimage.registry import Detail

from ..rows import COMMON, PICTURES
from ..subjects import is_subject
from .details import Details, details
from .pictures import SIDE, Picture, Row, picture

COLUMNS = (*(name for name, _ in COMMON if not name.startswith("crop_box")), "file", *PICTURES)
FACTS = ("label", "prediction", "probability", "target", "target_probability")


@dataclass(frozen=True)
class Source:
    """What is to be known of a job to read its rows: its title, its model's classes and its method's details.

    `folder` is the address of its folder for a method that makes pictures.
    """

    job: str
    categories: Sequence[str]
    details: Sequence[Detail]
    known: frozenset[str]
    folder: str | None = None


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
    def told(self) -> bool:
        """Whether there is anything to tell."""
        return any(one is not None for one in (self.label, self.prediction, self.target))

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
    details: Details
    makes_images: bool = False
    link: str | None = None

    @property
    def shows(self) -> bool:
        """Whether there is something to show: of what diverged, the last picture before."""
        return self.status in ("ok", "diverged")

    @property
    def pictures(self) -> list[Picture]:
        """All its pictures but the maps of classes, which have a size of their own."""
        own = [sight.picture for sight in self.details.sights]
        return [picture for picture in (self.drawing, self.overlay, *own) if picture]


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
        drawn = [picture for view in self.views for picture in view.pictures]
        return [self.image, *drawn] if self.image else drawn

    @property
    def stacked(self) -> bool:
        """Whether the pictures of its views stand in rows beside the image."""
        return bool(self.image) and (len(self.views) > 1 or any(view.details.sights for view in self.views))

    @property
    def painted(self) -> bool:
        """Whether pictures were made of the input, or of a subject, so that they keep their proportions."""
        return any(view.makes_images for view in self.views)

    @property
    def gallery(self) -> bool:
        """Whether what several jobs made of it stands picture beside picture."""
        return len(self.views) > 1 and all(view.makes_images for view in self.views)

    @property
    def facts(self) -> Facts | None:
        """The facts of all jobs where they agree to the digits shown, else None."""
        facts = [view.facts for view in self.views if view.shows]
        return facts[0] if len({fact.shown for fact in facts}) == 1 else None

    @property
    def failure(self) -> View | None:
        """The first view where all jobs failed alike, else None."""
        alike = len({(view.status, view.error) for view in self.views}) == 1 and not self.views[0].shows
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


def card(rows: Iterable[tuple[Source, Row]]) -> Card:
    """Make the card of one input from its stored rows, each with the job that it comes from."""
    found = list(rows)
    image = next((made for _, row in found if (made := picture(row, "thumbnail"))), None)
    size = next(((row["width"], row["height"]) for _, row in found if row["width"]), None)
    return Card(readable(found[0][1]["key"]), size, image, [view(*one) for one in found])


def view(source: Source, row: Row) -> View:
    """Return one job's view of an input."""
    ok = row["status"] == "ok"
    judged = ok and row["label"] in source.known and row["prediction"] is not None
    verdict = ("right" if row["label"] == row["prediction"] else "wrong") if judged else None
    known = {name: row[name] for name in FACTS}
    if is_subject(row["uri"]):
        known["target"] = None  # the card is called so
    facts = Facts(**known, verdict=verdict)
    drawn = picture(row, "drawing"), picture(row, "overlay")
    made = details(row, source.details, source.categories)
    link = f"{source.folder}/{row['file']}" if source.folder and row.get("file") else None
    return View(source.job, row["status"], row["error"], facts, *drawn, made, source.folder is not None, link)


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
