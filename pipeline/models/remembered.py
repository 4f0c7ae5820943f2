"""What was found out about a model by running it, kept as long as the model is what it was."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

T = TypeVar("T")
MOST = 64
"""What is remembered of a model, at most; the oldest leave first."""

_known: WeakKeyDictionary[nn.Module, OrderedDict[Hashable, Any]] = WeakKeyDictionary()
_lock = Lock()


def remembered(model: nn.Module, name: Hashable, image: Tensor, compute: Callable[[], T]) -> T:
    """Return what was computed under this name for images like `image`, as long as the model is what it was.

    That is: the same modules with the same plain attributes, and weights of the same shapes, types and places. Hooks
    are not looked at.
    """
    state = tuple((path, type(module), _plain(module)) for path, module in model.named_modules())
    key = (name, image.shape, image.dtype, image.device, image.stride(), state)
    with _lock:
        found: T | None = _known.get(model, OrderedDict()).get(key)
    if found is None:
        found = compute()
        with _lock:
            own = _known.setdefault(model, OrderedDict())
            own[key] = found
            while len(own) > MOST:
                own.popitem(last=False)
    return found


def _plain(module: nn.Module) -> Hashable:
    """Return what a module's forward pass may depend on, but for the values of its weights."""
    attributes = tuple((name, value) for name, value in vars(module).items() if _is_plain(value))
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return attributes, tuple((name, one.shape, one.dtype, one.device, one.requires_grad) for name, one in tensors)


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | type(None)) or (
        isinstance(value, tuple) and all(map(_is_plain, value))
    )
