"""How local workers start: on Linux, forked from one process that has imported what they need; elsewhere, spawned.

This module imports nothing heavy, so that the imports of the workers can begin before those of the command itself.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
PRELOADED = ["distributed", "afterimage.workflows.task", "afterimage.workflows.preload"]
# Activations of tens of megabytes come and go with every batch: given back to the system each time, they would cost a
# page fault per 4 KB. So glibc keeps what it can, in one arena for all threads, and torch asks for the rest in huge
# pages. Threads that wait for one another sleep: where a core has other work, spinning made a step ten times as long.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "134217728",
    "MALLOC_TOP_PAD_": "16777216",
    "THP_MEM_ALLOC_ENABLE": "1",
}


def warm_up() -> None:
    """Start the process that workers are forked from; it computes nothing, so there are no threads to lose."""
    if METHOD == "forkserver":
        with _environment(ENVIRONMENT):
            multiprocessing.get_context(METHOD).set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set already, for the processes that start meanwhile."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
