"""Rows for vectors and peaks of data sets: against the model alone, a plain loop, and a forward pass."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.agreement import Agreement, relative_l2
from benchmarks.datasets import FEW, MODEL, WEIGHTS, end_to_end, missing
from benchmarks.methods import load
from benchmarks.outcome import Outcome
from benchmarks.photographs import photographs
from benchmarks.row import ONCE, Configuration, Row

CLOSE = Agreement(relative_l2, 1e-4, "median per image; equal pictures, float32 sums in another order")
SAME = Agreement(relative_l2, 1e-4, "the same network in the same memory format")
TOP = 9


def rows(quick: bool) -> Iterator[Row]:
    """Embedding a folder end to end, and what a whole layer's top patches add to the forward pass."""
    yield _embed("embeddings.embed", 64 if quick else 2000, loop=True)
    if not quick:
        yield _embed("embeddings.embed.8000", 8000, loop=False)  # of which starting up is a smaller part
    for network, layer in (("squeezenet1_0", "features.7"), ("resnet18", "layer2"), ("resnet18", "layer4")):
        params = {"network": network, "batch": 4, "layer": layer}
        yield Row(
            f"embeddings.patches.{network}.{layer}",
            f"top {TOP} of all channels of {layer} in {network}, 4 images a batch, beside the forward pass",
            (
                Configuration("afterimage", "benchmarks.embeddings:patches", "ours", params),
                Configuration("forward pass", "benchmarks.embeddings:forward", "unit", params),
            ),
            SAME,
            items=4,
            item="image",
        )


def _embed(name: str, count: int, loop: bool) -> Row:
    params = {"count": count}
    peer = Configuration("loop, image by image", "benchmarks.embeddings:loop", "peer", params)
    return Row(
        name,
        f"embedding of {count} JPEGs with {MODEL}, float32, end to end, vectors stored",
        (
            Configuration("afterimage", "benchmarks.embeddings:embed", "ours", params),
            *((peer,) if loop else ()),
            Configuration("model alone", "benchmarks.embeddings:alone", "unit", params),
        ),
        CLOSE,
        items=count,
        item="image",
        **ONCE,
        blocked=missing(),
    )


def embed(count: int) -> Callable[[], Outcome]:
    """``afterimage embed``, as a user calls it."""
    options = ["--model", MODEL, "--weights", WEIGHTS, "--keep", "none", "--json"]
    program = [Path(sys.executable).with_name("afterimage"), "embed", photographs(count)]
    return end_to_end(count, lambda out: [*program, out, *options], ["--shard-size", FEW // 2], _stored)


def loop(count: int) -> Callable[[], Outcome]:
    """The loop in `benchmarks.peers.embedding_loop`, in a process of its own."""
    program = [sys.executable, "-m", "benchmarks.peers.embedding_loop", photographs(count)]
    return end_to_end(count, lambda out: [*program, out, "--weights", WEIGHTS], [], _looped)


def alone(count: int) -> Callable[[], Outcome]:
    """The model on pictures that are there already: a process per core, batches as ours."""
    program = [sys.executable, "-m", "benchmarks.peers.embedding_loop", photographs(count)]
    return end_to_end(count, lambda out: [*program, out, "--weights", WEIGHTS, "--alone"], [], _looped)


def _stored(out: Path) -> NDArray[np.float32]:
    from afterimage.workflows.vectors import open_vectors

    keys, values = open_vectors(out).load()
    return np.asarray(values[np.argsort(keys)], np.float32)


def _looped(out: Path) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.load(out / "vectors.npy")
    return found


def patches(network: str, batch: int, layer: str) -> Callable[[], Tensor]:
    """A forward pass of which a layer's peaks are kept, and those of four images reduced to the top."""
    from afterimage.methods.patches import Patches
    from afterimage.models.layers import OUTPUT
    from afterimage.models.sharing import sharing

    model, images = _ready(network, batch)
    method = Patches(layer=layer, top=TOP)
    keys = [str(number) for number in range(batch)]

    def call() -> Tensor:
        with sharing(model, images, [layer, OUTPUT]) as shared:
            peaks = method(model, images)
            method.select(peaks[:, :, 0].numpy(), keys)
            output: Tensor = shared.kept(OUTPUT)
            return output

    return call


def forward(network: str, batch: int, layer: str) -> Callable[[], Tensor]:
    """The network alone."""
    model, images = _ready(network, batch)

    def call() -> Tensor:
        with torch.no_grad():
            output: Tensor = model(images)
            return output

    return call


def _ready(network: str, batch: int) -> tuple[Any, Tensor]:
    model, images = load(network, batch)
    return model.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
