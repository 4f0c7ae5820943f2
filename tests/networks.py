"""Networks for tests: torchvision's without downloads, but alive, so that their outputs depend on what they see."""

from functools import cache

import torch
from torch import Tensor, nn

from afterimage.models.style import StyleNet


@cache
def live(name: str, side: int = 96) -> nn.Module:
    """Return an untrained torchvision network whose batch norms are calibrated on noise, in eval mode."""
    import torchvision

    options = {"init_weights": False} if name in ("googlenet", "inception_v3", "vgg11") else {}
    if name in ("googlenet", "inception_v3"):
        options["aux_logits"] = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = getattr(torchvision.models, name)(weights=None, **options)
        calibrate(network, torch.randn(8, 3, side, side))
    return network.eval()


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor) -> None:
    """Let batch norms take the statistics of `images`, so that activations keep their scale through the layers."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    network(images)
    network.eval()


class Mixed(nn.Module):
    """ReLUs of every spelling: a module used twice and in place, functional, a method, clamps, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1) for i in range(7))
        self.relu = nn.ReLU(inplace=True)
        self.relu6 = nn.ReLU6()
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        a, b, c, d, e, f, g = self.convolutions
        x = self.relu(a(images))
        x = self.relu(b(x) + x)
        x = torch.nn.functional.relu(c(x))
        x = d(x).relu_()
        x = torch.clamp(e(x), min=0)
        x = f(x).clamp_min(0)
        x = self.relu6(8 * g(x))
        return self.head(x.mean((2, 3)))


def mixed() -> nn.Module:
    """Return a `Mixed` network with fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Mixed().eval()


def lively(net: nn.Module) -> nn.Module:
    """Give a style network's normalizations scales and shifts that differ, and its pictures some contrast."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if ".in" in f".{name}":
                value.normal_(1.0 if name.endswith("weight") else 0.0, 0.5)
        net.deconv3.conv2d.weight.mul_(100)
        net.deconv3.conv2d.bias.fill_(100)
    return net


def styled() -> StyleNet:
    """Return a small style network of two styles with fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return lively(StyleNet(4, ("starry-night", "the-scream"))).eval()


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Return smooth random images `(count, 3, side, side)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, max(2, side // 8), max(2, side // 8), generator=generator)
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
