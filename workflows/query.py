"""A new picture's embedding, made as those of a job were: its network, layer and geometry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afterimage.errors import UsageError
from afterimage.registry import method

from .calls import PADDING
from .decode import ImageError, decode, read
from .geometry import fit
from .job import compute_with
from .restored import geometry_of, network_of


def embedded(run: Mapping[str, Any], path: Path) -> np.ndarray:
    """Return the vector (D,) of a picture file, by the method, options and network of a job's `run.json`.

    Raises `UsageError` for a picture that cannot be read, `RefusedError` where the network is no longer that one.
    """
    config, geometry = run["config"], geometry_of(run)
    try:
        pixels = fit(decode(read(str(path)), config["max_pixels"]), geometry)[0]
    except ImageError as error:
        raise UsageError(f"query: {path}: {error.message}") from error
    network = network_of(run)
    compute_with(config["threads"])
    # As in a run, where batches are full, if need be of grey: the last bits follow from the batch's size.
    stack = np.full((1 if geometry.varies else config["batch_size"], *pixels.shape), PADDING, np.uint8)
    stack[0] = pixels
    images = torch.from_numpy(stack).to(next(network.parameters()).device).permute(0, 3, 1, 2).float().div_(255)
    found = method(run["verb"]).cls(**config["options"])(network, images)
    vector: np.ndarray = found[0].float().cpu().numpy()
    if not np.isfinite(vector).all():
        raise UsageError(f"query: {path}: its vector is not finite")
    return vector
