"""Training pictures: squares out of the pictures of a data set, drawn by the number of a step, decoded ahead.

An epoch takes each picture once, in an order of its own. A square has a side between the training's and the picture's
shorter one, evenly by its logarithm, any place, and is mirrored or not; smaller pictures are taken whole and enlarged.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.images.seeds import uniform

from .decode import MAX_PIXELS, ImageError, decode, read
from .manifest import Item, path_of

STREAM = 1
"""Of the random numbers; 0 is the styles'."""
AHEAD = 4
"""Batches that are decoded before they are asked for."""
TOGETHER = 2
"""Threads that decode."""

Pixels = np.ndarray


class Crops:
    """Squares `(batch, 3, side, side)` in [0, 1] of the pictures `items`, a function of seed and step."""

    def __init__(self, items: Sequence[Item], side: int, batch: int, seed: int, say: Callable[[str], None]) -> None:
        self.items, self.side, self.batch, self.seed, self.say = items, side, batch, seed, say
        self.unusable: dict[str, str] = {}
        self.waited = 0.0
        self._lock = Lock()
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def draw(self, step: int) -> Tensor:
        """Return the squares of a step. Raises UsageError where no picture can be used."""
        stack = np.stack([self._square(step * self.batch + place) for place in range(self.batch)])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div_(255)

    @contextmanager
    def ahead(self, first: int, last: int) -> Iterator[Callable[[int], Tensor]]:
        """Give a function to be called with `first`, `first` + 1, … before `last`, whose squares are made ahead."""
        with ThreadPoolExecutor(TOGETHER) as pool:
            waiting: deque[Future[Tensor]] = deque()
            numbers = iter(range(first, last))

            def submit() -> None:
                if (number := next(numbers, None)) is not None:
                    waiting.append(pool.submit(self.draw, number))

            def take(_: int) -> Tensor:
                begun = time.perf_counter()
                squares = waiting.popleft().result()
                self.waited += time.perf_counter() - begun
                submit()
                return squares

            for _ in range(AHEAD):
                submit()
            try:
                yield take
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _square(self, number: int) -> Pixels:
        """Return the square with a number, out of the picture whose turn it is, or the next that can be used."""
        epoch, place = divmod(number, len(self.items))
        order = self._order(epoch)
        draws = uniform(torch.tensor([self.seed]), torch.tensor([number]), STREAM, 4)[0].tolist()
        for index in (*order[place:], *order[:place]):
            item = self.items[index]
            if item.key in self.unusable:
                continue
            try:
                return cut(decode(read(path_of(item.uri)), MAX_PIXELS), self.side, draws)
            except ImageError as error:
                self._leave_out(item.key, error.message)
        key, message = next(iter(self.unusable.items()))
        raise UsageError(f"content: expected pictures, got {len(self.items)} that cannot be used ({key}: {message})")

    def _shuffled(self, epoch: int) -> list[int]:
        order: list[int] = np.random.default_rng([self.seed, epoch]).permutation(len(self.items)).tolist()
        return order

    def _leave_out(self, key: str, message: str) -> None:
        with self._lock:
            if key not in self.unusable:
                self.unusable[key] = message
                self.say(f"not used: {key}: {message}")


def cut(picture: Pixels, side: int, draws: Sequence[float]) -> Pixels:
    """Return a square `(side, side, 3)` of a picture; `draws` in [0, 1) say how large, where and whether mirrored."""
    height, width = picture.shape[:2]
    shorter = min(height, width)
    window = min(shorter, side * max(1.0, shorter / side) ** draws[0])
    left, top = draws[1] * (width - window), draws[2] * (height - window)
    box = (left, top, left + window, top + window)
    square = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC, box))
    return square[:, ::-1] if draws[3] < 0.5 else square


def middle(picture: Pixels, side: int) -> Tensor:
    """Return the middle of a picture, as large as fits, as `(1, 3, side, side)` in [0, 1]."""
    return as_image(cut(picture, side, (1.0, 0.5, 0.5, 1.0)))


def as_image(picture: Pixels) -> Tensor:
    """Return a picture as `(1, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float().div(255)
