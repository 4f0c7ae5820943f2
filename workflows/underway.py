"""How far the shards under way are, for the progress bar alone: a file for each, with a byte for every image done.

A shard that is through in a second writes none. No result depends on these files, so a disk that refuses them stops
nothing; what counts is a shard's marker.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_BETWEEN_WRITES = 1.0


@contextmanager
def telling(folder: Path, shard: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many images of a shard are done since it was last called."""
    file = folder / f".{shard:05d}.underway"
    last, untold = time.monotonic(), 0
    with suppress(OSError):
        file.unlink(missing_ok=True)  # of an attempt whose worker was killed

    def tell(images: int) -> None:
        nonlocal last, untold
        untold += images
        if time.monotonic() - last >= SECONDS_BETWEEN_WRITES:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                with file.open("ab") as written:
                    written.write(bytes(untold))
            last, untold = time.monotonic(), 0

    try:
        yield tell
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def images_under_way(folder: Path) -> int:
    """Return how many images the shards under way have told of."""
    total = 0
    for file in folder.glob(".*.underway"):
        with suppress(OSError):  # its shard may be committed this moment
            total += file.stat().st_size
    return total


def forget(folder: Path) -> None:
    """Remove what shards left behind whose worker was killed."""
    for file in folder.glob(".*.underway"):
        file.unlink(missing_ok=True)
