"""How far the shards under way are, for the progress bar alone: a file for each, with the number of images done.

An image that takes long counts by parts. A shard that is through in a second writes nothing. No result depends on these
files, so a disk that refuses them stops nothing; what counts is a shard's marker.
"""

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_BETWEEN_WRITES = 1.0
NUMBER = struct.Struct("<d")

Tell = Callable[[float], None]


@contextmanager
def telling(folder: Path, shard: int) -> Iterator[Tell]:
    """Yield a function that takes how many images of a shard are done since it was last called."""
    file = folder / f".{shard:05d}.underway"
    last, done = time.monotonic(), 0.0
    with suppress(OSError):
        file.unlink(missing_ok=True)  # of an attempt whose worker was killed

    def tell(images: float) -> None:
        nonlocal last, done
        done += images
        if time.monotonic() - last >= SECONDS_BETWEEN_WRITES:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                file.write_bytes(NUMBER.pack(done))
            last = time.monotonic()

    try:
        yield tell
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


class Portion:
    """So many images of a shard, told bit by bit and never more than they are, also where a part is done again."""

    def __init__(self, tell: Tell, images: int) -> None:
        self._tell, self._left = tell, float(images)

    def steps(self, images: int) -> Callable[[int, int], None]:
        """Return what a method calls with its steps done and in all, while it works on so many of the images."""
        told = 0.0

        def step(done: int, total: int) -> None:
            nonlocal told
            share = min(1.0, done / max(total, 1))
            if share > told:
                self._add((share - told) * images)
                told = share

        return step

    def end(self) -> None:
        """Tell what is left."""
        self._add(self._left)

    def _add(self, images: float) -> None:
        images = min(images, self._left)
        self._left -= images
        self._tell(images)


def images_under_way(folder: Path) -> float:
    """Return how many images the shards under way have told of."""
    total = 0.0
    for file in folder.glob(".*.underway"):
        with suppress(OSError, struct.error):  # its shard may be committed, or write, this moment
            total += NUMBER.unpack(file.read_bytes())[0]
    return total


def forget(folder: Path) -> None:
    """Remove what shards left behind whose worker was killed."""
    for file in folder.glob(".*.underway"):
        file.unlink(missing_ok=True)
