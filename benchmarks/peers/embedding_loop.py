"""Vectors of a folder as they are usually computed: Pillow, torchvision's preset, one image after the other.

``python -m benchmarks.peers.embedding_loop DATA OUT --weights FILE`` prints a summary as JSON. With ``--alone`` the
pictures are noise that is there already, in batches of four, a process per core: what the model itself takes.
"""

import argparse
import json
import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.captum_loop import Folder, load

BATCH = 4


def image_by_image(options: argparse.Namespace) -> np.ndarray:
    """Return the vectors of a folder's JPEGs, (N, D)."""
    normalize, network = load(options.model, options.weights)
    folder = Folder(options.data, options.limit)
    with torch.no_grad():
        found = [network.features(normalize(folder[place][None])).mean((2, 3)) for place in range(len(folder))]
    return torch.cat(found).numpy()


def alone(model: str, weights: Path, count: int) -> np.ndarray:
    """Return vectors of noise, computed by this process with one thread."""
    torch.set_num_threads(1)
    _, network = load(model, weights).to(memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    found = []
    with torch.no_grad():
        for _ in range(0, count, BATCH):
            features = network.features(images)
            network.classifier(features)  # ours tells the classes too
            found.append(features.mean((2, 3)))
    return torch.cat(found)[:count].numpy()


def main() -> None:
    """Read the command line, run, print the summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="squeezenet1_0")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    if options.alone:
        count, processes = len(Folder(options.data, options.limit)), len(os.sched_getaffinity(0))
        each = [(options.model, options.weights, -(-count // processes))] * processes
        with get_context("spawn").Pool(processes) as pool:
            vectors = np.concatenate(pool.starmap(alone, each))[:count]
    else:
        vectors = image_by_image(options)
    options.out.mkdir(parents=True)
    np.save(options.out / "vectors.npy", vectors)
    print(json.dumps({"images": len(vectors)}))


if __name__ == "__main__":
    main()
