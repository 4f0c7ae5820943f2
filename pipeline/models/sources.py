"""Where networks come from: each source returns a `Loaded`, the module with what its weights say about pictures."""

import hashlib
import importlib
import inspect
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ..errors import UsageError, nearest
from .checkpoint import load_state, read_state
from .network import Network, Preset
from .style import source
from .style.contract import read_style_net


class Loaded(NamedTuple):
    """A module, and what is known about its pictures and classes; None where the source does not say."""

    module: nn.Module
    name: str
    preset: Preset | None = None
    categories: Sequence[str] | None = None
    classes: int | None = None
    source: str | None = None
    """sha256 of the file that defines the computation, where it is not torchvision, timm or this package."""
    input_size: tuple[int, int] | None = None
    """Height and width, where only these are known."""


Weights = Literal["DEFAULT"] | Path | None


@cache
def torchvision() -> Any:
    """Import torchvision; raise `UsageError` where it is absent or was built for another torch."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as exc:
        reason = str(exc).splitlines()[0]
        raise UsageError(
            f"torchvision does not load beside torch {torch.__version__} ({reason}): "
            "install the one that belongs to it, from where that torch came from; --model demo works without"
        ) from exc
    return torchvision


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    models = torchvision().models
    return [str(name) for name in models.list_models(module=models)]


def torchvision_weights(name: str) -> Any:
    """Return torchvision's entry of a network's DEFAULT weights: `url`, `meta`, `transforms`."""
    return torchvision().models.get_model_weights(name).DEFAULT


def torchvision_preset(name: str) -> Preset:
    """Return resize, crop and normalization of torchvision's DEFAULT weights, read from their transforms."""
    transforms = torchvision_weights(name).transforms()
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return Preset((crop, crop), resize, tuple(transforms.mean), tuple(transforms.std), transforms.interpolation.value)


def cached_file(url: str) -> Path:
    """Return where torch.hub keeps a download, whether or not it is there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def from_torchvision(name: str, weights: Weights) -> Loaded:
    """Build a torchvision network; a local file may have another number of classes than ImageNet's 1000."""
    entry = torchvision_weights(name)
    categories = entry.meta["categories"]
    if isinstance(weights, Path):
        module, classes = _torchvision_from_file(name, weights)
        categories = categories if classes == len(categories) else None
    else:
        module, classes = _torchvision_model(name, weights), len(categories)
    return Loaded(module, name, torchvision_preset(name), categories, classes)


def _torchvision_model(name: str, weights: Weights) -> nn.Module:
    get_model = torchvision().models.get_model

    if weights is None:
        return _build(name, init_weights=True)
    file = _download(name)
    try:
        module: nn.Module = get_model(name, weights="DEFAULT", progress=False)
    except Exception as exc:  # a damaged file fails in torch in many ways
        raise UsageError(f"cannot read the cached weights {file}: delete the file, or give --weights FILE") from exc
    for head in AUXILIARY.get(name, ()):
        module.aux_logits = False  # type: ignore[assignment]
        setattr(module, head, None)
    return module


AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
"""Networks with heads that only training uses, and the heads' names; they are left out."""


def _build(name: str, init_weights: bool, **options: int) -> nn.Module:
    """Build a torchvision network as its published weights need it, without loading them."""
    get_model = torchvision().models.get_model

    if name in AUXILIARY:
        # the weights of these two expect pictures as Inception takes them and convert ImageNet's normalization
        options |= {"aux_logits": False, "transform_input": True, "init_weights": init_weights}
    if name.startswith("vit_"):  # the weights hold one vector per patch of one input size
        options["image_size"] = torchvision_weights(name).meta["min_size"][0]
    module: nn.Module = get_model(name, weights=None, **options)
    return module


def _torchvision_from_file(name: str, file: Path) -> tuple[nn.Module, int]:
    heads = tuple(f"{head}." for head in AUXILIARY.get(name, ()))
    state = {key: value for key, value in read_state(file).items() if not key.startswith(heads)}
    with torch.device("meta"):
        last = [key for key in _build(name, init_weights=False).state_dict() if key.endswith(".weight")][-1]
    classes = len(state[last]) if last in state and state[last].ndim > 1 else 1000
    with torch.random.fork_rng(devices=[]):  # the random initialization that the file replaces
        module = _build(name, init_weights=False, num_classes=classes)
    load_state(module, state, file, name)
    return module, classes


def _download(name: str) -> Path:
    """Fetch a torchvision network's DEFAULT weights into torch.hub's folder unless they are there."""
    url = torchvision_weights(name).url
    file = cached_file(url)
    if file.exists():
        return file
    digest = torch.hub.HASH_REGEX.search(file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), digest.group(1) if digest else None, progress=False)
    except (OSError, RuntimeError) as exc:
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        raise UsageError(
            f"cannot download the weights of {name} from {url} ({reason}): "
            "give a local file with --weights FILE, or the packaged network with --model demo"
        ) from exc
    return file


def from_demo(weights: Weights) -> Loaded:
    """Load the packaged network, or its architecture with other weights."""
    from . import demo

    module = demo.load() if weights == "DEFAULT" else demo.DemoNet()
    if isinstance(weights, Path):
        load_state(module, read_state(weights), weights, "demo")
    preset = Preset((demo.SIZE, demo.SIZE), demo.SIZE, demo.MEAN, demo.STD)
    return Loaded(module, "demo", preset, demo.CATEGORIES, len(demo.CATEGORIES))


def from_function(name: str, weights: Weights) -> Loaded:
    """Import `package.module:function` and call it; it returns a module, or a Network with its preset."""
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise UsageError(f"no function {attribute!r} in module {module_name!r}{nearest(attribute, known)}")
    network = function()
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name} has to return a torch.nn.Module, returned {type(network).__name__}")
    loaded = from_module(network)
    if isinstance(weights, Path):
        load_state(loaded.module, read_state(weights), weights, name)
    file = inspect.getsourcefile(module)
    return loaded._replace(name=name, source=file_digest(Path(file)) if file else None)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise
        raise UsageError(f"no module {name!r}; install it, or put its folder on PYTHONPATH") from exc


def from_module(module: nn.Module) -> Loaded:
    """Take a module as it is; a Network brings its preset and categories."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError("a ScriptModule cannot be looked into: give the nn.Module, or a torch.export program")
    if isinstance(module, Network):
        return Loaded(module.network, module.name, module.preset, module.categories, source=module.source)
    return Loaded(module, type(module).__name__, source.PRESET if source.paints(module) else None)


def from_style(name: str, path: Path) -> Loaded:
    """Load a style network; its weights and its styles say all of it, whatever file they lie in."""
    net = read_style_net(path)
    styles = hashlib.sha256("\n".join(net.styles).encode()).hexdigest()
    return Loaded(net, name, source.PRESET, source=styles)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
