"""Train the embedded network on the embedded data set: `python -m afterimage.workflows.demo.train`.

The recipe and what came of it are in docs/demo.md. Two runs on one kind of processor give the same
weights; another kind gives others of the same quality.
"""

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from afterimage.models.demo import CATEGORIES, MEAN, STD, WEIGHTS, DemoNet
from afterimage.workflows.demo.shapes import draw

TRAINING_SEED, HELD_OUT_SEED = 1, 2
BATCH, RATE = 32, 3e-3
CLOSE_UP = 64
"""Side of the squares to train on. They cost a quarter of the picture and hold one whole object wherever it lies."""


class Set(NamedTuple):
    """Labelled pictures as tensors."""

    images: Tensor
    """`(N, 3, 128, 128)` uint8."""
    masks: Tensor
    """`(N, 128, 128)` bool."""
    labels: Tensor
    """`(N,)` int64."""


def part(seed: int, start: int, stop: int, label: int | None, background: str | None) -> Set:
    """Draw pictures `start` to `stop` of data set `seed`."""
    samples = [draw(index, seed, label=label, background=background) for index in range(start, stop)]
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    masks = np.stack([sample.mask for sample in samples])
    return Set(torch.tensor(images), torch.tensor(masks), torch.tensor([sample.label for sample in samples]))


def data_set(
    seed: int, count: int, *, label: int | None = None, background: str | None = None, processes: int = 1
) -> Set:
    """Draw the first `count` pictures of data set `seed`, in so many processes; `label`, `background` as in `draw`."""
    if processes == 1:
        return part(seed, 0, count, label, background)
    bounds = [count * piece // (4 * processes) for piece in range(4 * processes + 1)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(part, seed, *ends, label, background) for ends in pairwise(bounds)]
        return Set(*map(torch.cat, zip(*(future.result() for future in futures), strict=True)))


def normalized(images: Tensor) -> Tensor:
    """Return uint8 or [0, 1] float images `(N, 3, H, W)` as the network takes them."""
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def corners(masks: Tensor, size: int, generator: Generator) -> list[tuple[int, int]]:
    """Return for each mask `(N, H, W)` the first row and column of a random square of `size` around the object."""
    found = []
    for lines in (masks.any(2), masks.any(1)):
        first, last = lines.int().argmax(1), lines.shape[1] - lines.flip(1).int().argmax(1)
        low, high = (last - size).clamp(0), first.clamp(max=lines.shape[1] - size)
        found.append((low + (high - low + 1) * torch.rand(len(low), generator=generator)).long())
    return [(int(row), int(column)) for row, column in zip(*found, strict=True)]


def batches(data: Set, count: int, size: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffle; yield batches of `count` squares of `size` pixels with the object inside, mirrored and turned."""
    order = torch.randperm(len(data.labels), generator=generator)
    for chosen in torch.split(order[: len(order) // count * count], count):
        places = corners(data.masks[chosen], size, generator)
        whole = data.images[chosen]
        parts = [
            picture[:, row : row + size, column : column + size]
            for picture, (row, column) in zip(whole, places, strict=True)
        ]
        images = normalized(torch.stack(parts))
        rows, columns, turned = (torch.rand(3, count, 1, 1, 1, generator=generator) < 0.5).unbind()
        images = torch.where(rows, images.flip(2), images)
        images = torch.where(columns, images.flip(3), images)
        yield torch.where(turned, images.transpose(2, 3), images), data.labels[chosen]


def train(data: Set, epochs: int, *, seed: int = 0, bf16: bool = True) -> DemoNet:
    """Return a network trained from random weights, in evaluation mode; prints one line per epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DemoNet()
    generator = Generator().manual_seed(seed)
    steps = len(data.labels) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps, pct_start=0.2)
    for epoch in range(epochs):
        start, total, right = time.perf_counter(), 0.0, 0
        for images, labels in batches(data, BATCH, CLOSE_UP, generator):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(images).float()
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total, right = total + float(loss.detach()), right + int((logits.argmax(1) == labels).sum())
        figures = f"loss {total / steps:.3f}  accuracy {right / steps / BATCH:.3f}"
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}/{epochs}  {figures}  {seconds:.0f} s", flush=True)
    return network.eval()


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits `(N, classes)` of uint8 or [0, 1] images, in batches of 64."""
    return torch.cat([network(normalized(some)) for some in torch.split(images, 64)])


def main() -> None:
    """Draw, train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="safetensors file to write (default: the package's)")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--count", type=int, default=14_000, help="training pictures")
    parser.add_argument("--held-out", type=int, default=2_800, help="pictures of another seed to measure on")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order")
    parser.add_argument("--fp32", action="store_true", help="no bfloat16: for processors without bfloat16 arithmetic")
    options = parser.parse_args()

    from safetensors.torch import save

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the order of sums, and so the weights, must not depend on the number of cores
    start = time.perf_counter()
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    data = data_set(TRAINING_SEED, options.count, processes=processes)
    print(f"{options.count} pictures of seed {TRAINING_SEED} in {time.perf_counter() - start:.0f} s", flush=True)
    network = train(data, options.epochs, seed=options.seed, bf16=not options.fp32)
    options.out.write_bytes(save(network.state_dict()))
    held_out = data_set(HELD_OUT_SEED, options.held_out, processes=processes)
    right = predict(network, held_out.images).argmax(1) == held_out.labels
    for label, name in enumerate(CATEGORIES):
        print(f"  {name:10} {right[held_out.labels == label].float().mean():.3f}")
    print(f"held-out accuracy {right.float().mean():.4f} on {options.held_out} pictures of seed {HELD_OUT_SEED}")
    print(f"{options.out} after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
