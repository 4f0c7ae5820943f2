"""Memory: what an optimization step takes, predicted without computing it, and how many images fit at a time."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import UsageError
from ..models.layers import activations
from ..models.quickened import workspace
from ..models.remembered import remembered

SHARE = 0.8
"""Of the memory that is free, what a run may take."""
WORKSPACE = 2.5
"""How many gradients of the largest activation are there at once on the way back, with convolutions' scratch."""
PICTURES = 60
"""How many copies of an image optimizer, line search and results keep: forty of L-BFGS's history, Adam's four.

The heap takes more, as it cannot reuse every gap, which `SHARE` leaves room for.
"""


def batch_for(model: nn.Module, layers: Iterable[str], images: Tensor) -> int:
    """Return how many of `images` can be optimized at once. Raises UsageError where not even one fits."""
    if not len(images):
        return 1
    held = workspace(model) if images.device.type == "cpu" else 0
    names = tuple(layers)
    needed = remembered(model, ("step", *names), images[:1], lambda: predicted(model, names, images[:1]))
    return min(len(images), _fitting(needed, images, held=held))


def check_pass(model: nn.Module, layers: Iterable[str], images: Tensor, name: str) -> None:
    """Raise UsageError, which calls them by `name`, where layers of `images` cannot be computed one by one."""
    names, image = tuple(layers), images[:1]
    needed = remembered(model, ("pass", *names), image, lambda: predicted(model, names, image, gradients=False))
    _fitting(needed, images, name)


def _fitting(needed: int, images: Tensor, name: str = "images", held: int = 0) -> int:
    free = max(0, int(SHARE * free_memory(images.device)) - held)
    if needed > free:
        size = f"{images.shape[2]} × {images.shape[3]}"
        share = (free / needed) ** 0.5
        fitting = f"{int(images.shape[2] * share)} × {int(images.shape[3] * share)}"
        came = f"{needed / 2**30:.1f} GiB for one picture of {size}"
        raise UsageError(f"{name}: expected what fits into {free / 2**30:.1f} GiB, got {came}; use about {fitting}")
    return free // needed


def shapes(model: nn.Module, layers: Iterable[str], image: Tensor) -> dict[str, torch.Size]:
    """Return the shapes of layers for an image `(1, 3, H, W)`, without computing them.

    Raises UsageError where the network does not take one of its size.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            found = activations(model, mode.from_tensor(image.detach()), layers)
    except RuntimeError as error:
        size, reason = f"{image.shape[2]} × {image.shape[3]}", str(error).partition("\n")[0]
        raise UsageError(f"images: the network takes no pictures of {size} ({reason}); use larger ones") from error
    return {name: activation.shape for name, activation in found.items()}


def predicted(model: nn.Module, layers: Iterable[str], image: Tensor, gradients: bool = True) -> int:
    """Return about how many bytes an optimization step takes for images like `image` `(1, 3, H, W)`.

    The network runs on tensors without data; what autograd would keep for the way back is counted, each memory once.
    Without `gradients`: what computing the layers takes.
    """
    kept: dict[int, int] = {}
    alive: list[Tensor] = []
    largest, found = 0, dict[str, Tensor]()

    def count(tensor: Tensor) -> Tensor:
        nonlocal largest
        size = tensor.untyped_storage().nbytes()
        largest = max(largest, size)
        if not isinstance(tensor, nn.Parameter):
            alive.append(tensor)  # a storage that is let go could come again under the same number
            kept[tensor.untyped_storage()._cdata] = size
        return tensor

    if names := list(layers):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.enable_grad():
            fake = mode.from_tensor(image.detach()).requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                found = activations(model, fake, names)
            for activation in found.values():
                count(activation)
    workspace = int(WORKSPACE * largest)
    if not gradients:
        return sum(activation.untyped_storage().nbytes() for activation in found.values()) + workspace
    return sum(kept.values()) + workspace + PICTURES * image.numel() * image.element_size()


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
