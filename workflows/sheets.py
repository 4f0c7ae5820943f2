"""Contact sheets: what a sweep made of one input, each picture under its label, the input and given pictures beside."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, SOFT, WELL, FAILED = "#ffffff", "#1c1d1f", "#66696e", "#ececea", "#8f5a00"
WIDE, LARGEST, SMALLEST = 2200, 360, 120
"""Pixels: how wide a sheet becomes at most, if its cells can be as small as that; the longer side of a cell."""
MARGIN, GAP, APART, LINE = 32, 12, 36, 26
TEXT, TITLE = 18, 24
ACROSS = 6
"""Pictures in a row, where one option alone is swept."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """A picture `(H, W, 3)` uint8, or what there is to say in its place; a note stands under a picture that failed."""

    picture: np.ndarray | None
    note: str = ""


@dataclass(frozen=True)
class Head:
    """What stands at a row or column: its label, and a picture where pictures are swept."""

    label: str
    pictures: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A grid of cells with its rows' and columns' heads; `given` are the input and what else all cells share."""

    title: str
    given: Sequence[tuple[str, np.ndarray]]
    rows: Sequence[Head]
    columns: Sequence[Head]
    cells: Sequence[Sequence[Cell]]


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Draw a sheet; one without heads of rows is wrapped to rows of a few pictures."""
    if not sheet.rows:
        return _Drawing(sheet, *_wrapped(sheet)).image
    blocks = [(list(sheet.columns), [list(row) for row in sheet.cells], list(sheet.rows))]
    return _Drawing(sheet, blocks, len(sheet.columns)).image


Block = tuple[list[Head], list[list[Cell]], list[Head]]
"""Heads over a row or more of cells, and the heads beside these."""


def _wrapped(sheet: Sheet) -> tuple[list[Block], int]:
    count = len(sheet.columns)
    across = -(-count // -(-count // ACROSS))
    starts = range(0, count, across)
    cells = sheet.cells[0]
    return [(list(sheet.columns[at : at + across]), [list(cells[at : at + across])], []) for at in starts], across


class _Drawing:
    """A sheet as it is laid out and drawn, from the top to the bottom."""

    def __init__(self, sheet: Sheet, blocks: Sequence[Block], across: int) -> None:
        heads = [head for block in blocks for head in block[2]]
        self._beside = max((text_width(head.label) for head in heads), default=0)
        self._beside = min(self._beside, LARGEST) + (GAP if heads else 0)
        taken = 2 * MARGIN + self._beside + (across - 1) * GAP
        share = (WIDE - taken) // (across + (1 if sheet.given else 0))
        self._side = max(SMALLEST, min(LARGEST, share))
        pictures = [cell.picture for _, cells, _ in blocks for row in cells for cell in row if cell.picture is not None]
        self._cell = _largest([_shown(picture, self._side).size for picture in pictures], self._side)
        self._left = MARGIN + (self._given_width(sheet) + APART if sheet.given else 0)
        width = self._left + self._beside + across * (self._cell[0] + GAP) - GAP + MARGIN
        self.image = Image.new("RGB", (width, self._height(sheet, blocks)), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._draw.text((MARGIN, MARGIN), fitting(sheet.title, width - 2 * MARGIN, TITLE), INK, font(TITLE))
        top = MARGIN + TITLE + APART // 2
        self._draw_given(sheet, top + self._head_height(blocks[0]))
        for block in blocks:
            top = self._draw_block(block, top)

    def _given_width(self, sheet: Sheet) -> int:
        return max(_shown(picture, self._side).width for _, picture in sheet.given)

    def _height(self, sheet: Sheet, blocks: Sequence[Block]) -> int:
        given = sum(_shown(picture, self._side).height + LINE + GAP for _, picture in sheet.given)
        grid = sum(self._head_height(block) + len(block[1]) * (self._cell[1] + GAP) + GAP for block in blocks)
        return MARGIN + TITLE + APART // 2 + max(self._head_height(blocks[0]) + given, grid - 2 * GAP) + MARGIN

    def _head_height(self, block: Block) -> int:
        return LINE + max((self._thumbs(head)[1] for head in block[0]), default=0)

    def _thumbs(self, head: Head) -> tuple[list[Image.Image], int]:
        """Return a head's pictures, small, and the height that they take."""
        if not head.pictures:
            return [], 0
        side = min(110, (self._cell[0] - GAP * (len(head.pictures) - 1)) // len(head.pictures))
        made = [_shown(picture, max(24, side)) for picture in head.pictures]
        return made, max(one.height for one in made) + GAP // 2

    def _draw_given(self, sheet: Sheet, top: int) -> None:
        for label, picture in sheet.given:
            shown = _shown(picture, self._side)
            self.image.paste(shown, (MARGIN, top))
            top += shown.height + 4
            self._draw.text((MARGIN, top), fitting(label, self._given_width(sheet)), SOFT, font(TEXT))
            top += LINE - 4 + GAP

    def _draw_block(self, block: Block, top: int) -> int:
        heads, rows, beside = block
        top += self._head_height(block)
        for number, head in enumerate(heads):
            self._draw_head(head, self._left + self._beside + number * (self._cell[0] + GAP), top - LINE)
        for number, row in enumerate(rows):
            if beside:
                self._draw_beside(beside[number], top)
            for place, cell in enumerate(row):
                self._draw_cell(cell, (self._left + self._beside + place * (self._cell[0] + GAP), top))
            top += self._cell[1] + GAP
        return top + GAP

    def _draw_head(self, head: Head, left: int, top: int) -> None:
        self._draw.text((left, top), fitting(head.label, self._cell[0]), INK, font(TEXT))
        for thumb in self._thumbs(head)[0]:
            self.image.paste(thumb, (left, top - GAP // 2 - thumb.height))
            left += thumb.width + GAP

    def _draw_beside(self, head: Head, top: int) -> None:
        label = fitting(head.label, self._beside - GAP)
        thumbs, height = self._thumbs(head)
        right = self._left + self._beside - GAP
        middle = top + (self._cell[1] - LINE - height) // 2
        for thumb in reversed(thumbs):
            self.image.paste(thumb, (right - thumb.width, middle))
            right -= thumb.width + GAP
        self._draw.text((self._left + self._beside - GAP, middle + height), label, INK, font(TEXT), anchor="ra")

    def _draw_cell(self, cell: Cell, place: tuple[int, int]) -> None:
        left, top = place
        if cell.picture is None:
            self._draw.rectangle((left, top, left + self._cell[0] - 1, top + self._cell[1] - 1), WELL)
        else:
            shown = _shown(cell.picture, self._side)
            middle = (self._cell[0] - shown.width) // 2, (self._cell[1] - shown.height) // 2
            self.image.paste(shown, (left + middle[0], top + middle[1]))
        if cell.note:
            note = fitting(cell.note, self._cell[0] - 2 * GAP)
            corner = left + GAP, top + self._cell[1] - GAP // 2
            box = self._draw.textbbox(corner, note, font(TEXT), anchor="ls")
            self._draw.rectangle((box[0] - 6, box[1] - 4, box[2] + 6, box[3] + 4), PAPER)
            self._draw.text(corner, note, FAILED, font(TEXT), anchor="ls")


def _shown(picture: np.ndarray, side: int) -> Image.Image:
    """Return a picture no larger than a side; one of few pixels is enlarged, its pixels squares."""
    image = Image.fromarray(picture)
    longer = max(image.size)
    if longer > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
    elif longer * 2 <= side:
        times = side // longer
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return image


def _largest(sizes: Sequence[tuple[int, int]], side: int) -> tuple[int, int]:
    if not sizes:
        return side, side
    return max(width for width, _ in sizes), max(height for _, height in sizes)


@cache
def font(size: int) -> Font:
    """Return the typeface of labels."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int = TEXT) -> int:
    """Return how many pixels a line takes."""
    return int(font(size).getlength(text)) + 1


def fitting(text: str, width: int, size: int = TEXT) -> str:
    """Return a text, shortened in its middle where it is wider."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if text_width(shorter, size) <= width:
            return shorter
    return text[:1]
