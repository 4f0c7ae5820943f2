"""What optimizations work on: networks with random but fixed weights, and pictures.

Nothing of ours is imported: peers in environments of their own work on the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models  # type: ignore[import-untyped]

from benchmarks.photographs import photograph, source

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STYLE_LAYERS, CONTENT_LAYER = ("1", "6", "11", "20", "29"), "22"
"""ReLU behind conv1_1, 2_1, … 5_1 of VGG-19 and behind conv4_2, by their places in `vgg19`."""


class Normalized(nn.Module):
    """A network behind its normalization, in plain torch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def vgg19() -> nn.Sequential:
    """Return VGG-19 up to the ReLU behind conv5_1, the deepest layer read, for normalized pictures.

    With torchvision's initialization half of the activations of each layer are above 0 and their size falls from 0.3
    to 0.1, so that every layer has its say.
    """
    torch.manual_seed(0)
    features: nn.Sequential = models.vgg.make_layers(models.vgg.cfgs["E"])[: int(STYLE_LAYERS[-1]) + 1]
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return features.eval()


def classifier(name: str) -> nn.Module:
    """Return a classification network for normalized pictures; batch normalization knows the size of activations."""
    torch.manual_seed(0)
    network: nn.Module = models.get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches seen, one
    with torch.no_grad():
        network.train()((pictures(16, 224) - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1))
    return network.eval()


def pictures(count: int, size: int, first: int = 0) -> Tensor:
    """Return square photographs (N, 3, size, size) in [0, 1], multiples of 1/255; each depends on its number alone."""
    made = [photograph(np.random.default_rng(first + number)) for number in range(count)]
    squares = [picture.resize((size, size), Image.Resampling.BICUBIC) for picture in made]
    return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).movedim(3, 1).contiguous() / 255


def noise(count: int, size: int) -> Tensor:
    """Return start images (N, 3, size, size) of noise around grey, each by its number."""
    made = [torch.randn(3, size, size, generator=torch.Generator().manual_seed(number)) for number in range(count)]
    return torch.stack(made).mul_(0.1).add_(0.5).clamp_(0, 1)


def sample(side: int) -> Tensor:
    """Return a texture to be continued, (3, side, side) of 8 bits: bricks, about four rows of them."""
    bricks = source("brick").resize((2 * side, 2 * side), Image.Resampling.BOX).crop((0, 0, side, side))
    return torch.from_numpy(np.array(bricks)).movedim(2, 0).contiguous()


def attack_inputs(work: Mapping[str, Any]) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the network, the pictures and each one's class: to be seen, or not to be seen any more."""
    network = classifier(work["network"]).to(work["device"])
    images = pictures(work["images"], work["size"]).to(work["device"])
    with torch.no_grad():
        seen = Normalized(network).to(work["device"]).eval()(images).argmax(1)
    return network, images, (seen + 100) % 1000 if work["toward"] else seen
