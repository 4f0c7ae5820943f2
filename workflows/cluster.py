"""Executors: the plain `map` is the reference, Dask is the other; both give the same bytes."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from afterimage.errors import UsageError

from .forks import METHOD
from .job import hand_over, take_gpu
from .shards import Commit

if TYPE_CHECKING:
    from distributed import Client

Call = tuple[Any, ...]
Task = Callable[..., Iterable[Commit]]
# What one worker needs at the least: torch, a network, a batch of activations.
WORKER_BYTES = 1_500_000_000
SETTINGS = {
    "distributed.worker.multiprocessing-method": METHOD,
    "distributed.worker.profile.enabled": False,
    # A worker that computes for long without answering is at work, not lost.
    "distributed.scheduler.worker-ttl": None,
    "distributed.admin.tick.limit": "1h",
    "distributed.comm.timeouts.connect": "60s",
}


def serial(task: Task, calls: Iterable[Call], stop: threading.Event) -> Iterator[Commit]:
    """Run one call after the other in this process, and leave its threads as they were."""
    import torch

    threads = torch.get_num_threads()
    try:
        for call in calls:
            if stop.is_set():
                return
            yield from task(*call)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def through(client: "Client", task: Task, calls: Iterable[Call], stop: threading.Event) -> Iterator[Commit]:
    """Run calls on a Dask cluster through a sliding window, and yield what they commit as they end.

    After `stop` is set, or once a call has failed, no further one is sent; those that run are waited for, and then the
    failure is raised.
    """
    from distributed import as_completed

    waiting = iter(calls)
    threads = sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    running = as_completed([client.submit(task, *call, pure=False) for call in islice(waiting, 2 * threads + 1)])
    failure: BaseException | None = None
    for future in running:
        if future.status != "finished":
            failure = failure or future.exception()
        else:
            yield from future.result()
        if failure is None and not stop.is_set():
            for call in islice(waiting, 1):
                running.add(client.submit(task, *call, pure=False))
    if failure is not None:
        raise failure


@contextmanager
def connected(
    scheduler: str | None,
    workers: int | None,
    threads: int,
    device: str,
    shards: int,
    say: Callable[[str], None],
    tasks: int = 2,
) -> Iterator["Client"]:
    """Connect to the cluster at `scheduler`, or start one on this machine that listens on loopback only.

    So many `tasks` share a worker of ours and take turns at the model: while one waits for the disk to commit a shard,
    the other computes. Where a shard takes minutes, it had rather wait for the next worker that is free.
    """
    from distributed import Client

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=20)
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError) as error:
            what = "no worker joined" if isinstance(error, TimeoutError) else "no Dask scheduler answers at"
            raise UsageError(f"scheduler: {what} {scheduler!r}: {error}") from error
        with client:
            say(f"cluster at {scheduler}: {len(client.scheduler_info(n_workers=-1)['workers'])} workers")
            yield client
        return
    count = min(shards, workers or default_workers(threads, device))
    with _local_cluster(count, tasks) as cluster, Client(cluster) as client:
        client.register_plugin(_local_worker())
        workers_said = "1 worker" if count == 1 else f"{count} workers"
        say(f"local cluster: {workers_said} on {device}, {threads} thread(s) a model call, {cluster.dashboard_link}")
        yield client


def _local_worker() -> Any:
    """Return what sets up a worker of our own, also one that was started again."""
    from distributed import WorkerPlugin

    class LocalWorker(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            # Ctrl-C in a terminal reaches the workers too; it is the client that decides what becomes of the run.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            take_gpu(int(worker.name))

    return LocalWorker()


@contextmanager
def _local_cluster(count: int, tasks: int) -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    with dask.config.set(SETTINGS):
        address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(n_workers=count, threads_per_worker=tasks, silence_logs=40, **address) as cluster:
            yield cluster


def default_workers(threads: int, device: str) -> int:
    """Return one worker per visible GPU, or else as many as the cores and the free memory carry."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.device_count()) if device == "cuda" else 1
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // threads, int(psutil.virtual_memory().available) // WORKER_BYTES))


@contextmanager
def distributed_network(client: "Client", pickled: bytes, sha256: str) -> Iterator[None]:
    """Bring a network that was built in Python to every worker, also to those that join later, for a while."""
    from distributed import WorkerPlugin

    class Network(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            hand_over(pickled, sha256)

    name = f"afterimage-{sha256[:16]}"
    client.register_plugin(Network(), name=name)
    try:
        yield
    finally:
        client.unregister_worker_plugin(name)
