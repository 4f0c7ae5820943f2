"""A new picture's embedding, made as those of a job were: its network, layer and geometry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afterimage.errors import UsageError
from afterimage.registry import method

from .decode import ImageError, decode, read
from .geometry import Geometry, fit
from .job import HANDED_OVER, ModelSource, compute_with, prepared, resolved_device


def embedded(run: Mapping[str, Any], path: Path) -> np.ndarray:
    """Return the vector (D,) of a picture file, by the method, options and network of a job's `run.json`.

    Raises `UsageError` for a picture that cannot be read, `RefusedError` where the network is no longer that one.
    """
    config, model = run["config"], run["model"]
    if model["name"] == HANDED_OVER:
        raise UsageError(f"query: {run['name']} was made with a network from Python; embed the picture there")
    try:
        pixels = fit(decode(read(str(path)), config["max_pixels"]), _geometry(config["geometry"]))[0]
    except ImageError as error:
        raise UsageError(f"query: {path}: {error.message}") from error
    given = {name: _plain(config["model"][name]) for name in ("size", "crop", "mean", "std")}
    source = ModelSource(model["name"], model["weights"], digest=model["digest"], **given)
    compute_with(config["threads"])
    device = resolved_device("auto")
    network = prepared(source, device, config["precision"])
    assert network is not None
    # As in a run, where batches are full, if need be of grey: the last bits follow from the batch's size.
    images = torch.full((config["batch_size"], 3, *pixels.shape[:2]), 0.5)
    images[0] = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    found = method(run["verb"]).cls(**config["options"])(network, images.to(device))
    vector: np.ndarray = found[0].float().cpu().numpy()
    if not np.isfinite(vector).all():
        raise UsageError(f"query: {path}: its vector is not finite")
    return vector


def _geometry(given: Mapping[str, Any]) -> Geometry:
    return Geometry(**{name: _plain(value) for name, value in given.items()})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
