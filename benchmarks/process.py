"""Worker processes: one per measurement, in the configuration's own environment."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import ROOT, STORE
from benchmarks.row import Configuration, Venv

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Unable(RuntimeError):
    """A configuration that cannot be installed, imported or run; the message is the last line of its error."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work(configuration: Configuration, timeout: float, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run one worker (see `benchmarks.worker`) in the configuration's environment; return its reply to each task."""
    python = interpreter(configuration.venv) if configuration.venv else Path(sys.executable)
    with TemporaryDirectory() as folder:
        spec_file, reply_file = Path(folder, "spec.json"), Path(folder, "reply.json")
        spec_file.write_text(json.dumps(tasks))
        run([python, "-m", "benchmarks.worker", spec_file, reply_file], timeout, environment(configuration))
        replies: list[dict[str, Any]] = json.loads(reply_file.read_text())
        return replies


def environment(configuration: Configuration) -> dict[str, str]:
    """Environment variables of a worker: ours, the threads, the configuration's own, and the way to this package."""
    threads = str(configuration.threads or cores())
    variables = {**os.environ, **dict.fromkeys(THREADS, threads), **configuration.variables}
    inherited = "" if configuration.venv else os.environ.get("PYTHONPATH", "")
    paths = [str(ROOT), configuration.variables.get("PYTHONPATH", ""), inherited]
    return {**variables, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(
    command: list[Any], timeout: float | None, variables: Mapping[str, str] | None = None, new_session: bool = True
) -> str:
    """Run a command and return what it printed; raise `Unable` if it fails.

    In a new session everything that it started ends with it when the time is up. A command run by a worker stays in
    the worker's session, to end with that.
    """
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=new_session,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException as error:
        if new_session:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Unable(f"not finished after {error.timeout:g} s") from error
        raise
    if process.returncode:
        lines = [line.strip() for line in (errors or output).splitlines() if line.strip()]
        raise Unable(f"{lines[-1] if lines else 'no message'} (exit {process.returncode})")
    return output


def interpreter(venv: Venv) -> Path:
    """Python of a peer's own environment, made on demand below ``.bench/envs``.

    It finds our packages behind its own: what its pins allow is not installed again, and both have the same torch.
    """
    folder = STORE / "envs" / venv.name
    python, installed = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join((*venv.requirements, "numpy", "psutil")) + "\n"
    if not installed.exists() or installed.read_text() != wanted:
        run([sys.executable, "-m", "venv", "--clear", folder], timeout=300)
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
        packages.mkdir(parents=True, exist_ok=True)
        (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        listed = folder / "wanted.txt"
        listed.write_text(wanted)
        run([python, "-m", "pip", "install", "--quiet", "-r", listed], timeout=3600)
        listed.rename(installed)
    return python
