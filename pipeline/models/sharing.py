"""One forward pass for several readers: the first that runs the images to the end keeps what all of them want."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .frozen import frozen
from .layers import INPUT, OUTPUT, here, hooked, modules_of, taken, title


class Shared:
    """What layers give for some images, by name; `OUTPUT` is what the model returns, of whatever type."""

    def __init__(self, model: nn.Module, images: Tensor, names: Sequence[str]) -> None:
        self.model, self.images, self.names = model, images, list(dict.fromkeys(names))
        self._found: dict[str, Any] = {}
        self._whole = self._open = False

    def offers(self, model: nn.Module, images: Tensor, names: Sequence[str]) -> bool:
        """Whether these are the images, and the layers among those that are kept, of which `OUTPUT` is not given."""
        return model is self.model and images is self.images and OUTPUT not in names and {*names} <= {*self.names}

    def kept(self, name: str) -> Any:
        """Return what a layer gave, computed now where no pass has ended yet; the caller must not write to it."""
        if not self._whole:
            with frozen(self.model), torch.no_grad():
                self.model(self.images)
        if name not in self._found:
            raise UsageError(f"layer {name!r} is not called in a forward pass of {title(self.model)}")
        return self._found[name]

    def begin(self, inputs: Sequence[Any], named: dict[str, Any]) -> None:
        """Look whether a forward pass that begins is one of the images."""
        given = inputs[0] if inputs else next(iter(named.values()), None)
        self._open = not self._whole and isinstance(given, Tensor) and _equal(given, self.images)
        if self._open:
            self._found.clear()

    def keep(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep a layer's first output, copied: the network may write to its own."""
        if not self._open or name in self._found:
            return
        value = taken(self.model, name, inputs) if name.startswith(INPUT) else output
        if name != OUTPUT and not isinstance(value, Tensor):
            came = type(value).__name__
            raise UsageError(f"layer {name!r} of {title(self.model)} returns {came}, expected one tensor")
        self._found[name] = value.detach().clone() if isinstance(value, Tensor) else value

    def end(self) -> None:
        """Note that the pass has come to its end."""
        self._whole, self._open = self._whole or self._open, False


def _equal(given: Tensor, images: Tensor) -> bool:
    alike = (given.shape, given.dtype, given.device) == (images.shape, images.dtype, images.device)
    return given is images or (alike and torch.equal(given, images))


@contextmanager
def sharing(model: nn.Module, images: Tensor, names: Sequence[str]) -> Iterator[Shared]:
    """Within it, `activations` of these very `images` come from one forward pass, on this thread.

    It is whichever pass of equal images comes first, as that of a gradient of them, and else one that is made for it.
    Raises UsageError for layers that the model does not have.
    """
    shared = Shared(model, images, names)
    before = getattr(here, "shared", None)

    def begin(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if getattr(here, "shared", None) is shared:
            shared.begin(inputs, named)

    def end(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if getattr(here, "shared", None) is shared:
            shared.end()

    modules = modules_of(model, shared.names)
    first = model.register_forward_pre_hook(begin, with_kwargs=True)
    here.shared = shared
    try:
        with hooked(modules, shared.keep):
            last = model.register_forward_hook(end)  # after the hook that keeps the model's own output
            try:
                yield shared
            finally:
                last.remove()
    finally:
        here.shared = before
        first.remove()
