"""Methods over data sets: manifests, shards, Dask, pages and the command line."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audit import status, verify
    from .biases import bias
    from .cluster import serial
    from .exploring import explore
    from .neighborhood import matches, neighbors
    from .neuron_patches import neurons
    from .projection import project
    from .runs import Summary, run

__all__ = [
    "Summary",
    "bias",
    "explore",
    "matches",
    "neighbors",
    "neurons",
    "project",
    "run",
    "serial",
    "status",
    "verify",
]
_HOMES = {
    "Summary": ".runs",
    "bias": ".biases",
    "explore": ".exploring",
    "matches": ".neighborhood",
    "neighbors": ".neighborhood",
    "neurons": ".neuron_patches",
    "project": ".projection",
    "run": ".runs",
    "serial": ".cluster",
    "status": ".audit",
    "verify": ".audit",
}


def __getattr__(name: str) -> Any:
    # On first use: starting the command must not wait for torch before its workers begin to import it.
    if name not in _HOMES:
        raise AttributeError(f"module 'afterimage.workflows' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value
