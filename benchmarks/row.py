"""Rows: one piece of work, done by several configurations.

A row is added by yielding it from ``rows(quick)`` of a module named in `benchmarks.__main__.SOURCES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.agreement import Agreement

Device = Literal["cpu", "cuda"]
Role = Literal["ours", "reference", "peer", "unit", "oracle"]
"""`reference`: what the others are compared with; `oracle`: the same, never timed; `unit`: other work, only timed, to
count in multiples of it."""


@dataclass(frozen=True)
class Venv:
    """An environment of its own, for a peer whose pins clash with ours; what they allow it takes from ours."""

    name: str
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class Configuration:
    """One way to do the row's work, run in processes of its own.

    `setup` names a function as ``module:function``; it is called with `params` as keywords and returns a callable
    without arguments that does the work once. What that returns is described in `benchmarks.outcome`.
    """

    name: str
    setup: str
    role: Role
    params: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    """Threads of OpenMP and its like; None: one per core."""
    variables: Mapping[str, str] = field(default_factory=dict)
    venv: Venv | None = None

    @property
    def process(self) -> tuple[Any, ...]:
        """What has to be equal for two configurations of a group's rows to share a process."""
        return self.name, self.threads, tuple(sorted(self.variables.items())), self.venv


@dataclass(frozen=True)
class Work:
    """What one call cannot do without: bytes read and written, floating-point operations."""

    bytes: float = 0.0
    operations: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"


ONCE: dict[str, Any] = {"repeat": 3, "warmup": 0, "min_seconds": 0.0}
"""Of a row whose work is long, and done once a round."""


@dataclass(frozen=True)
class Row:
    """One piece of work and its configurations; `items` counts what one call handles.

    Rows of one `group`, which follow each other, share processes: in each round, one of each configuration times them
    all. `labels` are its columns in the summary, by default its name alone.
    """

    name: str
    title: str
    configurations: tuple[Configuration, ...]
    agreement: Agreement
    items: int = 1
    item: str = "call"
    work: Work | None = None
    device: Device = "cpu"
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    repeat: int = 7
    warmup: int = 1
    min_seconds: float = 0.3
    """A measurement calls the work until it has lasted this long; 0: exactly one call."""
    timeout: float = 3600.0
    blocked: str | None = None
    """Why the row cannot run on this machine."""

    def __post_init__(self) -> None:
        names = [configuration.name for configuration in self.configurations]
        if len(set(names)) != len(names):
            raise ValueError(f"row {self.name}: expected distinct configuration names, got {names}")

    @property
    def ours(self) -> Configuration:
        """The configuration that the others' times are divided by: the first of ours."""
        return next(configuration for configuration in self.configurations if configuration.role == "ours")

    @property
    def oracle(self) -> Configuration:
        """The configuration that outputs are compared with: the oracle, else the reference, else ours."""
        found = {configuration.role: configuration for configuration in reversed(self.configurations)}
        return found.get("oracle") or found.get("reference") or self.ours
