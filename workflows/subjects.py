"""What generators make pictures of, as the items of a run: classes, neurons, channels of a layer.

Keys are what a person would write, percent-encoded: `Egyptian%20cat`, `layer3%3A20`; a uri says which of the two it is.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote

import torch
from torch import nn

from afterimage.errors import UsageError, nearest
from afterimage.models.frozen import frozen
from afterimage.models.gradients import class_logits
from afterimage.models.layers import Neuron, activations, named
from afterimage.models.network import Network, class_index

from .manifest import Item

CLASS, NEURON = "subject:class:", "subject:neuron:"
ALL = "all"


def subjects(words: Iterable[str | int], network: Network) -> list[Item]:
    """Return the items that words name: a class's name or index, `layer:channel[:y:x]`, a layer, or `all` classes.

    Raises `UsageError`, with what is nearest, for what the network does not have.
    """
    found: dict[str, Item] = {}
    for word in words:
        for item in _items(str(word), network):
            found.setdefault(item.key, item)
    if not found:
        raise UsageError(f"expected a SUBJECT: a class, a neuron layer:channel[:y:x], a layer, or {ALL}")
    return list(found.values())


def class_of(uri: str, categories: Sequence[str]) -> int | None:
    """Return the class that an item's uri names; None for a neuron."""
    return class_index(categories, unquote(uri.removeprefix(CLASS))) if uri.startswith(CLASS) else None


def neuron_of(uri: str) -> str | None:
    """Return the neuron that an item's uri names, as text; None for a class."""
    return unquote(uri.removeprefix(NEURON)) if uri.startswith(NEURON) else None


def is_subject(uri: str) -> bool:
    """Whether an item is a subject, and no file."""
    return uri.startswith("subject:")


def _items(word: str, network: Network) -> list[Item]:
    layers = named(network)
    if word == ALL:
        return [_item(CLASS, name) for name in _classes(network)]
    layer, colon, _ = word.partition(":")
    try:
        return [_item(CLASS, _class_name(word, network))]
    except UsageError as error:
        if not colon and word not in layers:
            numbered = word.removeprefix("-").isdecimal()
            raise error if numbered else UsageError(_unknown(word, network)) from None
    neuron = Neuron.parse(word)
    channels = _channels(network, neuron)
    if colon:
        return [_item(NEURON, str(neuron))]
    return [_item(NEURON, str(Neuron(layer, channel))) for channel in range(channels)]


def _item(kind: str, name: str) -> Item:
    key = quote(name, safe="")
    return Item(key, kind + key, -1, None)


def _class_name(word: str, network: Network) -> str:
    index = class_index(network, word)
    if not network.categories and index >= (count := _count(network)):
        raise UsageError(f"class index: expected 0 to {count - 1}, got {index}")
    return network.categories[index] if network.categories else str(index)


def _classes(network: Network) -> Sequence[str]:
    return network.categories or [str(index) for index in range(_count(network))]


def _count(network: Network) -> int:
    """Return the number of classes."""
    with frozen(network), torch.no_grad():
        return int(class_logits(network, _grey(network)).shape[1])


def _channels(network: Network, neuron: Neuron) -> int:
    """Return the number of the layer's channels, after checking that the neuron is one of its own."""
    with frozen(network), torch.no_grad():
        activation = activations(network, _grey(network), [neuron.layer])[neuron.layer]
        neuron.read(activation)
    return int(activation.shape[1])


def _grey(network: nn.Module) -> torch.Tensor:
    assert isinstance(network, Network)
    return torch.full((1, 3, *network.preset.size), 0.5)


def _unknown(word: str, network: Network) -> str:
    layers, categories = named(network), network.categories or ()
    near = nearest(word, [*categories, *layers])
    return f"no class and no layer {word!r} in {network.name}{near}; expected one of these, layer:channel, or {ALL}"
