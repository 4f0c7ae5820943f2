"""Peak memory of a process and its children."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil  # type: ignore[import-untyped]


def tree_memory() -> int:
    """Bytes now held by this process and its descendants; shared pages count once (PSS; USS where there is no PSS)."""
    root = psutil.Process()
    return sum(map(_memory, [root, *root.children(recursive=True)]))


def _memory(process: psutil.Process) -> int:
    try:
        held = process.memory_full_info()
    except psutil.Error:  # it ended since it was listed
        return 0
    return int(getattr(held, "pss", held.uss))


def own_peak() -> int:
    """Bytes: the high-water mark of this process's resident memory, 0 where the system does not tell."""
    status = Path(f"/proc/{os.getpid()}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@contextmanager
def sampled_peak(interval: float = 0.1) -> Iterator[list[int]]:
    """Sample the tree's memory; the list grows by one value (bytes) per interval (seconds).

    Reading it walks page tables, some milliseconds per gigabyte, so this has no place inside a timed run.
    """
    samples = [tree_memory()]
    done = Event()

    def sample() -> None:
        while not done.wait(interval):
            samples.append(tree_memory())

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
