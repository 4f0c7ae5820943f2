"""Saliency maps of a folder as a competent user writes it with Captum: Pillow, a DataLoader and a loop.

``python -m benchmarks.peers.captum_loop DATA OUT --weights FILE`` prints a summary as JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import Saliency  # type: ignore[import-untyped]
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms  # type: ignore[import-untyped]

NORMALIZE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PREPARE = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])


class Folder(Dataset[Tensor]):
    """The JPEGs below a folder as (3, 224, 224) in [0, 1]."""

    def __init__(self, root: Path, limit: int | None) -> None:
        self.root = root
        self.files = sorted(root.rglob("*.jpg"))[:limit]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        images: Tensor = PREPARE(Image.open(self.files[index]).convert("RGB"))
        return images


def load(name: str, weights: Path) -> nn.Module:
    """Return the network with normalization as its first layer, so that gradients are those of the picture."""
    network = models.get_model(name, weights=None)
    network.load_state_dict(load_file(weights))
    return nn.Sequential(NORMALIZE, network).eval()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write ``heatmaps-*.npy`` and, with `--pictures`, three JPEGs per image; return the summary."""
    model, folder = load(options.model, options.weights), Folder(options.data, options.limit)
    method = Saliency(model)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    options.out.mkdir(parents=True)
    for number, images in enumerate(DataLoader(folder, options.batch_size, num_workers=options.loaders)):
        if options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            target = model(images).argmax(1)
        heatmaps = method.attribute(images.requires_grad_(), target).amax(1, keepdim=True).detach()
        np.save(options.out / f"heatmaps-{number:05d}.npy", heatmaps.squeeze(1).numpy().astype(np.float16))
        if options.pictures:
            start = number * options.batch_size
            save_pictures(options.out, folder, start, heatmaps, images.detach())
    return {"images": len(folder)}


def save_pictures(out: Path, folder: Folder, start: int, heatmaps: Tensor, images: Tensor) -> None:
    """Save thumbnail, drawing and overlay; drawn by our function, so that the peer has the same work."""
    from afterimage.drawing import draw

    drawn = {"thumbnail": (images * 255).round().byte(), "drawing": draw(heatmaps), "overlay": draw(heatmaps, images)}
    for name, pictures in drawn.items():
        for file, picture in zip(folder.files[start:], pictures.permute(0, 2, 3, 1).numpy(), strict=False):
            target = out / name / file.relative_to(folder.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(target, quality=90)


def main() -> None:
    """Read the command line, run, print the summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="squeezenet1_0")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--loaders", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
