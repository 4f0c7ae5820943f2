"""What every configuration of an optimization reports of its results, by one function each, in plain eager torch.

Losses and figures are computed after the timer. Nothing of ours is imported.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.outcome import Outcome
from benchmarks.subjects import CONTENT_LAYER, STYLE_LAYERS, Normalized, vgg19

Work = Mapping[str, Any]


def style_losses(images: Tensor, style: Tensor, contents: Tensor | None, weight: float) -> Tensor:
    """Return the loss (N,) of pictures: `weight` times that of style, on average over layers, and that of content.

    weight / L · Σ_l ‖G_l − Ĝ_l‖² / ‖Ĝ_l‖² + ‖Φ − Φ₀‖² / ‖Φ₀‖²
    """
    network = Normalized(vgg19()).to(style.device)
    with torch.no_grad():
        target = [gram(maps) for maps in _maps(network, style)[0]]
        found = []
        for number, image in enumerate(images.to(style.device, torch.float32).contiguous().split(1)):
            maps, deep = _maps(network, image)
            parts = [_relative(gram(one), expected) for one, expected in zip(maps, target, strict=True)]
            loss = weight * torch.stack(parts).mean()
            if contents is not None:
                loss = loss + _relative(deep, _maps(network, contents[number : number + 1])[1])
            found.append(loss)
    return torch.stack(found).cpu()


def _maps(network: Normalized, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the maps that style and content are compared by."""
    maps, kept = (image - network.mean) / network.std, {}
    for name, layer in network.network.named_children():
        maps = F.relu(maps) if isinstance(layer, nn.ReLU) else layer(maps)
        kept[name] = maps
    return [kept[name] for name in STYLE_LAYERS], kept[CONTENT_LAYER]


def gram(maps: Tensor) -> Tensor:
    """Return (N, C, C), over positions."""
    flat = maps.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).square().sum() / expected.square().sum()


def painted(images: Tensor, style: Tensor, contents: Tensor | None, weight: float, evaluations: float) -> Outcome:
    """Report of pictures in a style: their losses, and how often loss and gradient were computed for them."""

    def losses() -> Tensor:
        return style_losses(images, style, contents, weight)

    return Outcome(
        lambda: {"loss": losses()}, lambda: {"loss": float(losses().mean()), "evaluations": float(evaluations)}
    )


def attacked(network: nn.Module, images: Tensor, adversarials: Tensor, target: Tensor, toward: bool) -> Outcome:
    """Report of fooling images: which of them fool, how far they are, and the log-probability of the class named."""

    def outputs() -> dict[str, Tensor]:
        with torch.no_grad():
            logits = Normalized(network).to(images.device).eval()(adversarials.detach().contiguous())
        fooled = (logits.argmax(1) == target) == toward
        named = logits.log_softmax(1).gather(1, target[:, None]).squeeze(1)
        distance = (adversarials.detach() - images).abs().flatten(1).amax(1)
        return {"fooled": fooled.float(), "distance": distance, "log probability": named}

    return Outcome(outputs, lambda: {name: float(values.mean()) for name, values in outputs().items()})


def visualized(network: nn.Module, images: Tensor, target: Tensor) -> Outcome:
    """Report of class visualizations (N, 3, H, W) in [0, 1]: minus the logit of their classes."""

    def outputs() -> dict[str, Tensor]:
        with torch.no_grad():
            logits = Normalized(network).to(images.device).eval()(images.detach().contiguous()).cpu()
        return {"loss": -logits.gather(1, target[:, None]).mean(0)}

    return Outcome(outputs, lambda: {"logit": -float(outputs()["loss"])})


def synthesized(sample: Tensor, texture: Tensor, window: int = 9) -> Outcome:
    """Report of a texture (3, H, W) of 8-bit values: how far its windows are from the sample's nearest, on average."""

    def outputs() -> dict[str, Tensor]:
        known, made = (_windows(one.to("cpu", torch.float32), window) for one in (sample, texture))
        return {"loss": torch.cdist(made, known).amin(1).mean(0, keepdim=True)}

    return Outcome(outputs, lambda: {"distance": float(outputs()["loss"])})


def _windows(picture: Tensor, window: int) -> Tensor:
    return F.unfold(picture[None], window)[0].T
