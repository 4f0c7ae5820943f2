"""Rows for the methods: each registered method on each network, in multiples of a bare forward pass.

They follow from the registry. A peer joins by a line in `PEERS`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from afterimage import registry
from benchmarks.agreement import Agreement, relative_l2
from benchmarks.row import Configuration, Row

NETWORKS = {"demo": 128, "squeezenet1_0": 224, "resnet18": 224}
"""Networks and the height and width of their images."""

STEPS = 10
"""Of methods that make pictures by optimization, whose own hundreds would take minutes."""

PEERS = {
    "saliency": {"captum": "benchmarks.peers.captum_methods:saliency"},
    "guided-backprop": {"captum": "benchmarks.peers.captum_methods:guided_backprop"},
}

FLOAT32 = Agreement(
    relative_l2, 2e-2, "in float32, ReLU and max-pool decisions flip between memory formats and batchings"
)


def rows(quick: bool) -> Iterator[Row]:
    """One row per method and network, in float32 with the method's default options, but few steps."""
    # style networks have rows of their own
    for verb in (verb for verb, found in registry.methods().items() if found.defaults.family == "classifier"):
        for network in NETWORKS:
            yield _row(verb, network, batch=2 if quick else 8)


def _row(verb: str, network: str, batch: int) -> Row:
    params = {"network": network, "batch": batch}
    ours = {"verb": verb, **params}
    peers = PEERS.get(verb, {})
    unknown = [name for name in registry.method(verb).inputs if name not in INPUTS]
    return Row(
        f"methods.{verb}.{network}",
        f"{verb} of {batch} images on {network}, float32, in multiples of a forward pass",
        (
            Configuration("afterimage", "benchmarks.methods:method", "ours", ours),
            Configuration("forward pass", "benchmarks.methods:forward", "unit", params),
            *(Configuration(name, setup, "peer", params) for name, setup in peers.items()),
        ),
        FLOAT32,
        items=batch,
        item="image",
        blocked=f"no input {unknown[0]!r} in benchmarks.methods.INPUTS" if unknown else None,
    )


def method(verb: str, network: str, batch: int) -> Callable[[], Any]:
    """The method with its default options, but few steps where it makes pictures."""
    described = registry.method(verb)
    model, images = load(network, batch)
    fill = {**INPUTS, **OWN_INPUTS.get(verb, {})}
    inputs = [fill[name](model, images) for name in described.inputs]
    takes = any(option.name == "steps" for option in described.options)
    explain = described.cls(steps=STEPS) if described.makes_images and takes else described.cls()
    return lambda: explain(model, *inputs)


def forward(network: str, batch: int) -> Callable[[], Tensor]:
    """The network alone."""
    model, images = load(network, batch)

    def call() -> Tensor:
        with torch.inference_mode():
            return predict(model, images)

    return call


def load(network: str, batch: int) -> tuple[nn.Module, Tensor]:
    """Return a network, with weights of its own or random ones, and images of its size."""
    torch.manual_seed(0)
    if network == "demo":
        from afterimage.models import demo

        model: nn.Module = demo.load()
    else:
        from torchvision.models import get_model  # type: ignore[import-untyped]

        model = get_model(network, weights=None).eval()
    size = NETWORKS[network]
    return model, torch.rand(batch, 3, size, size)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits."""
    logits: Tensor = model(images)
    return logits


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """Return the most probable class per image."""
    with torch.no_grad():  # not inference mode: methods differentiate what they are given
        return predict(model, images).argmax(1)


def another(model: nn.Module, images: Tensor) -> Tensor:
    """Return the least probable class per image."""
    with torch.no_grad():
        return predict(model, images).argmin(1)


INPUTS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "images": lambda model, images: images,
    "target": predicted,
    "content": lambda model, images: images,
    "style": lambda model, images: [images[:1].flip(3)],
    "weights": lambda model, images: None,
    "mask": lambda model, images: None,
    "patch": lambda model, images: None,
    "seeds": lambda model, images: torch.arange(len(images)),
    "progress": lambda model, images: None,
}
"""What a method's arguments are filled with, by their names."""

OWN_INPUTS: dict[str, dict[str, Callable[[nn.Module, Tensor], Any]]] = {"fool": {"target": another}}
"""What a method's own arguments are filled with: images that are seen already as what they shall be are left alone."""
