"""CPU time by stage, so that a run can say what its cores were busy with."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """CPU seconds by stage, summed over the threads that work on a shard."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count this thread's CPU time in the block as that of a stage."""
        start = time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.thread_time() - start
