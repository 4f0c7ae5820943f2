"""What a finished job worked with, from its run.json: its network and its geometry."""

from collections.abc import Mapping
from typing import Any

from afterimage.errors import UsageError
from afterimage.models.network import Network

from .geometry import Geometry
from .job import HANDED_OVER, ModelSource, prepared, resolved_device


def network_of(run: Mapping[str, Any]) -> Network:
    """Return a job's network, ready to compute; the weights have to be where they were.

    Raises `UsageError` for one that was built in Python, `RefusedError` where it is no longer the same.
    """
    config, model = run["config"], run["model"]
    if model["name"] == HANDED_OVER:
        raise UsageError(f"{run['name']} was made with a network from Python; call this from Python, with model=")
    given = {name: _plain(config["model"][name]) for name in ("size", "crop", "mean", "std")}
    source = ModelSource(model["name"], model["weights"], digest=model["digest"], **given)
    network = prepared(source, resolved_device("auto"), config["precision"])
    if network is None:
        raise UsageError(f"{run['name']} was made without a network")
    return network


def geometry_of(run: Mapping[str, Any]) -> Geometry:
    """Return how a job fitted pictures to its network."""
    return Geometry(**{name: _plain(value) for name, value in run["config"]["geometry"].items()})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
