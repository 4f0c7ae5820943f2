"""Gram targets: the Gram matrices of a picture at layers, by name `(C, C)`, computed once in a process.

Many contents, batches and shards take the same styles. What is kept is found by the picture's bytes, what was asked
for and the state of the network's weights, so that one whose weights have changed is asked anew.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import UsageError
from ..models.frozen import frozen
from ..models.layers import activations
from .memory import shapes
from .objectives import masked

MOST = 64
"""How many pictures' matrices are kept for a network: 2 MB each for VGG-19's five layers, the oldest leave first."""

Grams = dict[str, Tensor]

_kept: "WeakKeyDictionary[nn.Module, OrderedDict[Hashable, Grams]]" = WeakKeyDictionary()
_lock = Lock()


def grams(
    model: nn.Module, picture: Tensor, layers: Iterable[str], center: bool = False, mask: Tensor | None = None
) -> Grams:
    """Return the Gram matrices over positions of a picture `(1, 3, h, w)`, float32 at least; not to be written to.

    With a `mask` `(1, 1, H, W)` they are means over it, averaged to each layer's positions.
    """
    names = tuple(layers)
    key = (_digest(picture), None if mask is None else _digest(mask), names, center, _state(model, picture.device))
    with _lock:
        found = _kept.setdefault(model, OrderedDict()).get(key)
    if found is None:
        found = _computed(model, picture, names, center, mask)
        with _lock:
            own = _kept[model]
            own[key] = found
            while len(own) > MOST:
                own.popitem(last=False)
    return found


def check_maps(model: nn.Module, layers: Iterable[str], names: Iterable[str], image: Tensor) -> None:
    """Raise UsageError where the network takes no picture of this size, `(1, 3, H, W)`, or `layers` give no maps.

    `names` are all layers that will be read.
    """
    found = shapes(model, names, image)
    for name in layers:
        if len(found[name]) != 4:
            raise UsageError(
                f"layers: expected layers that give maps (C, H, W), {name!r} gives {tuple(found[name][1:])}"
            )


def _computed(model: nn.Module, picture: Tensor, names: Iterable[str], center: bool, mask: Tensor | None) -> Grams:
    with torch.inference_mode(False), torch.no_grad(), frozen(model):
        maps = activations(model, picture.clone() if picture.is_inference() else picture, names)
        if mask is not None:
            maps = {name: masked(features, mask) for name, features in maps.items()}
        return {name: ops.gram(features, center, "positions").sum(0) for name, features in maps.items()}


def _digest(picture: Tensor) -> Hashable:
    """Return what says which pixels these are, and in which type and where."""
    pixels = picture.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(pixels.data).digest(), picture.shape, picture.dtype, picture.device


def _state(model: nn.Module, device: torch.device) -> Hashable:
    """Return what changes where weights do: how often each was written to, and its sum, as `.data` is not counted."""
    tensors = [*model.parameters(), *model.buffers()]
    versions = tuple(None if one.is_inference() else one._version for one in tensors)
    sums = [one.detach().sum(dtype=torch.promote_types(one.dtype, torch.float32)).double() for one in tensors]
    total = torch.stack([one.to(device) for one in sums]).tolist() if sums else []
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return versions, tuple(total), autocast
