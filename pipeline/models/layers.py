"""Layers by their path in the user's module: names, activations, neurons, and the table of a network's layers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident, local
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, nearest
from .frozen import frozen
from .network import Network
from .receptive_field import ReceptiveField, Tracker

OUTPUT = ""
"""The name of what the model itself returns, where activations of layers are asked for."""
INPUT = "input:"
"""What stands before a layer's name where what the layer takes is meant, as in ``input:fc``."""


def named(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers by path, in order of definition; for a Network, paths in the user's module.

    A module that is registered twice is listed under its first path only.
    """
    network = model.network if isinstance(model, Network) else model
    return {name: module for name, module in network.named_modules() if name}


def names_of(text: str) -> list[str]:
    """Return the layers' names in a list `a,b,c`, each once. Raises UsageError where there is none."""
    names = list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    if not names:
        raise UsageError(f"layers: expected names separated by commas, got {text!r}; see 'afterimage layers'")
    return names


def resolve(model: nn.Module, name: str) -> nn.Module:
    """Return the layer of that path. Raises UsageError with the nearest ones."""
    layers = named(model)
    if name not in layers:
        called = title(model)
        raise UsageError(f"no layer {name!r} in {called}{nearest(name, layers)}; see 'afterimage layers {called}'")
    return layers[name]


def title(model: nn.Module) -> str:
    """Return what a model is called in messages."""
    return model.name if isinstance(model, Network) else type(model).__name__


here = local()
"""This thread's `shared`: the forward pass that its readers of layers share, where there is one."""


class _Reached(BaseException):
    """Every layer asked for has been called: the rest of the forward pass is not needed.

    A network's own `except Exception` does not hold it up.
    """


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Any, Any], Any]) -> Iterator[None]:
    """Call `hook(name, inputs, output)` after each module's forward; what it returns replaces the output.

    Hooks lie on the module, so other threads' forward passes meet them too, and go on unseen.
    """
    thread = get_ident()

    def here(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        return lambda _, inputs, output: hook(name, inputs, output) if get_ident() == thread else None

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(here(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def activations(model: nn.Module, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the outputs of layers for images `(N, 3, H, W)`, by name and in the order asked for.

    They hold what the layer returned even where an in-place operation follows, and are differentiable, also with
    respect to one another (except through a layer that returns its own input, which is then overwritten). Inference
    stops once all are known. A layer that is called several times gives its first call. The model's mode stays the
    caller's. The layer `OUTPUT` is the model itself, and ``input:NAME`` is what NAME was given first. Where a forward
    pass of these images is shared (`models/sharing.py`), what it kept is returned. Raises UsageError for a layer that
    is unknown, not called, or does not return a tensor.
    """
    names = list(names)
    shared = getattr(here, "shared", None)
    if shared is not None and shared.offers(model, images, names):
        return {name: shared.kept(name) for name in names}
    modules = modules_of(model, names)
    found: dict[str, Tensor] = {}
    copies: dict[str, tuple[Tensor, int | None]] = {}

    def keep(name: str, inputs: tuple[Any, ...], output: Any) -> Any:
        if name in found:
            return output
        if name.startswith(INPUT):
            found[name] = taken(model, name, inputs).clone()
            if len(found) == len(modules):
                raise _Reached
            return output
        if not isinstance(output, Tensor):
            raise UsageError(f"layer {name!r} of {title(model)} returns {type(output).__name__}, expected one tensor")
        found[name] = output
        if len(found) == len(modules):
            raise _Reached
        if not _shares_memory(output, inputs):
            return output.clone()
        # its caller may hold it by another name: the network goes on with this very tensor
        copies[name] = (output.clone(), _version(output))
        return output

    if modules:
        with hooked(modules, keep):
            try:
                model(images)
            except _Reached:
                pass
            else:
                missing = next((name for name in modules if name not in found), None)
                if missing is not None:
                    raise UsageError(f"layer {missing!r} is not called in a forward pass of {title(model)}")
    for name, (copy, version) in copies.items():
        if version is None or _version(found[name]) != version:
            found[name] = copy
    return {name: found[name] for name in modules}


def modules_of(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the modules whose calls give the activations of these names. Raises UsageError for unknown ones."""
    return {name: model if name == OUTPUT else resolve(model, name.removeprefix(INPUT)) for name in names}


def taken(model: nn.Module, name: str, inputs: tuple[Any, ...]) -> Tensor:
    """Return what a layer was given first, for the name ``input:LAYER``. Raises UsageError where it is no tensor."""
    if inputs and isinstance(inputs[0], Tensor):
        return inputs[0]
    raise UsageError(f"layer {name.removeprefix(INPUT)!r} of {title(model)} takes no tensor by place; name another")


def _shares_memory(output: Tensor, inputs: tuple[Any, ...]) -> bool:
    storage = output.untyped_storage()._cdata
    return any(isinstance(given, Tensor) and given.untyped_storage()._cdata == storage for given in inputs)


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; None in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version


@dataclass(frozen=True)
class Neuron:
    """A layer, one of its channels, or one position of a channel, written `layer[:channel[:y:x]]`."""

    layer: str
    channel: int | None = None
    y: int | None = None
    x: int | None = None

    def __post_init__(self) -> None:
        """Check that a position is whole: a channel, a row and a column. Raises UsageError."""
        if (self.y is None) != (self.x is None) or (self.y is not None and self.channel is None):
            raise UsageError(f"neuron: expected y and x together and with a channel, got {self!r}")

    @classmethod
    def parse(cls, text: str) -> "Neuron":
        """Read `layer`, `layer:channel` or `layer:channel:y:x`. Raises UsageError."""
        layer, *numbers = text.split(":")
        if not layer or len(numbers) not in (0, 1, 3) or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise UsageError(f"neuron: expected layer, layer:channel or layer:channel:y:x, got {text!r}")
        return cls(layer, *map(int, numbers))

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.layer, self.channel, self.y, self.x) if part is not None)

    def score(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the activation of each image `(N, 3, H, W)`, `(N,)`, differentiable; see `read`."""
        return self.read(activations(model, images, [self.layer])[self.layer])

    def read(self, activation: Tensor) -> Tensor:
        """Return one value per image, `(N,)`, from the layer's output `(N, C, H, W)` or `(N, C)`.

        A neuron gives its value, a channel its mean over positions, a layer the mean of its strongest feature map,
        which may be another one for each image.
        """
        maps = self.maps(activation)
        return maps.max(1).values if self.channel is None else maps[:, self.channel]

    def maps(self, activation: Tensor) -> Tensor:
        """Return one value per image and feature map, `(N, C)`: its mean, or for a neuron its value at the position."""
        self._check(activation)
        if self.y is not None and self.x is not None:
            return activation[:, :, self.y, self.x]
        wide = torch.promote_types(activation.dtype, torch.float32)  # means that differ little are to differ
        return activation.mean((2, 3), dtype=wide) if activation.ndim == 4 else activation

    def _check(self, activation: Tensor) -> None:
        shape = tuple(activation.shape[1:])
        if len(shape) not in (1, 3):
            raise UsageError(f"{self}: expected a layer of shape (C, H, W) or (C,), {self.layer} has {shape}")
        if len(shape) == 1 and self.y is not None:
            raise UsageError(f"{self}: {self.layer} has no positions, its shape is {shape}; write {self.layer}:unit")
        given = (self.channel, self.y, self.x)
        if any(index is not None and not 0 <= index < size for index, size in zip(given, shape, strict=False)):
            raise UsageError(f"{self}: out of range, {self.layer} has shape {shape}")


@dataclass(frozen=True)
class LayerInfo:
    """A row of the table of layers; `shape` is the output's for one image, `(C, H, W)` or `(C,)`."""

    name: str
    type: str
    shape: tuple[int, ...]
    receptive_field: ReceptiveField | None
    """None where it is unknown."""
    parameters: int
    """Number of weights, those of layers inside included."""


def layers(model: nn.Module, size: tuple[int, int]) -> list[LayerInfo]:
    """Return the layers that a forward pass calls and that return a tensor, in order of definition.

    `size` is height and width of the network's input. The model is in eval mode meanwhile, and restored.
    """
    modules = named(model)
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, 3, *size, dtype=weight.dtype, device=weight.device)
    tracker = Tracker(image)
    seen: dict[str, tuple[tuple[int, ...], ReceptiveField | None]] = {}

    def record(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and name not in seen:
            seen[name] = (tuple(output.shape[1:]), tracker.receptive_field(output))

    with frozen(model), torch.no_grad(), hooked(modules, record), tracker:
        model(image)
    return [
        LayerInfo(name, type(modules[name]).__name__, *seen[name], sum(p.numel() for p in modules[name].parameters()))
        for name in modules
        if name in seen
    ]
